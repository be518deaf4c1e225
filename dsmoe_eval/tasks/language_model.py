"""What tasks use of lm-eval's untyped objects, and of an LM: requests, answers, who answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

LogLikelihood = tuple[float, bool]
"""Of a continuation: natural log-likelihood, and whether each of its tokens is the likeliest."""
Advance = Callable[[int], object]
"""Called with the number of requests just answered."""
Message = dict[str, str]
"""Of a conversation: `role` and `content`."""


class GenerationSettings(TypedDict, total=False):
    """lm-eval's settings of a prompt to be continued; `max_new_tokens` is another name."""

    until: str | list[str]
    max_gen_toks: int
    max_new_tokens: int
    do_sample: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A generated answer.

    Attributes:
        text: without the model's thinking, cut at the first stop string.
        tokens: generated, thinking and the end of text included.
        truncated: whether its limit ended it.
    """

    text: str
    tokens: int
    truncated: bool


class TaskRequest(Protocol):
    """One of lm-eval's requests (`lm_eval.api.instance.Instance`)."""

    request_type: str
    doc: Mapping[str, object]
    doc_id: int
    idx: int

    @property
    def args(self) -> tuple[Any, ...]:
        """(context, continuation), or (prompt, generation settings)."""


def unwatched(_count: int) -> None:
    """Do nothing: the `Advance` where nobody watches."""


class LanguageModel(Protocol):
    """Who answers a task's requests; the LMs of `engines` do."""

    @property
    def uses_chat_template(self) -> bool:
        """Whether questions are put into the tokenizer's chat template."""

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer."""

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation in the tokenizer's template."""

    def check_room(self, requests: Sequence[TaskRequest]) -> None:
        """Try whether the longest requests fit into the model.

        Raises:
            UserError: one does not.
        """

    def log_likelihoods(
        self, texts: Sequence[tuple[str, str]], advance: Advance = unwatched
    ) -> list[LogLikelihood]:
        """Score each (context, continuation).

        Raises:
            UserError: a text does not fit, or the tokenizer gives no token for a continuation.
        """

    def complete(
        self,
        prompts: Sequence[tuple[str, GenerationSettings]],
        remembered: Path | None = None,
        advance: Advance = unwatched,
    ) -> list[Completion]:
        """Continue each (prompt, generation settings).

        Args:
            prompts: with lm-eval's settings of each.
            remembered: a file of answers: those that it has are taken, new ones are added.
            advance: called with the number of requests just answered.

        Raises:
            UserError: a prompt and its answer do not fit into the model.
        """


class LmEvalFilters(Protocol):
    """One of a task's named pipelines of filters (`lm_eval.api.filter.FilterEnsemble`)."""

    name: str
    filters: Sequence[Callable[[], object]]

    def apply(self, instances: Sequence[object]) -> None:
        """Write what is left of each instance's `resps` into its `filtered_resps`."""


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
