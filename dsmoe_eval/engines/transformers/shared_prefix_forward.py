"""Forward passes of token trees behind a header that is computed once.

The header's keys and values are in the cache once, and every row sees them. Only the hidden states
whose next token is queried go through the output head, in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from .next_tokens import Queries, pinned, score_queries
from .prefix_tree import Ints, PackedRow

_ATTENTION = ("sdpa", "eager")
_FULL, _SLIDING = "full_attention", "sliding_attention"
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows as tensors on the CPU, padded on the right.

    Attributes:
        ids: [rows, longest], token ids.
        positions: [rows, longest], the position of each token in its text.
        seen: [rows, 1, longest, header + longest], the tokens that each token sees; None if every
            row is a plain sequence.
        queries: the queries on all rows.
    """

    ids: Tensor
    positions: Tensor
    seen: Tensor | None
    queries: Queries


def refusal(model: PreTrainedModel) -> str | None:
    """Return why trees of tokens cannot be run on a model; None if they can.

    A tree needs attention that takes any mask and sees the whole text or a window of it, positions
    that do not depend on the rest of the batch, and a trunk with an output head.
    """
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _ATTENTION:
        return f"attention by {attention!r}"
    if reason := whole_text_needed(model):
        return reason
    if getattr(model, "is_encoder_decoder", False) or model.base_model is model:
        return "no trunk of a causal model"
    if model.get_output_embeddings() is None:
        return "no output head"
    return None


def whole_text_needed(model: PreTrainedModel) -> str | None:
    """Return why a text cannot be computed in parts, one behind the other; None if it can."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {_FULL, _SLIDING}
    if kinds:
        return f"layers with {', '.join(sorted(kinds))}"
    if getattr(config, "attention_chunk_size", None):
        return f"attention_chunk_size {config.attention_chunk_size}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rope in _LENGTH_DEPENDENT_ROPE:
        return f"{rope} positions"
    return None


class _SharedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values of a header, which every row sees and no row extends."""

    def __init__(self, filled: DynamicLayer) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = filled.keys, filled.values, True
        self.dtype, self.device = filled.keys.dtype, filled.keys.device

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = (old.expand(len(key_states), -1, -1, -1) for old in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def cache_argument(model: PreTrainedModel) -> str:
    """Return the name of the argument that takes the cache; newer transformers have another."""
    return "cache" if "cache" in signature(type(model).forward).parameters else "past_key_values"


def make_cache(model: PreTrainedModel, header: Ints) -> DynamicCache | None:
    """Compute the header's keys and values, in a batch of 1; None for an empty header."""
    if not len(header):
        return None
    ids = torch.from_numpy(header)[None].to(model.device)
    cache = DynamicCache()
    model.base_model(input_ids=ids, use_cache=True, **{cache_argument(model): cache})
    cache.layers = [_SharedLayer(layer) for layer in cache.layers]
    return cache


def grown_from(model: PreTrainedModel, cache: DynamicCache, gaps: Sequence[int]) -> DynamicCache:
    """Build a cache of rows padded on the left, each of which can be extended separately.

    A row has as many columns as the header has tokens: first its pads, then the beginning of the
    header. So new tokens begin in the same column in all rows, and any two tokens of a row are as
    far apart as in their text, which is the distance that sliding windows count.

    Args:
        model: the model that will use the cache.
        cache: the header's cache, from `make_cache`.
        gaps: number of pads of each row. Their keys and values are arbitrary finite numbers, which
            a mask must hide.
    """
    grown = DynamicCache(config=model.config)
    columns = (torch.arange(cache.get_seq_length()) - torch.tensor(gaps)[:, None]).clamp(min=0)
    for layer, shared in zip(grown.layers, cache.layers, strict=True):
        keys, values = (
            old[0][:, columns.to(old.device)].transpose(0, 1)
            for old in (shared.keys, shared.values)
        )
        layer.update(keys, values)
    return grown


def prepare_rows(rows: Sequence[PackedRow], header: int, device: torch.device) -> PreparedRows:
    """Pad rows and build their mask.

    Args:
        rows: rows behind one header.
        header: the number of tokens of the header.
        device: the device of the model.
    """
    longest = max(map(len, rows))
    ids, positions = np.zeros((2, len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row.tokens
        positions[index, : len(row)] = row.positions
    at = np.concatenate([row.places + index * longest for index, row in enumerate(rows)])
    targets, requests = (
        torch.from_numpy(np.concatenate([getattr(row, name) for row in rows]))
        for name in ("targets", "requests")
    )
    chains = all(row.is_chain for row in rows)
    return PreparedRows(
        pinned(torch.from_numpy(ids), device),
        pinned(torch.from_numpy(positions), device),
        None if chains else pinned(_seen(rows, longest, header), device),
        Queries.of(torch.from_numpy(at), targets, requests, device),
    )


def score_rows(
    model: PreTrainedModel, prepared: PreparedRows, cache: DynamicCache | None
) -> Tensor:
    """Compute the log-probabilities of all queries on some rows, as `score_queries` returns them.

    Args:
        model: a model of transformers for which `refusal` returns None.
        prepared: rows behind one header.
        cache: the header's cache, from `make_cache`.
    """
    states = _states(model, prepared, cache).flatten(0, 1)
    states = states[prepared.queries.places.to(states.device, non_blocking=True)]
    head = model.get_output_embeddings()
    return score_queries(
        lambda some: head(states[some]), head.weight.shape[0], prepared.queries, states.device
    )


def _states(model: PreTrainedModel, prepared: PreparedRows, cache: DynamicCache | None) -> Tensor:
    """Compute the trunk's last hidden states, [rows, longest, width]."""
    ids, places = (
        tensor.to(model.device, non_blocking=True) for tensor in (prepared.ids, prepared.positions)
    )
    given: dict[str, object] = {"input_ids": ids, "use_cache": False}
    if cache is not None or prepared.seen is not None:
        given["position_ids"] = places
    if cache is not None:
        given |= {cache_argument(model): cache, "use_cache": True}
    if prepared.seen is not None:
        seen = prepared.seen.to(model.device, non_blocking=True)
        given["attention_mask"] = _masks(model, seen, places)
    states: Tensor = model.base_model(**given).last_hidden_state
    return states


def _seen(rows: Sequence[PackedRow], longest: int, header: int) -> Tensor:
    """Return a mask of the tokens that each token sees; pads see the header.

    Returns:
        [rows, 1, longest, header + longest], bool.
    """
    seen = np.zeros((len(rows), 1, longest, header + longest), dtype=bool)
    seen[..., :header] = True
    for index, row in enumerate(rows):
        size = len(row)
        seen[index, 0, :size, header : header + size] = row.sees()
    return torch.from_numpy(seen)


def _masks(model: PreTrainedModel, seen: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
    """Return the attention mask in the model's form: one mask, or one per kind of layer.

    Args:
        model: a model of transformers.
        seen: [rows, 1, longest, header + longest], the mask of layers that see the whole text.
        positions: [rows, longest], the position of each token in its text.
    """
    config = model.config.get_text_config()
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window is None or (kinds and _SLIDING not in kinds):
        return _added(model, seen)
    header = torch.arange(seen.shape[-1] - seen.shape[-2], device=seen.device)
    keys = torch.cat([header.expand(len(positions), -1), positions], dim=-1)
    near = positions[:, None, :, None] - keys[:, None, None, :] < window
    windowed = _added(model, seen & near)
    return {_FULL: _added(model, seen), _SLIDING: windowed} if kinds else windowed


def _added(model: PreTrainedModel, seen: Tensor) -> Tensor:
    """Return a mask that is added to the attention logits."""
    lowest = torch.finfo(model.dtype).min
    return seen.new_zeros(seen.shape, dtype=model.dtype).masked_fill_(~seen, lowest)
