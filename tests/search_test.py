"""search: a source that prints what VirusTotal answered."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from conftest import KEY, TRANSIENT, Handler, Run, Server, collection, error, file_object, start

SEARCH = "/intelligence/search"


def three_pages(server: Server) -> None:
    files = [file_object(n) for n in range(7)]
    server.answer(
        SEARCH,
        collection(*files[:3], cursor="b", total_hits=7),
        collection(*files[3:5], cursor="c", total_hits=7),
        collection(*files[5:], total_hits=7),
    )


def test_prints_every_object_unchanged(run: Run, server: Server) -> None:
    hostile = file_object(1, meaningful_name="\x1b[2J\ud800\u202e=cmd|", tags=[None, {"a b": []}])
    server.answer(SEARCH, collection(hostile))
    result = run("search", "entity:file p:5+")
    assert (result.code, result.objects) == (0, [hostile])
    assert result.stdout.isascii()
    assert result.last_line == "1 object, 1 request, complete"


def test_all_pages_in_few_requests(run: Run, server: Server) -> None:
    three_pages(server)
    result = run("search", "q", "--limit", "0")
    assert [item["id"] for item in result.objects] == [file_object(n)["id"] for n in range(7)]
    assert server.paths == [
        "GET /intelligence/search?query=q&limit=300",
        "GET /intelligence/search?query=q&limit=300&cursor=b",
        "GET /intelligence/search?query=q&limit=300&cursor=c",
    ]


def test_options_reach_the_request(run: Run, server: Server) -> None:
    server.answer(SEARCH, collection())
    run("search", 'content:"AbC" &+', "--limit", "5", "--order", "size-", "--descriptors-only")
    assert dict(server.seen[0].query) == {
        "query": 'content:"AbC" &+',
        "order": "size-",
        "descriptors_only": "true",
        "limit": "5",
    }


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    three_pages(server)
    server.fail(number, TRANSIENT[fault])
    result = run("search", "q", "--limit", "0")
    assert (result.code, len(result.objects), len(server.seen)) == (0, 7, 4)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "BadRequestError"), 2),
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError"), 4),
        (error(503, "TransientError"), 1),
    ],
)
def test_an_error_on_the_first_page_is_one_line(run: Run, server: Server, answer: Handler, code: int) -> None:
    server.answer(SEARCH, answer)
    result = run("search", "q", "--cursor", "refused", "-o", "x.jsonl", VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout) == (code, "")
    assert result.last_line.startswith("error: ")
    assert "--cursor" not in result.last_line
    assert not Path("x.jsonl").exists()


@pytest.mark.parametrize(("status", "code"), [(429, 4), (503, 3)])
def test_an_error_later_keeps_what_came_and_resumes(run: Run, server: Server, status: int, code: int) -> None:
    three_pages(server)
    for number in range(3, 99):
        server.fail(number, error(status, "QuotaExceededError"))
    result = run("search", "q", "--limit", "0", "-o", "hits.jsonl", VT_MAX_WAIT="0.05")
    assert (result.code, len(Path("hits.jsonl").read_text().splitlines())) == (code, 5)
    assert "resume with --cursor c" in result.last_line

    server.faults.clear()
    server.answer(SEARCH, collection(file_object(5), file_object(6)))
    with open("hits.jsonl", "a") as file:
        file.write('{"half a li')  # as kill -9 leaves it
    result = run("search", "q", "--limit", "0", "-o", "hits.jsonl", "--cursor", "c")
    ids = [json.loads(line)["id"] for line in Path("hits.jsonl").read_text().splitlines()]
    assert (result.code, ids) == (0, [file_object(n)["id"] for n in range(7)])


def test_an_existing_file_is_refused_before_any_request(run: Run, server: Server) -> None:
    Path("hits.jsonl").write_text("precious\n")
    result = run("search", "q", "-o", "hits.jsonl")
    assert (result.code, server.seen, Path("hits.jsonl").read_text()) == (2, [], "precious\n")


def test_vt_max_requests_ends_like_a_spent_quota(run: Run, server: Server) -> None:
    three_pages(server)
    result = run("search", "q", "--limit", "0", VT_MAX_REQUESTS="2")
    assert (result.code, len(result.objects), len(server.seen)) == (4, 5, 2)
    assert "resume with --cursor c" in result.last_line


def test_text_is_a_line_for_each_object(run: Run, server: Server) -> None:
    url = {"type": "url", "id": "f" * 64, "context_attributes": {"url": "http://evil.example/\x1b[31m"}}
    gone = {"type": "file", "id": "e" * 64, "error": {"code": "NotFoundError", "message": "gone"}}
    server.answer(SEARCH, collection(file_object(12), url, gone))
    assert run("search", "q", "--format", "text").stdout.splitlines() == [
        f"{12:064x}  12/70  sample-12.exe",
        "http://evil.example/\\x1b[31m",
        f"{'e' * 64}  NotFoundError: gone",
    ]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["entity:file", "p:5+"], "quote an argument"),
        (["q", "--limit", "-1"], "--limit"),
        (["q", "--format", "json"], "Did you mean jsonl?"),
        ([], "query"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, server: Server, args: list[str], hint: str) -> None:
    result = run("search", *args)
    assert (result.code, len(result.stderr.splitlines()), server.seen) == (2, 1, [])
    assert hint in result.stderr


def test_a_closed_pipe_ends_quietly(tmp_path: Path, server: Server) -> None:
    server.answer(SEARCH, collection(*(file_object(n, comment="x" * 5000) for n in range(300))))
    process = start("search", "q", "--limit", "300", tmp_path=tmp_path, server=server)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (0, "")


@pytest.mark.parametrize(
    ("number", "background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_a_signal_keeps_what_came(tmp_path: Path, server: Server, number: int, background: bool) -> None:
    pages = [collection(*(file_object(page * 3 + n) for n in range(3)), cursor=str(page)) for page in range(10_000)]
    server.answer(SEARCH, *pages)
    process = start(
        "search", "q", "--limit", "0", tmp_path=tmp_path, server=server, background=background, VT_RATE="600"
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert all(json.loads(line) for line in stdout.splitlines())
    assert "interrupted; resume with --cursor" in stderr.splitlines()[-1]
