// The corner of the page: the WebSocket's state, the service's health, and links to its other pages.
import { useEffect, useState } from "preact/hooks";
import { connection } from "./graphql.js";
import { href, root } from "./route.js";
import { projectsWith, viewer } from "./viewer.js";
import { sentence } from "./service.js";
import { t } from "./words.js";
import { h, tags } from "./dom.js";

const { div, span, a, button, details, summary, p } = tags;
const SECONDS = 30;

/** @typedef {{ well: boolean, said: string }} Health */

/** @returns {Promise<Health>} */
async function look() {
  try {
    const response = await fetch(new URL("readyz", root));
    const answer = await response.json();
    return response.ok ? { well: true, said: "" } : { well: false, said: answer.detail ? sentence(answer.detail) : String(response.status) };
  } catch {
    return { well: false, said: t("The service does not answer.") };
  }
}

export function Health() {
  const [health, setHealth] = useState(/** @type {Health} */ ({ well: true, said: "" }));
  const [version, setVersion] = useState("");
  useEffect(() => {
    const check = () => document.hidden || look().then(setHealth);
    const soon = setTimeout(check, 1000); // after the page's own queries
    const later = setTimeout(() => fetch(root, { headers: { Accept: "application/json" } })
      .then((response) => response.json())
      .then((about) => setVersion(about.version ?? ""), () => {}), 1000);
    const timer = setInterval(check, SECONDS * 1000);
    return () => { clearTimeout(soon); clearTimeout(later); clearInterval(timer); };
  }, []);

  const state = connection.value === "away" ? "away" : !health.well ? "unwell" : connection.value;
  const words = { live: t("live"), connecting: t("connecting"), away: t("not live"), unwell: t("in trouble") };
  return details(
    { class: "health" },
    summary({ class: `state ${state}` }, span({ role: "status", "data-state": state }, words[state])),
    div(
      { class: "popover" },
      p({ class: state === "live" ? "good" : "bad" },
        state === "away" ? t("The connection broke; trying again.") : health.said || t("The service works.")),
      p({ class: "faint" }, `LLM Train API ${version}`, viewer.value?.viewer.name ? ` · ${viewer.value.viewer.name}` : ""),
      a({ href: href("alerts") }, t("Alerts")),
      a({ href: href("webhooks") }, t("Webhooks")),
      projectsWith("ADMINISTER").length ? a({ href: href("audit") }, t("Audit")) : null,
      link("guide/dashboard", t("Guide")),
      link("graphql", "GraphiQL"),
      link("docs", t("REST documentation")),
      button({ type: "button", class: "quiet", onClick: signOut }, t("Sign out")),
    ),
  );
}

/** @param {string} to @param {string} text */
const link = (to, text) => a({ href: new URL(to, root).href, target: "_blank" }, text);

async function signOut() {
  await fetch(new URL("session", root), { method: "DELETE" });
  location.reload();
}

export { h };
