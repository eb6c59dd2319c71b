"""A process of its own that gathers from strangers and says how much memory each of them cost.

Arguments: folder of the keys, address of an honest server, addresses of the strangers' servers. Prints a JSON
list of [reason, KiB in use at most while gathering, more than before].
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

from tests.exchange.hostile.cast import STRANGER, Cast, make_cast
from tests.exchange.hostile.stage import gathered_from


def _measured(cast: Cast, url: str) -> tuple[str, int]:
    # Not the peak of the process: loading libraries took more than is used afterwards, which would hide a lot.
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    gathered = gathered_from(cast, url)
    _, peak = tracemalloc.get_traced_memory()
    return str(gathered.skipped.get(STRANGER, "")), (peak - before) // 1024


def main(folder: str, good_url: str, *urls: str) -> None:
    cast = make_cast(Path(folder))
    gathered_from(cast, good_url)  # what is loaded once is no stranger's fault
    tracemalloc.start()
    print(json.dumps([_measured(cast, url) for url in urls]))  # noqa: T201 - this is the answer


if __name__ == "__main__":
    main(*sys.argv[1:])
