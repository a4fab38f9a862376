// A session that has ended. Reloading to sign in would lose what was typed, so it is done in another tab.
import { signedOut } from "./graphql.js";
import { look } from "./viewer.js";
import { t } from "./words.js";
import { tags } from "./dom.js";

const { div, span, a } = tags;

// A dashboard that opens has a session: it notifies tabs whose session had ended.
const tabs = new BroadcastChannel("llm-train");
tabs.postMessage("session");
tabs.onmessage = () => {
  if (signedOut.value) look(0);
};

/** The notice over the page, and in a dialog, that the session has ended. */
export const SignedOut = () =>
  signedOut.value
    ? div({ class: "trouble banner", role: "alert" },
        span({}, t("Your session has ended."), " ", t("Sign in again in another tab; your input here is kept.")),
        a({ class: "button primary", href: location.href, target: "_blank" }, t("Sign in")))
    : null;
