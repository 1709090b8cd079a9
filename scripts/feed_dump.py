#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "jsonpath-ng>=1.13,<2",
#     "msgspec>=0.20,<0.23",
#     "pyarrow>=21,<27",
#     "pyzipper>=0.3.6,<0.5",
#     "rich>=14,<16",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Every report of a VirusTotal feed on disk: one verified file a minute, nothing lost, run again to go on.

The feeds (files, urls, file_behaviours, domains, ip_addresses) need a licence each. They reach 7 days back and
60 minutes short of now. A minute lands in DIR/date=YYYY-MM-DD/hour=HH/YYYYMMDDhhmm.jsonl.bz2 (.jsonl.zst, .parquet)
once it is whole and verified, so the directory is the checkpoint: what is there is not asked for again.

  uv run scripts/feed_dump.py files --from 3h --out dump
  uv run scripts/feed_dump.py verify dump

Times are YYYYMMDDhhmm, ISO 8601 or an age (90m, 3h, 7d), in UTC; --from is included, --to is not. Without --to all
that the server has by now.

Exit codes: 0 complete, 1 failed (a full disk), 2 usage, key or licence, 3 incomplete (the minutes are named; run
again), 4 quota, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import contextvars
import dataclasses
import email.utils
import functools
import hashlib
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tarfile
import time
import tomllib
import urllib.parse
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn, TypedDict

import aiohttp
import aiolimiter
import msgspec
import tenacity
import typer
import vt
import yarl
from jsonpath_ng.ext import parse as parse_jsonpath

FEEDS = ("files", "urls", "file_behaviours", "domains", "ip_addresses")


class Format(StrEnum):
    """What a minute's file is: the package as published, or its lines."""

    bz2 = "bz2"
    zst = "zst"
    parquet = "parquet"


SUFFIXES = {"bz2": ".jsonl.bz2", "zst": ".jsonl.zst", "parquet": ".parquet"}
NOT_YET = ("NotAvailableYet", "NotAvailableYetError")  # both have been seen
ROW = 3  # one missing minute is normal, "several in a row" are not (VirusTotal's words)
REACH = 7 * 1440  # minutes that the feeds go back
POLL = 20.0  # seconds between two looks for the next minute, of which there is one a minute
PROBE = 5  # looks in vain after which a follower looks at the minute after that
NOWHERE = 120  # 404s in a row after which no minute is believed to come
RETRY = 900.0  # seconds after which a follower asks again for what failed
CHUNK = 1 << 18  # bytes read at a time, from the network and from a package
LONGEST = 64 << 20  # bytes of a line; reports reach 1.2 MB, but some kB of bzip2 hold any number of them
ARCHIVES = 2  # hours in hand at once: each is some 2 GB on disk, and as much again unpacked
LARGEST = 16 << 30  # bytes of a download: an hour of reports is some 2 GB, the dump of a sandbox's memory as much
SLOWEST = 1000  # bytes a second in the mean, below which a download is given up: a drip never ends
MEMBERS = 1000  # of an hourly archive, which has 60: tarfile remembers each
HEADER = 1 << 16  # bytes of a name or a comment in an archive, which tarfile takes into memory
BLOCK = 1 << 20  # bytes of JSON decompressed at a time: bzip2 works in blocks of 900 kB


@dataclasses.dataclass(frozen=True)
class Dump:
    """What is wanted of a feed and where it goes. Plain values: it travels to other processes and machines."""

    feed: str
    out: str
    format: str = "bz2"
    where: str = ""
    columns: tuple[tuple[str, str, str], ...] = ()  # of parquet: name, JSONPath, type ("" to be settled)
    artifacts: tuple[str, ...] = ()  # keys of LINKS
    recheck: bool = False  # ask again for the minutes marked as missing

    def path(self, minute: int, suffix: str = "") -> Path:
        """The file of a `minute` (whole minutes since 1970, UTC).

        What is no part of the data set starts with _, which Spark, pyarrow and Dask pass over.
        """
        at = datetime.fromtimestamp(minute * 60, UTC)
        name = f"{'_' if suffix else ''}{at:%Y%m%d%H%M}{suffix or SUFFIXES[self.format]}"
        return Path(self.out) / f"date={at:%Y-%m-%d}" / f"hour={at:%H}" / name

    def done(self, minute: int) -> bool:
        """Whether the directory has the minute and all the artifacts wanted of it, or the word that there is none."""
        if not self.path(minute).exists():
            return not self.recheck and self.path(minute, ".missing").exists()
        if not self.artifacts:
            return True
        folder = self.path(minute, ".artifacts")
        index = artifact_index(folder)
        if not set(self.artifacts) <= set(index["kinds"]):
            return False
        there = {path.name for path in folder.iterdir()}
        return all(file in there for file, of in index["files"].items() if of.get("kind") in self.artifacts)


@dataclasses.dataclass
class Outcome:
    """What became of a minute: published, present, missing (404), not-yet, failed, by-minute (an hour without archive),
    or stop (no minute would do better).

    `lines` counts the JSON lines that came, `kept` those written, `rejected` those that are not JSON, `misfits` by
    column the values that were no match for its type; `json` and `size` are bytes before and after compression.
    """

    minute: int
    status: str
    reason: str = ""
    exit_code: int = 0
    lines: int = 0
    kept: int = 0
    rejected: int = 0
    misfits: dict[str, int] = dataclasses.field(default_factory=dict)
    json: int = 0
    size: int = 0
    artifacts: int = 0
    unfinished: str = ""  # what is still to be had of a minute that is published
    requests: int = 0


def name(minute: int) -> str:
    """A minute as VirusTotal writes it: YYYYMMDDhhmm."""
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y%m%d%H%M}"


def named(text: str) -> int | None:
    """The minute that VirusTotal writes as `text`; None if there is no such minute."""
    try:
        at = datetime.strptime(text, "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(at.timestamp() // 60) if len(text) == 12 else None  # strptime takes 2026112211 for 01:01


def oldest() -> int:
    """The first minute that the feeds reach back to, by this machine's clock."""
    return int(time.time() // 60) - REACH


def ranges(minutes: set[int]) -> str:
    """Minutes by name, neighbours drawn together."""
    parts = []
    for minute in sorted(minutes):
        if minute - 1 not in minutes:
            end = minute
            while end + 1 in minutes:
                end += 1
            parts.append(name(minute) + (f" to {name(end)}" if end > minute else ""))
    return ", ".join(parts)


KINDS = ("string", "int", "float", "bool", "time")
DEFAULT_COLUMNS = ("id:string=$.id", "type:string=$.type", "json:string=$")


def columns(specs: list[str]) -> tuple[tuple[str, str, str], ...]:
    """`--column` arguments: NAME=JSONPATH, NAME:TYPE=JSONPATH, or an attribute's path. Raises UsageError."""
    chosen: dict[str, tuple[str, str, str]] = {}
    for spec in specs:
        parts = re.fullmatch(r"([^$=\[:]*)(?::([^$=]*))?=(.*)", spec, flags=re.DOTALL)
        column, kind, path = parts.groups() if parts else (spec, None, spec)
        if not column.strip() or not path.strip():
            raise UsageError(f"--column {spec}: NAME=JSONPATH, NAME:TYPE=JSONPATH or an attribute's path is wanted")
        if kind is not None and kind.removesuffix("[]") not in KINDS:
            raise UsageError(f"--column {spec}: no type {kind} ({', '.join(KINDS)}, each with [] for a list)")
        if column.lower() in ("date", "hour"):
            raise UsageError(f"--column {spec}: date and hour are the folders' columns; give it another name")
        if column.lower() in chosen:  # to DuckDB and Spark, A is a
            raise UsageError(f"--column {spec}: there is a column {chosen[column.lower()][0]}; give it another name")
        try:
            chosen[column.lower()] = (column, dictpath.column(path), kind or "")
        except ValueError as error:
            raise UsageError(f"--column {spec}: {error}") from None
    return tuple(chosen.values())


# The package: from bzip2 to lines, checked, to a file. Runs in threads or processes, no network here.


def decompressed(package: BinaryIO, form: str) -> Iterator[bytes]:
    """What a `package` of the form bz2, zst or plain holds, some MB at a time.

    Raises ValueError unless it is complete and nothing else; several streams in a row are one good file.
    """
    if form == "plain":
        yield from iter(lambda: package.read(CHUNK), b"")
        return
    if form == "zst":
        import zstandard

        fresh: Callable[[], Any] = zstandard.ZstdDecompressor().decompressobj
        bad: tuple[type[Exception], ...] = (zstandard.ZstdError,)
    else:
        fresh, bad = bz2.BZ2Decompressor, (OSError,)
    decompressor, data = fresh(), package.read(CHUNK)
    if not data:
        raise ValueError("an empty body")
    while True:
        try:
            yield decompressor.decompress(data, BLOCK) if form == "bz2" else decompressor.decompress(data)
        except bad as error:
            raise ValueError(f"bad {form}: {error}") from None
        data = b""
        if decompressor.eof:
            data = decompressor.unused_data or package.read(CHUNK)
            if not data:
                return
            decompressor = fresh()
        elif form == "zst" or decompressor.needs_input:
            data = package.read(CHUNK)
            if not data:
                raise ValueError(f"{form} that ends too early")


def blocks(package: BinaryIO, form: str = "bz2") -> Iterator[bytes]:
    """What a `package` holds (see `decompressed`), cut where a line ends."""
    rest: list[bytes] = []
    held = 0
    for data in decompressed(package, form):
        cut = data.rfind(b"\n") + 1
        if cut:
            yield b"".join([*rest, data[:cut]])
            rest, held = [], 0
        rest.append(data[cut:])
        held += len(rest[-1])
        if held > LONGEST:
            raise ValueError(f"a line of over {LONGEST >> 20} MB")
    if any(rest):
        yield b"".join(rest)


def split(block: bytes) -> list[bytes]:
    """The lines of a `block`, blank ones left out."""
    return [line for line in block.split(b"\n") if line and not line.isspace()]


def json_lines(package: BinaryIO, form: str = "bz2") -> Iterator[bytes]:
    """The lines of a `package` (see `decompressed`), JSON or not."""
    return (line for block in blocks(package, form) for line in split(block))


class _Object(msgspec.Struct):
    """Any JSON object: msgspec checks what no field asks for as strictly, and builds nothing of it."""


is_object = msgspec.json.Decoder(_Object).decode


def is_json(line: bytes) -> bool:
    """Whether `line` is one JSON object (RFC 8259) in UTF-8.

    Measured on 58 MB of file reports: this 1.2 GB/s, orjson.loads 0.5, msgspec.json.decode 0.46, and bz2 itself 0.07,
    all on one core: so the check costs raw mode some 5 %, and the GIL, which it holds, is free for 16 cores.
    """
    try:
        is_object(line)
        str(line, "utf-8")  # msgspec looks into no string that it passes over
    except (ValueError, RecursionError):
        try:  # a lone surrogate (\ud800) is JSON, but not to msgspec
            return isinstance(json.loads(line.decode(), parse_constant=_no_json), dict)
        except (ValueError, RecursionError):
            return False
    return True


def _no_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object in `line`, None if it is none, or nested too deep.

    Lone surrogates become U+FFFD: they cannot be written as UTF-8. A number that Python takes for an attack (over 4300
    digits) becomes text.
    """
    try:
        value = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        if not is_json(line):
            return None
        try:
            value = json.loads(line, parse_int=lambda digits: int(digits) if len(digits) < 4300 else digits)
            value = mended(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


@contextmanager
def sink(path: Path, form: str) -> Iterator[Callable[[list[bytes]], Any]]:
    """A function that writes lines into a new file in the format `form` (parquet: see parquet_sink)."""
    if form == "zst":
        import zstandard

        # Level 3 writes at 1.9 GB/s a core, so bzip2 stays what costs; the checksum is what `verify` can rely on.
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        opened: Any = compressor.stream_writer(open(path, "wb"))  # noqa: SIM115 - the writer closes it
    else:
        opened = bz2.open(path, "wb")  # noqa: SIM115
    with opened as stream:
        yield lambda lines: stream.write(b"\n".join([*lines, b""]))


def kind_of(path: str, types: set[type]) -> str:
    """The type of a column, from the Python `types` of what `path` matched (list: of what is in the lists too).

    VirusTotal publishes no schema. Whole numbers are `time` where vt-py takes a key for a date; what is mixed, nested
    or never there is `string`.
    """
    plural = re.search(r"[*?,|]|\.\.|\[[^'\"\]]*:", path)  # a path that may match several times
    several = bool(plural) or list in types
    types = types - {type(None), list}
    key = re.split(r"[.\[]", path)[-1].strip("']")
    if types == {int} and re.fullmatch(r".+_date|date|last_login|user_since", key):
        kind = "time"
    elif types == {int, float}:
        kind = "float"
    else:
        single = {bool: "bool", int: "int", float: "float"}
        kind = single.get(next(iter(types)), "string") if len(types) == 1 else "string"
    return kind + "[]" * several


TYPES = ".feed_dump.types.json"  # the record of the columns' types in a directory


def settled(dump: Dump, package: Path, form: str) -> Dump:
    """`dump` with a type for each column: as on record in the directory, else as the lines of `package` suggest.

    All of its lines count, as few or none may be kept. The first record counts for all minutes, runs and machines, so
    that all files agree; a ? in it marks a type that no value suggested.
    """
    open_columns = {name: path for name, path, kind in dump.columns if not kind}
    if not open_columns:
        return dump
    record = Path(dump.out) / TYPES
    if not record.exists():
        types: dict[str, set[type]] = {name: set() for name in open_columns}
        with open(package, "rb") as source:
            for line in json_lines(source, form):
                item = parse(line) or {}
                for name, path in open_columns.items():
                    for value in dictpath.get_all(item, path):
                        types[name].add(type(value))
                        if isinstance(value, list):
                            types[name].update(dict if isinstance(v, list) else type(v) for v in value)
        unseen = {name for name, seen in types.items() if not seen - {type(None), list}}
        kinds = {name: kind_of(path, types[name]) + "?" * (name in unseen) for name, path in open_columns.items()}
        agreed(record, kinds)
    kinds = agreed(record, {})
    columns = tuple((name, at, kind or kinds[name].rstrip("?")) for name, at, kind in dump.columns)
    return dataclasses.replace(dump, columns=columns)


def settled_by_oldest(dump: Dump, packages: dict[int, tuple[Path, str]]) -> None:
    """Settles the columns' types by the oldest whole one of an hour's `packages`, of which all will ask at once."""
    for _, package in sorted(packages.items()):
        with contextlib.suppress(Exception):  # `publish` meets it again, and tells it
            settled(dump, *package)
            return


def agreed(path: Path, value: Any) -> Any:
    """What the runs on a directory agree on at `path`: the `value` of the first that came.

    Raises OSError, and UsageError when what is there is none of these.
    """
    if not path.exists():
        with scratch(path) as part:
            with open(part, "w", encoding="utf-8") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)  # unlike a rename, it takes no name that is taken
            except FileExistsError:
                pass
            except OSError:  # exFAT knows no links
                os.replace(part, path)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if type(there) is not type(value):
        raise UsageError(f"{path} is damaged: delete it and run again")
    return there


def fitted(value: Any, kind: str) -> Any:
    """`value` as a column of the type `kind` takes it, None when it does not fit; a string takes all."""
    if kind == "string":
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if kind == "float" and type(value) in (int, float):
        return float(value) if abs(value) < 2**1023 else None
    if kind == "bool" and type(value) is bool:
        return value
    if kind == "int" and type(value) is int and -(2**63) <= value < 2**63:
        return value
    if kind == "time" and type(value) is int and 0 <= value < 253402300800:  # before the year 10000
        return value * 1000
    return None


def cell(found: list[Any], kind: str) -> tuple[Any, int]:
    """What a path `found` in a line as one cell, and how many values did not fit its column's type."""
    plural = kind.endswith("[]")
    values = [v for value in found for v in (value if isinstance(value, list) else [value])] if plural else found[:1]
    cells = [fitted(value, kind.removesuffix("[]")) for value in values]
    misfits = sum(fit is None and value is not None for fit, value in zip(cells, values, strict=True))
    if not found:
        return None, 0
    return cells if plural else cells[0], misfits


MISFITS = "feed_dump.misfits"  # the key of a parquet file's metadata for the Outcome's


@contextmanager
def parquet_sink(path: Path, dump: Dump, outcome: Outcome) -> Iterator[Callable[[list[bytes]], Any]]:
    """A function that writes lines into a new parquet file, as the columns of `dump`; counts misfits in `outcome`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    types["time"] = pa.timestamp("ms", tz="UTC")
    types |= {f"{kind}[]": pa.list_(of) for kind, of in types.items()}
    schema = pa.schema([(name, types[kind]) for name, _, kind in dump.columns])
    rows: list[list[Any]] = []

    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:

        def write_group() -> None:
            arrays = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(schema)]
            writer.write_table(pa.table(arrays, schema=schema))
            rows.clear()

        def write(lines: list[bytes]) -> None:
            for line in lines:
                item = parse(line) or {}
                row = []
                for column, jsonpath, kind in dump.columns:
                    # `$` is the line as it came: to parse it and write it again would cost ten times the memory.
                    found = [line.decode()] if jsonpath == "$" else dictpath.get_all(item, jsonpath)
                    value, misfits = cell(found, kind)
                    if misfits:
                        outcome.misfits[column] = outcome.misfits.get(column, 0) + misfits
                    row.append(value)
                rows.append(row)
            if len(rows) >= 1000:
                write_group()

        yield write
        write_group()
        if outcome.misfits:  # for `verify`: no later run sees these values again
            writer.add_key_value_metadata({MISFITS: json.dumps(outcome.misfits)})


def publish(dump: Dump, minute: int, package: Path, *, form: str = "bz2", accept: bool = False) -> Outcome:
    """Verifies a downloaded `package` and gives the minute its file: the package itself, if that is what is wanted.

    `form` is bz2, or plain (from an hourly archive). Lines that are not JSON are refused, or kept in the package as
    published and in a .rejected file beside any other, if told to `accept` them. Raises RejectedError, another
    ValueError when the package is broken, OSError when the disk is full.
    """
    outcome = Outcome(minute, "published")
    final = dump.path(minute)
    dump = settled(dump, package, form)
    as_published = dump.format == "bz2" and not dump.where and form == "bz2"
    bad: list[bytes] = []
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(package, "rb"))
        if as_published:
            write: Callable[[list[bytes]], Any] = len
        else:
            part = stack.enter_context(whole_file(final))
            parquet = dump.format == "parquet"
            write = stack.enter_context(parquet_sink(part, dump, outcome) if parquet else sink(part, dump.format))
        for block in blocks(source, form):
            lines = split(block)
            kept, rejected = sift(lines, dump.where)
            outcome.rejected += len(rejected)
            if rejected and not accept:
                raise RejectedError(f"{len(rejected)} lines are not JSON")
            if not as_published:
                bad += rejected
            outcome.json += len(block)
            outcome.lines += len(lines)
            outcome.kept += len(kept)
            if kept:
                write(kept)
        if form == "plain" and not outcome.lines:  # any other form says that it is whole, even of nothing
            raise ValueError("an empty body")
        if bad:
            with whole_file(dump.path(minute, ".rejected")) as beside_it:
                beside_it.write_bytes(b"\n".join([*bad, b""]))
        if as_published:
            source.close()
            part = stack.enter_context(whole_file(final))
            os.replace(package, part)
    outcome.size = final.stat().st_size
    for stale in (".missing",) if outcome.rejected else (".missing", ".rejected"):
        dump.path(minute, stale).unlink(missing_ok=True)
    return outcome


def sift(lines: list[bytes], where: str) -> tuple[list[bytes], list[bytes]]:
    """Those of the `lines` to keep, and those that are not JSON."""
    kept: list[bytes] = []
    rejected: list[bytes] = []
    if not where:
        for line in lines:
            (kept if is_json(line) else rejected).append(line)
        return kept, rejected
    for line in lines:
        value = parse(line)
        if value is None:
            rejected.append(line)
        elif dictpath.get_all(value, where):
            kept.append(line)
    return kept, rejected


class RejectedError(ValueError):
    """A package with lines that are not JSON, to be asked for once more."""


# A minute: asked for, verified, published.


@dataclasses.dataclass
class Means:
    """What fetching takes: a client, `work` that runs a function on another core, bounds on what is in hand at once."""

    client: VirusTotal
    work: Callable[..., Awaitable[Any]]
    minutes: asyncio.Semaphore
    archives: asyncio.Semaphore
    gate: asyncio.Semaphore  # of artifacts

    async def retrying(self, what: str, once: Callable[[], Awaitable[Any]]) -> Any:
        """Calls `once` again while what it raises heals; a ValueError (a broken body) does. Messages name `what`."""

        async def named() -> Any:
            try:
                return await once()
            except VirusTotalError as error:
                error.message = f"{what}: {error.message}"
                raise
            except ValueError as error:
                raise VirusTotalError("BrokenBody", f"{what}: {error}", heals=True) from None

        return await self.client.retrying()(named)


async def download(client: VirusTotal, path: str, *args: str, to: Path) -> None:
    """The body at `path` into a file. Raises VirusTotalError, with what is not VirusTotal's own refusal healing."""
    # A package takes as long as it takes, as long as it keeps coming; a hang leaves time to ask again.
    silence = max(1, client.max_wait / 5)
    patience = aiohttp.ClientTimeout(total=None, sock_connect=min(30, silence), sock_read=min(60, silence))
    try:
        async with client.answer("GET", path, *args, timeout=patience) as response:
            with open(to, "wb") as file:  # noqa: ASYNC230 - the page cache takes a chunk in microseconds
                began = time.monotonic()
                async for chunk in response.content.iter_chunked(CHUNK):
                    file.write(chunk)
                    if file.tell() > LARGEST:
                        raise VirusTotalError("TooLarge", f"over {LARGEST} bytes")
                    seconds = time.monotonic() - began
                    if seconds > silence and file.tell() < SLOWEST * seconds:
                        raise VirusTotalError("TooSlow", f"{file.tell()} bytes in {seconds:.0f} s", heals=True)
    except VirusTotalError as error:
        # The storage that feeds redirect to speaks no JSON; a link that it refuses (expired) is good when asked anew.
        error.heals |= error.code.startswith("HTTP ") and error.status in (400, 401, 403)
        raise


async def fetch(means: Means, dump: Dump, minute: int, packed: tuple[Path, str] | None = None) -> Outcome:
    """One minute, from the server to its file, and its artifacts. What goes wrong is told by the outcome.

    `packed` is its package out of an hourly archive and the form of that; a bad one is asked for by itself.
    """
    final = dump.path(minute)
    async with means.minutes:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                outcome = Outcome(minute, "present")
            else:
                outcome = await fetch_package(means, dump, minute, packed)
            if dump.artifacts and not ending():
                with contextlib.suppress(asyncio.CancelledError):  # the minute itself is there, and counts
                    await fetch_artifacts(means, dump, outcome)
            return outcome
        except Exception as error:
            return Outcome(minute, *verdict(error, dump))


def ending() -> bool:
    """Whether this task has been told to end while it finished what it had in hand."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def fetch_package(means: Means, dump: Dump, minute: int, packed: tuple[Path, str] | None) -> Outcome:
    """A minute's package into its file. Raises VirusTotalError, OSError, and whatever a line makes a library raise."""
    held: tuple[Path, str] | None = None  # a package whole but for some lines
    with scratch(dump.path(minute)) as first, scratch(dump.path(minute)) as second:

        async def once() -> Any:
            nonlocal packed, held
            source, packed = packed, None
            from_archive = source is not None
            if source is None:
                source = second if held else first, "bz2"
                await download(means.client, "/feeds/{}/{}", dump.feed, name(minute), to=source[0])
            try:
                return await means.work(publish, dump, minute, source[0], form=source[1], accept=bool(held))
            except RejectedError:  # a line may have been hurt on its way: asked again once, then the good lines count
                held = source
            except ValueError:
                if not from_archive:
                    raise
            return await once()

        try:
            outcome: Outcome = await means.retrying(name(minute), once)
        except VirusTotalError as error:
            if not held:
                raise
            try:
                outcome = await means.work(publish, dump, minute, held[0], form=held[1], accept=True)
            except ValueError:  # the rest of it is broken too
                raise error from None
    return outcome


async def fetch_hour(means: Means, dump: Dump, hour: int) -> list[Outcome]:
    """The 60 minutes from `hour` on, out of the hourly archive; what it lacks or has broken is asked for by itself.

    Without an archive the one outcome has the status "by-minute".
    """
    lacking = [minute for minute in range(hour, hour + 60) if not dump.done(minute)]
    if not lacking:  # another run, or the worker that died of this task, was here
        return []
    with scratch(Path(dump.out) / "archive") as archive, contextlib.ExitStack() as stack:

        async def once() -> Any:
            await download(means.client, "/feeds/{}/hourly/{}", dump.feed, name(hour)[:10], to=archive)
            unpacking = asyncio.ensure_future(means.work(unpack, dump, hour, archive))
            try:
                return await asyncio.shield(unpacking)
            except asyncio.CancelledError:
                archive.unlink(missing_ok=True)  # which ends the unpacking, minutes' work
                with contextlib.suppress(Exception):
                    return await unpacking
                raise

        try:
            packages: dict[int, tuple[Path, str]] = await means.retrying(f"hour {name(hour)[:10]}", once)
        except Exception as error:
            status, reason, exit_code = verdict(error, dump)
            return [Outcome(hour, "stop" if status == "stop" else "by-minute", reason, exit_code)]
        for path, _ in packages.values():
            stack.callback(path.unlink, missing_ok=True)
        if ending():
            return []
        tasks = [asyncio.create_task(fetch(means, dump, minute, packages.get(minute))) for minute in lacking]
        with contextlib.suppress(asyncio.CancelledError):  # what is in hand is finished by then, and counts
            await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks if not task.cancelled()]


class Member(tarfile.TarInfo):
    """A member of an archive, whose headers do not fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Member:
        """As tarfile calls it for each header of 512 bytes. Raises tarfile.ReadError when it goes on too long."""
        member: Member = super().frombuf(buf, encoding, errors)
        if not member.isreg() and member.size > HEADER:  # of a file's content tarfile reads nothing by itself
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def unpack(dump: Dump, hour: int, archive: Path) -> dict[int, tuple[Path, str]]:
    """The packages of an hourly archive that the dump lacks, as temporary files: {minute: (path, bz2 or plain)}.

    VirusTotal says that the archive holds the 60 packages, its example reads the members as plain JSON lines: both are
    taken. A member is known by the minute in its name, which never becomes a path. Raises ValueError when it is broken.
    """
    packages: dict[int, tuple[Path, str]] = {}
    try:
        # Not tarfile's own r|bz2, which ends at the first bzip2 stream of several.
        with bz2.open(archive) as packed, tarfile.open(fileobj=packed, mode="r|", tarinfo=Member) as tar:
            for number, member in enumerate(tar):
                if not archive.exists():
                    raise ValueError("given up")
                if number == MEMBERS:
                    raise ValueError(f"over {MEMBERS} members")
                found = re.search(r"(?<!\d)\d{12}(?!\d)", Path(member.name).name)
                minute = named(found[0]) if found else None
                if minute is None or not hour <= minute < hour + 60 or minute in packages or dump.path(minute).exists():
                    continue
                source = tar.extractfile(member) if member.isreg() and not member.issparse() else None
                if source is None or not member.size:
                    continue
                dump.path(minute).parent.mkdir(parents=True, exist_ok=True)
                package = temporary(dump.path(minute))
                start = source.read(4)
                packages[minute] = package, "bz2" if re.match(rb"BZh[1-9]", start) else "plain"
                with open(package, "wb") as file:
                    file.write(start)
                    shutil.copyfileobj(source, file, CHUNK)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        for path, _ in packages.values():
            path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # bz2 raises OSError without a number
            raise
        raise ValueError(f"bad tar.bz2: {error}") from None
    settled_by_oldest(dump, packages)
    return packages


def temporary(final: Path) -> Path:
    """A new name in the folder of `final`, one that `sweep` knows."""
    return final.with_name(f".{os.urandom(6).hex()}.part")


@contextmanager
def scratch(final: Path) -> Iterator[Path]:
    """A `temporary` name whose file, if there is one by then, is gone after the block."""
    part = temporary(final)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def verdict(error: Exception, dump: Dump) -> tuple[str, str, int]:
    """What an error that did not heal means for a minute: status, reason, and the exit code if it ends the run."""
    if isinstance(error, OSError):
        return "stop", f"cannot write to {dump.out}: {error.strerror or error}", 1
    if isinstance(error, BrokenExecutor):  # a worker process that the system killed
        return "stop", str(error), 1
    if not isinstance(error, VirusTotalError):  # what a line can make a library raise costs its minute, not all others
        return "failed", f"{type(error).__name__}: {error}", 0
    reason = f"{error.code}: {error.message}"
    if error.status == 404 and not error.code.startswith("HTTP "):  # VirusTotal's word, not that of the storage
        return "missing", reason, 0
    if error.code in NOT_YET:
        return "not-yet", reason, 0
    if error.status == 429 or (error.exit_code == 2 and not error.heals):
        return "stop", reason, error.exit_code
    return "failed", reason, 0


# Artifacts: what the lines link to.

LINKS = {"pcap": "pcap", "evtx": "evtx", "html": "html_report", "memdump": "memdump", "file": "download_url"}


@dataclasses.dataclass(frozen=True)
class Link:
    """An artifact of a line: its kind, the id of what it belongs to, where it is to be had, its name on disk."""

    kind: str
    id: str
    url: str
    second: bool = False  # the id has another link already

    @property
    def name(self) -> str:
        """A name of plain characters: an id of VirusTotal's holds spaces, or whatever its author liked.

        No name starts with a dash: `rm *` would take it for an option.
        """
        suffix = "zip" if self.kind == "file" else self.kind
        if re.fullmatch(r"[0-9a-f]{64}", self.id) and not self.second:
            return f"{self.id}.{suffix}"
        plain = re.sub(r"[^A-Za-z0-9-]+", "_", self.id)[:100]
        of, digits = (f"{self.id} {self.url}", 16) if self.second else (self.id, 8)
        return f"{plain}-{hashlib.sha256(of.encode()).hexdigest()[:digits]}.{suffix}".lstrip("-")


def links(dump: Dump, minute: int) -> list[Link]:
    """What the lines of a published minute link to, of the kinds wanted. A link comes once, an id as often as its
    links differ (a sample but once: its hash says that it is the same)."""
    found: dict[str, Link] = {}
    with open(dump.path(minute), "rb") as package:
        for line in filter(is_json, json_lines(package, dump.format)):
            item = parse(line) or {}
            context = item.get("context_attributes")
            for kind in dump.artifacts:
                url = context.get(LINKS[kind]) if isinstance(context, dict) else None
                if isinstance(url, str) and url:
                    link = Link(kind, str(item.get("id")), url)
                    if kind != "file" and found.get(link.name, link).url != url:
                        link = dataclasses.replace(link, second=True)
                    found.setdefault(link.name, link)
    return list(found.values())


def own_link(url: str, host: str) -> str | None:
    """`url` at the configured `host` (VT_HOST: a replay, a proxy), which alone gets the key; None if it is no artifact
    of VirusTotal's: the lines come from strangers, and the key opens every path of the API."""
    try:
        link = yarl.URL(url)
        hosts = (host, "https://www.virustotal.com", "https://virustotal.com")
        own = link.origin() in {yarl.URL(each).origin() for each in hosts}
    except ValueError:
        return None
    own &= bool(re.match("/api/v3/(feeds|files|file[_-]behaviours)/.", link.path)) and ".." not in link.path.split("/")
    return host + link.raw_path_qs if own else None


def store(part: Path, final: Path, link: Link) -> None:
    """Gives a downloaded artifact its name. Raises ValueError when it is empty, or a sample that its hash belies.

    A sample goes into a zip with the password "infected", as VirusTotal and the malware exchanges hand them out: no
    click, thumbnailer or virus scanner on the way to it runs or removes it, and every analyst knows how to open it.
    """
    if not part.stat().st_size:
        raise ValueError("an empty body")
    with whole_file(final) as whole:
        if link.kind != "file":
            os.replace(part, whole)
            return
        import pyzipper  # type: ignore[import-untyped]

        with open(part, "rb") as sample:
            digest = hashlib.file_digest(sample, "sha256").hexdigest()
            if re.fullmatch(r"[0-9a-f]{64}", link.id) and digest != link.id:
                raise ValueError(f"not the sample, but one with SHA-256 {digest}")
            sample.seek(0)
            options = {"compression": pyzipper.ZIP_DEFLATED, "encryption": pyzipper.WZ_AES}
            with open(whole, "wb") as packed:
                archive = pyzipper.AESZipFile(packed, "w", **options)
                try:
                    archive.setpassword(b"infected")
                    with archive.open(digest, "w", force_zip64=True) as member:
                        shutil.copyfileobj(sample, member, CHUNK)
                    archive.close()
                finally:
                    archive.fp = None  # else it closes itself again, and makes a ValueError of a full disk's OSError


async def fetch_artifacts(means: Means, dump: Dump, outcome: Outcome) -> None:
    """Fetches what the minute's lines link to, beside it; writes index.json once nothing is left to be had.

    The index names the kinds, each file's id, kind and SHA-256 (of a sample: of its zip), and what is not to be had:
    VirusTotal has it no longer (404), or the link is none of VirusTotal's (see own_link) and nobody is asked. Raises
    VirusTotalError when the key or its quota is refused, OSError when the disk is full: no other artifact would do
    better.
    """
    wanted = await means.work(links, dump, outcome.minute)
    if ending():
        return
    folder = dump.path(outcome.minute, ".artifacts")
    folder.mkdir(exist_ok=True)
    gone: dict[str, str] = {}
    failed: list[Exception] = []
    fatal: list[Exception] = []

    async def one(link: Link) -> None:
        if (url := own_link(link.url, means.client._host)) is None:
            gone[link.name] = f"not a link of VirusTotal's, not asked for: {link.url[:200]}"
            return
        async with means.gate:
            if fatal or (folder / link.name).exists():
                return
            try:
                await fetch_artifact(means, link, url, folder / link.name)
                outcome.artifacts += 1
            except VirusTotalError as error:
                if error.status in (404, 410):
                    gone[link.name] = f"{error.code}: {error.message}"
                elif error.status in (401, 429) and not error.code.startswith("HTTP "):  # not the storage's
                    fatal.append(error)
                else:  # any other refusal is this link's own
                    failed.append(error)
            except (OSError, BrokenExecutor) as error:
                fatal.append(error)
            except Exception as error:
                failed.append(error)

    # return_exceptions: a cancelled gather then waits for those that finish what they have in hand.
    await asyncio.gather(*map(one, wanted), return_exceptions=True)
    if fatal:
        raise fatal[0]
    if failed:
        outcome.unfinished = f"{len(failed)} of {len(wanted)} artifacts failed, the first: {failed[0]}"
        return
    index = artifact_index(folder)
    links_of = {link.name: link for link in wanted if link.name not in gone}
    sums = await means.work(digests, folder, list(links_of))
    files = {name: {"id": link.id, "kind": link.kind, "sha256": sums[name]} for name, link in links_of.items()}
    index["kinds"] = sorted({*index["kinds"], *dump.artifacts})
    index["files"] = {name: of for name, of in (index["files"] | files).items() if name not in gone}
    index["gone"] = {name: reason for name, reason in (index["gone"] | gone).items() if name not in files}
    with whole_file(folder / "index.json") as part:
        part.write_text(json.dumps(index, indent=1), encoding="utf-8")


async def fetch_artifact(means: Means, link: Link, url: str, final: Path) -> None:
    """What is at `url` into the file `final`, whole. Raises VirusTotalError, OSError."""
    with scratch(final) as part:

        async def once() -> None:
            await download(means.client, url, to=part)
            await means.work(store, part, final, link)

        await means.retrying(f"{link.kind} of {link.id}", once)


class Index(TypedDict):
    """What an index.json of artifacts holds (see fetch_artifacts)."""

    kinds: list[str]
    files: dict[str, dict[str, str]]
    gone: dict[str, str]


def artifact_index(folder: Path) -> Index:
    """The index.json of a minute's artifacts; an empty one if it is damaged or not all of them have ever been there."""
    try:
        return msgspec.convert(json.loads((folder / "index.json").read_text(encoding="utf-8")), Index)
    except (FileNotFoundError, ValueError):
        return {"kinds": [], "files": {}, "gone": {}}


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    """The SHA-256 of each of the files in a `folder`."""
    sums = {}
    for each in names:
        with open(folder / each, "rb") as file:
            sums[each] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


# The run: which minutes, how many at a time, what became of them.


# From a minute (True: the hour from it on) to what became of it.
Outcomes = list[Outcome]  # its brackets, closed at once, would read as a mark of cog's
FetchUnit = Callable[[int, bool], Awaitable[Outcomes]]


@dataclasses.dataclass
class Run:
    """A range of minutes being fetched, the tally, and the pace. `stop` is excluded; None: as far as the server has."""

    dump: Dump
    start: int
    stop: int | None
    follow: bool = False
    hourly: bool = False
    jobs: int = 8
    published: int = 0
    present: int = 0
    missing: set[int] = dataclasses.field(default_factory=set)  # what this run marked
    tally: Outcome = dataclasses.field(default_factory=lambda: Outcome(0, ""))  # sums of what was published
    newest: int = 0
    failed: set[int] = dataclasses.field(default_factory=set)
    gone: set[int] = dataclasses.field(default_factory=set)  # those of them that are 404s in a row
    early: set[int] = dataclasses.field(default_factory=set)  # not there yet, by the server's word, nor any later one
    overtaken: set[int] = dataclasses.field(default_factory=set)  # not there yet, though a later one is
    polls: int = 0  # answers "not yet", one after the other
    untried: set[int] = dataclasses.field(default_factory=set)  # what was still in hand when the run ended early
    untried_from: int | None = None  # and the first minute that was not
    ended: tuple[str, int] | None = None  # what ended the run early, and the exit code
    again: set[tuple[int, bool]] = dataclasses.field(default_factory=set)  # what to ask for once more
    retried: float = dataclasses.field(default_factory=time.monotonic)  # when a follower last did so with failures
    streak: int = 1  # answers since the server last had nothing: it is probed with one request, not with all
    failures: int = 0  # one after the other
    nowhere: int = 0  # 404s, one after the other
    expired: int = 0  # the same, of minutes older than the feeds reach
    ahead: int | None = None  # the minute that was asked for out of turn, to see whether there is more
    pause: float = 0.0  # seconds to wait before the next request

    def wanted(self) -> Iterator[tuple[int, bool]]:
        """The minutes to fetch, oldest first, looked up on disk when their turn comes; True: the hour from it on."""
        minute = self.start
        while self.stop is None or minute < self.stop:
            lost = self.expired >= NOWHERE and minute < oldest()
            whole = minute % 60 == 0 and (self.stop is None or minute + 60 <= self.stop)
            if self.hourly and whole and not lost and not self.early:  # where a minute is not there yet, no hour is
                hour = range(minute, minute + 60)
                lines = dataclasses.replace(self.dump, artifacts=())  # which are all that an archive has
                if sum(not lines.done(each) for each in hour) > 30:  # else it is more to carry than what is lacking
                    self.present += sum(self.dump.done(each) for each in hour if each != self.ahead)
                    yield minute, True
                    minute += 60
                    continue
            if self.dump.done(minute):
                self.present += minute != self.ahead
                if self.dump.path(minute).exists():
                    self.newest = max(self.newest, minute)
            elif lost:
                self.failed.add(minute)
                self.gone.add(minute)
            else:
                yield minute, False
            minute += 1

    async def go(self, fetch_unit: FetchUnit) -> None:
        """Fetches every minute wanted, `jobs` at a time. A cancelled run still counts what its workers finish."""
        todo = self.wanted()
        running: dict[asyncio.Future[list[Outcome]], tuple[int, bool]] = {}
        try:
            while not self.ended:
                width = min(self.jobs, 2 ** max(0, min(self.streak, 16) - 1))
                while len(running) < width and not (self.pause and running):
                    await asyncio.sleep(self.pause)
                    self.pause = 0.0
                    unit = self.next_unit(todo)
                    if unit is None:
                        break
                    running[asyncio.ensure_future(fetch_unit(*unit))] = unit
                if not running:
                    break
                finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                outcomes = []
                for task in finished:
                    unit = running.pop(task)
                    outcomes += task.result()
                    if any(outcome.status == "stop" for outcome in task.result()):
                        self.again.add(unit)  # of an hour, what else is lacking is not tried
                for outcome in sorted(outcomes, key=lambda outcome: outcome.minute):
                    self.record(outcome)
                self.take_stock()
        except asyncio.CancelledError:
            signal.signal(signal.SIGINT, end_at_once)
            raise
        finally:
            await self.leave(running)
            if self.not_yet is None and (unit := next(todo, None)):
                self.untried_from = unit[0]

    def next_unit(self, todo: Iterator[tuple[int, bool]]) -> tuple[int, bool] | None:
        """What to ask for next; None when the server has no more (a follower is never told so)."""
        # The server may lack one minute for good: some later ones are probed before it is believed to have no more.
        probing = self.follow and self.polls % (PROBE + 1) == PROBE
        waiting = (unit for unit in self.again if not (probing and unit[0] in self.early))
        unit = min(waiting, default=None) or next(todo, None)
        self.doubt()
        unit = unit or min(self.again, default=None)
        self.again -= {unit}
        if unit and not self.follow and self.not_yet is not None and unit[0] >= self.not_yet + ROW:
            self.again.add(unit)  # a probe under way may still show that there is more
            # So may one far ahead, if that is in the past: the feeds are an hour behind, and may have a gap.
            ahead = min(int(time.time() // 60) - 120, (self.stop or sys.maxsize) - 1)
            if self.ahead is not None or ahead <= unit[0]:
                return None
            self.ahead = ahead
            return ahead, False
        return unit

    def doubt(self) -> None:
        """Asks once more for what was not there yet when a later minute turns out to be."""
        for minute in [minute for minute in self.early if minute < self.newest]:
            self.early.discard(minute)
            self.overtaken.add(minute)
            self.again.add((minute, False))

    @property
    def not_yet(self) -> int | None:
        """The first of the minutes at the edge that the server does not have yet."""
        return min(self.early, default=None)

    def beyond(self, minute: int) -> bool:
        """Whether the server does not have the `minute` yet."""
        return self.not_yet is not None and minute >= self.not_yet

    def take_stock(self) -> None:
        """Ends a run that meets nothing but failures; a follower probes until it is over, and retries what failed."""
        lost = self.nowhere >= NOWHERE
        if lost or self.failures >= max(10, 2 * self.jobs):
            if self.follow:
                self.streak, self.pause = 0, POLL
            elif not self.ended:
                many = f"{self.nowhere} minutes in a row could not be found"
                self.ended = many if lost else f"{self.failures} minutes in a row failed", 3
        if self.pause and self.failed and time.monotonic() - self.retried > RETRY:
            # A follower is not started anew for weeks, and what failed is gone in 7 days.
            self.retried = time.monotonic()
            self.again |= {(minute, False) for minute in self.failed if minute > self.newest - REACH}
            self.failed -= {minute for minute, _ in self.again}

    async def leave(self, running: dict[asyncio.Future[list[Outcome]], tuple[int, bool]]) -> None:
        """Cancels what is `running`, counts what was finished all the same, and notes what was not tried."""
        for task in running:
            task.cancel()
        late = await asyncio.gather(*running, return_exceptions=True)
        for outcome in [outcome for ended in late if isinstance(ended, list) for outcome in ended]:
            self.record(outcome)
        for first, hour in [*self.again, *running.values()]:
            minutes = range(first, first + (60 if hour else 1))
            self.untried.update(m for m in minutes if not self.beyond(m) and not self.dump.done(m))
        self.untried -= self.failed | self.missing
        if not self.follow:  # what was asked for beyond the first minute that is not there yet was asked too early
            for minute in {minute for minute in self.failed | self.missing if self.beyond(minute)}:
                self.failed.discard(minute)
                self.unmark(minute)
        for minute in self.untried:  # a 404 beside it may be one of several in a row: the next run sees
            for at in self.row(minute) - {minute}:
                self.unmark(at)

    def record(self, outcome: Outcome) -> None:
        """Counts an outcome, says what is unusual, and sets the pace."""
        minute = outcome.minute
        self.tally.requests += outcome.requests
        self.tally.artifacts += outcome.artifacts
        self.early.discard(minute)
        if outcome.status in ("published", "present", "missing", "failed"):
            self.streak += 1
            self.polls = 0
            self.failures = self.failures + 1 if outcome.status == "failed" else 0
        if outcome.status in ("published", "present"):
            self.failed.discard(minute)
            self.gone.discard(minute)
            self.nowhere = self.expired = 0
            self.newest = max(self.newest, minute)
            self.doubt()
        match outcome.status:
            case "published":
                self.count(outcome)
            case "present":
                self.present += 1
            case "missing":
                if minute < oldest():
                    self.expired += 1
                else:
                    self.nowhere += 1
                try:
                    self.mark_missing(minute)
                except OSError as error:
                    self.record(Outcome(minute, *verdict(error, self.dump)))
            case "not-yet":
                self.meet_not_yet(minute, outcome.reason)
            case "by-minute":
                self.again |= {(m, False) for m in range(minute, minute + 60) if not self.dump.done(m)}
            case "failed":
                self.failed.add(minute)
                say(f"{name(minute)} failed: {outcome.reason}")
            case "stop":
                self.failed.add(minute)
                self.ended = self.ended or (outcome.reason, outcome.exit_code)
        if outcome.unfinished:
            self.failed.add(minute)
            say(f"{name(minute)}: {outcome.unfinished}")

    def meet_not_yet(self, minute: int, reason: str) -> None:
        """Takes the server's word that a minute is not there yet, unless it twice says so of one in the middle."""
        if minute in self.overtaken:
            self.failed.add(minute)
            say(f"{name(minute)} failed: {reason} (later minutes are there)")
            return
        self.early.add(minute)
        self.polls += 1
        self.streak = 0
        if self.follow:
            self.pause = POLL
            self.again.add((minute, False))
        self.doubt()

    def count(self, outcome: Outcome) -> None:
        """Adds what was published to the tally."""
        self.published += 1
        for field in ("lines", "kept", "rejected", "json", "size"):
            setattr(self.tally, field, getattr(self.tally, field) + getattr(outcome, field))
        for column, number in outcome.misfits.items():
            self.tally.misfits[column] = self.tally.misfits.get(column, 0) + number
        if outcome.misfits:
            say(f"{name(outcome.minute)}: null for what did not fit the column's type: {listed(outcome.misfits)}")
        if outcome.rejected:
            beside = self.dump.path(outcome.minute, ".rejected")
            where = f"in {beside.name}" if beside.exists() else "kept in the package"
            say(f"{name(outcome.minute)}: {outcome.rejected} of {outcome.lines} lines are not JSON ({where})")

    def mark_missing(self, minute: int) -> None:
        """Marks a 404; several in a row are no missing minutes but a failure, and lose their marks."""
        row = self.row(minute)
        longer = not self.gone.isdisjoint((min(row) - 1, max(row) + 1))
        if len(row) < ROW and not longer:
            with whole_file(self.dump.path(minute, ".missing")) as marker:
                marker.write_bytes(b"")
            self.missing.add(minute)
            return
        if not longer:
            say(f"{ranges(row)}: not found, {ROW} or more in a row (older than 7 days, or VirusTotal has a gap)")
        for at in row:
            self.unmark(at)
        self.failed |= row
        self.gone |= row

    def row(self, minute: int) -> set[int]:
        """A minute and the marked ones that border on it."""
        row = {minute}
        for step in (-1, 1):
            at = minute + step
            while self.dump.path(at, ".missing").exists():
                row.add(at)
                at += step
        return row

    def unmark(self, minute: int) -> None:
        """Takes the mark of a missing minute away, if it has one."""
        self.dump.path(minute, ".missing").unlink(missing_ok=True)
        self.missing.discard(minute)


def end_at_once(number: int, frame: object) -> NoReturn:
    """A second Ctrl-C: what is in hand is not waited for. The next run removes its temporary files.

    asyncio would raise KeyboardInterrupt amid its loop here, and then wait for tasks that nothing ends.
    """
    if sys.stderr.isatty():
        os.write(2, b"\r\x1b[K\x1b[?25h")  # the line that shows how far the run is had hidden the cursor
    os.write(2, b"interrupted\n")  # not say(): what the signal came into the middle of may be just that
    os._exit(130)


@contextmanager
def claimed(dump: Dump) -> Iterator[None]:
    """The directory is a dump of this feed, and in use; what killed runs left in it is removed when nobody else is.

    Each run holds a shared lock on DIR/.feed_dump, which the system takes from a killed one: whoever gets it alone may
    clean. Raises UsageError when the directory is another dump's.
    """
    root = Path(dump.out)
    root.mkdir(parents=True, exist_ok=True)
    options = ["--where", dump.where] if dump.where else []
    for column, path, kind in dump.columns:
        options += ["--column", f"{column}:{kind}={path}" if kind else f"{column}={path}"]
    settings: dict[str, Any] = {"feed": dump.feed, "format": dump.format, dump.format: options}
    with open(root / ".feed_dump", "a", encoding="utf-8") as file:
        lock(file, shared=True)
        for what, ours in settings.items():
            theirs = agreed(root / f".feed_dump.{what}.json", ours)
            if theirs != ours:
                asked = theirs if isinstance(theirs, str) else shlex.join(theirs) or "without --where"
                raise UsageError(f"{dump.out} holds another dump ({what} {asked}): name another --out")
        if (types := root / TYPES).exists():  # before a worker meets it, minute by minute
            agreed(types, {})
        sweep(root, file)
        yield
        sweep(root, file)


def lock(file: Any, *, shared: bool) -> bool:
    """Takes the lock on `file`: a shared one waits, an exclusive one is had at once or not at all (False)."""
    try:
        import fcntl
    except ImportError:
        return False  # Windows
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another run, or a file system without locks
        return False
    return True


def sweep(root: Path, file: Any) -> None:
    """Removes the temporary files of dead runs: all of them when no other run is alive, else those a day old."""
    alone = lock(file, shared=False)
    before = time.time() - (0 if alone else 86400)
    for part in root.rglob(".*.part"):
        with contextlib.suppress(OSError):
            # Only what `temporary` names: the directory may hold files of other programs.
            if re.fullmatch(r"\.[0-9a-f]{12}\.part", part.name) and part.stat().st_mtime <= before:
                part.unlink()
    lock(file, shared=True)


def quietly() -> None:
    """A worker process does not outlive its run, not even a killed one."""
    import multiprocessing
    import threading

    def follow_parent() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def pool(dump: Dump) -> Executor:
    """Workers for `publish`, one a core.

    bzip2, zstandard and the check leave the GIL to others for 95 % of the time (see is_json): threads. What builds
    Python objects of each line and walks them (--where) holds it for about a third of it: processes.
    """
    cores = os.cpu_count() or 1
    if not dump.where and not dump.columns:
        return ThreadPoolExecutor(cores)
    import multiprocessing

    # Python's helper process, which takes these options over, complains of what end_at_once leaves; it removes it too.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    workers = ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), quietly)
    # Ctrl-C reaches the whole process group: the workers ignore it from their first moment on, which is inherited.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for _ in range(cores):
            workers.submit(os.getpid)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return workers


def unit_fetcher(dump: Dump, client: VirusTotal, workers: Executor, jobs: int) -> FetchUnit:
    """The function that fetches a minute or an hour with `client`; `workers` do its work.

    However many it is called for, it has at most `jobs` minutes in hand at once.
    """

    async def work(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        job = workers.submit(function, *args, **kwargs)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:  # the minute in hand is finished; it takes a second
            if job.cancel():  # it has not begun
                raise
            await asyncio.wait([future])
            if future.exception():
                raise
            return future.result()

    means = Means(client, work, *map(asyncio.Semaphore, (jobs, ARCHIVES, 2 * jobs)))

    async def fetch_one(minute: int, hour: bool) -> list[Outcome]:
        if not hour:
            return [await fetch(means, dump, minute)]
        async with means.archives:
            return await fetch_hour(means, dump, minute)

    return fetch_one


def on_worker(fields: dict[str, Any], minute: int, hour: bool, host: str | None) -> list[dict[str, Any]]:
    """A Dask task: one minute or hour, on a worker that sees the same directory and has a key of its own.

    The key is the worker's (VT_API_KEY or ~/.vt.toml there): it is in no task, no task's name and no log.
    """
    dump = Dump(**fields)

    async def run() -> list[Outcome]:
        async with VirusTotal(host=host) as client:
            outcomes = await unit_fetcher(dump, client, workers, 8)(minute, hour)
            for first in outcomes[:1]:
                first.requests += client.requests
            return outcomes

    try:
        with open(Path(dump.out) / ".feed_dump", "rb+") as file:  # which says that the directory is the same one
            lock(file, shared=True)
            with ThreadPoolExecutor(8) as workers:
                outcomes = asyncio.run(run())
    except (UsageError, OSError) as error:
        outcomes = [Outcome(minute, "stop", f"a worker: {error}", 2 if isinstance(error, UsageError) else 1)]
    return [dataclasses.asdict(outcome) for outcome in outcomes]


async def task_fetcher(stack: contextlib.AsyncExitStack, dump: Dump, scheduler: str) -> FetchUnit:
    """Like unit_fetcher, over the workers of a Dask scheduler. Raises UsageError when there is none, or no Dask."""
    try:
        import distributed
    except ImportError:
        raise UsageError("--scheduler takes Dask: uv run --with 'dask[distributed]' scripts/feed_dump.py …") from None

    class Unprofiled(distributed.WorkerPlugin):
        """Takes Dask's profiler from workers whose Python it may stop for ever: it looks at all threads every 10 ms,
        and the garbage collector may come into that (https://github.com/python/cpython/issues/106883)."""

        name = "feed_dump-unprofiled"

        def setup(self, worker: Any) -> None:
            if sys.version_info < (3, 11, 9):
                for callback in ("profile", "profile-cycle"):
                    if found := worker.periodic_callbacks.pop(callback, None):
                        found.stop()

    try:
        cluster = await stack.enter_async_context(distributed.Client(scheduler, asynchronous=True, timeout=10))
        # The workers import this very file, whether they have it or not; one that comes later gets it too.
        await cluster.register_plugin(distributed.diagnostics.plugin.UploadFile(__file__))
        await cluster.register_plugin(Unprofiled())
    except Exception as error:  # no scheduler, or workers that lack what the script imports
        reason = str(error) or type(error).__name__
        raise UsageError(f"--scheduler {scheduler}: {reason}") from None
    pace = aiolimiter.AsyncLimiter(1, 60 / positive("VT_RATE", 60_000))
    module, this_run = Path(__file__).stem, os.urandom(4).hex()

    # A nested function travels by value: the scheduler need not import this script.
    def task(*args: Any) -> Any:
        import importlib

        return importlib.import_module(module).on_worker(*args)

    async def gone() -> bool:
        """Whether Dask's client has given the scheduler up; while it connects anew it takes tasks and may lose them."""
        while cluster.status == "connecting":  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.1)
        return cluster.status != "running"

    async def fetch_one(minute: int, hour: bool) -> list[Outcome]:
        key = f"feed_dump-{dump.feed}-{name(minute)}{'-hour' * hour}-{this_run}-{os.urandom(2).hex()}"
        args = (dataclasses.asdict(dump), minute, hour, os.environ.get("VT_HOST"))
        end = Outcome(minute, "stop", f"the scheduler {scheduler} is gone: start it and run again", 1)
        await pace.acquire()  # here, as a worker makes a client for each task
        if await gone():
            return [end]
        try:
            # A dead worker's tasks go to another; what it had already published, the directory tells that one.
            outcomes = await cluster.submit(task, *args, key=key, pure=False, retries=2)
        except Exception as error:
            if await gone():
                return [end]
            return [Outcome(minute, "by-minute" if hour else "failed", f"{type(error).__name__}: {error}")]
        return [Outcome(**outcome) for outcome in outcomes]

    return fetch_one


def telling_of_types(dump: Dump, fetch_unit: FetchUnit) -> FetchUnit:
    """`fetch_unit`, which says it when columns become text because the minute that settled them had no values."""
    record = Path(dump.out) / TYPES
    told = record.exists()

    async def fetch_one(minute: int, hour: bool) -> list[Outcome]:
        nonlocal told
        outcomes = await fetch_unit(minute, hour)
        if not told and record.exists():
            told = True
            if unseen := [column for column, kind in agreed(record, {}).items() if kind.endswith("?")]:
                say(
                    f"{', '.join(unseen)}: string, as the first minute has no value to tell the type by "
                    "(NAME:int=… gives one, in another --out)"
                )
        return outcomes

    return fetch_one


async def feed_dump(
    dump: Dump, start: int, stop: int | None, *, follow: bool = False, hourly: bool = False, jobs: int = 0,
    scheduler: str = "", apikey: str = "",
) -> Run:  # fmt: skip
    """Fetches the minutes from `start` to `stop` (excluded; None: to what the server has) into `dump.out`.

    The Run tells what became of them; its `ended` says why it stopped early, if it did. `follow` never stops.
    """
    with claimed(dump):
        # 64 tasks keep 32 workers busy, with the next one at hand for each.
        run = Run(dump, start, stop, follow, hourly, jobs or (64 if scheduler else 4 * (os.cpu_count() or 1)))
        async with contextlib.AsyncExitStack() as stack:
            client = None
            if scheduler:
                fetch_one = await task_fetcher(stack, dump, scheduler)
            else:
                workers = stack.enter_context(pool(dump))
                client = await stack.enter_async_context(VirusTotal(apikey))
                fetch_one = unit_fetcher(dump, client, workers, run.jobs)
            shown = asyncio.create_task(show(run))
            try:
                await run.go(telling_of_types(dump, fetch_one))
            except asyncio.CancelledError:
                run.ended = "interrupted", 130
            finally:
                shown.cancel()
                await asyncio.gather(shown, return_exceptions=True)
            run.tally.requests += client.requests if client else 0
    return run


async def show(run: Run) -> None:
    """Shows how far `run` is until cancelled: live on a terminal, else a line a minute."""
    live = sys.stderr.isatty()
    # A minute's worth: in less, a follower in pace publishes one minute or none.
    samples = deque([(time.monotonic(), 0, 0)], maxlen=121 if live else 2)
    rate = ""

    def status() -> str:
        total = f" of {run.stop - run.start}" if run.stop else ""
        text = f"{run.published + run.present} minutes{total}, {run.tally.lines} lines, {run.tally.json / 1e9:.2f} GB"
        if run.newest:
            lag = max(0, int(time.time() // 60) - run.newest)
            text += f"; at {name(run.newest)}, {lag // 60} h {lag % 60:02d} min behind now{rate}"
        return text + (f"; {len(run.failed)} failed" if run.failed else "")

    with contextlib.ExitStack() as stack:
        if live:
            from rich.console import Console

            shown = stack.enter_context(Console(stderr=True).status(""))
        while True:
            await asyncio.sleep(0.5 if live else 60)
            samples.append((time.monotonic(), run.published, run.tally.json))
            seconds, minutes, data = (now - then for now, then in zip(samples[-1], samples[0], strict=True))
            if seconds >= 10:
                rate = f"; {minutes / seconds * 60:.1f} minutes/min, {data / seconds / 1e6:.1f} MB/s"
            if live:
                shown.update(status())
            else:
                say(status())


def listed(misfits: Mapping[str, int]) -> str:
    """How many values did not fit, by column."""
    return ", ".join(f"{column} {number}" for column, number in misfits.items())


def unfit(misfits: Mapping[str, int]) -> str:
    """What to say of all values that did not fit."""
    number = sum(misfits.values())
    values = "1 value" if number == 1 else f"{number} values"
    return f"{values} did not fit, null in {', '.join(misfits)} (NAME:string=… takes all, in another --out)"


def verify(out: Path) -> int:
    """Reads every file of a dump again; prints what is damaged and which minutes are not there. Returns the exit code.

    A minute between the first and the last that has neither a file nor a .missing marker is a gap.
    """
    there: set[int] = set()
    marked: set[int] = set()
    files, strays = [], []
    layout = Dump("", str(out))
    for path in out.glob("date=*/hour=*/*"):
        found = re.fullmatch(r"(_?)(\d{12})(\.[a-z0-9.]+)", path.name)
        minute = named(found[2]) if found else None
        if found is None or minute is None:
            continue
        data = found[3] in SUFFIXES.values() and not found[1]
        if not data and found[3] not in (".missing", ".artifacts", ".rejected"):
            continue
        if path.parent != layout.path(minute).parent:
            strays.append(path)
        elif data:
            there.add(minute)
            files.append(path)
        elif found[3] == ".missing":
            marked.add(minute)
        else:
            files.append(path)
    marked -= there
    if not there and not marked:
        raise UsageError(f"{out} holds no minutes of a feed")
    damaged, bad_lines = len(strays), 0
    for path in sorted(strays):
        print(f"damaged\t{printable(path)}\tin a folder of another hour")
    misfits: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for path, (bad, reason, unfitting) in zip(sorted(files), workers.map(check, sorted(files)), strict=True):
            bad_lines += bad
            damaged += bool(reason)
            if reason:
                print(f"damaged\t{printable(path)}\t{printable(reason)}")
            elif bad:
                print(f"not JSON\t{printable(path)}\t{bad} lines")
            if unfitting:
                print(f"null\t{printable(path)}\t{printable(listed(unfitting))} did not fit")
            misfits.update(unfitting)
    gaps = set(range(min(there | marked), max(there | marked))) - there - marked
    for gap in ranges(gaps).split(", ") if gaps else []:
        print(f"gap\t{gap}")
    whole = not damaged and not gaps and not misfits
    say(
        f"{'' if whole else 'INCOMPLETE: '}{len(files)} files, {damaged} damaged (delete them and run the dump again), "
        f"{len(gaps)} minutes in gaps, {len(marked)} missing at VirusTotal, {bad_lines} lines not JSON"
        + (f"; {unfit(misfits)}" if misfits else "")
    )
    return 0 if whole else 3


def check(path: Path) -> tuple[int, str, dict[str, int]]:
    """How many lines of a published file are not JSON, what is wrong with the file itself, if anything is, and how many
    values did not fit, by column."""
    try:
        if path.suffix == ".artifacts":
            return 0, check_artifacts(path), {}
        with open(path, "rb") as file:
            if path.suffix == ".parquet":
                import pyarrow.parquet

                parquet = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
                for _ in parquet.iter_batches():
                    pass
                return 0, "", json.loads((parquet.metadata.metadata or {}).get(MISFITS.encode(), b"{}"))
            form = "plain" if path.suffix == ".rejected" else path.suffix[1:]
            return sum(not is_json(line) for line in json_lines(file, form)), "", {}
    except Exception as error:  # whatever a damaged file makes its reader raise
        return 0, str(error) or type(error).__name__, {}


def check_artifacts(folder: Path) -> str:
    """What is wrong with the artifacts of a minute."""
    index = artifact_index(folder)
    if not index["kinds"]:
        return "not all of its artifacts are there yet"
    there = [file for file in index["files"] if (folder / file).is_file()]
    sums = digests(folder, there)
    wrong = dict.fromkeys(index["files"].keys() - sums.keys(), "is not there")
    wrong |= {file: "is damaged" for file in there if sums[file] != index["files"][file].get("sha256", sums[file])}
    return ", ".join(f"{file} {what}" for file, what in sorted(wrong.items()))


def link_kinds(feed: str, artifacts: str, samples: bool, form: Format) -> tuple[str, ...]:
    """The keys of LINKS that --artifacts and --files (`samples`) ask for. Raises UsageError when `feed` has none."""
    kinds = {kind.strip() for kind in artifacts.split(",")} - {""}
    if unknown := kinds - LINKS.keys() | kinds & {"file"}:
        raise UsageError(f"--artifacts {','.join(sorted(unknown))}: of pcap, evtx, html, memdump")
    if (kinds and feed != "file_behaviours") or (samples and feed != "files"):
        raise UsageError("--artifacts is for file_behaviours, --files for files: other lines have no such links")
    if (kinds or samples) and form == Format.parquet:
        raise UsageError("parquet keeps columns, not the lines with the links: artifacts go with bz2 and zst")
    return tuple(sorted(kinds | ({"file"} if samples else set())))


def main(
    what: Annotated[str, typer.Argument(metavar="FEED|verify", help=f"One of {', '.join(FEEDS)}; or verify DIR.")],
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="The dump to verify.")] = None,
    start: Annotated[str, typer.Option("--from", help="The first minute: YYYYMMDDhhmm, ISO 8601, 90m, 3h, 7d.")] = "",
    stop: Annotated[str, typer.Option("--to", help="The minute to stop before. [default: what there is]")] = "",
    out: Annotated[Path | None, typer.Option(help="The dump's directory. [default: the feed's name]")] = None,
    hourly: Annotated[
        bool, typer.Option("--hourly", help="Whole hours from the hourly archives: 60 times fewer requests.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Catch up, then keep pace, until interrupted.")] = False,
    recheck_missing: Annotated[bool, typer.Option("--recheck-missing", help="Ask for 404 minutes again.")] = False,
    form: Annotated[Format, typer.Option("--format", help="bz2: as published.")] = Format.bz2,
    where: Annotated[str, typer.Option(help="Keep only the lines on which this JSONPath matches.")] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column of parquet: NAME=JSONPATH, NAME:TYPE=JSONPATH, or an attribute's path."),
    ] = None,
    artifacts: Annotated[
        str, typer.Option(help="Of file_behaviours, fetch these beside the minute: pcap,evtx,html,memdump.")
    ] = "",
    samples: Annotated[
        bool, typer.Option("--files", help="Of files, fetch the samples too, each in a zip (password: infected).")
    ] = False,
    scheduler: Annotated[str, typer.Option(help="A Dask scheduler whose workers fetch, e.g. tcp://host:8786.")] = "",
    jobs: Annotated[
        int,
        typer.Option(
            min=0, help="Minutes in hand at once. [default: 4 a core, 64 with --scheduler]", show_default=False
        ),
    ] = 0,
    apikey: Annotated[str, typer.Option(help="Better: VT_API_KEY or ~/.vt.toml.")] = "",
) -> int:
    """Parses what was asked, fetches it, says what became of it."""
    if what == "verify":
        if not directory or not directory.is_dir():
            raise UsageError("verify wants the directory of a dump")
        return verify(directory)
    if scheduler and apikey:
        raise UsageError("--apikey does not travel to --scheduler's workers: set VT_API_KEY where they run")
    feed = what.replace("-", "_")
    if feed not in FEEDS or directory:
        raise UsageError(
            f"{what}{f' {directory}' if directory else ''}: not a feed ({', '.join(FEEDS)}), nor verify DIR"
        )
    if column and form != "parquet":
        raise UsageError("--column is for --format parquet")
    chosen = columns(column or list(DEFAULT_COLUMNS)) if form == "parquet" else ()
    first, last = int(moment("--from", start) // 60), math.ceil(moment("--to", stop) / 60) if stop else None
    if last is not None and last <= first:
        raise UsageError(f"--from {start} is not before --to {stop}")
    try:
        dictpath.parse(where or "$")
    except ValueError as error:
        raise UsageError(f"--where {where}: {error}") from None
    kinds = link_kinds(feed, artifacts, samples, form)
    if (out or Path(feed)).is_file():
        raise UsageError(f"--out {out or feed} is a file, not a directory")
    folder = str(Path(out or feed).resolve())
    dump = Dump(feed, folder, form.value, where, chosen, kinds, recheck_missing)
    began = time.monotonic()
    run = asyncio.run(
        feed_dump(dump, first, last, follow=follow, hourly=hourly, jobs=jobs, scheduler=scheduler, apikey=apikey)
    )
    return summary(run, time.monotonic() - began)


def summary(run: Run, seconds: float) -> int:
    """Says what the run did, what is missing and why; returns the exit code."""
    tally = run.tally
    kept = f", {tally.kept} kept" if run.dump.where else ""
    artifacts = f", {tally.artifacts} artifacts" if run.dump.artifacts else ""
    minutes = "minute" if run.published == 1 else "minutes"
    data = f"{tally.json / 1e6:.1f} MB of JSON, {tally.size / 1e6:.1f} MB on disk"
    done = (
        f"{run.published} {minutes} ({tally.lines} lines{kept}, {data}), {run.present} were there, "
        f"{len(run.missing)} missing{artifacts}, {tally.requests} requests, {seconds:.0f} s"
    )
    lacks = []
    lost = {minute for minute in run.failed if minute < oldest()}
    if lost:
        lacks.append(f"lost: {ranges(lost)}; feeds reach back 7 days")
    if run.failed - lost:
        lacks.append(f"failed: {ranges(run.failed - lost)}; run again to fetch them")
    if run.dump.where and tally.lines and not tally.kept:
        say(
            "--where kept no line: see that the path starts at the line ($.attributes…); in $.a[?(…)] @ is what is in a"
        )
    rest = [ranges(run.untried)] if run.untried else []
    if run.untried_from:
        rest.append(f"{name(run.untried_from)} and later")
    if rest:
        lacks.append(f"not fetched: {', '.join(rest)}")
    if run.stop and run.not_yet is not None and not run.follow:
        lacks.append(f"not available yet: {name(run.not_yet)} and later")
    if tally.rejected:
        lacks.append(f"{tally.rejected} lines are not JSON")
    if tally.misfits:
        lacks.append(unfit(tally.misfits))
    if run.ended:
        lacks.insert(0, run.ended[0])
    if not lacks:
        say(f"{done}, complete")
        return 0
    say(f"INCOMPLETE: {done}; {'; '.join(lacks)}")
    return run.ended[1] if run.ended else 3


# [[[cog vendor("output") ]]]
# A copy from lib/output.py, where it is edited; `just vendor` renews it.
class UsageError(ValueError):
    """What the user can mend (an argument, a key, a query): one line, exit code 2."""


def printable(text: object) -> str:
    """`text` on one line that no terminal obeys: escapes, line ends, bidi marks and lone surrogates spelled out.

    VirusTotal's strings come from malware authors; str.isprintable() is False for just those characters.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message: object) -> None:
    """One line on stderr; stdout is for data alone."""
    print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name, on disk to the last byte, when the block succeeds.

    When the block fails nothing appears, and what stood at `path` stays. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
        if os.name == "posix":  # the rename itself must survive a power cut; Windows cannot open a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def end_once(number: int, frame: object) -> None:
    """Ends the work as Ctrl-C does. SIGTERM may come twice, from a process group and from uv: once is meant."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def cli(main: Callable[..., int] | typer.Typer, doc: str | None, **settings: Any) -> NoReturn:
    """Runs `main` (or an app of several commands), `doc` being its help as it stands; exits with the code it returns.

    `settings` are typer's for the command. What the user can mend, and whatever the network did, is one line on stderr
    and the error's `exit_code`. SIGTERM ends a script as Ctrl-C does, so that what it has got is kept. A pipe that its
    reader closed ends quietly.
    """
    kept = re.sub("\n\n(?= )", "\n\n\b\n", doc or "")  # \b: typer keeps the lines of what is indented as written
    if isinstance(main, typer.Typer):
        app = main
        app.info.help = kept
    else:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(help=kept, **settings)(main)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 - closed by a shell's >&-
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        setattr(sys, name, stream)
    # Started in the background of a shell script, SIGINT is ignored; asyncio ends well only on one that is not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end_once)
    try:
        command = typer.main.get_command(app)
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:]) as context:  # app() has endings of its own
            code: Any = command.invoke(context) or 0
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        code = 0
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        code = 130
    except typer.TyperException as error:
        say(f"error: {error.format_message()} (--help shows the usage)")
        code = error.exit_code
    except (UsageError, OSError) as error:
        say(f"error: {error}")
        code = 2 if isinstance(error, UsageError) else 1
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        say(f"error: {error}")
        code = error.exit_code
    sys.exit(code)


# [[[end]]]
# [[[cog vendor("dictpath") ]]]
# A copy from lib/dictpath.py, where it is edited; `just vendor` renews it.
class dictpath:  # noqa: N801 - reads at the call as the module of that name does in vt-py's examples
    """JSONPath look-ups in plain dicts. Paths are jsonpath-ng's, with its filters:

    `$.attributes.pe_info.sections[*].md5`, `$.attributes.exiftool.'signers details'`,
    `$.attributes.results[?(@.category == 'malicious')].engine_name`.

    An absent key is no match, a null is a match whose value is None.
    """

    @staticmethod
    @functools.cache
    def parse(path: str) -> Any:
        """The parsed `path`. Raises ValueError naming the path and the position of what is wrong."""
        try:
            parsed = parse_jsonpath(path)
            for pattern in re.finditer(r"""=~\s*(['"])(.*?)\1""", path):
                re.compile(pattern[2])  # jsonpath-ng does so at the first value that is compared
            return parsed
        except Exception as error:  # jsonpath-ng's extensions raise what they like
            at = re.search(r"(?:\d+:|col )(\d+)", str(error))
            end = re.search("end of string|EOF", str(error))
            where = f"at position {at[1]}: " if at else f"at its end (position {len(path)}): " if end else ""
            raise ValueError(f"bad JSONPath {path!r}: {where}{error}") from None

    @staticmethod
    def column(path: str) -> str:
        """What a `--column` means by `path`, as JSONPath; the path of an attribute (`pe_info.imphash`) is none yet.

        Raises ValueError as `parse` does.
        """
        if not path.startswith("$"):
            # Keys with spaces and hyphens (exiftool's, engines') want quotes; indices and filters do not.
            odd_key = r"(^|\.)([^.\[\]*'\"]*[^.\[\]*'\"\w][^.\[\]*'\"]*)(?=$|[.\[])"
            path = "$.attributes." + re.sub(odd_key, r"\1'\2'", path)
        dictpath.parse(path)
        return path

    @staticmethod
    def iterate(obj: Any, path: str) -> Iterator[Any]:
        """Each value that `path` matches in `obj`, in document order. Raises ValueError for a bad path."""
        parsed = dictpath.parse(path)
        try:
            matches = parsed.find(obj)
        except Exception:  # its functions raise what they like of what they cannot take: `sorted` of no list
            matches = []
        return (match.value for match in matches)

    @staticmethod
    def get_all(obj: Any, path: str) -> list[Any]:
        """Every value that `path` matches in `obj`; nothing matched is an empty list."""
        return list(dictpath.iterate(obj, path))

    @staticmethod
    def get(obj: Any, path: str, default: Any = None) -> Any:
        """The one value that `path` matches in `obj`, `default` if none (a null that is there is None).

        Raises ValueError when there are several: `get_all` takes them.
        """
        matches = dictpath.get_all(obj, path)
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} values match {path!r}, where one was expected: use get_all")
        return matches[0] if matches else default


# [[[end]]]
# [[[cog vendor("moment") ]]]
# A copy from lib/moment.py, where it is edited; `just vendor` renews it.
def moment(option: str, text: str, now: float | None = None) -> float:
    """UNIX seconds of an ISO 8601 time (UTC if it names no zone), YYYYMMDDhhmm, or an age before `now`: 90m, 12h, 7d.

    Raises UsageError, which names the `option`.
    """
    text = text.strip()
    try:
        if age := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
            seconds = (time.time() if now is None else now) - int(age[1]) * {"m": 60, "h": 3600, "d": 86400}[age[2]]
        else:
            minute = re.fullmatch("[0-9]{12}", text)  # as VirusTotal names a feed's packages
            at = datetime.strptime(text, "%Y%m%d%H%M") if minute else datetime.fromisoformat(text)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1
    if not 0 <= seconds < 32503680000:  # what lies before 1970 or after 2999 is a slip
        wanted = "a date (2026-11-01, 2026-11-01T12:00Z, 202611011200) or an age (90m, 12h, 7d)"
        raise UsageError(f"{option} {text or 'is missing'}: {wanted}")
    return seconds


# [[[end]]]

# [[[cog vendor("virustotal") ]]]
# A copy from lib/virustotal.py, where it is edited; `just vendor` renews it.
Json = dict[str, Any]  # an object, or a whole answer, as VirusTotal sends it


# Seconds that a task has waited for its turns.
QUEUED: contextvars.ContextVar[float] = contextvars.ContextVar("QUEUED", default=0)
FRUITLESS = 100  # the most pages in a row that hold nothing new: some are normal, and each is paid for


class VirusTotalError(vt.APIError):
    """What came in place of data: VirusTotal's `code` and `message`, or ours for what the network did.

    `status` is HTTP's (0: no whole answer), `retry_after` seconds or None, `heals` whether asking again may help,
    `sent` whether VirusTotal may have carried the request out, `cursor` where the pages go on.
    """

    def __init__(self, code: str, message: str, status: int = 0, *, heals: bool = False, sent: bool = True) -> None:
        super().__init__(code, message)
        self.status, self.heals, self.sent = status, heals, sent
        self.retry_after: float | None = None
        self.cursor: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}{self.cure}{resumption(self.cursor)}"

    @property
    def cure(self) -> str:
        """What to do about it, where neither VirusTotal's message nor a cursor says so."""
        if self.cursor or self.exit_code == 2 or self.status == 404:
            return ""
        if self.status == 429:
            return " (run it again when there is quota)"
        network = "look at the network, VT_HOST and HTTPS_PROXY, or " if self.status == 0 else ""
        return f" ({network}run it again later)" if self.heals else ""

    @property
    def exit_code(self) -> int:
        """2 for what the user can mend, 4 for the quota, 1 for all else."""
        return 4 if self.status == 429 else 2 if self.status in (400, 401, 403, 409) else 1


class VirusTotal(vt.Client):
    """vt-py's client with `ask` and `pages`, which repeat what heals for up to VT_MAX_WAIT seconds (default 300).

    The key is `apikey`, else VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml; it goes to `host` (else VT_HOST) alone, whatever
    link or redirect is followed. VT_RATE is the most requests a minute. Proxies come from the environment.
    `requests` counts what VirusTotal was asked. Raises UsageError when a setting is missing or makes no sense.
    """

    def __init__(self, apikey: str | None = None, host: str | None = None) -> None:
        key, self._key_source = find_key(apikey)
        host = host or os.environ.get("VT_HOST") or "https://www.virustotal.com"
        try:
            self._origin = yarl.URL(host).origin()
            if self._origin.scheme not in ("http", "https"):
                raise ValueError("no http")
        except ValueError:
            raise UsageError(f"VT_HOST is {host}, which is no URL such as https://www.virustotal.com") from None
        self.max_wait = positive("VT_MAX_WAIT", 300)
        # One request each so many seconds: with a burst before the steady flow the first minute is overdrawn.
        self._pace = aiolimiter.AsyncLimiter(1, 60 / positive("VT_RATE", 60_000))
        super().__init__(key, agent="virustotal-scripts", host=host.rstrip("/"), trust_env=True)
        self.requests = 0

    def _get_session(self) -> aiohttp.ClientSession:
        """vt-py's session, without its default headers: they carry the key to every host."""
        if self._session is None:  # type: ignore[has-type]
            wait = self.max_wait
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                # VirusTotal compresses for strangers only where the agent too says gzip (vt-py's _USER_AGENT_FMT).
                headers={"User-Agent": f"{self._agent}; gzip", "Accept-Encoding": "gzip"},
                timeout=aiohttp.ClientTimeout(total=wait, sock_connect=min(30, wait), sock_read=min(60, wait / 2)),
                middlewares=(self._authorise,),
                trust_env=True,
            )
        return self._session

    async def _authorise(self, request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        """aiohttp calls this for each hop, redirects too: feeds redirect to storage on another host."""
        if request.url.origin() == self._origin:
            request.headers["X-Apikey"] = self._apikey
            self.requests += 1
        else:  # with proxies from the environment, aiohttp takes passwords from ~/.netrc too, for any host
            request.headers.pop("Authorization", None)
        return await handler(request)

    def _full_url(self, path: str, *args: Any) -> str:
        """`path` with each {} filled by one quoted segment; a whole URL (a link out of an answer) stays as it is."""
        if path.startswith(("https://", "http://")):
            return path
        if {".", "..", ""} & set(map(str, args)):
            raise UsageError(f"not an id: {args}")
        return f"{self._host}/api/v3{path.format(*(urllib.parse.quote(str(arg), safe='') for arg in args))}"

    @contextlib.asynccontextmanager
    async def answer(self, method: str, path: str, *args: Any, **kwargs: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, asked once: the answer, its body still to be read inside the block.

        `path` and `args` are as for `ask`, `kwargs` aiohttp's (params, json, timeout). Raises VirusTotalError unless
        the status is 2xx, and for what the network does until the block ends.
        """
        began = time.monotonic()
        await self._pace.acquire()  # not in the session, whose timeout would count the wait as VirusTotal's
        QUEUED.set(QUEUED.get() + time.monotonic() - began)
        try:
            async with self._get_session().request(method, yarl.URL(self._full_url(path, *args)), **kwargs) as response:
                if response.status >= 300:
                    raise await self._error(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            lasting = (
                aiohttp.ClientSSLError,
                aiohttp.InvalidURL,
                aiohttp.NonHttpUrlClientError,
                aiohttp.TooManyRedirects,
            )
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            message, heals = self._redacted(str(error)) or "no answer in time", not isinstance(error, lasting)
            message += "" if heals else " (look at VT_HOST and HTTPS_PROXY)"
            raise VirusTotalError(type(error).__name__, message, heals=heals, sent=sent) from None

    def _redacted(self, text: str) -> str:
        """`text` without the key, in whichever case it was echoed."""
        return re.sub(re.escape(self._apikey), "[key]", text, flags=re.IGNORECASE)

    async def _error(self, response: aiohttp.ClientResponse) -> VirusTotalError:
        """What an answer of status 3xx, 4xx or 5xx says; `heals` as in VirusTotal's table of errors."""
        try:
            async with asyncio.timeout(60):  # of a download, which has no bound of its own, an error may drip
                body = await response.content.readexactly(1 << 16)  # no error takes more
        except asyncio.IncompleteReadError as short:
            body = short.partial
        # UTF-8 whatever charset is announced: Python knows some (zlib, idna) that decode nothing here.
        status, text = response.status, body.decode(errors="replace")
        try:
            said = json.loads(text)["error"]
            code, message = str(said["code"]), str(said.get("message"))
            broken = False
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a proxy's HTML, or half an answer
            # The key goes before anything is cut: WrongCredentialsError has echoed it.
            code, message = f"HTTP {status}", " ".join(re.sub(r"<[^<>]*>", " ", self._redacted(text)).split())[:200]
            broken = "json" in response.content_type
        # Redacted here too: JSON may have spelled the key in escapes.
        code, message = self._redacted(code)[:100], self._redacted(message)[:1000]
        if status in (401, 403):
            message += f" (the key is from {self._key_source}; searches, feeds and hunting need a premium one)"
        heals = status in (424, 429) or 500 <= status <= 504 or broken
        error = VirusTotalError(code, message, status, heals=heals, sent=status != 429)
        error.retry_after = retry_after(response.headers)
        return error

    def retrying(self, heals: Callable[[VirusTotalError], bool] = lambda error: error.heals) -> tenacity.AsyncRetrying:
        """`await client.retrying()(function, *args)`: calls it again after each VirusTotalError that `heals`.

        Retry-After wins over the exponential wait. The last error is raised once VT_MAX_WAIT would be overrun, the wait
        for VT_RATE's turns not counted.
        """
        queued = QUEUED.get()
        backoff = tenacity.wait_exponential_jitter(multiplier=0.5, max=60)

        def failure(state: tenacity.RetryCallState) -> Any:
            return state.outcome and state.outcome.exception()

        def wait(state: tenacity.RetryCallState) -> float:
            asked = failure(state).retry_after
            return backoff(state) if asked is None else asked + random.uniform(0, 1)

        def announce(state: tenacity.RetryCallState) -> None:
            error, bound = failure(state), f"{self.max_wait:g} s in all, as VT_MAX_WAIT says"
            say(f"{error.code}: {error.message}: asking again in {state.upcoming_sleep:.0f} s ({bound})")

        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, VirusTotalError) and heals(error)),
            wait=wait,
            stop=lambda state: tenacity.stop_before_delay(self.max_wait + QUEUED.get() - queued)(state),
            before_sleep=announce,
            reraise=True,
        )

    async def ask(self, method: str, path: str, *args: Any, **kwargs: Any) -> Json:
        """The JSON that VirusTotal answers; `args` fill the {} of `path`, quoted; `kwargs` are aiohttp's.

        What heals is repeated, a POST or PATCH only if it surely was not carried out. Raises VirusTotalError.
        """

        async def once() -> Json:
            async with self.answer(method, path, *args, **kwargs) as response:
                answer = decode(await response.read())
            if method == "GET" and "data" not in answer:  # null is an answer; without any, a page would read as the end
                raise VirusTotalError("BrokenAnswer", "an answer came that has no data", heals=True)
            return answer

        repeatable = method in ("GET", "DELETE")
        return await self.retrying(lambda error: error.heals and (repeatable or not error.sent))(once)

    async def get_json_async(self, path: str, *path_args: Any, params: Json | None = None) -> Json:
        """vt-py's method, so that all it builds on it (get_data_async) heals too."""
        return await self.ask("GET", path, *path_args, params=params)

    def pages(
        self, path: str, *args: Any, params: Mapping[str, Any] | None = None, limit: int = 0, cursor: str | None = None
    ) -> Pages:
        """The collection at `path`: see Pages. `limit` is in items (0: all), `cursor` where an earlier run stopped."""
        return Pages(self, path, args, dict(params or {}), limit, cursor)


@dataclasses.dataclass
class Pages:
    """`async for items in client.pages(…)`: lists of raw dicts (error items too), each item once; the next page is
    asked for while the caller works on this one.

    `cursor` is where to go on after what was yielded (None: nothing follows), `meta` the last page's. When a page
    fails, VirusTotalError is raised with that cursor; what was yielded before is good.
    """

    client: VirusTotal
    path: str
    args: tuple[Any, ...]
    params: Json
    limit: int
    cursor: str | None
    meta: Json = dataclasses.field(default_factory=dict)

    async def __aiter__(self) -> AsyncIterator[list[Json]]:
        # A resume point is a cursor, or OFFSET:CURSOR when the server sent more than was asked.
        resumed = re.match(r"([0-9]{1,9}):", self.cursor or "")
        skip, at = (int(resumed[1]), (self.cursor or "")[resumed.end() :]) if resumed else (0, self.cursor or "")
        left = self.limit or float("inf")
        # The highest that each takes: more is answered with 400, less costs up to 30 times the requests.
        highest = 300 if self.path.endswith(("/intelligence/search", "/matching_files")) else 40
        known: set[str] = set()
        cursors = {at}
        fruitless = 0

        def fetch() -> asyncio.Task[Json]:
            params = self.params | {"limit": str(int(min(highest, left + skip)))} | ({"cursor": at} if at else {})
            return asyncio.create_task(self.client.ask("GET", self.path, *self.args, params=params))

        page = fetch()
        try:
            while True:
                answer = await page
                meta, data = answer.get("meta") or {}, answer.get("data") or []
                data = [data] if isinstance(data, dict) else data  # a one-to-one relationship answers one object
                if not (isinstance(meta, dict) and isinstance(data, list) and all(isinstance(i, dict) for i in data)):
                    raise VirusTotalError("BrokenAnswer", f"what {self.path} answers are no objects")
                self.meta = meta
                items: list[Json] = []
                taken = skip
                while taken < len(data) and len(items) < left:
                    item, taken = data[taken], taken + 1
                    # The context counts: a file that matches two rules, or is notified twice, comes once for each.
                    key = repr((item.get("type"), item.get("id"), item.get("context_attributes")))
                    if key not in known or item.get("id") is None:
                        known.add(key)
                        items.append(item)
                left -= len(items)
                after = str(self.meta.get("cursor") or "")
                self.cursor = resume_point(at, taken) if taken < len(data) else resume_point(after)
                more, repeated = left > 0 and bool(self.cursor), after in cursors
                fruitless = 0 if items else fruitless + 1
                if more and fruitless == FRUITLESS:
                    raise VirusTotalError("NothingNew", f"{fruitless} pages in a row held nothing new")
                if more and not repeated:
                    skip, at = 0, after
                    cursors.add(at)
                    page = fetch()
                if items:
                    yield items
                if more and repeated:
                    self.cursor = None
                    raise VirusTotalError("RepeatedCursor", "the same cursor came again: the rest cannot be had")
                if not more:
                    return
        except VirusTotalError as error:
            error.cursor = self.cursor
            raise
        finally:
            page.add_done_callback(lambda task: task.cancelled() or task.exception())  # else asyncio complains of it
            page.cancel()


def positive(name: str, default: float) -> float:
    """The number over 0 in the environment variable `name`. Raises UsageError."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise UsageError(f"{name} is {text}, which is no number over 0")
    return value


def find_key(apikey: str | None) -> tuple[str, str]:
    """The key and where it came from. Raises UsageError, which never shows the key."""
    variables = ("VT_API_KEY", "VTCLI_APIKEY")
    found = {"--apikey": apikey} | {name: os.environ.get(name) for name in variables}
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        found["~/.vt.toml"] = tomllib.loads(Path("~/.vt.toml").expanduser().read_text(encoding="utf-8")).get("apikey")
    for source, key in found.items():
        if key and not re.fullmatch(r"[!-~]+", str(key).strip()):
            raise UsageError(f"the key from {source} holds characters that no key has")
        if key:
            return str(key).strip(), source
    raise UsageError(
        "no API key: --apikey, VT_API_KEY, VTCLI_APIKEY and ~/.vt.toml (`vt init` writes it) have none; "
        "`scripts/replay.py COMMAND…` runs a command without one"
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks to wait (RFC 9110: a number, or an HTTP date); None without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def decode(body: bytes) -> Json:
    """The JSON object in `body`, {} if it is empty (DELETE). Raises a VirusTotalError that heals if it is broken."""
    try:
        answer = json.loads(body.decode(errors="replace") or "{}")
        if re.search(rb"\\u[dD][89a-fA-F]", body):
            answer = mended(answer)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise VirusTotalError("BrokenAnswer", f"{len(body)} bytes came that are no JSON object", heals=True)
    return answer


def mended(value: Any) -> Any:
    """JSON with U+FFFD for each lone surrogate, which cannot be written as UTF-8. Raises RecursionError if too deep."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def resume_point(cursor: str, offset: int = 0) -> str | None:
    """Where pages go on: at `cursor` (None: there is none), or `offset` items after it."""
    ambiguous = re.match(r"[0-9]{1,9}:", cursor)  # VirusTotal's own cursor may read like OFFSET:CURSOR
    return f"{offset}:{cursor}" if offset or ambiguous else cursor or None


def resumption(cursor: str | None) -> str:
    """How to go on after `cursor`, to be pasted into a shell: what VirusTotal sent is quoted."""
    return f"; go on with --cursor {shlex.quote(cursor)}" if cursor else ""


def finish(done: str, client: VirusTotal, stopped: BaseException | None = None, cursor: str | None = None) -> int:
    """Says the last line: what was `done`, the requests it took, whether that is all. Returns the exit code.

    `stopped` is what ended the work early, if anything did: a VirusTotalError, the CancelledError or KeyboardInterrupt
    of a Ctrl-C, or the OSError of an output that could not be written.
    """
    spent = f"{done}, {client.requests} request{'s' * (client.requests != 1)}"
    more = resumption(cursor)
    if stopped is None:
        say(f"{spent}; there is more (--limit 0 takes all){more}" if cursor else f"{spent}, complete")
        return 0
    if isinstance(stopped, VirusTotalError):
        cure = "" if cursor else stopped.cure
        reason, code = f"{stopped.code}: {stopped.message}{cure}", 4 if stopped.status == 429 else 3
    else:
        reason, code = str(stopped) or "interrupted", 1 if isinstance(stopped, OSError) else 130
    say(f"INCOMPLETE: {spent}; {reason}{more}")
    return code


# [[[end]]]
if __name__ == "__main__":
    cli(main, __doc__)
