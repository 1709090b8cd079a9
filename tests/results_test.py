"""results: a line for each result as it arrives, files that are complete or absent, and what they add up to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from results import is_fatal, save_file, write_results
from virustotal import VirusTotalError

CLIENT: Any = SimpleNamespace(requests=3, connected=True)
OFFLINE: Any = SimpleNamespace(requests=3, connected=False)
QUOTA = VirusTotalError("QuotaExceededError", "spent", 429)


async def results(*statuses: str, error: BaseException | None = None) -> AsyncIterator[tuple[str, str]]:
    for status in statuses:
        yield status, f"a {status} line"
    if error:
        raise error


def write(items: AsyncIterator[tuple[str, str]]) -> int:
    return asyncio.run(write_results(items, CLIENT, {"saved", "present"}))


@pytest.mark.parametrize(
    ("statuses", "error", "code"),
    [
        (["saved", "present"], None, 0),
        ([], None, 0),
        (["saved", "failed", "saved"], None, 3),
        (["saved"], QUOTA, 4),
        (["failed"], QUOTA, 4),
        (["saved"], VirusTotalError("TransientError", "again", 503), 3),
        (["saved"], OSError("disk full"), 1),
        (["saved"], asyncio.CancelledError(), 130),
    ],
)
def test_the_exit_code(
    capsys: pytest.CaptureFixture[str], statuses: list[str], error: BaseException | None, code: int
) -> None:
    assert write(results(*statuses, error=error)) == code
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"a {status} line" for status in statuses]
    assert len(err.splitlines()) == 1
    assert err.startswith("INCOMPLETE") == err.endswith("; resume with the same command\n") == (code != 0)


def test_the_summary_counts_each_status(capsys: pytest.CaptureFixture[str]) -> None:
    write(results("saved", "failed", "saved"))
    assert "2 saved, 1 failed, 3 requests" in capsys.readouterr().err


def test_a_line_is_written_before_the_next_result_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "lines"

    async def items() -> AsyncIterator[tuple[str, str]]:
        yield "saved", "first"
        assert path.read_text() == "first\n"

    with open(path, "w") as file:
        assert asyncio.run(write_results(items(), CLIENT, {"saved"}, file)) == 0


@pytest.mark.parametrize("error", [QUOTA, OSError("disk full"), asyncio.CancelledError()])
def test_an_error_before_the_first_result_is_raised(error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(results(error=error))


def test_a_closed_pipe_is_raised() -> None:
    with pytest.raises(BrokenPipeError):
        write(results("saved", error=BrokenPipeError()))


@pytest.mark.parametrize(
    ("client", "status", "fatal"),
    [
        (CLIENT, 401, True),
        (CLIENT, 403, True),
        (CLIENT, 429, True),
        (CLIENT, 404, False),
        (CLIENT, 0, False),
        (OFFLINE, 0, True),
    ],
)
def test_what_would_fail_for_every_other_request_is_fatal(client: Any, status: int, fatal: bool) -> None:
    assert is_fatal(client, VirusTotalError("Code", "message", status)) is fatal


async def fetch(to: Path) -> None:
    to.write_bytes(b"content")


def failing(status: int) -> Any:
    async def fetch_a_part(to: Path) -> None:
        to.write_bytes(b"con")
        raise VirusTotalError("Code", "message", status)

    return fetch_a_part


def test_a_file_is_saved_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    saved = {"id": 1, "path": str(path), "error": None}
    assert asyncio.run(save_file(CLIENT, {"id": 1}, path, fetch)) == saved | {"status": "downloaded"}
    assert path.read_bytes() == b"content"
    assert asyncio.run(save_file(CLIENT, {"id": 1}, path, failing(404))) == saved | {"status": "present"}


def test_a_file_that_fails_is_absent(tmp_path: Path) -> None:
    failed = {"id": 1, "status": "failed", "path": None, "error": "Code: message"}
    assert asyncio.run(save_file(CLIENT, {"id": 1}, tmp_path / "file", failing(404))) == failed
    assert asyncio.run(save_file(CLIENT, {"id": 1}, tmp_path / "file", failing(403), statuses=(429,))) == failed
    with pytest.raises(VirusTotalError):
        asyncio.run(save_file(CLIENT, {}, tmp_path / "file", failing(403)))
    assert list(tmp_path.iterdir()) == []
