#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "pyzipper>=0.4,<0.5",
#     "rich>=14,<16",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Is it malicious? Look up files and URLs, and submit those that VirusTotal does not know.

A file is looked up by its hash first: what VirusTotal knows is not uploaded. An upload is public, so the script asks
before it sends anything; without a terminal, it needs --yes. --private (its own licence) analyses without publishing.

Any key will do: a free one allows 4 requests a minute (set VT_RATE=4) and 500 a day.

    uv run scripts/scan.py invoice.exe 'http://login.example.net/' --wait
    uv run scripts/scan.py quarantine/*.zip --password infected --yes --format jsonl > verdicts.jsonl

Exit codes: 0 complete, 1 failed, 2 wrong usage or key, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiohttp
import pyzipper
import typer
import vt

DIRECT_BYTES = 32 << 20  # a larger file needs an upload URL: https://docs.virustotal.com/reference/files-upload-url
POLL_SECONDS = 20

Item = dict[str, Any]  # an object as VirusTotal sent it, or one with `error`


class Target(NamedTuple):
    """What to scan: the argument, where and as what VirusTotal knows it, a zip's password, and if it is known."""

    name: str
    api: str  # "" or /private, which comes before the path
    kind: str  # files or urls
    id: str
    password: str | None = None
    known: bool = False


def content_hash(path: Path, password: str | None) -> str:
    """Return the SHA-256 of what VirusTotal will analyse: the file, or with a password the only file in that zip.

    Raises UsageError and OSError.
    """
    if password is None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with pyzipper.AESZipFile(path) as archive:
            (member,) = archive.namelist()
            with archive.open(member, pwd=password.encode()) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except (ValueError, RuntimeError, pyzipper.BadZipFile):
        raise UsageError(f"{path} is not a zip of one file that the --password opens") from None


def parse_target(text: str, *, password: str | None = None, private: bool = False) -> Target:
    """Return the file or the URL to scan. Raises UsageError, and OSError for a file that cannot be read."""
    api = "/private" if private else ""
    if re.match("https?://", text, re.IGNORECASE):
        return Target(text, api, "urls", vt.url_id(text))
    if Path(text).is_dir():
        raise UsageError(f"{text} is a directory: name its files")
    if not Path(text).is_file():
        raise UsageError(
            f"{text} is not a file, nor a URL that starts with http:// or https://; lookup.py takes hashes"
        )
    return Target(text, api, "files", content_hash(Path(text), password), password)


def parse_targets(texts: Iterable[str], *, password: str | None = None, private: bool = False) -> list[Target]:
    """Return the files and URLs to scan, each once. Raises what `parse_target` raises."""
    targets = [parse_target(text, password=password, private=private) for text in texts]
    return list({target.id: target for target in targets}.values())


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as 90s, 30m or 2h. Raises UsageError."""
    if match := re.fullmatch("([0-9]{1,6})([smh])", text):
        return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
    raise UsageError(f"{text} is not a duration: expected one such as 90s, 30m or 2h")


async def attempt(client: VirusTotal, call: Awaitable[Item]) -> Item:
    """Return the object that a call returns, or an item with `error`. Raises VirusTotalError if it is_fatal."""
    try:
        return await call
    except VirusTotalError as error:
        if is_fatal(client, error):
            raise
        return {"error": {"code": error.code, "message": error.message}}


async def upload(client: VirusTotal, target: Target) -> vt.ClientResponse:
    """Send a file, with a progress bar on a terminal. Raises VirusTotalError and OSError.

    https://docs.virustotal.com/reference/files-scan
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    path, url = Path(target.name), f"{target.api}/files"
    if path.stat().st_size > DIRECT_BYTES:
        url = await client.get_data_async(f"{url}/upload_url")
    name = re.sub(r'["\\]', "_", printable(path.name))  # it becomes a quoted string in a header
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    # As bytes, because aiohttp fails on a path that is not UTF-8.
    with bar, bar.open(bytes(path), "rb", description=escape(name)) as file:
        # Quoting would change the name that VirusTotal shows (a%20b).
        form = aiohttp.FormData({"password": target.password} if target.password else {}, quote_fields=False)
        form.add_field("file", file, filename=name, content_type="application/octet-stream")
        return await client.post_async(url, data=form)


async def submit(client: VirusTotal, target: Target) -> Item:
    """Request an analysis of a target, and return its descriptor. Nothing is sent twice. Raises VirusTotalError."""
    try:
        if target.kind == "urls":
            response = await client.post_async(f"{target.api}/urls", data=aiohttp.FormData({"url": target.name}))
        elif target.known:
            response = await client.post_async(f"{target.api}/files/{{}}/analyse", target.id)
        else:
            response = await upload(client, target)
        return (await client._response_to_json(response))["data"]
    except VirusTotalError as error:
        if error.may_have_run:
            error.message += "; VirusTotal may have received it: run the command again later, which looks it up first"
        raise


async def follow(client: VirusTotal, target: Target, analysis: str, deadline: float) -> Item:
    """Return an analysis when it is completed, or as it is at the deadline. Raises VirusTotalError."""
    while True:
        item = await client.get_data_async(f"{target.api}/analyses/{{}}", analysis)
        if item["attributes"]["status"] == "completed" or time.monotonic() >= deadline:
            return item
        await asyncio.sleep(POLL_SECONDS * SECOND)


async def submit_all(client: VirusTotal, targets: list[Target], wait: float) -> AsyncIterator[tuple[Target, Item]]:
    """Submit all targets, and yield each with its analysis: queued, or with `wait` seconds, as it is at their end."""
    queued = []
    for target in targets:
        item = await attempt(client, submit(client, target))
        if "error" in item or not wait:
            yield target, item
        else:
            log(f"{target.name}: analysis {item['id']}")
            queued.append((target, item["id"]))
    deadline = time.monotonic() + wait * SECOND
    for target, analysis in queued:
        yield target, await attempt(client, follow(client, target, analysis, deadline))


async def scan_targets(
    client: VirusTotal,
    targets: list[Target],
    confirm: Callable[[list[str]], bool],
    *,
    wait: float = 0,
    rescan: bool = False,
) -> AsyncIterator[tuple[Target, Item]]:
    """Yield each target with the report VirusTotal has, or with its new analysis, completed within `wait` seconds.

    `confirm` is asked, with the names, before unknown targets are sent. Raises VirusTotalError if all would fail.
    """
    todo = []
    for target in targets:
        report = await attempt(client, client.get_data_async(f"{target.api}/{target.kind}/{{}}", target.id))
        known = "error" not in report
        if (known and rescan) or (not known and report["error"]["code"] == "NotFoundError"):
            todo.append(target._replace(known=known))
        else:
            yield target, report
    unknown = [target.name for target in todo if not target.known]
    if unknown and not confirm(unknown):
        for target in todo:
            yield target, {"error": {"code": "Declined", "message": "not submitted"}}
        return
    async for target, item in submit_all(client, todo, wait):
        yield target, item


async def scan(
    inputs: Iterable[str],
    *,
    yes: bool = False,
    wait: float = 0,
    password: str | None = None,
    private: bool = False,
    rescan: bool = False,
    apikey: str | None = None,
) -> AsyncIterator[Item]:
    """Yield what VirusTotal says of each path and URL, which is the key `scan`. Unknown ones need `yes` or `private`.

    `wait` is the time in seconds for new analyses. Raises UsageError, OSError and VirusTotalError.
    """
    targets = parse_targets(as_list("inputs", inputs), password=password, private=private)
    async with VirusTotal(apikey, timeout=300) as client:  # a large upload takes minutes to be answered
        items = scan_targets(client, targets, lambda _: yes or private, wait=wait, rescan=rescan)
        async for target, item in items:
            yield item | {"scan": target.name}


def status_of(item: Item) -> str:
    """Return failed, declined, known (a report), or the status of an analysis: queued, in-progress or completed."""
    if "error" in item:
        return "declined" if item["error"]["code"] == "Declined" else "failed"
    is_analysis = item["type"] in ("analysis", "private_analysis")
    return item.get("attributes", {}).get("status", "queued") if is_analysis else "known"


def as_result(target: Target, item: Item, style: Format | None) -> tuple[str, str]:
    """Return the status and the line of an item: JSON, or status, detections, id, input and any error.

    Until an analysis is completed, the id is its own, with which it can be requested.
    """
    attributes, error, status = item.get("attributes") or {}, item.get("error"), status_of(item)
    stats = attributes.get("stats") or attributes.get("last_analysis_stats")
    verdict = f"{stats.get('malicious', 0)}/{sum(stats.values())}" if stats else attributes.get("threat_verdict", "-")
    item_id = target.id if status == "completed" else item.get("id", target.id)
    cells = [status, verdict, item_id, target.name, error and f"{error['code']}: {error['message']}"]
    text = "\t".join(printable(cell) for cell in cells if cell)
    return status, json.dumps(item | {"scan": target.name}) if style is Format.jsonl else text


def ask(names: list[str]) -> bool:
    """Ask on the terminal whether to publish these. Raises typer.Abort on Ctrl-C."""
    for name in names:
        log(f"VirusTotal does not know {name}")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's would wait for the answer first
    try:
        return typer.confirm("Whatever you submit becomes public, and others can download the files. Submit?", err=True)
    finally:
        signal.signal(signal.SIGINT, handler)


async def main(
    inputs: Annotated[list[str], typer.Argument(metavar="PATH_OR_URL", help="Files, and URLs with http(s)://.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the verdicts of new analyses.")] = False,
    duration: Annotated[str, typer.Option("--timeout", help="How long to --wait: 90s, 30m, 2h.")] = "30m",
    password: Annotated[str | None, typer.Option(help="Each file is a zip of one file, with this password.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Use private scanning: nothing becomes public.")] = False,
    rescan: Annotated[bool, typer.Option("--rescan", help="Analyse again what VirusTotal knows.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Publish without asking.")] = False,
    style: Annotated[Format | None, typer.Option("--format", help="What is printed. [default: text]")] = None,
    apikey: Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")] = None,
) -> int:
    """Look up, submit, and wait."""
    seconds = parse_duration(duration) if wait else 0
    targets = parse_targets(inputs, password=password, private=private)
    if not (yes or private or sys.stdin.isatty()):
        raise UsageError("an upload is public: agree with --yes, as there is no terminal to ask on, or use lookup.py")
    confirm = (lambda _: True) if yes or private else ask

    async with VirusTotal(apikey, timeout=300) as client:
        items = scan_targets(client, targets, confirm, wait=seconds, rescan=rescan)
        results = (as_result(target, item, style) async for target, item in items)
        return await write_results(results, client, {"known", "declined", "completed" if wait else "queued"})


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import contextlib
import difflib
import email.utils
import math
import os
import random
import shlex
import tomllib
import urllib.parse
from collections import Counter
from enum import StrEnum
from typing import NoReturn, TextIO

import aiohttp.base_protocol
import aiolimiter
import tenacity
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


class Format(StrEnum):
    """What a source prints: a short line per object for people, or the object as JSON for programs."""

    text = "text"
    jsonl = "jsonl"


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


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
