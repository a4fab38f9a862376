"""`/v1/…`: verification of checkpoints, releases, and what retention would delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from llm_train.checkpoint import CheckpointError
from pydantic import Field
from typing_extensions import TypedDict

from app.db.sql import Tx
from app.db.tables import Checkpoint
from app.domain.requests import ReleaseTag, VerifyRequest
from app.errors import CheckpointLost
from app.rest import responses, schemas, views
from app.rest.body import read
from app.rest.parameters import (
    DocumentedRoute,
    ExperimentId,
    Parameters,
    Time,
    VerificationId,
    accepts_json,
)
from app.rest.problems import describe_errors
from app.services import experiments, marks, releases, retention, verification, verifications
from app.services.verification import Verified
from app.storage.base import Damaged
from app.storage.streams import drain

READERS = 2
"""Checkpoints read at a time for requests; the supervisor has readers of its own."""

router = APIRouter(
    prefix="/v1/experiments/{experiment_id}", tags=["checkpoints"], route_class=DocumentedRoute
)


class ReleaseAnswer(TypedDict):
    """A checkpoint that is, or was, a release."""

    release_tag: str
    ckpt_path: str
    checkpoint_id: str
    run_id: str
    tag_type: str
    metrics: Annotated[dict[str, float], Field(description="As it was marked with.")]
    released_at: Annotated[schemas.Time, Field(description="Time at which it got this tag.")]


class ReleasesAnswer(TypedDict):
    """The releases of an experiment."""

    at: Annotated[schemas.Time | None, Field(description="The time that was asked for; null: now.")]
    releases: list[ReleaseAnswer]


@router.post(
    "/checkpoints/verify",
    response_model=schemas.VerifyAnswer,
    **accepts_json(VerifyRequest, 404),
)
async def verify_checkpoints(request: Request, experiment_id: ExperimentId) -> Response:
    """Read checkpoints again, every byte: one, those of a run, or all of the experiment.

    Each result is on record as it comes. Those that cannot be read now are listed as `unreadable`
    and stay what they are; if not one can be read, the answer is 503.
    """
    body = await read(request, VerifyRequest)
    state = request.app.state

    results: list[Verified] = []

    async def verify() -> None:
        results[:] = await verification.verify_all(
            state.db, state.readers, state.storage, experiment_id, body
        )

    stored = await responses.perform(
        request,
        lambda tx: verification.read_again(tx, results),
        views.verifications,
        prepare=verify,
    )
    return responses.respond(stored)


@router.post(
    "/verifications", status_code=202, response_model=schemas.VerificationAnswer,
    **accepts_json(VerifyRequest, 404),
)  # fmt: skip
async def start_verification(request: Request, experiment_id: ExperimentId) -> Response:
    """Read checkpoints again in the background: one, those of a run, or all of the experiment.

    Each result is on record as it comes, and a server that is started again goes on. While the same
    verification is under way, that one is the answer.
    """
    body = await read(request, VerifyRequest)
    stored = await responses.perform(
        request, lambda tx: verifications.start(tx, experiment_id, body), views.verification, 202
    )
    return responses.respond(stored)


class VerificationQuery(Parameters):
    """One page of findings."""

    after: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0


@router.get(
    "/verifications/{verification_id}", response_model=schemas.VerificationAnswer,
    responses=describe_errors(404, 422),
)  # fmt: skip
async def get_verification(
    request: Request,
    experiment_id: ExperimentId,
    verification_id: VerificationId,
    query: Annotated[VerificationQuery, Query()],
) -> Response:
    """Return the progress of a verification, and at most 1,000 findings after number `after`."""
    db = request.app.state.db
    job = await db.read(verifications.get, verification_id, experiment_id, query.after)
    return responses.json(views.verification(job))


class ReleasesQuery(Parameters):
    """The point in time."""

    at: Time | None = Field(default=None, description="As they were at this time; now if left out.")


@router.get("/releases", response_model=ReleasesAnswer, responses=describe_errors(404, 422))
async def list_releases(
    request: Request, experiment_id: ExperimentId, query: Annotated[ReleasesQuery, Query()]
) -> Response:
    """List the releases of an experiment, by tag, as they are or were at a time."""
    rows = await request.app.state.db.scan(marks.list_releases_at, experiment_id, query.at)
    return responses.json({"at": query.at, "releases": [row._asdict() for row in rows]})


class ArchiveQuery(Parameters):
    """The release to download."""

    release_tag: ReleaseTag


_TAR = "application/x-tar"
_ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A tar archive: `manifest.json`, then the files and links of the "
        "checkpoint, in a folder of its name. Each file was compared with the manifest while it "
        "was sent: where one differs, the answer breaks off before its `Content-Length`.",
        "content": {_TAR: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "X-Checkpoint-SHA256": {
                "description": "SHA-256 of the manifest: `sha256` of the checkpoint.",
                "schema": {"type": "string"},
            }
        },
    }
}


@router.get(
    "/releases/archive",
    response_class=Response,
    responses=describe_errors(404, 409, 422) | _ARCHIVE,
)
async def export_release(
    request: Request, experiment_id: ExperimentId, query: Annotated[ArchiveQuery, Query()]
) -> Response:
    """Return the checkpoint of a release as one archive, verified as it is read."""
    from app.storage import archive  # few servers are asked

    state = request.app.state
    released = await state.db.read(releases.find, experiment_id, query.release_tag)
    try:
        source = await state.readers.run(archive.open_source, state.storage, *released)
    except (Damaged, CheckpointError) as damage:
        raise CheckpointLost(f"It cannot be exported: {damage}") from damage
    headers = {
        "Content-Length": str(archive.measure(source)),
        "Content-Disposition": f'attachment; filename="{source.path.name}.tar"',
        "X-Checkpoint-SHA256": source.manifest.sha256,
    }
    content = iter(()) if "head" in request.scope else archive.pack(state.storage, source)
    return StreamingResponse(drain(content), media_type=_TAR, headers=headers)


class RetentionQuery(Parameters):
    """The number of checkpoints to keep."""

    keep: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@router.get(
    "/retention", response_model=schemas.RetentionAnswer, responses=describe_errors(404, 422)
)
async def retention_plan(
    request: Request, experiment_id: ExperimentId, query: Annotated[RetentionQuery, Query()]
) -> Response:
    """Return what keeping the newest `keep` checkpoints of each run would delete: a dry run.

    Without `keep`, each recipe's `keep_checkpoints` is used.
    """
    state = request.app.state
    wanted = query.keep or retention.get_limits(state.recipes)

    def plan(tx: Tx) -> list[Checkpoint]:
        experiments.get(tx, experiment_id)
        return retention.plan(tx, wanted, experiment_id)

    return responses.json(views.prunable(await state.db.scan(plan)))
