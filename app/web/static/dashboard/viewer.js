// Who looks at this, and the projects that it may see: asked for once, after what the page shows.
import { signal } from "@preact/signals";
import { ask } from "./graphql.js";
import { VIEWER } from "./operations.js";
import { t } from "./words.js";

const SOON = 400;

/** @typedef {import("./generated.js").Operations["Viewer"]["result"]} Viewer */

/** @type {import("@preact/signals").Signal<Viewer | null>} */
export const viewer = signal(null);

export const look = () => setTimeout(() => ask(VIEWER, {}).then((found) => (viewer.value = found), () => {}), SOON);

/** What the project of an id is called. @param {string} id */
export const projectName = (id) => viewer.value?.projects.find((project) => project.id === id)?.name ?? id;

/** Projects are told of where there is more than the one that everybody has. */
export const hasProjects = () => (viewer.value?.projects.length ?? 0) > 1;

/** On whose behalf something was done; nothing where it can be nobody else.
 * @param {{ kind: string, name: string | null } | null} actor */
export function acted(actor) {
  if (!actor || actor.kind === "LOCAL") return "";
  if (actor.kind === "SUPERVISOR") return t("the service");
  if (actor.kind === "RUN") return t("its trainer");
  return actor.name ?? t("API token");
}
