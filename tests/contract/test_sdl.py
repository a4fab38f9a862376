"""schema.graphql, the file that frontends build on, under the tools that they use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.graphql.ide import EXAMPLES
from tests.support.node import NODE, npm_packages, run_module
from tests.support.published import unpack
from tests.support.server import REPOSITORY

SDL = REPOSITORY / "schema.graphql"
HERE = Path(__file__).parent

CONSUMER = """
import type { BrowseQuery, MarkCheckpointMutation } from "./types";

export function paths(answer: BrowseQuery): string[] {
  const runs = answer.experiments.nodes.flatMap((experiment) => experiment.runs.nodes);
  return runs.flatMap((run) => run.checkpoints.nodes.map((checkpoint) => checkpoint.ckptPath));
}
export function codes(answer: MarkCheckpointMutation): string[] {
  // @ts-expect-error a field that was not asked for has no type
  void answer.markCheckpoint.experiment;
  return answer.markCheckpoint.userErrors.map((error) => error.code);
}
"""


FAULTY = {
    "require-description": "type Query { a: Int }",
    "relay": '"A" type Query { "b" b: RunConnection } "C" type RunConnection { a: Int }',
}


@pytest.mark.heavy
def test_graphql_eslint_has_no_complaint_and_complains_when_there_is_cause(tmp_path: Path) -> None:
    for rule, sdl in FAULTY.items():
        (tmp_path / f"{rule}.graphql").write_text(sdl)
    packages = npm_packages(
        "eslint@9.39.1", "@graphql-eslint/eslint-plugin@4.4.1", "graphql@16.15.0"
    )
    files = [SDL, *(tmp_path / f"{rule}.graphql" for rule in FAULTY)]
    ours, *faulty = run_module(packages, HERE / "lint.mjs", *map(str, files))
    assert not ours, "\n".join(ours)
    for rule, messages in zip(FAULTY, faulty, strict=True):
        assert any(rule in message for message in messages)


INSPECTOR = ("@graphql-inspector/core@8.0.0", "graphql@16.15.0")


def changes(before: Path, after: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = run_module(
        npm_packages(*INSPECTOR), HERE / "inspector.mjs", str(before), str(after)
    )
    return found


@pytest.mark.heavy
def test_since_the_published_version_the_schema_has_only_grown(tmp_path: Path) -> None:
    code = unpack("0.2.0", tmp_path / "former")
    exported = subprocess.run(
        [sys.executable, "-c", "from app.graphql.schema import sdl; print(sdl())"],
        cwd=code, env=os.environ | {"PYTHONPATH": f"{code}:{code / 'app' / 'sdk'}"},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    published = tmp_path / "published.graphql"
    published.write_text(exported.stdout)
    found = changes(published, SDL)
    assert "Query.runCounts" in [c["path"] for c in found if c["level"] == "safe"]
    # Resources became an object; nothing else that a client may have sent or read has changed.
    assert [c["path"] for c in found if c["level"] == "breaking"] == ["Run.resources"]
    # Lists leave archived rows out, of which there were none; `= null` says what leaving out does.
    dangerous = [c for c in found if c["level"] == "dangerous"]
    other = [c["path"] for c in dangerous if "from 'null' to 'undefined'" not in c["message"]]
    assert other == ["ExperimentFilter.archived", "RunFilter.archived"]


@pytest.mark.heavy
def test_the_inspector_notices_what_would_break_a_client(tmp_path: Path) -> None:
    before, after = tmp_path / "before.graphql", tmp_path / "after.graphql"
    before.write_text("type Query { a(b: Int): Int c: Int }")
    after.write_text("type Query { a(b: Int!): Int d: Int }")
    broken = {c["path"] for c in changes(before, after) if c["level"] == "breaking"}
    assert broken == {"Query.a.b", "Query.c"}


def test_a_frontends_generated_types_compile_and_are_exact(tmp_path: Path) -> None:
    packages = npm_packages(
        "@graphql-codegen/core@6.2.1",
        "@graphql-codegen/typescript-operations@6.1.9",
        "graphql@16.15.0",
        "typescript@7.0.2",
    )
    operations = tmp_path / "operations.graphql"
    operations.write_text("\n".join(EXAMPLES))
    run_module(packages, HERE / "codegen.mjs", str(SDL), str(operations), str(tmp_path))
    (tmp_path / "consumer.ts").write_text(CONSUMER)
    tsc = packages / "node_modules" / "typescript" / "bin" / "tsc"
    compiled = subprocess.run(
        [NODE, tsc, "--strict", "--noEmit", "--skipLibCheck", "--types", "", "consumer.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert compiled.returncode == 0, compiled.stdout
