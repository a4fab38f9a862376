"""What a run runs is recorded: whole where it matters, without secrets, and small."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from llm_train import source

from tests.support.reports import ReportServer, attach
from tests.support.server import wait_until


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *name, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with one commit, which the process is in."""
    git(tmp_path, "init")
    (tmp_path / "train.py").write_text("print(1)\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "remote", "add", "origin", "https://me:ghp_abcdefghijklmnop@example.com/x.git")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commit_and_what_is_changed(checkout: Path) -> None:
    clean = source.describe()["git"]
    assert clean == {
        "commit": git(checkout, "rev-parse", "HEAD"), "branch": "main", "dirty": False,
        "remote": "https://***@example.com/x.git",
    }  # fmt: skip
    (checkout / "train.py").write_text("password = 'in the diff'\n")
    (checkout / "new.py").touch()
    changed = source.describe()["git"]
    assert changed["dirty"] and changed["changed_files"] == [" M train.py", "?? new.py"]
    assert "in the diff" not in json.dumps(changed)
    (checkout / "train.py").write_text("something else\n")
    assert source.describe()["git"]["diff_sha256"] != changed["diff_sha256"]


def test_the_patch_is_kept_without_secrets_and_capped(checkout: Path) -> None:
    secrets = {
        "plain.py": "PASSWORD = 'hush-1'\nconfig = {'api_key': 'hush-2', 'lr': 0.1}\n",
        "call.sh": "run --token hush-3 --lr 0.2 # sk-hush4aaaaaaaaaaaaaaaa\n",
        "url.txt": "https://me:hush-5@example.com/x lr 0.3\n",
        "key.txt": "-----BEGIN PRIVATE KEY-----\nhush-6\n-----END PRIVATE KEY-----\nlr = 0.4\n",
        ".env": "HARMLESS=hush-7\n", "deep/my.pem": "hush-8\n", "deep/.env.local": "A=hush-9\n",
    }  # fmt: skip
    (checkout / "deep").mkdir()
    for name in secrets:
        (checkout / name).write_text("")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "empty files")
    for name, text in secrets.items():
        (checkout / name).write_text(text)
    found = source.describe()["git"]
    assert "hush" not in json.dumps(found), found["diff"]
    for shown in ("'lr': 0.1", "--lr 0.2", "lr 0.3", "+lr = 0.4", "+PASSWORD = ***"):
        assert shown in found["diff"], found["diff"]
    (checkout / "train.py").write_text("line of code\n" * 100_000)
    large = source.describe()
    assert len(large["git"]["diff"].encode()) <= source.MAX_DIFF + 10
    assert large["git"]["diff"].endswith("…") and "packages" in large


def test_no_program_of_the_repository_is_run(checkout: Path) -> None:
    hook = checkout / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {checkout}/ran\n")
    hook.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(hook))
    git(checkout, "config", "diff.external", str(hook))
    (checkout / "train.py").write_text("changed\n")
    assert source.describe()["git"]["dirty"]
    assert not (checkout / "ran").exists()


def test_where_there_is_no_git_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = source.describe()
    assert "git" not in found
    assert found["python"].split(".")[0] == "3" and found["packages"]["pytest"]
    assert found["working_dir"] == str(tmp_path) and found["host"]


@pytest.mark.parametrize(
    ("words", "masked"),
    [
        (["--lr", "1", "--hf-token", "x", "--steps", "2"], ["--hf-token", "***"]),
        (["--api_key=x", "WANDB_API_KEY=y"], ["--api_key=***", "WANDB_API_KEY=***"]),
        (["--password", "--x"], ["--password", "***"]),
        (["hf_abcdefghijklmnopqrst", "a/sk-abcdefghijklmnop"], ["***", "a/***"]),
        (["https://u:p@host/x"], ["https://***@host/x"]),
        (["--tokenizer", "llama"], ["--tokenizer", "***"]),  # rather too much than too little
    ],
)
def test_secrets_are_masked(words: list[str], masked: list[str]) -> None:
    shown = source.mask(words)
    assert [word for word in shown if "***" in word or "ken" in word or "pass" in word] == masked


def test_the_packages_are_those_that_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version in (("first", "2.0"), ("second", "1.0")):
        info = tmp_path / folder / "made_up-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: made-up\nVersion: {version}\n\nVersion: 9 is out\n")
    (tmp_path / "second" / "old.egg-info").write_text("Name: old\nVersion: 3.0\n")
    added = [str(tmp_path / folder) for folder in ("missing", "first", "second")]
    monkeypatch.setattr(sys, "path", [*added, *sys.path])
    found = source.describe()["packages"]
    assert (found["made-up"], found["old"]) == ("2.0", "3.0")
    installed = {name: metadata.version(name) for name in found.keys() - {"made-up", "old"}}
    assert installed == {name: found[name] for name in installed}


def test_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def many() -> dict[str, str]:
        return {f"package-{number}": "1.0" for number in range(10_000)}

    monkeypatch.setattr(source, "_packages", many)
    monkeypatch.setattr(sys, "orig_argv", ["python", "x" * 100_000])
    found = source.describe()
    assert len(json.dumps(found).encode()) <= source.MAX_BYTES
    assert found["left_out"] == ["packages"] and len(found["command"][1]) < 3_000


def test_a_part_that_raises_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError

    monkeypatch.setattr(source, "_packages", broken)
    assert "packages" not in source.describe() and "python" in source.describe()


def test_a_reporter_sends_it(server: ReportServer) -> None:
    with attach(server, describe_source=True):
        wait_until(
            lambda: any("source" in body for body in server.taken.values()), "the source arrives"
        )
    (sent,) = [body["source"] for body in server.taken.values() if "source" in body]
    assert sent["command"] and sent["packages"]
