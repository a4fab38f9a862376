// Webhooks: which addresses are told of what, whether it arrived, and what to do where it did not.
import { useEffect, useState } from "preact/hooks";
import { rest } from "../rest.js";
import { href } from "../route.js";
import { ago, clock, short } from "../format.js";
import { Copy, Empty, Loading, Trouble, useTicks, useTitle } from "../parts.js";
import { Dialog } from "../dialog.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, p, a, span, input, label, select, option, fieldset, legend, button, section, h2, table, thead, tbody, tr, th, td, pre } = tags;

/**
 * @typedef {object} Webhook
 * @property {string} webhook_id
 * @property {string} url
 * @property {string | null} name
 * @property {string[]} types all, if there is none
 * @property {string | null} experiment_id
 * @property {string} format
 * @property {string} created_at
 * @property {string | null} paused_at
 * @property {string | null} paused_reason
 * @property {string | null} failing_since
 *
 * @typedef {object} Delivery
 * @property {string} delivery_id
 * @property {string} type
 * @property {"pending" | "delivered" | "failed"} state
 * @property {number} attempts
 * @property {string | null} next_attempt_at
 * @property {number | null} last_status
 * @property {string | null} last_error
 * @property {string} created_at
 */

/** What a webhook may tell of, as the service names it. */
const TYPES = ["run.running", "run.succeeded", "run.failed", "run.cancelled", "run.stalled", "run.recovered", "run.stopping",
  "run.unhealthy", "run.deleted", "checkpoint.marked", "checkpoint.released", "checkpoint.lost"];
const STATES = { pending: t("pending"), delivered: t("delivered"), failed: t("failed") };
const AGAIN = 3000;

export function Webhooks() {
  const [webhooks, setWebhooks] = useState(/** @type {Webhook[] | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const [asking, setAsking] = useState(/** @type {"new" | { remove: Webhook } | { secret: string } | null} */ (null));
  const [open, setOpen] = useState("");
  useTitle(t("Webhooks"));
  useTicks();
  const load = () => rest("GET", "webhooks").then(({ webhooks }) => { setWebhooks(webhooks); setError(null); }, setError);
  useEffect(() => { load(); }, []);
  const change = (/** @type {Webhook} */ { webhook_id }, /** @type {object} */ what) =>
    rest("PATCH", `webhooks/${webhook_id}`, what).then(load, setError);
  const test = (/** @type {Webhook} */ { webhook_id }) =>
    rest("POST", `webhooks/${webhook_id}/test`, {}).then(() => { setOpen(webhook_id); return load(); }, setError);

  const row = (/** @type {Webhook} */ webhook) =>
    tr({ key: webhook.webhook_id, "data-webhook": webhook.webhook_id },
      td({}, div({ class: "strong" }, webhook.name ?? short(webhook.webhook_id)), div({ class: "faint sub clip", title: webhook.url }, webhook.url)),
      td({}, webhook.types.length ? webhook.types.map((type) => span({ key: type, class: "tag" }, type)) : t("all events"),
        webhook.experiment_id ? [" ", a({ key: "e", href: href(`experiments/${webhook.experiment_id}`) }, t("Of one experiment"))] : null),
      td({}, webhook.format),
      td({}, webhook.paused_at
        ? span({ class: "bad", title: webhook.paused_reason ?? "" }, t("paused"))
        : webhook.failing_since ? span({ class: "bad", title: clock(webhook.failing_since) }, t("failing")) : t("on")),
      td({ class: "actions" },
        button({ type: "button", class: "quiet", "aria-expanded": open === webhook.webhook_id, onClick: () => setOpen(open === webhook.webhook_id ? "" : webhook.webhook_id) }, t("Messages")),
        button({ type: "button", class: "quiet", onClick: () => test(webhook) }, t("Send a test")),
        button({ type: "button", class: "quiet", onClick: () => change(webhook, { paused: !webhook.paused_at }) }, webhook.paused_at ? t("Go on") : t("Pause")),
        button({ type: "button", class: "quiet", onClick: () => setAsking({ remove: webhook }) }, t("Delete…"))));

  const chosen = webhooks?.find(({ webhook_id }) => webhook_id === open);
  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Webhooks"), webhooks ? span({ class: "total" }, webhooks.length) : null), span({ class: "space" }),
      button({ type: "button", class: "primary", onClick: () => setAsking("new") }, t("New webhook…"))),
    p({ class: "faint" }, t("Each is told of events as they happen, signed and at least once. What does not arrive is tried again for up to two days.")),
    h(Trouble, { error, again: load }),
    webhooks === null && !error ? h(Loading, {}) : null,
    webhooks?.length === 0 ? h(Empty, { title: t("No webhooks yet.") }, p({}, t("A chat, a mailbox or a service of yours can be told when a run fails, stalls or ends."))) : null,
    webhooks?.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Webhooks") }, table({ class: "plain list" },
          thead({}, tr({}, [t("Name"), t("Tells of"), t("Format"), t("State"), ""].map((name) => th({ key: name, scope: "col" }, name || span({ class: "hidden" }, t("Actions")))))),
          tbody({}, webhooks.map(row))))
      : null,
    chosen ? h(Messages, { key: chosen.webhook_id, webhook: chosen }) : null,
    asking === "new" ? h(NewWebhook, { close: () => setAsking((now) => (now === "new" ? null : now)), made: (secret) => { load(); setAsking({ secret }); } }) : null,
    asking && typeof asking === "object" && "secret" in asking
      ? h(Dialog, { title: t("The webhook is there"), close: () => setAsking(null) },
          p({}, t("Its messages are signed with this secret, which is shown this once:")), pre({ class: "code" }, asking.secret), h(Copy, { text: asking.secret, label: t("Copy the secret") }))
      : null,
    asking && typeof asking === "object" && "remove" in asking
      ? h(Dialog, { title: t("Delete this webhook?"), action: t("Delete"), danger: true, close: () => setAsking(null),
          act: async () => { await rest("DELETE", `webhooks/${asking.remove.webhook_id}`); setOpen(""); load(); } },
          p({}, t("{url} is told of nothing more, and what waits for it is dropped.", { url: asking.remove.url })))
      : null,
  );
}

/** @param {{ close: () => void, made: (secret: string) => void }} props */
const NewWebhook = ({ close, made }) =>
  h(Dialog, {
    title: t("New webhook"), action: t("Create"), close,
    act: async (data) => {
      const text = (/** @type {string} */ name) => String(data.get(name) ?? "").trim();
      const { signing_secret } = await rest("POST", "webhooks", {
        url: text("url"), name: text("name") || null, format: text("format"), types: data.getAll("type"), experiment_id: text("experiment") || null,
      });
      made(signing_secret);
    },
  },
    label({ class: "field" }, t("Address"), input({ name: "url", required: true, autoFocus: true, placeholder: "https://… mailto:…" })),
    label({ class: "field" }, t("Name"), input({ name: "name" })),
    label({ class: "field" }, t("Format"), select({ name: "format" }, option({ value: "standard" }, "Standard Webhooks"), option({ value: "slack" }, "Slack"))),
    label({ class: "field" }, t("Experiment"), input({ name: "experiment", placeholder: t("an id; left out: all") })),
    fieldset({ class: "grid" }, legend({}, t("Tells of; all if none is chosen")), TYPES.map((type) =>
      label({ key: type, class: "check" }, input({ type: "checkbox", name: "type", value: type }), type))));

/** The newest messages of one, while somebody looks. @param {{ webhook: Webhook }} props */
function Messages({ webhook }) {
  const [deliveries, setDeliveries] = useState(/** @type {Delivery[] | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const path = `webhooks/${webhook.webhook_id}/deliveries`;
  const load = () => rest("GET", path).then(({ deliveries }) => { setDeliveries(deliveries); setError(null); }, setError);
  useEffect(() => {
    load();
    const timer = setInterval(() => document.hidden || load(), AGAIN);
    return () => clearInterval(timer);
  }, []);
  const again = (/** @type {Delivery} */ { delivery_id }) => rest("POST", `${path}/${delivery_id}/redeliver`, {}).then(load, setError);
  return section({ "aria-label": t("Messages") }, h2({}, t("Messages to {name}", { name: webhook.name ?? webhook.url })),
    h(Trouble, { error }),
    deliveries?.length === 0 ? p({ class: "faint" }, t("None in the last 30 days.")) : null,
    deliveries?.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Messages") }, table({ class: "plain list" },
          thead({}, tr({}, [t("Event"), t("State"), t("Attempts"), t("Answer"), t("When"), ""].map((name) => th({ key: name, scope: "col" }, name || span({ class: "hidden" }, t("Actions")))))),
          tbody({}, deliveries.map((delivery) =>
            tr({ key: delivery.delivery_id, "data-delivery": delivery.state },
              td({}, delivery.type), td({}, STATES[delivery.state]), td({}, delivery.attempts),
              td({ class: "clip faint", title: delivery.last_error ?? "" }, delivery.last_error ?? delivery.last_status ?? "–"),
              td({ class: "faint", title: clock(delivery.created_at) }, ago(delivery.created_at)),
              td({ class: "actions" }, delivery.state === "pending" ? null : button({ type: "button", class: "quiet", onClick: () => again(delivery) }, t("Send again"))))))))
      : null);
}
