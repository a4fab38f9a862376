"""The GPUs of this machine, as `nvidia-smi` lists them and CUDA_VISIBLE_DEVICES leaves them."""

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence

from app.domain.resources import Gpu

ASK_SECONDS = 60.0
FIRST_SECONDS = 2.0
"""A start waits no longer for a slow driver."""
_QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")


class GpuList:
    """The GPUs to offer. `nvidia-smi` is asked now and then, in the background: nobody waits for a
    driver that hangs, and its last answer stands.

    `types`: the types of the GPUs (`["A100", "A100"]`); None: ask the driver. `visible`: the
    server's CUDA_VISIBLE_DEVICES, if it has one; GPUs outside it are not offered.
    """

    def __init__(self, types: Sequence[str] | None, visible: str | None) -> None:
        self._fixed = None if types is None else tuple(Gpu(str(i), t) for i, t in enumerate(types))
        self._visible = visible
        self._found: tuple[Gpu, ...] = ()
        self._asked_at = 0.0
        self._asking: threading.Thread | None = None

    def get(self) -> tuple[Gpu, ...]:
        """Return the GPUs, as of the driver's last answer."""
        if self._fixed is not None:
            return self._fixed
        now, asked = time.monotonic(), self._asking
        if asked is None or (now - self._asked_at >= ASK_SECONDS and not asked.is_alive()):
            self._asked_at = now
            self._asking = threading.Thread(target=self._ask, name="nvidia-smi", daemon=True)
            self._asking.start()
            if asked is None:
                self._asking.join(FIRST_SECONDS)
        return self._found

    def _ask(self) -> None:
        listing = _ask_driver()
        if listing is not None:
            self._found = parse_gpus(listing, self._visible)


def parse_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs of an `index, uuid, name` listing, as `visible` leaves them.

    As in CUDA, the first entry that names no GPU hides itself and all that follow.
    """
    rows = [[cell.strip() for cell in line.split(",", 2)] for line in listing.splitlines()]
    every = [(row[0], row[1], row[2]) for row in rows if len(row) == 3]
    if visible is None:
        return tuple(Gpu(index, name) for index, _, name in every)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        match = [
            Gpu(index, name)
            for index, uuid, name in every
            if entry == index or (entry.startswith("GPU-") and uuid.startswith(entry))
        ]
        if len(match) != 1:
            break
        chosen += match
    return tuple(chosen)


def _ask_driver() -> str | None:
    """Return the driver's listing; empty without a driver, None if it did not answer this time."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        answer = subprocess.run(  # noqa: S603 - the path that `which` found
            [program, *_QUERY], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout
