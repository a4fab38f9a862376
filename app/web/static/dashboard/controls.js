// How the charts of a page are drawn. Each choice is in the address.
import { set } from "./route.js";
import { Choice, Toggle } from "./parts.js";
import { t } from "./words.js";
import { h, tags } from "./dom.js";

const { div, span, label, input, button, select, option } = tags;

/** @param {URLSearchParams} query @param {number} smoothing unless the address says another
 * @returns {import("./chart.js").View} */
export const viewOf = (query, smoothing) => ({
  x: query.get("x") ?? "step",
  log: query.has("log"),
  smoothing: Math.min(0.99, Math.max(0, Number(query.get("s") ?? smoothing) || 0)),
  outliers: query.has("o"),
});

/**
 * @param {{ view: import("./chart.js").View, keys: string[], zoomed?: boolean }} props
 *   keys: metrics that x may be
 */
export function Controls({ view, keys, zoomed }) {
  const axis = ["step", "time", "clock"].includes(view.x) ? view.x : "metric";
  return div(
    { class: "controls" },
    h(Choice, {
      label: t("x axis"), value: axis,
      options: [["step", t("Step")], ["time", t("Time")], ["clock", t("Clock")]],
      choose: (x) => set({ x: x === "step" ? null : x, from: null, to: null }),
    }),
    keys.length > 1
      ? select({ value: axis === "metric" ? view.x : "", "aria-label": t("A metric as x axis"), class: axis === "metric" ? "on" : "",
          onChange: (event) => set({ x: event.currentTarget.value || null, from: null, to: null }) },
          option({ value: "" }, t("x: a metric…")), keys.map((key) => option({ key, value: key }, key)))
      : null,
    label({ class: "slider" }, t("Smoothing"),
      input({
        type: "range", min: 0, max: 0.99, step: 0.01, value: view.smoothing,
        onInput: (event) => set({ s: event.currentTarget.value }),
      }),
      span({ class: "value" }, view.smoothing.toFixed(2))),
    h(Toggle, { on: view.log, set: (log) => set({ log }) }, t("Log y")),
    h(Toggle, { on: view.outliers, set: (o) => set({ o }) }, t("Ignore outliers")),
    zoomed ? button({ type: "button", onClick: () => set({ from: null, to: null }) }, t("Show all")) : null,
  );
}
