"""Small random models of real router classes, profiles for them; a plan whose splits overlap."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings

from dsmoe_eval.models.loading import identify_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import find_card, load_suite
from dsmoe_eval.steering import (
    ChosenExpert,
    Intervention,
    ModelIdentity,
    Profile,
    find_routers,
)

from .browser import Watched, launched

EXPERTS, TOP_K, VOCABULARY = 8, 2, 64
FEW_ROWS = Path(__file__).resolve().parent / "data"
REAL_DATA = "DSMOE_EVAL_REAL_DATA"

# How long an example takes says more of what else runs here. Each run draws new examples, so fewer
# than hypothesis' hundred miss little, and a run stays quick.
settings.register_profile("any machine", deadline=None, max_examples=40)
settings.load_profile("any machine")


ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Renormalises over the selected experts; layer 1 is dense.
    "qwen3_moe": {
        "num_experts": EXPERTS, "moe_intermediate_size": 16, "head_dim": 16,
        "norm_topk_prob": True, "mlp_only_layers": [1],
    },
    # Do not renormalise; the second has a shared expert.
    "olmoe": {"num_experts": EXPERTS, "norm_topk_prob": False},
    "qwen2_moe": {
        "num_experts": EXPERTS, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16, "norm_topk_prob": False,
    },
    "mixtral": {"num_local_experts": EXPERTS},
    # Softmax over the selected logits only, and a bias of the router's own.
    "gpt_oss": {"num_local_experts": EXPERTS, "head_dim": 16},
    # A correction bias on the scores.
    "ernie4_5_moe": {
        "moe_num_experts": EXPERTS, "moe_k": TOP_K, "moe_intermediate_size": 16,
        "moe_layer_start_index": 0,
    },
    # Sparsemixer, in a router that is itself a linear.
    "phimoe": {"num_local_experts": EXPERTS},
}  # fmt: skip


def pytest_collection_finish() -> None:
    """Keep the collector off the millions of objects of torch and the other imports: a third of
    the time of quick tests.
    """
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from the tests and from what they start, unless `-m` asks for `gpu`.

    Without a device named, the program takes the first GPU; so each machine tests the same.
    """
    if not re.search(r"(?<!not )\bgpu\b", config.getoption("markexpr")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where none is seen."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and pytest -m gpu"))


@pytest.fixture(scope="session", autouse=True)
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep proofs that sharing is right out of the user's cache: tests plant faults."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsmoe_eval.engines.transformers.trust.cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def real_data() -> Callable[..., Path]:
    """`real_data("mmlu_pro")`: the folder of whole published data, which is not in the repository.

    A test that needs a data set which is not there is skipped.
    """
    given = os.environ.get(REAL_DATA)
    folder = Path(given) if given else FEW_ROWS.parents[2] / "shared" / "data"
    if given and not folder.is_dir():
        pytest.fail(f"{REAL_DATA}={given}: no such folder")

    def find(*names: str) -> Path:
        for name in names:
            if not (folder / name).is_dir():
                pytest.skip(f"whole published data: {REAL_DATA} names no folder that has {name}")
        return folder

    return find


@pytest.fixture(scope="session", params=["few rows", "whole"])
def published(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """The few rows of published data in the repository, then `real_data`."""
    if request.param == "few rows":
        return lambda *_: FEW_ROWS
    whole: Callable[..., Path] = request.getfixturevalue("real_data")
    return whole


def _config(kind: str) -> Any:
    from transformers import AutoConfig

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    if "moe_k" not in ARCHITECTURES[kind]:
        common["num_experts_per_tok"] = TOP_K
    return AutoConfig.for_model(kind, **common, **ARCHITECTURES[kind])


@pytest.fixture(params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> Any:
    """A random model of three layers, most of eight experts, top-2, float32."""
    return make_model(request.param)


def make_model(kind: str) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(kind)).eval()
    torch.manual_seed(0)  # versions of transformers draw differently many numbers
    with torch.no_grad():
        for router in find_routers(model):
            for weight in router.module.parameters():
                weight.normal_(std=0.5)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and mask, [3, 9], the last two rows right-padded."""
    torch.manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 4:] = 0
    return ids * mask, mask


def profile_of(
    model: Any,
    kind: str = "bias",
    strength: float | None = None,
    experts: Iterable[int] = (0, 3),
    channel: str = "logit",
) -> Profile:
    """The same experts in every layer of a model in memory; by default as strong as is felt."""
    strength = {"mask": 1.0, "force": 0.01}.get(kind, 9.0) if strength is None else strength
    intervention = Intervention(kind=kind, strength=strength, channel=channel)  # type: ignore[arg-type]
    return trial_profile(identify_model("tiny", "0", model), intervention, experts)


def vector_profile(
    identity: ModelIdentity, vectors: dict[int, tuple[float, ...]], strength: float = 1.0
) -> Profile:
    """A profile that adds vectors after layers of a model."""
    experts = trial_profile(identity, Intervention(kind="bias", strength=1.0), [])
    return Profile(
        model=identity, method="mean-difference", experts=(), source=experts.source,
        intervention=Intervention(kind="residual", strength=strength), vectors=vectors,
    )  # fmt: skip


@pytest.fixture
def make_profile() -> Callable[..., Profile]:
    """Build a profile for a model: `make_profile(model, pairs, kind, strength)`."""

    def make(
        model: Any, pairs: list[tuple[int, int]], kind: str = "bias", strength: float = 1.0
    ) -> Profile:
        experts = tuple(ChosenExpert(layer=a, expert=b, score=1.0) for a, b in pairs)
        return profile_of(model, kind, strength).model_copy(update={"experts": experts})

    return make


@pytest.fixture(scope="session")
def one_split_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Write a small lab plan, with changes, that identifies, tunes and tests on the test split."""

    def write(**changes: Any) -> str:
        folder = tmp_path_factory.mktemp("one-split")
        suite = yaml.safe_load(find_card("suites", "lab").read_text())
        suite["splits"] = dict.fromkeys(suite["splits"], "test")
        suite["tasks_dir"] = str(load_suite("lab").tasks_dir)
        domains = {"math", "physics", "arithmetic"}
        suite["tasks"] = [task for task in suite["tasks"] if task["domain"] in domains]
        plan = yaml.safe_load(find_card("plans", "lab").read_text())
        plan |= {"suite": "one-split", "variants": ["base", "contrast"], "targets": ["math"]}
        plan |= {"tuning": {"expert_counts": [4], "strengths": {"bias": [1.0]}}} | changes
        for path, content in (("suites/one-split.yaml", suite), ("plan.yaml", plan)):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(yaml.safe_dump(content))
        return str(folder / "plan.yaml")

    return write


@pytest.fixture(scope="module")  # of a session it would keep its loop from what runs its own
def browser() -> Iterator[Any]:
    """A real Chromium."""
    with launched() as started:
        yield started


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Watched]]:
    """`opened(path)`: a tab that is checked when the test ends, unless it says otherwise."""
    tabs: list[tuple[Watched, bool]] = []

    def open_page(path: Any, check: bool = True, **options: Any) -> Watched:
        tabs.append((Watched(browser, path, **options), check))
        return tabs[-1][0]

    yield open_page
    for watched, check in tabs:
        if check:
            watched.check()
        watched.tab.close()
