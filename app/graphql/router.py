"""GraphQL over HTTP, server-sent events and websockets, mounted at /graphql.

What the GraphQL over HTTP specification asks for and what is not for strangers: JSON bodies
only (a form on another site cannot send one), mutations by POST only, no batches, no uploads.
"""

from contextlib import suppress
from datetime import timedelta
from json import JSONDecodeError
from typing import Any

import orjson
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from graphql import GraphQLError, get_operation_ast
from graphql import OperationType as OperationKind
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData, process_result
from strawberry.http.parse_content_type import parse_content_type
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
)
from strawberry.types.execution import ExecutionResult, PreExecutionError
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UnsetType

from app.db.current_principal import act_as
from app.domain import principals
from app.domain.team import TOKEN_PREFIX
from app.domain.tokens import secrets_match
from app.graphql import limits
from app.graphql.budget import Memory
from app.graphql.context import Context
from app.graphql.documents import Documents
from app.graphql.ide import graphiql
from app.graphql.schema import Schema
from app.server.guard import bearer
from app.settings import Settings

MODERN = "application/graphql-response+json"


class Refused(HTTPException):
    """A request that is not answered with a result of GraphQL."""

    def __init__(self, status: int, reason: str, code: str = "BAD_REQUEST") -> None:
        super().__init__(status, reason)
        self.code = code


class _WebSocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """Closes with 4400 where a message is of another shape than the protocol's."""

    async def handle_message(self, message: Any) -> None:
        try:
            if message["type"] == "subscribe":
                _request_data(message["payload"])
            await super().handle_message(message)
        except (KeyError, TypeError, AttributeError, HTTPException):
            await self.handle_invalid_message("Not a message of graphql-transport-ws")


class GraphQLApp(GraphQL[Context, None]):
    """The ASGI app behind /graphql."""

    graphql_transport_ws_handler_class = _WebSocketHandler

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            Schema(introspection=settings.introspection),
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
            connection_init_wait_timeout=timedelta(seconds=8),
        )
        self.api_token = settings.api_token
        self.memory = Memory()
        self.documents = Documents()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await super().__call__(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            try:
                response = await self.run(request)
            except HTTPException as refusal:
                response = await self._refusal(request, refusal)
            await response(scope, receive, send)
        finally:
            if context := scope.get("graphql"):
                context.release()

    async def _refusal(self, request: Request, refusal: HTTPException) -> Response:
        odd = refusal.status_code == 405
        code = getattr(refusal, "code", "METHOD_NOT_ALLOWED" if odd else "BAD_REQUEST")
        error = {"message": refusal.reason, "extensions": {"code": code}}
        response = await self.get_sub_response(request)
        response.status_code = refusal.status_code
        if odd:
            response.headers["Allow"] = "POST" if request.method == "GET" else "GET, POST"
        return self.create_response({"errors": [error]}, response)

    # Before: what the request says.

    def is_websocket_origin_allowed(self, request: WebSocket, origin: str) -> bool:
        return True  # the guard has judged it

    async def get_context(self, request: Request | WebSocket, response: Any) -> Context:
        context = Context(request, self.memory, self.documents)
        request.scope["graphql"] = context
        return context

    async def on_ws_connect(self, context: Context) -> UnsetType:
        # A browser cannot set headers on a websocket; the token comes in its first message.
        if context.principal == principals.ANONYMOUS:
            params = context.connection_params
            header = next((params[key] for key in params if key.lower() == "authorization"), "")
            token = bearer(str(header)) or ""
            if token.startswith(TOKEN_PREFIX):
                principal = await context.authenticator.find(token)
            else:
                principal = (
                    principals.API_TOKEN if secrets_match(token, self.api_token or "") else None
                )
            if principal is None:
                context.authenticator.refuse(context.address, "")  # counted, and recorded
                raise ConnectionRejectionError
            context.principal = principal
            act_as(context.principal)  # what this connection asks from now on
            context.end_with(principal.token_id)
        return UnsetType()

    def should_render_graphql_ide(self, request: Any) -> bool:
        return (
            request.method == "GET"
            and "query" not in request.query_params
            and "text/html" in _accept(request)
        )

    async def render_graphql_ide(self, request: Request) -> Response:
        return graphiql()

    def decode_json(self, data: str | bytes) -> object:
        # Not orjson, for which 2**64 is a float.
        try:
            return from_json(data, allow_inf_nan=False)
        except ValueError as error:
            raise JSONDecodeError(str(error), "", 0) from None

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        if request.method == "GET":
            body: Any = self.parse_query_params(request.query_params)
        elif parse_content_type(request.content_type or "")[0].lower() == "application/json":
            body = self.parse_json(await request.get_body())
        else:
            raise Refused(415, "Send the request as JSON: `Content-Type: application/json`.")
        data = _request_data(body)
        if not data.query:
            raise Refused(400, "The request has no `query`.")
        # Clients list every type that they can read, so a stream is answered to those that
        # can read nothing else, and to subscriptions.
        accept = _accept(request)
        if "text/event-stream" in accept and (
            "json" not in accept or self._subscribes(data.query, data.operation_name)
        ):
            data.protocol = "sse"
        return data

    def _subscribes(self, query: str, name: str | None) -> bool:
        """Return True if the operation is a subscription."""
        with suppress(GraphQLError, RecursionError):
            operation = get_operation_ast(self.documents.parse(query), name)
            return operation is not None and operation.operation is OperationKind.SUBSCRIPTION
        return False

    # Between: the execution.

    async def execute_single(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        data: GraphQLRequestData = kwargs["request_data"]
        reading = kwargs["request_adapter"].method == "GET"
        allowed = {OperationType.QUERY} | (set() if reading else {OperationType.MUTATION})
        try:
            result = await self.schema.execute(
                data.query,
                variable_values=data.variables,
                context_value=kwargs["context"],
                operation_name=data.operation_name,
                allowed_operation_types=allowed,
                operation_extensions=data.extensions,
            )
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.MUTATION:
                raise Refused(405, "Send mutations by POST.", "METHOD_NOT_ALLOWED") from None
            raise Refused(
                400, "Send subscriptions over a websocket, or with `Accept: text/event-stream`."
            ) from None
        except CannotGetOperationTypeError as error:
            raise Refused(400, error.as_http_error_reason()) from None
        for problem in result.errors or ():
            if (problem.extensions or {}).get("code") == "TIMEOUT":
                raise Refused(503, problem.message, "TIMEOUT")
        return result

    # After: what the response says.

    async def process_result(
        self, request: Request, result: ExecutionResult
    ) -> GraphQLHTTPResponse:
        answer = process_result(result)
        if isinstance(result, PreExecutionError):
            del answer["data"]  # nothing was executed
        return answer

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        modern = MODERN in _accept(request)
        response = Response(media_type=MODERN if modern else "application/json")
        del response.headers["content-length"]
        response.headers["content-type"] = f"{response.media_type}; charset=utf-8"
        response.status_code = 0
        return response

    async def create_streaming_response(
        self, request: Any, stream: Any, sub_response: Response, headers: Any
    ) -> Response:
        del sub_response.headers["content-type"]  # the stream has its own
        if "head" in request.scope:  # for which no server would cut a stream short
            return Response(headers={**sub_response.headers, **headers})
        return await super().create_streaming_response(request, stream, sub_response, headers)

    def encode_json(self, data: object) -> str:
        return orjson.dumps(data).decode()

    def create_response(self, response_data: Any, sub_response: Response) -> Response:
        status = sub_response.status_code
        if not status:
            failed = "data" not in response_data and sub_response.media_type == MODERN
            status = 400 if failed else 200
        return Response(orjson.dumps(response_data), status, sub_response.headers)


def _accept(request: Any) -> str:
    """Return what the client can read; media types mean the same in any case."""
    return str(request.headers.get("accept", "")).lower()


def _request_data(body: Any) -> GraphQLRequestData:
    """Return the parts of a request, with their types checked. Raises Refused."""
    if not isinstance(body, dict):
        raise Refused(400, "The request must be one JSON object; batches are not answered.")
    for name, kind, what in (
        ("query", str, "a string"),
        ("operationName", str, "a string"),
        ("variables", dict, "an object"),
        ("extensions", dict, "an object"),
    ):
        if not isinstance(body.get(name), kind | None):
            raise Refused(400, f"`{name}` must be {what} or null.")
    query = body.get("query")
    if query is not None and len(query) > limits.CHARACTERS:
        raise Refused(
            400, f"The query is longer than {limits.CHARACTERS:,} characters.", "TOO_COMPLEX"
        )
    return GraphQLRequestData(
        query, body.get("variables"), body.get("operationName"), body.get("extensions")
    )
