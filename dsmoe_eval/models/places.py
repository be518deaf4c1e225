"""Where a model's files are: the folder or hub id behind a name."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..lab import BUILT_MODELS, EMBEDDED_MODELS
from ..registry import builtin_names, load_model_card
from .remote_code import unknown
from .revisions import split_revision


def config_place(name: str) -> str:
    """Return the folder or hub id of a model's configuration.

    Args:
        name: as for `load_model`, or the path of a config.json, beside which no weights are needed.

    Raises:
        UserError: as `locate`.
    """
    path = Path(name)
    return str(path.parent) if path.name == "config.json" and path.is_file() else locate(name)


def locate(name: str) -> str:
    """Return the folder or hub id of a model, the latter with the name's revision.

    Raises:
        UserError: `name` is no embedded model, model card, model folder or hub id, or has a
            revision and is not on the hub.
    """
    model, revision = split_revision(name)
    place = _locate(model)
    if revision is None:
        return place
    if Path(place).is_dir():
        raise UserError(
            f"model {name!r}: {model!r} is a folder, and only a model of the hub has revisions; "
            "leave the revision out"
        )
    if not revision:
        raise UserError(f"model {name!r}: name a commit, branch or tag after the @")
    return f"{place}@{revision}"


def _locate(name: str) -> str:
    if name in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name])
    if name in BUILT_MODELS:
        from ..lab.smol import built_folder

        return str(built_folder(name))
    if name in builtin_names("models"):
        card = load_model_card(name)
        if card.converted_from:
            raise unknown(str(card.hub_id), card.converted_from)
        return str(card.hub_id)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder}: a folder without config.json is no model; give a model's folder"
            )
        return str(folder)
    if folder.name == "config.json":  # one folder deep, it looks like a hub id
        wrong = "is a file; give its folder" if folder.exists() else "no such file; check the path"
        raise UserError(f"{folder}: {wrong}")
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(
            f"model {name!r}: no such folder, and not a hub id (organisation/model); embedded: "
            f"{', '.join([*EMBEDDED_MODELS, *BUILT_MODELS])}"
        )
    return name
