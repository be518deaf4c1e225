"""A model in vLLM that is started when it is first used, perhaps on other weights.

A run knows everything of it before: from the configuration of vLLM, and from the same model in the
engine that learned. Both are checked when vLLM starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from ...errors import UserError
from ...experts.tokenizer import Tokenizer
from ...models.loading import fingerprint
from ...models.places import locate
from ...steering import ModelIdentity
from .engine import VllmEngine
from .facts import VllmFacts, read_facts
from .launch import engine_config
from .steered_vllm import SteeredVllm

_SAME = ("dtype", "device", "settings", "version")


def facts_of(name: str, options: Mapping[str, object]) -> tuple[VllmFacts, str]:
    """Return the facts of a model that vLLM would run, and its fingerprint.

    Args:
        name: as for `SteeredVllm`.
        options: the arguments of `SteeredVllm`, such as `engine_options` returns.

    Raises:
        UserError: vLLM is not installed, or cannot run this model.
    """
    place, rest = locate(name), dict(options)
    dtype = str(rest.pop("dtype", "auto"))
    facts = read_facts(engine_config(name, place, dtype, rest))
    return facts, fingerprint(place, facts.config)


class LaterVllm:
    """A `SteeredVllm` that is started by the first use of what only a running engine has.

    Args:
        facts: the facts that must be true of the started engine.
        identity: the identity that the started engine must have.
        options: the arguments of `SteeredVllm`, as for `facts_of`.

    Attributes:
        before: called before each start, to free the memory for it.
        after: called after each start.
        started: whether this engine, or one of an earlier process, has started before.
        max_length: as in `SteeredVllm`; once an engine has started, the next have the same.
    """

    def __init__(
        self, facts: VllmFacts, identity: ModelIdentity, options: Mapping[str, object]
    ) -> None:
        self.config, self.dtype, self.device = facts.config, facts.dtype, facts.device
        self.settings, self.version = facts.settings, facts.version
        self.generation, self.max_length = facts.generation, facts.max_length
        self.identity = identity
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.started = self._passes = False
        self._options = dict(options)
        self._dtype = str(self._options.pop("dtype", "auto"))
        self._name, self._routers = identity.name, identity.routers
        self._engine: SteeredVllm | None = None

    def __getattr__(self, name: str) -> object:
        """Return an attribute of the running engine, which is started for it."""
        if name.startswith("__"):  # of copy and pickle, which must not start anything
            raise AttributeError(name)
        return getattr(self.running(), name)

    def limit(self, max_length: int) -> None:
        """Set the limit of a text to that of an earlier start."""
        self.started = True
        self.max_length = self._options["max_model_len"] = max_length

    def running(self) -> SteeredVllm:
        """Return the engine; start it if it does not run.

        Raises:
            UserError: vLLM cannot run the model, or is not the engine that the facts describe.
        """
        if self._engine is None:
            self.before()
            engine = SteeredVllm(self._name, self._dtype, self.identity.sites, **self._options)
            try:
                self._check(engine)
                if not self._passes:
                    self.limit(engine.max_length)
                    self.after()
            except BaseException:
                engine.close()
                raise
            self._engine = engine
        return self._engine

    def answering(self, tokenizer: Tokenizer) -> VllmEngine:
        """Return the engine of a run, which passes for one that is running."""
        return VllmEngine(cast(SteeredVllm, self), tokenizer)

    @contextmanager
    def on(self, folder: str, routers: str | None = None) -> Iterator[None]:
        """Run another checkpoint of the model inside the context: the same shapes, other weights.

        The engine is started by its next use, inside and after.

        Args:
            folder: the checkpoint.
            routers: the `router_hash` of its routers; by default that of the model.
        """
        own, self._name = (self._name, self._routers), folder
        self._routers = routers or self._routers
        try:
            self.close()
            yield
        finally:
            self._name, self._routers = own
            self.close()

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run eagerly inside the context, so that the routing is shown; its limit is not kept."""
        own, settings = self._options, self.settings
        self.close()
        self._options, self._passes = own | {"enforce_eager": True}, True
        self.settings = settings | {"eager": True}
        try:
            yield
        finally:
            self.close()
            self._options, self._passes, self.settings = own, False, settings

    def close(self) -> None:
        """Stop the engine, if it runs, and free its memory."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _check(self, engine: SteeredVllm) -> None:
        own, other = self.identity, engine.identity
        what = [name for name in _SAME if getattr(engine, name) != getattr(self, name)]
        shape = (self._routers, own.layers, own.experts)
        if shape != (other.routers, other.layers, other.experts):
            what.append("routers")
        if self._name == own.name:
            what += ["generation config"] if engine.generation != self.generation else []
            what += ["weights"] if own.fingerprint != other.fingerprint else []
        if what:
            raise UserError(
                f"model {own.name!r}: vLLM started with other {', '.join(what)} than those of the "
                "model from which the run learns; start the run again in another folder"
            )
