"""`llm-train project`, `user`, `token` and `audit` against a real service."""

import json
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import httpx
import pytest

from tests.support.commands import Done, llm_train
from tests.support.server import running_server, wait_until
from tests.support.tenants import API_TOKEN


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with running_server(tmp_path, API_TOKEN=API_TOKEN) as server:
        yield server.url


def test_a_team_is_set_up_and_watched_from_the_command_line(url: str) -> None:
    def llm(*arguments: str, token: str = API_TOKEN) -> Done:
        return llm_train(*arguments, API_URL=url, API_TOKEN=token)

    def done(*arguments: str, token: str = API_TOKEN) -> str:
        ended = llm(*arguments, token=token)
        assert ended.status == 0, (arguments, ended.err)
        return ended.out.strip()

    done("project", "create", "speech", "--description", "Speech models")
    done("user", "create", "alice", "--email", "alice@example.com")
    done("user", "create", "ci", "--service")
    done("project", "add", "speech", "alice", "--role", "viewer")
    token = done("token", "create", "--user", "alice", "--name", "laptop", "--scope", "member",
                 "--expires", "2999-01-31T00:00:00Z")  # fmt: skip
    assert token.startswith("llmt_")
    assert [each["name"] for each in json.loads(done("project", "ls", "--json"))] == [
        "default", "speech",
    ]  # fmt: skip
    assert [each["kind"] for each in json.loads(done("user", "ls", "--json"))] == [
        "person", "service",
    ]  # fmt: skip
    assert "alice  viewer" in done("project", "members", "speech")

    shown = json.loads(
        done("project", "quota", "speech", "--runs", "1", "--bytes", "2TB", "--json")
    )
    assert [(row["of"], row["used"], row["most"]) for row in shown] == [
        ("runs", 0, 1), ("gpus", 0, None), ("bytes", 0, 2 * 10**12),
    ]  # fmt: skip
    assert "none" in llm("project", "quota", "speech", "--gpus", "-1").err
    assert json.loads(done("project", "quota", "speech", "--runs", "none", "--json"))[0] == {
        "of": "runs", "used": 0, "most": None,
    }  # fmt: skip
    refused = llm("project", "quota", "speech", "--runs", "2", token=token)
    assert refused.status == 1 and "Only an administrator" in refused.err

    shown = json.loads(done("project", "retention", "speech", "--logs", "30", "--json"))
    assert [(row["of"], row["days"]) for row in shown] == [
        ("logs", 30.0), ("points", None), ("curves", None),
    ]  # fmt: skip
    assert "none" in llm("project", "retention", "speech", "--points", "nan").err
    shown = json.loads(done("project", "retention", "speech", "--dry-run", "--json"))
    assert [(row["of"], row["days"], row["runs"]) for row in shown] == [
        ("logs", 30.0, 0), ("points", None, 0), ("curves", None, 0),
    ]  # fmt: skip
    assert llm("project", "retention", "speech", "--points", "0").status != 0

    shown = json.loads(
        done("project", "gate", "speech", "--metric", "wer<0.1", "--approval", "--json")
    )
    assert [row["needs"] for row in shown] == [["wer<0.1"], None, True]
    assert "metrics         wer<0.1\n" in done("project", "gate", "speech")
    assert llm("project", "gate", "speech", "--metric", "low").status == 1
    shown = json.loads(done("project", "gate", "speech", "--open", "--json"))
    assert [row["needs"] for row in shown] == [None, None, None]
    assert json.loads(done("usage", "--by", "project", "--json")) == []
    assert done("usage", "--csv").startswith("group,attempts,used_seconds,"), "also of nothing"

    (mine,) = json.loads(done("token", "ls", "--json", token=token))
    assert (mine["name"], mine["scope"]) == ("laptop", "member") and "token" not in mine
    refused = llm("submit", "-r", "demo", token=token)
    assert refused.status == 1 and "viewer" in refused.err
    done("project", "add", "speech", "alice")
    run = done("submit", "-r", "demo", "-p", "steps=5", token=token)
    assert run in done("ls", "-q", token=token)
    done("watch", run, token=token)
    head, row = done("usage", "--by", "project", token=token).splitlines()
    assert head.split()[:4] == ["GROUP", "NAME", "ATTEMPTS", "USED"]
    cells = re.split(r"\s{2,}", row)
    assert cells[1:3] == ["speech", "1"] and cells[4:6] == ["0 s", "0 s"], row
    assert re.fullmatch(r"\d+ s", cells[3]) and cells[7:] == ["0"] * 4 + ["100.0%"], row

    of_one = ("usage", "--by", "run", "--json", "--experiment")
    experiment = json.loads(done("show", run, "--json"))["experiment_id"]
    assert [row["group"] for row in json.loads(done(*of_one, experiment))] == [run]
    assert llm(*of_one, "nowhere").status == 3

    lines = done("audit", "--actor", "alice").splitlines()
    assert len(lines) > 1 and all("alice" in line for line in lines[1:])
    assert any("create_run" in line and run in line for line in lines)
    assert run in done("audit", "--since", "2026-01-01T00:00:00Z", "--outcome", "done")
    assert run not in done("audit", "--until", "2026-01-01T00:00:00Z")
    assert run not in done("audit", "--since", "2999-01-01T00:00:00Z")
    assert run not in done("audit", "--outcome", "refused")
    assert "create_user" in done("audit", "--limit", "1000")
    for option in (("--action", "create_run"), ("--target", run)):
        (row,) = json.loads(done("audit", *option, "--json"))
        assert (row["action"], row["target_id"]) == ("create_run", run)
    assert llm("audit", token=token).status == 1
    done("token", "revoke", mine["token_id"])
    assert llm("ls", token=token).status == 1
    assert llm("token", "revoke", "tok_" + "0" * 26).status == 3
    done("user", "disable", "ci")
    done("project", "remove", "speech", "alice")
    assert "alice" not in done("project", "members", "speech")


def test_what_a_rule_removes_is_told_before_it_is_set(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def llm(*arguments: str, typed: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", StringIO(typed))
        return llm_train("project", "retention", "default", *arguments, API_URL=url,
                         API_TOKEN=API_TOKEN)  # fmt: skip

    admin = {"Authorization": f"Bearer {API_TOKEN}"}
    with httpx.Client(base_url=url, headers=admin) as client:
        made = client.post("/v1/experiments", json={"name": "e", "task_type": "t"}).json()
        runs = f"/v1/experiments/{made['experiment_id']}/runs"
        run = client.post(runs, json={"model": "m"}).json()["run_id"]
        points = {"loss": {"steps": list(range(50)), "values": [0.5] * 50}}
        report = {"step": 50, "metrics": points, "finished": True}
        client.post(f"/v1/runs/{run}/reports", json=report).raise_for_status()
        status = f"{runs}/{run}/status"
        wait_until(lambda: client.get(status).json()["status"] == "succeeded", "it has ended")

        soon = ("--curves", "0.0000001")
        (_, _, row) = json.loads(llm(*soon, "--dry-run", "--json").out)
        assert (row["of"], row["runs"], row["more"]) == ("curves", 1, False) and row["bytes"] > 0
        for typed in ("n\n", ""):
            refused = llm(*soon, typed=typed)
            assert refused.status == 1 and "curves" in refused.err and "Change" in refused.err
        shown = json.loads(llm("--json").out)
        assert [row["days"] for row in shown] == [None, None, None]

        assert llm(*soon, typed="y\n").status == 0
        assert json.loads(llm("--json").out)[2]["days"] == 1e-7
        done = llm("--points", "0.0000001", "--yes")
        assert done.status == 0 and not done.err
