"""Receivers are told of what happened: signed, at least once, and no slow one holds up anything."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from tests.support.clock import is_soon
from tests.support.receivers import Receiver, receiving
from tests.support.server import wait_until
from tests.support.service import Service, home, running

LOCAL = {"WEBHOOK_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def add(service: Service, receiver: Receiver, **more: Any) -> Any:
    return service.post("/webhooks", {"url": receiver.url, **more}, 201)


def deliveries(service: Service, webhook: Any) -> list[Any]:
    found: list[Any] = service.get(f"/webhooks/{webhook['webhook_id']}/deliveries")["deliveries"]
    return found


def test_a_run_that_fails_is_told_signed_and_once_and_nothing_else_is(
    tmp_path: Path, receiver: Receiver
) -> None:
    with home(tmp_path) as place, place.serve(**LOCAL) as service:
        webhook = add(service, receiver, types=["run.failed", "run.succeeded"])
        others = service.post("/experiments", {"name": "other", "task_type": "t"}, 201)
        elsewhere = add(service, receiver, experiment_id=others["experiment_id"])
        failed = service.submit("crashes", steps=5)
        service.ended(failed)
        wait_until(lambda: receiver.received, "a message")
        wait_until(lambda: deliveries(service, webhook)[0]["state"] == "delivered", "on record")
        ((headers, body),) = receiver.received
        message = standardwebhooks.Webhook(webhook["signing_secret"]).verify(body, headers)
        assert message["type"] == "run.failed"
        told = message["data"]
        assert (told["run_id"], told["experiment"], told["reason"]) == (
            failed, "durable", "exit_code",
        )  # fmt: skip
        assert told["seq"] in [event["seq"] for event in service.events(failed)]
        assert headers["path"] == "/hook?a=1" and headers["content-type"] == "application/json"
        assert headers["webhook-id"] == deliveries(service, webhook)[0]["delivery_id"]
        assert deliveries(service, elsewhere) == []
        shown = service.get("/webhooks")["webhooks"]
        assert all("secret" not in key for entry in shown for key in entry)


def test_what_a_receiver_did_not_take_comes_again_also_after_the_server_was_killed(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.status = 500
    with home(tmp_path) as place:
        with place.serve(**LOCAL) as service:
            webhook = add(service, receiver)
            service.post(f"/webhooks/{webhook['webhook_id']}/test", None, 202)
            failed = wait_until(
                lambda: (d := deliveries(service, webhook)[0])["attempts"] and d, "an attempt"
            )
            assert (failed["state"], failed["last_status"]) == ("pending", 500)
            assert service.get(f"/webhooks/{webhook['webhook_id']}")["failing_since"]
            os.kill(service.pid, signal.SIGKILL)
        receiver.status = 200
        with place.serve(**LOCAL) as service:
            wait_until(
                lambda: deliveries(service, webhook)[0]["state"] == "delivered", "it arrives"
            )
            ids = {headers["webhook-id"] for headers, _ in receiver.received}
            assert ids == {failed["delivery_id"]}
            assert service.get(f"/webhooks/{webhook['webhook_id']}")["failing_since"] is None


@pytest.mark.parametrize("status", [302, 400, 404, 503])
def test_only_success_is_taken_for_received_and_no_redirect_is_followed(
    api_service: Service, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    webhook = add(api_service, receiver)
    api_service.post(f"/webhooks/{webhook['webhook_id']}/test", None, 202)
    delivery = wait_until(
        lambda: (d := deliveries(api_service, webhook)[0])["attempts"] and d, "an attempt"
    )
    assert (delivery["state"], delivery["last_status"]) == ("pending", status)
    assert delivery["next_attempt_at"] > delivery["last_attempt_at"]
    api_service.http.delete(f"{api_service.url}/v1/webhooks/{webhook['webhook_id']}")


def test_a_receiver_that_is_gone_pauses_its_webhook_until_somebody_lets_it_go_on(
    api_service: Service, receiver: Receiver
) -> None:
    receiver.status = 410
    webhook = add(api_service, receiver)
    path = f"/webhooks/{webhook['webhook_id']}"
    api_service.post(f"{path}/test", None, 202)
    wait_until(lambda: api_service.get(path)["paused_at"], "it is paused")
    waiting = api_service.post(f"{path}/test", None, 202)["delivery_id"]
    receiver.status = 200
    gone = deliveries(api_service, webhook)[-1]["delivery_id"]
    api_service.http.patch(f"{api_service.url}/v1{path}", json={"paused": False})
    wait_until(lambda: deliveries(api_service, webhook)[0]["state"] == "delivered", "it goes on")
    again = api_service.post(f"{path}/deliveries/{gone}/redeliver", None, 202)
    wait_until(lambda: deliveries(api_service, webhook)[-1]["state"] == "delivered", "again")
    assert again["delivery_id"] == gone
    assert {headers["webhook-id"] for headers, _ in receiver.received} == {gone, waiting}
    api_service.post(f"{path}/deliveries/{waiting}/redeliver", None, 202)

    def times() -> int:
        return [headers["webhook-id"] for headers, _ in list(receiver.received)].count(waiting)

    wait_until(lambda: times() == 2, "what was received is sent once more")


def test_a_paused_webhook_sends_nothing_and_then_all_that_happened_meanwhile(
    api_service: Service, receiver: Receiver
) -> None:
    with receiving() as another:
        paused, other = add(api_service, receiver), add(api_service, another)
        path = f"/webhooks/{paused['webhook_id']}"
        of_webhook = f"{api_service.url}/v1{path}"
        assert api_service.http.patch(of_webhook, json={"paused": True}).json()["paused_at"]
        tests = [api_service.post(f"{path}/test", None, 202)["delivery_id"] for _ in range(3)]
        run = api_service.submit("finishes", steps=2)
        api_service.ended(run)
        # The other one hears of the run, and of a message that came later.
        wait_until(lambda: "run.succeeded" in another.types(), "the other one is told")
        api_service.post(f"/webhooks/{other['webhook_id']}/test", None, 202)
        wait_until(lambda: "webhook.test" in another.types(), "and of what came later")
        assert receiver.received == []
        waiting = deliveries(api_service, paused)
        assert {(each["state"], each["attempts"]) for each in waiting} == {("pending", 0)}

        api_service.http.patch(of_webhook, json={"paused": False})
        wait_until(lambda: len(receiver.received) >= len(waiting), "all of it arrives")
        came = [headers["webhook-id"] for headers, _ in receiver.received]
        assert sorted(came) == sorted(each["delivery_id"] for each in waiting)
        assert set(tests) < set(came) and "run.succeeded" in receiver.types()
        for webhook in (paused, other):
            api_service.http.delete(f"{api_service.url}/v1/webhooks/{webhook['webhook_id']}")


def test_a_thousand_messages_to_a_receiver_that_hangs_hold_up_nothing_else(
    api_service: Service, receiver: Receiver
) -> None:
    with receiving() as slow:
        slow.hang = 60
        to_slow, to_quick = add(api_service, slow), add(api_service, receiver)
        for _ in range(1_000):
            api_service.post(f"/webhooks/{to_slow['webhook_id']}/test", None, 202)
        everything = f"/webhooks/{to_slow['webhook_id']}/deliveries?limit=1000"
        wait_until(
            lambda: api_service.get(everything)["deliveries"][-1]["last_error"], "time is up"
        )
        began = time.monotonic()
        api_service.post(f"/webhooks/{to_quick['webhook_id']}/test", None, 202)
        run = api_service.submit("finishes", steps=2)
        assert api_service.ended(run)["status"] == "succeeded"
        wait_until(lambda: "run.succeeded" in receiver.types(), "the quick one is told")
        assert is_soon(time.monotonic() - began, 10)
        for webhook in (to_slow, to_quick):
            api_service.http.delete(f"{api_service.url}/v1/webhooks/{webhook['webhook_id']}")


def test_no_message_goes_to_a_private_address_unless_the_operator_allows_it(
    tmp_path: Path, receiver: Receiver
) -> None:
    with running(tmp_path) as service:
        for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost")):
            webhook = service.post("/webhooks", {"url": url}, 201)
            service.post(f"/webhooks/{webhook['webhook_id']}/test", None, 202)
            delivery = refused(service, webhook)
            assert "LLM_TRAIN_WEBHOOK_NETWORKS" in delivery["last_error"]
    assert receiver.received == []


def refused(service: Service, webhook: Any) -> Any:
    """Wait until the only message of a webhook could not be sent."""
    return wait_until(lambda: (d := deliveries(service, webhook)[0])["last_error"] and d, "refused")


@pytest.fixture(scope="module")
def api_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose webhooks may be on this machine."""
    with home(tmp_path_factory.mktemp("webhooks")) as place, place.serve(**LOCAL) as service:
        yield service
