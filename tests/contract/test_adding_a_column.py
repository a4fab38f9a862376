"""A column of runs that REST and GraphQL show takes four edits, as app/db/__init__.py says.

They are made in a copy of the package, which then serves an empty database, and one that it
served before the edits.
"""

import re
from pathlib import Path

import pytest

from tests.support.copies import copy_package, edit, run_copy

MIGRATION = """\
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None


def upgrade() -> None:
    op.add_column("run", sa.Column("queue_name", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("run", "queue_name")
"""
BEFORE = """
import json
from fastapi.testclient import TestClient
from app.main import prepare
from app.settings import Settings

with TestClient(prepare(Settings()), base_url="http://localhost") as client:
    experiment = client.post("/v1/experiments", json={"name": "e", "task_type": "sft"}).json()
    runs = f"/v1/experiments/{experiment['experiment_id']}/runs"
    print(json.dumps(client.post(runs, json={"model": "old"}).json()["model"]))
"""
CLIENT = """
import json, sys
from fastapi.testclient import TestClient
from app.main import prepare
from app.settings import Settings

service = prepare(Settings())
with TestClient(service, base_url="http://localhost") as client:
    experiment = client.post("/v1/experiments", json={"name": "e", "task_type": "sft"}).json()
    runs = f"/v1/experiments/{experiment['experiment_id']}/runs"
    submitted = client.post(runs, json={"model": "m"}).json()
    status = client.get(f"{runs}/{submitted['run_id']}/status").json()
    query = "{ runs { nodes { model queueName } } }"
    nodes = client.post("/graphql", json={"query": query}).json()["data"]["runs"]["nodes"]
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
example = schemas["RunAnswer"]["examples"][0]
json.dump([submitted["queue_name"], status["queue_name"], nodes, example["queue_name"]], sys.stdout)
"""


def head(versions: Path) -> str:
    texts = [file.read_text() for file in versions.glob("*.py")]
    known = {re.findall(r'^revision = "(\w+)"', text, re.M)[0] for text in texts}
    last: str
    (last,) = known - set(re.findall(r'^down_revision = "(\w+)"', "\n".join(texts), re.M))
    return last


@pytest.mark.parametrize("models", [["m"], ["m", "old"]], ids=["empty", "upgraded"])
def test_adding_a_column_touches_four_places(tmp_path: Path, models: list[str]) -> None:
    package = copy_package(tmp_path)
    for model in models[1:]:
        assert run_copy(package, BEFORE) == model
    column = "    queue_name: str | None = None\n"
    edit(package / "db/tables.py", "    # Launches so far,", f"{column}    # Launches so far,")
    versions = package / "db/migrations/versions"
    (versions / "9999_queue_name.py").write_text(MIGRATION.format(head=head(versions)))
    schemas = package / "rest/schemas.py"
    shown = "    queue_name: str | None\n"
    edit(schemas, "    progress: Annotated[\n", f"{shown}    progress: Annotated[\n")
    edit(schemas, "    overrides: dict", f"{shown}    overrides: dict")
    attribute = '    queue_name: str | None = attribute("Its queue.")\n'
    edit(package / "graphql/types.py", '    attempt: int = attribute("Number of l',
         attribute + '    attempt: int = attribute("Number of l')  # fmt: skip

    printed = run_copy(package, CLIENT)
    nodes = [{"model": model, "queueName": None} for model in models]
    assert printed == [None, None, nodes, None]
