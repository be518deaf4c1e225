"""The two roles of a run: one engine answers, one learns; of two, one at a time is in memory.

With `engine: transformers` both are one. With `engine: vllm` the learner is loaded where something
is still to be learned, and vLLM is started where something is still to be answered.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ..cards import Plan, Rounding
from ..engines.base import Engine
from ..engines.lm import EngineLM
from ..engines.load import load_engine
from ..engines.transformers.engine import TransformersEngine
from ..errors import UserError
from ..files import damage, passing_folder, read_json
from ..models import LoadedModel, round_experts, rounded_experts, save_rounded
from ..models.loading import load_tokenizer
from ..results.folder import RunFolder
from ..steering import ModelIdentity
from .plan_checks import plan_sites

if TYPE_CHECKING:
    from ..engines.vllm.engine import VllmEngine
    from ..engines.vllm.later import LaterVllm


class Roles:
    """The engines of a run.

    Args:
        engine: the engine that answers; if it is in vLLM, it is started when it is first used.
        later: vLLM behind this engine; None if the engine is also the learner.
        learn: loads the learner.
        learner: the learner, if it is loaded already.

    Attributes:
        engine: as above.
    """

    def __init__(
        self,
        engine: Engine,
        later: LaterVllm | None = None,
        learn: Callable[[], Engine] | None = None,
        learner: Engine | None = None,
    ) -> None:
        self.engine = engine
        self._later, self._learn, self._learner = later, learn, learner
        self._form: Rounding | None = None
        if later is not None:
            later.before = self.release

    @property
    def are_two(self) -> bool:
        """Whether the engine that answers is not the learner."""
        return self._later is not None

    @property
    def mixing(self) -> VllmEngine | None:
        """The engine that answers, if it answers several profiles in common batches: vLLM."""
        return None if self._later is None else cast("VllmEngine", self.engine)

    @property
    def learner(self) -> Engine:
        """The learner, which is loaded after vLLM has been stopped.

        Raises:
            UserError: it cannot be loaded, or is not the model of an earlier start.
        """
        if self._later is None or self._learn is None:
            return self.engine
        if self._learner is None:
            self._later.close()
            learner = self._learn()
            if learner.identity != self.engine.identity:
                learner.close()
                raise UserError(
                    f"model {learner.identity.name!r}: is not the one that this run learned from; "
                    "start the run again in another folder"
                )
            self._learner = learner
        return self._learner

    @property
    def shows_routing(self) -> bool:
        """Whether the engine that answers shows its routing, which a compiled vLLM does not."""
        return self._later is None or bool(self._later.settings["eager"])

    @property
    def observer(self) -> Engine:
        """The engine whose routing is recorded: the one that answers, or the learner."""
        return self.engine if self.shows_routing else self.learner

    @contextmanager
    def seen(self) -> Iterator[Engine]:
        """Yield the engine that answers with its routing shown: vLLM is run eagerly for it."""
        if self._later is None or self.shows_routing:
            yield self.engine
            return
        with self._later.eager():
            yield self.engine

    def start(self) -> None:
        """Start the engine that answers, if it does not run, so that its limits are known."""
        if self._later is not None:
            self._later.running()

    def release(self) -> None:
        """Remove the learner from memory, if it answers nothing."""
        learner, self._learner = self._learner, None
        if learner is None:
            return
        learner.close()
        del learner
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def continue_in(self, folder: RunFolder, lm: EngineLM, check: Callable[[], None]) -> None:
        """Store what is known of the engines in the run's folder, for the next start.

        Args:
            folder: the run's folder.
            lm: the LM of the engine that answers, which learns how long its texts may be.
            check: checks that all texts fit, where vLLM has room for shorter ones than the model.
        """
        if (later := self._later) is None:
            return

        def fit() -> None:
            limit = self.engine.language_model().max_length
            if lm.max_length != limit:
                lm.max_length = limit
                check()

        def keep() -> None:
            limit = later.max_length if later.started else None
            content = {"model": later.identity.model_dump(mode="json"), "max_length": limit}
            if not folder.has(folder.roles) or folder.read_json(folder.roles) != content:
                folder.write_json(folder.roles, content)

        def after() -> None:
            fit()
            keep()

        later.after = after
        if folder.has(folder.roles) and (limit := folder.read_json(folder.roles)["max_length"]):
            later.limit(limit)
        after()

    @contextmanager
    def adapted(self, adapters: Path, folder: Path) -> Iterator[None]:
        """Answer by the model with trained weights inside the context.

        vLLM is started on a merged checkpoint, a draft beside `folder` that is removed afterwards.
        Inside `rounded` the weights are merged into the rounded ones.

        Raises:
            UserError: the trained weights are damaged, or the disk has no room.
        """
        if self._later is None:
            from ..variants.recipes import fine_tuned

            with fine_tuned(modules(self.engine).model, adapters):
                yield
            return
        from ..variants.merging import write_merged

        with passing_folder(folder) as merged:
            try:
                loaded = modules(self.learner)
                if self._form is not None:
                    round_experts(loaded.model, self._form)
                routers = write_merged(loaded, adapters, merged)
                del loaded
            finally:
                self.release()  # its weights are no longer the model's, also after an error
            with self._later.on(str(merged), routers):
                yield

    @contextmanager
    def rounded(self, form: Rounding, folder: Path) -> Iterator[float]:
        """Answer by the model with rounded experts inside the context, as `adapted` does.

        Yields:
            The share of the bytes of the experts' weights that are quantized.

        Raises:
            UserError: the experts are quantized already, or the disk has no room.
        """
        if self._later is None:
            with rounded_experts(modules(self.engine).model, form) as share:
                yield share
            return
        from ..variants.merging import check_room

        with passing_folder(folder) as draft:
            loaded = modules(self.learner)
            check_room(folder, loaded)
            try:
                share = save_rounded(loaded, form, draft)
            finally:
                del loaded
                self.release()  # its weights are no longer the model's, also after an error
            self._form = form
            try:
                with self._later.on(str(draft)):
                    yield share
            finally:
                self._form = None

    def close(self) -> None:
        """Remove both engines from memory."""
        self.release()
        self.engine.close()


def modules(engine: Engine) -> LoadedModel:
    """Return an engine's model with its modules, to train adapters or to apply them."""
    if not isinstance(engine, TransformersEngine):
        raise ValueError(f"{engine.name} does not give the model's modules")
    return engine.loaded


def open_roles(plan: Plan, device: str | None, out: Path, eager: bool) -> Roles:
    """Return the roles of a plan. What answers in transformers is loaded, vLLM is not started.

    Where vLLM answers, the learner is loaded unless `out`, the run's folder, knows the model.

    Args:
        plan: the plan of one model.
        device: a torch device for transformers.
        out: the run's folder, which may not exist.
        eager: whether an arm needs vLLM to run eagerly.

    Raises:
        UserError: the model or an engine is not available.
    """
    if plan.engine == "transformers":
        return Roles(_learner(plan, device))
    from ..engines.vllm.engine import engine_options
    from ..engines.vllm.later import LaterVllm, facts_of

    more: dict[str, object] = {
        "tensor_parallel_size": plan.tensor_parallel,
        "enable_expert_parallel": plan.expert_parallel,
    }
    more |= {"enforce_eager": True} if eager else {}
    more |= {} if plan.dtype is None else {"dtype": plan.dtype}
    options = engine_options(plan.batch_tokens, more)
    facts, fingerprint = facts_of(plan.model, options)
    identity, learner = _known(out), None
    if identity is None or (identity.name, identity.fingerprint) != (plan.model, fingerprint):
        learner = _learner(plan, device)
        identity = learner.identity
    later = LaterVllm(facts, identity, options)
    answering = later.answering(load_tokenizer(plan.model))
    return Roles(answering, later, lambda: _learner(plan, device), learner)


def _learner(plan: Plan, device: str | None) -> Engine:
    if plan.learner == "vllm":
        return load_engine(
            plan.model,
            "vllm",
            device,
            batch_tokens=plan.batch_tokens,
            dtype=plan.dtype,
            tensor_parallel_size=plan.tensor_parallel,
            enable_expert_parallel=plan.expert_parallel,
            enforce_eager=True,  # a compiled model does not show its routing
        )
    return load_engine(
        plan.model,
        device=device,
        batch_tokens=plan.batch_tokens,
        experts_implementation=plan.experts_implementation,
        dtype=plan.dtype,
        attn_implementation=plan.attn_implementation,
        sites=plan_sites(plan),
    )


def _known(out: Path) -> ModelIdentity | None:
    """Return the model as an earlier start on a run's folder knew it."""
    path = RunFolder(out).roles
    if not path.is_file():
        return None
    with damage(path):
        return ModelIdentity.model_validate(read_json(path)["model"], strict=False)
