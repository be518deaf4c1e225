"""Batches of a pass: each is computed once, whole or not at all."""

import pytest
import torch

from dsmoe_eval.experts.passes import batch_path, pass_folder, write_batches
from dsmoe_eval.experts.tensor_files import read_tensors


def test_a_pass_that_was_interrupted_goes_on(tmp_path):
    folder = pass_folder(tmp_path, ["one", 1])
    assert pass_folder(tmp_path, ["one", 2]) != folder
    computed, done = [], []

    def compute(batch):
        computed.append(tuple(batch))
        if batch[0] == 2 and len(computed) < 3:
            raise KeyboardInterrupt
        return {"value": torch.tensor(batch)}

    plan = [[0, 1], [2]]
    with pytest.raises(KeyboardInterrupt):
        write_batches(folder, plan, [compute], done.append)
    assert done == [2]
    write_batches(folder, plan, [compute], done.append)
    assert computed == [(0, 1), (2,), (2,)]
    assert done == [2, 2, 1]
    assert read_tensors(batch_path(folder, 1))["value"].tolist() == [2]
