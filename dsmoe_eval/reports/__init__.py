"""Rendering: tables, figures, HTML and Markdown of a finished run."""

from .existence import render_existence
from .items import write_item_files
from .render import render
from .similarity import render_similarity, similarity_page
from .trial import render_trial

__all__ = [
    "render",
    "render_existence",
    "render_similarity",
    "render_trial",
    "similarity_page",
    "write_item_files",
]
