// The list of runs: search, filters, live status, selection for the comparison.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask } from "../graphql.js";
import { EXPERIMENT, KEYS } from "../operations.js";
import { go, href, params, set, several } from "../route.js";
import { called } from "../format.js";
import { Empty, Keys, Loading, Trouble, useKeys, useTicks, useTitle } from "../parts.js";
import { expectCompare } from "./compare.js";
import { Rows } from "../table.js";
import { listedMetrics, useRuns, useSparks } from "../runs/data.js";
import { DEFAULT, RUN_COLUMN, columnsOf } from "../runs/columns.js";
import { asked, CHOOSING } from "../runs/query.js";
import { ColumnMenu, Filters, StatusChips } from "../runs/tools.js";
import { mayNowhere } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, a, button, input, tr, td, th, span, h1, p, code } = tags;
const HEIGHT = 46;
/** Rendered rows in the cache. */
const DRAWN = 300;
/** Metrics of a hundred runs that fit into one response of a subscription. */
const KEYS_SHOWN = 7;

/** @typedef {import("../runs/data.js").RunRow} RunRow */

export function Runs() {
  const query = params.value;
  const [current, setCurrent] = useState(-1);
  const [seen, setSeen] = useState(/** @type {[number, number]} */ ([0, 30]));
  const [any, setAny] = useState(false);
  const metrics = useMetrics(query.get("experiment"), any);
  const metric = query.get("metric") ?? metrics[0] ?? "loss";
  const shown = query.get("cols") ? several(query, "cols") : DEFAULT;
  const own = shown.filter((key) => key.startsWith("m:")).map((key) => key.slice(2));
  const { rows, total, atLeast, searched, counts, error, more, further, again } = useRuns(asked(query), [...new Set([metric, ...own])].slice(0, KEYS_SHOWN));
  const spark = useSparks(rows.slice(...seen), metric);
  useEffect(() => setAny(rows.length > 0), [rows.length > 0]);
  const columns = useMemo(() => [RUN_COLUMN, ...columnsOf(shown, metric)], [shown.join(), metric]);
  const picked = new Set(several(query, "pick"));
  const names = useNames(query.get("experiment"), rows);
  const ticks = useTicks();
  useTitle(t("Runs"));

  const pick = (/** @type {string} */ id) => {
    const next = new Set(picked);
    if (!next.delete(id)) next.add(id);
    set({ pick: [...next].join(",") });
  };
  const drawn = useDrawn();
  // On `pointerdown`: the click comes only when the button is released.
  const expect = () => { if (picked.size > 1) expectCompare([...picked]); };
  const compare = () => { expect(); go(`compare?runs=${[...picked].join(",")}`); };

  useKeys((key) => {
    if (key === "/") document.getElementById("search")?.focus();
    else if (key === "j") setCurrent((at) => Math.min(rows.length - 1, at + 1));
    else if (key === "k") setCurrent((at) => Math.max(0, at - 1));
    else if (key === "Enter" && rows[current] && document.activeElement?.tagName !== "A") go(`runs/${rows[current].id}`);
    else if (key === "x" && rows[current]) pick(rows[current].id);
    else if (key === "c" && picked.size > 1) compare();
    else return false;
    return true;
  });

  return div(
    { class: "page wide" },
    div({ class: "bar" },
      h1({}, t("Runs"), total === null ? null : span({ class: "total", "data-total": total }, total.toLocaleString("en"), atLeast ? "+" : null)),
      input({
        id: "search", type: "search", placeholder: t("Search id, name, tags, model, notes"), value: query.get("q") ?? "",
        "aria-label": t("Search"), onInput: (event) => set({ q: event.currentTarget.value }),
        onKeyDown: (event) => event.key === "Escape" && event.currentTarget.blur(),
      }),
      h(Filters, { query, names, metrics, rows }),
      span({ class: "space" }),
      h(ColumnMenu, { shown, rows, metric, metrics }),
      picked.size ? button({ type: "button", class: "quiet", onClick: () => set({ pick: null }) }, t("Unselect {n}", { n: picked.size })) : null,
      a({ class: `button ${picked.size > 1 ? "primary" : "off"}`, href: href(`compare?runs=${[...picked].join(",")}`), "aria-disabled": picked.size < 2, onPointerDown: expect, onClick: expect },
        picked.size > 1 ? t("Compare {n}", { n: picked.size }) : t("Compare")),
      mayNowhere("WRITE") ? null : a({ class: "button primary", href: href("recipes") }, t("New run"))),
    h(StatusChips, { query, counts }),
    h(Trouble, { error, again }),
    searched === "whole" ? null : h(Searched, { found: rows.length, further: searched === "some" ? further : null }),
    total === 0 && searched === "whole" && !error
      ? h(None, { filtered: hasFilter(query) })
      : h(/** @type {typeof Rows<RunRow>} */ (Rows), {
          rows, total: Math.max(total ?? 0, searched === "whole" ? 0 : rows.length + 1), height: HEIGHT, more, label: t("Runs"), current: current < 0 ? undefined : current,
          seen: (first, last) => setSeen(([a, b]) => (a === first && b === last ? [a, b] : [first, last])),
          head: h(Head, { columns, sort: query.get("sort") ?? "" }),
          row: (run, index) => drawn(run.id, [run, index, index === current, query.get("pick"), columns, spark(run.id), ticks], () =>
            tr(
              {
                key: run.id, "data-run": run.id, "data-status": run.status, "aria-selected": index === current,
                class: picked.has(run.id) ? "picked" : "", onClick: () => setCurrent(index),
                onDblClick: () => go(`runs/${run.id}`),
              },
              td({ class: "check" }, input({ type: "checkbox", checked: picked.has(run.id),
                "aria-label": t("Select {run}", { run: called(run) }), onChange: () => pick(run.id) })),
              columns.map((column) => td({ key: column.key, class: `${column.kind ?? ""} c-${column.key.replace(/\W.*/, "")}` },
                column.cell(run, { spark, metric }))))),
        }),
    total === null && !error ? h(Loading, {}) : null,
    h(Keys, {}),
  );
}

/** A cache of rendered rows, by what they show: rendering thirty again takes longer than a frame. */
function useDrawn() {
  const known = useRef(/** @type {Map<string, { of: unknown[], row: any }>} */ (new Map()));
  return (/** @type {string} */ id, /** @type {unknown[]} */ of, /** @type {() => any} */ draw) => {
    const before = known.current.get(id);
    if (before?.of.every((value, i) => value === of[i])) return before.row;
    if (known.current.size > DRAWN) known.current.clear();
    const row = draw();
    known.current.set(id, { of, row });
    return row;
  };
}

/** @param {{ columns: import("../runs/columns.js").Column[], sort: string }} props */
const Head = ({ columns, sort }) =>
  tr({}, th({ class: "check" }, span({ class: "hidden" }, t("Selected"))), columns.map(({ key, name, kind, sort: by }) => {
    const down = by && (sort === `-${by}` || (!sort && by === "created"));
    const up = by && sort === by;
    return th({ key, scope: "col", class: `${kind ?? ""} c-${key.replace(/\W.*/, "")}`, "aria-sort": down ? "descending" : up ? "ascending" : undefined },
      by
        ? button({ type: "button", class: "sort", onClick: () => set({ sort: down ? by : up ? null : by === "created" ? null : `-${by}` }) },
            name, span({ "aria-hidden": "true", class: "arrow" }, down ? " ↓" : up ? " ↑" : ""))
        : name);
  }));

/** @param {URLSearchParams} query */
const hasFilter = (query) => CHOOSING.some((key) => query.get(key));

/** Said while few of very many runs match. @param {{ found: number, further: (() => void) | null }} props */
const Searched = ({ found, further }) =>
  p({ class: "searched", role: "status" }, t("{n} found so far: not all runs have been searched yet.", { n: found }), " ",
    further ? button({ type: "button", onClick: further }, t("Search further")) : span({ class: "faint" }, t("Searching…")));

/** @param {{ filtered: boolean }} props */
const None = ({ filtered }) =>
  filtered
    ? h(Empty, { title: t("No runs match.") },
        button({ type: "button", onClick: () => set(Object.fromEntries(CHOOSING.map((key) => [key, null]))) }, t("Show all runs")))
    : h(Empty, { title: t("No runs yet.") }, mayNowhere("WRITE") ? null : [
        p({}, t("Submit the first one here, or watch a complete demo in half a minute:")),
        p({}, code({}, "llm-train demo")),
        a({ class: "button primary", href: href("recipes") }, t("New run"))]);

/** The metrics of these runs, a loss first.
 * @param {string | null} experiment @param {boolean} any */
function useMetrics(experiment, any) {
  const [keys, setKeys] = useState(/** @type {string[]} */ ([]));
  useEffect(() => {
    if (any)
      ask(KEYS, { filter: experiment ? { experimentId: experiment } : null }).then(({ metricKeys }) => {
        listedMetrics.value = metricKeys.map(({ value }) => value);
        setKeys(listedMetrics.value.toSorted((a, b) => rank(a) - rank(b)));
      }, () => {});
  }, [experiment, any]);
  return keys;
}
const rank = (/** @type {string} */ key) => (key === "loss" ? 0 : /loss/i.test(key) ? 1 : 2);

/** What the experiment of the filter is called. @param {string | null} id @param {RunRow[]} rows */
function useNames(id, rows) {
  const [name, setName] = useState(/** @type {string | null} */ (null));
  const known = rows.find(({ experiment }) => experiment.id === id)?.experiment.name;
  useEffect(() => {
    setName(null);
    if (id && !known) ask(EXPERIMENT, { id }).then(({ experiment }) => setName(experiment?.name ?? null), () => {});
  }, [id]);
  const found = known ?? name;
  return /** @type {Record<string, string>} */ (id && found ? { [id]: found } : {});
}
