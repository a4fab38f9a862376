// Above the list of runs: search, status, filters, columns.
import { useEffect, useState } from "preact/hooks";
import { ask } from "../graphql.js";
import { FACETS } from "../operations.js";
import { set, several } from "../route.js";
import { flat, number } from "../format.js";
import { STATUSES } from "../parts.js";
import { DEFAULT, possible } from "./columns.js";
import { FILTERS, RANGES, rangeOf } from "./query.js";
import { hasProjects, projectName, viewer } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, button, datalist, details, summary, label, input, select, option, span, fieldset, legend } = tags;

/** @param {{ query: URLSearchParams, counts: Record<string, number> }} props */
export function StatusChips({ query, counts }) {
  const chosen = several(query, "status");
  const toggle = (/** @type {string} */ status) => {
    const next = new Set(chosen);
    if (!next.delete(status)) next.add(status);
    set({ status: [...next].join(",") });
  };
  return div({ class: "chips", role: "group", "aria-label": t("Status") }, STATUSES.map((each) => {
    const status = each.toLowerCase();
    return button(
      { key: status, type: "button", class: `chip ${status}`, "aria-pressed": chosen.includes(status), onClick: () => toggle(status) },
      span({ class: `dot ${status}` }), t(status), span({ class: "count" }, String(counts[each] ?? 0)));
  }));
}

/** Two inputs for the bounds of a range; an empty one means no bound.
 * @param {{ query: URLSearchParams, letter: string, title: string, keys: string[] }} props */
function Range({ query, letter, title, keys }) {
  const field = (/** @type {string} */ part, /** @type {string} */ text, /** @type {object} */ more) =>
    input({ value: query.get(letter + part) ?? "", placeholder: text, "aria-label": `${title}: ${text}`, ...more,
      onInput: (event) => set({ [letter + part]: event.currentTarget.value }) });
  return fieldset({ class: "range" }, legend({}, title),
    field("k", t("name"), { list: `range-${letter}` }), datalist({ id: `range-${letter}` }, keys.map((key) => option({ key, value: key }))),
    field("min", t("from"), { type: "number", step: "any" }), field("max", t("to"), { type: "number", step: "any" }));
}

/** @param {{ key: string, min: number | null, max: number | null }} range */
const spoken = ({ key, min, max }) =>
  max === null ? `${key} ≥ ${number(min)}` : min === null ? `${key} ≤ ${number(max)}` : `${number(min)} ≤ ${key} ≤ ${number(max)}`;

/** @param {{ query: URLSearchParams, names: Record<string, string>, metrics: string[], rows: import("./data.js").RunRow[] }} props
 *   names: the names of ids */
export function Filters({ query, names, metrics, rows }) {
  const params = [...new Set(rows.slice(0, 200).flatMap((run) => Object.keys(flat(run.hyperparams))))].sort();
  const [facets, setFacets] = useState(/** @type {Record<string, string[]>} */ ({}));
  const load = () => ask(FACETS, {}).then(({ models, recipes, owners }) => setFacets({
    model: models.map(({ value }) => value), recipe: recipes.map(({ value }) => value), owner: owners.map(({ value }) => value),
  }), () => {});
  return [
    details({ key: "filter", class: "menu", onToggle: (event) => event.currentTarget.open && load() },
      summary({ class: "button" }, t("Filter")),
      div({ class: "popover" },
        hasProjects()
          ? label({ class: "stacked" }, t("Project"), select({ value: query.get("project") ?? "", onChange: (event) => set({ project: event.currentTarget.value }) },
              option({ value: "" }, t("any")), viewer.value?.projects.map(({ id, name }) => option({ key: id, value: id }, name))))
          : null,
        FILTERS.filter(([key]) => key !== "experiment" && key !== "project").map(([key, name]) =>
        label({ key, class: "stacked" }, t(name),
          select({ value: query.get(key) ?? "", onChange: (event) => set({ [key]: event.currentTarget.value }) },
            option({ value: "" }, t("any")),
            [...new Set([...(facets[key] ?? []), query.get(key) ?? ""])].filter(Boolean).map((value) =>
              option({ key: value, value }, value))))),
        h(Range, { query, letter: "m", title: t("Last value of a metric"), keys: metrics }),
        h(Range, { query, letter: "h", title: t("Hyperparameter"), keys: params }),
        label({ class: "check" }, input({ type: "checkbox", checked: query.has("archived"), onChange: (event) => set({ archived: event.currentTarget.checked }) }), t("Archived ones")))),
    FILTERS.filter(([key]) => query.get(key)).map(([key, name]) =>
      button({ key, type: "button", class: "filter", onClick: () => set({ [key]: null }), "aria-label": t("Remove the filter {name}", { name: t(name) }) },
        span({ class: "faint" }, t(name)), ` ${names[query.get(key) ?? ""] ?? projectName(query.get(key) ?? "")} `, span({ "aria-hidden": "true" }, "×"))),
    RANGES.map(([name, letter]) => {
      const range = rangeOf(query, letter);
      return range ? button({ key: name, type: "button", class: "filter", "aria-label": t("Remove the filter {name}", { name: spoken(range) }),
        onClick: () => set({ [`${letter}k`]: null, [`${letter}min`]: null, [`${letter}max`]: null }) }, `${spoken(range)} `, span({ "aria-hidden": "true" }, "×")) : null;
    }),
  ];
}

/** @param {{ shown: string[], rows: import("./data.js").RunRow[], metric: string, metrics: string[] }} props */
export function ColumnMenu({ shown, rows, metric, metrics }) {
  const [find, setFind] = useState("");
  const [open, setOpen] = useState(false);
  const all = !open ? [] : possible(rows, metric, metrics).filter(({ name, key }) => `${name} ${key}`.toLowerCase().includes(find.toLowerCase()));
  const write = (/** @type {string[]} */ next) => set({ cols: next.join() === DEFAULT.join() ? null : next.join() });
  const group = (/** @type {string} */ title, /** @type {typeof all} */ columns) =>
    columns.length
      ? fieldset({}, legend({}, title), columns.map(({ key, name }) =>
          label({ key, class: "check" },
            input({ type: "checkbox", checked: shown.includes(key),
              onChange: () => write(shown.includes(key) ? shown.filter((each) => each !== key) : [...shown, key]) }), name)))
      : null;
  return details({ class: "menu right", onToggle: (event) => setOpen(event.currentTarget.open) },
    summary({ class: "button" }, t("Columns")),
    !open ? null : div({ class: "popover tall" },
      input({ type: "search", placeholder: t("Find"), "aria-label": t("Find a column"), value: find, onInput: (event) => setFind(event.currentTarget.value) }),
      metrics.length
        ? label({ class: "stacked" }, t("Curve of"), select({ value: metric, onChange: (event) => set({ metric: event.currentTarget.value }) },
            metrics.map((key) => option({ key, value: key }, key))))
        : null,
      group(t("Run"), all.filter(({ key }) => !/^[mh]:/.test(key))),
      group(t("Last value of metrics"), all.filter(({ key }) => key.startsWith("m:"))),
      group(t("Hyperparameters"), all.filter(({ key }) => key.startsWith("h:"))),
      button({ type: "button", class: "quiet", onClick: () => set({ cols: null }) }, t("Reset"))));
}

/** Close the menus on a click elsewhere, on one of their links, or on Escape. */
export function useMenus() {
  useEffect(() => {
    const close = (/** @type {Event} */ event) => {
      if (event instanceof KeyboardEvent && event.key !== "Escape") return;
      const at = /** @type {Element} */ (event.target);
      for (const menu of document.querySelectorAll("details.menu[open], details.health[open]"))
        if (event instanceof KeyboardEvent || !menu.contains(at) || at.closest("a[href]:not([target])")) menu.removeAttribute("open");
    };
    addEventListener("click", close);
    addEventListener("keydown", close);
    return () => {
      removeEventListener("click", close);
      removeEventListener("keydown", close);
    };
  }, []);
}
