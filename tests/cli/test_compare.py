"""The command: what it prints, for people and for programs."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from dsmoe_eval.cli import main


@pytest.fixture
def table(tmp_path):
    """A wide table: answers of two models to 40 items of two domains, one not asked of N."""
    rows = [(i, "law" if i < 20 else "math", "A", "B" if i % 2 else "A", "A") for i in range(40)]
    frame = pd.DataFrame(rows, columns=["q", "domain", "gold", "M", "N"])
    frame.loc[3, "N"] = "SKIP"
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def called(capsys, *arguments):
    code = 0
    try:
        main(["compare", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_people_get_a_block_a_domain_and_the_pool(table, capsys):
    wide = ("--id", "q", "--gold", "gold", "--missing-value", "SKIP")
    code, out, err = called(capsys, f"{table}:M", f"{table}:N", *wide)
    assert (code, err) == (0, "")
    assert "unpaired: A 1 (1 not on the other side: 3), B 1 (1 without a score: 3)" in out
    blocks = [line.partition(":")[0] for line in out.splitlines() if "(+" in line]
    assert blocks == ["law", "math", "all"]
    assert "improves by 50.0 points" in out
    assert "by Holm (mid-p McNemar), gained 10, lost 0" in out


def test_programs_get_what_the_design_promises(table, capsys):
    wide = ("--id", "q", "--gold", "gold", "--missing-value", "SKIP", "--json")
    code, out, _ = called(capsys, f"{table}:M", f"{table}:N", *wide)
    found = json.loads(out)
    assert code == 0
    promised = (
        "n score_a score_b delta ci95 p_value test gained lost mde80 unpaired domains".split()
    )
    assert set(promised) <= set(found)
    assert found["unpaired"] == {"a": 1, "b": 1}
    assert (found["n"], found["gained"], found["delta"]) == (39, 19, pytest.approx(19 / 39))
    (law, _) = found["domains"]
    of_domain = "domain n delta ci95 p_value p_adjusted gained lost".split()
    assert set(of_domain) <= set(law)
    assert (law["domain"], law["n"], law["gained"]) == ("law", 19, 9)


def test_what_cannot_be_done_is_one_sentence_and_code_3(table, capsys):
    code, out, err = called(capsys, f"{table}:M", table.with_name("none.csv"))
    assert (code, out) == (3, "")
    assert err.startswith("dsmoe-eval: ")
    assert err.count("\n") == 1
    assert called(capsys, table)[0] == 3
    assert called(capsys, table, table, "--margin", "0")[0] == 3


def test_case_13_two_tables_are_compared_without_heavy_imports(table):
    """In a process of its own, since others' imports stay."""
    program = (
        "import sys; from dsmoe_eval.cli import main\n"
        "try: main(['compare', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lm_eval', 'transformers', 'datasets', 'scipy.stats', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    wide = ("--id", "q", "--gold", "gold", "--missing-value", "SKIP")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, f"{table}:M", f"{table}:N", *wide],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "gained 19, lost 0" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_case_01_near_misses_are_printed_and_matched(tmp_path, capsys):
    path = tmp_path / "t.csv"
    pd.DataFrame({"item": range(14), "gold": "A", "M": "a ", "N": "A"}).to_csv(path, index=False)
    code, out, _ = called(capsys, f"{path}:M", f"{path}:N", "--gold", "gold")
    assert code == 0
    assert "warning: A: 14 answers differ from the right one only by case, blanks or tho" in out
    assert "lost 0" in out
    assert "gained 14" in out
    folded = called(capsys, f"{path}:M", f"{path}:N", "--gold", "gold", "--match", "casefold-strip")
    assert "warning: A: 14" not in folded[1]
    assert "gained 0, lost 0" in folded[1]
    assert called(capsys, f"{path}:M", f"{path}:N", "--gold", "gold", "--absent", "a")[0] == 3
