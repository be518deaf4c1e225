"""Common selections of two models: by brute force, and from the passes of two runs on disk."""

import pytest
import torch

from dsmoe_eval.comparison.routing_agreement import (
    UnlikeRoutingError,
    compare_selections,
    routing_agreement,
)
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts.tensor_files import save_tensors
from dsmoe_eval.results import RunFolder

EXPERTS, TOP_K, TOKENS, LAYERS = 6, 2, 30, (1, 3)


def selections(seed=0, tokens=TOKENS):
    """Uneven use: low experts are selected more often."""
    draw = torch.Generator().manual_seed(seed)
    odds = torch.linspace(2, 0, EXPERTS) + torch.randn(tokens, 2, EXPERTS, generator=draw)
    return odds.topk(TOP_K).indices.to(torch.int16)


def test_by_brute_force():
    one, other = selections(0), selections(1)
    found = compare_selections(one, other, LAYERS, EXPERTS)
    shares = torch.tensor(
        [
            [len({*one[t, n].tolist()} & {*other[t, n].tolist()}) / TOP_K for n in (0, 1)]
            for t in range(TOKENS)
        ]
    )
    assert found.shared == pytest.approx(float(shares.mean()))
    assert found.shared_by_layer == pytest.approx(shares.mean(0).tolist())
    every = [
        len({*one[a, n].tolist()} & {*other[b, n].tolist()}) / TOP_K
        for n in (0, 1) for a in range(TOKENS) for b in range(TOKENS)
    ]  # fmt: skip
    assert found.by_chance == pytest.approx(sum(every) / len(every))
    assert found.by_chance > TOP_K / EXPERTS  # which even use would give
    assert (found.tokens, found.layers) == (TOKENS, LAYERS)


def test_a_model_agrees_with_itself_and_order_within_a_token_does_not_count():
    one = selections()
    assert compare_selections(one, one.flip(2), LAYERS, EXPERTS).shared == 1


def test_another_number_of_experts_per_token():
    with pytest.raises(UnlikeRoutingError, match="same number of experts per token"):
        compare_selections(selections(), selections()[:, :, :1], LAYERS, EXPERTS)


def write_run(root, chosen, layers=LAYERS, tokens=None, batches=((0, 2), (1,))):
    """Three documents of ten tokens each, in batches, the last token of each one generated."""
    folder = RunFolder(root)
    used = [[[0] * EXPERTS for _ in layers]]
    folder.write_json(folder.identification, {"layers": list(layers), "used": used})
    tokens = torch.arange(TOKENS, dtype=torch.int32) if tokens is None else tokens
    place = folder.observations / "pass"
    place.mkdir(parents=True)
    for number, documents in enumerate(batches):
        rows = torch.cat([torch.arange(10 * one, 10 * one + 10) for one in documents])
        columns = {
            "document": (rows // 10).int(), "token": tokens[rows], "experts": chosen[rows],
            "generated": rows % 10 == 9,
        }  # fmt: skip
        save_tensors(place / f"batch-{number:06}.safetensors", columns)
    return folder


def test_passes_in_other_batches_are_joined_without_generated_tokens(tmp_path):
    one, other = selections(0), selections(1)
    folders = write_run(tmp_path / "a", one), write_run(tmp_path / "b", other, batches=((2, 1, 0),))
    asked = torch.arange(TOKENS) % 10 != 9
    expected = compare_selections(one[asked], other[asked], LAYERS, EXPERTS)
    assert routing_agreement(*folders) == expected
    assert expected.tokens == 27


def test_passes_of_influence_are_no_routing(tmp_path):
    folders = [write_run(tmp_path / name, selections()) for name in "ab"]
    for folder in folders:  # its name comes first
        place = folder.observations / "influence"
        place.mkdir()
        save_tensors(place / "batch-000000.safetensors", {"influence": torch.zeros(3, 2)})
    assert routing_agreement(*folders).shared == 1
    (folders[1].observations / "pass" / "batch-000000.safetensors").unlink()
    (folders[1].observations / "pass" / "batch-000001.safetensors").unlink()
    with pytest.raises(UnlikeRoutingError, match="has no recorded routing"):
        routing_agreement(*folders)


def test_what_cannot_be_compared_says_why(tmp_path):
    old, chosen = write_run(tmp_path / "a", selections()), selections(1)
    for name, words, changes in (
        ("b", "differ in their MoE layers or experts", {"layers": (1, 2)}),
        ("c", "do not read the same tokens", {"tokens": torch.zeros(TOKENS, dtype=torch.int32)}),
        ("d", "has no recorded routing", {"batches": ()}),
    ):
        with pytest.raises(UnlikeRoutingError, match=words):
            routing_agreement(old, write_run(tmp_path / name, chosen, **changes))


def test_a_damaged_pass_is_an_error(tmp_path):
    folders = [write_run(tmp_path / name, selections()) for name in "ab"]
    file = folders[1].observations / "pass" / "batch-000000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"batch-000000\.safetensors: cannot be read"):
        routing_agreement(*folders)
