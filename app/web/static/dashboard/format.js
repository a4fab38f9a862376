// Numbers, times and ids as texts.
import { t } from "./words.js";

/** Created once: `toLocaleString` would create one at each call. */
const GROUPED = new Intl.NumberFormat("en");

/** @param {number | null | undefined} value */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return GROUPED.format(value);
  if (size >= 1e-3 && size < 1e6) return String(+value.toPrecision(4));
  return value.toExponential(2);
}

/** The same for an axis, where there is little room. @param {number} value */
export function brief(value) {
  const size = Math.abs(value);
  if (size >= 1e4 && size < 1e15) {
    const power = Math.floor(Math.log10(size) / 3);
    return +(value / 1000 ** power).toPrecision(4) + ["", "k", "M", "G", "T"][power];
  }
  if (size && size < 1e-3) return value.toExponential().replace(/(\.\d\d)\d+/, "$1");
  return String(+value.toPrecision(4));
}

/** @param {number | null | undefined} bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${+seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return pair(Math.round(seconds), 60, "min", "s");
  if (seconds < 86_400) return pair(Math.round(seconds / 60), 60, "h", "min");
  return pair(Math.round(seconds / 3600), 24, "d", "h");
}

/** @param {number} all @param {number} each @param {string} large @param {string} small */
const pair = (all, each, large, small) =>
  `${Math.floor(all / each)} ${large}${all % each ? ` ${all % each} ${small}` : ""}`;

/** How long ago. @param {string | null | undefined} moment */
export function ago(moment) {
  if (!moment) return "–";
  const seconds = Math.max(0, (Date.now() - Date.parse(moment)) / 1000);
  if (seconds < 5) return t("just now");
  return t("{time} ago", { time: duration(Math.floor(seconds)).split(" ").slice(0, 2).join(" ") });
}

/** Date and time of here. @param {string | null | undefined} moment */
export const clock = (moment) => (moment ? new Date(moment).toLocaleString() : "");

/** How long a run took, or has taken so far. @param {{ startedAt?: any, finishedAt?: any }} run */
export const took = ({ startedAt, finishedAt }) =>
  startedAt ? duration((Date.parse(finishedAt ?? new Date().toISOString()) - Date.parse(startedAt)) / 1000) : "–";

/** The end of an id: ids of one day begin with the same characters. */
export const short = (/** @type {string} */ id) => id.slice(-6);

/** What a run is called. @param {{ id: string, name?: string | null }} run */
export const called = (run) => run.name || short(run.id);

/** @param {unknown} value */
export const plain = (value) =>
  value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);

/** What somebody typed: JSON if it is, else the text. @param {string} text @returns {unknown} */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Nested objects as dotted keys. @param {any} value @param {string} [prefix]
 * @param {Record<string, any>} [into] @returns {Record<string, any>}
 */
export function flat(value, prefix = "", into = {}) {
  for (const [key, item] of Object.entries(value ?? {}))
    if (item && typeof item === "object" && !Array.isArray(item) && Object.keys(item).length)
      flat(item, `${prefix}${key}.`, into);
    else into[prefix + key] = item;
  return into;
}
