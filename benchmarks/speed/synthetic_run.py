"""A finished run without a model: answers by chance, compared by the harness itself.

How many items each variant gains and loses is given and exact; which ones is chance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dsmoe_eval.cards import Plan, Suite, Task
from dsmoe_eval.files import write_json
from dsmoe_eval.results import RunFolder
from dsmoe_eval.results.cells import Identity, answer_rates
from dsmoe_eval.results.comparisons import ArmCells
from dsmoe_eval.results.folder import open_folder
from dsmoe_eval.results.outcome_comparisons import compare_run
from dsmoe_eval.results.terms import Information
from dsmoe_eval.tasks.leakage import Leakage, Overlap
from dsmoe_eval.variants import BASE, get_variant

Flips = tuple[float, float]
"""Shares of a task's items that a variant gains and loses."""
OPTIONS = ("one", "two", "three", "four")
TEXT_BITS, TEXT_GAIN = 1.2, 0.03
_PROBE = {
    "null_max_difference": 0.0, "logit_max_change": 2.5, "selection_changed": 0.25,
    "weight_max_change": 0.5, "active_experts": 2, "tokens": 512,
}  # fmt: skip
_TRAINING = {"rank": 8, "lora_alpha": 16.0, "learning_rate": 5e-4, "epochs": 2, "batch_size": 8}
_LEARNING = {
    "expert_count": 24, "log_odds": (-0.5, 0.75), "steps": 60, "best_step": 30,
    "learning_rate": 0.05, "outcome_gain": 0.4, "divergence": 0.006, "batch_size": 40,
    "weight": 50.0, "weights": (20.0, 50.0), "most_divergence": 0.005, "most_experts": None,
    "check_every": 10,
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What a run is of.

    Attributes:
        domains: of the suite, a task each; every arm answers the tasks of all of them.
        targets: those that are steered for.
        generated: the domain whose answers are generated, if any; its items stand in pairs, which
            are its clusters, if `paired`.
        samples: answers to each of its items.
        items: a task.
        right: share of items that base has right.
        target: by variant, on its target; variants that are not named change nothing.
        others: likewise, on each other task.
        shared: whether a variant's arms share the cells of all tasks but their own target's.
        leaked: pairs of items that two splits share.
        version: of the tasks.
        outcome: the primary one.
        texts: whether there are log-probabilities of right options, and a task of texts a domain.
    """

    model: str = "lab/moe-7b"
    fingerprint: str = "ab12" * 16
    parameters: int | None = 7_000_000
    suite: str = "subjects"
    domains: tuple[str, ...] = ("math", "law", "biology", "poetry")
    targets: tuple[str, ...] = ("math", "law")
    generated: str | None = "poetry"
    paired: bool = False
    samples: int = 1
    items: int = 300
    right: float = 0.5
    plan: str = "p"
    seed: int = 0
    limit: int | None = None
    margin: float = 0.02
    variants: tuple[str, ...] = (BASE, "sham", "contrast", "random", "wrong-domain", "sft-lora")
    target: Mapping[str, Flips] = field(
        default_factory=lambda: {
            "contrast": (0.2, 0.02), "random": (0.02, 0.03), "wrong-domain": (0.02, 0.05),
            "sft-lora": (0.25, 0.05),
        }
    )  # fmt: skip
    others: Mapping[str, Flips] = field(
        default_factory=lambda: {
            "contrast": (0.01, 0.01), "random": (0.01, 0.01), "wrong-domain": (0.01, 0.01),
            "sft-lora": (0.02, 0.06),
        }
    )  # fmt: skip
    shared: bool = False
    leaked: int = 0
    version: str = "1.0"
    outcome: str = "score"
    texts: bool = False


def make_run(root: Path, spec: Spec | None = None) -> Path:
    """Write a whole run: `run.json`, cells, `comparisons.json`; gives its folder."""
    spec = spec or Spec()
    suite, plan, identity = _suite(spec), _plan(spec), _identity(spec)
    folder = open_folder(
        root,
        yaml.safe_dump(plan.model_dump(mode="json")),
        identity | {"plan": plan.model_dump(mode="json")},
    )
    cells = _Cells(folder, spec)
    base = {task.name: cells.of(BASE, None, task) for task in suite.tasks}
    arms = [
        ArmCells(
            variant=get_variant(name),
            target=target,
            settings=_settings(name),
            profile=_profile(spec, name, target),
            cells={task.name: cells.of(name, target, task) for task in suite.tasks_for(target)},
            information=_information(name),
        )
        for target in spec.targets
        for name in spec.variants
        if name != BASE
    ]
    result = compare_run(folder, plan, suite, base, arms, identity, _leakage(spec))
    folder.write_json(folder.comparisons, result.model_dump(mode="json"))
    return root


def _suite(spec: Spec) -> Suite:
    tasks = [
        {
            "name": f"{domain}_task",
            "domain": domain,
            "roles": [*(["target"] if domain in spec.targets else []), "non-target",
                      "identification"],
            "metric": "exact_match" if domain == spec.generated else "acc",
        }
        for domain in spec.domains
    ]  # fmt: skip
    tasks += [
        {"name": f"{domain}_text", "domain": domain, "roles": ["text"], "metric": "bits_per_byte"}
        for domain in (spec.domains if spec.texts else ())
    ]
    splits = {"identification": "train", "tuning": "validation", "test": "test"}
    card = {"name": spec.suite, "description": "by chance", "splits": splits, "tasks": tasks}
    return Suite.model_validate(card)


def _plan(spec: Spec) -> Plan:
    names = ("seed", "margin", "variants", "targets", "outcome")
    card = {"name": spec.plan, "description": "by chance", "suite": spec.suite}
    card |= {name: getattr(spec, name) for name in names} | {"model": "by-chance"}
    return Plan.model_validate(card)


def _identity(spec: Spec) -> dict[str, Any]:
    fixed = {"engine": "transformers", "engine_settings": {}, "dtype": "float32", "device": "cpu"}
    names = ("model", "fingerprint", "parameters", "suite", "limit")
    return (
        fixed
        | {name: getattr(spec, name) for name in names}
        | {"experts_implementation": "eager", "versions": {"dsmoe-eval": "0.1.0"}}
    )


def _leakage(spec: Spec) -> Leakage:
    overlaps = tuple(
        Overlap("content", "test", "t", str(n), "", "tuning", "t", str(n), 1.0)
        for n in range(spec.leaked)
    )
    allowed = "allow_leakage: true" if overlaps else None
    return Leakage({"test": spec.items * len(spec.domains)}, overlaps, allowed)


def _information(name: str) -> Information:
    trained = name == "sft-lora"
    return Information(
        texts=0 if trained else 40,
        answers=20,
        parameters=1000 if trained else 0,
        settings=0 if trained else 9,
        domain_named=False,
    )


def _settings(name: str) -> dict[str, Any]:
    if name == "sft-lora":
        return dict(_TRAINING)
    if get_variant(name).kind == "learned":
        return dict(_LEARNING)
    strength = 0.0 if get_variant(name).zero_strength else 2.0
    fixed = {"expert_count": 4, "activation_share": 0.4, "qualified_on_tuning": True}
    return fixed | {"strength": strength, "sizes_unavailable": []}


class _Cells:
    """Writes cells; what was written is not written again."""

    def __init__(self, folder: RunFolder, spec: Spec) -> None:
        self.folder, self.spec = folder, spec
        self._questions = {domain: _questions(spec, domain) for domain in spec.domains}

    def of(self, variant: str, target: str | None, task: Task) -> str:
        """The id of the cell of a task."""
        return (self.write_text if task.is_text else self.write)(variant, target, task.domain)

    def write_text(self, variant: str, target: str | None, domain: str) -> str:
        """The id of a cell of texts, two to a document."""
        spec = self.spec
        identity = replace(
            _cell_identity(spec, variant, target, domain), task=f"{domain}_text",
            metric="bits_per_byte",
        )  # fmt: skip
        rows = self._questions[domain][["item", "domain", "question"]].head(spec.items // 2)
        bits = TEXT_BITS + _chance(domain).normal(0, 0.2, len(rows))
        bits -= _shift(variant, domain == target) * TEXT_GAIN
        bits += _chance(variant, target, domain).normal(0, 0.02, len(rows)) * _changes(variant)
        size = rows["question"].str.len() + np.arange(len(rows)) % 40
        likelihood = -bits * size * np.log(2)
        rows = rows.assign(
            task=f"{domain}_text", cluster=[_digest(domain, n // 2) for n in range(len(rows))],
            loglikelihood=likelihood, bytes=size, words=size // 5,
        )  # fmt: skip
        level = -float(likelihood.sum() / size.sum() / np.log(2))
        self._write(identity, rows, {"answers": None, "bits_per_byte": level})
        return identity.id

    def _write(self, identity: Identity, rows: pd.DataFrame, figures: dict[str, Any]) -> None:
        steered = get_variant(identity.variant).has_profile
        with self.folder.new_folder(self.folder.cell(identity.id)) as draft:
            rows.to_parquet(draft / "samples.parquet", index=False)
            write_json(
                draft / "cell.json",
                {
                    "id": identity.id,
                    "identity": asdict(identity),
                    "probe": _probe(identity.variant) if steered else None,
                    "items": len(rows),
                    "prompt_tokens": 12.0,
                    **figures,
                },
            )

    def write(self, variant: str, target: str | None, domain: str) -> str:
        """The cell's id."""
        spec = self.spec
        shared = spec.shared and domain != target
        identity = _cell_identity(spec, variant, None if shared else target, domain)
        path = self.folder.cell(identity.id)
        if path.is_dir():
            return identity.id
        flips = spec.target if domain == target else spec.others
        model = _model(variant)
        chance = _chance(spec.seed, model, identity.target, domain)
        right = _answered(spec, domain, flips.get(model, (0.0, 0.0)), chance)
        rows = self._questions[domain].assign(**_answers(spec, domain, right))
        known = spec.texts and domain != spec.generated
        gold = _gold_logprobs(spec, variant, target, domain) if known else np.nan
        rows = rows.assign(gold_logprob=gold)
        rates = answer_rates(rows)
        answers = rates and {"samples": spec.samples} | rates
        self._write(identity, rows, {"score": float(rows["score"].mean()), "answers": answers})
        return identity.id


def _model(variant: str) -> str:
    """The variant itself, or of a sham on a quantized model that model, whose answers it has."""
    own = get_variant(variant)
    return f"{BASE}-{own.quantized}" if own.zero_strength and own.quantized else variant


def _changes(variant: str) -> bool:
    return variant != BASE and not get_variant(variant).zero_strength


def _shift(variant: str, on_target: bool) -> float:
    """The share of the gain that a variant has, on its target only."""
    return (
        {"contrast": 1.0, "sft-lora": 1.2, "learned-profile": 2.0}.get(variant, 0.0)
        if on_target
        else 0.0
    )


def _gold_logprobs(spec: Spec, variant: str, target: str | None, domain: str) -> Any:
    base = _chance(spec.fingerprint, domain, "gold").normal(0.3, 0.8, spec.items)
    noise = _chance(spec.seed, variant, target, domain, "gold").normal(0, 0.1, spec.items)
    return -np.exp(base + noise * _changes(variant) - 0.1 * _shift(variant, domain == target))


def _probe(variant: str) -> dict[str, Any]:
    return dict(_PROBE) | ({"logit_max_change": 0.0} if get_variant(variant).zero_strength else {})


def _cell_identity(spec: Spec, variant: str, target: str | None, domain: str) -> Identity:
    return Identity(
        model=spec.model, fingerprint=spec.fingerprint, variant=variant, target=target,
        profile=_profile(spec, variant, target), adapter=None,
        dtype="float32", device="cpu", experts_implementation="eager",
        engine="transformers", engine_settings=(), versions=(("dsmoe-eval", "0.1.0"),),
        batch_tokens=8192, prompt_format="plain", decoding="greedy", ends=(), task=f"{domain}_task",
        task_version=spec.version, few_shot=0, answer_tokens=None, filter=None, metric="acc",
        split="test", items=_digest(domain, spec.items), seed=spec.seed,
    )  # fmt: skip


def _profile(spec: Spec, variant: str, target: str | None) -> str | None:
    steered = target is not None and get_variant(variant).has_profile
    return _digest("profile", variant, target, spec.seed) if steered else None


def _questions(spec: Spec, domain: str) -> pd.DataFrame:
    """What all variants were asked: a frame of as many rows as there are items."""
    numbers = range(spec.items)
    ids = [_digest(domain, number) for number in numbers]
    is_generated = domain == spec.generated
    pairs = [ids[number - number % 2] for number in numbers]
    text = "which of these is it, of all that could be asked, and why is it none of the others"
    return pd.DataFrame(
        {
            "item": ids,
            "task": f"{domain}_task",
            "domain": domain,
            "cluster": pairs if is_generated and spec.paired else ids,
            "question": [f"{domain} {number}: {text}?" for number in numbers],
            "options": [[] if is_generated else list(OPTIONS) for _ in numbers],
            "gold": OPTIONS[0],
        }
    )


def _answered(spec: Spec, domain: str, flips: Flips, chance: np.random.Generator) -> Any:
    """Whether each answer is right, shape (items, samples): base's, with so many turned round."""
    samples = spec.samples if domain == spec.generated else 1
    size = spec.items * samples
    base = _chance(spec.fingerprint, domain).permutation(size) < round(spec.right * size)
    right = base.copy()
    for share, before in zip(flips, (False, True), strict=True):
        (places,) = np.nonzero(base == before)
        turned = chance.choice(places, min(len(places), round(share * size)), replace=False)
        right[turned] = not before
    return right.reshape(spec.items, samples)


def _answers(spec: Spec, domain: str, right: Any) -> dict[str, Any]:
    """The columns of an item's answers; some of the wrong ones were cut off or are no answer."""
    answer = np.where(right[:, 0], OPTIONS[0], OPTIONS[1])
    if domain != spec.generated:
        likely = np.where(right, -1.0, -2.0)
        none: list[list[Any]] = [[] for _ in right]
        generated = dict.fromkeys(("texts", "scores", "tokens", "truncated", "invalid"), none)
        scores = right[:, 0].astype(float)
        return {"answer": answer, "loglikelihoods": list(likely), "score": scores} | generated
    number = np.arange(right.size).reshape(right.shape)
    columns = {
        "texts": np.where(right, "I think that it is one.", "It may be two, or so."),
        "scores": right.astype(float),
        "tokens": 6 + number % 5 + ~right,
        "truncated": ~right & (number % 7 == 0),
        "invalid": ~right & (number % 5 == 0),
    }
    lists = {name: [row.tolist() for row in value] for name, value in columns.items()}
    likely_none: list[list[float]] = [[] for _ in right]
    return {
        "answer": answer, "loglikelihoods": likely_none, "score": right.mean(axis=1), **lists
    }  # fmt: skip


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _chance(*parts: Any) -> np.random.Generator:
    return np.random.default_rng(int(_digest(*parts), 16))
