// Hyperparameters as rows of a form, and back. Pure functions: the unit tests call them without a browser.
import { parsed, plain } from "./format.js";

/**
 * @typedef {{ key: string, value: string, path?: string[], was?: unknown }} Row
 *   `path` and `was`: where a hyperparameter lies that was there, and its value
 */

/** The hyperparameters of a run as rows. @param {any} value @param {string[]} [path] @returns {Row[]} */
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
 * Return the rows as an object. A new name with dots is nested. A value that was not edited keeps its
 * type, also a string that looks like a number.
 *
 * @param {Row[]} rows @returns {Record<string, any>}
 */
export function valueOf(rows) {
  // `{}` would lose a hyperparameter named `__proto__`: an object without a prototype keeps it.
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

/** The changed hyperparameters of the first level, each whole: the service replaces them as a whole.
 * @param {Row[]} rows */
export function overridesOf(rows) {
  const changed = new Set(rows.filter(isChanged).map(({ key, path }) => path?.[0] ?? key.trim().split(".")[0]));
  return Object.fromEntries(Object.entries(valueOf(rows)).filter(([name]) => changed.has(name)));
}
