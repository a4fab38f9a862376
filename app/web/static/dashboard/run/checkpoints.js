// A run's checkpoints, newest first, and their actions.
import { ago, clock, number, size } from "../format.js";
import { Copy, Status } from "../parts.js";
import { sentence } from "../service.js";
import { may } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { section, h2, table, tbody, tr, td, span, div, button, p } = tags;

/** @typedef {import("../pages/run.js").Checkpoint} Checkpoint */

/**
 * @param {{ run: import("../pages/run.js").RunDetail, active: boolean,
 *   act: (what: { mark: Checkpoint } | { resume: Checkpoint }) => void }} props
 */
export const Checkpoints = ({ run, active, act }) =>
  section({ "aria-label": t("Checkpoints") },
    h2({}, t("Checkpoints"), span({ class: "total" }, run.checkpoints.totalCount)),
    run.checkpoints.nodes.length
      ? div({ class: "scroll", tabIndex: 0, role: "region", "aria-label": t("Checkpoints") }, table({ class: "plain" }, tbody({}, run.checkpoints.nodes.map((checkpoint) =>
          tr({ key: checkpoint.id, "data-checkpoint": checkpoint.ckptPath, "data-state": checkpoint.state },
            td({}, h(Status, { status: checkpoint.state }), h(Tags, { checkpoint }),
              div({ class: "faint sub clip", title: checkpoint.reason ? sentence(checkpoint.reason) : checkpoint.ckptPath }, checkpoint.reason ? sentence(checkpoint.reason) : checkpoint.ckptPath.split("/").pop())),
            td({ class: "number" }, checkpoint.step === null ? "–" : t("step {n}", { n: number(checkpoint.step) }),
              div({ class: "faint sub", title: clock(checkpoint.createdAt) }, `${size(checkpoint.sizeBytes)} · ${ago(checkpoint.createdAt)}`)),
            td({ class: "actions" },
              checkpoint.state === "READY" && may("WRITE", run.experiment.project) ? button({ type: "button", class: "quiet", onClick: () => act({ resume: checkpoint }) }, t("Resume…")) : null,
              checkpoint.state === "READY" && may(isRelease(checkpoint) ? "MAINTAIN" : "WRITE", run.experiment.project) ? button({ type: "button", class: "quiet", onClick: () => act({ mark: checkpoint }) }, t("Mark…")) : null,
              h(Copy, { text: checkpoint.ckptPath })))))))
      : p({ class: "faint" }, active ? t("None saved yet.") : t("It saved none.")));

/** True for a release: only a maintainer may change its mark.
 * @param {{ tagType: string | null, releaseTag: string | null }} checkpoint */
export const isRelease = ({ tagType, releaseTag }) => tagType === "release" || releaseTag !== null;

/** @param {{ checkpoint: { tagType: string | null, releaseTag: string | null } }} props */
export const Tags = ({ checkpoint: { tagType, releaseTag } }) =>
  tagType ? span({ class: `tag ${tagType}` }, releaseTag ? `${tagType} ${releaseTag}` : tagType) : null;
