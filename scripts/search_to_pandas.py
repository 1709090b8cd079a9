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
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    import pandas as pd

# The columns whose most frequent values are printed below the table.
COUNTED = [
    "type_description", "popular_threat_classification.suggested_threat_label", "last_http_response_code", "title",
    "tld", "registrar", "country", "as_owner", "tags",
]  # fmt: skip


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
    found = SearchResult([], None, None, 0, None)
    async with VirusTotal(apikey) as client:
        try:
            async for page in client.pages("/intelligence/search", limit=limit, cursor=cursor, **params):
                found = SearchResult(found.objects + page.objects, page.cursor, page.total, client.requests, None)
                progress(f"{len(found.objects)} of {limit or page.total or 'all'}")
        except (VirusTotalError, asyncio.CancelledError) as error:
            if not found.objects:
                raise
            return found._replace(error=error, requests=client.requests)
        return found._replace(requests=client.requests)


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
    error = write_table(found.objects, columns, outputs, style, raw=raw, counted=columns or COUNTED)
    done = plural(len(found.objects), "object", found.total if found.cursor else None)
    return print_summary(done, found.requests, error=error or found.error, cursor=found.cursor)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import contextlib
import csv
import difflib
import email.utils
import functools
import io
import json
import math
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal, NoReturn, TextIO

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


class dictpath:  # noqa: N801 - reads like the module of that name in vt-py's examples
    """JSONPath look-ups in plain dicts, with jsonpath-ng's extensions: `$.attributes.exiftool.'File Type'`.

    An absent key is no match; a null is a match whose value is None.
    """

    @staticmethod
    @functools.cache
    def parse(path: str) -> Any:
        """Return the parsed path. Raises UsageError, a ValueError."""
        from jsonpath_ng.ext import parse

        try:
            return parse(path)
        except Exception as error:  # the parser has no common class of errors
            raise UsageError(f"bad JSONPath {path!r}: {error}") from None

    @staticmethod
    def iterate(obj: Any, path: str) -> Iterator[Any]:
        """Yield each value that `path` matches in `obj`, in document order. Raises UsageError for a bad path."""
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

MAX_CELL_CHARS = 32_767  # Excel's limit

# The first columns of every table, most useful first. The others follow in alphabetical order.
USEFUL = [
    "id", "url", "value", "lookup", "type", "error.code", "rule_name", "last_analysis_stats.malicious",
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
        dictpath.parse(path)
        columns[name] = path
    return columns


def fields(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object's values by column: its attributes, the context that identifies it, and what else it holds."""
    parts = [item.get("attributes"), item.get("context_attributes")]
    attributes, context = [part if isinstance(part, dict) else {} for part in parts]
    unused = ("attributes", "links", "relationships") if "id" in item else ("attributes",)
    hoisted = {"url", "rule_name", "notification_id", "notification_date"} - attributes.keys()
    rest = {key: value for key, value in item.items() if key not in unused}
    rest |= {key: value for key, value in context.items() if key in hoisted}
    rest["context_attributes"] = {key: value for key, value in context.items() if key not in hoisted}
    clashing = {key: value for key, value in attributes.items() if key in rest and value != rest[key]}
    return attributes | rest | {"attributes": clashing}  # an attribute may be called `type`


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for every value below dicts whose keys are known."""
    for key, inner in value.items():
        if isinstance(inner, dict) and key not in ARBITRARY:
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def to_frame(objects: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return the objects as a table, one row each, with these `columns` (see parse_columns) or, if empty, with all.

    Dates are UTC timestamps, integers stay integers where some are missing, lists stay lists. Mixed values are text.
    """
    import pandas as pd

    objects = make_storable(objects)
    if columns:
        return pd.DataFrame({name: find_column(objects, name, path) for name, path in columns.items()})
    rows = [dict(flatten(fields(item))) for item in objects] or [{"id": None, "type": None}]
    names = set().union(*rows)
    ordered = [*(name for name in USEFUL if name in names), *sorted(names.difference(USEFUL))]
    return pd.DataFrame({name: to_series([row.get(name) for row in rows], name) for name in ordered})[: len(objects)]


def make_storable(value: Any) -> Any:
    """Return a JSON value as pandas and Arrow can hold it: lone surrogates become U+FFFD, huge numbers text."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(value, ensure_ascii=False))
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 19 else digits, parse_constant=str)


def find_column(objects: list[dict[str, Any]], name: str, path: str) -> pd.Series[Any]:
    """Return what `path` matches in each object: a value, or lists if several match in any object."""
    found = [dictpath.get_all(item if path.startswith("$") else fields(item), path) for item in objects]
    if objects and not any(found):
        log(f"--column {name}: no object has a value there")
    if any(len(values) > 1 for values in found):
        return to_series([values or None for values in found], "")
    return to_series([next(iter(values), None) for values in found], path)


def to_series(values: list[Any], name: str) -> pd.Series[Any]:
    """Return the values as a column of one type: theirs, or text if they have several."""
    import pandas as pd

    if re.search(r"(_date|\b(date|last_login|user_since))'?$", name):  # vt-py's rule
        values = [to_date(value) for value in values]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        values, kinds = [None if value is None else to_text(value) for value in values], {str}
    dtypes = {float: "Float64", int: "Int64", bool: "boolean", str: "str", datetime: "datetime64[us, UTC]"}
    return pd.Series(values, dtype=next((dtype for kind, dtype in dtypes.items() if kind in kinds), "object"))


def to_date(value: Any) -> Any:
    """Return UNIX seconds as a datetime. Dates that are text or past the year 9999 stay as they are."""
    valid = type(value) is int and 0 <= value < 253_402_300_800
    return datetime.fromtimestamp(value, UTC) if valid else value


def to_text(value: Any) -> str:
    """Return text as it is, a date as ISO 8601, everything else as JSON."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- A table to text. Its strings come from malware authors.


def to_rows(frame: pd.DataFrame, date_format: str = "%Y-%m-%dT%H:%M:%SZ") -> list[list[Any]]:
    """Return the column names, then each row, as plain Python values: dates as text, None where a value is missing."""
    dates = {name: frame[name].dt.strftime(date_format) for name in frame.select_dtypes("datetimetz")}
    values = frame.assign(**dates).astype(object)
    return [list(frame), *values.where(values.notna(), None).to_numpy().tolist()]


def to_cell(value: Any, raw: bool = False) -> Any:
    """Return numbers and dates as they are; text, lists and dicts as text that is harmless in a spreadsheet."""
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    text = to_text(value)
    return shorten(text if raw else escape_formula(printable(text)), MAX_CELL_CHARS)


def escape_formula(text: str) -> str:
    """Return text with a ' before what could begin a formula: https://owasp.org/www-community/attacks/CSV_Injection."""
    # Some locales start a cell at a semicolon, or accept full-width signs.
    return re.sub(r"(^|;)(?=[\s\"']*[=+\-@＝＋－＠])", r"\1'", text)


def escape_markdown(value: Any) -> str:
    """Return a value on one line, without markup or links."""
    text = "" if value is None else str(to_cell(value))
    return re.sub(r"([\\`*_\[\]<>|&~$#@]|:(?=//)|(?<=www)\.)", r"\\\1", text, flags=re.IGNORECASE)


def shorten(text: str, most: int) -> str:
    """Return the text, or as much of it as `most` characters hold, and its length."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


def format_frame(frame: pd.DataFrame, style: str, *, raw: bool = False) -> str:
    """Return the table as csv, jsonl or markdown. Cells of csv are safe for spreadsheets unless `raw`."""
    rows = to_rows(frame)
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


def select_useful(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what people look at first: the useful columns that have values, under short names."""
    names = [name for name in frame if name in USEFUL and frame[name].notna().any()]
    if "type" in names and frame["type"].nunique() == 1:
        names.remove("type")
    frame = frame[names] if len(names) > 2 else frame.dropna(axis="columns", how="all")
    if {"id", "url"} <= set(frame):  # a URL says more than its hash
        frame = frame.assign(url=frame["url"].astype(object).fillna(frame["id"])).drop(columns="id")
    return frame.rename(columns=lambda name: name.removesuffix(".value").rpartition(".")[2].removeprefix("last_http_"))


def format_columns(frame: pd.DataFrame) -> str:
    """Return one line for each row. A terminal gets the columns that fit, a pipe all columns in full."""
    from rich.cells import cell_len, set_cell_size

    def fit(text: str, width: int) -> str:
        return set_cell_size(text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…", width)

    rows = to_rows(frame, "%Y-%m-%d %H:%M") if len(frame) else []
    cells = [[show(value) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = fit_widths(widths, shutil.get_terminal_size().columns)
    return "".join(f"{'  '.join(map(fit, row, widths)).rstrip()}\n" for row in cells)


def show(value: Any) -> str:
    """Return a value on one line, a list with commas."""
    parts = value if isinstance(value, list) else [] if value is None else [value]
    return printable(shorten(", ".join(map(to_text, parts)), 4_000))


def fit_widths(widths: list[int], room: int) -> list[int]:
    """Return the widths of the first columns that fit in `room`. The widest give way, but keep 16, for a date.

    The first column keeps 32, for a URL's host, or from 100 characters on 64, so that ids can be copied.
    """
    for most in range(room, 15, -1):
        first = max(most, 64 if room >= 100 else 32)
        fitted = [min(width, most if number else first) for number, width in enumerate(widths)]
        if sum(fitted) + 2 * len(fitted) - 2 <= room:
            return fitted
    return fit_widths(widths[:-1], room) if widths[1:] else [room]


def count_values(frame: pd.DataFrame, names: Iterable[str]) -> str:
    """Return a line with the five most frequent values of each of these columns, if any value repeats."""
    lines = [""]
    for name in [name for name in names if name in frame]:
        values = [part for cell in frame[name].dropna() for part in (cell if isinstance(cell, list) else [cell])]
        counts = Counter(str(value) for value in values if not isinstance(value, dict | list)).most_common()
        if counts and counts[0][1] > 1:
            top = ", ".join(f"{shorten(value, 100)} {count}" for value, count in counts[:5])
            lines.append(printable(f"{name}: {top}" + (f", {len(counts) - 5} more" if counts[5:] else "")))
    return "\n".join([*lines, ""]) if lines[1:] else ""


# ---- A table to files and databases


def check_outputs(outputs: Iterable[str], *, resuming: bool = False) -> None:
    """Raise UsageError for what would fail later, or overwrite the part before a cursor when `resuming`."""
    for output in outputs:
        path, suffix = Path(output), Path(output).suffix.lower()
        if "://" in output:
            connect(output)
        elif suffix not in SUFFIXES:
            raise UsageError(f"--output {output}: expected a database URL or a file in {' '.join(SUFFIXES)}")
        elif path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--output {output}: this is a folder, or its folder cannot be written to")
        elif resuming and path.exists() and suffix not in (".db", ".sqlite"):
            raise UsageError(f"--output {output} holds the part before --cursor: name another file")


def connect(url: str) -> Any:
    """Return a SQLAlchemy engine that has reached the database. Raises UsageError."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise UsageError(f"--output {explain(url, error)} (`uv run --with DRIVER …` adds a driver)") from None
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
    counted: Iterable[str] = (),
) -> BaseException | None:
    """Write the objects as a table to each output, and to stdout if there is a `style` or no output. Return the error.

    The values of the columns `counted` are counted below a table on stdout.
    """
    try:
        frame = to_frame(objects, columns)
        for output in outputs:
            write_output(frame, objects, output, raw=raw)
        if style == "table" or not (style or outputs):
            shown = frame if columns else select_useful(frame)
            print(format_columns(shown), count_values(frame, counted), sep="", end="", flush=True)
        elif style:
            print(format_frame(frame, style, raw=raw and not sys.stdout.isatty()), end="", flush=True)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return save_objects(objects, error)
    return None


def save_objects(objects: list[dict[str, Any]], error: BaseException) -> BaseException:
    """Save objects, which have cost quota, in a temporary file. Return the error, with the name of that file."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # Python flushes once more at exit, to a full disk
    descriptor, name = tempfile.mkstemp(prefix="vt-", suffix=".jsonl")
    with open(descriptor, "w", encoding="utf-8") as file:
        write_objects(objects, file, Format.jsonl)
    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    return kind(f"{str(error) or 'interrupted'}; the objects are saved in {name}")


def write_output(frame: pd.DataFrame, objects: list[dict[str, Any]], output: str, *, raw: bool = False) -> None:
    """Write a file in the format of its suffix, or add to a database. Raises OSError for whatever goes wrong."""
    suffix = Path(output).suffix.lower()
    try:
        if "://" in output:
            append_to_server(frame, objects, output)
        elif suffix in (".db", ".sqlite"):
            update_sqlite(frame, objects, output)
        else:
            with atomic_write(Path(output)) as part:
                part.write_bytes(make_file(frame, suffix, raw=raw))
    except Exception as error:  # whatever a library, a database or the disk says
        raise OSError(f"cannot write {explain(output, error)}") from error


def make_file(frame: pd.DataFrame, suffix: str, *, raw: bool) -> bytes:
    """Return the content of a file with this suffix."""
    if suffix == ".parquet":
        return make_parquet(frame)
    if suffix == ".xlsx":
        return make_xlsx(frame, raw=raw)
    return format_frame(frame, "markdown" if suffix == ".md" else suffix[1:], raw=raw).encode()


def make_parquet(frame: pd.DataFrame) -> bytes:
    """Return Parquet. Lists of strings stay lists; other lists, and dicts, become JSON."""
    frame = frame.copy()
    for name in frame.select_dtypes("object", exclude="str"):
        lists = [cell if isinstance(cell, list) else [cell] for cell in frame[name].dropna()]
        if not all(isinstance(part, str) for parts in lists for part in parts):
            frame[name] = frame[name].map(to_text, na_action="ignore")
    return bytes(frame.to_parquet(index=False))


def make_xlsx(frame: pd.DataFrame, *, raw: bool) -> bytes:
    """Return an Excel workbook without formulas and links. Its times are UTC. Raises ValueError for a large table."""
    import pandas as pd

    dates = {name: frame[name].dt.tz_localize(None) for name in frame.select_dtypes("datetimetz")}
    cells = frame.assign(**dates).map(to_cell, na_action="ignore", raw=raw).rename(columns=to_cell)
    content = io.BytesIO()  # on a full disk, zipfile prints a second error
    options = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
    with pd.ExcelWriter(content, engine="xlsxwriter", engine_kwargs=options) as book:
        cells.to_excel(book, index=False, freeze_panes=(1, 1), autofilter=True)
        book.sheets["Sheet1"].set_column(0, len(cells.columns), 20)  # wide enough for a date
    return content.getvalue()


def split_by_type(frame: pd.DataFrame, objects: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], pd.DataFrame]]:
    """Yield a database's tables: type, key columns, rows. The keys are there whatever columns were chosen."""
    import pandas as pd

    values = make_storable([{"id": item.get("value")} | fields(item) for item in objects])  # an indicator has no id
    keys = pd.DataFrame([[str(value.get(name) or "") for name in KEYS] for value in values], columns=KEYS)
    if not all(keys["id"]):
        raise ValueError("a row has no id, by which databases tell rows apart; .csv and .parquet need none")
    types = pd.Series([str(value.get("type") or "object") for value in values], dtype="str")
    for kind, part in keys.join(frame.drop(columns=KEYS, errors="ignore")).groupby(types, sort=False):
        primary = [name for name in KEYS if any(part[name])]
        part = part.drop(columns=set(KEYS) - set(primary)).dropna(axis="columns", how="all")
        if len(part.columns) > 900:  # sqlite-utils takes 999, MySQL 1,017
            raise ValueError(f"{len(part.columns)} columns are too many for a database: choose some with --column")
        for name in part.select_dtypes(["object", "str"]):  # PostgreSQL refuses NUL
            part[name] = part[name].map(lambda value: to_text(value).replace("\0", "\ufffd"), na_action="ignore")
        yield str(kind), primary, part.set_axis(make_distinct(part.columns), axis="columns")


def make_distinct(names: Iterable[str]) -> list[str]:
    """Return names that differ not only in case, which databases ignore."""
    names = [printable(name) or "unnamed" for name in names]
    folded = [name.lower() for name in names]
    counts = [folded[: number + 1].count(name) for number, name in enumerate(folded)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def update_sqlite(frame: pd.DataFrame, objects: list[dict[str, Any]], path: str) -> None:
    """Insert the rows, or update those whose key is there. Raises ValueError for a table without that key."""
    import sqlite_utils

    with contextlib.closing(sqlite_utils.Database(path)) as database, database.atomic():
        for kind, keys, part in split_by_type(frame, objects):
            table = database.table(kind)
            primary = table.pks if table.exists() else keys
            if not set(keys) <= set(primary) <= set(KEYS):
                raise ValueError(f"the table {kind} has the primary key {primary}, not {keys}: name another file")
            names, *rows = to_rows(part)
            records = [dict.fromkeys(primary, "") | dict(zip(names, row, strict=True)) for row in rows]
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
            part.to_sql(kind, connection, if_exists="append", index=False)


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
