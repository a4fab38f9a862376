"""The storm on a real Slurm, of whose parts each may die under load.

    server       killed, and another one
    agent        killed, and its trainer with it; trainer: killed alone
    node         all of it at once, as by a power cut; it comes back a little later
    slurmd       the daemon alone: its jobs go on while Slurm takes the node for lost
    controller   killed or ended, and started again; or frozen for a while
    outsider     cancels a job that is not theirs

A watcher sees to it all the while that no run has trainers of two attempts.
"""

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.chaos.storm import Story, load
from tests.support.server import wait_until
from tests.support.service import Service
from tests.support.slurm import READY, SlurmCluster, slurm_cluster
from tests.support.slurm_home import SlurmHome, slurm_home

NODES = 3
TRAINERS = ("finishes", "finishes", "obedient", "crashes", "exits_zero_halfway", None)
"""Without those that leave processes behind: only Slurm's control groups could find these."""
VICTIMS = ("server", "server", "agent", "trainer", "node", "slurmd", "controller", "outsider")
REST_SECONDS = 150.0
"""An agent counts as gone after a silence, and Slurm looks at its nodes now and then."""


def storm(
    directory: Path, kills: int, seed: int, minutes: float | None = None, **settings: str
) -> Story:
    """Kill whatever there is `kills` times, or for `minutes`, under load."""
    story = Story(trainers=TRAINERS, step_seconds=0.4, ledger=directory / "ledger.txt")
    until = None if minutes is None else time.monotonic() + 60 * minutes

    def more() -> bool:
        if until is not None:
            return time.monotonic() < until
        return sum(story.kills.values()) < kills

    with (
        slurm_cluster(directory / "slurm", NODES) as slurm,
        slurm_home(directory, slurm) as place,
        watching(place, story),
    ):
        place.settings |= {"EXTERNAL_GRACE_SECONDS": "1"} | settings
        weather = Weather(slurm, place, story, random.Random(seed))
        with load(place, story, seed, REST_SECONDS, slurm.jobs):
            while more():
                since = time.monotonic()
                with place.serve() as service:
                    story.slowest_start = max(story.slowest_start, time.monotonic() - since)
                    while weather.strike(service) != "server" and more():
                        weather.mend()
            weather.calm_down()
    return story


class Weather:
    """What happens to a cluster: one blow at a time, and what is down comes back later."""

    def __init__(
        self, slurm: SlurmCluster, place: SlurmHome, story: Story, dice: random.Random
    ) -> None:
        self.slurm, self.place, self.story, self.dice = slurm, place, story, dice
        self._down: dict[str, float] = {}
        self._left: list[str] = []

    def strike(self, service: Service) -> str:
        """Wait a moment and hit one of them, each as often as the others; return which."""
        time.sleep(self.dice.uniform(0.2, 2.0))
        for victim in self._next_victims():
            if self._hit(victim, service):
                self.story.kills[victim] += 1
                self._left.remove(victim)
                return victim
        self._left.clear()  # such as agents, where nothing runs
        return "nobody"

    def _next_victims(self) -> list[str]:
        if not self._left:
            self._left = list(VICTIMS)
            self.dice.shuffle(self._left)
        return list(self._left)

    def _hit(self, victim: str, service: Service) -> bool:
        """Hit it; return False if none of them is there."""
        if victim == "server":
            service.kill()
            return True
        if victim in ("agent", "trainer"):
            return self._kill_process(victim)
        if victim == "outsider":
            return self._cancel_a_job()
        return self._take_down(victim)

    def _kill_process(self, victim: str) -> bool:
        """kill -9 to an agent, or to a process below one."""
        found = []
        for process in self.place.processes():
            with suppress(psutil.Error):
                if ("agent.zip" in process.cmdline()) == (victim == "agent"):
                    found.append(process)
        if found:
            with suppress(psutil.NoSuchProcess):
                self.dice.choice(found).kill()
        return bool(found)

    def _cancel_a_job(self) -> bool:
        if "slurmctld" in self._down:
            return False  # nobody would hear it
        jobs = self.slurm.run("squeue", "-h", "-o", "%i", check=False).split()
        if jobs:
            self.slurm.run("scancel", self.dice.choice(jobs), check=False)
        return bool(jobs)

    def _take_down(self, victim: str) -> bool:
        name = "slurmctld" if victim == "controller" else self.dice.choice(self.slurm.names)
        if name in self._down or (name != "slurmctld" and len(self._down) >= NODES - 1):
            return False
        # Without its slurmd for longer than SlurmdTimeout, a node counts as lost, and trains on.
        most = 25.0 if victim == "slurmd" else 6.0
        self._down[name] = time.monotonic() + self.dice.uniform(1.0, most)
        if victim == "node":
            self.slurm.kill_node(name)
        elif victim == "slurmd":
            self.slurm.kill(name)
        elif self.dice.random() < 0.3:
            self.slurm.daemon(name).suspend()
        else:
            self.slurm.kill(name, self.dice.choice((signal.SIGKILL, signal.SIGTERM)))
        return True

    def calm_down(self) -> None:
        """Bring back everything, and wait until it is."""
        self._down = dict.fromkeys(self._down, 0.0)
        wait_until(self._is_mended, self.slurm.logs, every=1.0)

    def _is_mended(self) -> bool:
        self.mend()
        states = self.slurm.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False)
        return len(states.split()) == NODES and set(states.split()) <= set(READY)

    def mend(self) -> None:
        """Bring back what has been down for long enough."""
        for name, until in list(self._down.items()):
            if time.monotonic() < until:
                continue
            del self._down[name]
            if self.slurm.is_up(name):
                self.slurm.daemon(name).resume()
            elif name == "slurmctld":
                self.slurm.start_controller()
            else:
                self.slurm.start_node(name)
        if "slurmctld" in self._down:
            return
        # A controller that has forgotten a start drains the node that knows it: its operator's job.
        for name in self.slurm.names:
            resume = ("scontrol", "update", f"NodeName={name}", "State=RESUME")
            self.slurm.run(*resume, check=False)


@contextmanager
def watching(place: SlurmHome, story: Story) -> Iterator[None]:
    """Look all the while for a run with living trainers of two attempts."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.3):
            attempts: dict[str, set[str]] = {}
            for process in place.processes():
                with suppress(psutil.Error, OSError):
                    own = process.environ()
                    if run := own.get("LLM_TRAIN_RUN_ID"):
                        attempts.setdefault(run, set()).add(own["LLM_TRAIN_ATTEMPT"])
            two = {run: sorted(found) for run, found in attempts.items() if len(found) > 1}
            with story.lock:
                story.broken += [f"{run}: attempts {two[run]} train at once" for run in two]

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join(30)
