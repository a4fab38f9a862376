"""A million runs, as a team has them after some years, written directly.

The service makes one run of each kind over HTTP; `fill` multiplies it in the service's own tables
with `executemany` on SQLite (about 25 s for 100,000 runs) and `COPY` on PostgreSQL. Indexes and
triggers stay on, so that the texts are indexed and the counts are kept as they are for submitted
runs. Each run has a name, notes with words of known frequency (`TERMS`), tags, a status, an event
and the latest value of two metrics; one in ten has a checkpoint. The random numbers are seeded.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

from app.domain.texts import searchable
from tests.bench.databases import Database
from tests.bench.fixture import MODELS, moment

SEED = 14
STATUSES = ("succeeded",) * 7 + ("failed",) * 2 + ("cancelled",)
METRICS = ("eval/loss", "train/loss")
TERMS = {
    "baseline": 2,
    "learning rate sweep": 50,
    "指令微调": 200,
    "warmstart": 1_000,
    "蒸馏": 10_000,
    "qx": 10_000,
    "zebrafish": 100_000,
    "量子纠错": 200_000,
}
"""Texts that are in one of so many notes."""
WORDS = (
    "adam", "cosine", "dropout", "gradient", "checkpoint", "tokenizer", "context", "packing",
    "mixture", "expert", "reward", "preference", "rollout", "distilled", "vocabulary", "sequence",
    "parallel", "shard", "replay", "curriculum", "filter", "dedupe", "synthetic", "math", "code",
    "dialogue", "summary", "translation", "retrieval", "safety", "long", "short",
)  # fmt: skip
CHECKPOINT_EVERY = 10


class Run:
    """Number, name, notes, tags and status of one of the runs."""

    def __init__(self, number: int) -> None:
        chance = random.Random(SEED * 10**9 + number)
        self.number = number
        words = [*chance.choices(WORDS, k=8), *self._terms(chance)]
        chance.shuffle(words)
        self.notes = " ".join(words)
        self.name = f"{chance.choice(WORDS)}-{chance.choice(WORDS)}-{number}"
        self.tags = [chance.choice(WORDS)]
        self.status = chance.choice(STATUSES)
        self.model = chance.choice(MODELS)
        self.step = number * 7_919 % 100_003
        self.values = [round(1 + chance.random() * 3, 6) for _ in METRICS]

    @staticmethod
    def _terms(chance: random.Random) -> list[str]:
        return [term for term, every in TERMS.items() if chance.randrange(every) == 0]


def fill(
    database: Database, run_id: str, checkpoint_id: str, experiment_id: str, count: int, base: int
) -> None:
    """Write `count` copies of a run into an experiment; their ids end with `base`, `base + 1`, …"""
    for begin in range(0, count, 50_000):
        runs = [Run(number) for number in range(begin, min(count, begin + 50_000))]
        _write(database, run_id, checkpoint_id, experiment_id, runs, base)
    sql = "UPDATE experiment SET last_seq = last_seq + ? WHERE id = ?"
    database.execute(sql, (count, experiment_id))


def id_of(prototype: str, number: int) -> str:
    """Return an id of the same form and length."""
    return f"{prototype[:-7]}{number:07d}"


def _write(
    database: Database,
    run_id: str,
    checkpoint_id: str,
    experiment_id: str,
    runs: list[Run],
    base: int,
) -> None:
    ids = [id_of(run_id, base + run.number) for run in runs]
    both = list(zip(ids, runs, strict=True))
    names, prototype = _row(database, "run", run_id)
    database.insert("run", names, _runs(names, prototype, experiment_id, both))
    texts = (
        (id, searchable((run.model, None, run.notes, run.name, *run.tags))) for id, run in both
    )
    database.insert("run_search", ("id", "text"), texts)
    database.insert("run_tag", ("tag", "run_id"), ((run.tags[0], id) for id, run in both))
    latest = (
        (id, key, 1_000, value, 1_763_800_000.25, experiment_id)
        for id, run in both
        for key, value in zip(METRICS, run.values, strict=True)
    )
    names = ["run_id", "key", "step", "value", "wall_time", "experiment_id"]
    database.insert("metric_latest", names, latest)
    seq = _last_event(database, experiment_id)
    events = (
        (experiment_id, seq + place, "run.queued", moment(run.number), id, "{}", "trusted", None)
        for place, (id, run) in enumerate(both, 1)
    )
    columns = ("experiment_id", "seq", "type", "at", "run_id", "data", "actor_kind", "actor_name")
    database.insert("event", columns, events)
    names, prototype = _row(database, "checkpoint", checkpoint_id)
    saved = [(id, run) for id, run in both if run.number % CHECKPOINT_EVERY == 0]
    database.insert("checkpoint", names, _checkpoints(names, prototype, experiment_id, base, saved))


def _row(database: Database, table: str, id: str) -> tuple[list[str], dict[str, Any]]:
    cursor = database.execute(f"SELECT * FROM {table} WHERE id = ?", (id,))
    names = [column[0] for column in cursor.description]
    return names, dict(zip(names, cursor.fetchone(), strict=True))


def _last_event(database: Database, experiment_id: str) -> int:
    sql = "SELECT max(seq) FROM event WHERE experiment_id = ?"
    (last,) = database.execute(sql, (experiment_id,)).fetchone()
    return int(last or 0)


def _runs(
    names: list[str], prototype: dict[str, Any], experiment_id: str, both: list[tuple[str, Run]]
) -> Iterator[list[Any]]:
    for id, run in both:
        row = prototype | {
            "id": id,
            "root_run_id": id,
            "experiment_id": experiment_id,
            "status": run.status,
            "status_reason": None,
            "name": run.name,
            "notes": run.notes,
            "tags": json.dumps(run.tags),
            "model": run.model,
            "step": run.step,
            "settled_step": run.step,
            "created_at": moment(run.number),
            "started_at": moment(run.number + 5),
            "finished_at": moment(run.number + 60),
        }
        yield [row[name] for name in names]


def _checkpoints(
    names: list[str],
    prototype: dict[str, Any],
    experiment_id: str,
    base: int,
    saved: list[tuple[str, Run]],
) -> Iterator[list[Any]]:
    for run_id, run in saved:
        row = prototype | {
            "id": id_of(prototype["id"], base + run.number),
            "experiment_id": experiment_id,
            "run_id": run_id,
            "ckpt_path": f"/ckpts/{experiment_id}/{run_id}/step-001000",
            "created_at": moment(run.number + 50),
        }
        yield [row[name] for name in names]
