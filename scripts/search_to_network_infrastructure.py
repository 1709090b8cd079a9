#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "jsonpath-ng>=1.13,<2",
#     "pandas>=3,<4",
#     "pyarrow>=21,<27",
#     "rich>=14,<16",
#     "sqlalchemy>=2,<3",
#     "tabulate>=0.9,<1",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "xlsxwriter>=3.2,<4",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Which domains, IP addresses and URLs do the files of an Intelligence search contact, and which files contact each?

Needs a key with VirusTotal Intelligence (premium). 300 files cost one request, a file with more than 20 contacts of
one kind one more for each 40. Private and reserved addresses stay in: a sandbox did contact them.

    uv run scripts/search_to_network_infrastructure.py 'entity:file p:20+ tag:signed' --defang
    uv run scripts/search_to_network_infrastructure.py 'p:5+ engines:emotet' --limit 900 --min-files 3 --output c2.csv

In a notebook: `frame = await search_to_infrastructure("entity:file p:20+ tag:signed", limit=300)`.

Exit codes: 0 complete, 1 failed, 2 wrong usage, key or query, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import email.utils
import functools
import hashlib
import io
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import aiohttp
import aiolimiter
import tenacity
import typer
import vt
import yarl
from jsonpath_ng.ext import parse as parse_jsonpath

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"domains": "domain", "ips": "ip_address", "urls": "url"}
RELATIONSHIPS = [f"{how}_{what}" for how in ("contacted", "itw", "embedded") for what in KINDS]
EMBEDDED = 20  # the most descriptors that an object carries: https://docs.virustotal.com/reference/relationships
AT_ONCE = 20  # requests under way for what was cut


class Format(StrEnum):
    """What stdout gets."""

    text = "text"
    csv = "csv"
    jsonl = "jsonl"


class Contact(NamedTuple):
    """That a file contacts something."""

    type: str
    value: str
    file_id: str
    relationship: str


@dataclasses.dataclass
class Found:
    """What a search gave, and what is missing of it.

    `failures` names each file with a gap, `absent` counts the files that came without a relationship, `unfinished` the
    relationships still to be completed of the page at that cursor; `stopped` is what ended the search early, `cursor`
    where it goes on.
    """

    contacts: set[Contact] = dataclasses.field(default_factory=set)
    files: set[str] = dataclasses.field(default_factory=set)
    failures: list[str] = dataclasses.field(default_factory=list)
    absent: Counter[str] = dataclasses.field(default_factory=Counter)
    unfinished: Counter[str | None] = dataclasses.field(default_factory=Counter)
    failed_in_a_row: int = 0
    stopped: BaseException | None = None
    cursor: str | None = None

    def add(self, file_id: str, name: str, related: Iterable[Mapping[str, Any]]) -> list[str]:
        """Adds what a relationship of a file lists. Returns the ids of the URLs that came without the URL."""
        kind, hashes = KINDS[name.rpartition("_")[2]], []
        for item in related:
            named = item.get("id")
            if kind == "url":  # its id is a hash; the URL has been a list
                named = dictpath.get(item, "$.context_attributes.url") or dictpath.get(item, "$.attributes.url")
            if not named:
                hashes.append(str(item.get("id")))
            for value in map(str, named if isinstance(named, list) else [named] if named else []):
                # Names and addresses mean the same in either case, URLs do not.
                self.contacts.add(Contact(kind, value if kind == "url" else value.lower(), file_id, name))
        return hashes

    def rows(self, *, min_files: int = 1, defang: bool = False) -> list[dict[str, Any]]:
        """Each indicator once, by type, then by value, with the files that contact it."""
        rows = []
        for (kind, value), contacts in itertools.groupby(sorted(self.contacts), key=lambda contact: contact[:2]):
            _, _, files, names = map(set, zip(*contacts, strict=True))
            if len(files) >= min_files:
                value = defanged(value, kind) if defang else value
                row = {"type": kind, "value": value, "files": len(files)}
                rows.append(row | {"file_ids": sorted(files), "relationships": sorted(names)})
        return rows


@dataclasses.dataclass(frozen=True)
class Cut:
    """A relationship of a file that did not come whole: where it goes on (None: from its start), or URLs not named.

    `page` is the cursor of the search's page that it came on.
    """

    page: str | None
    file_id: str
    name: str
    cursor: str | None
    unnamed: bool


def defanged(value: str, kind: str) -> str:
    """`value` so that nothing makes a link of it: hxxp://evil[.]example; replacing back gives the same value.

    ioc-fanger, made for prose, leaves HTTP:// and IPv6 as they are, and `[.]` in a URL does not come back from it.
    """
    value = re.sub(r"(h)tt(?=ps?:)", r"\1xx", value, flags=re.IGNORECASE).replace(".", "[.]")
    return value.replace(":", "[:]") if kind == "ip_address" else value


def other_entity(query: str) -> str | None:
    """The entity other than files that `query` asks for; what stands in quotes is text to look for."""
    for match in re.finditer(r'\bentity\s*:\s*"?(\w+)|"(?:\\.|[^"\\])*"', query, flags=re.IGNORECASE | re.DOTALL):
        if match[1] and match[1].lower() != "file":
            return match[1]
    return None


def check(query: str, relationship: Iterable[str]) -> list[str]:
    """The relationships to ask for, each once. Raises UsageError for a name or a query that finds no contacts."""
    names = list(dict.fromkeys(relationship)) or RELATIONSHIPS[:3]
    unknown = [name for name in names if name not in RELATIONSHIPS]
    if unknown:
        raise UsageError(f"--relationship {unknown[0]}: is none of {' '.join(RELATIONSHIPS)}")
    if not query.strip():
        raise UsageError("the query is empty: it may read entity:file p:20+ tag:signed")
    if other := other_entity(query):
        raise UsageError(f"entity:{other} finds no files, and this looks for what files contact: entity:file, or none")
    return names


def embedded(found: Found, item: Mapping[str, Any], names: Iterable[str], page: str | None) -> Iterator[Cut]:
    """Adds what came with a file on a page of the search; gives what is yet to be asked of it."""
    file_id = str(item.get("id"))
    found.files.add(file_id)
    if item.get("error"):
        code, message = dictpath.get(item, "$.error.code"), dictpath.get(item, "$.error.message")
        found.failures.append(f"file {file_id}: {code}: {message}")
    for name in names:
        related = item.get("relationships") or {}
        came: Any = related.get(name) or {} if isinstance(related, dict) else None
        data = came.get("data") or [] if isinstance(came, dict) else None
        data = [data] if isinstance(data, dict) else data  # a one-to-one relationship
        if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
            yield Cut(page, file_id, name, None, False)  # what came is none: asked for by itself
            continue
        hashes = found.add(file_id, name, data)
        cursor = dictpath.get(came, "$.meta.cursor")
        # A link is not followed, it may lead elsewhere: without a cursor the relationship is asked for from its start.
        # So is one of 20 that does not say how many there are: a contact lost costs more than a request.
        full = len(data) >= EMBEDDED and dictpath.get(came, "$.meta.count") != len(data)
        if hashes or cursor or dictpath.get(came, "$.links.next") or full:
            yield Cut(page, file_id, name, resume_point(str(cursor or "")), bool(hashes))
        elif "data" not in came and not item.get("error"):
            found.absent[name] += 1


async def complete(client: VirusTotal, found: Found, cut: Cut) -> None:
    """Adds the rest of a relationship. Raises VirusTotalError; what was added before is good."""

    async def add(path: str, cursor: str | None = None) -> list[str]:
        pages = client.pages(path, cut.file_id, cut.name, cursor=cursor)
        return [url_id async for items in pages for url_id in found.add(cut.file_id, cut.name, items)]

    hashes: list[str] = []
    if not cut.unnamed:
        try:
            hashes = await add("/files/{}/relationships/{}", cut.cursor)
        except VirusTotalError as error:
            if error.status != 400 or not cut.cursor:
                raise
            hashes = await add("/files/{}/relationships/{}")  # a cursor of the search may be refused here
    if cut.unnamed or hashes:  # whole objects have their URLs, 40 a request; /urls/{id} would be a request for each
        hashes = await add("/files/{}/{}")
    if hashes:
        found.failures.append(f"file {cut.file_id}: {cut.name} known by their ids alone: {' '.join(hashes)}")


async def attempt(client: VirusTotal, found: Found, cut: Cut) -> None:
    """Completes a relationship, or writes down that it cannot be: that costs this file alone, unless all fail so."""
    if found.stopped:
        return
    try:
        await complete(client, found, cut)
        found.failed_in_a_row = 0
    except (VirusTotalError, UsageError) as error:
        reason = f"{error.code}: {error.message}" if isinstance(error, VirusTotalError) else error
        found.failures.append(f"file {cut.file_id}: {cut.name} is not whole: {reason}")
        found.failed_in_a_row += getattr(error, "heals", False)
        # A key or a quota fails for every file, and so does a network that is gone.
        if getattr(error, "status", 0) in (401, 403, 429) or found.failed_in_a_row >= AT_ONCE:
            found.stopped = error
            return
    found.unfinished[cut.page] -= 1


async def search(client: VirusTotal, query: str, names: list[str], *, limit: int, cursor: str | None = None) -> Found:
    """What the files that match `query` contact. Raises VirusTotalError when not even one file came.

    The relationships ride on the search's pages; what is cut there is paged while the search goes on.
    """
    params = {"query": query, "relationships": ",".join(names)}
    pages = client.pages("/intelligence/search", params=params, limit=limit, cursor=cursor)
    found, page, slots = Found(), cursor or None, asyncio.Semaphore(AT_ONCE)
    stopped: BaseException | None = None
    try:
        # Closed, the pages leave no request under way.
        async with asyncio.TaskGroup() as group, contextlib.aclosing(aiter(pages)) as answers:  # type: ignore[type-var]
            try:
                async for items in answers:
                    cuts = [cut for item in items for cut in embedded(found, item, names, page)]
                    found.unfinished[page] += len(cuts)
                    for cut in cuts:
                        await slots.acquire()
                        task = group.create_task(attempt(client, found, cut))
                        task.add_done_callback(lambda _: slots.release())
                    if found.stopped:
                        break
                    page = pages.cursor
            except VirusTotalError as error:
                stopped = error
    except asyncio.CancelledError as error:
        stopped = error
    found.stopped = found.stopped or stopped
    if found.stopped and not found.files:
        raise found.stopped
    again = [page for page, left in found.unfinished.items() if left]
    found.cursor = again[0] if again else pages.cursor
    if again:
        how = "the cursor below goes back to them" if found.cursor else "run the same again"
        found.failures.append(f"{found.unfinished.total()} relationships were not completed: {how}")
    return found


async def search_to_infrastructure(
    query: str,
    limit: int = 10,
    *,
    relationship: Iterable[str] = (),
    min_files: int = 1,
    defang: bool = False,
    cursor: str | None = None,
    apikey: str | None = None,
) -> pd.DataFrame:
    """What the files that match `query` contact: type, value, number of files, their ids, relationships; a row each.

    `limit` is in files (0: all). Should anything be missing, stderr says what, `attrs["incomplete"]` is true and
    `attrs["cursor"]` where to go on. Raises UsageError and VirusTotalError.
    """
    names = check(query, relationship)
    async with VirusTotal(apikey) as client:
        found = await search(client, query, names, limit=limit, cursor=cursor)
    frame = as_frame(found.rows(min_files=min_files, defang=defang))
    incomplete = bool(found.stopped or found.failures)
    if incomplete:
        report(found, len(frame), client)
    frame.attrs = {"cursor": found.cursor, "incomplete": incomplete}
    return frame


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table that has the same columns, of the same types, when there are none."""
    import pandas as pd

    types = {"type": "str", "value": "str", "files": "int64", "file_ids": "object", "relationships": "object"}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def report(found: Found, shown: int, client: VirusTotal) -> int:
    """Names on stderr what is missing, says the last line, returns the exit code."""
    for name, count in found.absent.items():
        say(f"{name} did not come with {count} of the files: taken as none there")
    for failure in found.failures:
        say(f"missing: {failure}")
    stopped = found.stopped
    if found.failures and not stopped:
        stopped = VirusTotalError("Gaps", "what is missing is named above")
    done = f"{shown} indicator{'s' * (shown != 1)} of {len(found.files)} file{'s' * (len(found.files) != 1)}"
    return finish(done, client, stopped, found.cursor)


def main(
    query: Annotated[str, typer.Argument(help="As in VirusTotal Intelligence, for files.", show_default=False)],
    limit: Annotated[int, typer.Option(min=0, help="How many files; 0: all.")] = 10,
    relationship: Annotated[
        list[str] | None,
        typer.Option(help="{contacted,itw,embedded}_{domains,ips,urls}; repeatable. All contacted_, unless given."),
    ] = None,
    min_files: Annotated[int, typer.Option(min=1, help="Only what so many of the files contact.")] = 1,
    defang: Annotated[bool, typer.Option("--defang", help="hxxp://evil[.]example")] = False,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="What stdout gets; text, unless there is an --output.", show_default=False),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(help="A file (.csv .jsonl .md .parquet .xlsx .db .sqlite) or a database URL; repeatable."),
    ] = None,
    cursor: Annotated[str, typer.Option(help="Go on where an earlier run stopped.")] = "",
    apikey: Annotated[str, typer.Option(help="Else VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml.")] = "",
) -> int:
    """Searches, writes, says the last line; the help is the docstring of the file."""
    names, outputs = check(query, relationship or []), output or []
    check_outputs(outputs, resuming=bool(cursor))

    async def work() -> tuple[Found, VirusTotal]:
        async with VirusTotal(apikey) as client:
            return await search(client, query, names, limit=limit, cursor=cursor), client

    found, client = asyncio.run(work())
    rows = found.rows(min_files=min_files, defang=defang)
    form = form or (None if outputs else Format.text)
    failed = write(as_frame(rows), outputs, table="infrastructure") if outputs else None
    if form == Format.text:
        lines = (f"{row['type'].upper()}: {printable(row['value'])}\n" for row in rows)
        text = "".join(["=== Results: ===\n", *lines])
    else:
        text = to_text(as_frame(rows), form) if form else ""
    found.stopped = show(text, lambda: as_frame(rows)) or failed or found.stopped
    return report(found, len(rows), client)


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
# [[[cog vendor("table") ]]]
# A copy from lib/table.py, where it is edited; `just vendor` renews it.
ISO = "%Y-%m-%dT%H:%M:%SZ"
SUFFIXES = (".csv", ".jsonl", ".md", ".parquet", ".xlsx", ".db", ".sqlite")
MOST_SHOWN = 4_000  # characters of a cell that is padded to its column's width: a megabyte would be one in each row
MOST_COLUMNS = 1_500  # PostgreSQL takes 1600, SQLite 2000; the names of a page's headers and meta tags are anybody's


class TableFormat(StrEnum):
    """What stdout gets of a table."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"
    markdown = "markdown"


@dataclasses.dataclass
class Collected:
    """What came of a collection: rows as in `row`, how many of them are an error in an object's place, what ended it
    early, where it goes on, how many there are in all."""

    rows: list[Json] = dataclasses.field(default_factory=list)
    errors: int = 0
    stopped: BaseException | None = None
    cursor: str | None = None
    total: int | None = None


async def collect(pages: Pages, chosen: Mapping[str, str], *, verdicts: bool = False) -> Collected:
    """The rows of all `pages`; on a terminal it shows how far it is. Raises VirusTotalError when not even one came.

    What came before a failure or a Ctrl-C is kept: `stopped` says why, `cursor` where it goes on.
    """
    from rich.console import Console

    found = Collected()
    try:
        with Console(stderr=True).status("asking") if sys.stderr.isatty() else contextlib.nullcontext() as status:
            async for items in pages:
                found.rows += [row(item, chosen, verdicts=verdicts) for item in items]
                found.errors += sum(bool(item.get("error")) for item in items)
                hits = pages.meta.get("total_hits")
                found.total = hits if isinstance(hits, int) else None
                if status:
                    status.update(f"{len(found.rows)} of {pages.limit or found.total or 'all'}")
    except (VirusTotalError, asyncio.CancelledError) as error:
        if not found.rows:
            raise
        found.stopped = error
    found.cursor = pages.cursor
    return found


def columns(specs: Iterable[str]) -> dict[str, str]:
    """`--column` arguments as {name: JSONPath}: `NAME=$.a.b`, `$.a.b`, or an attribute's path (`pe_info.imphash`).

    Raises UsageError for a path that does not parse.
    """
    chosen = {}
    for spec in specs:
        named = re.fullmatch(r"([^$=\[]+)=(.+)", spec, flags=re.DOTALL)
        name, path = named.groups() if named else (spec, spec)
        if name in chosen or name in ("id", "type", "url"):
            raise UsageError(f"--column {spec}: there is a column {name} already; NAME={path} gives it another name")
        try:
            chosen[name] = dictpath.column(path)
        except ValueError as error:
            raise UsageError(f"--column {spec}: {error}") from None
    return chosen


def row(item: Mapping[str, Any], chosen: Mapping[str, str], *, verdicts: bool = False) -> dict[str, Any]:
    """An object as {column: value}: id, type, url (of a URL), then the `chosen` columns or, if none, all there is.

    A chosen path with one match gives that value, with several a list, with none None. All there is: the attributes
    under their paths, the context attributes likewise with that word in front, an item's error; each engine's
    verdict (`last_analysis_results`, some 70 times 5 values) only if asked for.
    """
    parts = (item.get(name) for name in ("attributes", "context_attributes", "error"))
    attributes, context, error = (part if isinstance(part, dict) else {} for part in parts)
    kind = item.get("type")
    start = {"id": item.get("id"), "type": kind if kind is None or isinstance(kind, str) else to_json(kind)}
    if "url" in context or "url" in attributes:
        start["url"] = context.get("url") or attributes.get("url")
    if chosen:
        found = {name: dictpath.get_all(item, path) for name, path in chosen.items()}
        return start | {name: values if len(values) > 1 else (values or [None])[0] for name, values in found.items()}

    def leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, inner in value.items():
            if isinstance(inner, dict) and prefix.count(".") < 50:  # what is nested deeper stays as it is
                yield from leaves(inner, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", inner

    if not verdicts:
        attributes = {key: value for key, value in attributes.items() if key != "last_analysis_results"}
    # An attribute may be called `type` too.
    rest = {f"attributes.{key}" if key in start else key: value for key, value in leaves(attributes, "")}
    rest |= leaves({key: value for key, value in context.items() if key != "url"}, "context_attributes.")
    return start | rest | dict(leaves(error, "error."))


def to_frame(rows: list[dict[str, Any]], chosen: Mapping[str, str]) -> pd.DataFrame:
    """The `rows` as a table with id, type and url first, then the columns as chosen, or else by name.

    Dates are UTC timestamps, whole numbers stay whole where a row lacks them (Int64), lists stay lists. Of more than
    MOST_COLUMNS the rarest are gathered, as JSON, in one called `others`.
    """
    import pandas as pd

    first = [name for name in ("id", "type", "url") if name != "url" or any("url" in r for r in rows)]
    rest = list(chosen) or sorted({name for r in rows for name in r})
    if not chosen and len(rest) > MOST_COLUMNS:
        rows, rest = gathered(rows, first)
    names = list(dict.fromkeys(first + rest))
    frame = pd.DataFrame({name: pd.Series([r.get(name) for r in rows], dtype=object) for name in names}, columns=names)
    for name in names:
        key = re.split(r"[.\[]", chosen.get(name, name))[-1].strip("']")
        # vt-py's own rule for what is a date.
        is_date = re.fullmatch(r".+_date|date|last_login|user_since", key)
        frame[name] = utc(frame[name]) if is_date else typed(frame[name])
    return frame


def gathered(rows: list[dict[str, Any]], first: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The `rows` with what most of them have, and all else of each as JSON under `others`; the names of the columns."""
    often: dict[str, int] = {}
    for name in (name for r in rows for name in r):
        often[name] = often.get(name, 0) + 1
    names = sorted(often.keys() - {"others", *first}, key=lambda name: (-often[name], name))
    kept = {*first, *names[:MOST_COLUMNS]}

    def narrow(r: dict[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in r.items() if name not in kept}
        return {name: r[name] for name in r if name in kept} | ({"others": to_json(others)} if others else {})

    return [narrow(r) for r in rows], [*sorted(kept), "others"]


def utc(values: pd.Series[Any]) -> pd.Series[Any]:
    """UNIX seconds as timestamps. Some dates of VirusTotal's are none: a column with both kinds becomes text."""
    import pandas as pd

    def is_date(value: Any) -> bool:
        return bool(re.fullmatch("[0-9]{1,12}", str(value))) and int(value) < 253_402_300_800  # the year 10000

    dates = values.map(is_date)
    if not dates.any():
        return typed(values)
    moments = pd.to_datetime(pd.to_numeric(values.where(dates)).astype("Int64"), unit="s", utc=True)
    if values[~dates].notna().any():
        return typed(moments.dt.strftime(ISO).astype(object).where(dates, values.map(str, na_action="ignore")))
    return moments


def typed(values: pd.Series[Any]) -> pd.Series[Any]:
    """A column of one kind of value with pandas' type for it, which knows missing values; a mixed one as it is."""
    kinds = frozenset(type(value) for value in values.dropna())
    of = {int: "Int64", bool: "boolean", float: "Float64", str: "str"}
    try:
        return values.astype(
            of[float] if kinds == {int, float} else of[next(iter(kinds))] if len(kinds) == 1 else object
        )
    except (KeyError, OverflowError):  # lists; whole numbers over 64 bits
        return values


def check_outputs(outputs: Iterable[str], *, resuming: bool = False) -> None:
    """Finds what would fail only after the quota is spent: a suffix, a folder, a driver. Raises UsageError.

    `resuming` with a cursor, a file that is there holds the part before and is not to be written over.
    """
    for output in outputs:
        path = Path(output)
        if "://" in output:
            database(output)
        elif path.suffix not in SUFFIXES:
            raise UsageError(f"--output {output}: ends in none of {' '.join(SUFFIXES)}, nor is it a database URL")
        elif path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"--output {output}: {'is a folder' if path.is_dir() else f'no folder {path.parent}'}")
        elif not os.access(path.parent, os.W_OK):
            raise UsageError(f"--output {output}: may not write in {path.parent}")
        elif path.is_file() and path.suffix in (".db", ".sqlite"):
            database(output)
        elif resuming and path.is_file():
            raise UsageError(f"--output {output} exists and holds the part before --cursor: name another file")


def database(output: str) -> Any:
    """A SQLAlchemy engine for a database URL or an SQLite file. Raises UsageError when there is no way to connect."""
    import sqlalchemy

    try:
        file = sqlalchemy.URL.create("sqlite", database=output)
        engine = sqlalchemy.create_engine(output if "://" in output else file)
        sqlalchemy.inspect(engine).get_table_names()  # only who reads it sees whether an SQLite file is one
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        cure = "; `uv run --with DRIVER …` brings a driver" if isinstance(error, ImportError) else ""
        where = re.sub(r"//.*@", "//…@", output)  # a password may stand there
        raise UsageError(f"--output {where}: {str(error).splitlines()[0]}{cure}") from None
    return engine


def cell(value: Any) -> Any:
    """A value as one cell of a file: lists and dicts as JSON text; all else, NaN and NA too, as it is."""
    return to_json(value) if isinstance(value, list | dict) else value


def to_json(value: Any) -> str:
    """`value` as JSON on one line, readable, with every character that a terminal may obey escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def cut_to(most: int, text: str) -> str:
    """`text`, or what of it `most` characters hold and how long it was."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


def defused(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula (a leading ', as OWASP's "CSV Injection" has it), and no terminal
    for a command. Text alone can be either; numbers and dates stay as they are.
    """
    if not isinstance(value, str):
        return value
    # Half of Europe's spreadsheets, and LibreOffice's everywhere, begin a new cell at a semicolon as well.
    inner = re.sub(r";(?=[\s\"']*[=+\-@＝＋－＠])", ";'", value)
    # Full-width forms too: spreadsheets of East Asian locales take them. Blanks before the sign do not stop them.
    return ("'" if re.match(r"\s*[=+\-@\t\r\n＝＋－＠|%]", value) else "") + printable(inner)


def to_text(frame: pd.DataFrame, form: str, *, raw: bool = False) -> str:
    """The table as `table`, `csv`, `jsonl` or `markdown` text. `raw` leaves the cells of CSV as VirusTotal sent them.

    JSON lines leave out what an object lacks; dates are ISO 8601, UTC.
    """
    dates = frame.select_dtypes("datetimetz").columns
    style = "%Y-%m-%d %H:%M" if form == "table" else ISO
    frame = frame.assign(**{name: frame[name].dt.strftime(style) for name in dates}).astype(object)
    if form == "jsonl":
        rows = (row[row.notna()] for _, row in frame.iterrows())  # a list is not null, whatever is in it
        return "".join(f"{to_json(row.to_dict())}\n" for row in rows)
    if form == "table":
        return to_terminal(frame)
    cells = frame.map(cell)
    if form == "markdown":
        from tabulate import tabulate

        special = re.compile(r"([\\`*_\[\]<>|&~$#@]|:(?=//)|(?<=www)\.)", flags=re.IGNORECASE)  # no markup, no links

        def plain(value: Any) -> str:
            return special.sub(r"\\\1", cut_to(MOST_SHOWN, printable(value)))

        body = cells.where(cells.notna(), "").map(plain).to_numpy().tolist()
        return tabulate(body, [plain(name) for name in frame.columns], tablefmt="pipe", disable_numparse=True) + "\n"
    if not raw:
        cells = cells.map(defused).rename(columns=defused)
    return str(cells.to_csv(index=False, lineterminator="\n"))


def to_terminal(frame: pd.DataFrame) -> str:
    """The table, one line a row, as wide as the terminal (as it needs where there is none); wide columns give way."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def shown(value: Any) -> str:
        return cut_to(MOST_SHOWN, printable(", ".join(map(str, value)) if isinstance(value, list) else value))

    cells = frame.where(frame.notna(), "").map(shown)
    widths = {name: max([cell_len(name), *cells[name].map(cell_len)]) for name in cells}
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if room:
        # The first column, which tells most, gets half of the room at need (a hash, useless once cut, 16),
        # each other one 16, which a date takes.
        hashes = cells.iloc[:, 0].map(lambda text: bool(re.fullmatch("[0-9a-f]{64}", text))).all()
        least = {name: min(width, 16) for name, width in widths.items()}
        least |= {name: min(widths[name], 16 if hashes else room // 2) for name in list(widths)[:1]}
        while len(least) > 1 and sum(least.values()) + 2 * len(least) > room:
            least.popitem()  # the least telling stands last
        widths = {name: widths[name] for name in least}
        while sum(widths.values()) + 2 * len(widths) > room:
            widest = max(widths, key=lambda name: widths[name] - least[name])
            widths[widest] -= 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, width in widths.items():
        number = frame[name].dropna().map(lambda value: isinstance(value, int | float)).all()
        table.add_column(
            Text(printable(name)), width=width, no_wrap=True, overflow="ellipsis", justify="right" if number else "left"
        )
    for values in cells[list(widths)].itertuples(index=False):
        table.add_row(*(Text(value) for value in values))
    text = io.StringIO()
    Console(file=text, width=room or sum(widths.values()) + 2 * len(widths), color_system=None).print(table)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def deliver(
    frame: pd.DataFrame,
    view: pd.DataFrame,
    outputs: list[str],
    form: TableFormat | None,
    *,
    raw: bool = False,
    table: str = "virustotal",
    below: str = "",
) -> BaseException | None:
    """Writes the `outputs`, then prints the `form` (a table with `below` under it, unless there are outputs).

    What people read, a terminal or a Markdown page, gets `view`, the telling columns; what programs read gets all.
    Returns what could not be written, as `write` does.
    """
    pages = [output for output in outputs if output.endswith(".md")]
    failed = write(frame, [output for output in outputs if output not in pages], raw=raw, table=table)
    failed = write(view, pages) or failed
    form = form or (None if outputs else TableFormat.table)
    text = ""
    if form == TableFormat.table:
        text = to_text(view, form) + below if len(frame) else ""
    elif form:
        wanted = view if form == TableFormat.markdown else frame
        text = to_text(wanted, form, raw=raw and not sys.stdout.isatty())
    return show(text, lambda: frame) or failed


def show(text: str, frame: Callable[[], pd.DataFrame]) -> BaseException | None:
    """Prints `text`. Returns None, or what kept it from that and where the rows of `frame()` are kept instead."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # what could not be written would be tried again at exit
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return kept_elsewhere(frame(), f"cannot write to stdout: {error.strerror}")
    return None


def write(
    frame: pd.DataFrame, outputs: Iterable[str], *, raw: bool = False, table: str = "virustotal"
) -> BaseException | None:
    """The table into each output: a file whose suffix says the format, a database's `table` (rows are added to it).

    Returns None, or what could not be written and where its rows are kept instead: they cost quota.
    """
    reasons = []
    for output in outputs:
        try:
            write_one(frame, output, raw=raw, table=table)
        except KeyboardInterrupt:
            return kept_elsewhere(frame, "interrupted", KeyboardInterrupt)
        except Exception as error:  # whatever the library, the database or the disk says
            cause: BaseException = error
            while cause.__cause__:  # the outer ones quote whole statements
                cause = cause.__cause__
            where, why = re.sub("//.*@", "//…@", output), str(cause).partition("\n")[0]
            reasons.append(f"cannot write {where}: {why}")
    return kept_elsewhere(frame, "; ".join(reasons)) if reasons else None


def kept_elsewhere(
    frame: pd.DataFrame, reason: str, kind: type[OSError | KeyboardInterrupt] = OSError
) -> OSError | KeyboardInterrupt:
    """Writes the rows, which cost quota, into the temporary folder; the `reason` for that, with the file's name."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl", prefix="vt-", delete=False) as kept:
        kept.write(to_text(frame, "jsonl"))
    return kind(f"{reason}; the rows are kept in {kept.name}")


def write_one(frame: pd.DataFrame, output: str, *, raw: bool, table: str) -> None:
    """See `write`. Raises whatever pandas and its engines raise."""
    path = Path(output)
    if "://" in output or path.suffix in (".db", ".sqlite"):
        add_rows(frame, database(output), table)
        return
    with whole_file(path) as part:
        if path.suffix == ".parquet":
            to_parquet(frame, part)
        elif path.suffix == ".xlsx":
            to_xlsx(frame, part, raw=raw)
        else:
            form = "markdown" if path.suffix == ".md" else path.suffix[1:]
            part.write_text(to_text(frame, form, raw=raw), encoding="utf-8", newline="")


def add_rows(frame: pd.DataFrame, engine: Any, table: str) -> None:
    """Adds the rows to a database's table, in one transaction, and the columns that the table lacks."""
    import sqlalchemy

    longest = engine.dialect.max_identifier_length  # PostgreSQL: 63 bytes
    fold = str if engine.dialect.name == "postgresql" else str.lower  # others do not tell names by case
    names: dict[str, str] = {}
    for name in frame.columns:
        label = printable(name) or "unnamed"  # no database takes NUL for a name, or none at all
        if len(label.encode()) > longest or fold(label) in map(fold, names.values()):
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            label = f"{label.encode()[: longest - 9].decode(errors='ignore')}_{digest}"
        names[name] = label

    def storable(value: Any) -> Any:
        value = cell(value)
        if isinstance(value, int) and abs(value) >= 1 << 63:  # no database's integer holds it
            return str(value)
        return value.replace("\0", "\\x00") if isinstance(value, str) else value  # PostgreSQL's text holds no NUL

    def sql_type(values: pd.Series[Any]) -> Any:
        kind = str(values.dtype).lower()  # Int64 or int64
        kinds = {"int64": sqlalchemy.BigInteger(), "float64": sqlalchemy.Float(53), "boolean": sqlalchemy.Boolean()}
        dated = kind.startswith("datetime64")
        return sqlalchemy.TIMESTAMP(timezone=True) if dated else kinds.get(kind, sqlalchemy.Text())

    frame = frame.rename(columns=names)
    types = {name: sql_type(frame[name]) for name in frame}
    texts = [name for name, of in types.items() if isinstance(of, sqlalchemy.Text)]
    frame = frame.assign(**{name: frame[name].astype(object).map(storable) for name in texts})
    if frame.empty:
        return
    with engine.begin() as connection:
        inspector = sqlalchemy.inspect(connection)
        if inspector.has_table(table):
            known = {fold(column["name"]) for column in inspector.get_columns(table)}
            quote = connection.dialect.identifier_preparer.quote
            for name in (name for name in frame.columns if fold(name) not in known):
                column = f"{quote(name)} {types[name].compile(connection.dialect)}"
                statement = f"ALTER TABLE {quote(table)} ADD COLUMN {column}".replace(":", r"\:")
                connection.execute(sqlalchemy.text(statement))
        frame.to_sql(table, connection, if_exists="append", index=False, dtype=types)


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    """The table as Parquet; a column whose values have no common type becomes JSON text."""
    import pyarrow as pa

    def of_one_type(values: pd.Series[Any]) -> pd.Series[Any]:
        try:
            odd = "struct<>" in str(pa.array(values, from_pandas=True).type)  # a dict without keys: Parquet has no such
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            odd = True
        return values.map(to_json, na_action="ignore") if odd else values

    frame.apply(of_one_type).to_parquet(path, index=False)


def to_xlsx(frame: pd.DataFrame, path: Path, *, raw: bool) -> None:
    """The table as a workbook: no formulas and no links but `raw`'s; a cell too long for Excel says what was cut."""
    import pandas as pd

    def shown(value: Any) -> Any:
        value = cell(value) if raw else defused(cell(value))
        # Microsoft: "Excel specifications and limits".
        return cut_to(32_767, value) if isinstance(value, str) else value

    dates = {name: frame[name].dt.tz_localize(None) for name in frame.select_dtypes("datetimetz").columns}  # UTC all
    sheet = frame.astype(object).map(shown).assign(**dates)
    options = {"options": {"strings_to_formulas": raw, "strings_to_urls": False, "nan_inf_to_errors": True}}
    packed = io.BytesIO()  # on a full disk zipfile complains even after its error was met
    with pd.ExcelWriter(packed, engine="xlsxwriter", engine_kwargs=options) as book:
        sheet = sheet if raw else sheet.rename(columns=defused)
        sheet.to_excel(book, index=False, freeze_panes=(1, 1), autofilter=True)
        book.sheets["Sheet1"].autofit(max_width=400)  # pixels
    path.write_bytes(packed.getbuffer())


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
