"""JSONPath look-ups in plain dicts, as the talk uses them: `dictpath.get_all(obj, "$.attributes.tags[*]")`.

`vendor.py` copies what stands between the markers into the scripts; the imports stay with the script.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from jsonpath_ng.ext import parse as parse_jsonpath


# vendor:begin
class dictpath:  # noqa: N801 - reads at the call as the module of that name does in vt-py's examples
    """JSONPath look-ups in plain dicts. Paths are jsonpath-ng's, with its filters:

    `$.attributes.pe_info.sections[*].md5`, `$.attributes.exiftool.'signers details'`,
    `$.attributes.results[?(@.category == 'malicious')].engine_name`.

    An absent key is no match, a null is a match whose value is None.
    """

    @staticmethod
    @functools.cache
    def parse(path: str) -> Any:
        """The parsed `path`. Raises ValueError naming the path and the position of what is wrong."""
        try:
            parsed = parse_jsonpath(path)
            for pattern in re.finditer(r"""=~\s*(['"])(.*?)\1""", path):
                re.compile(pattern[2])  # jsonpath-ng does so at the first value that is compared
            return parsed
        except Exception as error:  # jsonpath-ng's extensions raise what they like
            at = re.search(r"(?:\d+:|col )(\d+)", str(error))
            end = re.search("end of string|EOF", str(error))
            where = f"at position {at[1]}: " if at else f"at its end (position {len(path)}): " if end else ""
            raise ValueError(f"bad JSONPath {path!r}: {where}{error}") from None

    @staticmethod
    def column(path: str) -> str:
        """What a `--column` means by `path`, as JSONPath; the path of an attribute (`pe_info.imphash`) is none yet.

        Raises ValueError as `parse` does.
        """
        if not path.startswith("$"):
            # Keys with spaces and hyphens (exiftool's, engines') want quotes; indices and filters do not.
            odd_key = r"(^|\.)([^.\[\]*'\"]*[^.\[\]*'\"\w][^.\[\]*'\"]*)(?=$|[.\[])"
            path = "$.attributes." + re.sub(odd_key, r"\1'\2'", path)
        dictpath.parse(path)
        return path

    @staticmethod
    def iterate(obj: Any, path: str) -> Iterator[Any]:
        """Each value that `path` matches in `obj`, in document order. Raises ValueError for a bad path."""
        parsed = dictpath.parse(path)
        try:
            matches = parsed.find(obj)
        except Exception:  # its functions raise what they like of what they cannot take: `sorted` of no list
            matches = []
        return (match.value for match in matches)

    @staticmethod
    def get_all(obj: Any, path: str) -> list[Any]:
        """Every value that `path` matches in `obj`; nothing matched is an empty list."""
        return list(dictpath.iterate(obj, path))

    @staticmethod
    def get(obj: Any, path: str, default: Any = None) -> Any:
        """The one value that `path` matches in `obj`, `default` if none (a null that is there is None).

        Raises ValueError when there are several: `get_all` takes them.
        """
        matches = dictpath.get_all(obj, path)
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} values match {path!r}, where one was expected: use get_all")
        return matches[0] if matches else default


# vendor:end

# So that `import dictpath` gives the talk's functions too.
iterate, get_all, get = dictpath.iterate, dictpath.get_all, dictpath.get
