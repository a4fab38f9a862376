"""`/v1/usage`: what runs took of the machines, and what of it was wasted or saved."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from typing_extensions import TypedDict

from app.domain.ids import PATTERN
from app.rest import responses
from app.rest.parameters import DocumentedRoute, Parameters, Time
from app.rest.problems import describe_errors
from app.services import usage
from app.services.usage import MAX_GROUPS, Account, By, Period

router = APIRouter(prefix="/v1", tags=["service"], route_class=DocumentedRoute)


class Usage(TypedDict):
    """The use of ended attempts, summed over a run, an experiment, a project or a month."""

    group: Annotated[str, Field(description="Id of the run, experiment or project, or month.")]
    attempts: int
    used_seconds: float
    wasted_seconds: Annotated[
        float, Field(description="Work after the last good checkpoint of attempts that failed.")
    ]
    waited_seconds: Annotated[float, Field(description="In the queue, before each attempt.")]
    saved_seconds: Annotated[
        float, Field(description="Time to repeat the steps before a checkpoint.")
    ]
    gpu_hours_used: float
    gpu_hours_wasted: float
    gpu_hours_waited: float
    gpu_hours_saved: float
    goodput: Annotated[float | None, Field(description="Share of the time that was not wasted.")]
    name: Annotated[
        str | None,
        Field(description="Of the run, experiment or project; empty: none, null: deleted."),
    ]


class UsageAnswer(TypedDict):
    """One page of sums."""

    usage: list[Usage]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


class UsageQuery(Parameters):
    """The period and the grouping of the account."""

    by: By = Field(default=By.MONTH, description="A sum for each of these.")
    experiment_id: Annotated[str | None, Field(pattern=PATTERN.format("exp"))] = None
    project_id: Annotated[str | None, Field(pattern=PATTERN.format("prj"))] = None
    since: Time | None = Field(default=None, description="Attempts that ended at or after it.")
    until: Time | None = Field(default=None, description="Attempts that ended before it.")
    after: Annotated[
        str, Field(pattern="^[a-z0-9_-]{0,100}$", description="`next` of the page before.")
    ] = ""
    limit: Annotated[int, Field(ge=1, le=MAX_GROUPS)] = MAX_GROUPS
    csv: bool = Field(
        default=False,
        description="A table in CSV, without `next`: all of it, unless `limit` is sent. In a text "
        "that a spreadsheet would take for a formula an apostrophe comes first.",
    )


_TABLE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
}


@router.get("/usage", response_model=UsageAnswer, responses=describe_errors(422) | _TABLE)
async def get_usage(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
    """Return the time that ended attempts used, wasted, waited and saved, by run, experiment,
    project or month; times GPUs as well.
    """
    page, more = await _page(request, query, query.after)
    if query.csv:
        more = None if "limit" in query.model_fields_set else more
        table = _table(request, query, page, more)
        return StreamingResponse(table, media_type="text/csv; charset=utf-8")
    return responses.json({"usage": page, "next": more})


async def _page(request: Request, query: UsageQuery, after: str) -> tuple[list[Usage], str | None]:
    """Return the sums after a group, and where to go on, if there are more."""
    period = Period(query.since or "", query.until or "9", query.experiment_id, query.project_id)
    db = request.app.state.db
    rows = await db.scan(usage.account, query.by, period, after, query.limit + 1)
    page = rows[: query.limit]
    return list(map(_view, page)), page[-1].group if len(rows) > query.limit else None


def _view(account: Account) -> Usage:
    return {
        "group": account.group,
        "attempts": account.attempts,
        "used_seconds": account.used_seconds,
        "wasted_seconds": account.wasted_seconds,
        "waited_seconds": account.waited_seconds,
        "saved_seconds": account.saved_seconds,
        "gpu_hours_used": account.gpu_hours_used,
        "gpu_hours_wasted": account.gpu_hours_wasted,
        "gpu_hours_waited": account.gpu_hours_waited,
        "gpu_hours_saved": account.gpu_hours_saved,
        "goodput": account.goodput,
        "name": account.name,
    }


async def _table(
    request: Request, query: UsageQuery, page: list[Usage], more: str | None
) -> AsyncIterator[str]:
    """Yield the table, page by page: the first one, and those after the group `more`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Usage.__annotations__))
    writer.writeheader()
    writer.writerows(map(_cells, page))
    yield text.getvalue()
    while more is not None:
        page, more = await _page(request, query, more)
        text.seek(0)
        text.truncate()
        writer.writerows(map(_cells, page))
        yield text.getvalue()


_FORMULA = tuple("=+-@＝＋－＠\t\r\n")


def _cells(row: Usage) -> dict[str, Any]:
    """Return the cells of a row, none of which a spreadsheet executes (OWASP: CSV injection)."""
    return {
        column: f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
        for column, cell in row.items()
    }
