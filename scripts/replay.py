#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "typer>=0.27,<0.30",
#     "yarl>=1.20,<2",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What would this command answer? Run it against recorded responses of VirusTotal: no key, no quota, no network.

COMMAND is any program that uses the host in VT_HOST; a .py file is run with uv. With --record, the requests go to the
real VirusTotal (and cost quota), and each response is saved, without the key, in place of what was recorded before.

    uv run scripts/replay.py scripts/search.py 'entity:domain p:3+'
    uv run scripts/replay.py --record --recordings mine scripts/search.py 'entity:file p:5+' --limit 5

Exit codes: the command's own; 1 a response could not be saved, 2 wrong usage, no recordings, or no key to record with.
"""

from __future__ import annotations

import asyncio
import base64
import bz2
import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiohttp
import typer
import yarl
from aiohttp import web

RECORDINGS = Path(__file__).resolve().parent.parent / "tests" / "recordings"
DUMMY_KEY = "0" * 64  # the command gets this key, and a recording holds it in place of the real one
NOT_COMPARED = {"limit", "exclude_attributes"}  # replay applies them itself

Exchange = dict[str, Any]  # the contents of one file: tests/recordings/README.md describes the fields
Responder = Callable[[web.Request, str], Awaitable[Exchange]]


class RequestKey(NamedTuple):
    """What identifies a request. Its body is not compared."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.query)
        return f"{self.method} {urllib.parse.unquote(self.path)}{'?' * bool(query)}{query}"


def key_of(method: str, path: str, query: Mapping[str, Any]) -> RequestKey:
    """Return the same key however the path is quoted and the parameters are ordered."""
    path = "/".join(urllib.parse.quote(urllib.parse.unquote(part), safe=":") for part in path.split("/"))
    compared = ((k, str(v)) for k, v in query.items() if k not in NOT_COMPARED and v != "")
    return RequestKey(method, path, tuple(sorted(compared)))


def key_of_exchange(exchange: Exchange) -> RequestKey:
    """Return the key of the request that a recorded exchange answers."""
    return key_of(exchange["method"], exchange["path"], exchange.get("query", {}))


def first_page_key(key: RequestKey) -> RequestKey:
    """Return the key of the first page of the collection that `key` asks a page of."""
    return key._replace(query=tuple((name, value) for name, value in key.query if name != "cursor"))


def load(folder: Path) -> dict[Path, Exchange]:
    """Return the recordings in `folder` and below it, in the order of their names. Raises UsageError for a bad one."""
    exchanges = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            exchange = json.loads(path.read_text(encoding="utf-8"))
            key_of_exchange(exchange), encode_body(exchange), exchange["status"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not a recording: {type(error).__name__}: {error}") from None
        exchanges[path] = exchange
    return exchanges


def encode_body(exchange: Exchange) -> bytes:
    """Return the body as it is sent: JSON, a feed's lines in bzip2, text, or any bytes. Raises KeyError for none."""
    if "lines" in exchange:
        return bz2.compress("".join(f"{json.dumps(line)}\n" for line in exchange["lines"]).encode())
    if "text" in exchange:
        return str(exchange["text"]).encode()
    if "base64" in exchange:
        return base64.b64decode(exchange["base64"])
    return json.dumps(exchange["body"]).encode()


def decode_body(body: bytes, content_type: str) -> Exchange:
    """Return the most readable field that `encode_body` turns into `body`."""
    with contextlib.suppress(ValueError):
        if content_type == "application/json":
            return {"body": json.loads(body)}
    with contextlib.suppress(ValueError, OSError, EOFError):
        if body.startswith(b"BZh"):
            return {"lines": [json.loads(line) for line in bz2.decompress(body).splitlines()]}
    with contextlib.suppress(ValueError):
        return {"text": body.decode()}
    return {"base64": base64.b64encode(body).decode()}


def replace_link(exchange: Exchange, replace: Callable[[str], str]) -> Exchange:
    """Replace where the response sends the client: the Location header, or a URL as `data` (an upload_url)."""
    headers, body = exchange.get("headers", {}), exchange.get("body")
    if "Location" in headers:
        return exchange | {"headers": headers | {"Location": replace(headers["Location"])}}
    if isinstance(body, dict) and re.match("https?://", str(body.get("data"))):
        return exchange | {"body": body | {"data": replace(body["data"])}}
    return exchange


def local_url(link: str, virustotal: str, other: str) -> str:
    """Return where replay serves `link`: VirusTotal's paths at the origin `virustotal`, other hosts at `other`."""
    link = re.sub("^https?://www[.]virustotal[.]com(?=/)", "", link)
    return f"{virustotal}{link}" if link.startswith("/") else f"{other}/{link.replace('://', '/', 1)}"


def without_attributes(item: Any, names: list[str]) -> Any:
    """Return an object without the attributes that `exclude_attributes` names."""
    if not isinstance(item, dict) or not isinstance(item.get("attributes"), dict):
        return item
    return item | {"attributes": {k: v for k, v in item["attributes"].items() if k not in names}}


def with_cursor(body: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    """Return a page with another cursor, or none, and without a link to the next page."""
    meta, links = body.get("meta") or {}, body.get("links") or {}
    meta = {k: v for k, v in meta.items() if k != "cursor"} | ({"cursor": cursor} if cursor else {})
    return body | {"meta": meta, "links": {k: v for k, v in links.items() if k != "next"}}


class Player:
    """Recorded responses. Several to one request are given in turn, in the order of the files; the last one repeats."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.turns: dict[RequestKey, list[Exchange]] = {}
        for exchange in exchanges:
            self.turns.setdefault(key_of_exchange(exchange), []).append(exchange)

    async def respond(self, request: web.Request, path: str) -> Exchange:
        """Answer a request from the recordings."""
        return self.answer(request.method, path, request.query)

    def answer(self, method: str, path: str, query: Mapping[str, str]) -> Exchange:
        """Return the recorded exchange, cut to the requested `limit`, or a 404 that names similar recordings.

        A cursor of replay's own, `replay-5-…`, leads to the rest of a page that was cut.
        """
        own = re.fullmatch("replay-([0-9]+)-(.*)", query.get("cursor", ""))
        offset, cursor = (int(own[1]), own[2]) if own else (0, query.get("cursor", ""))
        key = key_of(method, path, {**query, "cursor": cursor})
        turns = self.turns.get(key)
        if not turns:
            near = "".join(f"; similar: {k}" for k in difflib.get_close_matches(str(key), map(str, self.turns), n=2))
            message = f"not recorded: {key}{near}; `replay.py --list` shows all recordings"
            return {"status": 404, "body": {"error": {"code": "NotFoundError", "message": message}}}
        exchange = turns.pop(0) if len(turns) > 1 and not offset else turns[0]
        body = exchange.get("body")
        if isinstance(body, dict) and isinstance(body.get("data"), dict | list):
            return exchange | {"body": self.cut(body, key, query, offset)}
        return exchange

    def cut(self, body: dict[str, Any], key: RequestKey, query: Mapping[str, str], offset: int) -> dict[str, Any]:
        """Return the part of a JSON body that the parameters of the request select."""
        data, excluded = body["data"], query.get("exclude_attributes", "").split(",")
        if isinstance(data, dict):
            return body | {"data": without_attributes(data, excluded)}
        end = offset + int(query.get("limit") or len(data))
        cursor = (body.get("meta") or {}).get("cursor")
        if end < len(data):
            body = with_cursor(body, f"replay-{end}-{dict(key.query).get('cursor', '')}")
        elif cursor and key_of(key.method, key.path, dict(key.query) | {"cursor": cursor}) not in self.turns:
            body = with_cursor(body, None)  # the page after this one was not recorded
        return body | {"data": [without_attributes(item, excluded) for item in data[offset:end]]}


class Recorder:
    """Sends the command's requests to the real VirusTotal with the user's key, and saves the responses in `folder`.

    Neither the command nor a file sees the key.
    """

    def __init__(self, folder: Path) -> None:
        self.key, _ = find_key(None)
        self.host = (os.environ.get("VT_HOST") or "https://www.virustotal.com").rstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.old = folder, load(folder)
        self.saved: dict[RequestKey, list[Exchange]] = {}
        self.signed: dict[str, str] = {}  # a storage URL as it is recorded: the same with its signature
        self.requests = self.unsaved = 0
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=300)
        self.session = aiohttp.ClientSession(trust_env=True, timeout=timeout)

    async def respond(self, request: web.Request, path: str) -> Exchange:
        """Return the real response. Transient failures and 429 are not saved: they say nothing about the request."""
        url = self.signed.get(path)
        headers = {k: v for k, v in request.headers.items() if k.lower() in ("content-type", "user-agent", "x-tool")}
        if not url:
            url = self.host + request.raw_path.replace(f"/users/{DUMMY_KEY}", f"/users/{self.key}")
            headers["X-Apikey"] = self.key
        self.requests += 1
        try:
            async with self.session.request(
                request.method,
                yarl.URL(url, encoded=True),
                data=await request.read() or None,
                headers=headers,
                allow_redirects=False,
            ) as response:
                exchange = self.describe(request, path, response, await response.read())
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            message = f"{type(error).__name__}: {error}".replace(self.key, DUMMY_KEY)
            return {"status": 502, "body": {"error": {"code": "TransientError", "message": message}}}
        if exchange["status"] != 429 and exchange["status"] < 500:
            try:
                self.save(exchange)
            except OSError as error:  # the response cost quota: the command still gets it
                self.unsaved += 1
                log(f"error: {key_of_exchange(exchange)} is not saved: {error}")
        return exchange

    def describe(self, request: web.Request, path: str, response: aiohttp.ClientResponse, body: bytes) -> Exchange:
        """Return the exchange, without the key and without the signature of a storage URL."""
        body = body.replace(self.key.encode(), DUMMY_KEY.encode())
        names = ["Location", "Retry-After"] + ["Content-Type"] * (response.content_type != "application/json")
        headers = {
            name: response.headers[name].replace(self.key, DUMMY_KEY) for name in names if name in response.headers
        }
        exchange = {
            "shows": f"Recorded from {response.url.host}.",
            "method": request.method,
            "path": path,
            "query": dict(request.query),
            "status": response.status,
        }
        exchange |= ({"headers": headers} if headers else {}) | decode_body(body, response.content_type)
        return replace_link(exchange, lambda link: self.unsign(response.url.join(yarl.URL(link))))

    def unsign(self, target: yarl.URL) -> str:
        """Return the path of a link to VirusTotal. A link to storage loses its signature, which anyone could use."""
        if target.host == yarl.URL(self.host).host:
            return target.raw_path_qs
        recorded = str(target.with_user(None).with_query(None).with_fragment(None))
        self.signed[recorded] = str(target)
        return recorded

    def save(self, exchange: Exchange) -> None:
        """Write the file. The first response to a request replaces what was recorded of it, including its next pages.

        An error replaces no good response: an expired key would cost every recording.
        """
        key = key_of_exchange(exchange)
        turns = self.saved.setdefault(key, [])
        stale = [
            path
            for path, old in self.old.items()
            if key in (key_of_exchange(old), first_page_key(key_of_exchange(old)))
        ]
        failed = exchange["status"] >= 400 and any(self.old[path]["status"] < 400 for path in stale)
        if failed or turns[-1:] == [exchange]:
            return
        turns.append(exchange)
        # The words are for people; the digest distinguishes requests whose words are equal.
        words = re.sub("[^a-z0-9]+", "-", str(key).lower()).strip("-")[:80].rstrip("-")
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:8]
        target = self.folder / f"{words}-{digest}-{len(turns):03}.json"
        with atomic_write(target) as part:
            part.write_text(json.dumps(exchange, indent=1) + "\n", encoding="utf-8")
        for path in stale:
            del self.old[path]
            if path != target:
                path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def serve(respond: Responder) -> AsyncIterator[str]:
    """Serve responses on two loopback ports, and yield the URL of the first, which stands for VirusTotal.

    The second stands for all other hosts, so that a redirect to storage leaves VirusTotal's origin, as in reality.
    """

    async def handle(request: web.Request) -> web.Response:
        path = re.sub("^/(https?)/", r"\1://", request.rel_url.raw_path.removeprefix("/api/v3"))
        exchange = replace_link(await respond(request, path), lambda link: local_url(link, *origins))
        headers = {"Content-Type": "application/json"} | exchange.get("headers", {})
        return web.Response(status=exchange["status"], headers=headers, body=encode_body(exchange))

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        for _ in range(2):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        origins = [f"http://127.0.0.1:{port}" for _, port in runner.addresses]
        yield origins[0]
    finally:
        await runner.cleanup()


def with_uv(command: list[str]) -> list[str]:
    """Return the command, a .py file being run with uv, or else with this Python."""
    if not command[0].endswith(".py"):
        return command
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` sets UV
    if uv or importlib.util.find_spec("uv"):
        return [*([uv] if uv else [sys.executable, "-m", "uv"]), "run", "--script", *command]
    return [sys.executable, *command]


async def run_command(command: list[str], host: str) -> int:
    """Run `command` with `host` as its VirusTotal and a dummy key, pass signals on, and return its exit code.

    Raises UsageError when it cannot be started.
    """
    no_proxy = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1")))
    env = {"VT_HOST": host, "VT_API_KEY": DUMMY_KEY, "VTCLI_APIKEY": DUMMY_KEY}
    env |= {"NO_PROXY": no_proxy, "no_proxy": no_proxy}
    try:
        child = await asyncio.create_subprocess_exec(*with_uv(command), env=os.environ | env)
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from None

    def pass_on(number: int, _: object) -> None:
        if child.returncode is None and not (number == signal.SIGINT and in_foreground()):
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = await child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code  # as a shell reports a signal


def in_foreground() -> bool:
    """Return whether a terminal sends its Ctrl-C to this process, and so to the command, too."""
    with contextlib.suppress(OSError), open("/dev/tty") as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return os.name == "nt"


async def replay(command: list[str], folder: Path = RECORDINGS) -> int:
    """Run `command` against the recordings in `folder` and return its exit code. Raises UsageError."""
    async with serve(Player(load(folder).values()).respond) as host:
        return await run_command(command, host)


async def record(command: list[str], folder: Path) -> int:
    """Run `command` against the real VirusTotal, save the responses in `folder`, and return the exit code.

    Raises UsageError.
    """
    recorder = Recorder(folder)
    try:
        async with recorder.session, serve(recorder.respond) as host:
            return await run_command(command, host) or int(recorder.unsaved > 0)
    finally:
        saved = sum(map(len, recorder.saved.values()))
        log(f"{plural(saved, 'exchange')} recorded in {folder}, {plural(recorder.requests, 'request')}")


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=re.sub("\n\n(?= )", "\n\n\b\n", __doc__), context_settings={"allow_interspersed_args": False})
def main(
    command: Annotated[list[str] | None, typer.Argument(help="What to run, with its arguments.")] = None,
    recordings: Annotated[Path, typer.Option(help="The folder of recordings.")] = RECORDINGS,
    recording: Annotated[
        bool, typer.Option("--record", help="Ask the real VirusTotal and save its responses.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="Print one line for each recording, and stop.")] = False,
) -> int:
    """Replay, record, or list."""
    if not recording and not any(recordings.rglob("*.json")):
        raise UsageError(f"no recordings in {recordings}: name the folder with --recordings, or fill it with --record")
    if listing:
        for path, exchange in load(recordings).items():
            print(printable(f"{key_of_exchange(exchange)} -> {exchange['status']}  {exchange.get('shows', path.name)}"))
        return 0
    if not command:
        raise UsageError("no COMMAND, such as: scripts/search.py 'entity:domain p:3+'")
    if command[0].endswith(".py") and not Path(command[0]).is_file():
        raise UsageError(f"there is no file {command[0]}")
    return asyncio.run((record if recording else replay)(command, recordings))


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import tomllib
from collections.abc import Iterator


class UsageError(ValueError):
    """A mistake in an argument, the API key or the query; the message says what to do about it."""

    exit_code = 2


def printable(text: object) -> str:
    """Return `text` on one line, with control characters, bidi marks and lone surrogates escaped.

    VirusTotal's strings come from malware authors. `str.isprintable` is False for exactly those characters.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def log(message: object) -> None:
    """Print one line on stderr; stdout carries data only."""
    print(printable(message), file=sys.stderr, flush=True)


def plural(count: int, noun: str) -> str:
    """Return "1 match" or "2 matches"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


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


# [[[end]]]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # stops as Ctrl-C does
    sys.exit(cli(app))
