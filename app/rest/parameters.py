"""Shared by routes: ids in paths, route classes, and what a POST with JSON documents."""

import re
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, NamedTuple, cast, get_origin

from fastapi import Path, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.datastructures import QueryParams
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from app.domain.ids import PATTERN, parse_timestamp
from app.domain.requests import EXPERIMENT_ID, RUN_ID, VERIFICATION_ID
from app.rest.problems import describe_errors

ExperimentId = Annotated[str, Path(pattern=PATTERN.format("exp"), examples=[EXPERIMENT_ID])]
RunId = Annotated[str, Path(pattern=PATTERN.format("run"), examples=[RUN_ID])]
VerificationId = Annotated[str, Path(pattern=PATTERN.format("vfy"), examples=[VERIFICATION_ID])]
Time = Annotated[str, BeforeValidator(parse_timestamp)]

EXAMPLE_KEY = "a-name-for-this-request"
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": EXAMPLE_KEY,
    "description": "The same key with the same body replays the first answer.",
}


# FastAPI gives each model of parameters an alias, of which Pydantic warns. FastAPI silences that
# while a route is made; these validators are built later.
warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)


class Parameters(BaseModel):
    """Query parameters of a route, as its one argument; others than its fields are refused."""

    # Its validator is built by the first request for it, not at every start.
    model_config = ConfigDict(extra="forbid", defer_build=True)


bodies: dict[str, type[BaseModel]] = {}
"""Request models, by the name of their schema."""
answered: dict[str, type] = {}
"""The response type of each operation."""

_IDS = {
    name: re.compile(PATTERN.format(prefix)).fullmatch
    for name, prefix in (("experiment_id", "exp"), ("run_id", "run"))
}


def _get_name(route: APIRoute) -> str:
    return route.name


class _PathPattern:
    """The pattern of a route's path, compiled for the first path that begins alike."""

    def __init__(self, path: str) -> None:
        self._path, self._beginning = path, path.partition("{")[0]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return compile_path(self._path)[0]

    def match(self, path: str) -> re.Match[str] | None:
        return self._regex.match(path) if path.startswith(self._beginning) else None


class LazyRoute(APIRoute):
    """A route whose function FastAPI analyses when a request, or the document, first needs that.

    It would do so as the route is made, and compile the pattern of its path: a start, which makes
    a hundred, would take 0.1 s more.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, methods: list[str], **options: Any
    ) -> None:
        # What a search for the route of a request reads first; `__getattr__` adds the rest.
        self.path, self.endpoint, self.name = path, endpoint, endpoint.__name__
        self.methods = set(methods)
        self.path_regex = cast("re.Pattern[str]", _PathPattern(path))
        self._options = {"methods": methods, **options}

    def __getattr__(self, name: str) -> Any:
        if name in _ANALYSED:
            self.analyse()
        return super().__getattribute__(name)

    def analyse(self) -> None:
        """Set what FastAPI makes of the function: two threads that do so at once set the same."""
        super().__init__(self.path, self.endpoint, **self._options)


_ANALYSED = {"app", "form_limits", "path_format", "param_convertors", *APIRoute.__annotations__}
"""Further attributes that the constructor of APIRoute sets."""


class DocumentedRoute(LazyRoute):
    """A route whose `response_model` is for /openapi.json only: `views` builds the bytes.

    FastAPI would build a validator for each. The name of its function is the operation's id.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, response_model: Any = None, **more: Any
    ) -> None:
        more["generate_unique_id_function"] = _get_name
        super().__init__(path, endpoint, response_model=None, **more)
        if isinstance(response_model, type):
            answered[self.name] = response_model


class _Query(NamedTuple):
    """The argument that a route makes of its query; `lists`: fields that may be repeated."""

    name: str
    model: type[BaseModel]
    lists: frozenset[str]

    def parse(self, query: QueryParams) -> BaseModel | None:
        """Return the argument, None if it is wrong. Of a repeated value the last counts."""
        values: dict[str, Any] = {}
        for name, value in query.multi_items():
            if name in self.lists:
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
        try:
            return self.model.model_validate(values)
        except ValidationError:
            return None


def _query_of(dependant: Dependant) -> _Query | None:
    """Return the model of all query parameters, where a route has one."""
    for field in dependant.query_params:
        model = field.field_info.annotation
        if len(dependant.query_params) == 1 and isinstance(model, type(BaseModel)):
            kinds = {name: get_origin(of.annotation) for name, of in model.model_fields.items()}
            return _Query(field.name, model, frozenset(n for n in kinds if kinds[n] is list))
    return None


class DirectRoute(DocumentedRoute):
    """A hot route with no parameters but the request, ids in the path and a model of the query.

    FastAPI matches and documents it, and rejects what is malformed. Its parameter handling and its
    exit stacks, half of the cost of a short request, are skipped. Any dependency (of the route, a
    router or the app) or other parameter brings them back.
    """

    query: _Query | None

    def analyse(self) -> None:
        super().analyse()
        dependant = self.dependant
        self.query = _query_of(dependant)
        if not (
            dependant.dependencies
            or (dependant.query_params and self.query is None)
            or dependant.header_params
            or dependant.cookie_params
            or dependant.body_params
        ):
            self.app = self._make_direct(self.app)

    def parse(self, request: Request) -> dict[str, Any] | None:
        """Return the arguments beside the request; None to let FastAPI parse or reject them."""
        ids = request.path_params
        if not all(_IDS[name](value) for name, value in ids.items()):
            return None
        if self.query is None:
            return ids
        query = self.query.parse(request.query_params)
        return None if query is None else {**ids, self.query.name: query}

    def _make_direct(self, general: ASGIApp) -> ASGIApp:
        async def direct(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            arguments = self.parse(request)
            if arguments is None:
                await general(scope, receive, send)
            else:
                response: Response = await self.endpoint(request, **arguments)
                await response(scope, receive, send)

        return direct


def is_run_id(value: str) -> bool:
    """Return True for what `RunId` accepts in a path."""
    return _IDS["run_id"](value) is not None


def accepts_json(
    model: type[BaseModel], *errors: int, also: dict[int, str] | None = None
) -> dict[str, Any]:
    """Return the decorator's arguments for a route that reads `model` and an Idempotency-Key.

    Args:
        errors: error statuses beside those of every body and of the key (409).
        also: other statuses of success, with their meaning.
    """
    bodies[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    required = any(field.is_required() for field in model.model_fields.values())
    entry = {
        "parameters": [_KEY],
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}},
    }
    more = {status: {"description": meaning} for status, meaning in (also or {}).items()}
    return {
        "openapi_extra": entry,
        "responses": describe_errors(400, 409, 415, 422, *errors) | more,
    }
