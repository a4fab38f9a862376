// The columns of the list of runs. The address holds which are shown, and their order.
import { href } from "../route.js";
import { ago, clock, duration, flat, number, plain, took } from "../format.js";
import { Bar, RunLink, Status, Steps } from "../parts.js";
import { SYMBOLS } from "../curves.js";
import { Spark } from "../spark.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { a, span } = tags;

/**
 * @typedef {import("./data.js").RunRow} RunRow
 * @typedef {object} Column
 * @property {string} key
 * @property {string} name
 * @property {string} [kind] a class of its cells
 * @property {string} [sort] the service's sort field
 * @property {(run: RunRow, context: Context) => any} cell
 *
 * @typedef {{ spark: (id: string) => (number | null)[], metric: string }} Context
 */

/** @type {Column[]} */
const FIXED = [
  { key: "status", name: t("Status"), cell: (run) => h(Status, { status: run.status, reason: run.statusReason }) },
  {
    key: "progress", name: t("Progress"), sort: "step", kind: "progress",
    cell: (run) => [h(Bar, { key: "b", value: run.progress }), span({ key: "s", class: "faint sub" }, h(Steps, { run }),
      run.etaSeconds !== null ? ` · ${t("{time} left", { time: duration(run.etaSeconds) })}` : "")],
  },
  {
    key: "experiment", name: t("Experiment"), kind: "clip",
    cell: ({ experiment }) => a({ href: href(`experiments/${experiment.id}`), title: experiment.name }, experiment.name),
  },
  {
    key: "project", name: t("Project"), kind: "clip",
    cell: ({ experiment: { project } }) => a({ href: href(`?project=${project.id}`), title: project.name }, project.name),
  },
  { key: "model", name: t("Model"), kind: "clip", cell: ({ model }) => span({ title: model }, model) },
  { key: "recipe", name: t("Recipe"), kind: "clip", cell: ({ recipe }) => recipe ?? span({ class: "faint" }, t("external")) },
  { key: "owner", name: t("Owner"), kind: "clip", cell: ({ experiment }) => experiment.owner ?? "–" },
  { key: "tags", name: t("Tags"), kind: "clip", cell: ({ tags: all }) => all.map((tag) => span({ key: tag, class: "tag" }, tag)) },
  { key: "notes", name: t("Notes"), kind: "clip", cell: ({ notes }) => span({ title: notes ?? "" }, notes ?? "–") },
  { key: "took", name: t("Duration"), kind: "number", cell: took },
  { key: "heard", name: t("Last heartbeat"), kind: "faint", cell: ({ heartbeatAt }) => ago(heartbeatAt) },
  { key: "started", name: t("Started"), sort: "started", kind: "faint", cell: ({ startedAt }) => ago(startedAt) },
  { key: "finished", name: t("Ended"), sort: "finished", kind: "faint", cell: ({ finishedAt }) => ago(finishedAt) },
  {
    key: "created", name: t("Created"), sort: "created", kind: "faint",
    cell: ({ createdAt }) => span({ title: clock(createdAt) }, ago(createdAt)),
  },
];
export const DEFAULT = ["status", "progress", "spark", "experiment", "model", "took", "created"];

/** @param {string} metric whose curve is drawn @returns {Column} */
const spark = (metric) => ({
  key: "spark", name: metric, sort: `metric:${metric}`, kind: "spark-cell",
  cell: (run, { spark }) => [h(Spark, { key: "s", values: spark(run.id) }),
    span({ key: "v", class: "value" }, latest(run, metric))],
});

/** @param {RunRow} run @param {string} metric */
function latest(run, metric) {
  const found = run.metrics.find(({ key }) => key === metric);
  return found?.special ? span({ class: "bad", "data-special": found.special }, SYMBOLS[found.special]) : number(found?.value);
}

/** @param {string} key `m:` a metric, `h:` a hyperparameter @returns {Column} */
function own(key) {
  const name = key.slice(2);
  if (key.startsWith("m:"))
    return { key, name, sort: `metric:${name}`, kind: "number", cell: (run) => latest(run, name) };
  return { key, name, kind: "number", cell: (run) => plain(flat(run.hyperparams)[name]) };
}

/** @type {Column} */
export const RUN_COLUMN = {
  key: "run", name: t("Run"),
  cell: (run) => [h(RunLink, { key: "r", run }),
    run.parent ? span({ key: "p", class: "faint", title: t("Resumed from {run}", { run: run.parent.id }) }, " ↳ ", h(RunLink, { run: run.parent })) : null],
};

/** @param {string[]} keys @param {string} metric @returns {Column[]} */
export const columnsOf = (keys, metric) =>
  keys.flatMap((key) => {
    if (key === "spark") return metric ? [spark(metric)] : [];
    const found = FIXED.find((column) => column.key === key);
    return found ? [found] : /^[mh]:./.test(key) ? [own(key)] : [];
  });

/** Every column that may be shown. @param {RunRow[]} rows @param {string} metric @param {string[]} metrics
 * @returns {Column[]} */
export function possible(rows, metric, metrics) {
  const some = rows.slice(0, 200);
  const params = new Set(some.flatMap((run) => Object.keys(flat(run.hyperparams)).map((key) => `h:${key}`)));
  return [FIXED[0], FIXED[1], ...(metric ? [spark(metric)] : []), ...FIXED.slice(2), ...metrics.map((key) => own(`m:${key}`)), ...[...params].sort().map(own)];
}
