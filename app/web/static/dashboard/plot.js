// How uPlot draws a chart: axes, colours, the shared cursor, zoom, and the marks of a resume.
import { along, SERIES, typical } from "./curves.js";
import { brief, duration } from "./format.js";

/** @type {typeof import("uplot")} */
const uPlot = /** @type {any} */ (globalThis).uPlot;
/** Seconds that may lie between two ticks: a quarter of an hour, not 1,000 s. */
const PERIODS = [1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, ...[1, 2, 5, 10, 15, 30].map((n) => 60 * n),
  ...[1, 2, 3, 6, 12].map((n) => 3600 * n), ...[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].map((n) => 86_400 * n)];
/** Pixels of the dots at the cursor. */
const POINT = 6;

/**
 * @param {{ current?: ((range: [number, number] | null) => void) }} latest the page's newest handler
 */
export const zooming = (latest) => (/** @type {[number, number] | null} */ range) => latest.current?.(range);

/**
 * @param {object} chart
 * @param {HTMLElement} chart.element
 * @param {import("./chart.js").Line[]} chart.lines
 * @param {import("./chart.js").View} chart.view
 * @param {number} chart.height
 * @param {string} chart.syncKey charts with the same one share a cursor
 * @param {(index: number | null) => void} chart.setAt called with the index under the cursor
 * @param {(range: [number, number] | null) => void} chart.zoom
 * @returns {uPlot.Options}
 */
export function options({ element, lines, view, height, syncKey, setAt, zoom }) {
  const grid = { stroke: shade(element, "line"), width: 1 };
  const axis = { stroke: shade(element, "faint"), grid, ticks: { show: false }, font: "11px system-ui" };
  return {
    width: element.clientWidth || 300,
    height,
    legend: { show: false },
    padding: [8, view.x === "step" ? 14 : 30, 0, 0],
    cursor: {
      sync: { key: `${syncKey}:${view.x}`, scales: ["x", null] },
      drag: { x: true, y: false, setScale: false },
      // One point for each line, on its smoothed mean: uPlot's default is one for each column.
      points: { size: POINT, show: (_, series) => /** @type {HTMLElement} */ ((series - 1) % SERIES ? null : point()) },
    },
    scales: {
      x: { time: view.x === "clock" },
      y: { distr: view.log ? 3 : 1, range: (u, low, high) => range(u, view, low, high) },
    },
    axes: [
      { ...axis, size: 26, gap: 4, values: xValues(view.x), ...(view.x === "time" ? { incrs: PERIODS, space: 72 } : {}) },
      {
        ...axis, size: 52, gap: 4,
        splits: view.log ? logSplits : undefined,
        filter: view.log ? (_, all) => all : undefined,
        values: (_, all) => all.map((value) => (value === null ? "" : brief(value))),
      },
    ],
    series: [{}, ...lines.flatMap(({ color }) => drawn(color, view))],
    bands: lines.map(({ color }, i) => ({
      series: [1 + SERIES * i + 3, 1 + SERIES * i + 2],
      fill: `${color}26`,
    })),
    hooks: {
      setCursor: [(u) => setAt(u.cursor.left !== undefined && u.cursor.left < 0 ? null : (u.cursor.idx ?? null))],
      setSelect: [
        (u) => {
          const { left, width } = u.select;
          if (width >= 8) zoom([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
      ready: [(u) => u.over.addEventListener("dblclick", () => zoom(null))],
      draw: [(u) => marks(u, lines, view)],
    },
  };
}

/** A dot that follows the cursor; uPlot moves and colours it. */
function point() {
  const dot = document.createElement("div");
  Object.assign(dot.style, { width: `${POINT}px`, height: `${POINT}px`, margin: `${-POINT / 2}px 0 0 ${-POINT / 2}px` });
  return dot;
}

/** The series of one line, in the order of `columns`.
 * @param {string} color @param {import("./chart.js").View} view @returns {uPlot.Series[]} */
function drawn(color, view) {
  const common = { points: { show: false }, spanGaps: false };
  return [
    { ...common, stroke: color, width: 1.75, points: { show: lonely, size: 5, fill: color } },
    { ...common, stroke: color, width: 1, alpha: view.smoothing ? 0.35 : 0 },
    { ...common, width: 0 },
    { ...common, width: 0 },
  ];
}

/** Show the points of a curve with fewer than three values, whose line could not be seen. @type {uPlot.Series.Points.Show} */
const lonely = (u, series) => {
  const values = u.data[series];
  let known = 0;
  for (let i = 0; i < values.length && known < 3; i++) if (values[i] !== null && values[i] !== undefined) known += 1;
  return known < 3;
};

/** The range of the y axis. @param {uPlot} u @param {import("./chart.js").View} view
 * @param {number | null} low @param {number | null} high @returns {[number, number]} */
function range(u, view, low, high) {
  const smoothed = u.data.slice(1).filter((_, i) => i % SERIES < 2);
  const found = view.outliers ? typical(/** @type {any} */ (smoothed)) : null;
  let [from, to] = found ?? [low ?? 1, high ?? (view.log ? 10 : 1)];
  // uPlot would compute ticks without end for a log scale that reaches 0 or has no extent.
  if (view.log) return from > 0 && to > from ? [from * 0.95, to * 1.05] : [(from > 0 ? from : 1) / 2, (to > 0 ? to : 1) * 2];
  if (!(to > from)) [from, to] = [from - (Math.abs(from) * 0.05 || 0.5), to + (Math.abs(to) * 0.05 || 0.5)];
  return /** @type {[number, number]} */ (uPlot.rangeNum(from, to, 0.06, true));
}

/** @param {string} kind @returns {uPlot.Axis.Values | undefined} */
function xValues(kind) {
  if (kind === "clock") return undefined;
  return (_, all) => all.map((value) => (kind === "time" ? duration(value) : brief(value)));
}

/**
 * Ticks of a log axis, close enough also for a range within one decade.
 *
 * @type {uPlot.Axis.Splits}
 */
const logSplits = (_, _axis, low, high) => {
  const decades = Math.log10(high / low);
  if (!(decades > 0) || !Number.isFinite(decades)) return [];
  const steps = decades > 6 ? [1] : decades > 1.5 ? [1, 2, 5] : decades > 0.5 ? [1, 1.5, 2, 3, 4, 5, 7] : [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9];
  const apart = decades > 12 ? Math.ceil(decades / 8) : 1;
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += apart)
    for (const step of steps) {
      const value = +(step * 10 ** power).toPrecision(3);
      if (value >= low && value <= high) found.push(value);
    }
  return found;
};

/** A dashed line where a run was resumed, and marks where values are NaN or infinite.
 * @param {uPlot} u @param {import("./chart.js").Line[]} lines @param {import("./chart.js").View} view */
function marks(u, lines, view) {
  const { ctx, bbox } = u;
  ctx.save();
  for (const { from, color, band, other } of lines) {
    ctx.strokeStyle = ctx.fillStyle = color;
    if (from !== undefined && view.x === "step") {
      const x = Math.round(u.valToPos(from, "x", true));
      if (x >= bbox.left && x <= bbox.left + bbox.width) {
        ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
    }
    if (band.special?.length) specials(u, along(band, view.x, other), band.special);
  }
  ctx.restore();
}

/** A cross at the bottom is NaN, a triangle points up to ∞ at the top, or down to −∞ at the bottom.
 * @param {uPlot} u @param {ArrayLike<number>} along @param {import("./curves.js").Special[]} special */
function specials(u, along, special) {
  const { ctx, bbox } = u;
  const size = 4 * devicePixelRatio;
  ctx.fillStyle = ctx.strokeStyle = shade(u.root, "bad");
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.setLineDash([]);
  /** @type {Record<string, number>} */
  const last = {};
  for (const { bucket, value } of special) {
    const x = u.valToPos(along[bucket], "x", true);
    // A mark that overlaps the one before would only take time to draw.
    if (x < bbox.left || x > bbox.left + bbox.width || x - (last[value] ?? -Infinity) < 3 * size) continue;
    last[value] = x;
    const up = value === "Infinity";
    const y = up ? bbox.top + size : bbox.top + bbox.height - size;
    ctx.beginPath();
    if (value === "NaN") {
      for (const side of [-1, 1]) {
        ctx.moveTo(x - size, y - side * size);
        ctx.lineTo(x + size, y + side * size);
      }
      ctx.stroke();
    } else {
      const tip = up ? -size : size;
      ctx.moveTo(x, y + tip);
      ctx.lineTo(x - size, y - tip);
      ctx.lineTo(x + size, y - tip);
      ctx.fill();
    }
  }
}

/**
 * A colour for a canvas, which cannot parse `light-dark(…)`, the value of a custom property.
 *
 * @param {HTMLElement} element @param {string} name a class whose `color` it is
 */
function shade(element, name) {
  const known = shades.get(name);
  if (known) return known;
  const probe = element.appendChild(document.createElement("i"));
  probe.className = `shade-${name}`;
  const { color } = getComputedStyle(probe);
  probe.remove();
  shades.set(name, color);
  return color;
}

/** A cache, cleared when the theme changes: each `getComputedStyle` forces a layout of the page.
 * @type {Map<string, string>} */
const shades = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shades.clear());
