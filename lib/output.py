"""What a script says and writes: one line on stderr, whole files, an exit code.

`vendor.py` copies what stands between the markers into the scripts; the imports stay with the script.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer


# vendor:begin
class UsageError(ValueError):
    """What the user can mend (an argument, a key, a query): one line, exit code 2."""


def printable(text: object) -> str:
    """`text` on one line that no terminal obeys: escapes, line ends, bidi marks and lone surrogates spelled out.

    VirusTotal's strings come from malware authors; str.isprintable() is False for just those characters.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message: object) -> None:
    """One line on stderr; stdout is for data alone."""
    print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name, on disk to the last byte, when the block succeeds.

    When the block fails nothing appears, and what stood at `path` stays. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
        if os.name == "posix":  # the rename itself must survive a power cut; Windows cannot open a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def end_once(number: int, frame: object) -> None:
    """Ends the work as Ctrl-C does. SIGTERM may come twice, from a process group and from uv: once is meant."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def cli(main: Callable[..., int] | typer.Typer, doc: str | None, **settings: Any) -> NoReturn:
    """Runs `main` (or an app of several commands), `doc` being its help as it stands; exits with the code it returns.

    `settings` are typer's for the command. What the user can mend, and whatever the network did, is one line on stderr
    and the error's `exit_code`. SIGTERM ends a script as Ctrl-C does, so that what it has got is kept. A pipe that its
    reader closed ends quietly.
    """
    kept = re.sub("\n\n(?= )", "\n\n\b\n", doc or "")  # \b: typer keeps the lines of what is indented as written
    if isinstance(main, typer.Typer):
        app = main
        app.info.help = kept
    else:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(help=kept, **settings)(main)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 - closed by a shell's >&-
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        setattr(sys, name, stream)
    # Started in the background of a shell script, SIGINT is ignored; asyncio ends well only on one that is not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end_once)
    try:
        command = typer.main.get_command(app)
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:]) as context:  # app() has endings of its own
            code: Any = command.invoke(context) or 0
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        code = 0
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        code = 130
    except typer.TyperException as error:
        say(f"error: {error.format_message()} (--help shows the usage)")
        code = error.exit_code
    except (UsageError, OSError) as error:
        say(f"error: {error}")
        code = 2 if isinstance(error, UsageError) else 1
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        say(f"error: {error}")
        code = error.exit_code
    sys.exit(code)


# vendor:end
