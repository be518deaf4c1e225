"""Rendering: tables, figures, HTML and Markdown of a finished run."""

from .existence import render_existence
from .influence import influence_page, render_influence
from .items import write_item_files
from .keep import keep_page, render_keep
from .render import render
from .run_stability import domain_stability_page
from .similarity import render_similarity, similarity_page
from .trial import render_trial

__all__ = [
    "domain_stability_page",
    "influence_page",
    "keep_page",
    "render",
    "render_existence",
    "render_influence",
    "render_keep",
    "render_similarity",
    "render_trial",
    "similarity_page",
    "write_item_files",
]
