"""output: what scripts print and write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from output import (
    Format,
    UsageError,
    as_list,
    atomic_write,
    cli,
    defang,
    describe,
    open_lines,
    plural,
    print_summary,
    printable,
    write_objects,
)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain ünïcode 漢字 🦠", "plain ünïcode 漢字 🦠"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\rc\td\x00", "a\\nb\\rc\\td\\x00"),
        ("exe.\u202egpj", "exe.\\u202egpj"),
        ("\u2028\u200b\x9b", "\\u2028\\u200b\\x9b"),
        ("\ud800", "\\ud800"),
        (None, "None"),
    ],
)
def test_no_terminal_obeys_what_is_printed(hostile: object, shown: str) -> None:
    assert printable(hostile) == shown


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "request", "1 request"), (0, "object", "0 objects"), (2, "match", "2 matches"), (1, "match", "1 match")],
)
def test_counts_agree_with_their_noun(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text
    assert plural(count, noun, 6) == f"{count} of 6 {plural(2, noun)[2:]}"


@pytest.mark.parametrize(
    ("value", "defanged"),
    [
        ("http://evil.example/a.b?c=http://x", "hxxp://evil[.]example/a[.]b?c=http://x"),
        ("HTTPS://EVIL.example", "HxxPS://EVIL[.]example"),
        ("192.0.2.7", "192[.]0[.]2[.]7"),
        ("2001:db8::7", "2001[:]db8[:][:]7"),
        ("http.example", "hxxp[.]example"),
    ],
)
def test_a_defanged_indicator_cannot_be_visited_and_can_be_refanged(value: str, defanged: str) -> None:
    assert defang(value) == defanged
    refanged = defanged.replace("[.]", ".").replace("[:]", ":")
    assert refanged.lower().replace("hxxp", "http", 1) == value.lower()


def test_a_string_is_no_list() -> None:
    assert as_list("column", None) == []
    assert as_list("column", ("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError, match=r"\['a'\]"):
        as_list("column", "a")


# ---- Files


def test_an_atomic_write_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    with atomic_write(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert (target.read_text(), list(tmp_path.iterdir())) == ("new", [target])


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="full"), atomic_write(target) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert (target.read_text(), list(tmp_path.iterdir())) == ("old", [target])


def test_a_symbolic_link_and_a_long_name_are_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("link", "x" * 255):
        with atomic_write(tmp_path / name) as part:
            part.write_text("new")
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("a\n", "a\n"), ("a\nhalf", "a\n"), ("half", ""), ("a\n" + "x" * 200_000, "a\n")],
)
def test_appending_removes_an_incomplete_last_line(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(before)
    with open_lines(path, append=True) as file:
        write_objects([{"id": 1}], file)
    assert path.read_text() == after + '{"id": 1}\n'


def test_a_file_that_exists_is_refused_and_one_left_empty_by_an_error_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(KeyError), open_lines(path):
        raise KeyError
    assert not path.exists()
    with open_lines(path):
        pass
    with pytest.raises(UsageError, match="--cursor"), open_lines(path):
        pass
    with pytest.raises(UsageError, match=r"another file$"), open_lines(path, option=""):
        pass


def test_json_lines_are_ascii_and_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    item = {"id": "\ud800\x1b\u202e漢", "n": 1e300, "deep": [None, {"": {}}]}
    with open_lines(None) as file:
        write_objects([item], file)
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == item


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"id": 5, "type": "x", "attributes": None},
        {"id": "a\nb", "attributes": {"last_analysis_stats": {}, "names": []}},
        {"error": {}, "context_attributes": None},
    ],
)
def test_any_object_is_one_line_on_a_terminal(item: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n" not in describe(item)
    with open_lines(None) as file:
        write_objects([item], file, Format.text)
    assert capsys.readouterr().out.count("\n") == 1


# ---- The summary line and the exit code


class QuotaError(Exception):
    exit_code = 4


@pytest.mark.parametrize(
    ("error", "cursor", "code", "line"),
    [
        (None, None, 0, "2 hits, 1 request, complete"),
        (None, "a", 0, "2 hits, 1 request; there is more: --limit 0 for all, or continue with --cursor a"),
        (QuotaError("spent"), "a b", 4, "INCOMPLETE: 2 hits, 1 request; spent; resume with --cursor 'a b'"),
        ("1 file is missing", None, 3, "INCOMPLETE: 2 hits, 1 request; 1 file is missing"),
        (RuntimeError("reset"), None, 3, "INCOMPLETE: 2 hits, 1 request; reset"),
        (OSError("disk full"), None, 1, "INCOMPLETE: 2 hits, 1 request; disk full"),
        (asyncio.CancelledError(), None, 130, "INCOMPLETE: 2 hits, 1 request; interrupted"),
    ],
)
def test_the_last_line_tells_the_end(
    error: BaseException | str | None, cursor: str | None, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_summary("2 hits", 1, error=error, cursor=cursor) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_list_that_a_limit_cut_is_not_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_summary("2 hits", 1, resume="the same command", more=True) == 0
    assert print_summary("2 hits", 1, resume="the same command") == 0
    cut, complete = capsys.readouterr().err.splitlines()
    assert cut == "2 hits, 1 request; there is more: --limit 0 for all, or continue with the same command"
    assert complete == "2 hits, 1 request, complete"


def test_a_hostile_cursor_cannot_leave_its_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary("1 hit", 1, cursor="'; rm -rf ~ #\x1b")
    assert """--cursor ''"'"'; rm -rf ~ #\\x1b'""" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (UsageError("no key"), 2, "error: no key"),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'"),
        (QuotaError("spent"), 4, "error: spent"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.BadParameter("no\x1bnumber"), 2, "error: Invalid value: no\\x1bnumber (see --help)"),
    ],
)
def test_an_expected_error_is_one_line(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise raised

    assert cli(main, []) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_an_unexpected_error_keeps_its_traceback() -> None:
    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli(main, [])


def test_the_exit_code_and_both_spellings_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, help="What it does.")
    app.command()(lambda: 3)
    app.command(name="other")(lambda: None)
    assert cli(lambda: 3, []) == 3
    assert cli(app, ["other"]) == 0
    for option in ("-h", "--help"):
        assert cli(app, [option]) == 0
        assert "What it does." in capsys.readouterr().out
