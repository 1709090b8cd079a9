"""replay: recorded responses in VirusTotal's place, and how they are recorded."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import replay
import search
from aiohttp import web
from conftest import (
    KEY,
    RECORDINGS,
    SCRIPTS,
    TRANSIENT,
    Run,
    Server,
    body,
    collection,
    environment,
    error,
    file_object,
    html,
    redirect,
)

DUMMY = "0" * 64
SEARCH = "/intelligence/search"
FIELDS = {"shows", "method", "path", "query", "status", "headers"}
BODIES = {"body", "lines", "text", "base64"}


class Answer(NamedTuple):
    """What a client got: the status, the headers that matter, the body, and the URL that it came from."""

    status: int
    content_type: str
    body: bytes
    url: str
    retry_after: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask_all(respond: Any, requests: tuple[str, ...], data: bytes | None) -> list[Answer]:
    answers: list[Answer] = []
    async with replay.serve(respond) as host, aiohttp.ClientSession() as session:
        for request in requests:
            method, _, path = request.rpartition(" ")
            url = f"{host}/api/v3{path}" if path.startswith("/") else answers[-1].json[path]
            async with session.request(
                method or "GET", url, data=data, headers={"x-apikey": DUMMY, "x-tool": "a.b.c"}
            ) as answer:
                content, retry_after = await answer.read(), answer.headers.get("Retry-After")
                answers.append(Answer(answer.status, answer.content_type, content, str(answer.url), retry_after))
    return answers


def ask(folder: Path, *requests: str) -> list[Answer]:
    """Ask replay for paths below /api/v3, with a method before unless it is GET; `data` is the last answer's link."""
    return asyncio.run(ask_all(replay.Player(replay.load(folder).values()).respond, requests, None))


def exchange(path: str, body: Any = None, **more: Any) -> dict[str, Any]:
    return {"shows": "A test.", "method": "GET", "path": path, "query": {}, "status": 200, "body": body} | more


def write(folder: Path, name: str, recorded: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(recorded))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for recordings."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Keep the signal handlers of the test process, which replay changes for its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ---- Which recording answers


@pytest.mark.parametrize(
    ("asked", "recorded", "same"),
    [
        ({"query": {"b": "2", "a": "1", "limit": "9"}}, {"query": {"a": "1", "b": "2"}}, True),
        ({"query": {"exclude_attributes": "a", "cursor": ""}}, {"query": {}}, True),
        ({"query": {"cursor": "x"}}, {"query": {}}, False),
        ({"path": "/file_behaviours/a_CAPE%20Sandbox"}, {"path": "/file_behaviours/a_CAPE Sandbox"}, True),
        ({"path": "/ip_addresses/2001%3Adb8%3A%3A1"}, {"path": "/ip_addresses/2001:db8::1"}, True),
        ({"path": "https://storage.example/a", "query": {"sig": "1"}}, {"path": "https://storage.example/a"}, True),
        ({"method": "DELETE"}, {}, False),
    ],
)
def test_requests_are_compared(asked: dict[str, Any], recorded: dict[str, Any], same: bool) -> None:
    assert (replay.key_of(exchange("/files") | asked) == replay.key_of(exchange("/files") | recorded)) is same


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 300])
def test_any_page_size_gives_every_recorded_object_once_and_in_order(limit: int) -> None:
    player = replay.Player(replay.load(RECORDINGS / "search").values())
    found, cursor = [], ""
    while cursor is not None:
        query = {"query": "entity:url p:3+", "limit": str(limit), "cursor": cursor}
        page = asyncio.run(player.respond(exchange(SEARCH, query=query)))["body"]
        assert len(page["data"]) <= limit
        found += page["data"]
        cursor = page["meta"].get("cursor")
    pages = [json.loads((RECORDINGS / "search" / f"urls-{n}.json").read_text())["body"]["data"] for n in (1, 2)]
    assert found == pages[0] + pages[1]


def test_a_page_that_was_cut_links_to_no_other(folder: Path) -> None:
    write(folder, "a", exchange("/a", {"data": [1, 2, 3], "links": {"next": "https://x.example"}}))
    assert "next" not in ask(folder, "/a?limit=2")[0].json["links"]


def test_a_cursor_whose_page_was_not_recorded_is_left_out(folder: Path) -> None:
    write(folder, "1", exchange("/a", {"data": [1, 2], "meta": {"cursor": "two", "count": 9}}))
    write(folder, "2", exchange("/a", {"data": [3], "meta": {"cursor": "three"}}, query={"cursor": "two"}))
    first, second = ask(folder, "/a", "/a?cursor=two")
    assert first.json["meta"] == {"cursor": "two", "count": 9}
    assert not second.json["meta"].get("cursor")


def test_excluded_attributes_are_left_out(folder: Path) -> None:
    item = file_object(1, last_analysis_results={"Engine": {}})
    write(folder, "1", exchange("/files/1", {"data": item}))
    write(folder, "2", exchange(SEARCH, {"data": [item, {"type": "file", "id": "2"}]}))
    names = "exclude_attributes=last_analysis_results,size"
    one, several, everything = ask(folder, f"/files/1?{names}", f"{SEARCH}?{names}", "/files/1")
    assert one.json["data"]["attributes"].keys() == {"meaningful_name", "last_analysis_stats"}
    assert several.json["data"] == [one.json["data"], {"type": "file", "id": "2"}]
    assert everything.json["data"] == item


def test_several_responses_to_a_request_come_in_turn_and_the_last_stays(folder: Path) -> None:
    for n, state in enumerate(["starting", "running", "finished"]):
        write(folder, f"job-{n}", exchange("/job", {"data": state}))
    states = [answer.json["data"] for answer in ask(folder, *["/job"] * 5)]
    assert states == ["starting", "running", "finished", "finished", "finished"]


def test_each_method_has_its_own_recording(folder: Path) -> None:
    methods = ["GET", "POST", "PATCH", "DELETE"]
    for method in methods:
        write(folder, method, exchange("/rulesets/1", {"data": method}, method=method))
    assert [answer.json["data"] for answer in ask(folder, *(f"{m} /rulesets/1" for m in methods))] == methods


def test_what_was_not_recorded_is_a_404_that_names_similar_recordings() -> None:
    (answer,) = ask(RECORDINGS / "search", f"{SEARCH}?query=entity:ip%20p:4%2B&limit=10")
    assert (answer.status, answer.json["error"]["code"]) == (404, "NotFoundError")
    assert f"not recorded: GET {SEARCH}?query=entity:ip p:4+;" in answer.json["error"]["message"]
    assert f"GET {SEARCH}?query=entity:ip p:3+;" in answer.json["error"]["message"]


def test_every_kind_of_body_is_sent_as_recorded(folder: Path) -> None:
    for kind, content in {"lines": [{"a": 1}, {"b": 2}], "text": "<h1>é</h1>", "base64": "AP8="}.items():
        recorded = exchange(f"/{kind}", status=418, headers={"Content-Type": "text/html"})
        del recorded["body"]
        write(folder, kind, recorded | {kind: content})
    lines, text, binary = ask(folder, "/lines", "/text", "/base64")
    assert bz2.decompress(lines.body) == b'{"a": 1}\n{"b": 2}\n'
    assert text[:3] == (418, "text/html", "<h1>é</h1>".encode())
    assert binary.body == b"\x00\xff"


# ---- Redirects and links


def test_a_redirect_to_storage_leads_to_another_origin_on_loopback(folder: Path) -> None:
    write(folder, "1", exchange("/feed", status=302, headers={"Location": "https://storage.example/a.bz2?sig=1"}))
    write(folder, "2", exchange("https://storage.example/a.bz2", {"data": 1}))
    write(folder, "3", exchange("/own", status=302, headers={"Location": "/api/v3/feed"}))
    direct, other, own = ask(folder, "/nothing", "/feed", "/own")
    assert (other.status, own.status, other.json) == (200, 200, {"data": 1})
    origins = {re.sub("(?<=[0-9])/.*", "", answer.url) for answer in (direct, other)}
    assert len(origins) == 2
    assert all(origin.startswith("http://127.0.0.1:") for origin in origins)


@pytest.mark.parametrize("link", ["http://www.virustotal.com/_ah/upload/1", "https://storage.example/_ah/upload/1"])
def test_an_upload_url_leads_to_loopback(folder: Path, link: str) -> None:
    write(folder, "1", exchange("/files/upload_url", {"data": link}))
    write(folder, "2", exchange("/_ah/upload/1", {"data": {"id": "own"}}, method="POST"))
    write(folder, "3", exchange("https://storage.example/_ah/upload/1", {"data": {"id": "other"}}, method="POST"))
    player = replay.Player(replay.load(folder).values())
    answer = asyncio.run(ask_all(player.respond, ("/files/upload_url", "POST data"), b"x" * 3_000_000))[1]
    assert answer.json["data"]["id"] == ("own" if "virustotal" in link else "other")


@pytest.mark.parametrize("link", ["@{host}/", "//{host}/", "http://{host}/"])
def test_no_recorded_redirect_leaves_loopback(folder: Path, other_host: Server, link: str) -> None:
    location = link.format(host=other_host.url.removeprefix("http://"))
    write(folder, "a", exchange("/a", status=302, headers={"Location": location}))
    assert ask(folder, "/a")[0].status == 404
    assert not other_host.seen


# ---- The command


SHOW = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open('out.json', 'w')); sys.exit(77)"


def test_the_command_gets_its_arguments_a_dummy_key_and_a_loopback_host(run: Run) -> None:
    args = ["--record", "--list", "-h", "--recordings", "x"]
    result = run("replay", sys.executable, "-c", SHOW, *args, VT_API_KEY=KEY, NO_PROXY="intranet.example")
    got, env = json.loads(Path("out.json").read_text())
    assert (result.code, got) == (77, args)
    assert re.fullmatch("http://127.0.0.1:[0-9]+", env["VT_HOST"])
    assert {env["VT_API_KEY"], env["VTCLI_APIKEY"]} == {DUMMY}
    assert {env["NO_PROXY"], env["no_proxy"]} == {"intranet.example,127.0.0.1"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_is_passed_on_and_the_command_decides_how_to_end(tmp_path: Path) -> None:
    code = """if True:
        import signal, sys, time
        signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), print("interrupted", flush=True), sys.exit(77)))
        signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), sys.exit(77)))
        time.sleep(0.2)
        print("ready", flush=True)
        time.sleep(60)
    """
    for number, printed in [(signal.SIGTERM, "terminated\n"), (signal.SIGINT, "interrupted\n")]:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "replay.py"), sys.executable, "-c", code],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout and process.stdout.readline() == "ready\n"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        assert (process.communicate(timeout=30)[0], process.returncode) == (printed, 77)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_killed_command_is_reported_as_a_shell_does(run: Run) -> None:
    assert run("replay", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)").code == 128 + 9


def test_a_python_file_is_run_with_uv_or_else_with_this_python(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    async def start(*command: str, env: dict[str, str]) -> None:
        commands.append(command)
        raise FileNotFoundError(2, "not found")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    for uv, which, module in [("/a/uv", "/b/uv", "x"), ("", "/b/uv", "x"), ("", None, "x"), ("", None, None)]:
        monkeypatch.setattr("shutil.which", lambda _, found=which: found)
        monkeypatch.setattr("importlib.util.find_spec", lambda _, found=module: found)
        result = run("replay", "scripts/some.py", "--limit", 5, UV=uv)
        assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    python, rest = sys.executable, ("scripts/some.py", "--limit", "5")
    assert commands == [
        ("/a/uv", "run", "--script", *rest),
        ("/b/uv", "run", "--script", *rest),
        (python, "-m", "uv", "run", "--script", *rest),
        (python, *rest),
    ]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--recordings", "none", sys.executable],
        ["--recordings", "none", "--list"],
        ["no-such-program"],
        ["--unknown", sys.executable],
        ["--record", sys.executable, "-c", ""],
    ],
)
def test_wrong_usage_is_one_line(run: Run, args: list[str]) -> None:
    result = run("replay", *args, VT_API_KEY="")
    assert (result.code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert not Path("none").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", "5", '{"method": "GET"}', json.dumps(exchange("/x", query=[])), '{"shows": "\\ud800"', "\xff"]
)
def test_a_broken_recording_is_named(run: Run, folder: Path, text: str) -> None:
    (folder / "broken.json").write_text(text, encoding="latin-1")
    result = run("replay", "--recordings", folder, sys.executable, "-c", "")
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    assert "broken.json" in result.stderr


def test_a_host_that_is_no_url_is_refused(run: Run, folder: Path) -> None:
    result = run("replay", "--record", "--recordings", folder, sys.executable, "-c", "", VT_HOST="virustotal.com")
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    assert "VT_HOST" in result.stderr


def test_list_prints_a_line_for_each_recording_that_no_terminal_obeys(run: Run, folder: Path) -> None:
    write(folder, "one", exchange("/x", shows="\x1b[2Jcleared"))
    assert run("replay", "--list", "--recordings", folder).stdout == "GET /x -> 200  \\x1b[2Jcleared\n"
    assert len(run("replay", "--list").stdout.splitlines()) == len(list(RECORDINGS.rglob("*.json")))


# ---- Recording


class Record:
    """Record what `ask` asks `server`, in `folder`."""

    def __init__(self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.folder, self.patch = server, folder, monkeypatch

    def ask(self, *requests: str, data: bytes | None = None, **env: str) -> list[Answer]:
        async def work() -> list[Answer]:
            recorder = replay.Recorder(self.folder)
            async with recorder.session:
                answers = await ask_all(recorder.respond, requests, data)
            assert not recorder.unsaved
            return answers

        with self.patch.context() as patch:
            for name, value in ({"VT_HOST": self.server.url, "VT_API_KEY": KEY} | env).items():
                patch.setenv(name, value)
            return asyncio.run(work())

    @property
    def data(self) -> list[Any]:
        """The data of all recordings, in the order of the files."""
        return [recorded["body"]["data"] for recorded in replay.load(self.folder).values()]

    @property
    def text(self) -> str:
        """Everything that is in the folder, file names included."""
        return "".join(path.name + path.read_text() for path in self.folder.iterdir())


@pytest.fixture
def record(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    return Record(server, folder, monkeypatch)


def test_what_is_recorded_is_answered_the_same_afterwards(record: Record, server: Server, folder: Path) -> None:
    hostile = {"data": {"type": "file", "id": "a", "attributes": {"names": ["\u202e\x00\ud800", "é"], "n": 1.5}}}
    server.answer("/files/a", hostile)
    server.answer("/files/page", html(404))
    server.answer("/pcap", body(b"\xd4\xc3\xb2\xa1\x00\xff"))
    server.answer("/feed", body(bz2.compress(b'{"id": "a"}\n')))
    sample = b'{"a":   1}\n'  # its hash must stay
    server.answer("/sample", body(sample))
    server.answer("/empty", body(b""))
    paths = ["/files/a?relationships=x,y&limit=3", "/files/page", "/files/none", "/pcap", "/feed", "/sample", "/empty"]
    live = record.ask(*paths, "DELETE /empty", "POST /files/a")
    assert (live[0].json, live[5].body) == (hostile, sample)
    again = ask(folder, *paths, "DELETE /empty", "POST /files/a")
    assert [answer[:3] for answer in again] == [answer[:3] for answer in live]
    assert record.text.isascii()


def test_what_the_command_sends_reaches_virustotal(record: Record, server: Server) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"data": f"{request.headers['x-tool']} {(await request.read()).decode()}"})

    server.answer("/rulesets", echo)
    assert record.ask("POST /rulesets?a=%2B%20", data=b"rule a {}")[0].json == {"data": "a.b.c rule a {}"}
    assert server.paths == ["POST /rulesets?a=%2B%20"]


def test_the_key_reaches_virustotal_only_and_no_file(record: Record, server: Server) -> None:
    async def echo(request: web.Request) -> web.Response:
        message = f"Wrong API key {request.headers['X-Apikey']}"
        return web.json_response({"error": {"code": "WrongCredentialsError", "message": message}}, status=401)

    async def binary(request: web.Request) -> web.Response:
        return web.Response(body=b"\xff" + KEY.encode())

    server.answer("/echo", echo)
    server.answer("/binary", binary)
    server.answer("/users/*", echo)
    answers = record.ask("/echo", "/binary", f"/users/{DUMMY}/overall_quotas", f"/echo?query={DUMMY}")
    assert [request.headers["X-Apikey"] for request in server.seen] == [KEY] * 4
    assert server.paths[2:] == [f"GET /users/{KEY}/overall_quotas", f"GET /echo?query={DUMMY}"]
    assert KEY not in str(answers) + record.text
    assert KEY.encode() not in b"".join(replay.encode_body(e) for e in replay.load(record.folder).values())
    assert len(list(record.folder.iterdir())) == 4


def test_storage_gets_no_credentials_and_its_signature_is_not_saved(
    record: Record, server: Server, other_host: Server, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    package = bz2.compress(b'{"id": "a"}\n')
    server.answer("/feeds/files/202611210000", redirect(f"{other_host.url}/api/v3/1.bz2?signature=s3cret"))
    server.answer("/files/a/download_url", {"data": f"{other_host.url}/api/v3/a?signature=s3cret"})
    other_host.answer("/1.bz2", body(package))
    other_host.answer("/a", body(b"sample"))
    feed, _, download = record.ask(
        "/feeds/files/202611210000", "/files/a/download_url", "data", NETRC=str(tmp_path / "netrc")
    )
    assert (feed.body, download.body) == (package, b"sample")
    assert [request.raw_path.partition("?")[2] for request in other_host.seen] == ["signature=s3cret"] * 2
    assert not any({"X-Apikey", "Authorization"} & set(request.headers) for request in other_host.seen)
    assert "s3cret" not in record.text
    assert ask(folder, "/feeds/files/202611210000")[0].body == package
    assert ask(folder, "/files/a/download_url", "data")[1].body == b"sample"


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_failure_is_passed_on_and_not_saved(record: Record, server: Server, fault: str) -> None:
    server.answer("/files/a", TRANSIENT[fault], {"data": 1})
    failed, good = record.ask("/files/a", "/files/a")
    assert good.json == {"data": 1}
    assert failed.status in (429, 502, 503) or fault == "reset"  # which aiohttp retries
    assert failed.retry_after == ("0" if "Retry-After" in fault else None)
    assert record.data == [1]


def test_an_unreachable_virustotal_is_a_transient_failure(record: Record) -> None:
    (answer,) = record.ask("/files/a", VT_HOST="http://127.0.0.1:9")
    assert (answer.status, record.text) == (502, "")


def test_the_first_response_replaces_what_was_recorded_and_the_next_pages(record: Record, server: Server) -> None:
    query = {"query": "q"}
    write(record.folder, "1", exchange(SEARCH, {"data": ["old"], "meta": {"cursor": "two"}}, query=query))
    write(record.folder, "2", exchange(SEARCH, {"data": ["old"]}, query=query | {"cursor": "two"}))
    write(record.folder, "3", exchange(SEARCH, {"data": ["other"]}, query={"query": "other"}))
    server.answer(SEARCH, {"data": ["new"], "meta": {"cursor": "zwei"}}, {"data": ["newer"]})
    record.ask(f"{SEARCH}?query=q&limit=1", f"{SEARCH}?query=q&cursor=zwei")
    assert sorted(record.data) == [["new"], ["newer"], ["other"]]


def test_a_run_that_continues_at_a_cursor_replaces_that_page_only(record: Record, server: Server) -> None:
    write(record.folder, "1", exchange("/c", {"data": ["first"], "meta": {"cursor": "two"}}))
    write(record.folder, "2", exchange("/c", {"data": ["old"]}, query={"cursor": "two"}))
    server.answer("/c", {"data": ["new"]})
    record.ask("/c?cursor=two")
    assert sorted(record.data) == [["first"], ["new"]]


def test_an_error_replaces_no_good_response(record: Record, server: Server) -> None:
    write(record.folder, "good", exchange("/c", {"data": ["old"]}))
    server.answer(
        "/c", error(401, "WrongCredentialsError"), error(404, "NotFoundError"), {"data": ["new"]}, {"data": ["newer"]}
    )
    assert [answer.status for answer in record.ask("/c", "/c")] == [401, 404]
    assert record.data == [["old"]]
    record.ask("/c", "/c")
    assert record.data == [["new"], ["newer"]]


def test_responses_that_differ_are_kept_in_order_and_repetitions_once(record: Record, server: Server) -> None:
    server.answer("/job", error(404, "NotFoundError"), *({"data": state} for state in (1, 1, 2, 2, 3)))
    live = record.ask(*["/job"] * 6)
    assert [recorded["status"] for recorded in replay.load(record.folder).values()] == [404, 200, 200, 200]
    assert [a.json for a in ask(record.folder, *["/job"] * 4)] == [live[n].json for n in (0, 1, 3, 5)]


def test_a_hostile_path_names_no_file_elsewhere(record: Record, server: Server) -> None:
    server.answer("/*", {"data": 1})
    record.ask("/files/..%2F..%2F%00etc%1B[2J", "/files/" + "a" * 900, "/files/con?q=%E2%80%AE:%7C", "/files/%2E%2E")
    names = [path.name for path in record.folder.iterdir()]
    assert len(names) == 4
    assert all(re.fullmatch(r"[a-z0-9-]{1,110}\.json", name) for name in names)


def test_a_response_that_cannot_be_saved_reaches_the_command(run: Run, server: Server) -> None:
    server.answer("/files/a", {"data": 1})
    remove = "import os, urllib.request; os.rmdir('mine');"
    fetch = "open('out', 'wb').write(urllib.request.urlopen(os.environ['VT_HOST'] + '/api/v3/files/a').read())"
    result = run("replay", "--record", "--recordings", "mine", sys.executable, "-c", remove + fetch)
    assert (result.code, Path("out").read_text()) == (1, '{"data": 1}')
    assert "GET /files/a is not saved" in result.stderr


def test_a_recorded_search_with_a_limit_is_complete_without_one(
    record: Record, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer(SEARCH, collection(*(file_object(n) for n in range(5)), cursor="never asked"))

    async def ids(respond: Any, limit: int) -> list[str]:
        async with replay.serve(respond) as host:
            monkeypatch.setenv("VT_HOST", host)
            return [item["id"] async for item in search.search("q", limit=limit, apikey=DUMMY)]

    async def live() -> list[str]:
        monkeypatch.setenv("VT_HOST", server.url)
        monkeypatch.setenv("VT_API_KEY", KEY)
        recorder = replay.Recorder(record.folder)
        async with recorder.session:
            return await ids(recorder.respond, 5)

    recorded = asyncio.run(live())
    assert asyncio.run(ids(replay.Player(replay.load(record.folder).values()).respond, 0)) == recorded
    assert len(recorded) == 5


# ---- The recordings of this repository


def recordings() -> list[Any]:
    return [pytest.param(path, id=str(path.relative_to(RECORDINGS))) for path in sorted(RECORDINGS.rglob("*.json"))]


@pytest.mark.parametrize("path", recordings())
def test_a_recording_has_the_documented_fields_and_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    recorded = json.loads(text)
    kinds = recorded.keys() & BODIES
    assert recorded.keys() - kinds <= FIELDS
    assert FIELDS - {"headers"} <= recorded.keys()
    assert len(kinds) == 1
    assert re.match("[A-Z0-9].*[.)]$", recorded["shows"], re.DOTALL), "`shows` is a sentence"
    assert recorded["method"] in ("GET", "POST", "PATCH", "DELETE")
    assert re.match("/(?!api/)|https?://", recorded["path"])
    assert all(isinstance(value, str) for value in recorded["query"].values())
    assert 200 <= recorded["status"] < 600
    assert text.isascii(), "write other characters as \\u escapes"
    secrets = ["x-apikey", "signature=", "x-amz-", "x-goog-", KEY]
    with contextlib.suppress(replay.UsageError):
        secrets.append(replay.find_key(None)[0])  # of whoever records
    assert not [secret for secret in secrets if secret in text.lower()]
    assert set(re.findall("/users/([0-9a-f]{64})", text)) <= {DUMMY}


def test_every_recorded_redirect_and_cursor_leads_to_a_recording() -> None:
    exchanges = replay.load(RECORDINGS)
    keys = set(map(replay.key_of, exchanges.values()))
    for path, recorded in exchanges.items():
        if location := recorded.get("headers", {}).get("Location"):
            assert replay.key_of({"method": "GET", "path": location, "query": {}}) in keys, path
        page = recorded.get("body")
        if isinstance(page, dict) and (cursor := (page.get("meta") or {}).get("cursor")):
            assert replay.key_of(recorded | {"query": recorded["query"] | {"cursor": cursor}}) in keys, path
