// A session that has ended: one signs in in another tab, so that what was typed in this one stays.
import { signedOut } from "./graphql.js";
import { look } from "./viewer.js";
import { t } from "./words.js";
import { tags } from "./dom.js";

const { div, span, a } = tags;

// Every dashboard that is opened has a session, and tells those whose session had ended.
const tabs = new BroadcastChannel("llm-train");
tabs.postMessage("session");
tabs.onmessage = () => {
  if (signedOut.value) look(0);
};

/** What is shown over the page, and in a dialog, when the session has ended. */
export const SignedOut = () =>
  signedOut.value
    ? div({ class: "trouble banner", role: "alert" },
        span({}, t("Your session has ended."), " ", t("Sign in again in another tab; your input here is kept.")),
        a({ class: "button primary", href: location.href, target: "_blank" }, t("Sign in")))
    : null;
