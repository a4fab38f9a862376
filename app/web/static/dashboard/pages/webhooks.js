// Webhooks: their addresses and events, their messages, and sending a message again.
import { useEffect, useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { CREATE_WEBHOOK, DELETE_WEBHOOK, DELIVERIES, REDELIVER, TEST_WEBHOOK, UPDATE_WEBHOOK, WEBHOOKS } from "../operations.js";
import { href } from "../route.js";
import { ago, clock, short } from "../format.js";
import { Copy, Empty, Loading, Trouble, useTicks, useTitle } from "../parts.js";
import { Dialog } from "../dialog.js";
import { EVENTS } from "../kinds.js";
import { hasProjects, mayNowhere, projectName, projectsWith } from "../viewer.js";
import { sentence } from "../service.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, p, a, span, input, label, select, option, fieldset, legend, button, section, h2, table, thead, tbody, tr, th, td, pre } = tags;

/**
 * @typedef {import("../generated.js").Operations} Operations
 * @typedef {Operations["Webhooks"]["result"]["webhooks"][number]} Webhook
 * @typedef {NonNullable<Operations["Deliveries"]["result"]["webhook"]>["deliveries"][number]} Delivery
 */

/** @type {Record<Delivery["state"], string>} */
const STATES = { PENDING: t("pending"), DELIVERED: t("delivered"), FAILED: t("failed") };
/** @type {Record<Webhook["format"], string>} */
const FORMATS = { STANDARD: "Standard Webhooks", SLACK: "Slack" };
const AGAIN = 3000;

export function Webhooks() {
  const [webhooks, setWebhooks] = useState(/** @type {Webhook[] | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const [asking, setAsking] = useState(/** @type {"new" | { remove: Webhook } | { secret: string } | null} */ (null));
  const [open, setOpen] = useState("");
  useTitle(t("Webhooks"));
  useTicks();
  const load = () => ask(WEBHOOKS, {}).then(({ webhooks }) => { setWebhooks(webhooks); setError(null); }, setError);
  useEffect(() => { load(); }, []);
  /** Run an action on a webhook, and show its new state or the error.
   * @param {Promise<{ userErrors: { message: string }[] }>} done */
  const then = async (done) => {
    const { userErrors: [wrong] } = await done;
    await load();
    if (wrong) setError(new Error(wrong.message));
  };
  const pause = (/** @type {Webhook} */ { id, pausedAt }) =>
    then(ask(UPDATE_WEBHOOK, { input: { webhookId: id, paused: !pausedAt, idempotencyKey: once() } }).then((found) => found.updateWebhook)).catch(setError);
  const test = (/** @type {Webhook} */ { id }) => {
    setOpen(id);
    then(ask(TEST_WEBHOOK, { input: { webhookId: id, idempotencyKey: once() } }).then((found) => found.testWebhook)).catch(setError);
  };

  const row = (/** @type {Webhook} */ webhook) =>
    tr({ key: webhook.id, "data-webhook": webhook.id },
      td({}, div({ class: "strong" }, webhook.name ?? short(webhook.id)), div({ class: "faint sub clip", title: webhook.url }, webhook.url)),
      td({}, webhook.types.length ? webhook.types.map((type) => span({ key: type, class: "tag" }, EVENTS[type])) : t("all events"),
        webhook.experimentId ? [" ", a({ key: "e", href: href(`experiments/${webhook.experimentId}`) }, t("Of one experiment"))] : null,
        webhook.projectId ? span({ class: "faint" }, ` ${t("Of the project {name}", { name: projectName(webhook.projectId) })}`) : null),
      td({}, FORMATS[webhook.format]),
      td({}, webhook.pausedAt
        ? span({ class: "bad", title: sentence(webhook.pausedReason ?? "") }, t("paused"))
        : webhook.failingSince ? span({ class: "bad", title: clock(webhook.failingSince) }, t("failing")) : t("on")),
      td({ class: "actions" },
        button({ type: "button", class: "quiet", "aria-expanded": open === webhook.id, onClick: () => setOpen(open === webhook.id ? "" : webhook.id) }, t("Messages")),
        webhook.mayChange ? [
          button({ key: "t", type: "button", class: "quiet", onClick: () => test(webhook) }, t("Send a test")),
          button({ key: "p", type: "button", class: "quiet", onClick: () => pause(webhook) }, webhook.pausedAt ? t("Go on") : t("Pause")),
          button({ key: "d", type: "button", class: "quiet", onClick: () => setAsking({ remove: webhook }) }, t("Delete…"))] : null));

  const chosen = webhooks?.find(({ id }) => id === open);
  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Webhooks"), webhooks ? span({ class: "total" }, webhooks.length) : null), span({ class: "space" }),
      a({ class: "quiet button", href: href("alerts") }, t("Alerts")),
      projectsWith("MAINTAIN").length ? button({ type: "button", class: "primary", onClick: () => setAsking("new") }, t("New webhook…")) : null),
    p({ class: "faint" }, t("Each webhook receives events as they happen, signed and at least once. Messages that do not arrive are sent again for up to two days.")),
    !mayNowhere("MAINTAIN") ? null : p({ class: "faint" }, t("Maintainers of a project can create and change its webhooks.")),
    h(Trouble, { error, again: load }),
    webhooks === null && !error ? h(Loading, {}) : null,
    webhooks?.length === 0 ? h(Empty, { title: t("No webhooks yet.") }, p({}, t("A webhook notifies a chat, a mailbox or a service when a run fails, stalls or ends."))) : null,
    webhooks?.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Webhooks") }, table({ class: "plain list stacks" },
          thead({}, tr({}, [t("Name"), t("Events"), t("Format"), t("State"), ""].map((name) => th({ key: name, scope: "col" }, name || span({ class: "hidden" }, t("Actions")))))),
          tbody({}, webhooks.map(row))))
      : null,
    chosen ? h(Messages, { key: chosen.id, webhook: chosen }) : null,
    asking === "new" ? h(NewWebhook, { close: () => setAsking((now) => (now === "new" ? null : now)), made: (secret) => { load(); setAsking({ secret }); } }) : null,
    asking && typeof asking === "object" && "secret" in asking
      ? h(Dialog, { title: t("Webhook created"), close: () => setAsking(null) },
          p({}, t("Its messages are signed with this secret, which is shown this once:")), pre({ class: "code" }, asking.secret), h(Copy, { text: asking.secret, label: t("Copy the secret") }))
      : null,
    asking && typeof asking === "object" && "remove" in asking
      ? h(Dialog, { title: t("Delete this webhook?"), action: t("Delete"), danger: true, close: () => setAsking(null),
          act: async () => {
            const { deleteWebhook } = await ask(DELETE_WEBHOOK, { input: { webhookId: asking.remove.id, idempotencyKey: once() } });
            setOpen("");
            await load();
            return deleteWebhook.userErrors[0]?.message;
          } },
          p({}, t("{url} receives no further events, and its pending messages are dropped.", { url: asking.remove.url })))
      : null,
  );
}

/** @param {{ close: () => void, made: (secret: string) => void }} props */
const NewWebhook = ({ close, made }) =>
  h(Dialog, {
    title: t("New webhook"), action: t("Create"), close,
    act: async (data) => {
      const text = (/** @type {string} */ name) => String(data.get(name) ?? "").trim();
      const { createWebhook: { signingSecret, userErrors } } = await ask(CREATE_WEBHOOK, {
        input: {
          url: text("url"), name: text("name") || null, experimentId: text("experiment") || null,
          projectId: text("experiment") ? null : text("project") || null,
          format: /** @type {Webhook["format"]} */ (text("format")), types: /** @type {Webhook["types"]} */ (data.getAll("type")), idempotencyKey: once(),
        },
      });
      if (userErrors.length) return userErrors[0].message;
      made(signingSecret ?? "");
    },
  },
    label({ class: "field" }, t("Address"), input({ name: "url", required: true, autoFocus: true, placeholder: "https://… mailto:…" })),
    label({ class: "field" }, t("Name"), input({ name: "name" })),
    label({ class: "field" }, t("Format"), select({ name: "format" }, Object.entries(FORMATS).map(([value, text]) => option({ key: value, value }, text)))),
    hasProjects() || !projectsWith("ADMINISTER").length
      ? label({ class: "field" }, t("Project"), select({ name: "project" },
          // Only an administrator may change webhooks of all experiments.
          projectsWith("ADMINISTER").length ? option({ value: "" }, t("all")) : null, projectsWith("MAINTAIN").map(({ id, name }) => option({ key: id, value: id }, name))))
      : null,
    label({ class: "field" }, t("Experiment"), input({ name: "experiment", placeholder: t("an id; empty means all") })),
    fieldset({ class: "grid" }, legend({}, t("Events; all if none is chosen")), Object.entries(EVENTS).map(([type, text]) =>
      label({ key: type, class: "check" }, input({ type: "checkbox", name: "type", value: type }), text))));

/** The newest messages of one, while somebody looks. @param {{ webhook: Webhook }} props */
function Messages({ webhook }) {
  const [deliveries, setDeliveries] = useState(/** @type {Delivery[] | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const load = () => ask(DELIVERIES, { id: webhook.id }).then(({ webhook: found }) => { setDeliveries(found?.deliveries ?? []); setError(null); }, setError);
  useEffect(() => {
    load();
    const timer = setInterval(() => document.hidden || load(), AGAIN);
    return () => clearInterval(timer);
  }, []);
  const again = async (/** @type {Delivery} */ { id }) => {
    const { redeliver: { userErrors: [wrong] } } = await ask(REDELIVER, { input: { webhookId: webhook.id, deliveryId: id, idempotencyKey: once() } });
    await load();
    if (wrong) setError(new Error(wrong.message));
  };
  return section({ "aria-label": t("Messages") }, h2({}, t("Messages to {name}", { name: webhook.name ?? webhook.url })),
    h(Trouble, { error }),
    deliveries?.length === 0 ? p({ class: "faint" }, t("None in the last 30 days.")) : null,
    deliveries?.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Messages") }, table({ class: "plain list stacks" },
          thead({}, tr({}, [t("Event"), t("State"), t("Attempts"), t("Answer"), t("When"), ""].map((name) => th({ key: name, scope: "col" }, name || span({ class: "hidden" }, t("Actions")))))),
          tbody({}, deliveries.map((delivery) =>
            tr({ key: delivery.id, "data-delivery": delivery.state.toLowerCase() },
              td({}, delivery.type), td({}, STATES[delivery.state]), td({}, delivery.attempts),
              td({ class: "clip faint", title: delivery.lastError ?? "" }, delivery.lastError ?? delivery.lastStatus ?? "–"),
              td({ class: "faint", title: clock(delivery.createdAt) }, ago(delivery.createdAt)),
              td({ class: "actions" }, delivery.state === "PENDING" || !webhook.mayChange ? null : button({ type: "button", class: "quiet", onClick: () => { again(delivery).catch(setError); } }, t("Send again"))))))))
      : null);
}
