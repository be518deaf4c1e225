"""Identification passes without a model: random rows, written as a pass writes them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from dsmoe_eval.experts import Document, Observations, Shape, observe_routed

LAYERS, EXPERTS, K, VOCABULARY = 2, 5, 2, 6


class Letters:
    """A tokenizer of lower-case letters: a is 2, b is 3, ... "^" is a special token."""

    chat_template = None

    def __call__(self, texts, return_special_tokens_mask=False):  # noqa: ARG002 - as transformers has it
        if not isinstance(texts, str):
            return {"input_ids": [self(text)["input_ids"] for text in texts]}
        ids = [1 if letter == "^" else 2 + ord(letter) - ord("a") for letter in texts]
        return {"input_ids": ids, "special_tokens_mask": [int(i == 1) for i in ids]}


@pytest.fixture
def letters() -> Letters:
    return Letters()


@dataclass(frozen=True)
class Row:
    """One token that counts, as brute force sees it."""

    document: int
    domain: str
    generated: bool
    token: int
    saliency: float
    experts: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]


@contextmanager
def random_pass(seed: int, saliency: bool = True) -> Iterator[tuple[Observations, list[Row]]]:
    """A pass over random routing of random documents, and its rows.

    Saliency is played by a stand-in for the model: see `_Salient`.
    """
    generator = np.random.default_rng(seed)
    documents = []
    for number in range(int(generator.integers(4, 9))):
        length = int(generator.integers(2, 9))
        kept = generator.random(length) < 0.8
        kept[0] = True
        documents.append(
            Document(
                domain=("one", "two", "three")[number % 3],
                tokens=tuple(generator.integers(0, VOCABULARY, length).tolist()),
                kept=tuple(kept.tolist()),
                prompt_length=int(generator.integers(1, length + 1)),
            )
        )
    routed = []
    for one in documents:
        size = (len(one.tokens), LAYERS)
        order = generator.random((*size, EXPERTS)).argsort(-1)[..., :K]
        routed.append((torch.from_numpy(order), torch.from_numpy(generator.random((*size, K)))))
    by_document = {id(one): pair for one, pair in zip(documents, routed, strict=True)}
    model = _Salient() if saliency else None
    with tempfile.TemporaryDirectory() as folder:
        seen = observe_routed(
            documents,
            lambda batch: [by_document[id(one)] for one in batch],
            Shape((0, 2), EXPERTS, K),
            Path(folder),
            saliency_model=model,
            identity="random",
        )
        yield seen, list(_rows(documents, routed))


class _Salient(torch.nn.Module):
    """A causal language model whose embedding of token t is t + 1, so that saliencies differ."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, 1)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.arange(1.0, VOCABULARY + 1)[:, None])

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return None

    def forward(self, inputs_embeds=None, **_):
        grid = torch.linspace(-0.4, 0.9, VOCABULARY)
        logits = torch.tanh(inputs_embeds * 0.3) * grid + inputs_embeds.cumsum(1) * 0.01 * grid**2
        return type("Output", (), {"logits": logits})()


def _rows(documents, routed) -> Iterator[Row]:
    model = _Salient()
    for number, (one, (experts, weights)) in enumerate(zip(documents, routed, strict=True)):
        embeddings = model.embedding(torch.tensor([one.tokens])).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, torch.tensor(one.tokens[1:])).backward()
        saliency = (embeddings * embeddings.grad).abs()[0, :, 0].detach()
        for place, (token, kept) in enumerate(zip(one.tokens, one.kept, strict=True)):
            if kept:
                yield Row(
                    document=number,
                    domain=one.domain,
                    generated=place >= one.prompt_length,
                    token=token,
                    saliency=float(saliency[place]),
                    experts=tuple(map(tuple, experts[place].tolist())),
                    weights=tuple(map(tuple, weights[place].float().tolist())),
                )
