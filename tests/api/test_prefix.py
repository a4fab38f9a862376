"""Behind a proxy that serves the service under a path of its own: every link leads back here."""

from collections.abc import Iterator

import pytest

from tests.api.conftest import Api, running
from tests.api.problem import problem

PREFIX = "/training"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(
        tmp_path_factory.mktemp("prefix"), root_path=f"{PREFIX}/", api_token="t" * 20
    ) as api:
        yield api


# A proxy removes the prefix, or leaves it in.
@pytest.mark.parametrize("arrives_with", ["", PREFIX])
def test_links_keep_the_prefix_and_work(api: Api, arrives_with: str) -> None:
    token = {"authorization": f"Bearer {'t' * 20}"}

    def follow(link: str) -> int:
        assert link.startswith(f"{PREFIX}/"), link
        path = arrives_with + link.removeprefix(PREFIX)
        return api.send("GET", path, headers=token).status_code

    links = api.send("GET", f"{arrives_with}/", headers=token).json()
    for name in ("docs", "openapi", "health"):
        assert follow(links[name]) in (200, 503), name  # /docs: where its files were not built
    document = api.send("GET", f"{arrives_with}/openapi.json", headers=token).json()
    assert document["servers"] == [{"url": PREFIX}]  # where "Try it out" sends

    body = {"name": "a", "task_type": "b"}
    key = {"idempotency-key": "once"}
    made = api.post(f"{arrives_with}/v1/experiments", body, **token, **key)
    again = api.post("/v1/experiments", body, **token, **key)
    assert again == made  # the same request, whichever way it comes
    path = f"{arrives_with}/v1/experiments/{made['experiment_id']}/detail"
    detail = api.send("GET", path, headers=token).json()
    # `metrics` needs to be told of which runs.
    assert {follow(link) for name, link in detail["links"].items() if name != "metrics"} == {200}


def test_the_prefix_opens_nothing(api: Api) -> None:
    for path in (PREFIX, f"{PREFIX}/", f"{PREFIX}/v1/experiments", f"{PREFIX}{PREFIX}/healthz"):
        problem(api.send("GET", path), "unauthorized")
    assert api.send("GET", f"{PREFIX}/healthz").status_code == 200
    problem(api.send("GET", f"{PREFIX}ing/healthz"), "unauthorized")
