"""The data directory on the disk, and its identity: a random name in its file `id`.

A server that does not see the run directories would take launched runs for never begun, and
launch them again. The database holds the name of the directory in which its runs are launched
(`app.services.data_dirs`).
"""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from app.storage import files

_MAX_BYTES = 4096


def make(data_dir: Path) -> None:
    """Make the data directory. Raises OSError if runs could not be kept there."""
    with suppress(FileExistsError):
        data_dir.mkdir(parents=True, exist_ok=True)
    writable = os.access(data_dir, os.W_OK | os.X_OK)
    for number, fine in ((errno.ENOTDIR, data_dir.is_dir()), (errno.EACCES, writable)):
        if not fine:
            raise OSError(number, os.strerror(number), str(data_dir))


def get_name(data_dir: Path) -> str:
    """Return the name of a data directory, and give it one if it has none. Raises OSError."""
    with files.directory(data_dir, make=True) as folder:
        if not files.exists(folder, "id"):
            draft = f".id-{secrets.token_hex(8)}"
            files.write(folder, draft, secrets.token_hex(16).encode())
            # A link, so that of two first starts one wins, and a crash leaves no empty file.
            with suppress(FileExistsError):
                os.link(draft, "id", src_dir_fd=folder, dst_dir_fd=folder)
            os.unlink(draft, dir_fd=folder)
        return files.read(folder, "id", _MAX_BYTES).decode(errors="replace")


def identity(data_dir: Path) -> str | None:
    """Return the name of a data directory; None if it is away, or another one. Raises OSError."""
    try:
        with files.directory(data_dir) as folder:
            return files.read(folder, "id", _MAX_BYTES).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError, files.Unusable):
        return None


def probe(data_dir: Path) -> None:
    """Write a file into the data directory and remove it. Raises OSError."""
    name = f".probe-{secrets.token_hex(8)}"
    with files.directory(data_dir) as folder:
        files.write(folder, name, b"?")
        os.unlink(name, dir_fd=folder)
