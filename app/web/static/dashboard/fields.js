// Fields of forms: hyperparameters as rows of a name and a JSON value, resources, an external run's token.
import { useState } from "preact/hooks";
import { parsed, plain } from "./format.js";
import { Copy } from "./parts.js";
import { root } from "./route.js";
import { t } from "./words.js";
import { h, tags } from "./dom.js";

const { div, label, input, button, p, pre, fieldset, legend, span } = tags;

/** @typedef {{ key: string, value: string }} Row */

/** @param {Record<string, unknown>} flat @returns {Row[]} */
export const rowsOf = (flat) => Object.entries(flat).map(([key, value]) => ({ key, value: plain(value) }));

/** What the rows say, nested again where names have dots. @param {Row[]} rows */
export function valueOf(rows) {
  /** @type {Record<string, any>} */
  const out = {};
  for (const { key, value } of rows) {
    if (!key.trim()) continue;
    const path = key.trim().split(".");
    let place = out;
    for (const name of path.slice(0, -1)) place = place[name] = typeof place[name] === "object" && place[name] ? place[name] : {};
    place[path[path.length - 1]] = parsed(value);
  }
  return out;
}

/**
 * @param {{ legend: string, rows: Row[], set: (rows: Row[]) => void, before?: Record<string, unknown> }} props
 *   before: the values that are changed, of which the new ones are told apart
 */
export function Params({ legend: text, rows, set, before }) {
  const change = (/** @type {number} */ at, /** @type {Partial<Row>} */ what) =>
    set(rows.map((row, i) => (i === at ? { ...row, ...what } : row)));
  return fieldset({ class: "params" },
    legend({}, text),
    rows.map((row, i) => {
      const fixed = before && row.key in before;
      const changed = before && (!fixed || plain(before[row.key]) !== row.value);
      return div({ key: i, class: `param ${changed ? "changed" : ""}` },
        fixed
          ? label({ for: `param-${i}` }, row.key)
          : input({ value: row.key, placeholder: t("name"), "aria-label": t("Name of a hyperparameter"), onInput: (event) => change(i, { key: event.currentTarget.value }) }),
        input({ id: `param-${i}`, value: row.value, placeholder: t("value"), "aria-label": fixed ? undefined : t("Value of {key}", { key: row.key || "?" }),
          onInput: (event) => change(i, { value: event.currentTarget.value }) }),
        fixed
          ? span({ class: "faint was" }, changed ? t("was {value}", { value: plain(before[row.key]) }) : "")
          : button({ type: "button", class: "quiet", "aria-label": t("Remove {key}", { key: row.key }), onClick: () => set(rows.filter((_, each) => each !== i)) }, "×"));
    }),
    button({ type: "button", class: "quiet", onClick: () => set([...rows, { key: "", value: "" }]) }, t("+ Add")));
}

/** @typedef {NonNullable<import("./generated.js").Operations["Run"]["result"]["run"]>["resources"]} RunResources */

/** @type {[keyof RunResources, string][]} */
export const RESOURCES = [
  ["gpuType", t("GPU type")], ["count", t("GPUs")], ["nodes", t("Machines")], ["cpus", t("CPU cores")],
  ["memoryGb", t("Memory in GB")], ["timeLimitMinutes", t("Time limit in minutes")],
];

/** @param {{ values: RunResources | null }} props */
export const Resources = ({ values }) =>
  fieldset({ class: "grid" }, legend({}, t("Resources")), RESOURCES.map(([name, text]) =>
    label({ key: name }, text, input({
      name, defaultValue: values?.[name] ?? "",
      ...(name === "gpuType" ? { placeholder: "A100" } : { type: "number", min: "0", step: name === "count" || name === "nodes" ? "1" : "any" }),
    }))));

/** @param {FormData} data @returns {Record<string, string | number> | null} */
export function resourcesOf(data) {
  const given = RESOURCES.flatMap(([name]) => {
    const text = String(data.get(name) ?? "").trim();
    return text ? [[name, name === "gpuType" ? text : Number(text)]] : [];
  });
  return given.length ? Object.fromEntries(given) : null;
}

/** How to start the trainer of an external run: shown once, since nothing stores the token.
 * @param {{ runId: string, token: string }} props */
export function Token({ runId, token }) {
  const [lines] = useState(() =>
    `export LLM_TRAIN_API_URL=${root.href.replace(/\/$/, "")}\nexport LLM_TRAIN_RUN_ID=${runId}\nexport LLM_TRAIN_RUN_TOKEN=${token}\npython train.py`);
  return div({},
    p({}, t("No recipe starts this run: it waits for a trainer that you start yourself, with these variables.")),
    p({ class: "faint" }, t("The token is shown this once.")),
    pre({ class: "code" }, lines),
    h(Copy, { text: lines, label: t("Copy these lines") }));
}
