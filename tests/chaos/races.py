"""The figures one at a time: server kills, cancels, restarts, damages.

Each prints what it saw, and returns what broke.
"""

import os
import random
import signal
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.server import free_port, running_server
from tests.support.service import TERMINAL, Service, home
from tests.support.writers import Writers

AT_ONCE = 8


def server_kills(directory: Path, number: int, seed: int, url: str) -> list[str]:
    """Kill the server at any instant under eight writers: nothing acknowledged is lost or doubled.

    The writers never give up, and go on through every kill under the same idempotency keys.
    """
    dice, port, ready = random.Random(seed), free_port(), list[float]()
    with running_server(directory, port=port, DATABASE_URL=url) as server:
        writers = Writers([server.url], seed=seed)
    try:
        with writers:
            for _ in range(number):
                since = time.monotonic()
                with running_server(
                    directory, port=port, keep_trainers=True, DATABASE_URL=url
                ) as server:
                    ready.append(time.monotonic() - since)
                    writers.wait_for(1)
                    time.sleep(dice.uniform(0, 0.3))
                    os.kill(server.pid, signal.SIGKILL)
            with running_server(directory, port=port, DATABASE_URL=url):
                writers.stop()
                writers.audit(url)
                writers.replay()
        assert writers.retries, "nobody noticed the kills"
    except AssertionError as error:
        return [str(error)]
    print(
        f"{number} kills under 8 writers: {len(writers.done)} acknowledged, {writers.retries} sent"
        f" again, 0 lost, 0 doubled; ready again after {statistics.median(ready):.2f} s (median),"
        f" {max(ready):.2f} s (slowest)"
    )
    return []


def cancels(directory: Path, number: int, seed: int, url: str) -> list[str]:
    """Cancel short runs at random moments of their lives: one terminal state each, and a ready
    checkpoint for each that took a step."""
    dice, broken, outcomes = random.Random(seed), list[str](), Counter[str]()
    batch: dict[str, Any] = {}
    done = 0
    with home(directory / "cancels") as place:
        place.settings |= {"DATABASE_URL": url, "MAX_LOCAL_RUNS": str(AT_ONCE)}
        while done < number:
            with place.serve() as service:  # a new one after each crash
                crashed = False
                while done < number and not crashed:
                    if not batch:
                        place.experiment = service.open()  # all its history in one answer
                        batch = cancel_some(service, min(AT_ONCE, number - done), dice)
                        if crashed := dice.random() < 0.1:
                            service.kill()
                            continue
                    for run, answer in batch.items():
                        outcome = judge_cancel(service, run, answer, service.ended(run))
                        outcomes[outcome] += 1
                        if outcome.startswith("broken"):
                            broken.append(f"cancel of {run}: {outcome}")
                    done += len(batch)
                    batch = {}
    print(f"{number} cancel races: {dict(outcomes)}")
    return broken


def cancel_some(service: Service, number: int, dice: random.Random) -> dict[str, Any]:
    """Submit runs and cancel each at a random moment of its life; the answers."""
    moments = {}
    for _ in range(number):
        run = service.submit(
            dice.choice(("obedient", "finishes")), steps=dice.randrange(3, 40), step_seconds=0.02,
            checkpoint_every=3,
        )  # fmt: skip
        moments[run] = time.monotonic() + dice.uniform(0, 1.6)
    answers = {}
    for run, moment in sorted(moments.items(), key=lambda item: item[1]):
        time.sleep(max(0.0, moment - time.monotonic()))
        answers[run] = service.cancel(run)
    return answers


def judge_cancel(service: Service, run: str, answer: Any, ended: Any) -> str:
    """Return what became of a cancelled run, in one word; `broken …` if it may not be."""
    last = [e["type"] for e in service.events(run) if e["type"].removeprefix("run.") in TERMINAL]
    if last != [f"run.{ended['status']}"]:
        return f"broken: terminal events {last}"
    if answer.get("code") == "run_finished":
        return "over before" if ended["status"] == "succeeded" else "broken: refused"
    again = service.cancel(run, 200)
    state, step = again["checkpoint"]["state"], again["checkpoint"]["step"]
    if ended["status"] != "cancelled" or again["ckpt_path"] != answer["ckpt_path"]:
        return "broken: outcome"
    if ended["step"] == 0 and state in ("empty", "ready"):
        return "before its first step"
    if state == "ready" and step is not None:
        return "with a ready checkpoint"
    return f"broken: {state} at step {ended['step']}"


def restarts(directory: Path, number: int, seed: int, url: str, steps: int = 1500) -> list[str]:
    """Kill the server again and again while runs train: no point is lost or doubled."""
    dice, broken = random.Random(seed), list[str]()
    slowest, points, runs_done = 0.0, 0, 0
    with home(directory / "restarts") as place:
        place.settings |= {"DATABASE_URL": url}
        runs: list[str] = []
        for restart in range(number + 1):
            since = time.monotonic()
            with place.serve() as service:
                slowest = max(slowest, time.monotonic() - since)
                live = [r for r in runs if service.status(r)["status"] not in TERMINAL]
                while len(live) < 2 and restart < number:
                    run = service.submit("finishes", steps=steps, step_seconds=0.01,
                                         checkpoint_every=200)  # fmt: skip
                    runs.append(run)
                    live.append(run)
                if restart == number:
                    for run in runs:
                        ended = service.ended(run, 120)
                        losses = service.losses(run)
                        stored = [step for step, _ in losses]
                        points += len(stored)
                        runs_done += 1
                        wrong = sum(abs(v - 0.99**s) > 1e-9 * 0.99**s for s, v in losses)
                        if stored != list(range(1, steps + 1)) or wrong:
                            broken.append(f"{run}: {len(stored)} points, {wrong} wrong: {ended}")
                        if ended["status"] != "succeeded" or service.launches(run) != [1]:
                            broken.append(f"{run}: {ended}, launched {service.launches(run)}")
                    break
                before = service.status(live[0])["step"]
                service.stepping(live[0], min(before + dice.randrange(1, 40), steps))
                service.kill()
    print(f"{number} restarts, {runs_done} runs, {points} points, slowest start {slowest:.1f} s")
    return broken


def damages(directory: Path, number: int, seed: int, url: str) -> list[str]:
    """Damage checkpoints in every way; none may be offered as ready after a look."""
    dice, broken, kinds = random.Random(seed), list[str](), Counter[str]()
    with home(directory / "damages") as place, place.serve(DATABASE_URL=url) as service:
        done = 0
        while done < number:
            run = service.submit("finishes", steps=100, step_seconds=0.0, checkpoint_every=2)
            assert service.ended(run)["status"] == "succeeded"
            hurt: dict[str, str] = {}
            for each in service.checkpoints(run).values():
                if dice.random() < 0.9 and done < number:
                    hurt[each["ckpt_path"]] = damage(service.directory(each), dice)
                    kinds[hurt[each["ckpt_path"]]] += 1
                    done += 1
            path = f"/experiments/{service.experiment}/checkpoints/verify"
            for each in service.post(path, {"run_id": run}, 200)["checkpoints"]:
                expected = "lost" if each["ckpt_path"] in hurt else "ready"
                if each["state"] != expected:
                    broken.append(f"{hurt.get(each['ckpt_path'])}: {each}")
    print(f"{number} damaged checkpoints: {dict(kinds)}")
    return broken


def damage(checkpoint: Path, dice: random.Random) -> str:
    """Hurt a checkpoint somehow; how."""
    kind = dice.choice(("flip", "flip", "flip", "truncate", "grow", "remove", "add"))
    file = dice.choice(sorted(each for each in checkpoint.iterdir()))
    if kind == "flip":
        content = bytearray(file.read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content)
    elif kind == "truncate":
        file.write_bytes(file.read_bytes()[: dice.randrange(file.stat().st_size)])
    elif kind == "grow":
        file.write_bytes(file.read_bytes() + b" ")
    elif kind == "remove":
        file.unlink()
    else:
        (checkpoint / "stranger").write_text("?")
    return f"{kind} {file.name}" if kind != "add" else kind
