"""Logged models: create, get, finalize, parameters, tags, search. Their files are artifacts."""

from fastapi import Request, Response

from app.db.sql import Tx
from app.db.tables import LoggedModel
from app.domain.permissions import Permission
from app.errors import Forbidden, InvalidInput
from app.mlflow import bodies, views
from app.mlflow.experiments import resolve
from app.mlflow.filters import Query, parse_filter, parse_order
from app.mlflow.routing import API, router
from app.mlflow.search import page_of
from app.server.tracking import Access, get_access, json
from app.services import audit, labels, models
from app.services.audit import Action

routes = router()


@routes.post(f"{API}/logged-models")
async def create_model(request: Request) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.CreateModel)
    run_id = body.source_run_id or access.run_id
    access.check_run(run_id)

    def create(tx: Tx) -> views.View:
        experiment = resolve(tx, access, body.experiment_id)
        model = models.create(
            tx, experiment.id, run_id, body.name, body.model_type or None,
            bodies.as_dict(body.params), bodies.as_dict(body.tags),
        )  # fmt: skip
        return _view(tx, model)

    return json({"model": await request.app.state.db.write(create)})


@routes.post(f"{API}/logged-models/search")
async def search_models(request: Request) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.Search)
    query = Query(parse_filter(body.filter, "models"), parse_order([], "models"))

    def search(tx: Tx) -> list[views.View]:
        ids = [resolve(tx, access, id_).id for id_ in body.experiment_ids if id_ != "0"]
        listed = models.list_of_experiments(tx, ids)
        mine = [model for model in listed if access.run_id in (None, model.run_id)]
        labelled = labels.list_labels(tx, [model.id for model in mine])
        return [views.model(model, labelled[model.id]) for model in mine]

    rows = query.select(await request.app.state.db.scan(search))
    page, token = page_of(rows, body)
    return json({"models": page} | ({"next_page_token": token} if token else {}))


@routes.get(f"{API}/logged-models/{{model_id}}")
async def get_model(request: Request, model_id: str) -> Response:
    access = get_access(request)

    def find(tx: Tx) -> views.View:
        return _view(tx, _own(tx, access, model_id))

    return json({"model": await request.app.state.db.read(find)})


@routes.patch(f"{API}/logged-models/{{model_id}}")
async def finalize_model(request: Request, model_id: str) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.UpdateModel)
    if body.status not in models.STATES:
        raise InvalidInput(f"{body.status!r:.50} is no status of a logged model.")

    def finalize(tx: Tx) -> views.View:
        model = _own(tx, access, model_id)
        return _view(tx, models.set_state(tx, model.id, models.STATES[body.status]))

    return json({"model": await request.app.state.db.write(finalize)})


@routes.post(f"{API}/logged-models/{{model_id}}/params")
async def log_params(request: Request, model_id: str) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.ModelParams)

    def add(tx: Tx) -> views.View:
        model = _own(tx, access, model_id)
        return _view(tx, models.add_params(tx, model.id, bodies.as_dict(body.params)))

    return json({"model": await request.app.state.db.write(add)})


@routes.patch(f"{API}/logged-models/{{model_id}}/tags")
async def set_tags(request: Request, model_id: str) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.ModelTags)

    def set_labels(tx: Tx) -> views.View:
        model = _own(tx, access, model_id)
        tx.require(Permission.WRITE, model.experiment_id)
        labels.set_labels(tx, model.id, bodies.as_dict(body.tags))
        audit.record(tx, Action("update_model", model.id))
        return _view(tx, model)

    return json({"model": await request.app.state.db.write(set_labels)})


@routes.delete(f"{API}/logged-models/{{model_id}}/tags/{{key}}")
async def delete_tag(request: Request, model_id: str, key: str) -> Response:
    access = get_access(request)

    def delete(tx: Tx) -> views.View:
        model = _own(tx, access, model_id)
        tx.require(Permission.WRITE, model.experiment_id)
        labels.delete_label(tx, model.id, key)
        audit.record(tx, Action("update_model", model.id))
        return _view(tx, model)

    return json({"model": await request.app.state.db.write(delete)})


def _own(tx: Tx, access: Access, model_id: str) -> LoggedModel:
    model = models.get(tx, model_id)
    if access.run_id not in (None, model.run_id):
        raise Forbidden("This token is good for the models of its own run only.")
    return model


def _view(tx: Tx, model: LoggedModel) -> views.View:
    return views.model(model, labels.get_labels(tx, model.id))
