"""The GraphQL over HTTP specification, by the reference implementation's own audits."""

from pathlib import Path

from tests.support.node import npm_packages, run_module
from tests.support.server import Server

AUDITS = Path(__file__).with_name("audits.mjs")


def test_every_audit_passes_the_recommendations_too(server: Server) -> None:
    packages = npm_packages("graphql-http@1.23.1", "graphql@16.15.0")
    audits = run_module(packages, AUDITS, f"{server.url}/graphql")
    assert len(audits) == 61
    short = [
        f"{a['status']}: {a['name']}: {a.get('reason')}" for a in audits if a["status"] != "ok"
    ]
    assert not short, "\n".join(short)
