"""scripts/replay.py: recorded answers in VirusTotal's place, and how they are recorded."""

from __future__ import annotations

import bz2
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import replay
from aiohttp import web
from conftest import KEY, RECORDINGS, SCRIPTS, Run, Server, environment, error, html

# A client such as a user may write: asks for each argument, says what came, follows redirects with the key off.
CLIENT = """
import json, os, sys, urllib.error, urllib.request
for asked in sys.argv[1:]:
    method, _, path = asked.rpartition(" ")
    headers = {"x-apikey": os.environ["VT_API_KEY"]}
    url = path if path.startswith("http") else os.environ["VT_HOST"] + "/api/v3" + path
    request = urllib.request.Request(url, headers=headers, method=method or "GET")
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    body = answer.read()
    print(json.dumps({"status": answer.status, "url": answer.url, "headers": dict(answer.headers), "body": body.hex()}))
"""


class Client:
    """Runs CLIENT under replay: `ask(*paths)` gives the answers, `.last` the finished process."""

    def __init__(self, run: Run, tmp_path: Path) -> None:
        self.run, self.program = run, tmp_path / "client.txt"  # not .py: that would be run with uv
        self.program.write_text(CLIENT)

    def ask(self, *paths: str, options: tuple[object, ...] = (), **settings: Any) -> list[dict[str, Any]]:
        self.last = self.run("replay", *options, sys.executable, self.program, *paths, **settings)
        assert self.last.returncode == 0, self.last.stderr
        answers = [json.loads(line) for line in self.last.stdout.splitlines()]
        return [answer | {"body": bytes.fromhex(answer["body"])} for answer in answers]


@pytest.fixture
def client(run: Run, tmp_path: Path) -> Client:
    return Client(run, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for recordings."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def exchange(path: str, body: Any = None, **more: Any) -> dict[str, Any]:
    return {"method": "GET", "path": path, "query": {}, "status": 200, "body": body} | more


def write(folder: Path, name: str, recorded: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(recorded))


def search(query: str, **more: object) -> str:
    return "/intelligence/search?" + urllib.parse.urlencode({"query": query, **more})


# What is asked, and which recording answers


def test_what_was_recorded_is_answered_without_a_key(client: Client) -> None:
    (answer,) = client.ask(search("entity:ip p:3+"))
    assert answer["status"] == 200
    assert [item["id"] for item in json.loads(answer["body"])["data"]] == [
        "192.0.2.7",
        "2001:db8::dead:beef",
        "10.0.0.5",
    ]


def test_the_order_of_parameters_and_the_quoting_of_a_path_do_not_matter() -> None:
    plain = replay.question("GET", "/file_behaviours/abc_CAPE Sandbox", [("a", "1"), ("b", "2")])
    assert plain == replay.question(
        "GET", "/file_behaviours/abc_CAPE%20Sandbox", [("b", "2"), ("limit", "9"), ("a", "1")]
    )
    assert replay.question("GET", "/ip_addresses/2001%3adb8%3a%3a1", []) == replay.question(
        "GET", "/ip_addresses/2001:db8::1", []
    )
    assert replay.question("GET", "/urls/a%2Fb", []) != replay.question("GET", "/urls/a/b", [])
    assert plain != replay.question("GET", "/file_behaviours/abc_CAPE Sandbox", [("a", "1"), ("b", "3")])


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 300])
def test_any_page_size_gives_every_recorded_item_once_and_in_order(limit: int) -> None:
    answers = replay.Answers(replay.load(RECORDINGS / "search").values())
    got, query = [], {"query": "entity:url p:3+", "limit": str(limit)}
    while True:
        body = answers.answer("GET", "/intelligence/search", query)["body"]
        assert len(body["data"]) <= limit
        got += body["data"]
        if "cursor" not in body["meta"]:
            break
        query["cursor"] = body["meta"]["cursor"]
    pages = [json.loads((RECORDINGS / "search" / f"urls-{n}.json").read_text())["body"]["data"] for n in (1, 2)]
    assert got == pages[0] + pages[1]


def test_a_cut_page_links_to_no_page_after_the_cut() -> None:
    answers = replay.Answers(replay.load(RECORDINGS / "search").values())
    body = answers.answer("GET", "/intelligence/search", {"query": "entity:url p:3+", "limit": "1"})["body"]
    assert "next" not in body["links"]


def test_several_answers_to_one_question_come_in_turn_and_the_last_for_ever(client: Client, folder: Path) -> None:
    for n, state in enumerate(["running", "running more", "finished"]):
        write(folder, f"job-{n}", exchange("/job", {"state": state}))
    answers = client.ask(*["/job"] * 5, options=("--recordings", folder))
    states = [json.loads(answer["body"])["state"] for answer in answers]
    assert states == ["running", "running more", "finished", "finished", "finished"]


def test_what_was_not_recorded_is_a_404_that_says_what_was_asked_and_what_is_near(client: Client) -> None:
    (answer,) = client.ask(search("entity:ip p:4+", limit=10))
    assert answer["status"] == 404
    error = json.loads(answer["body"])["error"]
    assert error["code"] == "NotFoundError"
    assert "not recorded: GET /intelligence/search?query=entity:ip p:4+;" in error["message"]
    assert "near: GET /intelligence/search?query=entity:ip p:3+;" in error["message"]


def test_statuses_and_headers_are_answered_as_recorded(client: Client) -> None:
    quota, page = client.ask(search("entity:file replay:429"), search("entity:file replay:502-once"))
    assert (quota["status"], quota["headers"]["Retry-After"]) == (429, "40000")
    assert (page["status"], page["headers"]["Content-Type"]) == (502, "text/html")
    assert page["body"].startswith(b"<html>")


def test_a_feed_redirects_to_another_origin_which_serves_the_package_compressed(client: Client) -> None:
    answer, own = client.ask("/feeds/files/202611210000", search("entity:ip p:3+"))
    assert urllib.parse.urlsplit(answer["url"]).netloc != urllib.parse.urlsplit(own["url"]).netloc
    assert answer["url"].endswith("/https/storage.example/feeds/files/202611210000.bz2")
    lines = [json.loads(line) for line in bz2.decompress(answer["body"]).splitlines()]
    assert lines == json.loads((RECORDINGS / "feeds" / "files-202611210000-package.json").read_text())["lines"]


# The command


def test_the_command_gets_a_loopback_host_a_dummy_key_and_no_proxy_on_the_way(run: Run) -> None:
    names = ["VT_HOST", "VT_API_KEY", "VTCLI_APIKEY", "NO_PROXY", "no_proxy"]
    code = f"import json, os; print(json.dumps([os.environ[name] for name in {names}]))"
    result = run("replay", sys.executable, "-c", code, VT_API_KEY=KEY, VTCLI_APIKEY=KEY, NO_PROXY="intranet.example")
    host, *rest = json.loads(result.stdout)
    assert host.startswith("http://127.0.0.1:")
    assert rest == ["0" * 64, "0" * 64, "intranet.example,127.0.0.1", "intranet.example,127.0.0.1"]


def test_options_after_the_command_and_its_streams_are_the_commands(run: Run) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read())"
    result = run("replay", sys.executable, "-c", code, "--record", "--list", "-h", stdin="typed")
    assert (result.returncode, result.stdout, result.stderr) == (0, "['--record', '--list', '-h'] typed\n", "")


@pytest.mark.parametrize("code", [0, 3, 77])
def test_the_commands_exit_code_is_passed_on(run: Run, code: int) -> None:
    assert run("replay", sys.executable, "-c", f"raise SystemExit({code})").returncode == code


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no signals")
def test_a_command_that_a_signal_killed_is_reported_as_a_shell_does(run: Run) -> None:
    assert run("replay", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)").returncode == 128 + 9


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command_which_tidies_up_and_says_how_it_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    code = """
import os, signal, sys, time
def tidy(number, frame):
    os.write(1, b"tidied %d\\n" % number)
    sys.exit(130)
signal.signal(signal.SIGINT, tidy), signal.signal(signal.SIGTERM, tidy)
os.write(1, b"ready\\n")
time.sleep(60)
"""
    command = [sys.executable, str(SCRIPTS / "replay.py"), sys.executable, "-c", code]
    process = subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    assert (rest, process.returncode) == (f"tidied {number}\n", 130)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for uv is a shell script")
def test_a_python_file_is_run_with_the_uv_that_runs_replay(run: Run, tmp_path: Path) -> None:
    stand_in = tmp_path / "uv"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "some.py").touch()
    result = run("replay", "scripts/some.py", "--limit", 5, UV=str(stand_in))
    assert result.stdout == "run --script scripts/some.py --limit 5\n"


# Mistakes


def test_no_command_no_recordings_and_no_such_program_are_one_line_and_exit_2(run: Run, tmp_path: Path) -> None:
    for arguments, words in [
        ([], "no COMMAND"),
        (["--recordings", tmp_path / "none", sys.executable], "no recordings in"),
        (["--recordings", tmp_path / "none", "--list"], "no recordings in"),
        (["no-such-program"], "cannot run no-such-program"),
        (["--unknown", sys.executable], "No such option: --unknown"),
    ]:
        result = run("replay", *arguments)
        assert result.returncode == 2
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"method": "GET"}', '{"method": "GET", "path": "/x", "status": 200}'])
def test_a_broken_recording_is_named(run: Run, folder: Path, text: str) -> None:
    (folder / "broken.json").write_text(text)
    result = run("replay", "--recordings", folder, sys.executable, "-c", "")
    assert result.returncode == 2
    assert "broken.json is no recording" in result.stderr


def test_list_says_each_recording_on_a_line_that_no_terminal_obeys(run: Run, folder: Path) -> None:
    write(folder, "one", exchange("/x", shows="\x1b[2Jcleared"))
    assert run("replay", "--list", "--recordings", folder).stdout == "GET /x -> 200  \\x1b[2Jcleared\n"
    listed = run("replay", "--list").stdout.splitlines()
    assert len(listed) == len(list(RECORDINGS.rglob("*.json")))


def test_every_recording_of_ours_says_what_it_shows_and_is_plain_ascii() -> None:
    for path, recorded in replay.load(RECORDINGS).items():
        assert recorded.get("shows"), path
        assert path.read_bytes().isascii(), path


# Recording


def record(client: Client, folder: Path, server: Server, *paths: str, **settings: Any) -> list[dict[str, Any]]:
    return client.ask(*paths, options=("--record", "--recordings", folder), server=server, **settings)


def again(client: Client, folder: Path, *paths: str) -> list[dict[str, Any]]:
    return client.ask(*paths, options=("--recordings", folder))


def plain(answers: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(answer["status"], answer["body"]) for answer in answers]


def test_what_is_recorded_is_answered_just_so_afterwards(client: Client, folder: Path, server: Server) -> None:
    package = bz2.compress(b'{"id": "a"}\n{"id": "b"}\n')

    async def pcap(request: web.Request) -> web.Response:
        return web.Response(body=b"\xd4\xc3\xb2\xa1\x00\xff", content_type="application/vnd.tcpdump.pcap")

    async def batch(request: web.Request) -> web.Response:
        return web.Response(body=package, content_type="application/octet-stream")

    async def nothing(request: web.Request) -> web.Response:
        return web.Response()

    server.answer(
        "/files/a", {"data": {"type": "file", "id": "a", "attributes": {"names": ["\u202e\x00", "é"], "n": 1.5}}}
    )
    server.answer("/files/b", error(429, "QuotaExceededError", "Quota exceeded", **{"Retry-After": "7"}))
    server.answer("/files/c", html(502))
    server.answer("/pcap", pcap)
    server.answer("/batch", batch)
    server.answer("/job", nothing)
    paths = [
        "/files/a?relationships=x,y&limit=3",
        "/files/b",
        "/files/c",
        "/files/none",
        "/batch",
        "/pcap",
        "DELETE /job",
    ]
    live = record(client, folder, server, *paths)
    live_says = client.last.stderr
    assert plain(again(client, folder, *paths)) == plain(live)
    assert [answer["body"] for answer in live[-3:]] == [package, b"\xd4\xc3\xb2\xa1\x00\xff", b""]
    kinds = {tuple(e)[-1] for e in replay.load(folder).values()}
    assert kinds == {"body", "text", "base64", "lines"}
    assert [a["headers"].get("Retry-After") for a in live[:2]] == [None, "7"]
    assert "7 exchanges recorded" in live_says


def test_the_key_reaches_virustotal_alone_and_no_file(client: Client, folder: Path, server: Server) -> None:
    secret = "k+y/%&\"'" + KEY  # of a form that quoting changes

    async def echo(request: web.Request) -> web.Response:
        said = [secret, secret.upper(), urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret)]
        return web.json_response({"error": {"code": "WrongCredentialsError", "message": said}}, status=401)

    server.answer("/echo", echo)
    server.answer("/users/*", echo)
    dummy = "0" * 64
    answers = record(
        client, folder, server, "/echo", f"/users/{dummy}/overall_quotas", f"/echo?query={dummy}", VT_API_KEY=secret
    )
    assert [r.headers["X-Apikey"] for r in server.seen] == [secret] * 3
    assert server.seen[1].raw_path == f"/api/v3/users/{urllib.parse.quote(secret, safe='')}/overall_quotas"
    assert server.seen[2].query_string == f"query={dummy}"  # a hash of noughts is no key
    for answer in answers:
        assert json.loads(answer["body"])["error"]["message"] == [dummy] * 4
    written = "".join(f"{path} {path.read_text()}" for path in folder.iterdir())
    assert len(list(folder.iterdir())) == 3
    for form in (secret, secret.upper(), urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1], KEY):
        assert form.lower() not in written.lower()


def test_storage_gets_no_key_and_its_signature_is_not_kept(
    client: Client, folder: Path, server: Server, other_host: Server
) -> None:
    async def moved(request: web.Request) -> web.Response:
        return web.Response(
            status=302, headers={"Location": f"{other_host.url}/api/v3/store/1.bz2?signature=s3cret&Expires=9"}
        )

    async def package(request: web.Request) -> web.Response:
        return web.Response(body=bz2.compress(b'{"id": "a"}\n'))

    server.answer("/feeds/files/202611210000", moved)
    other_host.answer("/store/1.bz2", package)
    live = record(client, folder, server, "/feeds/files/202611210000")
    assert [r.raw_path for r in other_host.seen] == ["/api/v3/store/1.bz2?signature=s3cret&Expires=9"]
    assert "X-Apikey" not in other_host.seen[0].headers
    assert not any("s3cret" in path.read_text() + path.name for path in folder.iterdir())
    assert (
        plain(again(client, folder, "/feeds/files/202611210000"))
        == plain(live)
        == [(200, bz2.compress(b'{"id": "a"}\n'))]
    )


def test_a_redirect_of_virustotals_own_stays_with_it(client: Client, folder: Path, server: Server) -> None:
    async def moved(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/api/v3/new?a=1"})

    server.answer("/old", moved)
    server.answer("/new", {"data": 1})
    live = record(client, folder, server, "/old")
    assert plain(again(client, folder, "/old")) == plain(live) == [(200, b'{"data": 1}')]


def test_the_first_answer_replaces_what_was_recorded_all_its_pages_included(
    client: Client, folder: Path, server: Server
) -> None:
    query = {"query": "q"}
    write(folder, "first", exchange("/intelligence/search", {"data": ["old"], "meta": {"cursor": "two"}}, query=query))
    write(folder, "second", exchange("/intelligence/search", {"data": ["old"]}, query=query | {"cursor": "two"}))
    write(folder, "other", exchange("/intelligence/search", {"data": ["other"]}, query={"query": "other"}))
    server.answer("/intelligence/search", {"data": ["new"], "meta": {"cursor": "zwei"}}, {"data": ["newer"]})
    record(client, folder, server, "/intelligence/search?query=q&limit=1", "/intelligence/search?query=q&cursor=zwei")
    data = sorted(e["body"]["data"][0] for e in replay.load(folder).values())
    assert data == ["new", "newer", "other"]


def test_going_on_at_a_cursor_replaces_that_page_alone(client: Client, folder: Path, server: Server) -> None:
    write(folder, "first", exchange("/c", {"data": ["old"], "meta": {"cursor": "two"}}))
    write(folder, "second", exchange("/c", {"data": ["old, too"]}, query={"cursor": "two"}))
    server.answer("/c", {"data": ["new"]})
    record(client, folder, server, "/c?cursor=two")
    assert sorted(e["body"]["data"][0] for e in replay.load(folder).values()) == ["new", "old"]


def test_an_error_replaces_no_answer_and_a_later_answer_does(client: Client, folder: Path, server: Server) -> None:
    write(folder, "good", exchange("/c", {"data": ["old"]}))
    server.answer("/c", error(429, "QuotaExceededError"), error(429, "QuotaExceededError"), {"data": ["new"]})
    assert record(client, folder, server, "/c")[0]["status"] == 429
    assert [e["body"]["data"] for e in replay.load(folder).values()] == [["old"]]
    record(client, folder, server, "/c", "/c")
    assert [e["body"]["data"] for e in replay.load(folder).values()] == [["new"]]


def test_answers_that_change_are_kept_in_order_and_repeats_once(client: Client, folder: Path, server: Server) -> None:
    states: list[Any] = [{"state": state} for state in (1, 1, 2, 2, 3)]
    server.answer("/job", *states)
    record(client, folder, server, *["/job"] * 5)
    assert [e["body"]["state"] for e in replay.load(folder).values()] == [1, 2, 3]


def test_a_hostile_path_names_no_file_elsewhere(client: Client, folder: Path, server: Server) -> None:
    server.answer("/*", {"data": 1})
    record(client, folder, server, "/files/..%2F..%2F%00etc%1B[2J", "/files/" + "a" * 900, "/files/con?q=%E2%80%AE:%7C")
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 3
    for name in names:
        assert name.isascii() and name.replace("-", "").replace(".", "").isalnum() and len(name) < 120
    assert not list(folder.rglob("*/*"))


def test_nothing_is_recorded_of_a_virustotal_that_cannot_be_reached(client: Client, folder: Path, run: Run) -> None:
    answers = client.ask(
        "/files/a", options=("--record", "--recordings", folder), VT_HOST="http://127.0.0.1:9", VT_API_KEY=KEY
    )
    assert answers[0]["status"] == 502
    assert json.loads(answers[0]["body"])["error"]["code"] == "TransientError"
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "location", ["http://[::1", "mailto:a@b", "file:///etc/passwd", "ftp://a/b", "http://a:99999/"]
)
def test_a_redirect_to_nowhere_is_recorded_as_one(client: Client, folder: Path, server: Server, location: str) -> None:
    server.answer("/files/a", error(302, "Found", Location=location))
    live = record(client, folder, server, "/files/a")
    assert "in trouble" not in str(live)
    assert plain(again(client, folder, "/files/a")) == plain(live)
    assert len(server.seen) == 1


def test_a_link_to_storage_loses_all_its_secrets_and_still_works(
    client: Client, folder: Path, server: Server, other_host: Server
) -> None:
    signed = other_host.url.replace("//", "//user:pa55@") + "/api/v3/pcap?signature=s3cret#t0ken"
    server.answer("/files/a", error(302, "Found", Location=signed))
    other_host.answer("/pcap", {"data": 1})
    assert record(client, folder, server, "/files/a")[0]["status"] == 200
    kept = "".join(path.name + path.read_text() for path in folder.iterdir())
    assert not [secret for secret in ("pa55", "s3cret", "t0ken") if secret in kept]


@pytest.mark.parametrize("header", ["Content-Type: text/\x1b[31m", "Retry-After: \xff\xfe", "Location: \x01"])
def test_a_header_that_no_server_passes_on_costs_no_answer(
    client: Client, folder: Path, server: Server, header: str
) -> None:
    async def raw(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.write(f"HTTP/1.1 429 X\r\n{header}\r\nContent-Length: 1\r\n\r\nx".encode("latin-1"))
        request.transport.close()
        return web.Response()

    server.answer("/files/a", raw)
    live = record(client, folder, server, "/files/a")
    assert plain(live) == plain(again(client, folder, "/files/a")) == [(429, b"x")]


@pytest.mark.parametrize("depth", [960, 970, 980, 100_000])
@pytest.mark.parametrize("compress", [bytes, bz2.compress])
def test_json_nested_too_deeply_is_recorded_as_it_came(
    client: Client, folder: Path, server: Server, depth: int, compress: Any
) -> None:
    async def deep(request: web.Request) -> web.Response:
        return web.Response(body=compress(b"[" * depth + b"]" * depth))

    server.answer("/files/a", deep)
    live = record(client, folder, server, "/files/a")
    assert plain(live) == plain(again(client, folder, "/files/a"))
    assert live[0]["status"] == 200


@pytest.mark.parametrize("odd", [{"meta": [1]}, {"meta": "x", "links": 5}])
def test_a_page_with_odd_company_is_cut_all_the_same(client: Client, folder: Path, odd: dict[str, Any]) -> None:
    write(folder, "a", exchange("/a", {"data": [1, 2, 3]} | odd))
    assert json.loads(again(client, folder, "/a?limit=1")[0]["body"])["data"] == [1]


@pytest.mark.parametrize("asked", ["/a?limit=" + "9" * 5000, "/a?cursor=replay-" + "9" * 5000 + "-"])
def test_a_number_without_end_is_no_crash(client: Client, folder: Path, asked: str) -> None:
    write(folder, "a", exchange("/a", {"data": [1, 2, 3]}))
    assert again(client, folder, asked)[0]["status"] in (200, 404)


def test_a_recorded_redirect_does_not_lead_away_from_loopback(client: Client, folder: Path, other_host: Server) -> None:
    write(folder, "a", exchange("/a", {}, status=302, headers={"Location": other_host.url.replace("http://", "@")}))
    assert again(client, folder, "/a")[0]["status"] == 404
    assert not other_host.seen


def test_what_cannot_be_saved_reaches_the_command_and_is_said(server: Server, run: Run, tmp_path: Path) -> None:
    server.answer("/files/a", {"data": 1})
    remove = "import os, urllib.request; os.rmdir('mine');"
    ask = "print(urllib.request.urlopen(os.environ['VT_HOST'] + '/api/v3/files/a').read())"
    result = run("replay", "--record", "--recordings", "mine", sys.executable, "-c", remove + ask, server=server)
    assert (result.returncode, result.stdout) == (1, "b'{\"data\": 1}'\n")
    assert "error: GET /files/a is not recorded: " in result.stderr


def test_recording_needs_a_key(run: Run, tmp_path: Path) -> None:
    result = run("replay", "--record", "--recordings", tmp_path / "mine", sys.executable, "-c", "")
    assert result.returncode == 2
    assert "no API key" in result.stderr
    assert not (tmp_path / "mine").exists()
