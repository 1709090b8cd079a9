#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "aiostream>=0.8,<0.9",
#     "ioc-fanger>=5.1,<6",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What does VirusTotal know about these indicators? Look up hashes, domains, IP addresses and URLs, defanged or not.

Each object is printed as VirusTotal sent it, plus the key `lookup`: the indicator. One that VirusTotal does not know is
an object with an `error`. Any key will do. One indicator costs one request; --relationship adds one for each 40 related
objects, which come before the object itself.

    uv run scripts/lookup.py evil.example 'hxxp://192.0.2[.]7/a' 44d88612fea8a8f36de82e1278abb02f
    VT_RATE=4 uv run scripts/lookup.py --file iocs.txt -o answers.jsonl --resume

The output file is the checkpoint: with --resume, only what it lacks is requested. So a free key (VT_RATE=4) stops after
its 500 requests a day, and the same command continues tomorrow.

Exit codes: 0 complete, 1 failed, 2 wrong usage or key, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import ipaddress
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO

import aiostream
import ioc_fanger
import typer
import vt
import yarl

PATHS = {"file": "/files/{}", "domain": "/domains/{}", "ip_address": "/ip_addresses/{}", "url": "/urls/{}"}
# What VirusTotal says of an indicator that it does not know, or that is not a valid domain. Other errors are failures.
ANSWERS = ("NotFoundError", "InvalidArgumentError", "BadRequestError")

Objects = AsyncIterator[dict[str, Any]]


class Indicator(NamedTuple):
    """A type of object, and the normalised value that is `lookup` in the output."""

    type: str
    value: str

    @property
    def id(self) -> str:
        """The identifier in VirusTotal's paths: https://docs.virustotal.com/reference/url."""
        return vt.url_id(self.value) if self.type == "url" else self.value


# Extraction libraries find indicators in prose, and lose some that stand alone: ioc-finder 9.4 and iocsearcher 3.1 drop
# evil.example, iocextract 1.16 all domains, and iocsearcher all IPv6. ioc-fanger is what ioc-finder refangs with. An
# entry is taken as it is first: refanging would turn a-dot-b.example into a.b.example.
def parse_indicator(text: str) -> Indicator:
    """Return the indicator that `text` is, defanged or not. Raises ValueError."""
    with contextlib.suppress(ValueError):
        return classify(text)
    return classify(ioc_fanger.fang(text))


def classify(text: str) -> Indicator:
    """Return the indicator that `text` is. Raises ValueError."""
    if re.fullmatch("[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", text):
        return Indicator("file", text.lower())
    with contextlib.suppress(ValueError):  # yarl takes the end of an IPv6 address for a port
        return Indicator("ip_address", str(ipaddress.ip_address(text)))
    if re.match("(https?|ftp)://", text, re.IGNORECASE):
        parse_host(text)
        return Indicator("url", text)
    if re.search(r"\s", text):
        raise ValueError("more than one entry on a line")  # yarl would remove a tab
    host = parse_host(f"//{text}")
    if re.match(r"[^/]*@|[\d.]+/\d+$", text):
        raise ValueError("an e-mail address or a network")
    return Indicator("url", f"http://{text}") if re.search("[/?#]", text) else host


def parse_host(url: str) -> Indicator:
    """Return the IP address or domain in a URL, an internationalised name in ASCII. Raises ValueError."""
    host = (yarl.URL(url).raw_host or "").rstrip(".")
    with contextlib.suppress(ValueError):
        return Indicator("ip_address", str(ipaddress.ip_address(host)))
    if not re.fullmatch(r"(\w[\w-]*\.)+[a-z][\w-]+", host, re.ASCII):
        raise ValueError(f"not a domain: {host}")
    return Indicator("domain", host)


def read_indicators(arguments: Iterable[str], lines: Iterable[str] = ()) -> tuple[list[Indicator], list[str]]:
    """Return the indicators, each once, and a message for each bad entry. Empty lines and comments (#) are skipped."""
    entries = [(f"argument {number}", text) for number, text in enumerate(arguments, 1)]
    entries += [(f"line {number}", text) for number, text in enumerate(lines, 1)]
    indicators, bad = [], []
    for where, entry in entries:
        text = entry.strip().strip("\"',;")
        try:
            indicators += [parse_indicator(text)] if text and not text.startswith("#") else []
        except ValueError:
            bad.append(f"{where}: not one hash, domain, IP address or URL: {text[:200]}")
    return list(dict.fromkeys(indicators)), bad


async def find_relationships(client: VirusTotal, wanted: list[str]) -> dict[str, list[str]]:
    """Return which of the `wanted` relationships each type of object has. Raises UsageError for one that none has."""
    if not wanted:
        return {}
    listed = (await client.get_json_async("/metadata"))["data"]["relationships"]
    names = {kind: [entry["name"] for entry in listed.get(kind, [])] for kind in PATHS}
    for name in wanted:
        near = difflib.get_close_matches(name, itertools.chain(*names.values()), n=1)
        if near != [name]:
            hint = f"did you mean {near[0]}?" if near else "see https://docs.virustotal.com/reference/relationships"
            raise UsageError(f"{name} is not a relationship: {hint}")
    return {kind: [name for name in names[kind] if name in wanted] for kind in PATHS}


async def get_object(client: VirusTotal, indicator: Indicator, names: list[str]) -> dict[str, Any]:
    """Return an object, or an error item if VirusTotal does not know the indicator. Raises VirusTotalError."""
    params = {"relationships": ",".join(names)} if names else {}  # the first descriptors of each
    try:
        return (await client.get_json_async(PATHS[indicator.type], indicator.id, params=params))["data"]
    except VirusTotalError as error:
        if error.code not in ANSWERS or (error.status == 400 and names):  # it may refuse a relationship
            raise
        details = {"code": error.code, "message": error.message}
        return {"type": indicator.type, "id": indicator.value, "error": details}


async def get_objects(client: VirusTotal, names: dict[str, list[str]], limit: int, indicator: Indicator) -> Objects:
    """Yield the related objects, then the object itself or {"failed": VirusTotalError}; each with the key `lookup`."""
    key, path, related = {"lookup": indicator.value}, PATHS[indicator.type], names.get(indicator.type, [])
    try:
        item = await get_object(client, indicator, related)
        for name in related if "error" not in item else []:
            if item.get("relationships", {}).get(name, {}).get("data", "unknown"):  # none saves a request
                async for page in client.pages(f"{path}/{name}", indicator.id, limit=limit):
                    for found in page.objects:
                        yield key | {"relationship": name} | found
        yield key | item
    except VirusTotalError as error:
        yield key | {"failed": error}


async def lookup(
    indicators: Iterable[str],
    *,
    relationships: Iterable[str] = (),
    limit: int = 0,
    apikey: str | None = None,
    client: VirusTotal | None = None,
) -> Objects:
    """Yield what `get_objects` does, in the order of `indicators`, with up to `limit` related objects (0: all).

    An error that every look-up would meet is raised after those that are under way. Raises UsageError.
    """
    wanted, bad = read_indicators(as_list("indicators", indicators))
    if bad:
        raise UsageError("; ".join(bad))
    fatal: list[VirusTotalError] = []
    async with client or VirusTotal(apikey) as api:
        names = await find_relationships(api, as_list("relationships", relationships))
        todo = aiostream.stream.iterate(itertools.takewhile(lambda _: not fatal, wanted))
        get = functools.partial(get_objects, api, names, limit)
        at_once = 4 if names else 32  # 40 related objects may take 40 MB
        async with aiostream.stream.concatmap(todo, get, task_limit=at_once).stream() as items:
            async for item in items:
                error = item.get("failed")
                if error and is_fatal(api, error):
                    fatal.append(error)
                elif error:
                    log(f"{item['lookup']}: {error}")
                yield item
    if fatal:
        raise fatal[0]


def read_done(path: Path) -> set[str]:
    """Return the complete indicators of an output file; remove what kill -9 left of another. Raises UsageError."""
    done, end = set(), 0
    with open(path, "rb+") as file:
        while line := file.readline():
            if not b'{"lookup": "'.startswith(line[:12]):
                raise UsageError(f"{path} is not an output of lookup.py; nothing was changed")
            if line.endswith(b"\n") and "relationship" not in (item := json.loads(line)):
                done.add(item["lookup"])
                end = file.tell()
        file.truncate(end)
    return done


async def write_all(objects: Objects, file: TextIO, style: Format | None, counts: Counter[str]) -> None:
    """Write objects, and count the indicators that are answered and not found.

    The related objects of a failed look-up are removed again, if `file` is not stdout.
    """
    can_truncate = file is not sys.stdout
    end = file.tell() if can_truncate else 0
    async for item in objects:
        if "failed" not in item:
            write_objects([item], file, style)
        elif can_truncate:
            file.seek(end)
            file.truncate()
        if not item.keys() & {"failed", "relationship"}:
            counts.update({"answered": 1, "not found": int("error" in item)})
            end = file.tell() if can_truncate else 0


async def write_answers(
    objects: Objects, output: Path | None, resume: bool, style: Format | None
) -> tuple[Counter[str], BaseException | None]:
    """Return the counts of `write_all`, and the error that ended it early. Raises one before the first answer."""
    counts: Counter[str] = Counter()
    with open_lines(output, append=resume, option="--resume") as file:
        try:
            await write_all(objects, file, style, counts)
        except (VirusTotalError, OSError, asyncio.CancelledError) as error:
            if isinstance(error, BrokenPipeError) or not counts["answered"]:
                raise
            return counts, error
    return counts, None


async def main(
    indicators: Annotated[list[str] | None, typer.Argument(metavar="[IOC]...", help="Defanged or not.")] = None,
    file: Annotated[
        typer.FileText | None,
        typer.Option(encoding="utf-8-sig", errors="replace", help="A list, one indicator per line; -: stdin."),
    ] = None,
    relationship: Annotated[list[str] | None, typer.Option(help="Also what is related, by name. Repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many objects of each relationship; 0: all.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A JSON Lines file instead of stdout.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Look up only what --output lacks.")] = False,
    style: Annotated[Format | None, typer.Option("--format", help="[default: text on a terminal, else jsonl]")] = None,
    apikey: Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")] = None,
) -> int:
    """Look up what the output lacks, and write the answers in the order of the input."""
    if resume and not output:
        raise UsageError("--resume needs --output")
    if indicators and Path(indicators[0]).is_file():
        raise UsageError(f"{indicators[0]} is a file: look up its lines with --file {indicators[0]}")
    wanted, bad = read_indicators(indicators or [], file or [])
    for message in bad:
        log(message)
    if not wanted and not file:
        raise UsageError("no indicator to look up: name one, or a --file with one per line")
    done = read_done(output) if resume and output and output.exists() else set()
    todo = [indicator.value for indicator in wanted if indicator.value not in done]

    client = VirusTotal(apikey)
    objects = lookup(todo, relationships=relationship or [], limit=limit, client=client)
    counts, error = await write_answers(objects, output, resume, style)
    missing = len(todo) - counts["answered"]
    summary = f"{len(wanted) - missing} of {plural(len(wanted), 'indicator')}, {counts['not found']} not found"
    if relationship and limit:
        summary += f", at most {plural(limit, 'object')} of each relationship"
    gap = "what is missing is listed above" if missing or bad else None
    again = f"the same command{'' if resume else ' and --resume'}" if output and missing else ""
    return print_summary(summary, client.requests, error=error or gap, resume=again)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import email.utils
import math
import mmap
import os
import random
import shlex
import signal
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NoReturn

import aiohttp
import aiohttp.base_protocol
import aiolimiter
import tenacity


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


def as_list(name: str, values: Iterable[str] | None) -> list[str]:
    """Return `values` as a list. Raises TypeError for a string, which would be taken for a list of its characters."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings: [{values!r}], not {values!r}")
    return list(values or [])


class Format(StrEnum):
    """What a source prints: a short line per object for people, or the object as JSON for programs."""

    text = "text"
    jsonl = "jsonl"


def describe(item: dict[str, Any]) -> str:
    """Return an object as one line for a terminal: id (a URL's address), detections, name."""
    attributes, context = item.get("attributes") or {}, item.get("context_attributes") or {}
    stats = attributes.get("last_analysis_stats") or {}
    names = [attributes.get(key) for key in ("meaningful_name", "name", "title", "as_owner", "registrar", "status")]
    error = item.get("error") or {}
    url = context.get("url") or attributes.get("url")  # a search has answered a list of one
    parts = [
        (url[0] if isinstance(url, list) else url) or item.get("id"),
        f"{stats.get('malicious', 0)}/{sum(stats.values())}" if stats else "",
        context.get("rule_name") or (context.get("hunting_info") or {}).get("rule_name"),
        next(filter(None, names), ""),
        f"{error.get('code')}: {error.get('message')}" if error else "",
    ]
    return printable("  ".join(str(part) for part in parts if part))


@contextlib.contextmanager
def open_lines(path: Path | None, *, append: bool = False, option: str = "--cursor") -> Iterator[TextIO]:
    """Open stdout, or the file `path` for lines. A file that stays empty because of an error is removed.

    A file that exists is refused, unless `append`, for which the user gives `option`: then an incomplete last line is
    removed, and lines are added.
    Raises UsageError and OSError.
    """
    if path is None:
        yield sys.stdout
        return
    if append and path.exists():
        remove_incomplete_line(path)
    try:
        file = open(path, "a" if append else "x", encoding="utf-8", newline="\n")
    except FileExistsError:
        hint = f", or continue it with {option}" if option else ""
        raise UsageError(f"{path} exists: name another file{hint}") from None
    try:
        with file:
            yield file
    except BaseException:
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        raise


def remove_incomplete_line(path: Path) -> None:
    """Truncate the file after its last newline: kill -9 or a full disk may have left half a line. Raises OSError."""
    if path.stat().st_size:
        with open(path, "rb+") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                end = content.rfind(b"\n") + 1
            file.truncate(end)


def write_objects(objects: Iterable[dict[str, Any]], file: TextIO, style: Format | None = None) -> None:
    """Write one line for each object, and flush. Without `style`, a terminal gets text and everything else JSON.

    The JSON is ASCII, which neutralises terminal escapes and keeps lone surrogates.
    """
    as_text = style is Format.text or (style is None and file.isatty())
    for item in objects:
        file.write(f"{describe(item) if as_text else json.dumps(item)}\n")
    file.flush()


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


def run_script(main: Callable[..., Any] | typer.Typer) -> NoReturn:
    """Run `main` as a program. SIGTERM stops it as Ctrl-C does, also where a shell script's & has it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(cli(main))


def usage_hint(message: str) -> str:
    """Return typer's message on one line, with a near miss or a forgotten quote pointed out."""
    message = " ".join(message.replace("Value error, ", "").split())
    if " is not one of " in message:
        value, *choices = re.findall("'([^']*)'", message.partition(": ")[2])
        near = difflib.get_close_matches(value, choices, n=1)
        return f"{message} Did you mean {near[0]}?" if near else message
    return f"{message}: quote an argument that contains spaces" if "unexpected extra argument" in message else message


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


FATAL_STATUSES = (401, 403, 429)  # a refused key, a missing privilege, an exhausted quota


def is_fatal(client: VirusTotal, error: VirusTotalError, statuses: tuple[int, ...] = FATAL_STATUSES) -> bool:
    """Return whether every other request would fail, too: for one of these statuses, and where there is no network."""
    return error.status in statuses or not client.connected


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
