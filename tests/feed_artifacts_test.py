"""feed_artifacts: what the lines link to is saved beside its minute, complete or absent."""

from __future__ import annotations

import bz2
import hashlib
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pyzipper
import zstandard
from aiohttp import web
from conftest import KEY, TRANSIENT, Handler, Run, Server, body, environment, error, html, redirect, start

MINUTE = "209901010000"
SHA = "0123456789abcdef" * 4
HOSTILE = [
    f"{SHA}_CAPE Sandbox",
    "../../etc/cron.d/x",
    "a/b\\c\0\x1b[31m\u202ecod.exe",
    "x" * 5000,
    "",
    "\ud800",
    "-rf",
]
SAMPLE = b"MZ" + bytes(range(256)) * 100
SAMPLE_SHA = hashlib.sha256(SAMPLE).hexdigest()


def save(lines: list[Any], minute: str = MINUTE, suffix: str = "zst", dump: Path = Path("dump")) -> Path:
    """Save a minute as feed_dump does."""
    path = dump / f"date={minute[:4]}-{minute[4:6]}-{minute[6:8]}/hour={minute[8:10]}/{minute}.jsonl.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()
    path.write_bytes(bz2.compress(content) if suffix == "bz2" else zstandard.ZstdCompressor().compress(content))
    return path


def report(number: int, name: str, host: str = "https://www.virustotal.com") -> dict[str, Any]:
    """Return a report with a pcap and a html page."""
    links = {"pcap": "pcap", "html_report": "html"}
    context = {key: f"{host}/api/v3/feeds/file-behaviours/t{number}/{end}" for key, end in links.items()}
    return {"type": "file_behaviour", "id": name, "context_attributes": context | {"evtx": None, "file_md5": "0" * 32}}


def serve(server: Server, count: int, content: bytes = b"") -> None:
    """Answer the pcaps and pages of `count` reports, only with the key."""

    def answer(content: bytes) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            assert request.headers["x-apikey"] == KEY
            return web.Response(body=content, content_type="application/octet-stream")

        return handle

    for number in range(count):
        for end in ("pcap", "html"):
            server.answer(f"/feeds/file-behaviours/t{number}/{end}", answer(f"{end} {number}".encode() + content))


def artifacts(minute: str = MINUTE, dump: Path = Path("dump")) -> dict[str, bytes]:
    """Return the files beside a minute, by name."""
    (folder,) = dump.glob(f"*/*/_{minute}.artifacts")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def index(minute: str = MINUTE) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(artifacts(minute)["index.json"])
    return loaded


@pytest.mark.parametrize("suffix", ["zst", "bz2"])
def test_artifacts_are_saved_beside_their_minute(run: Run, server: Server, suffix: str) -> None:
    reports = [report(n, f"{n:064x}_CAPE Sandbox") for n in range(3)]
    nothing: list[Any] = [{}, {"context_attributes": None}, {"context_attributes": {"pcap": None}}]
    save([*reports, "not JSON", *({"type": "file_behaviour"} | item for item in nothing)], suffix=suffix)
    serve(server, 3)
    result = run("feed_artifacts", "dump", "--kind", "pcap,html,memdump")
    assert (result.code, result.stdout) == (0, "")
    files = artifacts()
    found = json.loads(files.pop("index.json"))
    assert sorted(files.values()) == sorted(f"{end} {n}".encode() for end in ("pcap", "html") for n in range(3))
    assert (found["kinds"], found["gone"], found["files"].keys()) == (["html", "memdump", "pcap"], {}, files.keys())
    for name, file in found["files"].items():
        assert file["sha256"] == hashlib.sha256(files[name]).hexdigest()
        assert files[name] == f"{file['kind']} {int(file['id'][:64], 16)}".encode()


def test_a_rerun_requests_only_what_is_missing(run: Run, server: Server) -> None:
    save([report(n, str(n)) for n in range(3)])
    serve(server, 3)
    run("feed_artifacts", "dump", "--kind", "pcap")
    for kind, requests in (("pcap", 3), ("PCAP, Html", 6), ("html", 6)):
        assert run("feed_artifacts", "dump", "--kind", kind).code == 0
        assert len(server.seen) == requests
    next(Path("dump").rglob("*.pcap")).unlink()
    assert run("feed_artifacts", "dump", "--kind", "html").code == 0
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert len(server.seen) == 7
    save([report(3, "3")], "209901010001")
    serve(server, 4)
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert len(server.seen) == 8


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_index_is_written_anew(run: Run, server: Server, content: str) -> None:
    path = save([report(0, "0")])
    serve(server, 1)
    run("feed_artifacts", "dump", "--kind", "pcap")
    before = artifacts()
    (path.parent / f"_{MINUTE}.artifacts/index.json").write_text(content)
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert (artifacts(), len(server.seen)) == (before, 1)


def test_hostile_ids_become_plain_file_names(run: Run, server: Server) -> None:
    save([report(n, name) for n, name in enumerate(HOSTILE)])
    serve(server, len(HOSTILE))
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    names = artifacts().keys() - {"index.json"}
    assert len(names) == len(HOSTILE)
    assert all(name.isascii() and name.replace(".", "").replace("-", "").replace("_", "").isalnum() for name in names)
    assert not [name for name in names if name.startswith((".", "-")) or name.count(".") > 1 or len(name) > 120]
    assert {path.name for path in Path("..").iterdir()} == {"work", "home"}
    assert [path.name for path in Path().iterdir()] == ["dump"]


def test_two_links_of_one_id_are_two_files(run: Run, server: Server) -> None:
    save([report(0, "same"), report(1, "same"), report(1, "same")])
    serve(server, 2)
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert sorted(artifacts().values())[:2] == [b"pcap 0", b"pcap 1"]


def test_only_virustotals_artifacts_are_requested(run: Run, server: Server, other_host: Server) -> None:
    refused = [
        f"{other_host.url}/api/v3/feeds/files/a/pcap",
        "http://169.254.169.254/api/v3/files/a/download",
        "http://www.virustotal.com/api/v3/files/a/download",
        "https://www.virustotal.com.example/api/v3/files/a/download",
        "https://www.virustotal.com:444/api/v3/files/a/download",
        "https://www.virustotal.com@x.example/api/v3/files/a/download",
        "//www.virustotal.com/api/v3/files/a/download",
        "file:///etc/passwd",
        "http://[",
        "http://x:99999/",
        "\ud800\x1b[2J",
        *(
            f"{host}{path}"
            for host in (server.url, "https://www.virustotal.com")
            for path in (
                "",
                "/admin",
                "/api/v3/users/me/x",
                "/api/v3/files/../users/me",
                "/api/v3/files/%2e%2e/users/me",
                "/api/v3/files/..%2fusers/me",
                "/api/v3/feeds/",
                "/api/v3/files/a?x=1",
                "/api/v3//files/a/b",
            )
        ),
    ]
    accepted = {"/feeds/file_behaviours/t/pcap": b"1", "/file_behaviours/t%20u/pcap": b"2", "/files/t/download": b"3"}
    urls: list[Any] = [*refused, *(f"https://www.virustotal.com/api/v3{path}" for path in accepted), 7, ["x"], {"a": 1}]
    save([{"type": "file_behaviour", "id": f"{n}", "context_attributes": {"pcap": url}} for n, url in enumerate(urls)])
    for path, content in accepted.items():
        server.answer(path, body(content))
    result = run("feed_artifacts", "dump", "--kind", "pcap")
    assert result.code == 3
    assert sorted(server.paths) == sorted(f"GET {path}" for path in accepted)
    assert not other_host.seen
    assert len(index()["gone"]) == len(refused) + 3
    assert result.stderr.isascii() and "\x1b" not in result.stderr


def test_a_redirect_is_followed_without_the_key(run: Run, server: Server, other_host: Server) -> None:
    save([report(0, "0")])
    server.answer("/feeds/file-behaviours/t0/pcap", redirect(f"{other_host.url}/storage"))
    other_host.answer("/storage", body(b"pcap"))
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert [KEY in str(request.headers) for request in (*server.seen, *other_host.seen)] == [True, False]


def test_what_virustotal_no_longer_has_is_recorded(run: Run, server: Server) -> None:
    save([report(0, "0"), report(1, "1")])
    serve(server, 1)
    result = run("feed_artifacts", "dump", "--kind", "pcap")
    assert (result.code, len(index()["files"]), len(index()["gone"])) == (0, 1, 1)
    assert "NotFoundError" in str(index()["gone"])
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert len(server.seen) == 2


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    save([report(n, str(n)) for n in range(5)])
    serve(server, 5)
    server.fail(number, TRANSIENT[fault])
    result = run("feed_artifacts", "dump", "--kind", "pcap", "--jobs", 2)
    assert (result.code, len(index()["files"]), len(server.seen)) == (0, 5, 6)


@pytest.mark.parametrize("answer", [error(503, "TransientError"), error(400, "BadRequestError"), html(403)])
def test_what_failed_is_requested_again_by_the_next_run(run: Run, server: Server, answer: Handler) -> None:
    save([report(n, str(n)) for n in range(3)])
    serve(server, 3)
    server.answer("/feeds/file-behaviours/t1/pcap", answer)
    result = run("feed_artifacts", "dump", "--kind", "pcap", VT_MAX_WAIT="0.01")
    assert result.code == 3
    assert sorted(artifacts().values()) == [b"pcap 0", b"pcap 2"]
    serve(server, 3)
    server.seen.clear()
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 0
    assert (server.paths, len(index()["files"])) == (["GET /feeds/file-behaviours/t1/pcap"], 3)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 3),
        (error(403, "ForbiddenError"), 3),
        (error(429, "QuotaExceededError"), 4),
    ],
)
def test_a_refused_key_or_a_spent_quota_ends_the_run(run: Run, server: Server, answer: Handler, code: int) -> None:
    for minute in (MINUTE, "209901010001"):
        save([report(n, str(n)) for n in range(9)], minute)
    serve(server, 9)
    server.answer("/feeds/file-behaviours/t4/pcap", answer)
    result = run("feed_artifacts", "dump", "--kind", "pcap", "--jobs", 1, VT_MAX_WAIT="0.001")
    assert (result.code, len(server.seen)) == (code, 5)
    assert "resume with the same command" in result.last_line
    assert sorted(artifacts().values()) == [f"pcap {n}".encode() for n in range(4)]
    server.answer("/feeds/file-behaviours/t0/pcap", answer)
    save([report(0, "0")], "209901010000", dump=Path("other"))
    first = run("feed_artifacts", "other", "--kind", "pcap", VT_MAX_WAIT="0.01")
    assert (first.code, first.last_line[:7]) == (4 if code == 4 else 2, "error: ")


def test_vt_max_requests_ends_like_a_spent_quota(run: Run, server: Server) -> None:
    save([report(n, str(n)) for n in range(9)])
    serve(server, 9)
    result = run("feed_artifacts", "dump", "--kind", "pcap", "--jobs", 2, VT_MAX_REQUESTS="4")
    assert (result.code, len(server.seen), len(artifacts())) == (4, 4, 4)


def test_samples_are_encrypted_zips_whose_hash_was_checked(run: Run, server: Server) -> None:
    url = "https://www.virustotal.com/api/v3/feeds/files/{}/download"
    ids = {SAMPLE_SHA: "good", SHA: "other", "../x": "bad", "": "none"}
    save([{"type": "file", "id": i, "context_attributes": {"download_url": url.format(t)}} for i, t in ids.items()])
    for token in ids.values():
        server.answer(f"/feeds/files/{token}/download", body(SAMPLE))
    assert run("feed_artifacts", "dump", "--samples").code == 3
    assert list(artifacts()) == [f"{SAMPLE_SHA}.zip"]
    assert [path.name for path in Path().iterdir()] == ["dump"]
    (path,) = Path("dump").rglob("*.zip")
    with pyzipper.AESZipFile(path) as archive:
        archive.setpassword(b"infected")
        assert (archive.namelist(), archive.read(SAMPLE_SHA)) == ([SAMPLE_SHA], SAMPLE)
    with zipfile.ZipFile(path) as plain, pytest.raises((RuntimeError, NotImplementedError)):
        plain.read(SAMPLE_SHA)
    for token in ("other", "bad", "none"):
        server.answer(f"/feeds/files/{token}/download", error(404, "NotFoundError"))
    assert run("feed_artifacts", "dump", "--samples").code == 0
    assert (index()["kinds"], len(index()["files"]), len(index()["gone"])) == (["sample"], 1, 3)
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 2


def test_minutes_whose_links_have_expired_are_left_out_and_said(run: Run, server: Server) -> None:
    save([report(0, "0")], "202001010000")
    save([report(1, "1")])
    serve(server, 2)
    result = run("feed_artifacts", "dump", "--kind", "pcap")
    assert (result.code, server.paths) == (0, ["GET /feeds/file-behaviours/t1/pcap"])
    assert "1 minute" in result.stderr.splitlines()[0] and "expire" in result.stderr.splitlines()[0]


@pytest.mark.parametrize("suffix", ["zst", "bz2"])
def test_a_damaged_minute_costs_only_itself(run: Run, server: Server, suffix: str) -> None:
    path = save([report(0, "0")], suffix=suffix)
    path.write_bytes(b"garbage")
    save([report(1, "1")], "209901010001")
    serve(server, 2)
    assert run("feed_artifacts", "dump", "--kind", "pcap").code == 3
    assert len(index("209901010001")["files"]) == 1


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--kind", "exe"),
        ("--kind", "sample"),
        ("--kind", ","),
        ("--kind", "pcap", "--samples"),
        ("--samples",),
        ("--kind", "pcap", "--jobs", "0"),
    ],
)
def test_wrong_usage_is_one_line_before_any_request(run: Run, server: Server, args: tuple[str, ...]) -> None:
    save([report(0, "0")])
    result = run("feed_artifacts", "dump", *args)
    assert (result.code, len(result.stderr.splitlines()), server.seen) == (2, 1, [])


@pytest.mark.parametrize("folder", ["nope", "empty", "file"])
def test_a_folder_that_is_no_dump_is_refused(run: Run, folder: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("")
    result = run("feed_artifacts", folder, "--samples")
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)


def start_run(tmp_path: Path, server: Server, rate: str = "") -> subprocess.Popen[str]:
    args = ("dump", "--kind", "pcap", "--jobs", 2)
    return start("feed_artifacts", *args, tmp_path=tmp_path, server=server, VT_RATE=rate)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_runs_leave_complete_files_and_the_next_one_continues(
    tmp_path: Path, server: Server, number: int
) -> None:
    dump = tmp_path / "dump"
    save([report(n, str(n)) for n in range(60)], dump=dump)
    serve(server, 60, b"x" * 100_000)
    process = start_run(tmp_path, server, "1200")
    while process.poll() is None and len(list(dump.rglob("*.pcap"))) < 10:
        time.sleep(0.01)
    process.send_signal(number)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -9), stderr
    assert number == signal.SIGKILL or not list(dump.rglob("_*/.*"))
    assert number == signal.SIGKILL or "resume with the same command" in stderr.splitlines()[-1]
    files = [path.read_bytes() for path in dump.rglob("*.pcap")]
    assert 10 <= len(files) < 60 and {len(content) for content in files} <= {100_006, 100_007}
    seen = len(server.seen)
    process = start_run(tmp_path, server)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(list(dump.rglob("*.pcap"))) == 60
    assert len(server.seen) - seen == 60 - len(files)


def test_a_full_disk_ends_the_run_with_one_line(tmp_path: Path, server: Server) -> None:
    url = "https://www.virustotal.com/api/v3/feeds/files/t/download"
    noise = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(620))
    line = {"type": "file", "id": hashlib.sha256(noise).hexdigest(), "context_attributes": {"download_url": url}}
    save([line], dump=tmp_path / "dump")
    server.answer("/feeds/files/t/download", body(noise))
    limit = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (19_900, 19_900)); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = Path(__file__).parent.parent / "scripts/feed_artifacts.py"
    environ: Mapping[str, str] = environment(tmp_path, server)
    result = subprocess.run(
        [sys.executable, "-c", limit, script, "dump", "--samples"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert artifacts(dump=tmp_path / "dump") == {}
