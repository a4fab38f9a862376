"""Who acts now: the guard sets it for its request, and `Database` hands it to each transaction.

A context variable, since tasks and subscriptions that a request starts inherit it. Outside of
requests (the supervisor, commands on the database) it is the service itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from app.domain.principals import SUPERVISOR, Principal

_acting: ContextVar[Principal] = ContextVar("acting", default=SUPERVISOR)

get_principal = _acting.get


def act_as(principal: Principal) -> None:
    """Let this task, and what it starts, act as a principal from now on."""
    _acting.set(principal)


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Let the body act as a principal."""
    token = _acting.set(principal)
    try:
        yield
    finally:
        _acting.reset(token)
