"""Rendering: tables, figures, HTML and Markdown of a finished run."""

from .render import render

__all__ = ["render"]
