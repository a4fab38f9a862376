"""What Slurm's commands print, and what a job is made of."""

import base64
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain.priority import Priority
from app.domain.recipes import LauncherTable, RecipeError
from app.domain.resources import Resources
from app.launchers import make_launcher
from app.launchers.base import HttpMailboxAddress, Job, Key, LauncherContext
from app.launchers.slurm import client, job
from app.launchers.slurm.launcher import SlurmLauncher
from app.launchers.slurm.states import SENTENCES, STATES

RUN = "run_0cc4q1x3h7p2n4s6v8y0c1e3gj"


def make_job(**resources: Any) -> Job:
    mailbox = HttpMailboxAddress("https://train.example.com/a'b", "ac_1_secret")
    return Job(Key(RUN, 2), Resources(**resources), None, mailbox, None)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3,07],gpu4", ("n1", "n2", "n3", "n07", "gpu4")),
        ("r[1-2]n[09-10]", ("r1n09", "r1n10", "r2n09", "r2n10")),
    ],
)
def test_a_list_of_nodes_is_spelt_out(text: str, names: tuple[str, ...]) -> None:
    assert client.expand(text) == names


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:07", 7), ("3:00", 180), ("1:02:03", 3723), ("2-01:00:00", 176_400), ("UNLIMITED", None)],
)
def test_a_time_of_slurm_is_seconds(text: str, seconds: float | None) -> None:
    assert client.parse_time(text) == seconds


def test_a_line_of_squeue_is_read_whatever_a_job_is_called() -> None:
    row = client.parse_job("7|FAILED|NonZeroExitCode|768|n[1-2]|0:03|3:00|a|b, c|")
    assert (row.id, row.state, row.status, row.nodes) == ("7", "FAILED", 768, ("n1", "n2"))
    assert (row.seconds_used, row.seconds_limit, row.name) == (3, 180, "a|b, c")


def test_a_line_of_sacct_is_read() -> None:
    row = client.parse_accounted(f"7|CANCELLED by 0|0:15|None assigned|12|{RUN}.1")
    assert (row.state, row.status, row.nodes, row.name) == ("CANCELLED", 15, (), f"{RUN}.1")


def test_a_partition_of_sinfo_is_read() -> None:
    group = client.parse_group(
        "gpu*|4|64|256000+|gpu:a100:8(S:0-1),gpu:t4:2,craynetwork:4|1-00:00:00"
    )
    assert (group.nodes, group.cpus, group.memory_mb) == (4, 64, 256_000)
    assert (group.gpus, group.seconds_limit) == ({"a100": 8, "t4": 2}, 86_400)


def test_every_sentence_is_one_of_a_known_state() -> None:
    assert set(SENTENCES) <= set(STATES)


def test_a_job_asks_for_what_the_run_needs_and_its_identity_cannot_be_changed() -> None:
    options = job.Options(partition="gpu", options=["--job-name=x", "--requeue"], warn_seconds=60)
    asked = make_job(count=2, gpu_type="A100", cpus=1.5, memory_gb=2, nodes=3, time_limit_minutes=5)
    limit = job.minutes(asked.resources, options, None)
    found = job.arguments(asked, options, "a100", limit, Path("/data/x.log"))
    for part in (
        "--partition=gpu", "--nodes=3", "--cpus-per-task=2", "--mem=1908M", "--gres=gpu:a100:2",
        "--time=7", "--signal=B:TERM@60", "--output=/data/x.log",
    ):  # fmt: skip
        assert part in found
    assert not [part for part in found if part.startswith(("--nice", "--exclude"))]
    assert found.index("--job-name=x") < found.index(f"--job-name={RUN}.2")
    assert found.index("--requeue") < found.index("--no-requeue")


def test_the_script_holds_the_agent_and_no_secret() -> None:
    text = job.script(make_job(), job.Options(python="/opt/py thon"))
    assert "secret" not in text and "'/opt/py thon' -I -S agent.zip http" in text
    assert """'https://train.example.com/a'"'"'b'""" in text
    packed = text.partition("exit 70\n")[2].rpartition("\nEND")[0].rpartition("exit 70\n")[2]
    names = zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))).namelist()
    assert "__main__.py" in names and "agent/main.py" in names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": 1}, "unknown option 'colour'; known are partition, "),
        ({"partition": 1}, "partition: must be str or nothing"),
        ({"options": "--qos=high"}, "options: must be"),
        ({"options": ["qos"]}, "options: must be a list of sbatch's options"),
        ({"files": "nfs"}, "files: must be 'shared' or 'none'"),
        ({"look_seconds": 0}, "look_seconds: must be a number above 0"),
        ({"max_pending": True}, "max_pending: must be"),
        ({"warn_seconds": 1.5}, "warn_seconds: must be a whole number"),
        ({"gpu_types": {"a": 1}}, "gpu_types: must be a table of strings"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[launchers.big\] .*" + words):
        make_launcher(LauncherTable("big", "slurm", options), LauncherContext(tmp_path, {}))


def test_priority_and_avoided_nodes_are_handed_on() -> None:
    asked = replace(make_job(), priority=Priority.LOW, avoid=("n1", "n7"))
    found = job.arguments(asked, job.Options(), "", 5, None)
    assert "--nice=1000" in found and "--exclude=n1,n7" in found
    own = job.Options(nice={"high": -50})
    high = replace(asked, priority=Priority.HIGH)
    assert "--nice=-50" in job.arguments(high, own, "", 5, None)
    assert "--nice" not in " ".join(job.arguments(asked, own, "", 5, None))
    wrongs: list[Any] = [{"urgent": 1}, {"low": 1.5}, {"low": True}, "low"]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="nice"):
            job.Options(nice=wrong)


def test_so_many_nodes_are_avoided_that_enough_are_left(tmp_path: Path) -> None:
    launcher = SlurmLauncher(LauncherContext(tmp_path, {}))
    launcher._groups = [client.parse_group("main*|3|4|2000|(null)|infinite")]
    assert launcher.choose_avoided(["n1", "n2", "n3"], Resources()) == ["n1", "n2"]
    assert launcher.choose_avoided(["n1", "n2"], Resources(nodes=2)) == ["n1"]
    assert launcher.choose_avoided(["n1"], Resources(nodes=3)) == []
    assert launcher.choose_avoided(["n1;reboot", "$(x)", "--x"], Resources()) == []


def test_a_jobs_place_is_among_those_of_its_partition_by_priority_then_age() -> None:
    lines = [
        "12|100|main",
        "9|100|main",
        "30|900|main,urgent",
        "31|50|urgent",
        "40|0|main",
        "",
        "x",
    ]
    assert client.rank_waiting(lines) == {"30": 1, "9": 2, "12": 3, "31": 2, "40": 4}
    assert client.rank_waiting(["50|7|main", "50|7|main", "51|7|main"]) == {"50": 1, "51": 2}
