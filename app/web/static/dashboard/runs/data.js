// The rows of the list of runs: loaded as far as somebody scrolled, and live.
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

/** The metrics of the runs that were listed last: those that are compared next have them.
 * @type {import("@preact/signals").Signal<string[]>} */
export const listedMetrics = signal([]);

const PAGE = 100;
/** What a screen shows at first: the other rows follow while it is drawn. */
const FIRST_PAGE = 40;
const MOST = 500;
/** Pages that end early, since few of very many runs match: so many follow one another, until somebody says go on. */
const AT_ONCE = 25;
/** So often it is counted anew, in milliseconds: of what is deleted no subscription tells. */
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
  // Of the list as it is now asked for: answers to an earlier question are dropped.
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
      // Of a common text not all runs are counted: there are those that were read, and may be more.
      const read = new Set([...list.known, ...runs.nodes.map(({ id }) => id)]).size;
      const early = runs.pageInfo.hasNextPage && runs.nodes.length < first;
      const further = read + (runs.pageInfo.hasNextPage && !early ? PAGE : 0);
      // What was searched further down stays searched when only the top is read anew.
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
        // What was loaded further down stays, so that the place of the scroll bar does.
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

  // Before it is painted: an effect after that waits for a frame.
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
    // A deleted run is an event of its experiment; a deleted experiment is none of anybody's.
    const endExperiments = watch(EXPERIMENTS_CHANGED, {}, recount);
    const timer = setInterval(() => document.hidden || recount(), RECOUNT);
    const end = watch(RUNS_CHANGED, { filter, keys }, ({ runsChanged }) => {
      recount();
      const fresh = new Map(runsChanged.map((run) => [run.id, run]));
      const { known } = now.current;
      // Where a run belongs that was not there, or no longer fits, the service knows.
      if (runsChanged.some(({ id, status: is }) => !known.has(id) || (status && !status.includes(is)))) reload();
      setRows((before) => before.map((row) => fresh.get(row.id) ?? row));
    }, () => { load(true); count(); });
    return () => { end(); endExperiments(); clearInterval(timer); reload.stop(); recount.stop(); };
  }, [wanted, what]);

  const more = () => { if (now.current.early < AT_ONCE) load(false); };
  const further = () => { now.current.early = 0; load(false); };
  return { rows, total, atLeast, searched, counts, error, more, further, again: () => load(true) };
}

/** Does something soon: at once if it was not done for a while, else when the while is over.
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
/** Milliseconds until curves that could not be read are asked for again. */
const RETRY = 2000;

/**
 * The curves of the rows in sight. Those of all rows, or of all metrics, would be too much to ask for.
 *
 * @param {RunRow[]} rows @param {string} key
 */
export function useSparks(rows, key) {
  const [sparks, setSparks] = useState(/** @type {Map<string, { values: (number | null)[], step: number }>} */ (new Map()));
  const [refusals, setRefusals] = useState(0);
  const busy = useRef(false);
  // An active run's curve is asked for again when its run has gone on, but not with every step.
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
