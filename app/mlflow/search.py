"""Searches of runs and experiments, page by page."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import Request, Response
from sqlalchemy import Executable, and_, or_

from app.db.json_lists import one_of
from app.db.sql import Tx, columns, dump, query, select_all
from app.db.tables import Experiment, Run
from app.domain.ids import is_id
from app.errors import InvalidInput
from app.mlflow import bodies, views
from app.mlflow.experiments import resolve
from app.mlflow.filters import Query, parse_filter, parse_order
from app.mlflow.routing import API, router
from app.server.tracking import Access, get_access, json
from app.services import labels, runs, tracking

BATCH = 500
MAX_PAGE = 1_000
MAX_SCANNED = 20_000
"""Runs, or experiments, that one search reads at most."""
_LAST = ("9999", "")

routes = router()
_run = columns(Run)
_experiment = columns(Experiment)


@query(Run)
def _runs(*, created: str, after: str, most: int, experiments: str) -> Executable:
    return (
        select_all(Run)
        .where(
            one_of(_run.experiment_id, experiments),
            or_(
                _run.created_at < created,
                and_(_run.created_at == created, _run.id < after),
            ),
        )
        .order_by(_run.created_at.desc(), _run.id.desc())
        .limit(most)
    )


@query(Experiment)
def _experiments(*, most: int) -> Executable:
    return (
        select_all(Experiment)
        .order_by(_experiment.created_at.desc(), _experiment.id.desc())
        .limit(most)
    )


class Page(NamedTuple):
    """A page of views; with a token there are more."""

    views: list[views.View]
    token: str | None


def page_of(matching: Sequence[views.View], body: bodies.Search) -> Page:
    """Return the requested page of all matches."""
    start = _offset(body.page_token)
    stop = start + (min(body.max_results, MAX_PAGE) or MAX_PAGE)
    token = _encode(str(stop)) if stop < len(matching) else None
    return Page(list(matching[start:stop]), token)


@routes.post(f"{API}/runs/search")
async def search_runs(request: Request) -> Response:
    """Return runs of experiments, newest first unless an order is given."""
    access, body = get_access(request), await bodies.read(request, bodies.Search)
    query = Query(parse_filter(body.filter, "runs"), parse_order(body.order_by, "runs"))
    if body.run_view_type == "DELETED_ONLY":
        return json({"runs": []})
    page = await request.app.state.db.scan(_search_runs, access, query, body)
    return json({"runs": page.views} | ({"next_page_token": page.token} if page.token else {}))


def _search_runs(tx: Tx, access: Access, query: Query, body: bodies.Search) -> Page:
    if access.run_id is not None:
        return page_of(query.select(views.runs(tx, [runs.get(tx, access.run_id)])), body)
    ids = dump([_experiment_id(tx, experiment_id) for experiment_id in body.experiment_ids])
    return _sort_runs(tx, ids, query, body) if query.orders else _list_newest(tx, ids, query, body)


def _experiment_id(tx: Tx, experiment_id: str) -> str:
    """Return the id of an experiment. "0" is MLflow's default one; '' while it does not exist."""
    if experiment_id != "0":
        return experiment_id
    default = tracking.find_experiment(tx, tracking.DEFAULT)
    return default.id if default else ""


def _list_newest(tx: Tx, ids: str, query: Query, body: bodies.Search) -> Page:
    """Return a page in the order of creation: only as many runs are read as it needs."""
    most = min(body.max_results, MAX_PAGE) or MAX_PAGE
    created, after = _place(body.page_token)
    newest: list[views.View] = []
    scanned = 0
    while scanned < MAX_SCANNED:
        size = BATCH if query.conditions else min(BATCH, most - len(newest))
        rows = tx.all(_runs, experiments=ids, created=created, after=after, most=size)
        for row, view in zip(rows, views.runs(tx, rows), strict=True):
            created, after = row.created_at, row.id
            if all(condition.holds(view) for condition in query.conditions):
                newest.append(view)
                if len(newest) == most:
                    return Page(newest, _encode(f"{created} {after}"))
        scanned += len(rows)
        if len(rows) < size:
            return Page(newest, None)
    return Page(newest, _encode(f"{created} {after}"))


def _sort_runs(tx: Tx, ids: str, query: Query, body: bodies.Search) -> Page:
    """Return a page in another order than the creation's, for which all runs are read."""
    keys: list[tuple[Any, str]] = []
    (created, after), scanned = _LAST, 0
    while rows := tx.all(_runs, experiments=ids, created=created, after=after, most=BATCH):
        scanned += len(rows)
        if scanned > MAX_SCANNED:
            raise InvalidInput(
                f"These are more than {MAX_SCANNED:,} runs; search fewer experiments, or without "
                "an order."
            )
        for view in views.runs(tx, rows):
            if all(condition.holds(view) for condition in query.conditions):
                keys.append((query.sort_key(view), view["info"]["run_id"]))
        created, after = rows[-1].created_at, rows[-1].id
    keys.sort(key=lambda item: item[0])
    start, most = _offset(body.page_token), min(body.max_results, MAX_PAGE) or MAX_PAGE
    chosen = [run_id for _, run_id in keys[start : start + most]]
    token = _encode(str(start + most)) if start + most < len(keys) else None
    return Page(views.runs(tx, [runs.get(tx, run_id) for run_id in chosen]), token)


@routes.post(f"{API}/experiments/search")
async def search_experiments(request: Request) -> Response:
    access, body = get_access(request), await bodies.read(request, bodies.Search)
    query = Query(
        parse_filter(body.filter, "experiments"), parse_order(body.order_by, "experiments")
    )

    def search(tx: Tx) -> list[views.View]:
        if access.run_id is not None:
            rows = [resolve(tx, access, "")]
        else:
            rows = tx.all(_experiments, most=MAX_SCANNED)
        labelled = labels.list_labels(tx, [row.id for row in rows])
        return [views.experiment(row, labelled[row.id]) for row in rows]

    matching = [] if body.view_type == "DELETED_ONLY" else await request.app.state.db.scan(search)
    page = page_of(query.select(matching), body)
    more = {"next_page_token": page.token} if page.token else {}
    return json({"experiments": page.views} | more)


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decode(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeError):
        raise _make_token_error() from None


def _offset(token: str) -> int:
    text = _decode(token) if token else "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _make_token_error()
    return int(text)


def _place(token: str) -> tuple[str, str]:
    """Return the time and the id of the last run of the page before."""
    if not token:
        return _LAST
    created, _, after = _decode(token).partition(" ")
    if not is_id(after, "run") or len(created) != 32:
        raise _make_token_error()
    return created, after


def _make_token_error() -> InvalidInput:
    return InvalidInput("page_token: use the one of the page before, with the same search.")
