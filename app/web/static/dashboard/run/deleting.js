// Deleting a run or an experiment for good. The user must type its name first: it cannot be undone.
import { useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { DELETE_EXPERIMENT, DELETE_RUN } from "../operations.js";
import { go } from "../route.js";
import { short } from "../format.js";
import { Dialog } from "../dialog.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { p, ul, li, label, input } = tags;

/** @param {{ run: import("../pages/run.js").RunDetail, close: () => void }} props */
export function DeleteRun({ run, close }) {
  const [key] = useState(once);
  return h(Delete, {
    title: t("Delete this run for good?"), typed: run.name || short(run.id), close,
    act: async () => {
      const { deleteRun } = await ask(DELETE_RUN, { input: { runId: run.id, idempotencyKey: key } });
      if (deleteRun.deletion) go(`experiments/${run.experiment.id}`);
      return deleteRun.userErrors[0]?.message;
    },
  });
}

/** @param {{ experiment: import("../pages/experiment.js").Detail, close: () => void }} props */
export function DeleteExperiment({ experiment, close }) {
  const [key] = useState(once);
  return h(Delete, {
    title: t("Delete this experiment for good?"), typed: experiment.name, close,
    act: async () => {
      const { deleteExperiment } = await ask(DELETE_EXPERIMENT, { input: { experimentId: experiment.id, idempotencyKey: key } });
      if (deleteExperiment.deletion) go("experiments");
      return deleteExperiment.userErrors[0]?.message;
    },
  });
}

/** @param {{ title: string, typed: string, close: () => void, act: () => Promise<string | undefined> }} props */
const Delete = ({ title, typed, close, act }) =>
  h(Dialog, {
    title, action: t("Delete for good"), danger: true, close,
    act: async (data) => (String(data.get("name")).trim() === typed ? act() : t("The name does not match.")),
  },
    ul({},
      li({}, t("Its points, logs, files and checkpoints are deleted too and cannot be restored.")),
      li({}, t("To keep it out of lists, archive it instead.")),
      li({}, t("The service refuses to delete what is still in use, such as a released checkpoint."))),
    p({}, t("Type {name} to confirm.", { name: typed })),
    label({ class: "field" }, t("Name"), input({ name: "name", required: true, autoComplete: "off" })));
