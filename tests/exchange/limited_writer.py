"""Puts one object under a limit on file sizes and prints the error. Arguments: root, key, bytes, limit in bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from templar_pl.errors import StoreError
from templar_pl.exchange.local_store import LocalBuckets

if __name__ == "__main__":
    root, key, size, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        LocalBuckets(root, "me").own().put(key, bytes(size))
    except StoreError as error:
        sys.stdout.write(str(error))
