// Fields of forms: hyperparameters as rows of a name and a JSON value, resources, an external run's token.
import { useState } from "preact/hooks";
import { plain } from "./format.js";
import { isChanged } from "./hyperparams.js";
import { Copy } from "./parts.js";
import { root } from "./route.js";
import { t } from "./words.js";
import { h, tags } from "./dom.js";

const { div, label, input, select, option, button, p, pre, fieldset, legend, span } = tags;

/** @typedef {import("./hyperparams.js").Row} Row */

/** @param {{ legend: string, rows: Row[], set: (rows: Row[]) => void }} props */
export function Params({ legend: text, rows, set }) {
  const change = (/** @type {number} */ at, /** @type {Partial<Row>} */ what) =>
    set(rows.map((row, i) => (i === at ? { ...row, ...what } : row)));
  return fieldset({ class: "params" },
    legend({}, text),
    rows.map((row, i) => {
      const fixed = "path" in row;
      const changed = rows.some(({ path }) => path) && isChanged(row);
      return div({ key: i, class: `param ${changed ? "changed" : ""}` },
        fixed
          ? label({ for: `param-${i}` }, row.key)
          : input({ value: row.key, placeholder: t("name"), "aria-label": t("Name of a hyperparameter"), onInput: (event) => change(i, { key: event.currentTarget.value }) }),
        input({ id: `param-${i}`, value: row.value, placeholder: t("value"), "aria-label": fixed ? undefined : t("Value of {key}", { key: row.key || "?" }),
          onInput: (event) => change(i, { value: event.currentTarget.value }) }),
        fixed
          ? span({ class: "faint was" }, changed ? t("was {value}", { value: plain(row.was) }) : "")
          : button({ type: "button", class: "quiet", "aria-label": t("Remove {key}", { key: row.key }), onClick: () => set(rows.filter((_, each) => each !== i)) }, "×"));
    }),
    button({ type: "button", class: "quiet", onClick: () => set([...rows, { key: "", value: "" }]) }, t("+ Add")));
}

/** @param {{ chosen: string }} props */
export const Priorities = ({ chosen }) =>
  // With `value`, Preact would set the select back to it at each render and undo the user's choice.
  select({ name: "priority" }, ["HIGH", "NORMAL", "LOW"].map((each) =>
    option({ key: each, value: each, selected: each === chosen }, t(each.toLowerCase()))));

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
