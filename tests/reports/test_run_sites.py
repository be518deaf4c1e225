"""A report on neurons says so, one on experts does not."""

from dsmoe_eval.reports.run_sites import column_label, column_words, steered_units, units_note
from dsmoe_eval.results.folder import open_folder

NEURONS = {"units": "neurons", "column": 24}
BLOCKS = {"units": "blocks of 64 neurons", "column": 1}


def test_the_units_and_the_note(tmp_path):
    folder = open_folder(tmp_path / "dense", "", {})
    folder.write_json(folder.identification, NEURONS)
    assert steered_units(folder) == "neurons"
    assert "its neurons are steered" in units_note("neurons")[0]
    folder = open_folder(tmp_path / "experts", "", {})
    folder.write_json(folder.identification, {"layers": []})
    assert steered_units(folder) is None
    assert units_note(None) == []


def test_columns_are_experts_or_several_units_or_one():
    assert column_label({}, 8) == "layer, each with its 8 experts"
    assert column_label(NEURONS, 64) == "layer, each with 64 columns of 24 neurons, added up"
    assert column_label(BLOCKS, 24) == "layer, each with its 24 blocks"
    assert column_words({}) == column_words(BLOCKS)  # the page's words follow the units
    assert column_words({})["share"] == "each expert's share"
    assert column_words(NEURONS)["label"] == "column of 24 neurons, added up"
    assert column_words(NEURONS)["one"] == "24 neurons, added up"
