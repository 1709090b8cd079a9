"""Read VirusTotal objects from files and stdin: the input of a sink.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import bz2
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from output import UsageError


# vendor:begin
def read_content(name: str) -> str:
    """Return the text of a file ("-": stdin), which may be compressed. Raises OSError and UsageError."""
    if name == "-" and sys.stdin.isatty():
        raise UsageError("name a file, or pipe objects into this script")
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        if data.startswith(b"BZh"):
            data = bz2.decompress(data)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            import zstandard

            data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    except Exception as error:  # a damaged file
        raise UsageError(f"{name}: {error}") from None
    return data.decode(json.detect_encoding(data), errors="replace")  # PowerShell writes UTF-16


def parse_json(text: str) -> Iterator[Any]:
    """Yield the JSON values in a text, one after another, as in JSON Lines; None for each line that is not JSON."""
    decoder, position = json.JSONDecoder(), 0
    while match := re.compile(r"\s*(?=\S)").match(text, position):
        try:
            value, position = decoder.raw_decode(text, match.end())
            yield value
        except (ValueError, RecursionError):
            position = (text.find("\n", match.end()) + 1) or len(text)
            yield None


def unwrap(value: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the objects in a JSON value: one, a list, or a response of the API. Yield None for anything else."""
    if isinstance(value, dict) and "data" in value and value.keys() <= {"data", "meta", "links"}:
        value = value["data"] or []
    for item in value if isinstance(value, list) else [value]:
        yield from_vt_cli(item) if isinstance(item, dict) else None


def from_vt_cli(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object of vt-cli's in VirusTotal's form. It has `_id`, `_type` and so on beside the attributes."""
    if "_id" not in item:
        return item
    attributes = {key: value for key, value in item.items() if not key.startswith("_")}
    return {key[1:]: value for key, value in item.items() if key.startswith("_")} | {"attributes": attributes}


def read_objects(names: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    """Return the objects in files, and how many lines or items are not objects. Raises OSError and UsageError."""
    items = [item for name in names for value in parse_json(read_content(name)) for item in unwrap(value)]
    objects = [item for item in items if item is not None]
    if items and not objects:
        raise UsageError(f"no JSON objects in {', '.join(names)}")
    return objects, len(items) - len(objects)


# vendor:end
