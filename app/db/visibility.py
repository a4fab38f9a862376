"""Each user's view of the data, as SQL: a prefix with a view of the same name for each table.

    WITH experiment AS (SELECT * FROM experiment WHERE project_id IN (the user's projects)),
         run AS (SELECT * FROM run WHERE EXISTS (its experiment)) SELECT … FROM run …

So one place decides what every query can find, whatever it filters, joins or counts, and other
teams' rows do not exist for it. Memberships are read in the same snapshot: one that was removed
is gone for the next statement.

CONDITIONS  tables that are read by what a client names
WITHIN      tables that are read by the ids of visible rows alone
OWN         tables of the service, read by use cases that ask for a permission
"""

import re
from functools import cache

USER = "visible_to"
"""The parameter that holds the user's id."""
EXPERIMENT = "experiment_id"
"""The parameter by which a statement names the one experiment of which it reads rows."""

_PROJECTS = f"(SELECT project_id FROM membership WHERE user_id = :{USER})"  # noqa: S608
_DELETED = (
    "EXISTS (SELECT 1 FROM deletion"
    " WHERE deletion.experiment_id = {0}.experiment_id AND deletion.run_id IS NULL)"
)
_OF_EXPERIMENT = (
    "EXISTS (SELECT 1 FROM experiment CROSS JOIN membership"  # noqa: S608
    " WHERE experiment.id = {0}.experiment_id"
    f" AND membership.user_id = :{USER} AND membership.project_id = experiment.project_id)"
)
"""Of a row of an experiment: two keys are looked up, the experiment's first (SQLite joins in this
order). `IN (the user's projects)` would make a table of these, which costs more than the read."""
CONDITIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "experiment": (
        f"project_id IN {_PROJECTS}",
        (),
    ),
    "project": (f"id IN {_PROJECTS}", ()),
    "run": (_OF_EXPERIMENT, ()),
    "checkpoint": (_OF_EXPERIMENT, ()),
    "tally": (_OF_EXPERIMENT, ()),
    "event": (_OF_EXPERIMENT, ()),
    "verification": (_OF_EXPERIMENT, ()),
    "deletion": (f"project_id IN {_PROJECTS}", ()),
    "attempt_usage": (
        f"({_OF_EXPERIMENT} OR {_DELETED})",  # the account of what was deleted stays
        ("deletion",),
    ),
    "logged_model": (_OF_EXPERIMENT, ()),
    "webhook": (f"({_OF_EXPERIMENT} OR project_id IN {_PROJECTS})", ()),
    "alert_rule": (f"project_id IN {_PROJECTS}", ()),
    "alert": (_OF_EXPERIMENT, ()),
    "webhook_delivery": (
        "EXISTS (SELECT 1 FROM webhook WHERE webhook.id = {0}.webhook_id)",
        ("webhook",),
    ),
    "alias": (
        "(EXISTS (SELECT 1 FROM experiment WHERE experiment.id = {0}.target_id)"
        " OR EXISTS (SELECT 1 FROM run WHERE run.id = {0}.target_id))",
        ("experiment", "run"),
    ),
}
"""What must hold of a visible row, and the views that it refers to, which come before it."""
WITHIN = {
    "attempt", "experiment_search", "experiment_tag", "health_finding", "label", "metric_chunk",
    "metric_latest", "metric_series", "run_link", "run_search", "run_tag", "verification_finding",
}  # fmt: skip
OWN = {
    "access_epoch", "account", "api_token", "audit_entry", "data_dir", "idempotency_key",
    "membership", "expiration", "removal", "service_secret",
}  # fmt: skip
_NAMES = re.compile(rf"(?<!:)\b({'|'.join(CONDITIONS)})\b")  # a parameter may be called so, too
_OF_ONE = {
    "postgresql": f"{EXPERIMENT} = :{EXPERIMENT}",
    "sqlite": f"+{EXPERIMENT} = :{EXPERIMENT}",
}
"""Of a row of an experiment that the user is known to see. It says no more than the statement does:
PostgreSQL drops it, and with `+` no index of SQLite is chosen for it."""


SHARED = {
    "experiment", "project", "run", "checkpoint", "tally", "event", "verification", "deletion",
    "logged_model", "alert_rule",
}  # fmt: skip
"""Tables whose rows all belong to a project: a user who sees every project sees all of them."""


@cache
def _view(name: str, dialect: str, of_one: bool | None) -> str:
    """Return the view of one table. SQLite: `rowid` is a column of no view unless it is named."""
    condition = CONDITIONS[name][0].format(name)
    if of_one is not None and CONDITIONS[name][0] is _OF_EXPERIMENT:
        condition = _OF_ONE[dialect] if of_one else "FALSE"
    columns, table = ("*", name) if dialect == "postgresql" else ("rowid, *", f"main.{name}")
    return f"{name} AS NOT MATERIALIZED (SELECT {columns} FROM {table} WHERE {condition})"  # noqa: S608


def limit(
    text: str, dialect: str, every_project: bool = False, of_one: bool | None = None
) -> str | None:
    """Return a SELECT that finds visible rows only; None if it is the same one.

    Args:
        every_project: the user is a member of every project there is.
        of_one: the statement has the parameter EXPERIMENT, and the user sees that one; then rows of
            others are not found. False: the user does not see it; then none are.
    """
    needed = set(_NAMES.findall(text))
    for name in reversed(CONDITIONS):
        if name in needed:
            needed.update(CONDITIONS[name][1])
    if every_project:
        needed -= SHARED
    if not needed or (of_one and _is_of_one(text)):
        return None
    views = ", ".join(_view(name, dialect, of_one) for name in _ORDER if name in needed)
    if text.lstrip().upper().startswith("WITH "):
        return f"WITH {views}, {text.lstrip()[5:]}"
    return f"WITH {views} {text}"


_OF_ONE_RUN = re.compile(r"SELECT [^()]+ FROM (\w+) WHERE \1\.(id|run_id) = [:$][^()]+")
_OR = re.compile(r" (OR|SELECT|UNION|JOIN) ")


def is_of_one_run(text: str) -> bool:
    """Return True if a statement finds rows of one run, or one row by its id, and nothing else.

    The user sees all of these or none, whatever their order and limit, so they can be judged once
    they are read: what refers to no other row cannot tell of it. They are judged by their
    experiment, which must be among the columns: those of a list are what its query selects.
    """
    text = " ".join(text.split())
    found = _OF_ONE_RUN.fullmatch(text)
    if found is None or _OR.search(text):
        return False
    table, shown = found[1], text.partition(" FROM ")[0]
    if table == "experiment":
        return "experiment.id," in shown
    return f"{table}.experiment_id" in shown and CONDITIONS.get(table, ("",))[0] is _OF_EXPERIMENT


_NESTED = re.compile(r"\([^()]*\)")
_FROM_ONE = re.compile(r"SELECT .+ FROM (\w+) WHERE (.+?)(?: ORDER BY .+)?")
_BY_PLACE = re.compile(
    r"SELECT [^()]+ FROM \((SELECT (\w+)\.rowid AS place, [^()]+ FROM .+)\) AS first_rows"
    r" LEFT OUTER JOIN \2 ON \2\.rowid = first_rows\.place"
    r" WHERE (?:(?!(?<!:)\b\2\b(?!\.)).)+"  # which names the table for its columns alone
)


def _is_of_one(text: str) -> bool:
    """Return True if a statement's own condition lets it find rows of the named experiment only.

    A view would say the same of each row that is looked at. (SQLite; PostgreSQL drops it itself.)
    """
    text = " ".join(text.split())
    if (looked_up := _BY_PLACE.fullmatch(text)) is not None:
        first, table = looked_up.groups()
        return set(_NAMES.findall(text)) == {table} and _is_of_one(first)
    outer = text
    while (less := _NESTED.sub("", outer)) != outer:
        outer = less
    found = _FROM_ONE.fullmatch(outer)
    if found is None or _OR.search(outer):
        return False
    table, condition = found.groups()
    is_alone = set(_NAMES.findall(text)) == {table} and text.count(f"FROM {table}") == 1
    return is_alone and f"{table}.{EXPERIMENT} = :{EXPERIMENT}" in condition.split(" AND ")


def number_params(text: str, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the text with PostgreSQL's numbers for the parameters of views, and all names."""
    for name in (USER, EXPERIMENT):
        if f":{name}" in text and name not in names:
            names = (*names, name)
        if name in names:
            text = text.replace(f":{name}", f"${names.index(name) + 1}::VARCHAR")
    return text, names


_ORDER = list(CONDITIONS)
