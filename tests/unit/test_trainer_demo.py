"""The demo recipe learns, and a resumed run repeats bit for bit what one long run does.

Real processes. Planted once and seen red: a gradient without its tanh factor, Adam's moments not
saved, its step count or the random generator not loaded, a learning rate other than the one asked
for. `test_resuming_without_*` is the permanent control.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_train import checkpoint

from app.recipes import charlm, demo
from tests.support.reports import ReportServer
from tests.support.server import REPOSITORY, wait_until

SMALL = {"steps": 40, "hidden": 32, "batch_size": 64, "checkpoint_every": 15}


class Run:
    """One run of the demo, as the service would start it."""

    def __init__(self, directory: Path, resume: Path | None = None, **spec: Any) -> None:
        self.directory = directory
        directory.mkdir()
        spec = {
            "hyperparams": SMALL,
            "checkpoint_dir": str(directory / "ckpts"),
            "stop_checkpoint": "cancel-1",
            "resume": resume and {"ckpt_path": "/ckpts/e/r/x", "path": str(resume), "step": 1},
            **spec,
        }
        (directory / "spec.json").write_text(json.dumps(spec))
        self.server = ReportServer()
        self.output, self.errors = "", ""
        self.process: subprocess.Popen[str] | None = None

    def start(self, **env: str) -> "Run":
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "app.recipes.demo"],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "LLM_TRAIN_API_URL": self.server.url,
                "LLM_TRAIN_RUN_ID": "run_1",
                "LLM_TRAIN_RUN_TOKEN": "secret",
                "LLM_TRAIN_ATTEMPT": "1",
                "LLM_TRAIN_RUN_DIR": str(self.directory),
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def wait(self) -> int:
        assert self.process
        self.output, self.errors = self.process.communicate(timeout=60)
        self.server.stop()
        assert self.server.errors == []
        return self.process.returncode

    def metric(self, key: str) -> dict[int, float]:
        return {step: float(value) for name, step, value in self.server.points() if name == key}

    @property
    def finished(self) -> bool:
        return any(body.get("finished") for body in self.server.taken.values())

    def checkpoints(self) -> list[str]:
        return [
            c["name"] for body in self.server.taken.values() for c in body.get("checkpoints", [])
        ]


def run(directory: Path, resume: Path | None = None, **spec: Any) -> Run:
    finished = Run(directory, resume, **spec)
    assert finished.start().wait() == 0, finished.errors
    return finished


def test_the_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(1)
    params = charlm.init(rng, vocabulary=11, context=3, hidden=7, dtype=np.float64)
    windows, targets = rng.integers(0, 11, (5, 3)), rng.integers(0, 11, 5)
    loss, gradients = charlm.gradients(params, windows, targets)
    assert loss == charlm.loss(params, windows, targets)
    for name, values in params.items():
        assert gradients[name].shape == values.shape
        for index in np.ndindex(values.shape):
            kept, nudge = values[index], 1e-6
            values[index] = kept + nudge
            above = charlm.loss(params, windows, targets)
            values[index] = kept - nudge
            below = charlm.loss(params, windows, targets)
            values[index] = kept
            assert gradients[name][index] == pytest.approx((above - below) / (2 * nudge), abs=1e-8)


def test_a_short_run_learns_far_more_than_letter_frequencies(tmp_path: Path) -> None:
    hyperparams = {"steps": 300, "hidden": 96, "batch_size": 256}
    done = run(tmp_path / "run", hyperparams=hyperparams, dataset={"name": "pydoc-topics"})
    entropy = charlm.Text(demo.read_text({})[1], 8).unigram_entropy()
    assert entropy == pytest.approx(3.25, abs=0.1)
    loss = done.metric("loss")
    assert list(loss) == list(range(1, 301))
    assert loss[1] > entropy
    assert done.metric("val_loss").keys() == {50, 100, 150, 200, 250, 300}
    assert done.metric("val_loss")[300] < 0.7 * entropy, "held-out text"
    assert (
        done.metric("tokens_per_second").keys()
        == done.metric("learning_rate").keys()
        == loss.keys()
    )
    assert done.finished
    assert done.checkpoints() == ["step-000100", "step-000200", "step-000300"]
    for name in done.checkpoints():
        assert checkpoint.verify(tmp_path / "run/ckpts" / name).step == int(name[5:])
    told = [
        b["effective_hyperparams"]
        for b in done.server.taken.values()
        if "effective_hyperparams" in b
    ]
    assert told[0] == {
        **dataclasses.asdict(demo.read_hyperparams(hyperparams)),
        "dataset": "pydoc-topics",
    }
    assert "step 300/300  loss " in done.output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Steps 1 to 40 in one go."""
    yield run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The same run, asked to stop on its way; slower, so that it can be caught."""
    half = Run(
        tmp_path_factory.mktemp("stopped") / "run", hyperparams={**SMALL, "step_delay_ms": 60}
    ).start()
    assert half.process
    wait_until(lambda: (half.directory / "ckpts/step-000015").exists(), "step 15")
    half.process.send_signal(signal.SIGTERM)
    assert half.wait() == 0, half.errors
    yield half


def arrays(directory: Path) -> dict[str, Any]:
    with np.load(directory / "model.npz", allow_pickle=False) as saved:
        return dict(saved)


def test_resuming_after_a_stop_is_bit_exact(tmp_path: Path, whole: Run, stopped: Run) -> None:
    saved = stopped.directory / "ckpts/cancel-1"
    reached = checkpoint.verify(saved).step
    assert 15 <= reached < 40
    assert stopped.checkpoints() == ["step-000015", *["step-000030"] * (reached > 30), "cancel-1"]
    assert not stopped.finished

    rest = run(tmp_path / "rest", saved)
    assert rest.finished
    assert list(rest.metric("loss")) == list(range(reached + 1, 41))
    for key in ("loss", "val_loss", "learning_rate"):
        assert stopped.metric(key) | rest.metric(key) == whole.metric(key)
    last = [r.directory / "ckpts/step-000040" for r in (whole, rest)]
    ours, theirs = map(arrays, last)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    assert (last[0] / "state.json").read_bytes() == (last[1] / "state.json").read_bytes()


@pytest.mark.parametrize("lost", ["rng", "adam_t", "adam_m.w1", "adam_v.embedding"])
def test_resuming_without_any_part_of_the_state_would_be_seen(
    tmp_path: Path, whole: Run, stopped: Run, lost: str
) -> None:
    saved = stopped.directory / "ckpts/cancel-1"
    parts, state = arrays(saved), json.loads((saved / "state.json").read_text())
    if lost == "rng":
        state["rng"] = np.random.default_rng(0).bit_generator.state
    elif lost == "adam_t":
        state["adam_t"] = 0
    else:
        parts[lost] = np.zeros_like(parts[lost])
    temporary = checkpoint.begin(tmp_path, "spoilt")
    np.savez(temporary / "model.npz", allow_pickle=False, **parts)
    (temporary / "state.json").write_text(json.dumps(state))
    spoilt, _ = checkpoint.commit(temporary, "spoilt", state["step"])
    rest = run(tmp_path / "rest", spoilt)
    assert stopped.metric("loss") | rest.metric("loss") != whole.metric("loss")


def test_a_lower_learning_rate_is_really_used_after_a_resume(tmp_path: Path, stopped: Run) -> None:
    saved = stopped.directory / "ckpts/cancel-1"
    travelled = {}
    for rate in (0.008, 0.00008):
        changed = {**SMALL, "learning_rate": rate, "lr_schedule": "constant"}
        rest = run(tmp_path / str(rate), saved, hyperparams=changed)
        assert rest.metric("learning_rate")[40] == rate
        before, after = arrays(saved), arrays(rest.directory / "ckpts/step-000040")
        travelled[rate] = float(np.abs(after["params.w1"] - before["params.w1"]).sum())
    assert travelled[0.00008] < travelled[0.008] / 20


@pytest.mark.parametrize(
    ("hyperparams", "says"),
    [
        ({"learning_rat": 0.1}, "unknown hyperparameter 'learning_rat'; there are learning_rate,"),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000000, not 0"),
        ({"steps": 10.5}, "steps must be a whole number from 1 to 1000000, not 10.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"hidden": "64"}, "hidden must be a whole number from 1 to 4096, not '64'"),
        ({"learning_rate": None}, "learning_rate must be a number from 1e-06 to 1.0, not None"),
        ({"learning_rate": "NaN"}, "learning_rate must be a number"),
        ({"lr_schedule": "step"}, "lr_schedule must be one of cosine, constant"),
        ({"lr_schedule": ["cosine"]}, "lr_schedule must be one of cosine, constant"),
        ({"step_delay_ms": 10**9}, "step_delay_ms must be a whole number from 0 to 5000"),
    ],
)
def test_a_wrong_hyperparameter_is_one_clear_line(hyperparams: Any, says: str) -> None:
    with pytest.raises(demo.CannotTrain) as caught:
        demo.read_hyperparams(hyperparams)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def refusal(refused: Run, **env: str) -> str:
    """The one line in which the demo says why it does not train."""
    assert refused.start(**env).wait() == 2
    assert not refused.finished
    assert refused.metric("loss") == {}
    assert not (refused.directory / "ckpts").exists()
    (line,) = refused.errors.splitlines()
    return line


def test_a_run_that_cannot_be_is_refused_in_one_line_and_never_finished(
    tmp_path: Path, whole: Run
) -> None:
    saved = whole.directory / "ckpts/step-000030"
    wrong = refusal(Run(tmp_path / "1", hyperparams={"epochs": 3}))
    assert wrong.startswith("demo: unknown hyperparameter 'epochs'; there are learning_rate, ")
    wider = refusal(Run(tmp_path / "2", saved, hyperparams={**SMALL, "hidden": 64}))
    assert wider.endswith(
        "hidden 32 and this run asks for hidden 64: a resumed run keeps its hidden"
    )
    past = refusal(Run(tmp_path / "3", saved, hyperparams={**SMALL, "steps": 30}))
    assert past.endswith("steps, the total, is 30: nothing is left to train")
    shutil.copytree(saved, tmp_path / "damaged")
    with (tmp_path / "damaged/model.npz").open("r+b") as stream:
        stream.seek(2000)
        stream.write(b"\xff\xff")
    damaged = refusal(Run(tmp_path / "4", tmp_path / "damaged"))
    assert damaged.endswith("'model.npz' is not what was written: SHA-256 differs")
    gone = refusal(Run(tmp_path / "5", tmp_path / "nowhere"))
    assert "no checkpoint directory at" in gone


@pytest.mark.parametrize(
    "dataset",
    [
        *({"name": "wikitext"}, {"path": "/etc/passwd"}, {"name": "text-file"}, {"name": ["x"]}),
        {"name": "pydoc-topics", "split": "test"},
    ],
)
def test_a_client_cannot_name_a_file(monkeypatch: pytest.MonkeyPatch, dataset: Any) -> None:
    monkeypatch.delenv("DEMO_TEXT", raising=False)
    with pytest.raises(demo.CannotTrain, match="the demo trains on split train of dataset pydoc-"):
        demo.read_text(dataset)


def test_the_operator_can_name_a_text(tmp_path: Path) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("Tyger Tyger, burning bright, " * 200)
    operated = Run(
        tmp_path / "run",
        dataset={"name": "text-file", "split": "train"},
        hyperparams={**SMALL, "steps": 100},
    )
    assert operated.start(DEMO_TEXT=str(text)).wait() == 0, operated.errors
    assert "poem.txt: 5,800 characters, 13 different ones" in operated.output
    assert operated.metric("val_loss")[100] < 0.5
    missing = refusal(Run(tmp_path / "2"), DEMO_TEXT=str(tmp_path / "none.txt"))
    assert missing.startswith("demo: the operator's text file cannot be read: ")


def test_without_numpy_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('no NumPy here')")
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    line = refusal(Run(tmp_path / "run"), PYTHONPATH=path)
    assert line == 'the demo needs NumPy: pip install "llm-train-api[demo]"'
