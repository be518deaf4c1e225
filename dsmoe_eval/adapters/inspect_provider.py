"""Inspect's model provider `dsmoe`: any model of ours, base or steered, answering Inspect's tasks.

`inspect eval TASK --model dsmoe/NAME -M profile=PATH`. Greedy unless a temperature is asked for.
"""

from __future__ import annotations

import hashlib
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

from ..engines.requests import Answer, Request, Sampling, Tokens, cut, thought_and_said
from ..engines.transformers.generate import end_tokens, generate, positions
from ..errors import UserError
from ..experts.tokenizer import Tokenizer
from ..models.prompt_format import PromptFormat, prompt_format
from ..steering import SteeringError
from .batching import Batcher
from .steered_model import SteeredModel

MAX_TOKENS = 2048
"""Where neither task nor user says how much may be generated; as Inspect's `hf`."""

MAX_CONNECTIONS = 32
"""Requests of a batch, where the user does not say (`--max-connections`)."""

_CONTEXT = 8
"""Tokens before one that its text may depend on."""

_NOT_SERVED = (
    "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "prompt_logprobs",
    "response_schema", "batch",
)  # fmt: skip
"""Settings of Inspect's that would change an answer."""


class DsmoeAPI(ModelAPI):  # type: ignore[misc]  # checked without Inspect too
    """A model of ours as Inspect asks for it.

    Its name in logs is the model's and, where it is steered, `@` and the profile's id; by it
    Inspect's response cache and eval sets tell one profile from another.

    Args:
        model_name: as for `load_model`; from a log, with the profile's id.
        base_url: refused; so is `api_key`.
        api_key: see `base_url`.
        config: Inspect's.
        profile: path of a profile.
        device: as for `load_model`.
        chat_template: whether messages stand in the tokenizer's template. By default where there is
            one, unless the model's card says that it is a base model.
        do_sample: draw at temperature 1 where no temperature is given.
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
        self._format = _format(name, self._tokenizer, chat_template)
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
        """Answer one conversation, batched with whatever else is being asked.

        Raises:
            UserError: the request holds what is not served, or does not fit into the model.
        """
        del tool_choice
        _check_served(tools, config)
        begun = time.monotonic()
        request, room = self._request(input, config)
        answer = await self._batcher.ask(request, config.max_connections or MAX_CONNECTIONS)
        ran_out = answer.reason == "max_tokens" and request.limit == room
        read, written = len(request.prompt), len(answer.tokens)
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(
                        content=self._content(answer, request),
                        model=self.model_name,
                        source="generate",
                    ),
                    stop_reason="model_length" if ran_out else answer.reason,
                    logprobs=self._logprobs(answer, request),
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
        """Tokens of an answer where nobody says."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """The batch size where nobody says."""
        return MAX_CONNECTIONS

    def connection_key(self) -> str:
        """One pool for each model and profile."""
        return str(self.model_name)

    async def tokenize(self, text: str) -> list[int]:
        """Token ids, without those that begin or end a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    async def count_text_tokens(self, text: str) -> int:
        """By the model's own tokenizer."""
        return len(await self.tokenize(text))

    @property
    def _tokenizer(self) -> Tokenizer:
        return self._steered.loaded.tokenizer

    def _run(self, requests: Sequence[Request]) -> list[Answer]:
        with self._steered.answering() as loaded:
            return generate(loaded, requests)

    def _request(self, messages: list[ChatMessage], config: GenerateConfig) -> tuple[Request, int]:
        """The request, and how many tokens the model has room for behind the prompt."""
        prompt = self._prompt(messages)
        asked, most = config.max_tokens or MAX_TOKENS, positions(self._steered.loaded)
        room = asked + 1 if most is None else most - len(prompt)
        if room < 1:
            raise UserError(f"a prompt of {len(prompt)} tokens leaves no room in {most} positions")
        request = Request(
            prompt,
            min(asked, room),
            stops=tuple(stop for stop in config.stop_seqs or () if stop),
            after=self._format.think_end,
            sampling=self._sampling(prompt, config),
            top_logprobs=(config.top_logprobs or 0) if config.logprobs else None,
        )
        return request, room

    def _prompt(self, messages: list[ChatMessage]) -> Tokens:
        """In the template; or the messages' texts with an empty line between them."""
        told = [{"role": message.role, "content": _text(message)} for message in messages]
        if not self._format.chat:
            text = "\n\n".join(message["content"] for message in told)
            return tuple(self._tokenizer.encode(text))
        begun = told[-1]["role"] == "assistant"
        text = self._tokenizer.apply_chat_template(
            told, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
        )
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _sampling(self, prompt: Tokens, config: GenerateConfig) -> Sampling | None:
        """Without a temperature, `top_p` and `top_k` leave the likeliest token what it is."""
        temperature = config.temperature
        if temperature is None:
            temperature = 1.0 if self._do_sample else 0.0
        if temperature <= 0:
            return None
        run, place = _sample()
        earlier = self._drawn[run, prompt]
        self._drawn[run, prompt] += 1
        content = repr((config.seed or 0, place, earlier, prompt)).encode()
        seed = int.from_bytes(hashlib.sha256(content).digest()[:7])
        return Sampling(temperature, seed, config.top_p, config.top_k)

    def _decode(self, tokens: Tokens) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _content(self, answer: Answer, request: Request) -> str | list[Content]:
        thought, said = thought_and_said(answer, request.after)
        text = cut(self._decode(said), request.stops)
        if thought is None:
            return text
        reasoning = self._decode(thought)
        reasoning = reasoning.removeprefix(self._format.think_start).strip()
        return [ContentReasoning(reasoning=reasoning), ContentText(text=text.lstrip("\n"))]

    def _logprobs(self, answer: Answer, request: Request) -> Logprobs | None:
        """Of the tokens of the text, thinking included; an end of text and a stop string's not."""
        if request.top_logprobs is None:
            return None
        scores = list(answer.scores)
        if scores and scores[-1].token in end_tokens(self._steered.loaded):
            scores.pop()
        _, said = thought_and_said(answer, request.after)
        before = len(answer.tokens) - len(said)
        text = cut(self._decode(said), request.stops)
        while len(scores) > before and len(
            self._decode(tuple(score.token for score in scores[before:-1]))
        ) >= len(text) < len(self._decode(said)):
            scores.pop()
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

    def _piece(self, before: Tokens, token: int) -> str:
        """What a token adds to the text; alone, many tokenizers leave out its space."""
        context = before[-_CONTEXT:]
        text = str(self._tokenizer.decode(context))
        longer = str(self._tokenizer.decode((*context, token)))
        same = longer.startswith(text)
        return longer[len(text) :] if same else str(self._tokenizer.decode([token]))


def _split(model_name: str) -> tuple[str, str | None]:
    """The model's name, and the profile's id where the name is from a log."""
    found = re.fullmatch(r"(.+)@([0-9a-f]{16})", model_name)
    if found is None or Path(model_name).is_dir():
        return model_name, None
    return found.group(1), found.group(2)


def _format(name: str, tokenizer: Tokenizer, asked: bool | None) -> PromptFormat:
    wanted: Literal["auto", "plain", "chat"] = "plain" if asked is False else "auto"
    try:
        return prompt_format(name, tokenizer, "chat" if asked else wanted)
    except UserError as error:
        raise PrerequisiteError(f"dsmoe: {error}") from error


def _check_served(tools: list[object], config: GenerateConfig) -> None:
    asked = [name for name in _NOT_SERVED if getattr(config, name, None)]
    asked += ["num_choices"] if (config.num_choices or 1) > 1 else []
    asked += ["tools"] if tools else []
    if asked:
        raise UserError(f"the dsmoe provider does not serve {', '.join(asked)}")


def _text(message: ChatMessage) -> str:
    """What a message says; an earlier answer without its thinking."""
    parts = [] if isinstance(message.content, str) else message.content
    kinds = {part.type for part in parts} - {"text", "reasoning"}
    if kinds or message.role == "tool":
        raise UserError(f"the dsmoe provider reads text only, not {', '.join(kinds) or 'tools'}")
    return str(message.text)


def _sample() -> tuple[str, tuple[object, ...]]:
    """Which run of a sample asks, and its id and epoch, which are the same when it is run again."""
    from inspect_ai.solver._task_state import sample_state

    state = sample_state()
    return ("", ()) if state is None else (state.uuid, (state.sample_id, state.epoch))
