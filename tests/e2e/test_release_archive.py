"""A release as one archive: what arrives is the checkpoint, to the last byte, or nothing.

Seen red: without the comparison of each file while it is sent, a changed file went out whole.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from llm_train import checkpoint

from app.storage import archive
from app.storage.base import Damaged
from tests.support import commands
from tests.support.service import Service, running


class Scene:
    """A service with a release `v1` of a run."""

    def __init__(self, service: Service, place: Path) -> None:
        self.service, self.place = service, place
        self.run = service.submit("finishes", steps=4)
        service.ended(self.run)
        (self.saved,) = service.checkpoints(self.run).values()
        mark = {
            "run_id": self.run, "ckpt_path": self.saved["ckpt_path"], "tag_type": "release",
            "release_tag": "v1",
        }  # fmt: skip
        service.post(f"/experiments/{service.experiment}/checkpoints/mark", mark, 200)
        self.folder = service.directory(self.saved)
        self.url = f"{service.url}/v1/experiments/{service.experiment}/releases/archive"

    def export(self, file: Path, tag: str = "v1") -> commands.Done:
        return commands.llm_train(
            "export-release", self.service.experiment, tag, str(file), API_URL=self.service.url
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("archives")
    with running(place) as service:
        yield Scene(service, place)


@pytest.fixture(scope="module")
def exported(scene: Scene) -> Path:
    file = scene.place / "model.tar"
    done = scene.export(file)
    assert done.status == 0 and "verified" in done.out, done.err
    return file


def test_the_archive_is_the_checkpoint(scene: Scene, exported: Path, tmp_path: Path) -> None:
    with tarfile.open(exported) as read:
        read.extractall(tmp_path, filter="data")
    folder = tmp_path / scene.folder.name
    assert checkpoint.verify(folder).sha256 == scene.saved["sha256"]
    assert {path.name for path in folder.iterdir()} == {p.name for p in scene.folder.iterdir()}
    assert [path.name for path in exported.parent.glob("*.part")] == []


def test_its_size_and_digest_are_known_before(scene: Scene, exported: Path) -> None:
    answer = scene.service.http.get(scene.url, params={"release_tag": "v1"})
    assert answer.headers["content-type"] == "application/x-tar"
    assert int(answer.headers["content-length"]) == len(answer.content) == exported.stat().st_size
    assert answer.headers["x-checkpoint-sha256"] == scene.saved["sha256"]
    assert answer.content == exported.read_bytes(), "the same release is the same bytes"
    head = scene.service.http.head(scene.url, params={"release_tag": "v1"})
    assert head.headers["content-length"] == answer.headers["content-length"]


def test_what_is_no_release_is_refused(scene: Scene, tmp_path: Path) -> None:
    done = scene.export(tmp_path / "none.tar", "v2")
    assert done.status != 0 and "no release" in done.err
    assert list(tmp_path.iterdir()) == []
    for wrong in ("", "../v1", "a" * 200):
        answer = scene.service.http.get(scene.url, params={"release_tag": wrong})
        assert answer.status_code == 422
    mark = {
        "run_id": scene.run, "tag_type": "release", "release_tag": "by-hand",
        "ckpt_path": f"/ckpts/{scene.service.experiment}/{scene.run}/by-hand",
    }  # fmt: skip
    scene.service.post(f"/experiments/{scene.service.experiment}/checkpoints/mark", mark, 200)
    answer = scene.service.http.get(scene.url, params={"release_tag": "by-hand"})
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_lost")


def test_a_file_that_has_changed_does_not_arrive(scene: Scene, tmp_path: Path) -> None:
    state = scene.folder / "state.json"
    good = state.read_bytes()
    for bad in (good[:-1] + b"!", good + b" ", good[:-1]):
        state.write_bytes(bad)
        try:
            done = scene.export(tmp_path / "bad.tar")
            with pytest.raises(httpx.RemoteProtocolError):  # it is not even sent to its end
                scene.service.http.get(scene.url, params={"release_tag": "v1"})
        finally:
            state.write_bytes(good)
        assert done.status != 0 and "was not written" in done.err
        assert list(tmp_path.iterdir()) == []
    manifest = scene.folder / "manifest.json"
    good = manifest.read_bytes()
    manifest.write_bytes(good + b" ")
    try:
        answer = scene.service.http.get(scene.url, params={"release_tag": "v1"})
    finally:
        manifest.write_bytes(good)
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_lost")


Members = list[tuple[tarfile.TarInfo, bytes]]


def changed(exported: Path, to: Path, change: Callable[[Members], Members]) -> Path:
    """The archive with other members."""
    with tarfile.open(exported) as read:
        members: Any = [(each, (read.extractfile(each) or io.BytesIO()).read()) for each in read]
    with tarfile.open(to, "w") as written:
        for member, content in change(members):
            member.size = len(content)
            written.addfile(member, io.BytesIO(content))
    return to


def extra(name: str, type_: bytes = tarfile.REGTYPE, target: str = "") -> Members:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type_, target
    return [(member, b"")]


CHANGES: dict[str, Callable[[Members], Members]] = {
    "a file fewer": lambda members: members[:-1],
    "another byte": lambda members: [*members[:-1], (members[-1][0], members[-1][1][:-1] + b"!")],
    "longer": lambda members: [*members[:-1], (members[-1][0], members[-1][1] + b" ")],
    "twice": lambda members: [*members, members[-1]],
    "more": lambda members: members + extra("step-000004/more"),
    "outside": lambda members: members + extra("../../evil"),
    "a link": lambda members: members + extra("step-000004/l", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": lambda members: members + extra("step-000004/l", tarfile.LNKTYPE, "/etc/passwd"),
    "no manifest": lambda members: members[1:],
    "another order": lambda members: members[::-1],
    "nothing": lambda members: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_archive_that_was_changed_is_found_out(
    exported: Path, tmp_path: Path, change: str
) -> None:
    sha256 = archive.check(exported).sha256
    bad = changed(exported, tmp_path / "bad.tar", CHANGES[change])
    with pytest.raises(Damaged):
        archive.check(bad, sha256)


def test_an_archive_that_is_cut_or_another_one_is_found_out(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    cut = tmp_path / "cut.tar"
    for size in (0, 100, 512, 700, len(content) // 2, len(content) - 1024 - 512):
        cut.write_bytes(content[:size])
        with pytest.raises(Damaged):
            archive.check(cut)
    with pytest.raises(Damaged, match="another checkpoint"):
        archive.check(exported, hashlib.sha256(b"").hexdigest())
