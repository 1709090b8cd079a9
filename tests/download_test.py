"""download: samples by hash, checked, encrypted, each a whole file or none."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pyzipper
from aiohttp import web
from conftest import KEY, TRANSIENT, Handler, Run, Server, body, error, html, load, redirect, reset, start, truncated

SAMPLES = [f"MZ made up, number {number}".encode() * 1000 for number in range(3)]
SHA256 = [hashlib.sha256(sample).hexdigest() for sample in SAMPLES]
MISSING = "0" * 64
JOBS = "/intelligence/zip_files"


def serve(server: Server, storage: Server) -> None:
    """Answer downloads as VirusTotal does: with a redirect to a storage host."""
    for sample, sha256 in zip(SAMPLES, SHA256, strict=True):
        names = (sha256, hashlib.sha1(sample).hexdigest(), hashlib.md5(sample).hexdigest())
        for name in names:
            server.answer(f"/files/{name}/download", redirect(f"{storage.url}/{sha256}?signature=x"))
        storage.answer(f"/{sha256}", body(sample))


@pytest.fixture(autouse=True)
def storage(server: Server, other_host: Server) -> Server:
    serve(server, other_host)
    return other_host


def content(path: Path) -> bytes:
    """Return the only file of an AES zip."""
    with pyzipper.AESZipFile(path) as archive:
        archive.setpassword(b"infected")
        assert archive.infolist()[0].flag_bits & 1, "encrypted"
        return bytes(archive.read(archive.namelist()[0]))


def files(folder: str = "samples") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    sample = tmp_path / "sample"
    sample.write_bytes(os.urandom(1 << 20))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            load("download").encrypt(sample, tmp_path / "zip", name="sample", password="infected")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_sample_arrives_in_an_encrypted_zip(run: Run, server: Server, storage: Server) -> None:
    result = run("download", SHA256[0])
    path = Path("samples") / f"{SHA256[0]}.zip"
    assert (result.code, result.stdout, content(path)) == (0, f"downloaded\t{path}\n", SAMPLES[0])
    assert files() == [path.name]
    assert KEY in str(server.seen[0].headers)
    assert KEY not in str(storage.seen[0].headers)


def test_raw_is_the_plain_sample(run: Run) -> None:
    result = run("download", SHA256[0].upper(), "--raw", "--out", "a/b")
    assert (result.code, files("a/b")) == (0, [SHA256[0]])
    assert (Path("a/b") / SHA256[0]).read_bytes() == SAMPLES[0]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_the_hash_of_what_arrived_is_checked(run: Run, server: Server, storage: Server, algorithm: str) -> None:
    wanted = hashlib.new(algorithm, SAMPLES[0]).hexdigest()
    assert run("download", wanted).code == 0
    assert content(Path("samples") / f"{wanted}.zip") == SAMPLES[0]
    storage.answer(f"/{SHA256[0]}", body(b"something else"))
    result = run("download", wanted, "--out", "other")
    assert (result.code, files("other")) == (3, [])
    assert result.stdout.startswith(f"failed\t{wanted}\t")


def test_what_is_not_found_leaves_no_file(run: Run) -> None:
    result = run("download", MISSING, SHA256[0])
    assert (result.code, files()) == (3, [f"{SHA256[0]}.zip"])
    assert sorted(line.split("\t")[0] for line in result.stdout.splitlines()) == ["downloaded", "failed"]


def test_a_rerun_requests_only_what_is_missing(run: Run, server: Server) -> None:
    assert run("download", SHA256[0]).code == 0
    requested = len(server.seen)
    result = run("download", *SHA256)
    assert (result.code, len(files()), len(server.seen) - requested) == (0, 3, 2)
    assert result.stdout.startswith("present\t")


def test_a_list_has_comments_and_the_output_of_sha256sum(run: Run, server: Server) -> None:
    lines = f"\ufeff{SHA256[0].upper()}  evil name.exe\r\n\n# a comment\n{SHA256[1]}\n{SHA256[0]}\n"
    Path("list.txt").write_bytes(lines.encode())
    assert run("download", "--file", "list.txt").code == 0
    assert run("download", "--file", "-", stdin=lines.encode().removeprefix(b"\xef\xbb\xbf")).code == 0
    assert (len(server.seen), len(files())) == (2, 2)


@pytest.mark.parametrize(
    "args",
    [
        ["evil.exe"],
        [SHA256[0], SHA256[0][:63]],
        [SHA256[0], "g" * 64],
        [SHA256[0], "../" + SHA256[0]],
        ["--file", "bad.txt"],
        ["--file", "absent.txt"],
        ["--file", "empty.txt"],
        [SHA256[0], "--zip", "--raw"],
        [SHA256[0], "--jobs", "0"],
        [],
    ],
)
def test_wrong_usage_requests_nothing(run: Run, server: Server, args: list[str]) -> None:
    Path("bad.txt").write_text(f"{SHA256[0]}\n\x1b[31mnot a hash\n")
    Path("empty.txt").write_text("\n# nothing\n")
    result = run("download", *args)
    assert (result.code, server.seen, result.stdout) == (2, [], "")
    assert not Path("samples").exists()


def test_a_bad_entry_is_named_with_its_line(run: Run) -> None:
    Path("bad.txt").write_text(f"{SHA256[0]}\n\nabc\n")
    assert "line 3: abc" in run("download", "--file", "bad.txt").stderr


def test_jsonl_is_a_row_for_each_hash(run: Run) -> None:
    result = run("download", SHA256[0], "--format", "jsonl")
    path = f"samples/{SHA256[0]}.zip"
    assert result.objects == [{"id": SHA256[0], "status": "downloaded", "path": path, "error": None}]


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize(
    ("host", "number"), [("virustotal", 1), ("virustotal", 2), ("virustotal", 3), ("storage", 1), ("storage", 3)]
)
def test_a_transient_failure_is_retried(
    run: Run, server: Server, storage: Server, fault: str, host: str, number: int
) -> None:
    (server if host == "virustotal" else storage).fail(number, TRANSIENT[fault])
    result = run("download", *SHA256, "--jobs", "1")
    assert (result.code, [content(Path("samples") / f"{sha256}.zip") for sha256 in SHA256]) == (0, SAMPLES)


@pytest.mark.parametrize("answer", [html(500), truncated, reset])
def test_one_failure_does_not_stop_the_others(run: Run, storage: Server, answer: Handler) -> None:
    storage.answer(f"/{SHA256[0]}", answer)
    result = run("download", *SHA256, "--jobs", "1", VT_MAX_WAIT="0.05")
    assert (result.code, files()) == (3, sorted(f"{sha256}.zip" for sha256 in SHA256[1:]))


def test_an_exhausted_quota_keeps_what_is_done(run: Run, server: Server) -> None:
    for number in range(3, 50):
        server.fail(number, error(429, "QuotaExceededError"))
    result = run("download", *SHA256, MISSING, "--jobs", "1", VT_MAX_WAIT="0.05")
    assert (result.code, len(files())) == (4, 2)
    server.faults.clear()
    assert (run("download", *SHA256).code, len(files())) == (0, 3)


def test_an_exhausted_quota_does_not_stop_what_is_arriving(run: Run, server: Server, storage: Server) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response(body=SAMPLES[0])

    storage.answer(f"/{SHA256[0]}", slow)
    server.answer(f"/files/{SHA256[1]}/download", error(429, "QuotaExceededError"))
    result = run("download", *SHA256, "--jobs", "2", VT_MAX_WAIT="0.01")
    assert (result.code, files()) == (4, [f"{SHA256[0]}.zip"])


@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (429, 4)])
def test_a_refused_key_ends_at_the_first_request(run: Run, server: Server, status: int, code: int) -> None:
    server.answer(f"/files/{SHA256[0]}/download", error(status, "No"))
    result = run("download", *SHA256, "--jobs", "1", VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout, set(server.paths)) == (code, "", {f"GET /files/{SHA256[0]}/download"})


def test_downloads_are_bounded(run: Run, server: Server, storage: Server) -> None:
    running, most = 0, 0

    def slow(answer: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1
            return await answer(request)

        return handle

    for sha256 in SHA256:
        storage.handlers[f"/{sha256}"] = slow(storage.handlers[f"/{sha256}"])
    assert run("download", *SHA256, "--jobs", "2").code == 0
    assert most == 2


# ---- One archive


def archive(*samples: bytes) -> bytes:
    buffer = io.BytesIO()
    with pyzipper.AESZipFile(buffer, "w", encryption=pyzipper.WZ_AES) as file:
        file.setpassword(b"infected")
        for sample in samples:
            file.writestr(hashlib.sha256(sample).hexdigest(), sample)
    return buffer.getvalue()


def job(status: str) -> dict[str, Any]:
    return {"data": {"type": "zip_file", "id": "1234", "attributes": {"status": status, "progress": 0}}}


def serve_archive(server: Server, storage: Server, *samples: bytes) -> None:
    server.answer(JOBS, job("starting"))
    server.answer(f"{JOBS}/1234", job("starting"), job("creating"), job("finished"))
    server.answer(f"{JOBS}/1234/download", redirect(f"{storage.url}/archive"))
    storage.answer("/archive", body(archive(*samples), "application/zip"))


def test_virustotal_builds_one_archive(run: Run, server: Server, storage: Server) -> None:
    sent = []

    async def accept(request: web.Request) -> web.StreamResponse:
        sent.append(await request.json())
        return web.json_response(job("starting"))

    serve_archive(server, storage, *SAMPLES)
    server.answer(JOBS, accept)
    result = run("download", *SHA256, "--zip")
    assert (result.code, len(files())) == (0, 1)
    assert sent == [{"data": {"password": "infected", "hashes": SHA256}}]
    assert server.paths == [f"POST {JOBS}", *[f"GET {JOBS}/1234"] * 3, f"GET {JOBS}/1234/download"]
    assert zipfile.ZipFile(Path("samples") / files()[0]).namelist() == SHA256
    assert KEY not in str(storage.seen[0].headers)

    requested = len(server.seen)
    assert (run("download", *reversed(SHA256), "--zip").code, len(server.seen)) == (0, requested)


def test_an_archive_that_lacks_files_is_incomplete(run: Run, server: Server, storage: Server) -> None:
    serve_archive(server, storage, SAMPLES[0])
    for _ in range(2):
        result = run("download", *SHA256, "--zip")
        assert (result.code, len(files())) == (3, 1)
        assert "2 files" in result.stdout


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_failure_while_the_archive_is_built(
    run: Run, server: Server, storage: Server, fault: str, number: int
) -> None:
    serve_archive(server, storage, *SAMPLES)
    server.fail(number, TRANSIENT[fault])
    assert (run("download", *SHA256, "--zip").code, len(files())) == (0, 1)


@pytest.mark.parametrize("lost", [reset, truncated, html(502), error(503, "TransientError")])
def test_a_job_whose_response_is_lost_is_not_requested_again(run: Run, server: Server, lost: Handler) -> None:
    server.answer(JOBS, lost)
    result = run("download", *SHA256, "--zip")
    assert (result.code, server.paths, files()) == (1, [f"POST {JOBS}"], [])


def test_an_interrupted_archive_is_continued_by_its_id(run: Run, server: Server, storage: Server) -> None:
    serve_archive(server, storage, *SAMPLES)
    server.answer(f"{JOBS}/1234", error(429, "QuotaExceededError"))
    result = run("download", *SHA256, "--zip", VT_MAX_WAIT="0.01")
    assert (result.code, "--archive 1234" in result.stderr, files()) == (4, True, [])
    server.answer(f"{JOBS}/1234", job("finished"))
    assert (run("download", *SHA256, "--archive", "1234").code, len(files())) == (0, 1)
    assert server.paths.count(f"POST {JOBS}") == 1


@pytest.mark.parametrize("answer", [job("error-creating"), job("timeout")])
def test_a_failed_job_leaves_no_file(run: Run, server: Server, answer: dict[str, Any]) -> None:
    server.answer(JOBS, job("starting"))
    server.answer(f"{JOBS}/1234", answer)
    assert (run("download", *SHA256, "--zip").code, files()) == (1, [])


def test_an_archive_that_is_no_zip_leaves_no_file(run: Run, server: Server, storage: Server) -> None:
    serve_archive(server, storage)
    storage.answer("/archive", body(b"<html>Sign in to the network</html>", "text/html"))
    result = run("download", *SHA256, "--zip")
    assert (result.code, files(), result.stdout.split("\t")[:2]) == (3, [], ["failed", "1234"])


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_what_is_in_an_archive_is_checked(run: Run, server: Server, storage: Server, algorithm: str) -> None:
    wanted = [hashlib.new(algorithm, sample).hexdigest() for sample in SAMPLES[:2]]
    serve_archive(server, storage, *SAMPLES[:2])
    assert (run("download", *wanted, "--zip").code, len(files())) == (0, 1)
    serve_archive(server, storage, SAMPLES[0], SAMPLES[2])
    result = run("download", *wanted, "--zip", "--out", "other")
    assert (result.code, files("other")) == (3, [])
    assert result.stdout.startswith("failed\t1234\tWrongContent")


@pytest.mark.parametrize("part", ["content", "end"])
def test_a_damaged_archive_leaves_no_file(run: Run, server: Server, storage: Server, part: str) -> None:
    content = bytearray(archive(*SAMPLES))
    place = 150 if part == "content" else len(content) - 40
    content[place] ^= 0xFF
    serve_archive(server, storage)
    storage.answer("/archive", body(bytes(content), "application/zip"))
    assert (run("download", *SHA256, "--zip").code, files()) == (3, [])


# ---- A notebook


async def collect(rows: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row async for row in rows]


def test_a_notebook_gets_rows(server: Server, storage: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("download")
    monkeypatch.setenv("VT_HOST", server.url)
    rows = asyncio.run(collect(script.download([*SHA256, SHA256[0].upper()], out=tmp_path, apikey=KEY)))
    assert sorted(row["id"] for row in rows) == sorted(SHA256)
    assert all(content(Path(row["path"])) in SAMPLES for row in rows)
    serve_archive(server, storage, *SAMPLES)
    (row,) = asyncio.run(collect(script.download_archive(SHA256, out=tmp_path, apikey=KEY)))
    assert row == {"id": "1234", "status": "downloaded", "path": row["path"], "error": None}


@pytest.mark.parametrize("name", ["download", "download_archive"])
@pytest.mark.parametrize(("hashes", "error"), [(SHA256[0], TypeError), (["../x"], ValueError)])
def test_a_notebooks_mistake_requests_nothing(server: Server, name: str, hashes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(collect(getattr(load("download"), name)(hashes, apikey=KEY)))
    assert server.seen == []


# ---- A process of its own


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interruption_leaves_whole_files_only(
    tmp_path: Path, server: Server, storage: Server, number: int, code: int
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.01)

    storage.answer(f"/{SHA256[1]}", endless)
    process = start("download", *SHA256[:2], "--jobs", "2", tmp_path=tmp_path, server=server)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("downloaded")
    while not any((tmp_path / "samples").glob(f".*/{SHA256[1]}")):
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=20)
    visible = [path.name for path in (tmp_path / "samples").iterdir() if not path.name.startswith(".")]
    assert (process.returncode, visible) == (code, [f"{SHA256[0]}.zip"])
    if number == signal.SIGINT:
        assert len(list((tmp_path / "samples").iterdir())) == 1
