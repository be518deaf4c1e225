"""Tables: the same results from every format, and refusals that name file, row and way out."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.errors import UserError

ROWS = pd.DataFrame(
    {
        "item": ["01", "2", "a,b"],
        "score": [1, 0, 0.5],
        "domain": ["law", "law", "math"],
        "cluster": ["x", "x", "y"],
    }
)


def written(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        ROWS.to_parquet(path)
    elif ".jsonl" in suffix:
        text = "".join(json.dumps(row) + "\n" for row in ROWS.to_dict("records"))
        opened = gzip.open if suffix.endswith("gz") else open
        with opened(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        ROWS.to_csv(path, index=False, sep="\t" if "tsv" in suffix else ",")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz"])
def test_every_format_holds_the_same(tmp_path, suffix):
    found = read_results(written(tmp_path, suffix)).table
    assert found["id"].tolist() == ["01", "2", "a,b"]
    assert found["score"].tolist() == [1, 0, 0.5]
    assert found["domain"].tolist() == ["law", "law", "math"]
    assert found["cluster"].tolist() == ["x", "x", "y"]


def test_a_frame_is_a_table():
    assert read_results(ROWS).table["score"].tolist() == [1, 0, 0.5]


def csv(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_answers_are_judged_by_gold_and_what_was_not_asked_is_left_out(tmp_path):
    path = csv(tmp_path, "q,gold,M,N\n1,A,A,A\n2,B,,B\n3,C,MISSING,A\n")
    selection = Selection(id="q", gold="gold")
    assert read_results(f"{path}:N", selection).table["score"].tolist() == [1, 1, 0]
    with pytest.raises(UserError, match=r"1 answers are 'MISSING'.*--missing-value MISSING"):
        read_results(f"{path}:M", selection)
    found = read_results(f"{path}:M", Selection(id="q", gold="gold", missing_value="MISSING"))
    assert found.table["score"].tolist() == [1, 0]
    assert found.unscored == ("3",)


def test_columns_of_items_come_from_another_table(tmp_path):
    path = csv(tmp_path, "q,M\n1,A\n2,B\n")
    items = csv(tmp_path, "q,answer,topic,text\n2,A,law,why?\n1,A,math,how?\n9,B,law,x\n", "i.csv")
    selection = Selection(id="q", gold="answer", domain="topic", cluster="text", items=items)
    found = read_results(f"{path}:M", selection).table
    assert found["score"].tolist() == [1, 0]
    assert found["domain"].tolist() == ["math", "law"]
    assert found["cluster"].tolist() == ["how?", "why?"]
    short = csv(tmp_path, "q,answer\n1,A\n", "short.csv")
    with pytest.raises(UserError, match=r"lacks 1 items of .*'2'"):
        read_results(f"{path}:M", Selection(id="q", gold="answer", items=short))
    twice = csv(tmp_path, "q,answer\n1,A\n1,B\n2,A\n", "twice.csv")
    with pytest.raises(UserError, match="two rows for item '1'"):
        read_results(f"{path}:M", Selection(id="q", gold="answer", items=twice))


def test_questions_stand_for_items(tmp_path):
    text = "question,options,gold,score\nWhy?,a b,a,1\nwhy,a b,b,0\nHow?,,c,1\n"
    found = read_results(csv(tmp_path, text)).table
    assert found["content"].nunique() == 3
    assert found["cluster"].nunique() == 2  # the first two ask the same
    with pytest.raises(UserError, match="two rows"):
        read_results(csv(tmp_path, text + "How?,,c,1\n"))


def test_samples_are_averaged_where_they_are_declared(tmp_path):
    text = "item,sample,score\na,0,1\na,1,0\nb,0,1\n"
    found = read_results(csv(tmp_path, text))
    assert found.table.set_index("id")["score"].to_dict() == {"a": 0.5, "b": 1}
    assert found.notes == ("1 to 2 samples per item, not all the same",)
    undeclared = csv(tmp_path, text.replace("sample", "k"))
    with pytest.raises(UserError, match=r"two rows \(rows 1 and 2\) for item 'a'.*--sample"):
        read_results(undeclared)
    assert len(read_results(undeclared, Selection(sample="k")).table) == 2
    with pytest.raises(UserError, match="two rows"):
        read_results(csv(tmp_path, text + "b,0,1\n"))


def test_one_metric_and_one_filter(tmp_path):
    text = "item,metric,filter,score\na,acc,f,1\na,f1,f,0.4\nb,acc,f,0\n"
    path = csv(tmp_path, text)
    with pytest.raises(UserError, match="2 metrics; choose one: --metric acc"):
        read_results(path)
    found = read_results(path, Selection(metric="acc"))
    assert found.measures == {"": ("acc", "f")}
    assert len(found.table) == 2
    with pytest.raises(UserError, match="no filter 'g'; name one of 'f' with --filter"):
        read_results(path, Selection(metric="acc", filter="g"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("item,score\n", "no scored item"),
        ("item,score\na,\n", r"row 1 \(empty\).*--missing-value"),
        ("item,score\na,1\nb,nan\n", "row 2 .*'nan'"),
        ("item,score\na,1\nb,inf\n", "row 2 .*'inf'"),
        ("item,score\na,yes\n", "'yes'"),
        ("item,score\na,1\nb\n", "cannot be read.*Expected 2 columns, got 1"),
        ("item,points\na,1\n", "no column 'score'; name one of item, points"),
        ("score\n1\n", "no column 'item'.*--id"),
        ("item,score,score\na,1,0\n", "two columns 'score'"),
        ("item,score\na,1\na,1\n", "two rows .* for item 'a'"),
    ],
)
def test_refusals_say_where_and_what_to_do(tmp_path, text, message):
    path = csv(tmp_path, text)
    with pytest.raises(UserError, match=message) as refused:
        read_results(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"PAR1" + b"\0" * 40 + b"PAR1", b"\x1f\x8b\x08\0junk", b"\xff\xfe,\0\n\xff,1\n"]
)
@pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.csv", "t.jsonl", "t.jsonl.gz"])
def test_garbage_ends_in_a_sentence(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="t\\."):
        read_results(path)


def test_an_object_column_of_parquet_is_not_unpickled(tmp_path):
    """A binary column stays bytes' text, whatever it holds."""
    path = tmp_path / "t.parquet"
    pd.DataFrame({"item": [b"\x80\x04.", b"b"], "score": [1, 0]}).to_parquet(path)
    assert read_results(path).table["id"].tolist() == [str(b"\x80\x04."), str(b"b")]


def test_text_of_parquet_that_is_no_utf8_is_refused(tmp_path):
    ids = pa.array([b"\xb3", b"b"]).cast(pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"item": ids, "score": [1, 0]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: cannot be read \(.*UTF8"):
        read_results(tmp_path / "t.parquet")


def test_case_01_a_score_that_a_row_lacks_is_empty(tmp_path):
    path = csv(tmp_path, '{"item": 1, "score": 2}\n{"item": 2}\n', "u.jsonl")
    with pytest.raises(UserError, match=r"u.jsonl: 1 score.* row 2 \(empty\).*--missing-value ''"):
        read_results(path)
    assert read_results(path, Selection(missing_value="")).unscored == ("2",)


def test_numbers_name_items_as_text_does(tmp_path):
    frame = pd.DataFrame({"item": np.array([7, 70]), "score": [True, False]})
    frame.to_parquet(tmp_path / "t.parquet")
    found = read_results(tmp_path / "t.parquet").table
    assert found["id"].tolist() == ["7", "70"]
    assert found["score"].tolist() == [1, 0]
