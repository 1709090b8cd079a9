"""Hourly archives: fewer requests, the same files, and the minutes where an archive is not to be had or is broken."""

from __future__ import annotations

import asyncio
import bz2
import io
import tarfile
from pathlib import Path
from typing import NoReturn

import feed_dump
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from conftest import KEY, Handler, Run, Server, error
from feed_dump_faults_test import read_zst
from feed_dump_test import body, files, layout, minutes, package, publish

HOUR = minutes(60, 60)
RANGE = ("--from", "209611220058", "--to", "209611220202", "--hourly")
NAMES = minutes(58, 64)


def archive(packages: dict[str, bytes], member: str = "{}") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as tar:
        for name, content in packages.items():
            info = tarfile.TarInfo(member.format(name))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("209611220103")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return packed.getvalue()


def hours(server: Server, content: bytes) -> None:
    server.answer("/feeds/files/hourly/*", error(404, "NotFoundError"))
    server.answer("/feeds/files/hourly/2096112201", body(content))


@pytest.mark.parametrize("member", ["{}", "./files/{}.bz2", "/etc/{}", "../../{}.json.bz2", "2096112201/files-{}-v3"])
def test_an_hourly_archive_gives_the_same_files_for_one_request(
    server: Server, run: Run, tmp_path: Path, member: str
) -> None:
    packages = publish(server, NAMES)
    hours(server, archive({name: packages[name] for name in HOUR}, member))
    result = run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", server=server)
    assert result.returncode == 0, result.stderr
    assert files(tmp_path / "d") == {layout(name): content for name, content in packages.items()}
    assert sorted(server.paths) == [
        "GET /feeds/files/209611220058", "GET /feeds/files/209611220059", "GET /feeds/files/209611220200",
        "GET /feeds/files/209611220201", "GET /feeds/files/hourly/2096112201",
    ]  # fmt: skip


def test_the_oldest_minute_of_an_hour_settles_the_types(server: Server, run: Run, tmp_path: Path) -> None:
    packages = {name: package([{"attributes": {"n": ["text"]}}]) for name in HOUR}
    packages[HOUR[0]] = packages[HOUR[0]][:-5]  # broken: settles nothing
    # This one takes the longest, so that it comes last of all that start together.
    packages[HOUR[1]] = package([{"attributes": {"n": 1.5, "more": "x" * 1_000_000}}] * 20)
    publish(server, NAMES)
    hours(server, archive(packages))
    args = ("--from", HOUR[0], "--to", "209611220200", "--hourly", "--format", "parquet", "--column", "n")
    run("feed_dump", "files", *args, "--out", tmp_path / "d", server=server)
    assert {str(pq.read_schema(path).field("n").type) for path in (tmp_path / "d").rglob("*.parquet")} == {"double"}


def test_plain_members_become_packages_of_the_same_lines(server: Server, run: Run, tmp_path: Path) -> None:
    packages = publish(server, NAMES)
    hours(server, archive({name: bz2.decompress(packages[name]) for name in HOUR}))
    for form, read in (("bz2", lambda path: bz2.decompress(path.read_bytes())), ("zst", read_zst)):
        out = tmp_path / form
        assert run("feed_dump", "files", *RANGE, "--out", out, "--format", form, server=server).returncode == 0
        for name, content in packages.items():
            assert read(out / layout(name, f".jsonl.{form}")) == bz2.decompress(content)
        assert run("feed_dump", "verify", out).returncode == 0
    assert len([path for path in server.paths if "hourly" in path]) == 2


def test_what_an_archive_lacks_or_has_broken_is_asked_for_by_itself(server: Server, run: Run, tmp_path: Path) -> None:
    packages = publish(server, NAMES)
    server.answer(f"/feeds/files/{HOUR[7]}", error(404, "NotFoundError"))
    inside = {name: packages[name] for name in HOUR}
    inside[HOUR[3]] = inside[HOUR[3]][:-9]
    inside[HOUR[4]] = bz2.compress(b"<html>\n")
    del inside[HOUR[5]], inside[HOUR[7]]
    inside[HOUR[8]], inside[HOUR[9]] = b"", b"\n \n"
    strange = {"209611210000": packages[HOUR[0]], "README": b"{}", "999999999999": b"{}", f"{HOUR[0]}.sha256": b""}
    hours(server, archive(inside | strange))
    result = run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", server=server)
    assert result.returncode == 0, result.stderr
    del packages[HOUR[7]]
    there = files(tmp_path / "d")
    assert there.pop(layout(HOUR[7], ".missing")) == b""
    assert there == {layout(name): content for name, content in packages.items()}
    assert len(server.seen) == 4 + 1 + 6
    assert not list(tmp_path.rglob(".*.part"))


def bomb(kind: bytes, size: int) -> bytes:
    """An archive with a header of `kind`, of `size` bytes and more."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, size
    return bz2.compress(header.tobuf() + bytes(size))


@pytest.mark.parametrize("wrong", ["404", "not yet", "truncated", "no tar", "503", "long name", "long comment", "full"])
def test_without_an_archive_the_minutes_are_fetched(server: Server, run: Run, tmp_path: Path, wrong: str) -> None:
    packages = publish(server, NAMES)
    whole = archive({name: packages[name] for name in HOUR})
    answers = {
        "404": error(404, "NotFoundError"),
        "not yet": error(400, "NotAvailableYet"),
        "truncated": body(whole[: len(whole) // 2]),
        "no tar": body(bz2.compress(b"{}\n" * 1000)),
        "503": error(503, "TransientError"),
        "long name": body(bomb(tarfile.GNUTYPE_LONGNAME, 1 << 20)),
        "long comment": body(bomb(tarfile.XGLTYPE, 1 << 20)),
        "full": body(archive({f"{number}.txt": b"" for number in range(1001)} | {HOUR[0]: b"{}"})),
    }
    server.answer("/feeds/files/hourly/2096112201", answers[wrong])
    result = run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", server=server)
    assert result.returncode == 0, result.stderr
    assert files(tmp_path / "d") == {layout(name): content for name, content in packages.items()}


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_without_end_is_not_read(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "bomb").write_bytes(bomb(kind, 1 << 17))
    with pytest.raises(ValueError, match="a header of 131072 bytes"):
        feed_dump.unpack(feed_dump.Dump("files", str(tmp_path)), 0, tmp_path / "bomb")


def test_an_hour_that_another_run_has_completed_is_not_asked_for(
    server: Server, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, HOUR)
    out = tmp_path / "d"
    run("feed_dump", "files", "--from", HOUR[0], "--to", "209611220200", "--out", out, server=server)
    server.seen.clear()
    monkeypatch.setenv("VT_API_KEY", KEY)
    dump = feed_dump.Dump("files", str(out))
    hour = feed_dump.named("209611220100")
    assert feed_dump.on_worker(feed_dump.dataclasses.asdict(dump), hour, True, server.url) == []
    assert not server.seen


def test_of_an_interrupted_hour_only_what_is_not_on_disk_is_named(tmp_path: Path) -> None:
    hour = feed_dump.named("209611220100")
    run = feed_dump.Run(feed_dump.Dump("files", str(tmp_path)), hour, hour + 60, hourly=True)

    async def half(minute: int, hourly: bool) -> list[feed_dump.Outcome]:
        run.dump.path(minute).parent.mkdir(parents=True)
        for done in range(minute, minute + 30):
            run.dump.path(done).touch()
        task.cancel()
        await asyncio.sleep(60)
        return []

    async def interrupted() -> None:
        nonlocal task
        task = asyncio.create_task(run.go(half))
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[None]
    asyncio.run(interrupted())
    assert run.untried == set(range(hour + 30, hour + 60))


def test_an_hour_of_which_little_is_lacking_is_completed_by_the_minute(
    server: Server, run: Run, tmp_path: Path
) -> None:
    packages = publish(server, NAMES)
    run("feed_dump", "files", "--from", "209611220058", "--to", "209611220150", "--out", tmp_path / "d", server=server)
    server.seen.clear()
    assert run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", server=server).returncode == 0
    assert len(server.seen) == 12 and not [path for path in server.paths if "hourly" in path]
    assert set(files(tmp_path / "d")) == {layout(name) for name in packages}


@pytest.mark.parametrize("then", [error(404, "NotFoundError"), error(503, "TransientError"), body(b"BZh9")])
@pytest.mark.parametrize("form", ["bz2", "zst"])
def test_good_lines_of_an_archive_are_not_given_up_when_their_minute_is_not_to_be_had(
    server: Server, run: Run, tmp_path: Path, then: Handler, form: str
) -> None:
    packages = publish(server, NAMES)
    hurt = bz2.decompress(packages[HOUR[7]]) + b"{broken\n"
    hours(server, archive({name: packages[name] for name in HOUR} | {HOUR[7]: bz2.compress(hurt)}))
    server.answer(f"/feeds/files/{HOUR[7]}", then)
    args = ("feed_dump", "files", *RANGE, "--out", tmp_path / "d", "--format", form)
    result = run(*args, server=server, VT_MAX_WAIT="1")
    assert result.returncode == 3 and "1 of 6 lines are not JSON" in result.stderr, result.stderr
    there = tmp_path / "d" / layout(HOUR[7], f".jsonl.{form}")
    assert (bz2.decompress(there.read_bytes()) if form == "bz2" else read_zst(there) + b"{broken\n") == hurt
    assert not list(tmp_path.rglob("*.missing")) and "0 missing" in result.stderr


class Crowd:
    """Counts how many requests of a handler are in hand at once."""

    now = most = 0

    def counted(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.05)
            self.now -= 1
            return await handler(request)

        return handle


def test_no_more_minutes_are_in_hand_than_told_and_no_more_than_two_archives(
    server: Server, run: Run, tmp_path: Path
) -> None:
    minute, hour = Crowd(), Crowd()
    server.answer("/feeds/files/hourly/*", hour.counted(body(archive({}))))
    server.answer("/feeds/files/*", minute.counted(body(package([{"id": "a"}]))))
    args = ("--from", "209611220100", "--to", "209611220500", "--hourly", "--jobs", 8, "--out", tmp_path / "d")
    result = run("feed_dump", "files", *args, server=server)
    assert result.returncode == 0 and len(files(tmp_path / "d")) == 240, result.stderr
    assert hour.most <= 2 and minute.most <= 8


def test_an_hour_whose_archive_the_disk_does_not_hold_is_named_as_a_whole(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    packages = publish(server, HOUR)
    hours(server, archive(packages))
    monkeypatch.setattr(feed_dump, "unpack", full)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    hour = feed_dump.named(HOUR[0])
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    run = asyncio.run(feed_dump.feed_dump(dump, hour, hour + 60, hourly=True))
    assert run.ended == (f"cannot write to {dump.out}: No space left on device", 1)
    assert run.failed | run.untried == set(range(hour, hour + 60))


def test_artifacts_alone_take_no_archive(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, HOUR, "file_behaviours")
    args = ("file_behaviours", "--from", HOUR[0], "--to", "209611220200", "--out", tmp_path / "d")
    assert run("feed_dump", *args, server=server).returncode == 0
    server.seen.clear()
    result = run("feed_dump", *args, "--hourly", "--artifacts", "pcap", server=server)
    assert result.returncode == 0 and "60 were there" in result.stderr and not server.seen
