"""scan: look up, ask, submit once, wait."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pyzipper
import vt
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from conftest import KEY, SCRIPTS, TRANSIENT, Handler, Run, Server, environment, error, html, load, reset, truncated

CONTENT = b"MZ made up for a test"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "http://login.example.net/?a=1&b=2"
ANALYSIS = {"data": {"type": "analysis", "id": "abc=="}}
WAITING = {"data": {"type": "analysis", "id": "abc==", "attributes": {"status": "in-progress", "stats": {}}}}
COMPLETED = {
    "data": {
        "type": "analysis",
        "id": "abc==",
        "attributes": {"status": "completed", "stats": {"malicious": 3, "undetected": 67}},
    }
}


class Uploads:
    """Answer uploads, and keep what was sent: the file's name and content, and the other fields."""

    def __init__(self) -> None:
        self.files: list[tuple[str | None, bytes]] = []
        self.fields: dict[str, str] = {}

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if not request.content_type.startswith("multipart/"):
            self.fields |= {name: str(value) for name, value in (await request.post()).items()}
            return web.json_response(ANALYSIS)
        stream = aiohttp.StreamReader(BaseProtocol(asyncio.get_running_loop()), 1 << 30)
        stream.feed_data(await request.read())
        stream.feed_eof()
        async for part in aiohttp.MultipartReader(request.headers, stream):
            assert isinstance(part, aiohttp.BodyPartReader)
            if part.filename:
                self.files.append((part.filename, bytes(await part.read())))
            else:
                self.fields[str(part.name)] = await part.text()
        return web.json_response(ANALYSIS)


@pytest.fixture
def uploads(server: Server) -> Uploads:
    uploads = Uploads()
    server.answer("/files", uploads)
    server.answer("/urls", uploads)
    server.answer("/analyses/abc==", WAITING, COMPLETED)
    return uploads


def sample(name: str = "sample.exe", content: bytes = CONTENT) -> Path:
    path = Path(name)
    path.write_bytes(content)
    return path


def report(**attributes: Any) -> dict[str, Any]:
    stats = {"malicious": 41, "undetected": 30}
    return {"data": {"type": "file", "id": SHA256, "attributes": {"last_analysis_stats": stats} | attributes}}


def test_what_virustotal_knows_is_not_uploaded(run: Run, server: Server, uploads: Uploads) -> None:
    server.answer(f"/files/{SHA256}", report())
    result = run("scan", sample(), "--yes")
    assert (result.code, result.stdout) == (0, f"known\t41/71\t{SHA256}\tsample.exe\n")
    assert server.paths == [f"GET /files/{SHA256}"]


def test_an_unknown_file_is_uploaded_once_under_its_base_name(run: Run, server: Server, uploads: Uploads) -> None:
    Path("secret project").mkdir()
    result = run("scan", sample("secret project/sample.exe"), "--yes")
    assert (result.code, result.stdout) == (0, "queued\t-\tabc==\tsecret project/sample.exe\n")
    assert uploads.files == [("sample.exe", CONTENT)]
    assert server.paths == [f"GET /files/{SHA256}", "POST /files"]


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("Rechnung ä €.exe", "Rechnung ä €.exe"),
        ('a"; filename="b.exe', "a_; filename=_b.exe"),
        ("a\r\nX-Evil: 1.exe", "a_r_nX-Evil: 1.exe"),
        ("a\\", "a_"),
        (os.fsdecode(b"\xff.exe"), "_udcff.exe"),
    ],
)
def test_a_file_name_cannot_break_the_upload(run: Run, uploads: Uploads, name: str, sent: str) -> None:
    result = run("scan", sample(name), "--yes")
    assert result.code == 0
    assert uploads.files == [(sent, CONTENT)]
    assert len(result.stdout.splitlines()) == 1


def test_a_url_is_sent_as_a_form_field(run: Run, server: Server, uploads: Uploads) -> None:
    result = run("scan", URL, "--yes")
    assert (result.code, uploads.fields) == (0, {"url": URL})
    assert server.paths == [f"GET /urls/{vt.url_id(URL)}", "POST /urls"]


def test_a_large_file_goes_through_an_upload_url(
    run: Run, server: Server, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scan

    monkeypatch.setattr(scan, "DIRECT_BYTES", 10)
    server.answer("/files/upload_url", {"data": f"{server.url}/_ah/upload/token"})
    server.answer("/_ah/upload/token", uploads)
    assert run("scan", sample(), "--yes").code == 0
    assert server.paths == [f"GET /files/{SHA256}", "GET /files/upload_url", "POST /_ah/upload/token"]
    assert uploads.files == [("sample.exe", CONTENT)]


def test_an_upload_url_of_another_host_does_not_get_the_key(
    run: Run, server: Server, other_host: Server, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scan

    monkeypatch.setattr(scan, "DIRECT_BYTES", 10)
    server.answer("/files/upload_url", {"data": f"{other_host.url}/upload"})
    other_host.answer("/upload", uploads)
    assert run("scan", sample(), "--yes").code == 0
    assert uploads.files == [("sample.exe", CONTENT)]
    assert KEY not in str(other_host.seen[0].headers)


def test_rescan_requests_an_analysis_without_an_upload(run: Run, server: Server, uploads: Uploads) -> None:
    server.answer(f"/files/{SHA256}", report())
    server.answer(f"/files/{SHA256}/analyse", ANALYSIS)
    result = run("scan", sample(), "--rescan", "--yes")
    assert (result.code, result.stdout) == (0, "queued\t-\tabc==\tsample.exe\n")
    assert server.paths == [f"GET /files/{SHA256}", f"POST /files/{SHA256}/analyse"]


def test_wait_follows_the_analysis_to_its_verdict(run: Run, server: Server, uploads: Uploads) -> None:
    result = run("scan", sample(), "--yes", "--wait")
    assert (result.code, result.stdout) == (0, f"completed\t3/70\t{SHA256}\tsample.exe\n")
    assert server.paths[2:] == ["GET /analyses/abc=="] * 2


def test_at_the_timeout_the_analysis_ids_are_printed(run: Run, server: Server, uploads: Uploads) -> None:
    server.answer("/analyses/abc==", WAITING)
    result = run("scan", sample(), "--yes", "--wait", "--timeout", "1s")
    assert (result.code, result.stdout) == (3, "in-progress\t-\tabc==\tsample.exe\n")
    assert result.last_line.startswith("INCOMPLETE")


def test_jsonl_is_the_object_and_the_input(run: Run, server: Server, uploads: Uploads) -> None:
    server.answer(f"/files/{SHA256}", report(meaningful_name="\x1b[31m"))
    server.answer(f"/urls/{vt.url_id(URL)}", error(500, "Broken"))
    result = run("scan", sample(), URL, "--yes", "--format", "jsonl", VT_MAX_WAIT="0.01")
    assert result.code == 3
    assert result.objects == [
        report(meaningful_name="\x1b[31m")["data"] | {"scan": "sample.exe"},
        {"error": {"code": "Broken", "message": "Broken"}, "scan": URL},
    ]


def test_private_scanning_uses_its_own_paths_and_does_not_ask(run: Run, server: Server) -> None:
    uploads = Uploads()
    server.answer("/private/files", uploads)
    verdict = {"status": "completed", "threat_verdict": "VERDICT_MALICIOUS"}
    server.answer("/private/analyses/*", {"data": {"type": "private_analysis", "id": "abc==", "attributes": verdict}})
    result = run("scan", sample(), "--private", "--wait")
    assert (result.code, result.stdout) == (0, f"completed\tVERDICT_MALICIOUS\t{SHA256}\tsample.exe\n")
    assert [path for path in server.paths if "/private/" not in path] == []
    assert uploads.files == [("sample.exe", CONTENT)]


def test_with_a_password_the_file_in_the_zip_is_looked_up(run: Run, server: Server, uploads: Uploads) -> None:
    with pyzipper.AESZipFile("sample.zip", "w", encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(b"infected")
        archive.writestr("sample.exe", CONTENT)
    assert run("scan", "sample.zip", "--password", "wrong", "--yes").code == 2
    assert server.seen == []
    assert run("scan", "sample.zip", "--password", "infected", "--yes").code == 0
    assert server.paths == [f"GET /files/{SHA256}", "POST /files"]
    assert uploads.fields == {"password": "infected"}


@pytest.mark.parametrize(
    "args",
    [
        ["sample.exe"],  # no terminal to ask on
        ["absent.exe", "--yes"],
        ["www.example.net", "--yes"],
        [".", "--yes"],
        ["sample.exe", "absent.exe", "--yes"],
        ["sample.exe", "--yes", "--wait", "--timeout", "half an hour"],
        ["sample.exe", "--yes", "--password", "infected"],  # not a zip
        [],
    ],
)
def test_wrong_usage_sends_nothing(run: Run, server: Server, args: list[str]) -> None:
    sample()
    result = run("scan", *args)
    assert (result.code, server.seen, result.stdout, len(result.stderr.splitlines())) == (2, [], "", 1)


@pytest.mark.parametrize("lost", [reset, truncated, html(502), error(504, "DeadlineExceededError")])
def test_an_upload_is_not_repeated_when_its_response_is_lost(run: Run, server: Server, lost: Handler) -> None:
    server.answer("/files", lost)
    result = run("scan", sample(), "--yes")
    assert (result.code, server.paths) == (3, [f"GET /files/{SHA256}", "POST /files"])
    assert result.stdout.startswith(f"failed\t-\t{SHA256}\tsample.exe\t")
    assert "may have received it" in result.stdout


def test_a_refused_upload_is_sent_again_in_full(run: Run, server: Server, uploads: Uploads) -> None:
    content = os.urandom(3 << 20)
    server.fail(2, TRANSIENT["429"])
    assert run("scan", sample(content=content), "--yes").code == 0
    assert uploads.files == [("sample.exe", content)]


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 3, 4])  # the look-up, the first and the last poll
def test_a_transient_failure_of_a_get_is_retried(
    run: Run, server: Server, uploads: Uploads, fault: str, number: int
) -> None:
    server.fail(number, TRANSIENT[fault])
    result = run("scan", sample(), "--yes", "--wait")
    assert (result.code, result.stdout, len(server.seen)) == (0, f"completed\t3/70\t{SHA256}\tsample.exe\n", 5)


def test_one_failure_does_not_stop_the_others(run: Run, server: Server, uploads: Uploads) -> None:
    server.answer("/urls", error(400, "InvalidArgumentError", "not a URL"))
    result = run("scan", URL, sample(), "--yes")
    assert result.code == 3
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["failed", "queued"]


@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (429, 4)])
def test_a_refused_key_or_an_exhausted_quota_stops(run: Run, server: Server, status: int, code: int) -> None:
    server.answer(f"/files/{SHA256}", error(status, "No"))
    result = run("scan", sample(), URL, "--yes", VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout, set(server.paths)) == (code, "", {f"GET /files/{SHA256}"})


def test_the_same_file_twice_is_submitted_once(run: Run, uploads: Uploads) -> None:
    assert run("scan", sample("a.exe"), sample("b.exe"), "--yes").code == 0
    assert len(uploads.files) == 1


def start_on_a_terminal(tmp_path: Path, server: Server) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield a scan of an unknown file in a pseudo-terminal, at its question, and the terminal."""
    terminal, side = pty.openpty()
    (tmp_path / "sample.exe").write_bytes(CONTENT)
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "scan.py", "sample.exe"],
        env=environment(tmp_path, server),
        cwd=tmp_path,
        stdin=side,
        stdout=subprocess.PIPE,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 4096)
    yield process, terminal
    process.kill()
    process.wait()
    os.close(terminal)


@pytest.fixture
def question(tmp_path: Path, server: Server, uploads: Uploads) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    yield from start_on_a_terminal(tmp_path, server)


def test_a_notebook_sends_nothing_without_yes(
    run: Run, server: Server, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("scan")
    monkeypatch.setenv("VT_HOST", server.url)
    server.answer(f"/urls/{vt.url_id(URL)}", report())
    name = str(sample())

    async def collect(inputs: Any, **options: Any) -> list[dict[str, Any]]:
        return [item async for item in script.scan(inputs, apikey=KEY, **options)]

    known, declined = asyncio.run(collect([URL, name]))
    assert (known, declined["error"]["code"]) == (report()["data"] | {"scan": URL}, "Declined")
    assert uploads.files == []
    assert asyncio.run(collect([name, name], yes=True, wait=60)) == [COMPLETED["data"] | {"scan": name}]
    assert uploads.files == [(name, CONTENT)]
    with pytest.raises(TypeError, match="list"):
        asyncio.run(collect(name))


@pytest.mark.parametrize(("answer", "code", "sent"), [(b"y\n", 0, 1), (b"n\n", 0, 0)])
def test_the_script_asks_before_an_upload(
    question: tuple[subprocess.Popen[bytes], int], uploads: Uploads, answer: bytes, code: int, sent: int
) -> None:
    process, terminal = question
    os.write(terminal, answer)
    assert (process.wait(20), len(uploads.files)) == (code, sent)


def test_ctrl_c_at_the_question_ends_at_once(question: tuple[subprocess.Popen[bytes], int], uploads: Uploads) -> None:
    process, _ = question
    time.sleep(0.3)  # until the script reads; the question is printed just before
    process.send_signal(signal.SIGINT)
    assert (process.wait(20), uploads.files) == (130, [])
