// The curves of one run: read as bands, then live point by point.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, watch } from "../graphql.js";
import { BANDS, RUN_METRICS, exactly } from "../operations.js";
import { params, root, set } from "../route.js";
import { called, clock, number } from "../format.js";
import { Chart, colorOf } from "../chart.js";
import { Controls, viewOf } from "../controls.js";
import { empty, extend } from "../curves.js";
import { Empty } from "../parts.js";
import { MachineNow, machineCharts, ofMachine } from "./machine.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, section, h2, h3, input, a, details, summary, span, p, dl, dt, dd } = tags;

/**
 * @typedef {import("../curves.js").Band} Band
 * @typedef {import("../pages/run.js").RunDetail} RunDetail
 */

const BUCKETS = 600;
/** Live points that may follow the bands before all is read again. */
const MANY = 1500;
const SYSTEM = /^(sys|system|gpu|cpu|mem|memory|disk|net|network)[./_]/i;

/** @param {{ run: RunDetail, active: boolean }} props */
export function Curves({ run, active }) {
  const query = params.value;
  const view = viewOf(query, 0.35);
  const range = query.has("from") && view.x === "step"
    ? /** @type {[number, number]} */ ([Number(query.get("from")), Number(query.get("to"))]) : null;
  const find = query.get("keys") ?? "";
  const all = useMemo(() => (run.pointsRemovedAt ? [] : run.metrics).map(({ key }) => key).sort(byImportance), [run.metrics.map(({ key }) => key).join("\n"), run.pointsRemovedAt]);
  const keys = all.filter((key) => key.toLowerCase().includes(find.toLowerCase()));
  const [seen, setSeen] = useState(/** @type {Set<string>} */ (new Set()));
  const wanted = all.filter((key) => seen.has(key) || key === view.x);
  const bands = useBands(run, wanted, range, active);
  const zoom = (/** @type {[number, number] | null} */ found) =>
    set(found && view.x === "step" ? { from: Math.floor(found[0]), to: Math.ceil(found[1]) } : { from: null, to: null });

  const together = (/** @type {import("./machine.js").Group} */ { title, members }) =>
    h(Slot, {
      key: title, name: title, seen: seen.has(members[0].key),
      see: () => setSeen((known) => (known.has(members[0].key) ? known : new Set([...known, ...members.map(({ key }) => key)]))),
      chart: () => h(Chart, {
        title, view, zoom, syncKey: run.id,
        lines: members.flatMap(({ key, label }, i) => bands[key]
          ? [{ id: key, label: label || called(run), color: colorOf(i), band: bands[key], other: bands[view.x],
              from: run.sourceCheckpoint?.step ?? undefined }]
          : []),
      }),
    });
  const chart = (/** @type {string} */ key) => together({ title: key, members: [{ key, label: "" }] });
  const groups = grouped(keys.filter((key) => !ofMachine(key)));
  const machine = machineCharts(keys.filter(ofMachine));
  return section(
    { "aria-label": t("Metrics"), class: "curves" },
    div({ class: "bar" }, h2({}, t("Metrics")),
      all.length > 4
        ? input({ type: "search", placeholder: t("Which"), value: find, "aria-label": t("Which metrics"), onInput: (event) => set({ keys: event.currentTarget.value }) })
        : null,
      // As the last item of the bar it would wrap to a line of its own.
      a({ class: "quiet button", download: `${run.id}.json`, href: new URL(`v1/experiments/${run.experiment.id}/runs/${run.id}/metrics`, root).href }, "JSON"),
      h(Controls, { view, keys: all, zoomed: Boolean(range) })),
    run.pointsRemovedAt
      ? [
          p({ class: "faint", role: "note", "data-removed": "" }, t("Retention removed these points on {day}: the latest values stay.", { day: clock(run.pointsRemovedAt) })),
          dl({ class: "small" }, run.metrics.flatMap(({ key, value, special }) => [dt({}, key), dd({}, special ?? number(value))])),
        ]
      : run.pointsThinnedAt ? p({ class: "faint", role: "note", "data-thinned": "" }, t("Retention thinned these points on {day}: the curves keep their shape and every spike.", { day: clock(run.pointsThinnedAt) })) : null,
    all.length || run.pointsRemovedAt ? null : h(Empty, { title: active ? t("No metrics yet.") : t("It reported no metrics.") }),
    groups.map(([name, members]) =>
      name === ""
        ? div({ key: "", class: "charts" }, members.map(chart))
        : details({ key: name, class: "group", open: !SYSTEM.test(`${name}/`) || Boolean(find) },
            summary({}, h3({}, name), span({ class: "faint" }, ` ${members.length}`)),
            div({ class: "charts" }, members.map(chart)))),
    machine.length
      ? details({ key: "machine", class: "group", open: Boolean(find), "data-machine": "" },
          summary({}, h3({}, t("Machine")), span({ class: "faint" }, ` ${machine.length}`), h(MachineNow, { metrics: run.metrics })),
          div({ class: "charts" }, machine.map(together)))
      : null,
  );
}

/** A chart that is created when it is scrolled into view: a run may have hundreds.
 * @param {{ name: string, seen: boolean, see: () => void, chart: () => any }} props */
function Slot({ name, seen, see, chart }) {
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    if (seen) return;
    const observer = new IntersectionObserver((entries) => entries.some(({ isIntersecting }) => isIntersecting) && see(), { rootMargin: "300px" });
    observer.observe(/** @type {Element} */ (place.current));
    return () => observer.disconnect();
  }, [seen]);
  return seen ? chart() : div({ class: "chart waiting", ref: place }, h3({}, name));
}

/** The metrics grouped by prefix; those of no group first, the machine's last.
 * @param {string[]} keys @returns {[string, string[]][]} */
function grouped(keys) {
  /** @type {Map<string, string[]>} */
  const groups = new Map();
  for (const key of keys) {
    const prefix = SYSTEM.test(key) ? key.split(/[./_]/)[0] : key.includes("/") ? key.slice(0, key.indexOf("/")) : "";
    groups.set(prefix, [...(groups.get(prefix) ?? []), key]);
  }
  const system = (/** @type {string} */ name) => SYSTEM.test(`${name}/`);
  // A prefix of a single metric makes no group.
  const together = (/** @type {[string, string[]]} */ [name, members]) => name !== "" && (members.length > 1 || system(name));
  const all = [...groups];
  const first = all.filter((group) => !together(group)).flatMap(([, members]) => members).sort(byImportance);
  const rest = all.filter(together).sort(([a], [b]) => Number(system(a)) - Number(system(b)));
  return first.length ? [["", first], ...rest] : rest;
}

/** @param {string} a @param {string} b */
export const byImportance = (a, b) => rank(a) - rank(b) || a.localeCompare(b);
const rank = (/** @type {string} */ key) => (key === "loss" ? 0 : /loss/i.test(key) ? 1 : SYSTEM.test(key) ? 9 : 5);

/**
 * @param {RunDetail} run @param {string[]} keys @param {[number, number] | null} range @param {boolean} active
 * @returns {Record<string, Band>}
 */
function useBands(run, keys, range, active) {
  const [bands, setBands] = useState(/** @type {Record<string, Band>} */ ({}));
  const latest = useRef(bands);
  latest.current = bands;
  const [version, setVersion] = useState(0);
  const stamp = `${run.id} ${run.attempt} ${range?.join() ?? ""} ${version}`;
  const asked = useRef({ stamp: "", keys: new Set() });
  if (asked.current.stamp !== stamp) asked.current = { stamp, keys: new Set() };

  useEffect(() => {
    const missing = keys.filter((key) => !asked.current.keys.has(key));
    if (!missing.length) return;
    const { keys: known } = asked.current;
    for (const key of missing) known.add(key);
    ask(BANDS, { ...exactly([run.id]), keys: missing, from: range?.[0] ?? null, to: range?.[1] ?? null, buckets: BUCKETS }).then(
      ({ runs: { nodes: [node] } }) => {
        if (asked.current.keys !== known || !node) return;
        const found = Object.fromEntries(node.metricBands.map((band) => [band.key, /** @type {Band} */ (band)]));
        setBands((before) => ({ ...before, ...found }));
      }, () => missing.forEach((key) => known.delete(key)));
  }, [keys.join("\n"), stamp]);

  // Live: every metric of the run over one subscription, from the last step that is known.
  const from = useRef({ id: run.id, keys: /** @type {string[] | null} */ (null), after: /** @type {number | null} */ (null) });
  useEffect(() => {
    if (!active || range) return;
    from.current = { id: run.id, keys: null, after: run.step };
    return watch(RUN_METRICS, from.current, ({ runMetrics }) => {
      let many = false;
      const news = runMetrics.filter(({ steps }) => steps.length);
      for (const { steps } of news) from.current.after = Math.max(from.current.after ?? 0, steps[steps.length - 1]);
      setBands((before) => {
        const next = { ...before };
        for (const series of news) {
          if (!asked.current.keys.has(series.key)) continue;
          next[series.key] = extend(next[series.key] ?? empty(series.key), series);
        }
        return next;
      });
      for (const { key } of news) many ||= (latest.current[key]?.steps.length ?? 0) > BUCKETS + MANY;
      if (many) setVersion((n) => n + 1);
    }, () => setVersion((n) => n + 1));
  }, [run.id, active, Boolean(range)]);
  // Read again: points that came between the query and the subscription, or at the run's end, are
  // missing otherwise.
  useEffect(() => {
    if (!active) setVersion((n) => n + 1);
  }, [active]);
  return bands;
}
