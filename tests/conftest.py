"""Fixtures that tests of several folders share."""

from tests.support.server import server

__all__ = ["server"]
