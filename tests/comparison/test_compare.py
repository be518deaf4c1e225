"""Whole comparisons, against independent computations, and of damaged copies."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.compare import compare
from dsmoe_eval.errors import UserError


@dataclass(frozen=True)
class Answers:
    """Real models' answers to MMLU-Pro, in a folder of published data."""

    data: Path

    @property
    def selection(self):
        return Selection(
            id="question_id", gold="gold", domain="category", cluster="question",
            items=self.data / "mmlu_pro" / "test.parquet", missing_value="MISSING",
        )  # fmt: skip

    def compare(self, a, b):
        return compare(f"{self._file}:{a}", f"{self._file}:{b}", self.selection)

    @functools.cached_property
    def plain(self):
        """The same file by pandas alone, with the questions' texts."""
        table = pd.read_csv(self._file, dtype=str, keep_default_na=False)
        questions = pd.read_parquet(self.data / "mmlu_pro" / "test.parquet")
        texts = dict(zip(questions["question_id"].astype(str), questions["question"], strict=True))
        return table.assign(text=table["question_id"].map(texts))

    @property
    def _file(self):
        return self.data / "mmlu_pro" / "per_item_uniform_strict_29models.csv.gz"


@pytest.fixture(scope="module")
def answers(real_data):
    return Answers(real_data("mmlu_pro"))


def independent(rows, a, b):
    """Figures of one block: pandas, scipy and statsmodels, none of ours."""
    right_a, right_b = rows[a] == rows["gold"], rows[b] == rows["gold"]
    change = right_b.astype(int) - right_a.astype(int)
    fit = sm.OLS(change, np.ones(len(rows))).fit(
        cov_type="cluster", cov_kwds={"groups": rows["text"].factorize()[0]}
    )
    gained, lost = int((change == 1).sum()), int((change == -1).sum())
    table = [[0, gained], [lost, 0]]
    exact = mcnemar(table, exact=True).pvalue
    return {
        "n": len(rows), "score_a": right_a.mean(), "score_b": right_b.mean(),
        "delta": change.mean(), "gained": gained, "lost": lost, "error": fit.bse.iloc[0],
        "midp": exact - binom.pmf(min(gained, lost), gained + lost, 0.5),
        "clustered": 2 * t.sf(abs(change.mean()) / fit.bse.iloc[0], rows["text"].nunique() - 1),
        "single": rows["text"].nunique() == len(rows),
        "clusters": rows["text"].nunique(),
    }  # fmt: skip


def check(ours, theirs):
    for name in ("n", "gained", "lost"):
        assert ours[name] == theirs[name]
    for name in ("score_a", "score_b", "delta"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12)
    if theirs["single"]:
        assert ours["test"] == "mid-p McNemar"
        assert ours["p_value"] == pytest.approx(theirs["midp"], rel=1e-9)
    else:
        assert ours["clusters"] == theirs["clusters"]
        assert ours["test"] == "cluster-robust t"
        # statsmodels' standard error lacks the corrections for few clusters.
        assert ours["p_value"] == pytest.approx(theirs["clustered"], abs=0.03)
    reach = 1.96 * theirs["error"]
    interval = (theirs["delta"] - reach, theirs["delta"] + reach)
    assert ours["ci95"] == pytest.approx(interval, abs=0.08 * reach)


def test_a_real_base_and_its_fine_tune_by_domain_and_pooled(answers):
    a, b = "Mixtral-8x7B-v0.1", "Mixtral-8x7B-Instruct-v0.1"
    plain = answers.plain
    found = answers.compare(a, b).to_dict()
    assert found["unpaired"] == {"a": 0, "b": 0}
    # A text that stands in two domains is a cluster in each.
    pooled = plain.assign(text=plain["category"] + plain["text"])
    check(found, independent(pooled, a, b))
    assert [row["domain"] for row in found["domains"]] == sorted(plain["category"].unique())
    for row in found["domains"]:
        check(row, independent(plain[plain["category"] == row["domain"]], a, b))
    p_values = [row["p_value"] for row in found["domains"]]
    adjusted = [row["p_adjusted"] for row in found["domains"]]
    assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-9)
    assert found["verdict"] == "improves"
    assert found["opposed"] == ["chemistry", "computer science", "history", "philosophy"]


def test_items_that_one_run_lacks_are_left_out_and_counted(published):
    answers = Answers(published("mmlu_pro"))
    a, b = "DeepSeek-Coder-V2", "Mixtral-8x7B-Instruct-v0.1"
    plain, found = answers.plain, answers.compare(a, b).to_dict()
    asked = plain[plain[a] != "MISSING"]
    lacks = {12032: 1681, 26: 1}[len(plain)]
    assert found["unpaired"] == {"a": lacks, "b": lacks}
    assert len(plain) - len(asked) == lacks
    assert found["unpaired_items"]["a"]["reasons"] == {"unscored": lacks}
    assert found["unpaired_items"]["b"]["reasons"] == {"absent": lacks}
    assert (found["n"], found["score_a"]) == (
        len(asked), pytest.approx((asked[a] == asked["gold"]).mean(), abs=1e-12),
    )  # fmt: skip


def test_a_tie_of_the_pool_is_not_one_of_the_domains(answers):
    found = answers.compare("Mixtral-8x7B-Instruct-v0.1", "mathstral-7B")
    assert abs(found.pooled.delta) < 0.005
    assert found.pooled.p_value > 0.5
    assert (found.verdict, found.conflicting) == ("mixed", True)
    assert "improves chemistry, engineering, math" in found.words
    assert "harms health, history, law" in found.words
    maths = next(one for one in found.domains if one.domain == "math").result
    lower, upper = maths.ci95
    assert maths.delta / ((upper - lower) / 3.92) == pytest.approx(9.6, abs=0.5)


# --- inputs that were changed on the way ----------------------------------------------------

N = 60
ROWS = [
    {"item": f"i{i}", "gold": "g", "score": float(i % 3 == 0), "domain": "xy"[i % 2]}
    for i in range(N)
]
OTHER = [row | {"score": float(i % 4 != 0)} for i, row in enumerate(ROWS)]


def lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "a.jsonl"
    path.write_bytes(lines(ROWS))
    return path


def judged(base, path):
    """The comparison, or None where it is refused; anything else raised fails the test."""
    try:
        return compare(base, path).to_dict()
    except UserError:
        return None


@given(order=st.permutations(range(N)))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_does_not_matter(base, tmp_path, order):
    path = tmp_path / "b.jsonl"
    path.write_bytes(lines(OTHER))
    expected = judged(base, path)
    path.write_bytes(lines([OTHER[i] for i in order]))
    assert judged(base, path) == expected


@given(
    dropped=st.sets(st.integers(0, N - 1), max_size=N - 1),
    regolded=st.sets(st.integers(0, N - 1), max_size=10),
    doubled=st.sets(st.integers(0, N - 1), max_size=2),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dropped_doubled_and_regolded_items_are_never_silent(
    base, tmp_path, dropped, regolded, doubled
):
    rows = [row | {"gold": "h"} if i in regolded else row for i, row in enumerate(OTHER)]
    rows = [row for i, row in enumerate(rows) if i not in dropped]
    doubled -= dropped
    path = tmp_path / "b.jsonl"
    path.write_bytes(lines(rows + [OTHER[i] for i in sorted(doubled)]))
    found = judged(base, path)
    kept = [i for i in range(N) if i not in dropped | regolded]
    if doubled or not kept:
        assert found is None
        return
    assert found["unpaired"]["a"] == N - len(kept)
    assert found["unpaired"]["b"] == len(regolded - dropped)
    reasons = found["unpaired_items"]["a"]["reasons"]
    assert reasons.get("gold", 0) == len(regolded - dropped)
    assert found["n"] == len(kept)
    assert found["delta"] == pytest.approx(
        np.mean([OTHER[i]["score"] - ROWS[i]["score"] for i in kept]), abs=1e-12
    )


@given(cut=st.integers(0, len(lines(OTHER)) - 2))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused_or_its_items_are_missed(base, tmp_path, cut):
    path = tmp_path / "b.jsonl"
    path.write_bytes(lines(OTHER)[:cut])
    found = judged(base, path)
    assert found is None or found["unpaired"]["a"] == N - found["n"] > 0


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".csv.gz", ".parquet"])
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=3))
@example(places=[(0.044921875, 7)])  # text that is no UTF-8, in a Parquet file
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits_raise_nothing_but_a_sentence(base, tmp_path, suffix, places):
    path = tmp_path / f"b{suffix}"
    frame = pd.DataFrame(OTHER)
    if suffix == ".jsonl":
        path.write_bytes(lines(OTHER))
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    whole = bytearray(path.read_bytes())
    for where, bit in places:
        whole[int(where * (len(whole) - 1))] ^= 1 << bit
    path.write_bytes(whole)
    found = judged(base, path)
    assert found is None or found["n"] + found["unpaired"]["a"] == N


# --- shapes ---------------------------------------------------------------------------------


def frame(scores, **columns):
    return pd.DataFrame({"item": [str(i) for i in range(len(scores))], "score": scores, **columns})


def test_one_domain_is_no_domain():
    found = compare(frame([1, 0, 1]), frame([1, 1, 1], domain="law"))
    assert found.domains == ()
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_items_without_a_cluster_stand_alone():
    clusters = ["x", "x", None, None]
    found = compare(frame([1, 0, 1, 0], cluster=clusters), frame([1, 1, 1, 1]))
    assert found.pooled.clusters == 3


def test_scores_that_are_no_fractions_are_not_told_in_points():
    a, b = np.arange(12.0) * 10, np.arange(12.0) * 10 + 5 + np.arange(12) / 7
    found = compare(frame(a), frame(b))
    assert found.verdict == "improves"
    assert "points" not in found.words
    assert found.to_dict()["ci95"][0] > 1


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_is_above_zero(margin):
    with pytest.raises(UserError, match="margin"):
        compare(frame([1]), frame([1]), margin=margin)
