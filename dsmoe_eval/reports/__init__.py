"""Rendering: tables, figures, HTML and Markdown of a finished run."""

from .render import render
from .similarity import render_similarity, similarity_page
from .trial import render_trial

__all__ = [
    "render",
    "render_similarity",
    "render_trial",
    "similarity_page",
]
