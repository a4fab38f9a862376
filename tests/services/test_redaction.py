"""What should never have been sent is nowhere any more: no table and no file of the service."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Text, create_engine, select
from sqlmodel import SQLModel

from app.db.database import Database
from app.db.sql import Tx, dump
from app.db.tables import Run
from app.domain.redaction import REDACTED, Secrets
from app.domain.requests import MarkRequest, RedactRequest, ResumeRequest
from app.domain.webhooks import WebhookRequest
from app.errors import Conflict, InvalidInput
from app.services import idempotency, labels, marks, metrics, redaction, resuming, runs, webhooks
from app.services.idempotency import StoredResponse
from tests.support.stage import RECIPES, SAVED, Stage

pytestmark = pytest.mark.anyio

SCORE = 7654321.5  # no time and no number of another kind looks like it
SECRET = 'sk-"4711"-quoted/ä'
HYPERPARAMS = {"api_key": SECRET, "lr": 0.125, "steps": 10}


def everything(url: str) -> str:
    """All text of all tables."""
    engine = create_engine(url)
    found = []
    with engine.connect() as connection:
        for table in SQLModel.metadata.sorted_tables:
            texts = [c for c in table.columns if str(c.type) in ("VARCHAR", "TEXT")]
            rows = connection.execute(select(*(c.cast(Text) for c in texts))) if texts else ()
            for row in rows:
                found += [f"{table.name}: {text}" for text in row if text is not None]
    engine.dispose()
    return "\n".join(found)


def leaks(url: str, words: str) -> list[str]:
    """The tables in which these words stand, as they are or within JSON within JSON."""
    forms = {words}
    for _ in range(2):
        forms |= {json.dumps(form, ensure_ascii=False)[1:-1] for form in forms}
    lines = everything(url).splitlines()
    return sorted({line.split(":")[0] for line in lines if any(form in line for form in forms)})


async def sent(stage: Stage, place: Path) -> tuple[Run, Run, Run]:
    """A run, one resumed from it and one run again, with the secret wherever it can get."""
    hook = WebhookRequest(url="https://a.example.com")
    await stage.db.write(webhooks.create, hook)
    run = await stage.claim(
        await stage.submit(hyperparams=HYPERPARAMS, notes="of a customer", tags=["t"])
    )
    await stage.report(
        run,
        batch=1,
        step=5,
        total_steps=10,
        effective_hyperparams=HYPERPARAMS,
        source={"command": ["train", f"--key={SECRET}"]},
        metrics={
            key: {"steps": [1], "values": [v]} for key, v in (("loss", 1.5), ("score", SCORE))
        },
    )
    run = await stage.get(run)
    await stage.saves(run, SAVED, 5)
    path = f"/ckpts/{run.experiment_id}/{run.id}/{SAVED}"
    mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="a", metrics={"score": SCORE})
    await stage.db.write(marks.mark, run.experiment_id, mark)
    await stage.db.write(labels.set_labels, run.id, {"command": f"train {SECRET}"})
    await stage.report(run, finished=True)
    run = await stage.ends(run)
    folder = place / "runs" / run.id / "attempt-1"
    folder.mkdir(parents=True)
    spec = {"hyperparams": HYPERPARAMS, "argv": ["train", f"--key={SECRET}"]}
    (folder.parent / "spec.json").write_text(json.dumps(spec))
    (folder / "exit.json").write_text(json.dumps({"detail": f"bad key {SECRET}"}))
    resume = ResumeRequest(override_hyperparams={"api_key": SECRET, "lr": 0.5})
    child = await stage.db.write(resuming.resume, run.id, resume, RECIPES)
    again = await stage.db.write(resuming.rerun, run.id, RECIPES)
    for other in (child, again):
        await stage.db.write(runs.cancel, other.id)

    def answer(tx: Tx) -> StoredResponse:
        stored = {"run": {"experiment_id": run.experiment_id, "hyperparams": run.hyperparams}}
        return StoredResponse(201, dump(stored))

    keyed = idempotency.keyed("me", "MUTATION", "createRun", "k", b"{}")
    await stage.db.write(idempotency.once, keyed, answer)
    return run, child, again


async def test_a_hyperparameter_is_taken_out_everywhere(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    run, child, again = await sent(stage, tmp_path)
    assert set(leaks(database_url, SECRET)) >= {"run", "label", "idempotency_key"}

    request = RedactRequest(hyperparams=["api_key"])
    planned = await db.read(redaction.plan, run.id, request)
    redaction.clean_files(tmp_path, planned)
    redacted = await db.write(redaction.redact, run.id, request)
    assert set(redacted.run_ids) == {run.id, child.id, again.id}
    assert leaks(database_url, SECRET) == []
    inner = json.dumps(SECRET)[1:-1]
    files = [p.read_text() for p in (tmp_path / "runs").rglob("*.json")]
    assert len(files) == 2 and not any(SECRET in text or inner in text for text in files)
    for each in (run, child, again):
        kept = json.loads((await stage.get(each)).hyperparams)
        assert (kept["api_key"], kept["steps"]) == (REDACTED, 10)
    assert json.loads((await stage.get(child)).override_hyperparams) == {
        "api_key": REDACTED, "lr": 0.5,
    }  # fmt: skip
    event = (await stage.events())[-1]
    assert (event.type, json.loads(event.data)["hyperparams"]) == ("run.redacted", ["api_key"])
    await db.write(redaction.redact, run.id, request)  # may be repeated


async def test_a_number_goes_with_its_name_and_only_in_the_lineage(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    run, child, again = await sent(stage, tmp_path)
    await db.write(redaction.redact, run.id, RedactRequest(hyperparams=["lr"]))
    for each, lr in ((run, REDACTED), (child, 0.5), (again, 0.125)):
        assert json.loads((await stage.get(each)).hyperparams)["lr"] == lr
    assert leaks(database_url, SECRET), "nothing else went with it"


async def test_notes_are_taken_out_of_the_search_as_well(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    run, _, again = await sent(stage, tmp_path)
    assert leaks(database_url, "of a customer") == ["run", "run_search"]
    await db.write(redaction.redact, run.id, RedactRequest(notes=True))
    assert leaks(database_url, "of a customer") == []
    assert (await stage.get(run)).notes is None and (await stage.get(again)).notes is None


async def test_a_metric_is_taken_out_with_its_points(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    run, *_ = await sent(stage, tmp_path)
    assert {"checkpoint", "event", "metric_series"} <= set(leaks(database_url, "score"))
    await db.write(redaction.redact, run.id, RedactRequest(metrics=["score"]))
    assert leaks(database_url, "score") == ["event"], "that names what was redacted"
    assert str(SCORE) not in everything(database_url)
    latest = await db.read(metrics.latest, run.id)
    assert [each.key for each in latest] == ["loss"]


async def test_what_is_not_there_or_still_trains_is_refused(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.claim(await stage.submit(hyperparams=HYPERPARAMS))
    before = await stage.events()
    with pytest.raises(InvalidInput, match="no hyperparameter 'none'"):
        await db.write(redaction.redact, run.id, RedactRequest(hyperparams=["none"]))
    with pytest.raises(Conflict, match="has not ended"):
        await db.write(redaction.redact, run.id, RedactRequest(hyperparams=["api_key"]))
    assert await stage.events() == before


def test_values_are_compared_as_json() -> None:
    secrets = Secrets.of({"flag": [1], "short": ["abc"]}, frozenset())
    assert secrets.redact({"flag": True}) == {"flag": True}
    assert secrets.redact({"deep": [{"flag": 1}]}) == {"deep": [{"flag": REDACTED}]}
    assert secrets.redact("abcdef") == "abcdef", "a short text stands in others by chance"
    assert secrets.redact({"key": "flag", "requested": 1, "effective": 2}) == {
        "key": "flag", "requested": REDACTED, "effective": 2,
    }  # fmt: skip
