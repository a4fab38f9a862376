// The audit log: writes and failed sign-ins, for administrators.
import { useEffect, useState } from "preact/hooks";
import { ask } from "../graphql.js";
import { AUDIT } from "../operations.js";
import { href, params, set } from "../route.js";
import { ago, clock, short } from "../format.js";
import { Choice, Empty, Loading, Trouble, useTicks, useTitle } from "../parts.js";
import { acted } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, p, a, span, input, label: named, button, table, thead, tbody, tr, th, td } = tags;

/** @typedef {import("../generated.js").Operations["Audit"]["result"]["audit"][number]} Entry */

const PAGE = 100;
const WAIT = 250;
const OUTCOMES = /** @type {[string, string][]} */ ([["", t("All")], ["done", t("Done")], ["refused", t("Refused")]]);
/** Where what an id names is shown. @type {Record<string, string>} */
const SHOWN = { run: "runs", exp: "experiments" };

/** A time in UTC; null for what is none. @param {string | null} text */
const time = (text) => (text && Number.isFinite(Date.parse(text)) ? new Date(text).toISOString() : null);

/** The same as a field for times has it. @param {string | null} text */
function local(text) {
  const at = time(text) ? new Date(/** @type {string} */ (text)) : null;
  return at ? new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16) : "";
}

export function Audit() {
  const query = params.value;
  const [entries, setEntries] = useState(/** @type {Entry[] | null} */ (null));
  const [whole, setWhole] = useState(false);
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const text = (/** @type {string} */ name) => query.get(name)?.trim() || null;
  const filters = { actor: text("actor"), action: text("action"), target: text("target"), outcome: text("outcome"), since: time(text("since")), until: time(text("until")) };
  useTicks();
  useTitle(t("Audit"));

  /** @param {Entry[]} known what is there already */
  const load = (known) => ask(AUDIT, { ...filters, first: PAGE, after: known.at(-1)?.id ?? null }).then(({ audit }) => {
    setEntries(known.concat(audit));
    setWhole(audit.length < PAGE);
    setError(null);
  }, setError);
  useEffect(() => {
    const rests = setTimeout(() => load([]), entries ? WAIT : 0); // the user may still be typing
    return () => clearTimeout(rests);
  }, Object.values(filters));

  const field = (/** @type {string} */ name, /** @type {string} */ label) =>
    input({ type: "search", placeholder: label, "aria-label": label, value: query.get(name) ?? "", onInput: (event) => set({ [name]: event.currentTarget.value }) });
  // Shown in local time. The address has UTC: a link may be opened in another time zone.
  const moment = (/** @type {string} */ name, /** @type {string} */ label) =>
    named({ class: "stacked" }, label, input({ type: "datetime-local", value: local(text(name)), onInput: (event) => set({ [name]: time(event.currentTarget.value) }) }));
  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Audit")),
      moment("since", t("Since")), moment("until", t("Until")),
      field("actor", t("Actor")), field("action", t("Action")), field("target", t("Id of the target")),
      h(Choice, { label: t("Outcome"), value: query.get("outcome") ?? "", options: OUTCOMES, choose: (outcome) => set({ outcome }) })),
    p({ class: "faint" }, t("Writes by users and the operator's token, and refused sign-ins, newest first.")),
    h(Trouble, { error, again: () => load([]) }),
    entries === null && !error ? h(Loading, {}) : null,
    entries?.length !== 0 ? null : Object.values(filters).some(Boolean)
      ? h(Empty, { title: t("No entries match.") })
      : h(Empty, { title: t("No entries yet.") }, p({}, t("Writes without a token are the local user's and are not recorded here."))),
    entries?.length
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Audit") }, table({ class: "plain list" },
          thead({}, tr({}, [t("When"), t("Actor"), t("Action"), t("Target"), t("Outcome"), t("Sent from")].map((name) => th({ key: name, scope: "col" }, name)))),
          tbody({}, entries.map((entry) =>
            tr({ key: entry.id, "data-entry": entry.action },
              td({ class: "faint", title: clock(entry.at) }, ago(entry.at)),
              td({}, entry.actorName ?? (acted({ kind: entry.actorKind, name: null }) || t("local user"))),
              td({}, entry.action),
              td({}, h(About, { id: entry.targetId })),
              td({ class: entry.outcome === "refused" ? "bad" : "" }, entry.outcome === "refused" ? t("Refused") : t("Done")),
              td({ class: "faint" }, entry.address ?? entry.tokenId ?? ""))))))
      : null,
    entries?.length && !whole ? button({ type: "button", onClick: () => load(entries) }, t("More")) : null,
  );
}

/** @param {{ id: string | null }} props */
function About({ id }) {
  if (!id) return span({ class: "faint" }, "–");
  const page = SHOWN[id.split("_")[0]];
  return page ? a({ class: "id", href: href(`${page}/${id}`), title: id }, short(id)) : span({ class: "id", title: id }, short(id));
}
