"""One checkpoint from its first byte to its commit: `Reporter.checkpoint` in two steps."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from llm_train import checkpoint
from llm_train.buffer import warn
from llm_train.checkpoint import CheckpointError, Manifest


class Saved(NamedTuple):
    """A committed checkpoint."""

    directory: Path
    manifest: Manifest


class Saving:
    """A checkpoint that is being written.

    `path` is a temporary directory for its files. One call of `commit` or `abandon` ends it, from
    any thread. A process that dies before leaves nothing under the checkpoint's name.

    Example (an asynchronous save):
        saving = reporter.begin_checkpoint(step)
        future = dcp.async_save(state, checkpoint_id=saving.path)
        future.add_done_callback(
            lambda done: saving.abandon() if done.exception() else saving.commit()
        )
    """

    def __init__(
        self, parent: Path, name: str, step: int, announce: Callable[[Saved], None]
    ) -> None:
        """Raises OSError when the directory cannot be made."""
        self.name, self.step = name, step
        self.path = checkpoint.begin(parent, name)
        self._announce = announce

    def commit(self) -> Path:
        """Commit the files and report the checkpoint; return the directory where they are now.

        Raises:
            CheckpointError: what was written is no checkpoint (nothing at all, a pipe, …). The
                files are kept, and the message says where.
            OSError: the disk refuses. The files are removed, or the next save would fail, too.
        """
        try:
            saved = Saved(*checkpoint.commit(self.path, self.name, self.step, warn))
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self._kept()}") from None
        except BaseException:
            self.abandon()
            raise
        self._announce(saved)
        return saved.directory

    def abandon(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _kept(self) -> str:
        """Move the files out of the service's reach, which removes temporary directories."""
        kept = self.path.with_name(self.path.name.replace(".tmp-", "uncommitted-", 1))
        with suppress(OSError):
            if any(self.path.iterdir()):
                self.path.rename(kept)
                return f"; its files are kept in {kept}"
            self.path.rmdir()
        return ""
