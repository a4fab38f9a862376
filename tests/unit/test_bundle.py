"""Modules become one script that does the same; what it cannot do is refused when it is made."""

import subprocess
from pathlib import Path

import pytest

from app.web import dashboard
from app.web.bundle import bundle
from tests.support.node import NODE, run_module

NAMES = {"lib": "vendor/lib.mjs"}
MODULES = {
    "vendor/lib.mjs": 'const n=(t)=>t+1;function u(){return"from"}export{n as add,u};\n'
    "//# sourceMappingURL=lib.mjs.map",
    "own/start.js": """import { add } from "lib";
import { name as called, Box } from "./deep/one.js";
console.log(JSON.stringify([add(1), called, new Box().size]));
""",
    "own/deep/one.js": """// A word: export { nothing }, which is no statement.
import { u } from "lib";
import {
  base,
} from "../base.js";
const { size } = { size: base };
export const name = u();
export class Box { size = size; }
export async function later() {}
""",
    "own/base.js": 'export { seven as base } from "./seven.js";\n',
    "own/seven.js": "const size = 7;\nexport { size as seven };\n",
}


def test_modules_of_one_script_do_what_they_did(tmp_path: Path) -> None:
    made = bundle(MODULES, NAMES, "own/start.js")
    assert "sourceMappingURL" not in made
    script = tmp_path / "made.js"
    script.write_text(made)
    assert run_module(tmp_path, script) == [2, "from", 7]


def test_the_dashboards_script_can_be_parsed(tmp_path: Path) -> None:
    script = tmp_path / "dashboard.mjs"
    script.write_bytes(dashboard._get_assets().files[dashboard.SCRIPT].content)
    checked = subprocess.run([NODE, "--check", script], capture_output=True, text=True)
    assert not checked.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('import { a } from "./none.js";', "own/start.js needs own/none.js"),
        ('import { start } from "./start.js";', "modules import each other"),
        ('import all from "lib";', "cannot bundle"),
        ('import * as all from "lib";', "cannot bundle"),
        ("export default 1;", "cannot bundle"),
        ("export let changed = 1;", "cannot bundle"),
        ('const a = 1;export*from"lib";', "cannot bundle"),
    ],
)
def test_what_it_does_not_know_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bundle({**MODULES, "own/start.js": text}, NAMES, "own/start.js")
