"""Each kind of alert rule, from what a real run does to what arrives: signed, in Slack, by mail."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import standardwebhooks

from tests.support.receivers import Post, Receiver, receiving
from tests.support.server import wait_until
from tests.support.service import Service, home

LOCAL = {"WEBHOOK_NETWORKS": "127.0.0.0/8"}
STEADY = [1.0 + number % 3 / 100 for number in range(60)]
RULES: dict[str, dict[str, Any]] = {
    "run_failed": {},
    "run_finished": {},
    "run_stalled": {},
    "metric_nan": {},
    "metric_spike": {"metric": "grad_norm", "value": 8},
    "metric_threshold": {"metric": "val_loss", "direction": "above", "value": 3.0, "points": 2},
    "checkpoint_released": {},
}


class Scene(NamedTuple):
    """A service with every rule, of which three receivers are told."""

    service: Service
    hook: Any
    standard: Receiver
    slack: Receiver
    post: Post


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    post = Post()
    post.controller.start()
    stalls = "stall_seconds = 2\ngrace_seconds = 1.0"
    settings = LOCAL | {"SMTP_URL": post.url(), "MAIL_FROM": "llm@example.com"}
    with (
        receiving() as standard,
        receiving() as slack,
        home(tmp_path_factory.mktemp("alerts"), vandal=stalls) as place,
        place.serve(**settings) as service,
    ):
        for kind, more in RULES.items():
            service.post("/alert-rules", {"kind": kind, **more}, 201)
        (project,) = service.get("/projects")["projects"]
        told = {"project_id": project["project_id"], "types": ["alert.fired", "alert.recovered"]}
        hook = service.post("/webhooks", {"url": standard.url, **told}, 201)
        service.post("/webhooks", {"url": slack.url, "format": "slack", **told}, 201)
        service.post("/webhooks", {"url": "mailto:team@example.com", **told}, 201)
        yield Scene(service, hook, standard, slack, post)
    post.controller.stop()


def external(service: Service) -> tuple[str, dict[str, str]]:
    """A run whose trainer is this test, and what it has to show."""
    path = f"/experiments/{service.experiment}/runs"
    run = service.post(path, {"model": "m"}, 201)
    return run["run_id"], {"Authorization": f"Bearer {run['run_token']}"}


def report(service: Service, run: str, token: dict[str, str], **body: Any) -> None:
    service.post(f"/runs/{run}/reports", body, 200, **token)


def check_arrives(scene: Scene, run: str, kind: str, what: str = "fired") -> dict[str, Any]:
    """One message about the run comes to each of the three; what the signed one says."""

    def messages() -> list[dict[str, Any]]:
        signed = standardwebhooks.Webhook(scene.hook["signing_secret"])
        read = [signed.verify(body, headers) for headers, body in list(scene.standard.received)]
        return [
            message["data"] for message in read
            if message["type"] == f"alert.{what}"
            and (message["data"]["run_id"], message["data"]["kind"]) == (run, kind)
        ]  # fmt: skip

    (told,) = wait_until(messages, f"{kind} is told of")
    detail = told["detail"]

    def in_slack() -> list[str]:
        texts = [json.loads(body)["text"] for _, body in list(scene.slack.received)]
        return [text for text in texts if run in text and detail in text and what in text]

    def by_mail() -> list[str]:
        texts = [message.get_content() for _, message in list(scene.post.box.received)]
        return [text for text in texts if f"run_id: {run}" in text and f"kind: {kind}" in text]

    assert len(wait_until(in_slack, "Slack has it")) == 1
    assert wait_until(by_mail, "it is mailed")
    assert all(headers["content-type"] == "application/json" for headers, _ in scene.slack.received)
    return dict(told)


def test_a_run_that_failed_is_told_and_that_it_ended(scene: Scene) -> None:
    run = scene.service.submit("crashes", steps=4)
    scene.service.ended(run)
    assert "failed" in check_arrives(scene, run, "run_failed")["detail"]
    check_arrives(scene, run, "run_finished")


def test_training_that_stands_still_is_told(scene: Scene) -> None:
    run = scene.service.submit("vandal", steps=50, deed="__import__('time').sleep(600)")
    assert "still" in check_arrives(scene, run, "run_stalled")["detail"]
    scene.service.cancel(run)
    scene.service.ended(run)
    check_arrives(scene, run, "run_finished")


def test_a_loss_that_is_nan_is_told(scene: Scene) -> None:
    run, token = external(scene.service)
    points = {"steps": [1, 2], "values": [1.0, "NaN"]}
    report(scene.service, run, token, step=2, metrics={"loss": points})
    told = check_arrives(scene, run, "metric_nan")
    assert "loss is NaN at step 2" in told["detail"] and told["step"] == 2


def test_a_spike_is_told(scene: Scene) -> None:
    run, token = external(scene.service)
    steps = list(range(len(STEADY) + 1))
    points = {"steps": steps, "values": [*STEADY, 50.0]}
    report(scene.service, run, token, step=steps[-1], metrics={"grad_norm": points})
    assert check_arrives(scene, run, "metric_spike")["step"] == steps[-1]


def test_a_bound_that_is_passed_is_told_and_when_that_is_over(scene: Scene) -> None:
    run, token = external(scene.service)
    points = {"steps": [1, 2, 3, 4], "values": [3.5, 2.0, 3.5, 3.6]}
    report(scene.service, run, token, step=4, metrics={"val_loss": points})
    assert check_arrives(scene, run, "metric_threshold")["step"] == 4, "one point is no alarm"
    points = {"steps": [5, 6], "values": [2.0, 1.9]}
    report(scene.service, run, token, step=6, metrics={"val_loss": points})
    assert check_arrives(scene, run, "metric_threshold", "recovered")["step"] == 6
    listed = scene.service.get("/alerts?limit=1000")["alerts"]
    (alert,) = [alert for alert in listed if alert["run_id"] == run]
    assert alert["recovered_at"] is not None


def test_a_release_is_told(scene: Scene) -> None:
    run = scene.service.submit("finishes", steps=4)
    scene.service.ended(run)
    path = next(iter(scene.service.checkpoints(run).values()))["ckpt_path"]
    mark = {"run_id": run, "ckpt_path": path, "tag_type": "release", "release_tag": "v1"}
    scene.service.post(f"/experiments/{scene.service.experiment}/checkpoints/mark", mark, 200)
    assert check_arrives(scene, run, "checkpoint_released")["ckpt_path"] == path


def test_a_receiver_that_fails_is_paused_and_told_all_once_it_has_come_back(tmp_path: Path) -> None:
    with home(tmp_path) as place, place.serve(**LOCAL) as service, receiving() as receiver:
        service.post("/alert-rules", {"kind": "run_failed"}, 201)
        hook = service.post("/webhooks", {"url": receiver.url, "types": ["alert.fired"]}, 201)
        path = f"/webhooks/{hook['webhook_id']}"
        receiver.status = 500
        runs = [service.submit("crashes", steps=2) for _ in range(3)]
        for run in runs:
            service.ended(run)

        def all_tried() -> bool:
            deliveries = service.get(f"{path}/deliveries")["deliveries"]
            return len(deliveries) == 3 and all(each["attempts"] for each in deliveries)

        wait_until(all_tried, "each was tried")
        service.http.patch(f"{service.url}/v1{path}", json={"paused": True}).raise_for_status()
        before = len(receiver.received)
        receiver.status = 204

        def told() -> set[str]:
            bodies = [json.loads(body) for _, body in receiver.received[before:]]
            return {body["data"]["run_id"] for body in bodies}

        for delivery in service.get(f"{path}/deliveries")["deliveries"]:
            service.post(f"{path}/deliveries/{delivery['delivery_id']}/redeliver", None, 202)
        run = service.submit("crashes", steps=2)
        service.ended(run)
        wait_until(lambda: len(service.get(f"{path}/deliveries")["deliveries"]) == 4, "its message")
        assert run not in told(), "nothing goes out while it is paused"
        service.http.patch(f"{service.url}/v1{path}", json={"paused": False}).raise_for_status()
        wait_until(lambda: told() == {*runs, run}, "all of it, and what came meanwhile")


@pytest.mark.heavy
def test_a_thousand_alerts_and_a_receiver_that_hangs_hold_up_no_run(tmp_path: Path) -> None:
    with home(tmp_path) as place, place.serve(**LOCAL) as service, receiving() as slow:
        slow.hang = 60
        for number in range(20):
            rule = {"metric": f"m{number}", "direction": "above", "value": 1}
            service.post("/alert-rules", {"kind": "metric_threshold", **rule}, 201)
        hook = service.post("/webhooks", {"url": slow.url, "types": ["alert.fired"]}, 201)
        point = {"steps": [1], "values": [2.0]}
        metrics = {f"m{number}": point for number in range(20)}
        for _ in range(50):
            run, token = external(service)
            report(service, run, token, step=1, metrics=metrics)

        def waiting() -> int:
            path = f"/webhooks/{hook['webhook_id']}/deliveries?limit=1000"
            return len(service.get(path)["deliveries"])

        wait_until(lambda: waiting() == 1_000, lambda: f"{waiting()} of 1,000 alerts")
        run = service.submit("finishes", steps=4)
        assert service.ended(run)["status"] == "succeeded"
        assert service.http.get(f"{service.url}/readyz").status_code == 200
        assert waiting() == 1_000, "none was lost, and none sent twice"
        service.http.delete(f"{service.url}/v1/webhooks/{hook['webhook_id']}").raise_for_status()
