"""Models one after the other; shards of a run at once, some of them killed."""

import io
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors import local
from dsmoe_eval.executors.base import Matrix
from dsmoe_eval.executors.local import LocalExecutor
from dsmoe_eval.registry import find_card
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.manifest import TWICE
from dsmoe_eval.runs import RunOptions, run
from dsmoe_eval.runs.leases import RunPart, Shard
from dsmoe_eval.runs.options import AS_PLANNED
from dsmoe_eval.runs.run import run_with

QUIET = Console(quiet=True)
OPTIONS = RunOptions(limit=4, device="cpu")


@pytest.fixture
def started(monkeypatch):
    """The runs that an executor starts, of which that of the model `bad` fails."""
    runs = []

    def start(plan, root, options, console, part):
        runs.append((plan, root, options.model, part))
        if options.model == "bad":
            raise UserError("a sentence")

    monkeypatch.setattr(local, "run_with", start)
    return runs


def test_a_model_that_fails_does_not_stop_the_others(started, tmp_path):
    said, finished = io.StringIO(), []
    matrix = Matrix("paper", tmp_path, ("a/b", "bad", "c"), AS_PLANNED)
    failures = LocalExecutor().run(
        matrix, lambda *one: finished.append(one), Console(file=said, width=200)
    )
    assert failures == {"bad": "a sentence"}
    assert finished == [("a/b", tmp_path / "a--b"), ("c", tmp_path / "c")]
    assert [one[2:] for one in started] == [("a/b", None), ("bad", None), ("c", None)]
    assert said.getvalue() == "dsmoe-eval: model 'bad': a sentence\n"


@pytest.mark.usefixtures("started")
def test_the_error_of_a_single_model_is_raised(tmp_path):
    with pytest.raises(UserError, match=r"^a sentence$"):
        LocalExecutor().run(Matrix("lab", tmp_path, ("bad",), AS_PLANNED), print, QUIET)


def test_a_shard_is_a_part_of_every_run(started, tmp_path):
    shard = Shard(2, 4)
    LocalExecutor(shard).run(
        Matrix("paper", tmp_path, ("a", "b"), AS_PLANNED), lambda *_: None, QUIET
    )
    assert [one[3] for one in started] == [RunPart("shard-2-of-4", shard=shard)] * 2


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two targets, two arms each, few settings to try."""
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"targets": ["math", "biology"], "variants": ["base", "contrast"], "sft": None}
    plan |= {"tuning": {"expert_counts": [4, 8], "strengths": {"bias": [1.0]}}}
    path = tmp_path_factory.mktemp("plan") / "small.yaml"
    path.write_text(yaml.safe_dump(plan))
    return str(path)


@pytest.fixture(scope="module")
def plain(plan, tmp_path_factory):
    """The same by one process."""
    root = tmp_path_factory.mktemp("runs") / "plain"
    return run(plan, root, limit=OPTIONS.limit, device="cpu", console=QUIET)


@pytest.fixture(scope="module")
def processes():
    """Makes processes, forked off one that has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dsmoe_eval.runs.run", "dsmoe_eval.engines.transformers.lm"])
    return context


@pytest.fixture
def shards(plan, processes, tmp_path):
    """`shards(1, 4)` starts a shard of a run, of which the folder is `shards.root`."""
    begun = []

    def start(index, of):
        shard = Shard(index, of)
        part = RunPart(shard.worker, shard=shard)
        process = processes.Process(target=run_with, args=(plan, start.root, OPTIONS, None, part))
        process.start()
        begun.append(process)
        return process

    start.root = tmp_path / "run"
    yield start
    for process in begun:
        process.kill()
        process.join()


def wait_for(what, *running):
    while not what():
        assert any(process.is_alive() for process in running), "all have ended"
        time.sleep(0.005)


def files(root):
    """The files of a run, but for its log's content and where they are: those of any start."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def count(root):
    """The number of files so far; os.walk, unlike rglob, bears folders that vanish."""
    return sum(len(names) for _, _, names in os.walk(root))


def check_result(plan, root, plain, killed):
    """Compare, and check that the folder is that of one process, nothing done twice in it."""
    folder = run(plan, root, limit=OPTIONS.limit, device="cpu", console=QUIET)
    assert folder.comparisons.read_bytes() == plain.comparisons.read_bytes()
    assert files(root) == files(plain.root)
    rows = [json.loads(line) for line in folder.log.read_text().splitlines()]
    messages = Counter(row["message"] for row in rows)
    done = Counter(row["fields"]["cell"] for row in rows if row["message"] == "cell done")
    cells = {path.name for path in root.glob("cells/*")}
    assert set(done) <= cells
    assert len(cells) - killed <= len(done)  # a kill between a cell and the log's line of it
    assert set(done.values()) == {1}
    assert messages[TWICE] == 0


def is_begun(root, of):
    locks = [root / f".lock-{index}-of-{of}" for index in range(1, of + 1)]
    return (root / "run.json").is_file() and all(path.exists() for path in locks)


@pytest.mark.slow
def test_shards_at_once_one_killed_and_started_again(plan, plain, shards):
    first, second = shards(1, 2), shards(2, 2)
    wait_for(lambda: is_begun(shards.root, 2), first, second)
    works = r"process \d+ on \S+ works in this folder; wait until it has ended"
    with pytest.raises(UserError, match=works):
        run_with(plan, shards.root, OPTIONS, QUIET, RunPart("shard-2-of-2", shard=Shard(2, 2)))
    with pytest.raises(UserError, match=works):
        run(plan, shards.root, limit=OPTIONS.limit, device="cpu", console=QUIET)
    mine = Shard(1, 2)
    wait_for(lambda: any(mine.has(cell.name) for cell in shards.root.glob("cells/*")), first)
    first.kill()
    first.join()
    assert first.exitcode == -signal.SIGKILL
    again = shards(1, 2)
    for process in (second, again):
        process.join()
        assert process.exitcode == 0
    assert not RunFolder(shards.root).comparisons.exists()
    check_result(plan, shards.root, plain, killed=1)


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_shards_two_killed_at_random_moments(plan, plain, shards, seed):
    draw = random.Random(seed)
    running = {index: shards(index, 4) for index in range(1, 5)}
    for index in draw.sample(range(1, 5), 2):
        number = draw.randrange(1, 60)  # of some 80 files
        # Under load a shard may end before the others have made so many.
        while running[index].is_alive() and count(shards.root) < number:
            time.sleep(0.005)
        running[index].kill()
        running[index].join()
        running[index] = shards(index, 4)
    for process in running.values():
        process.join()
        assert process.exitcode == 0
    check_result(plan, shards.root, plain, killed=2)


def test_a_shard_of_a_folder_with_something_else_is_refused(plan, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run_with(plan, tmp_path, OPTIONS, QUIET, RunPart("shard-1-of-2", shard=Shard(1, 2)))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["notes.txt"]
