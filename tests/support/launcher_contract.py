"""What every launcher promises, with a real server, real agents and real trainers.

A launcher joins by a class with one fixture, in any test module. With that of shed.py:

    import pytest
    from tests.support.launcher_contract import LauncherContract, Site

    class TestShed(LauncherContract):
        @pytest.fixture(scope="class")
        @classmethod
        def site(cls, tmp_path_factory):
            folder = tmp_path_factory.mktemp("machine")
            return Site(f"[launchers.site]\\nkind = 'shed'\\ndirectory = '{folder}'\\n")

Everything is seen through the service, as its users see it: the spec arrives, reports, output and
checkpoints come back, whether or not the launcher shares the service's files. Tests of one class
share a server, and have a folder each, on which trainers leave marks: all machines of these
launchers are this one.
"""

import json
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.domain.recipe_file import read_configuration
from app.domain.resources import Resources
from app.domain.tokens import claim_code
from app.launchers import make_launcher
from app.launchers.base import (
    DirectoryMailboxAddress,
    HttpMailboxAddress,
    Job,
    JobState,
    Key,
    Launcher,
    LauncherContext,
)
from tests.support.interpreter import run_python
from tests.support.launchers import CHILDREN
from tests.support.server import REPOSITORY, alive, command_line, free_port, wait_until
from tests.support.service import Home

GRACE = 2.0
POLL_SECONDS = 0.1
"""Between two looks of a test at its run: clusters on a small machine need the processor."""
SECRET = "the secret of the service, of its tests alone"

_RECIPE = f"""
[recipes.{{name}}]
command = {json.dumps([sys.executable, "-m", "tests.support.scripted"])}
working_dir = {json.dumps(str(REPOSITORY))}
env_allow = ["PATH", "PYTHONPATH"]
env = {{{{ OF_THE_RECIPE = "yes" }}}}
launcher = "{{launcher}}"
grace_seconds = 12
heartbeat_seconds = 60
retry_seconds = 0
{{more}}
"""
_RECIPES = {
    "script": "",
    "again": "max_attempts = 2",
    "patient": "max_attempts = 10",
    "impatient": f"grace_seconds = {GRACE}",
    "watched": f"heartbeat_seconds = 8\ngrace_seconds = {GRACE}",
    "wrong": 'command = ["no-such-训练"]',
}
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nreporter.log(1)\ntime.sleep(120)"
HEARS = textwrap.dedent("""
    def note(*_):
        with (here / "heard").open("a") as file:
            file.write(f"{os.getpid()}\\n")
    signal.signal(signal.SIGTERM, note)
    worker = os.fork()
    if worker:
        (here / "ready").write_text(str(os.getpid()))
    end = time.monotonic() + 120
    while time.monotonic() < end and not (here / "heard").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    if worker:
        os.wait()
    os._exit(0)
""")
"""A trainer with a worker: both note a stop signal, and end."""


@dataclass(frozen=True)
class Site:
    """A launcher, and where it runs."""

    table: str
    """The table `[launchers.NAME]` of the recipes file, and what it needs beside it."""
    name: str = "site"
    late_seconds: float = 1.0
    """How much later than here a stop or an end may be heard of."""


class Place:
    """The server of one class of tests, which may be started again."""

    def __init__(self, site: Site, root: Path, port: int) -> None:
        self.site, self.home = site, Home(root, port, poll_seconds=POLL_SECONDS)
        tables = [_recipe(name, more, site.name) for name, more in _RECIPES.items()]
        file = root / "recipes.toml"
        file.write_text("\n".join([*tables, site.table]))
        self.home.settings = {
            "RECIPES": str(file), "PUBLIC_URL": f"http://127.0.0.1:{port}", "SECRET": SECRET,
            "MAX_LOCAL_RUNS": "16",
        }  # fmt: skip
        self._server = ExitStack()
        self.service = self._server.enter_context(self.home.serve())

    def restart(self) -> None:
        """kill -9 of the server, and another one."""
        self.service.kill()
        self._server.close()
        self.service = self._server.enter_context(self.home.serve())

    def close(self) -> None:
        self._server.close()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def launcher(self) -> Launcher:
        """The launcher, as another server would make it."""
        configuration = read_configuration(Path(self.home.settings["RECIPES"]))
        context = LauncherContext(self.service.data_dir, os.environ)
        return make_launcher(configuration.launchers[self.site.name], context)

    def submit(self, here: Path, script: str, recipe: str = "script", **body: Any) -> str:
        """A new run; its id."""
        hyperparams = {"here": str(here), "script": script}
        body = {"model": "m", "recipe": recipe, "hyperparams": hyperparams, **body}
        path = f"/experiments/{self.service.experiment}/runs"
        return str(self.service.post(path, body, 201)["run_id"])

    def ended(self, run: str) -> Any:
        return self.service.ended(run, 120 + self.site.late_seconds)

    def output(self, run: str) -> str:
        path = f"/v1/experiments/{self.service.experiment}/runs/{run}/logs"
        return self.service.http.get(f"{self.service.url}{path}").text

    def processes(self, run: str = "") -> list[psutil.Process]:
        """The living trainers, and what they started, of one run or all of this server."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                of = process.environ()
                ours = of.get("LLM_TRAIN_API_URL") == self.home.settings["PUBLIC_URL"]
                ours = ours and run in ("", of.get("LLM_TRAIN_RUN_ID"))
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def trainers(self, run: str) -> list[psutil.Process]:
        """The living trainers of a run, without what they started and their agents."""
        return [p for p in self.processes(run) if "tests.support.scripted" in command_line(p)]


def _recipe(name: str, more: str, launcher: str) -> str:
    text = _RECIPE.format(name=name, more="", launcher=launcher)
    for line in more.splitlines():  # instead of the line of that name
        text = re.sub(rf"(?m)^{line.partition(' = ')[0]} = .*\n", "", text)
    return f"{text}{more}\n"


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def starts(here: Path) -> list[int]:
    """The attempts of which a trainer really began."""
    return [int(line.split()[0]) for line in read(here / "starts").splitlines()]


def goes_on(log: list[int], last: int) -> bool:
    """Return True if these are the steps of attempts to `last`, each later one from a checkpoint.

    A trainer saves every tenth step; which of them is the newest when it dies is left to chance.
    """
    return [log[0], log[-1]] == [1, last] and all(
        step == before + 1 or (step % 10 == 1 and 1 < step <= before)
        for before, step in pairwise(log)
    )


@contextmanager
def opened(site: Site, folder: Path) -> Iterator[Place]:
    """A place of a site, closed at the end."""
    place = Place(site, folder, free_port())
    try:
        yield place
    finally:
        place.close()


class AtSite:
    """Tests of one place. `site` is the launcher's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls) -> Site:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
        with opened(site, tmp_path_factory.mktemp("place")) as place:
            yield place


class LauncherContract(AtSite):
    """The promises. `site` is the launcher's own; the rest is the same for all."""

    @pytest.fixture
    def here(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture(scope="class")
    @classmethod
    def killed(cls, place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
        """A run whose agent was killed from outside: what becomes of it is told the slow way."""
        here = tmp_path_factory.mktemp("killed")
        run = place.submit(here, "train(40, 0.2)", "again")
        place.service.stepping(run, 12, 60)
        saved = place.service.checkpoints
        wait_until(
            lambda: any(each["state"] == "ready" for each in saved(run).values()), "one is saved"
        )
        agent = psutil.Process(int(read(here / "starts").split()[1])).parent()
        assert agent is not None
        agent.kill()
        return run, here

    # The first that is defined is the first that runs: nothing waits for its silence.
    def test_a_trainer_dies_with_its_agent(self, killed: tuple[str, Path]) -> None:
        pid = int(read(killed[1] / "starts").split()[1])
        wait_until(lambda: not psutil.pid_exists(pid), "a trainer dies with its agent")

    def test_a_run_trains_and_all_of_it_is_on_record(self, place: Place, here: Path) -> None:
        script = "print('of', os.environ['OF_THE_RECIPE'], os.getcwd(), flush=True)\ntrain(25)"
        run = place.submit(here, script)
        status = place.ended(run)
        assert (status["status"], status["step"]) == ("succeeded", 25), place.output(run)
        lines = [f"of yes {REPOSITORY}", *(f"step {step}" for step in range(1, 26))]
        assert place.output(run).splitlines() == lines
        assert [step for step, _ in place.service.losses(run)] == list(range(1, 26))
        saved = place.service.checkpoints(run)
        assert {name: each["state"] for name, each in saved.items()} == dict.fromkeys(
            ["step-000010", "step-000020", "step-000025"], "ready"
        )
        state = place.service.directory(saved["step-000025"]) / "state.json"
        assert json.loads(state.read_text()) == {"step": 25}
        assert starts(here) == [1] and place.processes(run) == []

    def test_a_trainer_sees_no_secret_but_that_of_its_own_attempt(
        self, place: Place, here: Path
    ) -> None:
        run = place.submit(here, "train(10_000, 0.2)")
        place.service.stepping(run, 1, 60)
        (trainer,) = place.trainers(run)
        environment = trainer.environ()
        if not place.launcher().shares_files:
            data = str(place.service.data_dir)
            assert not [v for v in (*environment.values(), *trainer.cmdline()) if data in v]
        assert not [v for v in environment.values() if SECRET in v or "ac_1_" in v]
        place.service.cancel(run)
        place.ended(run)

    def test_how_a_trainer_ended_is_told(self, place: Place, here: Path) -> None:
        kill = "print('now', flush=True)\nos.kill(os.getpid(), signal.{})"
        runs = {}
        for script, told in (
            ("raise SystemExit(3)", ("failed", "exit_code", "code 3")),
            ("print('done')", ("failed", "unfinished", "code 0")),
            (kill.format("SIGKILL"), ("failed", "signal", "SIGKILL (9)")),
            (kill.format("SIGSEGV"), ("failed", "signal", "SIGSEGV (11)")),
            ("raise ValueError('tilt')", ("failed", "exit_code", "ValueError: tilt")),
        ):
            runs[place.submit(here, script)] = told
        wrong = place.submit(here, "", "wrong")
        runs[wrong] = ("failed", "launcher_error", "Cannot run 'no-such-训练': No such file")
        for run, (state, reason, words) in runs.items():
            status = place.ended(run)
            assert (status["status"], status["status_reason"]) == (state, reason), status
            assert words in status["status_detail"]

    def test_all_attempts_write_one_log_whole_and_in_order(self, place: Place, here: Path) -> None:
        script = textwrap.dedent("""
            attempt = os.environ["LLM_TRAIN_ATTEMPT"]
            for line in range(30_000):
                print(attempt, line, "x" * 40)
            print(attempt, "the error", file=sys.stderr, flush=True)
            reporter.log(1)
            raise SystemExit(4)
        """)
        run = place.submit(here, script, "again")
        assert place.ended(run)["status_reason"] == "exit_code"
        lines = place.output(run).splitlines()
        expected = []
        for attempt in (1, 2):
            expected += [f"{attempt} {line} {'x' * 40}" for line in range(30_000)]
            expected.append(f"{attempt} the error")
        assert lines == expected and starts(here) == [1, 2]

    def test_a_cancel_saves_and_the_resumed_run_goes_on_from_there(
        self, place: Place, here: Path
    ) -> None:
        run = place.submit(here, "train(4000, 0.1)")
        place.service.stepping(run, 3, 60)
        promised = place.service.cancel(run)
        assert place.ended(run)["status"] == "cancelled"
        saved = place.service.checkpoints(run)
        last = saved[promised["ckpt_path"].rpartition("/")[2]]
        assert last["state"] == "ready"
        script = f"train({last['step'] + 5})"
        child = place.service.resume(run, override_hyperparams={"script": script})["run_id"]
        status = place.ended(child)
        assert (status["status"], status["step"]) == ("succeeded", last["step"] + 5)
        steps = [f"step {last['step'] + number}" for number in range(1, 6)]
        assert place.output(child).splitlines() == steps

    @pytest.mark.parametrize("way", ["mailbox", "engine"])
    def test_the_trainer_alone_hears_a_stop_and_hears_it_once(
        self, place: Place, here: Path, way: str
    ) -> None:
        """A data loader's workers must not die under a trainer that is about to save."""
        run = place.submit(here, HEARS)
        trainer = wait_until(lambda: read(here / "ready"), lambda: place.output(run))
        if way == "mailbox":
            place.service.cancel(run)
            place.service.cancel(run)
        else:
            launcher = place.launcher()
            launcher.stop([Key(run, 1)])
            launcher.stop([Key(run, 1)])
        wait_until(lambda: read(here / "heard"), "the trainer hears it")
        status = place.ended(run)
        assert read(here / "heard").split() == [trainer]
        assert status["status"] == ("cancelled" if way == "mailbox" else "failed"), status

    @pytest.mark.parametrize("way", ["mailbox", "engine"])
    def test_a_stop_that_is_ignored_ends_in_a_kill_of_all_that_it_started(
        self, place: Place, here: Path, way: str
    ) -> None:
        run = place.submit(here, CHILDREN + DEAF, "impatient")
        place.service.stepping(run, 1, 60)
        pids = [int(file.read_text()) for file in here.glob("child-*")]
        assert len(pids) == 4 and all(map(psutil.pid_exists, pids))
        asked = time.monotonic()
        if way == "mailbox":
            place.service.cancel(run)
        else:
            place.launcher().stop([Key(run, 1)])
        wait_until(lambda: not place.processes(run), lambda: str(place.processes(run)))
        assert time.monotonic() - asked >= GRACE - 0.1
        wait_until(lambda: not [pid for pid in pids if alive(pid)], "its children are gone")
        ended = place.ended(run)
        assert ended["status"] == ("cancelled" if way == "mailbox" else "failed"), ended

    def test_no_descendant_outlives_its_trainer(self, place: Place, here: Path) -> None:
        run = place.submit(here, CHILDREN + "train(3)\nos._exit(0)")
        assert place.ended(run)["status"] == "succeeded"
        assert len(list(here.glob("child-*"))) == 4 and place.processes(run) == []

    def test_a_second_submission_of_an_attempt_starts_no_second_trainer(
        self, place: Place, here: Path
    ) -> None:
        run = place.submit(here, "train(10_000, 0.2)")
        place.service.stepping(run, 1, 60)
        launcher, key = place.launcher(), Key(run, 1)
        launcher.offer()
        for _ in range(2):
            launcher.submit(_again(place, launcher, key, here))
        time.sleep(1 + place.site.late_seconds)
        assert len(place.trainers(run)) == 1 and starts(here) == [1]
        assert not (here / "second").exists()
        place.service.cancel(run)
        assert place.ended(run)["status"] == "cancelled"
        assert starts(here) == [1]

    def test_every_server_sees_the_same_of_an_attempt(self, place: Place, here: Path) -> None:
        runs = [place.submit(here, "train(10_000, 0.2)") for _ in range(2)]
        for run in runs:
            place.service.stepping(run, 1, 60)
        keys = [Key(run, 1) for run in runs]
        nobodys = Key("run_0123456789abcdefghjkmnpqrs", 1)
        launcher = place.launcher()
        launcher.offer()
        seen = launcher.look([*keys, nobodys])
        assert [seen[key].state for key in keys] == [JobState.RUNNING] * 2
        assert seen[nobodys].state is JobState.ABSENT
        assert launcher.look([]) == {}
        if not launcher.shares_files or launcher.owns_queue:
            assert set(launcher.strays()) >= set(keys)
        launcher.stop([nobodys, nobodys]) if not launcher.shares_files else None
        for run in runs:
            place.service.cancel(run)
        for run in runs:
            place.ended(run)
        wait_until(
            lambda: all(s.state in (JobState.ENDED, JobState.ABSENT)
                        for s in launcher.look(keys).values()),
            lambda: str(launcher.look(keys)),
        )  # fmt: skip

    def test_what_can_never_run_waits_and_says_why_and_is_cancelled_at_once(
        self, place: Place, here: Path
    ) -> None:
        for resources, word in (
            ({"nodes": 4000}, "nodes"), ({"cpus": 9000}, "CPUs"), ({"memory_gb": 9e5}, "memory"),
            ({"gpu_type": "H9000", "count": 2}, "H9000"),
        ):  # fmt: skip
            run = place.submit(here, "train(1)", resources=resources)
            detail = wait_until(
                lambda run=run: place.service.status(run)["status_detail"],  # type: ignore[misc]
                "the run says why it waits",
            )
            assert detail.startswith("Needs ") and word in detail, detail
            assert place.service.cancel(run)["status"] == "cancelled"
        assert starts(here) == []

    def test_a_time_limit_stops_a_trainer_that_may_save(self, place: Place, here: Path) -> None:
        run = place.submit(here, "train(10_000, 0.2)", resources={"time_limit_minutes": 0.1})
        status = place.ended(run)
        assert (status["status"], status["status_reason"]) == ("failed", "time_limit")
        assert list(place.service.checkpoints(run).values())[-1]["state"] == "ready"

    def test_a_server_that_is_killed_loses_nothing_and_doubles_nothing(
        self, place: Place, here: Path
    ) -> None:
        run = place.submit(here, "train(60, 0.1)")
        place.service.stepping(run, 5, 60)
        place.restart()
        status = place.ended(run)
        assert (status["status"], status["step"]) == ("succeeded", 60)
        assert [step for step, _ in place.service.losses(run)] == list(range(1, 61))
        lines = [line for line in place.output(run).splitlines() if line.startswith("step ")]
        assert lines == [f"step {step}" for step in range(1, 61)] and starts(here) == [1]

    def test_the_operators_check_finds_nothing_wrong(self, place: Place) -> None:
        own = {f"LLM_TRAIN_{name}": value for name, value in place.home.settings.items()}
        own["LLM_TRAIN_DATA_DIR"] = str(place.service.data_dir)
        command = ("-m", "app.cli.main", "launchers", "check", place.site.name)
        done = run_python(*command, environment=os.environ | own, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        *steps, last = done.stdout.splitlines()
        said = [line.split()[:2] for line in steps]
        told = ["engine", "submit", "claim", "pulse", "log", "stop", "store"]
        assert said == [[step, "ok"] for step in told] and last == f"{place.site.name} works."
        assert not list(place.service.data_dir.glob("check-*"))

    def test_a_run_whose_agent_was_killed_goes_on_as_another_attempt(
        self, place: Place, killed: tuple[str, Path]
    ) -> None:
        run, here = killed
        status = place.ended(run)
        assert (status["status"], status["step"], starts(here)) == ("succeeded", 40, [1, 2])
        text = place.output(run)
        steps = [int(line[5:]) for line in text.splitlines() if line.startswith("step ")]
        assert goes_on(steps, 40), "from a checkpoint"
        (told,) = [
            event["data"]["detail"] for event in place.service.events(run)
            if event["data"].get("reason") == "retrying"
        ]  # fmt: skip
        assert told.startswith("Attempt 1 ")


def _again(place: Place, launcher: Launcher, key: Key, here: Path) -> Job:
    """The job of an attempt once more; should it begin, it leaves `second`."""
    if launcher.shares_files and not launcher.owns_queue:
        directory = DirectoryMailboxAddress(place.service.data_dir / "runs" / key.run_id)
        return Job(key, Resources(), None, directory, {
            "argv": ["touch", str(here / "second")], "env": {"PATH": os.environ["PATH"]},
            "cwd": None, "nonce": "0" * 16, "stop_signal": int(signal.SIGTERM),
            "grace_seconds": GRACE, "max_log_bytes": 1 << 20, "failpoints": {},
        })  # fmt: skip
    url, code = place.home.settings["PUBLIC_URL"], claim_code(SECRET, *key)
    mailbox = HttpMailboxAddress(url, code)
    return Job(key, Resources(), None, mailbox, None)
