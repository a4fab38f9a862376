"""`llm-train alerts` and `webhooks` against a real service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.permissions import DEFAULT_PROJECT
from tests.support.commands import llm_train
from tests.support.dashboard import experiment, external
from tests.support.server import running_server, wait_until


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with running_server(tmp_path, WEBHOOK_NETWORKS="127.0.0.0/8") as server:
        yield server.url


def done(url: str, *arguments: str) -> str:
    ended = llm_train(*arguments, API_URL=url)
    assert ended.status == 0, (arguments, ended.err)
    return ended.out.strip()


def listed(url: str, *arguments: str) -> Any:
    return json.loads(done(url, *arguments, "--json"))


def test_a_rule_is_added_fires_is_paused_and_deleted(url: str) -> None:
    rule = done(url, "alerts", "add", "metric_threshold", "--metric", "loss", "--above", "3",
                "--points", "2", "--name", "too high")  # fmt: skip
    (row,) = listed(url, "alerts", "rules")
    assert (row["rule_id"], row["direction"], row["value"], row["points"]) == (rule, "above", 3, 2)
    trainer = external(url, experiment(url))
    trainer.points("loss", [1, 2, 3], [1.0, 4.0, 5.0], step=3)
    alerts = wait_until(
        lambda: listed(url, "alerts", "ls", "--firing", "--rule", "too high"), "it fires"
    )
    assert [alert["run_id"] for alert in alerts] == [trainer.run]
    assert listed(url, "alerts", "ls", "--run", trainer.run) == alerts
    assert trainer.run in done(url, "alerts", "ls")

    done(url, "alerts", "pause", "too high")
    assert listed(url, "alerts", "rules")[0]["paused_at"] is not None
    done(url, "alerts", "unpause", rule[-6:])
    assert listed(url, "alerts", "rules")[0]["paused_at"] is None
    done(url, "alerts", "delete", rule)
    assert listed(url, "alerts", "rules") == listed(url, "alerts", "ls") == []


def test_a_webhook_is_added_tested_sent_again_and_deleted(url: str) -> None:
    webhook, secret = done(
        url, "webhooks", "add", f"{url}/nobody", "--name", "chat", "-t", "run.failed"
    ).splitlines()
    assert secret.startswith("whsec_")
    message = done(url, "webhooks", "test", "chat")
    assert [row["delivery_id"] for row in listed(url, "webhooks", "messages", webhook)] == [message]
    assert done(url, "webhooks", "redeliver", "chat", message) == message
    assert message in done(url, "webhooks", "messages", "chat")
    done(url, "webhooks", "pause", "chat")
    assert listed(url, "webhooks", "ls")[0]["paused_at"] is not None
    done(url, "webhooks", "unpause", "chat")
    assert "run.failed" in done(url, "webhooks", "ls")
    done(url, "webhooks", "delete", "chat")
    assert listed(url, "webhooks", "ls") == []


def test_a_webhook_of_an_experiment_or_a_project_names_it_as_every_command_does(url: str) -> None:
    own = experiment(url)
    for option, name in (("experiment", own), ("experiment", "look at me"), ("project", "default")):
        done(url, "webhooks", "add", f"{url}/nobody", f"--{option}", name)
        (webhook,) = listed(url, "webhooks", "ls")
        assert webhook[f"{option}_id"] == (own if option == "experiment" else DEFAULT_PROJECT)
        done(url, "webhooks", "delete", webhook["webhook_id"])


def test_what_is_wrong_is_said_and_changes_nothing(url: str) -> None:
    for status, words, *arguments in (
        (1, "needs metric", "alerts", "add", "metric_spike", "--spike", "8"),
        (2, "one of", "alerts", "add", "metric_threshold", "--above", "1", "--below", "2"),
        (2, "nothing", "alerts", "add", "nothing"),
        (3, "no alert rule", "alerts", "pause", "alr_"),
        (3, "no webhook", "webhooks", "test", ""),
        (1, "url", "webhooks", "add", "ftp://a.example.com"),
    ):
        ended = llm_train(*arguments, API_URL=url)
        assert (ended.status, words in ended.err) == (status, True), (arguments, ended)
    assert listed(url, "alerts", "rules") == listed(url, "webhooks", "ls") == []
