"""feed_dump: every minute of a feed on disk once, verified; what is missing is listed and fetched by the next run."""

from __future__ import annotations

import bz2
import io
import json
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard
from aiohttp import web
from conftest import KEY, RECORDINGS, TRANSIENT, Handler, Run, Server, body, error, html, load, redirect, truncated

NOT_YET = error(400, "NotAvailableYet")
MISSING = error(404, "NotFoundError")
DOWN = error(503, "TransientError")


def minutes(count: int, first: datetime = datetime(2099, 1, 1, 0, 57, tzinfo=UTC)) -> list[str]:
    """Return the names of consecutive minutes. In 2099 none is too old for the feed, whenever the tests run."""
    return [f"{first + timedelta(minutes=n):%Y%m%d%H%M}" for n in range(count)]


def lines(minute: str) -> bytes:
    return b"".join(json.dumps({"type": "file", "id": f"{minute}{n:052}"}).encode() + b"\n" for n in range(3))


def package(minute: str) -> bytes:
    return bz2.compress(lines(minute))


def publish(server: Server, names: Iterable[str], feed: str = "files") -> None:
    """Let the server have these minutes; every other one is not available yet."""
    server.answer(f"/feeds/{feed}/*", NOT_YET)
    for minute in names:
        server.answer(f"/feeds/{feed}/{minute}", body(package(minute)))


def layout(minute: str, suffix: str = "zst") -> str:
    return f"date={minute[:4]}-{minute[4:6]}-{minute[6:8]}/hour={minute[8:10]}/{minute}.jsonl.{suffix}"


def files(out: str | Path) -> dict[str, bytes]:
    """Return what a dump holds, by path, without its hidden files."""
    paths = sorted(path for path in Path(out).rglob("*") if path.is_file())
    names = {path.relative_to(out).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".")}


def span(names: list[str]) -> list[str]:
    """Return the options for a range of minutes."""
    after = datetime.strptime(names[-1], "%Y%m%d%H%M") + timedelta(minutes=1)
    return ["--from", names[0], "--to", f"{after:%Y%m%d%H%M}"]


def unpack(content: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(content)


# ---- A range


@pytest.mark.parametrize("suffix", ["bz2", "zst"])
def test_a_range_is_on_disk_and_is_requested_once(run: Run, server: Server, suffix: str) -> None:
    names = minutes(6)
    publish(server, names)
    result = run("feed_dump", "files", *span(names), "--format", suffix)
    assert (result.code, sorted(server.paths)) == (0, [f"GET /feeds/files/{minute}" for minute in names])
    read: Callable[[bytes], bytes] = unpack if suffix == "zst" else bytes
    wanted = lines if suffix == "zst" else package
    assert {name: read(content) for name, content in files("files").items()} == {
        layout(minute, suffix): wanted(minute) for minute in names
    }
    assert "6 minutes (18 lines, " in result.last_line
    for other in ("bz2", "zst"):
        again = run("feed_dump", "files", *span(names), "--format", other)
        assert (again.code, len(server.seen)) == (0, 6)
        assert "6 already there" in again.last_line


def test_the_key_does_not_follow_the_redirect_to_the_storage(run: Run, server: Server, other_host: Server) -> None:
    names = minutes(2)
    for minute in names:
        server.answer(f"/feeds/files/{minute}", redirect(f"{other_host.url}/{minute}?signature=x"))
        other_host.answer(f"/{minute}", body(package(minute)))
    assert run("feed_dump", "files", *span(names)).code == 0
    assert [request.headers.get("X-Apikey") for request in server.seen] == [KEY, KEY]
    assert len(other_host.seen) == 2
    assert KEY not in str([(request.headers, request.raw_path) for request in other_host.seen])


def test_the_recordings_are_a_dump(run: Run, server: Server, other_host: Server) -> None:
    for path in (RECORDINGS / "feeds").glob("*-package.json"):
        exchange = json.loads(path.read_text(encoding="utf-8"))
        content = bz2.compress("".join(json.dumps(line) + "\n" for line in exchange["lines"]).encode())
        feed, minute = re.findall(r"(\w+)/(\d+)\.bz2", exchange["path"])[0]
        server.answer(f"/feeds/{feed}/{minute}", body(content))
    for feed, count in {"files": 3, "urls": 2, "file_behaviours": 2}.items():
        assert run("feed_dump", feed, "--from", "209901010000", "--to", "209901010004").code == 0
        assert len(files(feed)) == count


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    names = minutes(6)
    publish(server, names)
    server.fail(number, TRANSIENT[fault])
    result = run("feed_dump", "files", *span(names), "--jobs", 2)
    assert (result.code, len(files("files")), len(server.seen)) == (0, 6, 7)


GOOD = package(minutes(3)[1])
DAMAGE: dict[str, Handler] = {
    "truncated": body(GOOD[:-9]),
    "corrupt": body(GOOD[:40] + bytes([GOOD[40] ^ 0xFF]) + GOOD[41:]),
    "empty": body(b""),
    "HTML": body(b"<html>come back later</html>"),
    "lost connection": truncated,
    "a proxy": html(502),
    "the storage": html(403),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["bz2", "zst"])
def test_a_damaged_package_is_never_published(run: Run, server: Server, damage: str, suffix: str) -> None:
    names = minutes(3)
    publish(server, names)
    server.answer(f"/feeds/files/{names[1]}", DAMAGE[damage])
    args = ("feed_dump", "files", *span(names), "--format", suffix)
    result = run(*args, VT_MAX_WAIT="0.01")
    assert (result.code, set(files("files"))) == (3, {layout(names[0], suffix), layout(names[2], suffix)})
    assert f"{names[1]} failed" in result.stderr
    assert not list(Path("files").glob(".parts-*"))
    server.seen.clear()
    server.answer(f"/feeds/files/{names[1]}", body(GOOD))
    assert (run(*args).code, server.paths) == (0, [f"GET /feeds/files/{names[1]}"])


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "HTML"])
def test_a_damaged_package_is_downloaded_again(run: Run, server: Server, damage: str) -> None:
    names = minutes(3)
    publish(server, names)
    server.answer(f"/feeds/files/{names[1]}", DAMAGE[damage], DAMAGE[damage], body(GOOD))
    result = run("feed_dump", "files", *span(names))
    assert (result.code, len(files("files")), len(server.seen)) == (0, 3, 5)


@pytest.mark.parametrize(
    ("content", "count"),
    [(b"", 0), (b"{}\n", 1), (b"{}\n" * 900_000, 900_000), (b"{}\n\xff\xfe\n\x00", 2)],
)
def test_any_content_is_kept_as_it_is(run: Run, server: Server, content: bytes, count: int) -> None:
    [minute] = minutes(1)
    server.answer(f"/feeds/files/{minute}", body(bz2.compress(content)))
    result = run("feed_dump", "files", *span([minute]))
    assert (result.code, unpack(files("files")[layout(minute)])) == (0, content)
    assert f"({count} line" in result.last_line


def test_several_bzip2_streams_are_one_package(run: Run, server: Server) -> None:
    names = minutes(1)
    content = package("1") + package("2") + bz2.compress(b"")
    server.answer(f"/feeds/files/{names[0]}", body(content))
    assert run("feed_dump", "files", *span(names)).code == 0
    assert unpack(files("files")[layout(names[0])]) == lines("1") + lines("2")


# ---- What VirusTotal does not have


@pytest.mark.parametrize(("gap", "code"), [([1], 0), ([1, 2], 0), ([1, 3, 5], 0), ([2, 3, 4], 3), ([5, 6, 7], 3)])
def test_minutes_that_virustotal_lacks_are_listed_and_requested_again(
    run: Run, server: Server, gap: list[int], code: int
) -> None:
    names = minutes(8)
    publish(server, names)
    for number in gap:
        server.answer(f"/feeds/files/{names[number]}", MISSING)
    result = run("feed_dump", "files", *span(names))
    assert (result.code, len(files("files")), len(server.seen)) == (code, 8 - len(gap), 8)
    assert all(f"{names[number]} missing" in result.stderr for number in gap)
    publish(server, names)
    again = run("feed_dump", "files", *span(names))
    assert (again.code, len(files("files")), len(server.seen)) == (0, 8, 8 + len(gap))


def test_a_minute_that_is_not_published_yet_is_incomplete(run: Run, server: Server) -> None:
    names = minutes(4)
    publish(server, names[:3])
    server.answer(f"/feeds/files/{names[3]}", error(400, "NotAvailableYetError"))
    result = run("feed_dump", "files", *span(names))
    assert (result.code, len(files("files"))) == (3, 3)
    assert f"{names[3]} not published yet" in result.stderr


def test_a_range_far_in_the_future_ends_soon(run: Run, server: Server) -> None:
    names = minutes(3)
    publish(server, names)
    result = run("feed_dump", "files", "--from", names[0], "--to", "209912310000", "--jobs", 4)
    assert (result.code, len(files("files"))) == (3, 3)
    assert len(server.seen) < 40


def now(**ago: int) -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(**ago)


def test_the_whole_window_is_seven_days_and_what_expires_is_no_error(run: Run, server: Server) -> None:
    server.answer("/feeds/files/*", body(package("x")))
    oldest = now(days=7)
    server.answer(f"/feeds/files/{oldest:%Y%m%d%H%M}", MISSING)
    result = run("feed_dump", "files", "--from", "7d", "--to", f"{oldest + timedelta(minutes=4):%Y%m%d%H%M}")
    assert result.code == 0
    assert 3 <= len(files("files")) <= 4  # the minute may change while the test runs
    assert "reach back" not in result.stderr


def test_an_older_start_is_moved_up(run: Run, server: Server) -> None:
    server.answer("/feeds/files/*", body(package("x")))
    result = run("feed_dump", "files", "--from", "30d", "--to", f"{now(days=7) + timedelta(minutes=4):%Y%m%d%H%M}")
    assert result.code == 0
    assert 3 <= len(server.seen) <= 4
    assert "reach back 7 days" in result.stderr


def test_without_to_the_range_ends_an_hour_ago(run: Run, server: Server) -> None:
    server.answer("/feeds/files/*", body(package("x")))
    assert run("feed_dump", "files", "--from", "65m").code == 0
    assert 4 <= len(server.seen) <= 5


# ---- What ends a run


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError"), 4),
    ],
)
def test_a_refused_key_or_a_spent_quota_ends_the_run(run: Run, server: Server, answer: Handler, code: int) -> None:
    names = minutes(200)
    server.answer("/feeds/files/*", answer)
    publish(server, [])
    for minute in names[2:]:
        server.answer(f"/feeds/files/{minute}", answer)
    for minute in names[:2]:
        server.answer(f"/feeds/files/{minute}", body(package(minute)))
    result = run("feed_dump", "files", *span(names), "--jobs", 1, VT_MAX_WAIT="0.001")
    assert (result.code, len(files("files")), len(server.seen)) == (code, 2, 3)


def test_a_server_that_is_down_ends_the_run(run: Run, server: Server) -> None:
    server.answer("/feeds/*", DOWN)
    result = run("feed_dump", "files", *span(minutes(200)), "--jobs", 4, VT_MAX_WAIT="0.001")
    assert (result.code, files("files")) == (3, {})
    assert 20 <= len(server.seen) < 30


def test_a_server_that_cannot_be_reached_ends_the_run(run: Run) -> None:
    result = run("feed_dump", "files", *span(minutes(200)), "--jobs", 4, VT_HOST="http://127.0.0.1:9")
    assert result.code == 3
    assert "VT_HOST" in result.last_line


def test_vt_max_requests_bounds_all_tasks_together(run: Run, server: Server) -> None:
    names = minutes(20)
    publish(server, names)
    args = ("feed_dump", "files", *span(names), "--jobs", 4)
    result = run(*args, VT_MAX_REQUESTS="10")
    assert (result.code, len(server.seen), len(files("files"))) == (4, 10, 10)
    assert (run(*args, VT_MAX_REQUESTS="10").code, len(files("files"))) == (0, 20)


def test_vt_rate_bounds_all_tasks_together(run: Run, server: Server) -> None:
    names = minutes(5)
    times: list[float] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        return await body(package("x"))(request)

    server.answer("/feeds/files/*", handle)
    assert run("feed_dump", "files", *span(names), VT_RATE="6").code == 0  # every 0.1 s in the tests
    assert times[-1] - times[0] > 0.35


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writing fails as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", ["bz2", "zst"])
def test_a_full_disk_ends_the_run_with_complete_files_only(run: Run, server: Server, suffix: str) -> None:
    names = minutes(8)
    publish(server, names)
    noise = zstandard.ZstdCompressor().compress(bytes(range(256)) * 400)  # the next line makes it incompressible
    noise = b"".join(bytes([(n * 97 + byte * 31) % 251]) for n, byte in enumerate(noise * 300))
    server.answer(f"/feeds/files/{names[4]}", body(bz2.compress(noise)))
    args = ("feed_dump", "files", *span(names), "--format", suffix, "--jobs", 1)
    with small_disk(6000):
        result = run(*args)
    assert (result.code, set(files("files"))) == (1, {layout(minute, suffix) for minute in names[:4]})
    assert "cannot write" in result.last_line
    assert not list(Path("files").glob(".parts-*"))
    assert (run(*args).code, len(files("files"))) == (0, 8)


# ---- Following


def test_a_follower_waits_for_minutes_and_retries_failed_ones(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load("feed_dump"), "RETRY_SECONDS", 30)
    names = minutes(5, now(minutes=65))
    publish(server, names)
    server.answer(f"/feeds/files/{names[0]}", MISSING)
    server.answer(f"/feeds/files/{names[1]}", DOWN, DOWN, DOWN, body(package(names[1])))
    server.answer(f"/feeds/files/{names[2]}", error(429, "QuotaExceededError"), body(package(names[2])))
    server.answer(f"/feeds/files/{names[3]}", *[html(403)] * 4, error(403, "ForbiddenError"))  # ends it
    server.answer(f"/feeds/files/{names[4]}", NOT_YET, NOT_YET, body(package(names[4])))
    result = run("feed_dump", "files", "--from", names[0], "--follow", VT_MAX_WAIT="0.001")
    assert (result.code, set(files("files"))) == (2, {layout(names[number]) for number in (1, 2, 4)})
    asked = Counter(path[-12:] for path in server.paths)
    assert [asked[minute] for minute in names] == [1, 4, 2, 5, 3]


def test_a_follower_that_may_not_read_the_feed_ends(run: Run, server: Server) -> None:
    server.answer("/feeds/*", error(403, "ForbiddenError"))
    assert run("feed_dump", "files", "--from", "65m", "--follow", "--jobs", 1).code == 2
    assert len(server.seen) == 1


# ---- Archives of an hour


def archive(contents: dict[str, bytes], member: str = "{}") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as tar:
        link = tarfile.TarInfo("209901010103")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for minute, content in contents.items():
            info = tarfile.TarInfo(member.format(minute))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize("member", ["{}", "./files/{}.bz2", "/etc/{}", "../../{}.json.bz2"])
def test_an_archive_gives_the_same_files_for_one_request(run: Run, server: Server, member: str) -> None:
    names = minutes(38)  # three minutes of one hour, and enough of the next
    publish(server, names)
    server.answer("/feeds/files/hourly/2099010101", body(archive({m: package(m) for m in names[3:]}, member)))
    result = run("feed_dump", "files", *span(names), "--hourly", "--format", "bz2")
    assert (result.code, files("files")) == (0, {layout(minute, "bz2"): package(minute) for minute in names})
    assert sorted(path[-12:] for path in server.paths) == sorted([*names[:3], "y/2099010101"])
    assert "38 minutes (114 lines" in result.last_line
    assert "4 requests" in result.last_line


@pytest.mark.parametrize("fault", ["404", "503", "truncated", "corrupt", "no tar", "half of it"])
def test_what_an_archive_lacks_comes_minute_by_minute(run: Run, server: Server, fault: str) -> None:
    names = minutes(38)[3:]
    publish(server, names)
    contents = {minute: package(minute) for minute in names}
    whole = archive(contents)
    contents[names[33]] = contents[names[33]][:-9]
    contents |= {"209901010000": b"", "README": b""}
    answers = {
        "404": MISSING,
        "503": DOWN,
        "truncated": body(whole[: len(whole) // 2]),
        "corrupt": body(whole[:99] + bytes([whole[99] ^ 0xFF]) + whole[100:]),
        "no tar": body(bz2.compress(b"{}\n" * 1000)),
        "half of it": body(archive({m: c for n, (m, c) in enumerate(contents.items()) if n != 30})),
    }
    server.answer("/feeds/files/hourly/2099010101", answers[fault])
    result = run("feed_dump", "files", *span(names), "--hourly", VT_MAX_WAIT="0.001")
    assert (result.code, set(files("files"))) == (0, {layout(minute) for minute in names})
    assert "35 minutes (105 lines" in result.last_line


def test_an_hour_that_is_nearly_complete_needs_no_archive(run: Run, server: Server) -> None:
    names = minutes(38)[3:]
    publish(server, names)
    run("feed_dump", "files", *span(names[:5]))
    server.seen.clear()
    assert run("feed_dump", "files", *span(names), "--hourly").code == 0
    assert sorted(server.paths) == [f"GET /feeds/files/{minute}" for minute in names[5:]]


# ---- verify, and wrong usage


@pytest.mark.parametrize("suffix", ["bz2", "zst"])
def test_verify_names_what_is_damaged_and_what_is_missing(run: Run, server: Server, suffix: str) -> None:
    names = minutes(20)
    publish(server, names)
    run("feed_dump", "files", *span(names), "--format", suffix)
    server.seen.clear()
    assert run("feed_dump", "verify", "files").code == 0
    paths = [Path("files", layout(minute, suffix)) for minute in names]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:30] + bytes([content[30] ^ 0xFF]) + content[31:])
    paths[3].write_bytes(b"")
    for path in (paths[6], *paths[9:12]):
        path.unlink()
    result = run("feed_dump", "verify", "files")
    assert result.code == 3
    assert [line.split("\t")[:2] for line in result.stdout.splitlines()] == [
        *(["damaged", str(path)] for path in paths[1:4]),
        *(["missing", names[number]] for number in (6, 9, 10, 11)),
    ]
    assert server.seen == []


def test_a_single_missing_minute_is_normal(run: Run, server: Server) -> None:
    names = minutes(4)
    publish(server, names)
    run("feed_dump", "files", *span(names))
    Path("files", layout(names[2])).unlink()
    result = run("feed_dump", "verify", "files")
    assert (result.code, result.stdout) == (0, f"missing\t{names[2]}\n")


def test_a_directory_holds_one_feed(run: Run, server: Server) -> None:
    names = minutes(2)
    publish(server, names)
    run("feed_dump", "files", *span(names), "--out", "d")
    server.seen.clear()
    result = run("feed_dump", "urls", *span(names), "--out", "d")
    assert (result.code, server.seen) == (2, [])
    assert "files" in result.last_line


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["file_behaviors"], "Did you mean file_behaviours?"),
        (["file"], "Did you mean files?"),
        ([], "feed"),
        (["files", "."], "verify DIR"),
        (["verify"], "verify DIR"),
        (["verify", "nowhere"], "nowhere"),
        (["verify", "."], "no minutes"),
        (["files", "--from", "yesterday"], "yesterday"),
        (["files", "--from", "30m"], "60 minutes behind"),
        (["files", "--from", "9d", "--to", "8d"], "7 days"),
        (["files", "--from", "2h", "--to", "3h"], "no minutes"),
        (["files", "--follow", "--to", "1h"], "--to"),
        (["files", "--format", "gz"], "'bz2'"),
        (["files", "--jobs", "0"], "--jobs"),
        (["files", "--scheduler", "tcp://127.0.0.1:1", "--apikey", KEY], "VT_API_KEY"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_requested(run: Run, server: Server, args: list[str], hint: str) -> None:
    result = run("feed_dump", *args)
    assert (result.code, server.seen, files(".")) == (2, [], {})
    assert hint in result.last_line


@pytest.mark.parametrize("name", ["VT_RATE", "VT_MAX_REQUESTS"])
def test_a_wrong_setting_is_told(run: Run, server: Server, name: str) -> None:
    result = run("feed_dump", "files", **{name: "many"})
    assert (result.code, server.seen) == (2, [])
    assert name in result.last_line


def test_without_a_key_nothing_is_requested(run: Run, server: Server) -> None:
    result = run("feed_dump", "files", VT_API_KEY="")
    assert (result.code, server.seen) == (2, [])
    assert result.last_line.startswith("error: no API key")


def test_leftovers_of_a_killed_run_are_removed_after_a_day(run: Run, server: Server) -> None:
    import os

    names = minutes(1)
    publish(server, names)
    old, young = Path("files/.parts-old/x"), Path("files/.parts-young/x")
    for part in (old, young):
        part.parent.mkdir(parents=True)
        part.touch()
    os.utime(old.parent, (0, 0))
    assert run("feed_dump", "files", *span(names)).code == 0
    assert (old.parent.exists(), young.exists()) == (False, True)
