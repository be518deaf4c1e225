"""What a model in transformers gives a run is what the functions behind it give."""

import torch

from dsmoe_eval.engines.transformers.answers import greedy_answers
from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.experts import encode_documents, observe
from dsmoe_eval.models import load_model

TEXTS = {"math": ["What is 7 + 6?"], "law": ["In law, the keeper of the charge is"]}


def test_texts_are_observed_with_a_reader_or_without(tmp_path):
    loaded = load_model("lab-poly", "cpu")
    engine = TransformersEngine(loaded)
    documents = encode_documents(loaded.tokenizer, TEXTS)
    seen, expected = [], observe(loaded.model, documents, tmp_path / "a", saliency_model=None)
    for name, reader in (("b", None), ("c", engine.reader())):
        found = engine.observe(
            documents, tmp_path / name, reader=reader, contributions=False, advance=seen.append
        )
        assert found.has_saliency is (reader is not None)
        assert found.domains == ("math", "law")
        for one, other in zip(found.read(), expected.read(), strict=True):
            assert torch.equal(one.experts, other.experts)
            assert torch.equal(one.token, other.token)
    assert sum(seen) == 2 * len(documents)


def test_prompts_are_continued_greedily():
    loaded = load_model("lab-poly", "cpu")
    prompts = [loaded.tokenizer.encode(text) for texts in TEXTS.values() for text in texts]
    answers = TransformersEngine(loaded).answers(prompts, 3)
    assert answers == greedy_answers(loaded, prompts, 3, 999)
    ids = torch.tensor([prompts[0]])
    with torch.no_grad():
        assert answers[0][0] == int(loaded.model(ids).logits[0, -1].argmax())
