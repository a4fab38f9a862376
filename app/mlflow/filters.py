"""MLflow's filters and orders: `metrics.loss < 1 AND tags.stage = 'dev'`, `params.lr DESC`.

A client's text is parsed into conditions on views (`views.py`); nothing of it reaches the database.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from app.errors import InvalidInput

View = dict[str, Any]

_ENTITIES = {
    "metrics": ("metrics", "metric"),
    "params": ("params", "param", "parameters", "parameter"),
    "tags": ("tags", "tag"),
    "attributes": ("attributes", "attribute", "attr", "run"),
    "datasets": ("datasets", "dataset"),
}
_ENTITY = {alias: entity for entity, aliases in _ENTITIES.items() for alias in aliases}
_ATTRIBUTES = {
    "runs": {
        "run_id", "run_name", "status", "artifact_uri", "user_id", "start_time", "end_time",
        "experiment_id",
    },
    "experiments": {"name", "creation_time", "last_update_time", "experiment_id"},
    "models": {
        "name", "model_id", "model_type", "status", "source_run_id", "creation_time",
        "creation_timestamp", "last_updated_timestamp", "experiment_id",
    },
}  # fmt: skip
_RENAMED = {
    "created": "start_time",
    "run name": "run_name",
    "creation_timestamp": "creation_timestamp_ms",
    "last_updated_timestamp": "last_updated_timestamp_ms",
}
_KEY = r"(?:(?P<entity>[A-Za-z]{1,20})\.)?(?P<key>`[^`]+`|\"[^\"]+\"|[^\s=<>!()'\"`,]+)"
_COMPARATOR = r"(?P<sign><=|>=|!=|=|<|>|I?LIKE\b|NOT\s+IN\b|IN\b|IS\s+NOT\s+NULL\b|IS\s+NULL\b)"
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"(),]+)"
_CLAUSE = re.compile(
    rf"\s*{_KEY}\s*{_COMPARATOR}\s*(?P<value>{_VALUE}|\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\))?\s*",
    re.IGNORECASE,
)
_AND = re.compile(r"AND\b", re.IGNORECASE)
_ORDER = re.compile(rf"\s*{_KEY}(?:\s+(?P<way>ASC|DESC))?\s*", re.IGNORECASE)


class Field(NamedTuple):
    """The attribute that a condition or an order refers to."""

    entity: str
    key: str


class Condition(NamedTuple):
    """One comparison; `operands` holds one value, or those of a list."""

    field: Field
    sign: str
    operands: tuple[str, ...]

    def holds(self, view: View) -> bool:
        """Return True if a view fulfils it; what a view lacks fulfils nothing but IS NULL."""
        values = values_of(view, self.field)
        if self.sign == "IS NULL":
            return not values
        if self.sign == "IS NOT NULL":
            return bool(values)
        return any(_compare(value, self.sign, self.operands) for value in values)


class Order(NamedTuple):
    """A field to sort by."""

    field: Field
    descending: bool


class Query(NamedTuple):
    """Conditions that all must hold, and the order; without one, that of the rows."""

    conditions: Sequence[Condition]
    orders: Sequence[Order]

    def select(self, views: Iterable[View]) -> list[View]:
        """Return the views that fulfil all conditions, sorted."""
        selected = [
            view for view in views if all(condition.holds(view) for condition in self.conditions)
        ]
        return sorted(selected, key=self.sort_key) if self.orders else selected

    def sort_key(self, view: View) -> Any:
        """Return what a view is sorted by; those that lack a field come last."""
        return tuple(
            _SortKey((values_of(view, field) or [None])[0], descending)
            for field, descending in self.orders
        )


def parse_filter(text: str, kind: str) -> list[Condition]:
    """Return the conditions of a filter on runs, experiments or models. Raises InvalidInput."""
    conditions: list[Condition] = []
    at = 0
    while text[at:].strip():
        clause = _CLAUSE.match(text, at)
        if clause is None:
            raise _make_filter_error(text[at:])
        sign = " ".join(clause["sign"].upper().split())
        operands = _operands(clause["value"])
        field = _field(clause["entity"], clause["key"], kind)
        _check_condition(text, field, sign, operands)
        conditions.append(Condition(field, sign, operands))
        at = clause.end()
        if text[at:].strip():
            joined = _AND.match(text, at)
            if joined is None:
                raise _make_filter_error(text[at:])
            at = joined.end()
            if not text[at:].strip():
                raise _make_filter_error(text)
    return conditions


def parse_order(texts: Sequence[str], kind: str) -> list[Order]:
    """Return the orders of a search. Raises InvalidInput."""
    keys = []
    for text in texts:
        order = _ORDER.fullmatch(text)
        if order is None:
            raise _make_filter_error(text)
        field = _field(order["entity"], order["key"], kind)
        keys.append(Order(field, (order["way"] or "ASC").upper() == "DESC"))
    return keys


def _field(entity: str | None, key: str, kind: str) -> Field:
    key = key[1:-1] if key[0] in '`"' else key
    if entity is None:
        entity_name = "attributes"
    elif entity.lower() not in _ENTITY:
        raise InvalidInput(f"{entity!r} is none of {', '.join(_ENTITIES)}.")
    else:
        entity_name = _ENTITY[entity.lower()]
    if entity_name == "attributes":
        key = _RENAMED.get(key.lower(), key)
        if key.removesuffix("_ms") not in _ATTRIBUTES[kind]:
            known = ", ".join(sorted(_ATTRIBUTES[kind]))
            raise InvalidInput(f"{key!r:.200} is no attribute; known are {known}.")
    return Field(entity_name, key)


def _operands(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    listed = text[1:-1] if text.startswith("(") else text
    return tuple(_strip_quotes(value) for value in re.findall(_VALUE, listed))


def _strip_quotes(text: str) -> str:
    return text[1:-1] if text[0] in "'\"" else text


def _check_condition(text: str, field: Field, sign: str, operands: tuple[str, ...]) -> None:
    if sign.startswith("IS "):
        fits = not operands
    elif sign.endswith("IN"):
        fits = bool(operands)
    else:
        fits = len(operands) == 1
    if fits and field.entity == "metrics" and operands:
        try:
            fits = bool([float(value) for value in operands])
        except ValueError:
            fits = False
    if not fits:
        raise _make_filter_error(text)


def _make_filter_error(text: str) -> InvalidInput:
    return InvalidInput(
        f"Not understood: {text.strip()!r:.200}. Conditions such as metrics.loss < 1, "
        "params.lr = '0.1' and tags.stage LIKE 'd%' are joined with AND; an order is "
        "metrics.loss DESC."
    )


def values_of(view: View, field: Field) -> list[Any]:
    """Return the values of a field in a view: none, one, or those of several data sets."""
    if field.entity == "datasets":
        inputs = view.get("inputs", {}).get("dataset_inputs", [])
        return [item["dataset"].get(field.key) for item in inputs if field.key in item["dataset"]]
    if field.entity == "attributes":
        about = view.get("info", view)
        value = about.get(field.key)
        return [] if value is None else [value]
    pairs = view.get("data", {}).get(field.entity)
    if pairs is None:  # an experiment's tags, a model's
        pairs = view.get(field.entity) or view.get("info", {}).get(field.entity, [])
    return [pair["value"] for pair in pairs if pair["key"] == field.key][:1]


def _compare(value: Any, sign: str, operands: tuple[str, ...]) -> bool:
    if sign == "IN":
        return str(value) in operands
    if sign == "NOT IN":
        return str(value) not in operands
    if sign == "LIKE":
        return _is_like(str(value), operands[0])
    if sign == "ILIKE":
        return _is_like(str(value).casefold(), operands[0].casefold())
    own, other = _comparable(value, operands[0])
    match sign:
        case "=":
            return bool(own == other)
        case "!=":
            return bool(own != other)
        case "<":
            return bool(own < other)
        case "<=":
            return bool(own <= other)
        case ">":
            return bool(own > other)
    return bool(own >= other)


def _comparable(value: Any, operand: str) -> tuple[Any, Any]:
    """Return both as numbers where the value is one (NaN is a text in a view), else as texts."""
    if isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity"):
        try:
            return float(value), float(operand)
        except ValueError:
            pass
    return str(value), operand


def _is_like(text: str, pattern: str) -> bool:
    """Return True if a text is like a pattern: % stands for any text, _ for any character.

    Not with a regular expression: one of many % would take for ever.
    """
    at = position = 0
    star, resume = -1, 0
    while at < len(text):
        if position < len(pattern) and pattern[position] == "%":
            star, resume = position, at
            position += 1
        elif position < len(pattern) and pattern[position] in ("_", text[at]):
            at, position = at + 1, position + 1
        elif star >= 0:
            resume += 1
            at, position = resume, star + 1
        else:
            return False
    return all(rest == "%" for rest in pattern[position:])


class _SortKey:
    """Sorts numbers among numbers and texts among texts; None and NaN come last, either way."""

    def __init__(self, value: Any, descending: bool) -> None:
        number = isinstance(value, int | float)
        self.missing = value is None or value == "NaN"
        self.value = (0, value, "") if number else (1, 0, str(value))
        self.descending = descending

    def __lt__(self, other: "_SortKey") -> bool:
        if self.missing or other.missing:
            return other.missing and not self.missing
        return self.value > other.value if self.descending else self.value < other.value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _SortKey):
            return False
        return (self.missing and other.missing) or (
            self.missing == other.missing and self.value == other.value
        )

    __hash__ = None  # type: ignore[assignment]
