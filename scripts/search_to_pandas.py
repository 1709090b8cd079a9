#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "jsonpath-ng>=1.16,<2",
#     "pandas>=3,<4",
#     "pyarrow>=21,<27",
#     "rich>=14,<16",
#     "sqlalchemy>=2,<3",
#     "sqlite-utils>=4.2,<5",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "xlsxwriter>=3.2,<4",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What does a VirusTotal Intelligence search find? A table: on the terminal, in files, in a database, as a DataFrame.

Any entity: files, or what `entity:url`, `domain`, `ip` or `collection` in the query names. Needs a key with VirusTotal
Intelligence (premium). 300 objects cost one request.

    uv run scripts/search_to_pandas.py 'entity:file p:5+ tag:signed' --limit 300 -o signed.xlsx -o signed.db
    uv run scripts/search_to_pandas.py 'entity:url p:3+' --column url --column server=last_http_response_headers.server

In a notebook: `frame = await search_to_dataframe("entity:file p:5+")`.

Exit codes: 0 complete, 1 failed, 2 wrong usage, key or query, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import functools
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    import pandas as pd

# What is worth counting over all rows.
COUNTED = [
    "type_description",
    "popular_threat_classification.suggested_threat_label",
    "last_http_response_code",
    "title",
    "tld",
    "registrar",
    "country",
    "as_owner",
    "tags",
]


class SearchResult(NamedTuple):
    """The objects found, the cursor after them, how many match, the requests, and what ended the search early."""

    objects: list[dict[str, Any]]
    cursor: str | None
    total: int | None
    requests: int
    error: BaseException | None


async def search(
    query: str,
    columns: dict[str, str],
    *,
    limit: int,
    order: str | None,
    verdicts: bool,
    cursor: str | None,
    apikey: str | None,
    progress: Callable[[str], None] = lambda message: None,
) -> SearchResult:
    """Return up to `limit` objects (0: all), with what the `columns` need. Raises VirusTotalError if there is none.

    https://docs.virustotal.com/reference/intelligence-search
    """
    # Most of an object's size, and seldom wanted.
    wanted = verdicts or any(re.search(r"last_analysis_results|\.\.|\.\*", path) for path in columns.values())
    params = {"query": query, "order": order, "exclude_attributes": None if wanted else "last_analysis_results"}
    objects: list[dict[str, Any]] = []
    total, error = None, None
    async with VirusTotal(apikey) as client:
        try:
            async for page in client.pages("/intelligence/search", limit=limit, cursor=cursor, **params):
                objects += page.objects
                cursor, total = page.cursor, page.total
                progress(f"{len(objects)} of {limit or total or 'all'}")
        except (VirusTotalError, asyncio.CancelledError) as stopped:
            if not objects:
                raise
            error = stopped
        return SearchResult(objects, cursor if objects else None, total, client.requests, error)


async def search_to_dataframe(
    query: str,
    *,
    limit: int = 100,
    order: str | None = None,
    column: Iterable[str] = (),
    verdicts: bool = False,
    cursor: str | None = None,
    apikey: str | None = None,
) -> pd.DataFrame:
    """Return what a search finds as a table: one row for each object, dates as UTC timestamps.

    `limit` counts objects (0: all), `column` is as on the command line, `verdicts` adds those of each engine. If the
    search ends early, `attrs` says why ("error") and where to continue ("cursor"). Raises UsageError, VirusTotalError.
    """
    columns = parse_columns(as_list("column", column))
    found = await search(query, columns, limit=limit, order=order, verdicts=verdicts, cursor=cursor, apikey=apikey)
    frame = to_frame(found.objects, columns)
    frame.attrs = {
        "complete": not (found.error or found.cursor),
        "error": str(found.error) or "interrupted" if found.error else None,
        "cursor": found.cursor,
        "requests": found.requests,
    }
    return frame


def count_values(frame: pd.DataFrame, names: Iterable[str], most: int = 5) -> str:
    """Return a line for each of these columns in which values repeat: the `most` frequent values."""
    lines = [""]
    for name in (name for name in names if name in frame):
        values = [part for cell in frame[name].dropna() for part in (cell if isinstance(cell, list) else [cell])]
        counts = Counter(str(value) for value in values if not isinstance(value, dict | list)).most_common()
        if counts and counts[0][1] > 1:
            shown = ", ".join(f"{shorten(value, 100)} {count}" for value, count in counts[:most])
            more = f", {len(counts) - most} more" if len(counts) > most else ""
            lines.append(printable(f"{name}: {shown}{more}"))
    return "\n".join([*lines, ""]) if lines[1:] else ""


def main(
    query: Annotated[str, typer.Argument(help="As in VirusTotal Intelligence, in quotes.")],
    limit: Annotated[int, typer.Option(min=0, help="How many objects; 0: all.")] = 100,
    order: Annotated[str | None, typer.Option(help="Such as last_submission_date- or size+.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=JSONPATH, or a column's name such as pe_info.imphash; repeatable.")
    ] = None,
    verdicts: Annotated[bool, typer.Option("--verdicts", help="Include the verdict of each engine.")] = False,
    style: Annotated[
        TableFormat | None, typer.Option("--format", help="[default: table, unless there is an --output]")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", help=f"A file ({' '.join(SUFFIXES)}) or a database URL; repeatable."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not escape formulas and control characters.")] = False,
    cursor: Annotated[str | None, typer.Option(help="Resume an earlier run, into other files.")] = None,
    apikey: Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")] = None,
) -> int:
    """Search, then print or write the table."""
    from rich.console import Console

    columns, outputs = parse_columns(column or []), output or []
    check_outputs(outputs, resuming=bool(cursor))
    options: dict[str, Any] = {"limit": limit, "order": order, "verdicts": verdicts, "cursor": cursor, "apikey": apikey}
    with Console(stderr=True).status("searching") as status:
        found = asyncio.run(search(query, columns, **options, progress=status.update))
    objects, total = found.objects, found.total
    below = functools.partial(count_values, names=columns or COUNTED)
    error = write_table(objects, columns, outputs, style, raw=raw, below=below)
    of_total = f" of {total}" if total and found.cursor else ""
    done = f"{len(objects)}{of_total} {plural(len(objects), 'object').partition(' ')[2]}"
    return print_summary(done, found.requests, error=error or found.error, cursor=found.cursor)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import contextlib
import csv
import difflib
import email.utils
import io
import json
import math
import os
import random
import shlex
import shutil
import tempfile
import time
import tomllib
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal, TextIO

import aiohttp
import aiohttp.base_protocol
import aiolimiter
import tenacity
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


def plural(count: int, noun: str) -> str:
    """Return "1 match" or "2 matches"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"


def as_list(name: str, values: Iterable[str] | None) -> list[str]:
    """Return `values` as a list. Raises TypeError for a string, which would be taken for a list of its characters."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings: [{values!r}], not {values!r}")
    return list(values or [])


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


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
) -> int:
    """Print the last line and return the exit code.

    The line says what was `done`, how many requests it took, whether it is complete, and how to resume: at `cursor`, or
    with the option `resume`.
    `error` is what ended the work early (an exception), or what is missing (a sentence).
    """
    spent = done if requests is None else f"{done}, {plural(requests, 'request')}"
    resume = f"--cursor {shlex.quote(cursor)}" if cursor else resume
    if error is None:
        log(f"{spent}; there is more: --limit 0 for all, or continue with {resume}" if cursor else f"{spent}, complete")
        return 0
    reason = str(error) or "interrupted"
    log(f"INCOMPLETE: {spent}; {reason}" + (f"; resume with {resume}" if resume else ""))
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return 130
    if isinstance(error, OSError):
        return 1
    return 4 if getattr(error, "exit_code", 3) == 4 else 3


def cli(main: Callable[..., int] | typer.Typer, argv: list[str] | None = None) -> int:
    """Run `main`, a function or an app of commands, and return its exit code. The docstring of its file is the help.

    An expected error is one line on stderr. A pipe that its reader closed ends the script quietly.
    """
    if isinstance(main, typer.Typer):
        app = main
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        # \b keeps the lines of an indented example as they are.
        app.command(help=re.sub("\n\n(?= )", "\n\n\b\n", main.__globals__["__doc__"]))(main)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        command = typer.main.get_command(app)
        command.context_settings["help_option_names"] = ["-h", "--help"]
        # command.main() would end the process itself at a closed pipe.
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:] if argv is None else argv) as context:
            code: int = command.invoke(context) or 0
        sys.stdout.flush()
        return code
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
        return f"{self._host}/api/v3{path.format(*(urllib.parse.quote(str(arg), safe='') for arg in args))}"

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
            raise VirusTotalError("InvalidResponse", "the response is not JSON; is a proxy in the way?") from None

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


class dictpath:  # noqa: N801 - reads like the module of that name in vt-py's examples
    """JSONPath look-ups in plain dicts, with jsonpath-ng's extensions: `$.attributes.exiftool.'File Type'`.

    An absent key is no match; a null is a match whose value is None.
    """

    @staticmethod
    @functools.cache
    def parse(path: str) -> Any:
        """Return the parsed path. Raises ValueError."""
        from jsonpath_ng.ext import parse

        try:
            return parse(path)
        except Exception as error:  # the parser has no common class of errors
            raise ValueError(f"bad JSONPath {path!r}: {error}") from None

    @staticmethod
    def iterate(obj: Any, path: str) -> Iterator[Any]:
        """Yield each value that `path` matches in `obj`, in document order. Raises ValueError for a bad path."""
        parsed = dictpath.parse(path)
        try:
            yield from [match.value for match in parsed.find(obj)]
        except Exception:  # a filter or function met a value of another type, such as null > 5: no match
            return

    @staticmethod
    def get_all(obj: Any, path: str) -> list[Any]:
        """Return every value that `path` matches in `obj`."""
        return list(dictpath.iterate(obj, path))

    @staticmethod
    def get(obj: Any, path: str, default: Any = None) -> Any:
        """Return the value that `path` matches in `obj`, else `default`. Raises ValueError for several matches."""
        matches = dictpath.get_all(obj, path)
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} values match {path!r}: use get_all")
        return matches[0] if matches else default


TableFormat = Literal["table", "csv", "jsonl", "markdown"]  # what stdout gets

SUFFIXES = (".csv", ".jsonl", ".md", ".parquet", ".xlsx", ".db", ".sqlite")

KEYS = ["id", "rule_name", "notification_id"]  # tell a database's rows apart

# The first columns of every table, most useful first. The others follow in alphabetical order.
USEFUL = [
    "lookup", "id", "url", "value", "type", "error.code", "rule_name", "last_analysis_stats.malicious",
    "gti_assessment.verdict.value", "gti_assessment.threat_score.value", "meaningful_name", "name", "title",
    "popular_threat_classification.suggested_threat_label", "type_description", "size", "registrar", "country", "asn",
    "as_owner", "last_http_response_code", "first_submission_date", "last_submission_date", "creation_date",
    "last_modification_date", "notification_date", "tags",
]  # fmt: skip

# Dicts with arbitrary keys are one cell each; as columns they would be thousands.
ARBITRARY = {
    "categories", "exiftool", "extensions", "file_types", "html_meta", "intent_filters", "last_analysis_results",
    "last_http_response_cookies", "last_http_response_headers", "malware_config", "packers", "permission_details",
    "popularity_ranks", "rdap", "resource_langs", "resource_types", "sandbox_verdicts", "sigma_analysis_summary",
    "trackers",
}  # fmt: skip


def parse_columns(specs: Iterable[str]) -> dict[str, str]:
    """Return `--column` arguments, `NAME=PATH` or `PATH`, as {name: path}. Raises UsageError.

    A path is a JSONPath in the object (`$.attributes.tags[*]`), or the name of a column, such as pe_info.imphash.
    """
    columns: dict[str, str] = {}
    for spec in specs:
        named = re.fullmatch(r"([^$=\[]+)=(.+)", spec, flags=re.DOTALL)
        name, path = named.groups() if named else (spec, spec)
        if not path.startswith("$"):  # some keys contain spaces and hyphens
            path = re.sub(r"(^|\.)([^.\[\]*'\"]+)(?=$|[.\[])", r"\1'\2'", path)
        if name in columns:
            raise UsageError(f"--column {spec}: there is a column {name} already; NAME=PATH gives it another name")
        try:
            dictpath.parse(path)
        except ValueError as error:
            raise UsageError(f"--column {spec}: {error}") from None
        columns[name] = path
    return columns


def fields(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object's values by the names that columns have: its attributes, id and type, and what else it holds.

    Context attributes that identify it stand beside the attributes. A dict without attributes is a row as it is.
    """
    attributes, context = item.get("attributes"), item.get("context_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    unused = ("attributes", "links", "relationships") if "id" in item else ("attributes",)
    rest = {key: value for key, value in item.items() if key not in unused}
    if isinstance(context, dict):
        names = ("url", "rule_name", "notification_id", "notification_date")
        hoisted = {key: value for key, value in context.items() if key in names and key not in attributes}
        rest |= hoisted | {"context_attributes": {k: v for k, v in context.items() if k not in hoisted}}
    clashing = {key: value for key, value in attributes.items() if key in rest and value != rest[key]}
    return attributes | rest | {"attributes": clashing}  # an attribute may be called `type`


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for every value below dicts whose keys are known."""
    for key, inner in value.items():
        if isinstance(inner, dict) and key not in ARBITRARY:
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield replace_surrogates(f"{prefix}{key}"), inner


def to_frame(objects: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return the objects as a table, one row each, with these `columns` (see parse_columns) or, if empty, with all.

    Dates are UTC timestamps, integers stay integers where some are missing, lists stay lists. Mixed values are text.
    """
    import pandas as pd

    if columns:
        return pd.DataFrame({name: find_column(objects, name, path) for name, path in columns.items()})
    rows = [dict(flatten(fields(item))) for item in objects] or [{"id": None, "type": None}]
    names = set().union(*rows)
    ordered = [*(name for name in USEFUL if name in names), *sorted(names.difference(USEFUL))]
    return pd.DataFrame({name: to_series([row.get(name) for row in rows], name) for name in ordered})[: len(objects)]


def find_column(objects: list[dict[str, Any]], name: str, path: str) -> pd.Series[Any]:
    """Return what `path` matches in each object: a value, or lists if several match in any object."""
    found = [dictpath.get_all(item if path.startswith("$") else fields(item), path) for item in objects]
    if objects and not any(found):
        log(f"--column {name}: no object has a value there")
    if any(len(values) > 1 for values in found):
        return to_series([values or None for values in found], "")
    return to_series([next(iter(values), None) for values in found], path)


def to_series(values: list[Any], name: str) -> pd.Series[Any]:
    """Return the values as a column of one type."""
    import pandas as pd

    if re.search(r"(_date|\b(date|last_login|user_since))'?$", name):  # vt-py's rule
        values = [to_date(value) for value in values]
    values = [replace_surrogates(value) for value in values]
    # Numbers that Arrow and JSON cannot hold, such as 1e999.
    large = {str for value in values if isinstance(value, int | float) and abs(value) >= 1 << 63}
    kinds = {type(value) for value in values if value is not None} | large
    kinds = {float} if kinds == {int, float} else kinds
    if len(kinds) > 1:
        values, kinds = [None if value is None else to_text(value) for value in values], {str}
    dtypes = {int: "Int64", float: "Float64", bool: "boolean", str: "str", datetime: "datetime64[us, UTC]"}
    return pd.Series(values, dtype=dtypes.get(kinds.pop(), "object") if kinds else "object")


def to_date(value: Any) -> Any:
    """Return UNIX seconds as a datetime. Dates that are text or past the year 9999 stay as they are."""
    valid = type(value) is int and 0 <= value < 253_402_300_800
    return datetime.fromtimestamp(value, UTC) if valid else value


def replace_surrogates(value: Any) -> Any:
    """Return a value with its lone surrogates replaced by U+FFFD: pandas raises on them."""
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False)
        return value if text.isascii() else json.loads(replace_surrogates(text))
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


def to_text(value: Any) -> str:
    """Return text as it is, a date as ISO 8601, everything else as JSON."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- A table to text. Its strings come from malware authors.


def to_rows(frame: pd.DataFrame) -> list[list[Any]]:
    """Return the column names, then each row, as plain Python values: None where one is missing."""
    values = frame.astype(object)
    return [list(frame), *values.where(values.notna(), None).to_numpy().tolist()]


def format_frame(frame: pd.DataFrame, style: str, *, raw: bool = False) -> str:
    """Return the table as csv, jsonl or markdown. Cells of csv are safe for spreadsheets unless `raw`."""
    rows = [[to_text(value) if isinstance(value, datetime) else value for value in row] for row in to_rows(frame)]
    if style == "jsonl":
        items = [{k: v for k, v in zip(frame, row, strict=True) if v is not None} for row in rows[1:]]
        return "".join(f"{json.dumps(item)}\n" for item in items)
    if style == "markdown":
        cells = [[escape_markdown(value) for value in row] for row in rows]
        return "".join(f"| {' | '.join(row)} |\n" for row in (cells[0], ["---"] * len(cells[0]), *cells[1:]))
    text = io.StringIO()
    # QUOTE_MINIMAL leaves a carriage return unquoted.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if raw else csv.QUOTE_MINIMAL)
    writer.writerows([to_cell(value, raw) for value in row] for row in rows)
    return text.getvalue()


def to_cell(value: Any, raw: bool = False) -> Any:
    """Return a value for a spreadsheet: text that could be a formula gets a leading ', control characters are escaped.

    https://owasp.org/www-community/attacks/CSV_Injection. Some locales start a cell at a semicolon, or accept
    full-width signs.
    """
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    text = to_text(value)
    if not raw:
        formula = r"[\s\"']*[=+\-@＝＋－＠]"
        text = printable(("'" if re.match(formula, text) else "") + re.sub(f";(?={formula})", ";'", text))
    return shorten(text, 32_767)  # Excel's limit


def escape_markdown(value: Any) -> str:
    """Return a value on one line, without markup or links."""
    text = "" if value is None else printable(shorten(to_text(value), 4_000))
    return re.sub(r"([\\`*_\[\]<>|&~$#@]|:(?=//)|(?<=www)\.)", r"\\\1", text, flags=re.IGNORECASE)


def shorten(text: str, most: int) -> str:
    """Return the text, or as much of it as `most` characters hold, and its length."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


def select_useful(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what people look at first: the useful columns that have values, under short names."""
    names = [name for name in frame if name in USEFUL and frame[name].notna().any()]
    if "type" in names and frame["type"].nunique() == 1:
        names.remove("type")
    frame = frame[names] if len(names) > 2 else frame.dropna(axis="columns", how="all")
    if {"id", "url"} <= set(frame):  # a URL says more than its hash
        frame = frame.assign(url=frame["url"].astype(object).fillna(frame["id"])).drop(columns="id")
    long = r"^(popular_threat_classification\.|last_analysis_stats\.|gti_assessment\.|last_http_)|\.value$"
    return frame.rename(columns=lambda name: re.sub(long, "", name))


def format_columns(rows: list[list[Any]]) -> str:
    """Return one line for each row. A terminal gets the columns that fit, a pipe all columns in full."""
    from rich.cells import cell_len, set_cell_size

    def show(value: Any) -> str:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%d %H:%M}"
        parts = value if isinstance(value, list) else [] if value is None else [value]
        return printable(shorten(", ".join(map(to_text, parts)), 4_000))

    def pad(text: str, width: int) -> str:
        return set_cell_size(text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…", width)

    cells = [[show(value) for value in row] for row in rows if len(rows) > 1]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = fit_widths(widths, shutil.get_terminal_size().columns)
    return "".join(f"{'  '.join(map(pad, row, widths)).rstrip()}\n" for row in cells)


def fit_widths(widths: list[int], room: int) -> list[int]:
    """Return the widths of the first columns that fit in `room`. Wide columns give way, down to the 16 of a date.

    The first column, an id, is whole from 100 characters on. Below, a cut hash is useless, a cut URL is not.
    """
    first = 64 if room >= 100 else 16 if widths[:1] == [64] else room // 2
    fitted = [min(width, 16 if number else first) for number, width in enumerate(widths)]
    while len(fitted) > 1 and sum(fitted) + 2 * len(fitted) - 2 > room:
        fitted.pop()
    for number in [*range(1, len(fitted)), 0][: len(fitted)]:
        spare = room - sum(fitted) - 2 * len(fitted) + 2
        fitted[number] += max(0, min(spare, widths[number] - fitted[number]))
    return fitted


# ---- A table to files and databases


def check_outputs(outputs: Iterable[str], *, resuming: bool = False) -> None:
    """Raise UsageError for what would otherwise fail after the quota is spent.

    `resuming`: a file that exists is refused, because it holds the part before the cursor. Databases are added to.
    """
    for output in outputs:
        path, suffix = Path(output), Path(output).suffix.lower()
        if "://" in output:
            connect(output)
        elif suffix not in SUFFIXES:
            raise UsageError(f"--output {output}: expected a database URL or a file in {' '.join(SUFFIXES)}")
        elif path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--output {output}: this is a folder, or its folder cannot be written to")
        elif suffix in (".db", ".sqlite"):
            if path.exists() and path.open("rb").read(15) not in (b"", b"SQLite format 3"):
                raise UsageError(f"--output {output}: the file is not an SQLite database")
        elif resuming and path.exists():
            raise UsageError(f"--output {output} holds the part before --cursor: name another file")


def connect(url: str) -> Any:
    """Return a SQLAlchemy engine that has reached the database. Raises UsageError."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        hint = "; `uv run --with DRIVER …` adds a driver" if isinstance(error, ImportError) else ""
        raise UsageError(f"--output {explain(url, error)}{hint}") from None
    return engine


def explain(output: str, error: BaseException) -> str:
    """Return the first line of what a library says about an output, without the password of a database."""
    return f"{re.sub('//.*@', '//…@', output)}: {str(error).partition(chr(10))[0] or type(error).__name__}"


def write_table(
    objects: list[dict[str, Any]],
    columns: dict[str, str],
    outputs: list[str],
    style: TableFormat | None = None,
    *,
    raw: bool = False,
    below: Callable[[pd.DataFrame], str] = lambda frame: "",
) -> BaseException | None:
    """Write the objects as a table to each output, and to stdout if there is a `style` or no output. Return the error.

    The objects have cost quota: after an error they are in a temporary file, which its message names. `below` returns
    the lines below a table.
    """
    output = "the table"
    try:
        frame = to_frame(objects, columns)
        for output in outputs:
            write_output(frame, objects, output, raw=raw)
        output = "stdout"
        if style not in (None, "table"):
            print(format_frame(frame, style, raw=raw and not sys.stdout.isatty()), end="")
        elif style or not outputs:
            print(format_columns(to_rows(frame if columns else select_useful(frame))) + below(frame), end="")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # whatever a library, a database or the disk says
        if output == "stdout":
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # Python flushes again at exit
        descriptor, saved = tempfile.mkstemp(prefix="vt-", suffix=".jsonl")
        with open(descriptor, "w", encoding="utf-8") as file:
            write_objects(objects, file, Format.jsonl)
        kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
        return kind(f"cannot write {explain(output, error)}; the objects are saved in {saved}")
    return None


def write_output(frame: pd.DataFrame, objects: list[dict[str, Any]], output: str, *, raw: bool) -> None:
    """Write a file in the format of its suffix, or add to a database."""
    path, suffix = Path(output), Path(output).suffix.lower()
    if "://" in output:
        append_to_server(frame, objects, output)
    elif suffix in (".db", ".sqlite"):
        update_sqlite(frame, objects, path)
    else:
        with atomic_write(path) as part:
            if suffix == ".parquet":
                write_parquet(frame, part)
            elif suffix == ".xlsx":
                write_xlsx(frame, part, raw=raw)
            else:
                style = "markdown" if suffix == ".md" else suffix[1:]
                part.write_text(format_frame(frame, style, raw=raw), encoding="utf-8", newline="")


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet. Lists of strings stay lists; other lists, and dicts, become JSON."""
    frame = frame.copy()
    for name in frame.columns[frame.dtypes == "object"]:
        cells = frame[name].dropna()
        if not all(isinstance(cell, list) and all(isinstance(part, str) for part in cell) for cell in cells):
            frame[name] = frame[name].map(to_text, na_action="ignore")
    frame.to_parquet(path, index=False)


def write_xlsx(frame: pd.DataFrame, path: Path, *, raw: bool) -> None:
    """Write an Excel workbook without formulas and links. Its times are UTC."""
    import xlsxwriter  # type: ignore[import-untyped]

    if len(frame) >= 1 << 20 or len(frame.columns) > 1 << 14:
        raise ValueError("Excel holds 1,048,575 rows and 16,384 columns; .csv and .parquet hold more")
    options = {"strings_to_formulas": False, "strings_to_urls": False, "remove_timezone": True}
    packed = io.BytesIO()  # on a full disk, zipfile prints a second error
    with xlsxwriter.Workbook(packed, options | {"default_date_format": "yyyy-mm-dd hh:mm:ss"}) as book:
        sheet = book.add_worksheet()
        cells = [[to_cell(value, raw) for value in row] for row in to_rows(frame)]
        for number, row in enumerate(cells):
            sheet.write_row(number, 0, row)
        for number, column in enumerate(zip(*cells, strict=True)):  # its autofit() takes longer than all the rest
            sheet.set_column(number, number, min(64, 2 + max(len(str(cell)) for cell in column)))
        sheet.freeze_panes(1, 1)
        sheet.autofilter(0, 0, len(frame), max(0, len(frame.columns) - 1))
    path.write_bytes(packed.getbuffer())


def split_by_type(frame: pd.DataFrame, objects: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], pd.DataFrame]]:
    """Yield the tables of a database, one for each type of object: name, key columns, rows. Raises ValueError.

    The keys are stored whatever the chosen columns are. Names of columns differ not only in case.
    """
    import pandas as pd

    values = [{"id": item.get("value")} | fields(item) for item in objects]  # an indicator has no id
    keys = [{name: str(value.get(name) or "") for name in KEYS} for value in values]
    if not all(key["id"] for key in keys):
        raise ValueError("a row has no id, by which databases tell rows apart; .csv and .parquet need none")
    types = [str(value.get("type") or "object") for value in values]
    for kind in dict.fromkeys(types):
        numbers = [number for number, name in enumerate(types) if name == kind]
        part = pd.DataFrame([keys[number] for number in numbers], index=numbers)
        part = part.loc[:, (part != "").any()]
        names = list(part)
        part = part.join(frame.iloc[numbers].dropna(axis="columns", how="all").drop(columns=KEYS, errors="ignore"))
        if len(part.columns) > 900:  # sqlite-utils takes 999, MySQL 1,017
            raise ValueError(f"{len(part.columns)} columns are too many for a database: choose some with --column")
        yield kind, names, part.set_axis(make_distinct(part.columns), axis="columns")


def make_distinct(names: Iterable[str]) -> list[str]:
    """Return names that differ not only in case, which databases ignore."""
    seen, distinct = Counter[str](), []
    for name in (printable(name) or "unnamed" for name in names):
        seen[name.lower()] += 1
        distinct.append(name if seen[name.lower()] == 1 else f"{name}_{seen[name.lower()]}")
    return distinct


def to_stored(value: Any) -> Any:
    """Return a value for a database: lists and dicts as JSON, dates as ISO 8601, no NUL (PostgreSQL refuses it)."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return to_text(value).replace("\0", "\ufffd")


def update_sqlite(frame: pd.DataFrame, objects: list[dict[str, Any]], path: Path) -> None:
    """Insert the rows, or update those whose key is there. Raises ValueError for a table without that key."""
    import sqlite_utils

    tables = list(split_by_type(frame, objects))
    with contextlib.closing(sqlite_utils.Database(path)) as database, database.atomic():
        for kind, keys, part in tables:
            table = database.table(kind)
            primary = table.pks if table.exists() else keys
            if not set(keys) <= set(primary) <= set(KEYS):
                raise ValueError(f"the table {kind} has the primary key {primary}, not {keys}: name another file")
            names, *rows = to_rows(part)
            blank = dict.fromkeys(primary, "")
            records = [blank | dict(zip(names, map(to_stored, row), strict=True)) for row in rows]
            table.upsert_all(records, pk=primary, alter=True)


def append_to_server(frame: pd.DataFrame, objects: list[dict[str, Any]], url: str) -> None:
    """Append the rows to the tables of a database server. Columns that a table lacks are left out, and named."""
    import sqlalchemy

    with connect(url).begin() as connection:
        for kind, _, part in split_by_type(frame, objects):
            inspector = sqlalchemy.inspect(connection)
            if inspector.has_table(kind):
                known = {column["name"] for column in inspector.get_columns(kind)}
                if lacking := [name for name in part if name not in known]:
                    log(f"the table {kind} lacks these columns, which are left out: {', '.join(lacking)}")
                    part = part.drop(columns=lacking)
            for name in part.select_dtypes(["object", "str"]):
                part[name] = part[name].map(to_stored, na_action="ignore")
            part.to_sql(kind, connection, if_exists="append", index=False)


# [[[end]]]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # stops as Ctrl-C does
    sys.exit(cli(main))
