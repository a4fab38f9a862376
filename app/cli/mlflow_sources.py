"""MLflow's stores, read as they are: a directory `mlruns`, an SQLite database, a server.

`open_source` picks one; each yields `SourceRun`s, and of each run its points and its artifacts.
Nothing of MLflow is needed to read them, and nothing in them is changed.
"""

import base64
import json
import math
import os
import re
import sqlite3
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit

ENDED = ("FINISHED", "FAILED", "KILLED")
_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_LARGEST = 1.7976931348623157e308
"""MLflow's databases keep infinity as this."""
_PAGE = 1_000
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""How the address of a place starts that is no path."""


class BadSource(ValueError):
    """The source cannot be read; one sentence says why."""


class Point(NamedTuple):
    """One value of a metric; `timestamp` is milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class SourceRun:
    """A run in its store."""

    run_id: str
    experiment: str
    name: str
    status: str
    start_time: int
    end_time: int
    artifact_uri: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()


class Source(Protocol):
    """A store of MLflow."""

    def read_runs(self) -> Iterator[SourceRun]:
        """Yield every run that is not deleted."""

    def read_points(self, run: SourceRun) -> Iterator[Point]:
        """Yield every point of a run, each key by ascending step."""

    def read_artifacts(self, run: SourceRun) -> Iterator[tuple[str, BinaryIO]]:
        """Yield path and content of each artifact. Raises BadSource if they are elsewhere."""


def open_source(text: str) -> Source:
    """Return the store in a directory, an SQLite database or a server. Raises BadSource."""
    if text.startswith(("http://", "https://")):
        return Server(text.rstrip("/"))
    path = Path(text.removeprefix("sqlite:///").removeprefix("file://"))
    if path.is_dir():
        return FileStore(path)
    if path.is_file():
        return Database(path)
    raise BadSource(f"{text} is no directory, no file and no http address")


class FileStore:
    """A directory `mlruns`: `EXPERIMENT/RUN/{meta.yaml,metrics,params,tags,artifacts}`."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def read_runs(self) -> Iterator[SourceRun]:
        for folder in sorted(self._top.iterdir()):
            about = _read_meta(folder)
            if about.get("lifecycle_stage") != "active" or "name" not in about:
                continue
            for inner in sorted(folder.iterdir()):
                run = _read_meta(inner)
                if run.get("lifecycle_stage") == "active" and "run_id" in run:
                    yield self._run(inner, run, str(about["name"]))

    def _run(self, folder: Path, about: Mapping[str, Any], experiment: str) -> SourceRun:
        status = about.get("status")
        tags = _read_texts(folder / "tags")
        return SourceRun(
            run_id=str(about["run_id"]),
            experiment=experiment,
            name=str(about.get("run_name") or tags.get("mlflow.runName", "")),
            status=_STATUS.get(status, "RUNNING") if isinstance(status, int) else str(status),
            start_time=int(about.get("start_time") or 0),
            end_time=int(about.get("end_time") or 0),
            # Where it is now: the address inside is that of the machine that wrote it.
            artifact_uri=str(folder / "artifacts"),
            params=_read_texts(folder / "params"),
            tags=tags,
            keys=(str(folder),),
        )

    def read_points(self, run: SourceRun) -> Iterator[Point]:
        top = Path(run.keys[0]) / "metrics"
        for path in _list_files(top):
            key = path.relative_to(top).as_posix()
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    yield _point(path, key, line.split())

    def read_artifacts(self, run: SourceRun) -> Iterator[tuple[str, BinaryIO]]:
        return _read_local_artifacts(run.artifact_uri)


class Database:
    """An SQLite database of MLflow, opened for reading only."""

    def __init__(self, path: Path) -> None:
        self._folder = path.absolute().parent
        uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True)
        try:
            self._select_rows("SELECT run_uuid FROM runs LIMIT 1")
        except sqlite3.DatabaseError as error:
            raise BadSource(f"{path} is no database of MLflow: {error}") from None

    def _select_rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def read_runs(self) -> Iterator[SourceRun]:
        rows = self._select_rows(
            "SELECT r.run_uuid, e.name, r.name, r.status, r.start_time, r.end_time,"
            " r.artifact_uri FROM runs r JOIN experiments e USING (experiment_id)"
            " WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'"
            " ORDER BY r.start_time, r.run_uuid"
        )
        for run_id, experiment, name, status, start, end, uri in rows:
            yield SourceRun(
                run_id, experiment, name or "", status or "RUNNING", start or 0, end or 0,
                uri or "",
                params=self._pairs("SELECT key, value FROM params WHERE run_uuid = ?", run_id),
                tags=self._pairs("SELECT key, value FROM tags WHERE run_uuid = ?", run_id),
            )  # fmt: skip

    def _pairs(self, query: str, run_id: str) -> dict[str, str]:
        return {key: value or "" for key, value in self._select_rows(query, run_id)}

    def read_points(self, run: SourceRun) -> Iterator[Point]:
        rows = self._connection.execute(
            "SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = ?"
            " ORDER BY key, step, timestamp",
            (run.run_id,),
        )
        for key, value, timestamp, step, is_nan in rows:
            if abs(value) == _LARGEST:
                value = math.copysign(math.inf, value)
            yield Point(key, math.nan if is_nan else value, timestamp, step)

    def read_artifacts(self, run: SourceRun) -> Iterator[tuple[str, BinaryIO]]:
        local = run.artifact_uri.removeprefix("file://")
        if _SCHEME.match(local):  # of a server it is `mlflow-artifacts:/…`, with one slash
            raise BadSource(f"its artifacts are at {local}, which only MLflow can read")
        return _read_local_artifacts(str(self._folder / local))


class Server:
    """A tracking server, with the credentials of MLflow's own variables."""

    def __init__(self, url: str) -> None:
        self._url = url
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        secret = os.environ.get("MLFLOW_TRACKING_PASSWORD")
        self._headers = {"Content-Type": "application/json"}
        if user and secret:
            encoded = base64.b64encode(f"{user}:{secret}".encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        elif token:
            self._headers["Authorization"] = f"Bearer {token}"

    def _open(self, endpoint: str, body: Any = None, **query: str) -> BinaryIO:
        url = f"{self._url}/api/2.0/{endpoint}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self._headers)  # noqa: S310 - http, as checked
        try:
            opened: BinaryIO = urllib.request.urlopen(request, timeout=60)  # noqa: S310
        except OSError as error:
            raise BadSource(f"{self._url}: {error}") from None
        return opened

    def _call(self, endpoint: str, body: Any = None, **query: str) -> Any:
        with self._open(endpoint, body, **query) as answer:
            try:
                return json.loads(answer.read())
            except ValueError:
                raise BadSource(f"{self._url} does not answer as MLflow does") from None

    def _fetch_pages(self, path: str, kind: str, body: dict[str, Any]) -> Iterator[Any]:
        token = ""
        while True:
            page = self._call(path, {**body, "max_results": _PAGE, "page_token": token})
            yield from page.get(kind, [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def read_runs(self) -> Iterator[SourceRun]:
        for experiment in self._fetch_pages("mlflow/experiments/search", "experiments", {}):
            wanted = {"experiment_ids": [experiment["experiment_id"]]}
            for run in self._fetch_pages("mlflow/runs/search", "runs", wanted):
                info, data = run["info"], run.get("data", {})
                yield SourceRun(
                    run_id=info["run_id"],
                    experiment=experiment["name"],
                    name=info.get("run_name", ""),
                    status=info["status"],
                    start_time=int(info.get("start_time") or 0),
                    end_time=int(info.get("end_time") or 0),
                    artifact_uri=info.get("artifact_uri", ""),
                    params={pair["key"]: pair["value"] for pair in data.get("params", [])},
                    tags={pair["key"]: pair["value"] for pair in data.get("tags", [])},
                    keys=tuple(pair["key"] for pair in data.get("metrics", [])),
                )

    def read_points(self, run: SourceRun) -> Iterator[Point]:
        for key in run.keys:
            token = ""
            while True:
                query = {"run_id": run.run_id, "metric_key": key, "max_results": "25000"}
                if token:
                    query["page_token"] = token
                page = self._call("mlflow/metrics/get-history", **query)
                for point in page.get("metrics", []):
                    step, timestamp = int(point.get("step", 0)), int(point.get("timestamp", 0))
                    yield Point(key, float(point.get("value", 0.0)), timestamp, step)
                token = page.get("next_page_token", "")
                if not token:
                    break

    def read_artifacts(self, run: SourceRun) -> Iterator[tuple[str, BinaryIO]]:
        uri = urlsplit(run.artifact_uri)
        if uri.scheme != "mlflow-artifacts":
            raise BadSource(f"its artifacts are at {run.artifact_uri}, not on the server")
        yield from self._walk(uri.path.strip("/"), "")

    def _walk(self, root: str, folder: str) -> Iterator[tuple[str, BinaryIO]]:
        place = f"{root}/{folder}".rstrip("/")
        listed = self._call("mlflow-artifacts/artifacts", path=place)
        for entry in listed.get("files", []):
            path = f"{folder}/{entry['path']}".lstrip("/")
            if entry.get("is_dir"):
                yield from self._walk(root, path)
            else:
                with self._open(f"mlflow-artifacts/artifacts/{quote(f'{root}/{path}')}") as file:
                    yield path, file


def _point(path: Path, key: str, parts: list[str]) -> Point:
    """Return the point of one line: time, value, and in all but the oldest stores the step."""
    try:
        return Point(key, float(parts[1]), int(parts[0]), int(parts[2]) if len(parts) > 2 else 0)
    except (IndexError, ValueError):
        raise BadSource(f"{path}: {' '.join(parts)[:80]!r} is no value of a metric") from None


def _read_local_artifacts(text: str) -> Iterator[tuple[str, BinaryIO]]:
    top = Path(unquote(text) if not Path(text).exists() else text)
    for path in _list_files(top):
        with path.open("rb") as file:
            yield path.relative_to(top).as_posix(), file


def _list_files(top: Path) -> list[Path]:
    """Return the plain files below a directory; nothing is read through a link."""
    if not top.is_dir():
        return []
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(top)
        for name in names
        if Path(folder, name).is_file() and not Path(folder, name).is_symlink()
    )


def _read_texts(top: Path) -> dict[str, str]:
    return {
        path.relative_to(top).as_posix(): path.read_text("utf-8", "replace")
        for path in _list_files(top)
    }


def _read_meta(folder: Path) -> dict[str, Any]:
    """Return what `meta.yaml` says; nothing where there is none, or another file in its place."""
    import yaml

    try:
        about = yaml.safe_load((folder / "meta.yaml").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadSource(
            f"{folder / 'meta.yaml'} cannot be read: {' '.join(str(error).split())}"
        ) from None
    return about if isinstance(about, dict) else {}
