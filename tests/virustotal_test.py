"""VirusTotal and its pages, against a server that does what networks do."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import KEY, Server, error, html, reset, silence, truncated

from output import UsageError
from virustotal import Pages, VirusTotal, VirusTotalError, decode, finish, resumption, retry_after

FILE = {"data": {"id": "abc", "type": "file"}}


@pytest.fixture(autouse=True)
def settings(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VTCLI_APIKEY", "VT_RATE", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VT_API_KEY", KEY)
    monkeypatch.setenv("VT_HOST", server.url)
    monkeypatch.setenv("VT_MAX_WAIT", "4")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))


def ask(*args: Any, **kwargs: Any) -> dict[str, Any]:
    async def once() -> dict[str, Any]:
        async with VirusTotal() as client:
            return await client.ask(*args, **kwargs)

    return asyncio.run(once())


def failure(*args: Any, **kwargs: Any) -> VirusTotalError:
    with pytest.raises(VirusTotalError) as raised:
        ask(*args, **kwargs)
    return raised.value


async def broken_json(request: web.Request) -> web.Response:
    return web.Response(text='{"data": [', content_type="application/json")


async def broken_error(request: web.Request) -> web.Response:
    return web.Response(status=400, text='{"error": {', content_type="application/json")


async def empty_body(request: web.Request) -> web.Response:
    return web.Response(content_type="application/json")


MISFORTUNES = {
    "429 without Retry-After": error(429, "QuotaExceededError"),
    "429 with Retry-After": error(429, "TooManyRequestsError", **{"Retry-After": "0"}),
    "424": error(424, "FailedDependencyError"),
    "500": error(500, "InternalError"),
    "503": error(503, "TransientError"),
    "504": error(504, "DeadlineExceededError"),
    "HTML 502": html(502),
    "HTML in place of JSON": html(200),
    "reset": reset,
    "truncated": truncated,
    "broken JSON": broken_json,
    "an error cut short": broken_error,
    "an empty body": empty_body,
    "no data": {"meta": {"cursor": "next"}},
    "an error called 200": {"error": {"code": "TransientError", "message": "soon"}},
}


@pytest.mark.parametrize("misfortune", MISFORTUNES.values(), ids=MISFORTUNES.keys())
def test_what_heals_is_asked_again(server: Server, misfortune: Any) -> None:
    server.answer("/files/abc", misfortune, FILE)
    assert ask("GET", "/files/{}", "abc") == FILE
    assert len(server.seen) == 2


def test_silence_is_asked_again(server: Server) -> None:
    server.answer("/files/abc", silence, FILE)
    assert ask("GET", "/files/abc") == FILE


def test_lasting_silence_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer("/files/abc", silence)
    monkeypatch.setenv("VT_MAX_WAIT", "1")
    assert failure("GET", "/files/abc").exit_code == 1
    assert len(server.seen) < 5


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "InvalidArgumentError", 2),
        (401, "WrongCredentialsError", 2),
        (403, "ForbiddenError", 2),
        (404, "NotFoundError", 1),
        (409, "AlreadyExistsError", 2),
    ],
)
def test_what_does_not_heal_is_said_at_once(server: Server, status: int, code: str, exit_code: int) -> None:
    server.answer("/files/abc", error(status, code, "the reason"))
    raised = failure("GET", "/files/abc")
    assert (raised.code, raised.status, raised.exit_code) == (code, status, exit_code)
    assert "the reason" in str(raised)
    assert len(server.seen) == 1


def test_a_quota_that_does_not_heal_is_given_up_after_the_longest_wait(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VT_MAX_WAIT", "2")
    server.answer("/files/abc", error(429, "QuotaExceededError", "Quota exceeded"))
    assert failure("GET", "/files/abc").exit_code == 4
    assert len(server.seen) > 1


def test_a_longer_retry_after_than_the_longest_wait_is_not_waited_for(server: Server) -> None:
    server.answer("/files/abc", error(429, "QuotaExceededError", **{"Retry-After": "3600"}))
    assert failure("GET", "/files/abc").retry_after == 3600
    assert len(server.seen) == 1


def test_nobody_listening_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("VT_MAX_WAIT", "1")
    raised = failure("GET", "/files/abc")
    assert raised.exit_code == 1
    assert "127.0.0.1" in str(raised)
    assert not raised.sent


JUNK = ("", "soon", "-1", "nan", "1e9", "Fri, 31 Dec 99999999999999999999 00:00:00 GMT")


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = email.utils.format_datetime(email.utils.localtime().astimezone(), usegmt=False)
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"Retry-After": soon}) == pytest.approx(0, abs=30)
    assert retry_after({"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(
        100, abs=30
    )
    assert [retry_after({"Retry-After": junk}) for junk in JUNK] == [None] * len(JUNK)
    assert retry_after({}) is None


@pytest.mark.parametrize("misfortune", [reset, truncated, html(502), error(503, "TransientError"), broken_json])
def test_a_post_that_may_have_been_carried_out_is_not_repeated(server: Server, misfortune: Any) -> None:
    server.answer("/intelligence/retrohunt_jobs", misfortune, FILE)
    assert failure("POST", "/intelligence/retrohunt_jobs", json={}).sent
    assert len(server.seen) == 1


def test_a_post_that_was_turned_away_is_repeated(server: Server) -> None:
    server.answer("/intelligence/retrohunt_jobs", error(429, "QuotaExceededError", **{"Retry-After": "0"}), FILE)
    assert ask("POST", "/intelligence/retrohunt_jobs", json={"data": 1}) == FILE


def test_the_key_does_not_follow_a_redirect_to_another_host(server: Server, other_host: Server) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{other_host.url}/package")

    server.answer("/feeds/files/202601010000", elsewhere)
    other_host.answer("/package", FILE)
    assert ask("GET", "/feeds/files/202601010000") == FILE
    assert server.seen[0].headers["X-Apikey"] == KEY
    assert KEY not in str(other_host.seen[0].headers)


def test_the_key_does_not_go_to_the_host_of_an_absolute_link(server: Server, other_host: Server) -> None:
    server.answer("/ours", FILE)
    other_host.answer("/theirs", FILE)
    assert ask("GET", f"{other_host.url}/theirs") == FILE
    assert ask("GET", f"{server.url}/api/v3/ours") == FILE
    assert KEY not in str(other_host.seen[0].headers)
    assert server.seen[0].headers["X-Apikey"] == KEY


def test_passwords_of_netrc_go_to_no_host_that_an_answer_names(
    server: Server, other_host: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{other_host.url}/package")

    (tmp_path / "netrc").write_text("default login analyst password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answer("/feeds/files/202601010000", elsewhere)
    other_host.answer("/package", FILE)
    assert ask("GET", "/feeds/files/202601010000") == FILE
    assert ask("GET", f"{other_host.url}/package") == FILE
    assert [request.headers.get("Authorization") for request in other_host.seen] == [None, None]


def test_an_error_without_end_is_read_and_told_in_part(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_MAX_WAIT", "1")
    server.answer("/files/abc", error(400, "BadRequestError", "x" * 10_000_000))
    assert len(str(failure("GET", "/files/abc"))) < 2000


@pytest.mark.parametrize(("status", "padding"), [(403, 170), (502, 170), (200, 0), (200, 20)])
def test_no_part_of_the_key_is_shown_when_it_is_echoed(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int, padding: int
) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(status=status, text=f"<p>{'x' * padding} {KEY}</p>", content_type="text/html")

    monkeypatch.setenv("VT_MAX_WAIT", "1")
    server.answer("/files/abc", echo)
    assert KEY[:8] not in str(failure("GET", "/files/abc"))
    server.answer("/files/abc", error(401, "WrongCredentialsError", f"Wrong API key {KEY}"))
    assert KEY[:8] not in str(failure("GET", "/files/abc"))


@pytest.mark.parametrize("echoed", [KEY.upper(), "".join(f"\\u{ord(c):04x}" for c in KEY)])
def test_the_key_is_not_shown_however_it_is_echoed(server: Server, echoed: str) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(status=401, text=f'{{"error": {{"code": "Wrong", "message": "key {echoed}"}}}}')

    server.answer("/files/abc", echo)
    assert failure("GET", "/files/abc").message.startswith("key [key] (the key is from VT_API_KEY;")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"error": {"code": "A", "message": "b"}}', "application/json; charset=zlib"),
        ('{"error": {"code": "A", "message": "b"}}', "application/json; charset=idna"),
        ('{"error": ' + "[" * 100_000, "application/json"),
        ("<" * 300_000, "text/html"),  # a pattern that looks at each < till the end takes half a minute
    ],
    ids=["a codec of bytes", "a codec that replaces nothing", "deep JSON", "tags that never end"],
)
def test_a_hostile_error_is_an_error(server: Server, text: str, kind: str) -> None:
    async def hostile(request: web.Request) -> web.Response:
        return web.Response(status=405, body=text.encode(), headers={"Content-Type": kind})

    server.answer("/files/abc", hostile)
    started = time.monotonic()
    assert failure("POST", "/files/abc").code in ("A", "HTTP 405")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("location", ["file:///etc/passwd", "javascript:alert(1)", "http://[::1", "http:///x"])
def test_a_redirect_to_nowhere_is_said_at_once(server: Server, location: str) -> None:
    server.answer("/files/abc", error(302, "Found", Location=location))
    assert not failure("GET", "/files/abc").heals
    assert len(server.seen) == 1


@pytest.mark.parametrize("identifier", [".", "..", ""])
def test_an_id_that_would_leave_the_path_is_refused(server: Server, identifier: str) -> None:
    with pytest.raises(UsageError):
        ask("GET", "/files/{}", identifier)
    assert not server.seen


def test_lone_surrogates_are_replaced_and_emoji_kept() -> None:
    assert decode(rb'{"a": "\ud800x", "b": "\ud83d\ude00", "c": "\\ud800"}') == {
        "a": "\ufffdx",
        "b": "😀",
        "c": "\\ud800",
    }


def test_an_empty_body_is_an_empty_object() -> None:
    assert decode(b"") == {}


@pytest.mark.parametrize("body", [b"[]", b"null", b"<html>", b'{"a":', b"[" * 100_000])
def test_a_body_that_is_no_json_object_heals(body: bytes) -> None:
    with pytest.raises(VirusTotalError) as raised:
        decode(body)
    assert raised.value.heals


# ---- key and settings


def test_the_key_is_looked_for_in_the_order_of_the_official_tools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server
) -> None:
    server.answer("/x", FILE)
    (tmp_path / ".vt.toml").write_text('apikey="from-toml"\n')
    monkeypatch.setenv("VTCLI_APIKEY", "from-vtcli")

    async def used(apikey: str | None = None) -> str:
        async with VirusTotal(apikey) as client:
            await client.ask("GET", "/x")
        return server.seen[-1].headers["X-Apikey"]

    assert asyncio.run(used("given")) == "given"
    assert asyncio.run(used()) == KEY
    monkeypatch.delenv("VT_API_KEY")
    assert asyncio.run(used()) == "from-vtcli"
    monkeypatch.delenv("VTCLI_APIKEY")
    assert asyncio.run(used()) == "from-toml"


def test_without_a_key_the_error_names_the_places_and_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VT_API_KEY")
    with pytest.raises(UsageError) as raised:
        ask("GET", "/x")
    for place in ("--apikey", "VT_API_KEY", "VTCLI_APIKEY", "~/.vt.toml", "replay.py"):
        assert place in str(raised.value)


@pytest.mark.parametrize("key", ["with space", "line\nend", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(UsageError) as raised:
        asyncio.run(_open(key))
    assert key not in str(raised.value)


async def _open(key: str) -> None:
    async with VirusTotal(key):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("VT_RATE", value) for value in ("fast", "0", "-4", "nan", "inf")),
        *(("VT_MAX_WAIT", value) for value in ("x", "0", "-5", "nan")),
        *(("VT_HOST", value) for value in ("nohost", "ftp://127.0.0.1", "http://")),
    ],
)
def test_a_setting_that_makes_no_sense_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name} is {value}, which is no"):
        ask("GET", "/x")


def test_vt_rate_spaces_the_requests(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("VT_RATE", "600")
    came: list[float] = []

    async def note(request: web.Request) -> web.Response:
        came.append(time.monotonic())
        return web.json_response(FILE)

    async def four() -> None:
        async with VirusTotal() as client:
            await asyncio.gather(*(client.ask("GET", "/x") for _ in range(4)))

    server.answer("/x", note)
    asyncio.run(four())
    assert came[-1] - came[0] > 0.25  # three gaps of a tenth of a second


def test_waiting_for_a_turn_is_no_timeout_and_takes_no_patience_from_what_fails(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setenv("VT_RATE", "600")
    monkeypatch.setenv("VT_MAX_WAIT", "1.5")
    again = error(503, "TransientError", **{"Retry-After": "0"})
    for number in range(12):  # 24 requests, a tenth of a second each: longer than anybody would wait for an answer
        server.answer(f"/x/{number}", again, FILE)

    async def twelve() -> list[Any]:
        async with VirusTotal() as client:
            return await asyncio.gather(*(client.ask("GET", f"/x/{number}") for number in range(12)))

    assert asyncio.run(twelve()) == [FILE] * 12
    assert len(server.seen) == 24


@pytest.mark.parametrize(
    ("raised", "cure"),
    [
        (VirusTotalError("QuotaExceededError", "gone", 429, heals=True), " (run it again when there is quota)"),
        (VirusTotalError("TransientError", "soon", 503, heals=True), " (run it again later)"),
        (VirusTotalError("TimeoutError", "none", heals=True), " (look at the network, VT_HOST and HTTPS_PROXY, or run"),
        (VirusTotalError("NotFoundError", "no such", 404), ""),
        (VirusTotalError("ForbiddenError", "no", 403), ""),
    ],
)
def test_an_error_says_what_to_do_once(raised: VirusTotalError, cure: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(raised).startswith(f"{raised.code}: {raised.message}{cure}")
    cure = raised.cure

    async def done() -> int:
        async with VirusTotal() as client:
            return finish("1 object", client, raised) + 10 * finish("1 object", client, raised, "next")

    asyncio.run(done())
    assert capsys.readouterr().err.splitlines() == [
        f"INCOMPLETE: 1 object, 0 requests; {raised.code}: {raised.message}{cure}",
        f"INCOMPLETE: 1 object, 0 requests; {raised.code}: {raised.message}; go on with --cursor next",
    ]


def test_vt_py_s_own_methods_heal_too(server: Server) -> None:
    async def get() -> Any:
        async with VirusTotal() as client:
            return await client.get_data_async("/files/abc")

    server.answer("/files/abc", reset, FILE)
    assert asyncio.run(get()) == FILE["data"]


# ---- pages


def collection(total: int, *, surplus: int = 0, highest: int = 300) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A collection of `total` files whose cursor is an offset; it sends `surplus` more than it is asked for."""

    async def handle(request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", 10))
        if limit > highest:
            return await error(400, "BadRequestError", f"Limit can't be larger than {highest}")(request)  # type: ignore[return-value]
        start = int(request.query.get("cursor", 0))
        ids = range(start, min(total, start + limit + surplus))
        meta = {"cursor": str(ids.stop)} if ids.stop < total else {}
        return web.json_response({"data": [{"type": "file", "id": str(i)} for i in ids], "meta": meta})

    return handle


def gather(path: str = "/intelligence/search", **kwargs: Any) -> tuple[list[str], Pages, VirusTotalError | None, int]:
    """The ids that pages() yields, itself, the error that ended it, the requests."""

    async def work() -> tuple[list[str], Pages, VirusTotalError | None, int]:
        async with VirusTotal() as client:
            pages, ids = client.pages(path, **kwargs), []
            try:
                async for items in pages:
                    ids += [item["id"] for item in items]
            except VirusTotalError as error:
                return ids, pages, error, client.requests
            return ids, pages, None, client.requests

    return asyncio.run(work())


def test_a_page_is_as_large_as_the_endpoint_takes(server: Server) -> None:
    server.answer("/intelligence/search", collection(650))
    ids, pages, _, requests = gather()
    assert ids == [str(i) for i in range(650)]
    assert (requests, pages.cursor) == (3, None)


def test_relationships_are_asked_for_40_at_a_time(server: Server) -> None:
    server.answer("/files/abc/contacted_ips", collection(100, highest=40))
    ids, _, _, requests = gather("/files/abc/contacted_ips")
    assert (len(ids), requests) == (100, 3)


def test_a_limit_asks_for_no_more_than_is_wanted_and_resumes_exactly(server: Server) -> None:
    server.answer("/intelligence/search", collection(650))
    first, pages, _, _ = gather(limit=310)
    assert [request.query["limit"] for request in server.seen] == ["300", "10"]
    rest, last, _, _ = gather(cursor=pages.cursor)
    assert first + rest == [str(i) for i in range(650)]
    assert last.cursor is None


@pytest.mark.parametrize("limit", [1, 5, 7, 300, 310])
def test_a_surplus_that_the_server_sends_is_not_lost(server: Server, limit: int) -> None:
    server.answer("/intelligence/search", collection(330, surplus=4))
    ids, cursor = [], None
    for _ in range(400):
        some, pages, _, _ = gather(limit=limit, cursor=cursor)
        assert len(some) <= limit
        ids += some
        cursor = pages.cursor
        if not cursor:
            break
    assert ids == [str(i) for i in range(330)]


def test_the_next_page_is_asked_for_while_the_caller_works(server: Server) -> None:
    server.answer("/intelligence/search", collection(600))

    async def work() -> int:
        async with VirusTotal() as client:
            async for _ in client.pages("/intelligence/search"):
                await asyncio.sleep(0.5)
                return len(server.seen)
        return 0

    assert asyncio.run(work()) == 2


def test_a_caller_that_stops_early_leaves_nothing_behind(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.answer("/intelligence/search", collection(600, highest=300), error(400, "BadRequestError"))

    async def work() -> None:
        async with VirusTotal() as client:
            async for _ in client.pages("/intelligence/search"):
                await asyncio.sleep(0.3)
                break

    asyncio.run(work())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("cursor", ["a:b", "a:", ":a", "x:1:2"])
def test_a_cursor_is_sent_as_it_is_whatever_it_looks_like(server: Server, cursor: str) -> None:
    server.answer("/intelligence/search", {"data": []})
    assert gather(cursor=cursor)[2] is None
    assert server.seen[0].query["cursor"] == cursor


@pytest.mark.parametrize("cursor", ["2:abc", "0:", "9" * 5000 + ":x", "٣:x"])
def test_a_cursor_that_reads_like_an_offset_resumes_where_it_points(server: Server, cursor: str) -> None:
    server.answer("/intelligence/search", {"data": [{"type": "file", "id": "1"}], "meta": {"cursor": cursor}})
    resumed = gather(limit=1)[1].cursor
    server.answer("/intelligence/search", {"data": [{"type": "file", "id": "2"}, {"type": "file", "id": "3"}]})
    assert gather(cursor=resumed)[0] == ["2", "3"]
    assert server.seen[-1].query["cursor"] == cursor


@pytest.mark.parametrize("items", [[], [{"type": "file", "id": "1"}]])
def test_pages_that_never_bring_anything_new_are_given_up(server: Server, items: list[Any]) -> None:
    async def forever(request: web.Request) -> web.Response:
        return web.json_response({"data": items, "meta": {"cursor": f"c{len(server.seen)}"}})

    server.answer("/intelligence/search", forever)
    ids, pages, raised, requests = gather()
    assert len(ids) == len(items)
    assert raised is not None
    assert (raised.code, raised.cursor, pages.cursor) == ("NothingNew", f"c{requests}", f"c{requests}")  # goes on there
    assert requests == 100 + len(items)


def test_an_empty_page_with_a_cursor_is_passed_over(server: Server) -> None:
    server.answer(
        "/intelligence/search",
        {"data": [], "meta": {"cursor": "a"}},
        {"data": None, "meta": {"cursor": "b"}},
        {"data": [{"type": "file", "id": "1"}]},
    )
    assert gather()[0] == ["1"]


def test_a_repeated_cursor_stops_with_an_error_and_keeps_what_came(server: Server) -> None:
    server.answer(
        "/intelligence/search",
        {"data": [{"type": "file", "id": "1"}], "meta": {"cursor": "a"}},
        {"data": [{"type": "file", "id": "2"}], "meta": {"cursor": "a"}},
    )
    ids, _, stopped, requests = gather()
    assert (ids, requests) == (["1", "2"], 2)
    assert stopped is not None
    assert stopped.code == "RepeatedCursor"


def test_an_item_repeated_across_pages_comes_once(server: Server) -> None:
    one, two, three = ({"type": "file", "id": i} for i in "123")
    server.answer("/intelligence/search", {"data": [one, two], "meta": {"cursor": "a"}}, {"data": [two, three]})
    assert gather()[0] == ["1", "2", "3"]


def test_repeated_items_do_not_use_up_the_limit(server: Server) -> None:
    one, two, three = ({"type": "file", "id": i} for i in "123")
    server.answer(
        "/intelligence/search",
        {"data": [one, one], "meta": {"cursor": "a"}},
        {"data": [one, two], "meta": {"cursor": "b"}},
        {"data": [three]},
    )
    assert gather(limit=3)[0] == ["1", "2", "3"]


def test_error_items_are_handed_on(server: Server) -> None:
    items = [
        {"type": "file", "id": "1", "error": {"code": "NotFoundError", "message": "gone"}},
        {"type": "file", "id": "2"},
    ]
    server.answer("/intelligence/search", {"data": items})
    assert gather()[0] == ["1", "2"]


def test_a_single_object_is_a_page_of_one(server: Server) -> None:
    server.answer("/files/abc/x", FILE)
    assert gather("/files/abc/x")[0] == ["abc"]


@pytest.mark.parametrize(
    "misfortune", [error(400, "BadRequestError"), error(429, "QuotaExceededError", **{"Retry-After": "999"})]
)
def test_a_failure_midway_leaves_what_came_and_where_to_resume(server: Server, misfortune: Any) -> None:
    full = collection(900)
    server.answer("/intelligence/search", full, full, misfortune)
    ids, _, stopped, _ = gather()
    assert stopped is not None
    assert (len(ids), stopped.cursor) == (600, "600")
    server.answer("/intelligence/search", full)
    assert ids + gather(cursor=stopped.cursor)[0] == [str(i) for i in range(900)]


def test_a_link_to_another_host_in_an_answer_is_not_followed(server: Server, other_host: Server) -> None:
    server.answer("/intelligence/search", {"data": [FILE["data"]], "links": {"next": f"{other_host.url}/steal"}})
    assert gather()[0] == ["abc"]
    assert not other_host.seen


@pytest.mark.parametrize(
    "answer",
    [
        {"data": "text"},
        {"data": 1.5},
        {"data": True},
        {"data": [1]},
        {"data": [], "meta": ["x"]},
        {"data": [{"id": ["x"], "type": {}}]},
        {},
    ],
)
def test_an_answer_of_another_shape_is_no_traceback(server: Server, answer: Any) -> None:
    server.answer("/intelligence/search", answer)
    gather()


def test_a_cursor_can_be_pasted_into_a_shell() -> None:
    assert resumption("a b;$(x)") == "; go on with --cursor 'a b;$(x)'"
    assert resumption("eJwN_-Eg==") == "; go on with --cursor eJwN_-Eg=="


# ---- the last line


class Client:
    """Stands in for a client whose requests are counted."""

    requests = 2


@pytest.mark.parametrize(
    ("stopped", "cursor", "code", "said"),
    [
        (None, None, 0, "3 files, 2 requests, complete"),
        (None, "c", 0, "3 files, 2 requests; there is more (--limit 0 takes all); go on with --cursor c"),
        (
            VirusTotalError("QuotaExceededError", "gone", 429),
            "c",
            4,
            "INCOMPLETE: 3 files, 2 requests; QuotaExceededError: gone; go on with --cursor c",
        ),
        (
            VirusTotalError("TransientError", "later", 503),
            None,
            3,
            "INCOMPLETE: 3 files, 2 requests; TransientError: later",
        ),
        (asyncio.CancelledError(), "c", 130, "INCOMPLETE: 3 files, 2 requests; interrupted; go on with --cursor c"),
    ],
)
def test_the_last_line_says_what_happened(
    capsys: pytest.CaptureFixture[str], stopped: Any, cursor: str | None, code: int, said: str
) -> None:
    assert finish("3 files", Client(), stopped, cursor) == code  # type: ignore[arg-type]
    assert capsys.readouterr().err == said + "\n"
