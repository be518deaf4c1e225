"""The page of keep-k curves, from rows made by hand."""

import json

from dsmoe_eval.reports import keep_page, render_keep

from ..studies.test_keep_rows import BASE, CONTROL, PRUNED, Kept, answered, base_row, keep_row


def result():
    generated = Kept("reap", 3, 0.5, 0.9, (answered([1, 0]),))
    rows = [keep_row("all domains", CONTROL, BASE, None)]
    rows += [keep_row("all domains", Kept("reap", 3, 0.5, 0.9, (PRUNED,)), BASE, CONTROL)]
    rows += [keep_row("sums", generated, answered([1, 1]), None)]
    return {
        "model": "lab", "fingerprint": "0", "dtype": "float32", "device": "cpu", "suite": "lab",
        "role": "target", "items": 8, "seed": 0, "layers": [0, 1], "experts": 6, "top_k": 2,
        "methods": ["reap"], "draws": 2, "left_out": ["other"], "spared": [[1, 4]],
        "base": [base_row("sums", answered([1, 1])), base_row("all domains", BASE)], "rows": rows,
    }  # fmt: skip


def test_the_page_says_what_each_method_keeps():
    page = keep_page(result())
    assert "at most 8 items per task; 2 layers of 6 experts, 2 for each token; 2 draws" in page
    assert "Left out, for lack of identification text: other." in page
    assert "Super experts, which every model keeps first: layer 1 expert 4." in page
    assert "- Base: score 75.0%, -1.050 nats (8 items of all domains)." in page
    assert "- 3 of 6 experts kept (50%): reap -0.550 nats; random -1.950 nats." in page
    assert "| reap | 3 | 90.0% | 62.5% | -12.5 [" in page
    assert "| reap | 3 | 90.0% | 50.0% | -50.0 [" in page  # sums, without a log-probability
    assert "keep.png" not in page


def test_the_folder_has_page_picture_and_figures(tmp_path):
    page = render_keep(result(), tmp_path)
    assert "![Outcomes against the share of experts kept, by domain](keep.png)" in page.read_text()
    assert json.loads((tmp_path / "keep.json").read_text())["methods"] == ["reap"]
    assert (tmp_path / "keep.png").stat().st_size > 10_000


def test_answers_without_options_have_one_column_of_curves(tmp_path):
    found = result()
    base, rows = found["base"][0], found["rows"][2]
    found["base"] = [base, base | {"domain": "all domains"}]
    found["rows"] = [rows, rows | {"domain": "all domains"}]
    page = render_keep(found, tmp_path)
    assert "3 of 6 experts kept (50%): reap -50.0 pp." in page.read_text()
    assert (tmp_path / "keep.png").stat().st_size > 10_000
