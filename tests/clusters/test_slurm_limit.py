"""Slurm's own time limit: its warning comes half a minute before, give or take a minute."""

from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import SlurmHome


def test_slurm_warns_before_its_time_limit_and_the_trainer_saves(
    home: SlurmHome, slurm: SlurmCluster
) -> None:
    """A run that names no limit has the launcher's: here two minutes, with a warning before."""
    file = home.path / "recipes.toml"
    text = file.read_text().replace(
        "default_minutes = 10", "default_minutes = 2\nwarn_seconds = 30"
    )
    file.write_text(text)
    with home.serve() as service:
        run = service.submit("obedient", steps=4000, step_seconds=0.5, checkpoint_every=5000)
        ended = service.ended(run, 240)
        assert (ended["status"], ended["status_reason"]) == ("failed", "time_limit")
        assert "at its time limit of 2 minutes" in ended["status_detail"]
        (saved,) = service.checkpoints(run).values()
        assert saved["state"] == "ready"
        state = slurm.run("squeue", "-h", "-t", "all", "-n", f"{run}.1", "-o", "%T")
        assert state.split() == ["COMPLETED"], "it obeyed the warning, and Slurm had to end nothing"
