"""`llm-train import mlflow SOURCE`: runs of another store, into a running service."""

import math
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote

import click

from app.cli.errors import Exit, Refused

if TYPE_CHECKING:
    from app.cli.mlflow_sources import Source, SourceRun

BATCH = 5_000
"""Points of one request."""
_CHUNK = 1 << 20
T = TypeVar("T")


@click.group("import")
def import_() -> None:
    """Take over runs from another store."""


@import_.command()
@click.argument("source")
@click.option(
    "--url", envvar="LLM_TRAIN_API_URL", default="http://127.0.0.1:8000", show_default=True,
    help="The running service.",
)  # fmt: skip
@click.option("--token", envvar="LLM_TRAIN_API_TOKEN", help="Its API token.")
@click.option("--experiment", "only", help="Only the runs of the experiment of this name.")
@click.option("--no-artifacts", is_flag=True, help="Leave the artifacts where they are.")
def mlflow(source: str, url: str, token: str | None, only: str | None, no_artifacts: bool) -> None:
    """Import the runs of MLflow: a directory mlruns, an SQLite database, or a server's URL.

    A run is taken over once, however often this is repeated; one that has not ended there is left
    for the next time.
    """
    from app.cli import mlflow_sources
    from app.errors import Unavailable

    told = {"imported": 0, "known": 0, "running": 0, "refused": 0}
    try:
        opened = mlflow_sources.open_source(source)
        target = Target(url.rstrip("/"), token)
        for run in opened.read_runs():
            if only in (None, run.experiment):
                told[_try(opened, target, run, not no_artifacts)] += 1
    except ModuleNotFoundError as error:
        raise Refused(f"{error.name} is missing: pip install 'llm-train-api[mlflow]'") from error
    except (mlflow_sources.BadSource, OSError, sqlite3.Error) as error:
        raise Refused(error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{source} is not as MLflow leaves it: {error!r}") from error
    except Unavailable as error:
        raise Refused(error, Exit.NO_SERVICE) from error
    click.echo(
        f"{told['imported']} runs imported, {told['known']} known already, "
        f"{told['running']} still running there"
    )
    if told["refused"]:
        raise Refused(f"{told['refused']} runs were refused; the reasons are above")


class Target:
    """The service that the runs are taken over by."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a request below /mlflow. Raises ServiceError."""
        from app.cli import client

        return client.call(self._url, self._token, "POST", f"/mlflow/{path}", body, timeout=120)

    def put(self, path: str, content: BinaryIO) -> None:
        """Send an artifact, in pieces. Raises ServiceError."""
        from app.cli import client

        pieces = iter(lambda: content.read(_CHUNK), b"")
        path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{quote(path)}"
        client.send(self._url, self._token, "PUT", path, pieces, timeout=None)


def _try(source: "Source", target: Target, run: "SourceRun", artifacts: bool) -> str:
    """Take over one run; one that is refused, or cannot be read, holds up no other."""
    from app.cli.mlflow_sources import BadSource
    from app.errors import ServiceError, Unavailable

    try:
        return _import(source, target, run, artifacts)
    except Unavailable:
        raise
    except (ServiceError, BadSource) as error:
        click.echo(f"llm-train: {run.run_id}: {error}", err=True)
        return "refused"


def _import(source: "Source", target: Target, run: "SourceRun", artifacts: bool) -> str:
    """Take over one run; return what became of it."""
    from app.cli.mlflow_sources import ENDED

    if run.status not in ENDED:
        return "running"
    began = target.post(
        "import/runs",
        {
            "experiment": run.experiment,
            "source": f"mlflow:{run.run_id}",
            "name": run.name,
            "tags": _pairs(run.tags),
            "params": _pairs(run.params),
            "start_time": run.start_time,
        },
    )
    if began["ended"]:
        return "known"
    run_id = began["run_id"]
    for batch in _batches(source.read_points(run), BATCH):
        metrics = [{**point._asdict(), "value": _number(point.value)} for point in batch]
        target.post("api/2.0/mlflow/runs/log-batch", {"run_id": run_id, "metrics": metrics})
    if artifacts:
        _import_artifacts(source, target, run, f"{began['experiment_id']}/{run_id}/artifacts")
    end = {"run_id": run_id, "status": run.status, "end_time": run.end_time}
    target.post("import/runs/finish", end)
    click.echo(f"{run_id}  {run.experiment}: {run.name or run.run_id}")
    return "imported"


def _import_artifacts(source: "Source", target: Target, run: "SourceRun", root: str) -> None:
    from app.cli.mlflow_sources import BadSource

    try:
        for path, content in source.read_artifacts(run):
            target.put(f"{root}/{path}", content)
    except BadSource as error:
        click.echo(f"llm-train: {run.run_id}: {error}", err=True)


def _pairs(values: Any) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
