"""Puts numbered objects once and prints the numbers it won. Arguments: root, number of objects, name of the writer."""

from __future__ import annotations

import sys
from pathlib import Path

from templar_pl.exchange.local_store import LocalBuckets

if __name__ == "__main__":
    root, count, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    bucket = LocalBuckets(root, "shared").own()
    sys.stdin.readline()  # both start together
    won = [str(number) for number in range(count) if bucket.put_once(f"run/{number}", name.encode())]
    sys.stdout.write(" ".join(won))
