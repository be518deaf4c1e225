"""The table of architectures in `docs/models.md`: what `probe` says of each without weights.

    python tests/architecture_table.py            probes all and writes the table: some minutes
    python tests/architecture_table.py --check    says whether it has the types of transformers
    python tests/architecture_table.py TYPE ...   probes some and prints what came of it

A type is a causal language model of transformers whose code declares router logits. Each is probed
in a process of its own, with two minutes of a core and 4 GB. "exact" means that an intervention
passed the probe and equals a patch that is written here and knows nothing of ours.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dsmoe_eval.cards import ModelCard
from dsmoe_eval.models import identify_model, miniature, probe_model
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.models.probing import ModelProbe, random_batch, trial_profile
from dsmoe_eval.registry import builtin_names, load_model_card
from dsmoe_eval.steering import Intervention, Router, SteeringError, find_routers, steer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
VLLM = ROOT / "tests" / "engines" / "vllm" / "test_steered_vllm.py"
BEGIN, END = "<!-- made by tests/architecture_table.py -->", "<!-- end of architectures -->"
SECONDS, GIGABYTES = 120, 4
TOLERANCE = 1e-4
KINDS = ("reweight", "bias", "amplify", "force", "mask")
# Their experts do not receive weights, on which the patch acts: tests/steering/test_forms.py
# compares `reweight` and `amplify` with blocks that are written by hand.
BY_HAND = ("jetmoe", "llama4", "llama4_text")
# What the defaults leave empty or switch off, as published models have it.
COMPLETED: dict[str, dict[str, Any]] = {
    "dbrx": {
        "attn_config": {"rope_theta": 5e5, "kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 10752},
    },
    "deepseek_v2": {"num_experts_per_tok": 6},
    "doge": {"is_moe": True},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "gemma4_text": {
        "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8,
        "moe_intermediate_size": 704,
    },
    "hunyuan_v1_moe": {"num_experts": 64, "moe_topk": 8, "head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 24, "layer_types": ["conv", "conv", "full_attention"] * 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 128,
        "indexer_budget": 2048, "indexer_compress_ratio": 4,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25
        },
    },
}  # fmt: skip
COMPLETED |= {name: {"text_config": COMPLETED[f"{name}_text"]} for name in ("gemma4", "qwen4_exp")}


def moe_types() -> list[str]:
    """Return the causal model types of transformers whose code declares router logits."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    found = find_spec("transformers")
    assert found is not None
    models = Path(str(found.origin)).parent / "models"

    def declares(model_type: str) -> bool:
        folder = models / model_type_to_module_name(model_type)
        return any('"router_logits":' in f.read_text() for f in folder.glob("modeling_*.py"))

    return sorted(name for name in NAMES if declares(name))


@functools.cache
def cards() -> list[ModelCard]:
    """Return the cards of models that transformers has code for."""
    found = [load_model_card(name) for name in builtin_names("models")]
    return [card for card in found if card.transformers]


def configuration(model_type: str) -> tuple[str, Any]:
    """Return the configuration that is probed, and the word for it."""
    from transformers import AutoConfig

    published = [card for card in cards() if card.architecture == model_type]
    if published:
        card = min(published, key=lambda one: one.parameters.total)
        return "published", card_config(card)
    fields = COMPLETED.get(model_type, {})
    return "completed" if fields else "default", AutoConfig.for_model(model_type, **fields)


class Patch(TorchFunctionMode):
    """Edits routers' logits where torch computes them, and weights at the experts' input."""

    def __init__(self, routers: tuple[Router, ...], kind: str) -> None:
        super().__init__()
        self.places = {router.weight.data_ptr(): router for router in routers}
        self.kind, self.hooks, self.kept = kind, [], []
        self.works = True
        for router in routers:
            if kind in ("reweight", "amplify"):
                hook = router.consumer.register_forward_pre_hook(self.weights, with_kwargs=True)
                self.hooks.append(hook)
            elif kind == "mask" and router.correction_bias is not None:
                flat = router.correction_bias.data.view(-1)
                self.kept.append((flat, flat[0].clone()))
                flat[0] = -torch.inf

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        linear = func is torch.nn.functional.linear and args[1].data_ptr() in self.places
        return self.logits(output, self.places[args[1].data_ptr()]) if linear else output

    def logits(self, z: torch.Tensor, router: Router) -> torch.Tensor:
        routed = z[..., : router.experts]
        if self.kind == "bias":
            z[..., 0] += math.log(1 + 19.0)
        elif self.kind == "force":
            z[..., 0] = routed.max(-1).values + 0.01
        elif self.kind == "mask":
            z[..., 0] = -torch.inf
        return z

    def weights(self, _module: Any, args: Any, kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        whole = [v for v in given if isinstance(v, torch.Tensor) and not v.is_floating_point()]
        self.works = self.works and len(whole) == 1
        if not self.works:
            return args, kwargs
        (indices,) = whole

        def change(value: Any) -> Any:
            if value is indices or getattr(value, "shape", None) != indices.shape:
                return value
            scaled = torch.where(indices == 0, value * 5.0, value)
            if self.kind == "reweight":
                scaled = scaled * value.sum(-1, keepdim=True) / scaled.sum(-1, keepdim=True)
            return scaled

        return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}

    def restore(self) -> None:
        for hook in self.hooks:
            hook.remove()
        for flat, value in self.kept:
            flat[0] = value


@torch.no_grad()
def difference(model: Any, kind: str) -> float | None:
    """Return by how much steering differs from the patch, in logits; None if it does not apply."""
    strength = {"bias": 19.0, "force": 0.01, "mask": 1.0}.get(kind, 4.0)
    profile = trial_profile(
        identify_model("m", "0", model), Intervention(kind=kind, strength=strength), [0]
    )
    ids, mask = random_batch(model)

    def logits() -> torch.Tensor:
        out = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return out[mask.bool()]

    with steer(model, profile):
        steered = logits()
    patch = Patch(find_routers(model), kind)
    try:
        with patch:
            patched = logits()
    finally:
        patch.restore()
    return float((steered - patched).abs().max()) if patch.works else None


def probed(model_type: str) -> dict[str, Any]:
    """Return the row of a type, as JSON has it."""
    started = time.process_time()
    row: dict[str, Any] = {"type": model_type}
    try:
        row["configuration"], config = configuration(model_type)
        model = miniature(config)
        report = probe_model(model, identify_model(model_type, "random", model))
    except SteeringError as error:
        row["refused"] = str(error)
    row["seconds"] = time.process_time() - started
    if "refused" not in row:
        row |= _described(report, model) | {"weights": _again(model, report)}
    row["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return row


def _described(report: ModelProbe, model: Any) -> dict[str, Any]:
    rows = {one.name: one for one in report.interventions}
    failed = [f"{name}: {one.failed}" for name, one in rows.items() if one.failed]
    reasons = {name: one.refused for name, one in rows.items() if one.refused}
    apart = {kind: difference(model, kind) for kind in KINDS if kind not in reasons}
    failed += [
        f"{kind} is {d:.2g} off the patch" for kind, d in apart.items() if d and d > TOLERANCE
    ]
    assert not failed, failed
    return {
        "router": report.router, "experts": report.experts, "top_k": report.top_k,
        "scoring": str(report.scoring), "apart": apart, "reasons": reasons,
        "channels": ["logit"] + ["score"] * ("bias, score channel" in rows),
    }  # fmt: skip


def _again(model: Any, before: ModelProbe) -> bool:
    """Whether the model, saved as safetensors and loaded again, passes the probe of bias."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="2GB")
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        identity = identify_model(before.model, "random", loaded.eval())
        bias = trial_profile(identity, Intervention(kind="bias", strength=19.0), [0])
        after = probe_model(loaded, identity, bias)
    return after.passed and after.scoring == before.scoring


def _limited(model_type: str, say: Callable[[str], None]) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        say(json.dumps(probed(model_type)))
    except BaseException as error:  # whatever it is, the table must not be made
        traceback.print_exc()
        say(json.dumps({"type": model_type, "failed": f"{type(error).__name__}: {error}"}))


def in_limits(model_type: str) -> dict[str, Any]:
    """Return the row of a type, made in a process with limits of time and memory."""
    context = multiprocessing.get_context("fork")  # else each would import torch for seconds
    queue = context.SimpleQueue()
    process = context.Process(target=_limited, args=(model_type, queue.put))
    process.start()
    process.join()
    if queue.empty():  # killed at a limit
        return {"type": model_type, "failed": f"no answer, exit code {process.exitcode}"}
    row: dict[str, Any] = json.loads(queue.get())
    return row


def tested_in_vllm() -> set[str]:
    """Return the types that the tests run in vLLM."""
    for node in ast.parse(VLLM.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARCHITECTURES":
            assert isinstance(node.value, ast.Dict)
            names = (getattr(key, "value", "") for key in node.value.keys)
            return {str(name).partition("-")[0] for name in names}
    raise AssertionError("the tests in vLLM have no list of architectures")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the tables in Markdown."""
    good, bad = [r for r in rows if "refused" not in r], [r for r in rows if "refused" in r]
    reasons = sorted({reason for row in good for reason in row["reasons"].values()})
    vllm = tested_in_vllm()
    lines = [
        f"transformers {version('transformers')} has {len(rows)} causal model types with routers; "
        f"{len(good)} are probed from a configuration alone, {len(bad)} refused.",
        "",
        "| type | configuration | router | choice | channels | " + " | ".join(KINDS)
        + " | random weights | vLLM |",
        "|---" * (7 + len(KINDS)) + "|",
    ]  # fmt: skip
    for row in good:
        kinds = [_cell(row, kind, reasons) for kind in KINDS]
        cells = [
            row["type"], row["configuration"], row["router"], f"{row['top_k']} of {row['experts']}",
            ", ".join(row["channels"]), *kinds, "yes" if row["weights"] else "no",
            "yes" if row["type"] in vllm else "-",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}." for number, reason in enumerate(reasons, 1)), ""]
    lines += ["| refused type | configuration | reason |", "|---|---|---|"]
    lines += [f"| {r['type']} | {r['configuration']} | {r['refused']} |" for r in bad]
    return "\n".join(lines)


def _cell(row: dict[str, Any], kind: str, reasons: list[str]) -> str:
    if kind in row["reasons"]:
        return f"refused ({reasons.index(row['reasons'][kind]) + 1})"
    assert row["apart"][kind] is not None or row["type"] in BY_HAND, row
    return "exact"


def checked(page: str) -> list[str]:
    """Return what is wrong with the table of a page, without probing."""
    rows = [line.split(" | ") for line in page.partition(BEGIN)[2].partition(END)[0].splitlines()]
    names = {row[0].removeprefix("| ") for row in rows if len(row) > 1} - {"type", "refused type"}
    types = set(moe_types())
    wrong = [f"has no row of {name}" for name in sorted(types - names)]
    wrong += [f"has a row of {name}, which is no such type" for name in sorted(names - types)]
    if f"transformers {version('transformers')} has {len(types)} causal" not in page:
        wrong.append(f"is not of transformers {version('transformers')} with {len(types)} types")
    vllm = {row[0].removeprefix("| ") for row in rows if len(row) > 5 and row[-1] == "yes |"}
    if vllm != tested_in_vllm() & types:
        wrong.append("its column of vLLM is not what the tests run")
    return wrong


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("types", nargs="*")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if given.check:
        if wrong := checked(page):
            sys.exit(f"docs/models.md: {wrong}; run: python tests/architecture_table.py")
        return
    import transformers.modeling_utils  # noqa: F401 - before the first fork

    cards()

    rows = []
    for name in given.types or moe_types():
        rows.append(in_limits(name))
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
    if any("failed" in row for row in rows):
        sys.exit("some have no answer; docs/models.md is left as it is")
    if not given.types:
        before, _, rest = page.partition(BEGIN)
        text = f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}"
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
