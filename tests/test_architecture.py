"""The rules of CONTRIBUTING.md that no linter knows."""

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dsmoe_eval"
# An import only points down this list; rooms on one line may not import each other.
ORDER = (
    ("__main__",),
    ("cli", "inspect_plugin", "schemas"),
    ("leaderboards",),
    ("reports",),
    ("studies", "adapters", "gates"),
    ("comparison",),
    ("runs",),
    ("results",),
    ("stats", "variants"),
    ("engines",),
    ("models", "tasks"),
    ("experts",),
    ("steering", "lab"),
    ("registry",),
    ("cards",),
    ("files",),
    ("progress",),
    ("log",),
    ("errors",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 50


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, wherever in the file, `from ..room import x` or in full."""
    rooms = set()
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            rooms |= {name.split(".")[0] for name in names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            rooms |= {n.split(".")[1] for n in names if n.startswith("dsmoe_eval.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        assert RANK[other] > RANK[room], f"{room} imports {other}, which is not below it"


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("room", ["steering", "experts", "stats"])
def test_the_cores_need_nothing_of_the_harness(room):
    allowed = {"steering": set(), "experts": {"steering"}, "stats": set()}[room]
    for path in (PACKAGE / room).rglob("*.py"):
        assert imported_rooms(path) - {room} <= allowed, path


def test_stats_know_no_torch():
    for path in (PACKAGE / "stats").rglob("*.py"):
        assert "torch" not in path.read_text()


def _functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = first.end_lineno - first.lineno + 1 if is_doc else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_fit(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    for name, length in _functions(path):
        assert length <= LONGEST_FUNCTION, f"{name} has {length} lines"


@pytest.mark.parametrize(
    "face",
    ["", ".steering", ".experts", ".stats", ".variants", ".engines", ".runs", ".reports", ".gates"],
)
def test_exported_names_are_there_and_documented(face):
    module = importlib.import_module(f"dsmoe_eval{face}")
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), f"{face}.{name} has no docstring"


def test_modules_have_their_tests():
    """Tests mirror the package: a module's tests stand at the same place under tests/."""
    tests = PACKAGE.parent / "tests"
    stated_elsewhere = {
        "steering/errors.py", "steering/router_patch.py", "steering/routers.py",
        "steering/capture.py", "experts/tokenizer.py", "engines/load.py", "engines/requests.py",
        "engines/transformers/engine.py", "tasks/language_model.py",
        "engines/vllm/faults.py", "engines/vllm/launch.py",
        "cli/main.py", "cli/runs.py", "cli/experts.py", "cli/models.py", "cli/listing.py",
        "runs/job.py", "runs/options.py", "runs/plan_checks.py", "runs/run.py",
        "results/cells.py", "tasks/splits.py", "reports/tables.py", "reports/figures.py",
        "errors.py", "__main__.py",
    }  # fmt: skip
    for path in FILES:
        name = path.relative_to(PACKAGE)
        if path.name == "__init__.py" or str(name) in stated_elsewhere:
            continue
        assert (tests / name.parent / f"test_{path.name}").is_file(), f"no test for {name}"
