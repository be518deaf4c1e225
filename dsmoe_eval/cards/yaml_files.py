"""One reader of all YAML files of ours, within limits and without what YAML decides silently.

lm-eval reads its task files itself.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import yaml

from ..errors import UserError, one_line
from ..files import read_limited

MOST_BYTES = 1_000_000
MOST_NODES = 100_000
"""The most keys and values of a file, counted while it is read."""
_LARGEST_INTEGER = 2**63
_MERGE = "tag:yaml.org,2002:merge"
_UNREADABLE = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What PyYAML raises at a wrong date, such as 2025-13-40, or at a wrong tag, such as `!!int x`."""


def read_yaml(path: Path) -> object:
    """Read a YAML file of ours: at most 1 MB and 100,000 keys and values, and no aliases.

    Raises:
        UserError: the file cannot be read, is too large or no YAML, or a key is repeated, or a
            number is infinite, not a number, or an integer of more than 64 bits.
    """
    data = read_limited(path, MOST_BYTES)
    try:
        reader = _Reader(data.decode("utf-8-sig"))
        content: object = reader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        if isinstance(error, _RefusedError):
            raise UserError(f"{where}: {error.problem}") from error
        words = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{where}: not valid YAML: {words}; mend that line") from error
    except (UnicodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: not valid YAML: {one_line(error)}; save it as text in UTF-8"
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; write it again, flat") from error
    except _UNREADABLE as error:
        line = reader.line_in_work
        raise UserError(
            f"{path}, line {line}: not valid YAML: a value cannot be read ({error}); put it into "
            "quotes if it is text"
        ) from error
    return content


class _Reader(yaml.SafeLoader):
    """A loader that refuses what could be read in two ways, or could exhaust time or memory."""

    nodes = 0
    line_in_work = 1

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("anchors (&) and aliases (*) are not read; repeat the text", event)
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise _refusal(f"more than {MOST_NODES:,} keys and values; split the file", event)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        self.line_in_work = node.start_mark.line + 1
        value: object = super().construct_object(node, deep)
        if isinstance(value, float) and not math.isfinite(value):
            raise _refusal(f"{node.value} is no finite number; give one", node)
        if isinstance(value, int) and abs(value) >= _LARGEST_INTEGER:
            raise _refusal("an integer of more than 64 bits; give a smaller one", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                raise _refusal("the merge key `<<` is not read; write the keys out", key_node)
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict, set)):
                raise _refusal("a key is a list or mapping; give a name", key_node)
            if key in seen:
                raise _refusal(f"the key {key!r} is repeated; leave one of them out", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _RefusedError(yaml.MarkedYAMLError):
    """What this reader alone refuses; the problem names the way out."""


def _refusal(problem: str, at: yaml.Node | yaml.Event) -> _RefusedError:
    return _RefusedError(problem=problem, problem_mark=cast("yaml.Mark", at.start_mark))
