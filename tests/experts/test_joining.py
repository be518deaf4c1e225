"""Routing of one pass and saliency of another give the rows of a pass that records both."""

import pytest
import torch

from dsmoe_eval.experts import encode_documents, observe, with_saliency

from ..conftest import make_model
from .test_observations import TEXTS, columns


@pytest.fixture
def passes(letters, tmp_path, monkeypatch):
    """One batch with saliency, several without."""
    model, documents = make_model("olmoe"), encode_documents(letters, TEXTS)
    read = observe(model, documents, tmp_path, saliency_model=model)
    monkeypatch.setattr("dsmoe_eval.experts.observations.token_budget", lambda _: 14)
    return model, documents, read, observe(model, documents, tmp_path, saliency_model=None)


def in_order(seen):
    """The columns of a pass, document by document."""
    found = columns(seen)
    order = found["document"].argsort(stable=True)
    return {name: column[order] for name, column in found.items()}


def test_each_token_keeps_its_own_saliency(passes):
    _, _, read, routed = passes
    joined = with_saliency(routed, read)
    assert (read.batches, routed.batches) == (1, 3)
    assert joined.has_saliency
    assert not routed.has_saliency
    expected, found = in_order(read), in_order(joined)
    assert expected.keys() == found.keys()
    for name, column in expected.items():
        torch.testing.assert_close(found[name], column)
    first = [path.stat().st_mtime_ns for path in joined.folder.iterdir()]
    with_saliency(routed, read)
    assert [path.stat().st_mtime_ns for path in joined.folder.iterdir()] == first


def test_other_tokens_and_passes_without_saliency_are_refused(passes, letters, tmp_path):
    model, _, read, routed = passes
    with pytest.raises(ValueError, match="is a pass without saliency"):
        with_saliency(read, routed)
    others = encode_documents(letters, {"one": ["abcdf", "^bcd", "zyxwvut"], "two": TEXTS["two"]})
    other = observe(model, others, tmp_path, saliency_model=None)
    with pytest.raises(ValueError, match="are passes over other tokens"):
        with_saliency(other, read)
