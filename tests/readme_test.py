"""The README's examples print what it says they print, and its two first commands are those that are tested."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```console\n((?:.*\n)*?)```$", README, flags=re.MULTILINE)
TALK = (ROOT / "tests" / "recordings" / "talk" / "search-with-contacts.json").read_text(encoding="utf-8")


def test_every_example_is_read_here() -> None:
    assert len(EXAMPLES) == README.count("```console") >= 5


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.partition("\n")[0] for example in EXAMPLES])
def test_an_example_prints_what_the_readme_says(example: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "tests" / "recordings", tmp_path / "tests" / "recordings")
    (rule,) = re.findall(r"^```yara\n(.*\n)```$", README, flags=re.MULTILINE)
    (tmp_path / "lure.yar").write_text(rule)
    (tmp_path / "typo.yar").write_text(rule.replace("$pipe }", "$pip }"))
    said = ""
    for command in re.findall(r"^\$ (.*)$", example, flags=re.MULTILINE):
        words = shlex.split(command)
        assert words[:2] == ["uv", "run"]
        scripts = [word for word in words[2:4] if word.startswith("scripts/")]
        python = [part for script in scripts for part in (sys.executable, script)]  # the tests have all packages
        result = subprocess.run(
            [*python, *words[2 + len(scripts) :]],
            cwd=tmp_path,
            env=environment(tmp_path, COLUMNS="100"),
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        said += f"$ {command}\n{result.stdout}{result.stderr}"

    def settled(text: str) -> list[str]:
        return [re.sub(r"\d+ s\b", "N s", line.rstrip()) for line in text.splitlines()]

    assert settled(said) == settled(example)


def test_the_two_first_commands_need_nothing_but_python() -> None:
    first, second = re.findall(r"^python3 -m pip install uv && (.*)$", README, flags=re.MULTILINE)
    assert first.startswith("python3 -m uv run scripts/replay.py scripts/search_to_network_infrastructure.py ")
    assert shlex.split(first)[-1] in TALK
    assert second == "python3 -m uv tool run --from rust-just just test"
    assert f"\n{second}\n" not in README


def test_the_picture_shows_all_of_the_talks_indicators() -> None:
    picture = (ROOT / ".github" / "output.svg").read_text(encoding="utf-8")
    assert "](.github/output.svg)" in README
    (file,) = json.loads(TALK)["body"]["data"]
    contacts = [contact for related in file["relationships"].values() for contact in related["data"]]
    indicators = [contact.get("context_attributes", {}).get("url") or contact["id"] for contact in contacts]
    assert len(indicators) == 38
    for indicator in indicators:
        assert f"{indicator}<" in picture
    assert "38&#160;indicators&#160;of&#160;1&#160;file,&#160;1&#160;request,&#160;complete" in picture
    assert "//" not in re.sub(r"http://(www\.w3\.org/2000/svg|x1\.i\.lencr\.org/)|<!--.*?-->", "", picture), (
        "loads nothing"
    )
