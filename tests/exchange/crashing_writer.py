"""Puts objects that carry their own hash until it is killed. Arguments: root, address, bytes of an object."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from pathlib import Path

from templar_pl.exchange.local_store import LocalBuckets

if __name__ == "__main__":
    root, address, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    bucket = LocalBuckets(root, address).own()
    for number in itertools.count():
        body = os.urandom(size)
        data = hashlib.sha256(body).digest() + body
        bucket.put_once(f"run/once/{number:04d}", data)
        bucket.put("run/again", data)
        sys.stdout.write(".")
        sys.stdout.flush()
