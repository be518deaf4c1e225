"""Types for lm-eval's untyped objects and for LMs: requests, answers, tasks, language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

LogLikelihood = tuple[float, bool]
"""Natural log-likelihood of a continuation, and whether each of its tokens is the likeliest."""
Advance = Callable[[int], object]
"""A function that is called with the number of requests just answered."""
ASKED_TASKS: ContextVar[tuple[str, ...]] = ContextVar("asked_tasks", default=())
"""Names of the tasks whose requests a model answers at present."""
Message = dict[str, str]
"""A message of a conversation: `role` and `content`."""
GenerationSettings = Mapping[str, object]
"""lm-eval's generation settings of a task; `decoding.Decoding` has those that act."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A generated answer.

    Attributes:
        text: the text without the model's thinking, cut at the first stop string.
        tokens: number of generated tokens, thinking and end of text included.
        truncated: whether the answer ended at its limit of tokens.
    """

    text: str
    tokens: int
    truncated: bool


class TaskRequest(Protocol):
    """A request of lm-eval (`lm_eval.api.instance.Instance`)."""

    request_type: str
    task_name: str | None
    doc: Mapping[str, object]
    doc_id: int
    idx: int

    @property
    def args(self) -> tuple[Any, ...]:
        """The pair (context, continuation) or (prompt, generation settings)."""


def unwatched(_count: int) -> None:
    """Ignore progress: the default of `Advance`."""


class LanguageModel(Protocol):
    """A model that answers a task's requests, such as the LMs of `engines`."""

    @property
    def uses_chat_template(self) -> bool:
        """Whether the tokenizer's chat template is applied to questions."""

    @property
    def tokenizer_name(self) -> str:
        """The identifier of the tokenizer."""

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation in the tokenizer's chat template."""

    def check_context_length(self, requests: Sequence[TaskRequest]) -> None:
        """Check that the longest requests fit into the model.

        Raises:
            UserError: a request does not fit.
        """

    def log_likelihoods(
        self, texts: Sequence[tuple[str, str]], advance: Advance = unwatched
    ) -> list[LogLikelihood]:
        """Score each (context, continuation).

        Raises:
            UserError: a text does not fit, or the tokenizer gives no token for a continuation.
        """

    def rolling_log_likelihoods(
        self, texts: Sequence[str], advance: Advance = unwatched
    ) -> list[float]:
        """Compute the natural log-likelihood of each whole text, in lm-eval's rolling windows.

        Raises:
            UserError: the limit of the model's length is not known.
        """

    def complete(
        self,
        prompts: Sequence[tuple[str, GenerationSettings]],
        remembered: Path | None = None,
        advance: Advance = unwatched,
    ) -> list[Completion]:
        """Generate a completion for each (prompt, generation settings).

        Args:
            prompts: prompts, each with lm-eval's generation settings.
            remembered: a file of answers, which are reused; new answers are appended.
            advance: called with the number of requests just answered.

        Raises:
            UserError: a prompt and its answer do not fit into the model.
        """


class LmEvalFilters(Protocol):
    """A named pipeline of filters of a task (`lm_eval.api.filter.FilterEnsemble`)."""

    name: str
    filters: Sequence[Callable[[], object]]

    def apply(self, instances: Sequence[object]) -> None:
        """Write the filtered `resps` of each instance into its `filtered_resps`."""


class LmEvalTask(Protocol):
    """An lm-eval task (`lm_eval.api.task.ConfigurableTask`)."""

    VERSION: object
    OUTPUT_TYPE: str
    config: Any
    dataset: DatasetDict
    instances: list[TaskRequest]
    test_docs: Callable[[], Dataset]
    _filters: Sequence[LmEvalFilters]

    def set_config(self, key: str, value: object) -> None:
        """Overwrite one entry of the configuration."""

    def build_all_requests(self, **options: object) -> None:
        """Make `instances`."""

    def process_results(self, doc: Mapping[str, object], results: list[Any]) -> dict[str, Any]:
        """Return every metric's value for one document."""

    def doc_to_text(self, doc: Mapping[str, object]) -> object:
        """Return the document's question."""

    def doc_to_target(self, doc: Mapping[str, object]) -> object:
        """Return the document's right answer, or its index among the choices."""

    def doc_to_choice(self, doc: Mapping[str, object]) -> Sequence[object]:
        """Return the document's choices."""
