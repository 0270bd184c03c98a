// The tables: sorted by value, filtered by words and bounds.
"use strict";

const LONG_ROWS = 25; // from which a table has a scroll bar of its own
const WIDE_COLUMNS = 20; // from which only the visible columns are drawn
const textOf = (cell) => (Array.isArray(cell) ? cell[0] : cell);
const valueOf = (cell) => (Array.isArray(cell) ? cell[1] : null);

function sorter(a, b, aRow, bRow, column, direction) {
  const footer = (aRow.getData().footer - bRow.getData().footer) * (direction === "asc" ? 1 : -1);
  if (footer) return footer; // averages stay at the end
  const [x, y] = [valueOf(a), valueOf(b)];
  if (x != null && y != null) return x - y;
  if (x != null || y != null) return x == null ? -1 : 1;
  return textOf(a).localeCompare(textOf(b), undefined, { numeric: true });
}

// `>60` and `<= 0.05` compare numbers; anything else is searched for in the text.
function matches(filter, cell) {
  const bound = /^\s*(<=|>=|<|>|=)\s*(-?[\d.]+)\s*$/.exec(filter);
  const value = valueOf(cell);
  if (!bound) return textOf(cell).toLowerCase().includes(filter.trim().toLowerCase());
  if (value == null) return false;
  const limit = parseFloat(bound[2]);
  return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit }[bound[1]];
}

function formatter(component) {
  const cell = component.getValue();
  const node = make("span", {}, textOf(cell));
  if (Array.isArray(cell) && cell[2] === 1) node.className = "best";
  if (valueOf(cell) != null) node.title = `${textOf(cell)}: ${valueOf(cell)}`;
  return node;
}

// Equal neighbours get one heading.
function columnsOf(table) {
  const parts = table.headings;
  const depth = parts[0].length;
  const filters = table.rows.length > 1;
  const column = (index) => ({
    title: escapeHtml(parts[index][depth - 1]),
    field: `c${index}`,
    sorter,
    formatter,
    hozAlign: table.numeric[index] ? "right" : "left",
    headerHozAlign: table.numeric[index] ? "right" : "left",
    minWidth: 72,
    ...(filters
      ? { headerFilter: "input", headerFilterPlaceholder: table.numeric[index] ? "> …" : "filter", headerFilterFunc: matches }
      : {}),
  });
  const group = (indexes, level) => {
    if (level === depth - 1) return indexes.map(column);
    const groups = [];
    for (let first = 0; first < indexes.length;) {
      let end = first + 1;
      const name = parts[indexes[first]][level];
      while (end < indexes.length && name && parts[indexes[end]][level] === name) end += 1;
      const columns = group(indexes.slice(first, end), level + 1);
      groups.push(...(name ? [{ title: escapeHtml(name), columns }] : columns));
      first = end;
    }
    return groups;
  };
  return group(
    parts.map((_, index) => index),
    0,
  );
}

function drawTable(node, table) {
  const firstFooter = table.rows.length - table.footer;
  const rows = table.rows.map((row, number) => {
    const record = { id: number, footer: number >= firstFooter ? 1 : 0 };
    row.forEach((cell, index) => {
      record[`c${index}`] = cell;
    });
    return record;
  });
  const inner = make("div");
  node.append(inner);
  new Tabulator(inner, {
    data: rows,
    columns: columnsOf(table),
    layout: table.headings.length > WIDE_COLUMNS ? "fitData" : "fitDataTable",
    nestedFieldSeparator: false,
    columnDefaults: { headerSortTristate: true },
    placeholder: "no row matches",
    ...(rows.length > LONG_ROWS ? { height: "70vh" } : {}),
    ...(table.headings.length > WIDE_COLUMNS ? { renderHorizontal: "virtual" } : {}),
    rowFormatter: (row) => row.getElement().classList.toggle("footer", row.getData().footer === 1),
  });
}

for (const table of data.tables) {
  const node = [...document.querySelectorAll("[data-table]")].find((candidate) => candidate.dataset.table === table.name);
  whenNear(node, table.rows.length > LONG_ROWS ? "70vh" : `${60 + 30 * table.rows.length}px`, () => drawTable(node, table));
}
