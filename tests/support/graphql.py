"""GraphQL as tests speak it: data without errors, one error's code, mutations by name, sockets."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from app.db.sql import Tx
from app.domain.principals import SUPERVISOR

PROTOCOL = websockets.Subprotocol("graphql-transport-ws")


class Graph:
    """A client of /graphql; `send` makes one HTTP request."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self.send = send

    def ask(self, query: str, /, **variables: Any) -> Any:
        """The whole answer to an operation."""
        answer = self.send("POST", "/graphql", json={"query": query, "variables": variables})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def data(self, query: str, /, **variables: Any) -> Any:
        """The data of an operation that has no errors."""
        answer = self.ask(query, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def code(self, query: str, /, **variables: Any) -> str:
        """The code of the one error of an operation."""
        (error,) = self.ask(query, **variables)["errors"]
        return str(error["extensions"]["code"])

    def do(self, mutation: str, select: str, /, **input: Any) -> Any:
        """The payload of a mutation: what is selected, and `userErrors`."""
        kind = mutation[0].upper() + mutation[1:] + "Input"
        query = f"""mutation ($input: {kind}!) {{
            {mutation}(input: $input) {{ {select} userErrors {{ code message field }} }}
        }}"""
        return self.data(query, input=input)[mutation]

    def experiment(self, **fields: Any) -> str:
        """A new experiment's id."""
        given = {"name": "e", "taskType": "test"} | fields
        return str(self.do("createExperiment", "experiment { id }", **given)["experiment"]["id"])

    def run(self, experiment: str, **fields: Any) -> str:
        """A new external run's id."""
        given = {"experimentId": experiment, "model": "m"} | fields
        return str(self.do("createRun", "run { id }", **given)["run"]["id"])

    def cancel(self, run: str) -> Any:
        """Cancels a run; the checkpoint it leaves."""
        return self.do("cancelRun", "checkpoint { id ckptPath state }", runId=run)["checkpoint"]

    def mark(self, run: str, path: str, **fields: Any) -> Any:
        """Marks a checkpoint."""
        given = {"runId": run, "ckptPath": path, "tagType": "candidate"} | fields
        return self.do("markCheckpoint", "checkpoint { id ckptPath }", **given)["checkpoint"]


class Socket:
    """One connection that has said hello."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> Any:
        async with asyncio.timeout(60):
            text = await self.connection.recv()
        assert isinstance(text, str), "the protocol's messages are text"
        return json.loads(text)

    async def ask(self, query: str, name: str = "1", **variables: Any) -> None:
        payload = {"query": query, "variables": variables}
        await self.send(type="subscribe", id=name, payload=payload)

    async def next(self) -> Any:
        """The data of the next answer; None at the end."""
        message = await self.receive()
        if message["type"] == "complete":
            return None
        assert message["type"] == "next", message
        assert "errors" not in message["payload"], message
        (found,) = message["payload"]["data"].values()
        return found


@asynccontextmanager
async def connected(server: str, hello: Any = None, **headers: str) -> AsyncIterator[Socket]:
    """A websocket of the server at this URL, that has said hello."""
    url = server.replace("http", "ws") + "/graphql"
    async with websockets.connect(
        url, subprotocols=[PROTOCOL], additional_headers=headers
    ) as connection:
        socket = Socket(connection)
        await socket.send(type="connection_init", **({"payload": hello} if hello else {}))
        assert (await socket.receive())["type"] == "connection_ack"
        yield socket


@contextmanager
def statements() -> Iterator[list[str]]:
    """The texts of the statements that are executed meanwhile for requests.

    The supervisor's are left out: it ticks whenever it likes, so that a test which counted
    them would count other numbers on a slower machine.
    """
    seen: list[str] = []
    lock = threading.Lock()
    execute = Tx._execute

    def counted(self: Tx, statement: Any, *given: Any) -> None:
        if self.principal != SUPERVISOR:
            with lock:
                seen.append(statement.compiled(self.dialect).text)
        execute(self, statement, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tx, "_execute", counted)
        yield seen
