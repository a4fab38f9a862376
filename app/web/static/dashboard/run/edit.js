// Names, notes and tags of runs and experiments, and archiving them.
import { useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { UPDATE_EXPERIMENT, UPDATE_RUN } from "../operations.js";
import { Dialog } from "../dialog.js";
import { Priorities } from "../fields.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { label, input, textarea, p } = tags;

/** @param {FormData} data @param {string} name */
const text = (data, name) => String(data.get(name) ?? "").trim();
/** @param {FormData} data */
const tagsOf = (data) => text(data, "tags").split(/[\s,]+/).filter(Boolean);

/** @param {{ run: import("../pages/run.js").RunDetail, active: boolean, close: () => void }} props */
export function EditRun({ run, active, close }) {
  const [key] = useState(once);
  return h(Dialog, {
    title: t("Edit this run"), action: t("Save"), close,
    act: async (data) => {
      const { updateRun } = await ask(UPDATE_RUN, { input: {
        runId: run.id, name: text(data, "name") || null, notes: text(data, "notes") || null, tags: tagsOf(data), idempotencyKey: key,
        ...(active ? { priority: /** @type {any} */ (text(data, "priority")) } : { archived: Boolean(data.get("archived")) }),
      } });
      return updateRun.userErrors[0]?.message;
    },
  },
    label({ class: "field" }, t("Name"), input({ name: "name", defaultValue: run.name ?? "", placeholder: run.id })),
    label({ class: "field" }, t("Tags"), input({ name: "tags", defaultValue: run.tags.join(", ") })),
    label({ class: "field" }, t("Notes"), textarea({ name: "notes", rows: 4, defaultValue: run.notes ?? "" })),
    active
      ? label({ class: "field" }, t("Priority"), h(Priorities, { chosen: run.priority }))
      : label({ class: "check" }, input({ type: "checkbox", name: "archived", defaultChecked: run.archivedAt !== null }), t("Archived: kept out of lists, nothing is deleted")));
}

/** @param {{ experiment: import("../pages/experiment.js").Detail, close: () => void }} props */
export function EditExperiment({ experiment, close }) {
  const [key] = useState(once);
  return h(Dialog, {
    title: t("Edit this experiment"), action: t("Save"), close,
    act: async (data) => {
      const { updateExperiment } = await ask(UPDATE_EXPERIMENT, { input: {
        experimentId: experiment.id, name: text(data, "name"), goal: text(data, "goal") || null, owner: text(data, "owner") || null,
        notes: text(data, "notes") || null, tags: tagsOf(data), archived: Boolean(data.get("archived")), idempotencyKey: key,
      } });
      return updateExperiment.userErrors[0]?.message;
    },
  },
    label({ class: "field" }, t("Name"), input({ name: "name", required: true, defaultValue: experiment.name })),
    label({ class: "field" }, t("Goal"), input({ name: "goal", defaultValue: experiment.goal ?? "" })),
    label({ class: "field" }, t("Owner"), input({ name: "owner", defaultValue: experiment.owner ?? "" })),
    label({ class: "field" }, t("Tags"), input({ name: "tags", defaultValue: experiment.tags.join(", ") })),
    label({ class: "field" }, t("Notes"), textarea({ name: "notes", rows: 4, defaultValue: experiment.notes ?? "" })),
    label({ class: "check" }, input({ type: "checkbox", name: "archived", defaultChecked: experiment.archivedAt !== null }), t("Archived: kept out of lists, nothing is deleted")),
    p({ class: "faint" }, t("Its history shows who changed what.")));
}
