"""A report on neurons says so, one on experts does not."""

from dsmoe_eval.reports.run_sites import column_label, units_note
from dsmoe_eval.results.folder import open_folder

NEURONS = {"units": "neurons", "column": 24}


def test_the_note_and_the_label(tmp_path):
    folder = open_folder(tmp_path / "dense", "", {})
    folder.write_json(folder.identification, NEURONS)
    assert "is one of its neurons" in units_note(folder)[0]
    folder = open_folder(tmp_path / "experts", "", {})
    folder.write_json(folder.identification, {"layers": []})
    assert units_note(folder) == []
    assert column_label(NEURONS, 64) == "layer, each with 64 columns of 24 neurons, added up"
    assert column_label({}, 8) == "layer, each with its 8 experts"
