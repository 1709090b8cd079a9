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
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What did the sandboxes capture? Download what the lines of a feed link to: network captures, reports, or samples.

DIR is a dump by feed_dump.py: of file_behaviours for --kind, of files for --samples. The files are saved beside their
minute, in _YYYYMMDDhhmm.artifacts/, where index.json says what belongs to what, and what VirusTotal no longer has.
Run it again to continue: what exists is not downloaded again. Links expire after 7 days. They cost no quota.

    uv run scripts/feed_artifacts.py behaviours --kind pcap,html
    uv run scripts/feed_artifacts.py files --samples

The key needs the licence of the feed: the Sandbox feed for --kind, the File feed for --samples. Samples are AES zips
with the password `infected`. HTML reports contain a malware author's strings: open them in a browser that you can throw
away.

Exit codes: 0 complete, 1 failed, 2 wrong usage or key, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import hashlib
import io
import json
import re
import tempfile
import urllib.parse
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import zstandard

RETENTION = timedelta(days=7)  # https://docs.virustotal.com/reference/feeds-file-behaviours
# The attribute of each kind of link. A sample's is in files, the others are in file_behaviours.
KINDS = {"pcap": "pcap", "evtx": "evtx", "html": "html_report", "memdump": "memdump", "sample": "download_url"}

Link = dict[str, str]  # name (of the file), id (of the object), kind, url (not checked); when done, status and error


# ---- What a minute links to


def file_name(object_id: str, kind: str, url: str) -> str:
    """Return a file name of plain characters. Ids contain spaces, and might contain anything else."""
    plain = re.sub("[^A-Za-z0-9]+", "_", object_id)[:100]
    digest = hashlib.sha256(f"{object_id} {url}".encode(errors="backslashreplace")).hexdigest()
    return f"{plain}.zip" if kind == "sample" else f"{plain}_{digest[:8]}.{kind}"


def links_of(item: dict[str, Any], kinds: list[str]) -> list[Link]:
    """Return what an object links to. Raises UsageError if its feed has no such links."""
    if item.get("type") != ("file" if kinds == ["sample"] else "file_behaviour"):
        raise UsageError("--samples needs a dump of files, and --kind one of file_behaviours")
    context, object_id = item.get("context_attributes") or {}, str(item.get("id"))
    urls = {kind: str(context[KINDS[kind]]) for kind in kinds if context.get(KINDS[kind])}
    return [{"name": file_name(object_id, k, url), "id": object_id, "kind": k, "url": url} for k, url in urls.items()]


def find_links(minute: Path, kinds: list[str]) -> list[Link]:
    """Return what the lines of a minute link to, each file once. Raises OSError, EOFError and ZstdError."""
    links: dict[str, Link] = {}
    with bz2.open(minute) if minute.suffix == ".bz2" else zstandard.open(minute) as content:
        for line in io.BufferedReader(content):
            with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                links |= {link["name"]: link for link in links_of(json.loads(line), kinds)}
    return list(links.values())


def api_path(url: str) -> list[str]:
    """Return the segments of a link's path below /api/v3; none if it does not lead to an artifact at VirusTotal.

    Lines hold what strangers wrote, and the key opens every path of the API.
    """
    path = "(?:feeds|files|file_behaviours|file-behaviours)/[A-Za-z0-9_.~%=+/-]+"
    match = re.fullmatch(f"https://(?:www[.])?virustotal[.]com/api/v3/({path})", url)
    segments = urllib.parse.unquote(match[1]).split("/") if match else []
    return segments if len(segments) > 2 and not {"", ".", ".."} & set(segments) else []


# ---- Saving it


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_sample(sample: Path, digest: str, to: Path) -> None:
    """Write an AES zip of a sample. Raises VirusTotalError if the sample's hash is another, and OSError."""
    if sha256(sample) != digest:
        raise VirusTotalError("WrongContent", "what arrived has another hash")
    encrypt(sample, to, name=digest, password="infected")  # noqa: S106 - the convention for malware archives


async def download(client: VirusTotal, link: Link, to: Path) -> None:
    """Download a link to the file `to`. Raises VirusTotalError and OSError."""
    segments = api_path(link["url"])
    with tempfile.TemporaryDirectory() as folder:  # no plain sample is ever in the dump, also after kill -9
        content = Path(folder) / "sample" if link["kind"] == "sample" else to
        await client.download("/{}" * len(segments), *segments, to=content)
        if link["kind"] == "sample":
            await asyncio.to_thread(save_sample, content, link["id"], to)


async def save(client: VirusTotal, link: Link, path: Path) -> Link:
    """Save a link, and return it with its status (present, saved, gone, refused or failed) and error.

    Raises OSError, and VirusTotalError if every other link would fail.
    """
    if path.exists():
        return link | {"status": "present"}
    if not api_path(link["url"]):
        return link | {"status": "refused", "error": f"not a link to VirusTotal, not requested: {link['url'][:200]}"}
    try:
        with atomic_write(path) as part:
            await download(client, link, part)
    except VirusTotalError as error:
        answered = not error.code.startswith("HTTP ")  # by VirusTotal, not by the storage
        if answered and is_fatal(client, error):
            raise
        return link | {"status": "gone" if answered and error.status == 404 else "failed", "error": str(error)}
    return link | {"status": "saved"}


def artifacts_folder(minute: Path) -> Path:
    """Return where the artifacts of a minute are saved. Spark, pyarrow and Dask pass over names that start with _."""
    return minute.with_name(f"_{minute.name[:12]}.artifacts")


def complete_kinds(folder: Path) -> set[str]:
    """Return the kinds that index.json names, if all its files are there."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return set()
    return set(index["kinds"]) if all((folder / name).exists() for name in index["files"]) else set()


def write_index(folder: Path, kinds: list[str], rows: list[Link]) -> None:
    """Write index.json: the id, kind and SHA-256 of each file, and why there is no file."""
    files, gone = {}, {}
    for row in rows:
        if row["status"] in ("gone", "refused"):
            gone[row["name"]] = row["error"]
        else:
            files[row["name"]] = {"id": row["id"], "kind": row["kind"], "sha256": sha256(folder / row["name"])}
    with atomic_write(folder / "index.json") as part:
        part.write_text(json.dumps({"kinds": kinds, "files": files, "gone": gone}, indent=1), encoding="utf-8")


async def fetch_artifacts(
    client: VirusTotal, minute: Path, kinds: list[str], counts: Counter[str], *, jobs: int = 8
) -> None:
    """Save what a minute links to, `jobs` files at a time, and count each status. When none failed, write index.json.

    Raises UsageError (see links_of), VirusTotalError and OSError (see save) when the downloads that run have ended.
    """
    folder, rows = artifacts_folder(minute), list[Link]()
    kinds = sorted({*as_list("kinds", kinds), *complete_kinds(folder)})
    try:
        links = iter(await asyncio.to_thread(find_links, minute, kinds))
    except (OSError, EOFError, zstandard.ZstdError) as error:
        counts["failed"] += 1
        log(f"{minute} is damaged: {error}")
        return
    folder.mkdir(exist_ok=True)

    async def work() -> None:
        for link in links:  # each worker takes the next one
            row = await save(client, link, folder / link["name"])
            rows.append(row)
            counts[row["status"]] += 1
            if row["status"] in ("failed", "refused"):
                log(f"{minute.name[:12]}: {row['name']} {row['status']}: {row['error']}")

    for fatal in await asyncio.gather(*(work() for _ in range(jobs)), return_exceptions=True):
        if fatal:
            raise fatal
    if not any(row["status"] == "failed" for row in rows):
        await asyncio.to_thread(write_index, folder, kinds, rows)


def parse_kinds(text: str, samples: bool) -> list[str]:
    """Return the kinds that the options name. Raises UsageError."""
    kinds = [kind.strip().lower() for kind in text.split(",")] if text else []
    if samples == bool(kinds) or not set(kinds) <= KINDS.keys() - {"sample"}:
        raise UsageError("expected --kind with some of pcap,evtx,html,memdump, or --samples")
    return kinds or ["sample"]


def choose_minutes(folder: Path, kinds: list[str]) -> list[Path]:
    """Return the minutes of a dump that lack artifacts, oldest first: their links expire first. Raises UsageError."""
    oldest = f"{datetime.now(UTC) - RETENTION:%Y%m%d%H%M}"
    lacking = [minute for minute in find_minutes(folder) if not set(kinds) <= complete_kinds(artifacts_folder(minute))]
    fresh = [minute for minute in lacking if minute.name >= oldest]
    if len(fresh) < len(lacking):
        log(f"{plural(len(lacking) - len(fresh), 'minute')} before {oldest} left out: links expire after 7 days")
    return fresh


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made by feed_dump.py.", exists=True, file_okay=False)],
    kind: Annotated[str, typer.Option(help="Of file_behaviours: some of pcap,evtx,html,memdump.")] = "",
    samples: Annotated[bool, typer.Option("--samples", help="Of files: the files themselves.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Downloads at the same time.")] = 8,
    apikey: Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")] = None,
) -> int:
    """Download what the minutes of DIR lack."""
    from rich.console import Console
    from rich.progress import track

    kinds, counts = parse_kinds(kind, samples), Counter[str]()
    minutes, console = choose_minutes(folder, kinds), Console(stderr=True)

    async def work() -> int:
        error: BaseException | None = None
        async with VirusTotal(apikey) as client:
            try:
                for minute in track(minutes, "minutes", console=console, disable=not console.is_terminal):
                    await fetch_artifacts(client, minute, kinds, counts, jobs=jobs)
            except (VirusTotalError, OSError, asyncio.CancelledError) as stopped:
                if not counts:
                    raise
                error = stopped
        missing = ", ".join(f"{counts[status]} {status}" for status in ("failed", "refused") if counts[status])
        done = f"{plural(len(minutes), 'minute')}: {plural(counts['saved'], 'file')} saved, "
        done += f"{counts['present']} already there, {counts['gone']} not available"
        resume = "the same command" if error or counts["failed"] else ""
        return print_summary(done, client.requests, error=error or missing or None, resume=resume)

    return asyncio.run(work())


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import difflib
import email.utils
import math
import os
import random
import shlex
import signal
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
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


def find_minutes(folder: Path) -> list[Path]:
    """Return the files of a dump by feed_dump.py, oldest first. Raises UsageError if there are none."""
    if minutes := sorted(folder.glob("date=*/hour=*/[0-9]*.jsonl.*")):
        return minutes
    raise UsageError(f"{folder} holds no minutes of a feed: expected date=*/hour=*/*.jsonl.zst")


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


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
