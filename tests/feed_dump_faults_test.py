"""What a run makes of a server's and a disk's misfortunes: nothing broken is published, nothing good is given up."""

from __future__ import annotations

import asyncio
import bz2
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import feed_dump
import pytest
from aiohttp import web
from conftest import KEY, SCRIPTS, Handler, Run, Server, environment, error, html, reset, silence
from feed_dump_test import body, files, layout, lines, minutes, package, publish

NAMES = minutes(0, 12)
FAULTY = NAMES[5]
GOOD = package(lines(FAULTY))


def cut(content: bytes) -> Handler:
    """Announces the whole, sends half and breaks the connection."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response

    return handle


def hang(content: bytes) -> Handler:
    """Sends half, then nothing within any test's patience."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        await asyncio.sleep(60)
        return response

    return handle


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"B")
        await asyncio.sleep(0.1)


CORRUPT = GOOD[:40] + bytes([GOOD[40] ^ 0xFF]) + GOOD[41:]
FAULTS: dict[str, Handler] = {
    "429": error(429, "TooManyRequestsError", **{"Retry-After": "1"}),
    "503": error(503, "TransientError"),
    "a proxy's HTML": html(502),
    "reset before the answer": reset,
    "reset in mid-body": cut(GOOD),
    "truncated bzip2": body(GOOD[: len(GOOD) // 2]),
    "corrupt bzip2": body(CORRUPT),
    "garbage after the bzip2": body(GOOD + b"\0\0<html>"),
    "an empty body": body(b""),
    "HTML in place of bzip2": body(b"<html>come back later</html>"),
    "silence": silence,
    "a hang in mid-body": hang(GOOD),
    "a drip": drip,
    "one endless line": body(bz2.compress(bytes(257 << 20))),
    "an expired link of the storage": html(403),
}


MANY = minutes(0, 3 * len(FAULTS))
FAULT_OF = dict(zip(MANY[1::3], FAULTS, strict=True))  # a minute for each, good ones around it
ALL = ("--from", MANY[0], "--to", minutes(len(MANY), 1)[0], "--jobs", 2 * len(FAULTS))


def test_faults_that_heal_are_met_by_asking_again(server: Server, run: Run, tmp_path: Path) -> None:
    packages = publish(server, MANY)
    for name, fault in FAULT_OF.items():
        # Twice: aiohttp itself repeats a GET whose kept connection is reset. A hang takes a fifth of VT_MAX_WAIT.
        times = 1 if FAULTS[fault] in (silence, drip) or "hang" in fault else 2
        server.answer(f"/feeds/files/{name}", *[FAULTS[fault]] * times, body(packages[name]))
    result = run("feed_dump", "files", *ALL, "--out", tmp_path / "d", server=server, VT_MAX_WAIT="30")
    assert result.returncode == 0, result.stderr
    assert files(tmp_path / "d") == {layout(name): content for name, content in packages.items()}
    for name, fault in FAULT_OF.items():
        assert re.search(f"{name}: .*asking again", result.stderr), fault


def test_faults_that_stay_are_reported_and_never_published(server: Server, run: Run, tmp_path: Path) -> None:
    packages = publish(server, MANY)
    faulty = {name: fault for name, fault in FAULT_OF.items() if fault != "429"}  # that one ends the run
    for name, fault in faulty.items():
        server.answer(f"/feeds/files/{name}", FAULTS[fault])
    args = ("feed_dump", "files", *ALL, "--out", tmp_path / "d")
    result = run(*args, server=server, VT_MAX_WAIT="10")
    assert result.returncode == 3
    assert f"failed: {', '.join(sorted(faulty))};" in result.stderr.splitlines()[-1]
    good = {layout(name): content for name, content in packages.items()}
    assert files(tmp_path / "d") == {path: content for path, content in good.items() if path[-22:-10] not in faulty}
    for name in faulty:
        server.answer(f"/feeds/files/{name}", body(packages[name]))
    asked = len(server.seen)
    assert run(*args, server=server).returncode == 0
    assert sorted(server.paths[asked:]) == [f"GET /feeds/files/{name}" for name in sorted(faulty)]
    assert files(tmp_path / "d") == good


def test_an_exhausted_quota_ends_the_run_with_4_and_what_is_done_is_kept(
    server: Server, run: Run, tmp_path: Path
) -> None:
    publish(server, NAMES)
    server.answer(f"/feeds/files/{FAULTY}", error(429, "QuotaExceededError", "Quota exceeded"))
    args = ("feed_dump", "files", "--from", NAMES[0], "--to", minutes(12, 1)[0], "--out", tmp_path / "d", "--jobs", 1)
    result = run(*args, server=server)
    assert result.returncode == 4
    assert "QuotaExceededError" in result.stderr.splitlines()[-1]
    assert set(files(tmp_path / "d")) == {layout(name) for name in NAMES[:5]}


@pytest.mark.parametrize(("status", "code"), [(401, "WrongCredentialsError"), (403, "ForbiddenError")])
def test_a_refused_key_ends_the_run_with_2_after_one_request(
    server: Server, run: Run, tmp_path: Path, status: int, code: str
) -> None:
    server.answer("/feeds/*", error(status, code, f"Wrong key {KEY}"))
    result = run("feed_dump", "files", "--from", "3h", "--out", tmp_path / "d", server=server)
    assert result.returncode == 2 and code in result.stderr
    assert len(server.seen) == 1
    assert files(tmp_path / "d") == {}


def test_a_404_of_the_storage_is_not_virustotals_word(
    server: Server, other_host: Server, run: Run, tmp_path: Path
) -> None:
    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{other_host.url}/storage")

    server.answer(f"/feeds/files/{FAULTY}", redirect)
    other_host.answer("/storage", html(404))
    args = ("feed_dump", "files", "--from", FAULTY, "--to", NAMES[6], "--out", tmp_path / "d")
    result = run(*args, server=server)
    assert result.returncode == 3 and f"failed: {FAULTY}" in result.stderr
    assert files(tmp_path / "d") == {}


def test_several_streams_in_a_row_are_one_package(server: Server, run: Run, tmp_path: Path) -> None:
    content = package(lines(FAULTY)) + package(lines(NAMES[6])) + package([])
    server.answer(f"/feeds/files/{FAULTY}", body(content))
    args = ("feed_dump", "files", "--from", FAULTY, "--to", NAMES[6])
    result = run(*args, "--out", tmp_path / "d", server=server)
    assert result.returncode == 0 and "10 lines" in result.stderr
    assert files(tmp_path / "d") == {layout(FAULTY): content}
    assert run(*args, "--out", tmp_path / "z", "--format", "zst", server=server).returncode == 0
    assert read_zst(tmp_path / "z" / layout(FAULTY, ".jsonl.zst")) == bz2.decompress(content)


def read_zst(path: Path) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read()


NO_JSON = [b'{"id": 1', b"<html>", b'{"a": NaN}', b'{"a": "\xff"}', b"5", b'{"a": 1}{"b": 2}', b"{}\x00"]


@pytest.mark.parametrize("form", ["bz2", "zst"])
@pytest.mark.parametrize("bad", NO_JSON)
def test_a_line_that_stays_broken_costs_only_itself(
    server: Server, run: Run, tmp_path: Path, bad: bytes, form: str
) -> None:
    good = bz2.decompress(GOOD)
    content = bz2.compress(good[: good.index(b"\n") + 1] + bad + b"\n" + good[good.index(b"\n") + 1 :])
    server.answer(f"/feeds/files/{FAULTY}", body(content))
    args = ("feed_dump", "files", "--from", FAULTY, "--to", NAMES[6], "--out", tmp_path / "d", "--format", form)
    result = run(*args, server=server)
    assert result.returncode == 3
    assert "1 of 6 lines are not JSON" in result.stderr
    assert len(server.seen) == 2, "asked again once"
    if form == "bz2":
        assert files(tmp_path / "d") == {layout(FAULTY): content}
    else:
        assert read_zst(tmp_path / "d" / layout(FAULTY, ".jsonl.zst")) == good
        assert files(tmp_path / "d")[layout(FAULTY, ".rejected")] == bad + b"\n"
    verified = run("feed_dump", "verify", tmp_path / "d")
    assert verified.returncode == 0 and " 1 lines not JSON" in verified.stderr
    path = layout(FAULTY, ".jsonl.bz2" if form == "bz2" else ".rejected")
    assert verified.stdout == f"not JSON\t{tmp_path / 'd' / path}\t1 lines\n"


def test_a_line_hurt_on_its_way_is_whole_when_asked_again(server: Server, run: Run, tmp_path: Path) -> None:
    server.answer(f"/feeds/files/{FAULTY}", body(bz2.compress(b'{"id": \n')), body(GOOD))
    args = ("feed_dump", "files", "--from", FAULTY, "--to", NAMES[6], "--out", tmp_path / "d")
    assert run(*args, server=server).returncode == 0
    assert files(tmp_path / "d") == {layout(FAULTY): GOOD}


def test_what_json_allows_is_no_broken_line(server: Server, run: Run, tmp_path: Path) -> None:
    odd = [b'{"a": "\\ud800"}', b'{"a": "\xe2\x80\xae"}', b'  {"a": 1e999} \r', b"", b'{"a": ' + b"9" * 400 + b"}"]
    server.answer(f"/feeds/files/{FAULTY}", body(bz2.compress(b"\n".join(odd))))  # no line end at the end either
    args = ("feed_dump", "files", "--from", FAULTY, "--to", NAMES[6], "--out", tmp_path / "d", "--format", "zst")
    result = run(*args, server=server)
    assert result.returncode == 0 and "(4 lines" in result.stderr, result.stderr
    assert read_zst(tmp_path / "d" / layout(FAULTY, ".jsonl.zst")) == b"\n".join([*odd[:3], odd[4], b""])


@pytest.mark.skipif(os.name != "posix", reason="a limit on a file's size stands in for the full disk")
@pytest.mark.parametrize("form", ["bz2", "zst"])
def test_a_full_disk_ends_the_run_with_whole_files_only(server: Server, tmp_path: Path, form: str) -> None:
    import resource

    packages = publish(server, NAMES)
    # Noise does not compress, so each format meets the limit.
    packages[FAULTY] = package([{"id": os.urandom(30_000).hex()}])
    server.answer(f"/feeds/files/{FAULTY}", body(packages[FAULTY]))
    result = subprocess.run(
        [
            sys.executable, SCRIPTS / "feed_dump.py", "files", "--from", NAMES[0], "--to", minutes(12, 1)[0],
            "--out", tmp_path / "d", "--format", form, "--jobs", "1",
        ],
        env=environment(tmp_path, server), capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert f"cannot write to {tmp_path / 'd'}: File too large" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    suffix = f".jsonl.{form}"
    assert set(files(tmp_path / "d")) == {layout(name, suffix) for name in NAMES[:5]}
    assert run_verify(tmp_path) == 0


def test_a_disk_that_is_full_when_a_404_is_marked_ends_the_run_likewise(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    publish(server, NAMES)
    server.answer(f"/feeds/files/{NAMES[2]}", error(404, "NotFoundError"))
    monkeypatch.setattr(feed_dump.Run, "mark_missing", full)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    first = feed_dump.named(NAMES[0])
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    run = asyncio.run(feed_dump.feed_dump(dump, first, first + 12, jobs=1))
    assert run.ended == (f"cannot write to {dump.out}: No space left on device", 1)
    assert run.published == 2 and run.failed == {first + 2}
    assert feed_dump.summary(run, 0) == 1


def run_verify(tmp_path: Path) -> int:
    command = [sys.executable, SCRIPTS / "feed_dump.py", "verify", tmp_path / "d"]
    return subprocess.run(command, env=environment(tmp_path), capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("form", ["bz2", "zst", "parquet"])
def test_verify_names_what_is_damaged_and_what_is_not_there(
    server: Server, run: Run, tmp_path: Path, form: str
) -> None:
    publish(server, NAMES)
    out, suffix = tmp_path / "d", ".parquet" if form == "parquet" else f".jsonl.{form}"
    args = ("--from", NAMES[0], "--to", minutes(12, 1)[0], "--out", out, "--format", form)
    run("feed_dump", "files", *args, server=server)
    assert run("feed_dump", "verify", out).returncode == 0
    cut, flipped, empty = (out / layout(name, suffix) for name in NAMES[2:5])
    cut.write_bytes(cut.read_bytes()[:-5])
    content = flipped.read_bytes()
    flipped.write_bytes(content[:50] + bytes([content[50] ^ 0xFF]) + content[51:])
    empty.write_bytes(b"")
    for name in (NAMES[6], NAMES[7], NAMES[9]):
        (out / layout(name, suffix)).unlink()
    for name in (NAMES[9], NAMES[10]):  # the second is there: its mark is older
        (out / layout(name, ".missing")).touch()
    (out / layout("999999999999", suffix).replace("date=9999-99-99/hour=99", "date=2096-11-22/hour=00")).touch()
    result = run("feed_dump", "verify", out)
    assert result.returncode == 3 and " 1 missing at VirusTotal" in result.stderr
    told = [line.split("\t")[:2] for line in result.stdout.splitlines()]
    assert told == [
        ["damaged", str(cut)],
        ["damaged", str(flipped)],
        ["damaged", str(empty)],
        ["gap", f"{NAMES[6]} to {NAMES[7]}"],
    ]


def test_verify_misses_a_minute_that_stands_in_another_hours_folder(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, NAMES)
    out = tmp_path / "d"
    run("feed_dump", "files", "--from", NAMES[0], "--to", minutes(12, 1)[0], "--out", out, server=server)
    stray = out / layout(NAMES[3]).replace("hour=00", "hour=05")
    stray.parent.mkdir()
    (out / layout(NAMES[3])).rename(stray)
    (stray.parent / f"{NAMES[4]}.txt").write_text("a user's own")
    result = run("feed_dump", "verify", out)
    assert result.returncode == 3 and " 1 damaged" in result.stderr and " 1 minutes in gaps" in result.stderr
    assert result.stdout == f"damaged\t{stray}\tin a folder of another hour\ngap\t{NAMES[3]}\n"
