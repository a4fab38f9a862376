"""Types of the responses to trainers and agents: see `schemas`."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from app.rest.schemas import Directive, Json, RunStatus


class ReceiptAnswer(TypedDict):
    """The answer to a report."""

    run_id: str
    status: RunStatus
    attempt: int
    batch: Annotated[int, Field(description="The last batch of this attempt that was taken in.")]
    should_stop: bool
    stop_checkpoint: Annotated[
        str | None, Field(description="The name to save under when stopping.")
    ]


class ResumeSpec(TypedDict):
    """The checkpoint that a resumed run starts from."""

    ckpt_path: str
    path: Annotated[str, Field(description="The directory, in the service's DATA_DIR.")]
    step: int | None
    sha256: Annotated[str | None, Field(description="Of its manifest.json, as far as known.")]


class DataDirAnswer(TypedDict):
    """The service's DATA_DIR."""

    path: str
    name: Annotated[str | None, Field(description="Content of its file `id`.")]


class SpecAnswer(TypedDict):
    """The instructions for a run's trainer."""

    format: int
    run_id: str
    experiment_id: str
    recipe: str | None
    model: str
    dataset: Json
    hyperparams: Json
    resources: Json
    notes: str
    checkpoint_dir: Annotated[
        str, Field(description="Directory the service reads checkpoints from.")
    ]
    resume: ResumeSpec | None
    data_dir: DataDirAnswer
    store: Annotated[
        bool, Field(description="Checkpoints go into an object store, by signed URLs.")
    ]


class LaunchAnswer(TypedDict):
    """The command and environment of the trainer."""

    argv: Annotated[
        list[str], Field(description="`{python}` stands for the agent's own interpreter.")
    ]
    env: Annotated[dict[str, str], Field(description="Beside the machine's own environment.")]
    cwd: str | None
    nonce: str
    stop_signal: Annotated[int, Field(description="0: none.")]
    grace_seconds: float
    max_log_bytes: int
    failpoints: dict[str, str]


class ClaimAnswer(TypedDict):
    """A claimed attempt."""

    run_id: str
    attempt: int
    token: Annotated[str, Field(description="For everything else of this attempt.")]
    config: LaunchAnswer
    spec: Annotated[Json, Field(description="The task of the trainer.")]
    log_offset: Annotated[int, Field(description="Bytes of its output received so far.")]
    pulse_seconds: float


class PulseAnswer(TypedDict):
    """The instructions for the agent."""

    order: Directive


class LogAnswer(TypedDict):
    """The size of the attempt's output that has arrived."""

    offset: int


class ExitAnswer(TypedDict):
    """The recorded end of the attempt."""

    run_id: str
    attempt: int
    record: Json


class FileAnswer(TypedDict):
    """A file that has arrived."""

    path: str
    size: int


class CommitAnswer(TypedDict):
    """A checkpoint that stands."""

    ckpt_path: str
    name: str


class TransferAnswer(TypedDict):
    """A piece of a file and its URL."""

    file: str
    offset: int
    size: int
    url: str


class UploadsAnswer(TypedDict):
    """The missing parts of a checkpoint; null: the storage has no URLs."""

    uploads: list[TransferAnswer] | None
    headers: Annotated[dict[str, str], Field(description="To send with each PUT.")]
    expires_seconds: float


class ResumeAnswer(TypedDict):
    """The files of the checkpoint that a run starts from; `manifest` is its manifest.json."""

    ckpt_path: str
    sha256: str
    manifest: str
    downloads: list[TransferAnswer]
    expires_seconds: float
