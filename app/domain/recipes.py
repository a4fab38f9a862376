"""Recipes: what a run may execute, as the operator configured it in TOML.

    [recipes.sft]
    command = ["{python}", "train.py"]   # an argv list; no shell ever sees it
    # {run_dir}, {resume_path} and {hyperparams.NAME} are filled in, each within its word
    grace_seconds = 60

* `Recipe`: one of them; `recipe_file` reads them.
* `build_environment`: what a trainer finds in its environment, and nothing else;
  `build_remote_environment`: what one on another machine finds beside that one's own.
"""

import re
import signal
from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from llm_train.arguments import BadArgument, to_argument
from pydantic import PlainValidator, model_validator
from pydantic.dataclasses import dataclass

from app.agent import placeholders
from app.domain.health import HealthAction
from app.domain.recipe_values import (
    DEFAULT_RETRY_ON,
    RESERVED,
    AtLeastOne,
    Command,
    Environment,
    Flag,
    Folders,
    HealthRules,
    Launchers,
    Needs,
    Number,
    OptionalPath,
    Patterns,
    Pause,
    RetryReasons,
    Seconds,
    StopSignal,
    Text,
    one_of,
)
from app.domain.resources import Resources

LONGEST_PAUSE = 3600.0
"""Seconds up to which the pause between attempts is doubled."""
LOCAL = "local"
"""The launcher of this machine, which is always there."""

DEFAULT_ENV_ALLOW = (
    # who and where
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*",
    # the Python and the libraries that the operator's own shell would use
    "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
    # devices and threads
    "CUDA_*", "NCCL_*", "HIP_*", "ROCM_*", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    # caches; HF_TOKEN, WANDB_API_KEY and the like pass only where a recipe names them
    "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip

_HYPERPARAMS = "hyperparams."
_PASSED = re.compile(r"\{hyperparams\.([^{}]+)\}")


class RecipeError(ValueError):
    """The recipes cannot be used as they are; the message names file, recipe and key."""


class LauncherTable(NamedTuple):
    """One table `[launchers.NAME]`: the kind of launcher, and the options that it is made with."""

    name: str
    kind: str
    options: Mapping[str, Any]


class BestMode(StrEnum):
    """The direction in which a metric improves: `min` if lower values are better, else `max`."""

    MIN = "min"
    MAX = "max"


class StallAction(StrEnum):
    """The action taken on a trainer that is alive and makes no progress."""

    TELL = "tell"
    STOP = "stop"
    RETRY = "retry"


@dataclass(frozen=True)
class Recipe:
    """One way to train, checked as it is made. Durations are seconds."""

    name: str
    command: Command
    description: Text = ""
    stop_signal: StopSignal = signal.SIGTERM
    """None: the stop file and the answers to reports alone ask the trainer to stop."""
    grace_seconds: Seconds = 30.0
    env: Environment = field(default_factory=dict)
    env_allow: Patterns = DEFAULT_ENV_ALLOW
    heartbeat_seconds: Seconds = 60.0
    """The longest silence of a healthy trainer; 0: it never reports on its own."""
    start_seconds: Seconds = 300.0
    """The longest time to the first report, where heartbeats are expected."""
    stall_seconds: Seconds = 1800.0
    """The longest time without a further step; 0: any. What is done then is `on_stall`."""
    on_stall: Annotated[StallAction, PlainValidator(one_of(StallAction))] = StallAction.TELL
    resources: Needs = field(default_factory=Resources)
    """Default resources of its runs."""
    max_attempts: AtLeastOne = 1
    retry_on: RetryReasons = DEFAULT_RETRY_ON
    retry_seconds: Pause = 10.0
    """The pause before the second attempt; it doubles with each further one, up to an hour."""
    max_log_mb: AtLeastOne = 256
    """What a run's output may take of the disk: of more, the beginning and the newest are kept."""
    keep_checkpoints: Number = 0
    """How many checkpoints of a run to keep; 0: all."""
    keep_best: Text = ""
    """The metric whose best checkpoint is kept besides; empty: none is."""
    keep_best_mode: Annotated[BestMode, PlainValidator(one_of(BestMode))] = BestMode.MIN
    working_dir: OptionalPath = None
    """Where the command starts; None: where the server did."""
    launcher: Launchers = (LOCAL,)
    """Where it runs: tables `[launchers.NAME]`, or this machine; the first that has room."""
    health: HealthRules = ()
    """What its metrics may not be; that one is NaN is an event in any case."""
    tensorboard: Folders = ""
    """Which folders of the run's directory hold event files of TensorBoard to follow; "": none."""
    preemptible: Flag = True
    """A run of a higher priority may take the place of one of this recipe."""
    requires_report: Flag = True
    """Success needs a reported finish; False: exit code 0 without a stop is success."""

    @model_validator(mode="after")
    def _check_retries(self) -> Self:
        if self.max_attempts == 1:
            if any(rule.action is HealthAction.RETRY for rule in self.health):
                raise ValueError("health: 'retry' needs max_attempts of 2 or more")
            if self.on_stall is StallAction.RETRY:
                raise ValueError("on_stall: 'retry' needs max_attempts of 2 or more")
        return self

    def argv(self, python: str, hyperparams: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Return the command, with the server's interpreter for a leading `{python}` and each
        `{hyperparams.NAME}`. A placeholder of a hyperparameter that the run does not have is left
        out; paths are filled in by the agent. Raises BadArgument."""
        first, *rest = self.command
        passed = hyperparams or {}
        values = {
            f"{_HYPERPARAMS}{name}": None if (value := passed.get(name)) is None
            else to_argument(name, value)
            for name in self.passed_hyperparams
        }  # fmt: skip
        words = [python if first == "{python}" else first, *rest]
        return tuple(placeholders.fill(words, values))

    @property
    def passed_hyperparams(self) -> list[str]:
        """Return the names of the hyperparameters that the command has placeholders for."""
        return sorted({name for word in self.command for name in _PASSED.findall(word)})

    def check_hyperparams(self, hyperparams: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the name of a hyperparameter that the command cannot take, and why; else None."""
        for name in self.passed_hyperparams:
            try:
                if hyperparams.get(name) is not None:
                    to_argument(name, hyperparams[name])
            except BadArgument as error:
                return name, str(error)
        return None

    def pause_after(self, attempt: int) -> float:
        """Return the seconds from the end of a failed attempt to the next one."""
        doubled = self.retry_seconds * 2.0 ** min(attempt - 1, 20)
        return max(self.retry_seconds, min(doubled, LONGEST_PAUSE))


_SFT_ENV_ALLOW = (*DEFAULT_ENV_ALLOW, "HF_SFT_DIR")
BUILT_IN = (
    Recipe(
        name="demo",
        command=("{python}", "-m", "app.recipes.demo"),
        description="A small character-level language model; trains in seconds on a CPU.",
        grace_seconds=10.0,
    ),
    Recipe(
        name="hf-sft",
        command=("{python}", "-m", "app.recipes.hf_sft"),
        description="Supervised fine-tuning with TRL: a model and a data set of the hub, or local.",
        env_allow=_SFT_ENV_ALLOW,
        grace_seconds=120.0,
        start_seconds=1800.0,
    ),
    Recipe(
        name="torchrun",
        command=(
            "{python}", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=auto",
            "-m", "app.recipes.hf_sft",
        ),
        description="hf-sft with one rank for each GPU, or for each CPU where there is none.",
        env_allow=_SFT_ENV_ALLOW,
        grace_seconds=120.0,
        start_seconds=1800.0,
    ),
)  # fmt: skip


def build_environment(
    recipe: Recipe, server_env: Mapping[str, str], run_env: Mapping[str, str]
) -> dict[str, str]:
    """Return a trainer's environment: allowed variables of the server, the recipe's, the run's.

    Later ones win. No LLM_TRAIN_ variable passes from the server, whatever the patterns say.
    """
    exact = {pattern for pattern in recipe.env_allow if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in recipe.env_allow if pattern.endswith("*"))
    allowed = {
        name: value
        for name, value in server_env.items()
        if (name in exact or name.startswith(prefixes)) and not name.startswith(RESERVED)
    }
    return allowed | dict(recipe.env) | dict(run_env)


def with_tracking(
    environment: Mapping[str, str], api_url: str, run_id: str, token: str
) -> dict[str, str]:
    """Add the variables by which unmodified clients of MLflow and W&B report into a recipe's run.

    `token` is the attempt's: leftovers of an earlier attempt can no longer report. A recipe
    that names a server, a key or a mode of its own keeps that.
    """
    variables = dict(environment)
    if "MLFLOW_TRACKING_URI" not in environment:
        variables |= {
            "MLFLOW_TRACKING_URI": f"{api_url}/mlflow",
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_TRACKING_USERNAME": run_id,
            "MLFLOW_TRACKING_PASSWORD": token,
        }
    if environment.keys().isdisjoint(("WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_MODE")):
        variables |= {
            "WANDB_BASE_URL": f"{api_url}/wandb",
            "WANDB_RUN_ID": run_id,
            "WANDB_API_KEY": f"{run_id}-{token}",
        }
    return variables


def build_remote_environment(
    recipe: Recipe, server_env: Mapping[str, str], run_env: Mapping[str, str]
) -> dict[str, str]:
    """Return what a trainer on another machine gets beside that machine's own environment.

    Of the server's variables only those that the recipe names itself (`HF_TOKEN`): paths and
    devices are the machine's.
    """
    named = tuple(name for name in recipe.env_allow if name not in DEFAULT_ENV_ALLOW)
    return build_environment(replace(recipe, env_allow=named), server_env, run_env)
