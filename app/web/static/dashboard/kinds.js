// Kinds of events that webhooks and alert rules are about.
import { t } from "./words.js";

/**
 * Events that webhooks report, as their messages name them.
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
  METRIC_NAN: t("A metric is NaN or infinite"), METRIC_SPIKE: t("A metric spikes"),
  METRIC_THRESHOLD: t("A metric crosses a bound"), CHECKPOINT_RELEASED: t("A checkpoint was released"),
};
