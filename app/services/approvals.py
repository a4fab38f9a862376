"""Approvals: a maintainer marks a checkpoint `approved`, and somebody else releases it.

The history is the record: who has approved, and with which metrics. It counts while the person
still maintains the project, and for these metrics alone.
"""

from sqlalchemy import Executable, and_, select

from app.db.sql import Tx, columns, load, query
from app.db.tables import Checkpoint, Event, Membership, User
from app.domain.gate import APPROVED
from app.domain.permissions import Permission, Role
from app.domain.principals import PrincipalKind
from app.services import experiments

_event, _user, _member = columns(Event), columns(User), columns(Membership)


@query(tuple[str | None, str])
def _marks(*, experiment: str, run: str) -> Executable:
    return (
        select(_event.actor_name, _event.data)
        .where(
            _event.experiment_id == experiment,
            _event.run_id == run,
            _event.type == "checkpoint.marked",
            _event.actor_kind == PrincipalKind.USER.value,
        )
        .order_by(_event.seq.desc())
    )


@query(tuple[bool, str | None])
def _rights(*, user: str, project: str) -> Executable:
    of_project = and_(_member.user_id == _user.id, _member.project_id == project)
    return (
        select(_user.is_admin, _member.role)
        .select_from(User)
        .outerjoin(Membership, of_project)
        .where(_user.name == user, _user.disabled_at.is_(None))
    )


def find_approver(tx: Tx, checkpoint: Checkpoint, metrics: dict[str, float]) -> str | None:
    """Return the name of who has approved a checkpoint with these metrics; None: nobody has.

    Whoever asks is no approver of its own release, and neither is a service account or the
    operator's token, behind which anybody may be.
    """
    project_id = experiments.get(tx, checkpoint.experiment_id).project_id
    own = tx.principal.name if tx.principal.kind is PrincipalKind.USER else None
    marks = tx.all(_marks, experiment=checkpoint.experiment_id, run=checkpoint.run_id)
    for name, text in marks:
        data = load(text)
        is_this = data.get("checkpoint_id") == checkpoint.id and data.get("metrics") == metrics
        if not is_this or data.get("tag_type") != APPROVED or name is None or name == own:
            continue
        if _is_maintainer(tx, name, project_id):
            return name
    return None


def _is_maintainer(tx: Tx, name: str, project_id: str) -> bool:
    row = tx.first(_rights, user=name, project=project_id)
    if row is None:
        return False
    return bool(row[0]) or (row[1] is not None and Role(row[1]).may(Permission.MAINTAIN))
