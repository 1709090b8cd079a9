#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["rich>=14,<16"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Draw what a run of the README's first command prints, as an SVG: `just picture`."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

COMMAND = [
    "uv run scripts/replay.py scripts/search_to_network_infrastructure.py",
    '"entity:file AND sha256:7c347a029d0d8600dc58885d6f359517e093f9f13ccb9a697c2655ed5f87f4d"',
]
WIDTH = 96


def main(output: Path) -> None:
    """Run the command and write the picture of it."""
    command = shlex.split(" ".join(COMMAND))
    for _ in range(2):  # the first time, uv may report what it installs
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), (" \\\n    ".join(COMMAND), "bold")))
    console.print(Text(result.stdout.rstrip()))
    picture = console.export_svg(title="", theme=DIMMED_MONOKAI)
    # The monospace font of the viewer: rich's font would be loaded from another host.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    output.write_text(picture.replace("Fira Code", "ui-monospace, Menlo, Consolas"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
