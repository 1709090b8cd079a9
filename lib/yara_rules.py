"""Read YARA rules, and compile them before VirusTotal does.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from output import UsageError, log, plural, printable

# vendor:begin
VIRUSTOTAL_MODULES = ("vt", "magic")  # yara-x as published compiles no rule that uses them


def read_rules(path: str) -> str:
    """Return the YARA rules in the file `path` (`-`: stdin). Raises UsageError."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8, which VirusTotal requires") from None


def compile_rules(sources: Mapping[str, str], match: str = "file") -> list[str]:
    """Compile the `sources` (file name: text) of one ruleset and return the names of its rules.

    `match` is what the rules are for: file, url, domain or ip. Warnings, errors, and the rules that only VirusTotal can
    compile go to stderr. Raises UsageError for what VirusTotal would refuse.
    """
    compiler = run_compiler(sources, VIRUSTOTAL_MODULES)
    vt_errors = run_compiler(sources, {"magic"}).errors()
    errors = compiler.errors() + [error for error in vt_errors if is_for_other_objects(error, match)]
    warnings = [w for w in compiler.warnings() if w["type"] not in ("IgnoredModule", "IgnoredRule")]
    for report in warnings + errors:
        for line in report["text"].split("\n"):
            log(line)
    if errors:
        raise UsageError(f"the rules do not compile ({plural(len(errors), 'error')}); nothing was sent")
    ignored = [rule.name for rule in compiler.ignored_rules()]
    if ignored:
        log(f"not compiled here, because only VirusTotal has the modules vt and magic: {', '.join(ignored)}")
    names = [rule.identifier for rule in compiler.build()] + ignored
    if not names:
        raise UsageError(f"no rule in {', '.join(sources)}; nothing was sent")
    return names


def run_compiler(sources: Mapping[str, str], ignored_modules: Iterable[str]) -> Any:
    """Return a yara_x.Compiler that has read `sources`."""
    import yara_x

    # Any: the package's type stubs lack the self of some methods. VirusTotal accepts no includes.
    compiler: Any = yara_x.Compiler(relaxed_re_syntax=True, includes_enabled=False)
    for module in ignored_modules:
        compiler.ignore_module(module)
    for origin, text in sources.items():
        with contextlib.suppress(yara_x.CompileError):  # errors() has all of them
            compiler.add_source(text, printable(origin))
    return compiler


def is_for_other_objects(error: Mapping[str, Any], match: str) -> bool:
    """Return whether an error says that a field of the vt module does not exist for what the rules match.

    yara-x refuses vt.metadata, vt.behaviour and vt.net in every ruleset: only VirusTotal can tell it what a ruleset
    matches. Its messages tell what each field is for: "… supported only in …", "… not supported in rulesets matching
    against files". https://docs.virustotal.com/docs/nethunt
    """
    about_files = error["code"] == "E100" and error["title"].endswith("in rulesets matching against files")
    return about_files and (" not supported " in error["title"]) == (match == "file")


# vendor:end
