"""What the tests share: a VirusTotal on loopback that answers as a test says, and a way to run a script as its user."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
RECORDINGS = ROOT / "tests" / "recordings"
KEY = "4ece9e3c0ffee000000000000000000000000000000000000000000000000000"  # nobody's

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error(status: int, code: str, message: str = "", **headers: str) -> Handler:
    """Answers an error as VirusTotal words it."""

    async def handle(request: web.Request) -> web.Response:
        body = {"error": {"code": code, "message": message or code}}
        return web.json_response(body, status=status, headers=headers)

    return handle


def html(status: int = 502) -> Handler:
    """Answers what a proxy on the way says in VirusTotal's place."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, text="<html><h1>Bad gateway</h1></html>", content_type="text/html")

    return handle


class Server:
    """A VirusTotal on a free loopback port. `answer(path, handler)` says what a path (below /api/v3) gets.

    `seen` lists what was asked: web.Request objects, in order.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.seen: list[web.Request] = []
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
        raw = request.raw_path.partition("?")[0].removeprefix("/api/v3")
        handler = self.handlers.get(raw) or next(
            (h for p, h in self.handlers.items() if p.endswith("*") and raw.startswith(p[:-1])), None
        )
        return await (handler or error(404, "NotFoundError", f"{raw} not found"))(request)

    def answer(self, path: str, *answers: Handler | dict[str, Any]) -> None:
        """The `answers` in turn, the last for ever: a JSON body, or a handler. A `path` ending in * is a prefix."""
        queue = list(answers)

        async def handle(request: web.Request) -> web.StreamResponse:
            current = queue.pop(0) if len(queue) > 1 else queue[0]
            return web.json_response(current) if isinstance(current, dict) else await current(request)

        self.handlers[path] = handle

    @property
    def paths(self) -> list[str]:
        """What was asked: method, path below /api/v3 and query."""
        return [f"{r.method} {r.raw_path.removeprefix('/api/v3')}" for r in self.seen]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


# Misfortunes, as handlers.
async def reset(request: web.Request) -> web.StreamResponse:
    """The connection breaks before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def truncated(request: web.Request) -> web.StreamResponse:
    """Half of what Content-Length announced, then the connection ends."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def silence(request: web.Request) -> web.StreamResponse:
    """No answer within any test's patience."""
    await asyncio.sleep(60)
    return web.Response()


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


def environment(tmp_path: Path, server: Server | None = None, **extra: str) -> dict[str, str]:
    """A user's environment: nothing of VirusTotal's but what a test says, an empty home, no proxy."""
    ours = ("VT_", "VTCLI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "COLUMNS")
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith(ours)}
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    env |= {"HOME": str(home), "USERPROFILE": str(home), "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if server:
        env |= {"VT_HOST": server.url, "VT_API_KEY": KEY, "VT_MAX_WAIT": "4"}
    return env | extra


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script as its user does and gives back what it printed and its exit code.

    `run("retrohunt", "list", server=server, VT_RATE="4")`. Whatever it does: no traceback, no key.
    """

    def run_script(
        name: str,
        *args: object,
        server: Server | None = None,
        stdin: str | None = None,
        timeout: float = 90,
        cwd: Path | None = None,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, args)],
            env=environment(tmp_path, server, **env),
            cwd=cwd or tmp_path,
            input=stdin or "",
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )
        assert "Traceback" not in result.stderr, result.stderr
        assert KEY not in result.stdout + result.stderr
        return result

    return run_script


@pytest.fixture
def uv() -> str:
    """The uv that runs the scripts."""
    found = os.environ.get("UV") or shutil.which("uv")  # uv tells what it runs where it is
    assert found, "uv is needed: python3 -m pip install uv"
    return found
