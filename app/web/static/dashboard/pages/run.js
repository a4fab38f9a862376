// One run: status and reason, curves, log, checkpoints, actions.
import { useEffect, useState } from "preact/hooks";
import { ask, watch } from "../graphql.js";
import { RUN, RUN_NOW } from "../operations.js";
import { href } from "../route.js";
import { ago, called, clock, duration, number, took } from "../format.js";
import { ACTIVE, Bar, Copy, Empty, Fact, Loading, RunLink, Status, Steps, Trouble, useKeys, useTicks, useTitle } from "../parts.js";
import { Curves } from "../run/curves.js";
import { Checkpoints, isRelease } from "../run/checkpoints.js";
import { Hyperparams, Receipts } from "../run/config.js";
import { RESOURCES } from "../fields.js";
import { Capacity } from "../capacity.js";
import { Lineage } from "../run/lineage.js";
import { Log } from "../run/log.js";
import { History } from "../run/history.js";
import { Cancel, Mark, Rerun, Resume } from "../run/actions.js";
import { Rights, may as mayIn } from "../viewer.js";
import { EditRun } from "../run/edit.js";
import { DeleteRun } from "../run/deleting.js";
import { sentence } from "../service.js";
import { explained, t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, a, button, h1, span, p, nav } = tags;

/** @typedef {NonNullable<import("../generated.js").Operations["Run"]["result"]["run"]>} RunDetail */
/** @typedef {RunDetail["checkpoints"]["nodes"][number]} Checkpoint */

/** @param {{ id: string }} props */
export function Run({ id }) {
  const [run, setRun] = useState(/** @type {RunDetail | null | undefined} */ (undefined));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const [asking, setAsking] = useState(/** @type {string | { mark: Checkpoint } | { resume: Checkpoint } | null} */ (null));
  const load = () => ask(RUN, { id }).then(({ run }) => { setRun(run); setError(null); }, setError);

  useEffect(() => {
    load();
    let status = "";
    return watch(RUN_NOW, { id }, ({ run: now }) => {
      setRun((known) => known && { ...known, ...now });
      if (status && status !== now.status) load();
      status = now.status;
    }, load);
  }, [id]);
  // A saved checkpoint is an event, which its history receives.
  const onEvent = (/** @type {string} */ type) => { if (type.startsWith("checkpoint.")) load(); };

  useTicks(5);
  useTitle(run ? called(run) : "");
  const active = Boolean(run && ACTIVE.includes(run.status));
  const ready = run?.checkpoints.nodes.filter(({ state }) => state === "READY") ?? [];
  const may = (/** @type {import("../viewer.js").Permission} */ permission) => Boolean(run && mayIn(permission, run.experiment.project));
  const markable = ready.find((checkpoint) => may("MAINTAIN") || !isRelease(checkpoint));
  useKeys((key) => {
    if (!may("WRITE")) return false;
    if (key === "c" && active) setAsking("cancel");
    else if (key === "r" && ready.length) setAsking("resume");
    else return false;
    return true;
  });

  if (error && !run) return div({ class: "page" }, h(Trouble, { error, again: load }));
  if (run === undefined) return div({ class: "page" }, h(Loading, {}));
  if (run === null)
    return div({ class: "page" }, h(Empty, { title: t("There is no such run.") }, a({ class: "button", href: href("") }, t("Show all runs"))));
  const close = () => { setAsking(null); load(); };

  return div(
    { class: "page" },
    nav({ class: "crumbs", "aria-label": t("Where this is") },
      a({ href: href("") }, t("Runs")), " / ", a({ href: href(`experiments/${run.experiment.id}`) }, run.experiment.name), " / ", span({}, called(run))),
    div({ class: "bar title" },
      h1({}, run.name || run.model), h(Status, { status: run.status }),
      span({ class: "id faint" }, run.id), h(Copy, { text: run.id, label: t("Copy id") }),
      span({ class: "space" }),
      !may("WRITE") ? null : [
        active ? button({ key: "c", type: "button", class: "danger", disabled: run.status === "CANCELLING", onClick: () => setAsking("cancel") }, t("Cancel…")) : null,
        button({ key: "r", type: "button", disabled: !ready.length, title: ready.length ? "" : t("There is no verified checkpoint yet."), onClick: () => setAsking("resume") }, t("Resume…")),
        button({ key: "m", type: "button", disabled: !markable, onClick: () => markable && setAsking({ mark: markable }) }, t("Mark…")),
        button({ key: "a", type: "button", onClick: () => setAsking("rerun") }, t("Run again…")),
        button({ key: "e", type: "button", onClick: () => setAsking("edit") }, t("Edit…")),
      ],
      active || !may("MAINTAIN") ? null : button({ type: "button", class: "quiet", onClick: () => setAsking("delete") }, t("Delete…")),
      a({ class: "button", href: href(`compare?runs=${[...new Set([run.root.id, run.id])].join(",")}`) }, t("Compare"))),
    h(Rights, { project: run.experiment.project }),
    h(Trouble, { error, again: load }),
    h(Why, { run, active }),
    h(Facts, { run, active }),
    /^waiting_for_(resources|place)/.test(run.statusReason ?? "") ? h(Capacity, {}) : null,
    div({ class: "run-body" },
      h(Curves, { run, active }),
      div({ class: "side" },
        h(Receipts, { run, active }),
        h(Lineage, { run }),
        h(Checkpoints, { run, active, act: setAsking }),
        h(Hyperparams, { run }),
        run.notes ? tags.section({ "aria-label": t("Notes") }, tags.h2({}, t("Notes")), p({ class: "notes" }, run.notes)) : null)),
    h(Log, { run }),
    h(History, { run, onEvent }),
    asking === "cancel" ? h(Cancel, { run, close }) : null,
    asking === "edit" ? h(EditRun, { run, active, close }) : null,
    asking === "delete" ? h(DeleteRun, { run, close: () => setAsking(null) }) : null,
    asking === "rerun" ? h(Rerun, { run, close }) : null,
    asking === "resume" ? h(Resume, { run, close }) : null,
    asking && typeof asking === "object" && "resume" in asking ? h(Resume, { run, close, from: asking.resume.ckptPath }) : null,
    asking && typeof asking === "object" && "mark" in asking ? h(Mark, { run, checkpoint: asking.mark, close }) : null,
  );
}

/** Where it waits, or why it ended. @param {{ run: RunDetail, active: boolean }} props */
function Why({ run, active }) {
  if (!run.statusReason && !run.statusDetail) return null;
  const waits = run.nextAttemptAt ? Math.max(0, (Date.parse(run.nextAttemptAt) - Date.now()) / 1000) : null;
  const kind = run.status === "FAILED" ? "bad" : active && run.statusReason ? "warn" : "";
  return div({ class: `why-box ${kind}`, role: "note", "data-reason": run.statusReason ?? "" },
    run.statusReason ? span({ class: "why-title" }, explained(run.statusReason)) : null,
    run.statusDetail ? span({}, sentence(run.statusDetail)) : null,
    waits !== null && active ? span({}, t("Next try in {time}.", { time: duration(Math.ceil(waits)) })) : null);
}

/** @param {{ run: RunDetail, active: boolean }} props */
function Facts({ run, active }) {
  const resources = RESOURCES.filter(([name]) => run.resources[name] !== null);
  return div(
    { class: "facts" },
    h(Fact, { name: t("Progress") }, h(Bar, { value: run.progress }), h(Steps, { run })),
    active ? h(Fact, { name: t("Left") }, run.etaSeconds === null ? "–" : duration(run.etaSeconds)) : null,
    h(Fact, { name: t("Took") }, took(run)),
    h(Fact, { name: t("Created") }, span({ title: clock(run.createdAt) }, ago(run.createdAt))),
    active ? h(Fact, { name: t("Last heartbeat") }, ago(run.heartbeatAt)) : null,
    active && run.status === "RUNNING" ? h(Fact, { name: t("Last progress") }, ago(run.lastProgressAt)) : null,
    h(Fact, { name: t("Attempt") }, number(run.attempt)),
    run.name ? h(Fact, { name: t("Model") }, run.model) : null,
    h(Fact, { name: t("Recipe") }, run.recipe ?? t("external")),
    run.priority === "NORMAL" ? null : h(Fact, { name: t("Priority") }, t(run.priority.toLowerCase())),
    run.tags.length ? h(Fact, { name: t("Tags") }, run.tags.map((tag) => span({ key: tag, class: "tag" }, tag))) : null,
    run.archivedAt ? h(Fact, { name: t("Archived") }, ago(run.archivedAt)) : null,
    run.parent
      ? h(Fact, { name: t("Resumed from") }, h(RunLink, { run: run.parent }), run.sourceCheckpoint?.step != null ? ` ${t("at step {n}", { n: number(run.sourceCheckpoint.step) })}` : "")
      : null,
    resources.length ? h(Fact, { name: t("Resources") }, resources.map(([name, text]) => `${text} ${run.resources[name]}`).join(" · ")) : null,
  );
}
