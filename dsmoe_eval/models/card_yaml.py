"""A model card as YAML, with a comment on each line whose value is not known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import yaml

from ..cards import ModelCard

_BLOCKS = {"config", "parameters"}
"""The keys of a card with one line per value."""


def to_yaml(card: ModelCard, unknown: Mapping[str, str]) -> str:
    """Return a card as YAML; what has its default is left out, unless it is not known.

    Args:
        card: the card.
        unknown: key, such as `licence` or `parameters.published`, -> why its value is not known.
    """
    values = card.model_dump(mode="json", exclude_defaults=True)
    whole = card.model_dump(mode="json")
    for key in unknown:
        outer, _, inner = key.rpartition(".")
        if outer:
            values[outer].setdefault(inner, whole[outer][inner])
        else:
            values.setdefault(key, whole[key])
    order = [*ModelCard.model_fields]
    lines: list[str] = []
    for key in sorted(values, key=order.index):
        lines.extend(_lines(key, values[key], unknown))
    return "".join(f"{line}\n" for line in lines)


def _lines(key: str, value: object, unknown: Mapping[str, str]) -> Iterator[str]:
    if key in _BLOCKS and isinstance(value, Mapping):
        yield f"{key}:{_comment(key, unknown)}"
        for name, one in value.items():
            yield f"  {_flow(name)}: {_flow(one)}{_comment(f'{key}.{name}', unknown)}"
    elif key == "sources" and isinstance(value, list):
        yield f"{key}:"
        yield from (f"  - {_flow(one)}" for one in value)
    else:
        yield f"{key}: {_flow(value)}{_comment(key, unknown)}"


def _comment(key: str, unknown: Mapping[str, str]) -> str:
    if key not in unknown:
        return ""
    words = "".join(one if one.isprintable() else " " for one in unknown[key])
    return f"  # not known: {' '.join(words.split())}"


def _flow(value: object) -> str:
    """Return a value as YAML on one line."""
    text = _dump(value, None)
    return text if text.isprintable() else _dump(value, '"')  # with escapes


def _dump(value: object, style: str | None) -> str:
    text: str = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style=style,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
    )
    return text.removesuffix("\n").removesuffix("\n...")
