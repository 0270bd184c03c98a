// The plots: one for each panel, with values to hover over.
"use strict";

const SYMBOLS = ["circle", "square", "triangle", "diamond", "wye", "cross"];
const DASHES = [null, "6 3", "6 2 1 2", "2 2", "8 2", "4 1 1 1"];
const PANELS_SHOWN = 6;
const TALL_PANELS_SHOWN = 3;
const colour = (series) => `var(--series-${styles.get(series)[0]})`;
const symbol = (series) => SYMBOLS[styles.get(series)[1]];
const dash = (series) => DASHES[styles.get(series)[1]];

function pointsOf(chart) {
  return chart.points.map(([panel, series, at, value, low, high, note]) => ({ panel, series, at, value, low, high, note }));
}

function tipText(chart, point) {
  const where = chart.at ? `${chart.at}: ${typeof point.at === "number" ? formatNumber(point.at) : point.at}` : `${point.at}`;
  const range = point.low == null ? "" : ` [${point.low.toFixed(1)}, ${point.high.toFixed(1)}]`;
  return `${point.series}\n${where}\n${chart.value}: ${point.value.toFixed(1)}${range}${point.note ? `\n${point.note}` : ""}`;
}

const tip = (chart, points, pointer, channels) =>
  Plot.tip(points, pointer({ ...channels, title: (point) => tipText(chart, point), fontSize: 12, lineHeight: 1.3 }));
const bounds = { y1: (point) => point.low ?? point.value, y2: (point) => point.high ?? point.value };

const dots = (points, channels, radius = 3.5) =>
  Plot.dot(points, { ...channels, fill: (point) => colour(point.series), symbol: (point) => symbol(point.series), r: radius });
const perSeries = (points, mark) =>
  unique(points, "series").map((name) =>
    mark(
      points.filter((point) => point.series === name),
      name,
    ),
  );
const unique = (points, key) => [...new Set(points.map((point) => point[key]))];
const stroke = (name) => ({ stroke: colour(name), strokeWidth: 1.8, strokeDasharray: dash(name) });

// Panels are compared, so they have equal axes: the ends over all points of a chart.
function extentsOf(chart, points) {
  const ends = (numbers) => (numbers.length ? { domain: [Math.min(...numbers), Math.max(...numbers)] } : {});
  const values = points.flatMap((point) => [point.value, point.low ?? point.value, point.high ?? point.value]);
  if (chart.zero || ["steps", "bars", "dots"].includes(chart.kind)) values.push(0);
  const positions = points.map((point) => point.at).filter((at) => typeof at === "number");
  if (chart.kind === "scatter") positions.push(0);
  return { value: ends(values), at: ends(positions) };
}

// The options of Observable Plot for a panel of each kind.
const KINDS = {
  line(chart, points, extents) {
    const named = points.some((point) => typeof point.at === "string");
    const x = named ? (point) => String(point.at) : "at";
    const dotted = named || unique(points, "at").length <= 24;
    return {
      x: named ? { type: "point", label: chart.at, domain: unique(points, "at").map(String) } : { label: chart.at, ticks: 6, ...extents.at },
      y: { label: chart.value, grid: true, nice: true, ...extents.value },
      marks: [
        ...perSeries(points, (own, name) => Plot.areaY(own, { x, ...bounds, fill: colour(name), fillOpacity: 0.13 })),
        ...perSeries(points, (own, name) => Plot.lineY(own, { x, y: "value", ...stroke(name) })),
        ...(dotted ? [dots(points, { x, y: "value" })] : []),
        tip(chart, points, Plot.pointer, { x, y: "value" }),
      ],
    };
  },
  steps(chart, points, extents) {
    return {
      x: { label: chart.at, ...extents.at },
      y: { label: chart.value, grid: true, nice: true, ...extents.value },
      marks: [
        ...perSeries(points, (own, name) => Plot.lineY(own, { x: "at", y: "value", curve: "step", ...stroke(name) })),
        Plot.ruleY([0], { stroke: "var(--edge)" }),
        tip(chart, points, Plot.pointer, { x: "at", y: "value" }),
      ],
    };
  },
  dots(chart, points, extents) {
    const rows = unique(points, "at");
    const text = (row) => (row.length > 24 ? `${row.slice(0, 23)}…` : row);
    const channels = { y: "at", x: "value" };
    return {
      height: 70 + 15 * rows.length,
      marginLeft: 16 + 7 * Math.max(...rows.map((row) => text(row).length)),
      y: { label: null, domain: rows, tickFormat: text, tickSize: 0, grid: true },
      x: { label: chart.value, grid: true, nice: true, ...extents.value },
      marks: [dots(points, { ...channels, fillOpacity: 0.75 }), tip(chart, points, Plot.pointer, channels)],
    };
  },
  bars(chart, points, extents) {
    return {
      fx: { label: null, domain: unique(points, "at") },
      x: { axis: null, domain: unique(points, "series") },
      y: { label: chart.value, grid: true, nice: true, ...extents.value },
      marks: [
        Plot.barY(points, { fx: "at", x: "series", y: "value", fill: (point) => colour(point.series) }),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
        tip(chart, points, Plot.pointerX, { fx: "at", x: "series", y: "value" }),
      ],
    };
  },
  scatter(chart, points, extents) {
    return {
      x: { label: chart.at, grid: true, nice: true, ticks: 4, ...extents.at },
      y: { label: chart.value, grid: true, nice: true, ...extents.value },
      marks: [
        ...(chart.zero ? [Plot.ruleY([0], { stroke: "var(--soft)" })] : []),
        dots(points, { x: "at", y: "value" }),
        tip(chart, points, Plot.pointer, { x: "at", y: "value" }),
      ],
    };
  },
  interval(chart, points, extents) {
    const rows = unique(points, "at");
    const names = unique(points, "series");
    const widest = Math.max(...rows.map((row) => row.length));
    const withInterval = points.filter((point) => point.low != null);
    return {
      height: 62 + rows.length * (12 + 18 * names.length),
      marginTop: 8,
      marginLeft: Math.min(150, 16 + 6.6 * widest),
      fy: { label: null, domain: rows, axis: null, padding: 0.12 },
      y: { axis: null, domain: names },
      x: { label: chart.value, grid: true, nice: true, ...extents.value },
      marks: [
        ...(chart.zero ? [Plot.ruleX([0], { stroke: "var(--soft)" })] : []),
        Plot.axisFy({ anchor: "left", label: null, lineWidth: 11, textOverflow: "ellipsis-end" }),
        Plot.ruleY(withInterval, { fy: "at", y: "series", x1: "low", x2: "high", stroke: (point) => colour(point.series), strokeWidth: 1.8 }),
        dots(points, { fy: "at", y: "series", x: "value" }, 4),
        tip(chart, points, Plot.pointerY, { fy: "at", y: "series", x: "value" }),
      ],
    };
  },
};

function legend(points) {
  const names = [...new Set(points.map((point) => point.series))];
  return make(
    "div",
    { class: "legend" },
    ...names.map((name) => {
      const marker = Plot.plot({
        width: 12,
        height: 12,
        margin: 0,
        axis: null,
        x: { domain: [0, 2] },
        y: { domain: [0, 2] },
        symbol: { type: "identity" },
        color: { type: "identity" },
        marks: [Plot.dot([1], { x: 1, y: 1, r: 4.5, fill: () => colour(name), symbol: () => symbol(name) })],
      });
      return make("span", {}, marker, name);
    }),
  );
}

function drawChart(figure, chart) {
  const points = pointsOf(chart);
  const extents = extentsOf(chart, points);
  const panels = [...new Set(points.map((point) => point.panel))];
  const box = make("div", { class: "panels" });
  const count = make("span", { class: "hint" });
  const search = make("input", { type: "search", placeholder: "panels that contain…", "aria-label": `panels of ${chart.title}` });
  const more = make("button", { type: "button" }, "more");
  const tall = ["interval", "dots"].includes(chart.kind) && new Set(points.map((point) => point.at)).size > 4;
  const step = tall ? TALL_PANELS_SHOWN : PANELS_SHOWN;
  let shown = step;
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = panels.filter((panel) => words.every((word) => panel.toLowerCase().includes(word)));
    count.textContent = `${Math.min(shown, matching.length)} of ${matching.length} panels`;
    more.hidden = matching.length <= shown;
    box.replaceChildren(
      ...matching.slice(0, shown).map((panel) => make("div", { class: "panel" }, ...(panel ? [make("h4", {}, panel)] : []))),
    );
    [...box.children].forEach((node, index) => {
      const chosen = points.filter((point) => point.panel === matching[index]);
      const svg = Plot.plot({
        width: Math.max(260, Math.min(node.clientWidth || 480, 640)),
        height: 240,
        marginLeft: 44,
        marginTop: 28,
        marginBottom: 42,
        style: { background: "none", fontSize: "12px" },
        ariaLabel: `${chart.title}: ${matching[index]}`,
        color: { type: "identity" },
        symbol: { type: "identity" },
        ...KINDS[chart.kind](chart, chosen, extents),
      });
      node.append(svg);
    });
  };
  search.addEventListener(
    "input",
    debounce(120, () => {
      shown = step;
      draw();
    }),
  );
  more.addEventListener("click", () => {
    shown += step;
    draw();
  });
  figure.append(
    make("h3", {}, chart.title),
    ...(panels.length > step ? [make("div", { class: "tools" }, search, count, more)] : []),
    legend(points),
    box,
    make("figcaption", {}, chart.caption),
  );
  draw();
  let width = figure.clientWidth;
  new ResizeObserver(
    debounce(150, () => {
      if (figure.clientWidth && Math.abs(figure.clientWidth - width) > 8) {
        width = figure.clientWidth;
        draw();
      }
    }),
  ).observe(figure);
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
