"""A database whose transactions are spans of a trace."""

from typing import Any, TypeVar

from app import tracing
from app.db.database import Database, P, R, UseCase

D = TypeVar("D", bound=Database)


def trace_database(kind: type[D]) -> type[D]:
    """Return the same kind of database, with a span for each write, and for the reads within one.

    A class of its own: where nothing is traced, nothing is paid.
    """

    class Traced(kind):  # type: ignore[valid-type, misc]
        async def write(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
            with _transaction("write", self.dialect, use_case):
                written: R = await super().write(use_case, *args, **kwargs)
                return written

        async def read(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
            if not tracing.is_within():
                return await super().read(use_case, *args, **kwargs)  # type: ignore[no-any-return]
            with _transaction("read", self.dialect, use_case):
                return await super().read(use_case, *args, **kwargs)  # type: ignore[no-any-return]

        async def scan(self, use_case: UseCase[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
            if not tracing.is_within():
                return await super().scan(use_case, *args, **kwargs)  # type: ignore[no-any-return]
            with _transaction("scan", self.dialect, use_case):
                return await super().scan(use_case, *args, **kwargs)  # type: ignore[no-any-return]

    return Traced


def _transaction(kind: str, dialect: str, use_case: Any) -> Any:
    function = getattr(use_case, "func", use_case)  # of a partial
    name = f"{function.__module__}.{function.__qualname__}"
    return tracing.span(f"db.{kind}", db__system__name=dialect, code__function__name=name)
