"""Several ranks of one PyTorch training stop at the same step, and save one checkpoint together.

    ranks = Ranks()                                  # on every rank, after init_process_group
    for step in ...:
        ...
        if ranks.should_stop():                      # the same answer on every rank
            with ranks.checkpoint(step) as directory:
                dcp.save(state, checkpoint_id=directory)
            break

A checkpoint goes begin (rank 0 makes a directory, all learn its path) → every rank writes → every
rank hashes its own files and says whether it succeeded → rank 0 commits, or removes everything.
All ranks need to see one file system.

    saving = ranks.begin(step)                       # asynchronous: the training goes on at once
    future = dcp.async_save(
        state, checkpoint_id=saving.path, process_group=ranks.background_group
    )
    saving.commit_after(future)
"""

import atexit
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from llm_train.background import BackgroundCommit
from llm_train.checkpoint import CheckpointError
from llm_train.descriptors import open_directory
from llm_train.hashing import hash_files
from llm_train.manifest import File
from llm_train.reporter import Reporter
from llm_train.saving import Saving

_OF_RANK = re.compile(r"(?:^|/)__(\d+)_\d+\.distcp$|rank[_-]?(\d+)|rng_state_(\d+)\.pth$")
"""Names of files that one rank writes: DCP's, and what people call their own."""


class Ranks:
    """The ranks of this training. Without `torch.distributed`, or with one rank, it is that one.

    All methods are collective: every rank calls them in the same order, from its main thread. They
    use CPU tensors in groups of their own (gloo), so they neither wait for a GPU nor queue behind
    its collectives.

    Attributes:
        rank, size: of this process, and how many there are.
        background_group: the group for an asynchronous save, whose collectives run in a thread: in
            the training's own group they would mix with those of its steps.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        """Make the groups. `reporter`: this process's; None: `Reporter.from_env()`."""
        self.reporter = reporter or Reporter.from_env()
        self.rank, self.size = 0, 1
        self._group: Any = None
        self.background_group: Any = None  # its collectives run in another thread
        self._commit = BackgroundCommit()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            self._group = dist.new_group(backend="gloo")
            self.background_group = dist.new_group(backend="gloo")
            atexit.register(self.close)

    def should_stop(self) -> bool:
        """Return True on every rank if any rank was asked to stop; waits for all of them.

        A signal reaches ranks at different steps: a rank that left the loop alone would leave the
        others in a collective that never ends. Half a millisecond over gloo.
        """
        stops = self.any(self.reporter.should_stop)
        if stops:
            self.reporter.stop_request.requested = True
        return stops

    def any(self, flag: bool) -> bool:
        """Return True on every rank if `flag` is True on any."""
        if self._group is None:
            return flag
        tensor = torch.tensor([int(flag)], dtype=torch.int32)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return bool(tensor.item())

    def close(self) -> None:
        """Wait for the commit in the background, and end the groups. Runs at exit by itself.

        A thread of gloo that lets go of its last tensor while the interpreter ends aborts the
        process (SIGABRT). `destroy_process_group` leaves the threads to whoever refers to the
        group; without a reference they are joined.
        """
        self._commit.wait()
        groups = [group for group in (self._group, self.background_group) if group is not None]
        self._group = self.background_group = None
        while groups:
            group = groups.pop()
            with suppress(Exception):  # the training has destroyed it already
                dist.destroy_process_group(group)
            del group
        atexit.unregister(self.close)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._group is not None:
            dist.barrier(group=self._group)

    @contextmanager
    def checkpoint(self, step: int, name: str | None = None, **quality: Any) -> Iterator[Path]:
        """Save a checkpoint that all ranks write into the directory that this yields.

        Args:
            step, name, **quality: as in `Reporter.checkpoint`; rank 0's count.

        Raises:
            CheckpointError, OSError: on every rank, if a rank failed or it could not be committed.
                Nothing is left of it then. A rank whose own block failed raises that error.

        Example:
            with ranks.checkpoint(step) as directory:
                dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=directory)
        """
        saving = self.begin(step, name, **quality)
        failure: BaseException | None = None
        try:
            yield saving.path
        except BaseException as error:
            failure = error
        saving._settle(failure, self._group)
        if failure is not None:
            raise failure

    def begin(self, step: int, name: str | None = None, **quality: Any) -> "RanksSaving":
        """Begin a checkpoint that all ranks write, in the background.

        Waits until the one before is committed.

        Args:
            step, name, **quality: as in `Reporter.checkpoint`; rank 0's count.

        Raises:
            CheckpointError, OSError: on every rank, if rank 0 cannot make the directory, or the
                one before could not be committed.

        Example:
            saving = ranks.begin(step)
            future = dcp.async_save(
                state, checkpoint_id=saving.path, process_group=ranks.background_group
            )
            saving.commit_after(future)
        """
        self.wait()
        saving: Saving | None = None
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                saving = self.reporter.begin_checkpoint(step, name, **quality)
                outcome = [(str(saving.path), None)]
            except Exception as error:
                outcome = [(None, str(error))]
        if self._group is not None:
            dist.broadcast_object_list(outcome, src=0, group=self._group)
        path, why = outcome[0]
        if path is None:
            raise CheckpointError(f"no checkpoint was begun: {why}")
        return RanksSaving(self, saving, Path(path))

    def wait(self) -> None:
        """Wait until no checkpoint is committed in the background. Raises like `begin`."""
        self._commit.wait()
        self._commit.check()


class _Part(NamedTuple):
    """One rank's report on its part of a checkpoint."""

    error: str | None
    files: list[File]


class RanksSaving:
    """A checkpoint that all ranks are writing. Every rank ends it by `commit_after`.

    Attributes:
        path: the directory to write into, the same on every rank.
    """

    def __init__(self, ranks: Ranks, saving: Saving | None, path: Path) -> None:
        self._ranks, self._saving, self.path = ranks, saving, path

    def commit_after(self, future: "Future[Any]") -> None:
        """Commit in the background once this rank's future, and every other rank's, is done.

        `Ranks.begin`, `checkpoint` and `wait` wait for that; so does the end of the process. If a
        future has an exception, or a rank dies, nothing is left of the checkpoint.
        """

        def work() -> None:
            failure = future.exception()
            self._settle(failure, self._ranks.background_group)
            if failure is not None:
                raise failure

        self._ranks._commit.start(work, f"checkpoint {self.path.name}")

    def _settle(self, failure: BaseException | None, group: Any) -> None:
        """Gather every rank's part; rank 0 commits or abandons. Raises on every rank."""
        try:
            part = self._hash_own(failure, group)
            parts = _gather(part, self._ranks.size, group)
            broken = [f"rank {r}: {p.error}" for r, p in enumerate(parts) if p.error is not None]
            outcome: list[Any] = [None]
            if self._saving is not None:
                outcome = [self._end(broken, [file for p in parts for file in p.files])]
            if group is not None:
                dist.broadcast_object_list(outcome, src=0, group=group)
        except BaseException:
            if self._saving is not None:  # another rank is gone
                self._saving.abandon()
            raise
        if failure is None and outcome[0] is not None:
            raise CheckpointError(f"the checkpoint was not committed: {outcome[0]}")

    def _hash_own(self, failure: BaseException | None, group: Any) -> _Part:
        """Hash this rank's share of the files, once all ranks have written."""
        if group is not None:
            dist.barrier(group=group)
        if failure is not None:
            return _Part(repr(failure)[:300], [])
        try:
            sizes = dict(_share(self.path, self._ranks.rank, self._ranks.size))
            with open_directory(self.path) as root:
                return _Part(None, hash_files(root, sizes))
        except Exception as error:
            return _Part(repr(error)[:300], [])

    def _end(self, broken: list[str], hashed: list[File]) -> str | None:
        """Commit, or abandon if a rank failed. Return why there is no checkpoint, or None."""
        assert self._saving is not None
        if broken:
            self._saving.abandon()
            return "; ".join(broken)
        try:
            self._saving.commit(hashed=hashed)
        except Exception as error:
            return str(error)
        return None


def _share(directory: Path, rank: int, size: int) -> Iterator[tuple[str, int]]:
    """Yield path and size of the files that a rank hashes: its own; of the others, some of them."""
    sizes: dict[str, int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file():
                sizes[path.relative_to(directory).as_posix()] = path.stat().st_size
    loads = [0] * size
    for path_of_file, bytes_of_file in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        match = _OF_RANK.search(path_of_file)
        number = int(next(filter(None, match.groups()))) if match else size
        owner = number if number < size else loads.index(min(loads))
        loads[owner] += bytes_of_file
        if owner == rank:
            yield path_of_file, bytes_of_file


def _gather(part: _Part, size: int, group: Any) -> list[_Part]:
    if group is None:
        return [part]
    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, part, group=group)
    return parts


def all_finite(model: Any) -> bool:
    """Return True if this rank's weights hold neither NaN nor an infinity. Reads all of them."""
    for parameter in model.parameters():
        local = getattr(parameter, "to_local", lambda value=parameter: value)()
        if not bool(torch.isfinite(local).all()):
            return False
    return True
