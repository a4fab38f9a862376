"""The checkpoints of the run that a Reporter reports: named, saved, uploaded, and found again.

begin          name → directory (saving.py) → commit → report, or upload (transfers.py)
find_resume    the newest one of this attempt, or the one that the run starts from
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_train import checkpoint, specs
from llm_train.background import BackgroundCommit
from llm_train.buffer import warn
from llm_train.manifest import Manifest, Quality
from llm_train.saving import CheckpointDirectory, Saving, note_saved, read_saved
from llm_train.sender import ReportSender
from llm_train.stopping import StopRequest
from llm_train.values import describe

if TYPE_CHECKING:
    from llm_train.transfers import Service, Uploader


class RunFiles:
    """The checkpoints of one run, as one of its processes sees them.

    Attributes:
        directory: where they are committed.
        commits: the commit that runs in the background.
    """

    def __init__(
        self,
        spec: specs.LaunchedSpec | specs.RemoteSpec,
        directory: CheckpointDirectory,
        stop: StopRequest,
        attempt: int | None,
        attempt_dir: Path | None,
    ) -> None:
        """Upload nothing yet.

        Args:
            spec, directory, stop: of the run.
            attempt: of a trainer that the service launched.
            attempt_dir: the attempt's directory, which names its newest checkpoint.
        """
        self.directory, self.commits = directory, BackgroundCommit()
        self._spec, self._stop = spec, stop
        self._attempt, self._attempt_dir = attempt, attempt_dir
        self._newest = read_saved(attempt_dir) if attempt_dir else None
        self._stop_checkpoint_used = False
        self._served: tuple[str, str, str] | None = None
        self._identity: dict[str, Any] = {}
        self._uploader: Uploader | None = None
        self._start: Path | None = None

    def connect(self, api_url: str, run_id: str, token: str, identity: dict[str, Any]) -> None:
        """Set the service that files are exchanged with; `identity` as in every report."""
        self._served = api_url, run_id, token
        self._identity = {key: identity[key] for key in identity if key != "take_over"}

    def get_service(self) -> "Service":
        """Return how the service is asked about files. Raises RuntimeError without one."""
        from llm_train import transfers  # most trainers need it never, and start without it

        if self._served is None:
            raise RuntimeError("there is no service: this reporter sends nothing")
        return transfers.Service(*self._served, self._identity)

    def begin(
        self, step: int, name: str | None, quality: Quality, sender: ReportSender | None
    ) -> Saving:
        """Begin a checkpoint, and report it to `sender` once it is committed. Raises OSError."""
        self.commits.wait()  # the newest checkpoint is the one that is committed last
        name, promised = self.name(step, name)

        def report(directory: Path, manifest: Manifest) -> None:
            self._stop_checkpoint_used |= promised
            if self._attempt_dir:
                note_saved(self._attempt_dir, directory.name)
            if sender:
                self._report(sender, directory, step, manifest)

        directory = self.directory.get()
        return Saving(directory, name, step, report, quality, self.commits, self._attempt)

    def _report(self, sender: ReportSender, directory: Path, step: int, manifest: Manifest) -> None:
        """Report a committed checkpoint, or upload it first where the service has a bucket."""
        news = {
            "name": directory.name,
            "step": step,
            "size_bytes": manifest.size_bytes,
            "sha256": manifest.sha256,
        }
        if self.directory.is_shared:
            news["in_data_dir"] = True
        if self._uses_store():
            if self._uploader is None:
                from llm_train import transfers

                self._uploader = transfers.Uploader(self.get_service(), sender.add_checkpoint)
            self._uploader.add(directory, news)
        # An agent that uploads makes a checkpoint known when all of it has arrived.
        elif self._spec.launched.get("files") != "http":
            sender.add_checkpoint(news)

    def _uses_store(self) -> bool:
        """Return True if this process uploads its checkpoints into the service's bucket."""
        if isinstance(self._spec, specs.LaunchedSpec):
            spec = self._spec.launched
            return spec.get("files") == "http" and bool(spec.get("store"))
        return not self.directory.is_shared and bool(self._spec.get_known().get("store"))

    def name(self, step: int, name: str | None) -> tuple[str, bool]:
        """Return the next checkpoint's name, and True if it is the one promised to a cancel."""
        promised = self._stop.checkpoint
        expected = self._stop.requested and not self._stop_checkpoint_used
        if expected and name in (None, promised):
            return promised, True
        default = f"step-{step:06d}"
        if name is None:
            return default, False
        safe = checkpoint.safe_name(str(name), default)
        if safe != name:
            warn(f"checkpoint {describe(name)} is saved as {safe!r}")
        return safe, False

    def find_resume(self) -> Path | None:
        """Return the directory of the checkpoint to start from; see `Reporter.resume_path`."""
        spec = self._spec.get()
        resume = spec.get("resume")
        if self._newest and checkpoint.is_committed(self.directory.get() / self._newest):
            return self.directory.get() / self._newest
        if not resume:
            return None
        if not isinstance(self._spec, specs.RemoteSpec):
            return Path(resume["path"])
        if self._start is None:
            self._start = self._find_start(spec, resume)
        return self._start

    def _find_start(self, spec: dict[str, Any], resume: dict[str, Any]) -> Path:
        """Return the checkpoint from DATA_DIR, an earlier trainer's own copy, or the bucket."""
        from llm_train import transfers

        path, store = Path(resume["path"]), bool(spec.get("store"))
        # Of an older checkpoint that is in a bucket, only the manifest is left in DATA_DIR.
        here = transfers.is_complete(path) if store else path.is_dir()
        if specs.is_shared(spec) and here:
            return path
        saved_by, name = path.parts[-2:]
        if copy := self.directory.find_copy(saved_by, name, resume.get("sha256")):
            return copy
        if self._served and store:
            return transfers.fetch(self.get_service(), transfers.cache_directory())
        raise FileNotFoundError(
            f"the run goes on from {resume['ckpt_path']}, step {resume['step']}, which is not on "
            f"this machine, and there is no copy in {Path('checkpoints', saved_by, name)}: mount "
            "the service's DATA_DIR, or bring the copy there"
        )

    def wait_for_uploads(self) -> None:
        """Wait for the last uploads while they move on: after its end nothing more is taken."""
        if self._uploader is not None:
            self._uploader.wait()

    def after_fork(self) -> None:
        """Forget the threads of the parent."""
        self.commits.forget()
        self._uploader = None
