"""vendor: a script gets the helpers that it reaches, and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS

from vendor import make_block, names_defined, names_used

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


def split(name: str) -> tuple[str, str]:
    """Return a script's own part, and its generated block."""
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"# \[\[\[cog.*?# \[\[\[end\]\]\]", text, flags=re.DOTALL)
    return text.replace(block, ""), block


def test_a_definition_comes_with_all_that_it_reaches_and_its_imports() -> None:
    block = make_block("def main():\n    log('hello')\n")
    defined = [name for node in ast.parse(block).body for name in names_defined(node)]
    assert defined == ["printable", "log"]
    assert "import sys" in block
    assert "import vt" not in block


def test_what_the_script_imports_itself_is_not_imported_again() -> None:
    assert "import sys" not in make_block("import sys\nlog(sys.argv)\n")


def test_a_script_that_reaches_nothing_gets_nothing() -> None:
    assert ast.parse(make_block("print(1)")).body == []


def test_a_name_that_the_script_defines_itself_is_not_a_helpers() -> None:
    script = "def log():\n    pass\n\nVirusTotal = 1\n\ndef main():\n    log(VirusTotal, plural(1, 'file'))\n"
    defined = [name for node in ast.parse(make_block(script)).body for name in names_defined(node)]
    assert defined == ["plural"]


@pytest.mark.parametrize("name", NAMES)
def test_no_script_contains_a_definition_that_it_does_not_reach(name: str) -> None:
    own, block = split(name)
    definitions = {d: node for node in ast.parse(block).body for d in names_defined(node)}
    reached: set[str] = set()
    tree = ast.parse(own)
    assert not {d for node in tree.body for d in names_defined(node)} & definitions.keys()
    todo = names_used(tree) & definitions.keys()
    while todo:
        reached |= todo
        todo = set().union(*(names_used(definitions[d]) for d in todo)) & definitions.keys() - reached
    assert definitions.keys() - reached == set()


def test_the_blocks_are_what_lib_holds() -> None:
    command = [sys.executable, "-m", "cogapp", "--check", "-I", "lib", "-p", "from vendor import vendor"]
    result = subprocess.run(
        [*command, *map(str, sorted(SCRIPTS.glob("*.py")))], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, f"`just vendor` renews them:\n{result.stdout}{result.stderr}"
