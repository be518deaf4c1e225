"""Inspect's model provider `dsmoe`: base and steered models for Inspect's tasks.

`inspect eval TASK --model dsmoe/NAME -M profile=PATH`. Decoding is greedy unless a request sets a
temperature.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from inspect_ai._util.error import PrerequisiteError  # what Inspect shows without a trace
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)

from ..engines.encoding import Encoder
from ..engines.reading import Reading, read_answer
from ..engines.requests import Answer, Request, Sampling, Tokens, answer_text
from ..engines.transformers.generate import end_tokens, generate, positions
from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..models.prompt_format import PromptFormat, prompt_format
from ..steering import SteeringError
from ..tasks.decoding import Decoding, read_decoding
from .batching import Batcher
from .steered_model import SteeredModel

MAX_TOKENS = 2048
"""Default limit of generated tokens, as in Inspect's `hf` provider."""

MAX_CONNECTIONS = 32
"""Default number of requests per batch (`--max-connections`)."""

_CONTEXT = 8
"""Number of preceding tokens on which the text of a token may depend."""

_NOT_SERVED = (
    "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "prompt_logprobs",
    "response_schema", "batch", "extra_body", "modalities",
)  # fmt: skip
"""Settings of Inspect that would change an answer and are not supported."""


class DsmoeAPI(ModelAPI):  # type: ignore[misc]  # checked without Inspect too
    """Inspect's interface to a base or steered model.

    The name in logs is the model's name and, for a steered model, `@` and the profile's id. By
    this name Inspect's response cache and eval sets distinguish profiles.

    Args:
        model_name: as for `load_model`; a name from a log includes the profile's id.
        base_url: refused, as is `api_key`.
        api_key: see `base_url`.
        config: Inspect's configuration.
        profile: path of a profile.
        device: as for `load_model`.
        chat_template: whether messages are put into the tokenizer's chat template. By default they
            are if there is a template and the model's card does not say that it is a base model.
        do_sample: sample at temperature 1 if a request has no temperature.
        think_end_token: text or token id that ends the thinking; by default as the model's card
            or its tokenizer says.
        others: refused.

    Raises:
        PrerequisiteError: the model or the profile cannot be loaded or do not belong together, the
            probe failed, or an argument is unknown.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        profile: str | None = None,
        device: str | int | None = None,
        chat_template: bool | None = None,
        do_sample: bool = False,
        think_end_token: str | int | None = None,
        **others: object,
    ) -> None:
        given = {**others, "base_url": base_url, "api_key": api_key}
        unknown = [name for name, value in given.items() if value is not None]
        if unknown:
            raise PrerequisiteError(f"dsmoe: no such model argument: {', '.join(sorted(unknown))}")
        name, wanted = _split(model_name)
        try:
            self._steered = SteeredModel.open(
                name, profile, None if device is None else str(device)
            )
        except (UserError, SteeringError) as error:
            raise PrerequisiteError(f"dsmoe: {error}") from error
        told = self._steered.name.removeprefix(name).removeprefix("@")
        if wanted is not None and wanted != told:
            raise PrerequisiteError(
                f"dsmoe: {model_name!r} was steered by profile {wanted}, and -M profile is "
                f"{told or 'not given'}"
            )
        super().__init__(self._steered.name, config=config or GenerateConfig())
        self._format = _format(name, self._tokenizer, chat_template, think_end_token)
        self._do_sample = do_sample
        self._batcher: Batcher[Request, Answer] = Batcher(self._run)
        self._drawn: Counter[tuple[str, Tokens]] = Counter()

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name
        tools: list[object],
        tool_choice: object,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer one conversation, batched with the other waiting requests.

        Raises:
            UserError: the request has an unsupported setting, or does not fit into the model.
        """
        del tool_choice
        _check_served(tools, config)
        begun = time.monotonic()
        request, room = self._request(input, config)
        answer = await self._batcher.ask(request, config.max_connections or MAX_CONNECTIONS)
        told = read_answer(
            self._tokenizer, self._format, request, answer, self._steered.loaded.identity.name
        )
        ended = "model_length" if request.limit == room else "max_tokens"
        read, written = len(request.prompt), len(answer.tokens)
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(
                        content=self._content(told),
                        model=self.model_name,
                        source="generate",
                    ),
                    stop_reason="stop" if told.stopped else ended,
                    logprobs=self._logprobs(answer, request, told),
                )
            ],
            usage=ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written),
            time=time.monotonic() - begun,
            metadata={
                "profile": None if self._steered.profile is None else self._steered.profile.id,
                "model_fingerprint": self._steered.loaded.identity.fingerprint,
            },
        )

    def max_tokens(self) -> int | None:
        """Return the default number of tokens per answer."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Return the default batch size."""
        return MAX_CONNECTIONS

    def connection_key(self) -> str:
        """Return the key of the connection pool: one pool per model and profile."""
        return str(self.model_name)

    async def tokenize(self, text: str) -> list[int]:
        """Tokenize a text, without the tokens that begin or end a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    async def count_text_tokens(self, text: str) -> int:
        """Count the tokens of a text by the model's tokenizer."""
        return len(await self.tokenize(text))

    @property
    def _tokenizer(self) -> Tokenizer:
        return self._steered.loaded.tokenizer

    def _run(self, requests: Sequence[Request]) -> list[Answer]:
        with self._steered.answering() as loaded:
            return generate(loaded, requests)

    def _request(self, messages: list[ChatMessage], config: GenerateConfig) -> tuple[Request, int]:
        """Build the request; return it and the number of tokens that fit after the prompt."""
        text = self._prompt(messages)
        prompt = tuple(Encoder(self._tokenizer).encode(text))
        thinks = self._format.thinks_after(text)
        decoding, most = _decoding(config, self._do_sample), positions(self._steered.loaded)
        asked = max(decoding.max_gen_toks, (self._format.answer_tokens or 0) if thinks else 0)
        room = asked + 1 if most is None else most - len(prompt)
        if room < 1:
            raise UserError(f"a prompt of {len(prompt)} tokens leaves no room in {most} positions")
        request = Request(
            prompt,
            min(asked, room),
            stops=tuple(filter(None, decoding.until)),
            after=self._format.think_end if thinks else (),
            sampling=self._sampling(prompt, decoding, config.seed or 0),
            top_logprobs=(config.top_logprobs or 0) if config.logprobs else None,
        )
        return request, room

    def _prompt(self, messages: list[ChatMessage]) -> str:
        """Write messages in the chat template, or joined by empty lines without a template."""
        told = [{"role": message.role, "content": _text(message)} for message in messages]
        if not self._format.chat:
            return "\n\n".join(message["content"] for message in told)
        begun = told[-1]["role"] == "assistant"
        return str(
            self._tokenizer.apply_chat_template(
                told, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
            )
        )

    def _sampling(self, prompt: Tokens, decoding: Decoding, seed: int) -> Sampling | None:
        """Choose the sampling settings; None means greedy decoding."""
        run, place = _sample()
        earlier = self._drawn[run, prompt]
        self._drawn[run, prompt] += 1
        return Sampling.of(decoding, repr((seed, place, earlier, prompt)))

    def _decode(self, tokens: Tokens) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _content(self, told: Reading) -> str | list[Content]:
        if told.thought is None:
            return told.text
        reasoning = self._decode(told.thought)
        reasoning = reasoning.removeprefix(self._format.think_start).strip()
        return [ContentReasoning(reasoning=reasoning), ContentText(text=told.text)]

    def _logprobs(self, answer: Answer, request: Request, told: Reading) -> Logprobs | None:
        """Return log-probabilities of the text's tokens, thinking included.

        The end-of-text token and the tokens of a stop string are left out.
        """
        if request.top_logprobs is None:
            return None
        scores = answer.scores
        if scores and scores[-1].token in end_tokens(self._steered.loaded):
            scores = scores[:-1]
        elif told.stopped:
            scores = scores[: self._length_without_stop(answer, request, told)]
        return Logprobs(
            content=[
                Logprob(
                    token=self._piece(answer.tokens[:place], score.token),
                    logprob=score.logprob,
                    top_logprobs=[
                        TopLogprob(token=self._piece(answer.tokens[:place], token), logprob=value)
                        for token, value in score.top
                    ],
                )
                for place, score in enumerate(scores)
            ]
        )

    def _length_without_stop(self, answer: Answer, request: Request, told: Reading) -> int:
        """Return the smallest number of tokens with all of the text."""
        said = told.said
        text, size = answer_text(self._tokenizer, said, request), len(said)
        while size and answer_text(self._tokenizer, said[: size - 1], request) == text:
            size -= 1
        return len(answer.tokens) - len(said) + size

    def _piece(self, before: Tokens, token: int) -> str:
        """Decode the text that a token adds; decoded alone, many tokens lose their space."""
        context = before[-_CONTEXT:]
        text = str(self._tokenizer.decode(context))
        longer = str(self._tokenizer.decode((*context, token)))
        same = longer.startswith(text)
        return longer[len(text) :] if same else str(self._tokenizer.decode([token]))


def _split(model_name: str) -> tuple[str, str | None]:
    """Split the name of a log into the model's name and the profile's id; None without an id."""
    found = re.fullmatch(r"(.+)@([0-9a-f]{16})", model_name)
    if found is None or Path(model_name).is_dir():
        return model_name, None
    return found.group(1), found.group(2)


def _format(
    name: str, tokenizer: Tokenizer, asked: bool | None, think_end_token: str | int | None = None
) -> PromptFormat:
    wanted: Literal["auto", "plain", "chat"] = "plain" if asked is False else "auto"
    try:
        return prompt_format(name, tokenizer, "chat" if asked else wanted, think_end_token)
    except UserError as error:
        raise PrerequisiteError(f"dsmoe: {error}") from error


def _check_served(tools: list[object], config: GenerateConfig) -> None:
    asked = [name for name in _NOT_SERVED if getattr(config, name, None)]
    asked += ["num_choices"] if (config.num_choices or 1) > 1 else []
    asked += ["tools"] if tools else []
    if asked:
        raise UserError(f"the dsmoe provider does not serve {', '.join(asked)}")


def _decoding(config: GenerateConfig, do_sample: bool) -> Decoding:
    return read_decoding(
        {
            "until": config.stop_seqs,
            "max_gen_toks": MAX_TOKENS if config.max_tokens is None else config.max_tokens,
            "do_sample": do_sample or None,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
        }
    )


def _text(message: ChatMessage) -> str:
    """Return the text of a message; thinking of an earlier answer is left out."""
    parts = [] if isinstance(message.content, str) else message.content
    kinds = {part.type for part in parts} - {"text", "reasoning"}
    if kinds or message.role == "tool":
        raise UserError(f"the dsmoe provider reads text only, not {', '.join(kinds) or 'tools'}")
    return str(message.text)


def _sample() -> tuple[str, tuple[object, ...]]:
    """Return the uuid of a sample's current run, and (id, epoch), which are the same in a rerun."""
    from inspect_ai.solver._task_state import sample_state

    state = sample_state()
    return ("", ()) if state is None else (state.uuid, (state.sample_id, state.epoch))
