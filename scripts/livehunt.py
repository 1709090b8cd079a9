#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "yara-x>=1.23,<2",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Which YARA rules does VirusTotal apply to everything that it analyses? Sync Livehunt rulesets from a folder.

Each .yar or .yara file is the ruleset with the file's name, without the suffix. Rulesets without a file stay untouched.
Matches arrive in the IoC stream: see ioc_stream.py. Needs a key with VirusTotal Hunting (premium).

    uv run scripts/livehunt.py sync rules --dry-run
    uv run scripts/livehunt.py sync rules --email soc@example.com --limit 500
    uv run scripts/livehunt.py disable loaders

Exit codes: 0 complete, 1 failed, 2 wrong usage, key or rules, 3 incomplete, 4 quota exhausted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Coroutine
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

Ruleset = dict[str, Any]  # {"id", "type": "hunting_ruleset", "attributes": {…}}; one to be created has no id

RULESETS = "/intelligence/hunting_rulesets"  # https://docs.virustotal.com/reference/hunting-ruleset-object

Match = StrEnum("Match", ["file", "url", "domain", "ip"])


def describe_ruleset(ruleset: Ruleset) -> str:
    """Return a ruleset as one line: id, modification date (UTC), state, objects, rules, limit a day, name, mail."""
    attributes = ruleset["attributes"]
    modified = datetime.fromtimestamp(attributes.get("modification_date") or 0, UTC)
    state = "enabled" if attributes.get("enabled") else "disabled"
    rules = plural(attributes.get("number_of_rules") or 0, "rule")
    match = attributes.get("match_object_type") or Match.file
    head = f"{ruleset['id']}  {modified:%Y-%m-%dT%H:%M:%SZ}  {state:<8}  {match:<6}"
    emails = ", ".join(attributes.get("notification_emails") or [])
    return printable(f"{head}  {rules}, limit {attributes.get('limit')}  {attributes['name']}  {emails}").rstrip()


def attribute_lines(attributes: dict[str, Any]) -> list[str]:
    """Return attributes as lines, one for each setting, then the rules without blank ends."""
    settings = [f"{key}: {value}" for key, value in attributes.items() if key != "rules"]
    rules = (attributes.get("rules") or "").strip().replace("\r\n", "\n")
    return settings + (rules.split("\n") if rules else [])


def diff(name: str, before: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return a unified diff of the attributes that are `wanted`: an empty list if nothing differs."""
    old = {key: before[key] for key in wanted if key in before}
    labels = f"{name} at VirusTotal", f"{name} here"
    return list(difflib.unified_diff(attribute_lines(old), attribute_lines(wanted), *labels, lineterm=""))


def print_lines(lines: list[str]) -> None:
    """Print lines of rules: tabs stay, other control characters are escaped."""
    for line in lines:
        print("\t".join(map(printable, line.split("\t"))))


def read_folder(folder: Path, match: str) -> dict[str, str]:
    """Return the rules in a folder as {name of the ruleset: text}, once all compile. Raises UsageError."""
    texts: dict[str, str] = {}
    refused = 0
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yar", ".yara")):
        if path.stem in texts:
            raise UsageError(f"{folder} contains two files for the ruleset {path.stem}")
        texts[path.stem] = read_rules(str(path))
        try:
            compile_rules({str(path): texts[path.stem]}, match)
        except UsageError as error:
            log(f"{path}: {error}")
            refused += 1
    if not texts:
        raise UsageError(f"{folder} contains no .yar files")
    if refused:
        raise UsageError(f"{refused} of {plural(len(texts), 'file')} in {folder} must be corrected; nothing was sent")
    return texts


def find_by_name(rulesets: list[Ruleset], names: Collection[str], match: str) -> dict[str, Ruleset]:
    """Return {name: ruleset} for these names; one to be created has no id and no attributes. Raises UsageError."""
    found: dict[str, Ruleset] = {name: {"attributes": {}} for name in names}
    for ruleset in rulesets:
        name = ruleset["attributes"]["name"]
        if name not in found:
            continue
        if "id" in found[name]:
            raise UsageError(f"VirusTotal has two rulesets named {name}: rename the file, or delete one by its id")
        old_match = ruleset["attributes"].get("match_object_type") or Match.file  # which cannot be changed
        if old_match != match:
            raise UsageError(f"the ruleset {name} is for {old_match} objects: check --match")
        found[name] = ruleset
    return found


async def get_rulesets(client: VirusTotal) -> list[Ruleset]:
    """Return all rulesets that the owner of the key may see. Raises VirusTotalError."""
    return [ruleset async for page in client.pages(RULESETS) for ruleset in page.objects]


async def save_ruleset(client: VirusTotal, ruleset: Ruleset, wanted: dict[str, Any], dry_run: bool = False) -> str:
    """Create a ruleset that has no id, or change one in place, so that its rules are never missing.

    Return "created", "updated" or "unchanged". With `dry_run`, print the differences instead. Raises VirusTotalError.
    """
    name = (wanted | ruleset["attributes"])["name"]
    changes = diff(name, ruleset["attributes"], wanted)
    result = "created" if "id" not in ruleset else "updated" if changes else "unchanged"
    if dry_run:
        print_lines(changes)
    elif changes:
        data = {"type": "hunting_ruleset", "attributes": wanted}
        if "id" in ruleset:
            body = {"data": data | {"id": ruleset["id"]}}
            response = await client.patch_async(f"{RULESETS}/{{}}", ruleset["id"], json_data=body)
        else:
            response = await client.post_async(RULESETS, json_data={"data": data})
        await client._response_to_json(response)
        print(f"{result}  {printable(name)}", flush=True)
    return result


async def sync(texts: dict[str, str], match: str, settings: dict[str, Any], dry_run: bool, apikey: str | None) -> int:
    """Make rulesets equal to `texts` ({name: rules}), print those that VirusTotal confirmed; return the exit code.

    `settings`: {"limit"?, "notification_emails"?}. Rules that VirusTotal refuses do not stop the others. Raises
    UsageError, and VirusTotalError when nothing is synced.
    """
    done: Counter[str] = Counter()
    error: BaseException | None = None
    async with VirusTotal(apikey) as client:
        for name, ruleset in find_by_name(await get_rulesets(client), texts, match).items():
            new = {} if "id" in ruleset else {"name": name, "match_object_type": match, "enabled": True}
            try:
                done[await save_ruleset(client, ruleset, new | settings | {"rules": texts[name]}, dry_run)] += 1
            except (VirusTotalError, asyncio.CancelledError) as stopped:
                log(f"{name}: {str(stopped) or 'interrupted'}")
                error = stopped
                if getattr(stopped, "status", 0) not in (400, 403, 404, 409):  # not this ruleset alone
                    break
    if error and not done:
        raise error
    counts = f"{done['created']} created, {done['updated']} updated, {done['unchanged']} unchanged"
    done_so_far = f"dry run: {counts}" if dry_run else counts
    return print_summary(done_so_far, client.requests, error=error, resume="the same command")


app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)
Key = Annotated[str, typer.Argument(help="The ruleset's name or id.")]
ApiKey = Annotated[str | None, typer.Option(help="[default: VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml]")]


async def get_ruleset(client: VirusTotal, key: str) -> Ruleset:
    """Return the ruleset with this id, else with this name. Raises UsageError and VirusTotalError."""
    rulesets = await get_rulesets(client)
    found = [r for r in rulesets if r["id"] == key] or [r for r in rulesets if r["attributes"]["name"] == key]
    if len(found) != 1:
        raise UsageError(f"{plural(len(found), 'ruleset')} with the name or id {key}: see `list`")
    return found[0]


@app.command("sync")
def sync_command(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder of .yar files.")],
    match: Annotated[Match, typer.Option(help="What the rules match.")] = Match.file,
    email: Annotated[list[str] | None, typer.Option(help="Who gets notifications by mail; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most notifications a day for each ruleset.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the differences; change nothing.")] = False,
    apikey: ApiKey = None,
) -> Coroutine[Any, Any, int]:
    """Create or update the ruleset of each file. New ones are enabled; settings without an option stay as they are."""
    texts = read_folder(folder, match)
    settings = {key: value for key, value in {"limit": limit, "notification_emails": email}.items() if value}
    return sync(texts, match, settings, dry_run, apikey)


@app.command("list")
async def list_command(
    style: Annotated[Format | None, typer.Option("--format", help="[default: text]")] = None, apikey: ApiKey = None
) -> int:
    """Print the rulesets, one line each: id, modification date (UTC), state, objects, rules, limit, name, mail."""
    async with VirusTotal(apikey) as client:
        rulesets = await get_rulesets(client)
    for ruleset in rulesets:
        print(json.dumps(ruleset) if style is Format.jsonl else describe_ruleset(ruleset))
    return print_summary(plural(len(rulesets), "ruleset"), client.requests)


@app.command("show")
async def show_command(ruleset: Key, apikey: ApiKey = None) -> int:
    """Print the rules of a ruleset."""
    async with VirusTotal(apikey) as client:
        found = await get_ruleset(client, ruleset)
    print_lines(attribute_lines({"rules": found["attributes"]["rules"]}))
    return print_summary(describe_ruleset(found), client.requests)


@app.command("enable", help="Enable a ruleset.")
@app.command("disable", help="Disable a ruleset: it matches nothing, and stays at VirusTotal.")
async def set_enabled(context: typer.Context, ruleset: Key, apikey: ApiKey = None) -> int:
    """Enable or disable a ruleset. A disabled one matches nothing, and stays at VirusTotal."""
    enabled = context.command.name == "enable"
    async with VirusTotal(apikey) as client:
        found = await get_ruleset(client, ruleset)
        await save_ruleset(client, found, {"enabled": enabled})
        found["attributes"]["enabled"] = enabled
        return print_summary(describe_ruleset(found), client.requests)


@app.command("delete")
def delete_command(
    ruleset: Key, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, apikey: ApiKey = None
) -> int | Coroutine[Any, Any, int]:
    """Delete a ruleset at VirusTotal, after asking."""
    if not yes and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: add --yes to delete")
    if not yes and not typer.confirm(f"Delete the ruleset {printable(ruleset)} at VirusTotal?", err=True):
        return print_summary("nothing deleted")
    return delete(ruleset, apikey)


async def delete(key: str, apikey: str | None) -> int:
    """Delete the ruleset with this id or name, and return the exit code."""
    async with VirusTotal(apikey) as client:
        found = await get_ruleset(client, key)
        if error := await client.get_error_async(await client.delete_async(f"{RULESETS}/{{}}", found["id"])):
            raise error
        return print_summary(f"deleted {describe_ruleset(found)}", client.requests)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import contextlib
import email.utils
import math
import os
import random
import shlex
import signal
import time
import tomllib
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
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
