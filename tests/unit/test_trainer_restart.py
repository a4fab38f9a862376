"""A process that is started again within an attempt goes on from that attempt's newest save."""

import json
import shutil
from pathlib import Path

import pytest
from llm_train import Reporter

from tests.support.reports import ReportServer, attach


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The directory of a run that was resumed from `earlier`."""
    folder = tmp_path / "run"
    folder.mkdir()
    spec = {
        "checkpoint_dir": str(tmp_path / "ckpts"),
        "resume": {"ckpt_path": "/ckpts/e/r/a", "path": str(tmp_path / "earlier"), "step": 7},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def save(reporter: Reporter, step: int) -> None:
    with reporter.checkpoint(step) as directory:
        (directory / "weights").write_text(str(step))


def test_a_restart_goes_on_from_the_attempts_own_newest(
    server: ReportServer, tmp_path: Path, run_dir: Path
) -> None:
    with attach(server, run_dir) as first:
        assert first.resume_path == tmp_path / "earlier"
        for step in (12, 9):  # saved last, not the highest
            save(first, step)
        assert first.resume_path == tmp_path / "earlier", "it does not change under a training"
    with attach(server, run_dir) as second:
        assert second.resume_path == tmp_path / "ckpts" / "step-000009"
        shutil.rmtree(second.resume_path)  # retention took it
        assert second.resume_path == tmp_path / "earlier"


def test_another_attempt_starts_where_the_service_says(
    server: ReportServer, tmp_path: Path, run_dir: Path
) -> None:
    with attach(server, run_dir) as first:
        save(first, 9)
    with attach(server, run_dir, attempt=2) as second:
        assert second.resume_path == tmp_path / "earlier"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"name": 1}', b'{"name": "../x"}', b'{"name": "gone"}', b"\xff"]
)
def test_a_damaged_note_is_no_note(
    server: ReportServer, tmp_path: Path, run_dir: Path, content: bytes
) -> None:
    (run_dir / "attempt-1").mkdir()
    (run_dir / "attempt-1" / "newest.json").write_bytes(content)
    with attach(server, run_dir) as training:
        assert training.resume_path == tmp_path / "earlier"
