// The words of the dashboard. English is the key; the one dictionary is in chinese.js.
import { CHINESE } from "./chinese.js";

/** As the browser prefers. @type {"en" | "zh"} */
export const language = /^zh\b/i.test(globalThis.navigator?.language ?? "en") ? "zh" : "en";

/**
 * @param {string} text in English, with places such as {n}
 * @param {Record<string, unknown>} [values] what is put into them
 */
export function t(text, values) {
  const said = language === "zh" ? CHINESE[text] ?? text : text;
  return values ? said.replace(/\{(\w+)\}/g, (place, name) => (name in values ? String(values[name]) : place)) : said;
}

/** A stable code of the service, such as `waiting_for_resources`, as words. @param {string} code */
export const explained = (code) => t(code.replaceAll("_", " "));
