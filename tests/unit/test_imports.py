"""What a start of the service loads."""

import subprocess
import sys

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
