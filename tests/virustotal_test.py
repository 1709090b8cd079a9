"""VirusTotal: what the client adds to vt-py's, through vt-py's own methods where possible."""

from __future__ import annotations

import asyncio
import email.utils
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from conftest import (
    KEY,
    TRANSIENT,
    Handler,
    Server,
    body,
    collection,
    error,
    file_object,
    html,
    redirect,
    reset,
    silence,
)

import virustotal
from output import UsageError
from virustotal import Page, VirusTotal, VirusTotalError, find_key

FILE = "/files/abc"
ANSWER = {"data": file_object(1)}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(virustotal, "SECOND", 0.01)
    for name in ("VT_API_KEY", "VTCLI_APIKEY", "VT_HOST", "VT_RATE", "VT_MAX_REQUESTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VT_MAX_WAIT", "2")
    monkeypatch.setenv("HOME", str(tmp_path))


def use(server: Server, work: Callable[[VirusTotal], Any], **options: Any) -> Any:
    """Run `await work(client)` with a client of `server`."""

    async def run() -> Any:
        async with VirusTotal(KEY, host=server.url, **options) as client:
            return await work(client)

    return asyncio.run(run())


def fetch_pages(server: Server, **options: Any) -> list[Page]:
    async def work(client: VirusTotal) -> list[Page]:
        return [page async for page in client.pages("/intelligence/search", query="q", **options)]

    pages: list[Page] = use(server, work)
    return pages


def numbers(pages: list[Page]) -> list[list[int]]:
    return [[int(item["id"], 16) for item in page.objects] for page in pages]


# ---- Retries


@pytest.mark.parametrize("fault", TRANSIENT)
def test_vt_pys_own_methods_are_retried(server: Server, fault: str) -> None:
    server.answer(FILE, TRANSIENT[fault], TRANSIENT[fault], ANSWER)
    item = use(server, lambda client: client.get_object_async(FILE))
    assert (item.id, len(server.seen)) == (ANSWER["data"]["id"], 3)


def test_the_synchronous_methods_are_retried(server: Server) -> None:
    server.answer(FILE, error(503, "TransientError"), ANSWER)
    with VirusTotal(KEY, host=server.url) as client:
        assert client.get_object(FILE).id == ANSWER["data"]["id"]


def test_a_server_that_never_answers_is_given_up(server: Server) -> None:
    server.answer(FILE, silence)
    with pytest.raises(VirusTotalError) as raised:
        use(server, lambda client: client.get_json_async(FILE), timeout=0.05)
    assert (raised.value.status, raised.value.exit_code) == (0, 1)
    assert len(server.seen) > 1


def test_a_quota_that_does_not_recover_is_given_up_after_the_longest_wait(server: Server) -> None:
    server.answer(FILE, error(429, "QuotaExceededError", **{"Retry-After": "3600"}))
    with pytest.raises(VirusTotalError) as raised:
        use(server, lambda client: client.get_json_async(FILE))
    assert (raised.value.code, raised.value.status, raised.value.exit_code) == ("QuotaExceededError", 429, 4)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
def test_an_error_that_lasts_is_not_retried(server: Server, status: int) -> None:
    server.answer(FILE, error(status, "SomeError"))
    with pytest.raises(VirusTotalError, match="SomeError") as raised:
        use(server, lambda client: client.get_json_async(FILE))
    assert (raised.value.status, len(server.seen)) == (status, 1)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert virustotal.retry_after("7", 1) == 7
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < virustotal.retry_after(in_a_minute, 1) <= 60
    assert virustotal.retry_after("Thu, 01 Jan 1970 00:00:00 GMT", 1) == 0
    assert [virustotal.retry_after(text, 1) for text in ("", "soon")] == [1, 1]


@pytest.mark.parametrize("fault", [reset, error(503, "TransientError"), html(502)])
def test_a_post_that_may_have_reached_virustotal_is_not_repeated(server: Server, fault: Handler) -> None:
    server.answer("/urls", fault, ANSWER)

    async def work(client: VirusTotal) -> Any:
        return await client.get_error_async(await client.post_async("/urls", json_data={}))

    try:
        failure = use(server, work)
    except VirusTotalError as lost:
        failure = lost
    assert failure.status in (0, 502, 503)
    assert failure.may_have_run
    assert len(server.seen) == 1


def test_a_patch_is_repeated(server: Server) -> None:
    server.answer(FILE, reset, ANSWER)
    assert use(server, lambda client: client.patch_async(FILE, None, {"a": 1})).status == 200


def test_a_post_that_was_turned_away_is_repeated(server: Server) -> None:
    server.answer("/urls", error(429, "TooManyRequestsError"), ANSWER)
    response = use(server, lambda client: client.post_async("/urls", json_data={"a": 1}))
    assert (response.status, len(server.seen)) == (200, 2)


def test_a_body_that_can_be_read_once_only_is_not_repeated(server: Server) -> None:
    async def chunks() -> Any:
        yield b"body"

    server.answer("/files", error(429, "TooManyRequestsError"), ANSWER)
    response = use(server, lambda client: client.post_async("/files", data=chunks()))
    assert (response.status, len(server.seen)) == (429, 1)


def test_a_404_after_a_delete_whose_response_was_lost_is_success(server: Server) -> None:
    server.answer(FILE, reset, error(404, "NotFoundError"))
    assert use(server, lambda client: client.delete_async(FILE)).status == 200
    server.answer(FILE, error(404, "NotFoundError"))
    assert use(server, lambda client: client.delete_async(FILE)).status == 404


def test_a_host_that_refuses_connections_is_given_up_early(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        async with VirusTotal(KEY, host="http://127.0.0.1:1") as client:
            await client.get_json_async(FILE)

    with pytest.raises(VirusTotalError, match="check the network") as raised:
        asyncio.run(work())
    assert not raised.value.may_have_run
    assert 1 < len(capsys.readouterr().err.splitlines()) < 20


def test_a_follower_keeps_trying(server: Server) -> None:
    async def work(client: VirusTotal) -> Any:
        client.max_wait = math.inf
        return await client.get_json_async(FILE)

    server.answer(FILE, *[reset] * 9, ANSWER)
    assert use(server, work) == ANSWER


# ---- Rate and count


def test_vt_rate_spaces_the_requests(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_RATE", "6")  # a request every 10 s, and a second is 10 ms here

    async def work(client: VirusTotal) -> float:
        began = time.monotonic()
        await asyncio.gather(*(client.get_json_async(FILE) for _ in range(4)))
        return time.monotonic() - began

    server.answer(FILE, ANSWER)
    assert use(server, work) >= 0.29


def test_every_request_is_counted_and_vt_max_requests_ends_them(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VT_MAX_REQUESTS", "2")

    async def work(client: VirusTotal) -> None:
        await client.get_json_async(FILE)
        assert client.requests == 2
        await client.get_json_async(FILE)

    server.answer(FILE, error(503, "TransientError"), ANSWER)
    with pytest.raises(VirusTotalError) as raised:
        use(server, work)
    assert (raised.value.exit_code, len(server.seen)) == (4, 2)


@pytest.mark.parametrize("name", ["VT_RATE", "VT_MAX_WAIT", "VT_MAX_REQUESTS"])
@pytest.mark.parametrize("value", ["0", "-1", "four", "nan"])
def test_a_setting_that_is_no_number_above_0_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        VirusTotal(KEY)


@pytest.mark.parametrize("host", ["virustotal.com", "ftp://x", "http://", "http://a b", "https://x/api/v3"])
def test_a_host_that_is_no_origin_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="VT_HOST"):
        VirusTotal(KEY, host=host)


# ---- The key


def test_the_key_stays_with_its_host(server: Server, other_host: Server, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login someone password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    server.answer(FILE, redirect(f"{other_host.url}/storage?signature=1"))
    other_host.answer("/storage", ANSWER)
    use(server, lambda client: client.get_json_async(FILE))
    use(server, lambda client: client.get_json_async(f"{other_host.url}/storage"))
    assert [request.headers["X-Apikey"] for request in server.seen] == [KEY]
    assert len(other_host.seen) == 2
    for request in other_host.seen:
        assert "X-Apikey" not in request.headers
        assert "Authorization" not in request.headers


def test_gti_is_told_which_tool_asks(server: Server) -> None:
    server.answer(FILE, ANSWER)
    use(server, lambda client: client.get_json_async(FILE))
    headers = server.seen[0].headers
    assert headers["x-tool"] == "opensource.virustotal-scripts.v1"
    assert "gzip" in headers["User-Agent"]


def test_an_upload_url_of_virustotal_over_http_is_requested_as_https() -> None:
    client = VirusTotal(KEY)
    assert client._full_url("http://www.virustotal.com/_ah/upload/x") == "https://www.virustotal.com/_ah/upload/x"
    assert client._full_url("http://example.com/x") == "http://example.com/x"


def test_an_echoed_key_is_not_shown(server: Server) -> None:
    server.answer(FILE, error(401, "WrongCredentialsError", f"Wrong API key {KEY}"))
    with pytest.raises(VirusTotalError, match=r"Wrong API key \[API key\].*--apikey") as raised:
        use(server, lambda client: client.get_json_async(FILE))
    assert KEY not in str(raised.value)


def test_the_key_is_found_where_the_official_tools_keep_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".vt.toml").write_text('apikey="from-toml"\n')
    assert find_key(None) == ("from-toml", "~/.vt.toml")
    monkeypatch.setenv("VTCLI_APIKEY", "from-vtcli")
    assert find_key(None) == ("from-vtcli", "VTCLI_APIKEY")
    monkeypatch.setenv("VT_API_KEY", " from-env\n")
    assert find_key("") == ("from-env", "VT_API_KEY")
    assert find_key("given") == ("given", "--apikey")


def test_no_key_at_all_names_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"VT_API_KEY.*vt\.toml.*replay"):
        find_key(None)


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_key(key)
    assert key not in str(raised.value)


# ---- Responses and paths


def chunked(content: bytes) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for part in (content[:5], content[5:]):
            await response.write(part)
        return response

    return handle


def test_a_chunked_body_can_be_read_by_every_method(server: Server) -> None:
    text = b'{"data": {"id": "x", "type": "file", "attributes": {}}}'
    server.answer(FILE, chunked(text))

    async def work(client: VirusTotal) -> list[Any]:
        responses = [await client.get_async(FILE) for _ in range(4)]
        first, second, third, fourth = responses
        return [
            await first.read_async(),
            await second.text_async(),
            await third.json_async(),
            await fourth.content.read_async(),
            (await client.get_object_async(FILE)).id,
        ]

    read, text_read, json_read, content, object_id = use(server, work)
    assert (read, text_read.encode(), content, object_id) == (text, text, text, "x")
    assert json_read["data"]["id"] == "x"


def test_vt_pys_download_gets_the_whole_body(server: Server) -> None:
    server.answer("/files/abc/download", body(b"sample" * 9999), body(b'{"a": 1}', "application/json"))
    for expected in (b"sample" * 9999, b'{"a": 1}'):
        file = io.BytesIO()
        use(server, lambda client, file=file: client.download_file_async("abc", file))
        assert file.getvalue() == expected


@pytest.mark.parametrize("answer", [html(200), body(b"\xff\xfe", "application/json")])
def test_a_response_that_is_not_json_is_an_error(server: Server, answer: Handler) -> None:
    server.answer(FILE, answer)
    with pytest.raises(VirusTotalError, match="InvalidResponse"):
        use(server, lambda client: client.get_json_async(FILE))


def test_ids_are_quoted_in_paths(server: Server) -> None:
    server.answer("/*", ANSWER)
    for identifier in ("a b_CAPE Sandbox", "2001:db8::1", "../../users/me", "x?y#z%2e"):
        use(server, lambda client, i=identifier: client.get_json_async("/files/{}/behaviours", i))
    assert [request.raw_path for request in server.seen] == [
        "/api/v3/files/a%20b_CAPE%20Sandbox/behaviours",
        "/api/v3/files/2001:db8::1/behaviours",
        "/api/v3/files/..%2F..%2Fusers%2Fme/behaviours",
        "/api/v3/files/x%3Fy%23z%252e/behaviours",
    ]


@pytest.mark.parametrize("identifier", ["", ".", ".."])
def test_an_id_that_would_leave_its_path_is_refused(server: Server, identifier: str) -> None:
    with pytest.raises(UsageError, match="not an id"):
        use(server, lambda client: client.get_json_async("/files/{}", identifier))
    assert server.seen == []


@pytest.mark.parametrize("fault", [*TRANSIENT.values(), redirect("/api/v3/second")])
def test_a_download_is_complete(server: Server, tmp_path: Path, fault: Handler) -> None:
    server.answer("/files/abc/download", fault, body(b"sample" * 100_000))
    server.answer("/second", body(b"sample" * 100_000))
    use(server, lambda client: client.download("/files/{}/download", "abc", to=tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"sample" * 100_000


def test_a_download_that_breaks_off_is_requested_again(server: Server, tmp_path: Path) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "600000"})
        await response.prepare(request)
        await response.write(b"x" * 300_000)
        assert request.transport is not None
        request.transport.close()
        return response

    server.answer(FILE, half, half, body(b"sample"))
    use(server, lambda client: client.download(FILE, to=tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"sample"
    server.answer(FILE, half)
    with pytest.raises(VirusTotalError):
        use(server, lambda client: client.download(FILE, to=tmp_path / "x"))


def test_a_download_of_something_missing_raises(server: Server, tmp_path: Path) -> None:
    with pytest.raises(VirusTotalError, match="NotFoundError"):
        use(server, lambda client: client.download("/files/{}/download", "abc", to=tmp_path / "x"))
    assert not (tmp_path / "x").exists()


# ---- Notebooks


def test_a_synchronous_call_in_a_running_loop_names_its_async_equivalent(server: Server) -> None:
    async def work(client: VirusTotal) -> None:
        with pytest.raises(RuntimeError, match=r"get_object_async\("):
            client.get_object(FILE)
        with pytest.raises(RuntimeError, match="async with"), VirusTotal(KEY):
            pass

    use(server, work)
    assert server.seen == []


# ---- Pages


def test_pages_are_as_large_as_the_endpoint_accepts(server: Server) -> None:
    server.answer("/*", collection())

    async def work(client: VirusTotal) -> None:
        for path in ("/intelligence/search", "/intelligence/retrohunt_jobs/x/matching_files", "/files/x/itw_urls"):
            assert [page async for page in client.pages(path)] == [Page([], None, None)]

    use(server, work)
    assert [request.query["limit"] for request in server.seen] == ["300", "300", "40"]


def test_a_limit_requests_no_more_than_is_wanted(server: Server) -> None:
    files = [file_object(n) for n in range(350)]
    server.answer("/intelligence/search", collection(*files[:300], cursor="b"), collection(*files[300:310], cursor="c"))
    pages = fetch_pages(server, limit=310)
    assert [len(page.objects) for page in pages] == [300, 10]
    assert pages[-1].cursor == "c"
    assert [request.query["limit"] for request in server.seen] == ["300", "10"]


def test_the_next_page_is_requested_while_the_caller_works(server: Server) -> None:
    server.answer("/intelligence/search", collection(file_object(1), cursor="b"), collection(file_object(2)))

    async def work(client: VirusTotal) -> list[int]:
        seen = []
        async for _ in client.pages("/intelligence/search"):
            await asyncio.sleep(0.1)
            seen.append(len(server.seen))
        return seen

    assert use(server, work) == [2, 2]


def test_a_caller_that_stops_early_leaves_nothing_behind(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.answer("/intelligence/search", collection(file_object(1), cursor="b"), error(400, "BadRequestError"))

    async def work(client: VirusTotal) -> None:
        async for _ in client.pages("/intelligence/search"):
            await asyncio.sleep(0.1)
            break

    use(server, work)
    assert capfd.readouterr().err == ""


def test_an_empty_page_with_a_cursor_is_passed_over(server: Server) -> None:
    one = file_object(1)
    server.answer("/intelligence/search", collection(cursor="b"), collection(cursor="c"), collection(one))
    assert numbers(fetch_pages(server)) == [[1]]


def test_an_empty_last_page_leaves_no_cursor(server: Server) -> None:
    server.answer("/intelligence/search", collection(file_object(1), cursor="b"), collection())
    assert fetch_pages(server)[-1] == Page([], None, None)


def test_an_object_repeated_across_pages_comes_once(server: Server) -> None:
    one, two, three = (file_object(n) for n in (1, 2, 3))
    server.answer(
        "/intelligence/search",
        collection(one, two, cursor="b"),
        collection(two, three | {"context_attributes": {"rule_name": "a"}}, three, cursor="c"),
    )
    assert numbers(fetch_pages(server, limit=4)) == [[1, 2], [3, 3]]


def test_a_repeated_cursor_is_an_error_after_what_came(server: Server) -> None:
    server.answer(
        "/intelligence/search", collection(file_object(1), cursor="b"), collection(file_object(2), cursor="b")
    )
    seen = []

    async def work(client: VirusTotal) -> None:
        async for page in client.pages("/intelligence/search"):
            seen.append(page)

    with pytest.raises(VirusTotalError, match="RepeatedCursor"):
        use(server, work)
    assert (numbers(seen), seen[-1].cursor, len(server.seen)) == ([[1], [2]], None, 2)


@pytest.mark.parametrize(("data", "count"), [(file_object(1), 1), (None, 0), ([], 0)])
def test_a_one_to_one_relationship_is_a_page_of_one(server: Server, data: Any, count: int) -> None:
    server.answer("/intelligence/search", {"data": data})
    assert [len(page.objects) for page in fetch_pages(server)] == [count]


def test_nothing_is_requested_with_parameters_that_are_none(server: Server) -> None:
    server.answer("/intelligence/search", collection())
    fetch_pages(server, order=None, relationships="a,b")
    assert dict(server.seen[0].query) == {"query": "q", "relationships": "a,b", "limit": "300"}


def test_aiohttp_has_the_internals_that_the_client_builds_on() -> None:
    assert issubclass(aiohttp.ClientSSLError, aiohttp.ClientConnectorError)
    assert hasattr(aiohttp.payload.Payload, "consumed")
