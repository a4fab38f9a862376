"""Limits of one operation, checked before it is executed.

`check` walks the operation with its fragments expanded and counts the objects that the
answer may hold: the sizes of nested connections multiply. A fragment is measured once for
each place it can be in, so one that doubles itself thirty times is no more work to refuse.
Arguments count as the resolvers get them, coerced: `100.0` is the page size 100. What cannot be
known before it is read (long texts, metrics without `keys`) is counted in `app.graphql.budget`.
"""

from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    get_named_type,
    get_nullable_type,
    is_list_type,
)
from graphql.execution.values import VariableValues, get_argument_values, get_variable_values

from app.domain.filters import MAX_POINTS

CHARACTERS = 200_000
TOKENS = 4_000
DEPTH = 20
FIELDS = 1_000
ALIASES = 50
PAIRS = 5_000
DEFAULT_SIZE = 20
PAGE = 500  # rows of the largest page
NODES = 10_000
LISTED = 10  # a plain list, such as a run's metrics, counts as so many objects
POINTS = 100  # so many points of a curve, or buckets of its bands, count as one object
LOG_BYTES = 1_000  # so many bytes of a log count as one object
CHANGED = 100  # runs in one answer of `runsChanged`
CHANGED_EXPERIMENTS = 20  # experiments in one answer of `experimentsChanged`
WATCHED = 1_000  # objects in one answer of a subscription, which comes with every change
ALL_WATCHED = 100_000  # the same of all subscriptions of this server together
ANSWER_BYTES = 64_000_000
ALL_ANSWERS_BYTES = 256_000_000
SECONDS = 20.0


class _Size(NamedTuple):
    """Of a selection: levels, fields (with repetitions), aliases, objects in the answer."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    nodes: int = 0


def check(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: dict[str, Any],
) -> int:
    """Return the number of objects that the answer may hold. Raises GraphQLError beyond a limit."""
    values = get_variable_values(schema, operation.variable_definitions or (), variables)
    if isinstance(values, list):  # they are refused before anything is executed
        values = VariableValues({}, {})
    walk = _Walk(schema, document, values)
    root = schema.get_root_type(operation.operation)
    size = walk.selections(operation.selection_set, root, 1)
    most_nodes = WATCHED if operation.operation is OperationType.SUBSCRIPTION else NODES
    for measured, most, what in (
        (size.depth, DEPTH, "levels deep"),
        (size.fields, FIELDS, "fields, counting fragments wherever they are used"),
        (size.aliases, ALIASES, "aliases"),
        (size.nodes, most_nodes, "objects that the answer may hold (ask for smaller pages)"),
    ):
        if measured > most:
            raise _too_complex(
                f"The operation is too large: {measured:,} {what}; at most {most:,}."
            )
    return size.nodes


def _too_complex(message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": "TOO_COMPLEX"})


def check_repetitions(document: DocumentNode) -> None:
    """Refuse a document that repeats fields too often. Raises GraphQLError.

    Validation compares all fields that answer under one name in one place with each other: of
    three hundred equal fields, each of which has two more below, it takes seconds.
    """
    fragments = _fragments(document)
    left = PAIRS

    def merge(selected: list[SelectionSetNode], depth: int) -> None:
        nonlocal left
        below: dict[str, list[SelectionSetNode]] = {}
        repeated: dict[str, int] = {}
        seen: set[str] = set()
        waiting = list(selected)
        while waiting:
            for selection in waiting.pop().selections:
                if isinstance(selection, FieldNode):
                    name = (selection.alias or selection.name).value
                    left -= 1 + repeated.get(name, 0)
                    repeated[name] = repeated.get(name, 0) + 1
                    if selection.selection_set:
                        below.setdefault(name, []).append(selection.selection_set)
                elif isinstance(selection, InlineFragmentNode):
                    waiting.append(selection.selection_set)
                elif isinstance(selection, FragmentSpreadNode) and selection.name.value not in seen:
                    seen.add(selection.name.value)
                    if selection.name.value in fragments:
                        waiting.append(fragments[selection.name.value].selection_set)
                if left < 0:
                    raise _too_complex("The document asks for the same fields too many times.")
        if depth < DEPTH:
            for sets in below.values():
                merge(sets, depth + 1)

    for definition in document.definitions:
        selection_set = getattr(definition, "selection_set", None)
        if selection_set is not None:
            merge([selection_set], 0)


def _fragments(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    return {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }


class _Walk:
    def __init__(
        self, schema: GraphQLSchema, document: DocumentNode, variables: VariableValues
    ) -> None:
        self.schema = schema
        self.variables = variables
        self.fragments = _fragments(document)
        self.known: dict[tuple[str, str, int], _Size] = {}

    def selections(
        self, selected: SelectionSetNode | None, parent: GraphQLNamedType | None, page: int
    ) -> _Size:
        """Return the size of a selection; `page` is the number of rows of its connection."""
        depth = fields = aliases = nodes = 0
        for selection in selected.selections if selected else ():
            if isinstance(selection, FieldNode):
                size = self.field(selection, parent, page)
            elif isinstance(selection, InlineFragmentNode):
                on = selection.type_condition
                inside = self.schema.get_type(on.name.value) if on else parent
                size = self.selections(selection.selection_set, inside, page)
            else:
                assert isinstance(selection, FragmentSpreadNode)
                size = self.fragment(selection.name.value, page)
            depth = max(depth, size.depth)
            fields += size.fields
            aliases += size.aliases
            nodes += size.nodes
        return _Size(depth, fields, aliases, nodes)

    def fragment(self, name: str, page: int) -> _Size:
        fragment = self.fragments.get(name)
        if fragment is None:
            return _Size()  # validation says so
        on = fragment.type_condition.name.value
        key = (name, on, page)
        if key not in self.known:
            self.known[key] = _Size()  # a fragment inside itself: validation says so
            self.known[key] = self.selections(
                fragment.selection_set, self.schema.get_type(on), page
            )
        return self.known[key]

    def field(self, node: FieldNode, parent: GraphQLNamedType | None, page: int) -> _Size:
        name = node.name.value
        definition = getattr(parent, "fields", {}).get(name)
        kind = get_named_type(definition.type) if definition else None
        connected = kind is not None and kind.name.endswith("Connection")
        values = self.arguments(definition, node)
        below = self.selections(node.selection_set, kind, _page(values) if connected else 1)
        nodes = below.nodes
        if definition and kind and parent and node.selection_set and not connected:
            nodes += not (parent.name.endswith("Edge") and name == "node")
            if name == "nodes" and parent.name == "Query":
                nodes *= _length(values, "ids")
            elif name in ("nodes", "edges"):
                nodes *= page
            elif kind.name in ("MetricSeries", "MetricBand"):
                nodes *= _length(values, "keys") * (1 + _points(values) // POINTS)
            elif kind.name == "LogPart":
                nodes += max(values.get("limit") or 0, 0) // LOG_BYTES
            elif name in _CHANGED:
                nodes *= _CHANGED[name]
            elif kind.name == "ComparedParam":
                nodes *= LISTED * max(1, _length(values, "ids"))
            elif kind.name in ("Facet", "Usage"):
                nodes *= max(1, _page(values))
            elif is_list_type(get_nullable_type(definition.type)):
                nodes *= _length(values, "keys")
        return _Size(
            below.depth + 1, below.fields + 1, below.aliases + (node.alias is not None), nodes
        )

    def arguments(self, definition: GraphQLField | None, node: FieldNode) -> dict[str, Any]:
        """Return the arguments as the resolver gets them; none if validation will refuse them."""
        if definition is None or not COUNTED & definition.args.keys():
            return {}
        try:
            return get_argument_values(definition, node, self.variables)
        except GraphQLError:
            return {}


_CHANGED = {"runsChanged": CHANGED, "experimentsChanged": CHANGED_EXPERIMENTS}
COUNTED = {"first", "last", "ids", "keys", "points", "buckets", "limit"}
"""Arguments that decide how much is read."""


def _page(values: dict[str, Any]) -> int:
    sizes = [values[name] for name in ("first", "last") if values.get(name) is not None]
    return min(max([0, *sizes]), PAGE) if sizes else DEFAULT_SIZE


def _points(values: dict[str, Any]) -> int:
    return min(max(values.get("points") or values.get("buckets") or 0, 0), MAX_POINTS)


def _length(values: dict[str, Any], name: str) -> int:
    """Return how many values are given; without the argument, what a list counts as."""
    named = values.get(name)
    return LISTED if named is None else len(named)
