"""Every figure that is shown comes from an entry, and says which."""

import re
from dataclasses import replace

import pytest

from dsmoe_eval.leaderboards import build
from dsmoe_eval.leaderboards.board import boards
from dsmoe_eval.leaderboards.board_tables import TRUST, row_targets
from dsmoe_eval.leaderboards.ranking import model_names, rank
from dsmoe_eval.leaderboards.submission import read_entry

from .conftest import SMALL
from .pages import figure_at, read_markdown, read_page


def number(text):
    return float(re.search(r"[+-]?\d+(\.\d+)?", text)[0]) / 100


def read(folder, variant, seed=1):
    results = read_entry(folder / f"{variant}.json").results
    return next(one for one in results if one.header.seed == seed)


def test_every_figure_of_the_page_is_where_its_trace_says(board):
    tables, _ = read_page(board / "index.html")
    assert set(tables) == {"ranking-subjects", "arms-subjects"}
    seen = 0
    for rows in tables.values():
        for text, trace, sort in (cell for row in rows[1:] for cell in row):
            if not trace or ", marks" in trace or " of plan " in trace:
                continue
            value = figure_at(board, trace)
            assert number(text) == pytest.approx(value, abs=0.00051), trace
            assert sort is None or float(sort) == pytest.approx(value, abs=1e-9)
            seen += 1
    ranking, arms = 5 + 3 * 4 + 2 + 2, 8 * 6 - 3 * 4  # but contrast none has controls
    assert seen == ranking + arms


def test_every_figure_of_the_readme_is_in_an_entry(board, folder):
    (table,) = read_markdown(board / "README.md")
    header, *rows = table
    assert header[4:6] == ["math", "law"]
    found = {row[2]: dict(zip(header, row, strict=True)) for row in rows}
    others = {"base", "chance; one answer"}
    assert set(found) == {"contrast", "sft-lora", "random", "wrong-domain", *others}
    for variant in set(found) - others:
        arms = {arm.target: arm for arm in read(folder, variant).arms}
        gains = {target: arm.target_result.delta for target, arm in arms.items()}
        for target, gain in gains.items():
            assert number(found[variant][target]) == pytest.approx(gain, abs=0.00051)
            verdict = arms[target].target_result.claim.verdict
            mark = {"improves": "▲", "harms": "▼"}.get(verdict, "")
            assert found[variant][target].endswith(mark)
            assert bool(mark) == bool(set(found[variant][target]) & set("▲▼"))
        assert number(found[variant]["over base"]) == pytest.approx(
            sum(gains.values()) / 2, abs=0.00051
        )
        lost = [arm.non_target_result.delta for arm in arms.values()]
        assert number(found[variant]["non-targets"]) == pytest.approx(sum(lost) / 2, abs=0.00051)
        over = [arm.generalization.over_placebo for arm in arms.values()]
        if all(over):
            mean = sum(one.delta for one in over) / 2
            assert number(found[variant]["over placebo"]) == pytest.approx(mean, abs=0.00051)
        else:
            assert found[variant]["over placebo"] == "-"
        held = all(arm.non_target_result.non_inferiority.non_inferior for arm in arms.values())
        assert found[variant]["non-inferior"] == ("yes" if held else "no")
    scores = {row.domain: row for row in read(folder, "base").base}
    for target in ("math", "law"):
        ends = [100 * end for end in scores[target].ci95]
        score = 100 * scores[target].score
        assert found["base"][target] == f"{score:.1f} % [{ends[0]:.1f}, {ends[1]:.1f}]"
        # Four options, the first of which is always right.
        assert found["chance; one answer"][target] == "25.0 %; 100.0 %"


def test_every_arm_stands_in_the_page_with_its_claim(board, folder):
    header, *rows = read_page(board / "index.html")[0]["arms-subjects"]
    names = [text for text, _, _ in header]
    variants = ("contrast", "sft-lora", "random", "wrong-domain")
    assert len(rows) == 2 * len(variants)
    for row in rows:
        found = dict(zip(names, (text for text, _, _ in row), strict=True))
        arms = {arm.target: arm for arm in read(folder, found["variant"]).arms}
        arm = arms[found["target"]]
        own, more = arm.target_result, arm.generalization
        assert found["n"] == str(own.n)
        assert found["claim"] == own.claim.verdict
        assert found["smallest effect"] == f"{100 * own.mde80:.1f}"
        assert found["worst domain"].endswith(f"({more.non_target_change.worst_domain})")
        for column, name in (
            ("over placebo", "over_placebo"),
            ("over wrong domain", "specificity"),
        ):
            assert (found[column] == "no control") == (getattr(more, name) is None)


def test_plots_have_the_rows_of_the_table(board, runs_of):
    (shown,) = boards(runs_of(board))
    rows = {row.variant: row for row in shown.rows if row.variant != "base"}
    assert [one.label.removesuffix(" (over base)") for one in shown.forest.rows] == list(rows)
    for one in shown.forest.rows:
        row = rows[one.label.removesuffix(" (over base)")]
        estimate = row.over_placebo or row.gain
        assert (one.value, one.low, one.high) == (estimate.value, estimate.low, estimate.high)
        assert ("over base" in one.label) == (row.over_placebo is None)
        assert one.n == sum(found.n for found in row.by_domain.values())
        assert (one.kind == "good") == (row.rank is not None)
    for point in shown.plane.points:
        row = rows[point.group]
        assert (point.x, point.y) == (row.non_target.value, row.gain.value)
        assert point.dim == (not row.trusted)
    assert shown.plane.margin == 0.02
    assert set(TRUST) == {mark.name for mark in rows["contrast"].marks}


def test_what_is_to_be_seen_in_ten_seconds(board, runs_of):
    (shown,) = boards(runs_of(board))
    first, second = shown.findings
    assert first.startswith("lab/moe-7b, contrast: +19.0 pp [")
    assert "(rank 1)" in first
    assert first.endswith("All marks earned.")
    assert second == "Not ranked, no placebo: sft-lora (lab/moe-7b)."


def test_where_nothing_is_ranked_the_board_says_so(make_run, file_runs, runs_of, tmp_path):
    root = file_runs(tmp_path, make_run(**SMALL, limit=9))
    (shown,) = boards(runs_of(root))
    assert shown.findings[0].startswith("Nothing is ranked")
    assert any(one.startswith("Not ranked, a smoke test: contrast") for one in shown.findings)


def test_suites_have_a_board_each(make_run, file_runs, runs_of, tmp_path):
    small = SMALL | {"suite": "another"}
    root = file_runs(tmp_path, make_run(**SMALL), make_run(**small))
    submitted_runs = runs_of(root)
    assert [one.suite for one in boards(submitted_runs)] == ["another", "subjects"]
    assert set(model_names(submitted_runs).values()) == {"lab/moe-7b"}
    assert row_targets(rank(submitted_runs[:1])) == ["math"]


def test_revisions_of_a_model_are_told_apart(make_run, file_runs, runs_of, tmp_path):
    (one,) = runs_of(file_runs(tmp_path, make_run(**SMALL)))
    other = replace(one, folder=one.folder.parent / "bbbbbbbbbbbb")
    (shown,) = boards([one, other])
    named = {row.cells[1].text for row in shown.table.rows}
    assert named == {f"lab/moe-7b ({one.folder.name[:7]})", "lab/moe-7b (bbbbbbb)"}
    assert {name for row in shown.arms.rows for name in row.facets["model"]} == named


HOSTILE = "<script>alert(1)</script>|x"


def test_text_from_outside_is_text(make_run, tmp_path, submission, runs_of):
    from dsmoe_eval.leaderboards import add_run

    run = make_run(**SMALL, model=HOSTILE)
    add_run(
        run,
        tmp_path,
        submission.model_copy(update={"by": HOSTILE, "hardware": "\"' onclick=x`|\n"}),
    )
    build(tmp_path, [run])
    html, markdown = ((tmp_path / name).read_text() for name in ("index.html", "README.md"))
    assert "<script>alert" not in html + markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|x" in html
    tables, _ = read_page(tmp_path / "index.html")
    traces = [trace for row in tables["ranking-subjects"] for _, trace, _ in row]
    assert any(f"by {HOSTILE} (\"' onclick=x`|" in trace for trace in traces)
    (rows,) = read_markdown(tmp_path / "README.md")
    assert {len(row) for row in rows} == {len(rows[0])}
    for script in (tmp_path / "items").iterdir():
        assert "<" not in script.read_text()
