"""JSONPath look-ups in plain dicts: `dictpath.get_all(obj, "$.attributes.tags[*]")`.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from output import UsageError


# vendor:begin
class dictpath:  # noqa: N801 - reads like the module of that name in vt-py's examples
    """JSONPath look-ups in plain dicts, with jsonpath-ng's extensions: `$.attributes.exiftool.'File Type'`.

    An absent key is no match; a null is a match whose value is None.
    """

    @staticmethod
    @functools.cache
    def parse(path: str) -> Any:
        """Return the parsed path. Raises UsageError, a ValueError."""
        from jsonpath_ng.ext import parse

        try:
            return parse(path)
        except Exception as error:  # the parser has no common class of errors
            raise UsageError(f"bad JSONPath {path!r}: {error}") from None

    @staticmethod
    def iterate(obj: Any, path: str) -> Iterator[Any]:
        """Yield each value that `path` matches in `obj`, in document order. Raises UsageError for a bad path."""
        parsed = dictpath.parse(path)
        try:
            yield from [match.value for match in parsed.find(obj)]
        except Exception:  # a filter or function met a value of another type, such as null > 5: no match
            return

    @staticmethod
    def get_all(obj: Any, path: str) -> list[Any]:
        """Return every value that `path` matches in `obj`."""
        return list(dictpath.iterate(obj, path))

    @staticmethod
    def get(obj: Any, path: str, default: Any = None) -> Any:
        """Return the value that `path` matches in `obj`, else `default`. Raises ValueError for several matches."""
        matches = dictpath.get_all(obj, path)
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} values match {path!r}: use get_all")
        return matches[0] if matches else default


# vendor:end
iterate, get_all, get = dictpath.iterate, dictpath.get_all, dictpath.get  # for `import dictpath`
