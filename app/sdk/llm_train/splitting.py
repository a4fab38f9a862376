"""Reports in smaller parts, where a report is too large for something on its way, or refused."""

from typing import Any

_CONTENT = ("source", "effective_hyperparams", "metrics", "checkpoints")
_LAST = ("batch", "step", "finished", "closing")


def split(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return two reports that together say what one says; None for one with a single item.

    The first has no number, so that it may be repeated, and the second the number of the report:
    it is taken in once, and completes it.
    """
    content = {name: body[name] for name in _CONTENT if body.get(name)}
    if not content:
        return None
    name = next(iter(content))
    if len(content) > 1:
        first = {name: content.pop(name)}
    else:
        halves = _halves(content[name])
        if halves is None:
            return None
        first, content = {name: halves[0]}, {name: halves[1]}
    head = {key: value for key, value in body.items() if key not in _CONTENT}
    early = {key: value for key, value in head.items() if key not in _LAST}
    return {**early, **first}, {**head, **content}


def rest_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return a report without its content: its number, and what it says of progress.

    None for a part without a number, whose loss nothing else depends on.
    """
    if "batch" not in body:
        return None
    return {key: value for key, value in body.items() if key not in _CONTENT}


def name_of(body: dict[str, Any]) -> str:
    """Return the first item of a report's content, for a warning."""
    for kind, content in (("hyperparameter", "effective_hyperparams"), ("metric", "metrics")):
        for key in body.get(content, {}):
            return f"{kind} {key!r:.80}"
    for saved in body.get("checkpoints", []):
        return f"checkpoint {saved.get('name')!r:.80}"
    return f"report {body.get('batch')}"


def _steps(column: Any) -> list[int]:
    return column["steps"] if isinstance(column, dict) and "steps" in column else []


def _halves(content: Any) -> tuple[Any, Any] | None:
    if isinstance(content, list):
        middle = len(content) // 2
        return (content[:middle], content[middle:]) if middle else None
    if len(content) > 1:
        # Metrics of the training loop first: the service learns from them where it began.
        last = max((max(_steps(item), default=0) for item in content.values()), default=0)
        items = sorted(content.items(), key=lambda item: last not in _steps(item[1]))
        middle = len(items) // 2
        return dict(items[:middle]), dict(items[middle:])
    ((key, column),) = content.items()
    middle = len(_steps(column)) // 2
    if not middle:  # one point, or one hyperparameter
        return None
    return (
        {key: {name: values[:middle] for name, values in column.items()}},
        {key: {name: values[middle:] for name, values in column.items()}},
    )
