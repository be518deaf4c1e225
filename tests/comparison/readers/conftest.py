"""Real output of lm-eval and Inspect on the lab model, plain and steered."""

import lm_eval
import pytest
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from dsmoe_eval.adapters.lm_eval_model import SteeredLM
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.steering import Intervention

TASKS = ("lab_arithmetic", "lab_law_named")


@pytest.fixture(scope="session")
def lm_eval_folders(tmp_path_factory):
    """Folders as `lm-eval --log_samples --output_path` writes them: base, steered."""
    loaded = load_model("lab-poly", "cpu")
    profile = trial_profile(loaded.identity, Intervention(kind="bias", strength=6.0), range(4))
    folders = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
        for name, lm in (
            ("base", SteeredLM(loaded)), ("steered", SteeredLM(loaded, profile)),
        ):  # fmt: skip
            out = tmp_path_factory.mktemp(name)
            tracker = EvaluationTracker(output_path=str(out))
            found = lm_eval.simple_evaluate(
                lm, tasks=list(TASKS), limit=30, bootstrap_iters=0, evaluation_tracker=tracker,
                task_manager=TaskManager(
                    include_path=str(load_suite("lab").tasks_dir), include_defaults=False
                ),
            )  # fmt: skip
            samples = found.pop("samples")
            tracker.save_results_aggregated(results=found, samples=samples)
            for task, rows in samples.items():
                tracker.save_results_samples(task_name=task, samples=rows)
            folders.append(out)
    return tuple(folders)
