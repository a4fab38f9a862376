"""What the mutations take. The request models, the same as REST's, judge the values."""

import strawberry

from app.graphql.describe import attribute, input, optional
from app.graphql.scalars import Json

_KEY = "The same key with the same input replays the first answer."


@input
class CreateExperimentInput:
    """A new experiment."""

    name: str = attribute("What people call it.")
    task_type: str = attribute("What kind of training, such as `pretrain` or `sft`.")
    goal: str | None = optional("What it is for.")
    version: str | None = optional("The experiment's own version.")
    base_model: str | None = optional("The model it starts from.")
    owner: str | None = optional("Who it belongs to.")
    param_config: Json | None = optional("Parameters common to its runs: an object.")
    tags: list[str] | None = optional("Tags to find it by.")
    idempotency_key: str | None = optional(_KEY)


@input
class ResourcesInput:
    """What a run needs of the machine it runs on."""

    gpu_type: str | None = optional("Which GPU, such as `A100`.")
    count: int | None = optional("How many GPUs.")
    cpus: float | None = optional("How many CPU cores.")
    memory_gb: float | None = optional("How much memory, in GB.")
    nodes: int | None = optional("How many machines.")
    time_limit_minutes: float | None = optional("After how many minutes it is stopped.")


@input
class CreateRunInput:
    """A new run under an experiment."""

    experiment_id: strawberry.ID = attribute("The experiment it belongs to.")
    model: str = attribute("The model to train.")
    recipe: str | None = optional("What to execute; left out: an external trainer attaches.")
    dataset: Json | None = optional("The data: an object, such as its name and split.")
    hyperparams: Json | None = optional("Hyperparameters: an object.")
    resources: ResourcesInput | None = optional("What it needs of a machine.")
    notes: str | None = optional("Free text.")
    idempotency_key: str | None = optional(_KEY)


@input
class CancelRunInput:
    """Which run to cancel."""

    run_id: strawberry.ID = attribute("The run.")
    idempotency_key: str | None = optional(_KEY)


@input
class ResumeRunInput:
    """From where to go on, and with what."""

    run_id: strawberry.ID = attribute("The run to resume.")
    ckpt_path: str | None = optional("The checkpoint; left out: the newest ready one.")
    override_hyperparams: Json | None = optional("Hyperparameters to change: an object.")
    notes: str | None = optional("Free text.")
    idempotency_key: str | None = optional(_KEY)


@input
class MarkCheckpointInput:
    """What to put onto which checkpoint."""

    run_id: strawberry.ID = attribute("The run that it belongs to.")
    ckpt_path: str = attribute("Its logical path.")
    tag_type: str = attribute("A lower-case slug, such as `candidate` or `release`.")
    release_tag: str | None = optional("A release tag, unique in the experiment.")
    metrics: Json | None = optional("Metrics: an object of numbers.")
    idempotency_key: str | None = optional(_KEY)


@input
class VerifyCheckpointInput:
    """Which checkpoint to read again."""

    ckpt_path: str = attribute("Its logical path.")
    idempotency_key: str | None = optional(_KEY)
