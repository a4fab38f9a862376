// The history of a run or an experiment: its events, newest first, live.
import { useEffect, useState } from "preact/hooks";
import { ask, watch } from "../graphql.js";
import { RUN_EVENTS, RUN_HISTORY } from "../operations.js";
import { ago, clock, number, plain } from "../format.js";
import { acted } from "../viewer.js";
import { sentence } from "../service.js";
import { explained, t } from "../words.js";
import { h, tags } from "../dom.js";

const { section, h2, ol, li, span, time, div, button } = tags;

/** @typedef {{ id: string, seq: number, type: string, at: string, data: any, actor: { kind: string, name: string | null } | null }} Event */

/** @param {{ run: import("../pages/run.js").RunDetail, onEvent: (type: string) => void }} props */
export function History({ run, onEvent }) {
  const [events, setEvents] = useState(/** @type {Event[]} */ ([]));
  const [before, setBefore] = useState(/** @type {string | null} */ (null));
  useEffect(() => {
    let over = false;
    let end = () => {};
    ask(RUN_HISTORY, { id: run.id, before: null }).then(({ run: found }) => {
      if (over || !found) return;
      setEvents(found.events.nodes);
      setBefore(found.events.pageInfo.hasPreviousPage ? found.events.pageInfo.startCursor : null);
      const from = { id: run.id, after: found.experiment.lastSeq };
      end = watch(RUN_EVENTS, from, ({ runEvents }) => {
        from.after = runEvents.seq;
        setEvents((known) => (known.some(({ seq }) => seq === runEvents.seq) ? known : [...known, runEvents]));
        onEvent(runEvents.type);
      });
    }, () => {});
    return () => { over = true; end(); };
  }, [run.id]);
  const earlier = () => ask(RUN_HISTORY, { id: run.id, before }).then(({ run: found }) => {
    if (!found) return;
    setEvents((known) => [...found.events.nodes, ...known]);
    setBefore(found.events.pageInfo.hasPreviousPage ? found.events.pageInfo.startCursor : null);
  });
  return section({ "aria-label": t("History") }, div({ class: "bar" }, h2({}, t("History")),
      before ? button({ type: "button", class: "quiet", onClick: earlier }, t("Earlier")) : null),
    h(Events, { events }));
}

/** @param {{ events: Event[] }} props */
export const Events = ({ events }) =>
  ol({ class: "events", tabIndex: 0, "aria-label": t("Events") }, [...events].reverse().map((event) =>
    li({ key: event.id, "data-seq": event.seq },
      time({ class: "faint", dateTime: event.at, title: clock(event.at) }, ago(event.at)),
      span({ class: `event ${event.type.split(".")[1] ?? ""}` }, event.type),
      span({ class: "faint clip" }, [by(acted(event.actor)), told(event.data)].filter(Boolean).join(" · ")))));

const by = (/** @type {string} */ name) => (name ? t("by {name}", { name }) : "");

/** Labels of details. @type {Record<string, string>} */
const DETAILS = {
  attempt: t("attempt"), exit_code: t("exit status"), finished: t("finished"), model: t("model"), recipe: t("recipe"),
  parent_run_id: t("resumed from"), priority: t("priority"), rule: t("rule"), key: t("metric"), value: t("value"),
  effective_hyperparams: t("effective"), tag_type: t("mark"), release_tag: t("release"), metrics: t("metrics"),
};

/** The details of an event that are of use to people. @param {Record<string, any>} data */
function told(data) {
  const parts = [];
  if (data.reason ?? data.status_reason) parts.push(explained(data.reason ?? data.status_reason));
  if (data.detail) parts.push(sentence(data.detail));
  if (data.ckpt_path) parts.push(String(data.ckpt_path).split("/").pop());
  if (typeof data.step === "number") parts.push(t("step {n}", { n: number(data.step) }));
  for (const [key, value] of Object.entries(data))
    if (!/^(reason|status_reason|detail|ckpt_path|step|checkpoint_id|run_id|experiment_id|status)$/.test(key) && value !== null && value !== undefined)
      parts.push(`${DETAILS[key] ?? key.replaceAll("_", " ")} ${plain(value)}`);
  return parts.join(" · ");
}
