"""The bare cells on PostgreSQL: FastAPI and a psycopg pool on the event loop.

The same paths and answers as `bare`, of which the request model and the rendering come; one app on
a copy of the service's own database. Each handler takes a connection of the pool and commits for
itself; a submit sends its four rows in one transaction and pipeline.
"""

import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import uvicorn
from fastapi import FastAPI, Header, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tests.bench.bare import (
    CHECKPOINT,
    LISTED,
    POINTS,
    RUN_COLUMNS,
    SUMMARY,
    answer_of,
    dump,
    health,
    listed,
)
from tests.bench.bare_requests import ReportIn, RunIn

CONNECTIONS = 16

pool: AsyncConnectionPool[AsyncConnection[Any]]
series_ids: dict[tuple[str, str], int] = {}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool
    dsn = os.environ["LLM_TRAIN_DATABASE_URL"].replace("+psycopg", "", 1)
    async with AsyncConnectionPool(
        dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False, kwargs={"autocommit": True}
    ) as pool:
        async with pool.connection() as connection:
            for statement in filter(str.strip, POINTS.split(";")):
                sql = statement.replace("WITHOUT ROWID", "").replace("INTEGER PRIMARY", SERIAL)
                sql = sql.replace("INTEGER", "BIGINT").replace("REAL", "DOUBLE PRECISION")
                await connection.execute(sql.encode())
        yield


SERIAL = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY"

app = FastAPI(lifespan=lifespan)
app.get("/healthz")(health)

INSERT_RUN = f"""
INSERT INTO run ({RUN_COLUMNS}) VALUES
(%s, %s, %s, %s, %s, %s, '{{}}', %s, %s, 'queued', 'waiting_for_trainer', 0, 0, 0, 0, false, '[]',
 '[]', false, 0, 0, 0, '[]', 1, 0, %s)
""".encode()


@app.post("/v1/experiments/{experiment_id}/runs", status_code=201)
async def submit(
    experiment_id: str, body: RunIn, idempotency_key: Annotated[str, Header()]
) -> dict[str, Any]:
    run_id = f"run_{time.time_ns() // 1000:x}{secrets.token_hex(8)}"
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    scope = f"POST /v1/experiments/{experiment_id}/runs"
    sha = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
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
    packed = map(dump, (body.dataset, body.hyperparams, body.resources))
    event = dump({"model": body.model, **origin, "reason": "waiting_for_trainer"})
    async with pool.connection() as connection, connection.pipeline(), connection.transaction():
        found = await connection.execute(
            b"SELECT request_sha256, body FROM idempotency_key WHERE scope = %s AND key = %s",
            (scope, idempotency_key),
        )
        if known := await found.fetchone():
            return dict(orjson.loads(known[1]))
        await connection.execute(
            INSERT_RUN,
            (run_id, experiment_id, run_id, body.model, *packed, body.notes, now),
        )
        await connection.execute(
            b"INSERT INTO idempotency_key (scope, key, request_sha256, status, body,"
            b" created_at) VALUES (%s, %s, %s, %s, %s, %s)",
            (scope, idempotency_key, sha, 201, dump(answer), now),
        )
        # Last, as it is the row that all wait for; the COMMIT is sent with it.
        await connection.execute(
            b"WITH next AS (UPDATE experiment SET last_seq = last_seq + 1 WHERE id = %s"
            b" RETURNING last_seq) INSERT INTO event (experiment_id, seq, type, at, run_id,"
            b" data) SELECT %s, last_seq, 'run.queued', %s, %s, %s FROM next",
            (experiment_id, experiment_id, now, run_id, event),
        )
    return answer


async def rows_of(sql: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.encode(), values)
        return await cursor.fetchall()


@app.get("/v1/experiments/{experiment_id}/runs/{run_id}/status")
async def status(experiment_id: str, run_id: str) -> dict[str, Any]:
    sql = f"SELECT {SUMMARY}, heartbeat_at FROM run WHERE id = %s AND experiment_id = %s"
    return (await rows_of(sql, (run_id, experiment_id)))[0]


@app.post("/v1/runs/{run_id}/reports")
async def report(run_id: str, request: Request) -> dict[str, Any]:
    body = ReportIn.model_validate_json(await request.body())
    async with pool.connection() as connection, connection.transaction():
        for key in {*body.metrics, *(point["key"] for point in body.points)}:
            if (run_id, key) not in series_ids:
                series_ids[run_id, key] = await series(connection, run_id, key)
        async with (
            connection.cursor() as cursor,
            cursor.copy(b"COPY bare_point (series_id, step, value, wall_time) FROM STDIN") as copy,
        ):
            for key, column in body.metrics.items():
                ids = [series_ids[run_id, key]] * len(column.steps)
                for row in zip(ids, column.steps, column.values, column.wall_times, strict=True):
                    await copy.write_row(row)
            for p in body.points:
                row = (series_ids[run_id, p["key"]], p["step"], p["value"], p["wall_time"])
                await copy.write_row(row)
    return {"run_id": run_id, "status": "running", "batch": body.batch, "should_stop": False}


async def series(connection: AsyncConnection[Any], run_id: str, key: str) -> int:
    found = await connection.execute(
        b"INSERT INTO bare_series (run_id, key) VALUES (%s, %s) RETURNING id", (run_id, key)
    )
    row: Any = await found.fetchone()
    return int(row[0])


@app.get("/v1/experiments/{experiment_id}/runs")
async def runs(experiment_id: str, status: str, model: str, limit: int) -> Response:
    sql = (
        f"SELECT {LISTED} FROM run WHERE experiment_id = %s AND status = %s AND model = %s"
        " AND archived_at IS NULL ORDER BY created_at DESC, id DESC LIMIT %s"
    )
    found = await rows_of(sql, (experiment_id, status, model, limit))
    sql = "SELECT run_id, key, step, value FROM metric_latest WHERE run_id = ANY(%s)"
    async with pool.connection() as connection:
        ids = ([run["run_id"] for run in found],)
        latest: Any = await (await connection.execute(sql.encode(), ids)).fetchall()
    return answer_of({"runs": listed(found, latest)})


@app.get("/v1/experiments/{experiment_id}/runs/{run_id}/metrics")
async def history(run_id: str, keys: str) -> Response:
    sql = (
        b"SELECT step, value, wall_time FROM bare_point WHERE series_id ="
        b" (SELECT id FROM bare_series WHERE run_id = %s AND key = %s) ORDER BY step"
    )
    async with pool.connection() as connection:
        found = await (await connection.execute(sql, (run_id, keys))).fetchall()
    steps, values, wall_times = zip(*found, strict=True)
    return answer_of(
        {"series": [{"key": keys, "steps": steps, "values": values, "wall_times": wall_times}]}
    )


@app.get("/v1/experiments/{experiment_id}/nested")
async def nested(experiment_id: str) -> Response:
    sql = 'SELECT name, created_at AS "createdAt" FROM experiment WHERE id = %s'
    (experiment,) = await rows_of(sql, (experiment_id,))
    found = await rows_of(
        'SELECT id, model, upper(status) AS status, step, created_at AS "createdAt" FROM run'
        " WHERE experiment_id = %s ORDER BY created_at DESC, id DESC LIMIT 50",
        (experiment_id,),
    )
    checkpoints: dict[str, list[dict[str, Any]]] = {run["id"]: [] for run in found}
    sql = (
        "SELECT run_id, id, ckpt_path, upper(state), step, size_bytes, created_at FROM checkpoint"
        " WHERE run_id = ANY(%s) ORDER BY created_at DESC, id DESC"
    )
    async with pool.connection() as connection:
        rows = await (await connection.execute(sql.encode(), (list(checkpoints),))).fetchall()
    for run_id, *row in rows:
        checkpoints[run_id].append(dict(zip(CHECKPOINT, row, strict=True)))
    for run in found:
        run["checkpoints"] = {"nodes": checkpoints[run["id"]][:10]}
    return answer_of({"data": {"experiment": {**experiment, "runs": {"nodes": found}}}})


if __name__ == "__main__":
    uvicorn.run(
        "tests.bench.bare_postgresql:app",
        port=int(os.environ["LLM_TRAIN_PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
