"""retrohunt: rules compiled first, a job never started twice, a watch that Ctrl-C leaves, matches as a source."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import (
    KEY,
    SCRIPTS,
    TRANSIENT,
    Handler,
    Run,
    Server,
    collection,
    environment,
    error,
    file_object,
    html,
    load,
    reset,
    silence,
    start,
    truncated,
)

JOBS = "/intelligence/retrohunt_jobs"
JOB = "analyst-1763802000"
RULE = 'rule one { strings: $a = "a string of its own" condition: $a }'
HOSTILE = "\x1b]0;owned\x07 [bold]\u202e"


def job(status: str = "running", job_id: str = JOB, **attributes: Any) -> dict[str, Any]:
    """Return a job as VirusTotal answers it, created now."""
    common = {"status": status, "creation_date": int(time.time()), "corpus": "main", "rules": RULE}
    return {"type": "retrohunt_job", "id": job_id, "attributes": common | attributes}


def match(number: int, rule: str = "one") -> dict[str, Any]:
    """Return a matching file."""
    return file_object(number) | {"context_attributes": {"rule_name": rule, "match_in_subfile": False}}


def answer_job(server: Server, *jobs: dict[str, Any]) -> None:
    server.answer(f"{JOBS}/{JOB}", *({"data": each} for each in jobs))


def start_and_lose(server: Server, response: Handler, **attributes: Any) -> None:
    """Let a POST start a job, which the list shows from then on, and lose its response as `response` does."""
    jobs: list[dict[str, Any]] = [job("finished", "old-1", creation_date=1600000000)]

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": jobs})
        jobs.insert(0, job("starting", **(await request.json())["data"]["attributes"] | attributes))
        return await response(request)

    server.answer(JOBS, handle)


def posts(server: Server) -> int:
    return sum(path.startswith("POST") for path in server.paths)


@pytest.fixture
def rules(run: Run) -> Path:
    """A file with one good rule, in the folder where the script runs."""
    path = Path("one.yar")
    path.write_text(RULE)
    return path


# ---- start: the rules


@pytest.mark.parametrize(
    ("text", "stderr"),
    [
        ("rule a { condition: }", "syntax error"),
        ("rule a { condition: x }", "bad.yar:1:21"),
        ("rule a { condition: filesize > 0 }\nrule a { condition: filesize > 1 }", "duplicate rule `a`"),
        ("rule a { condition: nowhere.b }", "unknown identifier `nowhere`"),
        ('import "vt" rule a { condition: vt.net.url.new_url }', "not supported in rulesets matching against files"),
        ('include "other.yar"', "include"),
        ("// no rule", "no rule in bad.yar"),
        ("", "no rule in bad.yar"),
    ],
)
def test_rules_that_virustotal_would_refuse_cost_no_request(run: Run, server: Server, text: str, stderr: str) -> None:
    Path("bad.yar").write_text(text)
    result = run("retrohunt", "start", "bad.yar")
    assert (result.code, result.stdout, server.seen) == (2, "", [])
    assert stderr in result.stderr


def test_a_rule_in_two_files_is_refused_with_both_places(run: Run, server: Server, rules: Path) -> None:
    Path("two.yar").write_text(RULE)
    result = run("retrohunt", "start", rules, "two.yar")
    assert (result.code, server.seen) == (2, [])
    assert "one.yar:1:6" in result.stderr
    assert "two.yar:1:6" in result.stderr


@pytest.mark.parametrize(("count", "code"), [(300, 0), (301, 2)])
def test_a_job_takes_300_rules_of_all_files(run: Run, server: Server, count: int, code: int) -> None:
    server.answer(JOBS, {"data": job("starting")})
    texts = [f"private rule r{number} {{ condition: filesize == {number} }}\n" for number in range(count)]
    Path("a.yar").write_text("".join(texts[:150]))
    Path("b.yar").write_text("".join(texts[150:]))
    assert (run("retrohunt", "start", "a.yar", "b.yar").code, posts(server)) == (code, int(code == 0))


def test_a_warning_is_shown_and_the_job_starts(run: Run, server: Server) -> None:
    server.answer(JOBS, {"data": job("starting")})
    Path("slow.yar").write_text("rule slow { strings: $a = {00 00} condition: $a }")
    result = run("retrohunt", "start", "slow.yar")
    assert (result.code, result.stdout) == (0, f"{JOB}\n")
    assert "slow.yar:1:27" in result.stderr


def test_rules_with_virustotals_modules_are_sent_and_named(run: Run, server: Server) -> None:
    server.answer(JOBS, {"data": job("starting")})
    text = 'import "vt" import "magic" rule a { condition: vt.metadata.new_file } rule b { condition: a }'
    text += ' rule c { condition: magic.mime_type() == "text/plain" }'
    Path("vt.yar").write_text(f"{text}\n{RULE}")
    result = run("retrohunt", "start", "vt.yar")
    assert (result.code, posts(server)) == (0, 1)
    assert "magic: a, b, c\n" in result.stderr
    assert "1 job with 4 rules" in result.last_line


@pytest.mark.parametrize("name", ["none.yar", ".", "latin.yar"])
def test_a_file_that_cannot_be_read_is_named(run: Run, server: Server, name: str) -> None:
    Path("latin.yar").write_bytes(b"// caf\xe9\n" + RULE.encode())
    result = run("retrohunt", "start", name)
    assert (result.code, server.seen) == (2, [])
    assert result.stderr.startswith(f"error: {name}: ")


def test_hostile_rules_and_file_names_are_escaped(run: Run) -> None:
    name = "a\x1b[31m.yar"
    Path(name).write_text(f"rule a {{ condition:\n x /* {HOSTILE} \u2028error: forged */ }}", encoding="utf-8")
    result = run("retrohunt", "start", name)
    assert result.code == 2
    assert not {"\x1b", "\u202e", "\x07", "\u2028"} & set(result.stderr)


def test_the_files_are_sent_as_one_ruleset_with_the_options(run: Run, server: Server) -> None:
    sent: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        sent.append(await request.json())
        return web.json_response({"data": job("starting")})

    server.answer(JOBS, handle)
    Path("bom.yar").write_bytes(b'\xef\xbb\xbfrule bom { strings: $a = "na\xc3\xafve text" condition: $a }\r\n')
    options = ["--corpus", "goodware", "--email", "me@example.com"]
    options += ["--since", "2026-10-01", "--until", "2026-11-01T12:00+02:00"]
    result = run("retrohunt", "start", "bom.yar", "-", *options, stdin="rule two { condition: bom }")
    assert result.code == 0
    assert sent[0]["data"]["attributes"] == {
        "rules": 'rule bom { strings: $a = "naïve text" condition: $a }\r\n\nrule two { condition: bom }',
        "corpus": "goodware",
        "notification_email": "me@example.com",
        "time_range": {"start": 1790812800, "end": 1793527200},
    }


@pytest.mark.parametrize(
    "options",
    [
        ["--since", "yesterday"],
        ["--since", "1d", "--until", "99999x"],
        ["--since", "1h", "--until", "2h"],
        ["--since", "2999-01-01"],
        ["--since", "1d", "--until", "2999-01-01"],
        ["--corpus", "evil"],
    ],
)
def test_wrong_options_are_one_line(run: Run, server: Server, rules: Path, options: list[str]) -> None:
    result = run("retrohunt", "start", rules, *options)
    assert (result.code, result.stdout, server.seen) == (2, "", [])
    assert len(result.stderr.splitlines()) == 1


# ---- start: one job, whatever happens


LOSSES = [reset, truncated, html(502), html(503), error(500, "InternalError"), html(200)]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_job_whose_response_is_lost_is_found_in_the_list(
    run: Run, server: Server, rules: Path, loss: Handler
) -> None:
    start_and_lose(server, loss)
    result = run("retrohunt", "start", rules, "--since", "30d")
    assert (result.code, result.stdout, posts(server)) == (0, f"{JOB}\n", 1)


@pytest.mark.parametrize(
    "other",
    [
        {"creation_date": 1600000000},
        {"rules": f"{RULE} // and more"},
        {"corpus": "goodware"},
        {"time_range": {"start": 1, "end": 2}},
        {"rules": None},
    ],
)
def test_another_job_is_not_taken_for_the_lost_one(
    run: Run, server: Server, rules: Path, other: dict[str, Any]
) -> None:
    start_and_lose(server, reset, **other)
    result = run("retrohunt", "start", rules, "--since", "30d")
    assert (result.code, result.stdout, posts(server)) == (3, "", 1)
    assert "may be running" in result.last_line
    assert " list`" in result.last_line


def test_a_job_that_cannot_be_looked_for_may_be_running(run: Run, server: Server, rules: Path) -> None:
    server.answer(JOBS, html(502))
    result = run("retrohunt", "start", rules, VT_MAX_WAIT="0.1")
    assert (result.code, result.stdout, posts(server)) == (3, "", 1)
    assert "may be running" in result.last_line


def test_a_job_that_was_never_sent_is_an_ordinary_failure(run: Run, rules: Path) -> None:
    result = run("retrohunt", "start", rules, VT_HOST="http://127.0.0.1:1", VT_MAX_WAIT="0.1")
    assert result.code == 1
    assert "may be running" not in result.stderr


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(409, "AlreadyExistsError", "You have 10 jobs running"), 2),
        (error(400, "BadRequestError", f"line 1: {HOSTILE}"), 2),
        (error(403, "ForbiddenError", f"not authorized, key {KEY}"), 2),
        (error(429, "QuotaExceededError", "Quota exceeded"), 4),
    ],
)
def test_a_refusal_is_one_line_and_no_job_is_looked_for(
    run: Run, server: Server, rules: Path, answer: Handler, code: int
) -> None:
    server.answer(JOBS, answer)
    result = run("retrohunt", "start", rules, VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout) == (code, "")
    assert "\x1b" not in result.stderr
    assert not any(path.startswith("GET") for path in server.paths)


def test_a_minute_quota_is_waited_for(run: Run, server: Server, rules: Path) -> None:
    server.answer(JOBS, error(429, "QuotaExceededError", **{"Retry-After": "0"}), {"data": job("starting")})
    result = run("retrohunt", "start", rules)
    assert (result.code, result.stdout, posts(server)) == (0, f"{JOB}\n", 2)


def test_ctrl_c_during_the_start_warns_that_the_job_may_be_running(tmp_path: Path, server: Server) -> None:
    server.answer(JOBS, silence)
    (tmp_path / "one.yar").write_text(RULE)
    process = start("retrohunt", "start", "one.yar", tmp_path=tmp_path, server=server)
    wait_for_requests(server, 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "may be running" in stderr.splitlines()[-1]


def wait_for_requests(server: Server, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(server.seen) < count and time.monotonic() < deadline:
        time.sleep(0.01)


# ---- watch


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_watch_survives_a_failure_at_any_request(run: Run, server: Server, fault: str, number: int) -> None:
    answer_job(server, job("starting", progress=None), job("running", eta_seconds=3), job("finished", num_matches=2))
    server.fail(number, TRANSIENT[fault])
    result = run("retrohunt", "watch", JOB)
    assert (result.code, result.stdout, len(server.seen)) == (0, "", 4)
    assert "finished" in result.last_line


def test_watch_waits_longer_than_any_limit(run: Run, server: Server) -> None:
    answer_job(server, job("running"), job("finished"))
    for number in range(2, 6):
        server.fail(number, html(502))
    assert run("retrohunt", "watch", JOB, VT_MAX_WAIT="0.01").code == 0


def test_watch_prints_a_line_for_each_step_and_then_how_to_get_the_matches(run: Run, server: Server) -> None:
    running = job("running", progress=45.25, num_matches=1, eta_seconds=3)
    done = job("finished", progress=100, num_matches=2, num_matches_outside_time_range=556)
    answer_job(server, job("starting", progress=None, num_matches=None), running, running, done)
    result = run("retrohunt", "watch", JOB)
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "starting 0.0 %, 0 matches",
        "running 45.2 %, 1 match, 0:00:03 left",
        "finished 100.0 %, 2 matches, 556 outside the time range",
    ]
    assert f"matches {JOB} --limit 0" in lines[3]
    assert lines[4:] == [f"job {JOB}, {lines[2]}, 4 requests, complete"]


def test_start_with_watch_prints_the_id_and_waits(run: Run, server: Server, rules: Path) -> None:
    server.answer(JOBS, {"data": job("starting")})
    answer_job(server, job("running"), job("finished"))
    result = run("retrohunt", "start", rules, "--watch")
    assert (result.code, result.stdout, len(server.seen)) == (0, f"{JOB}\n", 3)


@pytest.mark.parametrize("end", [job("aborted", progress=30), job("failed", progress=30, finish_date=1763802000)])
def test_a_job_that_does_not_finish_ends_the_watch_as_incomplete(run: Run, server: Server, end: dict[str, Any]) -> None:
    answer_job(server, job("aborting"), end)
    result = run("retrohunt", "watch", JOB)
    assert (result.code, result.last_line.startswith("INCOMPLETE")) == (3, True)
    assert f"{end['attributes']['status']} 30.0 %" in result.last_line


@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (404, 1)])
def test_a_refusal_ends_the_watch(run: Run, server: Server, status: int, code: int) -> None:
    server.answer(f"{JOBS}/{JOB}", error(status, "SomeError"))
    assert run("retrohunt", "watch", JOB).code == code


def test_a_watch_that_ends_early_says_that_the_job_continues(run: Run, server: Server) -> None:
    answer_job(server, job("running"))
    result = run("retrohunt", "watch", JOB, VT_MAX_REQUESTS="2")
    assert (result.code, "continues" in result.stderr) == (4, True)


def test_ids_are_quoted_in_paths(run: Run, server: Server) -> None:
    assert run("retrohunt", "watch", "../users/me").code == 1
    assert server.paths == [f"GET {JOBS}/..%2Fusers%2Fme"]


def test_ctrl_c_ends_the_watching_and_not_the_job(tmp_path: Path, server: Server) -> None:
    answer_job(server, job("running", progress=5, eta_seconds=9000))
    process = start("retrohunt", "watch", JOB, tmp_path=tmp_path, server=server)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, server.paths) == (130, "", [f"GET {JOBS}/{JOB}"])
    assert "continues" in stderr
    assert stderr.splitlines()[-1].endswith("interrupted")


def test_a_terminal_shows_a_bar_and_no_escape_sequence_of_the_servers(tmp_path: Path, server: Server) -> None:
    answer_job(server, job(f"running{HOSTILE}", progress=50, finish_date=1763802000))  # the first look is the last
    ours, theirs = pty.openpty()
    env = environment(tmp_path, server, TERM="xterm", COLUMNS="100")
    command = [sys.executable, str(SCRIPTS / "retrohunt.py"), "watch", JOB]
    process = subprocess.Popen(command, env=env, stderr=theirs, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux reports that no writer is left
        pass
    os.close(ours)
    assert process.wait(30) == 3
    assert "━" in shown.decode()
    assert r"running\x1b]0;owned\x07 [bold]\u202e 50.0 %" in shown.decode()
    assert b"\x1b]0;" not in shown


# ---- list


def test_list_prints_a_line_for_each_job(run: Run, server: Server) -> None:
    text = "rule a{} private rule b : t {}\nglobal  private rule c\n{}\nrule d {}\n// rule no {}\nrule e {}\nrule f {}"
    hostile = job(HOSTILE, "a\nb", rules=None)
    server.answer(
        JOBS,
        collection(hostile, job(creation_date=1763802000, rules=text), cursor="next"),
        collection(job("aborted", "other-1")),
    )
    result = run("retrohunt", "list")
    lines = result.stdout.splitlines()
    assert (result.code, [line.split()[0] for line in lines]) == (0, [r"a\nb", JOB, "other-1"])
    assert lines[1].split()[1:3] == ["2025-11-22T09:00:00Z", "main"]
    assert lines[1].endswith("running 0.0 %, 0 matches  a, c, d and 2 more")
    assert not {"\x1b", "\u202e", "\x07"} & set(result.stdout)
    assert result.last_line == "3 jobs, 2 requests, complete"


def test_list_prints_the_objects_unchanged_as_jsonl(run: Run, server: Server) -> None:
    server.answer(JOBS, collection(job(), job("finished", "other-1")))
    result = run("retrohunt", "list", "--format", "jsonl")
    assert [item["id"] for item in result.objects] == [JOB, "other-1"]
    assert result.objects[0]["attributes"]["rules"] == RULE


def test_list_takes_a_status_and_a_limit(run: Run, server: Server) -> None:
    server.answer(JOBS, collection(job(), cursor="next"))
    result = run("retrohunt", "list", "--status", "running", "--limit", "1")
    assert (result.code, len(result.stdout.splitlines()), len(server.seen)) == (0, 1, 1)
    assert dict(server.seen[0].query) == {"filter": "status:running", "limit": "1"}
    assert ("there is more" in result.last_line, "complete" in result.last_line) == (True, False)
    server.answer(JOBS, collection(job()))
    assert run("retrohunt", "list", "--limit", "1").last_line.endswith("complete")


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2])
def test_list_survives_a_failure_at_any_request(run: Run, server: Server, fault: str, number: int) -> None:
    server.answer(JOBS, collection(job(), cursor="next"), collection(job("aborted", "other-1")))
    server.fail(number, TRANSIENT[fault])
    result = run("retrohunt", "list")
    assert (result.code, len(result.stdout.splitlines()), len(server.seen)) == (0, 2, 3)


def test_no_jobs_is_a_result(run: Run, server: Server) -> None:
    server.answer(JOBS, collection())
    result = run("retrohunt", "list")
    assert (result.code, result.stdout, result.last_line) == (0, "", "0 jobs, 1 request, complete")


# ---- matches


def three_pages(server: Server) -> None:
    path = f"{JOBS}/{JOB}/matching_files"
    server.answer(
        path,
        collection(match(1), match(1, "two"), cursor="b"),
        collection(match(2), cursor="c"),
        collection(match(3)),
    )


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 3, 4])
def test_matches_are_all_there_whichever_request_fails(run: Run, server: Server, fault: str, number: int) -> None:
    answer_job(server, job("finished"))
    three_pages(server)
    server.fail(number, TRANSIENT[fault])
    result = run("retrohunt", "matches", JOB, "--limit", "0")
    assert (result.code, result.objects) == (0, [match(1), match(1, "two"), match(2), match(3)])
    assert len(server.seen) == 5
    assert all("limit=300" in path for path in server.paths if "matching_files" in path)


def test_a_hundred_matches_are_the_default(run: Run, server: Server) -> None:
    answer_job(server, job("finished"))
    server.answer(f"{JOBS}/{JOB}/matching_files", collection(*map(match, range(100)), cursor="more"))
    result = run("retrohunt", "matches", JOB)
    assert (result.code, len(result.objects), len(server.seen)) == (0, 100, 2)
    assert "--cursor more" in result.last_line


@pytest.mark.parametrize("status", ["starting", "running", "aborting", "aborted"])
@pytest.mark.parametrize("found", [[], [match(1)]])
def test_matches_of_a_job_that_has_not_finished_are_incomplete(
    run: Run, server: Server, status: str, found: list[dict[str, Any]]
) -> None:
    answer_job(server, job(status, progress=45))
    server.answer(f"{JOBS}/{JOB}/matching_files", collection(*found))
    result = run("retrohunt", "matches", JOB)
    assert (result.code, result.objects) == (3, found)
    assert result.last_line.startswith("INCOMPLETE: ")
    assert f"{status} 45.0 %" in result.last_line


def test_no_matches_is_a_result(run: Run, server: Server) -> None:
    answer_job(server, job("finished"))
    server.answer(f"{JOBS}/{JOB}/matching_files", collection())
    result = run("retrohunt", "matches", JOB)
    assert (result.code, result.stdout, result.last_line) == (0, "", "0 matches, 2 requests, complete")


@pytest.mark.parametrize(("status", "code"), [(503, 3), (429, 4)])
def test_matches_before_an_error_are_kept_and_resumed(run: Run, server: Server, status: int, code: int) -> None:
    answer_job(server, job("finished"))
    path = f"{JOBS}/{JOB}/matching_files"
    server.answer(path, collection(match(1), cursor="next"), error(status, "QuotaExceededError"))
    result = run("retrohunt", "matches", JOB, "-o", "m.jsonl", VT_MAX_WAIT="0.05")
    assert (result.code, "--cursor next" in result.last_line) == (code, True)
    server.answer(path, collection(match(2)))
    assert run("retrohunt", "matches", JOB, "-o", "m.jsonl").code == 2  # the file exists
    assert run("retrohunt", "matches", JOB, "-o", "m.jsonl", "--cursor", "next").code == 0
    assert [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()] == [match(1), match(2)]


def test_an_unknown_job_leaves_no_file(run: Run) -> None:
    assert run("retrohunt", "matches", "nobodys-1", "-o", "m.jsonl").code == 1
    assert not Path("m.jsonl").exists()


def test_a_notebook_iterates_over_the_matches(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_HOST", server.url)
    answer_job(server, job("finished"))
    three_pages(server)

    async def notebook() -> list[str]:
        return [item["id"] async for item in load("retrohunt").matches(JOB, limit=3, apikey=KEY)]

    assert asyncio.run(notebook()) == [match(n)["id"] for n in (1, 1, 2)]


# ---- abort and delete


def test_abort_says_how_the_job_is_afterwards(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}/abort", {"data": job("aborting")})
    answer_job(server, job("aborting", progress=41, num_matches=7))
    result = run("retrohunt", "abort", JOB)
    assert (result.code, server.paths) == (0, [f"POST {JOBS}/{JOB}/abort", f"GET {JOBS}/{JOB}"])
    assert "aborting 41.0 %, 7 matches" in result.last_line


@pytest.mark.parametrize("command", ["abort", "delete"])
@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 1), (429, 4)])
def test_a_refused_abort_or_delete_is_one_line(run: Run, server: Server, command: str, status: int, code: int) -> None:
    server.answer(f"{JOBS}/{JOB}*", error(status, "BadRequestError", "it is running"))
    result = run("retrohunt", command, JOB, VT_MAX_WAIT="0.01")
    assert (result.code, result.last_line.startswith("error: BadRequestError: it is running")) == (code, True)


@pytest.mark.parametrize("fault", [None, *TRANSIENT])
def test_delete_deletes(run: Run, server: Server, fault: str | None) -> None:
    async def empty(request: web.Request) -> web.Response:
        return web.Response()

    server.answer(f"{JOBS}/{JOB}", empty)
    if fault:
        server.fail(1, TRANSIENT[fault])
    assert run("retrohunt", "delete", JOB).code == 0
    assert set(server.paths) == {f"DELETE {JOBS}/{JOB}"}


# ---- Help and real answers


@pytest.mark.parametrize("command", ["start", "list", "watch", "matches", "abort", "delete"])
def test_each_command_has_help(run: Run, server: Server, command: str) -> None:
    result = run("retrohunt", command, "-h")
    assert (result.code, "--apikey" in result.stdout, server.seen) == (0, True, [])


def test_without_a_command_the_help_names_them(run: Run) -> None:
    result = run("retrohunt", "-h")
    assert all(name in result.stdout for name in ("start", "list", "watch", "matches", "abort", "delete"))
    assert run("retrohunt").code == 2


@pytest.mark.skipif("VT_EXTRA_RECORDINGS" not in os.environ, reason="VT_EXTRA_RECORDINGS names no folder")
def test_real_jobs_are_listed(run: Run, server: Server) -> None:
    paths = Path(os.environ["VT_EXTRA_RECORDINGS"], "retrohunt_job").glob("*.json")
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    server.answer(JOBS, collection(*jobs))
    lines = run("retrohunt", "list").stdout.splitlines()
    assert jobs
    assert [line.split()[0] for line in lines] == [each["id"] for each in jobs]
    assert all(line.endswith("foobar") for line in lines)
