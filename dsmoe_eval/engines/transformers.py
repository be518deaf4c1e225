"""The transformers engine, shown to lm-eval as an LM.

One loaded model serves every variant: whoever steers it or puts adapters on it does so around the
calls. Scoring runs one forward for all single-token options of a question, over length-sorted
batches of a fixed number of tokens, and keeps only the logits that are needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from torch import Tensor

from ..errors import UserError
from .loading import LoadedModel

MAX_NEW_TOKENS = 64
"""Where a task does not say how much may be generated."""


@dataclass(frozen=True, slots=True)
class _Forward:
    """One sequence to run, and the continuations that end at its last logits."""

    tokens: tuple[int, ...]
    continuations: tuple[tuple[int, tuple[int, ...]], ...]  # (request, continuation tokens)
    kept: int  # logits needed, counted from the end


class TransformersLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's LM over a loaded model."""

    def __init__(self, loaded: LoadedModel, batch_tokens: int) -> None:
        super().__init__()
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.batch_tokens = batch_tokens
        self.forward_tokens = 0
        self._encoded: dict[str, list[int]] = {}

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's request cache key."""
        return self.loaded.identity.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text; remembered, since every variant asks for the same texts."""
        special = add_special_tokens is not False
        key = f"{int(special)}{string}"
        if key not in self._encoded:
            self._encoded[key] = self.tokenizer.encode(string, add_special_tokens=special)
        return self._encoded[key]

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each (context, continuation); no bar of lm-eval's own."""
        del disable_tqdm
        result: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return result

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for texts, _context, continuation in requests:
            if not continuation:
                # Its log-likelihood would be 0, better than that of any other option.
                raise UserError(f"the tokenizer gives no token for the answer {texts[1]!r:.60}")
        totals = torch.zeros(len(requests))
        greedy = torch.ones(len(requests), dtype=torch.bool)
        for batch in self._batches(_plan_forwards(requests)):
            logits = self._last_logits(batch)
            request, row, position, token = _wanted(batch, logits.shape[1])
            totals.index_add_(0, request, logits[row, position, token])
            missed = request[logits.argmax(-1)[row, position] != token]
            greedy[missed] = False
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    def loglikelihood_rolling(self, *_: Any, **__: Any) -> list[float]:
        """Not served yet.

        Raises:
            UserError: always.
        """
        raise UserError("rolling log-likelihood (perplexity tasks) is not served by this version")

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, cut at the first stop string.

        Raises:
            UserError: a task asks for sampling.
        """
        del disable_tqdm
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[_generation_settings(request.args[1])].append(index)
        texts = [""] * len(requests)
        for (limit, stops), members in groups.items():
            prompts = [(tuple(self.tok_encode(requests[i].args[0])), i) for i in members]
            forwards = (_Forward(tokens, ((i, ()),), limit) for tokens, i in prompts)
            for batch in self._batches(forwards, room=limit):
                for forward, text in zip(batch, self._generate(batch, limit), strict=True):
                    texts[forward.continuations[0][0]] = _cut(text, stops)
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


def _plan_forwards(requests: Sequence[tuple[Any, list[int], list[int]]]) -> Iterator[_Forward]:
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (_, context, continuation) in enumerate(requests):
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


def _generation_settings(settings: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
        raise UserError("the task asks for sampling; this version generates greedily only")
    until = settings.get("until") or []
    limit = settings.get("max_gen_toks") or settings.get("max_new_tokens") or MAX_NEW_TOKENS
    return int(limit), tuple([until] if isinstance(until, str) else until)


def _cut(text: str, stops: Iterable[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text
