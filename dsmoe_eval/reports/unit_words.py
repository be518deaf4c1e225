"""The words of pages and pictures on a dense model: its units are neurons, and not experts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib.text import Text

_WORD = r"(?<![\w\-/.]){}(?![\w\-/]|\.\w)"
"""A word of a sentence, not a part of a file's or a model's name."""

_STAYS = (
    r"<script\b.*?</script>",
    r"<style\b.*?</style>",
    r"<code>.*?</code>",
    r"src=\"data:[^\"]*\"",
    r"`[^`\n]*`",
)
"""The parts of a page that are no sentences."""


def in_words_of(units: str | None, text: str) -> str:
    """Return a text on experts as one on other units.

    Args:
        units: the plural, `neurons` or `blocks of 64 neurons`; None: experts, the text as given.
        text: the program's text; words that are parts of names stay.
    """
    if units is None:
        return text
    plural = units.split()[0]
    for word, new in (
        ("shuffled routers", "shuffled inputs"),
        ("Shuffled routers", "FFNs with shuffled inputs"),
        ("routers", "FFNs"),
        ("router", "FFN"),
        ("routing", "selection"),
        ("experts", plural),
        ("Experts", plural.capitalize()),
        ("expert", plural.removesuffix("s")),
        ("Expert", plural.removesuffix("s").capitalize()),
    ):
        text = re.sub(_WORD.format(word), new, text)
    return re.sub(r"\b([Aa])n (neuron|block)", r"\1 \2", text)


def page_in_words_of(units: str | None, page: str, names: Iterable[str] = ()) -> str:
    """Return a page on experts, HTML or Markdown, as one on other units.

    Args:
        units: as in `in_words_of`.
        page: its scripts, styles, pictures and code stay.
        names: what users and cards name, such as models and tasks; it stays.
    """
    if units is None:
        return page
    kept = {name for name in names if in_words_of(units, name) != name}
    kept |= {str(escape(name)) for name in kept}
    words = (rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(kept, key=len, reverse=True))
    parts = re.split(f"({'|'.join([*_STAYS, *words])})", page, flags=re.DOTALL)
    return "".join(
        part if place % 2 else in_words_of(units, part) for place, part in enumerate(parts)
    )


def put_in_words_of(units: str | None, figure: Figure) -> None:
    """Replace all texts of a picture by those of `in_words_of`."""
    for text in figure.findobj(Text) if units is not None else ():
        assert isinstance(text, Text)  # noqa: S101 - what was looked for
        text.set_text(in_words_of(units, text.get_text()))
