"""The folder or hub id behind a name."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.models.places import config_place, locate


def test_a_card_and_a_hub_id_may_have_a_revision():
    assert locate("olmoe-1b-7b@v1") == f"{locate('olmoe-1b-7b')}@v1"
    assert config_place("some/model@v1") == "some/model@v1"


def test_a_folder_has_no_revision():
    with pytest.raises(UserError, match="leave the revision out"):
        locate("lab-poly@v1")
