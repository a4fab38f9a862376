"""The operations of GraphQL that a training calls, told apart by their names.

Viewer             who am I
UpsertBucket       a run begins, or its config has changed
RunResumeStatus    `wandb.init(resume=…)`: how far the run is
CreateRunFiles     where files are uploaded
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Request, Response
from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from app.db.listing import latest_metrics
from app.db.sql import Tx, load
from app.db.tables import Experiment, Run
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.requests import MAX_NAME, Name
from app.domain.text import clean
from app.domain.tracking import MAX_LABEL, NAME_LABEL, fit_hyperparams
from app.errors import InvalidInput, NameTaken, NotFound, RunFinished, ServiceError
from app.server.bodies import Body, read
from app.server.tracking import Access, get_access
from app.server.tracking import json as json_response
from app.services import experiments, labels, runs, tracking
from app.wandb.files import place_of, upload_path
from app.wandb.routing import ENTITY, ROOT, error_response, router
from app.wandb.runs import find_run, get_run, scope_of

DEFAULT_PROJECT = "uncategorized"
LEFT_OUT = "wandb.config_left_out"
"""The label that names what of a config is too large to be kept."""

Answer = dict[str, Any]
V = TypeVar("V", bound=Body)
RunName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$"),
    AfterValidator(clean),
]
Label = Annotated[str, StringConstraints(max_length=MAX_LABEL), AfterValidator(clean)]

routes = router()


class Operation(Body):
    """A request of GraphQL."""

    operationName: Annotated[str, StringConstraints(max_length=100)] = ""
    variables: dict[str, Any] | None = None


class OfRun(Body):
    """The names that identify a run."""

    project: Name | None = None
    name: RunName | None = None


class UpsertBucket(OfRun):
    """A run that begins, or what has changed of it."""

    displayName: Label | None = None
    notes: Label | None = None
    groupName: Label | None = None
    jobType: Label | None = None
    tags: Annotated[list[Label], Field(max_length=50)] | None = None
    config: str | None = None


class CreateRunFiles(Body):
    """Names of files that are going to be uploaded."""

    project: Name
    run: RunName
    files: Annotated[list[str], Field(max_length=1000)] = Field(default_factory=list)


@routes.post(f"{ROOT}/graphql")
async def execute(request: Request) -> Response:
    """Answer one operation; what is not served is an error, after which the client goes on."""
    access, body = get_access(request), await read(request, Operation)
    operation = OPERATIONS.get(body.operationName)
    try:
        if operation is None:
            raise NotFound(f"{body.operationName or 'An operation without a name'} is not served.")
        data = await operation(request, access, body.variables or {})
    except ServiceError as error:
        if error.status >= 500 or error.status == 429:  # which the client is to repeat
            return error_response(error)
        problem = {"message": error.detail, "extensions": {"code": error.code}}
        return json_response({"data": None, "errors": [problem]})
    return json_response({"data": data})


async def _viewer(request: Request, access: Access, variables: Mapping[str, Any]) -> Answer:
    viewer = {"id": ENTITY, "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
    return {"viewer": {**viewer, "teams": {"edges": []}}}


async def _answer_features(
    request: Request, access: Access, variables: Mapping[str, Any]
) -> Answer:
    return {"serverInfo": {"features": []}, "entity": None}


async def _upsert(request: Request, access: Access, variables: Mapping[str, Any]) -> Answer:
    upsert = _parse(UpsertBucket, variables)
    config = _read_config(upsert.config)
    heartbeat = request.app.state.settings.tracking_heartbeat_seconds
    db = request.app.state.db
    try:
        run, experiment, made = await db.write(_begin, access, upsert, config, heartbeat)
    except NameTaken:  # another process of the same run was faster
        run, experiment, made = await db.write(_begin, access, upsert, config, heartbeat)
    named = upsert.name or run.id
    project = {
        "id": experiment.id, "name": upsert.project or experiment.name,
        "entity": {"id": ENTITY, "name": ENTITY},
    }  # fmt: skip
    bucket = {
        "id": run.id, "name": named, "displayName": run.name or named, "description": None,
        "config": "{}", "sweepName": None, "historyLineCount": 0, "project": project,
    }  # fmt: skip
    return {"upsertBucket": {"inserted": made, "bucket": bucket}}


def _begin(
    tx: Tx, access: Access, upsert: UpsertBucket, config: dict[str, Any], heartbeat: float
) -> tuple[Run, Experiment, bool]:
    """Return a run, its experiment, and True if it was created just now.

    Raises NotFound, RunFinished, InvalidInput, and NameTaken if another one creates it as well.
    """
    project = upsert.project or DEFAULT_PROJECT
    run, made = find_run(tx, access, project, upsert.name or ""), False
    if run is None:
        experiment = tracking.get_or_create_experiment(tx, project, "wandb")
        run = tracking.create_run(tx, experiment.id, upsert.displayName or "", {}, heartbeat)
        made = True
        if upsert.name and not labels.add_alias(tx, scope_of(experiment.id), upsert.name, run.id):
            raise NameTaken(f"Run {upsert.name!r:.100} exists already.")
    elif RunStatus(runs.lock(tx, run.id).status) in TERMINAL:
        raise RunFinished(f"The run is {run.status}; nothing more is recorded.")
    elif upsert.displayName and run.name is None:
        run = tracking.rename(tx, run.id, upsert.displayName)
    labels.set_labels(tx, run.id, _labels(upsert))
    used, left_out = fit_hyperparams(load(run.effective_hyperparams or "{}"), config)
    if left_out:
        labels.set_labels(tx, run.id, {LEFT_OUT: ", ".join(left_out)[:MAX_LABEL]})
    tracking.report(tx, access.writer(run.id), (), used)
    return runs.get(tx, run.id), experiments.get(tx, run.experiment_id), made


def _labels(upsert: UpsertBucket) -> dict[str, str]:
    labelled = {
        "wandb.project": upsert.project, "wandb.notes": upsert.notes,
        "wandb.group": upsert.groupName, "wandb.job_type": upsert.jobType,
        "wandb.tags": ", ".join(upsert.tags or ())[:MAX_LABEL],
        NAME_LABEL: (upsert.displayName or "")[:MAX_NAME],
    }  # fmt: skip
    return {key: value for key, value in labelled.items() if value}


def _read_config(text: str | None) -> dict[str, Any]:
    """Return the values of a config: `{"lr": {"value": 0.1}}`. Raises InvalidInput."""
    try:
        config = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise InvalidInput("config: no JSON.") from None
    if not isinstance(config, dict):
        raise InvalidInput("config: no JSON object.")
    return {
        key: entry["value"]
        for key, entry in config.items()
        if key != "_wandb" and isinstance(entry, dict) and "value" in entry
    }


async def _resume(request: Request, access: Access, variables: Mapping[str, Any]) -> Answer:
    """Return how far a run is. The client counts on from the step of the last line."""
    named = _parse(OfRun, variables)
    project = named.project or DEFAULT_PROJECT

    def find(tx: Tx) -> Answer | None:
        run = find_run(tx, access, project, named.name or "")
        if run is None or not latest_metrics(tx, [run.id])[0]:
            return None
        known = load(run.effective_hyperparams or "{}")
        config = {key: {"value": value} for key, value in known.items()}
        tail = json.dumps([json.dumps({"_step": run.step, "_runtime": 0})])
        return {
            "id": run.id, "name": named.name or run.id, "displayName": run.name,
            "summaryMetrics": "{}", "historyTail": tail, "eventsTail": "[]",
            "historyLineCount": run.step + 1, "eventsLineCount": 0, "logLineCount": 0,
            "config": json.dumps(config), "tags": [], "notes": None, "wandbConfig": "{}",
        }  # fmt: skip

    bucket = await request.app.state.db.read(find)
    entity = {"id": ENTITY, "name": ENTITY}
    return {"model": {"id": project, "name": project, "entity": entity, "bucket": bucket}}


async def _files(request: Request, access: Access, variables: Mapping[str, Any]) -> Answer:
    upload = _parse(CreateRunFiles, variables)
    run = await request.app.state.db.read(get_run, access, upload.project, upload.run)
    for file in upload.files:
        place_of(run.experiment_id, run.id, file)
    settings = request.app.state.settings
    base = (settings.public_url or str(request.base_url)).rstrip("/")
    files = [
        {"name": file, "uploadUrl": base + upload_path(upload.project, upload.run, file)}
        for file in upload.files
    ]
    # The client sends these with each upload: it has no other way to say who it is.
    headers = [f"Authorization:{request.headers.get('authorization', '')}"]
    return {"createRunFiles": {"runID": run.id, "uploadHeaders": headers, "files": files}}


async def _answer_uploaded(
    request: Request, access: Access, variables: Mapping[str, Any]
) -> Answer:
    return {"markRunFilesUploaded": {"success": True}}


def _parse(model: type[V], variables: Mapping[str, Any]) -> V:
    try:
        return model.model_validate(variables)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:100] for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}.") from None


OPERATIONS: dict[str, Callable[[Request, Access, Mapping[str, Any]], Awaitable[Answer]]] = {
    "Viewer": _viewer,
    "ServerFeaturesQuery": _answer_features,
    "OrganizationCoreWeaveOrganizationID": _answer_features,
    "UpsertBucket": _upsert,
    "RunResumeStatus": _resume,
    "CreateRunFiles": _files,
    "MarkRunFilesUploaded": _answer_uploaded,
}
