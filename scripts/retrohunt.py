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
#     "yara-x>=1.23,<2",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Which files that VirusTotal has seen match these YARA rules? Start retrohunt jobs, watch them and get the matches.

Needs a key with VirusTotal Hunting (premium). The rules are compiled here first, so that a mistake costs no job.
`matches` prints each file as VirusTotal sent it, one JSON object per line.

    uv run scripts/retrohunt.py start rules/*.yar --since 30d --watch
    uv run scripts/retrohunt.py matches JOB --limit 0 | uv run scripts/objects_to_table.py -o matches.xlsx

Exit codes: 0 complete, 1 failed, 2 wrong usage, key or rules, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

Job = dict[str, Any]  # {"id", "type": "retrohunt_job", "attributes": {…}}; a new job lacks most attributes

JOBS = "/intelligence/retrohunt_jobs"
MAX_RULES = 300  # in a job: https://docs.virustotal.com/reference/create-retrohunt-job

Corpus = StrEnum("Corpus", ["main", "goodware"])
Status = StrEnum("Status", ["starting", "running", "aborting", "aborted", "finished"])


class MayBeRunningError(RuntimeError):
    """The response to the start of a job was lost, and the job is not in the list."""


def describe_state(job: Job) -> str:
    """Return "running 45.2 %, 12 matches, 0:12:30 left"."""
    attributes = job["attributes"]
    matches = plural(attributes.get("num_matches") or 0, "match")
    state = f"{attributes['status']} {attributes.get('progress') or 0:.1f} %, {matches}"
    if outside := attributes.get("num_matches_outside_time_range"):
        state += f", {outside} outside the time range"
    if eta := attributes.get("eta_seconds"):
        state += f", {timedelta(seconds=int(eta))} left"
    return printable(state)


def describe_job(job: Job) -> str:
    """Return a job as one line: id, creation date (UTC), corpus, state, names of the rules."""
    attributes = job["attributes"]
    created = datetime.fromtimestamp(attributes.get("creation_date") or 0, UTC)
    corpus = attributes.get("corpus") or Corpus.main
    names = re.findall(r"(?m)^(?:private|global|[ \t])*rule[ \t]+(\w+)", attributes.get("rules") or "")
    rules = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return printable(f"{job['id']}  {created:%Y-%m-%dT%H:%M:%SZ}  {corpus:<8}  {describe_state(job)}  {rules}")


def command(*arguments: str) -> str:
    """Return a command of this script as the user would type it."""
    return f"uv run {shlex.join([sys.argv[0], *arguments])}"


def time_range(since: str | None, until: str | None) -> dict[str, int]:
    """Return a job's `time_range`: {"start"?, "end"?} in UNIX seconds. Raises UsageError."""
    bounds = {name: int(parse_time(text).timestamp()) for name, text in (("start", since), ("end", until)) if text}
    now = time.time()
    if not bounds.get("start", 0) < bounds.get("end", now) <= now:
        raise UsageError("--since must be before --until, and both in the past")
    return bounds


async def start_job(client: VirusTotal, attributes: dict[str, Any]) -> Job:
    """Start a job with these `attributes` ("rules", "corpus", "notification_email"?, "time_range"?) and return it.

    Each POST starts, and bills, a job. If its response is lost, it is not repeated; the job is looked for in the list.
    Raises VirusTotalError, and MayBeRunningError if the job is not there.
    https://docs.virustotal.com/reference/create-retrohunt-job
    """
    started = time.time()
    body = {"data": {"type": "retrohunt_job", "attributes": attributes}}
    try:
        return (await client._response_to_json(await client.post_async(JOBS, json_data=body)))["data"]
    except VirusTotalError as error:
        if not error.may_have_run:
            raise
        lost = error
    log(f"{lost}: the response is lost; looking for the job in the job list")
    await asyncio.sleep(5 * SECOND)  # a gateway may give up while VirusTotal still works on the request
    with contextlib.suppress(VirusTotalError):
        if job := await find_job(client, attributes, started - 300):  # this clock may be fast
            return job
    raise MayBeRunningError(str(lost))


async def find_job(client: VirusTotal, attributes: dict[str, Any], since: float) -> Job | None:
    """Return the job with these `attributes` that was created after `since` (UNIX seconds), or None. One request."""
    for job in (await client.get_json_async(JOBS, params={"limit": "40"}))["data"]:
        found = job["attributes"]
        same_rules = (found.get("rules") or "").split() == attributes["rules"].split()
        same_corpus = (found.get("corpus") or Corpus.main) == attributes["corpus"]
        same_range = attributes.get("time_range", {}).items() <= (found.get("time_range") or {}).items()
        if same_rules and same_corpus and same_range and (found.get("creation_date") or 0) >= since:
            return job
    return None


async def get_job(client: VirusTotal, job_id: str) -> Job:
    """Return the job as it is now. Raises VirusTotalError."""
    return (await client.get_json_async(f"{JOBS}/{{}}", job_id))["data"]


async def watch_job(client: VirusTotal, job_id: str) -> AsyncIterator[Job]:
    """Yield the job every 2 to 60 s until it has ended. Retry network failures for ever. Raises VirusTotalError."""
    client.max_wait = math.inf
    while True:
        job = await get_job(client, job_id)
        yield job
        attributes = job["attributes"]
        if attributes["status"] in (Status.finished, Status.aborted) or attributes.get("finish_date"):
            return
        seconds = (attributes.get("eta_seconds") or 100) / 20
        await asyncio.sleep(min(max(seconds, 2), 60) * SECOND)


async def show_progress(jobs: AsyncIterator[Job]) -> AsyncIterator[Job]:
    """Yield the `jobs`, and show each on stderr: as a progress bar on a terminal, else as a line if it has changed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(bar_width=20), TextColumn("{task.description}", markup=False)
    shown = ""
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("")
        async for job in jobs:
            state = describe_state(job)
            bar.update(task, description=state, completed=job["attributes"].get("progress") or 0)
            if bar.disable and state != shown:
                log(state)
            shown = state
            yield job


async def show_watch(client: VirusTotal, job_id: str) -> int:
    """Watch a job until it has ended, and return the exit code. Ctrl-C ends the watching, not the job."""
    state = ""
    error: BaseException | str | None = None
    try:
        async for job in show_progress(watch_job(client, job_id)):
            state = describe_state(job)
    except (VirusTotalError, asyncio.CancelledError) as stopped:
        if not state:
            raise
        error = stopped
        log(f"the job itself continues; watch it again with `{command('watch', job_id)}`")
    else:
        log(f"get the matches with `{command('matches', job_id, '--limit', '0')}`")
        error = None if job["attributes"]["status"] == Status.finished else "the job did not finish"
    return print_summary(f"job {job_id}, {state}", client.requests, error=error)


async def matching_pages(client: VirusTotal, job_id: str, limit: int, cursor: str | None = None) -> AsyncIterator[Page]:
    """Yield the pages of matching files, a file once for each rule that it matches.

    Raises VirusTotalError; its code is "NotFinished" when the job has more matches to come, or was aborted.
    https://docs.virustotal.com/reference/retrohunt-job-matching-files
    """
    job = await get_job(client, job_id)
    async for page in client.pages(f"{JOBS}/{{}}/matching_files", job_id, limit=limit, cursor=cursor):
        yield page
    if job["attributes"]["status"] != Status.finished:
        raise VirusTotalError("NotFinished", f"the job is {describe_state(job)}")


async def matches(job_id: str, *, limit: int = 100, apikey: str | None = None) -> AsyncIterator[dict[str, Any]]:
    """Yield up to `limit` matching files (0: all) of a job. Raises what `matching_pages` raises."""
    async with VirusTotal(apikey) as client:
        async for page in matching_pages(client, job_id, limit):
            for item in page.objects:
                yield item


app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)
JobId = Annotated[str, typer.Argument(help="The job's id, as `start` and `list` print it.")]
Limit = Annotated[int, typer.Option(min=0, help="How many; 0: all.")]
ApiKey = Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")]


@app.command("start")
def start_command(
    rules: Annotated[list[str], typer.Argument(help="Files of YARA rules; - is stdin.")],
    corpus: Annotated[Corpus, typer.Option(help="All files, or a million undetected ones.")] = Corpus.main,
    since: Annotated[str | None, typer.Option(help="Files sent since: 90d, 12h, 2026-11-01 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Files sent until, in the same forms.")] = None,
    email: Annotated[str | None, typer.Option(help="Where VirusTotal reports that the job has finished.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until the job has ended.")] = False,
    apikey: ApiKey = None,
) -> Coroutine[Any, Any, int]:
    """Start one job with the rules of all files, and print its id."""
    sources = {path: read_rules(path) for path in rules}
    count = compile_rules(sources)
    if count > MAX_RULES:
        raise UsageError(f"{count} rules, but a job takes at most {MAX_RULES}; nothing was sent")
    optional = {"notification_email": email, "time_range": time_range(since, until)}
    attributes = {"rules": "\n".join(sources.values()), "corpus": corpus.value}
    return start(attributes | {k: v for k, v in optional.items() if v}, plural(count, "rule"), watch, apikey)


async def start(attributes: dict[str, Any], rules: str, watch: bool, apikey: str | None) -> int:
    """Start a job, print its id, with `watch` wait until it has ended, and return the exit code."""
    async with VirusTotal(apikey) as client:
        try:
            job = await start_job(client, attributes)
        except (MayBeRunningError, asyncio.CancelledError) as error:
            warning = f"the job may be running; before you start it again, check `{command('list')}`"
            return print_summary(warning, client.requests, error=error)
        print(printable(job["id"]), flush=True)
        if watch:
            return await show_watch(client, job["id"])
        log(f"watch the job with `{command('watch', job['id'])}`")
        return print_summary(f"1 job with {rules} started", client.requests)


@app.command("list")
async def list_command(
    status: Annotated[Status | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Limit = 0,
    style: Annotated[Format | None, typer.Option("--format", help="[default: text]")] = None,
    apikey: ApiKey = None,
) -> int:
    """Print your jobs, one line each: id, creation date (UTC), corpus, state, names of the rules."""
    async with VirusTotal(apikey) as client:
        pages = client.pages(JOBS, limit=limit, filter=f"status:{status}" if status else None)
        found = [page async for page in pages]
    jobs = [job for page in found for job in page.objects]
    for job in jobs:
        print(json.dumps(job) if style is Format.jsonl else describe_job(job))
    more = bool(found[-1].cursor)
    return print_summary(plural(len(jobs), "job"), client.requests, resume="a larger --limit", more=more)


@app.command("watch")
async def watch_command(job: JobId, apikey: ApiKey = None) -> int:
    """Wait until a job has ended. Ctrl-C ends the watching, not the job."""
    async with VirusTotal(apikey) as client:
        return await show_watch(client, job)


@app.command("matches")
async def matches_command(
    job: JobId,
    limit: Limit = 100,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A JSON Lines file instead of stdout.")] = None,
    style: Annotated[Format | None, typer.Option("--format", help="[default: text on a terminal, else jsonl]")] = None,
    cursor: Annotated[str | None, typer.Option(help="Resume an earlier run, and append to its --output.")] = None,
    apikey: ApiKey = None,
) -> int:
    """Print the matching files of a job, with the rule that each matches in `context_attributes`."""
    async with VirusTotal(apikey) as client:
        pages = matching_pages(client, job, limit, cursor)
        try:
            return await write_pages(pages, client, "match", output=output, style=style, cursor=cursor)
        except VirusTotalError as error:
            if error.code != "NotFinished":
                raise
            return print_summary("0 matches", client.requests, error=error)


@app.command("abort")
async def abort_command(job: JobId, apikey: ApiKey = None) -> int:
    """Abort a job. Its matches so far remain."""
    async with VirusTotal(apikey) as client:
        await client._response_to_json(await client.post_async(f"{JOBS}/{{}}/abort", job))
        return print_summary(f"job {job}, {describe_state(await get_job(client, job))}", client.requests)


@app.command("delete")
async def delete_command(job: JobId, apikey: ApiKey = None) -> int:
    """Delete a job that has ended, with its matches."""
    async with VirusTotal(apikey) as client:
        if error := await client.get_error_async(await client.delete_async(f"{JOBS}/{{}}", job)):
            raise error
        return print_summary(f"job {job} deleted", client.requests)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import difflib
import email.utils
import mmap
import os
import random
import signal
import tomllib
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, NoReturn, TextIO

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


async def write_pages(
    pages: AsyncIterator[Page],
    client: VirusTotal,
    noun: str,
    *,
    output: Path | None = None,
    style: Format | None = None,
    cursor: str | None = None,
) -> int:
    """Write each page to stdout or to the file `output` as it arrives, print the summary and return the exit code.

    With `cursor`, lines are added to the file. Raises the error of the first page: nothing was written then.
    """
    written, total, error = 0, None, None
    with open_lines(output, append=bool(cursor)) as file:
        try:
            async for page in pages:
                write_objects(page.objects, file, style)
                written, cursor, total = written + len(page.objects), page.cursor, page.total
        except (VirusTotalError, OSError, asyncio.CancelledError) as stopped:
            if isinstance(stopped, BrokenPipeError) or not written:
                raise
            error = stopped
    more = cursor and total and total > written  # total_hits may exceed what VirusTotal ever serves
    done = plural(written, noun, total if more else None)
    return print_summary(done, client.requests, error=error, cursor=cursor if written else None)


def read_rules(path: str) -> str:
    """Return the YARA rules in the file `path` (`-`: stdin). Raises UsageError."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8, which VirusTotal requires") from None


def run_compiler(sources: Mapping[str, str], *modules: str) -> tuple[list[Any], list[Any], list[str], list[str]]:
    """Return the errors and warnings about `sources`, the names of their rules, and of those that use the `modules`.

    Each error or warning is {"type", "title", "text", …}. yara-x does not compile the rules that use the `modules`.
    """
    import yara_x

    # Any: the package's type stubs lack the self of some methods. VirusTotal accepts no includes.
    compiler: Any = yara_x.Compiler(relaxed_re_syntax=True, includes_enabled=False)
    for module in modules:
        compiler.ignore_module(module)
    for name, text in sources.items():
        with contextlib.suppress(yara_x.CompileError):  # errors() has all of them
            compiler.add_source(text, printable(name))
    ignored = [rule.name for rule in compiler.ignored_rules()]
    return compiler.errors(), compiler.warnings(), [rule.identifier for rule in compiler.build()] + ignored, ignored


def compile_rules(sources: Mapping[str, str], match: str = "file") -> int:
    """Compile the `sources` (file name: text) of one ruleset and return the number of its rules.

    `match` is what the rules are for: file, url, domain or ip. Warnings, errors, and the rules that only VirusTotal can
    compile go to stderr. Raises UsageError for what VirusTotal would refuse. https://docs.virustotal.com/docs/nethunt
    """
    errors, warnings, names, ignored = run_compiler(sources, "vt", "magic")
    # yara-x cannot be told what a ruleset matches, so it refuses all fields of vt; its messages say what each is for.
    wrong_field = "is not supported in rulesets" if match == "file" else "is supported only in rulesets"
    errors += [error for error in run_compiler(sources, "magic")[0] if wrong_field in error["title"]]
    for report in [w for w in warnings if w["type"] not in ("IgnoredModule", "IgnoredRule")] + errors:
        for line in report["text"].split("\n"):
            log(line)
    if errors:
        raise UsageError(f"the rules do not compile ({plural(len(errors), 'error')}); nothing was sent")
    if not names:
        raise UsageError(f"no rule in {', '.join(sources)}; nothing was sent")
    if ignored:
        log(f"not compiled here, because only VirusTotal has the modules vt and magic: {', '.join(ignored)}")
    return len(names)


# [[[end]]]

if __name__ == "__main__":
    run_script(app)
