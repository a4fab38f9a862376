"""What the bare cells read: types alone, by small pydantic models."""

from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict


class RunIn(BaseModel):
    model: str
    dataset: dict[str, Any] = {}
    hyperparams: dict[str, Any] = {}
    resources: dict[str, Any] = {}
    notes: str | None = None


class ColumnsIn(BaseModel):
    steps: list[int]
    values: list[float]
    wall_times: list[float]


class PointIn(TypedDict):
    key: str
    step: int
    value: float
    wall_time: float


class ReportIn(BaseModel):
    batch: int
    metrics: dict[str, ColumnsIn] = {}
    points: list[PointIn] = []
