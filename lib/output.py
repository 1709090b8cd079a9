"""What every script prints and writes: messages, files, JSON Lines, the summary line and the exit code.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import mmap
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer


# vendor:begin
class UsageError(ValueError):
    """A mistake in an argument, the API key or the query; the message says what to do about it."""

    exit_code = 2


def printable(text: object) -> str:
    """Return `text` on one line, with control characters, bidi marks and lone surrogates escaped.

    VirusTotal's strings come from malware authors. `str.isprintable` is False for exactly those characters.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log(message: object) -> None:
    """Print one line on stderr; stdout carries data only."""
    print(printable(message), file=sys.stderr, flush=True)


def plural(count: int, noun: str, total: int | None = None) -> str:
    """Return "1 match" or "2 matches", with a `total` "1 of 6 matches"."""
    named = count if total is None else total
    nouns = noun if named == 1 else f"{noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"
    return f"{count} {nouns}" if total is None else f"{count} of {total} {nouns}"


def defang(value: str) -> str:
    """Return an indicator that nobody visits by accident: hxxp://evil[.]example, 192[.]0[.]2[.]7, 2001[:]db8[:][:]1."""
    if re.fullmatch("[0-9A-Fa-f:.]+", value) and value.count(":") > 1:
        value = value.replace(":", "[:]")
    return re.sub("^(h)tt(p)", r"\1xx\2", value, flags=re.IGNORECASE).replace(".", "[.]")


def as_list(name: str, values: Iterable[str] | None) -> list[str]:
    """Return `values` as a list. Raises TypeError for a string, which would be taken for a list of its characters."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings: [{values!r}], not {values!r}")
    return list(values or [])


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


class Format(StrEnum):
    """What a source prints: a short line per object for people, or the object as JSON for programs."""

    text = "text"
    jsonl = "jsonl"


def describe(item: dict[str, Any]) -> str:
    """Return an object as one line for a terminal: id (a URL's address), detections, name."""
    attributes, context = item.get("attributes") or {}, item.get("context_attributes") or {}
    stats = attributes.get("last_analysis_stats") or {}
    names = [attributes.get(key) for key in ("meaningful_name", "name", "title", "as_owner", "registrar", "status")]
    error = item.get("error") or {}
    url = context.get("url") or attributes.get("url")  # a search has answered a list of one
    parts = [
        (url[0] if isinstance(url, list) else url) or item.get("id"),
        f"{stats.get('malicious', 0)}/{sum(stats.values())}" if stats else "",
        context.get("rule_name") or (context.get("hunting_info") or {}).get("rule_name"),
        next(filter(None, names), ""),
        f"{error.get('code')}: {error.get('message')}" if error else "",
    ]
    return printable("  ".join(str(part) for part in parts if part))


@contextlib.contextmanager
def open_lines(path: Path | None, *, append: bool = False, option: str = "--cursor") -> Iterator[TextIO]:
    """Open stdout, or the file `path` for lines. A file that stays empty because of an error is removed.

    A file that exists is refused, unless `append`, for which the user gives `option`: then an incomplete last line is
    removed, and lines are added.
    Raises UsageError and OSError.
    """
    if path is None:
        yield sys.stdout
        return
    if append and path.exists():
        remove_incomplete_line(path)
    try:
        file = open(path, "a" if append else "x", encoding="utf-8", newline="\n")
    except FileExistsError:
        hint = f", or continue it with {option}" if option else ""
        raise UsageError(f"{path} exists: name another file{hint}") from None
    try:
        with file:
            yield file
    except BaseException:
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        raise


def remove_incomplete_line(path: Path) -> None:
    """Truncate the file after its last newline: kill -9 or a full disk may have left half a line. Raises OSError."""
    if path.stat().st_size:
        with open(path, "rb+") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                end = content.rfind(b"\n") + 1
            file.truncate(end)


def write_objects(objects: Iterable[dict[str, Any]], file: TextIO, style: Format | None = None) -> None:
    """Write one line for each object, and flush. Without `style`, a terminal gets text and everything else JSON.

    The JSON is ASCII, which neutralises terminal escapes and keeps lone surrogates.
    """
    as_text = style is Format.text or (style is None and file.isatty())
    for item in objects:
        file.write(f"{describe(item) if as_text else json.dumps(item)}\n")
    file.flush()


def print_summary(
    done: str,
    requests: int | None = None,
    *,
    error: BaseException | str | None = None,
    cursor: str | None = None,
    resume: str = "",
    more: bool = False,
) -> int:
    """Print the last line and return the exit code.

    The line says what was `done`, how many requests it took, whether it is complete, and how to resume: at `cursor`, or
    with the option or the command `resume`. A `cursor` or `more` says that a --limit ended the work.
    `error` is what ended the work early (an exception), or what is missing (a sentence).
    """
    spent = done if requests is None else f"{done}, {plural(requests, 'request')}"
    resume = f"--cursor {shlex.quote(cursor)}" if cursor else resume
    if error is None:
        rest = f"; there is more: --limit 0 for all, or continue with {resume}"
        log(spent + (rest if cursor or more else ", complete"))
        return 0
    reason = str(error) or "interrupted"
    log(f"INCOMPLETE: {spent}; {reason}" + (f"; resume with {resume}" if resume else ""))
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return 130
    if isinstance(error, OSError):
        return 1
    return 4 if getattr(error, "exit_code", 3) == 4 else 3


def cli(main: Callable[..., Any] | typer.Typer, argv: list[str] | None = None) -> int:
    """Run `main`, a function or an app of commands, and return its exit code. Either may return a coroutine.

    The docstring of its file is the help. An expected error is one line on stderr. A pipe that its reader closed ends
    the script quietly.
    """
    if isinstance(main, typer.Typer):
        app = main
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(help=main.__globals__["__doc__"])(main)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        command = typer.main.get_command(app)
        command.help = re.sub("\n\n(?= )", "\n\n\b\n", command.help or "")  # \b keeps the lines of an example
        command.context_settings["help_option_names"] = ["-h", "--help"]
        # command.main() would end the process itself at a closed pipe.
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:] if argv is None else argv) as context:
            result = command.invoke(context)
            code = asyncio.run(result) if asyncio.iscoroutine(result) else result
        sys.stdout.flush()
        return code or 0
    except typer.Exit as ended:  # --help
        return ended.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 0
    except (KeyboardInterrupt, typer.Abort):
        log("interrupted")
        return 130
    except typer.TyperException as error:
        log(f"error: {usage_hint(error.format_message())} (see --help)")
        return 2
    except Exception as error:
        if not isinstance(error, OSError) and not hasattr(error, "exit_code"):
            raise
        log(f"error: {error}")
        return getattr(error, "exit_code", 1)


def run_script(main: Callable[..., Any] | typer.Typer) -> NoReturn:
    """Run `main` as a program. SIGTERM stops it as Ctrl-C does, also where a shell script's & has it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(cli(main))


def usage_hint(message: str) -> str:
    """Return typer's message on one line, with a near miss or a forgotten quote pointed out."""
    message = " ".join(message.replace("Value error, ", "").split())
    if " is not one of " in message:
        value, *choices = re.findall("'([^']*)'", message.partition(": ")[2])
        near = difflib.get_close_matches(value, choices, n=1)
        return f"{message} Did you mean {near[0]}?" if near else message
    return f"{message}: quote an argument that contains spaces" if "unexpected extra argument" in message else message


# vendor:end
