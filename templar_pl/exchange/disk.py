"""What files and folders need that hold something others rely on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from templar_pl.errors import StoreError

_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder; it must be on a disk that knows hard links",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENOTDIR: "a file is where a folder must be",
    errno.EEXIST: "a file is where a folder must be, or a folder where a file must be",
    errno.EISDIR: "a folder is where a file must be",
    errno.ELOOP: "symbolic links are not followed below the store's folder",
}


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn what the system says into a `StoreError` with what, where and how to mend it."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        cause = error.strerror or str(error)
        raise StoreError(f"cannot {action} {path}: {cause}{f'; {remedy}' if remedy else ''}") from error


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
