"""retrohunt.py: rules checked here, a job never started twice, a watch that Ctrl-C leaves, every match of each rule."""

from __future__ import annotations

import asyncio
import csv
import email.utils
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import retrohunt
from aiohttp import web
from conftest import KEY, RECORDINGS, SCRIPTS, Handler, Run, Server, environment, error, html, reset, silence, truncated

JOBS = "/intelligence/retrohunt_jobs"
JOB = "analyst-1763802000"
RULE = 'rule one { strings: $a = "a string of its own" condition: $a }'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A file with one good rule."""
    path = tmp_path / "one.yar"
    path.write_text(RULE)
    return path


def job(status: str = "running", job_id: str = JOB, **attributes: Any) -> dict[str, Any]:
    """A job as VirusTotal has it, created now."""
    about = {"status": status, "creation_date": int(time.time()), "corpus": "main", "rules": RULE}
    return {"type": "retrohunt_job", "id": job_id, "attributes": about | attributes}


def match(number: int, rule: str = "one", **more: Any) -> dict[str, Any]:
    """A matching file."""
    attributes = {"meaningful_name": f"file-{number}.exe", "size": number, "first_submission_date": 1763802000}
    context = {"rule_name": rule, "match_in_subfile": False}
    return {"type": "file", "id": f"{number:064x}", "attributes": attributes, "context_attributes": context} | more


def carried_out(server: Server, answer: Handler, **attributes: Any) -> None:
    """A server that starts a job, lists it from then on, and loses its answer as `answer` does."""
    jobs: list[dict[str, Any]] = [job("finished", "old-1", creation_date=1600000000)]

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": jobs})
        jobs.insert(0, job("starting", **(await request.json())["data"]["attributes"] | attributes))
        return await answer(request)

    server.answer(JOBS, handle)


def posts(server: Server) -> int:
    return sum(path.startswith("POST") for path in server.paths)


# start: the rules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rule a { condition: }", "error[E001]: syntax error"),
        ("rule a { condition: x }", " --> bad.yar:1:21"),
        ("rule a { condition: x }", "|                     ^ this identifier has not been declared"),
        ("rule a { condition: filesize > 0 }\nrule a { condition: filesize > 1 }", "duplicate rule `a`"),
        ("rule a { condition: nowhere.b }", "unknown identifier `nowhere`"),
        ('include "other.yar"', "VirusTotal cannot see the files that a rule includes"),
        ("// no rule", "0 rules, where a job takes 1 to 300"),
        ('import "vt" rule a {condition: vt.x} rule a {condition: filesize > 1}', "two rules called a"),
    ],
)
def test_rules_that_do_not_compile_are_shown_with_their_place_and_nothing_is_sent(
    run: Run, server: Server, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "bad.yar").write_text(text)
    result = run("retrohunt", "start", "bad.yar", server=server)
    assert (result.returncode, result.stdout, server.paths) == (2, "", [])
    assert said in result.stderr


def test_a_rule_name_used_in_two_files_is_an_error_that_names_both(run: Run, server: Server, tmp_path: Path) -> None:
    for name in ("a.yar", "b.yar"):
        (tmp_path / name).write_text(RULE)
    result = run("retrohunt", "start", "a.yar", "b.yar", server=server)
    assert result.returncode == 2
    assert "b.yar:1:6" in result.stderr
    assert "a.yar:1:6" in result.stderr
    assert server.paths == []


@pytest.mark.parametrize(
    ("count", "code", "said"),
    [(300, 0, "300 rules, one job starting"), (301, 2, "301 rules, where a job takes 1 to 300")],
)
def test_a_job_takes_300_rules_counted_over_all_files(
    run: Run, server: Server, tmp_path: Path, count: int, code: int, said: str
) -> None:
    server.answer(JOBS, {"data": job("starting")})
    some = [f"private rule r{i} {{ condition: filesize == {i} }}\n" for i in range(count)]
    (tmp_path / "a.yar").write_text("".join(some[:150]))
    (tmp_path / "b.yar").write_text("".join(some[150:]))
    result = run("retrohunt", "start", "a.yar", "b.yar", server=server)
    assert (result.returncode, posts(server)) == (code, int(code == 0))
    assert said in result.stderr


def test_warnings_are_shown_and_do_not_stop_the_job(run: Run, server: Server, tmp_path: Path) -> None:
    server.answer(JOBS, {"data": job("starting")})
    (tmp_path / "slow.yar").write_text("rule slow { strings: $a = {00 00} condition: $a }")
    result = run("retrohunt", "start", "slow.yar", server=server)
    assert (result.returncode, result.stdout) == (0, f"{JOB}\n")
    assert "warning[slow_pattern]" in result.stderr
    assert "slow.yar:1:27" in result.stderr


def test_rules_with_virustotals_own_module_are_left_to_virustotal_and_said_to_be(
    run: Run, server: Server, tmp_path: Path
) -> None:
    server.answer(JOBS, {"data": job("starting")})
    text = f'import "vt"\nrule theirs {{ condition: vt.metadata.analysis_stats.malicious > 5 }}\n{RULE}'
    (tmp_path / "vt.yar").write_text(text)
    result = run("retrohunt", "start", "vt.yar", server=server)
    assert result.returncode == 0
    assert "not compiled here, as modules vt and magic are VirusTotal's own: theirs\n" in result.stderr
    assert "2 rules" in result.stderr


def test_files_become_one_ruleset_whose_text_is_sent_as_it_stands(run: Run, server: Server, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    async def handle(request: web.Request) -> web.Response:
        sent.append(await request.json())
        return web.json_response({"data": job("starting")})

    server.answer(JOBS, handle)
    (tmp_path / "bom.yar").write_bytes(b'\xef\xbb\xbfrule bom { strings: $a = "na\xc3\xafve text" condition: $a }\r\n')
    where, whom = ("--corpus", "goodware"), ("--email", "me@example.com")
    when = ("--since", "2026-10-01", "--until", "2026-11-01T12:00+02:00")
    result = run(
        "retrohunt", "start", "bom.yar", "-", *where, *whom, *when, server=server, stdin="rule two { condition: bom }"
    )
    assert result.returncode == 0, result.stderr
    assert sent[0]["data"] == {
        "type": "retrohunt_job",
        "attributes": {
            "rules": 'rule bom { strings: $a = "naïve text" condition: $a }\r\n\nrule two { condition: bom }',
            "corpus": "goodware",
            "notification_email": "me@example.com",
            "time_range": {"start": 1790812800, "end": 1793527200},
        },
    }


def test_control_characters_in_rules_and_file_names_do_not_reach_the_terminal(
    run: Run, server: Server, tmp_path: Path
) -> None:
    name = "a.yar" if os.name == "nt" else "a\x1b[31m.yar"
    (tmp_path / name).write_text("rule a { condition:\n x /* \x1b[31m \u202e \x07 */ }", encoding="utf-8")
    result = run("retrohunt", "start", name, server=server)
    assert result.returncode == 2
    assert not {"\x1b", "\u202e", "\x07"} & set(result.stderr)


@pytest.mark.parametrize("end", ["\u2028", "\x85"])
def test_a_strangers_rules_begin_no_line_of_their_own_on_stderr(
    run: Run, server: Server, tmp_path: Path, end: str
) -> None:
    text = f"rule a {{ condition: nowhere /* {end}1 rule, one job running, 1 request, complete */ }}"
    (tmp_path / "a.yar").write_text(text, encoding="utf-8")
    result = run("retrohunt", "start", "a.yar", server=server)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert any("one job running" in line for line in lines)
    assert not any(line.startswith("1 rule") for line in lines)


@pytest.mark.parametrize("name", ["none.yar", ".", "latin.yar"])
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_sent(
    run: Run, server: Server, tmp_path: Path, name: str
) -> None:
    (tmp_path / "latin.yar").write_bytes(b"// caf\xe9\n" + RULE.encode())
    result = run("retrohunt", "start", name, server=server)
    assert (result.returncode, server.paths) == (2, [])
    assert result.stderr.startswith(f"error: {name}: ")


# start: the time range


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "yesterday"], "--since yesterday: a date"),
        (["--since", "2026-13-01"], "--since 2026-13-01: a date"),
        (["--since", "0001-01-01T00:00+14:00"], "--since 0001-01-01T00:00+14:00: a date"),
        (["--since", "1d", "--until", "99999x"], "--until 99999x: a date"),
        (["--since", "1h", "--until", "2h"], "is not before"),
        (["--since", "2999-01-01"], "in the future"),
        (["--since", "1d", "--until", "2999-01-01"], "in the future"),
        (["--corpus", "evil"], "--corpus"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_before_any_request(
    run: Run, server: Server, rules: Path, options: list[str], said: str
) -> None:
    result = run("retrohunt", "start", rules, *options, server=server)
    assert (result.returncode, result.stdout, server.paths) == (2, "", [])
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_more_than_90_days_is_virustotals_to_allow(run: Run, server: Server, rules: Path) -> None:
    server.answer(JOBS, error(400, "InvalidArgumentError", "time range exceeds your Retrohunt privileges"))
    result = run("retrohunt", "start", rules, "--since", "200d", server=server)
    assert result.returncode == 2
    assert "more than 90 days back takes a higher privilege" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: InvalidArgumentError: time range exceeds")


# start: one request, one job


@pytest.mark.parametrize("loss", [reset, truncated, html(502), html(503), error(500, "InternalError"), html(200)])
def test_a_job_whose_answer_is_lost_is_found_in_the_list_and_not_started_again(
    run: Run, server: Server, rules: Path, loss: Handler
) -> None:
    carried_out(server, loss)
    result = run("retrohunt", "start", rules, "--since", "30d", server=server)
    assert (result.returncode, result.stdout) == (0, f"{JOB}\n"), result.stderr
    assert f"found: the job runs as {JOB}" in result.stderr
    assert posts(server) == 1


def test_a_job_whose_answer_never_comes_is_found_in_the_list(run: Run, server: Server, rules: Path) -> None:
    carried_out(server, silence)
    result = run("retrohunt", "start", rules, server=server, VT_MAX_WAIT="2")
    assert (result.returncode, result.stdout) == (0, f"{JOB}\n"), result.stderr
    assert posts(server) == 1


def test_a_lost_job_is_found_whatever_the_clock_here_says(run: Run, server: Server, rules: Path) -> None:
    earlier = time.time() - 5 * 3600
    jobs: list[dict[str, Any]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            jobs.append(job("starting", creation_date=int(earlier)))
            return await reset(request)
        return web.json_response({"data": jobs}, headers={"Date": email.utils.formatdate(earlier, usegmt=True)})

    server.answer(JOBS, handle)
    result = run("retrohunt", "start", rules, server=server)
    assert (result.returncode, result.stdout) == (0, f"{JOB}\n"), result.stderr


@pytest.mark.parametrize(
    "other",
    [
        {"creation_date": 1600000000},
        {"rules": RULE + " // and more"},
        {"corpus": "goodware"},
        {"time_range": {"start": 1, "end": 2}},
        {"rules": None},
    ],
)
def test_another_job_is_not_taken_for_the_lost_one(
    run: Run, server: Server, rules: Path, other: dict[str, Any]
) -> None:
    carried_out(server, reset, **other)
    result = run("retrohunt", "start", rules, "--since", "30d", server=server, VT_MAX_WAIT="1")
    assert (result.returncode, result.stdout, posts(server)) == (1, "", 1)
    assert "it is not in the job list" in result.stderr


def test_a_job_that_was_not_started_is_said_so_after_several_looks(run: Run, server: Server, rules: Path) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await reset(request) if request.method == "POST" else web.json_response({"data": []})

    server.answer(JOBS, handle)
    result = run("retrohunt", "start", rules, server=server)
    assert (result.returncode, result.stdout, posts(server)) == (1, "", 1)
    assert server.paths.count(f"GET {JOBS}?limit=40") > 1
    last = result.stderr.splitlines()[-1]
    assert "it is not in the job list" in last
    assert "retrohunt.py list` before you start it again" in last


def test_a_job_that_appears_late_and_on_a_later_page_is_found(run: Run, server: Server, rules: Path) -> None:
    looks = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal looks
        if request.method == "POST":
            return await reset(request)
        if "cursor" in request.query:
            looks += 1
            return web.json_response({"data": [job("starting")] if looks > 1 else []})
        return web.json_response({"data": [job("finished", "old-1", creation_date=1)], "meta": {"cursor": "c"}})

    server.answer(JOBS, handle)
    result = run("retrohunt", "start", rules, server=server, VT_MAX_WAIT="10")
    assert (result.returncode, result.stdout, posts(server)) == (0, f"{JOB}\n", 1), result.stderr


def test_when_the_list_cannot_be_had_either_nobody_claims_to_know(run: Run, server: Server, rules: Path) -> None:
    server.answer(JOBS, html(502))
    result = run("retrohunt", "start", rules, server=server, VT_MAX_WAIT="1")
    assert (result.returncode, result.stdout, posts(server)) == (1, "", 1)
    assert "nor could the list be had" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (error(409, "AlreadyExistsError", "You have 10 jobs running"), 2, "You have 10 jobs running"),
        (error(400, "BadRequestError", "line 1: \x1b[31mslow"), 2, "slow"),
        (error(403, "ForbiddenError", "You are not authorized"), 2, "You are not authorized"),
        (error(429, "QuotaExceededError", "Quota exceeded"), 4, "Quota exceeded"),
    ],
)
def test_what_virustotal_refuses_it_says_and_no_job_is_looked_for(
    run: Run, server: Server, rules: Path, answer: Handler, code: int, said: str
) -> None:
    server.answer(JOBS, answer)
    result = run("retrohunt", "start", rules, server=server, VT_MAX_WAIT="1")
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr.splitlines()[-1]
    assert "\x1b" not in result.stderr
    assert not any(path.startswith("GET") for path in server.paths)


def test_a_minute_quota_heals_and_the_post_is_sent_again(run: Run, server: Server, rules: Path) -> None:
    wait = {"Retry-After": "0"}
    server.answer(JOBS, error(429, "QuotaExceededError", **wait), {"data": job("starting")})
    result = run("retrohunt", "start", rules, server=server)
    assert (result.returncode, result.stdout, posts(server)) == (0, f"{JOB}\n", 2)


def test_without_a_key_start_names_the_places_it_looked_at(run: Run, rules: Path) -> None:
    result = run("retrohunt", "start", rules)
    assert result.returncode == 2
    assert "VT_API_KEY" in result.stderr


# watch


def test_watch_follows_a_job_to_its_end_and_says_how_to_get_the_matches(run: Run, server: Server) -> None:
    new = job("starting", num_matches=None, progress=None, eta_seconds=1)
    running = job("running", progress=45.25, num_matches=1, eta_seconds=3)
    finished = job("finished", progress=100, num_matches=2, num_matches_outside_time_range=556)
    server.answer(f"{JOBS}/{JOB}", {"data": new}, error(503, "TransientError"), {"data": running}, {"data": finished})
    result = run("retrohunt", "watch", JOB, server=server)
    assert (result.returncode, result.stdout) == (0, "")
    lines = [line for line in result.stderr.splitlines() if "asking again" not in line]
    assert lines[:2] == ["starting 0.0 %, 0 matches, 0:00:01 to the end", "running 45.2 %, 1 match, 0:00:03 to the end"]
    assert lines[2] == "finished, 2 matches and 556 outside the time range"
    assert lines[3].endswith(f"retrohunt.py matches {JOB} --limit 0 --output matches.csv")
    assert lines[4] == f"job {JOB}: {lines[2]}, 4 requests, complete"


def test_start_with_watch_prints_the_id_and_follows(run: Run, server: Server, rules: Path) -> None:
    server.answer(JOBS, {"data": job("starting")})
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished", num_matches=0)})
    result = run("retrohunt", "start", rules, "--watch", server=server)
    assert (result.returncode, result.stdout) == (0, f"{JOB}\n")
    assert "finished, 0 matches, 2 requests, complete" in result.stderr


@pytest.mark.parametrize(
    "end", [job("aborted", progress=30), job("\x1b[31mfailed [bold]", finish_date=1763802000, progress="NaN")]
)
def test_a_job_that_does_not_finish_ends_the_watch_with_1(run: Run, server: Server, end: dict[str, Any]) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": end})
    result = run("retrohunt", "watch", JOB, server=server)
    assert result.returncode == 1
    assert f"job {JOB} did not finish: " in result.stderr
    assert "\x1b" not in result.stderr


def test_a_watch_that_loses_virustotal_says_that_the_job_goes_on(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("running", eta_seconds=1)}, html(502))
    result = run("retrohunt", "watch", JOB, server=server, VT_MAX_WAIT="1")
    assert result.returncode == 3
    assert "the job itself goes on at VirusTotal" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("INCOMPLETE")


@pytest.mark.parametrize("answer", [{"data": None}, {"data": []}, {"data": {"type": "retrohunt_job"}}])
def test_an_answer_without_a_job_is_an_error_in_one_line(run: Run, server: Server, answer: dict[str, Any]) -> None:
    server.answer(f"{JOBS}/{JOB}", answer)
    result = run("retrohunt", "watch", JOB, server=server)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "no job came" in result.stderr


def test_a_job_that_is_not_there_is_said_so(run: Run, server: Server) -> None:
    result = run("retrohunt", "watch", "../users/me", server=server)
    assert result.returncode == 1
    assert server.paths == [f"GET {JOBS}/..%2Fusers%2Fme"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_job_running_and_says_so(server: Server, tmp_path: Path, number: int) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("running", progress=5, eta_seconds=9000)})
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "retrohunt.py", "watch", JOB],
        env=environment(tmp_path, server),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    first = process.stderr.readline()
    process.send_signal(number)
    out, rest = process.communicate(timeout=30)
    assert (process.returncode, out, first) == (130, "", "running 5.0 %, 0 matches, 2:30:00 to the end\n")
    assert "the job itself goes on at VirusTotal" in rest
    assert rest.splitlines()[-1].endswith("1 request; interrupted")
    assert server.paths == [f"GET {JOBS}/{JOB}"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_a_job_is_being_started_warns_that_it_may_run(server: Server, tmp_path: Path, rules: Path) -> None:
    server.answer(JOBS, silence)
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "retrohunt.py", "start", rules],
        env=environment(tmp_path, server, VT_MAX_WAIT="60"),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not server.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: the job may run nevertheless" in said


@pytest.mark.parametrize("date", ["Mon, 01 Jan 99999 00:00:00 GMT", "1 Jan 99999999999999999999 0:0", "yesterday"])
def test_a_lost_job_is_found_though_the_server_tells_no_time(run: Run, server: Server, rules: Path, date: str) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return await reset(request)
        return web.json_response({"data": [job("starting")]}, headers={"Date": date})

    server.answer(JOBS, handle)
    result = run("retrohunt", "start", rules, server=server)
    assert (result.returncode, result.stdout) == (0, f"{JOB}\n"), result.stderr


def test_a_job_list_without_end_is_given_up(run: Run, server: Server, rules: Path) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return await reset(request)
        start = int(request.query.get("cursor", 0))
        old = [job("finished", f"old-{start + i}", creation_date=1) for i in range(40)]
        return web.json_response({"data": old, "meta": {"cursor": str(start + 40)}})

    server.answer(JOBS, handle)
    result = run("retrohunt", "start", rules, server=server, VT_MAX_WAIT="1")
    assert (result.returncode, posts(server)) == (1, 1)
    assert "it is not in the job list" in result.stderr
    assert f"GET {JOBS}?limit=40&cursor={retrohunt.MOST_JOBS}" not in server.paths


# list


def test_list_shows_every_job_of_every_page_on_a_line(run: Run, server: Server) -> None:
    hostile = job("\x1b[2J", "a\nb", creation_date=10**14, progress=float("nan"), num_matches="many", rules=17)
    ruleset = "rule a{} private rule b : t {}\nglobal  private rule c\n{}\nrule d {}\n// rule no {}\nrule e {}"
    page = {"data": [hostile, job(creation_date=1763802000, rules=ruleset)], "meta": {"cursor": "next"}}
    server.answer(JOBS, page, {"data": [job("aborted", "other-1"), {"type": "retrohunt_job", "id": "bare"}]})
    result = run("retrohunt", "list", server=server)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [r"a\nb", JOB, "other-1", "bare"]
    assert " ".join(lines[1].split()) == f"{JOB} running 0.0 % 0 matches 2025-11-22T09:00:00Z main a, c, d and 1 more"
    assert result.stderr == "4 jobs, 2 requests, complete\n"
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("filling", ["\n", "\t\n", " ", "private ", "rule "])
def test_a_strangers_rules_of_a_megabyte_do_not_hold_the_list_up(run: Run, server: Server, filling: str) -> None:
    server.answer(JOBS, {"data": [job(rules="rule first {}\n" + filling * (1_000_000 // len(filling)) + "{}")]})
    result = run("retrohunt", "list", server=server)  # a quadratic search would take an hour
    assert result.returncode == 0
    assert "main  first" in result.stdout


def test_list_takes_a_status_and_a_limit(run: Run, server: Server) -> None:
    server.answer(JOBS, {"data": [job()], "meta": {"cursor": "next"}})
    result = run("retrohunt", "list", "--status", "running", "--limit", 1, server=server)
    assert server.paths == [f"GET {JOBS}?filter=status:running&limit=1"]
    assert "go on with --cursor next" in result.stderr


def test_no_jobs_is_a_result(run: Run, server: Server) -> None:
    server.answer(JOBS, {"data": []})
    result = run("retrohunt", "list", server=server)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "0 jobs, 1 request, complete\n")


def test_jobs_that_came_before_a_fault_stay_listed(run: Run, server: Server) -> None:
    server.answer(JOBS, {"data": [job()], "meta": {"cursor": "next"}}, html(502))
    result = run("retrohunt", "list", server=server, VT_MAX_WAIT="1")
    assert (result.returncode, len(result.stdout.splitlines())) == (3, 1)
    assert "go on with --cursor next" in result.stderr


# matches


def test_matches_come_300_a_request_and_once_for_each_rule(run: Run, server: Server, tmp_path: Path) -> None:
    async def page(request: web.Request) -> web.Response:
        start, limit = int(request.query.get("cursor", 0)), int(request.query["limit"])
        every = [match(number, rule) for number in range(200) for rule in ("one", "two")]
        meta = {"cursor": str(start + limit)} if start + limit < len(every) else {}
        return web.json_response({"data": every[start : start + limit], "meta": meta})

    server.answer(f"{JOBS}/{JOB}", {"data": job("finished", num_matches=400)})
    server.answer(f"{JOBS}/{JOB}/matching_files", page)
    result = run("retrohunt", "matches", JOB, "--limit", 0, "--output", "m.csv", server=server)
    assert (result.returncode, result.stdout) == (0, "")
    rows = list(csv.DictReader((tmp_path / "m.csv").open(encoding="utf-8")))
    assert list(rows[0])[:3] == ["id", "rule_name", "type"]
    assert sorted((int(row["id"], 16), row["rule_name"]) for row in rows) == [
        (number, rule) for number in range(200) for rule in ("one", "two")
    ]
    assert f"400 matches of job {JOB} (finished, 400 matches), 3 requests, complete" in result.stderr


def test_the_terminal_gets_the_telling_columns_and_a_count_for_each_rule(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished")})
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": [match(1), match(2), match(3, "[red]two\x1b[31m")]})
    result = run("retrohunt", "matches", JOB, server=server)
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].split()[:3] == ["id", "rule_name", "meaningful_name"]
    assert result.stdout.splitlines()[-2:] == ["one: 2", r"[red]two\x1b[31m: 1"]
    assert "\x1b" not in result.stdout


def test_no_attribute_takes_the_place_of_the_rules_name(run: Run, server: Server) -> None:
    many = {f"a{number:04}": number for number in range(2_000)}
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished")})
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": [match(1, attributes={"rule_name": "evil"} | many)]})
    result = run("retrohunt", "matches", JOB, "--format", "jsonl", server=server)
    assert result.returncode == 0
    assert json.loads(result.stdout)["rule_name"] == "one"
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": [match(1, attributes={"rule_name": "evil"})]})
    result = run("retrohunt", "matches", JOB, "--format", "jsonl", server=server)
    found = {"id": f"{1:064x}", "rule_name": "one", "type": "file", "attributes.rule_name": "evil"}
    assert json.loads(result.stdout) == found | {"context_attributes.match_in_subfile": False}


def test_chosen_columns_stand_after_the_rule(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished")})
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": [match(1), match(2, context_attributes=None)]})
    options = ("--column", "name=meaningful_name", "--column", "pe_info.imphash", "--format", "jsonl")
    result = run("retrohunt", "matches", JOB, *options, server=server)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows == [
        {"id": f"{1:064x}", "type": "file", "rule_name": "one", "name": "file-1.exe"},
        {"id": f"{2:064x}", "type": "file", "name": "file-2.exe"},
    ]


def test_a_running_job_gives_its_matches_so_far_and_that_is_said(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("running", progress=45)})
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": [match(1)]})
    result = run("retrohunt", "matches", JOB, "--format", "csv", server=server)
    assert (result.returncode, len(result.stdout.splitlines())) == (3, 2)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("INCOMPLETE: 1 match of job") and last.endswith(
        "NotFinished: the job goes on, and these are its matches so far"
    )


def test_a_notebook_awaits_the_matches_as_a_dataframe(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_HOST", server.url)
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished")}, {"data": job("running")})
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": [match(1), match(1, "two")]})

    async def notebook() -> list[pd.DataFrame]:
        whole = await retrohunt.retrohunt_to_dataframe(JOB, apikey=KEY)
        return [whole, await retrohunt.retrohunt_to_dataframe(JOB, column=["size"], apikey=KEY)]

    whole, so_far = asyncio.run(notebook())
    assert list(whole["rule_name"]) == ["one", "two"]
    assert whole.attrs == {"cursor": None, "incomplete": None}
    assert list(so_far.columns) == ["id", "type", "rule_name", "size"]
    assert so_far.attrs["incomplete"].startswith("NotFinished")


@pytest.mark.parametrize("form", ["table", "csv", "jsonl", "markdown"])
def test_no_matches_is_a_result_and_those_outside_the_time_range_are_said(run: Run, server: Server, form: str) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished", num_matches=0, num_matches_outside_time_range=556)})
    server.answer(f"{JOBS}/{JOB}/matching_files", {"data": []})
    result = run("retrohunt", "matches", JOB, "--format", form, server=server)
    assert result.returncode == 0
    assert "0 matches and 556 outside the time range" in result.stderr
    heads = {"csv": "id,rule_name,type\n", "markdown": "| id   | rule"}
    assert result.stdout.startswith(heads.get(form, ""))
    assert bool(result.stdout) == (form in heads)


@pytest.mark.parametrize(
    ("fault", "code"), [(html(502), 3), (error(429, "QuotaExceededError"), 4), (error(400, "InvalidArgumentError"), 3)]
)
def test_matches_that_came_before_a_fault_are_written_with_the_way_to_go_on(
    run: Run, server: Server, tmp_path: Path, fault: Handler, code: int
) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished")})
    path = f"{JOBS}/{JOB}/matching_files"
    server.answer(path, {"data": [match(1)], "meta": {"cursor": "next"}}, fault)
    result = run("retrohunt", "matches", JOB, "--output", "m.jsonl", server=server, VT_MAX_WAIT="1")
    assert result.returncode == code
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 1
    assert "go on with --cursor next" in result.stderr
    server.answer(path, {"data": [match(2)]})
    result = run("retrohunt", "matches", JOB, "--output", "m.jsonl", "--cursor", "next", server=server)
    assert result.returncode == 2
    result = run("retrohunt", "matches", JOB, "--output", "n.jsonl", "--cursor", "next", server=server)
    assert (result.returncode, "cursor=next" in server.paths[-1]) == (0, True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_the_matches_that_came_and_says_how_to_go_on(server: Server, tmp_path: Path) -> None:
    server.answer(f"{JOBS}/{JOB}", {"data": job("finished")})
    path = f"{JOBS}/{JOB}/matching_files"
    server.answer(path, {"data": [match(1), match(2)], "meta": {"cursor": "next"}}, silence)
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "retrohunt.py", "matches", JOB, "--output", "m.jsonl"],
        env=environment(tmp_path, server, VT_MAX_WAIT="60"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(server.seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1].endswith("interrupted; go on with --cursor next")
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2


def test_a_terminal_sees_a_bar_and_no_escape_of_virustotals(server: Server, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    hostile = "running\x1b]0;owned\x07 [bold]"
    server.answer(f"{JOBS}/{JOB}", {"data": job(hostile, progress=50, eta_seconds=1)}, {"data": job("finished")})
    ours, theirs = pty.openpty()
    env = environment(tmp_path, server, TERM="xterm", COLUMNS="100")
    command = [sys.executable, SCRIPTS / "retrohunt.py", "watch", JOB]
    process = subprocess.Popen(command, env=env, stderr=theirs, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says so when the last writer has gone
        pass
    os.close(ours)
    assert process.wait(30) == 0
    assert "━" in shown.decode()
    assert r"running\x1b]0;owned\x07 [bold] 50.0 %" in shown.decode()
    assert b"\x1b]0;" not in shown


def test_what_would_fail_after_the_quota_is_spent_fails_before(run: Run, server: Server) -> None:
    for options in (["--output", "x.doc"], ["--column", "a["], ["--output", "nowhere/x.csv"], ["--limit", "-1"]):
        assert run("retrohunt", "matches", JOB, *options, server=server).returncode == 2
    assert server.paths == []


# abort, delete


def test_abort_says_how_the_job_is_afterwards(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}/abort", {"data": job("aborting")})
    server.answer(f"{JOBS}/{JOB}", {"data": job("aborting", progress=41, num_matches=7)})
    result = run("retrohunt", "abort", JOB, server=server)
    assert result.returncode == 0
    assert f"job {JOB}: aborting 41.0 %, 7 matches, 2 requests, complete" in result.stderr


@pytest.mark.parametrize(
    ("status", "code"), [("aborting", 0), ("aborted", 0), ("running", 2)], ids=["aborting", "aborted", "running"]
)
def test_an_abort_whose_answer_was_lost_is_asked_again_and_the_job_tells(
    run: Run, server: Server, status: str, code: int
) -> None:
    server.answer(f"{JOBS}/{JOB}/abort", reset, error(400, "BadRequestError", "cannot abort"))
    server.answer(f"{JOBS}/{JOB}", {"data": job(status)})
    assert run("retrohunt", "abort", JOB, server=server).returncode == code


def test_virustotal_says_why_a_job_cannot_be_aborted_or_deleted(run: Run, server: Server) -> None:
    server.answer(f"{JOBS}/{JOB}/abort", error(400, "BadRequestError", "it has finished"))
    server.answer(f"{JOBS}/{JOB}", error(400, "BadRequestError", "it is running"))
    for name, said in (("abort", "it has finished"), ("delete", "it is running")):
        result = run("retrohunt", name, JOB, server=server)
        assert (result.returncode, result.stderr) == (2, f"error: BadRequestError: {said}\n")
    assert len(server.paths) == 2


def test_delete_deletes(run: Run, server: Server) -> None:
    async def empty(request: web.Request) -> web.Response:
        return web.Response(status=200)

    server.answer(f"{JOBS}/{JOB}", empty)
    result = run("retrohunt", "delete", JOB, server=server)
    assert (result.returncode, result.stderr) == (0, f"job {JOB} deleted, 1 request, complete\n")
    assert server.paths == [f"DELETE {JOBS}/{JOB}"]


@pytest.mark.parametrize(
    ("first", "code"),
    [(reset, 0), (html(502), 0), (error(429, "QuotaExceededError", **{"Retry-After": "0"}), 1)],
    ids=["reset", "502", "429"],
)
def test_a_404_is_success_only_after_a_delete_whose_answer_was_lost(
    run: Run, server: Server, first: Handler, code: int
) -> None:
    server.answer(f"{JOBS}/{JOB}", first, error(404, "NotFoundError"))
    assert run("retrohunt", "delete", JOB, server=server).returncode == code


def test_a_job_that_is_not_there_cannot_be_deleted(run: Run, server: Server) -> None:
    result = run("retrohunt", "delete", JOB, server=server)
    assert result.returncode == 1
    assert "NotFoundError" in result.stderr


# Recordings, help


def test_a_hunt_runs_from_start_to_matches_against_the_recordings(run: Run, rules: Path) -> None:
    def replayed(*args: object) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, SCRIPTS / "retrohunt.py", *args)
        return run("replay", "--recordings", RECORDINGS, *command)

    started = replayed("start", rules, "--since", "30d", "--watch")
    assert (started.returncode, started.stdout) == (0, "analyst-1763809200\n"), started.stderr
    listed = replayed("list")
    assert JOB in listed.stdout
    found = replayed("matches", JOB, "--format", "jsonl")
    assert found.returncode == 0
    assert {"rule_name", "id"} <= set(json.loads(found.stdout.splitlines()[0]))
    aborted = replayed("abort", "analyst-1763805600")
    assert (aborted.returncode, "aborting" in aborted.stderr) == (0, True)
    assert replayed("delete", JOB).returncode == 0
    refused = replayed("delete", "analyst-1763805600")
    assert (refused.returncode, "running" in refused.stderr) == (2, True)


@pytest.mark.parametrize("name", ["start", "list", "watch", "matches", "abort", "delete"])
def test_each_command_has_help_with_an_example(run: Run, name: str) -> None:
    result = run("retrohunt", name, "--help")
    assert result.returncode == 0
    assert f"uv run scripts/retrohunt.py {name}" in result.stdout


@pytest.mark.skipif("VT_EXTRA_RECORDINGS" not in os.environ, reason="no folder of real answers is named")
def test_real_jobs_are_read() -> None:
    real_jobs = list(Path(os.environ["VT_EXTRA_RECORDINGS"], "retrohunt_job").glob("*.json"))
    assert real_jobs
    for path in real_jobs:
        real = json.loads(path.read_text(encoding="utf-8"))
        real = retrohunt.as_job(real if "data" in real else {"data": real})
        assert retrohunt.listed(real).startswith(real["id"])
        assert "foobar" in retrohunt.listed(real)
        assert retrohunt.described(real).startswith(retrohunt.status(real))
