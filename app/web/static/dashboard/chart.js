// One chart: the curves of several runs; for each bucket the smoothed mean, over the faint raw mean,
// over the area between minimum and maximum.
import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { options, zooming } from "./plot.js";
import { along, empty, halfLife, SERIES, smooth, specialAlong, tally } from "./curves.js";
import { clock, duration, number } from "./format.js";
import { Swatch } from "./parts.js";
import { t } from "./words.js";
import { h, tags } from "./dom.js";

const { div, span, h3 } = tags;

/** @type {typeof import("uplot")} */
const uPlot = /** @type {any} */ (globalThis).uPlot;

export const COLORS = [
  "#3b7ddd", "#e07b39", "#2a9d6f", "#c7457d", "#8961c9", "#b58b00", "#2aa1b3", "#d2544a",
  "#6b8e23", "#8a8f99",
];
/** @param {number} i */
export const colorOf = (i) => COLORS[i % COLORS.length];

/**
 * @typedef {object} Line
 * @property {string} id
 * @property {string} label
 * @property {string} color
 * @property {import("./curves.js").Band} band
 * @property {import("./curves.js").Band} [other] the metric that x is taken from
 * @property {number} [from] the first step of the run itself; those before are its parent's
 *
 * @typedef {object} View
 * @property {string} x step, time, clock or the key of a metric
 * @property {boolean} log
 * @property {number} smoothing 0 to 1
 * @property {boolean} outliers true if they do not stretch the axis
 *
 * @typedef {[number, number]} Range
 */

/** @type {import("@preact/signals").Signal<number>} */
const themes = signal(0);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (themes.value += 1));

/**
 * @param {{ title: string, lines: Line[], view: View, height?: number, syncKey?: string,
 *   zoom?: (range: Range | null) => void, pick?: (id: string) => void }} props
 */
export function Chart({ title, lines: all, view, height = 210, syncKey = "page", zoom }) {
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {import("uplot") | null} */ (null));
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  const zoomed = useRef(zoom);
  zoomed.current = zoom;

  const lines = view.x === "time" || view.x === "clock" ? all.filter(({ band }) => isTimed(band)) : all;
  const untimed = all.length - lines.length;
  const bands = lines.map(({ band }) => band);
  const data = useMemo(() => columns(lines, view), [...bands, lines.length, view.x, view.log, view.smoothing]);
  const shape = JSON.stringify([lines.map(({ id, color, from }) => [id, color, from]), view, height, themes.value]);

  useLayoutEffect(() => {
    const element = /** @type {HTMLDivElement} */ (place.current);
    const wanted = options({ element, lines, view, height, syncKey, setAt, zoom: zooming(zoomed) });
    const drawn = new uPlot(wanted, data, element);
    plot.current = drawn;
    // The observer's first call reports the width that the plot was created with.
    const sizes = new ResizeObserver(() => element.clientWidth !== drawn.width && drawn.setSize({ width: element.clientWidth, height }));
    sizes.observe(element);
    return () => {
      sizes.disconnect();
      drawn.destroy();
    };
  }, [shape]);
  useEffect(() => {
    if (plot.current && plot.current.data !== data) plot.current.setData(data, true);
  }, [data]);

  const hidden = view.log ? lines.reduce((sum, { band }) => sum + nonPositive(band.means), 0) : 0;
  const broken = tally(bands);
  const special = useMemo(() => lines.map(({ band, other }) => specialAlong(along(band, view.x, other), band)), [...bands, lines.length, view.x]);
  const x = data[0];
  const index = at ?? x.length - 1;
  return div(
    { class: x.length ? "chart" : "chart nothing", "data-key": title },
    div({ class: "chart-head" },
      h3({ title }, title),
      untimed ? span({ class: "note", "data-untimed": untimed }, lines.length ? t("{n} without times", { n: untimed }) : t("no times were reported")) : null,
      hidden ? span({ class: "note" }, t("{n} not on a log scale", { n: hidden })) : null,
      broken ? span({ class: "note bad", "data-special": broken, title: t("In the chart ✕ is NaN, ▲ is ∞ and ▼ is −∞.") }, broken) : null),
    div({ class: "plot", ref: place, role: "img", "aria-label": spoken(title, lines, data) }),
    div({ class: "legend" },
      span({ class: "legend-x" }, x.length ? xText(x[index], view.x) : ""),
      lines.map((line, i) =>
        span({ key: line.id, class: "legend-line" },
          h(Swatch, { color: line.color }),
          lines.length > 1 ? `${line.label} ` : "",
          h(Value, { value: near(data[1 + SERIES * i], index), special: special[i]?.get(x[index]) })))),
  );
}

/** Draw an invisible chart while the browser is idle: it compiles the code of charts at their first
 * use, which would delay the first visible one. */
export function prepare() {
  const band = { ...empty(""), steps: [0, 1], means: [0, 1], lows: [0, 1], highs: [0, 1], counts: [2, 2], wallTimes: [0, 1] };
  const view = { x: "step", log: false, smoothing: 0.5, outliers: false };
  const lines = [{ id: "", label: "", color: COLORS[0], band }];
  const nothing = () => {};
  new uPlot(options({ element: document.body, lines, view, height: 100, syncKey: "", setAt: nothing, zoom: nothing }), columns(lines, view), (u, ready) => {
    ready();
    queueMicrotask(() => u.destroy());
  });
}

/** @param {{ value: number | undefined, special: string | undefined }} props */
const Value = ({ value, special }) =>
  span({ class: "value", "data-value": value }, number(value), special ? span({ class: "bad", "data-is": special }, ` ${special}`) : null);

/** A description of the chart for screen readers.
 * @param {string} title @param {Line[]} lines @param {uPlot.AlignedData} data */
const spoken = (title, lines, data) =>
  t("Curve of {what}", { what: title }) + lines.map(({ label }, i) => `; ${label}: ${number(near(data[1 + SERIES * i], data[0].length - 1))}`).join("");

/** The value at a place, or the last one before it. @param {any} column @param {number} index */
function near(column, index) {
  for (let i = index; i >= 0 && i > index - 200; i--) {
    const value = column?.[i];
    if (value !== undefined && value !== null) return /** @type {number} */ (value);
  }
  return undefined;
}

/** True if any point has a wall time, or if there are no points yet.
 * @param {import("./curves.js").Band} band */
const isTimed = ({ steps, wallTimes }) => !steps.length || wallTimes.some((time) => time !== null);

/** @param {number} x @param {string} kind */
function xText(x, kind) {
  if (kind === "step") return t("step {n}", { n: number(x) });
  if (kind === "time") return duration(x);
  if (kind === "clock") return clock(new Date(x * 1000).toISOString());
  return `${kind} ${number(x)}`;
}

/** @param {(number | null)[]} values */
const nonPositive = (values) => values.filter((value) => value !== null && value <= 0).length;

/**
 * x, and for each line its smoothed mean, raw mean, minimum and maximum at each x.
 *
 * @param {Line[]} lines @param {View} view
 * @returns {uPlot.AlignedData}
 */
export function columns(lines, view) {
  const positive = (/** @type {(number | null)[]} */ values) =>
    view.log ? values.map((value) => (value !== null && value > 0 ? value : null)) : values;
  const tables = lines.map(({ band, other }) => {
    const x = along(band, view.x, other);
    const half = halfLife(x, view.smoothing);
    const raw = positive(band.means);
    const wide = band.counts.some((count) => count > 1);
    const none = new Array(x.length).fill(null);
    return [
      x,
      half ? positive(smooth(x, band.means, band.counts, half)) : raw,
      half ? raw : none,
      wide ? positive(band.lows) : none,
      wide ? positive(band.highs) : none,
    ];
  });
  if (!tables.length) return /** @type {any} */ ([[]]);
  // One curve, or several on the same x, need no join.
  const [first] = tables;
  if (tables.every(([x]) => same(x, first[0])))
    return /** @type {any} */ ([first[0], ...tables.flatMap(([, ...ys]) => ys)]);
  return uPlot.join(/** @type {any} */ (tables), tables.map((table) => table.map(() => 2)));
}

/** @param {ArrayLike<unknown>} a @param {ArrayLike<unknown>} b */
function same(a, b) {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
