"""The transformers engine, shown to lm-eval as an LM.

One loaded model serves every variant: whoever steers it or puts adapters on it does so around the
calls. Scoring runs one forward for all single-token options of a question, over length-sorted
batches of a fixed number of tokens, and keeps only the logits that are needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from .lm import EngineLM, Tokens
from .loading import LoadedModel


@dataclass(frozen=True, slots=True)
class _Forward:
    """One sequence to run, and the continuations that end at its last logits."""

    tokens: tuple[int, ...]
    continuations: tuple[tuple[int, tuple[int, ...]], ...]  # (request, continuation tokens)
    kept: int  # logits needed, counted from the end


class TransformersLM(EngineLM):
    """lm-eval's LM over a loaded model."""

    def __init__(self, loaded: LoadedModel, batch_tokens: int) -> None:
        super().__init__(loaded.tokenizer, loaded.identity)
        self.loaded = loaded
        self.batch_tokens = batch_tokens

    @torch.no_grad()
    def _score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, bool]]:
        totals = torch.zeros(len(pairs))
        greedy = torch.ones(len(pairs), dtype=torch.bool)
        for batch in self._batches(_plan_forwards(pairs)):
            logits = self._last_logits(batch)
            request, row, position, token = _wanted(batch, logits.shape[1])
            totals.index_add_(0, request, logits[row, position, token])
            missed = request[logits.argmax(-1)[row, position] != token]
            greedy[missed] = False
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    @torch.no_grad()
    def _continue(self, prompts: Sequence[Tokens], limit: int) -> list[str]:
        texts = [""] * len(prompts)
        forwards = (_Forward(tuple(p), ((i, ()),), limit) for i, p in enumerate(prompts))
        for batch in self._batches(forwards, room=limit):
            for forward, text in zip(batch, self._generate(batch, limit), strict=True):
                texts[forward.continuations[0][0]] = text
        return texts

    def _batches(self, forwards: Iterable[_Forward], room: int = 0) -> Iterator[list[_Forward]]:
        """Longest first, so that memory is tried at once; padded size within `batch_tokens`.

        Raises:
            UserError: a text and the `room` for its answer do not fit into the model.
        """
        ordered = sorted(forwards, key=lambda forward: (-len(forward.tokens), forward.tokens))
        most = getattr(self.loaded.model.config, "max_position_embeddings", None)
        if ordered and most is not None and len(ordered[0].tokens) + room > most:
            raise UserError(
                f"a prompt of {len(ordered[0].tokens)} tokens and {room} for its answer do not fit "
                f"into the model's {most} positions; cutting it would change the question"
            )
        start = 0
        while start < len(ordered):
            count = max(1, self.batch_tokens // len(ordered[start].tokens))
            yield ordered[start : start + count]
            start += count

    def _pad_left(self, batch: Sequence[_Forward]) -> tuple[Tensor, Tensor]:
        length = len(batch[0].tokens)
        rows = [[0] * (length - len(f.tokens)) + list(f.tokens) for f in batch]
        masks = [[0] * (length - len(f.tokens)) + [1] * len(f.tokens) for f in batch]
        self.forward_tokens += sum(len(forward.tokens) for forward in batch)
        device = self.loaded.model.device
        return torch.tensor(rows, device=device), torch.tensor(masks, device=device)

    def _last_logits(self, batch: Sequence[_Forward]) -> Tensor:
        ids, mask = self._pad_left(batch)
        output = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=max(forward.kept for forward in batch),
        )
        logits: Tensor = output.logits
        return logits.float().log_softmax(-1).cpu()

    def _generate(self, batch: Sequence[_Forward], limit: int) -> list[str]:
        ids, mask = self._pad_left(batch)
        output = self.loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=limit,
            pad_token_id=self.tokenizer.pad_token_id or self.eot_token_id,
        )
        fresh = output[:, ids.shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(fresh, skip_special_tokens=True)
        return texts


def _plan_forwards(pairs: Sequence[tuple[Tokens, Tokens]]) -> Iterator[_Forward]:
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (context, continuation) in enumerate(pairs):
        groups[(*context, *continuation[:-1])].append((index, tuple(continuation)))
    for tokens, continuations in groups.items():
        kept = max(len(continuation) for _, continuation in continuations)
        yield _Forward(tokens, tuple(continuations), kept)


def _wanted(batch: Sequence[_Forward], kept: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the continuations' tokens stand in a batch's last `kept` log-probabilities.

    Returns:
        Four vectors of one length: the request, its row, the position, and the token wanted there.
    """
    places = [
        (request, row, kept - len(continuation) + offset, token)
        for row, forward in enumerate(batch)
        for request, continuation in forward.continuations
        for offset, token in enumerate(continuation)
    ]
    request, row, position, token = torch.tensor(places, dtype=torch.long).unbind(1)
    return request, row, position, token
