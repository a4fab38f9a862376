"""A use case, its endpoint and its mutation are added by the steps of their rooms alone.

`app/services/__init__.py`, `app/rest/routes.py` and `app/graphql/mutations/__init__.py` say how.
The steps are taken in a copy of the package, which then serves.
"""

from pathlib import Path

from tests.support.copies import copy_package, edit, run_copy

REQUEST = '''

class PraiseRequest(Request):
    """Words about a run."""

    words: Annotated[str, Field(min_length=1, max_length=200)]
'''
USE_CASE = '''

def praise(tx: Tx, run_id: str, words: str) -> Run:
    """Record praise for a run in its notes."""
    run = lock(tx, run_id)
    return change(tx, run, notes=words)
'''
ENDPOINT = '''

@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/praise", response_model=schemas.RunAnswer,
    tags=["runs"],
    **accepts_json(PraiseRequest, 404),
)  # fmt: skip
async def praise_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Praise a run."""
    body = await read(request, PraiseRequest)
    return responses.respond(
        await responses.perform(request, lambda tx: runs.praise(tx, run_id, body.words), views.run)
    )
'''
INPUT = '''@input
class PraiseRunInput:
    """Words about a run."""

    run_id: strawberry.ID = attribute("The run.")
    words: str = attribute("The words.")
    idempotency_key: str | None = optional(KEY)


@output
class PraiseRunPayload(Payload):
    """The praised run."""

    run: Run | None = optional("The run.")


ToPraise = Annotated[PraiseRunInput, strawberry.argument(description="The run, and the words.")]


@output
class RunMutations:
'''
MUTATION = '''
    @mutation
    async def praise_run(self, info: Info, input: ToPraise) -> PraiseRunPayload:
        """Praise a run."""

        def work(tx: Tx) -> Rows:
            request = request_of(PraiseRequest, input, "run_id")
            return {"run": runs.praise(tx, input.run_id, request.words)}

        return await perform(info, input, PraiseRunPayload, work)
'''
CLIENT = """
import json, sys
from fastapi.testclient import TestClient
from app.main import prepare
from app.settings import Settings

MUTATION = '''mutation ($run: ID!, $words: String!) {
  praiseRun(input: {runId: $run, words: $words, idempotencyKey: "k"}) {
    run { notes } replayed userErrors { code field }
  }
}'''
with TestClient(prepare(Settings()), base_url="http://localhost") as client:
    experiment = client.post("/v1/experiments", json={"name": "e", "task_type": "sft"}).json()
    runs = f"/v1/experiments/{experiment['experiment_id']}/runs"
    run = client.post(runs, json={"model": "m"}).json()["run_id"]
    path, key = f"{runs}/{run}/praise", {"Idempotency-Key": "one"}
    answers = [client.post(path, json={"words": "good"}, headers=key) for _ in range(2)]
    wrong = client.post(path, json={"words": "", "more": 1})
    seen = [
        [answer.json()["notes"], answer.headers.get("idempotent-replayed")] for answer in answers
    ] + [wrong.status_code, wrong.json()["code"]]
    for words in ("better", "better", ""):
        variables = {"run": run, "words": words}
        body = {"query": MUTATION, "variables": variables}
        seen.append(client.post("/graphql", json=body).json()["data"]["praiseRun"])
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/experiments/{experiment_id}/runs/{run_id}/praise"]["post"]
    seen.append("409" in operation["responses"])  # as of every write with a key
json.dump(seen, sys.stdout)
"""


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def test_a_use_case_an_endpoint_and_a_mutation_take_the_written_steps(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    append(package / "domain/requests.py", REQUEST)
    append(package / "services/runs.py", USE_CASE)
    routes = package / "rest/routes.py"
    edit(routes, "    MarkRequest,\n", "    MarkRequest,\n    PraiseRequest,\n")
    append(routes, ENDPOINT)
    mutations = package / "graphql/mutations/runs.py"
    edit(mutations, "import ResumeRequest,", "import PraiseRequest, ResumeRequest,")
    edit(mutations, "@output\nclass RunMutations:\n", INPUT)
    append(mutations, MUTATION)

    printed = run_copy(package, CLIENT)
    done = {"run": {"notes": "better"}, "userErrors": []}
    reused = {"run": None, "replayed": False}
    *seen, last, documented = printed
    assert seen == [
        ["good", None], ["good", "true"], 422, "invalid_input",
        done | {"replayed": False}, done | {"replayed": True},
    ]  # fmt: skip
    assert {name: last[name] for name in reused} == reused and last["userErrors"][0]["code"]
    assert documented is True
