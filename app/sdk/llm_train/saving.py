"""One checkpoint from its first byte to its commit, and the directory that it is saved in."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from llm_train import checkpoint, specs
from llm_train.background import BackgroundCommit
from llm_train.buffer import warn
from llm_train.checkpoint import CheckpointError, File, Manifest, Quality
from llm_train.manifest import NO_QUALITY

NEWEST = "newest.json"
"""The file in an attempt's directory that names its newest checkpoint."""


class CheckpointDirectory:
    """The directory for a run's checkpoints, chosen at the first save.

    `is_shared` is True once it is the one where the service verifies checkpoints of a trainer
    that attached by itself.
    """

    def __init__(
        self, spec: specs.LaunchedSpec | specs.RemoteSpec, run_id: str, own: Path | None
    ) -> None:
        """Choose nothing yet. `own` is the directory that the training script names."""
        self._spec, self._run_id, self._own = spec, run_id, own
        self._chosen: Path | None = None
        self.is_shared = False

    def get(self) -> Path:
        """Return the directory. Never raises, and waits a second for the service at most."""
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    def find_copy(self, run_id: str, name: str, sha256: str | None) -> Path | None:
        """Return the checkpoint that a trainer of another run has saved on this machine.

        Looks where a trainer with this one's directories has saved it. None unless its manifest has
        this digest, and every byte is the manifest's.
        """
        for parent in (Path("checkpoints", run_id), self._own):
            directory = (parent or Path()) / name
            if parent is None or sha256 is None or not checkpoint.is_committed(directory):
                continue
            try:
                if checkpoint.load(directory).sha256 == sha256:
                    checkpoint.verify(directory)
                    return directory.absolute()
            except (CheckpointError, OSError) as error:
                warn(f"the copy in {directory} cannot be used: {error}")
        return None

    def move(self, directory: Path, launched: bool) -> None:
        """Use another directory of the training script, unless one is in use already."""
        if self._chosen is None:
            self._own = directory
        elif self._chosen.absolute() != directory.absolute() and not launched:
            warn(f"checkpoints are saved in {self._chosen} already, and so not in {directory}")

    def _choose(self) -> Path:
        """Return the spec's directory, the script's own, or a default, and note if it is shared."""
        if isinstance(self._spec, specs.RemoteSpec):
            if self._own is not None:
                return self._own
            verified = specs.get_verified_dir(self._spec.get_known())
            self.is_shared = verified is not None
            return verified or Path("checkpoints", self._run_id)
        if directory := self._spec.launched.get("checkpoint_dir"):
            return Path(directory)
        if self._spec.run_dir is None:
            return self._own or Path("checkpoints")
        chosen = (self._own or Path("checkpoints", self._run_id)).absolute()
        missing = self._spec.missing_dir
        why = f"the run's directory {missing} is not there" if missing else "its spec names none"
        warn(f"{why}: checkpoints are saved in {chosen}, where the service does not find them")
        return chosen


def note_saved(attempt_dir: Path, name: str) -> None:
    """Record the newest checkpoint of an attempt, for a later process of the same attempt."""
    draft = attempt_dir / f".{NEWEST}-{os.getpid()}"
    with suppress(OSError):  # such as a full disk: that process starts from an earlier one
        draft.write_text(json.dumps({"name": name}))
        draft.replace(attempt_dir / NEWEST)


def read_saved(attempt_dir: Path) -> str | None:
    """Return the name of the newest checkpoint that a process of this attempt has committed."""
    try:
        name = json.loads((attempt_dir / NEWEST).read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and checkpoint.NAME.fullmatch(name) else None


class Saving:
    """A checkpoint that is being written: what `Reporter.begin_checkpoint` returns.

    One call of `commit` or `abandon` ends it, from any thread. A process that dies before that
    leaves nothing under the checkpoint's name.

    Attributes:
        path: a temporary directory for the checkpoint's files.
        name: the name that it will be committed under; `.2` follows if that is taken.
        step: the step of the training loop.
        quality: what the trainer knows of the model; it may be set until the commit.

    Example (an asynchronous save):
        saving = reporter.begin_checkpoint(step)
        future = dcp.async_save(state, checkpoint_id=saving.path)
        future.add_done_callback(
            lambda done: saving.abandon() if done.exception() else saving.commit()
        )
    """

    def __init__(
        self,
        parent: Path,
        name: str,
        step: int,
        report: Callable[[Path, Manifest], None],
        quality: Quality = NO_QUALITY,
        background: BackgroundCommit | None = None,
        attempt: int | None = None,
    ) -> None:
        """Make the temporary directory in `parent`.

        Args:
            parent: the directory of the run's checkpoints.
            name, step: of the checkpoint.
            report: called with the committed checkpoint's directory and manifest.
            quality: what the trainer knows of the model.
            background: where commits in the background run.
            attempt: which attempt of the run saves it.

        Raises:
            OSError: the directory cannot be made.
        """
        self._background = background or BackgroundCommit()
        self.name, self.step = name, step
        self.path = checkpoint.begin(parent, name)
        self._report, self._attempt = report, attempt
        self.quality = quality

    def commit(self, *, give_back: Path | None = None, hashed: Iterable[File] = ()) -> Path:
        """Commit the files and report the checkpoint.

        Blocks while every file is hashed and written to disk.

        Args:
            give_back: a directory of the same file system that the files were moved from. They
                return there if they cannot be committed; else it is removed, if it is empty.
            hashed: files that another rank has hashed and written to disk.

        Returns:
            The directory of the committed checkpoint.

        Raises:
            CheckpointError: the files are no checkpoint (nothing was written, a pipe, …). They
                are kept, and the message names their directory.
            OSError: the disk refuses. The files are removed, or the next save would fail, too.
        """
        try:
            directory, manifest = checkpoint.commit(
                self.path, self.name, self.step, warn,
                quality=self.quality, hashed=hashed, attempt=self._attempt,
            )  # fmt: skip
        except BaseException as error:
            if give_back is not None:
                for path in self.path.iterdir():
                    path.rename(give_back / path.name)
            if isinstance(error, CheckpointError):
                raise CheckpointError(f"{error}{self._kept()}") from None
            self.abandon()
            raise
        if give_back is not None:
            with suppress(OSError):
                give_back.rmdir()
        self._report(directory, manifest)
        return directory

    def commit_in_background(self, *, give_back: Path | None = None) -> None:
        """Commit in a thread while the training goes on; the next save waits for that.

        Raises the error of the commit before this one. An error of this one is raised by the next
        save in the background, or by `Reporter.finish`.

        Args:
            give_back: as in `commit`.
        """
        commit = partial(self.commit, give_back=give_back)
        self._background.start(commit, f"checkpoint {self.name}")

    def abandon(self) -> None:
        """Remove the files. Nothing is reported."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _kept(self) -> str:
        """Rename the temporary directory, which the service would remove. Return a sentence."""
        kept = self.path.with_name(self.path.name.replace(".tmp-", "uncommitted-", 1))
        with suppress(OSError):
            if any(self.path.iterdir()):
                self.path.rename(kept)
                return f"; its files are kept in {kept}"
            self.path.rmdir()
        return ""
