"""Query: what can be asked."""

import asyncio
from typing import Annotated, Any

import strawberry

from app.domain.ids import is_id
from app.errors import InvalidInput
from app.graphql.connections import After, Before, Connection, First, Last, Node, connect, window
from app.graphql.describe import Info, field, output
from app.graphql.filters import ExperimentFilter, ExperimentOrder
from app.graphql.types import Checkpoint, Experiment, Run, checkpoints, runs
from app.services import events, listing
from app.services.keyset import MOST
from app.store import tables

Id = Annotated[strawberry.ID, strawberry.argument(description="Its id.")]
Ids = Annotated[list[strawberry.ID], strawberry.argument(description="Their ids, at most 100.")]
_TABLES = {"exp": tables.Experiment, "run": tables.Run, "ckpt": tables.Checkpoint}


async def node(info: Info, id: str) -> Any:
    """Whatever has this id, or None."""
    prefix = id.partition("_")[0]
    experiment_id, colon, seq = id.partition(":")
    if colon and seq.isascii() and seq.isdigit() and len(seq) < 19:
        found = await info.context.load(("event", id), id, lambda tx, _: [
            events.after(tx, experiment_id, int(seq) - 1, 1)
        ])  # fmt: skip
        return next((event for event in found if event.seq == int(seq)), None)
    if prefix not in _TABLES or not is_id(id, prefix):
        return None
    return await info.context.row(_TABLES[prefix], id)


async def _of_table(info: Info, id: str, table: type[Any], prefix: str) -> Any:
    return await info.context.row(table, id) if is_id(id, prefix) else None


@output
class Query:
    """Everything that can be asked."""

    @field
    async def node(self, info: Info, id: Id) -> Node | None:
        """Whatever has this id; null if nothing has."""
        found: Node | None = await node(info, id)
        return found

    @field
    async def nodes(self, info: Info, ids: Ids) -> list[Node | None]:
        """Whatever has these ids, in their order."""
        if len(ids) > MOST:
            raise InvalidInput(f"Ask for at most {MOST} nodes at once.")
        return list(await asyncio.gather(*(node(info, id) for id in ids)))

    @field
    async def experiment(self, info: Info, id: Id) -> Experiment | None:
        """The experiment with this id."""
        found: Experiment | None = await _of_table(info, id, tables.Experiment, "exp")
        return found

    @field
    async def run(self, info: Info, id: Id) -> Run | None:
        """The run with this id."""
        found: Run | None = await _of_table(info, id, tables.Run, "run")
        return found

    @field
    async def checkpoint(self, info: Info, id: Id) -> Checkpoint | None:
        """The checkpoint with this id."""
        found: Checkpoint | None = await _of_table(info, id, tables.Checkpoint, "ckpt")
        return found

    @field
    async def experiments(
        self, info: Info, first: First = None, after: After = None, last: Last = None,
        before: Before = None,
        filter: Annotated[
            ExperimentFilter | None, strawberry.argument(description="Which experiments.")
        ] = None,
        order_by: Annotated[
            ExperimentOrder | None, strawberry.argument(description="In which order.")
        ] = None,
    ) -> Connection[Experiment]:  # fmt: skip
        """Experiments, newest first."""
        page = window(first, after, last, before)
        return await connect(info, listing.EXPERIMENTS, page, filter, order_by, None)

    runs: Connection[Run] = runs(None, "Runs of all experiments, newest first.")
    checkpoints: Connection[Checkpoint] = checkpoints(
        None, "Checkpoints of all experiments, newest first."
    )
