"""Models of the hub at a revision, written `organisation/model@revision`."""

from __future__ import annotations

from pathlib import Path


def split_revision(name: str) -> tuple[str, str | None]:
    """Split a model's name at its last `@`; the name of an existing folder has no revision."""
    model, at, revision = name.rpartition("@")
    return (model, revision) if at and not Path(name).exists() else (name, None)


def from_hub(place: str) -> dict[str, str]:
    """Return the arguments by which transformers reads a folder, or a hub id with its revision."""
    model, revision = split_revision(place)
    chosen = {} if revision is None else {"revision": revision}
    return {"pretrained_model_name_or_path": model} | chosen


def commit_of(place: str) -> str:
    """Return the commit of a hub id, perhaps with a revision, whose configuration was read."""
    from huggingface_hub import hf_hub_download

    model, revision = split_revision(place)
    return Path(hf_hub_download(model, "config.json", revision=revision)).parent.name
