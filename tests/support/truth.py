"""The truth table on an engine: each way in which a trainer may end has its true outcome there.

    class TestTruth(TruthTable):
        @pytest.fixture(scope="class")
        @classmethod
        def site(cls) -> Site: …

The trainer is a loop with the SDK, as tests.trainers runs it on this machine with all frameworks.
All runs are submitted at once; each test looks at one.
"""

import math
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.launcher_contract import AtSite, Place
from tests.support.memory_limit import limited_group, move
from tests.support.server import wait_until

SECONDS = 120.0
LOOP = "train(4000, 0.2)"
_STEPS = (
    "for step in range(1, {last} + 1):\n    reporter.log(step, total_steps={all}, loss={loss})\n"
)
SCRIPTS = {
    "cancelled": LOOP,
    "SIGTERM": LOOP,
    "SIGINT": LOOP,
    "SIGKILL": LOOP,
    "SIGTERM, SIGKILL": LOOP,
    "SIGSTOP": LOOP,
    "exit 0": _STEPS.format(last=5, all=100, loss=1.0) + "os._exit(0)",
    "NaN": _STEPS.format(last=8, all=8, loss="float('nan') if step >= 5 else 1.0")
    + "reporter.finish()",
    "out of memory": _STEPS.format(last=3, all=100, loss=1.0)
    + "while not (here / 'go').exists():\n    time.sleep(0.01)\n"
    + "taken = [bytearray(os.urandom(1 << 20) * 16) for _ in range(200)]",
}


class TruthTable(AtSite):
    """The table. `site` is the launcher's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
        """A run for each cell."""
        cls.folder = tmp_path_factory.mktemp("truth")
        found = {}
        for way, script in SCRIPTS.items():
            here = cls.folder / way
            here.mkdir()
            recipe = "watched" if way == "SIGSTOP" else "script"
            found[way] = place.submit(here, script, recipe)
        return found

    folder: Path

    def started(self, place: Place, run: str) -> psutil.Process:
        """The trainer of a run that has made a few steps."""
        place.service.stepping(run, 3, SECONDS)
        (trainer,) = place.trainers(run)
        return trainer

    def saved(self, place: Place, run: str) -> Any:
        """The newest ready checkpoint, which is at the run's own step."""
        status = place.service.status(run)
        checkpoint = place.service.checkpoints(run)[status["ckpt_path"].rpartition("/")[2]]
        assert (checkpoint["state"], checkpoint["step"]) == ("ready", status["step"]), checkpoint
        return checkpoint

    def test_a_loss_that_is_nan_is_told_as_nan(self, place: Place, runs: dict[str, str]) -> None:
        ended = place.service.ended(runs["NaN"], SECONDS)
        assert (ended["status"], ended["step"]) == ("succeeded", 8), ended
        losses = dict(place.service.losses(runs["NaN"]))
        assert losses[4] == 1.0
        assert all(losses[step] is None or math.isnan(losses[step]) for step in range(5, 9))

    def test_exit_0_in_the_middle_is_no_success(self, place: Place, runs: dict[str, str]) -> None:
        ended = place.service.ended(runs["exit 0"], SECONDS)
        assert (ended["status"], ended["status_reason"]) == ("failed", "unfinished"), ended

    def test_a_cancel_leaves_the_promised_checkpoint_of_the_step_it_stopped_at(
        self, place: Place, runs: dict[str, str]
    ) -> None:
        run = runs["cancelled"]
        self.started(place, run)
        promised = place.service.cancel(run, 202)["ckpt_path"]
        assert place.service.ended(run, SECONDS)["status"] == "cancelled"
        assert self.saved(place, run)["ckpt_path"] == promised

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_stop_signal_from_outside_is_no_success_and_leaves_a_checkpoint(
        self, place: Place, runs: dict[str, str], number: signal.Signals
    ) -> None:
        run = runs[number.name]
        self.started(place, run).send_signal(number)
        ended = place.service.ended(run, SECONDS)
        assert (ended["status"], ended["status_reason"]) == ("failed", "unfinished"), ended
        self.saved(place, run)

    @pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM, SIGKILL"])
    def test_a_kill_is_told_as_that(self, place: Place, runs: dict[str, str], way: str) -> None:
        trainer = self.started(place, runs[way])
        for name in way.split(", "):
            trainer.send_signal(signal.Signals[name])
        ended = place.service.ended(runs[way], SECONDS)
        assert (ended["status"], ended["status_reason"]) == ("failed", "signal"), ended

    def test_a_trainer_that_stands_still_is_missed_and_ended(
        self, place: Place, runs: dict[str, str]
    ) -> None:
        run = runs["SIGSTOP"]
        trainer = self.started(place, run)
        trainer.suspend()
        ended = place.service.ended(run, SECONDS)
        assert (ended["status"], ended["status_reason"]) == ("failed", "heartbeat_lost"), ended
        wait_until(lambda: not place.processes(run), "nothing of it is left")

    def test_a_trainer_that_the_kernel_kills_for_memory_is_out_of_memory(
        self, place: Place, runs: dict[str, str]
    ) -> None:
        run = runs["out of memory"]
        trainer = self.started(place, run)
        agent = trainer.parent()
        assert agent is not None
        with limited_group(256 << 20) as group:
            if group is not None:  # else this machine lets nobody limit memory
                move(group, [agent.pid, trainer.pid])
                (self.folder / "out of memory" / "go").touch()
                ended = place.service.ended(run, SECONDS)
                wait_until(lambda: not agent.is_running(), "the agent is gone")
                assert (ended["status"], ended["status_reason"]) == ("failed", "out_of_memory")
        place.service.cancel(run)
