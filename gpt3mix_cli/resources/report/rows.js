// The browser of synthetic rows: a list with search and filters, and the details of the open row.
"use strict";

const FILE_FIELDS = ["task", "variant", "level", "method", "seed", "draw"];

function rowsOf(store) {
  const files = store.sources.map((source) => Object.fromEntries(FILE_FIELDS.map((name, index) => [name, source[index]])));
  const kept = store.kept.map(([source, text, parents, classes, probs, id, labelSource, mass, perplexity]) => {
    const best = probs.indexOf(Math.max(...probs));
    return {
      source,
      text,
      parents,
      classes: store.classes[classes],
      probs,
      id,
      labelSource,
      mass,
      perplexity,
      label: store.classes[classes][best],
      prob: probs[best],
      state: "kept",
      method: files[source].method,
    };
  });
  const rejected = store.rejected.map(([source, text, parents, reason, detail]) => ({
    source,
    text,
    parents,
    reason,
    detail,
    label: "",
    prob: null,
    state: `rejected: ${reason}`,
    method: files[source].method,
  }));
  return { files, rows: [...kept, ...rejected].map((row, id) => ({ ...row, number: id })) };
}

function bar(prob) {
  const fill = make("i");
  fill.style.width = `${100 * prob}%`;
  return make("span", { class: "bar" }, fill);
}

function titleOf(row) {
  const order = row.classes.map((_, index) => index);
  order.sort((a, b) => row.probs[b] - row.probs[a]);
  const lines = order.slice(0, LABELS_SHOWN).map((index) => `${row.classes[index]} ${row.probs[index]}`);
  return [...lines, ...(order.length > LABELS_SHOWN ? [`and ${order.length - LABELS_SHOWN} more classes`] : [])].join("\n");
}

function labelCell(cell) {
  const row = cell.getData();
  if (row.prob == null) return make("span", { class: "chip rejected", title: row.detail || row.reason }, row.reason);
  const node = make("span", { class: "label", title: titleOf(row) });
  node.append(make("span", {}, row.label), bar(row.prob));
  return node;
}

const LABELS_SHOWN = 10; // of a soft label; the rest is added up

function probBars(row) {
  const order = row.classes.map((_, index) => index);
  const many = order.length > LABELS_SHOWN;
  if (many) order.sort((a, b) => row.probs[b] - row.probs[a]);
  const first = many ? order.slice(0, LABELS_SHOWN).filter((index) => row.probs[index] >= 0.0005) : order;
  const shown = first.map((index) => [row.classes[index], row.probs[index]]);
  const rest = order.slice(first.length);
  if (many) shown.push([`${rest.length} other classes`, rest.reduce((sum, index) => sum + row.probs[index], 0)]);
  return shown.map(([name, prob]) =>
    make("div", { class: "prob" }, make("span", { title: name }, name), bar(prob), make("span", {}, `${(100 * prob).toFixed(1)} %`)),
  );
}

function rowDetails(row, files, store, step) {
  const source = files[row.source];
  const parents = row.parents.map((parent) => (typeof parent === "number" ? store.real[parent] : [`(not kept: ${parent})`, ""]));
  const facts = [
    source.task,
    source.level,
    source.variant,
    source.method,
    `data seed ${source.seed}`,
    `draw ${source.draw}`,
    row.id,
    row.labelSource && `label: ${row.labelSource}`,
    row.mass != null && `label mass ${formatNumber(row.mass)}`,
    row.perplexity != null && `perplexity ${formatNumber(row.perplexity)}`,
  ];
  return [
    make(
      "div",
      { class: "head" },
      make("span", { class: row.prob == null ? "chip rejected" : "chip" }, row.state),
      make(
        "span",
        {},
        make("button", { type: "button", "aria-label": "row before", onclick: () => step(-1) }, "↑"),
        " ",
        make("button", { type: "button", "aria-label": "row after", onclick: () => step(1) }, "↓"),
        " ",
        make("button", { type: "button", class: "close", "aria-label": "close", onclick: () => step(0) }, "✕"),
      ),
    ),
    make("blockquote", { class: "synthetic text" }, row.text),
    ...(row.prob == null
      ? [make("p", {}, row.detail || row.reason)]
      : probBars(row)),
    make("h3", {}, parents.length === 1 ? "generated from" : `generated from ${parents.length} rows`),
    ...parents.map(([text, label]) =>
      make("blockquote", {}, make("span", { class: "text" }, text), " ", ...(label ? [make("span", { class: "chip" }, label)] : [])),
    ),
    make("p", { class: "hint" }, facts.filter(Boolean).join(" · ")),
  ];
}

function drawBrowser(node, store) {
  const { files, rows } = rowsOf(store);
  const search = make("input", { type: "search", id: "search", placeholder: "search in texts", "aria-label": "search in texts" });
  const inParents = make("input", { type: "checkbox", id: "in-parents" });
  const count = make("span", { class: "hint", id: "count", role: "status" });
  const list = make("div", { id: "list" });
  const side = make(
    "aside",
    { id: "row", "aria-live": "polite" },
    make("p", { class: "hint" }, "Choose a row to see what it was generated from."),
  );
  if (innerWidth <= 860) side.hidden = true;
  const keys = {
    task: (row) => files[row.source].task,
    variant: (row) => files[row.source].variant,
    level: (row) => files[row.source].level,
    method: (row) => row.method,
    "data seed": (row) => String(files[row.source].seed),
    label: (row) => row.label,
    state: (row) => row.state,
  };
  const selects = Object.entries(keys).map(([name, key]) => {
    const values = [...new Set(rows.map(key))].filter((value) => value !== "");
    if (name === "state" && values.some((value) => value !== "kept") && values.includes("kept")) values.splice(1, 0, "rejected");
    const select = make(
      "select",
      { "data-key": name, "aria-label": name },
      make("option", { value: "" }, `all`),
      ...values.map((value) => make("option", { value }, value)),
    );
    return { select, key, name, use: values.length > 1 };
  });
  node.append(
    make(
      "p",
      { class: "caption" },
      `${rows.length.toLocaleString()} of ${store.total.toLocaleString()} rows${
        rows.length < store.total ? "; all of them with gpt3mix report … --synthetic all" : ""
      }. Arrow keys go from row to row.`,
    ),
    make(
      "div",
      { class: "tools" },
      search,
      make("label", {}, inParents, "in real rows too"),
      ...selects.filter((filter) => filter.use).map(({ name, select }) => make("label", {}, name, select)),
      count,
    ),
    make("div", { class: "browser" }, list, side),
  );

  const lower = rows.map((row) => row.text.toLowerCase());
  const lowerReal = store.real.map(([text]) => text.toLowerCase());
  let open = null;
  const table = new Tabulator(list, {
    data: rows,
    index: "number",
    height: "70vh",
    layout: "fitColumns",
    rowHeight: 30,
    placeholder: "no row matches",
    nestedFieldSeparator: false,
    columns: [
      { title: "text", field: "text", widthGrow: 5, minWidth: 150, formatter: (cell) => document.createTextNode(cell.getValue()) },
      { title: "label", field: "prob", widthGrow: 2.2, minWidth: 110, formatter: labelCell, sorter: "number" },
      ...(innerWidth > 600
        ? [
            {
              title: "method",
              field: "method",
              widthGrow: 1,
              minWidth: 90,
              formatter: (cell) => document.createTextNode(cell.getValue()),
            },
          ]
        : []),
    ],
    rowFormatter: (row) => row.getElement().classList.toggle("open", row.getData().number === open),
  });
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = selects.filter(({ select }) => select.value !== "").map(({ key, select }) => [key, select.value]);
    const has = (row, word) =>
      lower[row.number].includes(word) ||
      (inParents.checked && row.parents.some((parent) => typeof parent === "number" && lowerReal[parent].includes(word)));
    table.setFilter(
      (row) =>
        words.every((word) => has(row, word)) &&
        chosen.every(([key, value]) => key(row) === value || (value === "rejected" && key(row).startsWith("rejected: "))),
    );
  };
  const select = (row) => {
    const before = open === null ? false : table.getRow(open);
    open = row.getData().number;
    for (const changed of [before, row]) if (changed) changed.getElement().classList.toggle("open", changed.getData().number === open);
    side.hidden = false;
    side.replaceChildren(...rowDetails(row.getData(), files, store, step));
    side.scrollTop = 0;
  };
  function step(by) {
    if (!by) {
      side.hidden = true;
      return;
    }
    const shown = table.getRows("active");
    const at = shown.findIndex((row) => row.getData().number === open);
    const next = shown[Math.max(0, Math.min(shown.length - 1, at + by))];
    if (next) {
      select(next);
      table.scrollToRow(next, "nearest", false).catch(() => {});
    }
  }
  table.on("rowClick", (event, row) => select(row));
  table.on("dataFiltered", (filters, matching) => {
    count.textContent = `${matching.length.toLocaleString()} rows`;
  });
  table.on("tableBuilt", () => {
    list.tabIndex = 0;
    list.setAttribute("aria-label", "synthetic rows");
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && event.target.tagName !== "INPUT") {
      event.preventDefault();
      step(by);
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && innerWidth <= 860) side.hidden = true;
  });
  search.addEventListener("input", debounce(150, filter));
  for (const node of [inParents, ...selects.map(({ select }) => select)]) node.addEventListener("change", filter);
  count.textContent = `${rows.length.toLocaleString()} rows`;
}

const rowsNode = document.querySelector("#rows .screen");
if (rowsNode) whenNear(rowsNode, "80vh", () => drawBrowser(rowsNode, data.rows));
