"""The bare cells: what the same work costs by hand, on FastAPI and raw sqlite3.

One app on a copy of the service's own database file (`LLM_TRAIN_DATABASE_URL`), so tables, indexes
and data are the same; points are kept the plain way, a row each. It validates types with small
pydantic models and keeps only promises that the table in README.md names. Writes go through one
thread that commits what waits together (WAL, FULL); reads run on the event loop; answers that the
targets call hand-written are built with orjson.

    POST …/runs            run, event, sequence, idempotency: one group commit
    GET  …/status          one point read of the run's row
    POST …/reports         1,000 points: executemany
    GET  …/runs            one query, filtered and sorted
    GET  …/metrics         10 k points, as columns
    GET  …/nested          1 experiment × 50 runs × 10 checkpoints
"""

import asyncio
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from typing import Annotated, Any

import orjson
import uvicorn
from fastapi import FastAPI, Header, Request, Response

from tests.bench.bare_requests import ColumnsIn, PointIn, ReportIn, RunIn

Work = Callable[[sqlite3.Connection], Any]
Answer = asyncio.Future[Any]


def connect() -> sqlite3.Connection:
    path = os.environ["LLM_TRAIN_DATABASE_URL"].removeprefix("sqlite:///")
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -32000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


class Writer:
    """Group commit: whatever waits goes into one transaction, answered in one call to the loop."""

    def __init__(self) -> None:
        self.loop, self.connection = asyncio.get_running_loop(), connect()
        self.waiting: SimpleQueue[tuple[Work, Answer]] = SimpleQueue()
        threading.Thread(target=self.run, daemon=True).start()

    def do(self, work: Work) -> Answer:
        answer: Answer = self.loop.create_future()
        self.waiting.put((work, answer))
        return answer

    def run(self) -> None:
        connection = self.connection
        while True:
            batch = [self.waiting.get()]
            while len(batch) < 64 and not self.waiting.empty():
                batch.append(self.waiting.get())
            try:
                connection.execute("BEGIN IMMEDIATE")
                results = [work(connection) for work, _ in batch]
                connection.execute("COMMIT")
            except Exception as error:
                connection.rollback()
                results = [error] * len(batch)
            answers = [answer for _, answer in batch]
            self.loop.call_soon_threadsafe(resolve, answers, results)


def resolve(answers: list[Answer], results: list[Any]) -> None:
    for answer, result in zip(answers, results, strict=True):
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)


writer: Writer
reader: sqlite3.Connection
series_ids: dict[tuple[str, str], int] = {}


POINTS = """
CREATE TABLE bare_series (id INTEGER PRIMARY KEY, run_id TEXT, key TEXT, UNIQUE (run_id, key));
CREATE TABLE bare_point (
    series_id INTEGER NOT NULL, step INTEGER NOT NULL, value REAL, wall_time REAL,
    PRIMARY KEY (series_id, step)
) WITHOUT ROWID;
"""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global writer, reader
    writer, reader = Writer(), connect()
    reader.executescript(POINTS)
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/experiments/{experiment_id}/runs", status_code=201)
async def submit(
    experiment_id: str, body: RunIn, idempotency_key: Annotated[str, Header()]
) -> dict[str, Any]:
    run_id = f"run_{time.time_ns() // 1000:x}{secrets.token_hex(8)}"
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    answer: dict[str, Any] = await writer.do(
        partial(insert_run, experiment_id, body, idempotency_key, run_id, now)
    )
    return answer


RUN_COLUMNS = (
    "id, experiment_id, root_run_id, model, dataset, hyperparams, override_hyperparams, resources,"
    " notes, status, status_reason, attempt, start_step, step, last_batch, finished, gpus,"
    " sessions, session_closed, pace_steps, pace_seconds, history_bytes, tags, priority,"
    " preemptions, created_at"
)
INSERT_RUN = (
    f"INSERT INTO run ({RUN_COLUMNS}) VALUES"
    " (?, ?, ?, ?, ?, ?, '{}', ?, ?, 'queued', 'waiting_for_trainer', 0, 0, 0, 0, 0, '[]',"
    " '[]', 0, 0, 0, 0, '[]', 1, 0, ?)"
)


def insert_run(
    experiment_id: str,
    body: RunIn,
    key: str,
    run_id: str,
    now: str,
    connection: sqlite3.Connection,
) -> dict[str, Any]:
    scope = f"POST /v1/experiments/{experiment_id}/runs"
    sha = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    known = connection.execute(
        "SELECT request_sha256, body FROM idempotency_key WHERE scope = ? AND key = ?", (scope, key)
    ).fetchone()
    if known:
        return dict(orjson.loads(known[1]))
    (seq,) = connection.execute(
        "UPDATE experiment SET last_seq = last_seq + 1 WHERE id = ? RETURNING last_seq",
        (experiment_id,),
    ).fetchone()
    origin = {"parent_run_id": None, "ckpt_path": None, "recipe": None}
    answer = {
        "run_id": run_id,
        "experiment_id": experiment_id,
        **origin,
        "attempt": 0,
        **body.model_dump(),
        "status": "queued",
        "status_reason": "waiting_for_trainer",
        "created_at": now,
    }
    dataset, hyperparams, resources = map(dump, (body.dataset, body.hyperparams, body.resources))
    connection.execute(
        INSERT_RUN,
        (
            run_id,
            experiment_id,
            run_id,
            body.model,
            dataset,
            hyperparams,
            resources,
            body.notes,
            now,
        ),
    )
    event = dump({"model": body.model, **origin, "reason": "waiting_for_trainer"})
    connection.execute(
        "INSERT INTO event (experiment_id, seq, type, at, run_id, data) VALUES (?, ?, ?, ?, ?, ?)",
        (experiment_id, seq, "run.queued", now, run_id, event),
    )
    connection.execute(
        "INSERT INTO idempotency_key (scope, key, request_sha256, status, body, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (scope, key, sha, 201, dump(answer), now),
    )
    return answer


def dump(value: Any) -> str:
    return orjson.dumps(value).decode()


SUMMARY = (
    "id AS run_id, experiment_id, parent_run_id, model, recipe, status, status_reason,"
    " status_detail, attempt, step, total_steps, created_at, started_at, finished_at"
)


@app.get("/v1/experiments/{experiment_id}/runs/{run_id}/status")
async def status(experiment_id: str, run_id: str) -> dict[str, Any]:
    cursor = reader.execute(
        f"SELECT {SUMMARY}, heartbeat_at FROM run WHERE id = ? AND experiment_id = ?",
        (run_id, experiment_id),
    )
    return rows_of(cursor)[0]


def rows_of(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


@app.post("/v1/runs/{run_id}/reports")
async def report(run_id: str, request: Request) -> dict[str, Any]:
    body = ReportIn.model_validate_json(await request.body())
    await writer.do(partial(insert_points, run_id, body.metrics, body.points))
    return {"run_id": run_id, "status": "running", "batch": body.batch, "should_stop": False}


INSERT_POINT = (
    "INSERT OR REPLACE INTO bare_point (series_id, step, value, wall_time) VALUES (?, ?, ?, ?)"
)


def insert_points(
    run_id: str,
    columns: dict[str, ColumnsIn],
    points: list[PointIn],
    connection: sqlite3.Connection,
) -> None:
    for key in {*columns, *(point["key"] for point in points)}:
        if (run_id, key) not in series_ids:
            series_ids[run_id, key] = series(connection, run_id, key)
    for key, column in columns.items():
        ids = [series_ids[run_id, key]] * len(column.steps)
        rows = zip(ids, column.steps, column.values, column.wall_times, strict=True)
        connection.executemany(INSERT_POINT, rows)
    if points:
        connection.executemany(
            INSERT_POINT,
            [(series_ids[run_id, p["key"]], p["step"], p["value"], p["wall_time"]) for p in points],
        )


def series(connection: sqlite3.Connection, run_id: str, key: str) -> int:
    (number,) = connection.execute(
        "INSERT INTO bare_series (run_id, key) VALUES (?, ?) RETURNING id", (run_id, key)
    ).fetchone()
    return int(number)


LISTED = f"{SUMMARY}, name, tags, priority, archived_at, next_attempt_at"
PRIORITIES = ("high", "normal", "low")


@app.get("/v1/experiments/{experiment_id}/runs")
async def runs(experiment_id: str, status: str, model: str, limit: int) -> Response:
    reader.execute("BEGIN")
    found = rows_of(
        reader.execute(
            f"SELECT {LISTED} FROM run WHERE experiment_id = ? AND status = ? AND model = ?"
            " AND archived_at IS NULL ORDER BY created_at DESC, id DESC LIMIT ?",
            (experiment_id, status, model, limit),
        )
    )
    ids = tuple(run["run_id"] for run in found)
    latest = reader.execute(
        "SELECT run_id, key, step, value FROM metric_latest"
        f" WHERE run_id IN ({', '.join('?' * len(ids))})",
        ids,
    ).fetchall()
    reader.execute("COMMIT")
    return answer_of({"runs": listed(found, latest)})


def listed(
    found: list[dict[str, Any]], latest: list[tuple[str, str, int, float]]
) -> list[dict[str, Any]]:
    """Complete the runs of a list: all fields that the service's own list has."""
    metrics: dict[str, dict[str, Any]] = {run["run_id"]: {} for run in found}
    for run_id, key, step, value in latest:
        metrics[run_id][key] = {"value": value, "step": step}
    for run in found:
        run["tags"] = orjson.Fragment(run["tags"])
        run["priority"] = PRIORITIES[run["priority"]]
        total = run["total_steps"]
        done = run["status"] == "succeeded"
        run["progress"] = 1.0 if done else min(1.0, run["step"] / total) if total else None
        run["metrics"] = metrics[run["run_id"]]
    return found


@app.get("/v1/experiments/{experiment_id}/runs/{run_id}/metrics")
async def history(run_id: str, keys: str) -> Response:
    found = reader.execute(
        "SELECT step, value, wall_time FROM bare_point WHERE series_id ="
        " (SELECT id FROM bare_series WHERE run_id = ? AND key = ?) ORDER BY step",
        (run_id, keys),
    ).fetchall()
    steps, values, wall_times = zip(*found, strict=True)
    return answer_of(
        {"series": [{"key": keys, "steps": steps, "values": values, "wall_times": wall_times}]}
    )


@app.get("/v1/experiments/{experiment_id}/nested")
async def nested(experiment_id: str) -> Response:
    name, created_at = reader.execute(
        "SELECT name, created_at FROM experiment WHERE id = ?", (experiment_id,)
    ).fetchone()
    found = rows_of(
        reader.execute(
            "SELECT id, model, upper(status) AS status, step, created_at AS createdAt FROM run"
            " WHERE experiment_id = ? ORDER BY created_at DESC, id DESC LIMIT 50",
            (experiment_id,),
        )
    )
    checkpoints: dict[str, list[dict[str, Any]]] = {run["id"]: [] for run in found}
    for run_id, *row in reader.execute(
        "SELECT run_id, id, ckpt_path, upper(state), step, size_bytes, created_at FROM checkpoint"
        f" WHERE run_id IN ({', '.join('?' * len(checkpoints))})"
        " ORDER BY created_at DESC, id DESC",
        tuple(checkpoints),
    ):
        checkpoints[run_id].append(dict(zip(CHECKPOINT, row, strict=True)))
    for run in found:
        run["checkpoints"] = {"nodes": checkpoints[run["id"]][:10]}
    experiment = {"name": name, "createdAt": created_at, "runs": {"nodes": found}}
    return answer_of({"data": {"experiment": experiment}})


CHECKPOINT = ("id", "ckptPath", "state", "step", "sizeBytes", "createdAt")


def answer_of(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "tests.bench.bare:app",
        port=int(os.environ["LLM_TRAIN_PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
