"""Redaction: a hyperparameter, the notes or a metric of a run, taken out everywhere they went.

    plan        which runs hold it, and what is taken out of them (`domain.redaction`)
    clean_files their files on the disk, before the transaction: repeated after a crash in between
    redact      the rows: runs, events, attempts, labels, points, waiting messages, stored answers

Runs of the same lineage are looked through, and those of the experiment in which one of the texts
stands. For a hyperparameter all of them must have ended: a trainer's own copy cannot be reached.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Executable, bindparam, delete, func, or_, select, update

from app.db.json_lists import one_of
from app.db.search import Position
from app.db.sql import Statement, Tx, columns, dump, load, query, select_all, statement
from app.db.tables import (
    Alert,
    AlertRule,
    Attempt,
    Checkpoint,
    Event,
    HealthFinding,
    IdempotencyKey,
    Label,
    LoggedModel,
    MetricLatest,
    MetricSeries,
    Run,
    RunLink,
    RunSearch,
    WebhookDelivery,
)
from app.domain.lifecycle import TERMINAL
from app.domain.permissions import Permission
from app.domain.redaction import Secrets
from app.domain.requests import RedactRequest
from app.errors import Conflict, InvalidInput
from app.services import events, removals, runs
from app.storage import files

MAX_FILE_BYTES = 4 << 20
"""Of a JSON file of the service; none of them is near it."""

_run, _series, _search = columns(Run), columns(MetricSeries), columns(RunSearch)
_TEXTS = ("hyperparams", "override_hyperparams", "effective_hyperparams", "source", "dataset",
          "model", "name", "tags", "notes", "status_detail", "termination_detail")  # fmt: skip
"""Columns of a run that may hold what was sent."""


@query(Run)
def _lineage(*, experiment: str, root: str) -> Executable:
    return (
        select_all(Run)
        .where(_run.experiment_id == experiment, _run.root_run_id == root)
        .order_by(_run.id)
    )


@query(Run)
def _with_text(*, experiment: str, words: str) -> Executable:
    return (
        select_all(Run)
        .where(
            _run.experiment_id == experiment,
            or_(*(Position(_run[name], words) > 0 for name in _TEXTS)),
        )
        .order_by(_run.id)
    )


_delivery, _stored = columns(WebhookDelivery), columns(IdempotencyKey)


@query(tuple[int])
def _count_sent(*, ids: str) -> Executable:
    sent = one_of(_delivery.id, ids), _delivery.attempts > 0
    return select(func.count()).select_from(WebhookDelivery).where(*sent)


@statement
def _set_search(*, key: str, words: str) -> Executable:
    return update(RunSearch).where(_search.id == key).values(text=words)


@query(tuple[int])
def _series_of(*, runs: str, key: str) -> Executable:
    return select(_series.id).where(one_of(_series.run_id, runs), _series.key == key)


_latest, _finding = columns(MetricLatest), columns(HealthFinding)
_DELETE_LATEST, _DELETE_FINDINGS = (
    Statement[Any](delete(table).where(one_of(own.run_id, "runs"), own.key == bindparam("metric")))
    for table, own in ((MetricLatest, _latest), (HealthFinding, _finding))
)

_alert, _rule = columns(Alert), columns(AlertRule)
_DELETE_ALERTS = Statement[Any](
    delete(Alert).where(
        one_of(_alert.run_id, "runs"),
        _alert.rule_id.in_(select(_rule.id).where(_rule.metric == bindparam("metric"))),
    )
)


class _Copies(NamedTuple):
    """Rows of a table that hold documents: how they are read, and one is written back."""

    found: Statement[tuple[Any, ...]]
    write: Statement[Any]
    keys: tuple[str, ...]
    texts: tuple[str, ...]


def _copies(table: Any, keys: tuple[str, ...], texts: tuple[str, ...], where: Any) -> _Copies:
    own = columns(table)
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in texts}
    matching = [own[name] == bindparam(f"key_{name}") for name in keys]
    return _Copies(
        # Locked, so that also what only others see is found: their stored answers.
        Statement(select(*(own[name] for name in (*keys, *texts))).where(where).with_for_update()),
        Statement(update(table).where(*matching).values(values)),
        keys,
        texts,
    )


_event, _attempt, _label = columns(Event), columns(Attempt), columns(Label)
_link, _model, _checkpoint = columns(RunLink), columns(LoggedModel), columns(Checkpoint)
_OF_RUNS = (
    _copies(Event, ("experiment_id", "seq"), ("data",), one_of(_event.run_id, "runs")),
    _copies(Attempt, ("run_id", "number"), ("spec", "exit"), one_of(_attempt.run_id, "runs")),
    _copies(Label, ("owner_id", "key"), ("value",), one_of(_label.owner_id, "runs")),
    _copies(RunLink, ("run_id", "kind", "key"), ("content",), one_of(_link.run_id, "runs")),
    _copies(LoggedModel, ("id",), ("name", "params", "metrics"), one_of(_model.run_id, "runs")),
    _copies(Checkpoint, ("id",), ("tag_type", "reason"), one_of(_checkpoint.run_id, "runs")),
)
_MESSAGES, _ANSWERS = (
    _copies(table, keys, texts, Position(own.body, bindparam("experiment")) > 0)
    for table, keys, texts, own in (
        (WebhookDelivery, ("id",), ("body", "last_error"), _delivery),
        (IdempotencyKey, ("scope", "key"), ("body",), _stored),
    )
)
_METRICS_OF_CHECKPOINTS = _copies(
    Checkpoint, ("id",), ("metrics",), one_of(_checkpoint.run_id, "runs")
)


# A label is identified by its key: if the secret is in that, the whole label is removed.
_DELETE_LABELS = Statement[Any](
    delete(Label).where(
        one_of(_label.owner_id, "runs"), Position(_label.key, bindparam("words")) > 0
    )
)


class Plan(NamedTuple):
    """The secrets to remove and the runs to search for them; `run` is the one in the request."""

    run: Run
    secrets: Secrets
    runs: list[Run]


class NotReached(StrEnum):
    """A place that a redaction does not reach: secrets that were there may still be there."""

    BACKUPS = "backups"
    # What the trainer printed, and the files that it saved.
    LOG = "log"
    FILES = "files"
    # Messages to webhooks that were sent before.
    MESSAGES = "messages"


class Redacted(NamedTuple):
    """The result of a redaction: the runs that were searched and redacted."""

    run: Run
    run_ids: list[str]
    messages_sent: int
    """The number of messages with the secret that had been sent to a webhook."""

    @property
    def not_reached(self) -> list[NotReached]:
        """Return the places where it may still be."""
        return [kind for kind in NotReached if kind != NotReached.MESSAGES or self.messages_sent]


def plan(tx: Tx, run_id: str, request: RedactRequest, experiment_id: str | None = None) -> Plan:
    """Return what is to be done. Raises NotFound, NotPermitted, InvalidInput, Conflict.

    A hyperparameter that is redacted already is no error: a redaction may be repeated.
    """
    run = runs.get(tx, run_id, experiment_id)
    tx.require(Permission.MAINTAIN, run.experiment_id)
    documents = [
        load(text)
        for text in (run.hyperparams, run.override_hyperparams, run.effective_hyperparams or "{}")
    ]
    fields: dict[str, list[Any]] = {}
    for number, name in enumerate(request.hyperparams):
        fields[name] = [document[name] for document in documents if name in document]
        if not fields[name]:
            raise InvalidInput(
                f"Run {run.id} has no hyperparameter {name!r:.200}.",
                errors=[{"pointer": f"/hyperparams/{number}", "detail": "there is none"}],
            )
    if request.notes:
        fields["notes"] = [run.notes]
    secrets = Secrets.of(fields, frozenset(request.metrics))
    planned = {run.id: run for run in tx.all(
        _lineage, experiment=run.experiment_id, root=run.root_run_id
    )}  # fmt: skip
    for words in secrets.texts:
        inner = json.dumps(words, ensure_ascii=False)[1:-1]  # as it stands in a JSON column
        for text in {words, inner}:
            rows = tx.all(_with_text, experiment=run.experiment_id, words=text)
            planned |= {run.id: run for run in rows}
    living = [run.id for run in planned.values() if run.status not in TERMINAL]
    if living and request.hyperparams:
        raise Conflict(
            f"{living[0]} has not ended and its trainer has a copy: cancel it first.",
            runs=living[:10],
        )
    return Plan(run, secrets, list(planned.values()))


def clean_files(data_dir: Path, planned: Plan) -> None:
    """Take the secrets out of the JSON files of the runs. Blocks; may be repeated."""
    for run in planned.runs:
        absent = suppress(FileNotFoundError, files.Unusable)
        with absent, files.directory(data_dir / "runs", run.id) as folder:
            _clean_folder(folder, planned.secrets)
            for name in files.list_names(folder):
                if name.startswith("attempt-"):
                    with suppress(files.Unusable), files.inner(folder, name) as attempt:
                        _clean_folder(attempt, planned.secrets)


def _clean_folder(folder: int, secrets: Secrets) -> None:
    for name in files.list_names(folder):
        if name.endswith(".json") and files.is_file(folder, name):
            text = files.read(folder, name, MAX_FILE_BYTES).decode(errors="surrogateescape")
            cleaned = secrets.redact_text(text)
            if cleaned != text:
                files.write(folder, name, cleaned.encode(errors="surrogateescape"))


def redact(
    tx: Tx, run_id: str, request: RedactRequest, experiment_id: str | None = None
) -> Redacted:
    """Take it out of every row, with an event that names what. May be repeated.

    Raises NotFound, NotPermitted, InvalidInput, Conflict.
    """
    planned = plan(tx, run_id, request, experiment_id)
    secrets, ids = planned.secrets, [run.id for run in planned.runs]
    for run in planned.runs:
        _redact_run(tx, runs.lock(tx, run.id), secrets)
    for words in secrets.texts:
        tx.run(_DELETE_LABELS, runs=dump(ids), words=words)
    for copies in _OF_RUNS:
        _rewrite(tx, copies, secrets, runs=dump(ids))
    experiment = planned.run.experiment_id
    messages = _rewrite(tx, _MESSAGES, secrets, experiment=experiment)
    _rewrite(tx, _ANSWERS, secrets, experiment=experiment)
    _remove_metrics(tx, secrets.metrics, _list_descendants(planned))
    events.append(
        tx, planned.run.experiment_id, "run.redacted", run_id=planned.run.id,
        hyperparams=request.hyperparams or None, metrics=request.metrics or None,
        notes=request.notes or None, runs=ids,
    )  # fmt: skip
    sent = tx.first(_count_sent, ids=dump([keys[0] for keys in messages]))
    return Redacted(runs.get(tx, run_id), ids, sent[0] if sent is not None else 0)


def _redact_run(tx: Tx, run: Run, secrets: Secrets) -> None:
    changes: dict[str, Any] = {}
    for name in _TEXTS:
        text = getattr(run, name)
        if text is not None:
            # The notes are a field of the run; the others are documents, or sentences.
            holds = secrets.holds(name, text)
            redacted = None if holds and name == "notes" else secrets.redact_text(text)
            if redacted != text:
                changes[name] = redacted
    if changes:
        run = runs.change(tx, run, **changes)
        tx.run(_set_search, key=run.id, words=runs.search_text(run))
    if "tags" in changes:
        runs.set_tags(tx, run)


def _rewrite(tx: Tx, copies: _Copies, secrets: Secrets, **params: Any) -> list[tuple[Any, ...]]:
    """Take the secrets out of rows; return the keys of those that held one."""
    rewritten = []
    for row in tx.all(copies.found, **params):
        keys = dict(zip(copies.keys, row, strict=False))
        texts = dict(zip(copies.texts, row[len(copies.keys) :], strict=True))
        redacted = {
            name: text if text is None else secrets.redact_text(text)
            for name, text in texts.items()
        }
        if redacted != texts:
            named = {f"key_{name}": value for name, value in keys.items()}
            tx.run(copies.write, **named, **{f"new_{name}": t for name, t in redacted.items()})
            rewritten.append(tuple(keys.values()))
    return rewritten


def _list_descendants(planned: Plan) -> list[str]:
    """Return the run and those that were resumed from it, whose curves begin with its points."""
    ids = {planned.run.id}
    for run in planned.runs:  # ordered by id, so that a parent comes before its children
        if run.parent_run_id in ids:
            ids.add(run.id)
    return sorted(ids)


def _remove_metrics(tx: Tx, keys: frozenset[str], run_ids: Sequence[str]) -> None:
    ids = dump(list(run_ids))
    for key in sorted(keys):
        series = [row[0] for row in tx.all(_series_of, runs=ids, key=key)]
        removals.remove_series(tx, series)
        tx.run(_DELETE_LATEST, runs=ids, metric=key)
        tx.run(_DELETE_FINDINGS, runs=ids, metric=key)
        tx.run(_DELETE_ALERTS, runs=ids, metric=key)
    if keys:
        for row in tx.all(_METRICS_OF_CHECKPOINTS.found, runs=ids):
            kept = {key: value for key, value in load(row[1]).items() if key not in keys}
            tx.run(_METRICS_OF_CHECKPOINTS.write, key_id=row[0], new_metrics=dump(kept))
