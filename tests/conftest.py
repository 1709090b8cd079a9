"""What the tests share: a VirusTotal on loopback that answers as a test says, and two ways to run a script."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from aiohttp import web

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
RECORDINGS = ROOT / "tests" / "recordings"
KEY = "4ece9e3c0ffee000000000000000000000000000000000000000000000000000"  # nobody's

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# ---- Answers


def error(status: int, code: str, message: str = "", **headers: str) -> Handler:
    """Answer an error in VirusTotal's form."""

    async def handle(request: web.Request) -> web.Response:
        body = {"error": {"code": code, "message": message or code}}
        return web.json_response(body, status=status, headers=headers)

    return handle


def html(status: int = 502) -> Handler:
    """Answer what a proxy on the way says in VirusTotal's place."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, text="<html><h1>Bad gateway</h1></html>", content_type="text/html")

    return handle


def body(content: bytes, content_type: str = "application/octet-stream") -> Handler:
    """Answer a download."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=content_type)

    return handle


def redirect(location: str) -> Handler:
    """Answer 302, as the feeds and the downloads do."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    return handle


async def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def truncated(request: web.Request) -> web.StreamResponse:
    """Send less than Content-Length announced, then end the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def silence(request: web.Request) -> web.StreamResponse:
    """Answer nothing within any test's patience."""
    await asyncio.sleep(60)
    return web.Response()


# The transient failures of the threat model, each as the answer to one request.
TRANSIENT: dict[str, Handler] = {
    "429": error(429, "TooManyRequestsError"),
    "429 with Retry-After": error(429, "QuotaExceededError", **{"Retry-After": "0"}),
    "503": error(503, "TransientError"),
    "502 HTML": html(502),
    "reset": reset,
    "truncated": truncated,
}


class Server:
    """A VirusTotal on a free loopback port. `answer(path, …)` sets what a path (below /api/v3) gets.

    `seen` lists the requests (web.Request) in order; `paths` what they asked for.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.seen: list[web.Request] = []
        self.faults: dict[int, Handler] = {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        await request.read()
        if fault := self.faults.pop(len(self.seen), None):
            return await fault(request)
        raw = request.raw_path.partition("?")[0].removeprefix("/api/v3")
        handler = self.handlers.get(raw) or next(
            (h for p, h in self.handlers.items() if p.endswith("*") and raw.startswith(p[:-1])), None
        )
        return await (handler or error(404, "NotFoundError", f"{raw} not found"))(request)

    def answer(self, path: str, *answers: Handler | dict[str, Any]) -> None:
        """Give the `answers` in turn, the last for ever: JSON or a handler. A `path` that ends in * is a prefix."""
        queue = list(answers)

        async def handle(request: web.Request) -> web.StreamResponse:
            current = queue.pop(0) if len(queue) > 1 else queue[0]
            return web.json_response(current) if isinstance(current, dict) else await current(request)

        self.handlers[path] = handle

    def fail(self, number: int, fault: Handler) -> None:
        """Answer the `number`th request (from 1) with `fault`."""
        self.faults[number] = fault

    def serve_recordings(self, prefix: str = "") -> None:
        """Answer from tests/recordings/, each file by its method, path and query; `limit` is not compared."""
        for path in sorted(RECORDINGS.rglob("*.json")):
            exchange = json.loads(path.read_text(encoding="utf-8"))
            if exchange["path"].startswith(prefix or "/") and "body" in exchange:
                self._serve(exchange)

    def _serve(self, exchange: dict[str, Any]) -> None:
        previous = self.handlers.get(exchange["path"])

        async def handle(request: web.Request) -> web.StreamResponse:
            query = {name: value for name, value in request.query.items() if name != "limit"}
            if request.method == exchange["method"] and query == exchange.get("query", {}):
                return web.json_response(exchange["body"], status=exchange["status"])
            return await (previous or error(404, "NotFoundError", "not recorded"))(request)

        self.handlers[exchange["path"]] = handle

    @property
    def paths(self) -> list[str]:
        """What was requested: method, path below /api/v3 and query."""
        return [f"{r.method} {r.raw_path.removeprefix('/api/v3')}" for r in self.seen]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def other_host() -> Iterator[Server]:
    """A second host (another origin), such as the storage that feeds redirect to."""
    running = Server()
    yield running
    running.close()


# ---- Running a script


class Result(NamedTuple):
    """What a run printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON Lines on stdout."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def last_line(self) -> str:
        return self.stderr.splitlines()[-1] if self.stderr else ""


def environment(tmp_path: Path, server: Server | None = None, **extra: str) -> dict[str, str]:
    """Return a user's environment: nothing of VirusTotal's but what a test says, an empty home, no proxy."""
    ours = ("VT_", "VTCLI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "COLUMNS")
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith(ours)}
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    env |= {"HOME": str(home), "USERPROFILE": str(home), "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if server:
        env |= {"VT_HOST": server.url, "VT_API_KEY": KEY, "VT_MAX_WAIT": "4"}
    return env | extra


def load(name: str) -> ModuleType:
    """Import a script, with its delays shortened."""
    module = importlib.import_module(name)
    vars(module)["SECOND"] = 0.01
    return module


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a script in this process, in an empty folder, against `server`: `run("search", "entity:url p:3+")`.

    Whatever it does, it prints no traceback and no key. Keyword arguments are environment variables; `stdin` is text.
    """
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run_script(name: str, *args: object, stdin: str | bytes = "", **env: str) -> Result:
        module = load(name)
        content = stdin.encode() if isinstance(stdin, str) else stdin
        with monkeypatch.context() as patch:
            for variable in [v for v in os.environ if v.startswith(("VT_", "VTCLI_"))]:
                patch.delenv(variable)
            for variable, value in environment(tmp_path, server, **env).items():
                patch.setenv(variable, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
            capsys.readouterr()
            code = module.cli(getattr(module, "app", None) or module.main, [str(arg) for arg in args])
            out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        assert KEY not in out + err
        return Result(code, out, err)

    return run_script


def start(
    name: str,
    *args: object,
    tmp_path: Path,
    server: Server | None = None,
    background: bool = False,
    stdout: Any = subprocess.PIPE,
    **env: str,
) -> subprocess.Popen[str]:
    """Start a script as a process of its own, for what only a process shows: a signal, a closed pipe.

    In the `background`, SIGINT is ignored, as a shell script's & has it.
    """
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, args)],
        env=environment(tmp_path, server, **env),
        cwd=tmp_path,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if background else None,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


# ---- Objects


def file_object(number: int = 0, **attributes: Any) -> dict[str, Any]:
    """Return a file as VirusTotal answers it, its id derived from `number`."""
    stats = {"malicious": number % 70, "undetected": 70 - number % 70}
    return {
        "type": "file",
        "id": f"{number:064x}",
        "links": {"self": f"https://www.virustotal.com/api/v3/files/{number:064x}"},
        "attributes": {"meaningful_name": f"sample-{number}.exe", "size": 1000 + number, "last_analysis_stats": stats}
        | attributes,
    }


def collection(*objects: dict[str, Any], cursor: str | None = None, **meta: Any) -> dict[str, Any]:
    """Return one page of a collection."""
    return {"data": list(objects), "meta": meta | ({"cursor": cursor} if cursor else {}), "links": {"self": "…"}}
