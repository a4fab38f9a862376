"""Disks: what a power cut would lose (the bytes of a file that the kernel has not yet written), and
what cannot be removed."""

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

_CACHESTAT = 451  # the same number on every architecture; Linux 6.5
_FIELDS = ("cache", "dirty", "writeback", "evicted", "recently_evicted")


def unsynced_pages(path: Path) -> int:
    """Pages of a file that are in memory only. Skips the test where the kernel cannot tell."""
    if sys.platform != "linux":
        pytest.skip("cachestat is a system call of Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    whole_file = (ctypes.c_uint64 * 2)(0, 0)
    found = (ctypes.c_uint64 * len(_FIELDS))()
    descriptor = os.open(path, os.O_RDWR)
    try:
        if libc.syscall(_CACHESTAT, descriptor, ctypes.byref(whole_file), ctypes.byref(found), 0):
            code = ctypes.get_errno()
            if code in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                pytest.skip(f"cachestat: {os.strerror(code)}")
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)
    pages: dict[str, int] = dict(zip(_FIELDS, found, strict=True))
    return pages["dirty"] + pages["writeback"]


def exchange(one: Path, other: Path) -> None:
    """Swap two names at once. Skips the test where the system cannot."""
    if sys.platform != "linux":
        pytest.skip("renameat2 is a system call of Linux")
    libc, here, swap = ctypes.CDLL(None, use_errno=True), -100, 2
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), swap):
        raise OSError(ctypes.get_errno(), "renameat2")


def make_busy(patch: pytest.MonkeyPatch, busy: Path) -> None:
    """Refuse to rename a file or directory of this name, as of one that something is mounted on."""
    rename = os.rename

    def refuse(old: str, new: str, **more: Any) -> None:
        if old == busy.name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), old)
        rename(old, new, **more)

    patch.setattr(os, "rename", refuse)
