"""Super experts are found in the model, and no arm of a run switches them off."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from dsmoe_eval.cards import Identification
from dsmoe_eval.cli.main import main
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import SuperExpert
from dsmoe_eval.reports import render
from dsmoe_eval.results.guards import read_guard
from dsmoe_eval.runs import guards, run
from dsmoe_eval.runs.guards import guard_model, guard_run
from dsmoe_eval.steering import Profile, SteeringError, find_routers
from dsmoe_eval.tasks.identification import identification_text
from dsmoe_eval.variants import get_variant, variant_experts

from ..experts.conftest import random_pass

QUIET = Console(file=io.StringIO())


@torch.no_grad()
def test_a_planted_super_expert_is_found_in_a_real_model(tmp_path, monkeypatch):
    engine = load_engine("lab-poly", device="cpu")
    text = identification_text("lab", 4)
    found = guard_model(engine, text.tasks, Identification(), tmp_path)
    assert found.looked
    assert found.experts == ()
    assert 0 < found.tokens < 1200
    router = find_routers(engine.loaded.model)[1]
    usage = engine.usage([item.question for one in text.tasks.values() for item in one.items])
    planted = int(usage[1].argmax())
    router.consumer.down_proj[planted, 3] *= 1e6
    found = guard_model(engine, text.tasks, Identification(), tmp_path)
    assert found.pairs == ((router.layer, planted),)

    def refuse(*_):
        raise SteeringError("experts cannot be run one by one")

    monkeypatch.setattr(guards, "measure_peaks", refuse)
    assert not guard_model(engine, text.tasks, Identification(), tmp_path).looked
    assert not guard_model(SimpleNamespace(), text.tasks, Identification(), tmp_path).looked


def test_only_a_run_that_switches_experts_off_looks():
    def job(*names, allowed="spare", learner="vllm", sites="experts"):
        arms = [SimpleNamespace(variant=get_variant(name)) for name in names]
        return SimpleNamespace(arms=arms, plan=SimpleNamespace(
            super_experts=allowed, learner=learner, sites=sites))  # fmt: skip

    for names in (["contrast"], ["residual", "residual+matched"], ["prompt"]):
        assert guard_run(job(*names)) is None
    assert guard_run(job("dsmoe+matched", sites="neurons")) is None
    assert not guard_run(job("suppress", sites="neurons")).looked
    for names in (["random"], ["suppress"], ["reap+prune-3"], ["steermoe"]):
        assert guard_run(job(*names)).looked is False
        assert guard_run(job(*names, allowed="allow")) is None


def test_super_experts_are_not_masked_forced_out_pruned_or_drawn():
    with random_pass(4) as (seen, _):
        from dsmoe_eval.experts import count_routing

        counts = count_routing(seen).in_phase("prompt")

    def experts(name, spared, size=2):
        return variant_experts(get_variant(name), replace(counts, spared=spared), "one", size, 0)

    best = experts("frequency+mask", ())
    first = (best[0].layer, best[0].expert)
    masked = experts("frequency+mask", (first,))
    assert (masked[0].layer, masked[0].expert) == (best[1].layer, best[1].expert)
    assert len(masked) == 2
    assert experts("frequency+bias", (first,)) == experts("frequency+bias", ())  # may be raised
    drawn = experts("frequency+bias+matched", (), 1)
    spared = tuple((one.layer, one.expert) for one in drawn)
    again = experts("frequency+bias+matched", spared, 1)
    assert not {*spared} & {(one.layer, one.expert) for one in again}
    for name in ("frequency+prune-1", "frequency+prune-1+matched"):
        removed = experts(name, ())
        gone = (removed[0].layer, removed[0].expert)
        kept = experts(name, (gone,))
        assert len(kept) == len(removed)
        assert gone not in {(one.layer, one.expert) for one in kept}
    forced = experts("risk-difference+force", (), 4)
    out = [(one.layer, one.expert) for one in forced if not one.activate]
    assert out
    after = experts("risk-difference+force", tuple(out), 4)
    assert not {*out} & {(one.layer, one.expert) for one in after if not one.activate}


@pytest.mark.full
def test_a_run_names_them_and_leaves_them_on(one_split_plan, tmp_path, monkeypatch):
    common = {
        "variants": ["base", "reap+prune-3"], "tuning": None, "allow_leakage": True,
        "placebo_draws": 2,
    }  # fmt: skip
    planted = (SuperExpert(0, 5, 800.0), SuperExpert(2, 6, 700.0), SuperExpert(2, 7, 700.0))
    monkeypatch.setattr(guards, "super_experts", lambda _: planted)
    masked = {}
    for allowed in ("spare", "allow"):
        plan = one_split_plan(**common, super_experts=allowed)
        folder = run(plan, tmp_path / allowed, limit=4, device="cpu", console=QUIET)
        profiles = [Profile.load(path) for path in folder.root.glob("profiles/*.json")]
        masked[allowed] = [{(e.layer, e.expert) for e in one.experts} for one in profiles]
        page = render(folder).read_text()
        assert ("layer 0 expert 5, layer 2 expert 6" in page) == (allowed == "spare")
    pairs = {(one.layer, one.expert) for one in planted}
    assert not any(pairs & experts for experts in masked["spare"])
    assert any(pairs & experts for experts in masked["allow"])
    assert read_guard(folder) is None


@pytest.mark.full
@pytest.mark.parametrize(
    "how", [["--intervention", "mask", "--strength", "1", "--experts", "4"], ["--keep", "20"]]
)
def test_a_profile_beside_a_run_spares_them_too(tmp_path, monkeypatch, how):
    def identified(*options):
        path = tmp_path / "profile.json"
        asked = ["identify", "lab-poly", "--suite", "lab", "--domain", "math", "--limit", "4"]
        asked += ["--method", "frequency", "--observations", str(tmp_path / "seen"), *how]
        done = CliRunner().invoke(main, [*asked, *options, "-o", str(path)])
        assert done.exit_code == 0, done.stderr
        experts = Profile.from_json(path.read_bytes()).experts
        return {(one.layer, one.expert) for one in experts}, done.stderr

    plain, said = identified()
    assert "Super experts" not in said
    layer, expert = min(plain)
    planted = (SuperExpert(layer, expert, 900.0),)
    monkeypatch.setattr(guards, "super_experts", lambda _: planted)
    spared, said = identified()
    assert len(spared) == len(plain)
    assert (layer, expert) not in spared
    assert f"as such: layer {layer} expert {expert}. No profile masks, prunes or forces" in said
    assert "`--super-experts allow` lifts that." in said
    allowed, said = identified("--super-experts", "allow")
    assert (allowed, "Super experts" in said) == (plain, False)
