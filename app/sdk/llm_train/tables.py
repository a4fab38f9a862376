"""Answers of the service as notebooks show them: lists of runs, curves, comparisons."""

from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_train.runs import Run


class Runs(list["Run"]):
    """Runs, newest first; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        head = ("run", "name", "status", "step", "model", "created")
        rows = [
            (run.id[-6:], run.data["name"] or "", run.status, run.data["step"], run.data["model"],
             run.data["created_at"][:19])
            for run in self
        ]  # fmt: skip
        return table(rows, head)


class Metrics(dict[str, Any]):
    """Curves by key, each with `steps`, `values` and `wall_times` of equal length."""

    def to_pandas(self) -> Any:
        """Return a DataFrame: a row for each step, a column for each metric. Needs pandas."""
        try:
            pandas: Any = import_module("pandas")
        except ModuleNotFoundError:
            raise ImportError("to_pandas needs pandas: pip install pandas") from None
        columns = {
            key: pandas.Series(series["values"], index=series["steps"], dtype="float64")
            for key, series in self.items()
        }
        return pandas.DataFrame(columns).rename_axis("step")

    def _repr_html_(self) -> str:
        head = ("metric", "points", "last step", "last value")
        rows = [
            (key, len(row["steps"]), row["steps"][-1], row["values"][-1])
            for key, row in self.items()
            if row["steps"]
        ]
        return table(rows, head)


class Comparison(dict[str, Any]):
    """The parameters of runs side by side: `run_ids` and `params`."""

    def _repr_html_(self) -> str:
        head = ("", *(id[-6:] for id in self["run_ids"]))
        return table([(row["key"], *row["values"]) for row in self["params"]], head)


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Return rows as an HTML table."""

    def line(cells: Sequence[Any], tag: str) -> str:
        shown = ("" if cell is None else escape(str(cell)) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(head, 'th') if head else ''}{body}</table>"
