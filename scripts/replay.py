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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
import yarl
from aiohttp import web

RECORDINGS = Path(__file__).resolve().parent.parent / "tests" / "recordings"
DUMMY_KEY = "0" * 64  # what the command gets, and what a recording holds in place of the real key

# A recording, or the method, path and query of a request; tests/recordings/README.md describes the fields.
Exchange = dict[str, Any]


def key_of(exchange: Exchange, *ignored: str) -> str:
    """Return what identifies a request: method, path and query, without the parameters that replay applies itself.

    The query of another host's URL does not count: it is a signature.
    """
    query = {} if exchange["path"].startswith("http") else exchange["query"]
    ignored += ("limit", "exclude_attributes")
    compared = "&".join(sorted(f"{name}={value}" for name, value in query.items() if value and name not in ignored))
    return f"{exchange['method']} {urllib.parse.unquote(exchange['path'])}{compared and '?' + compared}"


def load(folder: Path) -> dict[Path, Exchange]:
    """Return the recordings in `folder` and below it, in the order of their names. Raises UsageError for a bad one."""
    exchanges = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            exchanges[path] = exchange = json.loads(path.read_text(encoding="utf-8"))
            key_of(exchange), encode_body(exchange), exchange["status"], exchange["shows"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not a recording: {type(error).__name__}: {error}") from None
    return exchanges


def encode_body(exchange: Exchange) -> bytes:
    """Return the body as it is sent: a feed's lines in bzip2, text, any bytes, or JSON."""
    if "lines" in exchange:
        return bz2.compress("".join(f"{json.dumps(line)}\n" for line in exchange["lines"]).encode())
    if "text" in exchange:
        return str(exchange["text"]).encode()
    return base64.b64decode(exchange["base64"]) if "base64" in exchange else json.dumps(exchange["body"]).encode()


def decode_body(body: bytes, content_type: str) -> Exchange:
    """Return the most readable field from which `encode_body` makes `body` again."""
    with contextlib.suppress(ValueError):
        return {"body": json.loads(body)} if content_type == "application/json" else {"text": body.decode()}
    return {"base64": base64.b64encode(body).decode()}


def replace_link(exchange: Exchange, replace: Callable[[str], str]) -> Exchange:
    """Replace where a response sends the client: the Location header, or a URL as `data` (an upload URL)."""
    headers, body = exchange.get("headers", {}), exchange.get("body")
    if "Location" in headers:
        return exchange | {"headers": headers | {"Location": replace(headers["Location"])}}
    if isinstance(body, dict) and re.match("https?://", str(body.get("data"))):
        return exchange | {"body": body | {"data": replace(body["data"])}}
    return exchange


def exclude(item: Any, names: list[str]) -> Any:
    """Return an object without the attributes `names`; everything else as it is."""
    if not isinstance(item, dict) or "attributes" not in item:
        return item
    return item | {"attributes": {name: v for name, v in item["attributes"].items() if name not in names}}


class Player:
    """Answer from recordings. Several responses to one request come in turn, in the order of the files."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.responses: dict[str, list[Exchange]] = {}
        for exchange in exchanges:
            self.responses.setdefault(key_of(exchange), []).append(exchange)

    async def respond(self, call: Exchange, request: web.Request | None = None) -> Exchange:
        """Return the recorded response, cut to the `limit` of the request, or a 404 that names similar recordings."""
        rest = re.fullmatch("replay-([0-9]+)-(.*)", call["query"].get("cursor", ""))  # ours: the rest of a page
        start = int(rest[1]) if rest else 0
        call = call | {"query": call["query"] | {"cursor": rest[2]}} if rest else call
        responses = self.responses.get(key_of(call))
        if not responses:
            near = "".join(f"; similar: {key}" for key in difflib.get_close_matches(key_of(call), self.responses, n=2))
            message = f"not recorded: {key_of(call)}{near}; `replay.py --list` shows all recordings"
            return {"status": 404, "body": {"error": {"code": "NotFoundError", "message": message}}}
        exchange = responses.pop(0) if len(responses) > 1 and not start else responses[0]  # the last one stays
        body = exchange.get("body")
        return exchange | {"body": self.select(body, call, start)} if isinstance(body, dict) else exchange

    def select(self, body: dict[str, Any], call: Exchange, start: int) -> dict[str, Any]:
        """Return the part of a body that `limit` and `exclude_attributes` select, a page from its object `start` on."""
        query, data, meta = call["query"], body.get("data"), body.get("meta") or {}
        excluded = query.get("exclude_attributes", "").split(",")
        if not isinstance(data, list):
            return body | {"data": exclude(data, excluded)} if data else body
        end, cursor = start + int(query.get("limit") or len(data)), meta.get("cursor")
        if end < len(data):
            cursor = f"replay-{end}-{query.get('cursor', '')}"
        elif key_of(call | {"query": query | {"cursor": cursor}}) not in self.responses:
            cursor = None  # the next page was not recorded
        if cursor != meta.get("cursor"):
            body = body | {"meta": meta | {"cursor": cursor}, "links": {}}
        return body | {"data": [exclude(item, excluded) for item in data[start:end]]}


class Recorder:
    """Answer from the real VirusTotal, with the user's key, and save the responses without it."""

    def __init__(self, folder: Path) -> None:
        self.key, _ = find_key(None)
        host = os.environ.get("VT_HOST") or "https://www.virustotal.com"
        if not re.match(r"https?://[^/\s]+/?$", host):
            raise UsageError(f"VT_HOST is {host}: expected a URL such as https://www.virustotal.com")
        folder.mkdir(parents=True, exist_ok=True)
        self.host, self.folder, self.old = yarl.URL(host), folder, load(folder)
        self.saved: dict[str, list[Exchange]] = {}
        self.requests = self.unsaved = 0
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=300)
        self.session = aiohttp.ClientSession(trust_env=True, timeout=timeout, middlewares=[self.authorize])

    async def authorize(self, request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        """Add the key, for VirusTotal only. aiohttp calls this for each redirect, too."""
        request.headers.pop("Authorization", None)  # trust_env takes it from ~/.netrc
        if request.url.origin() == self.host.origin():
            request.headers["X-Apikey"] = self.key
        return await handler(request)

    async def respond(self, call: Exchange, request: web.Request) -> Exchange:
        """Return the real response, redirects followed. A transient failure is not saved: a repetition would end it."""
        target = target_of(request).replace(f"/users/{DUMMY_KEY}", f"/users/{self.key}")
        headers = {k: v for k, v in request.headers.items() if k.lower() in ("content-type", "user-agent", "x-tool")}
        url, data = self.host.join(yarl.URL(target, encoded=True)), await request.read() or None
        self.requests += 1
        try:
            async with self.session.request(request.method, url, data=data, headers=headers) as response:
                content = (await response.read()).replace(self.key.encode(), DUMMY_KEY.encode())
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            log(f"{type(error).__name__}: {error}".replace(self.key, DUMMY_KEY))
            raise web.HTTPBadGateway from None
        kept = {name: response.headers[name] for name in ("Content-Type", "Retry-After") if name in response.headers}
        exchange = {"shows": f"Recorded from {self.host.host}.", **call, "status": response.status, "headers": kept}
        exchange |= decode_body(content, response.content_type)
        if response.status < 424:
            self.save(exchange)
        return exchange

    def save(self, exchange: Exchange) -> None:
        """Write a file. The first response to a request replaces what was recorded of it, including the next pages.

        An error replaces no good response: an expired key would cost every recording.
        """
        if exchange["path"].startswith("http"):
            exchange = exchange | {"query": {}}  # a signature
        exchange = replace_link(exchange, lambda link: link.partition("?")[0])
        key = key_of(exchange)
        replaced = [path for path, old in self.old.items() if key in (key_of(old), key_of(old, "cursor"))]
        failed = exchange["status"] >= 400 and any(self.old[path]["status"] < 400 for path in replaced)
        turns = self.saved.setdefault(key, [])
        if failed or turns[-1:] == [exchange]:
            return
        turns.append(exchange)
        words = re.sub("[^a-z0-9]+", "-", key.lower()).strip("-")[:80]  # for people; the digest is unique
        path = self.folder / f"{words}-{hashlib.sha256(key.encode()).hexdigest()[:8]}-{len(turns):03}.json"
        try:
            with atomic_write(path) as part:
                part.write_text(json.dumps(exchange, indent=1) + "\n", encoding="utf-8")
            for old in replaced:
                del self.old[old]
                if old != path:
                    old.unlink(missing_ok=True)
        except OSError as error:  # the command still gets the response, which cost quota
            self.unsaved += 1
            log(f"error: {key} is not saved: {error}")


def target_of(request: web.Request) -> str:
    """Return the path and query that a request is for; at another host, here /https/host/path, the whole URL."""
    return re.sub("^/(https?)/", r"\1://", request.raw_path)


@contextlib.asynccontextmanager
async def serve(respond: Callable[[Exchange, web.Request], Awaitable[Exchange]]) -> AsyncIterator[str]:
    """Serve responses on two loopback ports, and yield the URL of the first, which stands for VirusTotal.

    The second stands for all other hosts, so that a redirect to storage leaves VirusTotal's origin, as in reality.
    """

    def local(link: str) -> str:
        link = re.sub("^https?://www[.]virustotal[.]com(?=/)", "", link)
        return f"{virustotal}{link}" if link.startswith("/") else f"{other}/{link.replace('://', '/', 1)}"

    async def handle(request: web.Request) -> web.Response:
        path = target_of(request).partition("?")[0].removeprefix("/api/v3")
        call = {"method": request.method, "path": path, "query": dict(request.query)}
        exchange = replace_link(await respond(call, request), local)
        headers = {"Content-Type": "application/json"} | exchange.get("headers", {})
        return web.Response(status=exchange["status"], headers=headers, body=encode_body(exchange))

    server = web.Application(client_max_size=1 << 30)
    server.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        for _ in range(2):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        virustotal, other = (f"http://127.0.0.1:{port}" for _, port in runner.addresses)
        yield virustotal
    finally:
        await runner.cleanup()


async def run_command(command: list[str], host: str) -> int:
    """Run `command` with `host` as its VirusTotal and a dummy key; return its exit code, 128 + N for the signal N.

    Raises UsageError when it cannot be started.
    """
    if command[0].endswith(".py"):
        uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` sets UV
        python = [sys.executable, "-m", "uv", "run", "--script"] if importlib.util.find_spec("uv") else [sys.executable]
        command = ([uv, "run", "--script"] if uv else python) + command
    no_proxy = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1")))
    env = {"VT_HOST": host, "NO_PROXY": no_proxy, "no_proxy": no_proxy}
    env |= {"VT_API_KEY": DUMMY_KEY, "VTCLI_APIKEY": DUMMY_KEY}
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command by itself, which decides how to end
    try:
        child = await asyncio.create_subprocess_exec(*command, env=os.environ | env)
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from None
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = await child.wait()
    return 128 - code if code < 0 else code


async def replay(command: list[str], folder: Path = RECORDINGS) -> int:
    """Run `command` against the recordings in `folder` and return its exit code. Raises UsageError."""
    async with serve(Player(load(folder).values()).respond) as host:
        return await run_command(command, host)


async def record(command: list[str], folder: Path) -> int:
    """Run `command` against VirusTotal, record it in `folder` and return its exit code. Raises UsageError."""
    recorder = Recorder(folder)
    async with recorder.session, serve(recorder.respond) as host:
        code = await run_command(command, host)
    saved = sum(map(len, recorder.saved.values()))
    log(f"{plural(saved, 'exchange')} recorded in {folder}, {plural(recorder.requests, 'request')}")
    return code or int(recorder.unsaved > 0)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__, context_settings={"allow_interspersed_args": False})
def main(
    command: Annotated[list[str] | None, typer.Argument(help="What to run, with its arguments.")] = None,
    folder: Annotated[
        Path, typer.Option("--recordings", help="A folder of recordings.", show_default="tests/recordings")
    ] = RECORDINGS,
    recording: Annotated[bool, typer.Option("--record", help="Ask the real VirusTotal, save its responses.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Print one line for each recording, and stop.")] = False,
) -> int:
    """Replay, record, or list."""
    if not recording and not any(folder.rglob("*.json")):
        raise UsageError(f"no recordings in {folder}: name a folder with --recordings, or fill it with --record")
    if listing:
        for exchange in load(folder).values():
            print(printable(f"{key_of(exchange)} -> {exchange['status']}  {exchange['shows']}"))
        return 0
    if not command:
        raise UsageError("no COMMAND, such as: scripts/search.py 'entity:domain p:3+'")
    return asyncio.run((record if recording else replay)(command, folder))


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import tomllib
from collections.abc import Iterator
from typing import NoReturn


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


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


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
    run_script(app)
