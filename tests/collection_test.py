"""What holds for every script: it runs alone, says what it does, and has a README section, a smoke run and a header."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import RECORDINGS, ROOT, SCRIPTS, environment

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
# A smoke run is the last command of its line; the ones before it prepare its input.
SMOKE = {
    re.findall(r"scripts/(\w+)\.py", line)[-1]: line.strip()
    for line in WORKFLOW.splitlines()
    if line.strip().startswith("replay scripts/")
}


def header(name: str) -> dict[str, Any]:
    """Return the PEP 723 metadata of a script."""
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", text, flags=re.MULTILINE)
    assert block, f"{name} has no PEP 723 block"
    return tomllib.loads("".join(line[2:] + "\n" for line in block[1].splitlines()))


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def uv() -> str:
    """The uv that runs the scripts."""
    found = os.environ.get("UV") or shutil.which("uv")  # uv tells what it runs where it is
    assert found, "uv is needed: python3 -m pip install uv"
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "replay"])
def test_a_script_copied_alone_runs_in_its_own_environment(name: str, tmp_path: Path, uv: str) -> None:
    kept = {name: os.environ[name] for name in ("HOME", "USERPROFILE") if name in os.environ}  # uv's cache and settings
    line = SMOKE[name].replace("tests/recordings", str(RECORDINGS))
    for command in line.split(" && "):
        words = shlex.split(command.removeprefix("replay "))
        script = Path(words[0]).name
        shutil.copy(SCRIPTS / script, tmp_path)
        result = subprocess.run(
            [sys.executable, str(SCRIPTS / "replay.py"), uv, "run", "--quiet", "--script", script, *words[1:]],
            cwd=tmp_path,
            env=environment(tmp_path) | kept,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr


def test_replay_copied_alone_asks_for_the_recordings(tmp_path: Path, uv: str) -> None:
    kept = {name: os.environ[name] for name in ("HOME", "USERPROFILE") if name in os.environ}
    shutil.copy(SCRIPTS / "replay.py", tmp_path)
    child = [sys.executable, "-c", "import os; print(os.environ['VT_HOST'])"]
    for options, code in (["--recordings", str(RECORDINGS)], 0), ([], 2):
        result = subprocess.run(
            [uv, "run", "--quiet", "--script", "replay.py", *options, *child],
            cwd=tmp_path,
            env=environment(tmp_path) | kept,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, "--recordings" in result.stderr) == (code, code == 2), result.stderr


# ---- What a script says of itself


@pytest.mark.parametrize("name", NAMES)
def test_help_is_the_docstring_and_loads_nothing_slow(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / f"{name}.py"), "--help"]
    result = subprocess.run(
        command, env=environment(tmp_path, COLUMNS="120"), capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"uv run scripts/{name}.py") >= 2, "two runnable examples"
    assert "Exit codes: " in result.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in loaded
    slow = {"pandas", "numpy", "pyarrow", "yara_x", "sqlalchemy", "xlsxwriter", "dask", "distributed", "duckdb", "rich"}
    assert not loaded & slow


@pytest.mark.parametrize("name", NAMES)
def test_a_header_bounds_each_dependency(name: str) -> None:
    head = header(name)
    assert head["requires-python"] == ">=3.11"
    assert head["tool"]["uv"]["exclude-newer"] == "2026-11-15T00:00:00Z"
    for dependency in head["dependencies"]:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?>=[\d.]+,<[\d.]+", dependency), dependency


def test_a_package_has_the_same_range_in_every_script() -> None:
    ranges: dict[str, set[str]] = {}
    for name in NAMES:
        for dependency in header(name)["dependencies"]:
            package, bounds = re.split(r"(?=>=)", dependency)
            ranges.setdefault(package, set()).add(bounds)
    assert {package: bounds for package, bounds in ranges.items() if len(bounds) > 1} == {}
    assert set(re.findall(r"20\d\d-\d\d-\d\dT[\d:]+Z", (ROOT / "justfile").read_text())) == {"2026-11-15T00:00:00Z"}


def test_only_the_two_scripts_that_make_tables_install_pandas() -> None:
    with_pandas = [n for n in NAMES if any(d.startswith("pandas") for d in header(n)["dependencies"])]
    assert with_pandas == ["objects_to_table", "search_to_pandas"]


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_the_shape_of_all(name: str) -> None:
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env -S uv run --script\n# SPDX-License-Identifier: MIT\n# /// script\n")
    assert os.name == "nt" or os.access(SCRIPTS / f"{name}.py", os.X_OK)
    story = re.search(
        r"^(async )?def main\(|^app = typer\.Typer\(", text, flags=re.MULTILINE
    )  # one command, or several
    guard = text.index('\nif __name__ == "__main__":')
    assert story
    assert story.start() < text.index("# [[[cog vendor() ]]]") < text.index("# [[[end]]]") < guard


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_a_readme_section_and_a_smoke_run(name: str) -> None:
    assert re.search(rf"^### {name}\.py$", README, flags=re.MULTILINE), f"the README has no section on {name}"
    assert re.search(rf"uv run (scripts/replay\.py )?scripts/{name}\.py ", README)
    assert name == "replay" or name in SMOKE


def test_the_readme_names_no_script_that_does_not_exist() -> None:
    assert set(re.findall(r"scripts/(\w+)\.py", README)) <= {*NAMES, "NAME", "my_question"}


def test_every_recipe_of_the_justfile_says_what_it_does() -> None:
    lines = (ROOT / "justfile").read_text(encoding="utf-8").splitlines()
    recipes = [n for n, line in enumerate(lines) if re.match(r"[a-z][\w-]*( [*+]?\w+)*:", line)]
    assert len(recipes) >= 5
    for n in recipes:
        above = [line for line in lines[:n] if not line.startswith("[")][-1]
        assert above.startswith("# "), lines[n]


# ---- Clean


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_finds_nothing(command: list[str]) -> None:
    result = tool("ruff", *command, "--no-cache")
    assert result.returncode == 0, result.stdout


def test_the_type_checker_finds_nothing() -> None:
    result = tool("mypy", "lib", *sorted(f"scripts/{name}.py" for name in NAMES))
    assert result.returncode == 0, result.stdout


def test_no_tracked_file_contains_a_key_a_registry_or_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    tracked = [path for name in listed.split(b"\0") if name and (path := ROOT / os.fsdecode(name)).is_file()]
    keys = {os.environ.get(name, "") for name in ("VT_API_KEY", "VTCLI_APIKEY")}
    words = {str(ROOT), *keys} - {"", "/"}
    assert len(tracked) > 50
    for path in tracked:
        text = path.read_bytes().decode(errors="replace")
        assert not [word for word in words if word in text], path
        assert not re.search(r"(?i)api_?key\W{1,6}(?!0{64})[0-9a-f]{64}\b", text), path
        assert not re.search(r"/(home|Users|root)/\w", text), path
        assert not re.search(r"py(pi|thonhosted)\.org", text), path
        assert path.name != "uv.lock"
