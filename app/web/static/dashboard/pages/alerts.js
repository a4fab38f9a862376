// Alert rules: what projects are notified of, once per run until it recovers, and the alerts raised.
import { useEffect, useState } from "preact/hooks";
import { ask, once, watch } from "../graphql.js";
import { ALERTS, CREATE_ALERT_RULE, DELETE_ALERT_RULE, EXPERIMENTS_CHANGED, UPDATE_ALERT_RULE } from "../operations.js";
import { href } from "../route.js";
import { ago, clock, number, short } from "../format.js";
import { Choice, Empty, Loading, Trouble, useTicks, useTitle } from "../parts.js";
import { Dialog } from "../dialog.js";
import { KINDS } from "../kinds.js";
import { hasProjects, mayNowhere, projectName, projectsWith } from "../viewer.js";
import { params, set } from "../route.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, h2, p, a, span, input, label, select, option, button, section, table, thead, tbody, tr, th, td } = tags;

/**
 * @typedef {import("../generated.js").Operations["Alerts"]["result"]} Found
 * @typedef {Found["alertRules"][number]} Rule
 * @typedef {Found["alerts"][number]} Alert
 * @typedef {import("../generated.js").AlertKind} Kind
 */

const AGAIN = 10_000;

export function Alerts() {
  const firing = params.value.has("firing");
  const [found, setFound] = useState(/** @type {Found | null} */ (null));
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const [asking, setAsking] = useState(/** @type {"new" | { change: Rule } | { remove: Rule } | null} */ (null));
  useTitle(t("Alerts"));
  useTicks();
  const load = () => ask(ALERTS, { firing }).then((all) => { setFound(all); setError(null); }, setError);
  useEffect(() => {
    load();
    // Each alert is an event of its experiment, so the events show when to read again.
    const end = watch(EXPERIMENTS_CHANGED, {}, load, load);
    const timer = setInterval(() => document.hidden || load(), AGAIN);
    return () => { clearInterval(timer); end(); };
  }, [firing]);
  const pause = async (/** @type {Rule} */ { id, pausedAt }) => {
    const { updateAlertRule: { userErrors: [wrong] } } = await ask(UPDATE_ALERT_RULE, { input: { ruleId: id, paused: !pausedAt, idempotencyKey: once() } });
    await load();
    if (wrong) setError(new Error(wrong.message));
  };

  const close = () => setAsking(null);
  const rules = found?.alertRules;
  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Alerts"), rules ? span({ class: "total" }, rules.length) : null), span({ class: "space" }),
      a({ class: "quiet button", href: href("webhooks") }, t("Webhooks")),
      projectsWith("MAINTAIN").length ? button({ type: "button", class: "primary", onClick: () => setAsking("new") }, t("New rule…")) : null),
    p({ class: "faint" }, t("A rule fires once per run until the run recovers. Webhooks deliver alerts to a chat, a mailbox or a service.")),
    !mayNowhere("MAINTAIN") ? null : p({ class: "faint" }, t("Maintainers of a project can create and change its rules.")),
    h(Trouble, { error, again: load }),
    found === null && !error ? h(Loading, {}) : null,
    rules?.length === 0 ? h(Empty, { title: t("No rules yet.") }, p({}, t("Rules watch for failures, stalls, NaN, spikes and bounds of metrics, and releases."))) : null,
    rules?.length ? h(Rules, { rules, pause: (rule) => pause(rule).catch(setError), ask: setAsking }) : null,
    found ? h(Found, { alerts: found.alerts, rules: found.alertRules, firing }) : null,
    asking === "new" ? h(RuleForm, { close, done: load }) : null,
    asking && typeof asking === "object" && "change" in asking ? h(RuleForm, { rule: asking.change, close, done: load }) : null,
    asking && typeof asking === "object" && "remove" in asking
      ? h(Dialog, { title: t("Delete this rule?"), action: t("Delete"), danger: true, close,
          act: async () => {
            const { deleteAlertRule } = await ask(DELETE_ALERT_RULE, { input: { ruleId: asking.remove.id, idempotencyKey: once() } });
            await load();
            return deleteAlertRule.userErrors[0]?.message;
          } },
          p({}, t("{name} sends no further alerts, and the alerts it raised are removed.", { name: called(asking.remove) })))
      : null,
  );
}

/** @param {Rule} rule */
const called = ({ name, kind }) => name ?? KINDS[kind];

/** @param {Rule} rule */
function condition({ kind, metric, direction, value, points }) {
  const inARow = points > 1 ? ` ${t("for {n} points in a row", { n: points })}` : "";
  if (kind === "METRIC_THRESHOLD") return `${metric} ${direction === "ABOVE" ? ">" : "<"} ${number(value)}${inARow}`;
  if (kind === "METRIC_SPIKE") return `${metric} · ${t("{n} × its usual spread", { n: number(value) })}${inARow}`;
  if (kind === "METRIC_NAN") return metric ?? t("every metric");
  return "";
}

/** @param {{ rules: Rule[], pause: (rule: Rule) => void, ask: (what: { change: Rule } | { remove: Rule }) => void }} props */
const Rules = ({ rules, pause, ask }) =>
  div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Rules") }, table({ class: "plain list stacks" },
    thead({}, tr({}, [t("Rule"), t("Condition"), t("State"), ""].map((name) => th({ key: name, scope: "col" }, name || span({ class: "hidden" }, t("Actions")))))),
    tbody({}, rules.map((rule) =>
      tr({ key: rule.id, "data-rule": rule.id },
        td({}, div({ class: "strong" }, called(rule)),
          div({ class: "faint sub" }, [rule.name ? KINDS[rule.kind] : "", hasProjects() ? projectName(rule.projectId) : ""].filter(Boolean).join(" · "))),
        td({}, condition(rule) || span({ class: "faint" }, "–")),
        td({}, rule.pausedAt ? span({ class: "bad", title: clock(rule.pausedAt) }, t("paused")) : t("on")),
        td({ class: "actions" }, !projectsWith("MAINTAIN").some(({ id }) => id === rule.projectId) ? null : [
          button({ key: "c", type: "button", class: "quiet", onClick: () => ask({ change: rule }) }, t("Change…")),
          button({ key: "p", type: "button", class: "quiet", onClick: () => pause(rule) }, rule.pausedAt ? t("Go on") : t("Pause")),
          button({ key: "d", type: "button", class: "quiet", onClick: () => ask({ remove: rule }) }, t("Delete…"))]))))));

/** @param {{ alerts: Alert[], rules: Rule[], firing: boolean }} props */
function Found({ alerts, rules, firing }) {
  const names = new Map(rules.map((rule) => [rule.id, rule]));
  return section({ "aria-label": t("Alerts raised") },
    div({ class: "bar" }, h2({}, t("Alerts raised")),
      h(Choice, { label: t("Which alerts"), value: firing ? "firing" : "", options: [["", t("All")], ["firing", t("Firing")]], choose: (which) => set({ firing: which === "firing" }) })),
    alerts.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Alerts raised") }, table({ class: "plain list stacks" },
          thead({}, tr({}, [t("Rule"), t("Run"), t("Value"), t("State"), t("When")].map((name) => th({ key: name, scope: "col" }, name)))),
          tbody({}, alerts.map((alert) => {
            const rule = names.get(alert.ruleId);
            return tr({ key: `${alert.ruleId} ${alert.runId} ${alert.ckptPath}`, "data-alert": alert.recoveredAt ? "recovered" : "firing" },
              td({}, rule ? called(rule) : short(alert.ruleId)),
              td({}, a({ class: "id", href: href(`runs/${alert.runId}`), title: alert.runId }, short(alert.runId)), alert.ckptPath ? span({ class: "faint sub" }, ` ${alert.ckptPath.split("/").at(-1)}`) : null),
              td({ class: "faint" }, alert.value === null ? "–" : number(alert.value), alert.step === null ? "" : ` · ${t("step {n}", { n: number(alert.step) })}`),
              td({ class: alert.recoveredAt ? "" : "bad" }, alert.recoveredAt ? t("recovered") : t("firing")),
              td({ class: "faint", title: clock(alert.firedAt) }, ago(alert.firedAt)));
          }))))
      : p({ class: "faint" }, firing ? t("Nothing is firing.") : t("Nothing yet.")));
}

/** A new rule, or what of one can change. @param {{ rule?: Rule, close: () => void, done: () => void }} props */
function RuleForm({ rule, close, done }) {
  const [kind, setKind] = useState(/** @type {Kind} */ (rule?.kind ?? "RUN_FAILED"));
  const watched = kind === "METRIC_SPIKE" || kind === "METRIC_THRESHOLD";
  const own = projectsWith("MAINTAIN");
  const act = async (/** @type {FormData} */ data) => {
    const text = (/** @type {string} */ name) => String(data.get(name) ?? "").trim();
    const values = watched ? { value: Number(text("value")), points: Number(text("points") || 1) } : {};
    const result = rule
      ? (await ask(UPDATE_ALERT_RULE, { input: { ruleId: rule.id, name: text("name") || rule.name, ...values, idempotencyKey: once() } })).updateAlertRule
      : (await ask(CREATE_ALERT_RULE, {
          input: {
            kind, name: text("name") || null, project: text("project") || null, metric: text("metric") || null,
            direction: /** @type {import("../generated.js").AlertDirection} */ (text("direction")) || null, ...values, idempotencyKey: once(),
          },
        })).createAlertRule;
    if (!result.userErrors.length) done();
    return result.userErrors[0]?.message;
  };
  return h(Dialog, { title: rule ? t("Change the rule") : t("New rule"), action: rule ? t("Save") : t("Create"), close, act },
    rule ? p({}, KINDS[rule.kind], rule.metric ? ` · ${rule.metric}` : "")
      : label({ class: "field" }, t("Condition"), select({ name: "kind", value: kind, autoFocus: true, onChange: (event) => setKind(/** @type {Kind} */ (event.currentTarget.value)) },
          Object.entries(KINDS).map(([value, text]) => option({ key: value, value }, text)))),
    label({ class: "field" }, t("Name"), input({ name: "name", defaultValue: rule?.name ?? "" })),
    !rule && hasProjects() ? label({ class: "field" }, t("Project"), select({ name: "project" }, own.map(({ id, name }) => option({ key: id, value: name }, name)))) : null,
    !rule && (watched || kind === "METRIC_NAN")
      ? label({ class: "field" }, t("Metric"), input({ name: "metric", required: watched, placeholder: watched ? "val/loss" : t("every metric") })) : null,
    !rule && kind === "METRIC_THRESHOLD"
      ? label({ class: "field" }, t("Fires when it is"), select({ name: "direction" }, option({ value: "ABOVE" }, t("above")), option({ value: "BELOW" }, t("below")))) : null,
    watched ? label({ class: "field" }, kind === "METRIC_SPIKE" ? t("Times its usual spread") : t("The bound"),
      input({ name: "value", type: "number", step: "any", required: true, defaultValue: rule?.value ?? (kind === "METRIC_SPIKE" ? 8 : "") })) : null,
    watched ? label({ class: "field" }, t("Points in a row"), input({ name: "points", type: "number", min: 1, max: 1000, step: 1, defaultValue: rule?.points ?? 1 })) : null);
}
