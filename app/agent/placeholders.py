"""Placeholders of a command: `{name}` in a word stands for a value that is known at the launch.

A value never makes two words of one. Braces around anything else stay as they are.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping

_RUN_DIR, _RESUME_PATH = "run_dir", "resume_path"
PATHS = (_RUN_DIR, _RESUME_PATH)
"""Placeholders that only the agent can fill: on its machine the paths are its own."""


def fill(words: Iterable[str], values: "Mapping[str, str | None]") -> list[str]:
    """Return the words with `{name}` replaced for each name in `values`.

    A word with a placeholder whose value is None is left out. If it was nothing but that, so is
    the option before it (`--name`), which would else take the next word for its value.
    """
    filled: list[str] = []
    for word in words:
        names = [name for name in values if "{" + name + "}" in word]
        if any(values[name] is None for name in names):
            alone = word == "{" + names[0] + "}"
            if alone and filled and filled[-1].startswith("-") and "=" not in filled[-1]:
                filled.pop()
            continue
        # In one pass, so that what a value looks like is never filled itself.
        marks = "|".join(re.escape("{" + name + "}") for name in names)
        if marks:
            word = re.sub(marks, lambda mark: values[mark[0][1:-1]] or "", word)
        filled.append(word)
    return filled


def fill_paths(words: list[str], run_dir: str) -> list[str]:
    """Return the words with `{run_dir}` and `{resume_path}`, as spec.json in `run_dir` has it."""
    if not any("{" + name + "}" in word for word in words for name in PATHS):
        return words
    resume = None
    try:
        with open(os.path.join(run_dir, "spec.json"), "rb") as file:
            resume = json.load(file).get("resume")
    except FileNotFoundError:
        pass
    path = resume["path"] if resume else None
    return fill(words, {_RUN_DIR: run_dir, _RESUME_PATH: path})
