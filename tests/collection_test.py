"""What holds for every script: each runs alone, says what it does, and shares without drifting."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import RECORDINGS, ROOT, SCRIPTS, environment

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
TALK = "entity:file AND sha256:7c347a029d0d8600dc58885d6f359517e093f9f13ccb9a697c2655ed5f87f4d"

# A run of each script against the recordings: its arguments, and what stdout or a written file then holds.
ALONE: dict[str, tuple[list[str], str, bytes]] = {
    "feed_dump": (
        ["files", "--from", "202611210000", "--to", "202611210002", "--out", "dump"],
        "dump/date=2026-11-21/hour=00/202611210001.jsonl.bz2",
        b"BZh",
    ),
    "retrohunt": (["matches", "analyst-1763802000", "--output", "matches.jsonl"], "matches.jsonl", b"example_loader"),
    "search_to_network_infrastructure": ([TALK, "--output", "contacts.csv"], "contacts.csv", b"www.eicar.org"),
    "search_to_pandas": (["entity:url p:3+", "--output", "urls.xlsx"], "urls.xlsx", b"PK"),
}


def header(name: str) -> dict[str, Any]:
    """The PEP 723 block of a script."""
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", text, flags=re.MULTILINE)
    assert block, f"{name} has no PEP 723 block"
    return tomllib.loads("".join(line[2:] + "\n" for line in block[1].splitlines()))


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name and (ROOT / os.fsdecode(name)).is_file()]


# Alone


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing of VirusTotal's, for runs in which uv builds the script's own environment."""
    kept = {name: os.environ[name] for name in ("HOME", "USERPROFILE") if name in os.environ}  # uv's cache and settings
    return environment(tmp_path) | kept


@pytest.mark.parametrize("name", [name for name in NAMES if name != "replay"])
def test_a_script_copied_alone_into_an_empty_folder_runs_in_its_own_environment(
    name: str, tmp_path: Path, alone: dict[str, str], uv: str
) -> None:
    assert name in ALONE, f"tests/collection_test.py: a run of {name} is missing from ALONE"
    arguments, written, content = ALONE[name]
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(SCRIPTS / f"{name}.py", folder)
    command = [uv, "run", "--script", f"{name}.py", *arguments]
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / "replay.py"), *command],
        cwd=folder,
        env=alone,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    assert content in (folder / written).read_bytes()


def test_replay_copied_alone_wants_to_be_told_where_the_recordings_are(
    tmp_path: Path, alone: dict[str, str], uv: str
) -> None:
    shutil.copy(SCRIPTS / "replay.py", tmp_path)
    command = [uv, "run", "--quiet", "--script", "replay.py"]
    child = [sys.executable, "-c", "import os; print(os.environ['VT_HOST'])"]
    told = subprocess.run(
        [*command, "--recordings", str(RECORDINGS), *child], cwd=tmp_path, env=alone, capture_output=True, text=True
    )
    assert told.stdout.startswith("http://127.0.0.1:"), told.stderr
    untold = subprocess.run([*command, *child], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert untold.returncode == 2
    assert re.fullmatch(
        r"error: no recordings in .*: --recordings names the folder, --record fills it\n", untold.stderr
    )


# What a script says of itself


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
    slow = {"pandas", "numpy", "pyarrow", "yara_x", "sqlalchemy", "xlsxwriter", "matplotlib", "dask", "duckdb"}
    assert not loaded & slow


@pytest.mark.parametrize("name", NAMES)
def test_a_header_bounds_each_dependency_and_dates_them_all_alike(name: str) -> None:
    head = header(name)
    assert head["requires-python"] == ">=3.11"
    assert head["tool"]["uv"]["exclude-newer"] == "2026-11-15T00:00:00Z"
    for dependency in head["dependencies"]:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?>=[\d.]+,<[\d.]+", dependency), dependency


def test_the_same_package_has_the_same_range_in_every_script_and_the_justfile_the_same_date() -> None:
    ranges: dict[str, set[str]] = {}
    for name in NAMES:
        for dependency in header(name)["dependencies"]:
            package, bounds = re.split(r"(?=>=)", dependency)
            ranges.setdefault(package, set()).add(bounds)
    assert {package: bounds for package, bounds in ranges.items() if len(bounds) > 1} == {}
    dates = set(re.findall(r"20\d\d-\d\d-\d\dT[\d:]+Z", (ROOT / "justfile").read_text()))
    assert dates == {"2026-11-15T00:00:00Z"}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_the_shape_of_all(name: str) -> None:
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env -S uv run --script\n# /// script\n")
    assert os.name == "nt" or os.access(SCRIPTS / f"{name}.py", os.X_OK)
    story = re.search(r"^def main\(|^app = typer\.Typer\(", text, flags=re.MULTILINE)  # one command, or several
    guard = text.index('\nif __name__ == "__main__":')
    assert story and story.start() < text.index("[[[cog vendor(") < text.rindex("# [[[end]]]") < guard


def test_the_readme_names_every_script_with_its_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert re.search(rf"^#+ .*{name}", readme, flags=re.MULTILINE), f"no section on {name}"
        assert re.search(
            rf"^ *(\$ )?(python3 -m )?uv run (scripts/replay\.py )?scripts/{name}\.py ", readme, flags=re.M
        )
    for named in re.findall(r"scripts/(\w+)\.py", readme):
        assert named in [*NAMES, "NAME", "my_question"], f"the README speaks of {named}"


def test_every_script_has_a_smoke_run_in_ci() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"scripts/(\w+)\.py", workflow)) == set(NAMES)


def test_every_recipe_of_the_justfile_says_what_it_does() -> None:
    lines = (ROOT / "justfile").read_text(encoding="utf-8").splitlines()
    recipes = [n for n, line in enumerate(lines) if re.match(r"[a-z][\w-]*( [*+]?\w+)*:$", line)]
    assert len(recipes) >= 5
    for n in recipes:
        above = [line for line in lines[:n] if not line.startswith("[")][-1]
        assert above.startswith("# "), lines[n]


# Clean


def test_the_vendored_blocks_are_what_lib_holds() -> None:
    result = tool("cogapp", "--check", "-I", "lib", "-p", "from vendor import vendor", *map(str, SCRIPTS.glob("*.py")))
    assert result.returncode == 0, f"`just vendor` renews them:\n{result.stdout}"


def test_ruff_finds_nothing() -> None:
    for command in (["check"], ["format", "--check"]):
        result = tool("ruff", *command, "--no-cache")
        assert result.returncode == 0, result.stdout


def test_the_type_checker_finds_nothing() -> None:
    result = tool("mypy", "lib", *sorted(f"scripts/{name}.py" for name in NAMES))
    assert result.returncode == 0, result.stdout


def test_no_tracked_file_holds_a_key_a_registry_or_a_path_of_one_machine() -> None:
    keys = {os.environ.get(name, "") for name in ("VT_API_KEY", "VTCLI_APIKEY")}
    words = {str(ROOT), *keys} - {"", "/"}
    for path in tracked():
        text = path.read_bytes().decode(errors="replace")
        assert not [word for word in words if word in text], path
        assert not re.search(r"(?i)api_?key\W{1,6}(?!0{64})[0-9a-f]{64}\b", text), path
        assert not re.search(r"/(home|Users|root)/\w", text), path
        assert not re.search(r"py(pi|thonhosted)\.org", text), path
        assert path.name != "uv.lock"


def test_every_recording_is_one_that_replay_can_serve() -> None:
    for path in RECORDINGS.rglob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["shows"], path
