"""What should never have been sent is nowhere any more: no table and no file of the service."""

import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from app.db.database import Database
from app.db.sql import Tx, dump
from app.db.tables import Run
from app.domain.redaction import REDACTED, Secrets
from app.domain.requests import MarkRequest, RedactRequest, ResumeRequest
from app.domain.webhooks import WebhookRequest
from app.errors import Conflict, InvalidInput
from app.services import (
    deliveries,
    events,
    idempotency,
    labels,
    marks,
    metrics,
    redaction,
    resuming,
    runs,
    webhooks,
)
from app.services.deliveries import Attempt
from app.services.idempotency import StoredResponse
from tests.support.stage import RECIPES, SAVED, Stage

pytestmark = pytest.mark.anyio

SCORE = 7654321.5  # no time and no number of another kind looks like it
SECRET = 'sk-"4711"-quoted/ä'
HYPERPARAMS = {"api_key": SECRET, "lr": 0.125, "steps": 10}


def everything(url: str) -> str:
    """All values of all columns of all tables there are, those of the search's index as well."""
    engine = create_engine(url)
    found = []
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            if table.endswith("_search_index"):
                continue  # a table of SQLite's whose rows are in those named after it
            for row in connection.execute(text(f'SELECT * FROM "{table}"')):
                found += [f"{table}: {shown(value)}" for value in row if value is not None]
        if engine.dialect.name == "postgresql":
            made = connection.execute(text("SELECT search_grams(text)::text FROM run_search"))
            found += [f"run_search_index: {row[0]}" for row in made]
    engine.dispose()
    return "\n".join(found)


def shown(value: object) -> str:
    """A value as text, where bytes that are no text stand for themselves."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="surrogateescape").replace("\n", " ")
    return str(value).replace("\n", " ")


def grams(url: str) -> set[str]:
    """The triples of characters that runs are found by on SQLite, as its own index tells them."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT term FROM run_search_index_grams")).scalars()
        terms = set(found)
    engine.dispose()
    return terms


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

    keyed = idempotency.parse_key("me", "MUTATION", "createRun", "k", b"{}")
    await stage.db.write(idempotency.run_once, keyed, answer)
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


async def test_a_secret_that_was_put_everywhere_is_in_no_column_and_no_file(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    """All that a client can send of a run holds it, and all that the service makes of that."""
    stage = await Stage.open(db)
    hook = await db.write(webhooks.create, WebhookRequest(url="https://a.example.com"))
    words = f"it was {SECRET}, sorry"
    hyperparams = {"api_key": SECRET, "nested": {"deep": [words]}}
    made = await stage.submit(
        hyperparams=hyperparams, notes=words, name=f"of {SECRET}", tags=[SECRET, "t"],
        dataset={"url": f"https://a/{SECRET}"},
    )  # fmt: skip
    run = await stage.claim(made)
    await stage.report(
        run, batch=1, step=5, total_steps=10, effective_hyperparams=hyperparams,
        source={"command": ["train", f"--key={SECRET}"], "patch": words},
        metrics={"loss": {"steps": [1], "values": [1.5]}},
    )  # fmt: skip
    await stage.saves(await stage.get(run), SAVED, 5)
    path = f"/ckpts/{run.experiment_id}/{run.id}/{SAVED}"
    mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="a")
    await db.write(marks.mark, run.experiment_id, mark)
    # What MLflow's clients send as parameters and tags, one of them under the secret's own name.
    labelled = {"command": f"train {SECRET}", f"tag of {SECRET}": "1"}
    await db.write(labels.set_labels, run.id, labelled)
    failed = {"reason": "exit_code", "detail": f"bad key {SECRET}"}
    await stage.report(await stage.get(run), finished=True)
    run = await stage.ends(await stage.get(run))
    await db.write(
        lambda tx: events.append(tx, run.experiment_id, "run.failed", run_id=run.id, **failed)
    )
    (first, *_) = await db.read(deliveries.list_deliveries, hook.id, None, 100)
    answered = Attempt(first.id, 500, f"answered: {words}", is_gone=False)
    await db.write(deliveries.record, hook.id, [answered])
    places = {"event", "label", "run", "run_search", "run_tag", "webhook_delivery"}
    assert places <= set(leaks(database_url, SECRET))
    if db.dialect == "sqlite":
        assert "sk-" in grams(database_url)

    request = RedactRequest(hyperparams=["api_key"], notes=True)
    redaction.clean_files(tmp_path, await db.read(redaction.plan, run.id, request))
    redacted = await db.write(redaction.redact, run.id, request)
    assert redacted.messages_sent == 1
    assert set(redacted.not_reached) == set(redaction.NotReached)
    assert leaks(database_url, SECRET) == []
    if db.dialect == "sqlite":
        assert not {"sk-", "471", "quo"} & grams(database_url)
    kept = await stage.get(run)
    assert (kept.name, json.loads(kept.tags)) == (f"of {REDACTED}", [REDACTED, "t"])
    assert json.loads(kept.hyperparams)["nested"]["deep"] == [REDACTED], "the notes, word for word"


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
    latest = await db.read(metrics.list_latest, run.id)
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
