"""Artifacts: files of runs and models, streamed. Their paths are those of `artifact_uri`."""

import asyncio
from functools import partial
from pathlib import PurePosixPath

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.db.sql import Tx
from app.domain.artifacts import ArtifactPath, artifact_path
from app.domain.permissions import Permission
from app.errors import Conflict, Forbidden, InvalidInput, NotFound
from app.mlflow.routing import ARTIFACTS, router
from app.server.tracking import Access, get_access, json
from app.services import models, runs
from app.storage.artifacts import ArtifactStorage, Owner
from app.storage.streams import drain, pour

routes = router()


@routes.get(ARTIFACTS)
async def list_artifacts(request: Request) -> Response:
    folder = await _resolve(request, request.query_params.get("path", ""))
    owner, path = _place(folder)
    try:
        artifacts = await asyncio.to_thread(_storage(request).list_folder, owner, path)
    except Conflict:  # a file: clients ask in order to know
        artifacts = []
    return json(
        {
            "files": [
                {"path": PurePosixPath(path).name, "is_dir": True}
                if is_folder
                else {"path": PurePosixPath(path).name, "is_dir": False, "file_size": size}
                for path, size, is_folder in artifacts
            ]
        }
    )


@routes.put(ARTIFACTS + "/{path:path}")
async def put_artifact(request: Request, path: str) -> Response:
    target = await _resolve(request, path, Permission.WRITE)
    if not target.parts:
        raise InvalidInput("Name the file of the artifact.")
    write = partial(_storage(request).put, *_place(target))
    await pour(request.app.state.receivers, write, request.stream())
    return json({})


@routes.get(ARTIFACTS + "/{path:path}")
async def get_artifact(request: Request, path: str) -> Response:
    target = await _resolve(request, path)
    if not target.parts:
        raise NotFound("There is no such artifact.")
    storage = _storage(request)
    size = await asyncio.to_thread(storage.size, *_place(target))
    headers = {
        "Content-Length": str(size),
        # Whatever it is: a browser must not run it as a page of this service.
        "Content-Disposition": "attachment",
    }
    content = iter(()) if "head" in request.scope else storage.read(*_place(target))
    return StreamingResponse(drain(content), media_type="application/octet-stream", headers=headers)


def _place(target: ArtifactPath) -> tuple[Owner, str]:
    return Owner(target.experiment_id, target.owner_id), "/".join(target.parts)


def _storage(request: Request) -> ArtifactStorage:
    storage: ArtifactStorage = request.app.state.artifacts
    return storage


async def _resolve(
    request: Request, path: str, permission: Permission = Permission.READ
) -> ArtifactPath:
    """Return where an artifact is kept. Raises NotFound, Forbidden, InvalidInput.

    `{experiment}/{run}/artifacts/…` and `{experiment}/models/{model}/artifacts/…`.
    """
    access = get_access(request)
    experiment_id, _, rest = path.partition("/")
    owner_id, _, rest = rest.removeprefix("models/").partition("/")
    folder, _, rest = rest.partition("/")
    target = artifact_path(experiment_id, owner_id, rest)
    if folder != "artifacts":
        raise NotFound("There is no such artifact.")
    await request.app.state.db.read(_check_owner, access, target, permission)
    return target


def _check_owner(tx: Tx, access: Access, target: ArtifactPath, permission: Permission) -> None:
    if target.owner_id.startswith("m-"):
        model = models.get(tx, target.owner_id)
        experiment_id, run_id = model.experiment_id, model.run_id
    else:
        run = runs.get(tx, target.owner_id)
        experiment_id, run_id = run.experiment_id, run.id
    if experiment_id != target.experiment_id:
        raise NotFound("There is no such run or model in this experiment.")
    if access.run_id not in (None, run_id):
        raise Forbidden("This token is good for the artifacts of its own run only.")
    tx.require(permission, experiment_id)
