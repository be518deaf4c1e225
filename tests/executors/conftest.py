"""The estimate of one plan, which tests of figures on paper share."""

import pytest

from dsmoe_eval.runs.estimate import estimate


@pytest.fixture(scope="session")
def lab_estimate():
    return estimate("lab", ["olmoe-1b-7b", "gpt-oss-20b", "lab-poly"])
