// Who looks at this, the projects that it may see, and what it may do in each: asked for once, after
// what the page shows. The service says what one may do; what a page does not offer it would refuse.
import { signal } from "@preact/signals";
import { ask } from "./graphql.js";
import { VIEWER } from "./operations.js";
import { t } from "./words.js";
import { tags } from "./dom.js";

const { p } = tags;
const SOON = 400;
const AGAIN = 5000;

/** @typedef {import("./generated.js").Operations["Viewer"]["result"]} Viewer */
/** @typedef {import("./generated.js").Permission} Permission */

/** @type {import("@preact/signals").Signal<Viewer | null>} */
export const viewer = signal(null);

export const look = (wait = SOON) => {
  setTimeout(() => ask(VIEWER, {}).then((found) => (viewer.value = found), () => look(AGAIN)), wait);
};

/** What the project of an id is called. @param {string} id */
export const projectName = (id) => viewer.value?.projects.find((project) => project.id === id)?.name ?? id;

/** Projects are shown if there are others than the default one. */
export const hasProjects = () => (viewer.value?.projects.length ?? 0) > 1;

/** True if one may do this in a project. @param {Permission} permission @param {{ permissions: Permission[] }} project */
export const may = (permission, project) => project.permissions.includes(permission);

/** The projects in which one may do this; none until they are known. @param {Permission} permission */
export const projectsWith = (permission) => viewer.value?.projects.filter((project) => may(permission, project)) ?? [];

/** True once it is known that one may do this nowhere. @param {Permission} permission */
export const mayNowhere = (permission) => Boolean(viewer.value) && !projectsWith(permission).length;

/** Which of a page's actions are not here, and whose they are. @param {{ project: { permissions: Permission[] } }} props */
export const Rights = ({ project }) =>
  may("MAINTAIN", project) ? null : p({ class: "faint", role: "note" }, may("WRITE", project)
    ? t("Maintainers of its project can release and delete.")
    : t("You have read access. Members of its project can change this."));

/** On whose behalf something was done; nothing where it can be nobody else.
 * @param {{ kind: string, name: string | null } | null} actor */
export function acted(actor) {
  if (!actor || actor.kind === "LOCAL") return "";
  if (actor.kind === "SUPERVISOR") return t("the service");
  if (actor.kind === "RUN") return t("its trainer");
  return actor.name ?? t("API token");
}
