// What the service says, in the language of who reads it: sentences come in English.
import { CODES, SENTENCES } from "./sentences.js";
import { language } from "./words.js";

/** @typedef {{ pattern: RegExp, names: string[], chinese: string, weight: number }} Form */

/** @type {Form[] | null} */
let forms = null;

/** Number forms such as `12`, `1,000`, `0.5` and `1e-05`. */
const NUMBER = "[-+]?\\d[\\d,]*(?:\\.\\d+)?(?:e[-+]?\\d+)?";

/** @param {string} english @param {string} chinese @returns {Form} */
function form(english, chinese) {
  /** @type {string[]} */
  const names = [];
  const source = english.split(/(\{\w+\})/).map((part) => {
    const name = /^\{(\w+)\}$/.exec(part)?.[1];
    if (!name) return part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    names.push(name);
    return /^[nmk]$/.test(name) ? `(${NUMBER})` : name === "rest" ? "(.+)" : "(.+?)";
  });
  return { pattern: new RegExp(`^${source.join("")}(?:\\s+|$)`, "s"), names, chinese, weight: english.replace(/\{\w+\}/g, "").length };
}

/**
 * What the service said, sentence by sentence, as far as its own words go: what is not of the service
 * (the last line of a log, an engine's words) stays as it is.
 *
 * @param {string} text
 */
export function chinese(text) {
  forms ??= Object.entries(SENTENCES).map(([english, said]) => form(english, said)).sort((a, b) => b.weight - a.weight);
  let rest = text;
  let out = "";
  while (rest) {
    const found = match(forms, rest);
    // Which of several launchers a sentence is about stands before it, or the name of an alert rule.
    const name = found ? null : /^([^:]+): (?=\S)/.exec(rest);
    const about = name && match(forms, rest.slice(name[0].length));
    if (name && about) out += `${name[1]}：${about.said}`;
    else if (found) out += found.said;
    else return out ? `${out} ${rest}` : rest;
    rest = rest.slice((name?.[0].length ?? 0) + /** @type {{ length: number }} */ (found ?? about).length);
  }
  return out;
}

/** @param {Form[]} all @param {string} text */
function match(all, text) {
  for (const { pattern, names, chinese: said } of all) {
    const found = pattern.exec(text);
    if (!found) continue;
    const values = Object.fromEntries(names.map((name, i) => [name, chinese(found[i + 1].replace(/^'(.*)'$/, "“$1”"))]));
    return { said: said.replace(/\{(\w+)\}/g, (_, name) => values[name]), length: found[0].length };
  }
  return null;
}

/** A sentence of the service. @param {string} text */
export const sentence = (text) => (language === "zh" ? chinese(text) : text);

/** Why the service refused something. @param {{ code: string, message: string }} error */
export function refusal({ code, message }) {
  if (language !== "zh") return message;
  const said = chinese(message);
  const kind = CODES[code.toLowerCase()];
  return said === message && kind ? `${kind}：${message}` : said;
}
