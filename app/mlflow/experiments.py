"""Experiments: by name, by id, create, tag.

The trainer of one run gets its own experiment, whatever it calls it: a script that sets an
experiment of its choice reports into its own run all the same.
"""

from fastapi import Request, Response

from app.db.sql import Tx
from app.db.tables import Experiment
from app.domain.permissions import Permission
from app.errors import NotFound
from app.mlflow import bodies, views
from app.mlflow.routing import API, router
from app.server.tracking import Access, get_access, json
from app.services import audit, experiments, labels, runs, tracking
from app.services.audit import Action

routes = router()


def resolve(tx: Tx, access: Access, experiment_id: str) -> Experiment:
    """Return an experiment, or that of the caller's own run. Raises NotFound."""
    if access.run_id is not None:
        return experiments.get(tx, runs.get(tx, access.run_id).experiment_id)
    return tracking.resolve_experiment(tx, experiment_id)


@routes.get(f"{API}/experiments/get-by-name")
async def get_by_name(request: Request) -> Response:
    access, name = get_access(request), request.query_params.get("experiment_name", "")

    def find(tx: Tx) -> views.View:
        if access.run_id is not None:
            experiment: Experiment | None = resolve(tx, access, "")
        else:
            experiment = tracking.find_experiment(tx, name)
        if experiment is None:
            raise NotFound(f"Could not find experiment with name '{name:.300}'")
        return views.experiment(experiment, labels.get_labels(tx, experiment.id), name)

    return json({"experiment": await request.app.state.db.read(find)})


@routes.get(f"{API}/experiments/get")
async def get_experiment(request: Request) -> Response:
    access, experiment_id = get_access(request), request.query_params.get("experiment_id", "")

    def find(tx: Tx) -> views.View:
        experiment = resolve(tx, access, experiment_id)
        return views.experiment(experiment, labels.get_labels(tx, experiment.id))

    db = request.app.state.db
    if experiment_id == "0" and access.run_id is None:  # which is made when it is first needed
        return json({"experiment": await db.write(find)})
    return json({"experiment": await db.read(find)})


@routes.post(f"{API}/experiments/create")
async def create_experiment(request: Request) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.CreateExperiment)

    def create(tx: Tx) -> str:
        if access.run_id is not None:
            return resolve(tx, access, "").id
        return tracking.create_experiment(tx, body.name, bodies.as_dict(body.tags)).id

    return json({"experiment_id": await request.app.state.db.write(create)})


@routes.post(f"{API}/experiments/set-experiment-tag")
async def set_tag(request: Request) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.ExperimentTag)

    def set_label(tx: Tx) -> None:
        experiment = resolve(tx, access, body.experiment_id)
        tx.require(Permission.WRITE, experiment.id)
        labels.set_labels(tx, experiment.id, {body.key: body.value})
        audit.record(tx, Action("update_experiment", experiment.id))

    await request.app.state.db.write(set_label)
    return json({})
