"""What the tests themselves see of the machine."""

import os

import torch


def test_the_tests_compute_on_the_cpu():
    """Also on a machine with a GPU: nothing asked CUDA for its devices before they were hidden."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()
