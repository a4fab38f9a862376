"""The source of a training run, enough to repeat it: commit, command, packages, machine.

`describe()` returns it as JSON of at most 48 KiB. Values that look like secrets are masked. For
uncommitted changes it holds the names of the files, the patch (up to 24 KiB, without files whose
names suggest secrets) and a hash of the whole.
"""

import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_train.system import name_gpus

MAX_BYTES = 48 * 1024
MAX_TEXT = 2_000
MAX_FILES = 100
MAX_DIFF = 24 * 1024
_GIT_SECONDS = 5
_MASK = "***"
_DIFF = "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color"
_SECRET_NAME = re.compile(r"(token|secret|passw|api.?key|credential|auth)", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|rt_|at_|ac_)[A-Za-z0-9_-]{12,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
)
_SECRET_VALUE = re.compile(  # PASSWORD = "x", 'api_key': 'x', --token x
    r"(?i)([\w.-]*(?:token|secret|passw|api.?key|credential|private.?key)[\w.-]*[\"']?\s*(?:[:=]|\s)\s*)"
    r"(\"[^\"]*\"?|'[^']*'?|[^\s,;)\]}]+)"
)
_SECRET_FILES = (".env*", "*.pem", "*.key", "*.p12", "*.pfx", "*credential*", "*secret*", ".netrc")
_HEADER = re.compile(r"^(Name|Version): *(\S+)", re.MULTILINE)
_HEADER_CHARS = 2_000  # name and version are its first lines
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def describe() -> dict[str, Any]:
    """Return what this process runs. Takes a second at most where git is slow, and never raises."""
    parts = {
        "git": _git, "command": _command, "packages": _packages, "python": platform.python_version,
        "platform": platform.platform, "host": socket.gethostname, "gpus": name_gpus,
        "working_dir": os.getcwd,
    }  # fmt: skip
    described: dict[str, Any] = {}
    for name, read in parts.items():
        try:
            value = read()
        except Exception:  # noqa: S112 - a part that cannot be had is left out
            continue
        if value not in (None, [], {}):
            described[name] = value
    return _fit(described)


def mask(words: Sequence[str]) -> list[str]:
    """Return the words of a command without secrets: `--token=***`, `--api-key ***`."""
    masked: list[str] = []
    hides = False
    for word in words:
        name, equals, value = word.partition("=")
        if hides:
            masked.append(_MASK)
            hides = False
        elif equals and _SECRET_NAME.search(name):
            masked.append(f"{name}={_MASK}" if value else word)
        else:
            hides = word.startswith("-") and not equals and bool(_SECRET_NAME.search(word))
            masked.append(_clean(word))
    return masked


def _clean(text: str) -> str:
    text = _SECRET.sub(_MASK, _USER_OF_URL.sub(_MASK, text))
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def _command() -> list[str]:
    return mask(getattr(sys, "orig_argv", None) or sys.argv)


def _packages() -> dict[str, str]:
    """Return the version of each installed package: of two, of the one that is imported.

    `importlib.metadata` parses a package's whole description as an e-mail, a millisecond for each,
    and its own import takes longer than this.
    """
    versions: dict[str, str] = {}
    for folder in sys.path:
        with suppress(OSError):  # a zip file, or not there
            for entry in Path(folder).iterdir():
                if entry.name.endswith((".dist-info", ".egg-info")):
                    header = dict(_HEADER.findall(_metadata(entry)))
                    if "Name" in header and "Version" in header:
                        versions.setdefault(header["Name"], header["Version"])
    return dict(sorted(versions.items()))


def _metadata(entry: Path) -> str:
    """Return the header of an installed package's metadata, from its folder or its only file."""
    for file in (entry / "METADATA", entry / "PKG-INFO", entry):
        with suppress(OSError), file.open(encoding="utf-8", errors="replace") as text:
            return text.read(_HEADER_CHARS).partition("\n\n")[0]
    return ""


def _git() -> dict[str, Any] | None:
    """Return commit, branch, remote and what is changed; None outside of a work tree."""
    commit = _run_git("rev-parse", "HEAD")
    if not commit:
        return None
    changed = (_run_git("status", "--porcelain", "--no-renames") or "").splitlines()
    described: dict[str, Any] = {
        "commit": commit,
        "branch": _run_git("rev-parse", "--abbrev-ref", "HEAD"),
        "remote": _clean(_run_git("config", "--get", "remote.origin.url") or "") or None,
        "dirty": bool(changed),
    }
    if changed:
        diff = _run_git(*_DIFF) or ""
        described["changed_files"] = [_clean(line) for line in changed[:MAX_FILES]]
        described["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest()
        shown = _run_git(
            *_DIFF, "--", ":/", *(f":(exclude,icase,top,glob)**/{n}" for n in _SECRET_FILES)
        )
        described["diff"] = mask_patch(shown or "") or None
    return {key: value for key, value in described.items() if value is not None}


def mask_patch(patch: str) -> str:
    """Return a patch without values that look like secrets, of MAX_DIFF bytes at most."""
    lines: list[str] = []
    in_key, room = False, MAX_DIFF
    for line in patch.splitlines():
        hides = in_key or "PRIVATE KEY-----" in line
        in_key = hides and "-----END" not in line
        masked = line[:1] + _MASK if hides else _SECRET_VALUE.sub(rf"\1{_MASK}", _clean(line))
        room -= len(masked.encode()) + 1
        if room < 0:
            lines.append("…")
            break
        lines.append(masked)
    return "\n".join(lines)


def _run_git(*arguments: str) -> str | None:
    """Return what git says here; it runs no program that the repository's configuration names."""
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
    done = subprocess.run(  # noqa: S603 - fixed words
        command, capture_output=True, timeout=_GIT_SECONDS, check=False,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
    )  # fmt: skip
    if done.returncode:
        return None
    return done.stdout.decode(errors="replace").rstrip("\n")


def _fit(described: dict[str, Any]) -> dict[str, Any]:
    """Leave out the largest parts until the rest is small enough."""
    while len(json.dumps(described).encode()) > MAX_BYTES:
        largest = max(described, key=lambda name: len(json.dumps(described[name])))
        del described[largest]
        described["left_out"] = sorted([*described.get("left_out", []), largest])
    return described
