"""The README: its examples print what it says, its first commands are the tested ones, and its numbers are true."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RECORDINGS, ROOT, SCRIPTS, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```console\n((?:.*\n)*?)```$", README, flags=re.MULTILINE)
TALK = json.loads((RECORDINGS / "talk" / "search-with-contacts.json").read_text(encoding="utf-8"))


def test_every_example_is_read_here() -> None:
    assert len(EXAMPLES) == README.count("```console") >= 5


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.partition("\n")[0] for example in EXAMPLES])
def test_an_example_prints_what_the_readme_says(example: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copytree(SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(RECORDINGS, tmp_path / "tests" / "recordings")
    for name, text in re.findall(r"^With this in `([\w.]+)`:\n\n```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    printed = ""
    for command in re.findall(r"^\$ (.*)$", example, flags=re.MULTILINE):
        words = shlex.split(command)
        assert words[:2] == ["uv", "run"]
        scripts = [word for word in words[2:4] if word.startswith("scripts/")]
        python = [part for script in scripts for part in (sys.executable, script)]  # the tests have all packages
        result = subprocess.run(
            [*python, *words[2 + len(scripts) :]],
            cwd=tmp_path,
            env=environment(tmp_path, COLUMNS="120", PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # in the order of a terminal
            text=True,
            encoding="utf-8",
        )
        printed += f"$ {command}\n{result.stdout}"

    def mask_seconds(text: str) -> list[str]:
        return [re.sub(r"\d+(\.\d+)? s\b", "N s", line.rstrip()) for line in text.splitlines()]

    assert mask_seconds(printed) == mask_seconds(example)


def test_the_two_first_commands_need_nothing_but_python() -> None:
    first, second = re.findall(r"^python3 -m pip install uv && (.*)$", README, flags=re.MULTILINE)
    assert first.startswith("python3 -m uv run scripts/replay.py scripts/search_to_network_infrastructure.py ")
    query = shlex.split(first)[-1]
    assert query == TALK["query"]["query"]
    assert f"\n    {query}\n" in README
    assert second == "python3 -m uv tool run --from rust-just just test"


def test_the_picture_shows_all_of_the_talks_indicators() -> None:
    picture = (ROOT / ".github" / "output.svg").read_text(encoding="utf-8")
    assert "](.github/output.svg)" in README
    (file,) = TALK["body"]["data"]
    contacts = [contact for related in file["relationships"].values() for contact in related["data"]]
    indicators = [contact.get("context_attributes", {}).get("url") or contact["id"] for contact in contacts]
    assert len(indicators) == 38
    for indicator in indicators:
        assert f"{indicator}<" in picture
    loaded = re.sub(r"http://(www\.w3\.org/2000/svg|x1\.i\.lencr\.org/)|<!--.*?-->", "", picture)
    assert "//" not in loaded, "the picture loads nothing"
