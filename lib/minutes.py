"""Read the directory of a dump by feed_dump.py, and connect to Dask.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from output import UsageError


# vendor:begin
def find_minutes(folder: Path) -> list[Path]:
    """Return the files of a dump by feed_dump.py, oldest first. Raises UsageError if there are none."""
    if minutes := sorted(folder.glob("date=*/hour=*/[0-9]*.jsonl.*")):
        return minutes
    raise UsageError(f"{folder} holds no minutes of a feed: expected date=*/hour=*/*.jsonl.zst")


def connect_to_dask(scheduler: str) -> Any:
    """Return a client of a Dask scheduler. Raises UsageError."""
    try:
        import distributed

        for logger in ("distributed", "distributed.client", "tornado.application"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)  # they log tracebacks when a scheduler dies
        return distributed.Client(scheduler, timeout=10)
    except ImportError:
        raise UsageError("--scheduler needs Dask: start with `uv run --with 'dask[distributed]'`") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--scheduler {scheduler}: {error}") from None


# vendor:end
