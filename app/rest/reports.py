"""`/v1/runs/{run_id}/…`: the spec that a trainer reads and its reports, with the run's token.

Reports are accepted only as fast as they are written.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Request, Response

from app.db.current_principal import act_as, get_principal
from app.db.database import Database
from app.domain.principals import PrincipalKind, of_run
from app.domain.reports import ReportRequest, read_plain
from app.domain.tokens import attempt_of, run_token, secrets_match
from app.errors import Busy, Unauthorized
from app.rest import responses
from app.rest.body import read
from app.rest.parameters import DirectRoute, RunId, accepts_json
from app.rest.problems import describe_errors
from app.rest.trainer_schemas import ReceiptAnswer, SpecAnswer
from app.server.guard import bearer
from app.services import launches, reports
from app.services.reports import ReportResponse
from app.storage import data_dir as data_dirs

MAX_WAITING_BYTES = 16 * 1024 * 1024
MAX_OF_RUN = 64
BODY_SECONDS = 30.0
_ANY_RUN = {PrincipalKind.API_TOKEN, PrincipalKind.USER, PrincipalKind.SERVICE}
"""The principals that may report on a run without its token, if they may write to it."""

router = APIRouter(prefix="/v1", route_class=DirectRoute)


class _Line:
    """The reports of one run that are waiting or being worked on."""

    def __init__(self) -> None:
        self.length = 0
        self.lock = asyncio.Lock()


class Inflow:
    """The reports that are being read or wait to be written, in bytes of their bodies.

    Those of one run are worked on one by one, so that it does not keep the others out, and at most
    `MAX_OF_RUN` of them wait: a trainer sends the next one when the last is acknowledged.
    `parsing` is the lock to parse one report. Where a hundred come at once, other requests are
    answered between them.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.held = 0
        self._of_run: dict[str, _Line] = {}
        self.parsing = asyncio.Lock()

    @contextmanager
    def hold(self, run_id: str, size: int) -> Iterator[asyncio.Lock]:
        """Count one report while it is worked on. Raises Busy where there are too many.

        Yields the lock that the reports of this run take one after the other.
        """
        line = self._of_run.get(run_id) or _Line()
        if line.length >= MAX_OF_RUN:
            raise Busy(
                f"{MAX_OF_RUN} reports of this run are waiting; send them one by one.",
                retry_after=1,
            )
        if self.held and self.held + size > MAX_WAITING_BYTES:
            self._db.record_rejected_write()
            raise Busy("Too many reports are waiting; send this one again.", retry_after=1)
        self.held += size
        self._of_run[run_id] = line
        line.length += 1
        try:
            yield line.lock
        finally:
            self.held -= size
            line.length -= 1
            if not line.length:
                del self._of_run[run_id]


@router.post(
    "/runs/{run_id}/reports", response_model=ReceiptAnswer, tags=["trainers"],
    **accepts_json(ReportRequest, 404),
)  # fmt: skip
async def report(request: Request, run_id: RunId) -> Response:
    """Record a trainer's report on its own run, with the run's token."""
    state = request.app.state
    attempt = check_trainer(request, run_id)
    length = request.headers.get("content-length", "")
    # A body of unknown length may be as large as any.
    size = int(length) if length.isdigit() else state.settings.max_body_bytes
    with state.inflow.hold(run_id, size) as lock_of_run:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await request.body()
        except TimeoutError:  # a sender that hangs must not keep the others out
            raise Busy(
                f"The body took longer than {BODY_SECONDS:g} s, and others wait; send it again.",
                retry_after=1,
            ) from None
        async with lock_of_run:
            async with state.inflow.parsing:
                most = state.settings.max_body_bytes
                body = await read(request, ReportRequest, most, read_plain)
                if attempt not in (None, body.attempt):
                    raise Unauthorized(f"This token reports on attempt {attempt} only.")
                await asyncio.sleep(0)  # one a round of the loop, and no more
            return responses.respond(
                await responses.perform(
                    request,
                    lambda tx: reports.ingest(tx, run_id, body),
                    ReportResponse._asdict,
                    is_audited=False,
                )
            )


@router.get(
    "/runs/{run_id}/spec", response_model=SpecAnswer, tags=["trainers"],
    responses=describe_errors(404, 409),
)  # fmt: skip
async def run_spec(request: Request, run_id: RunId) -> Response:
    """Return the spec of a run for a trainer that attaches by itself, with the run's token.

    Paths are the service's. A trainer that finds `data_dir.name` in the file `id` of
    `data_dir.path` sees the same files, and saves where the service verifies.
    """
    state = request.app.state
    check_trainer(request, run_id)
    data_dir = state.settings.data_dir.absolute()
    # Who trains a run needs its paths, and nobody afterwards.
    wanted = reports.spec if get_principal().kind is PrincipalKind.RUN else launches.get_spec
    spec = await state.db.read(wanted, run_id, state.storage)
    return responses.json(
        {**spec, "data_dir": {"path": str(data_dir), "name": data_dirs.identity(data_dir)}}
    )


def check_trainer(request: Request, run_id: str) -> int | None:
    """Return the attempt whose token came; None: that of the run, or of a user or the service.

    The trainer of the run acts from now on. Raises Unauthorized.
    """
    if request.scope["principal"].kind in _ANY_RUN:
        return None
    token = bearer(request.headers.get("authorization", ""))
    secret = request.app.state.secret
    attempt = None
    if token is None or not secrets_match(token, run_token(secret, run_id)):
        attempt = None if token is None else attempt_of(token, secret, run_id)
        if attempt is None:
            raise Unauthorized("Send the run's token: `Authorization: Bearer rt_…`.")
    act_as(of_run(run_id))
    return attempt
