"""The fast executor against the reference: random queries over data with nulls and errors."""

import asyncio
import gc
import random
import warnings
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
import strawberry
from graphql import GraphQLObjectType, get_named_type, is_leaf_type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.graphql import executor
from app.graphql.describe import Rows, edge
from app.graphql.executor import FastExecutor

# After an error the reference leaves coroutines that it has begun to prepare.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Let go of these coroutines here: collected later, they fail a test that has none."""
    yield
    with warnings.catch_warnings(action="ignore"):
        gc.collect()


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


strawberry.enum(Colour)


class Row:
    """Anything may be in any attribute; an Exception is raised by the functions of the row."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def _value(row: Any, name: str) -> Any:
    value = getattr(row, name)
    if isinstance(value, Exception):
        raise value
    return value


async def _edge(row: Any, name: str) -> Any:
    if type(row) is Rows:
        return [_value(one, name) for one in row]
    await asyncio.sleep(0)
    return _value(row, name)


@strawberry.type
class Thing:
    text: str
    maybe_text: str | None
    number: int
    maybe_number: int | None
    real: float | None
    flag: bool | None
    colour: Colour
    maybe_colour: Colour | None
    words: list[str]
    maybe_words: list[str | None] | None
    one: "Thing"
    maybe_one: "Thing | None"
    many: list["Thing"]
    maybe_many: list["Thing | None"] | None

    @strawberry.field
    def function(self) -> str:
        return _value(self, "text")  # type: ignore[no-any-return]

    @strawberry.field
    def maybe_function(self) -> int | None:
        return _value(self, "maybe_number")  # type: ignore[no-any-return]

    @strawberry.field
    def argued(self, times: int = 2) -> str | None:
        return _value(self, "maybe_text") and "x" * times

    @edge
    async def far(self) -> "Thing":
        return await _edge(self, "one")  # type: ignore[no-any-return]

    @edge
    async def maybe_far(self) -> "Thing | None":
        return await _edge(self, "maybe_one")  # type: ignore[no-any-return]

    @edge
    async def far_many(self, most: int = 9) -> list["Thing"]:
        found = await _edge(self, "many")
        cut: Any = [each[:most] for each in found] if isinstance(self, Rows) else found[:most]
        return cut  # type: ignore[no-any-return]


@strawberry.type
class Query:
    @strawberry.field
    def things(self, info: strawberry.Info) -> list[Thing] | None:
        return info.context  # type: ignore[no-any-return]

    @strawberry.field
    def perhaps(self, info: strawberry.Info) -> list[Thing | None] | None:
        return info.context  # type: ignore[no-any-return]


def _schema(kind: type[Any]) -> strawberry.Schema:
    class Quiet(strawberry.Schema):
        def process_errors(self, errors: Any, execution_context: Any = None) -> None:
            pass

    return Quiet(Query, execution_context_class=kind, config=StrawberryConfig())


FAST, REFERENCE = _schema(FastExecutor), _schema(StrawberryGraphQLCoreExecutionContext)


def _query(choose: random.Random, kind: GraphQLObjectType, depth: int) -> str:
    """A random selection of a type's fields, with aliases, fragments and directives."""
    parts = []
    names = choose.sample(sorted(kind.fields), min(len(kind.fields), choose.randint(1, 5)))
    for number, name in enumerate(names):
        inner = get_named_type(kind.fields[name].type)
        selection = ""
        if not is_leaf_type(inner):
            if depth == 0:
                continue
            assert isinstance(inner, GraphQLObjectType)
            selection = " " + _query(choose, inner, depth - 1)
        arguments = {"argued": "(times: 3)", "farMany": "(most: 2)"}.get(name, "")
        if choose.random() < 0.5:
            arguments = ""
        alias = f"a{number}: " if choose.random() < 0.2 else ""
        directive = choose.choice([" @skip(if: true)", " @include(if: true)", "", "", "", ""])
        field = f"{alias}{name}{arguments}{directive}{selection}"
        if choose.random() < 0.15:
            field = f"... on {kind.name} {{ {field} }}"
        parts.append(field)
    if choose.random() < 0.3 or not parts:
        parts.append("__typename")
    return "{ " + " ".join(parts) + " }"


def _thing(choose: random.Random, depth: int, oddness: float) -> Any:
    """A row; `oddness` is how often a value is not what its type says."""

    def some(right: Any, *odd: Any) -> Any:
        return choose.choice(odd) if choose.random() < oddness else right

    def below(count: int) -> list[Any]:
        return [_thing(choose, depth - 1, oddness) for _ in range(count)] if depth else []

    error = ValueError("broken")
    one = below(1)
    return Row(
        text=some("t", None, 7, error, True, 1.5, ["x"]),
        maybe_text=choose.choice(["m", None]),
        number=some(3, None, 2**40, "4", "x", True, 1.0, 1.5),
        maybe_number=choose.choice([None, 5, error if oddness else 6]),
        real=some(0.5, None, 2, float("nan"), float("inf"), "1"),
        flag=some(True, None, 0, 1, "yes"),
        colour=some(Colour.RED, "red", None, "green"),
        maybe_colour=choose.choice([None, Colour.BLUE]),
        words=some(["a", "b"], None, [], ["a", None], "ab", 5, ("a",)),
        maybe_words=choose.choice([None, [], ["c", None]]),
        one=some(one[0] if one else None, None, error, 5),  # an error may be a value, too
        maybe_one=some(choose.choice([None, *below(1)]), error),
        many=some(below(2), None, error, [None], 5),
        maybe_many=choose.choice([None, [None, *below(1)], below(2)]),
    )


def _run(schema: strawberry.Schema, query: str, data: Any) -> Any:
    async def ask() -> Any:
        result = await schema.execute(query, context_value=data)
        # After an error the reference lets what is under way run on in the background.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        return result

    result = asyncio.run(ask())
    return result.data, {_place(result.data, error) for error in result.errors or ()}


def _place(data: Any, error: Any) -> str:
    """An error as it can be compared.

    Where several errors make one ancestor null, which of them are told is a matter of time, in
    the reference too: then only the ancestor counts.
    """
    for depth, key in enumerate(error.path):
        data = data and data[key]
        if data is None and depth + 1 < len(error.path):
            return f"below {error.path[: depth + 1]}"
    return f"{error.message} at {error.path} {error.locations}"


def _same(seed: int, oddness: float, size: int) -> bool:
    """Compares the two executors; whether there was data."""
    choose = random.Random(seed)
    kind = REFERENCE._schema.type_map["Query"]
    assert isinstance(kind, GraphQLObjectType)
    query = _query(choose, kind, 4)
    data = [_thing(choose, 3, oddness) for _ in range(size)]
    found, expected = _run(FAST, query, data), _run(REFERENCE, query, data)
    assert found == expected, query
    assert repr(found[0]) == repr(expected[0]), query  # the order of fields, and their types
    return bool(expected[0])


@pytest.mark.parametrize("examples", [80, pytest.param(200, marks=pytest.mark.heavy)])
def test_it_answers_as_the_reference_does(examples: int) -> None:
    """Each flaw below is found by one of the first twenty examples."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 2**32),
        oddness=st.sampled_from([0, 0, 0.02, 0.3]),
        size=st.integers(0, 4),
    )
    def answer(seed: int, oddness: float, size: int) -> None:
        _same(seed, oddness, size)

    answer()


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Return True if each list that was met had a plan."""
    seen: list[bool] = []
    make = executor._value

    def counted(*arguments: Any) -> Any:
        plan = make(*arguments)
        seen.append(plan is not None)
        return plan

    monkeypatch.setattr(executor, "_value", counted)
    yield seen


def test_most_lists_are_completed_by_column(completed: list[bool]) -> None:
    answered = sum(_same(seed, 0, 3) for seed in range(60))
    assert answered > 40
    assert sum(completed) > 0.7 * len(completed)


@pytest.mark.parametrize("flaw", ["nulls", "order", "errors"])
def test_the_comparison_sees_a_flaw(flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if flaw == "nulls":  # a null where none may be is let through
        monkeypatch.setattr(executor, "_drop_nulls", lambda values: ["?" for _ in values])
    elif flaw == "order":
        make = executor._object

        def reversed_fields(*arguments: Any) -> Any:
            return executor._wrap(
                make(*arguments), list,
                lambda rows, found: [dict(reversed(row.items())) for row in found],
            )  # fmt: skip

        monkeypatch.setattr(executor, "_object", reversed_fields)
    else:  # a value of another type is passed on
        monkeypatch.setattr(executor, "_complete_leaf", lambda executor, kind: list)
    with pytest.raises(AssertionError):
        for seed in range(200):
            _same(seed, 0.1, 3)


def _ask_for_things(data: Any) -> Any:
    return asyncio.run(FAST.execute("{ things { text number } }", context_value=data))


def test_a_bug_of_the_fast_executor_is_an_error_and_not_only_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer would be right all the same, at ten times the cost, and nobody would know."""

    def broken(values: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(executor, "_drop_nulls", broken)
    result = _ask_for_things([Row(text="a", number=1)])
    assert [type(error.original_error) for error in result.errors] == [KeyError]


def test_what_a_resolver_raises_for_a_whole_column_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One by one the rows may do, so that no error would be left to tell."""
    row = Row(text="a")
    row.__dict__["one"] = row

    async def only_alone(row: Any, name: str) -> Any:
        if type(row) is Rows:
            raise ZeroDivisionError("in the batch")
        return getattr(row, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_edge.__globals__, "_edge", only_alone)
        result = asyncio.run(FAST.execute("{ things { far { text } } }", context_value=[row]))
    assert (result.errors, result.data) == (None, {"things": [{"far": {"text": "a"}}]})
    assert "in the batch" in caplog.text
