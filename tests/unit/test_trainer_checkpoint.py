"""The commit protocol: any damage is seen, and a hostile manifest is a clean error.

Planted once and seen red: sizes compared without the contents, extra files ignored, links followed,
written in place, a taken name overwritten, no fsync of a file or of the parent, a blocking open.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_train.checkpoint import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    CheckpointError,
    begin,
    commit,
    verify,
)

from tests.support.clock import is_soon
from tests.support.server import REPOSITORY, wait_until

FILES = {"model.npz": b"m" * 5000, "state.json": b"{}", "shards/0/w": b"w" * 70, "empty": b""}


def save(parent: Path, name: str = "step-000120", files: dict[str, bytes] = FILES) -> Path:
    temporary = begin(parent, name)
    for path, content in files.items():
        (temporary / path).parent.mkdir(parents=True, exist_ok=True)
        (temporary / path).write_bytes(content)
    return commit(temporary, name, 120)[0]


def test_what_is_committed_is_verified(tmp_path: Path) -> None:
    directory = save(tmp_path / "ckpts/exp_1/run_1")
    manifest = verify(directory)
    assert manifest.step == 120
    assert {file.path: file.size for file in manifest.files} == {
        k: len(v) for k, v in FILES.items()
    }
    assert manifest.size_bytes == sum(map(len, FILES.values()))
    content = (directory / MANIFEST).read_bytes()
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()
    written = json.loads(content)
    assert written.keys() == {"format", "step", "files", "created_at"}
    assert written["files"][1] == {
        "path": "model.npz",
        "size": 5000,
        "sha256": hashlib.sha256(FILES["model.npz"]).hexdigest(),
    }
    assert [p.name for p in directory.parent.iterdir()] == ["step-000120"], "nothing temporary left"


def test_committed_checkpoints_never_change(tmp_path: Path) -> None:
    first = save(tmp_path, "best", {"w": b"1"})
    (tmp_path / "best.2").write_bytes(b"a file that stands in the way")
    second = save(tmp_path, "best", {"w": b"2"})
    assert (first.name, second.name) == ("best", "best.3")
    assert (first / "w").read_bytes() == b"1"
    assert save(tmp_path, "x" * 128, {"w": b"1"}) != save(tmp_path, "x" * 128, {"w": b"2"})


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a\0", "a b", "x" * 129, "é", "a\n"])
def test_a_name_that_names_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a checkpoint"):
        begin(tmp_path / "sub", name)
    assert not (tmp_path / "sub").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: [p.unlink() for p in d.rglob("*") if p.is_file()], "nothing was written"),
        (
            lambda d: (d / "link").symlink_to("/etc"),
            "'link' is a symbolic link to something",
        ),
        (lambda d: os.mkfifo(d / "pipe"), "'pipe' is not a plain file"),
        (lambda d: (d / "/".join("d" * 70)).mkdir(parents=True), "too deep"),
    ],
)
def test_what_cannot_be_a_checkpoint_is_not_committed(
    tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    temporary = begin(tmp_path, "x")
    for path, content in FILES.items():
        (temporary / path).parent.mkdir(parents=True, exist_ok=True)
        (temporary / path).write_bytes(content)
    spoil(temporary)
    with pytest.raises(CheckpointError, match=message):
        commit(temporary, "x", 1)
    assert not (tmp_path / "x").exists()


def test_what_verify_would_refuse_for_its_size_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_train.manifest.MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than 1000 bytes"):
        save(tmp_path, "a", {str(number): b"" for number in range(20)})
    assert not (tmp_path / "a").exists()


def test_empty_directories_are_dropped(tmp_path: Path) -> None:
    temporary = begin(tmp_path, "x")
    (temporary / "logs/empty").mkdir(parents=True)
    (temporary / "w").write_bytes(b"w")
    directory, _ = commit(temporary, "x", 1)
    assert sorted(p.name for p in directory.iterdir()) == [MANIFEST, "w"]


def test_everything_is_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        calls.append(os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path))
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    parent = tmp_path / "exp/run"
    temporary = begin(parent, "x")
    (temporary / "sub").mkdir()
    (temporary / "sub/w").write_bytes(b"w")
    commit(temporary, "x", 1)
    inside = f"exp/run/{temporary.name}"
    new_names = [".", "exp"]
    assert calls[: len(new_names)] == new_names, "the new directories' own names"
    assert calls[-2:] == ["rename", "exp/run"]
    assert f"{inside}/sub/w" in calls
    assert f"{inside}/sub" in calls
    assert calls[-4:-2] == [f"{inside}/{MANIFEST}", inside]


# Damage.


@settings(max_examples=75)
@given(data=st.data())
def test_any_damage_is_caught(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent = tmp_path_factory.mktemp("damage")
    directory = save(parent)
    path = directory / data.draw(st.sampled_from([*FILES, MANIFEST]))
    content = path.read_bytes()
    kind = data.draw(st.sampled_from(["truncate", "flip", "append", "remove", "link", "extra"]))
    if kind in ("truncate", "flip") and not content:
        kind = "append"
    if kind == "truncate":
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    elif kind == "flip":
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
    elif kind == "append":
        path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=9)))
    elif kind == "remove":
        path.unlink()
    elif kind == "link":  # the very same bytes, but elsewhere
        path.rename(parent / "elsewhere")
        path.symlink_to(parent / "elsewhere")
    else:
        name = data.draw(st.sampled_from(["more", "shards/0/more", "shards/more"]))
        extra = data.draw(st.sampled_from(["file", "directory", "link", "pipe"]))
        make: dict[str, Callable[[Path], Any]] = {
            "file": Path.touch,
            "directory": Path.mkdir,
            "link": lambda new: new.symlink_to("w"),
            "pipe": os.mkfifo,
        }
        make[extra](directory / name)
    try:
        manifest = verify(directory)
    except CheckpointError:
        caught = True
    else:  # only what the manifest says of itself can change unseen here: its hash is the witness
        caught = path.name == MANIFEST and manifest.sha256 != hashlib.sha256(content).hexdigest()
    assert caught, (kind, path)
    shutil.rmtree(parent)


@pytest.mark.parametrize("missing", ["shards", "shards/0", "shards/0/w"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    directory = save(tmp_path)
    path = directory / missing
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="'shards/0/w' is missing"):
        verify(directory)


def test_a_directory_behind_a_link_is_not_read(tmp_path: Path) -> None:
    directory = save(tmp_path)
    (directory / "shards").rename(tmp_path / "elsewhere")
    (directory / "shards").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="'shards' "):
        verify(directory)
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        verify(tmp_path / "link")
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        verify(tmp_path / "nowhere\0")


def test_a_pipe_or_a_socket_does_not_make_verify_wait(tmp_path: Path) -> None:
    directory = save(tmp_path)
    (directory / "state.json").unlink()
    os.mkfifo(directory / "state.json")
    with pytest.raises(CheckpointError, match=r"'state\.json' is not a plain file"):
        verify(directory)
    (directory / "state.json").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(directory / "state.json"))
        with pytest.raises(CheckpointError, match=r"'state\.json' "):
            verify(directory)


# Hostile manifests.


def hostile(directory: Path, **fields: Any) -> None:
    good = json.loads((directory / MANIFEST).read_bytes())
    (directory / MANIFEST).write_text(json.dumps({**good, **fields}))


SHA = "0" * 64
NO_FILES: list[Any] = [[], {}, None, [[]], [None], [{}, {}]]
ENTRY = {"path": "empty", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    "path",
    [
        *("../../etc/passwd", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "", "a\0b"),
        *("\ud800", "d/" * 70 + "x", "x" * 2000, MANIFEST),
    ],
)
def test_a_path_that_leads_anywhere_else_is_refused(tmp_path: Path, path: str) -> None:
    directory = save(tmp_path)
    hostile(directory, files=[{"path": path, "size": 1, "sha256": SHA}])
    with pytest.raises(CheckpointError) as caught:
        verify(directory)
    assert len(str(caught.value).encode()) < 1000, "fit for a status reason, and plain UTF-8"


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 2},
        *({"step": step} for step in (-1, 1.5, True, "1", None, 2**63, 10**30)),
        *({"created_at": at} for at in (None, 5, "x" * 65)),
        *({"files": files} for files in NO_FILES),
        {"files": [ENTRY, ENTRY]},
        {"files": [{**ENTRY, "path": "b"}, {**ENTRY, "path": "a"}]},
        *({"files": [{**ENTRY, "size": size}]} for size in (-1, True, 1.0, "1", None, 2**63)),
        *({"files": [{**ENTRY, "sha256": sha}]} for sha in ("", "A" * 64, SHA + "0", 5)),
        {"files": [{**ENTRY, "path": 5}]},
    ],
)
def test_a_manifest_of_the_wrong_shape_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    directory = save(tmp_path, files={"empty": b""})
    verify(directory)
    hostile(directory, **fields)
    with pytest.raises(CheckpointError, match=MANIFEST):
        verify(directory)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"NaN"),
        *(b'{"format": 1, "step": ' + b"9" * 5000 + b"}", b" " * (MAX_MANIFEST_BYTES + 1)),
    ],
)
def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    directory = save(tmp_path)
    (directory / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=MANIFEST):
        verify(directory)


@settings(max_examples=100)
@given(
    st.recursive(
        st.sampled_from([None, True, 0, -1, 1 << 70, 0.5, math.nan, "", "\0", "../x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["format", "step", "files", "created_at", "path", "size", "sha256"]
                ),
                inner | st.sampled_from([1, ENTRY, [ENTRY], "empty"]),
                max_size=7,
            )
        ),
    )
)
def test_any_json_is_a_manifest_or_a_clean_error(tmp_path_factory: Any, value: Any) -> None:
    directory = tmp_path_factory.getbasetemp() / "any-json"
    directory.mkdir(exist_ok=True)
    (directory / "empty").touch()
    (directory / MANIFEST).write_text(json.dumps(value))
    with contextlib.suppress(CheckpointError):
        assert verify(directory).files[0].path == "empty"


def test_a_manifest_never_makes_verify_read_without_end(tmp_path: Path) -> None:
    directory = save(tmp_path)
    with (directory / "model.npz").open("r+b") as stream:
        stream.truncate(1 << 40)  # a sparse terabyte
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match="has 1099511627776 bytes instead of 5000"):
        verify(directory)
    assert is_soon(time.monotonic() - begun, 20)


# Interruption.

WRITER = """
import sys
from pathlib import Path
from llm_train.checkpoint import begin, commit
for step in range(1, 100_000):
    temporary = begin(Path(sys.argv[1]), f"step-{step:06d}")
    for n in range(3):
        (temporary / f"part-{n}").write_bytes(bytes([n]) * 100_000)
    commit(temporary, f"step-{step:06d}", step)
    print(step, flush=True)
"""


def test_sigkill_leaves_whole_checkpoints_or_none(tmp_path: Path) -> None:
    seen = partial = 0
    for round_ in range(6):
        parent = tmp_path / str(round_)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(parent)],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        ) as process:
            wait_until(lambda parent=parent: (parent / "step-000002").exists(), "a checkpoint")  # type: ignore[misc]
            time.sleep(0.003 * round_)  # somewhere within the next one
            process.kill()
            assert process.stdout
            announced = len(process.stdout.read().split())
        names = sorted(p.name for p in parent.iterdir() if not p.name.startswith(".tmp-"))
        partial += sum(1 for p in parent.iterdir() if p.name.startswith(".tmp-"))
        for name in names:
            assert verify(parent / name).step == int(name.removeprefix("step-"))
        assert len(names) >= announced
        seen += len(names)
    assert seen >= 12
    assert partial, "no round was killed within a commit: no test"


@pytest.mark.parametrize("call", ["open", "readv", "scandir"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT])
def test_what_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Control: with every OSError taken for damage it is a CheckpointError."""
    directory = save(tmp_path)
    usual = getattr(os, call)

    def fails(what: object, *more: Any, **options: Any) -> Any:
        if call != "open" or what in FILES:
            raise OSError(number, os.strerror(number))
        return usual(what, *more, **options)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        verify(directory)
    monkeypatch.undo()
    assert verify(directory).step == 120


def test_a_way_to_the_directory_that_cannot_be_walked_is_not_damage(tmp_path: Path) -> None:
    parent = tmp_path / "run"
    directory = save(parent)
    parent.rename(tmp_path / "aside")
    parent.symlink_to(parent)
    with pytest.raises(OSError, match="Too many levels"):
        verify(directory)
    parent.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint directory"):  # seen to be missing
        verify(directory)
