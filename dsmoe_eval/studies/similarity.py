"""Expert similarity on a suite's identification text or on text documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console

from ..errors import UserError
from ..experts import expert_similarity, set_similarity
from ..experts.set_similarity import DRAWS
from ..models import LoadedModel
from ..progress import progress_bar
from ..steering import Profile, check_fits
from ..tasks.identification import TextSource, identification_text
from .results import SimilarityResult

TOKENS = 512


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, and a description of their source."""

    source: str
    texts: tuple[str, ...]


def read_texts(source: str | TextSource, data: Sequence[Path] = ()) -> Texts:
    """Read the identification text of a suite, or the chunks of text documents.

    Raises:
        UserError: the suite or its text cannot be read.
    """
    text = identification_text(source, None, data)
    texts = tuple(item.question for task in text.tasks.values() for item in task.items)
    which = f", split {text.split}" if text.split else ""
    if text.chunks is not None:
        which = f", at most {text.chunks} chunks of each document"
    return Texts(text.source + which, texts)


def similarity(
    loaded: LoadedModel,
    texts: Texts,
    tokens: int = TOKENS,
    profile: Profile | None = None,
    console: Console | None = None,
) -> SimilarityResult:
    """Measure the similarity of each layer's experts, or of a profile's experts to the others.

    Args:
        loaded: the model, not steered.
        texts: the texts that it reads.
        tokens: how many of their tokens are compared.
        profile: a profile of this model; its intervention is not applied.
        console: the console that shows progress.

    Returns:
        The content of `similarity.json`.

    Raises:
        UserError: the texts have too few tokens.
        SteeringError: single experts of this model cannot be run, or the profile is for another.
    """
    identity = loaded.identity
    if profile is not None:
        check_fits(profile, identity.layers, identity.experts, identity.routers)
        if not profile.experts:
            raise UserError(f"profile {profile.id} holds no expert to be compared with the others")
    ids = loaded.tokenizer(list(texts.texts))["input_ids"] if texts.texts else []
    layers = len(identity.layers)
    with progress_bar(
        console or Console(stderr=True), "compare experts", layers, "layers"
    ) as advance:
        try:
            found = expert_similarity(loaded.model, ids, tokens, on_layer=advance)
        except ValueError as error:
            raise UserError(
                f"{texts.source}: {error}; give more text, --chunks above the default for "
                "documents, or fewer --tokens"
            ) from error
    result = found.to_dict() | {
        "model": {"name": identity.name, "fingerprint": identity.fingerprint},
        "dtype": loaded.dtype,
        "device": str(loaded.model.device),
        "source": texts.source,
        "profile": None,
    }
    if profile is not None:
        by_kernel = set_similarity(found, profile.experts)
        result["profile"] = {
            "id": profile.id,
            "method": profile.method,
            "domain": profile.source.domain,
            "experts": len(profile.experts),
            "draws": DRAWS,
            **by_kernel,
        }
    return cast(SimilarityResult, result)
