"""`export`: every point of runs' metrics, as CSV, JSON lines or Parquet; `export-release`."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import click

from app.cli import api
from app.cli.errors import Refused

_COPIED = 1024 * 1024
FORMATS = ("csv", "jsonl", "parquet")


class Point(NamedTuple):
    """One row of an export."""

    run_id: str
    key: str
    step: int
    value: float
    wall_time: float | None


@click.command()
@api.RUNS
@click.option("-k", "--key", "keys", multiple=True, help="Only this metric; may be repeated.")
@click.option(
    "-o", "--output", default="-", type=click.Path(dir_okay=False),
    help="The file; its ending is the format. Left out: printed, as CSV.",
)  # fmt: skip
@click.option("--format", "kind", type=click.Choice(FORMATS), help="Instead of by the ending.")
@api.calls_service
def export(runs: tuple[str, ...], keys: tuple[str, ...], output: str, kind: str | None) -> None:
    """Write every point of the metrics of runs."""
    kind = kind or next((ending for ending in FORMATS if output.endswith(f".{ending}")), "csv")
    client = api.client()
    read = [client.run(run) for run in runs]
    points = (point for run in read for point in _read_points(run, keys))
    if kind == "parquet":
        _write_parquet(points, output)
        return
    with click.open_file(output, "w", encoding="utf-8") as file:
        (_write_csv if kind == "csv" else _write_lines)(points, file)


@click.command("export-release")
@click.argument("experiment", shell_complete=api.complete_experiment)
@click.argument("release_tag")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@api.calls_service
def export_release(experiment: str, release_tag: str, file: Path) -> None:
    """Download the checkpoint of a release as a tar FILE, and verify it.

    It has the manifest and, in a folder of the checkpoint's name, the files.
    """
    from app.storage import archive
    from app.storage.base import Damaged

    client = api.client()
    path = f"/v1/experiments/{client.experiment_id(experiment)}/releases/archive"
    draft = file.with_name(f".{file.name}.part")
    query = {"release_tag": release_tag}
    try:
        with client.connection.open("GET", path, query=query) as response, draft.open("wb") as out:
            sha256 = response.headers["x-checkpoint-sha256"]
            shutil.copyfileobj(response, out, _COPIED)
        manifest = archive.check(draft, sha256)
        draft.replace(file)
    except (OSError, HTTPException, Damaged) as error:
        draft.unlink(missing_ok=True)
        raise Refused(f"{file} was not written: {error or type(error).__name__}") from error
    click.echo(f"{manifest.size_bytes:,} bytes of step {manifest.step} in {file}, verified")


def _read_points(run: Any, keys: tuple[str, ...]) -> Iterator[Point]:
    for key, series in run.metrics(*keys, points=None).items():
        special = {row["step"]: float(row["value"]) for row in series["special"]}
        columns = (series["steps"], series["values"], series["wall_times"])
        for step, value, wall_time in zip(*columns, strict=True):
            yield Point(run.id, key, step, special.get(step, value), wall_time)


def _write_csv(points: Iterator[Point], file: IO[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows(points)


def _write_lines(points: Iterator[Point], file: IO[str]) -> None:
    for point in points:
        row = point._asdict()
        if row["value"] - row["value"] != 0:  # JSON has no NaN and no infinities
            row["value"] = str(row["value"])
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(points: Iterator[Point], output: str) -> None:
    if find_spec("pyarrow") is None:
        raise Refused("Parquet needs pyarrow: pip install pyarrow; or export to .csv or .jsonl")
    if output == "-" and sys.stdout.isatty():
        raise Refused("Parquet is no text: name a file with -o")
    from importlib import import_module

    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    columns = list(zip(*points, strict=True)) or [()] * len(Point._fields)
    kinds = (arrow.string(), arrow.string(), arrow.int64(), arrow.float64(), arrow.float64())
    arrays = [arrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    table = arrow.Table.from_arrays(arrays, names=list(Point._fields))
    with click.open_file(output, "wb") as file:
        parquet.write_table(table, file)
