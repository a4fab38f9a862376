"""What a start of the service loads."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import app.main
print("pydantic.v1" in sys.modules)
from pydantic.v1 import BaseModel
print(BaseModel.__module__)
"""


def test_a_start_loads_nothing_of_pydantic_1_which_another_package_may_still_use() -> None:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.split() == ["False", "pydantic.v1.main"]


PREPARED = """
import sys
from app.main import bind
from app.settings import load_settings
from fastapi.openapi.models import OpenAPI
from pydantic import BaseModel
server, sock = bind(load_settings())
server.config.load()
routes = server.config.app.routes
LATE = "alembic", "psutil", "strawberry", "tomllib", "websockets"
print([name for name in LATE if name in sys.modules])
print([route.path for route in routes if "dependant" in vars(route)])
print(OpenAPI.__pydantic_complete__, BaseModel.model_config)
"""


def test_a_start_loads_and_analyses_nothing_that_only_some_requests_need(tmp_path: Path) -> None:
    place = {
        "LLM_TRAIN_DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}",
        "LLM_TRAIN_DATA_DIR": str(tmp_path / "data"),
        "LLM_TRAIN_PORT": "0",
    }
    found = subprocess.run(
        [sys.executable, "-c", PREPARED], capture_output=True, text=True, timeout=120,
        env=os.environ | place,
    )  # fmt: skip
    assert found.stdout.splitlines() == ["[]", "[]", "False {}"], found.stderr
