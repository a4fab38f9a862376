"""The suite's own conventions."""

import re
from pathlib import Path

import tests

IMPORTS = re.compile(r"^\s*(?:from|import) (tests\.(?:\w+\.)*test_\w+)", re.M)


def test_no_test_module_is_imported_by_another() -> None:
    found = {
        str(file): IMPORTS.findall(file.read_text())
        for file in Path(tests.__file__).parent.rglob("*.py")
    }
    assert not {name: modules for name, modules in found.items() if modules}
