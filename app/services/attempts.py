"""Attempts whose agent does not share the service's files: the service's side of its mailbox.

create(tx, …)        with the submission: the code that its job carries, and what is to be done
claim(tx, …)         the first agent that shows the code wins, and may ask again
(pulses)             the agent lives; the answer is what it must do
finish(tx, …)        how the attempt ended
request_stop(tx, …)  from the supervisor, which also reads the rows: `get`, `list_live`

An attempt that is not the run's current one any more is over: its agent is told so, and nothing
that it says is recorded. The output and the checkpoints of an attempt are files: `train_log`,
`uploads`. The same words over HTTP are in app/rest/attempts.py and app/agent/http.py.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Unpack

from sqlalchemy import Executable, bindparam, select, update

from app import tracing
from app.agent.mailbox import ExitRecord, LaunchConfig
from app.db.changes import SUPERVISOR
from app.db.objects import replace
from app.db.rows import AttemptChanges
from app.db.sql import Statement, Tx, columns, dump, load, query, select_all
from app.db.tables import Attempt, Run
from app.domain.attempts import ExitRequest, Stop
from app.domain.lifecycle import LAUNCHED, TERMINAL, Reason, RunStatus
from app.domain.recipes import Recipe, build_remote_environment, with_tracking
from app.domain.tokens import digest, secrets_match
from app.errors import AttemptClaimed, NotFound, RunFinished, StaleAttempt, Unauthorized
from app.services import runs

NEVER_BEGAN = "Stopped before the trainer began."
FAILURES = 2
"""So many attempts must have failed on a node before others avoid it."""

_attempt, _run = columns(Attempt), columns(Run)


def _key(run: Any, nr: Any) -> Any:
    return (_attempt.run_id == run, _attempt.number == nr)


@query(Attempt)
def _by_key(*, run: str, nr: int) -> Executable:
    return select_all(Attempt).where(*_key(run, nr))


class LiveAttempt(NamedTuple):
    """The fields of an active attempt that the supervisor reads twice a second."""

    run_id: str
    number: int
    agent: str | None
    pulse_at: str | None
    ran_seconds: float | None
    exit: str | None


@query(LiveAttempt)
def _live() -> Executable:
    return (
        select(*[_attempt[name] for name in LiveAttempt._fields])
        .select_from(Attempt)
        .join(_run.id.table, (_run.id == _attempt.run_id) & (_run.attempt == _attempt.number))
        .where(_run.status.not_in([status.value for status in sorted(TERMINAL)]))
        .order_by(_attempt.run_id)
    )


@query(tuple[str])
def _failed(*, launcher: str, since: str) -> Executable:
    return (
        select(_attempt.nodes)
        .select_from(_attempt.run_id.table)
        .join(_run.id.table, _run.id == _attempt.run_id)
        .where(
            (_attempt.reason == Reason.NODE_FAILED.value) | (_attempt.reason == Reason.LOST.value),
            _attempt.nodes.is_not(None),
            _attempt.claimed_at >= since,
            _run.launcher == launcher,
        )
    )


class Claim(NamedTuple):
    """A claimed attempt, and its run."""

    run: Run
    attempt: Attempt


def create(
    tx: Tx, run: Run, code: str, spec: dict[str, Any], resume_path: str | None = None
) -> Attempt:
    """Record the run's current attempt, which the agent that shows `code` may claim.

    Args:
        spec: what the trainer must do; without secrets.
        resume_path: the logical path of the checkpoint whose files the agent may download.
    """
    attempt = Attempt(
        run_id=run.id, number=run.attempt, spec=dump(spec), resume_path=resume_path,
        claim_sha256=digest(code),
    )  # fmt: skip
    tx.insert(attempt)
    return attempt


def get(tx: Tx, run_id: str, number: int) -> Attempt:
    """Return the attempt. Raises NotFound."""
    attempt = tx.first(_by_key, run=run_id, nr=number)
    if attempt is None:
        raise NotFound(f"Run {run_id} has no attempt {number} that is reached over HTTP.")
    return attempt


def list_live(tx: Tx) -> list[LiveAttempt]:
    """Return the current attempts of all runs that have not ended."""
    return tx.all(_live)


def claim(tx: Tx, run_id: str, number: int, code: str, agent: str, host: str | None) -> Claim:
    """Give the attempt to the first agent that shows its code; the same agent may ask again.

    A run that waits in an engine's queue begins to start. Raises Unauthorized, AttemptClaimed,
    RunFinished, StaleAttempt.
    """
    attempt = tx.first(_by_key, run=run_id, nr=number)
    if attempt is None or not secrets_match(digest(code), attempt.claim_sha256):
        # Of a run that is not there alike: nobody learns which ones there are.
        raise Unauthorized("Send the claim code of this attempt: `Authorization: Bearer ac_…`.")
    run = runs.lock(tx, run_id)
    attempt = get(tx, run_id, number)  # as it is now that nobody else changes it
    _check_current(run, attempt)
    if attempt.agent is not None:
        if attempt.agent != agent:
            raise AttemptClaimed("Another agent has claimed this attempt; start nothing.")
        return Claim(run, attempt)
    if attempt.stop is not None or run.status == RunStatus.CANCELLING:
        raise StaleAttempt("The attempt was stopped before its trainer began; start nothing.")
    if run.status == RunStatus.QUEUED:
        run = runs.move(
            tx, run, RunStatus.STARTING, launched_at=tx.now, claimed_at=tx.now, heartbeat_at=None
        )
    else:
        run = runs.change(tx, run, claimed_at=tx.now)
    attempt = _change(tx, attempt, agent=agent, host=host, claimed_at=tx.now, pulse_at=tx.now)
    tx.notify(SUPERVISOR)
    return Claim(run, attempt)


def launch_config(
    claim: Claim, recipe: Recipe, environment: Mapping[str, str], token: str, api_url: str
) -> LaunchConfig:
    """Return how the agent must start the trainer.

    Its machine's own environment and interpreter are used: `{python}` stands for that one.
    """
    run = claim.run
    own = {
        "LLM_TRAIN_API_URL": api_url,
        "LLM_TRAIN_RUN_ID": run.id,
        "LLM_TRAIN_RUN_TOKEN": token,
        "LLM_TRAIN_ATTEMPT": str(run.attempt),
        "PYTHONUNBUFFERED": "1",
        **tracing.environment(),
    }
    env = build_remote_environment(recipe, environment, own)
    # Else torchrun kills its workers 30 s after the stop signal, whatever the grace of the recipe.
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(recipe.grace_seconds))}
    return {
        "argv": list(recipe.argv("{python}", load(run.hyperparams))),
        "env": patience | with_tracking(env, api_url, run.id, token),
        "cwd": str(recipe.working_dir) if recipe.working_dir else None,
        "nonce": run.nonce or "",
        "stop_signal": int(recipe.stop_signal or 0),
        "grace_seconds": recipe.grace_seconds,
        "max_log_bytes": recipe.max_log_mb << 20,
        "failpoints": {},
    }


def ask_to_stop(tx: Tx, run_id: str, number: int) -> None:
    """Record that an agent's cluster wants it to stop; its other agents read it from there.

    Raises NotFound.
    """
    run, attempt = runs.lock(tx, run_id), get(tx, run_id, number)
    if is_current(run, attempt) and attempt.stop is None:
        _change(tx, attempt, stop=Stop.STOP.value)
        tx.notify(run_id)


def is_current(run: Run, attempt: Attempt) -> bool:
    """Return True if what the agent of this claimed attempt says still counts."""
    return run.attempt == attempt.number and run.status in LAUNCHED and attempt.exit is None


def get_current(tx: Tx, run_id: str, number: int) -> Claim:
    """Return the attempt and its run. Raises NotFound, and Conflict if it is over."""
    run, attempt = runs.get(tx, run_id), get(tx, run_id, number)
    _check_current(run, attempt)
    return Claim(run, attempt)


def _check_current(run: Run, attempt: Attempt) -> None:
    if RunStatus(run.status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; nothing more is recorded.")
    if run.attempt != attempt.number or attempt.exit is not None:
        raise StaleAttempt(f"Attempt {attempt.number} of this run is over.", attempt=run.attempt)


def finish(tx: Tx, run_id: str, number: int, record: ExitRequest, log_start: int) -> Attempt:
    """Record how the attempt ended. The first record stays, whatever is sent again.

    Raises NotFound; Conflict if the attempt was over without one.
    """
    run, attempt = runs.lock(tx, run_id), get(tx, run_id, number)
    if attempt.exit is not None:
        return attempt
    _check_current(run, attempt)
    return _finish(tx, attempt, ExitRecord(**record.model_dump(exclude={"format", "log_start"}),
                                           log_start=log_start))  # fmt: skip


def request_stop(tx: Tx, run_id: str, number: int, *, kill: bool = False) -> Attempt:
    """Ask the agent to stop its trainer, or to kill it; one that has not begun never will.

    Again: changes nothing, but that a kill follows a stop. Raises NotFound.
    """
    runs.lock(tx, run_id)
    attempt = get(tx, run_id, number)
    if attempt.exit is not None or attempt.stop == Stop.KILL:
        return attempt
    if attempt.agent is None:
        return _finish(tx, attempt, ExitRecord(detail=NEVER_BEGAN))
    wanted = Stop.KILL if kill else Stop.STOP
    if attempt.stop != wanted:
        attempt = _change(tx, attempt, stop=wanted.value)
        tx.notify(run_id)
    return attempt


def get_exit(attempt: Attempt | LiveAttempt) -> ExitRecord | None:
    """Return how the attempt ended; None while it has not."""
    if attempt.exit is None:
        return None
    record = load(attempt.exit)
    return ExitRecord(**{name: record[name] for name in ExitRecord._fields if name in record})


def record_nodes(tx: Tx, nodes_by_attempt: Sequence[tuple[tuple[str, int], Sequence[str]]]) -> None:
    """Record the engine's names of the machines that attempts run on, each by its key."""
    for (run_id, number), nodes in nodes_by_attempt:
        runs.lock(tx, run_id)
        attempt = tx.first(_by_key, run=run_id, nr=number)
        if attempt is not None and attempt.nodes != dump(list(nodes)):
            _change(tx, attempt, nodes=dump(list(nodes)))


def record_failure(tx: Tx, run_id: str, number: int, reason: Reason | None) -> None:
    """Record why an attempt failed, which the caller has locked the run of."""
    attempt = tx.first(_by_key, run=run_id, nr=number)
    if attempt is not None and reason is not None:
        _change(tx, attempt, reason=reason.value)


def list_suspect_nodes(tx: Tx, launcher: str, since: str) -> list[str]:
    """Return the nodes of an engine on which attempts have failed since then, and not by
    themselves: FAILURES at least, those with most failures first.

    An attempt on several nodes counts for none: which of them failed is not known.
    """
    failures: Counter[str] = Counter()
    for (text,) in tx.all(_failed, launcher=launcher, since=since):
        nodes = load(text)
        if len(nodes) == 1:
            failures[nodes[0]] += 1
    return [node for node, count in failures.most_common() if count >= FAILURES]


def _finish(tx: Tx, attempt: Attempt, record: ExitRecord) -> Attempt:
    tx.notify(SUPERVISOR, attempt.run_id)
    return _change(tx, attempt, exit=dump(record.to_dict()))


def _change(tx: Tx, attempt: Attempt, **changes: Unpack[AttemptChanges]) -> Attempt:
    tx.send(
        _changing(frozenset(changes)), run=attempt.run_id, nr=attempt.number,
        **{f"new_{name}": value for name, value in changes.items()},
    )  # fmt: skip
    return replace(attempt, **changes)


@cache
def _changing(names: frozenset[str]) -> Statement[Any]:
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    key = _key(bindparam("run"), bindparam("nr"))
    return Statement(update(Attempt).where(*key).values(values))
