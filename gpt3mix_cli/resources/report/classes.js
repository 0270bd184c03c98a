// The confusion matrix of a chosen result: a cell is the percent of the rows of a true class that were given another one.
"use strict";

const MATRIX_TEXT_CLASSES = 14; // up to here the cells show their numbers
const MAX_LABEL_CHARACTERS = 28;

function matrixCells({ names, counts }) {
  const size = names.length;
  const totals = Array(size).fill(0);
  for (let at = 0; at < counts.length; at += 3) totals[counts[at]] += counts[at + 2];
  const cells = [];
  for (let at = 0; at < counts.length; at += 3) {
    const [truth, given, count] = counts.slice(at, at + 3);
    cells.push({ truth, given, count, percent: (100 * count) / totals[truth], right: truth === given });
  }
  return cells;
}

function matrixPlot(result, width) {
  const names = result.names;
  const size = names.length;
  const short = (index) => (names[index].length > MAX_LABEL_CHARACTERS ? `${names[index].slice(0, MAX_LABEL_CHARACTERS - 1)}…` : names[index]);
  const widest = Math.max(...names.map((_, index) => short(index).length));
  const font = size > 30 ? 9 : 11;
  const margin = Math.min(190, 18 + 0.6 * font * widest);
  const side = Math.max(10, Math.min(44, (width - margin - 20) / size));
  const cells = matrixCells(result);
  const tipOf = (cell) =>
    `${names[cell.truth]}\ntaken for ${cell.right ? "what it is" : names[cell.given]}: ${cell.percent.toFixed(1)} %\n${cell.count.toLocaleString()} predictions`;
  const all = names.map((_, index) => index);
  const axis = { tickFormat: short, tickSize: 0, label: null, fontSize: font };
  const channels = { x: "given", y: "truth" };
  return Plot.plot({
    width: margin + 20 + side * size,
    height: margin + 30 + side * size,
    marginLeft: margin,
    marginTop: 24,
    marginBottom: margin,
    marginRight: 20,
    style: { background: "none" },
    ariaLabel: `confusion matrix of ${result.title}`,
    color: { type: "identity" },
    x: { domain: all, padding: 0 },
    y: { domain: all, padding: 0 },
    marks: [
      Plot.axisX({ ...axis, anchor: "bottom", tickRotate: -90 }),
      Plot.axisY({ ...axis, anchor: "left" }),
      Plot.cell(cells, {
        ...channels,
        fill: (cell) => (cell.right ? "var(--series-1)" : "var(--series-5)"),
        fillOpacity: (cell) => 0.08 + (0.92 * cell.percent) / 100,
      }),
      Plot.frame({ stroke: "var(--edge)" }),
      ...(size <= MATRIX_TEXT_CLASSES
        ? [Plot.text(cells, { ...channels, text: (cell) => cell.percent.toFixed(0), fill: "var(--text)", fontSize: 11 })]
        : []),
      Plot.tip(cells, Plot.pointer({ ...channels, title: tipOf, fontSize: 12, lineHeight: 1.3 })),
    ],
  });
}

function drawMatrices(node, { results, left }) {
  const select = make(
    "select",
    { "aria-label": "result" },
    ...results.map((result, index) => make("option", { value: String(index) }, result.title)),
  );
  const box = make("div", { class: "scroll" });
  const draw = () => box.replaceChildren(matrixPlot(results[+select.value], Math.min(node.clientWidth || 640, 900)));
  select.addEventListener("change", draw);
  node.append(
    make("div", { class: "tools" }, make("label", {}, "result", select)),
    box,
    ...(left ? [make("p", { class: "hint" }, `${left} more results are in report.json.`)] : []),
  );
  draw();
}

const matricesNode = document.querySelector("#confusion .screen");
if (matricesNode) {
  const { names, results, left } = data.confusion;
  const named = results.map(([title, index, counts]) => ({ title, names: names[index], counts }));
  whenNear(matricesNode, "480px", () => drawMatrices(matricesNode, { results: named, left }));
}
