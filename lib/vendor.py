"""Copies lib/ into the scripts: `vendor("dictpath")` is what cog runs between the scripts' markers (`just vendor`)."""

from __future__ import annotations

import re
from pathlib import Path


def block(name: str) -> str:
    """The part of lib/`name`.py between its vendor markers. Raises ValueError when it does not have just one."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    found = re.findall(r"^# vendor:begin\n(.*?)^# vendor:end$", text, flags=re.DOTALL | re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"lib/{name}.py has {len(found)} vendored parts, not one")
    return str(found[0]).strip("\n")


def vendor(name: str) -> None:
    """Writes the block where cog's marker stands."""
    import cog  # exists only while cog runs

    cog.outl(f"# A copy from lib/{name}.py, where it is edited; `just vendor` renews it.\n{block(name)}\n\n")
