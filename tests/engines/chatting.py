"""Small chat models in folders, whose answers are written by a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3MoeConfig

from dsmoe_eval.engines.transformers import generate

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n"
TEMPLATE = TURNS + ASKS + "{% endif %}"
ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEXTS = ["Which one? (A) cat (B) dog", "The answer is (B).", "it is not.</think>\n\nThe"] * 9


def chat_tokenizer(
    template: str | None = TEMPLATE, special: Sequence[str] = (), added: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer with special tokens, that adds some of them before a text."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokens = [*ENDS, *dict.fromkeys([*special, *added])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(_TEXTS, trainer)
    if added:
        words.post_processor = processors.TemplateProcessing(
            single=f"{' '.join(added)} $A",
            special_tokens=[(token, words.token_to_id(token)) for token in added],
        )
    ends = {"eos_token": ENDS[2], "pad_token": ENDS[0]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **ends)
    tokenizer.chat_template = template
    return tokenizer


def chat_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """Write a folder with a small random model of this tokenizer; return its name."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        num_experts=4, num_experts_per_tok=2, eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=1024,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def script(
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: PreTrainedTokenizerFast,
    said: Mapping[str, str],
) -> None:
    """Let a model say what is written for a question; limits and stop strings are the engine's."""
    ids = {asked: tokenizer.encode(text, add_special_tokens=False) for asked, text in said.items()}

    def choose(chooser: Any, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        begun = vars(chooser).setdefault("begun", input_ids.shape[1])
        written = input_ids.shape[1] - begun
        chosen = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(input_ids):
            prompt = tokenizer.decode(tokens[:begun])
            answer = next(answer for asked, answer in ids.items() if asked in prompt)
            chosen[row, answer[written] if written < len(answer) else tokenizer.eos_token_id] = 0
        return chosen

    monkeypatch.setattr(generate._Choose, "__call__", choose)
    always = property(lambda _: True, lambda *_: None)
    monkeypatch.setattr(generate._Choose, "acts", always, raising=False)
