"""Recipes of real trainers: PyTorch, Hugging Face, TRL and Lightning with tiny models, on CPUs.

`recipes(path, inputs)` writes a recipes file with all of `TRAINERS`; tests/trainers runs them.
"""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "trainers" / "scripts"
LEAN = SCRIPTS.with_name("lean")

_TORCHRUN = ["{python}", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
_ARGUMENTS = [
    "--output_dir={run_dir}/out",
    "--max_steps={hyperparams.max_steps}",
    "--learning_rate={hyperparams.learning_rate}",
    "--save_steps={hyperparams.save_steps}",
    "--eval_strategy={hyperparams.eval_strategy}",
    "--eval_steps={hyperparams.eval_steps}",
    "--run_name={hyperparams.eval_copies}",
    "--load_best_model_at_end={hyperparams.best}",
    "--lr_scheduler_type=constant",
    "--per_device_train_batch_size=2",
    "--logging_steps=1",
    "--report_to=none",
    "--disable_tqdm=true",
    "--use_cpu=true",
]
_HF = [str(SCRIPTS / "hf_train.py"), "MODEL", *_ARGUMENTS]
_TRL = [
    "{python}", "-m", "llm_train.hf", "--pass=learning_rate,max_steps,save_steps",
    "-m", "trl.scripts.sft", "--model_name_or_path=MODEL", "--dataset_name=SFT",
    "--output_dir={run_dir}/out", "--per_device_train_batch_size=2", "--logging_steps=1",
    "--report_to=none", "--lr_scheduler_type=constant", "--use_cpu=true", "--max_length=32",
    "--bf16=false",
]  # fmt: skip

TRAINERS: dict[str, list[str]] = {
    "hf": ["{python}", *_HF],
    "hf-jit": ["{python}", *_HF, "--enable_jit_checkpoint=true"],
    "hf-ddp": [*_TORCHRUN, *_HF],
    "trl": _TRL,
    "lightning": ["{python}", str(SCRIPTS / "lightning_train.py")],
    "lightning-ddp": [*_TORCHRUN, str(SCRIPTS / "lightning_train.py")],
    "loop": ["{python}", str(SCRIPTS / "loop.py")],
    "loop-ddp": [*_TORCHRUN, str(SCRIPTS / "loop.py")],
    "fsdp-ddp": [*_TORCHRUN, str(SCRIPTS / "fsdp.py")],
}
"""Commands by recipe, with MODEL and SFT for the inputs. `-ddp`: with two ranks."""

_LINES = """
grace_seconds = 15
heartbeat_seconds = 45
retry_seconds = 0
"""

_COMPILER = [
    "torch._dynamo", "torch.export", "torch._export", "torch.ao", "torchgen", "torch._native",
    "torch.masked", "torch.package", "torch.testing",
]  # fmt: skip
_SHAPES = [
    "torch._meta_registrations", "torch._decomp", "torch._prims", "torch._refs",
    "torch.distributions",
]  # fmt: skip
"""What computes on tensors without data, and what only that imports."""
_SHARDING = [
    "torch.distributed.tensor",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
]
_TABLES = ["datasets", "pandas", "pyarrow"]
_SAMPLING = ["torch._refs", "torch.distributions"]
_UNUSED = {
    "hf": (["sklearn", "scipy", "wandb", "mlflow", "trl", *_TABLES],
           [*_COMPILER, *_SHARDING, *_SAMPLING]),
    "trl": (["sklearn", "scipy", "wandb", "mlflow"], [*_COMPILER, *_SHARDING, "torch._refs"]),
    "lightning": (["sklearn", "scipy", "wandb", "mlflow", *_TABLES],
                  [*_COMPILER, *_SAMPLING, "transformers", "torchvision"]),
    "mlflow": (["sklearn", "scipy"], [*_COMPILER, *_SHAPES]),
    "fsdp": ([], _COMPILER),
    "loop": ([], [*_COMPILER, *_SHAPES]),
    "two": ([], [*_COMPILER, *_SHAPES]),
    # Clients of test_tracking_clients, by script; autolog uses pandas.
    "hf_mlflow.py": (["sklearn", "scipy", "wandb", "trl", *_TABLES],
                     [*_COMPILER, *_SHARDING, *_SAMPLING]),
    "hf_wandb.py": (["sklearn", "scipy", "mlflow", "trl", *_TABLES],
                    [*_COMPILER, *_SHARDING, *_SAMPLING]),
    "lightning_mlflow.py": (["sklearn", "scipy", "wandb", *_TABLES],
                            [*_COMPILER, *_SAMPLING, "transformers", "torchvision"]),
    "autolog": (["sklearn", "scipy", "wandb"], [*_COMPILER, *_SAMPLING, "torchvision"]),
    "mlflow_fluent.py": (["sklearn", "scipy", "pandas", "pyarrow"], []),
    "wandb_fluent.py": ([], []),
    "summary_writer.py": ([], [*_COMPILER, *_SHAPES]),
}  # fmt: skip
"""By trainer: packages that it looks for and can do without, and modules that it imports and does
not use; see trainers/lean."""

_UNPROVEN = "heartbeat_seconds = 0\nrequires_report = false"

_TRL_DEEDS = [*_TRL[:4], str(SCRIPTS / "trl_deeds.py"), *_TRL[6:]]
_MLFLOW = [
    "{python}", str(SCRIPTS / "mlflow_loop.py"), "{hyperparams.max_steps}", "{hyperparams.deed}",
]  # fmt: skip
_OTHERS = {
    "trl-deeds": _TRL_DEEDS,
    "mlflow": _MLFLOW,
    "mlflow-proves": _MLFLOW,
    "two-nodes": ["{python}", str(SCRIPTS / "two_nodes.py"), str(SCRIPTS / "loop.py")],
    "hf-again": ["{python}", *_HF],
    "hf-restarts": [*_TORCHRUN[:-1], "--nproc-per-node=1", "--max-restarts=1", *_HF],
}
"""`trl-deeds`: TRL's script, which exits early or fills the memory. `mlflow` reports to MLflow
alone, so its exit code counts; of `mlflow-proves` the recipe wants to know that it has finished.
`hf-again` is tried once more where it has saved and left."""


def lean(trainer: str, inputs: Path) -> dict[str, str]:
    """The environment in which a trainer starts with no more than it uses."""
    missing, empty = _UNUSED[trainer]
    cache = inputs / "imports"
    cache.mkdir(exist_ok=True)
    return {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(LEAN), *os.environ.get("PYTHONPATH", "").split()]),
        "LEAN_MISSING": " ".join(missing),
        "LEAN_EMPTY": " ".join(empty),
        "LEAN_CACHE": str(cache),
    }


def lean_line(trainer: str, inputs: Path) -> str:
    """The same as a line of a recipe."""
    variables = lean(trainer, inputs).items()
    items = (f"{key} = {json.dumps(text)}" for key, text in variables)
    return f"env = {{ {', '.join(items)} }}\n"


def lean_folder(folder: Path, trainer: str, inputs: Path) -> str:
    """The same as a PYTHONPATH, for a recipe of which nothing else can be given."""
    variables = lean(trainer, inputs)
    path = variables.pop("PYTHONPATH")
    lines = f"import os\nos.environ.update({variables!r})\n"
    (folder / "sitecustomize.py").write_text(lines + (LEAN / "sitecustomize.py").read_text())
    return os.pathsep.join([str(folder), path])


def recipes(path: Path, inputs: Path, more: str = "") -> Path:
    """Write the recipes file, `more` in each of them.

    Each trainer has a second one, `-watched`, that is soon missed.
    """
    tables = []
    for name, command in (TRAINERS | _OTHERS).items():
        words = [
            word.replace("MODEL", str(inputs / "model")).replace("SFT", str(inputs / "sft"))
            for word in command
        ]
        # A client of MLflow has no heartbeat.
        lines = _LINES.replace("heartbeat_seconds = 45", _UNPROVEN) if name == "mlflow" else _LINES
        lines += lean_line(name.split("-")[0], inputs) + more
        if name == "hf-again":
            lines += 'retry_on = ["unfinished"]\nmax_attempts = 2\n'
        tables.append(f"[recipes.{name}]\ncommand = {json.dumps(words)}{lines}")
        # One rank that stands still is seen by the silence of progress alone; a first step may take
        # ten seconds, where the machine is busy.
        watched = lines.replace("seconds = 15", "seconds = 2")
        if name.endswith("-ddp") or name == "mlflow":
            watched += 'stall_seconds = 30\non_stall = "stop"\n'
        else:
            watched = watched.replace("seconds = 45", "seconds = 15")
        tables.append(f"[recipes.{name}-watched]\ncommand = {json.dumps(words)}{watched}")
    file = path / "recipes.toml"
    file.write_text("\n".join(tables))
    return file


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a model, a tokenizer and a data set; see inputs.py. Made once for all."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / "inputs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = shared / "inputs-made"
        if not folder.exists():
            draft = tmp_path_factory.mktemp("inputs")
            script = SCRIPTS.with_name("inputs.py")
            subprocess.run([sys.executable, script, draft], check=True, timeout=120)
            draft.rename(folder)
    return folder
