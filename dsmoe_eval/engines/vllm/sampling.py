"""Requests in vLLM's terms: prompts, and settings of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..requests import Request
from .table import PROFILE

Settings = dict[str, object]


def token_prompt(tokens: Sequence[int], profile: str | None = None) -> Settings:
    """Return a prompt for vLLM.

    Values in the prefix cache depend on the steering under which they were computed. So the prompt
    of a request that names a profile has the profile's id as its cache salt, and shares prefixes
    only with requests that name the same.
    """
    salt = {} if profile is None else {"cache_salt": profile}
    return {"prompt_token_ids": list(tokens), **salt}


def naming(settings: Settings, profile: str | None) -> Settings:
    """Return the settings of a request, which names a profile by its id if there is one."""
    if profile is None:
        return settings
    extra = settings.get("extra_args")
    given = extra if isinstance(extra, dict) else {}
    return settings | {"extra_args": given | {PROFILE: profile}}


def answering(request: Request, stop: Sequence[int], decodes: bool) -> Settings:
    """Return the settings by which a request is answered.

    Args:
        request: the request.
        stop: tokens that end an answer.
        decodes: whether the engine has a tokenizer, which stop strings need.
    """
    fixed: Settings = {"max_tokens": request.limit, "stop_token_ids": list(stop)}
    return fixed | (_stopping(request) if decodes else {}) | _drawing(request)


def _stopping(request: Request) -> Settings:
    """Return the settings of a request with stop strings, for which vLLM must decode."""
    if not request.stops or request.after:
        return {}
    # Special tokens may be stop strings, so vLLM has to spell them.
    settings = {
        "include_stop_str_in_output": True,
        "detokenize": True,
        "skip_special_tokens": False,
    }
    return {"stop": list(request.stops), **settings}


def _drawing(request: Request) -> Settings:
    """Return vLLM's sampling settings of a request; the checkpoint's defaults never apply."""
    shaping: Settings = dict(request.shaping)
    if request.sampling is None:
        return shaping
    told = asdict(request.sampling)
    return shaping | {name: value for name, value in told.items() if value is not None}
