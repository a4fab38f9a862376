"""One job of Ray, built purely: the body of its submission.

Anybody on the cluster may read it: it holds names, numbers and the claim code, which is good for
one claim of one attempt. The agent comes as a package, which all jobs share.
"""

import hashlib
import shlex
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from app.agent import bundle
from app.launchers.base import HttpMailboxAddress, Job
from app.launchers.options import check_gpu_types, check_number, check_type

CLAIM_CODE = "LLM_TRAIN_CLAIM_CODE"
SERVICE = "llm_train_service"
STOP_SECONDS = 86_400
"""The agent enforces the grace itself; Ray must not kill it while it still delivers files."""
_SOME_CPU = 0.001  # without any, Ray runs a job on the head
_BOOT = "import sys; sys.path.append(sys.argv[1]); from agent.main import main; main(sys.argv[2:])"


@dataclass(frozen=True)
class Options:
    """The options of a table `[launchers.NAME]`. Raises ValueError for one that is wrong."""

    address: str = ""
    """The URL of Ray's dashboard."""
    token_file: str | None = None
    """The file with the token, where the cluster asks for one (RAY_AUTH_MODE=token)."""
    python: str = "python3"
    """The interpreter on the nodes: of the agent, and for `{python}` in recipes."""
    directory: str | None = None
    """Where agents keep their files on a node; None: its TMPDIR."""
    look_seconds: float = 2.0
    max_pending: int | None = 16
    """How many jobs that no agent has claimed Ray may have at a time."""
    autoscales: bool = False
    """True: the cluster grows with what is asked of it; the nodes of now limit nothing."""
    gpu_types: dict[str, str] = field(default_factory=dict)
    """A run's gpu_type, and what Ray calls it (accelerator_type)."""
    call_seconds: float = 20.0
    """How long Ray may take to answer."""

    def __post_init__(self) -> None:
        check_type("address", self.address, str)
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("address: must be the URL of Ray's dashboard, http(s)://host:port")
        for name in ("token_file", "directory"):
            check_type(name, getattr(self, name), str, None)
        check_type("python", self.python, str)
        for name in ("look_seconds", "call_seconds"):
            check_number(name, getattr(self, name), above=0)
        if self.max_pending is not None:
            check_type("max_pending", self.max_pending, int)
            check_number("max_pending", self.max_pending, above=0)
        if not isinstance(self.autoscales, bool):
            raise ValueError("autoscales: must be true or false")
        check_gpu_types(self.gpu_types)


@cache
def package() -> tuple[str, bytes]:
    """Return the agent's package, and its name, which tells its content."""
    content = bundle.make()
    return f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:32]}.zip", content


def body(job: Job, options: Options, gpu: str | None) -> dict[str, Any]:
    """Return the body of a submission. `gpu`: what Ray calls the type; '': any."""
    assert isinstance(job.mailbox, HttpMailboxAddress)
    resources = job.resources
    variables = {
        CLAIM_CODE: job.mailbox.claim_code,
        "RAY_JOB_STOP_SIGNAL": "SIGTERM",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    return {
        "submission_id": job.key.name,
        "entrypoint": _entrypoint(job, options),
        "entrypoint_num_cpus": resources.cpus or _SOME_CPU,
        "entrypoint_num_gpus": resources.gpus,
        "entrypoint_memory": int((resources.memory_gb or 0) * 1e9),
        # A share of a resource that every node with such GPUs has one of.
        "entrypoint_resources": (
            {f"accelerator_type:{gpu}": 0.001} if gpu and resources.gpus else {}
        ),
        "metadata": {"run_id": job.key.run_id, SERVICE: job.mailbox.api_url},
        "runtime_env": {"working_dir": f"gcs://{package()[0]}", "env_vars": variables},
    }


def _entrypoint(job: Job, options: Options) -> str:
    """Return the command: the agent in a directory of its own, out of reach of Ray's signals."""
    assert isinstance(job.mailbox, HttpMailboxAddress)
    base = shlex.quote(options.directory) if options.directory else '"${TMPDIR:-/tmp}"'
    words = [options.python, "-I", "-S", "-X", "utf8", "-c", _BOOT]
    where = [job.mailbox.api_url, job.key.run_id, str(job.key.attempt)]
    return (
        f"umask 077; directory=$(mktemp -d {base}/llm-train-XXXXXXXX) && package=$PWD && "
        f'cd "$directory" && exec {shlex.join(words)} "$package" detached http '
        f'{shlex.join(where)} "$directory"'
    )
