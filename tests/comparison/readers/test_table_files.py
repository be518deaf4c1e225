"""Formats and encodings: the same data are the same results."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.compare import compare
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.comparison.readers.table_files import load_table, load_tables
from dsmoe_eval.errors import UserError

WORDS = st.text(alphabet="abAB 19.,-;\t\"'", min_size=1, max_size=6).map(str.strip).filter(bool)


def columns(size):
    """Columns of one type each, with gaps: integers up to 64 bits, floats, text."""
    integers = st.one_of(st.integers(0, 4), st.integers(-(2**63), 2**63 - 1))
    floats = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1.0, 2.0, 2.5]))
    return st.one_of(
        *(
            st.lists(st.one_of(st.none(), kind), min_size=size, max_size=size)
            for kind in (integers, floats, WORDS)
        )
    )


@st.composite
def tables(draw):
    size = draw(st.integers(1, 6))
    gold = draw(columns(size).filter(lambda column: None not in column))
    return {
        "item": list(range(size)),
        "gold": gold,
        "score": draw(columns(size)),
        "cluster": draw(columns(size)),
        "domain": draw(columns(size)),
    }


def write_all(folder, table):
    """The table in each format, by three writers; nulls are left out of some JSON rows."""
    last = len(table["item"]) - 1
    rows = [
        {n: column[row] for n, column in table.items() if column[row] is not None or row == last}
        for row in range(last + 1)
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.json").write_text(json.dumps(rows, indent=1))
    parquet.write_table(pa.table(table), folder / "t.parquet")
    frame = pa.table(table).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.tsv", index=False, sep="\t")
    frame.to_csv(folder / "s.csv", index=False, sep=";", encoding="utf-16")
    return [folder / name for name in ("t.jsonl", "t.json", "t.parquet", "t.csv", "t.tsv", "s.csv")]


@given(table=tables())
@example(  # near misses of text alone, beside numbers among the answers that are right
    {"item": [0, 1, 2], "gold": ["1", "1", ";"], "score": [None, ";", "A"],
     "cluster": [None] * 3, "domain": [None] * 3}
)  # fmt: skip
@settings(  # each writes and reads six files
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_case_01_every_format_holds_the_same(tmp_path, table):
    selection = Selection(gold="gold", no_missing_value=True)

    def outcome(path):
        try:
            found = read_results(path, selection)
        except UserError as error:  # by the same rule, whatever the format
            return str(error).split(":", 1)[1]
        return found.table.where(found.table.notna(), None).to_dict("list"), found.notes

    first, *others = [outcome(path) for path in write_all(tmp_path, table)]
    assert others == [first] * len(others)


def test_case_01_a_column_may_be_missing_from_the_first_row(tmp_path):
    rows = [{"item": f"{i}", "score": i % 2} | ({"cluster": i // 4} if i else {}) for i in range(8)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_results(path).table["cluster"].tolist()
    assert found == [None, "0", "0", "0", "1", "1", "1", "1"]
    assert compare(path, path).pooled.clusters == 3


def test_case_01_one_empty_answer_does_not_make_all_wrong(tmp_path):
    gold = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    table = {
        "q": range(10), "gold": gold, "A": [0, 1, 2, 3, 0, 1, 2, 0, 1, 0], "B": [*gold[:9], None],
    }  # fmt: skip
    pd.DataFrame(table).to_parquet(tmp_path / "t.parquet")
    pd.DataFrame(table).astype({"B": "Int64"}).to_parquet(tmp_path / "n.parquet")
    pd.DataFrame(table).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.parquet", "n.parquet", "t.jsonl", "t.csv"):
        path = tmp_path / name
        found = compare(f"{path}:A", f"{path}:B", Selection(id="q", gold="gold"))
        assert (found.pooled.score_a, found.pooled.score_b) == (0.7, 0.9), name
        assert found.verdict == "inconclusive"


def test_case_01_one_decimal_among_whole_right_answers(tmp_path):
    rows = [{"item": i, "gold": i, "m1": i if i % 3 else 99, "m2": i} for i in range(1, 20)]
    rows = [{"item": 0, "gold": 2.5, "m1": 0, "m2": 2}, *rows]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(f"{path}:m1", f"{path}:m2", Selection(id="item", gold="gold")).pooled
    assert (found.score_a, found.score_b) == (13 / 20, 19 / 20)


def test_case_01_sixty_four_bits_stay_apart(tmp_path):
    clusters = [2**60, 2**60 + 1, 2**60 + 2, None]
    table = {"item": [1, 2, 3, 4], "score": [0, 1, 1, 0], "cluster": clusters}
    for path in write_all(tmp_path, table | {"gold": ["g"] * 4}):
        assert read_results(path).table["cluster"].nunique() == 3, path.name


ROWS = [("a", "0.5"), ("b", "1"), ("ü", "0")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_case_13_delimiters_and_encodings(tmp_path, encoding, delimiter):
    lines = [delimiter.join(row) for row in [("item", "score"), *ROWS]]
    text = "\r\n".join(lines) + "\r\n"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "t.csv").write_bytes((mark + text).encode(encoding))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((mark + text).encode(encoding)))
    for name in ("t.csv", "t.csv.gz"):
        found = read_results(tmp_path / name).table
        assert found["id"].tolist() == ["a", "b", "ü"]
        assert found["score"].tolist() == [0.5, 1, 0]


def test_case_13_semicolons_with_decimal_commas(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("item;score;text\na;0,5;1,5 or 2\nb;1;x\n", encoding="utf-8")
    found = read_results(path)
    assert found.table["score"].tolist() == [0.5, 1]
    assert found.notes == ("t.csv: decimal commas of 'score' are read as points",)
    path.write_text('"item;x",score\na,1\n', encoding="utf-8")  # quotes hide a semicolon
    assert load_table(path, {"score"}).names == ("item;x", "score")


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.json.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_case_13_a_json_list_of_records(tmp_path, name, encoding):
    text = json.dumps([{"item": "a\u2028b", "score": 1}, {"item": "b", "score": 0}], indent=2)
    data = ("\n " + text).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_results(tmp_path / name).table["score"].tolist() == [1, 0]


def test_case_13_text_in_utf16_without_a_mark_says_so(tmp_path):
    (tmp_path / "t.csv").write_bytes("item,score\na,1\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"t\.csv: holds NUL bytes.*UTF-16.*save it as UTF-8"):
        read_results(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes("item,score\né,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.csv: cannot be read as UTF-8.*save the file as UTF-8"):
        read_results(tmp_path / "t.csv")


def test_shards_have_the_union_of_their_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"item": 1, "score": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"item": 2, "cluster": "x"}\n')
    loaded = load_tables([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], {"item", "score", "cluster"})
    assert loaded.names == ("item", "score", "cluster")
    assert loaded.frame["score"].tolist() == [1, None]
    assert loaded.frame["cluster"].tolist() == [None, "x"]


def test_dictionary_columns_of_parquet_are_their_values(tmp_path):
    frame = pd.DataFrame({"item": ["a", "b"], "score": [1, 0], "domain": ["law", "math"]})
    frame.astype({"domain": "category"}).to_parquet(tmp_path / "t.parquet")
    assert read_results(tmp_path / "t.parquet").table["domain"].tolist() == ["law", "math"]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_case_13_a_folder_of_tables_is_one_task_per_file(tmp_path):
    for side, scores in (("a", (0, 1)), ("b", (1, 1))):
        (tmp_path / side).mkdir()
        lines(tmp_path / side / "law.jsonl", [{"item": i, "score": scores[0]} for i in range(6)])
        pd.DataFrame({"item": range(4), "score": scores[1]}).to_csv(
            tmp_path / side / "math.csv", index=False
        )
        (tmp_path / side / "config.json").write_text('{"model": "m"}')
    found = compare(tmp_path / "a", tmp_path / "b")
    assert [(d.domain, d.result.n, d.result.delta) for d in found.domains] == [
        ("law", 6, 1.0), ("math", 4, 0.0),
    ]  # fmt: skip
    law = compare(tmp_path / "a", tmp_path / "b", Selection(task="law"))
    assert (law.pooled.n, law.pooled.gained) == (6, 6)
    with pytest.raises(UserError, match="no task 'x'; name one of 'law', 'math'"):
        compare(tmp_path / "a", tmp_path / "b", Selection(task="x"))


@pytest.mark.parametrize("name", ["part-{}.parquet", "test-{:05d}-of-00002.parquet"])
def test_case_13_shards_are_one_table(tmp_path, name):
    frame = pd.DataFrame({"item": range(10), "score": [0, 1] * 5})
    frame[:4].to_parquet(tmp_path / name.format(0))
    frame[4:].to_parquet(tmp_path / name.format(1))
    found = read_results(tmp_path)
    assert found.table["id"].tolist() == [str(i) for i in range(10)]
    assert found.table["task"].isna().all()
    wide = frame.rename(columns={"score": "M"})
    wide.to_parquet(tmp_path / name.format(0))
    (tmp_path / name.format(1)).unlink()
    assert read_results(f"{tmp_path}:M").table["score"].tolist() == [0, 1] * 5


def test_names_that_end_in_numbers_are_tasks(tmp_path):
    for level in (1, 2):
        lines(tmp_path / f"level{level}.jsonl", [{"item": 1, "score": 0}])
    assert read_results(tmp_path).table["task"].tolist() == ["level1", "level2"]
