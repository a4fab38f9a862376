"""Logical checkpoint paths: exactly one shape, whatever else text can look like."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain import paths
from app.domain.ids import new_id
from app.errors import BadCheckpointPath

EXPERIMENT, RUN = new_id("exp"), new_id("run")
PREFIX = f"/ckpts/{EXPERIMENT}/{RUN}/"
SHAPE = re.compile(
    r"/ckpts/exp_[0-9a-hjkmnp-tv-z]{26}/run_[0-9a-hjkmnp-tv-z]{26}/(?!\.)[A-Za-z0-9._-]{1,128}",
    re.ASCII,
)
PIECES = st.sampled_from(
    ["/", "..", ".", "%2e", "%2F", "\\", "\0", "\n", "ckpts", EXPERIMENT, RUN, "a", "A-1_b.c", "~",
     "://", "file:", "ａ", "․", "／", " ", "\u202e", "é", "x" * 129, ":", "?", "#"]
)  # fmt: skip


def parse(text: str) -> paths.CheckpointPath | None:
    try:
        return paths.parse(text)
    except BadCheckpointPath as error:
        assert error.errors[0]["pointer"] == "/ckpt_path"
        return None


@given(st.lists(PIECES, max_size=12).map("".join) | st.text().map(PREFIX.__add__) | st.text())
@example(PREFIX + "a\n")
@example(PREFIX + "١")
def test_just_the_documented_shape_is_a_path(text: str) -> None:
    found = parse(text)
    assert (found is not None) == (SHAPE.fullmatch(text) is not None)
    if found is not None:
        assert str(found) == text


@given(st.from_regex(r"(?!\.)[A-Za-z0-9._-]{1,128}", fullmatch=True))
def test_every_name_is_a_path_that_stays_where_it_belongs(name: str) -> None:
    found = parse(PREFIX + name)
    assert found == (EXPERIMENT, RUN, name)
    joined = PurePosixPath("/data") / str(found).lstrip("/")
    assert ".." not in joined.parts and len(joined.parts) == 6


@pytest.mark.parametrize("name", ["", ".", "..", ".tmp", "a/b", "a b", "a\\b", "a%00", "x" * 129])
def test_what_is_no_name(name: str) -> None:
    assert not paths.is_name(name)


def test_the_promised_name_is_a_name() -> None:
    assert paths.is_name(paths.stop_name(1)) and paths.stop_name(12) == "cancel-12"
