// Usage: the machine time of runs, used, wasted, waited for and saved by resuming.
import { useEffect, useState } from "preact/hooks";
import { ask } from "../graphql.js";
import { USAGE } from "../operations.js";
import { href, params, root, set } from "../route.js";
import { duration, number, short } from "../format.js";
import { Choice, Empty, Loading, Trouble, useTitle } from "../parts.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, p, a, span, button, table, thead, tbody, tr, th, td, progress } = tags;

/** @typedef {NonNullable<import("../generated.js").Operations["Usage"]["result"]["usage"]>[number]} Row */

const PAGE = 100;
const KINDS = /** @type {[string, string][]} */ ([["", t("By month")], ["project", t("By project")], ["experiment", t("By experiment")], ["run", t("By run")]]);

export function Usage() {
  const by = params.value.get("by") ?? "";
  const experiment = params.value.get("experiment");
  const [rows, setRows] = useState(/** @type {Row[] | null} */ (null));
  const [whole, setWhole] = useState(false);
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  useTitle(t("Usage"));

  /** @param {Row[]} known what is there already */
  async function load(known) {
    try {
      const group = /** @type {"MONTH" | "PROJECT" | "EXPERIMENT" | "RUN"} */ ((by || "month").toUpperCase());
      const { usage: account } = await ask(USAGE, { by: group, experiment, after: known.length ? known[known.length - 1].group : "" });
      const usage = account ?? [];
      setRows(known.concat(usage));
      setWhole(usage.length < PAGE);
      setError(null);
    } catch (wrong) {
      setError(/** @type {Error} */ (wrong));
    }
  }
  useEffect(() => { setRows(null); load([]); }, [by, experiment]);

  const csv = new URL("v1/usage", root);
  csv.search = String(new URLSearchParams({ by: by || "month", csv: "true", ...(experiment ? { experiment_id: experiment } : {}) }));
  const newest = by ? rows ?? [] : (rows ?? []).toReversed();
  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Usage")),
      h(Choice, { label: t("Summed"), value: by, options: KINDS, choose: (value) => set({ by: value }) }),
      experiment ? button({ type: "button", class: "filter", onClick: () => set({ experiment: null }) }, t("Of one experiment"), " ×") : null,
      span({ class: "space" }), a({ class: "quiet button", href: csv.href, download: "usage.csv" }, "CSV")),
    p({ class: "faint" }, t("Covers attempts that have ended. Wasted: work that no checkpoint kept. Saved: work that a resume did not have to repeat.")),
    h(Trouble, { error, again: () => load([]) }),
    rows === null && !error ? h(Loading, {}) : null,
    rows?.length === 0 ? h(Empty, { title: t("No attempt has ended yet.") }) : null,
    newest.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Usage") }, table({ class: "plain list" },
          thead({}, tr({}, [by === "project" ? t("Project") : by === "experiment" ? t("Experiment") : by ? t("Run") : t("Month"), t("Attempts"), t("Used"), t("Wasted"), t("Saved"), t("Waited"), t("GPU-hours"), t("Wasted GPU-hours"), t("Saved GPU-hours"), t("Waited GPU-hours"), t("Not wasted")].map((name, i) =>
            th({ key: name, scope: "col", class: i ? "number" : "" }, name)))),
          tbody({}, newest.map((row) =>
            tr({ key: row.group, "data-group": row.group },
              th({ scope: "row" }, by === "project" ? span({ title: row.group }, row.name ?? short(row.group)) : by ? h(Link, { id: row.group, name: row.name }) : row.group),
              td({ class: "number" }, number(row.attempts)),
              [row.usedSeconds, row.wastedSeconds, row.savedSeconds, row.waitedSeconds].map((seconds, i) => td({ key: i, class: "number" }, duration(Math.round(seconds)))),
              [row.gpuHoursUsed, row.gpuHoursWasted, row.gpuHoursSaved, row.gpuHoursWaited].map((hours, i) => td({ key: i, class: "number" }, number(Math.round(hours * 100) / 100))),
              td({ class: "number" }, row.goodput === null ? "–" : [progress({ key: "p", max: 100, value: Math.round(row.goodput * 100), "aria-label": t("Not wasted") }), ` ${Math.round(row.goodput * 100)} %`]))))))
      : null,
    rows?.length && !whole ? button({ type: "button", onClick: () => load(rows) }, t("More")) : null,
  );
}

/** What was deleted since has no name and no page. @param {{ id: string, name: string | null }} props */
const Link = ({ id, name }) =>
  name !== null ? a({ href: href(`${id.startsWith("run_") ? "runs" : "experiments"}/${id}`), title: id }, name || short(id)) : span({ class: "id faint", title: id }, short(id));
