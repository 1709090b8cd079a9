"""Copy the helpers of lib/ into a script: cog runs `vendor()` where the script's marker stands (`just vendor`).

Only the definitions that the script reaches are copied, with the imports that they need.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HELPERS = (
    "output",
    "parse_time",
    "minutes",
    "read_objects",
    "virustotal",
    "results",
    "indicators",
    "dictpath",
    "frame",
    "yara_rules",
)
HEADER = "# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.\n"


class Definition(NamedTuple):
    """A top-level definition of a helper: its source, with the comments above it, and the names that occur in it."""

    source: str
    uses: set[str]


class Helper(NamedTuple):
    """A file of lib/: its import statements, and its definitions between the markers, by name."""

    imports: list[ast.stmt]
    definitions: dict[str, Definition]


def names_used(tree: ast.AST) -> set[str]:
    """Return every name that occurs in `tree`; of `a.b`, that is `a`."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def names_defined(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []


def names_imported(statements: Iterable[ast.stmt]) -> set[str]:
    """Return the names that import statements bind, those under `if TYPE_CHECKING:` too."""
    aliases = [node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.alias)]
    return {alias.asname or alias.name for alias in aliases}


def find_imports(source: str) -> list[ast.stmt]:
    """Return the top-level import statements, one for each name, and `if TYPE_CHECKING:`."""
    found: list[ast.stmt] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found += [ast.Import([alias]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module not in (*HELPERS, "__future__"):
            found += [ast.ImportFrom(node.module, [alias], 0) for alias in node.names]
        elif isinstance(node, ast.If):
            found.append(node)
    return found


def read_helper(name: str) -> Helper:
    """Parse lib/`name`.py."""
    head, _, rest = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8").partition("# vendor:begin\n")
    body = rest.partition("# vendor:end")[0]
    lines, start = body.splitlines(keepends=True), 0
    definitions: dict[str, Definition] = {}
    for node in ast.parse(body).body:
        definition = Definition("".join(lines[start : node.end_lineno]), names_used(node))
        definitions |= dict.fromkeys(names_defined(node), definition)
        start = node.end_lineno or 0
    return Helper(find_imports(head), definitions)


def reach(used: set[str], definitions: dict[str, Definition]) -> set[str]:
    """Return the names of the definitions that `used` reaches, directly or through each other."""
    found: set[str] = set()
    todo = used & definitions.keys()
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= definitions[name].uses & definitions.keys() - found
    return found


def ruff(arguments: Iterable[str], source: str) -> str:
    """Return `source` as ruff fixes it."""
    command = ["ruff", *arguments, "--stdin-filename", "vendored.py", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True, encoding="utf-8").stdout


def make_block(script: str) -> str:
    """Return what the generated block of a script must contain."""
    own = re.sub(r"# \[\[\[cog.*?# \[\[\[end\]\]\]", "", script, flags=re.DOTALL)
    helpers = [read_helper(name) for name in HELPERS]
    definitions = {name: definition for helper in helpers for name, definition in helper.definitions.items()}
    tree = ast.parse(own)
    own_names = {name for node in tree.body for name in names_defined(node)}
    wanted = reach(names_used(tree) - own_names, definitions)
    present = names_imported(find_imports(own))
    needed = [node for helper in helpers if wanted & helper.definitions.keys() for node in helper.imports]
    imports = [ast.unparse(node) for node in needed if not names_imported([node]) <= present]
    sources = dict.fromkeys(definition.source for name, definition in definitions.items() if name in wanted)
    block = "\n".join([*imports, *sources])
    block = ruff(["check", "--quiet", "--exit-zero", "--fix", "--select", "F401,I,TC005"], block)
    return HEADER + ruff(["format"], block).strip()


def vendor() -> None:
    """Write the block; cog calls this."""
    import cog  # exists only while cog runs

    cog.outl(f"\n\n{make_block(Path(cog.inFile).read_text(encoding='utf-8'))}\n\n")
