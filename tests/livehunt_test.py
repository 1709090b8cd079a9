"""livehunt: rulesets equal to a folder's files, in few requests, with no rule missing in between."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import SCRIPTS, TRANSIENT, Handler, Run, Server, collection, environment, error, html, reset, truncated

RULESETS = "/intelligence/hunting_rulesets"
HOSTILE = "\x1b]0;owned\x07\u202e\u2028"


def rule(name: str, text: str = "a string of its own") -> str:
    return f'rule {name} {{ strings: $a = "{text}" condition: $a }}\n'


class Livehunt:
    """The rulesets of an account: a VirusTotal that keeps what it is sent. `page` is the size of its pages."""

    def __init__(self, server: Server) -> None:
        self.rulesets: dict[str, dict[str, Any]] = {}
        self.server, self.page = server, 40
        self.lose: Handler | None = None  # carries out the next change, and loses its response in this way
        server.answer(f"{RULESETS}*", self.handle)

    def add(self, name: str, rules: str = rule("one"), **attributes: Any) -> str:
        """Add a ruleset and return its id."""
        ruleset_id = str(1000 + len(self.rulesets))
        common = {"name": name, "rules": rules, "enabled": True, "limit": 100, "notification_emails": []}
        dates = {"creation_date": 1763802000, "modification_date": 1763802000}
        counted = {"number_of_rules": len(re.findall(r"\brule ", rules))}
        self.rulesets[ruleset_id] = common | dates | counted | attributes
        return ruleset_id

    def object(self, ruleset_id: str) -> dict[str, Any]:
        return {"type": "hunting_ruleset", "id": ruleset_id, "attributes": self.rulesets[ruleset_id]}

    @property
    def rules(self) -> dict[str, str]:
        """The rules by ruleset name."""
        return {ruleset["name"]: ruleset["rules"] for ruleset in self.rulesets.values()}

    @property
    def changes(self) -> list[str]:
        """The requests that change something."""
        return [path for path in self.server.paths if not path.startswith("GET")]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ruleset_id = request.path.rpartition("/")[2]
        if request.method == "GET":
            start = int(request.query.get("cursor", 0))
            ids = list(self.rulesets)
            more = str(start + self.page) if start + self.page < len(ids) else None
            return web.json_response(collection(*map(self.object, ids[start : start + self.page]), cursor=more))
        if request.method == "DELETE":
            del self.rulesets[ruleset_id]
            return web.Response()
        attributes = (await request.json())["data"]["attributes"]
        if "refused" in attributes.get("rules", ""):
            return await error(400, "BadRequestError", "slow rule")(request)
        if request.method == "POST":
            ruleset_id = self.add(**attributes)
        self.rulesets[ruleset_id] |= attributes
        lose, self.lose = self.lose, None
        return await lose(request) if lose else web.json_response({"data": self.object(ruleset_id)})


@pytest.fixture
def livehunt(server: Server, run: Run) -> Livehunt:
    """An account without rulesets, and an empty folder `rules` where the script runs."""
    Path("rules").mkdir()
    return Livehunt(server)


def write(**files: str) -> None:
    for name, text in files.items():
        Path("rules", f"{name}.yar").write_text(text, encoding="utf-8")


# ---- sync


def test_sync_creates_updates_and_leaves_alone(run: Run, livehunt: Livehunt, server: Server) -> None:
    livehunt.add("same", rule("same"))
    changed = livehunt.add("changed", rule("old"), enabled=False, limit=7)
    livehunt.add("other", rule("other"))
    write(same=rule("same"), changed=rule("new"), created=rule("created"))
    result = run("livehunt", "sync", "rules")
    assert (result.code, sorted(result.stdout.split())) == (0, ["changed", "created", "created", "updated"])
    assert livehunt.changes == [f"PATCH {RULESETS}/{changed}", f"POST {RULESETS}"]
    assert livehunt.rules == {
        "same": rule("same"),
        "changed": rule("new"),
        "other": rule("other"),
        "created": rule("created"),
    }
    assert (livehunt.rulesets[changed]["enabled"], livehunt.rulesets[changed]["limit"]) == (False, 7)
    assert livehunt.rulesets["1003"]["enabled"] is True
    assert result.last_line == "1 created, 1 updated, 1 unchanged, 3 requests, complete"


def test_a_second_sync_sends_nothing(run: Run, livehunt: Livehunt, server: Server) -> None:
    write(a=rule("a"), b="\r\n" + rule("b").replace("\n", "\r\n"))
    options = ["--limit", "50", "--email", "a@example.com", "--email", "b@example.com"]
    assert run("livehunt", "sync", "rules", *options).code == 0
    for ruleset in livehunt.rulesets.values():  # as a server may store them
        ruleset["rules"] = ruleset["rules"].replace("\r\n", "\n").strip()
    server.seen.clear()
    result = run("livehunt", "sync", "rules", *options)
    assert (result.code, result.stdout, server.paths) == (0, "", [f"GET {RULESETS}?limit=40"])
    assert result.last_line == "0 created, 0 updated, 2 unchanged, 1 request, complete"


def test_settings_are_changed_only_by_their_options(run: Run, livehunt: Livehunt) -> None:
    ruleset_id = livehunt.add("a", rule("a"), notification_emails=["old@example.com"])
    write(a=rule("a"))
    run("livehunt", "sync", "rules", "--limit", "50")
    assert livehunt.rulesets[ruleset_id]["limit"] == 50
    assert livehunt.rulesets[ruleset_id]["notification_emails"] == ["old@example.com"]
    run("livehunt", "sync", "rules", "--email", "new@example.com")
    assert livehunt.rulesets[ruleset_id]["limit"] == 50
    assert livehunt.rulesets[ruleset_id]["notification_emails"] == ["new@example.com"]


def test_rulesets_on_every_page_are_known(run: Run, livehunt: Livehunt) -> None:
    livehunt.page = 3
    for number in range(10):
        livehunt.add(f"r{number}", rule(f"r{number}"))
    write(r9=rule("r9"))
    assert (run("livehunt", "sync", "rules").code, livehunt.changes) == (0, [])


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_failure_at_any_request_costs_at_most_a_rerun(
    run: Run, livehunt: Livehunt, server: Server, fault: str, number: int
) -> None:
    livehunt.page = 1
    livehunt.add("a", rule("old"))
    livehunt.add("b", rule("old"))
    write(a=rule("a"), b=rule("b"), c=rule("c"))  # two pages, two PATCH, one POST
    server.fail(number, TRANSIENT[fault])
    first = run("livehunt", "sync", "rules")
    assert first.code in (0, 1, 3)
    assert (first.code == 0) == (livehunt.rules == {"a": rule("a"), "b": rule("b"), "c": rule("c")})
    assert run("livehunt", "sync", "rules").code == 0
    assert livehunt.rules == {"a": rule("a"), "b": rule("b"), "c": rule("c")}
    assert len(livehunt.rulesets) == 3


@pytest.mark.parametrize("loss", [reset, truncated, html(502), error(504, "DeadlineExceededError")])
def test_a_ruleset_whose_response_is_lost_is_not_created_twice(run: Run, livehunt: Livehunt, loss: Handler) -> None:
    write(a=rule("a"))
    livehunt.lose = loss
    assert run("livehunt", "sync", "rules").code == 1
    result = run("livehunt", "sync", "rules")
    assert (result.code, len(livehunt.rulesets), len(livehunt.changes)) == (0, 1, 1)


def test_refused_rules_do_not_stop_the_others(run: Run, livehunt: Livehunt) -> None:
    write(a=rule("a"), b=rule("b", "refused"), c=rule("c"))
    result = run("livehunt", "sync", "rules")
    assert (result.code, result.stdout.split()) == (3, ["created", "a", "created", "c"])
    assert "b: BadRequestError: slow rule" in result.stderr
    assert result.last_line.startswith("INCOMPLETE: 2 created, ")
    assert result.last_line.endswith("; resume with the same command")
    write(b=rule("b"))
    assert (run("livehunt", "sync", "rules").code, set(livehunt.rules)) == (0, {"a", "b", "c"})


def test_only_refused_rules_exit_with_2(run: Run, livehunt: Livehunt) -> None:
    write(a=rule("a", "refused"))
    assert run("livehunt", "sync", "rules").code == 2


def test_an_exhausted_quota_keeps_what_was_synced(run: Run, livehunt: Livehunt) -> None:
    write(a=rule("a"), b=rule("b"))
    result = run("livehunt", "sync", "rules", VT_MAX_REQUESTS="2")
    assert (result.code, set(livehunt.rules)) == (4, {"a"})
    assert (run("livehunt", "sync", "rules").code, set(livehunt.rules)) == (0, {"a", "b"})


def test_a_dry_run_prints_the_differences_and_changes_nothing(run: Run, livehunt: Livehunt) -> None:
    livehunt.add("a", rule("a", "old") + rule("kept"), limit=100)
    livehunt.add("same", rule("same"), limit=50)
    write(a=rule("a", "new") + rule("kept"), b=rule("b"), same=rule("same"))
    result = run("livehunt", "sync", "rules", "--dry-run", "--limit", "50")
    assert (result.code, livehunt.changes) == (0, [])
    lines = result.stdout.splitlines()
    for line in ["-limit: 100", "+limit: 50", f"-{rule('a', 'old')[:-1]}", f"+{rule('a', 'new')[:-1]}"]:
        assert line in lines
    for line in [f" {rule('kept')[:-1]}", "+enabled: True", "+match_object_type: file", f"+{rule('b')[:-1]}"]:
        assert line in lines
    assert "same" not in result.stdout
    assert result.last_line == "dry run: 1 created, 1 updated, 1 unchanged, 1 request, complete"


# ---- sync: refused before anything is changed


def test_a_name_that_the_server_has_twice_is_refused(run: Run, livehunt: Livehunt) -> None:
    write(a=rule("a"), b=rule("b"))
    livehunt.add("b", rule("old"))
    livehunt.add("b", rule("old"))
    result = run("livehunt", "sync", "rules")
    assert (result.code, livehunt.changes) == (2, [])


def test_a_name_that_the_server_has_twice_matters_only_with_a_file(run: Run, livehunt: Livehunt) -> None:
    write(a=rule("a"))
    livehunt.add("b", rule("old"))
    livehunt.add("b", rule("old"))
    assert (run("livehunt", "sync", "rules").code, len(livehunt.rulesets)) == (0, 3)


def test_two_files_for_one_ruleset_are_refused(run: Run, livehunt: Livehunt, server: Server) -> None:
    write(a=rule("a"))
    Path("rules/a.yara").write_text(rule("b"))
    assert (run("livehunt", "sync", "rules").code, server.seen) == (2, [])


@pytest.mark.parametrize("text", ["rule a { condition: }", "rule a { condition: nowhere }", "", 'include "b.yar"'])
def test_rules_that_do_not_compile_keep_all_from_being_sent(
    run: Run, livehunt: Livehunt, server: Server, text: str
) -> None:
    write(a=rule("a"), bad=text, worse=text)
    result = run("livehunt", "sync", "rules")
    assert (result.code, server.seen) == (2, [])
    assert "bad.yar" in result.stderr
    assert "2 of 3 files" in result.last_line


FILE_FIELD = 'import "vt" rule a { condition: vt.metadata.new_file }'
NET_FIELD = 'import "vt" rule a { condition: vt.net.domain.new_domain }'


@pytest.mark.parametrize(
    ("match", "text", "code"),
    [
        ("file", FILE_FIELD, 0),
        ("file", NET_FIELD, 2),
        ("url", FILE_FIELD, 2),
        ("url", NET_FIELD, 0),
        ("domain", NET_FIELD, 0),
        ("ip", NET_FIELD, 0),
        ("ip", FILE_FIELD.replace("metadata.new_file", "behaviour.dns_lookups.len() > 1"), 2),
        ("url", 'import "vt" rule a { condition: vt.metadata.new_file } rule b { condition: a }', 2),
    ],
)
def test_rules_are_compiled_for_the_objects_that_they_match(
    run: Run, livehunt: Livehunt, match: str, text: str, code: int
) -> None:
    write(a=text)
    assert run("livehunt", "sync", "rules", "--match", match).code == code
    assert [ruleset["match_object_type"] for ruleset in livehunt.rulesets.values()] == ([] if code else [match])


def test_a_ruleset_for_other_objects_is_refused(run: Run, livehunt: Livehunt) -> None:
    livehunt.add("a", NET_FIELD, match_object_type="domain")
    write(a=rule("a"), b=rule("b"))
    result = run("livehunt", "sync", "rules")
    assert (result.code, livehunt.changes) == (2, [])
    assert "--match" in result.last_line


def test_a_ruleset_that_does_not_say_what_it_matches_is_for_files(run: Run, livehunt: Livehunt) -> None:
    livehunt.add("a", rule("a"))
    write(a=rule("a"))
    assert (run("livehunt", "sync", "rules").code, livehunt.changes) == (0, [])
    assert run("livehunt", "sync", "rules", "--match", "url").code == 2


@pytest.mark.parametrize(
    "args",
    [["nowhere"], ["rules"], ["rules", "--match", "hash"], ["rules", "--limit", "0"], []],
    ids=["no folder", "empty folder", "match", "limit", "nothing"],
)
def test_wrong_usage_is_one_line(run: Run, livehunt: Livehunt, server: Server, args: list[str]) -> None:
    result = run("livehunt", "sync", *args)
    assert (result.code, server.seen, len(result.stderr.splitlines())) == (2, [], 1)


@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (429, 4), (503, 1)])
def test_an_error_of_the_list_is_one_line(run: Run, livehunt: Livehunt, server: Server, status: int, code: int) -> None:
    write(a=rule("a"))
    server.answer(f"{RULESETS}*", error(status, "SomeError"))
    result = run("livehunt", "sync", "rules", VT_MAX_WAIT="0.01")
    assert (result.code, result.last_line.startswith("error: SomeError")) == (code, True)


# ---- list and show


def test_list_prints_a_line_for_each_ruleset(run: Run, livehunt: Livehunt) -> None:
    livehunt.add("loaders", rule("a") + rule("b"), notification_emails=["soc@example.com"])
    livehunt.add(f"hostile{HOSTILE}", enabled=False, match_object_type="url")
    result = run("livehunt", "list")
    assert result.code == 0
    assert result.stdout.splitlines() == [
        "1000  2025-11-22T09:00:00Z  enabled   file    2 rules, limit 100  loaders  soc@example.com",
        r"1001  2025-11-22T09:00:00Z  disabled  url     1 rule, limit 100  hostile\x1b]0;owned\x07\u202e\u2028",
    ]
    assert result.last_line == "2 rulesets, 1 request, complete"


def test_list_prints_the_objects_unchanged_as_jsonl(run: Run, livehunt: Livehunt) -> None:
    ruleset_id = livehunt.add(f"hostile{HOSTILE}")
    result = run("livehunt", "list", "--format", "jsonl")
    assert (result.objects, result.stdout.isascii()) == ([livehunt.object(ruleset_id)], True)


@pytest.mark.parametrize("key", ["1000", "loaders"])
def test_show_prints_the_rules_with_control_characters_escaped(run: Run, livehunt: Livehunt, key: str) -> None:
    livehunt.add("loaders", f"rule a {{\r\n\tcondition: true // {HOSTILE}\r\n}}\r\n")
    result = run("livehunt", "show", key)
    assert (result.code, result.stdout.splitlines()[0]) == (0, "rule a {")
    assert result.stdout.splitlines()[1].startswith("\tcondition: true // \\x1b]0;owned\\x07\\u202e")
    assert not set(HOSTILE) & set(result.stdout) - set("]0;owned")


def test_what_show_prints_is_what_sync_reads(run: Run, livehunt: Livehunt) -> None:
    livehunt.add("loaders", f"\n// tab\there\n{rule('a')}\n{rule('b')}")
    write(loaders=run("livehunt", "show", "loaders").stdout)
    assert (run("livehunt", "sync", "rules").code, livehunt.changes) == (0, [])


@pytest.mark.parametrize("command", ["show", "enable", "disable", "delete"])
@pytest.mark.parametrize("key", ["nobody", "twice"])
def test_a_ruleset_must_be_one(run: Run, livehunt: Livehunt, command: str, key: str) -> None:
    livehunt.add("twice")
    livehunt.add("twice")
    result = run("livehunt", command, key, *(["--yes"] if command == "delete" else []))
    assert (result.code, livehunt.changes) == (2, [])


# ---- enable, disable, delete


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("command", "after"), [("enable", True), ("disable", False)])
def test_enable_and_disable(run: Run, livehunt: Livehunt, command: str, before: bool, after: bool) -> None:
    ruleset_id = livehunt.add("loaders", enabled=before)
    rules = livehunt.rules
    assert run("livehunt", command, "loaders").code == 0
    assert (livehunt.rulesets[ruleset_id]["enabled"], livehunt.rules) == (after, rules)
    assert livehunt.changes == ([] if before == after else [f"PATCH {RULESETS}/{ruleset_id}"])


@pytest.mark.parametrize("fault", [None, *TRANSIENT])
def test_delete_deletes_one_ruleset(run: Run, livehunt: Livehunt, server: Server, fault: str | None) -> None:
    livehunt.add("kept")
    livehunt.add("loaders")
    if fault:
        server.fail(2, TRANSIENT[fault])
    assert (run("livehunt", "delete", "loaders", "-y").code, set(livehunt.rules)) == (0, {"kept"})


def test_delete_without_a_terminal_needs_yes(run: Run, livehunt: Livehunt, server: Server) -> None:
    livehunt.add("loaders")
    result = run("livehunt", "delete", "loaders")
    assert (result.code, server.seen) == (2, [])
    assert "--yes" in result.last_line


@pytest.mark.parametrize(("reply", "left"), [(b"y\n", 0), (b"n\n", 1)])
def test_delete_asks_on_a_terminal(tmp_path: Path, server: Server, reply: bytes, left: int) -> None:
    account = Livehunt(server)
    account.add(f"loaders{HOSTILE}")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "livehunt.py"), "delete", f"loaders{HOSTILE}"],
        env=environment(tmp_path, server),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b"?" not in shown:
        shown += os.read(ours, 1024)
    os.write(ours, reply)
    try:
        while chunk := os.read(ours, 1024):
            shown += chunk
    except OSError:  # Linux reports that no writer is left
        pass
    os.close(ours)
    assert (process.wait(30), len(account.rulesets)) == (0, left)
    assert b"\x1b]0;" not in shown


# ---- Help and real answers


@pytest.mark.parametrize("command", ["sync", "list", "show", "enable", "disable", "delete"])
def test_each_command_has_help(run: Run, server: Server, command: str) -> None:
    result = run("livehunt", command, "-h")
    assert (result.code, "--apikey" in result.stdout, server.seen) == (0, True, [])


@pytest.mark.skipif("VT_EXTRA_RECORDINGS" not in os.environ, reason="VT_EXTRA_RECORDINGS names no folder")
def test_real_rulesets_are_listed(run: Run, server: Server) -> None:
    paths = Path(os.environ["VT_EXTRA_RECORDINGS"], "hunting_ruleset").glob("*.json")
    rulesets = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    server.answer(RULESETS, collection(*rulesets))
    lines = run("livehunt", "list").stdout.splitlines()
    assert rulesets
    assert [line.split()[0] for line in lines] == [ruleset["id"] for ruleset in rulesets]


def test_an_upper_case_suffix_counts_and_an_empty_folder_says_so(run: Run, server: Server) -> None:
    server.answer("/intelligence/hunting_rulesets", collection())
    Path("rules").mkdir()
    assert "no .yar files" in run("livehunt", "sync", "rules").stderr
    Path("rules/A.YAR").write_text("rule a { condition: true }")
    assert "1 created" in run("livehunt", "sync", "rules", "--dry-run").last_line
