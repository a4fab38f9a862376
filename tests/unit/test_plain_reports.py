"""Reports of plain numbers are read without their model, and as the model reads them.

Planted and seen red: booleans taken for numbers, wall times of no points, a row's unknown field, a
key that cannot be printed, columns of different lengths, a wall time after the year 9999, rows
beside columns, more points than a report may hold, and large integers of a field as floats.
"""

import random
from array import array
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from app.domain.reports import MAX_KEYS, MAX_POINTS, ReportRequest, read_plain

AT = 1_763_800_000.25
HOSTILE: list[Any] = [
    b"true", b"false", b"null", b"0", b"1", b"-1", b"-0", b"1.5", b"1e3", b"1e308", b"1e999",
    b"5e-324", b"-0.0", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615",
    b"18446744073709551616", b"253402300799.9", b"253402300800", b"1763800000", b"NaN",
    b"-Infinity", b'"NaN"', b'"Infinity"', b'"nan"', b'"1"', b'""', b'"x\\n"', b'"\\ud800"',
    b'"' + b"k" * 201 + b'"', b"[]", b"{}", b"[1]", b'{"a":1}', b"0.1234567890123456789",
]  # fmt: skip
NAMES = [
    "key", "step", "value", "wall_time", "steps", "values", "wall_times", "points", "metrics",
    "attempt", "batch", "session", "total_steps", "rank", "finished", "source", "more",
]  # fmt: skip


def rows(keys: int, points: int, timed: bool) -> dict[str, Any]:
    made = [
        {"key": f"train/{number % keys}", "step": number // keys, "value": 1 / (number + 1)}
        | ({"wall_time": AT + number} if timed else {})
        for number in range(points)
    ]
    return {"attempt": 1, "batch": 2, "step": points, "points": made}


def columns(keys: int, points: int, timed: bool) -> dict[str, Any]:
    own = {"steps": list(range(points)), "values": [1 / (n + 1) for n in range(points)]}
    if timed:
        own["wall_times"] = [AT + n for n in range(points)]
    return {"attempt": 1, "session": "a", "metrics": {f"train/{key}": own for key in range(keys)}}


def read_by_model(body: bytes) -> ReportRequest | None:
    try:
        return ReportRequest.model_validate_json(body)
    except ValidationError:
        return None


def bits(report: ReportRequest) -> dict[str, tuple[bytes, bytes, bytes]]:
    return {
        key: (array("q", steps).tobytes(), array("d", values).tobytes(), array("d", at).tobytes())
        for key, (steps, values, at) in report.columns.items()
    }


def check_as_the_model_does(body: bytes) -> bool:
    """Return True if the body was read without its model, after comparing the two."""
    plain = read_plain(body)
    if plain is None:
        return False
    model = read_by_model(body)
    assert model is not None, f"the model rejects {body!r:.600}"
    assert bits(plain) == bits(model), f"{body!r:.600}"
    points = {"points", "metrics"}
    assert plain.model_dump(exclude=points) == model.model_dump(exclude=points)
    assert plain.model_fields_set == model.model_fields_set - points
    return True


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("make", [rows, columns])
def test_a_report_of_plain_numbers_is_read_without_its_model_and_as_by_it(
    make: Callable[[int, int, bool], dict[str, Any]], timed: bool
) -> None:
    for keys, points in ((1, 1), (4, 1_000), (200, 200), (3, 7)):
        assert check_as_the_model_does(orjson.dumps(make(keys, points, timed)))


def spoil(chance: random.Random, value: Any) -> Any:
    """Return the same document with a value, or a name, replaced by something hostile."""
    if chance.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return orjson.Fragment(chance.choice(HOSTILE))
    if isinstance(value, list):
        at = chance.randrange(len(value))
        if chance.random() < 0.1:
            return value[:at] + value[at + 1 :]
        return [*value[:at], spoil(chance, value[at]), *value[at + 1 :]]
    name = chance.choice(list(value))
    match chance.randrange(8):
        case 0:
            return {other: value[other] for other in value if other != name}
        case 1:
            return value | {chance.choice(NAMES): value[name]}
        case 2:
            return value | {chance.choice(NAMES): orjson.Fragment(chance.choice(HOSTILE))}
        case 3:
            return {chance.choice([*NAMES, "a\n", "é", ""]): value[name], **value}
        case _:
            return value | {name: spoil(chance, value[name])}


def test_whatever_is_wrong_with_a_report_its_model_rejects_it() -> None:
    chance, read = random.Random(14), 0
    for _ in range(20_000):
        make = chance.choice((rows, columns))
        keys, points = chance.randint(1, 3), chance.randint(1, 6)
        document = make(keys, points, chance.random() < 0.5)
        for _ in range(chance.choice((1, 1, 1, 2))):
            document = spoil(chance, document)
        read += check_as_the_model_does(orjson.dumps(document))
    assert read > 2_000  # what is harmless, such as a step left out at the top


@pytest.mark.parametrize(
    "document",
    [
        rows(2, 4, True) | {"metrics": columns(2, 2, True)["metrics"]},
        rows(1, MAX_POINTS + 1, True),
        columns(2, MAX_POINTS // 2 + 1, False),
        columns(MAX_KEYS + 1, 1, False),
        {"source": {"a": 1}, **rows(1, 1, True)},
        {"metrics": None, **rows(1, 1, True)},
        {"points": {}, **columns(1, 1, True)},
        [], None, 5, {"points": []} | {"metrics": {"a": {"steps": [], "values": []}}},
    ],
    ids=range(11),
)  # fmt: skip
def test_other_reports_are_left_to_the_model(document: Any) -> None:
    assert read_plain(orjson.dumps(document)) is None


def test_integers_of_64_bits_are_the_same_in_both() -> None:
    body = orjson.dumps(columns(1, 1, True))
    for step in (2**63 - 1, 2**53 + 1):
        assert check_as_the_model_does(body.replace(b"[0]", b"[%d]" % step, 1))
        assert check_as_the_model_does(body.replace(b"[1.0]", b"[%d]" % step, 1))
    assert read_plain(body.replace(b"[0]", b"[%d]" % 2**63, 1)) is None
