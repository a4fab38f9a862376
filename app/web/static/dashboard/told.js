// What webhooks and alert rules share: the kinds of what they are about, and who may change them.
import { viewer } from "./viewer.js";
import { t } from "./words.js";

/**
 * Events of which webhooks tell, as their messages name them.
 *
 * @type {Record<import("./generated.js").WebhookEvent, string>}
 */
export const EVENTS = {
  RUN_RUNNING: "run.running", RUN_SUCCEEDED: "run.succeeded", RUN_FAILED: "run.failed", RUN_CANCELLED: "run.cancelled",
  RUN_STALLED: "run.stalled", RUN_RECOVERED: "run.recovered", RUN_STOPPING: "run.stopping", RUN_UNHEALTHY: "run.unhealthy",
  RUN_DELETED: "run.deleted", CHECKPOINT_MARKED: "checkpoint.marked", CHECKPOINT_RELEASED: "checkpoint.released",
  CHECKPOINT_LOST: "checkpoint.lost", ALERT_FIRED: "alert.fired", ALERT_RECOVERED: "alert.recovered",
};

/** @type {Record<import("./generated.js").AlertKind, string>} */
export const KINDS = {
  RUN_FAILED: t("A run failed"), RUN_FINISHED: t("A run ended"), RUN_STALLED: t("A run stalled"),
  METRIC_NAN: t("A metric is NaN or infinite"), METRIC_SPIKE: t("A metric leaps"),
  METRIC_THRESHOLD: t("A metric passes a bound"), CHECKPOINT_RELEASED: t("A checkpoint was released"),
};

const RANKS = ["VIEWER", "MEMBER", "MAINTAINER", "ADMIN"];
const MAINTAINER = RANKS.indexOf("MAINTAINER");

/** True if who looks at this may do everything in every project. */
export const mayAdminister = () => Boolean(viewer.value?.viewer.isAdmin && viewer.value.viewer.scope === "ADMIN");

/**
 * The projects in which they may make and change rules and webhooks.
 *
 * @returns {{ id: string, name: string }[]}
 */
export function maintained() {
  const found = viewer.value;
  if (!found) return [];
  if (mayAdminister()) return found.projects;
  if (RANKS.indexOf(found.viewer.scope) < MAINTAINER) return [];
  const ids = new Set(found.viewer.projects.filter(({ role }) => RANKS.indexOf(role) >= MAINTAINER).map(({ projectId }) => projectId));
  return found.projects.filter(({ id }) => found.viewer.isAdmin || ids.has(id));
}

/** True once it is known that they may change nothing of all this. */
export const mayOnlyLook = () => Boolean(viewer.value) && !maintained().length;

/** @param {string} projectId */
export const mayMaintain = (projectId) => maintained().some(({ id }) => id === projectId);
