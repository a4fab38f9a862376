"""What one operation may cost, known before it is executed.

`check` walks the operation with its fragments expanded and counts the objects that the
answer may hold: the sizes of nested connections multiply. A fragment is measured once for
each place it can be in, so one that doubles itself thirty times is no more work to refuse.
"""

from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
)

from app.graphql.connections import DEFAULT_SIZE
from app.services.keyset import MOST

CHARACTERS = 200_000
TOKENS = 4_000
DEPTH = 20
FIELDS = 1_000
NODES = 10_000
SECONDS = 20.0


class _Size(NamedTuple):
    """Of a selection: levels, fields (with repetitions), objects in the answer."""

    depth: int = 0
    fields: int = 0
    nodes: int = 0


def check(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: dict[str, Any],
) -> int:
    """The objects that the answer may hold. Raises GraphQLError beyond a limit."""
    walk = _Walk(schema, document, variables)
    root = schema.get_root_type(operation.operation)
    size = walk.selections(operation.selection_set, root, 1)
    for measured, most, what in (
        (size.depth, DEPTH, "levels deep"),
        (size.fields, FIELDS, "fields, counting fragments wherever they are used"),
        (size.nodes, NODES, "objects that the answer may hold; ask for smaller pages"),
    ):
        if measured > most:
            raise GraphQLError(
                f"The operation is too large: {measured:,} {what}; at most {most:,}.",
                extensions={"code": "too_complex", "cost": {"nodes": size.nodes, "maximum": NODES}},
            )
    return size.nodes


class _Walk:
    def __init__(
        self, schema: GraphQLSchema, document: DocumentNode, variables: dict[str, Any]
    ) -> None:
        self.schema = schema
        self.variables = variables
        self.fragments = {
            each.name.value: each
            for each in document.definitions
            if isinstance(each, FragmentDefinitionNode)
        }
        self.known: dict[tuple[str, str, int], _Size] = {}

    def selections(
        self, selected: SelectionSetNode | None, parent: GraphQLNamedType | None, page: int
    ) -> _Size:
        """`page`: how many rows the connection has whose fields these are."""
        depth = fields = nodes = 0
        for each in selected.selections if selected else ():
            if isinstance(each, FieldNode):
                size = self.field(each, parent, page)
            elif isinstance(each, InlineFragmentNode):
                on = each.type_condition
                inside = self.schema.get_type(on.name.value) if on else parent
                size = self.selections(each.selection_set, inside, page)
            else:
                assert isinstance(each, FragmentSpreadNode)
                size = self.fragment(each.name.value, page)
            depth = max(depth, size.depth)
            fields += size.fields
            nodes += size.nodes
        return _Size(depth, fields, nodes)

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
        if node.selection_set is None or definition is None:
            below = self.selections(node.selection_set, None, 1)
            return _Size(below.depth + 1, below.fields + 1, below.nodes)
        kind = get_named_type(definition.type)
        rows = 1
        if kind.name.endswith("Connection"):
            inside = self.selections(node.selection_set, kind, self.page(node))
            return _Size(inside.depth + 1, inside.fields + 1, inside.nodes)
        if name in ("nodes", "edges") and parent is not None and parent.name.endswith("Connection"):
            rows = page
        elif name == "nodes":
            rows = self.length(node, "ids")
        below = self.selections(node.selection_set, kind, 1)
        own = 0 if name == "node" and parent is not None and parent.name.endswith("Edge") else 1
        return _Size(below.depth + 1, below.fields + 1, rows * (own + below.nodes))

    def argument(self, node: FieldNode, name: str) -> Any:
        """The value of an argument, as written or from the variables."""
        for each in node.arguments or ():
            if each.name.value == name:
                if isinstance(each.value, VariableNode):
                    return self.variables.get(each.value.name.value)
                return each.value
        return None

    def page(self, node: FieldNode) -> int:
        sizes = []
        for name in ("first", "last"):
            value = self.argument(node, name)
            if isinstance(value, IntValueNode):
                value = int(value.value[:9])
            if isinstance(value, int):
                sizes.append(min(max(value, 0), MOST))
        return max(sizes, default=DEFAULT_SIZE)

    def length(self, node: FieldNode, name: str) -> int:
        value = self.argument(node, name)
        if isinstance(value, ListValueNode):
            return len(value.values)
        return len(value) if isinstance(value, list) else 1
