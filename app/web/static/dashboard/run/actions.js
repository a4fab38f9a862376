// Dialogs of a run's actions. Each describes its effect first. An idempotency key for each dialog makes
// the service act once, however often the button is pressed.
import { useEffect, useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { CANCEL, CREATE_RUN, MARK, RECIPES, RESUME } from "../operations.js";
import { go } from "../route.js";
import { duration, number, plain } from "../format.js";
import { Dialog } from "../dialog.js";
import { Params, Resources, Token, resourcesOf } from "../fields.js";
import { isChanged, overridesOf, rowsOf, valueOf } from "../hyperparams.js";
import { may } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { p, label, input, select, option, ul, li, fieldset, legend, datalist } = tags;

/** @typedef {import("../pages/run.js").RunDetail} RunDetail */
/** @typedef {{ run: RunDetail, close: () => void }} Props */

/** @param {{ userErrors: { message: string }[] }} payload */
const wrong = ({ userErrors: [error] }) => error?.message;

/** @param {Props} props */
export function Cancel({ run, close }) {
  const [key] = useState(once);
  const grace = useGrace(run.recipe);
  const newest = run.checkpoints.nodes.find(({ state }) => state === "READY");
  const running = run.status !== "QUEUED";
  const last = newest
    ? t("The newest checkpoint so far is of step {n}.", { n: number(newest.step) }) : t("There is no checkpoint yet.");
  return h(Dialog, {
    title: t("Cancel this run?"), action: t("Cancel the run"), danger: true, close,
    act: async () => wrong((await ask(CANCEL, { input: { runId: run.id, idempotencyKey: key } })).cancelRun),
  },
    running
      ? ul({},
          li({}, grace === null
            ? t("The trainer gets the stop signal and saves a checkpoint first.")
            : t("The trainer gets the stop signal and saves a checkpoint first; it is killed after {time}.", { time: duration(grace) })),
          li({}, t("The work so far is kept, and the run can be resumed from there."), " ", last),
          li({}, t("A run that was cancelled does not go on by itself.")))
      : ul({}, li({}, t("It has not started, so it ends at once, without a checkpoint of its own.")), li({}, t("Other runs move up in the queue."))));
}

/** Seconds a recipe's trainer has to save; null if not known. @param {string | null} recipe */
function useGrace(recipe) {
  const [grace, setGrace] = useState(/** @type {number | null} */ (null));
  useEffect(() => {
    if (recipe) ask(RECIPES, {}).then(({ recipes }) => setGrace(recipes.find(({ name }) => name === recipe)?.graceSeconds ?? null), () => {});
  }, [recipe]);
  return grace;
}

/** @param {Props & { from?: string }} props */
export function Resume({ run, close, from }) {
  const [key] = useState(once);
  const [rows, setRows] = useState(() => rowsOf(run.hyperparams));
  const [token, setToken] = useState(/** @type {{ id: string, token: string } | null} */ (null));
  const ready = run.checkpoints.nodes.filter(({ state }) => state === "READY");
  const changed = rows.filter(isChanged);
  if (token)
    return h(Dialog, { key: "token", title: t("The run waits for its trainer"), close: () => { close(); go(`runs/${token.id}`); } }, h(Token, { runId: token.id, token: token.token }));
  return h(Dialog, {
    title: t("Resume as a new run"), action: t("Resume"), wide: true, close,
    act: async (data) => {
      const { resumeRun } = await ask(RESUME, { input: {
        runId: run.id, ckptPath: String(data.get("ckpt")), overrideHyperparams: overridesOf(rows),
        notes: String(data.get("notes") ?? "") || null, idempotencyKey: key,
      } });
      if (resumeRun.run && resumeRun.runToken) {
        setToken({ id: resumeRun.run.id, token: resumeRun.runToken });
        return " ";
      }
      if (resumeRun.run) go(`runs/${resumeRun.run.id}`);
      return wrong(resumeRun);
    },
  },
    p({}, t("A new run starts from the checkpoint you choose. This run stays as it is.")),
    label({ class: "field" }, t("From"), select({ name: "ckpt" }, ready.map((checkpoint) =>
      option({ key: checkpoint.id, value: checkpoint.ckptPath, selected: checkpoint.ckptPath === (from ?? ready[0]?.ckptPath) }, `${t("step {n}", { n: number(checkpoint.step) })} · ${checkpoint.ckptPath.split("/").pop()}`)))),
    h(Params, { legend: t("Hyperparameters"), rows, set: setRows }),
    p({ class: "faint", role: "status" }, changed.length
      ? t("Changed: {what}. Receipts will show whether the trainer applied each one.", { what: changed.map(({ key, value, path, was }) => `${key} ${path ? `${plain(was)} → ` : ""}${value}`).join(", ") })
      : t("Nothing is changed.")),
    label({ class: "field" }, t("Notes"), input({ name: "notes" })));
}

/** @param {Props & { checkpoint: { ckptPath: string, step: number | null, tagType: string | null, releaseTag: string | null, metrics: any } }} props */
export function Mark({ run, checkpoint, close }) {
  const [key] = useState(once);
  const marked = checkpoint.metrics ?? {};
  const releases = may("MAINTAIN", run.experiment.project);
  return h(Dialog, {
    title: t("Mark this checkpoint"), action: t("Mark"), close,
    act: async (data) => {
      const metrics = { ...marked };
      for (const { key, value } of run.metrics)
        if (data.get(`m.${key}`) && value !== null) metrics[key] = value;
      return wrong((await ask(MARK, { input: {
        runId: run.id, ckptPath: checkpoint.ckptPath, tagType: String(data.get("tag")).trim(),
        releaseTag: String(data.get("release") ?? "").trim() || null, metrics, idempotencyKey: key,
      } })).markCheckpoint);
    },
  },
    p({ class: "id" }, checkpoint.ckptPath),
    p({}, checkpoint.tagType
      ? t("It is marked {tag}; the new mark replaces that one.", { tag: checkpoint.releaseTag ? `${checkpoint.tagType} ${checkpoint.releaseTag}` : checkpoint.tagType })
      : t("Marked checkpoints are kept when old ones are removed.")),
    label({ class: "field" }, t("Tag"), input({ name: "tag", list: "tags", required: true, pattern: "[a-z0-9][a-z0-9._\\-]*", defaultValue: checkpoint.tagType ?? "candidate" }),
      datalist({ id: "tags" }, option({ value: "candidate" }), releases ? option({ value: "release" }) : null)),
    releases ? label({ class: "field" }, t("Release tag"), input({ name: "release", placeholder: "v1.0.0", defaultValue: checkpoint.releaseTag ?? "" })) : null,
    p({ class: "faint" }, releases ? t("A release tag is unique in its experiment.") : t("Maintainers of its project can release and delete.")),
    run.metrics.length
      ? fieldset({ class: "scroll-box" }, legend({}, t("Metrics to record with it")), run.metrics.slice(0, 100).map(({ key, value }) =>
          label({ key, class: "check" }, input({ type: "checkbox", name: `m.${key}`, disabled: value === null, defaultChecked: key in marked }), `${key} ${number(value)}`)))
      : null);
}

/** @param {Props} props */
export function Rerun({ run, close }) {
  const [key] = useState(once);
  const [rows, setRows] = useState(() => rowsOf(run.hyperparams));
  const [token, setToken] = useState(/** @type {{ id: string, token: string } | null} */ (null));
  if (token)
    return h(Dialog, { key: "token", title: t("The run waits for its trainer"), close: () => { close(); go(`runs/${token.id}`); } }, h(Token, { runId: token.id, token: token.token }));
  return h(Dialog, {
    title: t("Run again"), action: t("Submit"), wide: true, close,
    act: async (data) => {
      const { createRun } = await ask(CREATE_RUN, { input: {
        experimentId: run.experiment.id, model: run.model, recipe: run.recipe, dataset: run.dataset,
        hyperparams: valueOf(rows), resources: resourcesOf(data), notes: String(data.get("notes") ?? "") || null, idempotencyKey: key,
      } });
      if (createRun.run && createRun.runToken) {
        setToken({ id: createRun.run.id, token: createRun.runToken });
        return " ";
      }
      if (createRun.run) go(`runs/${createRun.run.id}`);
      return wrong(createRun);
    },
  },
    p({}, t("A new run of the same model, data and recipe starts from step 0. This run stays as it is.")),
    h(Params, { legend: t("Hyperparameters"), rows, set: setRows }),
    h(Resources, { values: run.resources }),
    label({ class: "field" }, t("Notes"), input({ name: "notes", defaultValue: run.notes ?? "" })));
}
