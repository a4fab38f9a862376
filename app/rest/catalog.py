"""`/v1`: what there is to choose from and how much: recipes, capacity, counts of runs."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.db import efforts, groups
from app.db.sql import Tx
from app.domain import comparison
from app.domain.filters import AnyRunFilter, get_conditions
from app.domain.lifecycle import RunStatus
from app.domain.requests import Name
from app.errors import InvalidInput
from app.rest import responses, schemas, views
from app.rest.parameters import DocumentedRoute, Parameters
from app.rest.problems import describe_errors
from app.server.capacity import read_capacity
from app.services import overviews
from app.services.overviews import MAX_COMPARED

MOST_COMPARED = 1_000_000
"""Values and characters of keys in one comparison."""

router = APIRouter(prefix="/v1", route_class=DocumentedRoute)


class CountsAnswer(TypedDict):
    """The number of runs in each status; statuses without runs are left out."""

    counts: dict[schemas.RunStatus, int]
    is_lower_bound: Annotated[
        bool,
        Field(
            description="True if there may be more: runs that have to be read to be counted are "
            "counted among the newest, up to 10,000; those with a common text, up to some thousand."
        ),
    ]


class ComparedParam(TypedDict):
    """One parameter of several runs."""

    section: schemas.Section
    key: Annotated[str, Field(description="Of a nested object, dotted: `optimizer.betas`.")]
    values: Annotated[
        list[Any], Field(description="In the order of `run_ids`; null where a run lacks it.")
    ]
    differs: bool


class ComparisonAnswer(TypedDict):
    """The parameters of runs side by side."""

    run_ids: list[str]
    params: list[ComparedParam]


class LauncherAnswer(TypedDict):
    """A launcher and its total resources; null where only the engine knows."""

    name: str
    cpus: float | None
    memory_gb: float | None
    gpus: Annotated[dict[str, int] | None, Field(description="GPUs by their type.")]
    max_runs: int | None
    active: Annotated[
        int, Field(description="Runs that it has been given and that have not ended.")
    ]
    queued: Annotated[int, Field(description="Those in its engine's own queue.")]
    trouble: Annotated[
        str | None, Field(description="Reason it is unreachable now; null: it is not.")
    ]


class CapacityAnswer(TypedDict):
    """The resources that runs can get."""

    launchers: list[LauncherAnswer]
    queued: Annotated[int, Field(description="Runs of recipes that wait.")]


@router.get(
    "/recipes", response_model=schemas.RecipesAnswer, responses=describe_errors(), tags=["runs"]
)
async def list_recipes(request: Request) -> Response:
    """List the recipes that a new run may name, by name."""
    recipes = request.app.state.recipes
    return responses.json({"recipes": [views.recipe(recipes[name]) for name in sorted(recipes)]})


@router.get(
    "/runs/counts", response_model=CountsAnswer, responses=describe_errors(422), tags=["runs"]
)
async def count_runs(request: Request, query: Annotated[AnyRunFilter, Query()]) -> Response:
    """Count the runs of all experiments by status."""
    filters = get_conditions(AnyRunFilter, query)
    read = await request.app.state.db.fetch(efforts.of_list(filters), groups.by_status, filters)
    numbers = dict(read.counts)
    counts = {status.value: numbers[status] for status in RunStatus if status in numbers}
    return responses.json({"counts": counts, "is_lower_bound": read.is_lower_bound})


class CompareQuery(Parameters):
    """Runs to compare."""

    run_ids: list[Name] = Field(
        min_length=1, max_length=MAX_COMPARED, description="Repeated, one each."
    )
    only_different: bool = Field(True, description="Leave out what is the same in all of them.")


@router.get(
    "/runs/compare", response_model=ComparisonAnswer, responses=describe_errors(404, 422),
    tags=["runs"],
)  # fmt: skip
async def compare_runs(request: Request, query: Annotated[CompareQuery, Query()]) -> Response:
    """Return the parameters of runs side by side."""
    body = await request.app.state.db.scan(_compare, query.run_ids, query.only_different)
    return Response(body, media_type="application/json")


def _compare(tx: Tx, run_ids: list[str], only_different: bool) -> bytes:
    rows: list[ComparedParam] = []
    size = 0
    for row in overviews.compare(tx, run_ids):
        if row.differs or not only_different:
            values = [None if value is comparison.MISSING else value for value in row.values]
            rows.append(
                {"section": row.section, "key": row.key, "values": values, "differs": row.differs}
            )
            size += len(row.key) + len(values)
            if size > MOST_COMPARED:
                raise InvalidInput("These runs differ in too much for one answer; compare fewer.")
    return orjson.dumps({"run_ids": run_ids, "params": rows})


@router.get("/capacity", response_model=CapacityAnswer, responses=describe_errors(), tags=["runs"])
async def get_capacity(request: Request) -> Response:
    """Return what each launcher has in all, and how many runs are with it."""
    state = request.app.state
    engines = await read_capacity(state.db, state.launchers)
    launchers = [launcher._asdict() for launcher in engines.launchers]
    return responses.json({"launchers": launchers, "queued": engines.queued})
