"""`/v1/runs/{run_id}/…`: how a trainer exchanges checkpoints with an object store, by signed URLs.

    uploads (the manifest → what is missing, with URLs) → the trainer's PUTs → commit (the manifest)

With the token of the run or the attempt, and in the query the `attempt` or `session` of its
reports.
The other end is llm_train/transfers.py.
"""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.domain.attempts import MAX_MANIFEST_BYTES
from app.errors import Conflict, Unauthorized
from app.rest import responses
from app.rest.attempts import JSON, CheckpointName, raw_body, read_raw
from app.rest.parameters import DocumentedRoute, Parameters, RunId
from app.rest.problems import describe_errors
from app.rest.reports import check_trainer
from app.rest.trainer_schemas import CommitAnswer, ResumeAnswer, UploadsAnswer
from app.services import trainer_files
from app.storage.base import URL_SECONDS, Transfer

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["agents"], route_class=DocumentedRoute)

NO_URLS = "The storage of this service has no URLs: trainers share its data directory."


class TrainerQuery(Parameters):
    """The trainer that makes the request: the same field as in its reports."""

    attempt: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    session: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    key: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")] | None = Field(
        None,
        description="Of a checkpoint that several ranks send: each sends the manifest of its own "
        "files, and one commits that of all.",
    )


Trainer = Annotated[TrainerQuery, Query()]


@router.post(
    "/checkpoints/{name}/uploads",
    response_model=UploadsAnswer,
    **raw_body(JSON, 400, 415),
)
async def plan_uploads(
    request: Request, run_id: RunId, name: CheckpointName, trainer: Trainer
) -> Response:
    """Say where the files of a checkpoint go: the body is its manifest.json.

    Only what is missing is listed, 1,000 pieces at most: PUT them, with `Content-MD5`, and ask
    again; an empty list means that it can be committed, and null that there are no such URLs.
    """
    _check(request, run_id, trainer)
    state = request.app.state
    content = await read_raw(request, MAX_MANIFEST_BYTES, JSON)
    path = await state.db.read(
        trainer_files.get_path, run_id, name, trainer.attempt, trainer.session
    )
    wanted = await state.uploads.sign(path, content, trainer.key)
    return responses.json({
        "uploads": None if wanted is None else list(map(Transfer._asdict, wanted)),
        "headers": _headers(wanted),
        "expires_seconds": URL_SECONDS,
    })  # fmt: skip


@router.post(
    "/checkpoints/{name}/commit",
    response_model=CommitAnswer,
    **raw_body(JSON, 400, 415),
)
async def commit_upload(
    request: Request, run_id: RunId, name: CheckpointName, trainer: Trainer
) -> Response:
    """Commit a checkpoint whose files were put: the body is its manifest.json.

    It is verified in the background. Repeated, it has the same answer. Where the name is taken by
    another checkpoint, it stands as `name.2`: the answer says under which name.
    """
    _check(request, run_id, trainer)
    state, who = request.app.state, (trainer.attempt, trainer.session)
    content = await read_raw(request, MAX_MANIFEST_BYTES, JSON)
    path = await state.db.read(trainer_files.get_path, run_id, name, *who)
    done = await state.uploads.commit_signed(path, content, trainer.key)
    await state.db.write(trainer_files.record_committed, run_id, done, *who)
    return responses.json({"ckpt_path": str(done.path), "name": done.path.name})


@router.get("/resume", response_model=ResumeAnswer, responses=describe_errors(404, 409, 422))
async def plan_downloads(request: Request, run_id: RunId, trainer: Trainer) -> Response:
    """Say where the files of the checkpoint are that the run starts from."""
    _check(request, run_id, trainer)
    state = request.app.state
    path = await state.db.read(trainer_files.get_source, run_id, trainer.attempt)
    signed = await state.uploads.sign_downloads(path)
    if signed is None:
        raise Conflict(NO_URLS)
    return responses.json({
        "ckpt_path": str(path),
        "sha256": hashlib.sha256(signed.manifest).hexdigest(),
        "manifest": signed.manifest.decode(),
        "downloads": list(map(Transfer._asdict, signed.downloads)),
        "expires_seconds": URL_SECONDS,
    })  # fmt: skip


def _check(request: Request, run_id: str, trainer: TrainerQuery) -> None:
    attempt = check_trainer(request, run_id)
    if attempt not in (None, trainer.attempt):
        raise Unauthorized(f"This token is of attempt {attempt} only.")


def _headers(wanted: list[Transfer] | None) -> dict[str, str]:
    """Return the headers that a store wants with each PUT."""
    is_azure = any(".blob.core." in upload.url for upload in wanted or ())
    return {"x-ms-blob-type": "BlockBlob"} if is_azure else {}
