"""The parts of an HTML page beside tables (intervals, planes, item files), and its rendering.

A page is one file that needs nothing else: `templates/page.html.j2` has a macro for each of these
classes and for `Table`, and the page includes `page.css` and `page.js`. Only the items are
separate files: scripts that the page loads when the reader opens them (`items.py`). The page's
content security policy lets no other script run and nothing be fetched from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from ..stats import Unit
from .formats import pp_with_interval
from .table import Facets

PP = Unit("pp", 100, 1)
"""Percentage points, the unit of differences of scores."""
LARGE_PICTURE = 500_000
"""The size in bytes of a picture above which its colours are reduced."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of a forest plot.

    Attributes:
        n: items.
        group: the heading of the rows of one group, which keep their order.
        kind: as in `Cell`; `good` and `mark` are drawn filled, all else hollow.
        unit: the unit in which the figures are shown.
    """

    label: str
    value: float
    low: float
    high: float
    n: int
    trace: str
    group: str = ""
    kind: str = ""
    facets: Facets = field(default_factory=dict)
    unit: Unit = PP

    @property
    def words(self) -> str:
        """The figures as text, without the unit."""
        value, low, high = (self.unit.number(x, "+") for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class Forest:
    """A forest plot, with a line at minus `margin` if there is a margin."""

    id: str
    title: str
    caption: str
    axis: str
    rows: tuple[Interval, ...]
    margin: float | None = None
    unit: Unit = PP

    @property
    def scale(self) -> Scale:
        """The scale of the axis."""
        bounds = [bound for row in self.rows for bound in (row.low, row.high, row.value)]
        return Scale.of([*bounds, -(self.margin or 0.0)], self.unit.factor)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a plane, with both its intervals, as fractions.

    Attributes:
        group: points of one group share a shape and a colour.
        dim: whether it is shown greyed.
    """

    label: str
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    trace: str
    group: str = ""
    dim: bool = False
    facets: Facets = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The figures as text."""
        across = pp_with_interval(self.x, self.x_low, self.x_high)
        return f"across {across}, up {pp_with_interval(self.y, self.y_low, self.y_high)}"


@dataclass(frozen=True, slots=True)
class Plane:
    """Points by two changes, with a horizontal line at minus `margin` if there is a margin."""

    id: str
    title: str
    caption: str
    x_axis: str
    y_axis: str
    points: tuple[Point, ...]
    margin: float | None = None

    @property
    def x_scale(self) -> Scale:
        """The scale of the horizontal axis."""
        ends = [end for point in self.points for end in (point.x_low, point.x_high, point.x)]
        return Scale.of([*ends, -(self.margin or 0.0)])

    @property
    def y_scale(self) -> Scale:
        """The scale of the vertical axis."""
        return Scale.of([end for p in self.points for end in (p.y_low, p.y_high, p.y)])

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, in the order of the points."""
        return tuple(dict.fromkeys(point.group for point in self.points))


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis that has zero on it: its ends and ticks, in the unit that is shown.

    Attributes:
        factor: the number that a difference is multiplied by; 100 for percentage points.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    factor: float = 100.0

    @classmethod
    def of(cls, values: list[float], factor: float = 100.0) -> Scale:
        """Return a scale with round ends and at most nine ticks for zero and the values."""
        low, high = factor * min([0.0, *values]), factor * max([0.0, *values])
        step = _round_step(max(high - low, 1e-9) / 6)
        first, last = math.floor(low / step - 1e-9), math.ceil(high / step + 1e-9)
        ticks = tuple(round(k * step, 10) for k in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks, factor)

    def at(self, shown: float) -> str:
        """Return the position of a number as shown, `0%` to `100%` of the axis."""
        return f"{100 * (shown - self.low) / (self.high - self.low):.2f}%"

    def place(self, value: float) -> str:
        """Return the position of a value on the axis."""
        return self.at(self.factor * value)

    def height(self, points: float) -> str:
        """Return the position of a number of percentage points, from the top."""
        return f"{100 * (self.high - points) / (self.high - self.low):.2f}%"


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20 ... that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= least * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class ItemFile:
    """The file of one task's items.

    Attributes:
        path: relative to the page.
        set: the name of the run or model that the items belong to.
        task: the task's name.
        domain: the task's domain.
        n: the number of items.
        arms: the arms whose answers the file has, base first.
        sha256: the hash of the file's content, by which the page detects a file of another report.
    """

    path: str
    set: str
    task: str
    domain: str
    n: int
    arms: tuple[str, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture inside the page: `source` is a `data:` URI, `alt` describes it in words."""

    source: str
    alt: str
    title: str
    caption: str


def embed(path: Path) -> str:
    """Return a PNG as a `data:` URI; reduce a large one to 256 colours to keep the page small."""
    content = path.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(_small(content)).decode()}"


def _small(content: bytes) -> bytes:
    if len(content) <= LARGE_PICTURE:
        return content
    reduced = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(reduced, "png")
    return reduced.getvalue()


def html_environment() -> jinja2.Environment:
    """Return the environment of the HTML templates.

    It escapes all text, and a missing name is an error.
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("dsmoe_eval.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.policies["json.dumps_kwargs"] = {"default": asdict}
    css, script = _part("page.css"), _part("page.js")
    made.globals |= {
        "page_css": Markup(css),  # noqa: S704 - both are files of this package, without user data
        "page_js": Markup(script),  # noqa: S704
        "page_policy": _policy(css, script),
    }
    return made


@cache
def _part(name: str) -> str:
    return resources.files("dsmoe_eval.reports").joinpath("templates", name).read_text("utf-8")


def _policy(css: str, script: str) -> str:
    """Return the content security policy: run this script and those beside it, and no others."""
    # 'self' covers the page's server; a page opened from disk has no origin, so that files beside
    # it need the scheme.
    return (
        f"default-src 'none'; style-src '{_hash(css)}'; img-src data:; "
        f"script-src '{_hash(script)}' 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
