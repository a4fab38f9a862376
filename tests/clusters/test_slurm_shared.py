"""Nodes that see the service's data directory: checkpoints are written there, and not uploaded."""

from tests.support.service import Service
from tests.support.slurm_home import SlurmHome, output, steps


def saved_by(service: Service, run: str) -> str:
    (saved,) = service.checkpoints(run).values()
    assert saved["state"] == "ready"
    assert (service.directory(saved) / "state.json").exists()
    return str(saved["ckpt_path"])


def test_a_run_saves_into_the_shared_directory_and_goes_on_from_there(home: SlurmHome) -> None:
    file = home.path / "recipes.toml"
    shared = 'files = "shared"\nlook_seconds = 0.5'
    file.write_text(file.read_text().replace("look_seconds = 0.5", shared))
    with home.serve() as service:
        run = service.submit("obedient", steps=400, checkpoint_every=1000)
        step = service.stepping(run, 3, 60)["step"]
        promised = service.cancel(run)["ckpt_path"]
        step = service.ended(run, 60)["step"]
        assert saved_by(service, run) == promised
        assert (service.data_dir / "runs" / run / "slurm-1.log").exists()
        child = service.resume(run, override_hyperparams={"steps": step + 5})["run_id"]
        assert service.ended(child, 60)["status"] == "succeeded"
        assert steps(output(service, child)) == list(range(step + 1, step + 6))
        assert saved_by(service, child).startswith("/ckpts/")
