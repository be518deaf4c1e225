"""Batches side by side give what batches one after the other give."""

import pytest
import torch

from dsmoe_eval.experts import encode_documents, observe
from dsmoe_eval.experts import observations as module
from dsmoe_eval.experts.workers import AT_ONCE, copies, side_by_side


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(AT_ONCE)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def loaded():
    from dsmoe_eval.models import load_model

    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def documents(loaded):
    texts = {
        "a": ["What is the sign of the cell?", "What is the twin?"],
        "b": ["What is the mass?"] * 4,
    }
    return encode_documents(loaded.tokenizer, texts)


@pytest.mark.usefixtures("two_threads")
def test_copies_share_tensors_and_no_hooks(loaded):
    first, second = copies(loaded.model)
    assert first is loaded.model
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert one is two
    assert {id(b) for b in first.buffers()} == {id(b) for b in second.buffers()}
    assert not {id(m) for m in first.modules()} & {id(m) for m in second.modules()}
    hook = first.model.layers[0].register_forward_hook(lambda *_: None)
    assert len(copies(first)) == 1
    hook.remove()
    torch.set_num_threads(1)
    assert len(copies(first)) == 1


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("contributions", [False, True])
def test_the_same_rows(loaded, documents, tmp_path, monkeypatch, contributions):
    monkeypatch.setattr(module, "token_budget", lambda _: 8)

    def rows(name):
        seen = observe(
            loaded.model, documents, tmp_path / name, saliency_model=loaded.model,
            contributions=contributions,
        )  # fmt: skip
        return list(seen.read())

    both = rows("both")
    monkeypatch.setattr(module, "copies", lambda model: [model])
    for one, two in zip(rows("alone"), both, strict=True):
        for name in type(one).__slots__:
            torch.testing.assert_close(getattr(one, name), getattr(two, name))


@pytest.mark.usefixtures("two_threads")
def test_what_fails_in_a_thread_is_raised_and_threads_are_as_before():
    def fail(place):
        assert torch.get_num_threads() == 1
        raise ValueError(place)

    with pytest.raises(ValueError, match="0"), side_by_side(AT_ONCE) as each:
        list(each(fail, range(9)))
    assert torch.get_num_threads() == AT_ONCE
