"""Files that a client uploads, as artifacts below `wandb/`, and the pages that it prints."""

from functools import partial
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app.db.sql import Tx
from app.db.tables import Run
from app.domain.artifacts import ArtifactPath, artifact_path
from app.domain.permissions import Permission
from app.errors import InvalidInput, NotFound
from app.server.tracking import Access, get_access, json
from app.services import tracking
from app.storage.artifacts import Owner
from app.storage.streams import pour
from app.wandb.routing import ENTITY, FILES, ROOT, router
from app.wandb.runs import get_run

FOLDER = "wandb"

routes = router()


def upload_path(project: str, name: str, file: str) -> str:
    """Return where a file of a run is uploaded, below this service."""
    return f"{ROOT}/files/{ENTITY}/{quote(project, safe='')}/{quote(name, safe='')}/{quote(file)}"


def place_of(experiment_id: str, run_id: str, file: str) -> ArtifactPath:
    """Return where a file of a run is kept. Raises InvalidInput."""
    if file.strip("/") != file or not file:
        raise InvalidInput(f"{file!r:.200} is no path of a file.")
    return artifact_path(experiment_id, run_id, f"{FOLDER}/{file}")


@routes.put(FILES + "/{file:path}")
async def put_file(request: Request, project: str, name: str, file: str) -> Response:
    """Store a file of a run."""
    access, state = get_access(request), request.app.state
    run = await state.db.read(_get_writable, access, project, name)
    access.check_run(run.id)
    place = place_of(run.experiment_id, run.id, file)
    owner = Owner(place.experiment_id, place.owner_id)
    write = partial(state.artifacts.put, owner, "/".join(place.parts))
    await pour(state.receivers, write, request.stream())
    return json({})


@routes.get(f"{ROOT}/{{entity}}/{{project}}")
async def show_project(request: Request, project: str) -> Response:
    """Show the experiment that a client calls a project."""
    experiment = await request.app.state.db.read(tracking.find_experiment, project)
    if experiment is None:
        raise NotFound(f"There is no project {project!r:.100}.")
    return _page(request, f"/experiments/{experiment.id}")


@routes.get(f"{ROOT}/{{entity}}/{{project}}/runs/{{name}}")
async def show_run(request: Request, project: str, name: str) -> Response:
    """Show a run, whose address the client has printed."""
    run = await request.app.state.db.read(get_run, get_access(request), project, name)
    return _page(request, f"/runs/{run.id}")


def _get_writable(tx: Tx, access: Access, project: str, name: str) -> Run:
    run = get_run(tx, access, project, name)
    tx.require(Permission.WRITE, run.experiment_id)
    return run


def _page(request: Request, path: str) -> Response:
    return RedirectResponse(request.app.state.settings.root_path + path)
