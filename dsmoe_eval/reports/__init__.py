"""Rendering: tables, figures, HTML and Markdown of a finished run."""

from .emergence import render_emergence
from .existence import render_existence
from .existence_maps import render_existence_maps
from .influence import influence_page, render_influence
from .items import write_item_files
from .keep import keep_page, render_keep
from .prediction import prediction_page, render_prediction
from .render import render
from .run_stability import domain_stability_page
from .similarity import render_similarity, similarity_page
from .simsmoe import render_simsmoe
from .trial import render_trial

__all__ = [
    "domain_stability_page",
    "influence_page",
    "keep_page",
    "prediction_page",
    "render",
    "render_emergence",
    "render_existence",
    "render_existence_maps",
    "render_influence",
    "render_keep",
    "render_prediction",
    "render_similarity",
    "render_simsmoe",
    "render_trial",
    "similarity_page",
    "write_item_files",
]
