// Several runs side by side: only where they differ, and their curves in one chart each; or the mean
// and spread of groups that share a hyperparameter (seeds).
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, askEarly, watch } from "../graphql.js";
import { BANDS, COMPARED, RUNS_CHANGED, exactly } from "../operations.js";
import { href, params, set, several } from "../route.js";
import { called, flat, number, plain } from "../format.js";
import { ACTIVE, Empty, Loading, RunLink, Status, Swatch, Trouble, useTitle } from "../parts.js";
import { Chart, colorOf } from "../chart.js";
import { Controls, viewOf } from "../controls.js";
import { SYMBOLS, together } from "../curves.js";
import { byImportance } from "../run/curves.js";
import { listedMetrics } from "../runs/data.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, h2, h3, p, section, details, summary, table, tbody, thead, tr, td, th, input, label, a, select, option, span } = tags;

/**
 * @typedef {import("../generated.js").Operations["Compared"]["result"]} Compared
 * @typedef {Extract<NonNullable<Compared["nodes"][number]>, { model: string }>} ComparedRun
 * @typedef {import("../curves.js").Band} Band
 */

export const MOST = 20;
const CHARTS = 12;
/** Characters of a parameter. */
const LONG = 200;
const BUCKETS = 300;
const CURVES_AT_ONCE = 60;

/** What is asked for of the runs that are compared. @param {string[]} ids @param {boolean} same */
const comparedOf = (ids, same) => ({ ids, onlyDifferent: !same });

/** Queries of their curves, each of few enough runs for the limit of a response.
 * @param {string[]} ids @param {string[]} keys */
function bandsOf(ids, keys) {
  const apart = Math.max(1, Math.floor(CURVES_AT_ONCE / keys.length));
  return Array.from({ length: Math.ceil(ids.length / apart) }, (_, i) =>
    ({ ...exactly(ids.slice(i * apart, (i + 1) * apart)), keys, from: null, to: null, buckets: BUCKETS }));
}

/** The metrics of the list that the runs were picked from, until their own are known. */
const expectedKeys = () => listedMetrics.peek().toSorted(byImportance);

/** Asks for what this page will show of these runs, as soon as somebody presses Compare. @param {string[]} picked */
export function expectCompare(picked) {
  const ids = picked.slice(0, MOST), keys = expectedKeys().slice(0, CHARTS);
  askEarly(COMPARED, comparedOf(ids, false));
  if (keys.length) askEarly(BANDS, bandsOf(ids, keys)[0]);
}

export function Compare() {
  const query = params.value;
  const ids = several(query, "runs").slice(0, MOST);
  const hidden = new Set(several(query, "hide"));
  const view = viewOf(query, 0.5);
  const { runs, rows, error, again } = useCompared(ids, query.has("same"));
  useTitle(t("Compare"));
  const found = query.get("keys") ?? "";
  const all = useMemo(() => [...new Set(runs.flatMap(({ metrics }) => metrics.map(({ key }) => key)))].sort(byImportance), [runs]);
  const some = (/** @type {string[]} */ names) => names.filter((key) => key.toLowerCase().includes(found.toLowerCase())).slice(0, CHARTS);
  const keys = some(all);
  // The curves are read in parallel with the rest.
  const wanted = runs.length ? keys : some(expectedKeys());
  const { bands, known } = useBands(ids, view.x.match(/^(step|time|clock)$/) ? wanted : [...new Set([...wanted, view.x])],
    runs.some(({ status }) => ACTIVE.includes(status)));
  const by = query.get("by") ?? "";
  const color = Object.fromEntries(ids.map((id, i) => [id, colorOf(i)]));
  // Without waiting for the rest.
  const differences = useMemo(() => h(Differences, { runs, rows, keys, color, hidden, same: query.has("same") }),
    [runs, rows, keys.join("\n"), query.get("hide"), query.has("same")]);

  if (!ids.length)
    return div({ class: "page" }, div({ class: "bar" }, h1({}, t("Compare"))),
      h(Empty, { title: t("Nothing is selected yet.") }, p({}, t("Select two runs or more in the list, then press Compare.")), a({ class: "button primary", href: href("") }, t("Runs"))));
  if (error) return div({ class: "page" }, h(Trouble, { error, again }));
  if (!runs.length) return div({ class: "page" }, h(Loading, {}));

  const shown = runs.filter(({ id }) => !hidden.has(id));
  const names = [...new Set(runs.flatMap(({ hyperparams }) => Object.keys(flat(hyperparams))))].sort();
  const lines = (/** @type {string} */ key) =>
    by ? groupLines(shown, by, (id) => bands[id]?.[key]) : shown.flatMap((run) => {
      const band = bands[run.id]?.[key];
      return band?.steps.length ? [{ id: run.id, label: called(run), color: color[run.id], band, other: bands[run.id]?.[view.x], from: run.sourceCheckpoint?.step ?? undefined }] : [];
    });

  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Compare"), span({ class: "total" }, runs.length)),
      input({ type: "search", placeholder: t("Which metrics"), "aria-label": t("Which metrics"), value: found, onInput: (event) => set({ keys: event.currentTarget.value }) }),
      h(Controls, { view, keys: by ? [] : all }),
      names.length
        ? label({ class: "slider" }, t("Group by"), select({ value: by, class: by ? "on" : "", onChange: (event) => set({ by: event.currentTarget.value }) },
            option({ value: "" }, t("nothing")), names.map((name) => option({ key: name, value: name }, name))))
        : null),
    by ? p({ class: "faint" }, t("Lines are group means; shaded areas are one standard deviation.")) : null,
    div({ class: "charts big" }, keys.map((key) => known.has(key)
      ? h(Chart, { key, title: key, view, height: 270, syncKey: "compare", lines: lines(key) })
      : div({ key, class: "chart waiting" }, h3({}, key)))),
    all.length > keys.length && !found ? p({ class: "faint" }, t("{n} more metrics: filter to see them.", { n: all.length - keys.length })) : null,
    differences,
  );
}

/** @param {{ runs: ComparedRun[], rows: NonNullable<Compared["compareRuns"]>, keys: string[], color: Record<string, string>, hidden: Set<string>, same: boolean }} props */
function Differences({ runs, rows, keys, color, hidden, same }) {
  const show = (/** @type {string} */ id) => {
    const next = new Set(hidden);
    if (!next.delete(id)) next.add(id);
    set({ hide: [...next].join(",") });
  };
  const packages = rows.filter(isPackage);
  return section({ "aria-label": t("Differences") },
    div({ class: "bar" }, h2({}, same ? t("Parameters") : t("What differs")),
      label({ class: "check" }, input({ type: "checkbox", checked: same, onChange: () => set({ same: !same }) }), t("show identical values too"))),
    div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Differences") }, table(
      { class: "plain diff" },
      thead({}, tr({}, th({}, span({ class: "hidden" }, t("Parameter"))), runs.map((run) =>
        th({ key: run.id, scope: "col" },
          label({ class: "check" },
            input({ type: "checkbox", checked: !hidden.has(run.id), "aria-label": t("Show {run}", { run: called(run) }), onChange: () => show(run.id) }),
            h(Swatch, { color: color[run.id] })),
          h(RunLink, { run }), " ", h(Status, { status: run.status }))))),
      tbody({},
        rows.length ? null : tr({}, th({ class: "faint", colSpan: runs.length + 1 }, t("Their parameters do not differ."))),
        rows.filter((row) => !isPackage(row)).map(param),
        keys.map((key) => {
          const last = runs.map(({ metrics }) => metrics.find((metric) => metric.key === key));
          const finite = /** @type {number[]} */ (last.map((metric) => metric?.value ?? null).filter((value) => value !== null));
          const best = /loss|error|perplexity|ppl/i.test(key) ? Math.min(...finite) : Math.max(...finite);
          const tells = finite.length > 1 && new Set(finite).size > 1 && /loss|error|perplexity|ppl|acc|score|reward|f1|bleu/i.test(key);
          return tr({ key: `m.${key}`, class: "metric" }, th({ scope: "row" }, key, span({ class: "faint" }, ` ${t("last")}`)),
            last.map((metric, i) => td({ key: i, class: `number ${metric?.special ? "bad" : tells && metric?.value === best ? "best" : ""}` },
              metric?.special ? SYMBOLS[metric.special] : number(metric?.value))));
        }))),
      packages.length
        ? details({}, summary({}, t("Packages"), span({ class: "faint" }, ` ${packages.length}`)), table({ class: "plain diff" }, tbody({}, packages.map(param))))
        : null));
}

/** @typedef {NonNullable<Compared["compareRuns"]>[number]} Row */

/** Of these a run has hundreds. @param {Row} row */
const isPackage = ({ section: part, key }) => part === "SOURCE" && key.startsWith("packages.");

/** @param {Row} row */
const param = ({ section: part, key, values, differs }) =>
  tr({ key: `${part}.${key}`, class: differs ? "differs" : "", "data-param": key }, th({ scope: "row" }, part === "HYPERPARAMS" || part === "RUN" ? key : `${part.toLowerCase()}.${key}`),
    values.map((value, i) => {
      const text = value === null ? "–" : plain(value);
      return text.length > LONG // a patch of the code
        ? td({ key: i, class: "number", title: text }, `${text.slice(0, LONG)}…`) : td({ key: i, class: "number" }, text);
    }));

/** One line for each value of a hyperparameter: the mean of its runs, and their spread.
 * @param {ComparedRun[]} runs @param {string} by @param {(id: string) => Band | undefined} bandOf */
function groupLines(runs, by, bandOf) {
  /** @type {Map<string, Band[]>} */
  const groups = new Map();
  for (const run of runs) {
    const value = plain(flat(run.hyperparams)[by]);
    const band = bandOf(run.id);
    if (band?.steps.length) groups.set(value, [...(groups.get(value) ?? []), band]);
  }
  return [...groups].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })).map(([value, members], i) =>
    ({ id: value, label: `${by} ${value} (${members.length})`, color: colorOf(i), band: together(members) }));
}

/** @param {string[]} ids @param {boolean} same */
function useCompared(ids, same) {
  const [found, setFound] = useState(/** @type {{ runs: ComparedRun[], rows: NonNullable<Compared["compareRuns"]> }} */ ({ runs: [], rows: [] }));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const load = () => {
    if (ids.length)
      ask(COMPARED, comparedOf(ids, same)).then(({ nodes, compareRuns }) => {
        setFound({ runs: /** @type {ComparedRun[]} */ (nodes.filter((node) => node && "model" in node)), rows: compareRuns ?? [] });
        setError(null);
      }, setError);
  };
  useLayoutEffect(load, [ids.join(), same]);
  return { ...found, error, again: load };
}

/**
 * The curves of these runs by id, and the metrics that were read.
 *
 * @param {string[]} ids @param {string[]} keys @param {boolean} active some of them go on
 */
function useBands(ids, keys, active) {
  const [bands, setBands] = useState(/** @type {Record<string, Record<string, Band>>} */ ({}));
  const [known, setKnown] = useState(/** @type {Set<string>} */ (new Set()));
  const asked = useRef({ ids: "", keys: /** @type {Set<string>} */ (new Set()) });
  if (asked.current.ids !== ids.join()) asked.current = { ids: ids.join(), keys: new Set() };

  const load = async (/** @type {string[]} */ some, /** @type {string[]} */ names) => {
    const list = asked.current;
    for (const variables of bandsOf(some, names)) {
      const found = await ask(BANDS, variables).catch(() => null);
      if (asked.current !== list) return;
      setBands((before) => {
        const next = { ...before };
        for (const { id, metricBands } of found?.runs.nodes ?? [])
          next[id] = { ...next[id], ...Object.fromEntries(metricBands.map((band) => [band.key, band])) };
        return next;
      });
    }
    setKnown((before) => new Set([...before, ...names]));
  };
  // A layout effect: `useEffect` would wait for a frame before it queries.
  useLayoutEffect(() => {
    const missing = keys.filter((key) => !asked.current.keys.has(key));
    for (const key of missing) asked.current.keys.add(key);
    if (ids.length && missing.length) load(ids, missing);
  }, [ids.join(), keys.join("\n")]);

  useEffect(() => {
    if (!active) return;
    const changed = new Set();
    let loading = Promise.resolve();
    return watch(RUNS_CHANGED, { filter: { ids }, keys: [] }, ({ runsChanged }) => {
      for (const { id } of runsChanged) changed.add(id);
      loading = loading.then(() => {
        const some = /** @type {string[]} */ ([...changed]);
        changed.clear();
        return some.length ? load(some, [...asked.current.keys]) : undefined;
      });
    });
  }, [ids.join(), active]);
  return { bands, known };
}
