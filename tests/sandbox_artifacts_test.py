"""sandbox_artifacts: a file's sandbox reports, and what they captured."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sandbox_artifacts as script
from aiohttp import web
from conftest import KEY, TRANSIENT, Handler, Run, Server, body, collection, error, html, redirect, start, truncated

SHA256 = "a" * 64
REPORTS = f"/files/{SHA256}/behaviours"
CONTENT = {"pcap": b"\xd4\xc3\xb2\xa1" * 100, "html": b"<script>alert(1)</script>", "memdump": bytes(300_000)}


def behaviour(sandbox: str, *kinds: str) -> dict[str, Any]:
    has = {
        f"has_{'html_report' if kind == 'html' else kind}": kind in kinds
        for kind in ("pcap", "evtx", "html", "memdump")
    }
    attributes = {"sandbox_name": sandbox, "analysis_date": 1763802000} | has
    return {"type": "file_behaviour", "id": f"{SHA256}_{sandbox}", "attributes": attributes}


ZENBOX = behaviour("Zenbox", "pcap", "html", "memdump")
CAPE = behaviour("CAPE Sandbox", "pcap")
NOTHING = behaviour("VirusTotal Jujubox")


@pytest.fixture(autouse=True)
def storage(server: Server, other_host: Server) -> Server:
    """Answer two pages of reports, and redirect their artifacts to a storage host."""
    server.answer(REPORTS, collection(ZENBOX, CAPE, cursor="b"), collection(NOTHING))
    for report in (ZENBOX, CAPE, NOTHING):
        path = f"/file_behaviours/{report['id'].replace(' ', '%20')}"
        server.answer(path, {"data": report})
        for kind, content in CONTENT.items():
            if report["attributes"].get(f"has_{kind}") or (report is ZENBOX):
                server.answer(f"{path}/{kind}", redirect(f"{other_host.url}/{kind}"))
                other_host.answer(f"/{kind}", body(content))
    return other_host


def files(folder: str = "artifacts") -> dict[str, bytes]:
    return {path.name.removeprefix(SHA256): path.read_bytes() for path in Path(folder).iterdir()}


ALL = {
    "_Zenbox.pcap": CONTENT["pcap"],
    "_Zenbox.html": CONTENT["html"],
    "_Zenbox.memdump": CONTENT["memdump"],
    "_CAPE%20Sandbox.pcap": CONTENT["pcap"],
}


def test_without_a_kind_it_is_a_source_of_reports(run: Run, server: Server) -> None:
    result = run("sandbox_artifacts", SHA256.upper())
    assert (result.code, result.objects) == (0, [ZENBOX, CAPE, NOTHING])
    assert server.paths == [f"GET {REPORTS}?limit=40", f"GET {REPORTS}?limit=40&cursor=b"]
    assert not Path("artifacts").exists()


def test_text_lists_what_is_available(run: Run) -> None:
    result = run("sandbox_artifacts", SHA256, "--format", "text")
    assert result.stdout.splitlines() == [
        f"{SHA256}_Zenbox\tpcap,html,memdump",
        f"{SHA256}_CAPE Sandbox\tpcap",
        f"{SHA256}_VirusTotal Jujubox\t-",
    ]


def test_a_report_is_found_by_its_id(run: Run, server: Server) -> None:
    result = run("sandbox_artifacts", CAPE["id"])
    assert (result.code, result.objects) == (0, [CAPE])
    assert server.paths == [f"GET /file_behaviours/{SHA256}_CAPE%20Sandbox"]


def test_output_is_a_file_that_must_not_exist(run: Run, server: Server) -> None:
    assert run("sandbox_artifacts", SHA256, "-o", "reports.jsonl").code == 0
    requested = len(server.seen)
    result = run("sandbox_artifacts", SHA256, "-o", "reports.jsonl")
    assert (result.code, len(server.seen), "--cursor" in result.stderr) == (2, requested, False)
    assert len(Path("reports.jsonl").read_text().splitlines()) == 3
    server.answer(REPORTS, collection(CAPE))
    assert run("sandbox_artifacts", SHA256, "--kind", "pcap", "-o", "saved.jsonl").code == 0
    assert Path("saved.jsonl").read_text().startswith('{"id": ')


def test_the_kinds_that_reports_have_are_downloaded(run: Run, server: Server, storage: Server) -> None:
    result = run("sandbox_artifacts", SHA256, "--kind", "pcap,html,evtx,memdump", "--format", "jsonl")
    assert (result.code, files()) == (0, ALL)
    assert len(server.seen) == 2 + len(ALL)
    assert KEY in str(server.seen[-1].headers)
    assert KEY not in str([request.headers for request in storage.seen])
    assert all(Path(row["path"]).exists() and row["status"] == "downloaded" for row in result.objects)


def test_only_one_kind_of_one_sandbox(run: Run) -> None:
    result = run("sandbox_artifacts", SHA256, "--kind", "pcap", "--sandbox", "cape", "--out", "a/b")
    path = f"a/b/{SHA256}_CAPE%20Sandbox.pcap"
    assert (result.code, result.stdout) == (0, f"downloaded\t{path}\n")
    assert list(files("a/b")) == ["_CAPE%20Sandbox.pcap"]


def test_a_rerun_downloads_only_what_is_missing(run: Run, server: Server) -> None:
    run("sandbox_artifacts", SHA256, "--kind", "pcap")
    server.seen.clear()
    server.answer(REPORTS, collection(ZENBOX, CAPE))
    result = run("sandbox_artifacts", SHA256, "--kind", "pcap,memdump", "--format", "jsonl")
    assert (result.code, len(server.seen), len(files())) == (0, 2, 3)
    assert [row["status"] for row in result.objects] == ["present", "downloaded", "present"]


def test_an_id_cannot_leave_the_directory(run: Run, server: Server) -> None:
    hostile = behaviour("../../../x\x1b[31m\u202e", "pcap")
    server.answer(REPORTS, collection(hostile))
    server.answer("/file_behaviours/*", body(b"captured"))
    result = run("sandbox_artifacts", SHA256, "--kind", "pcap", "--format", "text")
    assert (result.code, list(files().values())) == (0, [b"captured"])
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout + result.stderr
    assert "/.." not in server.paths[-1]


@pytest.mark.parametrize("answer", [error(404, "NotFoundError"), error(403, "ForbiddenError"), html(500), truncated])
def test_an_artifact_that_fails_is_reported_and_the_others_come(run: Run, storage: Server, answer: Handler) -> None:
    storage.answer("/memdump", answer)
    args = (SHA256, "--kind", "pcap,html,memdump", "--format", "jsonl")
    result = run("sandbox_artifacts", *args, VT_MAX_WAIT="0.05")
    assert (result.code, files()) == (3, {name: content for name, content in ALL.items() if "memdump" not in name})
    assert [(row["kind"], row["path"]) for row in result.objects if row["status"] == "failed"] == [("memdump", None)]
    assert result.last_line.startswith("INCOMPLETE")


def test_what_is_not_found_does_not_stop_the_others(run: Run, server: Server) -> None:
    server.answer(REPORTS, collection(ZENBOX, CAPE))
    listed = run("sandbox_artifacts", "b" * 32, SHA256)
    assert (listed.code, len(listed.objects), listed.objects[0]["error"]["code"]) == (3, 3, "NotFoundError")
    missing = ("b" * 32, "b" * 64 + "_Zenbox")
    saved = run("sandbox_artifacts", *missing, SHA256, "--kind", "pcap", "--format", "jsonl")
    assert (saved.code, [row["status"] for row in saved.objects]) == (
        3,
        ["failed", "failed", "downloaded", "downloaded"],
    )


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 3, 6])  # the pages, the first and the last artifact
def test_a_transient_failure_is_retried(run: Run, server: Server, fault: str, number: int) -> None:
    server.fail(number, TRANSIENT[fault])
    result = run("sandbox_artifacts", SHA256, "--kind", "pcap,html,memdump")
    assert (result.code, files()) == (0, ALL)


@pytest.mark.parametrize(("status", "code"), [(401, 2), (429, 4)])
def test_a_refused_key_or_an_exhausted_quota_stops(run: Run, server: Server, status: int, code: int) -> None:
    server.answer(REPORTS, error(status, "No"))
    result = run("sandbox_artifacts", SHA256, "c" * 64, "--kind", "pcap", VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout, set(server.paths)) == (code, "", {f"GET {REPORTS}?limit=40"})


def test_an_exhausted_quota_keeps_what_is_done(run: Run, server: Server) -> None:
    server.answer(REPORTS, collection(ZENBOX, CAPE))
    for number in range(3, 50):
        server.fail(number, error(429, "QuotaExceededError"))
    result = run("sandbox_artifacts", SHA256, "--kind", "pcap,html", VT_MAX_WAIT="0.05")
    assert (result.code, files()) == (4, {"_Zenbox.pcap": CONTENT["pcap"]})
    server.faults.clear()
    assert run("sandbox_artifacts", SHA256, "--kind", "pcap,html").code == 0
    assert len(files()) == 3


@pytest.mark.parametrize(
    "args",
    [
        ["evil.exe"],
        [SHA256[:63]],
        [SHA256, "../" + SHA256],
        [SHA256 + "_"],
        ["b" * 32 + "_Zenbox"],
        [SHA256, "--kind", "pcapng"],
        [SHA256, "--kind", ""],
        [],
    ],
)
def test_wrong_usage_requests_nothing(run: Run, server: Server, args: list[str]) -> None:
    result = run("sandbox_artifacts", *args)
    assert (result.code, server.seen, result.stdout, len(result.stderr.splitlines())) == (2, [], "", 1)


def test_a_notebook_lists_and_saves(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_HOST", server.url)
    server.answer(REPORTS, collection(ZENBOX, CAPE))

    async def collect(items: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
        return [item async for item in items]

    assert asyncio.run(collect(script.list_reports([SHA256], apikey=KEY))) == [ZENBOX, CAPE]
    rows = asyncio.run(collect(script.save_artifacts([SHA256.upper()], ["pcap"], out=tmp_path, apikey=KEY)))
    assert [Path(row["path"]).exists() for row in rows] == [True, True]
    with pytest.raises(TypeError, match="list"):
        asyncio.run(collect(script.list_reports(SHA256, apikey=KEY)))
    for ids, kinds in (["../x"], ["pcap"]), ([SHA256], ["pcapng"]):
        with pytest.raises(script.UsageError):
            asyncio.run(collect(script.save_artifacts(ids, kinds, apikey=KEY)))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_an_interruption_leaves_whole_files_only(
    tmp_path: Path, server: Server, storage: Server, number: int, code: int
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.01)

    storage.answer("/memdump", endless)
    process = start("sandbox_artifacts", SHA256, "--kind", "pcap,memdump", tmp_path=tmp_path, server=server)
    folder = tmp_path / "artifacts"
    while not (folder.exists() and list(folder.glob(".*.part")) and list(folder.glob("*.pcap"))):
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=20)
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    assert (process.returncode, visible) == (code, [f"{SHA256}_Zenbox.pcap"])
    if number == signal.SIGTERM:
        assert len(list(folder.iterdir())) == 1
