#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "rich>=14,<16",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "yarl>=1.20,<2",
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What does VirusTotal see? Download a feed, one verified file per minute. Run the same command again to continue.

A minute appears as OUT/date=YYYY-MM-DD/hour=HH/YYYYMMDDhhmm.jsonl.zst once it is complete, so the directory is the
checkpoint. Feeds reach back 7 days and lag 60 minutes behind. Each feed needs its own licence. Times are UTC:
YYYYMMDDhhmm, ISO 8601, or an age such as 90m, 3h, 7d. `verify DIR` reads all files again and lists damage and gaps.

    uv run scripts/feed_dump.py files --from 7d --out dump --follow
    uv run scripts/feed_dump.py verify dump

Exit codes: 0 complete, 1 failed, 2 wrong usage or key, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import tenacity
import typer
import zstandard

MINUTE, LAG, RETENTION = timedelta(minutes=1), timedelta(minutes=60), timedelta(days=7)
POLL_SECONDS, RETRY_SECONDS = 20, 900  # how long a follower waits for a minute that is late, or that failed
MAX_FAILURES = 20  # in a row: the server is down
DAMAGE = (OSError, EOFError, tarfile.TarError, zstandard.ZstdError)  # what reading a damaged package raises

Feed = StrEnum("Feed", ["files", "urls", "file_behaviours", "domains", "ip_addresses", "verify"])
Compression = StrEnum("Compression", ["zst", "bz2"])


@dataclass
class Dump:
    """A feed, and the directory of its minutes. `parts` is for incomplete files. Dask workers get it."""

    feed: str
    out: Path
    compression: str
    parts: Path
    host: str | None
    apikey: str | None
    cores: contextlib.AbstractContextManager[Any]  # bounds how many threads decompress at once

    def path(self, minute: datetime, compression: str) -> Path:
        """Return the file of a minute."""
        return self.out / f"{minute:date=%Y-%m-%d/hour=%H/%Y%m%d%H%M}.jsonl.{compression}"

    def has(self, minute: datetime) -> bool:
        """Return whether the minute is there, in either format."""
        return any(self.path(minute, compression).exists() for compression in Compression)


@dataclass
class Result:
    """What became of a minute, or of the archive of an hour. Plain values, because Dask workers send it.

    `status` is saved, missing (404), not published yet, or failed. An `exit_code` says that no other minute would do
    better. `counts` has the numbers of lines, bytes and requests.
    """

    status: str
    message: str = ""
    exit_code: int = 0
    counts: Counter[str] = field(default_factory=Counter)


# ---- One minute, or the archive of an hour


def is_damage(error: BaseException) -> bool:
    """Return whether an error is about the content of a package. bz2's own OSError has no errno, the disk's has."""
    return isinstance(error, DAMAGE) and not getattr(error, "errno", None)


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a package, verified by its checksums. Raises DAMAGE."""
    complete = path.stat().st_size > 0
    if path.suffix == ".zst":
        decompressor = zstandard.ZstdDecompressor().decompressobj()  # stream_reader does not notice a truncated file
        with open(path, "rb") as file:
            yield from map(decompressor.decompress, iter(lambda: file.read(1 << 18), b""))
        complete = decompressor.eof
    else:
        with bz2.open(path) as content:
            yield from iter(lambda: content.read(1 << 20), b"")
    if not complete:
        raise EOFError("the file is empty or truncated")


def save(package: Path, dump: Dump, minute: datetime) -> Counter[str]:
    """Verify a package, recompress it if zst is wanted, and rename it into place. Raises DAMAGE."""
    recompressed = package.with_suffix(".zst")
    # Level 3 takes an eighth more time, and saves 3 % of the space.
    compressor, lines = zstandard.ZstdCompressor(level=1, write_checksum=True), 0
    with open(recompressed, "wb") as file, compressor.stream_writer(file) as packed:
        for block in read_blocks(package):
            lines += block.count(b"\n")
            if dump.compression == "zst":
                packed.write(block)
    done = recompressed if dump.compression == "zst" else package
    path, size = dump.path(minute, dump.compression), done.stat().st_size
    path.parent.mkdir(parents=True, exist_ok=True)
    done.replace(path)
    return Counter(lines=lines, bytes=size)


def save_hour(archive: Path, dump: Dump, minutes: list[datetime]) -> Counter[str]:
    """Save those of the minutes that the archive of an hour holds, up to the first damage. Raises OSError."""
    counts, wanted = Counter[str](), {f"{minute:%Y%m%d%H%M}": minute for minute in minutes}
    package = archive.with_name("member")
    try:
        with tarfile.open(archive, "r:bz2") as tar:
            for member in tar:
                stamp = re.search(r"(?<!\d)\d{12}(?!\d)", Path(member.name).name)  # the name never becomes a path
                if member.isfile() and stamp and stamp[0] in wanted:
                    package.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
                    counts += save(package, dump, wanted[stamp[0]])
    except DAMAGE as error:
        if not is_damage(error):
            raise
    return counts


@tenacity.retry(retry=tenacity.retry_if_exception(is_damage), stop=tenacity.stop_after_attempt(3), reraise=True)
async def download(client: VirusTotal, dump: Dump, minutes: list[datetime]) -> Counter[str]:
    """Download and save a minute, or several of an hour from its archive. Raises VirusTotalError and DAMAGE.

    https://docs.virustotal.com/reference/feeds-file
    """
    with tempfile.TemporaryDirectory(dir=dump.parts, ignore_cleanup_errors=True) as folder:
        package, first = Path(folder, "package"), minutes[0]
        if len(minutes) == 1:
            await client.download("/feeds/{}/{}", dump.feed, f"{first:%Y%m%d%H%M}", to=package)
        else:
            await client.download("/feeds/{}/hourly/{}", dump.feed, f"{first:%Y%m%d%H}", to=package)
        with dump.cores:
            return save(package, dump, first) if len(minutes) == 1 else save_hour(package, dump, minutes)


def explain(error: Exception) -> Result:
    """Return what an error means for the minute and, by an exit code, for the run."""
    if is_damage(error):
        return Result("failed", f"the package is damaged: {error}")
    if not isinstance(error, VirusTotalError):
        return Result("failed", f"cannot write: {error}", exit_code=1)
    if error.code in ("NotAvailableYet", "NotAvailableYetError"):  # both have been seen
        return Result("not published yet", str(error))
    if error.code.startswith("HTTP "):  # the storage or a proxy answered, about this minute only
        return Result("failed", str(error))
    if error.status == 404:
        return Result("missing")
    return Result("failed", str(error), error.exit_code if error.status in (400, 401, 403, 429) else 0)


def fetch(dump: Dump, minutes: list[datetime]) -> Result:
    """Fetch a minute, or several of an hour from its archive; in a thread, or on a Dask worker. Raises UsageError.

    Other errors come back in the result, because not every exception can be sent from a Dask worker.
    """

    async def work() -> Result:
        async with VirusTotal(dump.apikey, host=dump.host) as client:
            try:
                result = Result("saved", counts=await download(client, dump, minutes))
            except (VirusTotalError, *DAMAGE) as error:
                result = explain(error)
            result.counts["requests"] = client.requests
            return result

    return asyncio.run(work())


def fetch_on_worker(cluster: Any, dump: Dump, minutes: list[datetime]) -> Result:
    """Call `fetch` on a worker of a Dask cluster (a distributed.Client).

    The submit of Dask's own executor does not do: some of its futures never end if the scheduler or a worker dies.
    """
    try:
        result: Result = cluster.submit(fetch, dump, minutes, pure=False).result()
        return result
    except Exception as error:
        return Result("failed", f"the Dask scheduler or its workers failed: {error}", exit_code=1)


# ---- The run: which minutes, how many at a time, what became of them


def this_minute() -> datetime:
    """Return the current time without its seconds."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


def minutes_between(start: datetime, stop: datetime) -> Iterator[datetime]:
    """Yield the minutes from `start` to `stop` (excluded)."""
    while start < stop:
        yield start
        start += MINUTE


@dataclass
class Run:
    """A dump in progress. Each task has a client of its own, so VT_RATE and VT_MAX_REQUESTS are applied here.

    `statuses` says what became of each minute: the status of its Result, already there, or expired. `counts` has the
    numbers of lines, bytes and requests. `stopped` is what ended the run early.
    """

    dump: Dump
    submit: Callable[[list[datetime]], Future[Result]]
    jobs: int
    following: bool
    statuses: dict[datetime, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    pending: dict[Future[Result], list[datetime]] = field(default_factory=dict)
    failures: int = 0  # in a row
    stopped: Result | None = None

    def follow(self, start: datetime) -> None:
        """Fetch minutes as they are published, and every 15 minutes those that failed."""
        while not self.stopped:
            retry = time.monotonic() + RETRY_SECONDS * SECOND
            while time.monotonic() < retry and not self.stopped:
                self.walk(max(start, this_minute() - RETENTION), this_minute() - LAG, until=retry)
                self.forget("not published yet")
                time.sleep(POLL_SECONDS * SECOND)
            self.forget("failed")

    def walk(self, start: datetime, stop: datetime, *, hourly: bool = False, until: float = float("inf")) -> None:
        """Fetch the minutes without a status, oldest first, as long as there is time."""
        from rich.console import Console

        with Console(stderr=True).status("") as display:  # on a terminal only
            for minutes in self.plan(start, stop, hourly):
                self.wait_for_turn()
                if self.stopped or time.monotonic() >= until:
                    break
                self.pending[self.submit(minutes)] = minutes
                display.update(self.describe())
            while self.pending and not self.stopped:
                self.collect()

    def plan(self, start: datetime, stop: datetime, hourly: bool) -> Iterator[list[datetime]]:
        """Yield what to fetch: a minute, or with `hourly` the minutes of an hour if they are worth an archive."""
        for _, hour in itertools.groupby(minutes_between(start, stop), lambda minute: minute.replace(minute=0)):
            unknown = [minute for minute in hour if minute not in self.statuses]
            self.statuses |= {minute: "already there" for minute in unknown if self.dump.has(minute)}
            lacking = [minute for minute in unknown if minute not in self.statuses]
            yield from [lacking] if hourly and len(lacking) > 30 else ([minute] for minute in lacking)

    def wait_for_turn(self) -> None:
        """Wait until `jobs`, VT_RATE and VT_MAX_REQUESTS allow another task."""
        most = positive_env("VT_MAX_REQUESTS", 1e9)
        time.sleep(60 * SECOND / positive_env("VT_RATE", 1e6))
        while self.pending and len(self.pending) >= min(self.jobs, most - self.counts["requests"]):
            self.collect()
        if self.counts["requests"] >= most:
            self.stopped = Result("failed", f"VT_MAX_REQUESTS: {most:.0f} requests are spent", exit_code=4)

    def collect(self) -> None:
        """Wait up to a second for tasks, and record those that are done."""
        for future in wait(self.pending, timeout=SECOND, return_when=FIRST_COMPLETED).done:
            self.record(self.pending.pop(future), future.result())

    def record(self, minutes: list[datetime], result: Result) -> None:
        """Note what became of a minute, or of the minutes of an archive, and whether that ends the run."""
        self.counts.update(result.counts)
        if result.exit_code and not (self.following and result.exit_code == 4):  # quotas come back
            self.stopped = result
            return
        minute, status = minutes[0], result.status
        if status == "missing" and datetime.now(UTC) - minute > RETENTION:
            status = "expired"
        if len(minutes) == 1:
            self.statuses[minute] = status
        else:  # what the archive lacks comes minute by minute
            self.statuses |= {minute: "saved" for minute in minutes if self.dump.has(minute)}
        if status != "saved" and not (self.following and status == "not published yet"):
            log(f"{minute:%Y%m%d%H%M} {status}" + (f": {result.message}" if result.message else ""))
        self.failures = self.failures + 1 if status in ("failed", "not published yet") else 0
        if self.failures >= MAX_FAILURES and not self.following:
            self.stopped = Result("failed", f"{self.failures} minutes in a row failed: {result.message}", exit_code=3)

    def forget(self, status: str) -> None:
        """Let the next walk fetch the minutes with this status again."""
        self.statuses = {minute: other for minute, other in self.statuses.items() if other != status}

    def describe(self) -> str:
        """Return what was done on one line."""
        from rich.filesize import decimal

        number = Counter(self.statuses.values()) + Counter(unfinished=sum(map(len, self.pending.values())))
        lines, size = plural(self.counts["lines"], "line"), decimal(self.counts["bytes"])
        saved, present = plural(number.pop("saved", 0), "minute"), number.pop("already there", 0)
        others = "".join(f", {count} {status}" for status, count in number.items())
        return f"{saved} ({lines}, {size}), {present} already there{others}"


@contextlib.contextmanager
def open_directory(out: Path, feed: str) -> Iterator[Path]:
    """Yield a directory for incomplete files in `out`, and remove it. Raises UsageError if `out` holds another feed."""
    out.mkdir(parents=True, exist_ok=True)
    marker = out / ".feed"
    other = marker.read_text(encoding="utf-8") if marker.exists() else ""
    if other not in ("", feed):
        raise UsageError(f"{out} holds the feed {other}: name another directory with --out")
    marker.write_text(feed, encoding="utf-8")
    for parts in out.glob(".parts-*"):  # of killed runs; a younger one may belong to a run that is alive
        if parts.stat().st_mtime < time.time() - 86400:
            shutil.rmtree(parts, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=out, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def dump_feed(
    feed: str, start: datetime, stop: datetime | None = None, *, out: Path | None = None, compression: str = "zst",
    follow: bool = False, hourly: bool = False, jobs: int | None = None, scheduler: str = "", apikey: str | None = None,
) -> Run:  # fmt: skip
    """Download the minutes from `start` to `stop` (excluded; None: what is published) that the directory `out` lacks.

    With `follow`, only what ends it makes it return, such as Ctrl-C: see `stopped` of the run.
    """
    start, stop = (at.replace(second=0, microsecond=0) for at in (start, stop or this_minute() - LAG))
    out, cores = (out or Path(feed)).resolve(), os.cpu_count() or 1
    # More threads than cores that decompress at once evict each other's caches: three times the CPU time.
    limit = contextlib.nullcontext() if scheduler else threading.BoundedSemaphore(cores)
    # An archive takes some 2 GB of disk. 64 tasks keep 32 Dask workers busy.
    jobs = jobs or (64 if scheduler else cores if hourly else 4 * cores)
    cluster = connect_to_dask(scheduler) if scheduler else contextlib.nullcontext()
    with cluster, open_directory(out, feed) as parts:
        dump = Dump(feed, out, compression, parts, os.environ.get("VT_HOST"), apikey, limit)
        executor = ThreadPoolExecutor(jobs)
        task = functools.partial(fetch_on_worker, cluster, dump) if scheduler else functools.partial(fetch, dump)
        run = Run(dump, functools.partial(executor.submit, task), jobs, follow)
        try:
            if hourly:
                run.walk(start, stop, hourly=True)
            run.follow(start) if follow else run.walk(start, stop)
        except KeyboardInterrupt:
            run.stopped = Result("failed", "interrupted", exit_code=130)
        executor.shutdown(wait=False)
    return run


# ---- What is printed


def three_in_a_row(minutes: Iterable[datetime]) -> bool:
    """Return whether three consecutive minutes are among these. VirusTotal lacks one or two now and then."""
    there = set(minutes)
    return any({minute + MINUTE, minute + 2 * MINUTE} <= there for minute in there)


def summarize(run: Run) -> int:
    """Print the summary, and return the exit code."""
    problem = run.stopped.message if run.stopped else None
    if not problem and {"failed", "not published yet"} & set(run.statuses.values()):
        problem = "not all minutes could be downloaded"
    elif not problem and three_in_a_row(minute for minute, status in run.statuses.items() if status == "missing"):
        problem = "three or more minutes in a row are missing"
    code = print_summary(run.describe(), run.counts["requests"], error=problem, resume="the same command")
    return run.stopped.exit_code if run.stopped else code


def check(path: Path) -> str:
    """Return what is wrong with a file, or an empty string."""
    try:
        for _ in read_blocks(path):
            pass
    except DAMAGE as error:
        return str(error)
    return ""


def verify(directory: Path) -> int:
    """Read every file of a dump again. Print the damaged files and the missing minutes, and return the exit code."""
    paths = find_minutes(directory)
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        damaged = [(path, reason) for path, reason in zip(paths, executor.map(check, paths), strict=True) if reason]
    for path, reason in damaged:
        print(f"damaged\t{printable(path)}\t{printable(reason)}")
    there = {datetime.strptime(path.name[:12], "%Y%m%d%H%M") for path in paths}
    missing = sorted(set(minutes_between(min(there), max(there))) - there)
    for minute in missing:
        print(f"missing\t{minute:%Y%m%d%H%M}")
    gap = "three or more minutes in a row are missing" if three_in_a_row(missing) else None
    error = "delete the damaged files, and run the dump again" if damaged else gap
    done = f"{plural(len(paths), 'file')}, {len(damaged)} damaged, {plural(len(missing), 'minute')} missing"
    return print_summary(done, error=error)


def limit_range(start: str, stop: str, follow: bool) -> tuple[datetime, datetime | None]:
    """Return the first minute and the one to stop before, within what VirusTotal has. Raises UsageError."""
    first, last, oldest = parse_time(start), parse_time(stop) if stop else None, this_minute() - RETENTION
    if first < oldest - MINUTE:  # the clock goes on after `7d` is parsed
        log(f"feeds reach back 7 days: starting at {oldest:%Y%m%d%H%M}")
        first = oldest
    if not follow and first + MINUTE > (last or this_minute() - LAG):
        raise UsageError(
            f"no minutes from {start} to {stop or '60m'}: feeds reach back 7 days, and lag 60 minutes behind"
        )
    return first, last


def main(
    feed: Annotated[Feed, typer.Argument(help="The feed, or `verify`.")],
    directory: Annotated[Path | None, typer.Argument(help="What to verify.", exists=True, file_okay=False)] = None,
    start: Annotated[str, typer.Option("--from", help="The first minute.")] = "3h",
    stop: Annotated[str, typer.Option("--to", help="The minute to stop before. [default: what is published]")] = "",
    out: Annotated[Path | None, typer.Option(help="The directory. [default: the feed's name]")] = None,
    compression: Annotated[Compression, typer.Option("--format", help="bz2: as published.")] = Compression.zst,
    follow: Annotated[bool, typer.Option("--follow", help="Keep going until interrupted.")] = False,
    hourly: Annotated[bool, typer.Option("--hourly", help="Whole hours in one request each.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Minutes at a time. [default: 4 a core; Dask: 64]")] = None,
    scheduler: Annotated[str, typer.Option(help="A Dask scheduler, such as tcp://host:8786.")] = "",
    apikey: Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")] = None,
) -> int:
    """Download the feed, or verify what is there."""
    if (feed is Feed.verify) != bool(directory):
        raise UsageError("expected `feed_dump.py FEED --out DIR` or `feed_dump.py verify DIR`")
    if directory:
        return verify(directory)
    if scheduler and apikey:
        raise UsageError("--apikey does not reach the workers of --scheduler: set VT_API_KEY where they run")
    if follow and stop:
        raise UsageError("--follow keeps going until interrupted: leave --to out")
    first, last = limit_range(start, stop, follow)
    run = dump_feed(
        feed.value, first, last, out=out, compression=compression.value, follow=follow, hourly=hourly, jobs=jobs,
        scheduler=scheduler, apikey=apikey,
    )  # fmt: skip
    return summarize(run)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import difflib
import email.utils
import json
import logging
import math
import random
import shlex
import tomllib
import urllib.parse
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import aiohttp.base_protocol
import aiolimiter
import vt
import yarl


class UsageError(ValueError):
    """A mistake in an argument, the API key or the query; the message says what to do about it."""

    exit_code = 2


def printable(text: object) -> str:
    """Return `text` on one line, with control characters, bidi marks and lone surrogates escaped.

    VirusTotal's strings come from malware authors. `str.isprintable` is False for exactly those characters.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log(message: object) -> None:
    """Print one line on stderr; stdout carries data only."""
    print(printable(message), file=sys.stderr, flush=True)


def plural(count: int, noun: str, total: int | None = None) -> str:
    """Return "1 match" or "2 matches", with a `total` "1 of 6 matches"."""
    named = count if total is None else total
    nouns = noun if named == 1 else f"{noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"
    return f"{count} {nouns}" if total is None else f"{count} of {total} {nouns}"


def print_summary(
    done: str,
    requests: int | None = None,
    *,
    error: BaseException | str | None = None,
    cursor: str | None = None,
    resume: str = "",
    more: bool = False,
) -> int:
    """Print the last line and return the exit code.

    The line says what was `done`, how many requests it took, whether it is complete, and how to resume: at `cursor`, or
    with the option or the command `resume`. A `cursor` or `more` says that a --limit ended the work.
    `error` is what ended the work early (an exception), or what is missing (a sentence).
    """
    spent = done if requests is None else f"{done}, {plural(requests, 'request')}"
    resume = f"--cursor {shlex.quote(cursor)}" if cursor else resume
    if error is None:
        rest = f"; there is more: --limit 0 for all, or continue with {resume}"
        log(spent + (rest if cursor or more else ", complete"))
        return 0
    reason = str(error) or "interrupted"
    log(f"INCOMPLETE: {spent}; {reason}" + (f"; resume with {resume}" if resume else ""))
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return 130
    if isinstance(error, OSError):
        return 1
    return 4 if getattr(error, "exit_code", 3) == 4 else 3


def cli(main: Callable[..., Any] | typer.Typer, argv: list[str] | None = None) -> int:
    """Run `main`, a function or an app of commands, and return its exit code. Either may return a coroutine.

    The docstring of its file is the help. An expected error is one line on stderr. A pipe that its reader closed ends
    the script quietly.
    """
    if isinstance(main, typer.Typer):
        app = main
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(help=main.__globals__["__doc__"])(main)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        command = typer.main.get_command(app)
        command.help = re.sub("\n\n(?= )", "\n\n\b\n", command.help or "")  # \b keeps the lines of an example
        command.context_settings["help_option_names"] = ["-h", "--help"]
        # command.main() would end the process itself at a closed pipe.
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:] if argv is None else argv) as context:
            result = command.invoke(context)
            code = asyncio.run(result) if asyncio.iscoroutine(result) else result
        sys.stdout.flush()
        return code or 0
    except typer.Exit as ended:  # --help
        return ended.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 0
    except (KeyboardInterrupt, typer.Abort):
        log("interrupted")
        return 130
    except typer.TyperException as error:
        log(f"error: {usage_hint(error.format_message())} (see --help)")
        return 2
    except Exception as error:
        if not isinstance(error, OSError) and not hasattr(error, "exit_code"):
            raise
        log(f"error: {error}")
        return getattr(error, "exit_code", 1)


def usage_hint(message: str) -> str:
    """Return typer's message on one line, with a near miss or a forgotten quote pointed out."""
    message = " ".join(message.replace("Value error, ", "").split())
    if " is not one of " in message:
        value, *choices = re.findall("'([^']*)'", message.partition(": ")[2])
        near = difflib.get_close_matches(value, choices, n=1)
        return f"{message} Did you mean {near[0]}?" if near else message
    return f"{message}: quote an argument that contains spaces" if "unexpected extra argument" in message else message


def parse_time(text: str) -> datetime:
    """Parse an ISO 8601 time (UTC unless it names a zone), YYYYMMDDhhmm, or an age such as 90m, 3h or 7d.

    Raises UsageError.
    """
    try:
        if age := re.fullmatch("([0-9]{1,6})([mhd])", text):
            units = {"m": "minutes", "h": "hours", "d": "days"}
            return datetime.now(UTC) - timedelta(**{units[age[2]]: int(age[1])})
        is_minute = re.fullmatch("[0-9]{12}", text)
        at = datetime.strptime(text, "%Y%m%d%H%M") if is_minute else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        expected = "2026-11-01, 2026-11-01T12:00Z, 202611011200, or an age: 90m, 12h, 7d"
        raise UsageError(f"{text} is not a time: expected {expected}") from None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


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


SECOND = 1.0  # the unit of every delay; tests shorten it

NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, ConnectionError)

UNSENT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)  # no connection, so nothing was sent

RETRY_STATUSES = {424, 429, 500, 501, 502, 503, 504}  # https://docs.virustotal.com/reference/errors, and proxies


class VirusTotalError(vt.APIError):
    """An error response, or a network failure (`status` 0): vt-py's `code` and `message`, and the HTTP `status`.

    `may_have_run` says whether VirusTotal may have carried the request out.
    """

    def __init__(self, code: str, message: str, status: int = 0, *, may_have_run: bool = False) -> None:
        super().__init__(code, message)
        self.status = status
        self.may_have_run = may_have_run or status >= 500

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def exit_code(self) -> int:
        """2 for a mistake in the key or the query, 4 for an exhausted quota, 1 otherwise."""
        return {400: 2, 401: 2, 403: 2, 409: 2, 429: 4}.get(self.status, 1)


class Page(NamedTuple):
    """Objects as VirusTotal sent them, the cursor after them (None: no more), and how many match in all, if known."""

    objects: list[dict[str, Any]]
    cursor: str | None
    total: int | None


class VirusTotal(vt.Client):
    """A drop-in replacement for vt.Client. Every request, also of vt-py's own methods, is retried, paced and counted.

    The key is `apikey`, else VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml; it is sent to `host` (else VT_HOST) only.
    VT_MAX_WAIT is the longest total wait between retries in seconds (300), VT_RATE the most requests a minute,
    VT_MAX_REQUESTS the most requests in all. `requests` counts them. Errors are raised as VirusTotalError.
    """

    def __init__(
        self, apikey: str | None = None, agent: str = "virustotal-scripts", host: str | None = None, **options: Any
    ) -> None:
        key, self.key_source = find_key(apikey)
        host = (host or os.environ.get("VT_HOST") or "https://www.virustotal.com").rstrip("/")
        if not re.match(r"https?://[^/\s]+$", host):
            raise UsageError(f"VT_HOST is {host}: expected a URL such as https://www.virustotal.com")
        super().__init__(key, agent, host, **{"trust_env": True, "timeout": 60} | options)
        self.origin = yarl.URL(host).origin()
        self.requests = 0
        self.connected = False
        self.max_wait = positive_env("VT_MAX_WAIT", 300)
        self.max_requests = positive_env("VT_MAX_REQUESTS", math.inf)
        self.pace = aiolimiter.AsyncLimiter(1, 60 * SECOND / positive_env("VT_RATE", 1e6))

    def __getattribute__(self, name: str) -> Any:
        """Refuse vt-py's synchronous methods where they cannot work: in a running event loop, such as a notebook's."""
        if hasattr(vt.Client, f"{name}_async") and asyncio._get_running_loop():
            raise RuntimeError(f"in a notebook or a coroutine, use `await client.{name}_async(...)`")
        return super().__getattribute__(name)

    def __enter__(self) -> VirusTotal:
        if asyncio._get_running_loop():
            raise RuntimeError("in a notebook or a coroutine, use `async with VirusTotal() as client:`")
        return self

    def _full_url(self, path: str, *args: Any) -> str:
        """Return the URL of `path`, each {} replaced by one quoted segment. A whole URL of this host stays as it is."""
        if path.startswith(("https://", "http://")):
            own = path.startswith(f"http://{self.origin.host}/") and self.origin.scheme == "https"
            return path.replace("http://", "https://", 1) if own else path  # upload URLs have come as http
        if {".", "..", ""} & set(map(str, args)):
            raise UsageError(f"not an id: {args}")
        return (
            f"{self._host}/api/v3{path.format(*(urllib.parse.quote(str(arg), '', errors='replace') for arg in args))}"
        )

    def _get_session(self) -> aiohttp.ClientSession:
        """Return a session like vt-py's, but without its X-Apikey header, which would follow redirects anywhere."""
        if self._session is None:  # type: ignore[has-type]
            headers = {
                "User-Agent": f"{self._agent}; vtpy {vt.__version__}; gzip",
                "Accept-Encoding": "gzip",
                "x-tool": "opensource.virustotal-scripts.v1",  # without it, no gti_assessment
            }
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                headers=headers | (self._user_headers or {}),
                # No total: it would count the sleep between retries.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=self._timeout),
                middlewares=[self._send],
                trust_env=self._trust_env,
            )
        return self._session

    async def _send(self, request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        """Send a request, and again after a transient failure. aiohttp calls this for each request and redirect hop.

        A POST that may have reached VirusTotal is not repeated: it could start a second job.
        """
        own = request.url.origin() == self.origin
        if own:
            request.headers["X-Apikey"] = self._apikey
        else:
            request.headers.pop("Authorization", None)  # trust_env takes it from ~/.netrc
        idempotent = request.method in ("GET", "HEAD", "DELETE", "PATCH")  # VirusTotal's PATCH sets attributes
        attempt, waited = 0, 0.0
        while True:
            if own:
                await self._spend_request()
            delay = min(60, 2**attempt) * random.uniform(0.5, 1) * SECOND
            outcome: aiohttp.ClientResponse | VirusTotalError
            try:
                outcome = await self._receive(await handler(request))
                if outcome.status == 404 and request.method == "DELETE" and attempt:
                    outcome.status = 200  # an earlier attempt deleted it, and its response was lost
                if outcome.status not in RETRY_STATUSES:
                    return outcome
                delay = retry_after(outcome.headers.get("Retry-After", ""), delay)
                consumed = getattr(request.body, "consumed", False)  # a generator is empty on the second attempt
                repeatable = idempotent or (outcome.status == 429 and not consumed)
                reason = f"HTTP {outcome.status}"
            except NETWORK_ERRORS as error:
                repeatable = idempotent or isinstance(error, UNSENT_ERRORS)
                repeatable &= not isinstance(error, aiohttp.ClientSSLError)
                outcome = self.network_error(error)
                reason = str(outcome)
            # A host that was never reached is mistyped, or there is no network. Followers set max_wait to infinity.
            patience = 20 * SECOND if not self.connected and self.max_wait < math.inf else self.max_wait
            if not repeatable or waited + delay > min(patience, self.max_wait):
                if isinstance(outcome, VirusTotalError):
                    raise outcome
                return outcome
            if isinstance(outcome, aiohttp.ClientResponse):
                outcome.release()
            log(f"{request.url.path}: {reason}; retrying in {delay:.0f} s")
            await asyncio.sleep(delay)
            attempt, waited = attempt + 1, waited + delay

    async def _receive(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """Read a JSON body, so that a truncated one is retried, and leave it to be read again.

        vt-py reads a chunked body, and a download, from `content`, which is empty after the first time.
        """
        self.connected = True
        if response.content_type == "application/json":
            body, loop = await response.read(), asyncio.get_running_loop()
            protocol = aiohttp.base_protocol.BaseProtocol(loop)
            response.content = aiohttp.StreamReader(protocol, limit=len(body) + 1, loop=loop)
            response.content.feed_data(body)
            response.content.feed_eof()
        return response

    async def _spend_request(self) -> None:
        """Wait for VT_RATE, and count the request. Raises VirusTotalError when VT_MAX_REQUESTS is reached."""
        await self.pace.acquire()
        if self.requests >= self.max_requests:
            raise VirusTotalError("VT_MAX_REQUESTS", f"the limit of {self.max_requests:.0f} is reached", 429)
        self.requests += 1

    def network_error(self, error: BaseException) -> VirusTotalError:
        """Return the VirusTotalError for an error of aiohttp's."""
        hint = "" if self.connected else " (check the network, VT_HOST and HTTPS_PROXY)"
        message = f"{self.redact(error) or 'no answer in time'}{hint}"
        return VirusTotalError(type(error).__name__, message, may_have_run=not isinstance(error, UNSENT_ERRORS))

    def redact(self, text: object) -> str:
        """Return `text` without the API key. Keys are 64 characters; a short test key would match inside words."""
        return re.sub(re.escape(self._apikey), "[API key]", str(text)) if len(self._apikey) >= 32 else str(text)

    async def get_error_async(self, response: vt.ClientResponse) -> VirusTotalError | None:
        """Return what went wrong, or None. vt-py's own drops the status, and fails on a proxy's HTML."""
        if response.status < 300:
            return None
        text = ""
        with contextlib.suppress(*NETWORK_ERRORS):
            text = (await response._aiohttp_resp.read()).decode(errors="replace")
        text = self.redact(text)
        try:
            error = json.loads(text)["error"]
            code, message = str(error["code"]), str(error.get("message"))
        except (ValueError, KeyError, TypeError):
            code, message = f"HTTP {response.status}", " ".join(re.sub("<[^<>]*>", " ", text).split())[:200]
        if response.status in (401, 403):
            message += f" (the key is from {self.key_source}; searches, feeds and hunting need a premium key)"
        return VirusTotalError(code, message, response.status)

    async def _response_to_json(self, response: vt.ClientResponse) -> Any:
        """Return the JSON of a response. Override of vt-py's: a captive portal answers 200 with HTML."""
        if error := await self.get_error_async(response):
            raise error
        try:
            return json.loads(await response._aiohttp_resp.read())
        except ValueError:
            message = "the response is not JSON; is a proxy in the way?"
            raise VirusTotalError("InvalidResponse", message, may_have_run=True) from None

    async def pages(
        self, path: str, *args: Any, limit: int = 0, cursor: str | None = None, **params: str | None
    ) -> AsyncIterator[Page]:
        """Yield the pages of a collection, up to `limit` objects (0: all), each object once.

        `params` are the API's; None is left out. The next page is requested while the caller works on this one.
        vt-py's own iterator loses the rest of a page when it resumes, and fails on an empty page.
        """
        page_size = 300 if path.endswith(("/search", "/matching_files")) else 40  # the most that VirusTotal accepts
        remaining = limit or math.inf
        seen: set[int] = set()
        cursors = {cursor}

        def fetch() -> asyncio.Task[Any]:
            query = params | {"limit": str(min(page_size, remaining)), "cursor": cursor}
            given = {name: value for name, value in query.items() if value}
            return asyncio.create_task(self.get_json_async(path, *args, params=given))

        page = fetch()
        try:
            while True:
                answer = await page
                data, meta = answer.get("data"), answer.get("meta") or {}
                items = data if isinstance(data, list) else [data] if data else []  # a one-to-one relationship
                # The context counts: a file that two rules match comes once for each.
                keys = [hash(str((i.get("type"), i.get("id"), i.get("context_attributes")))) for i in items]
                new = {key: item for key, item in zip(keys, items, strict=True) if key not in seen}
                seen.update(new)
                remaining -= len(new)
                cursor = meta.get("cursor")
                repeated = cursor in cursors
                more = bool(cursor) and remaining > 0
                if more and not repeated:
                    cursors.add(cursor)
                    page = fetch()
                if new or not more:
                    yield Page(list(new.values()), None if repeated else cursor, meta.get("total_hits"))
                if more and repeated:
                    raise VirusTotalError("RepeatedCursor", "the same cursor came again; the rest is missing")
                if not more:
                    return
        finally:
            page.cancel()
            await asyncio.gather(page, return_exceptions=True)

    async def download(self, path: str, *args: Any, to: Path) -> None:
        """Stream the body of a GET (a feed package, a sample, a PCAP) into the file `to`. Raises VirusTotalError."""

        @tenacity.retry(
            retry=tenacity.retry_if_exception_type(NETWORK_ERRORS),
            wait=tenacity.wait_exponential(multiplier=SECOND, max=60),
            stop=tenacity.stop_after_attempt(5),
            reraise=True,
        )
        async def attempt() -> None:
            response = await self.get_async(path, *args)
            if error := await self.get_error_async(response):
                raise error
            async with response._aiohttp_resp as body:
                with open(to, "wb") as file:
                    async for chunk in body.content.iter_chunked(1 << 18):
                        file.write(chunk)

        try:
            await attempt()
        except NETWORK_ERRORS as error:
            raise self.network_error(error) from None


def retry_after(value: str, default: float) -> float:
    """Return the seconds to wait that a Retry-After header asks for, as a number or an HTTP date."""
    with contextlib.suppress(ValueError):
        return float(value)
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return default


def positive_env(name: str, default: float) -> float:
    """Return the number above 0 in the environment variable `name`. Raises UsageError."""
    text = os.environ.get(name) or str(default)
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise UsageError(f"{name} is {text}: expected a number above 0")


def find_key(apikey: str | None) -> tuple[str, str]:
    """Return the API key and where it was found. Raises UsageError, which does not show the key."""
    found = {"--apikey": apikey} | {name: os.environ.get(name) for name in ("VT_API_KEY", "VTCLI_APIKEY")}
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        found["~/.vt.toml"] = tomllib.loads(Path("~/.vt.toml").expanduser().read_text(encoding="utf-8")).get("apikey")
    for source, value in found.items():
        if key := str(value or "").strip():
            if not re.fullmatch("[!-~]+", key):
                raise UsageError(f"the API key from {source} contains characters that no key has")
            return key, source
    raise UsageError(
        "no API key in --apikey, VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml (`vt init` writes it); "
        "scripts/replay.py runs a command without one"
    )


# [[[end]]]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    code = cli(main)
    sys.stdout.flush()
    os._exit(code)  # a regular exit waits for downloads in other threads
