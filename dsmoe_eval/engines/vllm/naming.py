"""The part of a server that turns model names into profiles, in front of vLLM's routes.

A request's `model` (`olmoe:math`) or `vllm_xargs` (`{"dsmoe_profile": "math"}`) names a profile.
vLLM gets the name of the model, the profile's id in `vllm_xargs`, and a `cache_salt` of the
profile, so that the prefix cache never serves one profile what another computed. The answer's
`model` is the name with the profile. What could be answered without its profile is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeAlias, cast

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import UserError
from ...steering import Profile, SteeringError
from .catalog import Catalog, InUseError, NamedProfile, UnknownProfileError
from .table import PROFILE

Body: TypeAlias = dict[str, object]
MODELS, PROFILES = "/v1/models", "/v1/dsmoe/profiles"
STEERED = ("/v1/completions", "/v1/chat/completions")
"""The paths whose requests a profile steers."""
NEUTRAL = ("/tokenize", "/detokenize")
"""The paths whose requests name a model, but are answered without it."""
_MOST_BYTES = 64_000_000
_STATUS: dict[type[Exception], HTTPStatus] = {
    UnknownProfileError: HTTPStatus.NOT_FOUND,
    InUseError: HTTPStatus.CONFLICT,
}


class Naming:
    """An ASGI application in front of vLLM's.

    Args:
        app: vLLM's routes, inside its check of the API key.
        catalog: the profiles.
    """

    def __init__(self, app: ASGIApp, catalog: Catalog) -> None:
        self._app, self._catalog = app, catalog
        one = PROFILES + "/{name}"
        self._own = Router(
            [
                Route(PROFILES, self._list, methods=["GET"]),
                Route(PROFILES, self._load, methods=["POST"]),
                Route(one, self._drop, methods=["DELETE"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have vLLM answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":  # no route of vLLM that generates text is a websocket
            await send({"type": "websocket.close"})
        else:
            try:
                await self._answer(scope, receive, send)
            except (UserError, SteeringError, HTTPException) as error:
                await error_response(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(PROFILES):
            await self._own(scope, receive, send)
        elif path == MODELS:
            await self._app(scope, receive, changing(send, self._with_models))
        elif scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
        elif path in (*STEERED, *NEUTRAL):
            await self._steer(path, scope, receive, send)
        else:
            raise UnknownProfileError(
                f"{scope['method']} {path} is not served; {', '.join(STEERED)} are"
            )

    async def _steer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = _read(await Request(scope, receive).body())
        named = rewrite(body, self._catalog, path in STEERED)
        content = json.dumps(body).encode()
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)["content-length"] = str(len(content))
        if named is None:
            await self._app(scope, _giving(content, receive), send)
            return
        with self._catalog.running(named):
            name = self._catalog.model_name(named)
            send = changing(send, _renaming(self._catalog.model, name))
            await self._app(scope, _giving(content, receive), send)

    def _with_models(self, content: bytes) -> bytes:
        """Add the names with profiles to vLLM's list of models.

        Each is there twice, also without the model's name: Inspect's provider `vllm` reads
        `olmoe:math` as the adapter `math` of the model `olmoe` and asks for `math`.
        """
        try:
            listed = json.loads(content)
            cards = list(listed["data"])
            base = next(card for card in cards if card["id"] == self._catalog.model)
        except (ValueError, LookupError, TypeError, StopIteration):
            return content  # an error
        for one in self._catalog.profiles:
            told = {**base, "parent": base["id"], "root": one.profile.id}
            cards += [{**told, "id": name} for name in (self._catalog.model_name(one), one.name)]
        return json.dumps({**listed, "data": cards}).encode()

    async def _list(self, _request: Request) -> Response:
        data = [self._card(one) for one in self._catalog.profiles]
        return JSONResponse({"object": "list", "data": data, "most": self._catalog.most})

    async def _load(self, request: Request) -> Response:
        # A web page may post any other type to this machine without being asked.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise UserError("send the profile's JSON with Content-Type: application/json")
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > _MOST_BYTES:
                raise UserError(f"a profile has at most {_MOST_BYTES // 10**6} MB")
        profile = Profile.from_json(bytes(content))
        one = NamedProfile(request.query_params.get("name") or profile.id, profile)
        await self._catalog.load(one)
        return JSONResponse(self._card(one), HTTPStatus.CREATED)

    async def _drop(self, request: Request) -> Response:
        await self._catalog.drop(request.path_params["name"])
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _card(self, one: NamedProfile) -> dict[str, object]:
        profile = one.profile
        return {
            "id": profile.id,
            "object": "dsmoe.profile",
            "name": one.name,
            "model": self._catalog.model_name(one),
            "domain": profile.source.domain,
            "method": profile.method,
            "intervention": profile.intervention.kind,
            "strength": profile.intervention.strength,
        }


def rewrite(body: Body, catalog: Catalog, steered: bool) -> NamedProfile | None:
    """Put the profile of a request into the fields that vLLM reads, and return it.

    Values of a wrong type stay, for vLLM to refuse.

    Args:
        body: the request, which is changed.
        catalog: the profiles.
        steered: whether the answer depends on the profile.

    Raises:
        UserError: the request names an unknown model or profile, two different profiles, or
            an option that vLLM would carry out without the profile.
    """
    named, model, arguments = None, body.get("model"), body.get("vllm_xargs")
    if isinstance(model, str) and model:
        named = catalog.find_model(model)
        body["model"] = catalog.model
    if isinstance(arguments, dict) and PROFILE in arguments:
        asked = arguments[PROFILE]
        if not isinstance(asked, str):
            raise UserError(f"vllm_xargs: {PROFILE} must be the name or id of a profile, a string")
        other = catalog.find(asked)
        if named is not None and named.profile.id != other.profile.id:
            raise UserError(f"model names the profile {named.name!r}, and vllm_xargs {asked!r}")
        named = named or other
    if not steered:
        return named
    if named is not None:
        if body.get("use_beam_search"):
            raise UserError("vLLM's beam search takes no profile; leave use_beam_search out")
        if arguments is None or isinstance(arguments, dict):
            body["vllm_xargs"] = cast(Body, arguments or {}) | {PROFILE: named.profile.id}
    _salt(body, named)
    return named


def _salt(body: Body, named: NamedProfile | None) -> None:
    """Make the request's salt that of its profile; no salt of a user is ever that of another."""
    given = body.get("cache_salt")
    profile = "" if named is None else named.profile.id
    if isinstance(given, str) and given:
        body["cache_salt"] = f"{profile}:{hashlib.sha256(given.encode()).hexdigest()}"
    elif given is None and named is not None:
        body["cache_salt"] = profile


def changing(send: Send, change: Callable[[bytes], bytes]) -> Send:
    """Return a `send` that changes the body: of JSON the whole, of a stream each event."""
    begun: Message = {}
    held = bytearray()

    async def changed(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            kind = MutableHeaders(raw=list(message["headers"])).get("content-type", "")
            begun = {} if kind.startswith("text/event-stream") else message
            if not begun:
                await send(message)
        elif message["type"] != "http.response.body":
            await send(message)
        elif not begun:
            await send({**message, "body": change(message.get("body", b""))})
        else:
            held.extend(message.get("body", b""))
            if not message.get("more_body"):
                content = change(bytes(held))
                headers = MutableHeaders(raw=list(begun["headers"]))
                headers["content-length"] = str(len(content))
                await send({**begun, "headers": headers.raw})
                await send({"type": "http.response.body", "body": content})

    return changed


def error_response(error: UserError | SteeringError | HTTPException) -> JSONResponse:
    """Return a refusal in the form of OpenAI's errors."""
    status = _STATUS.get(type(error), HTTPStatus.BAD_REQUEST)
    if isinstance(error, HTTPException):  # no such path or method
        status = HTTPStatus(error.status_code)
    told = {"message": str(error), "type": status.phrase, "param": None, "code": status.value}
    return JSONResponse({"error": told}, status)


def _read(content: bytes) -> Body:
    """Return the JSON object that a body is."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    return body


def _renaming(model: str, name: str) -> Callable[[bytes], bytes]:
    """Return a function that replaces the model's name in JSON.

    Inside a JSON string quotes are escaped, so that no text of an answer looks like the key.
    """
    before, after = (json.dumps(one, ensure_ascii=False) for one in (model, name))
    old, spaced, new = (f'"model":{one}'.encode() for one in (before, f" {before}", after))
    return lambda content: content.replace(old, new).replace(spaced, new)


def _giving(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body first, then what the client does."""
    left = [content]

    async def given() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return given
