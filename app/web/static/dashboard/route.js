// The address. It holds all that a page shows, so that its link shows others the same.
import { computed, signal } from "@preact/signals";

const settings = JSON.parse(document.getElementById("settings")?.textContent || "{}");

/** The service's address. A path such as `/v1` would miss the prefix that a proxy adds: this one is
 * relative to the page. */
export const root = new URL(settings.root ?? "./", location.href);

const address = signal(new URL(location.href));

/** The path below the root, without slashes at its ends. */
export const path = computed(() =>
  decodeURI(address.value.pathname.slice(root.pathname.length)).replace(/\/+$/, ""),
);
export const params = computed(() => address.value.searchParams);

addEventListener("popstate", () => (address.value = new URL(location.href)));

/** @param {string} to a path below the root, with or without a query */
export const href = (to) => root.href + to;

/** @param {string} to */
export function go(to) {
  history.pushState(null, "", href(to));
  // Before the new page is rendered: afterwards it would be laid out twice.
  scrollTo(0, 0);
  document.getElementById("main")?.focus({ preventScroll: true });
  address.value = new URL(location.href);
}

/**
 * Changes the query of this address; null, false and "" take a parameter away.
 *
 * @param {Record<string, string | number | boolean | null | undefined>} changed
 */
export function set(changed) {
  const next = new URL(address.value);
  for (const [name, value] of Object.entries(changed))
    if (value === null || value === undefined || value === false || value === "") next.searchParams.delete(name);
    else next.searchParams.set(name, value === true ? "1" : String(value));
  // `pushState` would add an entry for each letter typed: Back would have to be pressed ten times.
  history.replaceState(null, "", next);
  address.value = next;
}

/** The values of a parameter that holds several. @param {URLSearchParams} query @param {string} name */
export const several = (query, name) => (query.get(name) ?? "").split(",").filter(Boolean);

/** Addresses that the dashboard itself draws. */
const OURS = /^(runs|compare|experiments|checkpoints|recipes|usage|audit|webhooks|alerts)?(\/[^/]*)?$/;

// Links of the dashboard change the page in place; all others, and those with a key held, do not.
document.addEventListener("click", (event) => {
  const link = /** @type {Element} */ (event.target).closest?.("a[href]");
  if (!(link instanceof HTMLAnchorElement) || event.defaultPrevented || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || link.target || link.download || link.hash) return;
  const to = new URL(link.href);
  if (to.origin !== root.origin || !to.pathname.startsWith(root.pathname)) return;
  const below = to.pathname.slice(root.pathname.length);
  if (!OURS.test(below)) return;
  event.preventDefault();
  go(below + to.search);
});
