"""The rules of CONTRIBUTING.md that no linter knows."""

import ast
import importlib
import inspect
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dsmoe_eval"
# An import only points down this list; rooms on one line may not import each other.
ORDER = (
    ("__main__",),
    ("cli", "inspect_plugin", "schemas"),
    ("leaderboards",),
    ("reports",),
    ("studies", "adapters", "gates", "executors"),
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
    ("storage",),
    ("files",),
    ("progress",),
    ("log",),
    ("errors",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT = PACKAGE.parent
# Tests' helpers keep the package's limits; a test file is as long as what it states.
HELPERS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.name[:5] != "test_")
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
LONGEST_FILE, LONGEST_BENCHMARK, LONGEST_FUNCTION = 350, 400, 40
MOST_ANY = 250


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


@pytest.mark.parametrize(
    "path", [*FILES, *HELPERS, *BENCHMARKS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_and_functions_fit(path):
    longest = LONGEST_BENCHMARK if path in BENCHMARKS else LONGEST_FILE
    assert len(path.read_text().splitlines()) <= longest
    for name, length in _functions(path):
        assert length <= LONGEST_FUNCTION, f"{name} has {length} lines"


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in FILES}


def imported_modules(module):
    """Modules of ours that one imports, wherever in the file: of a package its own file."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(parts if node.level else ()), *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            yield from (n if n in MODULES else source for n in names if source in MODULES)


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: {*imported_modules(module)} - {module} for module in MODULES}
    assert sum(map(len, graph.values())) > len(MODULES)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def _public(nodes, of=""):
    """(name, node) of functions and classes without a leading underscore, of classes' methods."""
    for node in nodes:
        if isinstance(node, ast.If | ast.Try):
            yield from _public([*node.body, *node.orelse], of)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not node.name.startswith("_"):
            yield of + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{node.name}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_are_documented_and_typed(path):
    for name, node in _public(ast.parse(path.read_text()).body):
        overrides = {getattr(one, "id", None) for one in node.decorator_list}
        assert ast.get_docstring(node) or "overload" in overrides, f"{name} has no docstring"
        if isinstance(node, ast.ClassDef):
            continue
        said = node.args
        given = [*said.posonlyargs, *said.args, *said.kwonlyargs, said.vararg, said.kwarg]
        bare = [one.arg for one in given if one and one.annotation is None]
        assert not {*bare} - {"self", "cls"}, f"{name}: {bare} have no type"
        assert node.returns is not None, f"{name} does not say what it returns"


@pytest.mark.parametrize(
    "module", sorted(m for m, path in MODULES.items() if "__all__" in path.read_text())
)
def test_exported_names_are_there_and_documented(module):
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(set(found.__all__))
    for name in found.__all__:
        thing = getattr(found, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), f"{module}.{name} has no docstring"


def test_any_stays_at_the_border_of_untyped_libraries():
    words = {path: len(re.findall(r"\bAny\b", path.read_text())) for path in FILES}
    most = sorted(words.items(), key=lambda one: -one[1])[:9]
    assert sum(words.values()) <= MOST_ANY, [f"{n} {p.relative_to(ROOT)}" for p, n in most]


def test_modules_have_their_tests():
    """Tests mirror the package: a module's tests stand at the same place under tests/."""
    tests = PACKAGE.parent / "tests"
    stated_elsewhere = {
        "steering/errors.py", "steering/router_patch.py", "steering/routers.py",
        "steering/capture.py", "steering/router_source.py", "experts/tokenizer.py",
        "tasks/language_model.py",
        "engines/vllm/faults.py", "engines/vllm/facts.py",
        "cli/main.py", "cli/experts.py", "cli/models.py", "cli/listing.py",
        "runs/job.py", "runs/options.py", "runs/routed.py", "reports/run_pictures.py",
        "reports/study_figures.py", "studies/results.py",
        "studies/influence_results.py", "studies/map_results.py", "studies/simsmoe_results.py",
        "leaderboards/board_tables.py",
        "results/terms.py", "errors.py", "__main__.py",
    }  # fmt: skip
    missing = {name for name in stated_elsewhere if not (PACKAGE / name).is_file()}
    tested = {
        n for n in stated_elsewhere if (tests / n).with_name(f"test_{Path(n).name}").is_file()
    }
    assert not missing | tested, "take these off the list"
    for path in FILES:
        name = path.relative_to(PACKAGE)
        if path.name == "__init__.py" or str(name) in stated_elsewhere:
            continue
        assert (tests / name.parent / f"test_{path.name}").is_file(), f"no test for {name}"
