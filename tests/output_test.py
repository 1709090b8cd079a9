"""What reaches a terminal, how files appear, and the exit codes of `cli`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import ROOT

from output import printable, whole_file


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain — ünïcödé 日本", "plain — ünïcödé 日本"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x00\x07\x9b", "\\x00\\x07\\x9b"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        (7, "7"),
    ],
)
def test_no_terminal_obeys_what_is_shown(hostile: object, shown: str) -> None:
    assert printable(hostile) == shown
    assert printable(hostile).isprintable()


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.csv") as part:
        part.write_text("all of it")
        assert not (tmp_path / "a.csv").exists()
    assert (tmp_path / "a.csv").read_text() == "all of it"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("before")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.csv") as part:
        part.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.csv").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_name_as_long_as_a_folder_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    with whole_file(path) as part:
        part.write_text("x")
    assert path.read_text() == "x"


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege on Windows")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_file(tmp_path / "link") as part:
        part.write_text("after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


def command(tmp_path: Path, body: str) -> list[str]:
    """A script whose main has that `body`."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        "from output import *\nfrom output import cli, UsageError\n"
        f"def main(count: int = 0) -> int:\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "if __name__ == '__main__':\n    cli(main, 'What it answers.\\n\\n    an example   as it stands\\n')\n"
    )
    return [sys.executable, str(script)]


@pytest.mark.parametrize(
    ("body", "args", "code", "said"),
    [
        ("return 3", [], 3, ""),
        ("raise UsageError('mend \\x1b this')", [], 2, "error: mend \\x1b this\n"),
        ("raise OSError(28, 'No space left', 'a.csv')", [], 1, "error: [Errno 28] No space left: 'a.csv'\n"),
        ("raise KeyboardInterrupt", [], 130, "interrupted\n"),
        ("return 0", ["--count", "x"], 2, None),
        ("return 0", ["--nonsense"], 2, None),
    ],
)
def test_an_ending_is_an_exit_code_and_one_line(
    tmp_path: Path, body: str, args: list[str], code: int, said: str | None
) -> None:
    result = subprocess.run([*command(tmp_path, body), *args], capture_output=True, text=True)
    assert result.returncode == code
    assert result.stderr == said if said is not None else result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_error_that_nobody_foresaw_keeps_its_traceback(tmp_path: Path) -> None:
    result = subprocess.run(command(tmp_path, "raise ZeroDivisionError"), capture_output=True, text=True)
    assert (result.returncode, "Traceback" in result.stderr) == (1, True)


def test_the_help_is_the_docstring_as_it_stands(tmp_path: Path) -> None:
    result = subprocess.run([*command(tmp_path, "return 0"), "--help"], capture_output=True, text=True)
    assert "an example   as it stands\n" in result.stdout
    assert result.returncode == 0


def test_the_help_s_paragraphs_fit_the_terminal(tmp_path: Path) -> None:
    script = command(tmp_path, "return 0")
    Path(script[1]).write_text(Path(script[1]).read_text().replace("answers.", r"answers.\n\n" + "words " * 30))
    result = subprocess.run(
        [*script, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "60", "TERMINAL_WIDTH": "60"}
    )
    assert max(map(len, result.stdout.splitlines())) <= 60, result.stdout
    assert "an example   as it stands\n" in result.stdout


@pytest.mark.skipif(os.name != "posix", reason="a shell's >&-")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(tmp_path: Path, closed: str) -> None:
    line = shlex.join(command(tmp_path, "print('data'); return 0"))
    result = subprocess.run(f"{line} {closed}", shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stdout + result.stderr) == (0, "" if closed == ">&-" else "data\n")


@pytest.mark.skipif(os.name != "posix", reason="a pipe is closed otherwise on Windows")
def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "for i in range(100000): print(i)\nreturn 0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 0
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("ignored", [False, True], ids=["as usual", "SIGINT ignored, as in a script's background"])
def test_sigterm_ends_as_ctrl_c_does_however_often_it_comes(tmp_path: Path, ignored: bool) -> None:
    body = """
    import asyncio
    async def work():
        print("up", flush=True)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)  # writes what it has
            print("kept", flush=True)
        return 130
    return asyncio.run(work())
    """
    process = subprocess.Popen(
        command(tmp_path, body),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )
    assert process.stdout
    process.stdout.readline()
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    assert process.communicate(timeout=20) == (b"kept\n", b"")
    assert process.returncode == 130
