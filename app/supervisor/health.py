"""Health rules of recipes: read what is new of their metrics, and do what the rule says."""

from app.db.sql import Tx
from app.domain.health import (
    Finding,
    HealthAction,
    HealthRule,
    HealthWatch,
    Rule,
    describe_nan,
)
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe
from app.services import curves, health, runs
from app.services.curves import Window
from app.services.live_runs import LiveRun
from app.supervisor.state import SupervisorState
from app.supervisor.terminate import request_termination, stop

PAGE = 5_000


async def check_health(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    """Act on a trainer whose metrics break a rule of its recipe."""
    if run.termination_reason == Reason.UNHEALTHY:
        await stop(state, run)
        return
    if not recipe.health or run.status != RunStatus.RUNNING or run.finished:
        return
    attempt = state.attempt(run)
    watch = attempt.health or HealthWatch(recipe.health)
    if watch.checked_at == run.heartbeat_at:
        return  # nothing was reported since
    attempt.health = None  # if this fails, all is read again: its findings may not be on record
    for rule, finding in await _find(state, run, watch):
        await state.db.write(_record, run, rule, finding)
    watch.checked_at = run.heartbeat_at
    attempt.health = watch
    await _act(state, run, recipe)


async def _find(
    state: SupervisorState, run: LiveRun, watch: HealthWatch
) -> list[tuple[Rule, Finding]]:
    """Feed the detectors with what is new; return what they find of this attempt."""
    findings: list[tuple[Rule, Finding]] = []
    start = (await state.db.read(runs.get, run.id)).start_step
    for index, (rule, detector) in enumerate(watch.rules):
        assert rule.metric is not None
        while True:
            window = Window(from_step=watch.next_steps[index], limit=PAGE)
            (curve,) = await state.db.scan(curves.read, [run.id], [rule.metric], window)
            for step, value in zip(curve.steps, curve.values, strict=True):
                finding = detector.feed(rule.metric, step, value)
                if finding is not None and step > start:
                    findings.append((rule, finding))
            if curve.steps:
                watch.next_steps[index] = curve.steps[-1] + 1
            if curve.next_after_step is None:
                break
    return findings


def _record(tx: Tx, seen: LiveRun, rule: Rule, finding: Finding) -> None:
    run = runs.lock(tx, seen.id)
    if run.attempt == seen.attempt:
        health.record(tx, run, finding)


async def _act(state: SupervisorState, run: LiveRun, recipe: Recipe) -> None:
    """End the trainer if a rule with an action was broken in this attempt."""
    for finding in await state.db.read(health.list_of_run, run.id):
        rule = _rule_of(recipe, finding.rule, finding.key)
        if finding.attempt != run.attempt or rule is None or rule.action is HealthAction.EVENT:
            continue
        detail = _describe(rule, finding.key, finding.step)
        await state.db.write(health.set_action, finding, rule.action)
        if await request_termination(state, run, Reason.UNHEALTHY, detail):
            await stop(state, run)
        return


def _rule_of(recipe: Recipe, name: str, key: str) -> Rule | None:
    """Return the rule that a finding broke; of several the one that does most about it."""
    actions = list(HealthAction)
    broken = [rule for rule in recipe.health if rule.rule == name and rule.covers(key)]
    return max(broken, key=lambda rule: actions.index(rule.action), default=None)


def _describe(rule: Rule, key: str, step: int) -> str:
    if rule.rule is HealthRule.NAN:
        return describe_nan(key, step).detail
    words = {HealthRule.SPIKE: "has a spike", HealthRule.BELOW: f"is below {rule.value:g}"}
    return f"{key} {words.get(rule.rule, f'is above {rule.value:g}')} at step {step}."
