"""Requests in MLflow's words. int64 may be texts, as protobuf's JSON has them."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from app.domain.requests import MetricKey, Name
from app.domain.text import clean
from app.domain.tracking import MAX_LABEL, MAX_LABEL_KEY
from app.server.bodies import Body
from app.server.bodies import read as read
from app.server.bodies import read_query as read_query

MAX_POINTS = 50_000
MAX_RESULTS = 50_000
"""So many results MLflow's clients may ask for; a page holds fewer."""

Key = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_LABEL_KEY), AfterValidator(clean)
]
Value = Annotated[str, StringConstraints(max_length=MAX_LABEL), AfterValidator(clean)]
Id = Annotated[str, StringConstraints(max_length=100)]
OrderText = Annotated[str, StringConstraints(max_length=500)]
Step = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Milliseconds = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Tag(Body):
    """A key with a value: a tag, or a parameter."""

    key: Key
    value: Value = ""


def as_dict(tags: list[Tag]) -> dict[str, str]:
    """Return tags or parameters by key."""
    return {tag.key: tag.value for tag in tags}


class Metric(Body):
    """One value of a metric."""

    key: MetricKey
    value: float = 0.0
    timestamp: Milliseconds = 0
    step: Step = 0
    model_id: Id | None = None
    dataset_name: Value | None = None
    dataset_digest: Value | None = None


class CreateExperiment(Body):
    name: Name
    tags: list[Tag] = Field(default_factory=list)


class ExperimentTag(Tag):
    experiment_id: Id


class CreateRun(Body):
    experiment_id: Id = "0"
    run_name: Annotated[str, StringConstraints(max_length=MAX_LABEL), AfterValidator(clean)] = ""
    tags: list[Tag] = Field(default_factory=list)


class OfRun(Body):
    """A request about a run, which older clients call `run_uuid`."""

    run_id: Id = ""
    run_uuid: Id = ""

    @property
    def run(self) -> str:
        return self.run_id or self.run_uuid


class UpdateRun(OfRun):
    status: str | None = None
    run_name: Annotated[str, StringConstraints(max_length=MAX_LABEL), AfterValidator(clean)] = ""


class LogMetric(OfRun, Metric):
    pass


class LogParameter(OfRun, Tag):
    pass


class LogBatch(OfRun):
    metrics: Annotated[list[Metric], Field(max_length=MAX_POINTS)] = Field(default_factory=list)
    params: list[Tag] = Field(default_factory=list)
    tags: list[Tag] = Field(default_factory=list)


class RunTag(OfRun, Tag):
    pass


class Dataset(Body):
    name: Annotated[str, StringConstraints(max_length=500), AfterValidator(clean)]
    digest: Annotated[str, StringConstraints(max_length=100), AfterValidator(clean)] = ""
    source_type: Value = ""
    source: Annotated[str, StringConstraints(max_length=65_536), AfterValidator(clean)] = ""
    schema_: Annotated[
        str, Field(alias="schema"), StringConstraints(max_length=65_536), AfterValidator(clean)
    ] = ""
    profile: Annotated[str, StringConstraints(max_length=65_536), AfterValidator(clean)] = ""


class DatasetInput(Body):
    tags: list[Tag] = Field(default_factory=list)
    dataset: Dataset


class ModelLink(Body):
    model_id: Id
    step: Step = 0


class LogInputs(OfRun):
    datasets: Annotated[list[DatasetInput], Field(max_length=1000)] = Field(default_factory=list)
    models: Annotated[list[ModelLink], Field(max_length=1000)] = Field(default_factory=list)


class LogOutputs(OfRun):
    models: Annotated[list[ModelLink], Field(max_length=1000)] = Field(default_factory=list)


class CreateModel(Body):
    experiment_id: Id
    name: Annotated[str, StringConstraints(max_length=500), AfterValidator(clean)] = "model"
    model_type: Annotated[str, StringConstraints(max_length=500), AfterValidator(clean)] = ""
    source_run_id: Id = ""
    params: list[Tag] = Field(default_factory=list)
    tags: list[Tag] = Field(default_factory=list)


class UpdateModel(Body):
    status: str = ""


class ModelTags(Body):
    tags: list[Tag] = Field(default_factory=list)


class ModelParams(Body):
    params: list[Tag] = Field(default_factory=list)


class Search(Body):
    """The fields that all searches share."""

    filter: Annotated[str, StringConstraints(max_length=10_000)] = ""
    order_by: Annotated[
        list[Annotated[str, StringConstraints(max_length=500)]], Field(max_length=10)
    ] = Field(default_factory=list)
    max_results: Annotated[int, Field(ge=0, le=MAX_RESULTS)] = 1000
    page_token: Annotated[str, StringConstraints(max_length=200)] = ""
    experiment_ids: Annotated[list[Id], Field(max_length=1000)] = Field(default_factory=list)
    run_view_type: str = "ACTIVE_ONLY"
    view_type: str = "ACTIVE_ONLY"
