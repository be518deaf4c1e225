"""Our generative tasks in Inspect: the same prompts, and item by item the same scores."""

import pytest
from inspect_ai import eval, eval_set  # noqa: A004
from inspect_ai.log import list_eval_logs, read_eval_log
from inspect_ai.model import get_model

from dsmoe_eval.adapters.inspect_provider import DsmoeAPI
from dsmoe_eval.adapters.inspect_task import inspect_task
from dsmoe_eval.adapters.lm_eval_model import SteeredLM
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.steering import Intervention
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.scoring import score_tasks

SUITE = load_suite("lab")
CARDS = [card for card in SUITE.tasks if card.name in {"lab_arithmetic", "lab_law_named"}]
ITEMS = 40


@pytest.fixture(scope="module")
def tasks():
    return load_tasks(SUITE, CARDS, "test", ITEMS)


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def path(loaded, tmp_path_factory):
    """Strong enough that some sums come out wrong, and not all."""
    profile = trial_profile(loaded.identity, Intervention(kind="bias", strength=6.0), range(4))
    file = tmp_path_factory.mktemp("profile") / "p.json"
    file.write_text(profile.to_json())
    return file


@pytest.mark.parametrize("steered", [False, True])
def test_scores_are_ours_item_by_item(tasks, loaded, path, tmp_path, steered):
    task, profile = tasks["lab_arithmetic"], path if steered else None
    ours = score_tasks(SteeredLM(loaded, profile), [task])["lab_arithmetic"]
    (log,) = eval(
        inspect_task(task), model="dsmoe/lab-poly", display="none", log_dir=str(tmp_path),
        model_args={"profile": str(path)} if steered else {},
    )  # fmt: skip
    assert log.status == "success"
    theirs = {sample.id: sample.scores["exact_match"].value for sample in log.samples}
    assert theirs == {item.id: float(score) for item, score in zip(task.items, ours, strict=True)}
    assert (0 < ours.mean() < 1) == steered
    assert {s.id: s.input for s in log.samples} == {i.id: i.question for i in task.items}
    assert {sample.metadata["domain"] for sample in log.samples} == {"arithmetic"}
    assert ("@" in log.eval.model) == steered


def test_an_eval_set_goes_on_where_it_was_interrupted(tasks, tmp_path, monkeypatch):
    """The model fails on one item, once; the second call asks only what is missing."""
    task = tasks["lab_arithmetic"]
    broken, asked, answer = task.items[3].question, [], DsmoeAPI.generate

    async def failing(self, **request):
        asked.append(request["input"][-1].text)
        if asked[-1] == broken and asked.count(broken) == 1:
            raise RuntimeError("lost the machine")
        return await answer(self, **request)

    monkeypatch.setattr(DsmoeAPI, "generate", failing)

    def again():
        return eval_set(
            inspect_task(task), model=get_model("dsmoe/lab-poly"), log_dir=str(tmp_path),
            display="none", retry_attempts=0, fail_on_error=True, max_samples=2, ctl_server=False,
        )  # fmt: skip

    success, _ = again()
    before = len(asked)
    assert not success
    assert before < ITEMS
    success, _ = again()
    assert success
    (header,) = list_eval_logs(str(tmp_path))
    log = read_eval_log(header)
    assert log.status == "success"
    assert sorted(sample.id for sample in log.samples) == sorted(item.id for item in task.items)
    assert all(sample.scores["exact_match"].value == 1.0 for sample in log.samples)
    assert ITEMS < len(asked) <= ITEMS + 2  # those under way when it failed are asked again
    assert again()[0]
    assert len(asked) <= ITEMS + 2  # nothing was missing


def test_another_profile_in_the_same_folder_is_another_task(tasks, path, tmp_path):
    for arguments in ({}, {"profile": str(path)}):
        success, _ = eval_set(
            inspect_task(tasks["lab_arithmetic"]), model=get_model("dsmoe/lab-poly", **arguments),
            log_dir=str(tmp_path), display="none", limit=3, ctl_server=False,
            log_dir_allow_dirty=True,
        )  # fmt: skip
        assert success
    models = {
        read_eval_log(log, header_only=True).eval.model for log in list_eval_logs(str(tmp_path))
    }
    assert len(models) == 2


def test_choices_by_likelihood_are_refused(tasks):
    with pytest.raises(UserError, match="'lab_law_named': only a task that generates"):
        inspect_task(tasks["lab_law_named"])
