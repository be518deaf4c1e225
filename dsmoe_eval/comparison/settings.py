"""The settings of an evaluation, and in which of them two evaluations differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

Settings = Mapping[str, Mapping[str, str]]
"""Group -> name -> value in words. A source that records a group records all of it: a name that is
missing from a recorded group was not set. A group that is missing is not known."""

_GREEDY_IGNORES = ("temperature", "top_p", "top_k", "min_p", "do_sample")
_SAME = {"max_new_tokens": "max_gen_toks", "max_tokens": "max_gen_toks", "stop_seqs": "until",
         "stop": "until"}  # fmt: skip
_VARIES = "differs by item"
_SHOWN = 60


def generation(arguments: Mapping[str, object]) -> Mapping[str, str]:
    """Return generation arguments in words, so that equal decoding has equal words.

    Args:
        arguments: keyword arguments of lm-eval's `generate_until` or of Inspect's configuration.
            Decoding is greedy without `do_sample` unless there is a temperature above 0; greedy
            decoding ignores temperature and the limits of sampling.
    """
    named = {_SAME.get(name, name): value for name, value in arguments.items() if value is not None}
    temperature = named.get("temperature")
    hot = isinstance(temperature, int | float) and temperature > 0
    sampling = bool(named.get("do_sample", hot)) and (temperature is None or hot)
    ignored = ("do_sample",) if sampling else _GREEDY_IGNORES
    words = {name: _words(value) for name, value in named.items() if name not in ignored}
    return {"decoding": "sampling" if sampling else "greedy", **words}


def merged(each: Iterable[Mapping[str, str]]) -> Mapping[str, str]:
    """Return the settings that all items share; the others as differing by item."""
    found: dict[str, str] | None = None
    for settings in each:
        if found is None:
            found = dict(settings)
        elif settings != found:
            names = found.keys() | settings.keys()
            same = {name for name in names if found.get(name) == settings.get(name)}
            found = {name: found[name] if name in same else _VARIES for name in names}
    return found or {}


def setting_differences(a: Settings, b: Settings) -> list[str]:
    """Return what differs between two evaluations, one phrase per setting, sorted."""
    phrases = []
    for group in sorted(set(a) & set(b)):
        for name in sorted(a[group].keys() | b[group].keys()):
            of_a, of_b = a[group].get(name, "not set"), b[group].get(name, "not set")
            if of_a != of_b:
                phrases.append(f"{name} {of_a} in A, {of_b} in B")
    return phrases


def _words(value: object) -> str:
    if isinstance(value, list | tuple | set):
        value = sorted(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
