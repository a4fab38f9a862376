"""schema.graphql, the file that frontends build on, under the tools that they use."""

import subprocess
from pathlib import Path

import pytest

from app.graphql.ide import EXAMPLES
from tests.support.node import NODE, npm_packages, run_module
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


def lint(sdl: Path) -> list[str]:
    packages = npm_packages(
        "eslint@9.39.1", "@graphql-eslint/eslint-plugin@4.4.1", "graphql@16.15.0"
    )
    messages: list[str] = run_module(packages, HERE / "lint.mjs", str(sdl))
    return messages


def test_graphql_eslint_has_no_complaint() -> None:
    messages = lint(SDL)
    assert not messages, "\n".join(messages)


@pytest.mark.parametrize(
    ("sdl", "rule"),
    [
        ("type Query { a: Int }", "require-description"),
        ('"A" type Query { "b" b: RunConnection } "C" type RunConnection { a: Int }', "relay"),
    ],
)
def test_graphql_eslint_complains_when_there_is_cause(tmp_path: Path, sdl: str, rule: str) -> None:
    file = tmp_path / "schema.graphql"
    file.write_text(sdl)
    assert any(rule in message for message in lint(file))


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
        timeout=60,
    )
    assert compiled.returncode == 0, compiled.stdout
