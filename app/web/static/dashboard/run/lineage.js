// The lineage: which run was resumed from which, at which step, with which overrides.
import { useEffect, useState } from "preact/hooks";
import { ask } from "../graphql.js";
import { LINEAGE } from "../operations.js";
import { href } from "../route.js";
import { called, flat, number, plain } from "../format.js";
import { RunLink, Status } from "../parts.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { section, h2, ul, li, span, a, div } = tags;

/** @typedef {import("../generated.js").Operations["Lineage"]["result"]["runs"]["nodes"][number]} Member */

/** @param {{ run: import("../pages/run.js").RunDetail }} props */
export function Lineage({ run }) {
  const [members, setMembers] = useState(/** @type {Member[]} */ ([]));
  useEffect(() => {
    ask(LINEAGE, { root: run.root.id }).then(({ runs }) => setMembers(runs.nodes), () => {});
  }, [run.root.id, run.status]);
  if (members.length < 2) return null;

  /** @type {(parent: string | null) => any} */
  const branch = (parent) => {
    const here = members.filter((member) => (member.parent?.id ?? null) === parent || (parent === null && member.id === run.root.id));
    return here.length
      ? ul({ class: "lineage" }, here.map((member) =>
          li({ key: member.id },
            div({ class: member.id === run.id ? "here" : "", "aria-current": member.id === run.id ? "true" : undefined },
              h(RunLink, { run: member }), h(Status, { status: member.status }),
              span({ class: "faint nowrap" }, member.sourceCheckpoint?.step != null
                ? t("from step {n}", { n: number(member.sourceCheckpoint.step) }) : t("step {n}", { n: number(member.step) })),
              span({ class: "faint clip" }, Object.entries(flat(member.overrideHyperparams)).map(([key, value]) => `${key} ${plain(value)}`).join(", "))),
            branch(member.id))))
      : null;
  };
  return section({ "aria-label": t("Lineage") },
    div({ class: "bar" }, h2({}, t("Lineage")),
      a({ class: "quiet button", href: href(`compare?runs=${members.slice(0, 20).map(({ id }) => id).join(",")}`), title: members.map(called).join(", ") },
        t("Compare {n}", { n: Math.min(20, members.length) }))),
    branch(null));
}
