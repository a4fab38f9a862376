// What of all runs is asked for: the address as the service understands it.
import { several } from "../route.js";

/** @typedef {import("../generated.js").Operations["Runs"]["variables"]} Variables */

const ORDERS = /** @type {const} */ ({ created: "CREATED_AT", started: "STARTED_AT", finished: "FINISHED_AT", step: "STEP" });

/** Filters that the address may hold beside the status and the search.
 * @type {["experiment" | "project" | "model" | "recipe" | "owner", string][]} */
export const FILTERS = [["experiment", "Experiment"], ["project", "Project"], ["model", "Model"], ["recipe", "Recipe"], ["owner", "Owner"]];

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
  filter.archived = query.has("archived");
  const order = orderOf(query.get("sort") ?? "");
  return { filter, order };
}
