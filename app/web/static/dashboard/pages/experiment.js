// One experiment: its notes, newest runs, its marked checkpoints, its history, live.
import { useEffect, useState } from "preact/hooks";
import { ask, watch } from "../graphql.js";
import { EXPERIMENT, EXPERIMENT_EVENTS } from "../operations.js";
import { href } from "../route.js";
import { ago, clock, flat, number, plain, short, took } from "../format.js";
import { Bar, Copy, Empty, Fact, Loading, RunLink, Status, Trouble, useTicks, useTitle } from "../parts.js";
import { Counts } from "./experiments.js";
import { EditExperiment } from "../run/edit.js";
import { DeleteExperiment } from "../run/deleting.js";
import { Events } from "../run/history.js";
import { Tags } from "../run/checkpoints.js";
import { Rights, hasProjects, may } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, nav, a, button, h1, h2, span, p, section, table, thead, tbody, tr, td, th } = tags;

/** @typedef {NonNullable<import("../generated.js").Operations["Experiment"]["result"]["experiment"]>} Detail */

/** @param {{ id: string }} props */
export function Experiment({ id }) {
  const [found, setFound] = useState(/** @type {Detail | null | undefined} */ (undefined));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const [asking, setAsking] = useState("");
  useTicks();
  useTitle(found?.name ?? "");
  useEffect(() => {
    let over = false;
    let end = () => {};
    let timer = 0;
    const load = () => ask(EXPERIMENT, { id }).then(({ experiment }) => { if (!over) { setFound(experiment); setError(null); } return experiment; }, (wrong) => { setError(wrong); return null; });
    load().then((experiment) => {
      if (over || !experiment) return;
      const from = { id, after: experiment.lastSeq };
      end = watch(EXPERIMENT_EVENTS, from, ({ experimentEvents }) => {
        from.after = experimentEvents.seq;
        clearTimeout(timer);
        timer = setTimeout(load, 400);
      }, load);
    });
    return () => { over = true; clearTimeout(timer); end(); };
  }, [id]);

  if (error && !found) return div({ class: "page" }, h(Trouble, { error }));
  if (found === undefined) return div({ class: "page" }, h(Loading, {}));
  if (found === null) return div({ class: "page" }, h(Empty, { title: t("There is no such experiment.") }));
  const config = Object.entries(flat(found.paramConfig));
  return div(
    { class: "page" },
    nav({ class: "crumbs", "aria-label": t("Where this is") }, a({ href: href("experiments") }, t("Experiments")), " / ", span({}, found.name)),
    div({ class: "bar title" }, h1({}, found.name), span({ class: "id faint" }, found.id), h(Copy, { text: found.id, label: t("Copy id") }), span({ class: "space" }),
      may("WRITE", found.project) ? button({ type: "button", onClick: () => setAsking("edit") }, t("Edit…")) : null,
      may("MAINTAIN", found.project) ? button({ type: "button", class: "quiet", onClick: () => setAsking("delete") }, t("Delete…")) : null,
      a({ class: "button", href: href(`checkpoints?experiment=${id}`) }, t("Checkpoints")),
      a({ class: "button", href: href(`?experiment=${id}`) }, t("All runs")),
      may("WRITE", found.project) ? a({ class: "button primary", href: href(`recipes?experiment=${id}`) }, t("New run")) : null),
    h(Rights, { project: found.project }),
    found.goal ? p({}, found.goal) : null,
    div({ class: "facts" },
      h(Fact, { name: t("Runs") }, h(Counts, { counts: found.runCounts, experiment: id })),
      hasProjects() ? h(Fact, { name: t("Project") }, a({ href: href(`experiments?project=${found.project.id}`) }, found.project.name)) : null,
      h(Fact, { name: t("Kind") }, found.taskType),
      found.baseModel ? h(Fact, { name: t("Base model") }, found.baseModel) : null,
      found.owner ? h(Fact, { name: t("Owner") }, found.owner) : null,
      found.version ? h(Fact, { name: t("Version") }, found.version) : null,
      found.tags.length ? h(Fact, { name: t("Tags") }, found.tags.map((tag) => span({ key: tag, class: "tag" }, tag))) : null,
      h(Fact, { name: t("Created") }, span({ title: clock(found.createdAt) }, ago(found.createdAt))),
      config.length ? h(Fact, { name: t("Common parameters") }, config.map(([key, value]) => `${key} ${plain(value)}`).join(" · ")) : null),
    found.notes ? p({ class: "notes" }, found.notes) : null,
    asking === "edit" ? h(EditExperiment, { experiment: found, close: () => setAsking("") }) : null,
    asking === "delete" ? h(DeleteExperiment, { experiment: found, close: () => setAsking("") }) : null,
    section({ "aria-label": t("Newest runs") }, h2({}, t("Newest runs"), span({ class: "total" }, found.runs.totalCount)),
      found.runs.nodes.length
        ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Newest runs") }, table({ class: "plain list" },
            thead({}, tr({}, [t("Run"), t("Status"), t("Progress"), t("Model"), t("Duration"), t("Created")].map((name) => th({ key: name, scope: "col" }, name)))),
            tbody({}, found.runs.nodes.map((run) =>
              tr({ key: run.id, "data-run": run.id },
                td({}, h(RunLink, { run })), td({}, h(Status, { status: run.status, reason: run.statusReason })),
                td({}, h(Bar, { value: run.progress })), td({ class: "clip" }, run.model), td({}, took(run)), td({ class: "faint" }, ago(run.createdAt)))))))
        : h(Empty, { title: t("No runs yet.") })),
    section({ "aria-label": t("Marked checkpoints") }, h2({}, t("Marked checkpoints"), span({ class: "total" }, found.checkpoints.totalCount)),
      found.checkpoints.nodes.length
        ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Marked checkpoints") }, table({ class: "plain list" }, tbody({}, found.checkpoints.nodes.map((checkpoint) =>
            tr({ key: checkpoint.id }, td({}, h(Tags, { checkpoint })), td({ class: "number" }, t("step {n}", { n: number(checkpoint.step) })),
              td({ class: "faint" }, Object.entries(checkpoint.metrics ?? {}).map(([key, value]) => `${key} ${number(/** @type {number} */ (value))}`).join(" · ")),
              td({}, a({ class: "id", href: href(`runs/${checkpoint.run.id}`) }, short(checkpoint.run.id))),
              td({ class: "faint" }, ago(checkpoint.markedAt)), td({}, h(Copy, { text: checkpoint.ckptPath })))))))
        : p({ class: "faint" }, may("WRITE", found.project) ? t("No checkpoint is marked yet. Mark one on its run's page.") : t("No checkpoint is marked."))),
    section({ "aria-label": t("History") }, h2({}, t("History")), h(Events, { events: found.events.nodes })),
  );
}
