"""What statements make: objects of the tables, light rows; and parameters that are checked."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Executable
from sqlmodel import Session, create_engine, select

import app.db
import app.mlflow
import app.rest
import app.services
from app.db import keyset, listing
from app.db.cursors import Order, Window
from app.db.database import Database
from app.db.objects import as_dict, from_dict, replace
from app.db.rows import RunRow
from app.db.sql import Query, Statement, Tx, by_id, columns, query, select_all
from app.db.tables import Experiment, Run
from app.domain.requests import ExperimentRequest, RunRequest
from app.rest.views import SUMMARY_COLUMNS
from app.services import experiments, runs
from tests.support.rows import DECLARED, declarations

_find_run = by_id(Run)


@query(Run)
def _of_status(*, status: str, most: int) -> Executable:
    return select_all(Run).where(columns(Run).status == status).limit(most)


def _queries() -> Iterator[tuple[str, Query[..., Any]]]:
    for package in (app.db, app.services, app.rest, app.mlflow):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Query) and not isinstance(value, Statement):
                    yield f"{module.name}.{name}", value


def submit(tx: Tx) -> Run:
    experiment = experiments.create(tx, ExperimentRequest(name="rows", task_type="test"))
    return runs.submit(tx, experiment.id, RunRequest(model="m"), {})


def test_the_type_checker_knows_the_columns_of_the_tables() -> None:
    assert DECLARED.read_text() == declarations(), "python -m tests.support.rows"


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_query_binds_each_of_its_parameters_and_nothing_else(dialect: str) -> None:
    found = dict(_queries())
    assert len(found) > 80
    for name, made in found.items():
        compiled = made.compiled(dialect)
        bound = compiled.bind({parameter: parameter for parameter in made.names})
        used = {value for value in (bound.values() if isinstance(bound, dict) else bound)}
        assert set(made.names) <= used, name
        if dialect == "postgresql":
            assert compiled.names is not None
            assert set(compiled.names) == {*made.names, *compiled.own}, name


@pytest.mark.anyio
async def test_one_run_is_an_object_of_its_table_and_a_page_has_light_rows(db: Database) -> None:
    submitted = await db.write(submit)
    read = await db.read(runs.get, submitted.id)
    assert type(submitted) is type(read) is Run
    assert read == submitted
    filters = {"experiment_id": read.experiment_id}
    page = await db.read(keyset.page, listing.RUNS, filters, Order("created_at"), Window())
    (row,) = page.rows
    assert isinstance(row, RunRow)
    assert not isinstance(row, Run)
    assert row._asdict() == as_dict(read)


SUMMARIZED: dict[str, dict[str, Any]] = {
    "all": {},
    "of one status": {"status": ["queued"]},
    "of several": {"status": ["queued", "failed"]},
    # Of all experiments, so that the text is looked for in the first rows of the list.
    "with a text": {"experiment_id": None, "search": "rows"},
    "with a text and a hyperparameter": {
        "experiment_id": None, "search": "rows", "hyperparam": ("lr", 1, None),
    },
}  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("name", SUMMARIZED)
async def test_a_page_of_summaries_is_the_page_of_runs(db: Database, name: str) -> None:
    first = await db.write(submit)
    for lr in (0.5, 2.0):
        again = RunRequest(model="m", notes="rows", hyperparams={"lr": lr})
        await db.write(runs.submit, first.experiment_id, again, {})
    wanted = {"experiment_id": first.experiment_id, **SUMMARIZED[name]}
    filters = {key: value for key, value in wanted.items() if value is not None}
    for field in ("created_at", "started_at", "step", "metric"):
        order = Order(field, metric_key="loss" if field == "metric" else None)
        whole = await db.read(keyset.page, listing.RUNS, filters, order, Window(1))
        summary = listing.RUNS.narrowed(SUMMARY_COLUMNS)
        summaries = await db.read(keyset.page, summary, filters, order, Window(1))
        assert len(summaries.rows) == 1, field
        assert summaries.has_next == (name != "with a text and a hyperparameter"), field
        wanted_rows = [{key: getattr(run, key) for key in summary.names} for run in whole.rows]
        assert [run._asdict() for run in summaries.rows] == wanted_rows, field


@pytest.mark.anyio
async def test_the_type_checker_knows_the_parameters_of_a_query(db: Database) -> None:
    """`mypy --strict` fails where one of these needs no `ignore`; they fail when executed, too."""

    def wrong(tx: Tx) -> None:
        tx.all(_of_status, statu="queued", most=1)  # type: ignore[call-arg]

    def kind(tx: Tx) -> None:
        tx.all(_of_status, status="queued", most="1")  # type: ignore[arg-type]

    def column(tx: Tx) -> None:
        runs.change(tx, submit(tx), stepp=1)  # type: ignore[call-arg]

    def nothing(tx: Tx) -> None:
        tx.first(_find_run)  # type: ignore[call-arg]

    assert kind is not None  # SQLite compares texts with numbers
    for use_case in (wrong, column, nothing):
        with pytest.raises(Exception):  # noqa: B017 - each database and layer has its own
            await db.write(use_case)


def test_a_query_looks_at_its_function_at_its_first_use() -> None:
    """There are three hundred, and a start uses few."""
    unused = by_id(Run)
    assert "names" not in vars(unused)
    assert unused.names == ("id",)


def test_a_new_object_has_its_columns_and_no_other() -> None:
    experiment = Experiment(
        id="e", name="n", task_type="t", param_config="{}", tags="[]", created_at="now", last_seq=0
    )
    assert experiment.goal is None
    assert replace(experiment, goal="g").goal == "g"
    assert experiment.goal is None
    assert from_dict(Experiment, as_dict(experiment)) == experiment
    with pytest.raises(TypeError, match="nmae"):
        Experiment(**as_dict(experiment), nmae="n")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="task_type"):
        Experiment(id="e", name="n")  # type: ignore[call-arg]


def test_an_object_is_one_that_a_session_takes() -> None:
    """So that a script may use SQLModel as its users know it."""
    engine = create_engine("sqlite://")
    Experiment.__table__.create(engine)  # type: ignore[attr-defined]
    with Session(engine) as session:
        session.add(
            Experiment(
                id="e", name="n", task_type="t", param_config="{}", tags="[]", created_at="now",
                last_seq=0,
            )
        )  # fmt: skip
        session.commit()
        session.expire_all()
        found = session.exec(select(Experiment)).one()
        assert (found.name, found.goal) == ("n", None)
        found.goal = "g"
        session.commit()
        assert session.exec(select(Experiment.goal)).one() == "g"
    engine.dispose()
