"""Print the result of each item as it arrives, and at the end how many there are of each status.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO

from output import atomic_write, print_summary
from virustotal import VirusTotal, VirusTotalError

# vendor:begin
FATAL_STATUSES = (401, 403, 429)  # a refused key, a missing privilege, an exhausted quota


def is_fatal(client: VirusTotal, error: VirusTotalError, statuses: tuple[int, ...] = FATAL_STATUSES) -> bool:
    """Return whether every other request would fail, too: for one of these statuses, and where there is no network."""
    return error.status in statuses or not client.connected


async def save_file(
    client: VirusTotal,
    item: dict[str, Any],
    path: Path,
    fetch: Callable[..., Awaitable[None]],
    statuses: tuple[int, ...] = FATAL_STATUSES,
) -> dict[str, Any]:
    """Save a file, unless it exists, and return `item` with status (present, downloaded, failed), path and error.

    `fetch(to=PATH)` writes the file to a temporary path. Raises OSError, and VirusTotalError if it is_fatal.
    """
    row = item | {"status": "present", "path": str(path), "error": None}
    if path.exists():
        return row
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as part:
            await fetch(to=part)
    except VirusTotalError as error:
        if is_fatal(client, error, statuses):
            raise
        return row | {"status": "failed", "path": None, "error": str(error)}
    return row | {"status": "downloaded"}


def encrypt(sample: Path, to: Path, *, name: str, password: str) -> None:
    """Write an AES zip with the file `sample` under this name at the path `to`. Raises OSError."""
    import pyzipper

    archive = pyzipper.AESZipFile(to, "w", pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES)
    try:
        archive.setpassword(password.encode())
        archive.write(sample, name)
        archive.close()
    finally:
        archive.fp = None  # else it closes itself again, and the OSError of a full disk becomes a ValueError


async def write_results(
    results: AsyncIterator[tuple[str, str]], client: VirusTotal, complete: set[str], file: TextIO | None = None
) -> int:
    """Write each result's line to `file` (None: stdout) as it arrives, print the summary, return the exit code.

    `results` yields a status and a line. The exit code is 3 if a status is not in `complete`. Raises the error of the
    first result: nothing was written then.
    """
    counts: Counter[str] = Counter()
    error: BaseException | None = None
    try:
        async for status, line in results:
            counts[status] += 1
            print(line, file=file, flush=True)
    except (VirusTotalError, OSError, asyncio.CancelledError) as stopped:
        if isinstance(stopped, BrokenPipeError) or not counts:
            raise
        error = stopped
    done = ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing found"
    gap = "the results say what is missing" if counts.keys() - complete else None
    return print_summary(done, client.requests, error=error or gap, resume="the same command")


# vendor:end
