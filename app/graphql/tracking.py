"""Data that tracking clients keep with runs: labels, logged models, artifacts."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

import strawberry

from app.db import tables
from app.db.sql import Tx, dump
from app.domain.artifacts import artifact_path, artifact_url
from app.graphql.budget import OBJECT, Budget
from app.graphql.describe import Info, attribute, each, edge, output
from app.graphql.scalars import DateTime, Json, Long
from app.services import labels, models
from app.storage.artifacts import Owner

Path = Annotated[
    str | None, strawberry.argument(description="The folder; that of all of them if left out.")
]


@output
class Artifact:
    """A file that a tracking client has logged, or a folder of such files."""

    path: str = attribute("Its path, relative to the artifacts of its run or model.")
    size_bytes: Long | None = attribute("Size of the file; null for a folder.")
    url: str | None = attribute("Address on this service from which to download the file.")


def labels_of(column: str, what: str) -> Any:
    """Return an edge to the labels of the row whose id is in `column`."""

    async def resolve(row: strawberry.Parent[Any], info: Info) -> Json:
        def load(rows: list[Any]) -> Any:
            read = partial(_labels, info.context.budget)
            return info.context.load("labels", [getattr(row, column) for row in rows], read)

        labelled: Json = await each(row, load)
        return labelled

    description = f"Keys and values that tracking clients have put onto {what}: an object."
    return edge(resolve, description, column)


def _labels(budget: Budget, tx: Tx, ids: list[str]) -> Sequence[Json]:
    values = [Json(dump(labelled)) for labelled in labels.list_labels(tx, ids).values()]
    budget.charge(sum(map(len, values)))
    return values


def artifacts_of(owner: Callable[[Any], tuple[str, str]], description: str) -> Any:
    """Return a field with the entries of a folder of artifacts."""

    async def resolve(row: strawberry.Parent[Any], info: Info, path: Path = None) -> list[Artifact]:
        experiment_id, owner_id = owner(row)
        folder = artifact_path(experiment_id, owner_id, path or "")
        place = Owner(experiment_id, owner_id), "/".join(folder.parts)
        entries = await asyncio.to_thread(info.context.artifacts.list_folder, *place)
        info.context.budget.charge(len(entries) * OBJECT)
        base = artifact_url(experiment_id, owner_id)
        return [
            Artifact(
                path=path,
                size_bytes=None if is_folder else Long(size),
                url=None if is_folder else f"{base}/{quote(path)}",
            )
            for path, size, is_folder in entries
        ]

    return strawberry.field(resolve, description=description)


@output
class LoggedModel:
    """A model that a tracking client has logged."""

    id: strawberry.ID = attribute("Its id, of MLflow's form.")
    name: str = attribute("Name for people.")
    model_type: str | None = attribute("Kind of model, as its client says.")
    state: str = attribute("`pending`, `ready` or `failed`, as its client says.")
    created_at: DateTime = attribute("Time at which it was logged.")
    updated_at: DateTime = attribute("Time of the last change.")
    params: Json = attribute("Its parameters: an object of texts.")
    metrics: Json = attribute("Its newest metrics, as they were logged.")

    labels: Json = labels_of("id", "it")
    artifacts: list[Artifact] = artifacts_of(
        lambda row: (row.experiment_id, row.id), "The entries of a folder of its files."
    )


async def models_of(run: strawberry.Parent[Any], info: Info) -> list[LoggedModel]:
    """The models that it has logged, oldest first."""

    def load(rows: list[Any]) -> Any:
        read = partial(_models, info.context.budget)
        return info.context.load("models", [row.id for row in rows], read)

    logged: list[LoggedModel] = await each(run, load)
    return logged


def _models(budget: Budget, tx: Tx, run_ids: list[str]) -> Sequence[list[tables.LoggedModel]]:
    by_run = list(models.list_of_runs(tx, run_ids).values())
    for logged in by_run:
        budget.charge_rows(tables.LoggedModel, logged)
    return by_run
