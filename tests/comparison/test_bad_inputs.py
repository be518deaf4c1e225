"""Every refusal of `compare`: its message names the object and the way out, and can be reached.

A row is a bad input with what its message must contain: the name of the file, column or item that
is wrong, and the way out. `test_every_refusal_has_a_row` holds the rows against the source.
"""

import ast
import gzip
import json
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from inspect_ai import Task, eval  # noqa: A004
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, includes
from inspect_ai.solver import solver

import dsmoe_eval.comparison
from dsmoe_eval.comparison import Selection, compare, read_results
from dsmoe_eval.errors import UserError
from dsmoe_eval.results.cells import identity_id

from ..gates.conftest import whole_result
from ..recorded import record

ROOM = Path(dsmoe_eval.comparison.__file__).parent
OF_RUNS = {ROOM / f"{name}.py" for name in ("checkpoint_runs", "regression", "routing_agreement")}
"""Their inputs are finished runs, with which their tests try every refusal."""
READERS = "dsmoe_eval.comparison.readers"
S = Selection


@solver
def says_the_same():
    async def solve(state, generate):
        state.output = ModelOutput.from_content("none", "yes")
        return state

    return solve


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    task = Task(name="t", dataset=[Sample(id="s1", input="why?", target="yes")],
                solver=says_the_same(), scorer=includes())  # fmt: skip
    (written,) = eval(task, model="none/none", display="none", log_dir=str(folder))
    return Path(written.location.removeprefix("file://"))


@dataclass
class Box:
    """A folder in which bad inputs are made."""

    root: Path
    patch: pytest.MonkeyPatch
    log: Path

    def file(self, name, content=""):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def rows(self, name, *rows):
        return self.file(name, "".join(json.dumps(row) + "\n" for row in rows))

    def gold(self, **changes):
        """Read the log-probability of a sample of two options, the first of which is right."""
        scored = {"arguments": [["q", " yes"], ["q", " no"]], "target": 0, "acc": 1.0}
        scored["filtered_resps"] = [[-1.0, True], [-2.0, False]]
        file = self.rows("s.jsonl", sample(**scored | changes))
        return read_results(file, S(metric="gold_logprob"))

    def limit(self, name, value):
        self.patch.setattr(f"{READERS}.{name}", value)

    def scored(self, value):
        """An Inspect log with another score."""
        changed = read_eval_log(str(self.log))
        changed.samples[0].scores = {} if value is None else {"s": Score(value=value)}
        path = self.root / "x.eval"
        write_eval_log(changed, str(path))
        return path

    def zip(self, *names):
        path = self.root / "x.eval"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                archive.writestr(name, "content")
        return path

    def cell(self, cell=None, identity=None, samples=None):
        """A cell of one item, with parts replaced."""
        about = {"identity": identity or {"task": "t"}, "items": 1}
        about["id"] = identity_id(about["identity"])
        about |= cell or {}
        folder = f"run/cells/{about['id']}"
        self.file(f"{folder}/cell.json", json.dumps(about))
        frame = pd.DataFrame({"item": ["i"], "task": "t", "domain": "d", "question": "q",
                              "gold": "g", "score": [1.0]})  # fmt: skip
        (frame if samples is None else samples(frame)).to_parquet(
            self.root / folder / "samples.parquet"
        )
        return record(self.root / "run") / "cells" / about["id"]

    def run(self):
        """A run of one variant and two targets, without cells."""
        data = whole_result() | {"variants": ["dsmoe"], "targets": ["x", "y"]}
        base, arm = data["base"][0], data["arms"][0]
        data["base"] = [base | {"task": t, "cell": c * 16} for t, c in zip("xy", "ab", strict=True)]
        data["arms"] = [
            arm | {
                "variant": "dsmoe", "target": target,
                "cells": {"x": "c" * 16, "y": "d" * 16},
                "domains": [arm["domains"][0] | {"task": other}],
            }
            for target, other in ("xy", "yx")
        ]  # fmt: skip
        return record(self.file("run/comparisons.json", json.dumps(data)).parent)


def sample(**more):
    """A sample of lm-eval."""
    row = {"doc_id": 0, "doc": {"question": "why?"}, "target": "a", "resps": [], "acc": 1.0}
    return row | {"filter": "none", "metrics": ["acc"]} | more


def table(box, name="t.csv", text="item,score\na,1\n", selection=None):
    return read_results(box.file(name, text), selection)


def flipped(box):
    path = box.zip("a")
    path.write_bytes(path.read_bytes().replace(b"content", b"contend", 1))
    return path


def joined(box, items, **selection):
    path = box.file("items.csv", items)
    return table(box, text="q,score\na,1\n", selection=S(items=path, **selection))


def two(box, a, b, selection=None):
    return compare(box.rows("a.jsonl", *a), box.rows("b.jsonl", *b), selection)


def out_of_memory(*_):
    raise MemoryError


Q = {"question": "why?", "gold": "g", "score": 1}
ITEM = {"item": "i", "score": 1}
BAD: dict[str, tuple[Callable[[Box], object], str, str]] = {
    "margin": (lambda _: compare("x", "y", margin=0), "--margin is 0", "give a fraction"),
    # --- pairing ---
    "other tasks": (
        lambda b: two(b, [ITEM | {"task": t} for t in "tu"], [ITEM | {"task": t} for t in "vw"]),
        "'t', 'u'", "--task",
    ),
    "other metrics": (
        lambda b: two(b, [ITEM | {"metric": "acc"}], [ITEM | {"metric": "f1"}]),
        "metric 'acc'", "--metric",
    ),
    "other prompts": (
        lambda b: compare(b.cell(), other_prompts(b)), "1 examples", "--id id",
    ),
    "one without questions": (lambda b: two(b, [Q], [ITEM]), "b.jsonl", "--id COLUMN"),
    "no item in common": (lambda b: two(b, [ITEM], [ITEM | {"item": "x"}]), "'i'", "with --id"),
    "no content in common": (
        lambda b: two(b, [Q], [Q | {"question": "how?"}]), "share no item", "--id COLUMN",
    ),
    "same ids, other content": (
        lambda b: two(b, [Q | {"item": "0"}], [Q | {"item": "0", "question": "how?", "gold": "h"}]),
        "1 ids are in both, such as '0'", "--id item",
    ),
    "other right answers": (
        lambda b: two(b, [Q], [Q | {"gold": "h"}]), "another right answer", "same revision",
    ),
    # --- what a path names ---
    "sums": (lambda b: table(b, "results_x.json", "{}"), "results_x.json", "--log_samples"),
    "a log's part": (lambda b: read_results(f"{b.log}:x"), ".eval: takes no ':x'", "leave it out"),
    "unknown kind": (lambda b: table(b, "t.txt", "x"), "t.txt", "(.eval, .json) or a table"),
    "impossible name": (lambda _: read_results("a" * 5000), "'aaaa", "check the path"),
    "no such file": (lambda b: read_results(b.root / "none.csv"), "none.csv", "check the path"),
    "a folder of logs": (
        lambda b: (b.file("logs/y.eval", "y"), read_results(b.file("logs/x.eval", "x").parent)),
        "holds 2 Inspect logs", "x.eval",
    ),
    "no run": (lambda b: read_results(f"{b.root}:base"), "'base'", "name the run's folder"),
    "an empty folder": (lambda b: read_results(b.root), "neither a finished run", "--log_samples"),
    # --- answers and names ---
    "no right answer": (
        lambda b: table(b, text="item,gold,score\na,,x\n", selection=S(gold="gold")),
        "row 1", "--gold",
    ),
    "marks": (
        lambda b: table(b, text="item,gold,score\na,x,None\n", selection=S(gold="gold")),
        "'None'", "--missing-value None",
    ),
    "names beyond 2^53": (
        lambda _: read_results(pd.DataFrame({"item": [1e17], "score": 1})), "'item'", "integers",
    ),
    # --- files ---
    "a pipe": (
        lambda b: (os.mkfifo(b.root / "p.csv"), read_results(b.root / "p.csv")),
        "p.csv: is not a regular file", "give the path",
    ),
    "empty": (lambda b: table(b, text=""), "t.csv: the file is empty", "write it again"),
    "too large": (
        lambda b: (b.limit("files.MOST_BYTES", 3), table(b)), "t.csv", "split it by task",
    ),
    "UTF-16": (
        lambda b: table(b, text="item,score\na,1\n".encode("utf-16-le")), "NUL bytes", "as UTF-8",
    ),
    "too many lines": (
        lambda b: (b.limit("files.MOST_ROWS", 1), b.rows("t.jsonl", ITEM, ITEM | {"item": "j"}),
                   read_results(b.root / "t.jsonl")),
        "more than 1 lines", "split it by task",
    ),
    "a long list": (
        lambda b: (b.limit("files.LONGEST_LIST", 9), table(b, "t.json", json.dumps([ITEM]))),
        "t.json", "one record per line",
    ),
    "deep JSON": (
        lambda b: table(b, "t.jsonl", '{"a":' * 200_000), "t.jsonl, line 1", "write",
    ),
    "no JSON": (lambda b: table(b, "t.jsonl", "{}\n{x\n"), "t.jsonl, line 2", "write it again"),
    "no object": (lambda b: table(b, "t.jsonl", "{}\n[1]\n"), "t.jsonl, line 2", "one object per"),
    "no objects": (lambda b: table(b, "t.json", "[1]"), "t.json, record 1", "one list of objects"),
    "a long line": (
        lambda b: (b.limit("files.LONGEST_LINE", 5), b.rows("t.jsonl", ITEM),
                   read_results(b.root / "t.jsonl")),
        "t.jsonl, line 1", "one record per line",
    ),
    "cut off in the middle": (
        lambda b: table(b, "t.jsonl.gz", gzip.compress(
            "".join(json.dumps(ITEM | {"item": i}) + "\n" for i in range(50_000)).encode())[:50_000]
        ),
        "t.jsonl.gz: cannot be read after line", "write it again",
    ),
    "no gzip": (lambda b: table(b, "t.jsonl.gz", "{}"), "t.jsonl.gz: cannot be read", "write it"),
    "out of memory": (
        lambda b: (b.limit("table_files._load_csv", out_of_memory), table(b)),
        "t.csv: does not fit into memory", "split it by task",
    ),
    "no Parquet": (lambda b: table(b, "t.parquet", "x" * 99), "t.parquet", "write it again"),
    "Latin-1": (
        lambda b: table(b, text=b"item,score\n\xe9,1\n"), "t.csv: cannot be read", "as UTF-8",
    ),
    # --- Inspect ---
    "no Inspect": (
        lambda b: (b.patch.setitem(sys.modules, "inspect_ai.log", None),
                   read_results(b.log)),
        "Inspect is not installed", "pip install",
    ),
    "large JSON": (
        lambda b: (b.limit("inspect_logs._LARGEST_JSON", 1), table(b, "x.json", "{} ")),
        "x.json", "inspect log convert",
    ),
    "a zip bomb": (
        lambda b: (b.limit("inspect_logs.MOST_BYTES", 1), read_results(b.zip("a"))),
        "x.eval: unpacks to more", "split it by task",
    ),
    "a name twice": (lambda b: read_results(b.zip("a", "a")), "'a' twice", "write the log again"),
    "a flipped bit": (lambda b: read_results(flipped(b)), "x.eval: a is damaged", "log again"),
    "another task": (lambda b: read_results(b.log, S(task="u")), "'t', not 'u'", "leave out"),
    "no score": (lambda b: read_results(b.scored(None)), "x.eval", "inspect score"),
    "several scores": (
        lambda b: read_results(b.scored({"u": 1, "v": 0})), "x.eval", "--metric s/u or s/v",
    ),
    "no such score": (
        lambda b: read_results(b.log, S(metric="x")), "no score 'x'", "'includes' with --metric",
    ),
    "a list as score": (lambda b: read_results(b.scored([1])), "sample 's1'", "another --metric"),
    "a word as score": (lambda b: read_results(b.scored("maybe")), "'maybe'", "another --metric"),
    "no such metadata": (
        lambda b: read_results(b.log, S(domain="x")), "sample 's1' has no 'x'", "name one of id",
    ),
    # --- lm-eval ---
    "two models": (
        lambda b: ([b.rows(f"{m}/samples_t_2025-01-01T00-00-00.0.jsonl", sample()) for m in "ab"],
                   read_results(b.root)),
        "2 models' results", "name one: ",
    ),
    "no such task": (
        lambda b: (b.rows("a/samples_t_2025-01-01T00-00-00.0.jsonl", sample()),
                   read_results(b.root, S(task="u"))),
        "no task 'u'", "'t' with --task",
    ),
    "no such filter": (
        lambda b: read_results(b.rows("s.jsonl", sample()), S(filter="x")),
        "s.jsonl: holds no sample of filter 'x'", "'none' with --filter",
    ),
    "no sample": (
        lambda b: read_results(b.rows("s.jsonl", sample(), {"a": 1})), "s.jsonl, line 2", "remove",
    ),
    "several filters": (
        lambda b: read_results(b.rows("s.jsonl", sample(), sample(filter="x"))),
        "s.jsonl: several filters", "--filter none or x",
    ),
    "filters without a name": (
        lambda b: read_results(b.rows("s.jsonl", *(
            {k: v for k, v in sample(acc=acc).items() if k != "filter"} for acc in (0.0, 1.0)
        ))),
        "s.jsonl: 2 scores per document", "--filter 1 or --filter 2",
    ),
    "no metric": (
        lambda b: read_results(b.rows("s.jsonl", sample(metrics=[], acc="x"))),
        "s.jsonl, line 1: no metric", "choose a task",
    ),
    "no options": (lambda b: b.gold(arguments=[["q", " yes"]]), "line 1", "choose a task that"),
    "no right option": (lambda b: b.gold(target=7), "target '7'", "another --metric"),
    "another accuracy": (lambda b: b.gold(acc=0.0), "acc is 0.0", "another --metric"),
    "no text": (
        lambda b: read_results(b.rows("s.jsonl", sample()), S(metric="bits_per_byte")),
        "line 1: bits_per_byte is None", "choose a task of whole texts",
    ),
    "a text without bytes": (
        lambda b: read_results(b.rows("s.jsonl", sample(bits_per_byte=[-1.0, 0])),
                               S(metric="bits_per_byte")),
        "line 1", "remove the line",
    ),
    "a run without texts": (
        lambda b: read_results(f"{b.run()}:base", S(metric="bits_per_byte")),
        "no task of its suite", "another --metric",
    ),
    "a cell of texts": (
        lambda b: read_results(b.cell(samples=lambda frame: frame.assign(loglikelihood=-1.0))),
        "a cell of texts", "--metric bits_per_byte",
    ),
    "a cell without the outcome": (
        lambda b: read_results(b.cell(), S(metric="gold_logprob")),
        "task t has no gold_logprob", "another --metric",
    ),
    "other bytes": (
        lambda b: compare(*(b.rows(f"{n}.jsonl", sample(bits_per_byte=[-1.0, n])) for n in (4, 5)),
                          S(metric="bits_per_byte")),
        "4.jsonl", "one version of the task",
    ),
    "less is better": (
        lambda b: read_results(b.rows("s.jsonl", sample()), S(metric="ter")), "ter", "--metric",
    ),
    "no such metric": (
        lambda b: read_results(b.rows("s.jsonl", sample()), S(metric="x")), "'x'", "one of 'acc'",
    ),
    "a metric without numbers": (
        lambda b: read_results(b.rows("s.jsonl", sample(acc=[1]))), "acc is [1]", "--metric",
    ),
    "no such column of doc": (
        lambda b: read_results(b.rows("s.jsonl", sample()), S(id="x")), "no 'x'", "name one of",
    ),
    # --- our runs ---
    "a run alone": (lambda b: read_results(b.run()), "run: a run", ":base"),
    "several targets": (lambda b: read_results(f"{b.run()}:dsmoe"), "'dsmoe'", "dsmoe:x"),
    "another cell's identity": (
        lambda b: read_results(b.cell(cell={"identity": {"task": "u"}})),
        "cell.json", "remove its folder and run again",
    ),
    "samples lack": (
        lambda b: read_results(b.cell(samples=lambda f: f.drop(columns="gold"))),
        "'gold'", "run it again",
    ),
    "items lack": (
        lambda b: read_results(b.cell(cell={"identity": {"task": "t"}, "items": 2})),
        "1 of 2 items", "run again",
    ),
    "no task in a run": (lambda b: read_results(b.cell(), S(task="u")), "'u'", "task"),
    "no column in a cell": (
        lambda b: read_results(b.cell(), S(domain="x")), "no column 'x'", "item, task",
    ),
    # --- rows ---
    "no row": (lambda b: table(b, text="item,score\n"), "t.csv", "name another file"),
    "NaN": (
        lambda b: read_results(b.rows("s.jsonl", sample(acc=float("nan")))), "item '0'", "score",
    ),
    "an item twice": (
        lambda b: table(b, text="item,score\na,1\na,0\n"), "rows 1 and 2) for item 'a'", "--sample",
    ),
    "an item of lm-eval twice": (
        lambda b: read_results(b.rows("s.jsonl", sample(), sample())), "for item '0'", "--id",
    ),
    "samples of other items": (
        lambda b: table(b, text="item,sample,domain,score\na,0,x,1\na,1,y,0\n"),
        "item 'a' differ in domain", "--id",
    ),
    # --- tables ---
    "a column twice": (lambda b: table(b, text="item,score,score\na,1,1\n"), "'score'", "rename"),
    "too many rows": (
        lambda b: (b.limit("table_files.MOST_ROWS", 0), table(b)), "t.csv", "split it by task",
    ),
    "match without gold": (lambda b: table(b, selection=S(match="number")), "--match", "--gold"),
    "no such column": (
        lambda b: table(b, selection=S(cluster="x")), "t.csv: no column 'x'", "item, score",
    ),
    "no score column": (lambda b: table(b, text="item,M\na,1\n"), "'score'", "FILE:COLUMN"),
    "no item column": (lambda b: table(b, text="q,score\na,1\n"), "'item'", "--id, one of q"),
    "no item in a row": (lambda b: table(b, text="item,score\n,1\n"), "row 1", "--id"),
    "items without the key": (
        lambda b: joined(b, "x,topic\na,law\n", id="q", domain="topic"), "items.csv: no column 'q'",
        "one of x, topic",
    ),
    "items twice": (
        lambda b: joined(b, "q,topic\na,law\na,law\n", id="q", domain="topic"), "item 'a'", "--id",
    ),
    "items lack some": (
        lambda b: joined(b, "q,topic\nb,law\n", id="q", domain="topic"), "'a'", "another --id",
    ),
    "no such metric of a table": (
        lambda b: table(b, text="item,metric,score\na,m,1\n", selection=S(metric="x")),
        "no metric 'x'", "'m' with --metric",
    ),
    "several metrics": (
        lambda b: table(b, text="item,metric,score\na,m,1\na,n,1\n"), "2 metrics", "--metric m or",
    ),
    "a word in the scores": (
        lambda b: table(b, text="item,score\na,yes\n"), "row 1 ('yes')", "--missing-value yes",
    ),
    "an empty score": (
        lambda b: table(b, text="item,score\na,\n"), "row 1 (empty)", "--missing-value ''",
    ),
}  # fmt: skip


def other_prompts(box):
    """The same run with another number of few-shot examples, beside the first."""
    box.root = box.root / "other"
    return box.cell(identity={"task": "t", "few_shot": 1})


def refused(row, root, log):
    """The error of a row; anything else raised, or nothing, fails the test."""
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        BAD[row][0](Box(root, patch, log))
    return caught.value


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("row", BAD)
def test_case_04_a_refusal_names_the_object_and_the_way_out(tmp_path, log, row):
    message = str(refused(row, tmp_path / "box", log))
    _, name, way_out = BAD[row]
    assert name in message
    assert way_out in message
    assert "\n" not in message


def raised_at(error):
    """File and line of the innermost frame, if it is in comparison/."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename), trace.tb_lineno


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_case_04_every_refusal_has_a_row(tmp_path, log):
    reached = {raised_at(refused(row, tmp_path / str(n), log)) for n, row in enumerate(BAD)}
    for path in sorted(set(ROOM.rglob("*.py")) - OF_RUNS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                lines = range(node.lineno, node.end_lineno + 1)
                assert any((path, line) in reached for line in lines), f"{path}:{node.lineno}"
