"""Trainers on a GPU: `python -m tests.trainers.gpu`, by hand on a machine that has one.

It starts a service whose local launcher offers the GPUs that `nvidia-smi` lists, and tells in one
line each what was seen. Exit status 0: all of it is as it should be. It needs PyTorch with CUDA,
transformers and lightning; about three minutes.

Seen on 2026-11-27, one H100 80GB, torch 2.11, transformers 5.17, lightning 2.6: 1,500 losses of
a bf16 GPT with dropout, cancelled at step 137 and resumed, are bit for bit those of the training
that was left alone, and others without the generator of the GPU; so are 400 of a Trainer in bf16.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.server import wait_until
from tests.support.service import Home, Service

SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 120.0
_STEPS = 1500  # a few seconds on an H100: long enough to be cancelled in the middle

_HF = [
    "{python}", str(SCRIPTS / "hf_train.py"), "MODEL", "--output_dir={run_dir}/out",
    "--max_steps={hyperparams.max_steps}", "--learning_rate={hyperparams.learning_rate}",
    "--save_steps=10000", "--lr_scheduler_type=constant", "--per_device_train_batch_size=2",
    "--logging_steps=1", "--report_to=none", "--disable_tqdm=true", "--bf16=true",
]  # fmt: skip
_TORCHRUN = ["{python}", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
_COMMANDS = {
    "loop": ["{python}", str(SCRIPTS / "cuda_loop.py")],
    "hf": _HF,
    "fsdp": [*_TORCHRUN, str(SCRIPTS / "fsdp.py")],
    "lightning": [*_TORCHRUN, str(SCRIPTS / "lightning_train.py")],
}


def write_recipes(folder: Path) -> Path:
    """Write the recipes file, and the model that `hf` trains."""
    subprocess.run([sys.executable, SCRIPTS.parent / "inputs.py", folder], check=True)
    tables = []
    for name, command in _COMMANDS.items():
        words = [word.replace("MODEL", str(folder / "model")) for word in command]
        tables.append(
            f"[recipes.{name}]\ncommand = {json.dumps(words)}\n"
            "resources = { count = 1 }\ngrace_seconds = 30\nretry_seconds = 0\n"
            'env_allow = ["PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME"]\n'
            'env = { HF_HUB_OFFLINE = "1", TRAINER_DEVICE = "cuda" }\n'
        )
    file = folder / "recipes.toml"
    file.write_text("\n".join(tables))
    return file


def ask_driver(what: str) -> list[str]:
    """Return what nvidia-smi says, a line for each GPU."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def curve(service: Service, run: str, key: str = "loss") -> dict[int, float]:
    """Every point of a metric."""
    path = f"/experiments/{service.experiment}/runs/{run}/metrics"
    series = service.get(f"{path}?keys={key}&raw=true&limit=100000")["series"]
    return {s: v for each in series for s, v in zip(each["steps"], each["values"], strict=True)}


def succeed(service: Service, run: str) -> None:
    """Wait until a run has succeeded."""
    ended = service.ended(run, SECONDS)
    assert ended["status"] == "succeeded", (ended, service.events(run)[-1])


def part(service: Service, recipe: str, at: int, **hyperparams: Any) -> tuple[str, str]:
    """Cancel a run after some steps and resume it; the two runs."""
    first = service.submit(recipe, **hyperparams)
    service.stepping(first, at, SECONDS)
    service.cancel(first)
    ended = service.ended(first, SECONDS)
    assert ended["status"] == "cancelled", (ended, service.events(first)[-1])
    assert at <= ended["step"] < hyperparams["max_steps"], ended
    second = str(service.resume(first)["run_id"])
    succeed(service, second)
    return first, second


def check_capacity(service: Service) -> str:
    """The launcher offers what the driver lists."""
    listed = ask_driver("name")
    offered = wait_until(
        lambda: service.get("/capacity")["launchers"][0]["gpus"], "the GPUs are offered", SECONDS
    )
    assert offered == {name: listed.count(name) for name in listed}, (offered, listed)
    return f"offered: {offered}"


def check_parted_curve(service: Service) -> str:
    """A cancelled and resumed bf16 training goes the way of one left alone, to the bit."""
    given: dict[str, Any] = {"max_steps": _STEPS, "learning_rate": 1e-3}
    whole = service.submit("loop", **given)
    succeed(service, whole)
    first, second = part(service, "loop", 100, **given)
    expected = curve(service, whole)
    joined = curve(service, first) | curve(service, second)
    assert len(expected) == _STEPS and joined == expected, "the curves differ"
    return f"{_STEPS} losses are equal; cut at {min(curve(service, second)) - 1}"


def check_forgotten_generator(service: Service) -> str:
    """The comparison sees a generator that is not taken up again."""
    given: dict[str, Any] = {"max_steps": _STEPS, "learning_rate": 1e-3, "forgets": True}
    whole = service.submit("loop", **given)
    succeed(service, whole)
    first, second = part(service, "loop", 100, **given)
    joined = curve(service, first) | curve(service, second)
    assert joined != curve(service, whole), "the curves are equal"
    return "without its generator the curve is another"


def check_metrics(service: Service) -> str:
    """Metrics of the machine tell what the driver tells."""
    run = service.submit("loop", max_steps=10**6, learning_rate=1e-3, width=1024)
    key = "system/gpu0/memory_mb"
    wait_until(lambda: len(curve(service, run, key)) > 3, "there are figures", SECONDS)
    own = list(curve(service, run, key).values())[-1]
    told, *_ = ask_driver("memory.used")
    names = ["utilization_percent", "memory_percent", "power_w", "temperature_c"]
    figures = {n: list(curve(service, run, f"system/gpu0/{n}").values()) for n in names}
    service.cancel(run)
    assert service.ended(run, SECONDS)["status"] == "cancelled"
    expected = float(told) * 2**20 / 1e6
    assert abs(own - expected) < 0.05 * expected, (own, told)
    assert max(figures["utilization_percent"]) > 20, figures
    assert all(figures[name] and max(figures[name]) > 0 for name in names), figures
    shown = {name: max(values) for name, values in figures.items()}
    return f"memory {own:.0f} MB of {expected:.0f} by nvidia-smi; {shown}"


def check_out_of_memory(service: Service) -> str:
    """A card without room is `out_of_memory`."""
    run = service.submit("loop", max_steps=_STEPS, learning_rate=1e-3, out_of_memory_at=20)
    ended = service.ended(run, SECONDS)
    reason = (ended["status"], ended["status_reason"])
    assert reason == ("failed", "out_of_memory"), (ended, service.events(run)[-1])
    return str(ended["status_detail"])


def check_waiting(service: Service) -> str:
    """As many runs as GPUs train at once, each on a GPU of its own; the next one waits."""
    number = len(ask_driver("name"))
    given: dict[str, Any] = {"max_steps": 10**6, "learning_rate": 1e-3}
    runs = [service.submit("loop", **given) for _ in range(number)]
    for run in runs:
        service.stepping(run, 1, SECONDS)
    late = service.submit("loop", **(given | {"max_steps": 50}))
    waits = wait_until(
        lambda: (now := service.status(late))["status_reason"] and now, "it waits", SECONDS
    )
    assert (waits["status"], waits["status_reason"]) == ("queued", "waiting_for_resources"), waits
    for run in runs:
        service.cancel(run)
    succeed(service, late)
    return f"{number} at once, the next after one has ended"


def check_hugging_face(service: Service) -> str:
    """A Trainer in bf16 is cancelled and resumed, and goes on as one that was left alone."""
    given: dict[str, Any] = {"max_steps": 400, "learning_rate": 1e-3}
    whole = service.submit("hf", **given)
    succeed(service, whole)
    first, second = part(service, "hf", 50, **given)
    expected = curve(service, whole)
    joined = curve(service, first) | curve(service, second)
    assert joined.keys() == expected.keys() and len(expected) == 400, len(joined)
    equal = sum(joined[step] == expected[step] for step in expected)
    worst = max(abs(joined[step] - expected[step]) / expected[step] for step in expected)
    assert worst < 0.01, worst
    return f"{equal} of 400 losses are equal, the others within {worst:.1e}"


def check_fsdp(service: Service) -> str:
    """FSDP2 over NCCL saves shards on a cancel and resumes from them."""
    given: dict[str, Any] = {"max_steps": 1000, "learning_rate": 1e-3, "save_steps": 10_000}
    _, second = part(service, "fsdp", 100, **given)
    return f"resumed at {min(curve(service, second))}, succeeded at 1000"


def check_lightning(service: Service) -> str:
    """Lightning in bf16-mixed is cancelled and resumed."""
    given: dict[str, Any] = {"max_steps": 1000, "learning_rate": 1e-3, "save_steps": 10_000}
    _, second = part(service, "lightning", 50, **given)
    return f"resumed at {min(curve(service, second))}, succeeded at 1000"


CHECKS: list[Callable[[Service], str]] = [
    check_capacity,
    check_out_of_memory,
    check_parted_curve,
    check_forgotten_generator,
    check_metrics,
    check_waiting,
    check_hugging_face,
    check_fsdp,
    check_lightning,
]


def main() -> int:
    """Run the checks that are named, or all; the exit status."""
    chosen = [check for check in CHECKS if not sys.argv[1:] or check.__name__ in sys.argv[1:]]
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = Home(folder, settings={"RECIPES": str(write_recipes(folder))})
        with home.serve(MAX_LOCAL_RUNS=str(os.cpu_count() or 1)) as service:
            for check in chosen:
                try:
                    print(f"ok    {check.__name__}: {check(service)}", flush=True)
                except Exception:
                    failed += 1
                    print(f"WRONG {check.__name__}: {traceback.format_exc()}", flush=True)
                    print_end(service)
    return 1 if failed else 0


def print_end(service: Service) -> None:
    """Print the end of the newest log, and cancel what still trains."""
    logs = sorted(service.data_dir.glob("runs/*/train.log"), key=lambda log: log.stat().st_mtime)
    if logs:
        print(logs[-1].read_text()[-1500:], flush=True)
    for run in service.get(f"/experiments/{service.experiment}/runs")["runs"]:
        if run["status"] not in ("succeeded", "failed", "cancelled"):
            service.cancel(run["run_id"])


if __name__ == "__main__":
    sys.exit(main())
