"""`llm-train demo`: a guided tour over the public API only.

Serves in a thread and then is an ordinary client: creates an experiment, submits a run
of the built-in recipe, watches it, cancels it part way, resumes it with a lower learning
rate, marks the result as a release, and asks GraphQL for all of it at once.
"""

import json
import logging
import signal
import sys
import threading
import time
from typing import Any

from app.cli import client
from app.errors import ServiceError
from app.main import bind
from app.server import listening
from app.server.jsonlines import JsonLines
from app.settings import Settings

try:
    import numpy  # noqa: F401  (the recipe's)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
except ModuleNotFoundError as missing:
    sys.exit(
        f"llm-train: the demo needs {missing.name}; install it with: "
        'pip install "llm-train-api[demo]"  (in a checkout: pip install -e ".[demo]")'
    )

HYPERPARAMS = {"learning_rate": 0.008, "steps": 1200, "step_delay_ms": 4}
LOWER = {"learning_rate": 0.002}
NESTED = """\
query Story($id: ID!) {
  experiment(id: $id) {
    name
    runs(first: 10) {
      nodes {
        id status step parent { id }
        metrics { key value step }
        checkpoints(first: 1) { nodes { ckptPath state step tagType releaseTag } }
      }
    }
  }
}"""
TERMINAL = ("succeeded", "failed", "cancelled")


class Story:
    """A client with a console."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token
        self.console = Console(highlight=False)
        self.base = ""

    def call(self, method: str, path: str, body: object = None, key: str | None = None) -> Any:
        """Make one request; return the JSON of its response."""
        try:
            return client.call(self.url, self.token, method, path, body, key=key)
        except ServiceError as error:
            sys.exit(f"llm-train: {method} {path}: {error}")

    def say(self, text: str) -> None:
        """Print a heading of the story."""
        self.console.print(f"\n[bold cyan]▶[/] [bold]{text}[/]")

    def show(self, method: str, path: str, body: object = None) -> None:
        """Print the request that is about to be made."""
        data = "" if body is None else "  " + json.dumps(body, ensure_ascii=False)
        self.console.print(f"  [green]{method}[/] {path}[dim]{data}[/]", soft_wrap=True)

    def watch(self, run: str, *, until_step: int | None = None) -> dict[str, Any]:
        """Show a progress bar until the run ends or has passed a step; return its last status."""
        columns = (
            TextColumn("  {task.fields[status]:<10}"),
            BarColumn(40),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss [bold]{task.fields[loss]}[/]"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("", total=HYPERPARAMS["steps"], status="queued", loss="…")
            while True:
                now = self.call("GET", f"{run}/status")
                loss = now["metrics"].get("loss")
                progress.update(
                    task,
                    completed=now["step"],
                    status=now["status"],
                    loss=f"{loss['value']:.3f}" if loss else "…",
                )
                if now["status"] in TERMINAL or (until_step and now["step"] >= until_step):
                    return dict(now)
                time.sleep(0.1)

    def tell_checkpoint(self, path: str, checkpoint: dict[str, Any]) -> None:
        """Print one line about a checkpoint."""
        text = f"  {path}: [bold]{checkpoint['state']}[/]"
        if checkpoint["sha256"]:
            text += f" at step {checkpoint['step']}, {checkpoint['size_bytes'] / 1e6:.1f} MB"
        self.console.print(text, soft_wrap=True)

    def tell(self) -> None:
        """Tell it from the first experiment to the release. Raises SystemExit if a step fails."""
        experiment = self.create_experiment()
        self.base = f"/v1/experiments/{experiment}"
        first = self.train_half(experiment)
        saved = self.cancel(first)
        second, status = self.resume(first, saved)
        self.mark(second, status)
        self.say("Ask GraphQL for all of it at once")
        self.console.print(NESTED, style="dim")
        answer = self.call("POST", "/graphql", {"query": NESTED, "variables": {"id": experiment}})
        self.console.print(_compact(answer["data"]), style="green", soft_wrap=True)

    def post(self, path: str, body: object = None, key: str | None = None) -> Any:
        """Show a POST, make it, and return the JSON of its response."""
        self.show("POST", path, body)
        return self.call("POST", path, body, key)

    def create_experiment(self) -> str:
        """Create the experiment and return its id."""
        self.say("Create an experiment")
        body = {"name": "tiny-lm", "task_type": "pretrain", "tags": ["demo"]}
        experiment = str(self.post("/v1/experiments", body)["experiment_id"])
        self.console.print(f"  {experiment}")
        return experiment

    def train_half(self, experiment: str) -> str:
        """Submit a run, watch it to its middle, and return its id."""
        self.say("Submit a run: a character-level model on CPython's own help texts")
        body = {"model": "char-lm", "recipe": "demo", "hyperparams": HYPERPARAMS}
        run = str(self.post(f"{self.base}/runs", body, f"{experiment}-first")["run_id"])
        half = int(HYPERPARAMS["steps"]) // 2
        now = self.watch(f"{self.base}/runs/{run}", until_step=half)
        if now["status"] in TERMINAL:
            sys.exit(f"llm-train: the run {now['status']}: {now['status_detail']}")
        return run

    def cancel(self, run: str) -> dict[str, Any]:
        """Cancel the run and return the checkpoint that it left."""
        self.say("Cancel it half-way: the answer names the checkpoint before it is written")
        answer = self.post(f"{self.base}/runs/{run}/cancel")
        self.tell_checkpoint(answer["ckpt_path"], answer["checkpoint"])
        while answer["status"] not in TERMINAL:
            time.sleep(0.05)
            answer = self.call("POST", f"{self.base}/runs/{run}/cancel")
        self.tell_checkpoint(answer["ckpt_path"], answer["checkpoint"])
        return {**answer["checkpoint"], "ckpt_path": answer["ckpt_path"]}

    def resume(self, run: str, saved: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Resume from the checkpoint to the end; return the new run's id and last status."""
        self.say("Resume it with a lower learning rate")
        body = {"ckpt_path": saved["ckpt_path"], "override_hyperparams": LOWER}
        child = str(self.post(f"{self.base}/runs/{run}/resume", body)["run_id"])
        now = self.watch(f"{self.base}/runs/{child}")
        if now["status"] != "succeeded":
            sys.exit(f"llm-train: the resumed run {now['status']}: {now['status_detail']}")
        step, last = saved["step"], now["metrics"]["loss"]
        # The curve of a resumed run begins with that of the run it was resumed from.
        window = f"keys=loss&from_step={step}&to_step={step}"
        curve = self.call("GET", f"{self.base}/runs/{child}/metrics?{window}")["series"][0]
        self.console.print(
            f"  the loss went on from {curve['values'][0]:.3f} at step {step} "
            f"to {last['value']:.3f} at step {last['step']}"
        )
        return child, now

    def mark(self, run: str, now: dict[str, Any]) -> None:
        """Mark the run's checkpoint as a release."""
        self.say("Mark the result as a release")
        body = {
            "run_id": run, "ckpt_path": now["ckpt_path"], "tag_type": "release",
            "release_tag": "v1.0.0", "metrics": {"val_loss": now["metrics"]["val_loss"]["value"]},
        }  # fmt: skip
        self.post(f"{self.base}/checkpoints/mark", body)


def _compact(value: Any, indent: int = 2) -> str:
    """Return JSON whose innermost objects are on one line each."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(flat) + indent <= 100:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, list):
        items = [pad + _compact(item, indent + 2) for item in value]
        return "[\n" + ",\n".join(items) + "\n" + " " * indent + "]"
    items = [f'{pad}"{key}": {_compact(item, indent + 2)}' for key, item in value.items()]
    return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"


def run(settings: Settings, *, stay: bool = True) -> None:
    """Serve and tell the story; then, if `stay`, serve until Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, handlers=[JsonLines.handler()])
    server, sock = bind(settings)
    url: str = server.config.app.state.api_url  # type: ignore[union-attr]
    # Not `Thread.join`: in Python 3.11 one that Ctrl-C interrupts takes the thread for ended.
    ended = threading.Event()

    def serve() -> None:
        try:
            listening.run(server, sock)
        finally:
            ended.set()

    threading.Thread(target=serve, daemon=True).start()
    story = Story(url, settings.api_token)
    for number in _ENDS:
        signal.signal(number, _interrupt)
    try:
        while not server.started:
            if ended.is_set():
                sys.exit("llm-train: the service did not start; see the lines above.")
            time.sleep(0.02)
        story.tell()
        if stay:
            story.say("The service goes on; Ctrl-C ends it")
            for name, path in (("Dashboard", "/"), ("REST", "/docs"), ("GraphQL", "/graphql")):
                story.console.print(f"  {name:<9} {url}{path}")
            ended.wait()
    except KeyboardInterrupt:
        pass
    finally:
        _ignore_more()
        server.should_exit = True
        ended.wait(10)


_ENDS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt, once: another one on its way would skip the clean end."""
    _ignore_more()
    raise KeyboardInterrupt


def _ignore_more() -> None:
    """Ignore signals to end from now on: some wrappers of commands send them again and again."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
