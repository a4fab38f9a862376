"""A manifest says which attempt of a run has saved the checkpoint."""

import json
from pathlib import Path

import pytest
from llm_train.checkpoint import CheckpointError, begin, commit, parse, verify


@pytest.mark.parametrize("wrong", [0, -1, 2**31, True, "1", 1.0])
def test_a_manifest_says_which_attempt_has_saved_it(tmp_path: Path, wrong: object) -> None:
    temporary = begin(tmp_path, "a")
    (temporary / "state").write_text("1")
    directory, manifest = commit(temporary, "a", 1, attempt=3)
    assert (manifest.attempt, verify(directory).attempt) == (3, 3)
    content = json.loads((directory / "manifest.json").read_text()) | {"attempt": wrong}
    with pytest.raises(CheckpointError, match="attempt must be a whole number from 1"):
        parse(json.dumps(content).encode())
