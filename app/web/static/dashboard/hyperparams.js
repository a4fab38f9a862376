// Hyperparameters as rows of a form, and back. Pure functions, so that a test can hold them.
import { parsed, plain } from "./format.js";

/**
 * @typedef {{ key: string, value: string, path?: string[], was?: unknown }} Row
 *   `path` and `was`: where a hyperparameter lies that was there, and its value
 */

/** The rows of what a run was given. @param {any} value @param {string[]} [path] @returns {Row[]} */
export const rowsOf = (value, path = []) =>
  Object.entries(value ?? {}).flatMap(([name, item]) => {
    const own = [...path, name];
    return item && typeof item === "object" && !Array.isArray(item) && Object.keys(item).length
      ? rowsOf(item, own)
      : [{ key: own.join("."), value: plain(item), path: own, was: item }];
  });

/** @param {Row} row */
export const isChanged = ({ key, value, path, was }) => (path ? plain(was) !== value : key.trim() !== "");

/**
 * What the rows say. A new name with dots is nested; a value that nobody touched stays what it was,
 * also a text that looks like a number.
 *
 * @param {Row[]} rows @returns {Record<string, any>}
 */
export function valueOf(rows) {
  // Without a prototype: somebody may call a hyperparameter `__proto__`.
  const out = Object.create(null);
  for (const row of rows) {
    const path = row.path ?? row.key.trim().split(".");
    if (!path.join("")) continue;
    let place = out;
    for (const name of path.slice(0, -1)) place = place[name] = isPlain(place[name]) ? place[name] : Object.create(null);
    place[path[path.length - 1]] = row.path && !isChanged(row) ? row.was : parsed(row.value);
  }
  return out;
}

/** @param {any} value */
const isPlain = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** Those of the first level in which a row was changed: the service replaces each as a whole.
 * @param {Row[]} rows */
export function overridesOf(rows) {
  const changed = new Set(rows.filter(isChanged).map(({ key, path }) => path?.[0] ?? key.trim().split(".")[0]));
  return Object.fromEntries(Object.entries(valueOf(rows)).filter(([name]) => changed.has(name)));
}
