"""The run and the experiment of this service that a client refers to.

Its project is the experiment of that name. Its run id is an alias within that experiment, or a run
of this service: recipes set WANDB_RUN_ID. A run's trainer always gets that run, whatever it names.
"""

from app.db.listing import latest_metrics
from app.db.sql import Tx
from app.db.tables import Run
from app.domain.ids import is_id
from app.errors import NotFound
from app.server.tracking import Access
from app.services import labels, runs, tracking
from app.wandb.rows import LOOP_STEPS


def find_run(tx: Tx, access: Access, project: str, name: str) -> Run | None:
    """Return the run that a client means; None if there is none yet. Raises NotFound."""
    if access.run_id is not None:
        return runs.get(tx, access.run_id)
    if is_id(name, "run"):
        return runs.get(tx, name)
    experiment = tracking.find_experiment(tx, project)
    known = labels.find_alias_target(tx, scope_of(experiment.id), name) if experiment else None
    return runs.get(tx, known) if known is not None else None


def get_run(tx: Tx, access: Access, project: str, name: str) -> Run:
    """Return the run that a client means. Raises NotFound."""
    run = find_run(tx, access, project, name)
    if run is None:
        raise NotFound(f"Project {project!r:.100} has no run {name!r:.100}.")
    return run


def scope_of(experiment_id: str) -> str:
    """Return the scope of the names of an experiment's runs."""
    return f"wandb:{experiment_id}"


def get_loop_step(tx: Tx, run: Run) -> int | None:
    """Return the newest step of the training loop that a run has logged; None if it logs none."""
    (rows,) = latest_metrics(tx, [run.id], keys=LOOP_STEPS)
    return max((row.step for row in rows), default=None)
