"""`/v1/audit`: who did what, for administrators."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from app.db.tables import AuditEntry
from app.domain.ids import PATTERN, parse_timestamp
from app.domain.requests import Name
from app.rest import responses, schemas
from app.rest.parameters import DocumentedRoute, Parameters
from app.rest.problems import describe_errors
from app.services import audit

router = APIRouter(prefix="/v1", tags=["team"], route_class=DocumentedRoute)

Time = Annotated[str, BeforeValidator(parse_timestamp)]


class AuditEntryAnswer(TypedDict):
    """One write of a user or of the operator's token, or one sign-in that was refused."""

    entry_id: str
    at: schemas.Time
    actor: schemas.Actor
    token_id: str | None
    action: Annotated[str, Field(description="Name of the operation, or `sign_in`.")]
    target_id: Annotated[str | None, Field(description="Id of the target.")]
    outcome: Annotated[str, Field(description="`done` or `refused`.")]
    address: Annotated[str | None, Field(description="Address that a refused sign-in came from.")]


class AuditAnswer(TypedDict):
    """One page of the audit, newest first."""

    entries: list[AuditEntryAnswer]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


class AuditQuery(Parameters):
    """The filters of the audit, and the page."""

    actor: Name | None = Field(None, description="Name of the user.")
    action: Name | None = Field(None, description="Such as `create_run`, or `sign_in`.")
    target_id: Name | None = Field(None, description="Id of its target.")
    outcome: Literal["done", "refused"] | None = None
    since: Time | None = Field(None, description="At this time or later.")
    until: Time | None = Field(None, description="Before this time.")
    after: Annotated[str | None, Field(pattern=PATTERN.format("aud"))] = Field(
        None, description="`next` of the page before."
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = 50


def view(entry: AuditEntry) -> AuditEntryAnswer:
    """Return `AuditEntryAnswer`."""
    return {
        "entry_id": entry.id,
        "at": entry.at,
        "actor": {"kind": entry.actor_kind, "name": entry.actor_name},
        "token_id": entry.token_id,
        "action": entry.action,
        "target_id": entry.target_id,
        "outcome": entry.outcome,
        "address": entry.address,
    }


@router.get("/audit", response_model=AuditAnswer, responses=describe_errors(422))
async def list_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> Response:
    """List who wrote what, and failed sign-ins, newest first. For administrators."""
    filters = query.model_dump(exclude_none=True, exclude={"limit"})
    rows = await request.app.state.db.scan(audit.list_entries, filters, query.limit + 1)
    page = rows[: query.limit]
    more = page[-1].id if len(rows) > query.limit else None
    return responses.json({"entries": list(map(view, page)), "next": more})
