"""Requests in MLflow's words. Unknown fields are ignored: clients of other versions send more."""

from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from app.domain.requests import MetricKey, Name
from app.domain.text import clean
from app.domain.tracking import MAX_LABEL, MAX_LABEL_KEY
from app.errors import BodyTooLarge, InvalidInput, MalformedBody, UnsupportedMediaType

B = TypeVar("B", bound="Body")

MAX_POINTS = 50_000
MAX_RESULTS = 50_000
"""So many results MLflow's clients may ask for; a page holds fewer."""
_LONGEST = 200

Key = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_LABEL_KEY), AfterValidator(clean)
]
Value = Annotated[str, StringConstraints(max_length=MAX_LABEL), AfterValidator(clean)]
Id = Annotated[str, StringConstraints(max_length=100)]
OrderText = Annotated[str, StringConstraints(max_length=500)]
Step = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Milliseconds = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Body(BaseModel):
    """A request. int64 may be texts, as protobuf's JSON has them."""

    model_config = ConfigDict(extra="ignore")


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
    tags: list[Tag] = []


class ExperimentTag(Tag):
    experiment_id: Id


class CreateRun(Body):
    experiment_id: Id = "0"
    run_name: Annotated[str, StringConstraints(max_length=MAX_LABEL), AfterValidator(clean)] = ""
    tags: list[Tag] = []


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
    metrics: Annotated[list[Metric], Field(max_length=MAX_POINTS)] = []
    params: list[Tag] = []
    tags: list[Tag] = []


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
    tags: list[Tag] = []
    dataset: Dataset


class ModelLink(Body):
    model_id: Id
    step: Step = 0


class LogInputs(OfRun):
    datasets: Annotated[list[DatasetInput], Field(max_length=1000)] = []
    models: Annotated[list[ModelLink], Field(max_length=1000)] = []


class LogOutputs(OfRun):
    models: Annotated[list[ModelLink], Field(max_length=1000)] = []


class CreateModel(Body):
    experiment_id: Id
    name: Annotated[str, StringConstraints(max_length=500), AfterValidator(clean)] = "model"
    model_type: Annotated[str, StringConstraints(max_length=500), AfterValidator(clean)] = ""
    source_run_id: Id = ""
    params: list[Tag] = []
    tags: list[Tag] = []


class UpdateModel(Body):
    status: str = ""


class ModelTags(Body):
    tags: list[Tag] = []


class ModelParams(Body):
    params: list[Tag] = []


class Search(Body):
    """What all searches have in common."""

    filter: Annotated[str, StringConstraints(max_length=10_000)] = ""
    order_by: Annotated[
        list[Annotated[str, StringConstraints(max_length=500)]], Field(max_length=10)
    ] = []
    max_results: Annotated[int, Field(ge=0, le=MAX_RESULTS)] = 1000
    page_token: Annotated[str, StringConstraints(max_length=200)] = ""
    experiment_ids: Annotated[list[Id], Field(max_length=1000)] = []
    run_view_type: str = "ACTIVE_ONLY"
    view_type: str = "ACTIVE_ONLY"


async def read(request: Request, model: type[B]) -> B:
    """Return the body as `model`. Raises UnsupportedMediaType, MalformedBody, InvalidInput.

    Anything but JSON is refused by its type: what a page elsewhere can send without asking first
    never counts as a request.
    """
    if (declared := request.headers.get("content-length", "")).isdigit():
        most = request.app.state.settings.max_body_bytes
        if int(declared) > most:
            raise BodyTooLarge(f"A body may have at most {most} bytes; send less at once.")
    content = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content and media_type != "application/json":
        raise UnsupportedMediaType("Send JSON, with the header `Content-Type: application/json`.")
    return parse(model, content or b"{}")


def parse(model: type[B], content: bytes) -> B:
    """Return JSON as `model`. Raises MalformedBody, InvalidInput."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from None


def read_query(request: Request, model: type[B]) -> B:
    """Return the query parameters as `model`. Raises InvalidInput."""
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> MalformedBody | InvalidInput:
    if error.error_count() > 1000:  # to look at each would take seconds
        return InvalidInput(f"{error.error_count()} things are wrong with this request.")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody(first["msg"].replace("Invalid", "The body is not", 1) + ".")
    where = ".".join(str(part)[:_LONGEST] for part in first["loc"])
    return InvalidInput(f"{where or 'The body'}: {first['msg'].removeprefix('Value error, ')}.")
