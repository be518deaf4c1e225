"""Finds and loads cards by name or by path, among the built-in ones or in the user's folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import ValidationError

from .cards import Card, ModelCard, Plan, Policy, Suite, Variant
from .cards.yaml_files import read_yaml
from .errors import UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Kind = Literal["models", "suites", "plans", "policies", "variants"]
_SINGULAR = {
    "models": "model",
    "suites": "suite",
    "plans": "plan",
    "policies": "policy",
    "variants": "variant",
}
AnyCard = TypeVar("AnyCard", bound=Card)

_PACKAGE = Path(__file__).resolve().parent


def builtin_folder() -> Path:
    """Return the folder of the built-in cards.

    It is inside an installed package, or at the top of the repository.
    """
    inside = _PACKAGE / "benchmarks"
    return inside if inside.is_dir() else _PACKAGE.parent / "benchmarks"


def builtin_names(kind: Kind) -> tuple[str, ...]:
    """Return the sorted names of the built-in cards of one kind."""
    return tuple(sorted(path.stem for path in (builtin_folder() / kind).glob("*.yaml")))


def find_card(kind: Kind, name_or_path: str, beside: Path | None = None) -> Path:
    """Find the file of a card by its path, its name near `beside`, or its built-in name.

    Names are looked up in the folder `kind` next to `beside` or one level up, then built in.

    A relative path is tried from the folder of `beside` first, then from the current folder.

    Raises:
        UserError: there is no such card; the message lists the built-in ones.
    """
    path = search_card(kind, name_or_path, beside)
    if path is not None:
        return path
    raise UserError(
        f"no {_SINGULAR[kind]} {name_or_path!r}; built in: "
        f"{', '.join(builtin_names(kind))}; or give the path of a .yaml file"
    )


def search_card(kind: Kind, name_or_path: str, beside: Path | None = None) -> Path | None:
    """Find the file of a card as `find_card` does; return None if no card has that name.

    Raises:
        UserError: a path leads to no file.
    """
    given = Path(name_or_path)
    if given.suffix in {".yaml", ".yml"}:
        from_beside = given if beside is None else beside.parent / given
        for path in (from_beside, given):
            if path.is_file():
                return path
        raise UserError(f"{from_beside}: no such file; check the path")
    files = (folder / f"{name_or_path}.yaml" for folder in _folders(kind, beside))
    return next((file for file in files if file.is_file()), None)


def _folders(kind: Kind, beside: Path | None) -> list[Path]:
    """Return the folders in which cards of a kind are searched, the user's folders first."""
    here = [] if beside is None else [beside.resolve().parent]
    if kind in ("models", "variants"):  # also known by their names alone, beside no plan
        here.append(Path.cwd())
    of_user = [folder / kind for one in here for folder in (one, one.parent)]
    return [*of_user, builtin_folder() / kind]


def load_plan(name_or_path: str) -> tuple[Plan, Path]:
    """Load a plan; return it with the path of its file."""
    path = find_card("plans", name_or_path)
    return _load(Plan, path), path


def load_model_card(name_or_path: str, beside: Path | None = None) -> ModelCard:
    """Load the card of a model.

    A model does not need a card to be evaluated.

    Raises:
        UserError: there is no such card, or it is not valid.
    """
    return _load(ModelCard, find_card("models", name_or_path, beside))


def load_policy(name_or_path: str) -> Policy:
    """Load a policy, the rules that a run must meet to pass."""
    return _load(Policy, find_card("policies", name_or_path))


def load_variant(path: Path) -> Variant:
    """Read the file of a variant; `variants.get_variant` finds one by name."""
    return _load(Variant, path)


def load_suite(name_or_path: str, beside: Path | None = None) -> Suite:
    """Load a suite; `tasks_dir` and `documents` are resolved against its file's folder."""
    path = find_card("suites", name_or_path, beside)
    suite = _load(Suite, path)
    if suite.documents is not None:
        file = (path.parent / suite.documents.file).resolve()
        if not file.is_file():
            raise UserError(
                f"{path}: documents: {file} is no file; give a path relative to the suite's file"
            )
        found = suite.documents.model_copy(update={"file": file})
        suite = suite.model_copy(update={"documents": found})
    if suite.tasks_dir is None:
        return suite
    folder = (path.parent / suite.tasks_dir).resolve()
    if not folder.is_dir():
        raise UserError(
            f"{path}: tasks_dir: {folder} is no folder; give a path relative to the suite's file"
        )
    return suite.model_copy(update={"tasks_dir": folder})


def _load(card: type[AnyCard], path: Path) -> AnyCard:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: a card is a mapping of keys to values; write `name: ...`")
    if None in content:
        raise UserError(
            f"{path}: a key is null, which YAML reads as nothing; variants have `zero_strength`"
        )
    try:
        return card.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(map(_describe, _causes(error.errors())))
        raise UserError(f"{path}: {faults}") from error


def _causes(faults: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the faults without "too short" of a list whose entries have faults."""
    return [
        one
        for one in faults
        if one["type"] != "too_short"
        or not any(other is not one and other["loc"][: len(one["loc"])] == one["loc"]
                   for other in faults)
    ]  # fmt: skip


def _key(part: str | int) -> str:
    """Return the text of a key, with line breaks and the like escaped."""
    return str(part) if str(part).isprintable() else repr(part)


def _describe(fault: ErrorDetails) -> str:
    where = ".".join(map(_key, fault["loc"])) or "the whole file"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing" or isinstance(fault["input"], dict):
        return f"{where}: {message}" if fault["loc"] else message
    return f"{where}: {message} (got {fault['input']!r:.60})"
