"""The threat model, for every script that talks to VirusTotal: a run ends with one line and the right exit code."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import vt
from conftest import Run, Server, collection, error, file_object, silence, start

IDS = [file_object(n)["id"] for n in (1, 2)]
# Each script with arguments that make it request something, and the path of its first request.
REQUESTS: dict[str, tuple[list[str], str]] = {
    "search": (["q"], "/intelligence/search"),
    "search_to_urls": (["entity:url p:3+"], "/intelligence/search"),
    "search_to_pandas": (["q"], "/intelligence/search"),
    "search_to_network_infrastructure": (["q"], "/intelligence/search"),
    "collection_to_indicators": (["abc"], "/collections/abc/relationships/files"),
    "lookup": ([IDS[0]], f"/files/{IDS[0]}"),
    "download": ([IDS[0]], f"/files/{IDS[0]}/download"),
    "sandbox_artifacts": ([IDS[0]], f"/files/{IDS[0]}/behaviours"),
    "scan": (["http://evil.example/", "--yes"], "/urls/aHR0cDovL2V2aWwuZXhhbXBsZS8"),
    "ioc_stream": ([], "/ioc_stream"),
    "retrohunt": (["list"], "/intelligence/retrohunt_jobs"),
    "livehunt": (["list"], "/intelligence/hunting_rulesets"),
    "feed_dump": (["files", "--from", "2h", "--to", "119m", "--out", "dump"], "/feeds/files/*"),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    ("status", "code"), [(401, 2), (403, 2), (429, 4)], ids=["a refused key", "no privilege", "a spent quota"]
)
def test_what_would_hit_every_request_ends_the_run(run: Run, server: Server, name: str, status: int, code: int) -> None:
    args, _ = REQUESTS[name]
    server.answer("/*", error(status, "SomeError", "as VirusTotal words it"))
    result = run(name, *args, VT_MAX_WAIT="0.001")
    assert (result.code, result.stdout) == (code, "")
    assert "as VirusTotal words it" in result.stderr


@pytest.mark.parametrize(
    "name", [name for name in REQUESTS if name != "feed_dump"]
)  # a feed's server may hang for long
def test_a_server_that_hangs_is_given_up(run: Run, server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(self: vt.Client, *args: Any, **options: Any) -> None:
        original(self, *args, **options | {"timeout": 0.02})

    original = vt.Client.__init__
    monkeypatch.setattr(vt.Client, "__init__", impatient)
    server.answer("/*", silence)
    result = run(name, *REQUESTS[name][0], VT_MAX_WAIT="0.02")
    assert result.code in (1, 3)
    assert "no answer in time" in result.stderr or "imeout" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "name", ["search", "search_to_urls", "search_to_pandas", "search_to_network_infrastructure", "lookup", "ioc_stream"]
)
def test_a_full_disk_is_one_line(tmp_path: Path, server: Server, name: str) -> None:
    url = {"type": "url", "id": "f" * 64, "context_attributes": {"url": "http://evil.example/"}}
    config = file_object(1, malware_config={"c2": "c2.example.com:443"})
    noticed = {"notification_id": "1", "notification_date": 1763715600}
    item = url if name == "search_to_urls" else config | {"context_attributes": noticed}
    server.answer(f"/files/{IDS[0]}", {"data": config})
    server.answer("/*", collection(item))
    with open("/dev/full", "w") as full:
        process = start(name, *REQUESTS[name][0], tmp_path=tmp_path, server=server, stdout=full)
        _, stderr = process.communicate(timeout=30)
    assert "Traceback" not in stderr
    assert process.returncode == 1
    assert "No space left" in stderr.splitlines()[-1]


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_virustotal_is_silent_ends_the_run(
    tmp_path: Path, server: Server, name: str, number: int
) -> None:
    server.answer("/*", silence)
    process = start(name, *REQUESTS[name][0], tmp_path=tmp_path, server=server)
    wait_for_request(server)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in stderr) == (130, False)


def wait_for_request(server: Server) -> None:
    end = time.monotonic() + 30
    while not server.seen and time.monotonic() < end:
        time.sleep(0.02)
    assert server.seen
