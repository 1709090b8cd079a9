#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What would this command answer? Runs it against recorded answers of VirusTotal: no key, no quota, no network.

COMMAND is anything that asks the host in VT_HOST; a .py file is run with uv. With --record it asks the real
VirusTotal (and spends quota) and saves each exchange, without the key, over what was recorded of it before.

    uv run scripts/replay.py scripts/search_to_pandas.py 'entity:domain p:3+'
    uv run scripts/replay.py --record --recordings mine scripts/search_to_pandas.py 'entity:file p:5+' --limit 5

Exit codes: the command's own; 1 not all could be recorded, 2 wrong usage, no recordings, or no key to record with.
"""

from __future__ import annotations

import asyncio
import base64
import bz2
import contextlib
import contextvars
import dataclasses
import difflib
import email.utils
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
import tomllib
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import aiohttp
import aiolimiter
import tenacity
import typer
import vt
import yarl
from aiohttp import web

RECORDINGS = Path(__file__).resolve().parent.parent / "tests" / "recordings"
DUMMY = "0" * 64  # the key that the command gets, and that stands in a recording where the real one stood
HEADERS = ("Content-Type", "Location", "Retry-After")  # those that a client acts upon

# One file: {"shows", "method", "path", "query", "status", "headers"?} and "body", "lines", "text" or "base64".
# tests/recordings/README.md says what each means.
Exchange = dict[str, Any]


class Question(NamedTuple):
    """What tells one recorded exchange from another: all of the request but `limit`, and the request's body."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.query)
        return f"{self.method} {urllib.parse.unquote(self.path)}{'?' * bool(query)}{query}"


def question(method: str, path: str, query: Iterable[tuple[str, str]]) -> Question:
    """The same Question however a path is quoted and whatever the parameters' order. Page sizes do not matter."""
    path = "/".join(urllib.parse.quote(urllib.parse.unquote(part), safe=":") for part in path.split("/"))
    return Question(method, path, tuple(sorted((k, str(v)) for k, v in query if k != "limit" and v != "")))


def asked(exchange: Exchange) -> Question:
    """The Question that a recorded exchange answers."""
    return question(exchange["method"], exchange["path"], exchange.get("query", {}).items())


def collection(page: Question) -> Question:
    """The Question for the first page of those that this one belongs to."""
    return page._replace(query=tuple((name, value) for name, value in page.query if name != "cursor"))


def load(folder: Path) -> dict[Path, Exchange]:
    """The recordings in `folder` and below it, by file name. Raises UsageError for one that is broken."""
    exchanges = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            exchanges[path] = json.loads(path.read_text(encoding="utf-8"))
            asked(exchanges[path]), exchanges[path]["status"]
            if not exchanges[path].keys() & {"body", "lines", "text", "base64"}:
                raise KeyError("body")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is no recording: {type(error).__name__}: {error}") from None
    return exchanges


def content(exchange: Exchange) -> bytes:
    """The body as it goes over the wire: JSON, a feed's lines in bzip2, text, or any bytes."""
    if "lines" in exchange:
        return bz2.compress("".join(f"{json.dumps(line)}\n" for line in exchange["lines"]).encode())
    if "text" in exchange:
        return str(exchange["text"]).encode()
    if "base64" in exchange:
        return base64.b64decode(exchange["base64"])
    return json.dumps(exchange["body"]).encode()


def readable(body: bytes) -> Exchange:
    """What `content` makes this body of, in the form that is best to read."""
    with contextlib.suppress(ValueError, RecursionError):
        exchange = {"body": json.loads(body)}
        json.dumps(exchange, indent=1)  # what is nested too deeply to be written stays text
        return exchange
    with contextlib.suppress(ValueError, OSError, EOFError, RecursionError):
        if not body.startswith(b"BZh"):  # bz2 takes nothing at all for an archive
            raise ValueError
        exchange = {"lines": [json.loads(line) for line in bz2.decompress(body).splitlines()]}
        json.dumps(exchange, indent=1)
        return exchange
    with contextlib.suppress(ValueError):
        return {"text": body.decode()}
    return {"base64": base64.b64encode(body).decode()}


def cut(exchange: Exchange, limit: int, offset: int, cursor: str) -> Exchange:
    """`limit` items (0: all) of a recorded page from `offset` on, with a cursor of ours where more of it follows."""
    body: Any = exchange.get("body")
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or (not offset and (not limit or limit >= len(data))):
        return exchange
    end = offset + (limit or len(data))
    if end < len(data):
        meta, links = (body[name] if isinstance(body.get(name), dict) else {} for name in ("meta", "links"))
        body = body | {"meta": meta | {"cursor": f"replay-{end}-{cursor}"}}
        body["links"] = {k: v for k, v in links.items() if k != "next"}
    return exchange | {"body": body | {"data": data[offset:end]}}


class Answers:
    """The recorded answers. Of several to one question each is given once, in the files' order, the last for ever."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.turns: dict[Question, list[Exchange]] = {}
        for exchange in exchanges:
            self.turns.setdefault(asked(exchange), []).append(exchange)

    def answer(self, method: str, path: str, query: Mapping[str, str]) -> Exchange:
        """The recorded answer, cut to the `limit` asked; a 404 in VirusTotal's words for what was never recorded."""
        ours = re.fullmatch(r"replay-([0-9]{1,9})-(.*)", query.get("cursor", ""), flags=re.DOTALL)
        offset, cursor = (int(ours[1]), ours[2]) if ours else (0, query.get("cursor", ""))
        wanted = question(method, path, ({**query} | {"cursor": cursor}).items())
        turns = self.turns.get(wanted)
        if not turns:
            close = difflib.get_close_matches(str(wanted), map(str, self.turns), n=2, cutoff=0.5)
            near = "".join(f"; near: {label}" for label in close)
            message = f"not recorded: {wanted}{near}; `replay.py --list` shows what is"
            return {"status": 404, "body": {"error": {"code": "NotFoundError", "message": message}}}
        exchange = turns.pop(0) if len(turns) > 1 and not offset else turns[0]
        limit = query.get("limit", "")
        return cut(exchange, int(limit) if re.fullmatch("[0-9]{1,9}", limit) else 0, offset, cursor)


class Recorder:
    """Asks the real VirusTotal in the command's place and saves each exchange in `folder`.

    The key is put in on the way up and taken out on the way down: neither the command nor a file sees it.
    """

    def __init__(self, folder: Path) -> None:
        self.client = VirusTotal()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.old = folder, load(folder)
        self.links: dict[str, str] = {}  # a storage URL as it is recorded: the same with its signature
        self.saved: dict[Question, list[Exchange]] = {}
        self.unsaved = 0

    async def answer(self, request: web.Request, path: str) -> Exchange:
        """What VirusTotal (or the storage it redirected to) answers; saved unless just the same was saved before."""
        real, query = urllib.parse.quote(self.client._apikey, safe=""), request.rel_url.raw_query_string
        # A key is part of a path there alone; elsewhere the dummy may be a hash of noughts that somebody looks up.
        live = re.sub(f"^/users/{DUMMY}(?=/|$)", lambda _: f"/users/{real}", path)
        asked_for = f"{self.client._host}/api/v3{live}{'?' * bool(query)}{query}"
        exchange: Exchange = {"method": request.method, "path": path, "query": dict(request.query)}
        try:
            async with self.client._get_session().request(
                request.method,
                yarl.URL(self.links.get(path, asked_for), encoded=True),
                data=await request.read() or None,
                headers={k: v for k, v in request.headers.items() if k == "Content-Type"},
                allow_redirects=False,
            ) as response:
                exchange = {"shows": f"recorded from {response.url.host}"} | exchange | {"status": response.status}
                if headers := self.headers(response):
                    exchange["headers"] = headers
                exchange |= readable(self.scrub(await response.read()))
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            message = self.scrub(f"{type(error).__name__}: {error}".encode()).decode()
            return {"status": 502, "body": {"error": {"code": "TransientError", "message": message}}}
        exchange = json.loads(self.scrub(json.dumps(exchange).encode()))
        try:
            self.save(exchange)
        except OSError as error:  # the answer is paid for: the command gets it
            self.unsaved += 1
            say(f"error: {asked(exchange)} is not recorded: {error}")
        return exchange

    def headers(self, response: aiohttp.ClientResponse) -> dict[str, str]:
        """The headers worth keeping. A link to storage loses its secrets: a signature is good for whoever has it."""
        # No server passes on a control character, or bytes that are no text.
        kept = {name: value for name in HEADERS if (value := response.headers.get(name, "\0")).isprintable()}
        if response.content_type == "application/json":
            kept.pop("Content-Type", None)
        if "Location" in kept:
            try:
                target = response.url.join(yarl.URL(kept.pop("Location")))
                own = target.origin() == self.client._origin
            except ValueError:  # it leads nowhere, with or without us
                return kept
            if target.scheme not in ("http", "https"):
                return kept
            kept["Location"] = (
                target.raw_path_qs if own else str(target.with_user(None).with_query(None).with_fragment(None))
            )
            if not own:
                self.links[kept["Location"]] = str(target)
        return kept

    def scrub(self, text: bytes) -> bytes:
        """`text` with the dummy wherever the key stands, as it is or quoted for a URL or for JSON."""
        key = self.client._apikey
        forms = {key, urllib.parse.quote(key, safe=""), urllib.parse.quote(key), json.dumps(key)[1:-1]}
        return re.sub(
            "|".join(map(re.escape, sorted(forms, key=len, reverse=True))).encode(), DUMMY.encode(), text, flags=re.I
        )

    def save(self, exchange: Exchange) -> None:
        """Writes the file. The first answer to a question replaces what was recorded of it, all its pages included.

        An error replaces no answer: a key that expired, or a spent quota, would cost every recording.
        """
        wanted = asked(exchange)
        turns = self.saved.setdefault(wanted, [])
        stale = [path for path, old in self.old.items() if wanted in (asked(old), collection(asked(old)))]
        failed = exchange["status"] >= 400 and any(self.old[path]["status"] < 400 for path in stale)
        if failed or turns[-1:] == [exchange]:
            return
        turns.append(exchange)
        # Readable, and harmless whatever the query holds; the digest tells apart what reads the same.
        words = re.sub(r"[^a-z0-9]+", "-", str(wanted).lower()).strip("-")[:80].rstrip("-")
        digest = hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]
        target = self.folder / f"{words}-{digest}-{len(turns):03}.json"
        with whole_file(target) as part:
            part.write_text(json.dumps(exchange, indent=1) + "\n", encoding="utf-8")
        for path in stale:
            del self.old[path]
            if path != target:
                path.unlink(missing_ok=True)


async def replay(command: list[str], folder: Path, *, record: bool = False) -> int:
    """Runs `command` against the recordings in `folder` (or, to `record` them, against VirusTotal); its exit code.

    Raises UsageError when there is no key to record with, or no such command.
    """
    recorder = Recorder(folder) if record else None
    answers = Answers([] if record else load(folder).values())

    async def handle(request: web.Request) -> web.Response:
        here, elsewhere = (f"http://127.0.0.1:{port}" for _, port in runner.addresses)
        path = request.rel_url.raw_path
        if request.url.port == yarl.URL(elsewhere).port:  # /https/host/path stands for another host
            path = re.sub("^/(https?)/", r"\1://", path)
        else:
            path = path.removeprefix("/api/v3")
        if recorder and (path.startswith("/") or path in recorder.links):
            exchange = await recorder.answer(request, path)
        else:
            exchange = answers.answer(request.method, path, request.query)
        headers = {"Content-Type": "application/json"} | exchange.get("headers", {})
        if "Location" in headers:
            location = re.sub("^(https?)://", r"/\1/", headers["Location"])
            origin = here if location == headers["Location"] else elsewhere
            headers["Location"] = f"{origin}/{location.removeprefix('/')}"  # else @host would lead away from loopback
        return web.Response(status=exchange["status"], headers=headers, body=content(exchange))

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        for _ in range(2):  # VirusTotal, and every other host: a redirect there leaves VirusTotal's origin, as in life
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        code = await run(command, f"http://127.0.0.1:{runner.addresses[0][1]}")
        return code or int(bool(recorder and recorder.unsaved))
    finally:
        await runner.cleanup()
        if recorder:
            saved = sum(map(len, recorder.saved.values()))
            asked_for = f"{recorder.client.requests} request{'s' * (recorder.client.requests != 1)}"
            say(f"{saved} exchange{'s' * (saved != 1)} recorded in {folder}, {asked_for}")
            await recorder.client.close_async()


async def run(command: list[str], host: str) -> int:
    """Runs `command` with `host` for its VirusTotal and the dummy for its key; the exit code as a shell gives it.

    Signals go on to the command. Raises UsageError when it cannot be started.
    """
    if command[0].endswith(".py"):  # `uv run` tells its children where uv is, should it not be on the PATH
        uv = os.environ.get("UV") or shutil.which("uv")
        command = ([uv, "run", "--script"] if uv else [sys.executable]) + command
    here = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1")))
    ours = {"VT_HOST": host, "VT_API_KEY": DUMMY, "VTCLI_APIKEY": DUMMY, "NO_PROXY": here, "no_proxy": here}
    child: asyncio.subprocess.Process | None = None
    early: list[int] = []  # signals that came before there was a command

    def pass_on(number: int, _: object = None) -> None:
        # A terminal's Ctrl-C has reached the command by itself; a second one would break off its tidying up.
        if child is None:
            early.append(number)
        elif not (number == signal.SIGINT and at_terminal()):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = await asyncio.create_subprocess_exec(*command, env=os.environ | ours)
        for number in early:
            pass_on(number)
        code = await child.wait()
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def at_terminal() -> bool:
    """Whether a terminal sends its Ctrl-C to this process and its children alike. On Windows it always does."""
    if os.name == "nt":
        return True
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def main(
    command: Annotated[list[str] | None, typer.Argument(help="What to run, with its arguments.")] = None,
    recordings: Annotated[Path, typer.Option(help="The folder of recordings.")] = RECORDINGS,
    record: Annotated[bool, typer.Option("--record", help="Ask the real VirusTotal and save its answers.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Say what is recorded, one line each, and stop.")] = False,
) -> int:
    """Parses, runs, and says what is recorded."""
    if not record and not any(recordings.rglob("*.json")):
        raise UsageError(f"no recordings in {recordings}: --recordings names the folder, --record fills it")
    if show:
        for path, exchange in load(recordings).items():
            print(printable(f"{asked(exchange)} -> {exchange['status']}  {exchange.get('shows', path.name)}"))
        return 0
    if not command:
        raise UsageError("no COMMAND: scripts/replay.py scripts/search_to_pandas.py QUERY (--help shows more)")
    if command[0].endswith(".py") and not Path(command[0]).is_file():
        raise UsageError(f"there is no file {command[0]}")
    return asyncio.run(replay(command, recordings, record=record))


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
    cli(main, __doc__, context_settings={"allow_interspersed_args": False})
