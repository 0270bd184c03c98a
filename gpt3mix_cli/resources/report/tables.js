// The tables: sorted by value, filtered by words and bounds.
"use strict";

const LONG = 25; // lines from which a table scrolls in itself
const WIDE = 20; // columns from which only those in sight are made
const textOf = (entry) => (Array.isArray(entry) ? entry[0] : entry);
const valueOf = (entry) => (Array.isArray(entry) ? entry[1] : null);

function sorter(a, b, aRow, bRow, column, direction) {
  const foot = (aRow.getData().foot - bRow.getData().foot) * (direction === "asc" ? 1 : -1);
  if (foot) return foot; // averages stay below
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
    title: escaped(parts[place][depth - 1]),
    field: `c${place}`,
    sorter,
    formatter,
    hozAlign: sheet.numeric[place] ? "right" : "left",
    headerHozAlign: sheet.numeric[place] ? "right" : "left",
    minWidth: 72,
    ...(filters
      ? { headerFilter: "input", headerFilterPlaceholder: sheet.numeric[place] ? "> …" : "filter", headerFilterFunc: matches }
      : {}),
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
  return level(
    parts.map((_, place) => place),
    0,
  );
}

function drawTable(node, sheet) {
  const firstFoot = sheet.rows.length - sheet.foot;
  const rows = sheet.rows.map((row, number) => {
    const found = { id: number, foot: number >= firstFoot ? 1 : 0 };
    row.forEach((entry, place) => {
      found[`c${place}`] = entry;
    });
    return found;
  });
  const inner = make("div");
  node.append(inner);
  new Tabulator(inner, {
    data: rows,
    columns: columnsOf(sheet),
    layout: sheet.headings.length > WIDE ? "fitData" : "fitDataTable",
    nestedFieldSeparator: false,
    columnDefaults: { headerSortTristate: true },
    placeholder: "no line is like that",
    ...(rows.length > LONG ? { height: "70vh" } : {}),
    ...(sheet.headings.length > WIDE ? { renderHorizontal: "virtual" } : {}),
    rowFormatter: (row) => row.getElement().classList.toggle("foot", row.getData().foot === 1),
  });
}

for (const sheet of data.sheets) {
  const node = [...document.querySelectorAll("[data-sheet]")].find((each) => each.dataset.sheet === sheet.name);
  whenNear(node, sheet.rows.length > LONG ? "70vh" : `${60 + 30 * sheet.rows.length}px`, () => drawTable(node, sheet));
}
