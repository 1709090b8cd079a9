"""What the lines link to: beside the minute, under safe names, whole or absent, the key for one host only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import pyzipper
from aiohttp import web
from conftest import KEY, SCRIPTS, Handler, Run, Server, environment, error, html
from feed_dump_test import START, body, files, layout, package

SHA = "0123456789abcdef" * 4
IDS = [
    f"{SHA}_CAPE Sandbox",
    "../../etc/cron.d/x",
    "a/b\\c\0\x1b[31m\u202ecod.exe",
    "CON",
    "x" * 5000,
    "",
    "\ud800",
    "-rf",
]
RANGE = ("--from", START, "--to", "209611220059")


def behaviours(server: Server, host: str, ids: list[str] = IDS) -> dict[str, bytes]:
    """A minute of reports, each with a pcap and a html link; gives what the links lead to, by the path."""
    contents = {}
    reports: list[dict[str, Any]] = []
    for i, name in enumerate(ids):
        context = {"file_md5": "0" * 32, "evtx": None}
        for key in ("pcap", "html_report"):
            path = f"/file_behaviours/token{i}/{key}"
            contents[path] = f"{key} of {i}".encode()
            context[key] = f"{host}/api/v3{path}"
        reports.append({"type": "file_behaviour", "id": name, "context_attributes": context})
    reports.append({"type": "file_behaviour", "id": "none", "context_attributes": {"memdump": "file:///etc/passwd"}})
    server.answer(f"/feeds/file_behaviours/{START}", body(package(reports)))
    return contents


def serve(server: Server, contents: dict[str, bytes], keyed: bool = True) -> None:
    def handler(content: bytes) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            assert (request.headers.get("x-apikey") == KEY) is keyed
            return web.Response(body=content)

        return handle

    for path, content in contents.items():
        server.answer(path, handler(content))


def artifacts(out: Path) -> dict[str, bytes]:
    folder = layout(START, ".artifacts") + "/"
    return {path.removeprefix(folder): content for path, content in files(out).items() if path.startswith(folder)}


@pytest.mark.parametrize("host", ["", "https://www.virustotal.com"])
def test_artifacts_stand_beside_their_minute_under_safe_names(
    server: Server, run: Run, tmp_path: Path, host: str
) -> None:
    contents = behaviours(server, host or server.url)
    serve(server, contents)
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap,html,memdump")
    result = run(*args, server=server)
    assert result.returncode == 0 and f"{2 * len(IDS)} artifacts" in result.stderr
    got = artifacts(tmp_path / "d")
    index = json.loads(got.pop("index.json"))
    assert sorted(got.values()) == sorted(contents.values())
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{,120}\.(pcap|html)", name) for name in got)
    assert set(files(tmp_path)) - {f"d/{name}" for name in files(tmp_path / "d")} == set()
    assert index["kinds"] == ["html", "memdump", "pcap"] and set(index["files"]) == set(got)
    assert list(index["gone"].values()) == ["not a link of VirusTotal's, not asked for: file:///etc/passwd"]
    asked = len(server.seen)
    assert run(*args, server=server).returncode == 0 and len(server.seen) == asked, "nothing is asked for twice"
    assert run("feed_dump", "verify", tmp_path / "d").returncode == 0
    (tmp_path / "d" / layout(START, ".artifacts") / min(got)).unlink()
    assert f"{min(got)} is not there" in run("feed_dump", "verify", tmp_path / "d").stdout


def redirect(url: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        assert request.headers["x-apikey"] == KEY
        raise web.HTTPFound(url)

    return handle


def test_a_redirect_to_another_host_is_followed_without_the_key(
    server: Server, other_host: Server, run: Run, tmp_path: Path
) -> None:
    contents = behaviours(server, server.url)
    serve(other_host, contents, keyed=False)
    for path in contents:
        server.answer(path, redirect(f"{other_host.url}{path}"))
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap")
    assert run(*args, server=server).returncode == 0
    assert len(other_host.seen) == len(IDS)
    assert KEY not in str([(r.headers, r.raw_path) for r in other_host.seen])


def test_only_virustotals_own_artifacts_are_asked_for(
    server: Server, other_host: Server, run: Run, tmp_path: Path
) -> None:
    links = [
        f"{other_host.url}/api/v3/files/a/pcap", "http://169.254.169.254/api/v3/files/a", "http://[", "http:///",
        "http://x:99999/", "https://virustotal.com.example/api/v3/files/a", "//www.virustotal.com/api/v3/files/a",
        *(f"{server.url}{path}" for path in (
            "/admin", "/api/v3/users/me/delete?q=1", "/api/v3/files/../users/me", "/api/v3/files/%2e%2e/users/me",
            "/api/v3/files/..%2fusers/me", "/api/v3/feeds/",
        )),
    ]  # fmt: skip
    good = ["/feeds/file-behaviours/t/pcap?a=b", "/file_behaviours/t/pcap", "/files/t/download"]
    urls = links + [f"https://www.virustotal.com/api/v3{path}" for path in good]
    reports = [{"id": f"of {i}", "context_attributes": {"pcap": url}} for i, url in enumerate(urls)]
    server.answer(f"/feeds/file_behaviours/{START}", body(package(reports)))
    for path in good:
        server.answer(path.partition("?")[0], body(b"pcap"))
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap")
    result = run(*args, server=server)
    assert result.returncode == 0 and "3 artifacts" in result.stderr, result.stderr
    assert sorted(server.paths) == sorted(f"GET {path}" for path in [f"/feeds/file_behaviours/{START}", *good])
    assert not other_host.seen
    assert len(json.loads(artifacts(tmp_path / "d")["index.json"])["gone"]) == len(links)
    assert run("feed_dump", "verify", tmp_path / "d").returncode == 0


def test_what_failed_is_fetched_by_the_next_run_and_what_is_gone_is_noted(
    server: Server, run: Run, tmp_path: Path
) -> None:
    contents = behaviours(server, server.url)
    serve(server, contents)
    paths = [path for path in contents if path.endswith("pcap")]
    server.answer(paths[0], error(503, "TransientError"))
    server.answer(paths[1], error(404, "NotFoundError"))
    server.answer(paths[2], body(b""))
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap")
    result = run(*args, server=server)
    assert result.returncode == 3 and f"2 of {len(IDS)} artifacts failed" in result.stderr
    assert "index.json" not in artifacts(tmp_path / "d") and len(artifacts(tmp_path / "d")) == len(IDS) - 3
    serve(server, {path: contents[path] for path in (paths[0], paths[2])})
    server.seen.clear()
    assert run(*args, server=server).returncode == 0
    assert sorted(server.paths) == [f"GET {path}" for path in sorted(paths[:3])], "the minute itself is there"
    index = json.loads(artifacts(tmp_path / "d")["index.json"])
    assert len(index["files"]) == len(IDS) - 1 and len(index["gone"]) == 1
    # Another kind is fetched when it is asked for, the first is not fetched again.
    server.seen.clear()
    assert run(*args[:-1], "html", server=server).returncode == 0
    assert len(server.seen) == len(IDS)
    index = json.loads(artifacts(tmp_path / "d")["index.json"])
    assert index["kinds"] == ["html", "pcap"] and len(index["files"]) == 2 * len(IDS) - 1 and len(index["gone"]) == 1


@pytest.mark.parametrize("name", ["an id", SHA])
def test_two_links_of_one_id_are_two_artifacts(server: Server, run: Run, tmp_path: Path, name: str) -> None:
    contents = {f"/files/{i}": f"pcap {i}".encode() for i in range(3)}
    urls = [f"{server.url}/api/v3{path}" for path in contents]
    reports = [{"id": name, "context_attributes": {"pcap": url}} for url in [*urls, *urls]]
    server.answer(f"/feeds/file_behaviours/{START}", body(package(reports)))
    serve(server, contents)
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap")
    assert "3 artifacts" in run(*args, server=server).stderr
    got = artifacts(tmp_path / "d")
    index = json.loads(got.pop("index.json"))
    assert sorted(got.values()) == sorted(contents.values()) and set(index["files"]) == set(got)
    assert len(server.seen) == 4


def test_a_link_that_is_refused_costs_only_itself(server: Server, other_host: Server, run: Run, tmp_path: Path) -> None:
    links = {str(status): f"{server.url}/api/v3/files/{status}" for status in (400, 401, 403, 429)}
    links["good"] = f"{server.url}/api/v3/files/good"
    reports = [{"id": name, "context_attributes": {"pcap": url}} for name, url in links.items()]
    server.answer(f"/feeds/file_behaviours/{START}", body(package(reports)))
    server.answer("/feeds/file_behaviours/209611220059", body(package([{"id": "next"}])))
    server.answer("/files/good", body(b"pcap"))
    for status in (400, 403):
        server.answer(f"/files/{status}", error(status, "WrongCredentialsError"))
    for status in (401, 429):
        server.answer(f"/files/{status}", redirect(f"{other_host.url}/{status}"))
        other_host.answer(f"/{status}", html(status))
    args = ("--from", START, "--to", "209611220100", "--out", tmp_path / "d", "--artifacts", "pcap", "--jobs", 1)
    result = run("feed_dump", "file_behaviours", *args, server=server)
    assert result.returncode == 3 and "4 of 5 artifacts failed" in result.stderr
    assert "2 minutes" in result.stderr and list(artifacts(tmp_path / "d").values()) == [b"pcap"]
    server.answer("/files/good", error(401, "WrongCredentialsError"))
    again = run("feed_dump", "file_behaviours", *args[:5], tmp_path / "e", *args[6:], server=server)
    assert again.returncode == 2, "of the configured host's the key is refused, and so it would be for all"


def test_a_sample_is_a_zip_with_a_password_and_no_other_file(server: Server, run: Run, tmp_path: Path) -> None:
    sample = b"MZ" + bytes(range(256)) * 1000
    sha = hashlib.sha256(sample).hexdigest()
    links = {sha: f"{server.url}/api/v3/feeds/files/t1/download", SHA: f"{server.url}/api/v3/feeds/files/t2/download"}
    lines: list[dict[str, Any]] = [{"id": i, "context_attributes": {"download_url": url}} for i, url in links.items()]
    lines.append({"id": "1" * 64})
    server.answer(f"/feeds/files/{START}", body(package(lines)))
    server.answer("/feeds/files/t1/download", body(sample))
    server.answer("/feeds/files/t2/download", body(sample))
    args = ("feed_dump", "files", *RANGE, "--out", tmp_path / "d", "--files")
    result = run(*args, server=server)
    assert result.returncode == 3 and f"not the sample, but one with SHA-256 {sha}" in result.stderr
    folder = tmp_path / "d" / layout(START, ".artifacts")
    assert [path.name for path in folder.iterdir()] == [f"{sha}.zip"]
    with pyzipper.AESZipFile(folder / f"{sha}.zip") as archive:
        archive.setpassword(b"infected")
        assert archive.namelist() == [sha] and archive.read(sha) == sample
    with zipfile.ZipFile(folder / f"{sha}.zip") as plain, pytest.raises((RuntimeError, NotImplementedError)):
        plain.read(sha)
    assert "not all of its artifacts are there" in run("feed_dump", "verify", tmp_path / "d").stdout
    server.answer("/feeds/files/t2/download", error(404, "NotFoundError"))
    assert run(*args, server=server).returncode == 0
    assert run("feed_dump", "verify", tmp_path / "d").returncode == 0
    archived = bytearray((folder / f"{sha}.zip").read_bytes())
    archived[len(archived) // 2] ^= 1
    (folder / f"{sha}.zip").write_bytes(archived)
    assert run("feed_dump", "verify", tmp_path / "d").returncode == 3


def test_what_verify_tells_to_delete_the_next_run_fetches(server: Server, run: Run, tmp_path: Path) -> None:
    contents = behaviours(server, server.url, [f"{i:064x}" for i in range(3)])
    serve(server, contents)
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap")
    assert run(*args, server=server).returncode == 0
    whole = artifacts(tmp_path / "d")
    folder = tmp_path / "d" / layout(START, ".artifacts")
    short, lost, gone = sorted(folder.glob("*.pcap"))
    short.write_bytes(short.read_bytes()[:-1])
    lost.unlink()
    result = run("feed_dump", "verify", tmp_path / "d")
    assert result.returncode == 3 and "1 damaged (delete them and run the dump again)" in result.stderr
    assert result.stdout == f"damaged\t{folder}\t{short.name} is damaged, {lost.name} is not there\n"
    short.unlink()
    server.seen.clear()
    assert run(*args, server=server).returncode == 0 and len(server.seen) == 2
    assert artifacts(tmp_path / "d") == whole
    # Another kind is not missed by a run that did not ask for it; and what is no longer to be had is so noted.
    assert run(*args[:-1], "html", server=server).returncode == 0
    gone.unlink()
    server.answer("/file_behaviours/token2/pcap", error(404, "NotFoundError"))
    server.seen.clear()
    assert run(*args[:-1], "html", server=server).returncode == 0 and not server.seen
    assert run(*args, server=server).returncode == 0 and len(server.seen) == 1
    assert run(*args, server=server).returncode == 0 and len(server.seen) == 1
    assert run("feed_dump", "verify", tmp_path / "d").returncode == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kinds": ["pcap"]}'])
def test_a_damaged_index_is_written_anew(server: Server, run: Run, tmp_path: Path, content: str) -> None:
    contents = behaviours(server, server.url, [SHA])
    serve(server, contents)
    args = ("feed_dump", "file_behaviours", *RANGE, "--out", tmp_path / "d", "--artifacts", "pcap")
    run(*args, server=server)
    whole = artifacts(tmp_path / "d")
    (tmp_path / "d" / layout(START, ".artifacts") / "index.json").write_text(content)
    assert "not all of its artifacts are there yet" in run("feed_dump", "verify", tmp_path / "d").stdout
    server.seen.clear()
    assert run(*args, server=server).returncode == 0
    assert artifacts(tmp_path / "d") == whole and not server.seen


@pytest.mark.skipif(os.name != "posix", reason="a limit on a file's size stands in for the full disk")
def test_a_disk_that_is_full_in_mid_zip_ends_the_run_at_once(server: Server, tmp_path: Path) -> None:
    import resource

    sample = os.urandom(19_990)  # noise: its zip is larger
    sha = hashlib.sha256(sample).hexdigest()
    link = f"{server.url}/api/v3/feeds/files/t1/download"
    server.answer(f"/feeds/files/{START}", body(package([{"id": sha, "context_attributes": {"download_url": link}}])))
    server.answer("/feeds/files/t1/download", body(sample))
    result = subprocess.run(
        [sys.executable, SCRIPTS / "feed_dump.py", "files", *RANGE, "--out", tmp_path / "d", "--files"],
        env=environment(tmp_path, server), capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert f"cannot write to {tmp_path / 'd'}: File too large" in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1 and len(server.seen) == 2, "nothing is fetched again"
    assert artifacts(tmp_path / "d") == {}


def test_killed_runs_leave_whole_artifacts_and_a_last_run_the_rest(server: Server, tmp_path: Path) -> None:
    contents = behaviours(server, server.url, [f"{i:064x}" for i in range(60)])
    serve(server, contents)
    command = [
        sys.executable, str(SCRIPTS / "feed_dump.py"), "file_behaviours", *RANGE, "--out", str(tmp_path / "d"),
        "--artifacts", "pcap,html", "--jobs", "1",
    ]  # fmt: skip
    for more in range(0, 50, 5):
        process = subprocess.Popen(command, env=environment(tmp_path, server), stderr=subprocess.PIPE)
        while process.poll() is None and len(list((tmp_path / "d").rglob("*.pcap"))) < more:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        for name, content in artifacts(tmp_path / "d").items():
            assert name.startswith(".") or name == "index.json" or content in contents.values()
    assert subprocess.run(command, env=environment(tmp_path, server), timeout=60).returncode == 0
    got = artifacts(tmp_path / "d")
    assert json.loads(got.pop("index.json"))["kinds"] == ["html", "pcap"]
    assert sorted(got.values()) == sorted(contents.values())


@pytest.mark.parametrize(
    "args",
    [
        ("files", "--artifacts", "pcap"), ("file_behaviours", "--files"), ("file_behaviours", "--artifacts", "exe"),
        ("file_behaviours", "--artifacts", "file"), ("files", "--files", "--format", "parquet"),
    ],
)  # fmt: skip
def test_links_that_a_feed_does_not_have_are_refused(server: Server, run: Run, tmp_path: Path, args: list[str]) -> None:
    result = run("feed_dump", *args, *RANGE, "--out", tmp_path / "d", server=server)
    assert result.returncode == 2 and not server.seen
