// The page's tables, plots and browser of synthetic rows. Texts from data become text nodes, never HTML.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const looks = new Map(Object.entries(data.looks));
document.documentElement.classList.add("scripted");

// Small things ----------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
// Tabulator takes titles for HTML.
const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const later = (wait, act) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(act, wait); }; };
const show = (value) => value == null ? "" : String(+value.toPrecision(4));

// Light, dark, or as the system is ---------------------------------------------------------------------------------------

const themes = ["system", "light", "dark"];
const button = document.getElementById("theme");
const memory = {  // a browser may refuse to remember anything for a file
  get() { try { return localStorage.getItem("gpt3mix-theme"); } catch { return null; } },
  set(value) { try { localStorage.setItem("gpt3mix-theme", value); } catch { /* then the page forgets */ } },
};
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
}
setTheme(themes.includes(memory.get()) ? memory.get() : "system");
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  setTheme(next);
  memory.set(next);
});

// What is far below is made when it comes near; before printing, all of it.
const waiting = new Map();
const nearing = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && start(entry.target)), { rootMargin: "600px" });
function whenNear(node, height, act) {
  node.style.minHeight = height;  // without its height what follows would seem near too
  waiting.set(node, act);
  nearing.observe(node);
}
function start(node) {
  const act = waiting.get(node);
  waiting.delete(node);
  nearing.unobserve(node);
  if (act) act();
  node.style.minHeight = "";
}

// Tables ----------------------------------------------------------------------------------------------------------------

const LONG = 25;  // lines from which a table scrolls in itself
const WIDE = 20;  // columns from which only those in sight are made
const textOf = (entry) => Array.isArray(entry) ? entry[0] : entry;
const valueOf = (entry) => Array.isArray(entry) ? entry[1] : null;

function sorter(a, b, aRow, bRow, column, direction) {
  const foot = (aRow.getData().foot - bRow.getData().foot) * (direction === "asc" ? 1 : -1);
  if (foot) return foot;  // averages stay below
  const [x, y] = [valueOf(a), valueOf(b)];
  if (x != null && y != null) return x - y;
  if (x != null || y != null) return x == null ? -1 : 1;
  return textOf(a).localeCompare(textOf(b), undefined, { numeric: true });
}

// `>60`, `<= 0.05` for figures, anything else is looked for in the text.
function matches(wanted, entry) {
  const bound = /^\s*(<=|>=|<|>|=)\s*(-?[\d.]+)\s*$/.exec(wanted);
  const value = valueOf(entry);
  if (!bound) return textOf(entry).toLowerCase().includes(wanted.trim().toLowerCase());
  if (value == null) return false;
  const limit = parseFloat(bound[2]);
  return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit }[bound[1]];
}

function formatter(cell) {
  const entry = cell.getValue();
  const node = make("span", {}, textOf(entry));
  if (entry[2] === 1 && Array.isArray(entry)) node.className = "best";
  if (valueOf(entry) != null) node.title = `${textOf(entry)}: ${valueOf(entry)}`;
  return node;
}

// Neighbours of the same name share one heading.
function columnsOf(sheet) {
  const depth = Math.max(...sheet.headings.map((heading) => heading.length));
  const parts = sheet.headings.map((heading) => [...Array(depth - heading.length).fill(""), ...heading]);
  const filters = sheet.rows.length > 1;
  const column = (place) => ({
    title: escaped(parts[place][depth - 1]), field: `c${place}`, sorter, formatter, hozAlign: sheet.numeric[place] ? "right" : "left",
    headerHozAlign: sheet.numeric[place] ? "right" : "left", minWidth: 72,
    ...(filters ? { headerFilter: "input", headerFilterPlaceholder: sheet.numeric[place] ? "> …" : "filter", headerFilterFunc: matches } : {}),
  });
  const level = (places, at) => {
    if (at === depth - 1) return places.map(column);
    const found = [];
    for (let first = 0; first < places.length;) {
      let end = first + 1;
      const name = parts[places[first]][at];
      while (end < places.length && name && parts[places[end]][at] === name) end += 1;
      const group = places.slice(first, end);
      found.push(...(name ? [{ title: escaped(name), columns: level(group, at + 1) }] : level(group, at + 1)));
      first = end;
    }
    return found;
  };
  return level(parts.map((_, place) => place), 0);
}

function drawTable(node, sheet) {
  const firstFoot = sheet.rows.length - sheet.foot;
  const rows = sheet.rows.map((row, number) => {
    const found = { id: number, foot: number >= firstFoot ? 1 : 0 };
    row.forEach((entry, place) => { found[`c${place}`] = entry; });
    return found;
  });
  const inner = make("div");
  node.append(inner);
  new Tabulator(inner, {
    data: rows, columns: columnsOf(sheet), layout: sheet.headings.length > WIDE ? "fitData" : "fitDataTable", nestedFieldSeparator: false, columnDefaults: { headerSortTristate: true },
    placeholder: "no line is like that", ...(rows.length > LONG ? { height: "70vh" } : {}),
    ...(sheet.headings.length > WIDE ? { renderHorizontal: "virtual" } : {}),
    rowFormatter: (row) => row.getElement().classList.toggle("foot", row.getData().foot === 1),
  });
}

for (const sheet of data.sheets) {
  const node = [...document.querySelectorAll("[data-sheet]")].find((each) => each.dataset.sheet === sheet.name);
  whenNear(node, sheet.rows.length > LONG ? "70vh" : `${60 + 30 * sheet.rows.length}px`, () => drawTable(node, sheet));
}

// Plots -----------------------------------------------------------------------------------------------------------------

const SYMBOLS = ["circle", "square", "triangle", "diamond", "wye", "cross"];
const DASHES = [null, "6 3", "6 2 1 2", "2 2", "8 2", "4 1 1 1"];
const MOST = 6;  // panels at a time
const colour = (series) => `var(--series-${looks.get(series)[0]})`;
const symbol = (series) => SYMBOLS[looks.get(series)[1]];
const dash = (series) => DASHES[looks.get(series)[1]];

function pointsOf(chart) {
  return chart.points.map(([panel, series, at, value, low, high, note]) => ({ panel, series, at, value, low, high, note }));
}

function hover(chart, point) {
  const where = chart.at ? `${chart.at}: ${typeof point.at === "number" ? show(point.at) : point.at}` : `${point.at}`;
  const range = point.low == null ? "" : ` [${point.low.toFixed(1)}, ${point.high.toFixed(1)}]`;
  return `${point.series}\n${where}\n${chart.value}: ${point.value.toFixed(1)}${range}${point.note ? `\n${point.note}` : ""}`;
}

const tip = (chart, points, how, channels) => Plot.tip(points, how({ ...channels, title: (point) => hover(chart, point), fontSize: 12, lineHeight: 1.3 }));
const bounds = { y1: (point) => point.low ?? point.value, y2: (point) => point.high ?? point.value };

function marks(chart, points) {
  const names = [...new Set(points.map((point) => point.series))];
  const common = { color: { type: "identity" }, symbol: { type: "identity" } };
  const of = (name) => points.filter((point) => point.series === name);
  const zero = chart.zero ? [Plot.ruleY([0], { stroke: "var(--soft)" })] : [];
  const places = new Set(points.map((point) => point.at)).size;
  const dots = places <= 24 ? [Plot.dot(points, { x: "at", y: "value", fill: (p) => colour(p.series), symbol: (p) => symbol(p.series), r: 3.5 })] : [];
  const byName = points.some((point) => typeof point.at === "string");
  if (chart.kind === "line") {
    return { ...common, x: byName ? { type: "point", label: chart.at, domain: [...new Set(points.map((p) => String(p.at)))] } : { label: chart.at, ticks: 6 },
      y: { label: chart.value, grid: true, nice: true }, marks: [
        ...names.map((name) => Plot.areaY(of(name), { x: byName ? (p) => String(p.at) : "at", ...bounds, fill: colour(name), fillOpacity: 0.13 })),
        ...names.map((name) => Plot.lineY(of(name), { x: byName ? (p) => String(p.at) : "at", y: "value", stroke: colour(name), strokeWidth: 1.8,
          strokeDasharray: dash(name) })),
        ...(byName ? [Plot.dot(points, { x: (p) => String(p.at), y: "value", fill: (p) => colour(p.series), symbol: (p) => symbol(p.series), r: 3.5 })] : dots),
        tip(chart, points, Plot.pointer, { x: byName ? (p) => String(p.at) : "at", y: "value" })] };
  }
  if (chart.kind === "steps") {
    return { ...common, x: { label: chart.at }, y: { label: chart.value, grid: true, nice: true, zero: true }, marks: [
      ...names.map((name) => Plot.lineY(of(name), { x: "at", y: "value", curve: "step", stroke: colour(name), strokeWidth: 1.8, strokeDasharray: dash(name) })),
      Plot.ruleY([0], { stroke: "var(--edge)" }), tip(chart, points, Plot.pointer, { x: "at", y: "value" })] };
  }
  if (chart.kind === "bars") {
    return { ...common, fx: { label: null, domain: [...new Set(points.map((point) => point.at))] }, x: { axis: null, domain: names }, y: { label: chart.value, grid: true }, marks: [
      Plot.barY(points, { fx: "at", x: "series", y: "value", fill: (p) => colour(p.series) }), Plot.ruleY([0], { stroke: "var(--soft)" }),
      tip(chart, points, Plot.pointerX, { fx: "at", x: "series", y: "value" })] };
  }
  if (chart.kind === "scatter") {
    return { ...common, x: { label: chart.at, grid: true, nice: true, zero: true, ticks: 4 }, y: { label: chart.value, grid: true, nice: true }, marks: [
      ...zero, ...dots, tip(chart, points, Plot.pointer, { x: "at", y: "value" })] };
  }
  const lines = [...new Set(points.map((point) => point.at))];
  const widest = Math.max(...lines.map((line) => line.length));
  return { ...common, height: 62 + lines.length * (12 + 18 * names.length), marginTop: 8, marginLeft: Math.min(150, 16 + 6.6 * widest), fy: { label: null, domain: lines, axis: "left",
    padding: 0.12 }, y: { axis: null, domain: names }, x: { label: chart.value, grid: true, nice: true }, marks: [
    ...(chart.zero ? [Plot.ruleX([0], { stroke: "var(--soft)" })] : []),
    Plot.axisFy({ anchor: "left", label: null, lineWidth: 11, textOverflow: "ellipsis-end" }),
    Plot.ruleY(points.filter((point) => point.low != null), { fy: "at", y: "series", x1: "low", x2: "high", stroke: (p) => colour(p.series), strokeWidth: 1.8 }),
    Plot.dot(points, { fy: "at", y: "series", x: "value", fill: (p) => colour(p.series), symbol: (p) => symbol(p.series), r: 4 }),
    tip(chart, points, Plot.pointerY, { fy: "at", y: "series", x: "value" })] };
}

function legend(points) {
  const names = [...new Set(points.map((point) => point.series))];
  return make("div", { class: "legend" }, ...names.map((name) => {
    const sign = Plot.plot({ width: 12, height: 12, margin: 0, axis: null, x: { domain: [0, 2] }, y: { domain: [0, 2] }, symbol: { type: "identity" }, color: { type: "identity" },
      marks: [Plot.dot([1], { x: 1, y: 1, r: 4.5, fill: () => colour(name), symbol: () => symbol(name) })] });
    return make("span", {}, sign, name);
  }));
}

function drawChart(figure, chart) {
  const points = pointsOf(chart);
  const panels = [...new Set(points.map((point) => point.panel))];
  const box = make("div", { class: "panels" });
  const count = make("span", { class: "hint" });
  const search = make("input", { type: "search", placeholder: "panels that contain…", "aria-label": `panels of ${chart.title}` });
  const more = make("button", { type: "button" }, "more");
  const tall = chart.kind === "interval" && new Set(points.map((point) => point.at)).size > 4;
  const most = tall ? 3 : MOST;
  let shown = most;
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = panels.filter((panel) => words.every((word) => panel.toLowerCase().includes(word)));
    count.textContent = `${Math.min(shown, found.length)} of ${found.length} panels`;
    more.hidden = found.length <= shown;
    box.replaceChildren(...found.slice(0, shown).map((panel) => make("div", { class: "panel" }, ...(panel ? [make("h4", {}, panel)] : []))));
    [...box.children].forEach((node, place) => {
      const chosen = points.filter((point) => point.panel === found[place]);
      const svg = Plot.plot({ width: Math.max(260, Math.min(node.clientWidth || 480, 640)), height: 240, marginLeft: 44, marginTop: 28, marginBottom: 42, style: { background: "none", fontSize: "12px" },
        ariaLabel: `${chart.title}: ${found[place]}`, ...marks(chart, chosen) });
      node.append(svg);
    });
  };
  search.addEventListener("input", later(120, () => { shown = most; draw(); }));
  more.addEventListener("click", () => { shown += most; draw(); });
  figure.append(make("h3", {}, chart.title), ...(panels.length > most ? [make("div", { class: "tools" }, search, count, more)] : []), legend(points), box,
    make("figcaption", {}, chart.caption));
  draw();
  let width = figure.clientWidth;
  new ResizeObserver(later(150, () => {
    if (figure.clientWidth && Math.abs(figure.clientWidth - width) > 8) { width = figure.clientWidth; draw(); }
  })).observe(figure);
}

const charts = document.querySelector(".charts");
for (const chart of data.charts) {
  const panels = new Set(chart.points.map((point) => point[0])).size;
  const figure = make("figure", { "data-chart": chart.name, ...(panels > 1 ? { class: "wide" } : {}) });
  charts.append(figure);
  whenNear(figure, "330px", () => drawChart(figure, chart));
}
addEventListener("beforeprint", () => {
  for (const node of [...waiting.keys()]) if (node.matches("figure")) start(node);
});

// Synthetic rows ----------------------------------------------------------------------------------------------------------

const SOURCE = ["task", "variant", "level", "method", "seed", "draw"];

function rowsOf(store) {
  const about = store.sources.map((source) => Object.fromEntries(SOURCE.map((name, place) => [name, source[place]])));
  const kept = store.kept.map(([source, text, parents, classes, probs, id, labelSource, mass, perplexity]) => {
    const best = probs.indexOf(Math.max(...probs));
    return { source, text, parents, classes: store.classes[classes], probs, id, labelSource, mass, perplexity, label: store.classes[classes][best], share: probs[best],
      state: "kept", method: about[source].method };
  });
  const rejected = store.rejected.map(([source, text, parents, reason, detail]) => (
    { source, text, parents, reason, detail, label: "", share: null, state: `rejected: ${reason}`, method: about[source].method }));
  return { about, rows: [...kept, ...rejected].map((row, id) => ({ ...row, number: id })) };
}

function bar(share) {
  const fill = make("i");
  fill.style.width = `${100 * share}%`;
  return make("span", { class: "bar" }, fill);
}

function labelCell(cell) {
  const row = cell.getData();
  if (row.share == null) return make("span", { class: "chip no", title: row.detail || row.reason }, row.reason);
  const node = make("span", { class: "label", title: row.classes.map((name, place) => `${name} ${row.probs[place]}`).join("\n") });
  node.append(make("span", {}, row.label), bar(row.share));
  return node;
}

function opened(row, about, store, step) {
  const source = about[row.source];
  const parents = row.parents.map((parent) => typeof parent === "number" ? store.real[parent] : [`(not kept: ${parent})`, ""]);
  const facts = [source.task, source.level, source.variant, source.method, `data seed ${source.seed}`, `draw ${source.draw}`, row.id,
    row.labelSource && `label: ${row.labelSource}`, row.mass != null && `label mass ${show(row.mass)}`, row.perplexity != null && `perplexity ${show(row.perplexity)}`];
  return [
    make("div", { class: "line" }, make("span", { class: row.share == null ? "chip no" : "chip" }, row.state),
      make("span", {}, make("button", { type: "button", "aria-label": "row before", onclick: () => step(-1) }, "↑"), " ",
        make("button", { type: "button", "aria-label": "row after", onclick: () => step(1) }, "↓"), " ",
        make("button", { type: "button", class: "close", "aria-label": "close", onclick: () => step(0) }, "✕"))),
    make("blockquote", { class: "made text" }, row.text),
    ...(row.share == null ? [make("p", {}, row.detail || row.reason)]
      : row.classes.map((name, place) => make("div", { class: "share" }, make("span", {}, name), bar(row.probs[place]), make("span", {}, `${(100 * row.probs[place]).toFixed(1)} %`)))),
    make("h3", {}, parents.length === 1 ? "made from" : `made from ${parents.length} rows`),
    ...parents.map(([text, label]) => make("blockquote", {}, make("span", { class: "text" }, text), " ", ...(label ? [make("span", { class: "chip" }, label)] : []))),
    make("p", { class: "hint" }, facts.filter(Boolean).join(" · ")),
  ];
}

function browser(place, store) {
  const { about, rows } = rowsOf(store);
  const search = make("input", { type: "search", id: "search", placeholder: "search in texts", "aria-label": "search in texts" });
  const inParents = make("input", { type: "checkbox", id: "in-parents" });
  const count = make("span", { class: "hint", id: "count", role: "status" });
  const list = make("div", { id: "list" });
  const side = make("aside", { id: "row", "aria-live": "polite" }, make("p", { class: "hint" }, "Choose a row to see what it was made from."));
  if (innerWidth <= 860) side.hidden = true;
  const keys = { task: (row) => about[row.source].task, variant: (row) => about[row.source].variant, level: (row) => about[row.source].level, method: (row) => row.method,
    "data seed": (row) => String(about[row.source].seed), label: (row) => row.label, state: (row) => row.state };
  const selects = Object.entries(keys).map(([name, key]) => {
    const values = [...new Set(rows.map(key))].filter((value) => value !== "");
    if (name === "state" && values.some((value) => value !== "kept") && values.includes("kept")) values.splice(1, 0, "rejected");
    const select = make("select", { "data-key": name, "aria-label": name }, make("option", { value: "" }, `all`), ...values.map((value) => make("option", { value }, value)));
    return { select, key, name, use: values.length > 1 };
  });
  place.append(
    make("p", { class: "caption" }, `${rows.length.toLocaleString()} of ${store.found.toLocaleString()} rows${rows.length < store.found
      ? "; all of them with gpt3mix report … --synthetic all" : ""}. Arrow keys go from row to row.`),
    make("div", { class: "tools" }, search, make("label", {}, inParents, "in real rows too"),
      ...selects.filter((each) => each.use).map((each) => make("label", {}, each.name, each.select)), count),
    make("div", { class: "browser" }, list, side));

  const lower = rows.map((row) => row.text.toLowerCase());
  const lowerReal = store.real.map(([text]) => text.toLowerCase());
  let open = null;
  const table = new Tabulator(list, {
    data: rows, index: "number", height: "70vh", layout: "fitColumns", rowHeight: 30, placeholder: "no row is like that", nestedFieldSeparator: false,
    columns: [
      { title: "text", field: "text", widthGrow: 5, minWidth: 150, formatter: (cell) => document.createTextNode(cell.getValue()) },
      { title: "label", field: "share", widthGrow: 1.4, minWidth: 110, formatter: labelCell, sorter: "number" },
      ...(innerWidth > 600 ? [{ title: "method", field: "method", widthGrow: 1, minWidth: 90, formatter: (cell) => document.createTextNode(cell.getValue()) }] : []),
    ],
    rowFormatter: (row) => row.getElement().classList.toggle("open", row.getData().number === open),
  });
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((each) => each.select.value !== "").map((each) => [each.key, each.select.value]);
    const has = (row, word) => lower[row.number].includes(word)
      || (inParents.checked && row.parents.some((parent) => typeof parent === "number" && lowerReal[parent].includes(word)));
    table.setFilter((row) => words.every((word) => has(row, word))
      && wanted.every(([key, value]) => key(row) === value || (value === "rejected" && key(row).startsWith("rejected: "))));
  };
  const select = (row) => {
    const before = open === null ? false : table.getRow(open);
    open = row.getData().number;
    for (const each of [before, row]) if (each) each.getElement().classList.toggle("open", each.getData().number === open);
    side.hidden = false;
    side.replaceChildren(...opened(row.getData(), about, store, step));
    side.scrollTop = 0;
  };
  function step(by) {
    if (!by) { side.hidden = true; return; }
    const shown = table.getRows("active");
    const at = shown.findIndex((row) => row.getData().number === open);
    const next = shown[Math.max(0, Math.min(shown.length - 1, at + by))];
    if (next) { select(next); table.scrollToRow(next, "nearest", false).catch(() => {}); }
  }
  table.on("rowClick", (event, row) => select(row));
  table.on("dataFiltered", (filters, found) => { count.textContent = `${found.length.toLocaleString()} rows`; });
  table.on("tableBuilt", () => {
    list.tabIndex = 0;
    list.setAttribute("aria-label", "synthetic rows");
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && event.target.tagName !== "INPUT") { event.preventDefault(); step(by); }
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape" && innerWidth <= 860) side.hidden = true; });
  search.addEventListener("input", later(150, filter));
  for (const node of [inParents, ...selects.map((each) => each.select)]) node.addEventListener("change", filter);
  count.textContent = `${rows.length.toLocaleString()} rows`;
}

const place = document.querySelector("#rows .screen");
if (place) whenNear(place, "80vh", () => browser(place, data.rows));
})();
