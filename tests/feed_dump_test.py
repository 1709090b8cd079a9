from __future__ import annotations

import bz2
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import KEY, Handler, Run, Server, error

START = "209611220058"  # two minutes before an hour's end: the layout's folders change within each test's range


def minutes(first: int, number: int) -> list[str]:
    """The `number` minutes from 2096-11-22 00:00 + `first` on, by name: by no clock are they too old for the feeds."""
    return [f"20961122{m // 60:02d}{m % 60:02d}" for m in range(first, first + number)]


def lines(minute: str, number: int = 5) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "id": f"{minute}{i:052d}",
            "attributes": {"size": i, "tags": ["peexe", "signed"][: i % 3], "last_analysis_date": 1_700_000_000 + i},
        }
        for i in range(number)
    ]


def package(objects: Iterable[dict[str, Any]]) -> bytes:
    return bz2.compress(b"".join(json.dumps(o).encode() + b"\n" for o in objects))


def body(content: bytes) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=content, content_type="application/octet-stream")

    return handle


def publish(server: Server, names: Iterable[str], feed: str = "files") -> dict[str, bytes]:
    """Puts a package for each minute on the server; gives them by name. What comes later is not available yet."""
    packages = {name: package(lines(name)) for name in names}
    server.answer(f"/feeds/{feed}/*", error(400, "NotAvailableYet"))
    for name, content in packages.items():
        server.answer(f"/feeds/{feed}/{name}", body(content))
    return packages


def files(out: Path) -> dict[str, bytes]:
    """Every file of a dump by its path, but for what runs agree on (.feed_dump)."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".feed_dump")
    }


def layout(name: str, suffix: str = ".jsonl.bz2") -> str:
    mark = "" if suffix in (".jsonl.bz2", ".jsonl.zst", ".parquet") else "_"
    return f"date={name[:4]}-{name[4:6]}-{name[6:8]}/hour={name[8:10]}/{mark}{name}{suffix}"


def test_a_range_is_on_disk_byte_for_byte_and_asked_for_once(server: Server, run: Run, tmp_path: Path) -> None:
    packages = publish(server, minutes(58, 4))
    result = run("feed_dump", "files", "--from", START, "--to", "209611220102", "--out", tmp_path / "d", server=server)
    assert result.returncode == 0, result.stderr
    assert files(tmp_path / "d") == {layout(name): content for name, content in packages.items()}
    assert sorted(server.paths) == [f"GET /feeds/files/{name}" for name in packages]
    assert "4 minutes (20 lines" in result.stderr.splitlines()[-1]
    again = run("feed_dump", "files", "--from", START, "--to", "209611220102", "--out", tmp_path / "d", server=server)
    assert again.returncode == 0 and len(server.paths) == 4
    assert "4 were there" in again.stderr


def test_the_key_does_not_follow_the_redirect_to_the_storage(
    server: Server, other_host: Server, run: Run, tmp_path: Path
) -> None:
    content = package(lines(START))

    async def redirect(request: web.Request) -> web.Response:
        assert request.headers["x-apikey"] == KEY
        raise web.HTTPFound(f"{other_host.url}/storage/{START}")

    server.answer(f"/feeds/files/{START}", redirect)
    other_host.answer(f"/storage/{START}", body(content))
    result = run("feed_dump", "files", "--from", START, "--to", "209611220059", "--out", tmp_path / "d", server=server)
    assert result.returncode == 0, result.stderr
    assert files(tmp_path / "d") == {layout(START): content}
    assert len(other_host.seen) == 1
    assert KEY not in str([r.headers for r in other_host.seen])


@pytest.mark.parametrize("code", ["NotAvailableYet", "NotAvailableYetError"])
def test_without_to_the_server_says_where_the_range_ends(server: Server, run: Run, tmp_path: Path, code: str) -> None:
    packages = publish(server, minutes(58, 3))
    server.answer("/feeds/files/*", error(400, code))
    result = run("feed_dump", "files", "--from", START, "--out", tmp_path / "d", server=server)
    assert result.returncode == 0, result.stderr
    assert set(files(tmp_path / "d")) == {layout(name) for name in packages}


def test_a_lone_404_is_marked_and_asked_for_again_only_on_demand(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, minutes(58, 3))
    server.answer("/feeds/files/209611220059", error(404, "NotFoundError"), body(package(lines("209611220059"))))
    args = ("feed_dump", "files", "--from", START, "--to", "209611220101", "--out", tmp_path / "d")
    assert run(*args, server=server).returncode == 0
    assert layout("209611220059", ".missing") in files(tmp_path / "d")
    seen = len(server.seen)
    assert run(*args, server=server).returncode == 0
    assert len(server.seen) == seen
    assert run(*args, "--recheck-missing", server=server).returncode == 0
    assert set(files(tmp_path / "d")) == {layout(name) for name in minutes(58, 3)}


def test_several_404s_in_a_row_are_an_error_and_leave_no_marks(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, minutes(58, 8))
    for name in minutes(60, 4):
        server.answer(f"/feeds/files/{name}", error(404, "NotFoundError"))
    result = run("feed_dump", "files", "--from", START, "--to", "209611220106", "--out", tmp_path / "d", server=server)
    assert result.returncode == 3
    assert "209611220100 to 209611220103" in result.stderr.splitlines()[-1]
    assert not list((tmp_path / "d").rglob("*.missing"))
    assert len(files(tmp_path / "d")) == 4
