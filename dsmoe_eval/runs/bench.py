"""The model of a run as each arm needs it: steered, fine-tuned or quantized, and probed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from ..cards import Rounding
from ..engines.base import Engine, Figures
from ..experts import in_columns
from ..models import rounded_experts
from ..steering import Profile
from .arms import PlannedArm, PreparedArm
from .job import Job
from .plan_checks import plan_sites
from .roles import modules
from .stages import note_probes, probed, tuning_questions


class Bench:
    """The model as cell after cell needs it; the probes run whenever the arm changes.

    Args:
        equip: steers or adapts the model for an arm in a context, and gives the probes' figures.
        rounded: rounds the model's experts in a context, and gives the share that is quantized;
            None where no arm is on a quantized model.

    Attributes:
        share: the share of the experts' bytes that are quantized; None of an unrounded model.
    """

    def __init__(
        self,
        equip: Callable[[PreparedArm], AbstractContextManager[Figures | None]],
        rounded: Callable[[Rounding], AbstractContextManager[float]] | None = None,
    ) -> None:
        self._equip, self._rounded = equip, rounded
        self._opened, self._model = ExitStack(), ExitStack()
        self._arm: PreparedArm | None = None
        self._figures: Figures | None = None
        self._form: Rounding | None = None
        self.share: float | None = None

    def take(self, arm: PreparedArm | None) -> Figures | None:
        """Make the model that of an arm, or base; return the probes' figures of a steered one."""
        if arm is not self._arm:
            self._opened.close()
            self._arm = self._figures = None
            self._round(None if arm is None else arm.planned.variant.quantized)
            if arm is not None:
                self._figures = self._opened.enter_context(self._equip(arm))
            self._arm = arm
        return self._figures

    def _round(self, form: Rounding | None) -> None:
        """Make the model that of a form, which several arms in turn may share."""
        if form == self._form:
            return
        self._model.close()
        self._form = self.share = None
        if form is not None:
            if self._rounded is None:
                raise ValueError(f"this bench has no model of {form}")
            self.share = self._model.enter_context(self._rounded(form))
            self._form = form

    def close(self) -> None:
        """Make the model base again."""
        self._arm = self._figures = self._form = self.share = None
        try:
            self._opened.close()
        finally:  # also if the steering cannot be removed
            self._model.close()


def open_bench(job: Job) -> Bench:
    """Return a bench for all arms of a run."""
    return Bench(partial(equipped, job), lambda form: job.roles.rounded(form, job.folder.merged))


@contextmanager
def equipped(job: Job, arm: PreparedArm) -> Iterator[Figures | None]:
    """Steer or adapt the model for the arm; yield the probes' figures, None if not steered."""
    planned = arm.planned
    if planned.variant.kind in ("prompt", "base"):
        yield None
        return
    if arm.profile is None:
        path = job.folder.adapter(planned.variant.name, planned.target)
        with job.roles.adapted(path, job.folder.merged):
            yield None
        return
    figures = probe_arm(job, arm)
    with job.engine.steer(arm.profile):
        yield figures


def probe_arm(job: Job, arm: PreparedArm) -> Figures | None:
    """Probe a steered arm, and store its routing if it is shown; return the probes' figures."""
    if arm.profile is None:
        return None
    figures = run_probes(job, arm.planned, arm.profile)
    if job.roles.shows_routing:
        keep_routing(job, arm.planned, arm.profile)
    return figures


def run_probes(job: Job, arm: PlannedArm, profile: Profile) -> Figures:
    """Run both probes on the target's tuning questions, before any steered answer counts.

    A profile that changes nothing does not stop the run: the arm is marked as failed.
    """
    figures = job.engine.prober(probed(job, arm)).probe(profile, must_act=arm.variant.zero_strength)
    note_probes(arm, profile, figures)
    return figures


def keep_rounded_routing(job: Job, arm: PreparedArm) -> None:
    """Store the routing of an arm on a quantized model by the learner, if nothing showed it."""
    planned, form = arm.planned, arm.planned.variant.quantized
    path = job.folder.routing(planned.variant.name, planned.target)
    if form is None or arm.profile is None or job.folder.has(path):
        return
    with job.leases.turn(f"routing-{planned.name}"):
        if not job.folder.has(path):
            learner = job.roles.learner
            with rounded_experts(modules(learner).model, form):
                keep_routing(job, planned, arm.profile, learner)


def keep_routing(
    job: Job, arm: PlannedArm, profile: Profile, observer: Engine | None = None
) -> None:
    """Store the routing of the target's tuning questions, without and with steering."""
    path = job.folder.routing(arm.variant.name, arm.target)
    if job.folder.has(path):
        return
    engine, texts = observer or job.roles.observer, tuning_questions(job, arm)
    before = engine.usage(texts)
    with engine.steer(profile):
        after = engine.usage(texts)
    shares = {"base": before, "steered": after}
    sites = plan_sites(job.plan)
    tables = {name: in_columns(share, sites).tolist() for name, share in shares.items()}
    job.folder.write_json(path, tables)
