"""The current principal: the guard sets it for its request, `Database` hands it to transactions.

It is a context variable, so that tasks and subscriptions that a request starts inherit it. Outside
of requests (the supervisor, commands on the database) it is the service itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from app.domain.principals import SUPERVISOR, Principal

_principal: ContextVar[Principal] = ContextVar("principal", default=SUPERVISOR)

get_principal = _principal.get


def act_as(principal: Principal) -> None:
    """Set the principal of this task and of the tasks that it starts."""
    _principal.set(principal)


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Set the principal for the duration of a `with` block."""
    token = _principal.set(principal)
    try:
        yield
    finally:
        _principal.reset(token)
