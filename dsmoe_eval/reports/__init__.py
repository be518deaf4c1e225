"""Rendering: tables, figures, HTML and Markdown of a finished run."""

from .render import render
from .trial import render_trial

__all__ = ["render", "render_trial"]
