"""A save is never lost for a name: it gets a safe one, and links are kept or copied."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from llm_train import Reporter, checkpoint
from llm_train.checkpoint import CheckpointError

from tests.support.reports import ReportServer, attach


@pytest.mark.parametrize(
    ("name", "saved_as"),
    [
        ("best", "best"),
        ("epoch.3_final-1", "epoch.3_final-1"),
        ("epoch=3-step=100.ckpt", "epoch-3-step-100.ckpt"),
        ("my best model", "my-best-model"),
        ("a/b", "a-b"),
        ("../../etc", "etc"),
        (".hidden", "hidden"),
        ("检查点", "step-000007"),
        ("检查点-7", "7"),
        ("x" * 300, "x" * 128),
        ("", "step-000007"),
        (12, "12"),
        ("cancel-1", "own-cancel-1"),
    ],
)
def test_a_checkpoints_name_is_kept_where_it_is_safe_and_else_made_safe_with_a_note(
    server: ReportServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: Any,
    saved_as: str,
) -> None:
    with (
        attach(server, checkpoint_dir=tmp_path) as training,
        training.checkpoint(7, name) as directory,
    ):
        (directory / "weights").write_bytes(b"w")
    assert checkpoint.verify(tmp_path / saved_as).step == 7
    assert [c["name"] for b in server.taken.values() for c in b.get("checkpoints", [])] == [
        saved_as
    ]
    note = f"is saved as {saved_as!r}"
    assert (note in capfd.readouterr().err) == (name != saved_as)


def test_a_bad_step_is_no_reason_to_lose_a_save(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training = Reporter(checkpoint_dir=tmp_path)
    training.log(41)
    for step in ("x", -1, None):
        with training.checkpoint(step, "last") as directory:  # type: ignore[arg-type]
            (directory / "weights").write_bytes(b"w")
    assert {checkpoint.verify(path).step for path in tmp_path.iterdir()} == {41}
    assert capfd.readouterr().err.count("step must be a whole number") == 1


ODD = [
    "a\u3000b",
    "non\u00a0breaking",
    "zero\u200bwidth",
    "back\\slash",
    "two\nlines",
    "检查点",
    " ",
]


def test_files_inside_have_whatever_names_they_like(tmp_path: Path) -> None:
    with Reporter(checkpoint_dir=tmp_path).checkpoint(1) as directory:
        for name in ODD:
            (directory / name).mkdir()
            (directory / name / name).write_text(name)
    saved = checkpoint.verify(tmp_path / "step-000001")
    assert {file.path for file in saved.files} == {f"{name}/{name}" for name in ODD}


def test_a_file_whose_name_no_manifest_can_hold_gets_another_with_a_note(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Reporter(checkpoint_dir=tmp_path).checkpoint(1) as directory:
        (directory / "manifest.json").write_text('{"of": "the trainer"}')
        (directory / os.fsdecode(b"latin-\xe9")).write_bytes(b"1")
        (directory / "sub").mkdir()
        (directory / "sub/manifest.json").write_text("{}")
    saved = checkpoint.verify(tmp_path / "step-000001")
    names = {file.path for file in saved.files}
    assert names == {"manifest.json.own", "latin-\\xe9", "sub/manifest.json"}
    told = capfd.readouterr().err
    assert "'manifest.json' is saved as 'manifest.json.own'" in told
    assert "is saved as 'latin-\\\\xe9'" in told


def test_deep_directories_are_saved(tmp_path: Path) -> None:
    with Reporter(checkpoint_dir=tmp_path).checkpoint(1) as directory:
        deep = directory.joinpath(*["d"] * 40)
        deep.mkdir(parents=True)
        (deep / "w").write_bytes(b"w")
    checkpoint.verify(tmp_path / "step-000001")


def test_a_link_that_stays_inside_is_kept_also_where_it_is_absolute(tmp_path: Path) -> None:
    with Reporter(checkpoint_dir=tmp_path).checkpoint(1) as directory:
        (directory / "global_step1").mkdir()
        (directory / "global_step1/w").write_bytes(b"w")
        (directory / "latest").symlink_to("global_step1")
        (directory / "global_step1/up").symlink_to("../latest")
        (directory / "absolute").symlink_to(directory / "global_step1/w")
    saved = tmp_path / "step-000001"
    manifest = checkpoint.verify(saved)
    assert {link.path: link.target for link in manifest.links} == {
        "absolute": "global_step1/w",
        "global_step1/up": "../latest",
        "latest": "global_step1",
    }
    assert (saved / "latest/w").read_bytes() == (saved / "absolute").read_bytes() == b"w"


@pytest.mark.parametrize("spoil", ["changed", "missing", "a file", "extra"])
def test_a_link_that_is_not_what_was_saved_is_found(tmp_path: Path, spoil: str) -> None:
    with Reporter(checkpoint_dir=tmp_path).checkpoint(1) as directory:
        (directory / "w").write_bytes(b"w")
        (directory / "latest").symlink_to("w")
    saved = tmp_path / "step-000001"
    (saved / "latest").unlink()
    if spoil == "changed":
        (saved / "latest").symlink_to("/etc/passwd")
    elif spoil == "a file":
        (saved / "latest").write_bytes(b"w")
    elif spoil == "extra":
        (saved / "latest").symlink_to("w")
        (saved / "more").symlink_to("w")
    with pytest.raises(CheckpointError, match=r"'latest'|'more'"):
        checkpoint.verify(saved)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../x", "a/../../x", "a/..", "", "..", "\ud800", "a\0", 5, "x" * 5000]
)
def test_a_manifest_whose_link_may_lead_outside_is_refused(tmp_path: Path, target: Any) -> None:
    with Reporter(checkpoint_dir=tmp_path).checkpoint(1) as directory:
        (directory / "w").write_bytes(b"w")
        (directory / "latest").symlink_to("w")
    manifest = tmp_path / "step-000001/manifest.json"
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**written, "links": [{"path": "latest", "target": target}]}))
    with pytest.raises(CheckpointError, match="link"):
        checkpoint.verify(tmp_path / "step-000001")


def test_a_link_to_a_file_elsewhere_becomes_a_copy_of_it(tmp_path: Path) -> None:
    """A checkpoint that needs files beside it would be no checkpoint on another machine."""
    (tmp_path / "base-model").write_bytes(b"base")
    with Reporter(checkpoint_dir=tmp_path / "c").checkpoint(1) as directory:
        (directory / "w").write_bytes(b"w")
        (directory / "base").symlink_to(tmp_path / "base-model")
        (directory / "gone").symlink_to(tmp_path / "nowhere")
    saved = tmp_path / "c/step-000001"
    (tmp_path / "base-model").write_bytes(b"another")
    assert {file.path for file in checkpoint.verify(saved).files} == {"w", "base"}
    assert (saved / "base").read_bytes() == b"base"


def test_a_hard_link_becomes_a_copy_so_that_the_checkpoint_never_changes(tmp_path: Path) -> None:
    """Hugging Face's Trainer writes optimizer.pt and others in place when it saves again."""
    own = tmp_path / "optimizer.pt"
    own.write_bytes(b"step 1")
    own.chmod(0o640)
    with Reporter(checkpoint_dir=tmp_path / "c").checkpoint(1) as directory:
        (directory / "optimizer.pt").hardlink_to(own)
    with own.open("r+b") as file:
        file.write(b"step 2")
    saved = tmp_path / "c/step-000001"
    checkpoint.verify(saved)
    assert (saved / "optimizer.pt").read_bytes() == b"step 1"
    assert (saved / "optimizer.pt").stat().st_mode & 0o777 == 0o640


def test_files_that_cannot_be_committed_are_kept_and_the_error_says_where(tmp_path: Path) -> None:
    training = Reporter(checkpoint_dir=tmp_path)
    with (
        pytest.raises(CheckpointError, match="its files are kept in") as caught,
        training.checkpoint(1) as directory,
    ):
        (directory / "weights").write_bytes(b"three days of work")
        os.mkfifo(directory / "pipe")
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(caught.value)
    assert not kept.name.startswith(".tmp-"), "the service removes such"
    assert (kept / "weights").read_bytes() == b"three days of work"


def test_a_save_can_be_begun_here_and_committed_by_another_thread(
    server: ReportServer, tmp_path: Path
) -> None:
    """As an asynchronous save does, and one that several ranks write together."""
    with attach(server, checkpoint_dir=tmp_path) as training:
        saving, failed = training.begin_checkpoint(3), training.begin_checkpoint(4)
        shutil.copy(__file__, saving.path)
        shutil.copy(__file__, failed.path)
        failed.abandon()
        assert saving.commit() == tmp_path / "step-000003"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    told = [c["name"] for b in server.taken.values() for c in b.get("checkpoints", [])]
    assert told == ["step-000003"]
