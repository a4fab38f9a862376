// The list of experiments, with the runs of each by status.
import { useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { CREATE_EXPERIMENT, EXPERIMENTS } from "../operations.js";
import { go, href, params, set } from "../route.js";
import { ago, clock } from "../format.js";
import { Empty, Loading, Toggle, Trouble, useTicks, useTitle } from "../parts.js";
import { usePages } from "../pages.js";
import { Dialog } from "../dialog.js";
import { hasProjects, mayNowhere, projectName, projectsWith, viewer } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, span, a, input, button, label, select, option, datalist, table, thead, tbody, tr, th, td, p } = tags;
/** Name of the project that every installation has. */
const DEFAULT = "default";

export function Experiments() {
  const search = params.value.get("q") ?? "";
  const archived = params.value.has("archived");
  const project = params.value.get("project");
  const [asking, setAsking] = useState(false);
  useTitle(t("Experiments"));
  useTicks();
  const { rows, total, error, again, more } = usePages(`${archived} ${project} ${search}`, async (from) =>
    (await ask(EXPERIMENTS, { filter: { archived, ...(project ? { projectId: project } : {}), ...(search ? { search: search.slice(0, 200) } : {}) }, ...from })).experiments);

  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Experiments"), total === null ? null : span({ class: "total" }, total)),
      input({ type: "search", placeholder: t("Search"), "aria-label": t("Search"), value: search, onInput: (event) => set({ q: event.currentTarget.value }) }),
      h(Toggle, { on: archived, set: (archived) => set({ archived }) }, t("Archived ones")),
      project ? button({ type: "button", class: "filter", onClick: () => set({ project: null }) }, span({ class: "faint" }, t("Project")), ` ${projectName(project)} ×`) : null,
      span({ class: "space" }),
      mayNowhere("WRITE") ? null : button({ type: "button", class: "primary", disabled: !viewer.value, onClick: () => setAsking(true) }, t("New experiment…"))),
    h(Trouble, { error, again }),
    total === null && !error ? h(Loading, {}) : null,
    total === 0 ? h(Empty, { title: search ? t("No experiments match.") : t("No experiments yet.") }, p({}, t("An experiment holds the runs of one line of work."))) : null,
    rows.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Experiments") }, table({ class: "plain list" },
          thead({}, tr({}, [t("Name"), t("Runs"), ...(hasProjects() ? [t("Project")] : []), t("Kind"), t("Owner"), t("Tags"), t("Last run"), t("Created")].map((name) => th({ key: name, scope: "col" }, name)))),
          tbody({}, rows.map((row) =>
            tr({ key: row.id, "data-experiment": row.id },
              td({}, a({ href: href(`experiments/${row.id}`), class: "strong" }, row.name), row.goal ? div({ class: "faint sub clip" }, row.goal) : null),
              td({}, h(Counts, { counts: row.runCounts, experiment: row.id })),
              hasProjects() ? td({ class: "clip" }, a({ href: href(`experiments?project=${row.project.id}`) }, row.project.name)) : null,
              td({}, row.taskType), td({}, row.owner ?? "–"),
              td({}, row.tags.map((tag) => span({ key: tag, class: "tag" }, tag))),
              td({ class: "faint" }, row.runs.nodes[0] ? ago(row.runs.nodes[0].createdAt) : "–"),
              td({ class: "faint", title: clock(row.createdAt) }, ago(row.createdAt)))))))
      : null,
    more ? button({ type: "button", onClick: more }, t("More")) : null,
    asking ? h(NewExperiment, { close: () => setAsking(false), made: (id) => go(`experiments/${id}`) }) : null,
  );
}

/** The number of runs in each status, linked to the list of them.
 * @param {{ counts: { status: string, count: number }[], experiment: string }} props */
export const Counts = ({ counts, experiment }) =>
  counts.length
    ? span({ class: "counts" }, counts.map(({ status, count }) =>
        a({ key: status, href: href(`?experiment=${experiment}&status=${status.toLowerCase()}`), title: t(status.toLowerCase()), "aria-label": `${count} ${t(status.toLowerCase())}` },
          span({ class: `dot ${status.toLowerCase()}` }), count)))
    : span({ class: "faint" }, t("none"));

/** @param {{ close: () => void, made: (id: string) => void }} props */
export function NewExperiment({ close, made }) {
  const [key] = useState(once);
  return h(Dialog, {
    title: t("New experiment"), action: t("Create"), close,
    act: async (data) => {
      const text = (/** @type {string} */ name) => String(data.get(name) ?? "").trim();
      const { createExperiment } = await ask(CREATE_EXPERIMENT, { input: {
        name: text("name"), project: text("project") || null, taskType: text("task"), goal: text("goal") || null, owner: text("owner") || null,
        baseModel: text("base") || null, tags: text("tags") ? text("tags").split(/[\s,]+/) : null, idempotencyKey: key,
      } });
      if (createExperiment.experiment) made(createExperiment.experiment.id);
      return createExperiment.userErrors[0]?.message;
    },
  },
    label({ class: "field" }, t("Name"), input({ name: "name", required: true, autoFocus: true })),
    hasProjects() ? label({ class: "field" }, t("Project"), select({ name: "project" }, projectsWith("WRITE").map(({ id, name }) =>
      option({ key: id, value: name, selected: params.value.has("project") ? id === params.value.get("project") : name === DEFAULT }, name)))) : null,
    label({ class: "field" }, t("Kind"), input({ name: "task", required: true, defaultValue: "pretrain", list: "kinds" }),
      datalist({ id: "kinds" }, ["pretrain", "sft", "dpo", "rlhf", "eval"].map((kind) => option({ key: kind, value: kind })))),
    label({ class: "field" }, t("Goal"), input({ name: "goal" })),
    label({ class: "field" }, t("Base model"), input({ name: "base" })),
    label({ class: "field" }, t("Owner"), input({ name: "owner" })),
    label({ class: "field" }, t("Tags"), input({ name: "tags", placeholder: "sft, zh" })));
}
