// Translation of the dashboard's texts. The English text is the key; chinese.js is the dictionary.
import { CHINESE } from "./chinese.js";

/** The language that the browser prefers. @type {"en" | "zh"} */
export const language = /^zh\b/i.test(globalThis.navigator?.language ?? "en") ? "zh" : "en";

/**
 * @param {string} text in English, with placeholders such as {n}
 * @param {Record<string, unknown>} [values] values of the placeholders
 */
export function t(text, values) {
  const said = language === "zh" ? CHINESE[text] ?? text : text;
  return values ? said.replace(/\{(\w+)\}/g, (place, name) => (name in values ? String(values[name]) : place)) : said;
}

/** A stable code of the service, such as `waiting_for_resources`, as words. @param {string} code */
export const explained = (code) => t(code.replaceAll("_", " "));
