"""Query: the root of all reads."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, cast

import strawberry

from app.db import listing, tables
from app.db.efforts import MOST
from app.db.groups import MAX_VALUES, RunFacet
from app.db.rows import EventRow
from app.db.sql import Tx
from app.domain.ids import is_id
from app.domain.team import RetentionChange
from app.errors import InvalidInput, NotFound
from app.graphql import summaries
from app.graphql.connections import After, Before, Connection, First, Last, Node, connect, window
from app.graphql.describe import Info, field, output
from app.graphql.edges import checkpoints, runs
from app.graphql.filters import ExperimentFilter, ExperimentOrder, RunFilter, check_text, validate
from app.graphql.notifications import NotificationQueries
from app.graphql.scalars import DateTime
from app.graphql.summaries import DEFAULT_FACETS
from app.graphql.team import ApiToken, AuditEntry, Project, Removable, User, Viewer
from app.graphql.types import Checkpoint, Experiment, Run
from app.graphql.values import (
    Capacity,
    ComparedParam,
    Facet,
    GpuCount,
    LauncherCapacity,
    Recipe,
    StatusCount,
    Usage,
)
from app.server.capacity import read_capacity
from app.services import api_tokens, audit, events, expiry_preview, me, projects, users
from app.services.overviews import MAX_COMPARED
from app.services.usage import By, Period

Id = Annotated[strawberry.ID, strawberry.argument(description="Its id.")]
Ids = Annotated[list[strawberry.ID], strawberry.argument(description="Their ids, at most 100.")]
RunsFilter = Annotated[
    RunFilter | None, strawberry.argument(description="Conditions on the runs; all must hold.")
]
Prefix = Annotated[str, strawberry.argument(description="Only those that begin with this text.")]
FirstValues = Annotated[
    int, strawberry.argument(description=f"At most so many, 1 to {MAX_VALUES}.")
]
MAX_AUDIT = 1_000
Days = Annotated[
    float | None, strawberry.argument(description="Days after a run's end for which it is kept.")
]
UserName = Annotated[str | None, strawberry.argument(description="Name of a user.")]
strawberry.enum(RunFacet, description="A column of runs whose values are counted.")
_TABLES = {"exp": tables.Experiment, "run": tables.Run, "ckpt": tables.Checkpoint}


async def node(info: Info, id: str) -> Any:
    """Return the object with this id, or None."""
    prefix = id.partition("_")[0]
    if ":" in id:
        return (await info.context.load("event", [id], _events))[0]
    if prefix not in _TABLES or not is_id(id, prefix):
        return None
    return (await info.context.rows(_TABLES[prefix], [id]))[0]


def _events(tx: Tx, ids: list[str]) -> list[EventRow | None]:
    rows: list[EventRow | None] = []
    for id in ids:
        experiment_id, _, seq = id.partition(":")
        number = seq.isascii() and seq.isdigit() and len(seq) < 19
        known = number and is_id(experiment_id, "exp")
        after = events.list_after(tx, experiment_id, int(seq) - 1, 1) if known else []
        rows.append(next((event for event in after if str(event.seq) == seq), None))
    return rows


async def _of_table(info: Info, id: str, prefix: str) -> Any:
    return await node(info, id) if is_id(id, prefix) else None


@output
class Query(NotificationQueries):
    """Everything that can be read."""

    @field
    async def node(self, info: Info, id: Id) -> Node | None:
        """The object with this id; null if there is none."""
        row: Node | None = await node(info, id)
        return row

    @field
    async def nodes(self, info: Info, ids: Ids) -> list[Node | None]:
        """The objects with these ids, in the same order."""
        if len(ids) > MOST:
            raise InvalidInput(f"Ask for at most {MOST} nodes at once.")
        return list(await asyncio.gather(*(node(info, id) for id in ids)))

    @field
    async def experiment(self, info: Info, id: Id) -> Experiment | None:
        """The experiment with this id."""
        row: Experiment | None = await _of_table(info, id, "exp")
        return row

    @field
    async def run(self, info: Info, id: Id) -> Run | None:
        """The run with this id."""
        row: Run | None = await _of_table(info, id, "run")
        return row

    @field
    async def checkpoint(self, info: Info, id: Id) -> Checkpoint | None:
        """The checkpoint with this id."""
        row: Checkpoint | None = await _of_table(info, id, "ckpt")
        return row

    @field
    async def experiments(
        self, info: Info, first: First = None, after: After = None, last: Last = None,
        before: Before = None,
        filter: Annotated[
            ExperimentFilter | None,
            strawberry.argument(description="Conditions that all must hold."),
        ] = None,
        order_by: Annotated[
            ExperimentOrder | None, strawberry.argument(description="Sort field and direction.")
        ] = None,
    ) -> Connection[Experiment]:  # fmt: skip
        """Experiments, newest first."""
        page = window(first, after, last, before)
        connection: Connection[Experiment] = await connect(
            info, listing.EXPERIMENTS, page, filter, order_by
        )
        return connection

    runs: Connection[Run] = runs(None, "Runs of all experiments, newest first.")
    checkpoints: Connection[Checkpoint] = checkpoints(
        None, "Checkpoints of all experiments, newest first."
    )

    @field
    async def run_counts(self, info: Info, filter: RunsFilter = None) -> list[StatusCount]:
        """Number of matching runs in each status; those with none are left out."""
        counts: Any = await summaries.count_runs(info.context, filter)
        return list(counts)

    @field
    async def facets(
        self, info: Info,
        field: Annotated[RunFacet, strawberry.argument(description="Field to list values of.")],
        filter: RunsFilter = None, prefix: Prefix = "", first: FirstValues = DEFAULT_FACETS,
    ) -> list[Facet]:  # fmt: skip
        """The values that the newest 10,000 runs which match have, the most frequent first.

        For a member of many experiments, the newest of each, about 4,000 in all.
        """
        values: Any = await summaries.list_facets(info.context, field, filter, prefix, first)
        return list(values)

    @field
    async def metric_keys(
        self, info: Info, filter: RunsFilter = None, prefix: Prefix = "",
        first: FirstValues = DEFAULT_FACETS,
    ) -> list[Facet]:  # fmt: skip
        """The metrics that the newest 2,000 runs which match reported, the most frequent first.

        For a member of many experiments, the newest of each are looked at.
        """
        keys: Any = await summaries.list_metric_keys(info.context, filter, prefix, first)
        return list(keys)

    @field
    async def compare_runs(
        self, info: Info,
        ids: Annotated[
            list[strawberry.ID],
            strawberry.argument(description=f"The runs, at most {MAX_COMPARED}."),
        ],
        only_different: Annotated[
            bool, strawberry.argument(description="Leave out what is the same in all of them.")
        ] = True,
    ) -> list[ComparedParam] | None:  # fmt: skip
        """The parameters of runs side by side; null if one of them does not exist."""
        with suppress(NotFound):
            rows: Any = await summaries.compare(info.context, list(ids), only_different)
            return list(rows)
        return None

    @field
    async def viewer(self, info: Info) -> Viewer:
        """The principal of this request, and its roles."""
        row: Any = await info.context.db.read(me.get)
        return cast(Viewer, row)

    @field
    async def projects(self, info: Info) -> list[Project]:
        """The projects that you are in, by name."""
        rows: list[Any] = await info.context.db.read(projects.list_all)
        return rows

    @field
    async def users(self, info: Info) -> list[User]:
        """The users, by name. For administrators."""
        rows: list[Any] = await info.context.db.scan(users.list_all)
        return rows

    @field
    async def tokens(self, info: Info, user: UserName = None) -> list[ApiToken]:
        """Your newest tokens; as an administrator, those of everybody, or of one user."""
        rows: list[Any] = await info.context.db.scan(
            api_tokens.list_tokens, None if user is None else check_text(user)
        )
        return rows

    @field
    async def audit(
        self, info: Info,
        actor: Annotated[
            str | None, strawberry.argument(description="Name of the user.")
        ] = None,
        action: Annotated[
            str | None, strawberry.argument(description="Such as `createRun`, or `sign_in`.")
        ] = None,
        target_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Id of its target.")
        ] = None,
        outcome: Annotated[
            str | None, strawberry.argument(description="`done` or `refused`.")
        ] = None,
        since: Annotated[
            DateTime | None, strawberry.argument(description="At this time or later.")
        ] = None,
        until: Annotated[
            DateTime | None, strawberry.argument(description="Before this time.")
        ] = None,
        first: Annotated[
            int, strawberry.argument(description="At most so many, 1 to 1,000.")
        ] = 50,
        after: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Id of the last entry of the page before."),
        ] = None,
    ) -> list[AuditEntry]:  # fmt: skip
        """The audit log: writes and failed sign-ins, newest first. For administrators."""
        if not 1 <= first <= MAX_AUDIT:
            raise InvalidInput(f"`first` must be 1 to {MAX_AUDIT:,}.")
        conditions = {
            "actor": actor, "action": action, "target_id": target_id, "outcome": outcome,
            "since": since, "until": until, "after": after,
        }  # fmt: skip
        filters = {
            name: check_text(value) for name, value in conditions.items() if value is not None
        }
        rows: list[Any] = await info.context.db.scan(audit.list_entries, filters, first)
        return rows

    @field
    async def removable(
        self, info: Info,
        project_id: Annotated[strawberry.ID, strawberry.argument(description="The project.")],
        logs_days: Days = strawberry.UNSET,
        points_days: Days = strawberry.UNSET,
        curves_days: Days = strawberry.UNSET,
    ) -> list[Removable]:  # fmt: skip
        """The logs and points that a rule would remove now: a dry run. For maintainers.

        Days left out: the current ones of the project; null: those of the service.
        """
        asked = {"logs_days": logs_days, "points_days": points_days, "curves_days": curves_days}
        days = {name: value for name, value in asked.items() if value is not strawberry.UNSET}
        context = info.context
        rows: list[Any] = await expiry_preview.preview(
            context.db, context.readers, context.data_dir, check_text(project_id),
            validate(RetentionChange, days), context.kept,
        )  # fmt: skip
        return rows

    @field
    async def capacity(self, info: Info) -> Capacity:
        """The capacity of each launcher, and how many runs are with it or wait."""
        read = await read_capacity(info.context.db, info.context.launchers)
        return Capacity(
            launchers=[
                LauncherCapacity(
                    name=launcher.name, cpus=launcher.cpus, memory_gb=launcher.memory_gb,
                    gpus=None if launcher.gpus is None
                    else [GpuCount(type=kind, count=n) for kind, n in launcher.gpus.items()],
                    max_runs=launcher.max_runs, active=launcher.active, queued=launcher.queued,
                    trouble=launcher.trouble,
                )
                for launcher in read.launchers
            ],
            queued=read.queued,
        )  # fmt: skip

    @field
    async def usage(
        self, info: Info,
        by: Annotated[By, strawberry.argument(description="The grouping of the sums.")] = By.MONTH,
        experiment_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Of this experiment alone.")
        ] = None,
        project_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Of this project alone.")
        ] = None,
        since: Annotated[
            DateTime | None, strawberry.argument(description="Attempts that ended at or after it.")
        ] = None,
        until: Annotated[
            DateTime | None, strawberry.argument(description="Attempts that ended before it.")
        ] = None,
        after: Annotated[
            str, strawberry.argument(description="Only groups that sort after this one.")
        ] = "",
        first: FirstValues = DEFAULT_FACETS,
    ) -> list[Usage] | None:  # fmt: skip
        """Time and GPU hours that ended attempts used, wasted and saved, grouped by `by`.

        Sorted by the groups. Null if the experiment or project does not exist.
        """
        period = Period(since or "", until or "9", experiment_id, project_id)
        with suppress(NotFound):
            rows: Any = await summaries.account(info.context, by, period, after, first)
            return list(rows)
        return None

    @field
    def recipes(self, info: Info) -> list[Recipe]:
        """The recipes that a new run may name, by name."""
        return [info.context.recipes[name] for name in sorted(info.context.recipes)]
