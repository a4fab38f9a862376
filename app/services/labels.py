"""Labels, aliases and links: what tracking clients put beside experiments, runs and models.

A label is a key and a value: MLflow tags. An alias is the name under which a client knows a run
or an experiment. A link is a data set or a model that a run has read or made.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, delete, func, select, text

from app.db.json_lists import one_of
from app.db.sql import Tx, columns, dump, load, query, select_all, statement
from app.db.tables import Alias, Label, RunLink
from app.domain.tracking import MAX_LABELS, MAX_LINKS
from app.errors import RunLimit

_label = columns(Label)
_alias = columns(Alias)
_link = columns(RunLink)


@query(Label)
def _labels(*, owners: str) -> Executable:
    return select_all(Label).where(one_of(_label.owner_id, owners)).order_by(_label.key)


@query(tuple[int])
def _count_labels(*, owner: str) -> Executable:
    return select(func.count()).select_from(Label).where(_label.owner_id == owner)


@statement
def _set_label(*, owner_id: str, key: str, value: str) -> Executable:
    return text(
        "INSERT INTO label (owner_id, key, value) VALUES (:owner_id, :key, :value)"
        " ON CONFLICT (owner_id, key) DO UPDATE SET value = excluded.value"
    )


@statement
def _delete_label(*, owner: str, name: str) -> Executable:
    return delete(Label).where(_label.owner_id == owner, _label.key == name)


@query(tuple[str])
def _target(*, scope: str, alias: str) -> Executable:
    return select(_alias.target_id).where(_alias.scope == scope, _alias.name == alias)


@statement
def _add_alias(*, scope: str, alias: str, target: str) -> Executable:
    return text(
        "INSERT INTO alias (scope, name, target_id) VALUES (:scope, :alias, :target)"
        " ON CONFLICT (scope, name) DO NOTHING"
    )


@statement
def _delete_alias(*, scope: str, alias: str) -> Executable:
    return delete(Alias).where(_alias.scope == scope, _alias.name == alias)


@query(RunLink)
def _links(*, runs: str) -> Executable:
    return (
        select_all(RunLink)
        .where(one_of(_link.run_id, runs))
        .order_by(_link.run_id, _link.kind, _link.key)
    )


@query(tuple[int])
def _count_links(*, run: str) -> Executable:
    return select(func.count()).select_from(RunLink).where(_link.run_id == run)


@statement
def _set_link(*, run_id: str, kind: str, key: str, content: str) -> Executable:
    return text(
        "INSERT INTO run_link (run_id, kind, key, content) VALUES (:run_id, :kind, :key, :content)"
        " ON CONFLICT (run_id, kind, key) DO UPDATE SET content = excluded.content"
    )


def get_labels(tx: Tx, owner_id: str) -> dict[str, str]:
    """Return the labels of an experiment, a run or a model, by key."""
    return list_labels(tx, [owner_id])[owner_id]


def list_labels(tx: Tx, owner_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the labels of each of these, by key."""
    labels: dict[str, dict[str, str]] = {owner_id: {} for owner_id in owner_ids}
    for label in tx.all(_labels, owners=dump(list(owner_ids))):
        labels[label.owner_id][label.key] = label.value
    return labels


def set_labels(tx: Tx, owner_id: str, labels: Mapping[str, str]) -> None:
    """Set labels; others stay as they are. Raises RunLimit for too many."""
    if not labels:
        return
    rows = [_set_label(owner_id=owner_id, key=key, value=labels[key]) for key in sorted(labels)]
    tx.many(_set_label, rows)
    row = tx.first(_count_labels, owner=owner_id)
    if row is not None and row[0] > MAX_LABELS:
        raise RunLimit(
            f"{owner_id} may have at most {MAX_LABELS:,} tags with values.",
            errors=[{"pointer": "/tags", "detail": "too many"}],
        )
    tx.notify(owner_id)


def delete_label(tx: Tx, owner_id: str, key: str) -> bool:
    """Remove a label; return True if there was one."""
    tx.notify(owner_id)
    return tx.run(_delete_label, owner=owner_id, name=key) == 1


def find_alias_target(tx: Tx, scope: str, alias: str) -> str | None:
    """Return the id of the run or experiment that an alias names, or None."""
    row = tx.first(_target, scope=scope, alias=alias)
    return row[0] if row else None


def add_alias(tx: Tx, scope: str, alias: str, target_id: str) -> bool:
    """Let an alias stand for an id; return False if it stands for one already."""
    return tx.run(_add_alias, scope=scope, alias=alias, target=target_id) == 1


def delete_alias(tx: Tx, scope: str, alias: str) -> None:
    """Forget an alias, if there is one."""
    tx.run(_delete_alias, scope=scope, alias=alias)


def list_links(tx: Tx, run_ids: Sequence[str]) -> dict[str, list[RunLink]]:
    """Return the links of each of these runs."""
    links: dict[str, list[RunLink]] = {run_id: [] for run_id in run_ids}
    for link in tx.all(_links, runs=dump(list(run_ids))):
        links[link.run_id].append(link)
    return links


def set_links(tx: Tx, run_id: str, links: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Record links of a run as (kind, key, content); the same again changes nothing.

    Raises RunLimit for too many.
    """
    rows = [
        _set_link(run_id=run_id, kind=kind, key=key, content=dump(content))
        for kind, key, content in links
    ]
    tx.many(_set_link, rows)
    row = tx.first(_count_links, run=run_id)
    if row is not None and row[0] > MAX_LINKS:
        raise RunLimit(f"A run may have at most {MAX_LINKS:,} data sets and models.")
    tx.notify(run_id)


def content_of(link: RunLink) -> Any:
    """Return what a client has told of a link."""
    return load(link.content)
