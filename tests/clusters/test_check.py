"""`llm-train launchers check` on a real Slurm and over a real store: each fault is one clear line.

That it finds nothing where nothing is wrong, every launcher's contract says; Ray's faults are in
test_ray.py.
"""

import sys
from pathlib import Path

import pytest

from tests.support.checks import check
from tests.support.ministack import Gate
from tests.support.server import wait_until
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import slurm_site
from tests.support.stores import store_table


@pytest.fixture
def table(slurm: SlurmCluster, tmp_path: Path) -> str:
    """A launcher that works."""
    with slurm_site(slurm, tmp_path) as site:
        return site.table


@pytest.fixture(autouse=True)
def _conf(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])


def test_a_partition_that_is_not_there(table: str, tmp_path: Path) -> None:
    lines = check(tmp_path, "site", f'{table}partition = "nowhere"\n')
    assert lines == [
        "engine  wrong   Slurm has no nodes in a partition 'nowhere'.",
        "llm-train: the check ended at the step 'engine'",
    ]


def test_a_munge_that_does_not_run(
    table: str, tmp_path: Path, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = Path(slurm.environment["SLURM_CONF"])
    other = tmp_path / "slurm.conf"
    other.write_text(conf.read_text().replace("munge.sock", "nobody.sock"))
    monkeypatch.setenv("SLURM_CONF", str(other))
    first, last = check(tmp_path, "site", table)
    assert first.startswith("engine  wrong   Slurm does not answer: ") and "unge" in first
    assert last == "llm-train: the check ended at the step 'engine'"


def test_an_address_that_the_nodes_do_not_reach(
    table: str, tmp_path: Path, slurm: SlurmCluster
) -> None:
    lines = check(tmp_path, "site", table, 12, PUBLIC_URL="http://nowhere.invalid")
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["engine", "ok"], ["submit", "ok"], ["claim", "wrong"],
    ], lines  # fmt: skip
    assert (
        "No agent has claimed the run at http://nowhere.invalid:" in lines[2]
        and "RUNNING" in lines[2]
    )
    wait_until(lambda: not slurm.jobs(), "its job does not stay", every=0.2)


def test_a_python_that_the_nodes_have_not(table: str, tmp_path: Path) -> None:
    lines = check(tmp_path, "site", table.replace(sys.executable, "/no/such/python3"), 60)
    assert lines[2].startswith("claim   wrong   ") and "exit code 127" in lines[2], lines


@pytest.mark.parametrize("name", ["site", "local"])
def test_a_store_that_ignores_conditions(table: str, tmp_path: Path, gate: Gate, name: str) -> None:
    gate.is_careless = True
    tables = table + store_table(gate.url, tmp_path.name)
    lines = check(tmp_path, name, tables, STORAGE="main")
    assert lines[0].startswith("engine  ok")
    (last,) = lines[1:]
    assert last.startswith("llm-train: the service of the check does not start: ")
    assert "use a store that honours If-None-Match" in last


def test_a_store_that_is_away(table: str, tmp_path: Path, gate: Gate) -> None:
    gate.shut()
    tables = table + store_table(gate.url, tmp_path.name)
    lines = check(tmp_path, "local", tables, STORAGE="main")
    assert "The object store does not answer" in lines[-1], lines
