"""Read YARA rules, and compile them before VirusTotal does.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from output import UsageError, log, plural, printable


# vendor:begin
def read_rules(path: str) -> str:
    """Return the YARA rules in the file `path` (`-`: stdin). Raises UsageError."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8, which VirusTotal requires") from None


def run_compiler(sources: Mapping[str, str], *modules: str) -> tuple[list[Any], list[Any], list[str], list[str]]:
    """Return the errors and warnings about `sources`, the names of their rules, and of those that use the `modules`.

    Each error or warning is {"type", "title", "text", …}. yara-x does not compile the rules that use the `modules`.
    """
    import yara_x

    # Any: the package's type stubs lack the self of some methods. VirusTotal accepts no includes.
    compiler: Any = yara_x.Compiler(relaxed_re_syntax=True, includes_enabled=False)
    for module in modules:
        compiler.ignore_module(module)
    for name, text in sources.items():
        with contextlib.suppress(yara_x.CompileError):  # errors() has all of them
            compiler.add_source(text, printable(name))
    ignored = [rule.name for rule in compiler.ignored_rules()]
    return compiler.errors(), compiler.warnings(), [rule.identifier for rule in compiler.build()] + ignored, ignored


def compile_rules(sources: Mapping[str, str], match: str = "file") -> int:
    """Compile the `sources` (file name: text) of one ruleset and return the number of its rules.

    `match` is what the rules are for: file, url, domain or ip. Warnings, errors, and the rules that only VirusTotal can
    compile go to stderr. Raises UsageError for what VirusTotal would refuse. https://docs.virustotal.com/docs/nethunt
    """
    errors, warnings, names, ignored = run_compiler(sources, "vt", "magic")
    # yara-x cannot be told what a ruleset matches, so it refuses all fields of vt; its messages say what each is for.
    wrong_field = "is not supported in rulesets" if match == "file" else "is supported only in rulesets"
    errors += [error for error in run_compiler(sources, "magic")[0] if wrong_field in error["title"]]
    for report in [w for w in warnings if w["type"] not in ("IgnoredModule", "IgnoredRule")] + errors:
        for line in report["text"].split("\n"):
            log(line)
    if errors:
        raise UsageError(f"the rules do not compile ({plural(len(errors), 'error')}); nothing was sent")
    if not names:
        raise UsageError(f"no rule in {', '.join(sources)}; nothing was sent")
    if ignored:
        log(f"not compiled here, because only VirusTotal has the modules vt and magic: {', '.join(ignored)}")
    return len(names)


# vendor:end
