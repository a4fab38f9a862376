"""Who starts next: priorities, fair shares, quotas and preemption, and that nobody starves.

The simulation prints its seed; `QUEUE_SEED` repeats one.
"""

import os
import random
import statistics

import pytest

from app.domain.lifecycle import Reason
from app.domain.queue import (
    AGING_SECONDS,
    MAX_PREEMPTIONS,
    FairOrder,
    Holder,
    Plan,
    Pool,
    Start,
    Wait,
    Waiting,
    find_victims,
)
from app.domain.quotas import ProjectUse, Quota
from app.domain.resources import Allocation, Capacity, Gpu, Resources
from tests.support.cluster_simulation import Cluster, Job

HIGH, NORMAL, LOW = 0, 1, 2
FOUR = Capacity(8.0, 64.0, tuple(Gpu(str(each), "H100") for each in range(4)))


def waits(id: str, project: str = "p", priority: int = NORMAL, gpus: int = 1,
          waited: float = 0.0) -> Waiting:  # fmt: skip
    return Waiting(id, project, priority, waited, ("local",), Resources(count=gpus))


def holds(
    id: str, priority: int, *gpus: str, since: str = "1", project: str = "p", **more: bool
) -> Holder:
    more = {"may_yield": True} | more
    return Holder(id, project, priority, Allocation(gpus), len(gpus), since, **more)


def plan(*holders: Holder, capacity: Capacity | None = FOUR, **quotas: Quota) -> Plan:
    uses = {name: ProjectUse(quota) for name, quota in quotas.items()}
    for holder in holders:
        use = uses.setdefault(holder.project_id, ProjectUse())
        use.runs += 1
        use.gpus += holder.gpus
    return Plan({"local": Pool(capacity, list(holders))}, uses)


def started(found: Plan, *waiting: Waiting) -> list[str]:
    """The runs that start in one look, in order."""
    ids, order = [], FairOrder(waiting, found.shares())
    for run in order:
        decision = found.consider(run)
        if isinstance(decision, Start):
            order.add_share(run.project_id, found.start(run, decision))
            ids.append(run.id)
    return ids


def test_a_higher_priority_is_first_then_the_smaller_share_then_the_older() -> None:
    order = started(
        plan(holds("r", LOW, "0", project="a")),
        waits("1", "a"), waits("2", "a"), waits("3", "b"), waits("4", "c", HIGH), waits("5", "b"),
    )  # fmt: skip
    assert order == ["4", "3", "1"]


def test_what_one_project_has_submitted_first_does_not_keep_another_out() -> None:
    flood = [waits(f"{number:03}", "a") for number in range(50)]
    assert started(plan(), *flood, waits("900", "b"), waits("901", "b")) == [
        "000", "900", "001", "901",
    ]  # fmt: skip


@pytest.mark.parametrize(("days", "first"), [(0.9, "new"), (1.1, "old"), (3.1, "old")])
def test_a_level_is_gained_with_each_day_of_waiting(days: float, first: str) -> None:
    old = waits("old", "p", LOW, gpus=4, waited=days * AGING_SECONDS)
    new = waits("ynew"[1:], "p", NORMAL if days < 3 else HIGH, gpus=4)
    new = new._replace(id="zzz" if first == "old" else "new")
    assert started(plan(), new, old)[0] == (old.id if first == "old" else new.id)


def test_a_quota_of_runs_holds_its_own_project_up_and_no_other() -> None:
    found = plan(a=Quota(max_runs=1))
    assert started(found, waits("1", "a"), waits("2", "a"), waits("3", "b")) == ["1", "3"]
    told = found.consider(waits("2", "a"))
    assert told == Wait(Reason.WAITING_FOR_QUOTA, "Its project may have 1 at a time.")


def test_small_runs_do_not_overtake_one_that_waits_for_the_gpus_of_their_quota() -> None:
    found = plan(holds("r", NORMAL, "0", project="a"), a=Quota(max_gpus=2))
    assert started(found, waits("1", "a", gpus=2), waits("2", "a"), waits("3", "a", gpus=0)) == [
        "3"
    ]


def test_a_run_that_its_quota_can_never_hold_keeps_nothing_back() -> None:
    found = plan(a=Quota(max_gpus=2))
    assert started(found, waits("1", "a", gpus=3), waits("2", "a")) == ["2"]
    told = found.consider(waits("1", "a", gpus=3))
    assert isinstance(told, Wait) and told.detail == "Needs 3 GPUs; its project may hold 2 in all."


def test_full_checkpoints_keep_a_project_from_starting_more() -> None:
    found = plan(a=Quota(max_bytes=10))
    found.projects["a"].bytes = 9
    assert isinstance(found.consider(waits("1", "a")), Start)
    found.projects["a"].bytes = 10
    told = found.consider(waits("1", "a"))
    assert isinstance(told, Wait) and told.reason is Reason.WAITING_FOR_QUOTA


def victims(run: Waiting, *holders: Holder, capacity: Capacity = FOUR) -> list[str] | None:
    found = find_victims(run, capacity, holders, ())
    return None if found is None else sorted(holder.run_id for holder in found[0])


def test_the_youngest_of_the_lowest_priority_yield_and_no_more_than_needed() -> None:
    holders = (
        holds("old", LOW, "0", since="1"), holds("young", LOW, "1", since="2"),
        holds("normal", NORMAL, "2", "3", since="3"),
    )  # fmt: skip
    assert victims(waits("x", priority=HIGH), *holders) == ["young"]
    assert victims(waits("x", priority=HIGH, gpus=2), *holders) == ["old", "young"]
    assert victims(waits("x", priority=HIGH, gpus=3), *holders) == ["normal", "young"]
    assert victims(waits("x", priority=NORMAL, gpus=3), *holders) is None
    assert victims(waits("x", priority=LOW), *holders) is None


def test_who_has_not_saved_or_ends_anyway_is_not_asked() -> None:
    fresh = holds("fresh", LOW, "0", "1", "2", "3", may_yield=False)
    assert victims(waits("x", priority=HIGH), fresh) is None
    ending = holds("ending", LOW, "0", "1", "2", "3", is_ending=True)
    told = plan(ending).consider(waits("x", priority=HIGH))
    assert isinstance(told, Wait) and told.preempts == ()


def test_a_slot_is_yielded_where_slots_are_what_is_short() -> None:
    one_slot = Capacity(8.0, 64.0, (), slots=1)
    found = plan(holds("low", LOW), capacity=one_slot)
    told = found.consider(waits("x", priority=HIGH, gpus=0))
    assert isinstance(told, Wait) and [each.run_id for each in told.preempts] == ["low"]
    again = found.consider(waits("y", priority=HIGH, gpus=0))
    assert isinstance(again, Wait) and again.preempts == ()  # one place is promised already


def test_nobody_yields_for_a_run_that_could_not_start_anyway() -> None:
    low = holds("low", LOW, "0", "1", "2", "3")
    run = waits("x", priority=HIGH)._replace(may_preempt=False)
    told = plan(low).consider(run)
    assert isinstance(told, Wait) and told.preempts == ()
    over = plan(low, a=Quota(max_runs=0)).consider(waits("x", "a", HIGH))
    assert isinstance(over, Wait) and over.preempts == ()


def simulate(seed: int, runs: int, nodes: int) -> Cluster:
    """Four projects on shared nodes: one floods, one has urgent work, one a quota, one is small.

    They ask for as much as the nodes can do while they submit: with the sum left to chance, 700
    runs may ask for half as much again, and then wait for days under any rule.
    """
    chance = random.Random(seed)
    quotas = {"flood": Quota(), "urgent": Quota(), "bound": Quota(max_runs=30, max_gpus=112),
              "small": Quota()}  # fmt: skip
    cluster, jobs = Cluster(nodes, 8, quotas, tick=300.0), list[Job]()
    for number in range(runs):
        project = chance.choices(("flood", "urgent", "bound", "small"), (70, 15, 10, 5))[0]
        weights = (60, 35, 5) if project == "urgent" else (3, 60, 37)
        priority = chance.choices((HIGH, NORMAL, LOW), weights)[0]
        gpus = chance.choices((1, 2, 4, 8, 16, 64), (40, 20, 15, 15, 8, 2))[0]
        seconds = min(chance.lognormvariate(9.0, 1.0), 3 * 86_400.0)
        jobs.append(Job(f"run_{number:06}", project, priority, gpus, seconds))
    work = sum(job.gpus * job.seconds for job in jobs) / (nodes * 8)
    for at, job in zip(sorted(chance.uniform(0, work) for _ in jobs), jobs, strict=True):
        cluster.submit(at, job)
    cluster.run()
    return cluster


@pytest.mark.parametrize(
    ("runs", "nodes"), [(700, 12), pytest.param(10_000, 100, marks=pytest.mark.heavy)]
)
def test_every_run_of_a_full_cluster_ends_and_nobody_starves(runs: int, nodes: int) -> None:
    seed = int(os.environ.get("QUEUE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"QUEUE_SEED={seed}")
    cluster = simulate(seed, runs, nodes)
    jobs = cluster.jobs
    assert len(jobs) == runs and all(job.ended is not None for job in jobs), seed

    preempted = [job for job in jobs if job.preemptions]
    assert preempted and max(job.preemptions for job in jobs) <= MAX_PREEMPTIONS, seed
    assert all(job.priority != HIGH for job in preempted), seed
    # Work that had been saved is not done again.
    assert all(job.lost <= job.preemptions * 600 for job in jobs), seed
    # Of the lowest level, a run is before all that is submitted three days later.
    assert cluster.overtaken < 3 * 86_400, seed

    def wait(project: str, priority: int) -> float:
        return statistics.median(
            job.first_started - job.submitted
            for job in jobs
            if job.project == project and job.priority == priority and job.first_started is not None
        )

    assert wait("urgent", HIGH) <= wait("flood", LOW) + 3600, seed
    # A project that asks for little is not behind one that floods the queue.
    assert wait("small", LOW) <= wait("flood", LOW) + AGING_SECONDS / 2, seed
