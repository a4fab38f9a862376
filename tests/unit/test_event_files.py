"""TensorBoard's event files: read as they are written, and hostile ones read as nothing."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.event_files import HEAD, NoEventFile, parse_scalars, record_length
from app.domain.recipe_file import parse_recipes
from app.domain.recipes import RecipeError
from app.storage.event_files import EventFiles
from tests.support.event_files import event, record

NAME = "events.out.tfevents.1700000000.host.1.0"
WALL = 1_700_000_000.0


@given(
    st.text(min_size=1, max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32),
    st.floats(0, 1e10),
    st.booleans(),
)
def test_every_scalar_is_read_as_it_was_written(
    tag: str, step: int, value: float, wall_time: float, tensor: bool
) -> None:
    try:
        content = event(tag, step, value, wall_time, tensor)
    except UnicodeEncodeError:
        return
    (found,) = parse_scalars(content)
    assert (found.tag, found.step, found.wall_time) == (tag, step, wall_time)
    assert struct.pack("<f", found.value) == struct.pack("<f", value) or value != value
    assert record_length(record(content)[:HEAD]) == len(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_scalars_or_nothing(content: bytes) -> None:
    assert isinstance(parse_scalars(content), list)
    if len(content) >= HEAD:
        with pytest.raises(NoEventFile):
            record_length(bytes([*content[: HEAD - 1], content[HEAD - 1] ^ 1]))
            record_length(content[:HEAD])


@given(st.data())
def test_a_torn_event_is_nothing(data: st.DataObject) -> None:
    content = event("loss", 3, 0.5, WALL)
    cut = data.draw(st.integers(0, len(content) - 1))
    assert all(each.tag == "loss" for each in parse_scalars(content[:cut]))


def write(path: Path, *contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(contents))


def keys(found: object) -> list[tuple[str, int]]:
    return [(each.tag, each.step) for each in found]  # type: ignore[attr-defined]


def test_files_are_followed_as_they_grow_a_torn_record_waits(tmp_path: Path) -> None:
    path, files = tmp_path / "runs" / "a" / NAME, EventFiles(tmp_path, "runs/**")
    assert files.read(0) == []
    second = record(event("loss", 2, 0.5, WALL))
    write(path, record(event("loss", 1, 1.0, WALL)), second[:-5])
    assert keys(files.read(0)) == [("loss", 1)]
    assert files.read(0) == []
    write(path, second[-5:], record(b"\x1a\x07version"), record(event("loss", 3, 0.1, WALL, True)))
    assert keys(files.read(0)) == [("loss", 2), ("loss", 3)]
    assert keys(EventFiles(tmp_path, "runs/**").read(0)) == [("loss", n) for n in (1, 2, 3)]
    assert EventFiles(tmp_path, "runs/**").read(WALL + 1) == [], "of an earlier attempt"


def test_only_the_folders_of_the_pattern_are_read(tmp_path: Path) -> None:
    for folder in ("runs", "runs/a", "runs/a/b", "other", "runs2"):
        write(tmp_path / folder / NAME, record(event(folder, 1, 1.0, WALL)))
    write(tmp_path / "runs" / "notes.txt", record(event("notes", 1, 1.0, WALL)))
    found = {
        pattern: [key for key, _ in keys(EventFiles(tmp_path, pattern).read(0))]
        for pattern in ("runs", "runs/*", "runs/**", "*", "**", "none")
    }
    assert found == {
        "runs": ["runs"],
        "runs/*": ["runs/a"],
        "runs/**": ["runs/a/b", "runs/a", "runs"],
        "*": ["other", "runs", "runs2"],
        "**": ["other", "runs/a/b", "runs/a", "runs", "runs2"],
        "none": [],
    }


def test_the_same_tag_in_two_folders_is_two_metrics(tmp_path: Path) -> None:
    for folder in ("runs/eval", "runs/train"):
        write(tmp_path / folder / NAME, record(event("loss", 1, 1.0, WALL)))
    assert keys(EventFiles(tmp_path, "runs/**").read(0)) == [("loss", 1), ("train/loss", 1)]


def test_no_link_pipe_or_nonsense_is_followed(tmp_path: Path) -> None:
    outside, run = tmp_path / "outside", tmp_path / "run"
    write(outside / NAME, record(event("secret", 1, 1.0, WALL)))
    (run / "runs").mkdir(parents=True)
    (run / "runs" / "link").symlink_to(outside)
    (run / "runs" / f"{NAME}.link").symlink_to(outside / NAME)
    os.mkfifo(run / "runs" / f"{NAME}.pipe")
    huge = struct.pack("<Q", 2**63) + b"\0\0\0\0"
    write(run / "runs" / f"{NAME}.huge", huge, record(event("after", 1, 1.0, WALL)))
    honest = record(event("loss", 1, 1.0, WALL))
    write(run / "runs" / NAME, honest, os.urandom(64), honest)
    deep = run / "runs"
    for _ in range(40):
        deep = deep / "d"
    write(deep / NAME, record(event("deep", 1, 1.0, WALL)))
    files = EventFiles(run, "runs/**")
    assert keys(files.read(0)) == [("loss", 1)]
    assert files.read(0) == []


def test_a_length_that_is_true_and_larger_than_the_file_waits(tmp_path: Path) -> None:
    whole = record(b"x" * 1000)
    write(tmp_path / "runs" / NAME, whole[:HEAD])
    files = EventFiles(tmp_path, "runs")
    assert files.read(0) == []
    write(tmp_path / "runs" / NAME, whole[HEAD:], record(event("loss", 1, 1.0, WALL)))
    assert keys(files.read(0)) == [("loss", 1)]


@pytest.mark.parametrize("pattern", ["/etc", "../x", "a//b", "a/**b", "x/..", ".", "a" * 300])
def test_a_pattern_stays_in_the_runs_directory(pattern: str) -> None:
    text = f'[recipes.a]\ncommand = ["x"]\ntensorboard = "{pattern}"'
    with pytest.raises(RecipeError, match="tensorboard"):
        parse_recipes(text, "test")
