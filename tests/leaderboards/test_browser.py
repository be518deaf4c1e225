"""A leaderboard's page in a real Chromium, opened from disk, and served with Inspect's logs."""

import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import inspect_ai
import pandas as pd
from inspect_ai.dataset import MemoryDataset, Sample

from dsmoe_eval.leaderboards import build
from dsmoe_eval.reports.serve import listen, make_server, open_site


def cells_of(watched, column):
    return watched[f".data >> nth=0 >> tbody tr:visible td:nth-child({column})"].all_inner_texts()


def test_it_is_sorted_filtered_traced_and_turned_dark(opened, board, run, make_run):
    build(board, [run, make_run(seed=1)])
    assert (board / "index.html").stat().st_size < 5_000_000
    watched = opened(board / "index.html")
    variants = cells_of(watched, 3)
    assert {"base", "contrast", "sft-lora"} <= set(variants)
    watched["thead button"].get_by_text("variant").first.click()
    assert cells_of(watched, 3) == sorted(variants)
    watched["summary"].get_by_text("Filter by").click()
    watched["#filters label"].get_by_text("contrast", exact=True).click()
    assert cells_of(watched, 3) == ["contrast"]
    figure = watched[".data >> nth=0 >> tbody tr:visible td.num"].filter(has_text="[").first
    figure.click()
    trace = watched["#trace"].inner_text()
    assert re.search(r"contrast\.json: run [0-9a-f]{16}, arms\[\*\]\.", trace)
    assert "MOVER" in trace
    before = watched.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    watched["#theme"].click()
    assert watched.tab.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_down_to_one_answer_of_one_variant(opened, board, run, make_run):
    build(board, [run, make_run(seed=1)])
    watched = opened(board / "index.html", width=390)
    watched["#explorer"].scroll_into_view_if_needed()
    watched["#explorer-list a"].first.wait_for()
    assert watched["#explorer-set option"].count() == 2
    watched["#explorer-arm"].select_option("contrast on math")
    watched["#explorer-show"].select_option("gained")
    watched["#explorer-list a"].first.click()
    watched[".answer"].first.wait_for()
    assert watched["#item .good"].filter(has_text="gained").count() >= 1
    source = watched[".answer .source"].first.inner_text()
    cell, item = re.match(r"cells/(\w+)/samples\.parquet, item (\S+)", source).groups()
    folders = [one for one in (run, make_run(seed=1)) if (one / "cells" / cell).is_dir()]
    assert item in pd.read_parquet(folders[0] / "cells" / cell / "samples.parquet")["item"].tolist()


def test_where_the_items_are_not_it_says_how_to_get_them(opened, board, run, make_run, tmp_path):
    build(board, [run, make_run(seed=1)])
    alone = shutil.copy(board / "index.html", tmp_path / "index.html")
    watched = opened(tmp_path / "index.html", check=False)
    assert alone
    watched["#explorer"].scroll_into_view_if_needed()
    words = re.compile(r"is missing; .dsmoe-eval leaderboard build --runs FOLDER")
    watched["#explorer-status"].get_by_text(words).wait_for()


def test_a_served_item_leads_to_its_sample_in_inspects_viewer(opened, board, run, tmp_path):
    built = build(board, [run])
    file = next(one for one in built.items if (board / one.path.replace(".js", "-0.js")).is_file())
    base = next(
        cell for cell in (run / "cells").iterdir()
        if pd.read_parquet(cell / "samples.parquet", columns=["task"])["task"][0] == file.task
    )  # fmt: skip
    item = pd.read_parquet(base / "samples.parquet")["item"][0]
    dataset = MemoryDataset([Sample(id=item, input="how much is it?", target="2")])
    task = inspect_ai.Task(name=file.task, dataset=dataset)
    log = {"model": "mockllm/model", "log_dir": str(board / "logs"), "display": "none"}
    with ThreadPoolExecutor(1) as apart:  # Playwright's loop runs in this thread
        apart.submit(inspect_ai.eval, task, **log).result()
        (tmp_path / "viewer").mkdir()
        site = apart.submit(open_site, board, tmp_path / "viewer").result()
    with listen(0) as listener:
        server, where = make_server(site), f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        place = "/".join(quote(part, safe="") for part in (file.set, file.task, item))
        watched = opened(f"{where}/index.html#item={place}", check=False)
        link = watched["#item a"].get_by_text("mockllm/model, sample 1")
        link.wait_for()
        assert watched.said == []
        link.click()
        watched.tab.get_by_text("how much is it?").first.wait_for()
        assert all(url.startswith((where, "data:", "blob:")) for url in watched.asked)
        server.should_exit = True
        thread.join()
