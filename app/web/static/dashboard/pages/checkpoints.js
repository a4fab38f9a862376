// Checkpoints of all runs: releases and candidates first, everything on demand.
import { useState } from "preact/hooks";
import { ask, once } from "../graphql.js";
import { CHECKPOINTS, VERIFY } from "../operations.js";
import { href, params, set } from "../route.js";
import { ago, clock, number, short, size } from "../format.js";
import { Choice, Copy, Empty, Loading, Status, Trouble, useTicks, useTitle } from "../parts.js";
import { usePages } from "../pages.js";
import { Tags } from "../run/checkpoints.js";
import { sentence } from "../service.js";
import { may } from "../viewer.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, h1, span, a, button, table, thead, tbody, tr, th, td, p } = tags;

/** @typedef {import("../generated.js").Operations["Checkpoints"]["result"]["checkpoints"]["nodes"][number]} Row */

const KINDS = /** @type {[string, string][]} */ ([["", t("Marked")], ["release", t("Releases")], ["candidate", t("Candidates")], ["all", t("All")]]);

export function Checkpoints() {
  const kind = params.value.get("kind") ?? "";
  const experiment = params.value.get("experiment");
  useTitle(t("Checkpoints"));
  useTicks();
  const { rows, total, error, again, more } = usePages(`${kind} ${experiment}`, async (from) =>
    (await ask(CHECKPOINTS, {
      ...from,
      filter: { experimentId: experiment, ...(kind === "all" ? {} : kind ? { tagType: kind } : { marked: true }) },
      order: kind === "all" ? null : { field: "MARKED_AT", direction: "DESC" },
    })).checkpoints);

  return div(
    { class: "page" },
    div({ class: "bar" }, h1({}, t("Checkpoints"), total === null ? null : span({ class: "total" }, total)),
      h(Choice, { label: t("Which checkpoints"), value: kind, options: KINDS, choose: (value) => set({ kind: value }) }),
      experiment ? button({ type: "button", class: "filter", onClick: () => set({ experiment: null }) }, t("Of one experiment"), " ×") : null),
    h(Trouble, { error, again }),
    total === null && !error ? h(Loading, {}) : null,
    total === 0
      ? h(Empty, { title: kind === "all" ? t("No checkpoints yet.") : t("No checkpoint is marked.") },
          p({}, t("Trainers save checkpoints; a person marks one as a candidate or a release, on its run's page.")),
          kind === "all" ? null : button({ type: "button", onClick: () => set({ kind: "all" }) }, t("Show all")))
      : null,
    rows.length && total !== null
      ? div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Checkpoints") }, table({ class: "plain list" },
          thead({}, tr({}, [t("Mark"), t("State"), t("Step"), t("Metrics"), t("Size"), t("Experiment"), t("Run"), t("When"), ""].map((name) =>
            th({ key: name, scope: "col", class: name === t("Step") || name === t("Size") ? "number" : "" }, name || span({ class: "hidden" }, t("Actions")))))),
          tbody({}, rows.map((row) =>
            tr({ key: row.id, "data-checkpoint": row.ckptPath },
              td({}, h(Tags, { checkpoint: row })),
              td({}, h(Status, { status: row.state }), row.reason ? div({ class: "faint sub clip", title: sentence(row.reason) }, sentence(row.reason)) : null),
              td({ class: "number" }, number(row.step)),
              td({ class: "faint" }, Object.entries(row.metrics ?? {}).map(([key, value]) => `${key} ${number(/** @type {number} */ (value))}`).join(" · ") || "–"),
              td({ class: "number" }, size(row.sizeBytes)),
              td({ class: "clip" }, a({ href: href(`experiments/${row.experiment.id}`) }, row.experiment.name)),
              td({}, a({ class: "id", href: href(`runs/${row.run.id}`), title: row.run.id }, short(row.run.id))),
              td({ class: "faint", title: clock(row.markedAt ?? row.createdAt) }, ago(row.markedAt ?? row.createdAt)),
              td({ class: "actions" }, may("WRITE", row.experiment.project) ? h(Verify, { row, done: again }) : null, h(Copy, { text: row.ckptPath })))))))
      : null,
    more ? button({ type: "button", onClick: more }, t("More")) : null,
  );
}

/** Every byte is read again and compared with the manifest. @param {{ row: Row, done: () => void }} props */
function Verify({ row, done }) {
  const [said, setSaid] = useState("");
  if (row.state !== "READY") return null;
  const verify = async () => {
    setSaid(t("Reading…"));
    try {
      const { verifyCheckpoint } = await ask(VERIFY, { input: { ckptPath: row.ckptPath, idempotencyKey: once() } });
      const [error] = verifyCheckpoint.userErrors;
      setSaid(error ? error.message : verifyCheckpoint.checkpoint?.state === "READY" ? `✓ ${t("intact")}` : "");
      if (verifyCheckpoint.checkpoint?.state !== "READY") done();
    } catch (wrong) {
      setSaid(/** @type {Error} */ (wrong).message);
    }
  };
  return button({ type: "button", class: "quiet", onClick: verify, title: t("Read every byte again and compare it with the manifest") }, said || t("Verify"));
}
