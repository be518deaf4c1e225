"""Texts are encoded once, alone or together, with the first token where they lack it."""

import pytest
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from lm_eval.models.huggingface import HFLM

from dsmoe_eval.adapters.lm_eval_model import SteeredLM
from dsmoe_eval.engines.encoding import Encoder
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.experts.documents import encode_documents
from dsmoe_eval.models import load_model
from dsmoe_eval.models.loading import load_tokenizer
from dsmoe_eval.models.prompt_format import PromptFormat
from dsmoe_eval.variants.fitting import encode_pairs

from .chatting import TEMPLATE, chat_model, chat_tokenizer

TEXTS = ["What is the sign of the root?", "", "In law, the keeper", " the", "In law, the keeper"]


class Counting:
    """A tokenizer that tells how many texts it was given."""

    def __init__(self, start=None):
        self._own, self.given = load_tokenizer("lab-poly"), []
        self.bos_token, self.eos_token = start, start

    def encode(self, text, add_special_tokens):
        self.given.append((text, add_special_tokens))
        return self._own.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens):
        return self._own.decode(tokens)

    def __call__(self, texts, add_special_tokens):
        self.given += [(text, add_special_tokens) for text in texts]
        return self._own(texts, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("start", [None, "In"])
def test_texts_together_are_what_they_are_alone(start):
    alone, together = Encoder(Counting(start)), Encoder(tokenizer := Counting(start))
    tokenizer.given.clear()  # what it adds before a text was asked
    together.encode_together(TEXTS)
    assert len(tokenizer.given) == 3
    assert {text for text, special in tokenizer.given if not special} == (
        {"In law, the keeper"} if start else set()
    )
    expected = [alone.encode(text) for text in TEXTS]
    assert [together.encode(text) for text in TEXTS] == expected
    assert len(tokenizer.given) == 4  # the empty one is encoded when it is asked for
    together.encode_together(TEXTS)
    assert len(tokenizer.given) == 4
    together.forget()
    together.encode_together(TEXTS)
    assert len(tokenizer.given) == 7


PREFIXES = {
    "no prefix": ((), ""),
    "one, written": (("<s>",), "<s>"),
    "one, not written": (("<s>",), ""),
    "two, written": (("[gMASK]", "<sop>"), "[gMASK]<sop>"),
    "two, not written": (("[gMASK]", "<sop>"), ""),
    "two, the second written": (("[gMASK]", "<sop>"), "<sop>"),
}


@pytest.mark.parametrize("first_token", [True, False], ids=["bos", "no bos"])
@pytest.mark.parametrize("kind", PREFIXES)
def test_case_07_all_paths_ask_the_same_tokens(kind, first_token, tmp_path):
    """What a template writes is not added again; what neither writes is added, as `hf` does."""
    added, written = PREFIXES[kind]
    tokenizer = chat_tokenizer(written + TEMPLATE, added=added)
    if added and first_token:
        tokenizer.bos_token = added[-1]
    name = chat_model(tmp_path / "mine", tokenizer)
    loaded = load_model(name, "cpu")
    question = [{"role": "user", "content": "Which one?"}]
    lms = [TransformersLM(loaded, 2048, PromptFormat(chat=True)), SteeredLM(name, device="cpu")]
    apis = {
        chat: get_model(f"dsmoe/{name}", memoize=False, device="cpu", chat_template=chat).api
        for chat in (True, False)
    }
    rendered = lms[0].apply_chat_template(question)
    bare = tokenizer.encode(rendered, add_special_tokens=False)
    prefix = [] if written else [tokenizer.convert_tokens_to_ids(token) for token in added]
    for text, chat in ((rendered, True), ("Which one?", False)):
        asked = [next(lm._requests([(text, {})])).prompt for lm in lms]
        request, _ = apis[chat]._request([ChatMessageUser(content="Which one?")], GenerateConfig())
        ((tokens, length),) = encode_pairs(loaded.tokenizer, [(text, " yes")])
        asked += [request.prompt, tuple(tokens[:length])]
        assert set(asked) == {asked[0]}
        assert list(asked[0]) == (prefix + bare if chat else tokenizer.encode(text))
    documents = encode_documents(tokenizer, {"all": ["Which one?"]}, chat_template=True)
    assert list(documents[0].tokens) == prefix + bare


@pytest.mark.parametrize("kind", PREFIXES)
def test_case_07_a_prompt_has_the_tokens_of_lm_evals_hf(kind, tmp_path):
    added, written = PREFIXES[kind]
    tokenizer = chat_tokenizer(written + TEMPLATE, added=added)
    if added:
        tokenizer.bos_token = added[0]
    loaded = load_model(chat_model(tmp_path / "mine", tokenizer), "cpu")
    ours = TransformersLM(loaded, 2048)
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer)
    rendered = ours.apply_chat_template([{"role": "user", "content": "Which one?"}])
    texts = [rendered, "Which one?", "", *(token + "Which one?" for token in added[:1])]
    if kind == "two, the second written":
        texts.remove(rendered)  # `hf` looks for the first token only, and adds both again
    for text in texts:
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours.tok_encode(text, False) == theirs.tok_encode(text, False)
