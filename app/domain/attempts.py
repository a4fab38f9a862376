"""The requests of an agent that cannot read the service's files, validated once.

The agent's side of the same protocol is in app/agent/http.py.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.domain.text import clean

AGENT = "3f9c2a7e51d04b86a1c0e7d25b9f4813"
"""The agent of the documented examples."""
MAX_LOG_BYTES = 1024 * 1024
"""The longest piece of output in one request."""
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

_Nonce = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
_Time = Annotated[str, StringConstraints(max_length=64), AfterValidator(clean)]


class Stop(StrEnum):
    """The stop that the service asked of an agent."""

    STOP = "stop"
    KILL = "kill"


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ClaimRequest(_Request):
    """An agent takes the attempt; the first one wins."""

    agent: _Nonce = Field(description="Random, made by the agent; the same when it asks again.")
    host: Annotated[str, StringConstraints(max_length=255), AfterValidator(clean)] | None = Field(
        None, description="The machine, for people."
    )


class PulseRequest(_Request):
    """The agent lives."""

    ran_seconds: Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)] = 0.0
    heard: Stop | None = Field(None, description="The order that the agent carries out already.")
    stopping: bool = Field(
        False, description="The agent stops its trainer because its cluster wants that."
    )
    node: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        None, description="One of several nodes, which only asks: its agent claimed nothing."
    )


class ExitRequest(_Request):
    """The end of an attempt, as its agent saw it."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    exit_code: Annotated[int, Field(ge=0, le=2**31)] | None = None
    signal: Annotated[int, Field(ge=1, le=128)] | None = None
    stop_sent: bool = False
    killed: bool = False
    oom: bool = False
    engine_lost: Annotated[
        bool, Field(description="True if the agent's parent was killed, as with its node.")
    ] = False
    log_start: Annotated[int, Field(ge=0, le=2**53)] = Field(
        0, description="Not used: the service knows where it has put this attempt's output."
    )
    started_at: _Time | None = None
    ended_at: _Time | None = None
    detail: Annotated[str, StringConstraints(max_length=4000), AfterValidator(clean)] = ""
