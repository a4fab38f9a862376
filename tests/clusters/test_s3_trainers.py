"""Trainers that hold no credentials and share no files: uploads and downloads by signed URLs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from llm_train import Reporter, parts, transfers
from llm_train.checkpoint import CheckpointError, begin, commit
from llm_train.connection import Response

from app.domain import paths
from app.storage.buckets import StagedBucket, open_storage
from tests.support import buckets
from tests.support.ministack import CREDENTIALS, Gate
from tests.support.remote import RemoteService, remote_service
from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Service
from tests.support.stores import home_in, storage_of, store_table

TRAINER = """
import json, os, sys, time
from llm_train import Reporter
reporter = Reporter.from_env(checkpoint_dir="own")
step = 0
if reporter.resume_path is not None:
    step = json.loads((reporter.resume_path / "state.json").read_text())["step"]
    assert (reporter.resume_path / "weights.bin").stat().st_size == SIZE
    print("resumed from", step, flush=True)
while step < STEPS and not reporter.should_stop:
    step += 1
    reporter.log(step, loss=1 / step, total_steps=STEPS)
    if step % EVERY == 0:
        save = reporter.checkpoint(step)
        with save as directory:
            (directory / "state.json").write_text(json.dumps({"step": step}))
            (directory / "weights.bin").write_bytes(os.urandom(SIZE))
            (directory / "link").symlink_to("weights.bin")
    time.sleep(0.05)
if reporter.should_stop:
    with reporter.checkpoint(step) as directory:
        (directory / "state.json").write_text(json.dumps({"step": step}))
        (directory / "weights.bin").write_bytes(os.urandom(SIZE))
else:
    reporter.finish()
reporter.close()
"""


class External:
    """A trainer that somebody started elsewhere, with the run's token alone."""

    def __init__(
        self, service: Service, directory: Path, run: str = "", token: str = "", **values: int
    ) -> None:
        if not run:
            body = {"model": "tiny"}
            made = service.post(f"/experiments/{service.experiment}/runs", body, 201)
            run, token = made["run_id"], made["run_token"]
        self.run, self.directory = run, directory
        values = {"STEPS": 40, "EVERY": 10, "SIZE": 300_000, **values}
        script = "\n".join(f"{name} = {value}" for name, value in values.items())
        directory.mkdir(exist_ok=True)
        (directory / "train.py").write_text(script + TRAINER)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in CREDENTIALS and not name.startswith("LLM_TRAIN_")
        } | {
            "LLM_TRAIN_API_URL": service.url,
            "LLM_TRAIN_RUN_ID": run,
            "LLM_TRAIN_RUN_TOKEN": token,
            "PYTHONPATH": str(REPOSITORY / "app/sdk"),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }
        self.log = directory / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "train.py"], cwd=directory, env=environment, stdout=log,
                stderr=log,
            )  # fmt: skip

    def ended(self, timeout: float = 90.0) -> int:
        return self.process.wait(timeout)


def test_a_trainer_without_credentials_saves_into_the_bucket_and_another_resumes(
    s3: str, tmp_path: Path
) -> None:
    with home_in(tmp_path, s3) as place, place.serve() as service:
        trainer = External(service, tmp_path / "elsewhere")
        assert trainer.ended() == 0, trainer.log.read_text()
        assert service.ended(trainer.run)["status"] == "succeeded"
        saved = service.checkpoints(trainer.run)
        assert {name: each["state"] for name, each in saved.items()} == dict.fromkeys(
            ("step-000010", "step-000020", "step-000030", "step-000040"), "ready"
        )
        stored = storage_of(place, s3).store
        path = paths.parse(saved["step-000020"]["ckpt_path"])
        own = tmp_path / "elsewhere/own/step-000020"
        assert b"".join(stored.read(path, "weights.bin")) == (own / "weights.bin").read_bytes()
        assert stored.manifest(path).sha256 == saved["step-000020"]["sha256"]

        child = service.resume(trainer.run, ckpt_path=str(path))
        other = External(
            service, tmp_path / "third", child["run_id"], child["run_token"], EVERY=100
        )
        assert other.ended() == 0, other.log.read_text()
        assert "resumed from 20" in other.log.read_text()
        cached = tmp_path / "third/cache/llm-train/checkpoints" / stored.manifest(path).sha256
        assert (cached / "link").readlink() == Path("weights.bin")
        assert service.ended(child["run_id"])["status"] == "succeeded"


def test_a_stop_waits_for_the_upload_and_the_promise_is_kept(s3: str, tmp_path: Path) -> None:
    with home_in(tmp_path, s3) as place, place.serve() as service:
        trainer = External(service, tmp_path / "elsewhere", STEPS=4000, EVERY=100_000)
        service.stepping(trainer.run, 3)
        promised = service.cancel(trainer.run)
        assert trainer.ended() == 0, trainer.log.read_text()
        assert service.ended(trainer.run)["status"] == "cancelled"
        name = promised["ckpt_path"].rsplit("/", 1)[1]
        assert service.checkpoints(trainer.run)[name]["state"] == "ready"
        assert storage_of(place, s3).store.verify(paths.parse(promised["ckpt_path"]))


def test_while_the_bucket_is_away_the_copy_stays_and_the_upload_waits(
    gate: Gate, s3: str, tmp_path: Path
) -> None:
    with home_in(tmp_path, gate.url) as place, place.serve() as service:
        gate.shut()
        trainer = External(service, tmp_path / "elsewhere", STEPS=400, EVERY=10)
        service.stepping(trainer.run, 25)
        assert service.checkpoints(trainer.run) == {}
        assert (tmp_path / "elsewhere/own/step-000010/manifest.json").exists()
        gate.is_shut = False
        wait_until(  # what was saved meanwhile, and not only what came after
            lambda: service.checkpoints(trainer.run).get("step-000010", {}).get("state") == "ready",
            lambda: f"{service.checkpoints(trainer.run)} {trainer.log.read_text()}",
        )
        trainer.process.send_signal(signal.SIGTERM)
        trainer.ended()
        assert storage_of(place, s3).store


def test_an_expired_url_is_renewed(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the URLs is the service's: the first answer's are expired when they are used."""
    storage = buckets.staged_in(buckets.make_bucket(), tmp_path)
    temporary = begin(tmp_path / "own", "step-1")
    (temporary / "weights.bin").write_bytes(b"w" * 100_000)
    directory, manifest = commit(temporary, "step-1", 1)
    content = (directory / "manifest.json").read_bytes()
    draft = storage.begin(paths.CheckpointPath("exp_0a", "run_0b", "step-1"), "one")
    asked: list[str] = []

    class Fake(transfers.Service):
        """The service's answers without a service: the storage is real, and so is the server."""

        def ask(self, path: str, body: bytes | None = None) -> Response:
            asked.append(path)
            if path.endswith("/commit"):
                storage.commit(draft, content)
                return Response(200, {"name": "step-1"})
            wanted = storage.sign_uploads(draft, content)
            assert wanted is not None
            found = [each._asdict() for each in wanted]
            if len(asked) == 1:
                bucket = storage.bucket
                key = f"ckpts/exp_0a/run_0b/step-1/one/files/{found[0]['file']}"
                old = obstore.sign(bucket._store, "PUT", key, timedelta(seconds=1))
                found[0]["url"] = old
                time.sleep(2.1)
            return Response(200, {"uploads": found})

    monkeypatch.setattr(transfers, "PAUSE_SECONDS", (0.05, 0.05))
    uploader = transfers.Uploader(Fake("", "run_0b", "", {}), lambda news: None)
    uploader.add(directory, {})
    assert uploader.wait()
    assert [path.rsplit("/", 1)[1] for path in asked] == ["uploads"] * 3 + ["commit"]
    assert storage.store.verify(draft.path) == manifest


@contextmanager
def remote(tmp_path: Path, url: str) -> Iterator[RemoteService]:
    """A service whose launcher shares no files, and whose checkpoints are in the bucket."""
    database, table = f"sqlite:///{tmp_path / 'app.db'}", store_table(url, tmp_path.name)
    with remote_service(tmp_path, database, table) as service:
        yield service


def bucket_of(service: RemoteService, url: str, tmp_path: Path) -> StagedBucket:
    return open_storage(f"s3://{buckets.NAME}/{tmp_path.name}", service.data_dir, endpoint=url)


def test_a_launched_trainer_elsewhere_uploads_by_itself_and_is_resumed(
    s3: str, tmp_path: Path
) -> None:
    with remote(tmp_path, s3) as service:
        key = service.submit("obedient", steps=400, checkpoint_every=10, step_seconds=0.02)
        wait_until(lambda: service.checkpoints(key.run_id), "the trainer has uploaded one")
        promised = service.cancel(key)
        assert service.end(key)["status"] == "cancelled"
        saved = service.checkpoints(key.run_id)
        name = promised["ckpt_path"].rpartition("/")[2]
        assert {each["state"] for each in saved.values()} == {"ready"} and name in saved
        storage = bucket_of(service, s3, tmp_path)
        # The key of the agent's uploads is the attempt. What the cancel waits for either may send:
        # a trainer that is slow to do so has ended before, and its agent uploads what it has left.
        before = [each for each in saved.values() if each["step"] < saved[name]["step"]]
        assert before
        for each in before:
            about = f"ckpts{each['ckpt_path'].removeprefix('/ckpts')}/{each['sha256'][:32]}"
            assert storage.bucket.entries(about)
        assert not storage.local.list_runs(), "nothing of it is on the service's disk"
        child = service.resume(key, override_hyperparams={"steps": saved[name]["step"] + 5})
        assert service.end(child)["step"] == saved[name]["step"] + 5


def test_what_a_killed_trainer_has_saved_is_uploaded_by_its_agent(
    gate: Gate, s3: str, tmp_path: Path
) -> None:
    with remote(tmp_path, gate.url) as service:
        gate.shut()  # first: on a busy machine the trainer has uploaded all before it is looked at
        key = service.submit("obedient", steps=400, checkpoint_every=5, step_seconds=0.02)
        service.stepping(key, 12)
        (trainer,) = service.launcher.trainers()
        trainer.kill()
        gate.is_shut = False
        assert service.end(key)["status"] == "failed"
        saved = service.checkpoints(key.run_id)
        assert {"step-000005", "step-000010"} <= set(saved)
        assert {each["state"] for each in saved.values()} == {"ready"}


def test_ranks_without_a_common_file_system_save_one_checkpoint(s3: str, tmp_path: Path) -> None:
    with home_in(tmp_path, s3) as place, place.serve() as service:
        body = {"model": "tiny"}
        made = service.post(f"/experiments/{service.experiment}/runs", body, 201)
        run = made["run_id"]
        with Reporter(api_url=service.url, run_id=run, token=made["run_token"]) as reporter:
            reporter.log(1, loss=0.5)
            service.until(run, "running")
            plan = json.loads(json.dumps(parts.begin(reporter, 7)))
            sent = []
            for rank in range(3):
                directory = tmp_path / f"node-{rank}" / "shard"
                (directory / "sub").mkdir(parents=True)
                (directory / f"rank-{rank}.bin").write_bytes(b"%d" % rank * 100_000)
                (directory / f"sub/{rank}").write_bytes(b"")
                if rank < 2:
                    sent.append(parts.send(reporter, plan, directory))
            missing = [*sent, [f._asdict() for f in parts.list_files(directory)]]
            with pytest.raises(CheckpointError, match="missing"):
                parts.commit(reporter, plan, missing)
            assert service.checkpoints(run) == {}, "a rank that died leaves no checkpoint"
            sent.append(parts.send(reporter, plan, directory))
            with pytest.raises(CheckpointError, match="two ranks"):
                parts.commit(reporter, plan, [*sent, sent[0]])
            assert parts.commit(reporter, plan, sent) == "step-000007"
            saved = wait_until(
                lambda: (
                    (now := service.checkpoints(run)["step-000007"])["state"] == "ready" and now
                ),
                "it is verified",
            )
        found = storage_of(place, s3).store
        path = paths.parse(saved["ckpt_path"])
        assert [file.path for file in found.manifest(path).files] == [
            "rank-0.bin", "rank-1.bin", "rank-2.bin", "sub/0", "sub/1", "sub/2",
        ]  # fmt: skip
        assert b"".join(found.read(path, "rank-2.bin")) == b"2" * 100_000


KILLED = """
import os, sys, time, random
from pathlib import Path
from app.storage.buckets import open_storage
from app.storage.staged import StagedStorage
from app.domain.paths import CheckpointPath
url, endpoint, data_dir, count = sys.argv[1:]
whole = 0.0  # seconds of an upload that is not killed, on this machine, now
for number in range(int(count)):
    path = CheckpointPath("exp_0a", "run_0b", f"step-{number}")
    child = os.fork()
    if child == 0:
        storage = open_storage(url, Path(data_dir), endpoint=endpoint)
        storage.take_in(path)
        os._exit(0)
    began = time.monotonic()
    if number % 20 == 0:
        os.waitpid(child, 0)
        whole = time.monotonic() - began
        continue
    time.sleep(random.Random(number).uniform(0.1 * whole, 1.1 * whole))
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


def test_a_hundred_kills_during_uploads_leave_whole_checkpoints_or_none(
    s3: str, tmp_path: Path
) -> None:
    url = f"s3://{buckets.NAME}/{tmp_path.name}"
    storage = open_storage(url, tmp_path, endpoint=s3)
    storage.prepare()
    own, count = tmp_path / "ckpts/exp_0a/run_0b", 105
    for number in range(count):
        temporary = begin(own, f"step-{number}")
        for file in range(6):
            (temporary / f"shard-{file}.bin").write_bytes(os.urandom(40_000))
        commit(temporary, f"step-{number}", number)
    command = [sys.executable, "-c", KILLED, url, s3, str(tmp_path), str(count)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=600)
    stored = storage.store.list_run("exp_0a", "run_0b")
    left = [key for key in storage.bucket.entries("ckpts") if key.endswith("/.draft")]
    assert 6 <= len(stored) < count and left, "the kills came too early or too late"
    for path in stored:
        storage.store.verify(path)  # 0 of them are half
    for number in range(count):  # what was killed is taken in again, where it was
        storage.take_in(paths.CheckpointPath("exp_0a", "run_0b", f"step-{number}"))
    assert len(storage.store.list_run("exp_0a", "run_0b")) == count
