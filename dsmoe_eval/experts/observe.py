"""One pass over identification text: for every token, how much it mattered and which experts ran.

Saliency and routing come from the same forward and backward, and are kept in the same row, so a
token's label and its routing cannot drift apart. (The published code looks labels up by position in
a list from which blank tokens were dropped.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..steering import capture_routing, find_routers

TOKENS_A_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Observations:
    """Every token of the identification text that is not padding.

    Attributes:
        domains: names; `domain` indexes them.
        layers: the model's MoE layers, in the order of the second axis of `experts`.
        expert_count: routed experts a layer.
        domain: [tokens] index into `domains`.
        saliency: [tokens] float32, Eq. 5.
        experts: [tokens, layers, k] int16, the selected experts.
    """

    domains: tuple[str, ...]
    layers: tuple[int, ...]
    expert_count: int
    domain: NDArray[np.int64]
    saliency: NDArray[np.float32]
    experts: NDArray[np.int16]


def observe(
    model: nn.Module,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    on_batch: Callable[[int], None] = lambda _texts: None,
) -> Observations:
    """Run the model over `texts` (by domain), with frozen parameters, longest texts first.

    Args:
        model: a transformers MoE causal language model; left as it was found.
        tokenizer: its tokenizer.
        texts: domain -> its identification texts (questions without answers).
        on_batch: told the number of texts done, for a progress bar.

    Raises:
        SteeringError: the model has no router that is known.
        ValueError: a domain has no text, or a text is too short to have a loss.
    """
    routers = find_routers(model)
    domains = tuple(texts)
    rows = _encode(tokenizer, texts)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with _frozen(model), capture_routing(routers) as routing:
        for batch in _batches(rows):
            ids, mask = _pad([tokens for _, tokens in batch], next(model.parameters()).device)
            kept = mask.bool()
            saliency = token_saliency(model, ids, mask)[kept]
            owner = torch.tensor([index for index, _ in batch]).unsqueeze(1).expand(kept.shape)
            chosen = routing.indices()[kept.flatten()].to(torch.int16)
            parts.append((owner[kept.cpu()], saliency.cpu(), chosen.cpu()))
            on_batch(len(batch))
    domain, saliency, experts = (torch.cat(column) for column in zip(*parts, strict=True))
    return Observations(
        domains=domains,
        layers=tuple(router.layer for router in routers),
        expert_count=routers[0].experts,
        domain=domain.numpy(),
        saliency=saliency.float().numpy(),
        experts=experts.numpy(),
    )


def token_saliency(model: Any, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5 of arXiv 2604.05267: r_i = ||e_i * dL/de_i||_2 with e_i the token's input embedding.

    L is the mean next-token loss of each text by itself, so that batching does not change a text's
    figures. The last token of a text predicts nothing and has saliency 0.

    Args:
        model: parameters frozen.
        input_ids: [batch, length], right-padded.
        mask: [batch, length], 1 on tokens.

    Returns:
        [batch, length], 0 on padding.
    """
    embeddings = model.get_input_embeddings()(input_ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
    losses = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), input_ids[:, 1:], reduction="none"
    )
    predicted = mask[:, 1:].float()
    loss = ((losses * predicted).sum(1) / predicted.sum(1)).sum()
    (gradient,) = torch.autograd.grad(loss, embeddings)
    saliency: Tensor = (embeddings.detach().float() * gradient.float()).norm(dim=-1) * mask
    return saliency


def _encode(tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> list[tuple[int, list[int]]]:
    rows: list[tuple[int, list[int]]] = []
    for index, (domain, domain_texts) in enumerate(texts.items()):
        if not domain_texts:
            raise ValueError(f"domain {domain!r} has no identification text")
        rows += [(index, ids) for ids in tokenizer(list(domain_texts))["input_ids"]]
    if any(len(ids) < 2 for _, ids in rows):
        raise ValueError("an identification text has fewer than two tokens, so it has no loss")
    return sorted(rows, key=lambda row: -len(row[1]))


def _batches(rows: list[tuple[int, list[int]]]) -> Iterator[list[tuple[int, list[int]]]]:
    start = 0
    while start < len(rows):
        count = max(1, TOKENS_A_BATCH // len(rows[start][1]))
        yield rows[start : start + count]
        start += count


def _pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(ids) for ids in sequences])
    padded = nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=0
    )
    mask = (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long()
    return padded.to(device), mask.to(device)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)


def encode_batch(
    tokenizer: Any, texts: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask of texts, [texts, length], right-padded; needs no pad token."""
    return _pad(tokenizer(list(texts))["input_ids"], device)


@torch.no_grad()
def expert_usage(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float64]:
    """Share of the texts' tokens that each expert is selected for, as the model stands.

    Returns:
        [layers, experts]; each layer sums to k.
    """
    routers = find_routers(model)
    device = next(model.parameters()).device
    used = torch.zeros(len(routers), routers[0].experts, dtype=torch.long)
    tokens = 0
    with capture_routing(routers) as routing:
        for batch in _batches(_encode(tokenizer, {"all": texts})):
            ids, mask = _pad([row for _, row in batch], device)
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            chosen = routing.indices()[mask.flatten().bool()].cpu()
            for row in range(len(routers)):
                used[row] += torch.bincount(chosen[:, row].flatten(), minlength=used.shape[1])
            tokens += len(chosen)
    share: NDArray[np.float64] = used.double().numpy() / tokens
    return share
