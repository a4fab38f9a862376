// The query of the list of runs: the page's address as variables of GraphQL.
import { several } from "../route.js";

/** @typedef {import("../generated.js").Operations["Runs"]["variables"]} Variables */

const ORDERS = /** @type {const} */ ({ created: "CREATED_AT", started: "STARTED_AT", finished: "FINISHED_AT", step: "STEP" });

/** Filters that the address may hold beside the status and the search.
 * @type {["experiment" | "project" | "model" | "recipe" | "owner", string][]} */
export const FILTERS = [["experiment", "Experiment"], ["project", "Project"], ["model", "Model"], ["recipe", "Recipe"], ["owner", "Owner"]];

/** Ranges that the address may hold, each as a key, a least and a most: of a metric's last value
 * (`mk`, `mmin`, `mmax`), and of a hyperparameter (`hk`, `hmin`, `hmax`).
 * @type {["metric" | "hyperparam", string][]} */
export const RANGES = [["metric", "m"], ["hyperparam", "h"]];

/** All parameters of the address that choose among the runs. */
export const CHOOSING = ["q", "status", "tag", "archived", ...FILTERS.map(([key]) => key), ...RANGES.flatMap(([, letter]) => ["k", "min", "max"].map((part) => letter + part))];

/** A range of the address; null while it has no key or no bound. @param {URLSearchParams} query @param {string} letter */
export function rangeOf(query, letter) {
  const bound = (/** @type {string} */ name) => {
    const text = query.get(letter + name)?.trim();
    return text && Number.isFinite(Number(text)) ? Number(text) : null;
  };
  const [key, min, max] = [query.get(`${letter}k`), bound("min"), bound("max")];
  return key && (min !== null || max !== null) ? { key, min, max } : null;
}

/** `-metric:loss` is the metric `loss`, largest first. @param {string} sort */
export function orderOf(sort) {
  const descending = sort.startsWith("-");
  const name = sort.replace(/^-/, "");
  const direction = descending ? /** @type {const} */ ("DESC") : /** @type {const} */ ("ASC");
  if (name.startsWith("metric:")) return { field: /** @type {const} */ ("METRIC"), metricKey: name.slice(7), direction };
  if (name in ORDERS) return { field: ORDERS[/** @type {keyof typeof ORDERS} */ (name)], direction };
  return null;
}

/** @param {URLSearchParams} query */
export function asked(query) {
  const status = several(query, "status");
  /** @type {NonNullable<Variables["filter"]>} */
  const filter = {};
  if (status.length) filter.status = /** @type {any} */ (status.map((each) => each.toUpperCase()));
  const search = query.get("q")?.trim();
  if (search) filter.search = search.slice(0, 200);
  if (query.get("experiment")) filter.experimentId = query.get("experiment");
  if (query.get("project")) filter.projectId = query.get("project");
  if (query.get("model")) filter.model = query.get("model");
  if (query.get("recipe")) filter.recipe = query.get("recipe");
  if (query.get("owner")) filter.owner = query.get("owner");
  if (query.get("tag")) filter.tags = several(query, "tag");
  for (const [name, letter] of RANGES) {
    const range = rangeOf(query, letter);
    if (range) filter[name] = range;
  }
  filter.archived = query.has("archived");
  const order = orderOf(query.get("sort") ?? "");
  return { filter, order };
}
