"""The plan `twins` on two random models of EMO's architecture, converted and cut to few items."""

import pytest
import yaml
from rich.console import Console

from dsmoe_eval.comparison.checkpoint_runs import run_both
from dsmoe_eval.comparison.regression import compare_checkpoints
from dsmoe_eval.models import convert
from dsmoe_eval.registry import find_card, load_plan
from dsmoe_eval.runs import RunOptions
from dsmoe_eval.runs.arms import plan_run
from dsmoe_eval.studies import existence_maps

from ..engines.chatting import chat_tokenizer
from ..models.emo import EXPERTS, emo_checkpoint

QUIET = Console(quiet=True)
TWINS = ("stdmoe-1b14b-1t", "emo-1b14b-1t")


def test_one_arm_makes_one_claim_per_domain():
    plan, path = load_plan("twins")
    planned = plan_run(plan, path)
    assert plan.models == TWINS
    claims = [arm for arm in planned.arms if arm.variant.family == "arms"]
    assert [arm.target for arm in claims] == list(planned.suite.targets)
    assert len(claims) == 9
    assert plan.outcome == "gold_logprob"


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two models with other weights and the same tokenizer."""
    root, tokenizer = tmp_path_factory.mktemp("twins"), chat_tokenizer(template=None)
    for seed, name in enumerate(TWINS):
        source = emo_checkpoint(root / f"{name}-emo", seed=seed, vocab_size=len(tokenizer))
        tokenizer.save_pretrained(source)
        convert(source, root / name)
    return [str(root / name) for name in TWINS]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The plan with one target, one setting and one draw."""
    plan = yaml.safe_load(find_card("plans", "twins").read_text())
    plan |= {"targets": ["law"], "placebo_draws": 1}
    plan["tuning"] = {"expert_counts": [20], "strengths": {"bias_sigma": [1.0]}}
    path = tmp_path_factory.mktemp("plan") / "twins.yaml"
    path.write_text(yaml.safe_dump(plan))
    return str(path)


@pytest.mark.full
def test_gains_are_compared_item_by_item(twins, few, tmp_path):
    """As by `dsmoe-eval regress STDMOE EMO --plan twins`; the difference by hand."""
    options = RunOptions(limit=2, device="cpu")
    runs = run_both(*twins, few, tmp_path, options, QUIET)
    found = compare_checkpoints(*runs)
    (arm,) = found.arms
    assert (arm.variant, arm.target, found.outcome) == ("dsmoe-bias", "law", "gold_logprob")
    gains = [run.arms["dsmoe-bias", "law"].outcome("gold_logprob").target for run in runs]
    assert arm.gain.n == gains[0].n == gains[1].n == 2
    assert (arm.gain.old_gain, arm.gain.new_gain) == pytest.approx([one.gain for one in gains])
    assert arm.gain.difference == pytest.approx(gains[1].gain - gains[0].gain)
    assert arm.gain.old_gain != arm.gain.new_gain


@pytest.mark.full
@pytest.mark.parametrize("which", [0, 1])
def test_existence_is_tested_on_both(twins, which):
    maps = existence_maps(
        twins[which], "smol-full", ("counts",), permutations=99, controls=1, limit=2, device="cpu",
        console=QUIET,
    )  # fmt: skip
    found = maps.tests["counts"]
    assert (found["experts"], len(found["layers"])) == (EXPERTS - 1, 2)
    assert {row["domain"] for row in found["domains"]} >= {"law", "physics"}
