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
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Which files, domains, IP addresses and URLs does a collection contain? All of them, not the first page.

A collection is also a threat actor, campaign, malware family, report or vulnerability of Google Threat Intelligence.
Name it by its id, its address in VirusTotal or its CVE number. Words with spaces or colons are a query, which searches
for collections and needs VirusTotal Intelligence (premium). 40 indicators of a type cost one request.

    uv run scripts/collection_to_indicators.py malpedia_win_emotet --defang
    uv run scripts/collection_to_indicators.py CVE-2025-0282 -o ivanti.csv
    uv run scripts/collection_to_indicators.py 'collection_type:threat-actor name:APT44' --limit 3 --format jsonl

Exit codes: 0 complete, 1 failed, 2 wrong usage, key or query, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer

RELATIONSHIPS = ("files", "domains", "ip_addresses", "urls")
COLUMNS = ("type", "value", "collections", "collection_ids")


# ---- What the user names


def parse_id(text: str) -> str | None:
    """Return the id of the collection that an id, an address in VirusTotal or a CVE number names; None for a query."""
    if address := re.match(r"https?://[^/]+/(?:gui/[^/]+|api/v3/collections)/([^/?#]+)", text):
        return urllib.parse.unquote(address[1])
    if re.fullmatch(r"CVE-\d+-\d+", text, re.IGNORECASE):
        return f"vulnerability--{text.lower()}"
    return None if re.search(r"[\s:\"]", text) else text


def collection_query(text: str) -> str:
    """Return the query with entity:collection. Raises UsageError if it asks for another entity."""
    if entity_of(text) not in (None, "collection"):
        raise UsageError("the query is not for collections: use entity:collection, or no entity")
    return text if entity_of(text) else f"entity:collection {text}"


def parse_cursor(text: str) -> tuple[str, dict[str, str]]:
    """Return the collection at which an earlier run stopped, and its relationships that are not done, with cursors.

    The cursor of an earlier run looks like ID?urls=CURSOR. Raises UsageError.
    """
    found = re.fullmatch(rf"(.+)\?({'|'.join(RELATIONSHIPS)})=(.*)", text)
    if not found:
        raise UsageError(f"--cursor {text}: expected what an earlier run printed, such as ID?urls=CURSOR")
    remaining = RELATIONSHIPS[RELATIONSHIPS.index(found[2]) :]
    return found[1], dict.fromkeys(remaining, "") | {found[2]: found[3]}


# ---- What VirusTotal answers


async def find_ids(client: VirusTotal, result: Indicators, text: str, limit: int) -> list[str]:
    """Return the id that `text` names, or those of the collections that it finds, and set the result's total."""
    if collection_id := parse_id(text):
        return [collection_id]
    ids = []
    query = collection_query(text)
    async for page in client.pages("/intelligence/search", limit=limit, query=query, descriptors_only="true"):
        ids += [str(item["id"]) for item in page.objects]
        result.total = page.total or 0
    return ids


async def add_relationship(client: VirusTotal, result: Indicators, collection_id: str, name: str, cursor: str) -> None:
    """Page a relationship to its end, and keep the cursor. A failure, such as a missing licence, is listed."""
    result.cursor = f"{collection_id}?{name}={cursor}"
    try:
        # Descriptors are small, and those of URLs have the address.
        async for page in client.pages("/collections/{}/relationships/{}", collection_id, name, cursor=cursor):
            result.add(page.objects, collection_id)
            result.cursor = f"{collection_id}?{name}={page.cursor or cursor}"
    except (VirusTotalError, UsageError) as error:
        result.fail(error, f"{collection_id}: {name}")


async def add_collections(
    client: VirusTotal, result: Indicators, ids: list[str], cursors: dict[str, str] | None = None
) -> None:
    """Add what the collections contain; of the first, only the relationships in `cursors`, from there on."""
    for collection_id in ids:
        result.count += 1
        for name, cursor in (cursors or dict.fromkeys(RELATIONSHIPS, "")).items():
            await add_relationship(client, result, collection_id, name, cursor)
            if result.error:
                return
        cursors = None
    result.cursor = None


async def collect(text: str, limit: int, cursor: str | None = None, apikey: str | None = None) -> Indicators:
    """Collect the indicators of the collections that `text` names or finds. Raises UsageError and VirusTotalError."""
    from rich.console import Console

    text, result = text.strip(), Indicators("collection")
    start, cursors = parse_cursor(cursor) if cursor else (None, None)
    async with VirusTotal(apikey) as client:
        ids = await find_ids(client, result, text, limit)
        if start and start not in ids:
            raise UsageError(f"--cursor: {start} is not among the collections")
        try:
            with Console(stderr=True).status(result):  # silent unless stderr is a terminal
                await add_collections(client, result, ids[ids.index(start) :] if start else ids, cursors)
        except asyncio.CancelledError as interrupted:
            result.error = interrupted
        result.requests = client.requests
    error = result.error or result.failure
    if error and not result.found:
        if getattr(error, "status", 0) == 404 and parse_id(text):
            raise UsageError(f"{error}; to search by name, write 'name:{text}'")
        raise error
    return result


async def collection_to_indicators(
    text: str, *, limit: int = 100, cursor: str | None = None, apikey: str | None = None
) -> list[dict[str, Any]]:
    """Return a dict with the keys COLUMNS for each indicator of up to `limit` collections (0: all).

    stderr says whether that is everything. Raises UsageError and VirusTotalError.
    """
    result = await collect(text, limit, cursor, apikey)
    rows = indicator_rows(result.found, COLUMNS)
    print_result(result, rows)
    return rows


def main(
    text: Annotated[str, typer.Argument(metavar="ID_OR_QUERY", help="An id, an address, a CVE number, or a query.")],
    limit: Annotated[int, typer.Option(min=0, help="How many collections of a query; 0: all.")] = 100,
    defanged: Annotated[bool, typer.Option("--defang", help="Write hxxp://evil[.]example.")] = False,
    style: Annotated[Style | None, typer.Option("--format", help="What stdout gets. [default: text]")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .csv or .jsonl file, not stdout.")] = None,
    cursor: Annotated[str | None, typer.Option(help="Resume an earlier run; name another --output.")] = None,
    apikey: Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")] = None,
) -> int:
    """Collect, write the indicators, and say what is missing."""
    if output:
        check_output(output, cursor)
    result = asyncio.run(collect(text, limit, cursor, apikey))
    rows = indicator_rows(result.found, COLUMNS, defanged=defanged)
    result.error = write_indicators(rows, COLUMNS, style, output) or result.error
    return print_result(result, rows)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import contextlib
import csv
import difflib
import email.utils
import itertools
import json
import math
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, NoReturn

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


def defang(value: str) -> str:
    """Return an indicator that nobody visits by accident: hxxp://evil[.]example, 192[.]0[.]2[.]7, 2001[:]db8[:][:]1."""
    if re.fullmatch("[0-9A-Fa-f:.]+", value) and value.count(":") > 1:
        value = value.replace(":", "[:]")
    return re.sub("^(h)tt(p)", r"\1xx\2", value, flags=re.IGNORECASE).replace(".", "[.]")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


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


Style = StrEnum("Style", "text csv jsonl")  # what stdout gets


@dataclass
class Indicators:
    """Indicators collected so far, what is missing, what ended the run early, and the cursor to resume at.

    `noun` says what has indicators: a file or a collection. `found` holds tuples: type, value, id of the file or
    collection, and what else a script knows of it. `failure` is the last error that ended only a part.
    """

    noun: str
    cursor: str | None = None
    found: set[tuple[Any, ...]] = field(default_factory=set)
    count: int = 0
    total: int = 0
    requests: int = 0
    missing: list[str] = field(default_factory=list)
    failure: Exception | None = None
    error: BaseException | None = None

    def __rich__(self) -> str:
        """Return the progress; rich asks for it whenever it draws."""
        return f"{plural(self.count, self.noun)}, {len(self.found)} found"

    def add(self, items: list[dict[str, Any]], source_id: str, *more: Any) -> None:
        """Add objects or descriptors that belong to the file or collection `source_id`."""
        for item in items:
            if value := value_of(item):
                self.found.add((str(item.get("type")), value, source_id, *more))
            else:
                self.missing.append(f"{source_id}: the address of URL {item.get('id')}")

    def fail(self, error: Exception, part: str) -> None:
        """List the part that is missing. If every other request would fail, too, end the run."""
        if getattr(error, "status", None) in (0, 401, 429):  # the network, the key, the quota; 403 may be one licence
            self.error = error
        else:
            self.failure = error
            self.missing.append(f"{part}: {error}")


def entity_of(query: str) -> str | None:
    """Return the entity that a query asks for in lower case, such as "url", or None."""
    found = re.search(r'(?:^|[\s(])entity\s*:\s*"?(\w+)', query, re.IGNORECASE)
    return found[1].lower() if found else None


def value_of(item: dict[str, Any]) -> str | None:
    """Return what an object or its descriptor stands for. The id of a URL is only a hash; its address is elsewhere."""
    if item.get("type") != "url":
        return str(item.get("id")).lower()
    url = (item.get("context_attributes") or {}).get("url") or (item.get("attributes") or {}).get("url")
    return url[0] if isinstance(url, list) else url  # a search has answered a list of one


def indicator_rows(
    found: Iterable[tuple[Any, ...]], columns: tuple[str, ...], at_least: int = 1, defanged: bool = False
) -> list[dict[str, Any]]:
    """Return a dict with the keys `columns` for each indicator: by type, highest count first, then by value.

    The columns are type, value, the number of ids (only rows with `at_least` so many), the ids, and a list for each
    further item of the tuples, without 0.
    """
    rows = []
    for (kind, value), group in itertools.groupby(sorted(found), key=lambda item: item[:2]):
        ids, *more = [sorted(set(cells) - {0}) for cells in list(zip(*group, strict=True))[2:]]
        if len(ids) >= at_least:
            cells = (kind, defang(value) if defanged else value, len(ids), ids, *more)
            rows.append(dict(zip(columns, cells, strict=True)))
    return sorted(rows, key=lambda row: (row["type"], -row[columns[2]]))


def check_output(output: Path, cursor: str | None) -> None:
    """Raise UsageError for a file that cannot be written, or that may hold the part before `cursor`."""
    if output.suffix.lower() not in (".csv", ".jsonl") or not output.parent.is_dir():
        raise UsageError(f"--output {output}: expected a .csv or .jsonl file in a folder that exists")
    if cursor and output.exists():
        raise UsageError(f"{output} may hold the part before --cursor: name another file")


def csv_cell(value: Any) -> str:
    """Return a value as text that no spreadsheet takes for a formula, a list with spaces between."""
    return escape_formula(printable(" ".join(map(str, value)) if isinstance(value, list) else value))


def write_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], style: str | None, file: Any) -> None:
    """Write rows as csv, as jsonl, or else as text (DOMAIN: evil.example)."""
    if style == "csv":
        lines = [columns, *([csv_cell(row[name]) for name in columns] for row in rows)]
        csv.writer(file, lineterminator="\n").writerows(lines)
    elif style == "jsonl":
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    else:
        file.writelines(f"{printable(row['type']).upper()}: {printable(row['value'])}\n" for row in rows)
    file.flush()


def write_indicators(
    rows: list[dict[str, Any]], columns: tuple[str, ...], style: str | None, output: Path | None
) -> OSError | None:
    """Write to stdout, or to the file `output`. If that fails, save the rows in a temporary file; return the error."""
    try:
        if output:
            with atomic_write(output) as part, open(part, "w", encoding="utf-8", newline="") as file:
                write_rows(rows, columns, output.suffix.lower()[1:], file)
        else:
            write_rows(rows, columns, style, sys.stdout)
        return None
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # Python would try again at exit
        with tempfile.NamedTemporaryFile("w", prefix="vt-", suffix=".jsonl", delete=False) as saved:
            write_rows(rows, columns, "jsonl", saved)
        return OSError(f"{error}; the indicators are saved in {saved.name}")


def print_result(result: Indicators, rows: list[dict[str, Any]]) -> int:
    """List what is missing, print the summary line, and return the exit code."""
    for missing in result.missing:
        log(f"missing: {missing}")
    error = result.error or ("what is missing is listed above" if result.missing else None)
    more = result.total > result.count
    done = f"{plural(len(rows), 'indicator')} of {plural(result.count, result.noun, result.total if more else None)}"
    again = "the same command" if result.error and not isinstance(result.error, OSError) else ""
    resume = again if error else "a larger --limit"
    return print_summary(done, result.requests, error=error, cursor=result.cursor, resume=resume, more=more)


def escape_formula(text: str) -> str:
    """Return text with a ' before what could begin a formula: https://owasp.org/www-community/attacks/CSV_Injection."""
    # Some locales start a cell at a semicolon, or accept full-width signs.
    return re.sub(r"(^|;)(?=[\s\"']*[=+\-@＝＋－＠])", r"\1'", text)


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
