// The recipes, and the form that submits a run.
import { useEffect, useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { CREATE_RUN, EXPERIMENT_NAMES, RECIPES } from "../operations.js";
import { go, href, params, set } from "../route.js";
import { duration, parsed } from "../format.js";
import { Params, Priorities, Resources, Token, resourcesOf } from "../fields.js";
import { valueOf } from "../hyperparams.js";
import { Empty, Loading, Trouble, useTitle } from "../parts.js";
import { Dialog } from "../dialog.js";
import { Capacity } from "../capacity.js";
import { NewExperiment } from "./experiments.js";
import { may, mayNowhere, viewer } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, h2, p, span, section, form, label, input, select, option, button, dl, dt, dd, a, code } = tags;

/**
 * @typedef {import("../generated.js").Operations} Operations
 * @typedef {Operations["Recipes"]["result"]["recipes"][number]} Recipe
 */
/** In the address, an external trainer; no recipe may have this name. */
const EXTERNAL = "-";

export function Recipes() {
  const [recipes, setRecipes] = useState(/** @type {Recipe[] | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  useTitle(t("Recipes"));
  useEffect(() => { ask(RECIPES, {}).then(({ recipes }) => setRecipes(recipes), setError); }, []);
  const chosen = params.value.get("recipe") ?? recipes?.[0]?.name ?? EXTERNAL;
  if (error) return div({ class: "page" }, h(Trouble, { error }));
  if (!recipes) return div({ class: "page" }, h(Loading, {}));
  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Recipes"), span({ class: "total" }, recipes.length))),
    p({ class: "faint" }, t("A recipe is what a run executes; the operator configures it. A client chooses it by name and passes data, never a command.")),
    div({ class: "recipes" },
      div({ class: "cards", role: "radiogroup", "aria-label": t("Recipe") },
        [...recipes, null].map((recipe) => h(Card, { key: recipe?.name ?? EXTERNAL, recipe, on: (recipe?.name ?? EXTERNAL) === chosen })),
        recipes.length ? null : h(Empty, { title: t("No recipe is configured.") }, p({}, code({}, "LLM_TRAIN_RECIPES")))),
      div({},
        mayNowhere("WRITE")
          ? p({ class: "faint", role: "note" }, t("Members of a project can submit runs."))
          : h(Submit, { key: chosen, recipe: recipes.find(({ name }) => name === chosen) ?? null }),
        h(Capacity, {}))),
  );
}

/** @param {{ recipe: Recipe | null, on: boolean }} props */
const Card = ({ recipe, on }) =>
  button({ type: "button", role: "radio", "aria-checked": on, class: "card", "data-recipe": recipe?.name ?? EXTERNAL, onClick: () => set({ recipe: recipe ? recipe.name : EXTERNAL }) },
    span({ class: "strong" }, recipe?.name ?? t("Your own trainer")),
    span({ class: "faint" }, recipe ? recipe.description : t("You start it where you like; it reports here.")),
    recipe
      ? dl({ class: "small" },
          dt({}, t("Runs on")), dd({}, recipe.launchers.join(", ")),
          dt({}, t("Time to save")), dd({}, duration(recipe.graceSeconds)),
          dt({}, t("Attempts")), dd({}, recipe.maxAttempts),
          dt({}, t("Checkpoints kept")), dd({}, recipe.keepCheckpoints || t("all")))
      : null);

/** @param {{ recipe: Recipe | null }} props */
function Submit({ recipe }) {
  const [experiments, setExperiments] = useState(/** @type {{ id: string, name: string }[] | null} */ (null));
  const [experiment, setExperiment] = useState(params.value.get("experiment") ?? "");
  const [rows, setRows] = useState(/** @type {import("../hyperparams.js").Row[]} */ ([]));
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  const [asking, setAsking] = useState(false);
  const [token, setToken] = useState(/** @type {{ id: string, token: string } | null} */ (null));
  const [key, setKey] = useState(once);
  const load = () => ask(EXPERIMENT_NAMES, { chosen: experiment }).then(({ experiments: { nodes }, experiment: chosen }) => {
    const all = chosen && !nodes.some(({ id }) => id === chosen.id) ? [chosen, ...nodes] : nodes;
    const own = all.filter(({ project }) => may("WRITE", project));
    setExperiments(own);
    setExperiment((known) => (own.some(({ id }) => id === known) ? known : own[0]?.id ?? ""));
  }, (error) => setWrong(error.message));
  useEffect(() => { load(); }, []);

  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const data = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
    const text = (/** @type {string} */ name) => String(data.get(name) ?? "").trim();
    setBusy(true);
    setWrong("");
    try {
      const dataset = text("dataset");
      const { createRun } = await ask(CREATE_RUN, { input: {
        experimentId: experiment, model: text("model"), recipe: recipe?.name ?? null,
        dataset: dataset ? (dataset.startsWith("{") ? parsed(dataset) : { name: dataset }) : null,
        hyperparams: valueOf(rows), resources: resourcesOf(data), notes: text("notes") || null, name: text("name") || null,
        tags: text("tags") ? text("tags").split(/[\s,]+/) : null, priority: /** @type {any} */ (text("priority")), idempotencyKey: key,
      } });
      setKey(once());
      if (createRun.run && createRun.runToken) setToken({ id: createRun.run.id, token: createRun.runToken });
      else if (createRun.run) go(`runs/${createRun.run.id}`);
      else setWrong(createRun.userErrors[0]?.message ?? "");
    } catch (error) {
      setWrong(/** @type {Error} */ (error).message);
    }
    setBusy(false);
  };
  return section({ "aria-label": t("New run"), class: "submit" },
    h2({}, recipe ? t("New run of {recipe}", { recipe: recipe.name }) : t("New run for your own trainer")),
    form({ onSubmit: submit },
      label({ class: "field" }, t("Experiment"),
        span({ class: "with-button" },
          select({ required: true, value: experiment, onChange: (event) => setExperiment(event.currentTarget.value) },
            experiments?.length ? null : option({ value: "" }, experiments ? t("none yet") : "…"),
            experiments?.map(({ id, name }) => option({ key: id, value: id }, name))),
          button({ type: "button", disabled: !viewer.value, onClick: () => setAsking(true) }, t("New…")))),
      label({ class: "field" }, t("Model"), input({ name: "model", required: true, placeholder: recipe?.name === "demo" ? "char-lm" : "Qwen2.5-7B", defaultValue: recipe?.name === "demo" ? "char-lm" : "" })),
      label({ class: "field" }, t("Name"), input({ name: "name", placeholder: t("empty means its id") })),
      label({ class: "field" }, t("Dataset"), input({ name: "dataset", placeholder: t('a name, or JSON such as {"name": "alpaca-zh"}') })),
      h(Params, { legend: t("Hyperparameters"), rows, set: setRows }),
      h(Resources, { values: null }),
      label({ class: "field" }, t("Priority"), h(Priorities, { chosen: "NORMAL" })),
      label({ class: "field" }, t("Tags"), input({ name: "tags", placeholder: "sweep, zh" })),
      label({ class: "field" }, t("Notes"), input({ name: "notes" })),
      wrong ? p({ class: "trouble", role: "alert" }, wrong) : null,
      p({ class: "faint" }, recipe
        ? t("The run is queued and starts as soon as there is room on {launcher}.", { launcher: recipe.launchers.join(", ") })
        : t("The run waits for your trainer; a token is shown that lets it report.")),
      div({ class: "buttons" }, a({ class: "button", href: href("") }, t("Not now")),
        button({ type: "submit", class: "primary", disabled: busy || !experiment || !experiments }, busy ? t("Working…") : t("Submit")))),
    asking ? h(NewExperiment, { close: () => setAsking(false), made: (id) => { setAsking(false); setExperiment(id); load(); } }) : null,
    token ? h(Dialog, { title: t("The run waits for its trainer"), close: () => go(`runs/${token.id}`) }, h(Token, { runId: token.id, token: token.token })) : null);
}
