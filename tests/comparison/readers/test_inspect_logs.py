"""Inspect's logs: real ones of other people, and ours."""

import math
import shutil
import zipfile
from pathlib import Path

import pytest
from inspect_ai import Task, eval  # noqa: A004
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalPlanStep, read_eval_log, write_eval_log
from inspect_ai.model import GenerateConfig, ModelOutput
from inspect_ai.scorer import Score, includes, value_to_float
from inspect_ai.solver import solver

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.compare import compare
from dsmoe_eval.comparison.pairing import pair
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.errors import UserError

from ...conftest import FEW_ROWS

REAL = FEW_ROWS / "inspect_ai"
LONG = "word " * 400


@solver
def says_the_same():
    async def solve(state, generate):
        state.output = ModelOutput.from_content("none", "Default output")
        return state

    return solve


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Without a model, the same is said to all; three items, two epochs; and copies."""

    folder = tmp_path_factory.mktemp("logs")
    samples = [
        Sample(id=i, input=f"{LONG}{i}?", target=t, metadata={"domain": d, "topic": t})
        for i, t, d in ((1, "Default", "law"), (2, "no", "law"), (3, "output", "math"))
    ]
    task = Task(name="t", dataset=samples, solver=says_the_same(), scorer=includes(), epochs=2)
    (log,) = eval(task, model="none/none", display="none", log_dir=str(folder))
    plain = Path(log.location.removeprefix("file://"))

    def changed(name, change):
        log = read_eval_log(str(plain))
        change(log)
        write_eval_log(log, str(folder / name))
        return folder / name

    def ask_otherwise(log):
        step = EvalPlanStep(solver="prompt_template", params={"template": "Think. {prompt}"})
        log.plan.steps.insert(0, step)

    def score_twice(log):
        for sample in log.samples:
            right = float(sample.scores["includes"].value == "C")
            sample.scores = {"two_values": Score(value={"right": right, "half": right / 2})}

    return {
        "plain": plain,
        "prompted": changed("prompted.eval", ask_otherwise),
        "two": changed("two.eval", score_twice),
    }


def test_epochs_are_samples_of_an_item(logs):
    found = read_results(logs["plain"])
    log = read_eval_log(str(logs["plain"]))
    assert len(log.samples) == 6
    assert found.table.set_index("id")["score"].to_dict() == {"1": 1, "2": 0, "3": 1}
    assert found.table["domain"].tolist() == ["law", "law", "math"]
    assert found.measures == {"t": ("includes", None)}
    assert found.notes == ()


def test_json_holds_the_same(logs, tmp_path):
    write_eval_log(read_eval_log(str(logs["plain"])), str(tmp_path / "log.json"))
    one, two = (read_results(path) for path in (logs["plain"], tmp_path / "log.json"))
    assert one.table.equals(two.table)
    assert pair(one, two, by_id=False).a.n == 0


def test_other_solvers_are_other_prompts(logs):
    plain, prompted = read_results(logs["plain"]), read_results(logs["prompted"])
    assert pair(plain, plain, by_id=False).warnings == ()
    with pytest.raises(UserError, match=r"other prompts: solver of A.*--id id"):
        pair(plain, prompted, by_id=False)
    (warning,) = pair(plain, prompted, by_id=True).warnings
    assert warning.startswith("other prompts")


def test_a_score_of_several_values_is_chosen(logs):
    with pytest.raises(UserError, match="--metric two_values/right or two_values/half"):
        read_results(logs["two"])
    found = read_results(logs["two"], Selection(metric="two_values/half"))
    assert found.table["score"].tolist() == [0.5, 0, 0.5]
    with pytest.raises(UserError, match="no score 'x'"):
        read_results(logs["two"], Selection(metric="x"))
    with pytest.raises(UserError, match="no 'x' in its metadata"):
        read_results(logs["plain"], Selection(domain="x"))
    topics = read_results(logs["plain"], Selection(domain="topic")).table["domain"]
    assert topics.tolist() == ["Default", "no", "output"]


def test_samples_without_a_score_are_counted(logs, tmp_path):
    log = read_eval_log(str(logs["plain"]))
    for sample in log.samples:
        if sample.id == 2:
            sample.scores = {}
    log.samples = [s for s in log.samples if s.id != 3]
    log.status = "cancelled"
    write_eval_log(log, str(tmp_path / "log.eval"))
    found = read_results(tmp_path / "log.eval")
    assert found.table["id"].tolist() == ["1"]
    assert found.unscored == ("2",)
    assert [note.split(":")[0] for note in found.notes] == [
        "the log's status is cancelled",
        "4 of 6 samples are in the log",
        "2 sample(s) without a score",
    ]


def changed(logs, tmp_path, score):
    """The plain log with other scores: `score(sample)` is the value of each."""
    log = read_eval_log(str(logs["plain"]))
    for sample in log.samples:
        sample.scores = {"s": Score(value=score(sample))}
    path = tmp_path / f"log{len(list(tmp_path.iterdir()))}.eval"
    write_eval_log(log, str(path))
    return path


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        (("yes", "no", "Yes"), [1, 0, 1]), (("0", "1", "0.5"), [0, 1, 0.5]),
        (("True", "false", "true"), [1, 0, 1]), (("C", "P", "N"), [1, 0.5, 0]),
        ((True, False, 1), [1, 0, 1]),
    ],
)  # fmt: skip
def test_case_13_scores_are_what_inspect_counts(logs, tmp_path, values, scores):
    path = changed(logs, tmp_path, lambda sample: values[sample.id - 1])
    found = read_results(path).table["score"].tolist()
    assert found == scores == [value_to_float()(value) for value in values]


@pytest.mark.parametrize("value", ["maybe", "inf", "", "0,5"])
def test_case_13_scores_that_inspect_would_count_as_0_are_refused(logs, tmp_path, value):
    path = changed(logs, tmp_path, lambda _: value)
    with pytest.raises(UserError, match=r"sample 1 is scored .* not C, P, I, N, yes.*--metric"):
        read_results(path)


def test_case_11_an_item_with_one_epoch_without_a_score_is_paired_once(logs, tmp_path):
    def without(missing):
        return changed(
            logs,
            tmp_path,
            lambda s: math.nan if (s.id, s.epoch) in missing else float(s.epoch == 1),
        )

    whole, partly, never = without(()), without({(2, 1)}), without({(2, 1), (2, 2), (3, 1)})
    found = compare(whole, partly)
    assert (found.pooled.n, found.unpaired_a.n, found.unpaired_b.n) == (3, 0, 0)
    assert (found.pooled.score_a, found.pooled.score_b) == (0.5, pytest.approx(1 / 3))
    assert any("left out of their items' means: '2'" in warning for warning in found.warnings)
    found = compare(whole, never)
    assert (found.pooled.n, found.unpaired_a.n, found.unpaired_b.n) == (2, 1, 1)
    assert found.unpaired_b.reasons == {"unscored": 1}


def test_case_13_a_folder_of_one_log_is_that_log(logs, tmp_path):
    shutil.copy(logs["plain"], tmp_path / "log.eval")
    assert len(read_results(tmp_path).table) == 3


def test_case_11_a_table_counts_partly_missing_items_once(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("item,sample,score\na,0,1\na,1,X\nb,0,X\nb,1,X\nc,0,0\nc,1,1\n")
    found = read_results(path, Selection(missing_value="X"))
    assert found.table.set_index("id")["score"].to_dict() == {"a": 1, "c": 0.5}
    assert found.unscored == ("b",)


def test_case_11_other_generation_settings_are_flagged(logs, tmp_path):
    log = read_eval_log(str(logs["plain"]))
    log.plan.config = GenerateConfig(temperature=0.6, max_tokens=32768)
    log.eval.config.limit = 10
    write_eval_log(log, str(tmp_path / "log.eval"))
    (warning,) = compare(logs["plain"], tmp_path / "log.eval").warnings
    for part in ("temperature not set in A, 0.6 in B", "limit not set in A, 10 in B",
                 "max_gen_toks not set in A, 32768 in B"):  # fmt: skip
        assert part in warning


def test_damaged_archives_are_told(logs, tmp_path):
    path = tmp_path / "log.eval"
    whole = logs["plain"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        read_results(path)
    shutil.copy(logs["plain"], path)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("samples/1_epoch_1.json")
        place = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    flipped = bytearray(whole)
    flipped[place] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(UserError):
        read_results(path)


def test_archives_that_hold_a_name_twice_or_too_much(logs, tmp_path, monkeypatch):
    path = tmp_path / "log.eval"
    shutil.copy(logs["plain"], path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("samples/1_epoch_1.json", "{}")
    with pytest.raises(UserError, match="twice"):
        read_results(path)
    monkeypatch.setattr("dsmoe_eval.comparison.readers.inspect_logs.MOST_BYTES", 10)
    with pytest.raises(UserError, match="unpacks to more"):
        read_results(logs["plain"])


def test_real_logs_of_several_versions():
    new, old = (
        REAL / "2025-02-11T15-18-04-05-00_popularity_mj7khqpMM4GBCfVQozKgzB.eval",
        (REAL / "2025-05-12T20-28-13-04-00_popularity.json"),
    )
    one, two = read_results(new), read_results(old)
    assert (len(one.table), len(two.table)) == (10, 3)
    pairs = pair(one, two, by_id=False)
    assert (len(pairs.table), pairs.a.n, pairs.b.n) == (3, 7, 0)
    choice = read_results(REAL / "mmlu-summary-choices.eval").table.iloc[0]
    assert (choice["gold"], choice["score"]) == ("6.0 e", 0)
    with pytest.raises(UserError, match="no sample has a score"):
        read_results(REAL / "2025-02-11T15-17-00-05-00_popularity_dPiJifoWeEQBrfWsAopzWr.eval")
