// The rows of the list of runs: loaded while the user scrolls, and live.
import { signal } from "@preact/signals";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ask, watch } from "../graphql.js";
import { COUNTS, EXPERIMENTS_CHANGED, RUNS, RUNS_CHANGED, SPARKS, exactly } from "../operations.js";

/**
 * @typedef {import("../generated.js").Operations} Operations
 * @typedef {Operations["Runs"]["result"]["runs"]["nodes"][number]} RunRow
 * @typedef {"whole" | "going on" | "some"} Searched what of the list was looked through for matches: a page that ends early may be empty
 * @typedef {{ filter: NonNullable<Operations["Runs"]["variables"]["filter"]>, order: Operations["Runs"]["variables"]["order"] }} Asked
 */

/** The metrics of the last list of runs, which the page that compares them starts with.
 * @type {import("@preact/signals").Signal<string[]>} */
export const listedMetrics = signal([]);

const PAGE = 100;
/** Rows of the first query, about one screen; the others follow while it is rendered. */
const FIRST_PAGE = 40;
const MOST = 500;
/** Queries in a row that may end early, because few of very many runs match; then the user has to ask
 * for more. */
const AT_ONCE = 25;
/** Milliseconds between two counts: no subscription reports deleted runs. */
const RECOUNT = 30_000;

/**
 * @param {Asked} query
 * @param {string[]} keys of the metrics that are shown. Of all, the answers would be too large.
 */
export function useRuns(query, keys) {
  const what = JSON.stringify(keys);
  const wanted = JSON.stringify(query);
  const [rows, setRows] = useState(/** @type {RunRow[]} */ ([]));
  const [total, setTotal] = useState(/** @type {number | null} */ (null));
  const [atLeast, setAtLeast] = useState(false);
  const [searched, setSearched] = useState(/** @type {Searched} */ ("whole"));
  const [counts, setCounts] = useState(/** @type {Record<string, number>} */ ({}));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const last = useRef("");
  // A response to an earlier query of the list, which may arrive after a later one, is dropped.
  const now = useRef({ wanted, cursor: /** @type {string | null} */ (null), loading: false, known: new Set(), early: 0 });

  /** @param {boolean} fresh from the top, instead of what follows
   * @param {boolean} [whole] all that is shown, since some of it may be gone */
  async function load(fresh, whole = false) {
    const list = now.current;
    if (list.loading) return;
    list.loading = true;
    const first = whole ? Math.min(MOST, Math.max(FIRST_PAGE, list.known.size)) : fresh && !list.known.size ? FIRST_PAGE : PAGE;
    try {
      const { runs } = await ask(RUNS, { ...query, keys, first, after: fresh ? null : list.cursor });
      if (now.current !== list) return;
      // For a frequent text the service stops counting: there are at least the runs that were read.
      const read = new Set([...list.known, ...runs.nodes.map(({ id }) => id)]).size;
      const early = runs.pageInfo.hasNextPage && runs.nodes.length < first;
      const further = read + (runs.pageInfo.hasNextPage && !early ? PAGE : 0);
      // Reading the top again must not forget how far the search below has come.
      const kept = early && fresh && !whole && list.cursor !== null;
      if (!kept) {
        list.early = early ? list.early + 1 : 0;
        setSearched(!early ? "whole" : list.early < AT_ONCE ? "going on" : "some");
      }
      setTotal(runs.totalCountIsLowerBound ? Math.max(runs.totalCount, further) : runs.totalCount);
      setAtLeast(runs.totalCountIsLowerBound);
      setError(null);
      setRows((known) => {
        const ids = new Set(runs.nodes.map(({ id }) => id));
        // Rows loaded below stay: without them the scroll bar would jump.
        const next = whole ? runs.nodes : fresh
          ? runs.nodes.concat(known.slice(kept ? 0 : first).filter(({ id }) => !ids.has(id)))
          : known.filter(({ id }) => !ids.has(id)).concat(runs.nodes);
        if (!kept && (!fresh || next.length <= first)) list.cursor = runs.pageInfo.endCursor;
        list.known = new Set(next.map(({ id }) => id));
        return next;
      });
    } catch (wrong) {
      if (now.current === list) setError(/** @type {Error} */ (wrong));
    } finally {
      list.loading = false;
    }
  }

  // A layout effect: `useEffect` would wait for a frame before it queries.
  useLayoutEffect(() => {
    now.current = { wanted, cursor: null, loading: false, known: new Set(), early: 0 };
    if (last.current !== wanted) {
      setRows([]);
      setTotal(null);
      setSearched("whole");
    }
    last.current = wanted;
    load(true);
    const { status, ...filter } = query.filter;
    let before = 0;
    const count = () => ask(COUNTS, { filter }).then(({ runCounts }) => {
      setCounts(Object.fromEntries(runCounts.map(({ status, count }) => [status, count])));
      const sum = runCounts.reduce((all, { count }) => all + count, 0);
      if (sum < before) load(true, true); // deleted, or archived
      before = sum;
    }, () => {});
    count();
    const reload = later(() => load(true), 700);
    const recount = later(count, 700);
    // A deleted run is an event of its experiment; a deleted experiment is no event.
    const endExperiments = watch(EXPERIMENTS_CHANGED, {}, recount);
    const timer = setInterval(() => document.hidden || recount(), RECOUNT);
    const end = watch(RUNS_CHANGED, { filter, keys }, ({ runsChanged }) => {
      recount();
      const fresh = new Map(runsChanged.map((run) => [run.id, run]));
      const { known } = now.current;
      // Only the service knows the place of a run that is new, or no longer matches.
      if (runsChanged.some(({ id, status: is }) => !known.has(id) || (status && !status.includes(is)))) reload();
      setRows((before) => before.map((row) => fresh.get(row.id) ?? row));
    }, () => { load(true); count(); });
    return () => { end(); endExperiments(); clearInterval(timer); reload.stop(); recount.stop(); };
  }, [wanted, what]);

  const more = () => { if (now.current.early < AT_ONCE) load(false); };
  const further = () => { now.current.early = 0; load(false); };
  return { rows, total, atLeast, searched, counts, error, more, further, again: () => load(true) };
}

/** Throttle a function: call it at once after a pause, otherwise when the interval is over.
 * @param {() => void} work @param {number} apart */
function later(work, apart) {
  let last = 0;
  let timer = 0;
  const wait = () => {
    if (timer) return;
    timer = setTimeout(() => { timer = 0; last = Date.now(); work(); }, Math.max(0, last + apart - Date.now()));
  };
  wait.stop = () => clearTimeout(timer);
  return wait;
}

/** @type {(number | null)[]} */
const NONE = [];
/** Milliseconds before curves that could not be read are queried again. */
const RETRY = 2000;

/**
 * The curves of the rows in view. Those of all rows, or of all metrics, would exceed the limit of an
 * operation.
 *
 * @param {RunRow[]} rows @param {string} key
 */
export function useSparks(rows, key) {
  const [sparks, setSparks] = useState(/** @type {Map<string, { values: (number | null)[], step: number }>} */ (new Map()));
  const [refusals, setRefusals] = useState(0);
  const busy = useRef(false);
  // An active run's curve is read again as its step advances, but not for every step.
  const due = rows.filter(({ id, step }) => {
    const known = sparks.get(`${key} ${id}`);
    return !known || (known.step !== step && (step - known.step) * 60 >= step);
  });
  const ids = due.slice(0, 60).map(({ id }) => id);
  useEffect(() => {
    if (!ids.length || !key || busy.current) return;
    busy.current = true;
    const steps = new Map(due.map(({ id, step }) => [id, step]));
    ask(SPARKS, { ...exactly(ids), keys: [key] }).then(({ runs }) => {
      const curves = new Map(runs.nodes.map(({ id, metricBands }) => [id, metricBands[0]?.means ?? []]));
      setSparks((known) => {
        const next = new Map(known);
        for (const id of ids) next.set(`${key} ${id}`, { values: curves.get(id) ?? NONE, step: steps.get(id) ?? 0 });
        return next;
      });
    }, () => setTimeout(() => setRefusals((count) => count + 1), RETRY)).finally(() => (busy.current = false));
  }, [ids.join(), key, sparks, refusals]);
  return useCallback((/** @type {string} */ id) => sparks.get(`${key} ${id}`)?.values ?? NONE, [sparks, key]);
}
