"""The dashboard's modules as one script: a browser asks once for what were fifty requests.

    bundle(modules, names, start) -> one ES module without imports

Each module becomes a function that returns its exports, called once, after those that it imports.
This is no general bundler. It knows imports and exports in braces (`import { a as b } from "c";`,
`export { a };`, `export { a } from "c";`) and exported declarations (`export const`, `function`,
`class`), which is what the dashboard and its third-party modules use. All else is refused, and so
is a circular import.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping

# At the beginning of a line or, in minified modules, of a statement.
_BEGINS = r"(?:^|(?<=[;}]))"
_IMPORT = re.compile(
    _BEGINS + r"""import\s*\{([^}]*)\}\s*from\s*["']([^"']+)["'];?""", re.MULTILINE
)
_LIST = re.compile(
    _BEGINS + r"""export\s*\{([^}]*)\}(?:\s*from\s*["']([^"']+)["'])?;?""", re.MULTILINE
)
_DECLARED = re.compile(r"^export ((?:async )?(?:function|const|class) )(\w+)", re.MULTILINE)
_LEFT = re.compile(_BEGINS + r"""(?:export|import)\b\s*[\w{*"']""", re.MULTILINE)
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)


def bundle(modules: Mapping[str, str], names: Mapping[str, str], start: str) -> str:
    """Return one script that does what the module `start` does.

    Args:
        modules: the text of each, by its path.
        names: the path of each module that is imported by a bare name.

    Raises ValueError for a circular import, a module that is missing, and other syntax.
    """
    places = {path: f"$ModuleOf{number}" for number, path in enumerate(modules)}
    parts = []
    for path in _in_order(modules, names, start):
        body = _wrap_module(path, modules[path], names, places)
        parts.append(f"const {places[path]} = (() => {{\n{body}\n}})();\n")
    return "".join(parts)


def _in_order(modules: Mapping[str, str], names: Mapping[str, str], start: str) -> list[str]:
    """Return the paths of what `start` needs and its own, each after those that it imports."""
    order: list[str] = []
    under_way: list[str] = []

    def visit(path: str) -> None:
        if path in order:
            return
        if path in under_way:
            raise ValueError(f"modules import each other: {' → '.join([*under_way, path])}")
        if path not in modules:
            raise ValueError(f"{under_way[-1] if under_way else 'the page'} needs {path}")
        under_way.append(path)
        for imported in _list_imports(path, modules[path], names):
            visit(imported)
        order.append(under_way.pop())

    visit(start)
    return order


def _list_imports(path: str, text: str, names: Mapping[str, str]) -> Iterator[str]:
    for match in (*_IMPORT.finditer(text), *_LIST.finditer(text)):
        if match[2]:
            yield _path_of(match[2], path, names)


def _path_of(name: str, importer: str, names: Mapping[str, str]) -> str:
    """Return the path of what a module calls by a name: relative to itself, or bare."""
    if name.startswith("."):
        return posixpath.normpath(posixpath.join(posixpath.dirname(importer), name))
    return names.get(name, name)


def _wrap_module(path: str, text: str, names: Mapping[str, str], places: Mapping[str, str]) -> str:
    """Return a module as the body of a function that returns its exports."""
    exports: dict[str, str] = {}

    def replace_import(match: re.Match[str]) -> str:
        place = places[_path_of(match[2], path, names)]
        taken = (_split_alias(item) for item in match[1].split(",") if item.strip())
        return f"const {{ {', '.join(f'{a}: {b}' for a, b in taken)} }} = {place};"

    def replace_export(match: re.Match[str]) -> str:
        place = f"{places[_path_of(match[2], path, names)]}." if match[2] else ""
        for item in filter(str.strip, match[1].split(",")):
            own, outer = _split_alias(item)
            exports[outer] = f"{place}{own}"
        return ""

    def declare(match: re.Match[str]) -> str:
        exports[match[2]] = match[2]
        return f"{match[1]}{match[2]}"

    text = _IMPORT.sub(replace_import, _SOURCE_MAP.sub("", text))
    text = _DECLARED.sub(declare, _LIST.sub(replace_export, text))
    if left := _LEFT.search(text):
        raise ValueError(f"{path}: cannot bundle {text[left.start() : left.start() + 40]!r}")
    return f"{text}\nreturn {{ {', '.join(f'{a}: {b}' for a, b in exports.items())} }};"


def _split_alias(item: str) -> tuple[str, str]:
    """Return the two names of `a as b`, or `a` twice."""
    first, _, second = item.strip().partition(" as ")
    return first.strip(), (second or first).strip()
