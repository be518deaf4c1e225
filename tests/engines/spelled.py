"""Small tokenizers of several kinds, and models that say a fixed sequence of their tokens."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from dsmoe_eval.models.loading import LoadedModel, identify_model

SPECIAL = ("<e>", "<|start|>", "<|end|>")
"""The first is the end of text."""
SPELLED = "<e>"
"""The end of text, in ordinary tokens."""
LETTERS = "abcdefghijklmnopqrstuvwxyz<>|\n. "


def tokenizer(kind: str) -> Any:
    """A tokenizer of that kind that can spell its special tokens by ordinary ones."""
    made = Tokenizer(_MODELS[kind]())
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    elif kind == "sentencepiece":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
    elif kind == "wordpiece":
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.WordPiece()
    else:
        made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        made.decoder = decoders.Fuse()
    made.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=SPECIAL[0], pad_token=SPECIAL[0], unk_token=None
    )


def _vocabulary(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


_MODELS = {
    "letters": lambda: models.BPE(_vocabulary(LETTERS), []),
    "bytes": lambda: models.BPE(_vocabulary(sorted(pre_tokenizers.ByteLevel.alphabet())), []),
    "sentencepiece": lambda: models.BPE(
        _vocabulary([*LETTERS.replace(" ", "▁"), *("▁" + letter for letter in LETTERS[:20])]), []
    ),
    "wordpiece": lambda: models.WordPiece(
        _vocabulary([*LETTERS, *("##" + letter for letter in LETTERS[:28]), "."]),
        unk_token=".",  # noqa: S106
    ),
}
KINDS = tuple(_MODELS)


def shuffled(tokens: Any, seed: int) -> list[int]:
    """All tokens but the end of text, which is spelled somewhere by ordinary ones."""
    order = [token for token in range(len(tokens)) if token != tokens.eos_token_id]
    random.Random(seed).shuffle(order)
    spelled = [order.pop(order.index(t)) for t in map(tokens.convert_tokens_to_ids, SPELLED)]
    return [*order, *spelled]


def saying(tokens: Any, order: Sequence[int], **more: Any) -> LoadedModel:
    """A model that says `order` in a circle, from the token after the prompt's last one on.

    Its layers do nothing: the next token depends on the last one alone.
    """
    size = len(tokens)
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=size, hidden_size=-(-size // 8) * 8, moe_intermediate_size=8,
        num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8,
        num_experts=4, num_experts_per_tok=2, max_position_embeddings=256,
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, **more,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(*model.model.embed_tokens.weight.shape))
        for before, after in itertools.pairwise([*order, order[0]]):
            model.lm_head.weight[after, before] = 1.0
    return LoadedModel(model, tokens, identify_model("tiny", "0", model))
