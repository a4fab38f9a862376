"""`/v1/runs/{run_id}/attempts/{attempt}/…`: the mailbox of an agent that shares no files.

    claim (code → token) → pulse … log … checkpoints … → exit

A claim shows the code of the attempt's job, everything else the token that the claim answered.
The other end is app/agent/http.py, the rules are in app/services/attempts.py.
"""

import asyncio
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from app.db.current_principal import act_as
from app.db.sql import Tx, load
from app.db.tables import Attempt
from app.domain import paths
from app.domain.attempts import (
    MAX_LOG_BYTES,
    MAX_MANIFEST_BYTES,
    ClaimRequest,
    ExitRequest,
    PulseRequest,
)
from app.domain.paths import CheckpointPath
from app.domain.principals import of_run
from app.domain.tokens import attempt_of, attempt_token
from app.errors import (
    BodyTooLarge,
    InvalidInput,
    NotFound,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from app.rest import responses
from app.rest.body import read
from app.rest.parameters import (
    DirectRoute,
    DocumentedRoute,
    Parameters,
    RunId,
    bodies,
    is_run_id,
)
from app.rest.problems import describe_errors
from app.rest.trainer_schemas import (
    ClaimAnswer,
    CommitAnswer,
    ExitAnswer,
    FileAnswer,
    LogAnswer,
    PulseAnswer,
)
from app.server.guard import bearer
from app.services import attempts, pulses, runs, saves, train_log
from app.services.attempts import Claim
from app.storage.base import Committed

PULSE_SECONDS = 2.0
"""The interval between an agent's pulses, except those that wait for a stop."""
MAX_WAIT_SECONDS = 20.0
JSON, BYTES = "application/json", "application/octet-stream"

AttemptNumber = Annotated[int, PathParameter(ge=1, le=999_999_999)]
CheckpointName = Annotated[
    str, PathParameter(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$", examples=["step-000100"])
]

_PLAIN_QUERY = re.compile(rb"wait=(1?[0-9])")
_PLAIN_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class PulseRoute(DirectRoute):
    """Parses itself what agents send: a thousand of them send seventy pulses a second."""

    def parse(self, request: Request) -> dict[str, Any] | None:
        run_id, attempt = request.path_params["run_id"], request.path_params["attempt"]
        wait = _PLAIN_QUERY.fullmatch(request.scope["query_string"])
        if wait is None or not is_run_id(run_id) or not _PLAIN_NUMBER.fullmatch(attempt):
            return None
        query = PulseQuery.model_construct(wait=float(wait[1]))
        return {"run_id": run_id, "attempt": int(attempt), "query": query}


_PREFIX = "/v1/runs/{run_id}/attempts/{attempt}"
router = APIRouter(prefix=_PREFIX, tags=["agents"], route_class=DocumentedRoute)
pulses_router = APIRouter(prefix=_PREFIX, tags=["agents"], route_class=PulseRoute)


def _json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the decorator's arguments for a route that reads `model`."""
    bodies[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "openapi_extra": {"requestBody": body},
        "responses": describe_errors(400, 404, 409, 415, 422),
    }


def raw_body(media_type: str, *errors: int) -> dict[str, Any]:
    """Return the decorator's arguments for a route that takes the body as it is."""
    schema = {"type": "object"} if media_type == JSON else {"type": "string", "format": "binary"}
    body = {"required": True, "content": {media_type: {"schema": schema}}}
    return {
        "openapi_extra": {"requestBody": body},
        "responses": describe_errors(404, 409, 422, *errors),
    }


@router.post("/claim", response_model=ClaimAnswer, **_json_body(ClaimRequest))
async def claim_attempt(request: Request, run_id: RunId, attempt: AttemptNumber) -> Response:
    """Take an attempt, with the claim code of its job: the first agent wins.

    The answer says how to start the trainer, and holds the token for everything else. The agent
    that won gets the same answer again; another one gets 409 and must start nothing.
    """
    state = request.app.state
    body = await read(request, ClaimRequest)
    code = bearer(request.headers.get("authorization", ""))
    if code is None:
        raise Unauthorized("Send the claim code of this attempt: `Authorization: Bearer ac_…`.")
    act_as(of_run(run_id))  # the code is checked for this run
    claim = await state.db.write(attempts.claim, run_id, attempt, code, body.agent, body.host)
    recipe = state.recipes.get(claim.run.recipe)
    if recipe is None:
        raise Unavailable(
            f"The recipe {claim.run.recipe!r} is not configured on this server.", retry_after=5
        )
    token = attempt_token(state.secret, run_id, attempt)
    address = state.settings.public_url or state.api_url
    config = attempts.launch_config(claim, recipe, state.settings.environment, token, address)
    _, received = await _on_disk(train_log.measure_received, _run_dir(request, run_id), attempt)
    return responses.json(
        {
            "run_id": run_id,
            "attempt": attempt,
            "token": token,
            "config": config,
            "spec": load(claim.attempt.spec),
            "log_offset": received,
            "pulse_seconds": PULSE_SECONDS,
        }
    )


class PulseQuery(Parameters):
    """The time to wait."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)] = Field(
        0.0, description="Seconds for which the answer may wait while there is nothing new to do."
    )


@pulses_router.post("/pulse", response_model=PulseAnswer, **_json_body(PulseRequest))
async def pulse(
    request: Request, run_id: RunId, attempt: AttemptNumber, query: Annotated[PulseQuery, Query()]
) -> Response:
    """Say that the agent lives, and learn what it must do: go, stop, kill, or over."""
    _check_token(request, run_id, attempt)
    db = request.app.state.db
    body = await read(request, PulseRequest)
    with db.changes.subscribe(run_id) as changed:  # before the order is read: none is missed
        order = await db.read(pulses.get_directive, run_id, attempt)
        if body.stopping and body.node is None and order == "go":
            await db.write(attempts.ask_to_stop, run_id, attempt)
            order = await db.read(pulses.get_directive, run_id, attempt)
        if body.node is None and order != "over":
            request.app.state.pulses.add(run_id, attempt, body.ran_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(query.wait):
                while order == (body.heard or "go"):
                    await changed.wait()
                    changed.clear()
                    order = await db.read(pulses.get_directive, run_id, attempt)
    return responses.json({"order": order})


class LogQuery(Parameters):
    """The offset of the piece."""

    offset: Annotated[int, Field(ge=0, le=2**53)] = Field(
        description="Bytes of this attempt's output before this piece."
    )


@router.post(
    "/log", response_model=LogAnswer,
    **raw_body(BYTES, 400, 415),
)  # fmt: skip
async def append_log(
    request: Request, run_id: RunId, attempt: AttemptNumber, query: Annotated[LogQuery, Query()]
) -> Response:
    """Add a piece of the trainer's output, of 1 MiB at most. May be repeated.

    A piece that leaves a gap gets 409 `log_offset`, whose `offset` says where the output goes on.
    """
    _check_token(request, run_id, attempt)
    state = request.app.state
    content = await read_raw(request, MAX_LOG_BYTES, BYTES)
    claim = await state.db.read(attempts.get_current, run_id, attempt)
    recipe = state.recipes.get(claim.run.recipe)
    most = (recipe.max_log_mb if recipe else 256) << 20
    run_dir = _run_dir(request, run_id)
    offset = await _on_disk(train_log.append, run_dir, attempt, query.offset, content, most)
    return responses.json({"offset": offset})


@router.post("/exit", response_model=ExitAnswer, **_json_body(ExitRequest))
async def record_exit(request: Request, run_id: RunId, attempt: AttemptNumber) -> Response:
    """Record how the attempt ended. Repeated, it changes nothing: the first record stays."""
    _check_token(request, run_id, attempt)
    body = await read(request, ExitRequest)
    start, _ = await _on_disk(train_log.measure_received, _run_dir(request, run_id), attempt)
    db = request.app.state.db
    ended: Attempt = await db.write(attempts.finish, run_id, attempt, body, start)
    return responses.json(
        {"run_id": run_id, "attempt": attempt, "record": load(ended.exit or "{}")}
    )


@router.put(
    "/checkpoints/{name}/files/{file:path}", response_model=FileAnswer,
    **raw_body(BYTES),
)  # fmt: skip
async def put_file(
    request: Request, run_id: RunId, attempt: AttemptNumber, name: CheckpointName, file: str
) -> Response:
    """Send one file of a checkpoint, of any size, with its `Content-Length`.

    Nothing stands under the checkpoint's name until it is committed. A file may be sent again.
    """
    _check_token(request, run_id, attempt)
    state = request.app.state
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise InvalidInput(
            "Send the file's size as Content-Length.",
            errors=[{"pointer": "", "header": "Content-Length", "detail": "required"}],
        )
    claim = await state.db.read(attempts.get_current, run_id, attempt)
    path = _path(claim, name)
    size = await state.uploads.put(path, attempt, file, int(length), request.stream())
    return responses.json({"path": file, "size": size})


@router.post(
    "/checkpoints/{name}/commit", response_model=CommitAnswer,
    **raw_body(JSON, 400, 415),
)  # fmt: skip
async def commit_checkpoint(
    request: Request, run_id: RunId, attempt: AttemptNumber, name: CheckpointName
) -> Response:
    """Commit a checkpoint whose files were sent: the body is its manifest.json.

    It is verified in the background. Repeated, it has the same answer. Where the name is taken by
    another checkpoint, it stands as `name.2`: the answer says under which name.
    """
    _check_token(request, run_id, attempt)
    state = request.app.state
    content = await read_raw(request, MAX_MANIFEST_BYTES, JSON)
    claim = await state.db.read(attempts.get_current, run_id, attempt)
    path = _path(claim, name)
    done: Committed = await state.uploads.commit(path, attempt, content)

    def record(tx: Tx) -> str:
        run = runs.lock(tx, run_id)
        if not attempts.is_current(run, attempts.get(tx, run_id, attempt)):
            return str(done.path)  # found at the attempt's end
        return saves.record_saved(
            tx, run, done.path.name, step=done.manifest.step,
            size_bytes=done.manifest.size_bytes, sha256=done.manifest.sha256,
        ).ckpt_path  # fmt: skip

    return responses.json({"ckpt_path": await state.db.write(record), "name": done.path.name})


@router.get(
    "/resume/{file:path}", response_class=Response, response_model=None,
    responses=describe_errors(404, 409, 422)
    | {200: {"content": {BYTES: {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def resume_file(
    request: Request, run_id: RunId, attempt: AttemptNumber, file: str
) -> Response:
    """Send a file of the checkpoint that the attempt starts from; `manifest.json` lists them."""
    _check_token(request, run_id, attempt)
    state = request.app.state
    claim = await state.db.read(attempts.get_current, run_id, attempt)
    if claim.attempt.resume_path is None:
        raise NotFound("This attempt starts from no checkpoint.")
    path = paths.parse(claim.attempt.resume_path)
    size, content = await state.uploads.read(path, file)
    if "head" in request.scope:
        return Response(media_type=BYTES)
    return StreamingResponse(content, media_type=BYTES, headers={"Content-Length": str(size)})


def _check_token(request: Request, run_id: str, attempt: int) -> None:
    token = bearer(request.headers.get("authorization", ""))
    if token is None or attempt_of(token, request.app.state.secret, run_id) != attempt:
        raise Unauthorized("Send the token of this attempt: `Authorization: Bearer at_…`.")
    act_as(of_run(run_id))


async def read_raw(request: Request, most: int, media_type: str) -> bytes:
    """Return the body as it is. Raises BodyTooLarge before it is all in memory."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise UnsupportedMediaType(f"Send it with the header `Content-Type: {media_type}`.")
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise BodyTooLarge(f"A body may have at most {most} bytes here; send less.")
    return bytes(content)


async def _on_disk(function: Any, *args: Any) -> Any:
    """Run a function that waits for the disk; the disk's own trouble is worth another try."""
    try:
        return await asyncio.to_thread(partial(function, *args))
    except OSError as error:
        raise _make_disk_error(error) from error


def _make_disk_error(error: OSError) -> Unavailable:
    return Unavailable(f"The disk of the service refuses: {error.strerror}.", retry_after=5)


def _run_dir(request: Request, run_id: str) -> Path:
    data_dir: Path = request.app.state.settings.data_dir
    return data_dir.absolute() / "runs" / run_id


def _path(claim: Claim, name: str) -> CheckpointPath:
    return CheckpointPath(claim.run.experiment_id, claim.run.id, name)
