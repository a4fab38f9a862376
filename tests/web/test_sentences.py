"""In Chinese the dashboard translates the service's own sentences, and leaves all others alone.

So does the page that says why nobody was signed in.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import errors
from app.domain.alerts import WATCHED, AlertKind, Direction, describe
from app.domain.evidence import Evidence, derive_outcome, explain_nothing_saved
from app.domain.quotas import ProjectUse, Quota
from app.domain.resources import Capacity, Gpu, Resources, Shortage, allocate
from app.supervisor.schedule import UNKNOWN_RECIPE
from app.web.sign_in import translate
from tests.support.evidence import CASES
from tests.support.graphql_types import DASHBOARD
from tests.support.node import run_module

APP = Path(errors.__file__).parent
ENGLISH = re.compile(r"\b[a-z]{2,} [a-z]{2,}\b")
PLACE = re.compile(r"\{\w+\}")
OF_OTHERS = (
    "Input should be", "String should", "List should", "Field required", "No such file",
    "Permission denied", "It is about number", "more was resumed",
)  # fmt: skip
"""Sentences of Pydantic and of the operating system, and those that are put together of words."""


def endings() -> Iterator[str]:
    """Every sentence that a run may end with, without words of its log or its engine."""
    facts = [case[1] for case in CASES]
    facts += [
        {"exit_code": 3, "stop_sent": True},
        {"exit_code": 137},
        {"signal": 9, "killed": True},
    ]
    for evidence in facts:
        own = {key: value for key, value in evidence.items()
               if key not in ("why", "cause_detail", "launch_error", "clues")}  # fmt: skip
        if detail := derive_outcome(Evidence(cancel_asked=False, **own)).detail:
            yield detail
        yield explain_nothing_saved(Evidence(cancel_asked=True, **own))


def shortages() -> Iterator[str]:
    """Why a run may wait for this machine, and for its project's quota."""
    capacity = Capacity(4, 16, (Gpu("0", "NVIDIA H100"), Gpu("1", "NVIDIA H100")))
    held = allocate(Resources(gpu_type=None, count=2, cpus=3, memory_gb=12), capacity, [])
    assert not isinstance(held, Shortage)
    for wanted in (
        {"count": 4}, {"count": 2, "gpu_type": "H100"}, {"count": 1, "gpu_type": "A100"},
        {"cpus": 64}, {"cpus": 2}, {"memory_gb": 512}, {"memory_gb": 8}, {"nodes": 2},
    ):  # fmt: skip
        shortage = allocate(Resources(**wanted), capacity, [held])
        assert isinstance(shortage, Shortage)
        yield shortage.detail
    for quota in (Quota(1, None, None), Quota(None, 2, None), Quota(None, None, 9)):
        excess = ProjectUse(quota, runs=1, gpus=1, bytes=10).find_excess(2)
        assert excess is not None
        yield excess
    yield UNKNOWN_RECIPE.format("tiny")


def alerts() -> Iterator[str]:
    """What rules of each kind say that have fired, or recovered."""
    for kind in AlertKind:
        for name, metric, end in (("Rule", "val_loss", " at step 5. It is 3.2."), ("", None, ".")):
            for direction in Direction:
                words = describe(kind, direction, metric or "a metric", 3.0)
                of_metric = kind in WATCHED or kind is AlertKind.METRIC_NAN
                yield f"{name and f'{name}: '}{words}{end if of_metric else '.'}"
    yield "Rule: val_loss is above 3 at step 5. It has recovered."


SAID = {
    "Exited with code 1. Its last log line: Cannot open the file. It is tried again.":
        "退出码为 1。日志最后一行：Cannot open the file. It is tried again.",
    "Attempt 2 of 3: Exited with code 1. Trying again after a pause of 5 seconds.":
        "第 2 次尝试（共 3 次）：退出码为 1。暂停 5 秒后重试。",
    "Needs 4 GPUs; this machine has 2 × H100. It is about number 200 in the queue.":
        "需要 4 个 GPU；本机有 2 × H100。在队列中约排第 200。",
    "local: Needs 2 CPUs; other runs hold too many of the 4 here. slurm: Priority":
        "local：需要 2 个 CPU；其他任务占用了本机 4 个中的太多。 slurm: Priority",
    "My rule: val_loss is above 3 at step 5. It is 3.2.":
        "My rule: val_loss 在第 5 步高于 3。其值为 3.2。",
    "My rule: training stands still.": "My rule：训练停滞。",
    "Makes room for a run of another project, whose priority is high.":
        "为优先级为高的 另一项目的任务 让位。",
    "slurm job 12: Resources": "slurm job 12: Resources",
    "CUDA out of memory. Tried to allocate 2 GiB.": "CUDA out of memory. Tried to allocate 2 GiB.",
    "The trainer saved nothing when it was stopped. This is the newest checkpoint of this run.":
        "训练程序停止时没有保存。这是此任务最新的检查点。",
}  # fmt: skip
"""What the service says, and what is shown; free text stays as it is."""


SHOWN = (
    "db/", "domain/", "launchers/", "services/", "storage/", "supervisor/", "graphql/budget.py",
    "server/authentication.py", "server/bodies.py", "server/capacity.py", "server/guard.py",
)  # fmt: skip
"""The rooms whose sentences are shown in the dashboard: of runs, checkpoints and refusals."""
NOT_SHOWN = (
    # To trainers and agents.
    "domain/artifacts.py", "services/attempts.py", "services/imports.py", "services/labels.py",
    "services/limits.py", "services/metrics.py", "services/models.py", "services/pulses.py",
    "services/reports.py", "services/sessions.py", "services/tracking.py",
    "services/trainer_files.py", "services/uploads.py", "storage/artifacts.py", "storage/base.py",
    "storage/keys.py", "storage/s3_drafts.py",
    # To operators, and whoever uses what the dashboard has no page for.
    "db/copying.py", "db/migrate.py", "db/migrations", "domain/recipe_file.py", "domain/team.py",
    "services/api_tokens.py", "services/projects.py", "services/redaction.py",
    "services/releases.py", "services/users.py", "services/verifications.py",
    "storage/archive.py", "domain/filters.py", "domain/recipes.py",
    # On the sign-in page, as below.
    "services/sign_ins.py",
)  # fmt: skip
"""Modules of these rooms whose sentences are for others."""
ELSEWHERE = (
    "A checkpoint path has the form", "The output goes on at", "The log cannot be written",
    "Attempt 7 of this run is over.", "Send JSON", "7 things are wrong",
    "field: name hyperparams or metrics",
)  # fmt: skip
COMPOSED = (
    "7 from outside stopped its launcher", "Retention deleted it", "The run has already",
    "There is no 7 7.", "7 could not be 7", "7 7 at step 7.",
)  # fmt: skip
"""Sentences with places for words of the service: other tests have them whole."""
DESCRIBES = {"Field", "StringConstraints"}
SIGN_IN = ("rest/single_sign_on.py", "server/openid.py", "services/sign_ins.py")
FORMS = ("alerts", "mail", "requests", "resources", "text", "webhooks")
"""Modules of app.domain whose ValueErrors are about a field of the dashboard's forms."""


def sentences() -> Iterator[str]:
    """Every sentence of the rooms that the dashboard shows, with 7 in its places."""
    for path in sorted(APP.rglob("*.py")):
        name = path.relative_to(APP).as_posix()
        if name.startswith(SHOWN) and not name.startswith(NOT_SHOWN):
            for text in sentences_of(path):
                yield re.sub(r"^7 (?=[A-Z])", "", text)
    for name in FORMS:
        tree = ast.parse((APP / f"domain/{name}.py").read_text(encoding="utf-8"))
        yield from (f"field: {text}." for text in raised(tree, "ValueError"))
    for path in (APP / f"sdk/llm_train/{name}.py" for name in ("checkpoint", "descriptors")):
        for text in raised(ast.parse(path.read_text(encoding="utf-8")), "CheckpointError"):
            yield f"{text[:1].upper()}{text[1:]}."


def sentences_of(path: Path) -> Iterator[str]:
    """Every sentence of a module, with 7 in its places."""
    for text in literals(ast.parse(path.read_text(encoding="utf-8"))):
        if re.match(r"(?s)(?:7|'7'|[A-Z]).* .*\.$", text):
            yield text


def literals(tree: ast.AST) -> Iterator[str]:
    """Every text of a module that is no docstring, description, or line of the server's log."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    if isinstance(tree, ast.Call) and ast.unparse(tree.func).split(".")[0] in {*DESCRIBES, "log"}:
        return
    text = filled(tree)
    if text is not None:
        yield text
        return
    for child in ast.iter_child_nodes(tree):
        yield from literals(child)


def raised(tree: ast.AST, kind: str) -> Iterator[str]:
    """Every text with which an error of this kind is made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == kind and node.args:
            text = filled(node.args[0])
            if text is not None:
                yield text


def filled(node: ast.AST) -> str | None:
    """Return a literal with 7 in its places; None for what is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return PLACE.sub("7", node.value.replace("{on}", ""))
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant)
            else "'7'" if isinstance(part, ast.FormattedValue) and part.conversion in (97, 114)
            else "7"
            for part in node.values
        )  # fmt: skip
    return None


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    given = [*SAID, *endings(), *shortages(), *alerts(), *sentences()]
    modules = ((DASHBOARD / name).as_uri() for name in ("service.js", "sentences.js"))
    module = Path(__file__).with_name("sentences.mjs")
    folder = tmp_path_factory.mktemp("node")
    read: dict[str, Any] = run_module(folder, module, *modules, json.dumps(given))
    return read | {"given": given}


def test_sentences_are_translated_and_free_text_is_not(found: dict[str, Any]) -> None:
    assert dict(zip(SAID, found["said"], strict=False)) == SAID


def test_no_sentence_that_the_dashboard_shows_is_told_in_english(found: dict[str, Any]) -> None:
    own = list(zip(found["given"], found["said"], strict=True))[len(SAID) :]
    assert len(own) > 200
    assert not [
        pair for pair in own
        if ENGLISH.search(pair[1]) and not pair[0].startswith((*ELSEWHERE, *COMPOSED))
    ]  # fmt: skip


def test_a_sentence_has_the_places_of_the_original(found: dict[str, Any]) -> None:
    wrong = [text for text, other in found["all"].items()
             if set(PLACE.findall(text)) != set(PLACE.findall(other))]  # fmt: skip
    assert not wrong


def test_the_service_still_says_each_sentence(found: dict[str, Any]) -> None:
    """One that was changed in the service alone would be shown in English."""
    source = " ".join(texts())
    for text in found["known"]:
        fixed = max(PLACE.split(text), key=len).strip(" .;:,()'")
        # Some are put together of two texts.
        known = fixed in source or (fixed[:8] in source and fixed[-8:] in source)
        assert known or any(own in text for own in OF_OTHERS), text


def texts() -> Iterator[str]:
    """Every text in the service's code."""
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_why_nobody_was_signed_in_is_told_in_chinese() -> None:
    given = [text for name in SIGN_IN for text in sentences_of(APP / name)]
    assert len(given) > 10
    assert not [
        text for text in given
        if ENGLISH.search(translate(text)) and not text.startswith("This service has no provider")
    ]  # fmt: skip


def test_every_code_that_a_user_may_meet_has_a_name(found: dict[str, Any]) -> None:
    codes = {kind.code for kind in vars(errors).values()
             if isinstance(kind, type) and issubclass(kind, errors.ServiceError)}  # fmt: skip
    of_trainers = {
        "malformed_body", "method_not_allowed", "stale_attempt", "attempt_claimed", "log_offset",
        "request_timeout", "body_too_large", "unsupported_media_type", "head_too_large",
        "session_active",
    }  # fmt: skip
    assert set(found["codes"]) == codes - of_trainers
