"""Finds declarations by name or by path: built in, or in the user's own folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import yaml
from pydantic import ValidationError

from .cards import Card, ModelCard, Plan, Policy, Suite, Variant
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
    """The folder of the built-in cards: inside an installed package, or at the repository's top."""
    inside = _PACKAGE / "benchmarks"
    return inside if inside.is_dir() else _PACKAGE.parent / "benchmarks"


def builtin_names(kind: Kind) -> tuple[str, ...]:
    """Names of the built-in cards of one kind."""
    return tuple(sorted(path.stem for path in (builtin_folder() / kind).glob("*.yaml")))


def find_card(kind: Kind, name_or_path: str, beside: Path | None = None) -> Path:
    """The file of a card: a path, a name in a `kind` folder near `beside`, or a built-in name.

    A path is one from the folder of `beside`, or else from where we are.

    Raises:
        UserError: nothing of that name; the message lists what there is.
    """
    path = search_card(kind, name_or_path, beside)
    if path is not None:
        return path
    raise UserError(
        f"no {_SINGULAR[kind]} {name_or_path!r}; built in: "
        f"{', '.join(builtin_names(kind))}; or give the path of a .yaml file"
    )


def search_card(kind: Kind, name_or_path: str, beside: Path | None = None) -> Path | None:
    """Return what `find_card` does, or None where nothing has that name.

    Raises:
        UserError: a path leads to no file.
    """
    given = Path(name_or_path)
    if given.suffix in {".yaml", ".yml"}:
        near = given if beside is None else beside.parent / given
        for path in (near, given):
            if path.is_file():
                return path
        raise UserError(f"{near}: no such file")
    files = (folder / f"{name_or_path}.yaml" for folder in _folders(kind, beside))
    return next((file for file in files if file.is_file()), None)


def _folders(kind: Kind, beside: Path | None) -> list[Path]:
    """Return where cards of a kind are looked for, a user's own folders first."""
    here = [] if beside is None else [beside.resolve().parent]
    if kind == "variants":  # results have their names alone, and lie beside no plan
        here.append(Path.cwd())
    own = [folder / kind for one in here for folder in (one, one.parent)]
    return [*own, builtin_folder() / kind]


def load_plan(name_or_path: str) -> tuple[Plan, Path]:
    """A plan and the file it came from."""
    path = find_card("plans", name_or_path)
    return _load(Plan, path), path


def load_model_card(name_or_path: str, beside: Path | None = None) -> ModelCard:
    """What is known of a model; a model may well have no card."""
    return _load(ModelCard, find_card("models", name_or_path, beside))


def load_policy(name_or_path: str) -> Policy:
    """What a run must show to pass."""
    return _load(Policy, find_card("policies", name_or_path))


def load_variant(path: Path) -> Variant:
    """Read the file of a variant; `variants.get_variant` finds one by name."""
    return _load(Variant, path)


def load_suite(name_or_path: str, beside: Path | None = None) -> Suite:
    """A suite, its `tasks_dir` made absolute against the suite's own folder."""
    path = find_card("suites", name_or_path, beside)
    suite = _load(Suite, path)
    if suite.tasks_dir is None:
        return suite
    folder = (path.parent / suite.tasks_dir).resolve()
    if not folder.is_dir():
        raise UserError(f"{path}: tasks_dir: {folder} is no folder")
    return suite.model_copy(update={"tasks_dir": folder})


def _load(card: type[AnyCard], path: Path) -> AnyCard:
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a card is a mapping of keys to values")
    if None in content:
        raise UserError(f'{path}: YAML reads a bare null as nothing; write the key as "null"')
    try:
        return card.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(_describe(fault) for fault in error.errors()[:3])
        raise UserError(f"{path}: {faults}") from error


def _describe(fault: ErrorDetails) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "the whole file"
    given = "" if fault["type"] == "missing" else f" (got {fault['input']!r:.60})"
    return f"{where}: {fault['msg']}{given}"
