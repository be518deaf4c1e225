"""The benchmark of comparisons runs."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "speed" / "compare.py"


def test_it_measures_files_and_all_pairs_of_a_table(tmp_path):
    spec = importlib.util.spec_from_file_location("compare_benchmark", FILE)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert set(benchmark.compare_files(500)) == {".parquet", ".csv"}
    table = tmp_path / "t.csv"
    table.write_text("question_id,category,gold,A,B,C\n1,x,g,g,h,g\n2,y,g,h,h,g\n")
    assert benchmark.compare_all(table, None)["pairs"] == 3
