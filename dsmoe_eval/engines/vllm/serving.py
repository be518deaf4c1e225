"""vLLM's OpenAI-compatible server, with profiles as further model names.

vLLM builds its application and serves it; `naming.Naming` is put between its check of the API key
and its routes. vLLM's public hooks do not reach there: what is given as `--middleware` comes
before the check, and an endpoint plugin that cannot be loaded is only logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import UserError
from ...experts.tokenizer import Tokenizer
from ...models.places import locate
from ...models.revisions import split_revision
from ...steering import SteeringError
from .catalog import Catalog, NamedProfile
from .launch import EXTENSION, PROCESSOR, precision, quieten, reason_of, refuse_speculation
from .refusals import agreed, worker_refusals
from .table import CAPACITY

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.engine.protocol import EngineClient

VERSION = "0.32."
"""The versions of vLLM whose parts are put together here as in its `build_and_serve`."""
_GIVEN = {
    "api_key": "every user of the machine can read a command line; set VLLM_API_KEY, or give "
    "--api-key-file",
    "enable_lora": "an adapter is served without profiles; serve the merged model",
    "host": "give --host before the two dashes",
    "load_format": "only safetensors are read",
    "lora_modules": "an adapter is served without profiles; serve the merged model",
    "model_tag": "the model is the first argument",
    "port": "give --port before the two dashes",
    "served_model_name": "give --name before the two dashes",
    "skip_tokenizer_init": "texts need the tokenizer",
    "trust_remote_code": "remote code is never run",
    "uds": "the server listens at a host and a port",
    "worker_extension_cls": "the workers have that of this package",
    **dict.fromkeys(
        ("api_server_count", "data_parallel_size", "grpc", "headless"),
        "one process serves one engine; start several servers",
    ),
}
"""Options of vLLM that are refused, with the reason."""
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, and where.

    Attributes:
        model: the model's name, as for `load_model`.
        name: the name by which requests ask for the model.
        profiles: the profiles that are loaded at the start.
        most: number of profiles at once.
        host: the address at which the server listens.
        port: the port; 0 takes a free one.
        options: further options of vLLM's command line.
    """

    model: str
    name: str
    profiles: Sequence[NamedProfile]
    most: int
    host: str
    port: int
    options: Sequence[str] = ()


def serve(serving: Serving, announce: Callable[[str, Catalog], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        serving: what is served, and where.
        announce: a function that gets the address and the profiles when requests are accepted.

    Raises:
        UserError: vLLM is not installed, is of another version, or cannot run the model; an option
            is refused; the port is taken; the address needs an API key; there are too many
            profiles.
        SteeringError: a profile is refused.
    """
    quieten("WARNING")
    try:
        import uvloop
        from vllm import __version__
        from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    except ImportError as error:
        raise UserError("vLLM is not installed; pip install 'dsmoe-eval[vllm]'") from error
    if not __version__.startswith(VERSION):
        raise UserError(f"vLLM {__version__}: serve was written for vLLM {VERSION}*; install that")
    if serving.host not in _LOCAL and not os.environ.get("VLLM_API_KEY"):
        raise UserError(
            f"--host {serving.host} can be reached from other machines; set VLLM_API_KEY, or give "
            "--api-key-file"
        )
    if (number := len({one.profile.id for one in serving.profiles})) > serving.most:
        raise UserError(f"{number} profiles; raise --max-profiles, which is {serving.most}")
    cli_env_setup()
    signal.signal(signal.SIGTERM, _interrupt)  # until the server has its own handler
    uvloop.run(_serve(serving, arguments(serving), announce))


def arguments(serving: Serving) -> Namespace:
    """Return vLLM's arguments: the user's, and those that steering needs.

    Raises:
        UserError: an option is unknown or refused.
    """
    args, untouched = _parse(serving.options), _parse(())
    for name, reason in _GIVEN.items():
        if getattr(args, name) != getattr(untouched, name):
            raise UserError(f"vLLM's option --{name.replace('_', '-')} is refused: {reason}")
    given = {name: value for name, value in vars(args).items() if value is not None}
    refuse_speculation(given)
    place = locate(serving.model)
    model, revision = split_revision(place)
    fixed = {
        "model": model,
        "revision": revision,
        "tokenizer_revision": revision,
        "served_model_name": [serving.name],
        "host": serving.host,
        "port": serving.port,
        "dtype": precision(place, args.dtype),
        "load_format": "safetensors",
        "worker_extension_cls": EXTENSION,
        "logits_processors": [*(args.logits_processors or ()), PROCESSOR],
        "additional_config": {**args.additional_config, CAPACITY: serving.most},
    }
    if args.generation_config == untouched.generation_config:
        fixed["generation_config"] = "vllm"  # no sampling settings of the checkpoint
    if args.uvicorn_log_level == untouched.uvicorn_log_level:
        fixed["uvicorn_log_level"] = "warning"
    return Namespace(**{**vars(args), **fixed})


def _parse(options: Sequence[str]) -> Namespace:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.exceptions import VLLMClientError
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="dsmoe-eval serve MODEL --"))
    parser.error = _refuse
    args: Namespace = parser.parse_args(list(options))
    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError, VLLMClientError) as error:
        _refuse(str(error))
    return args


def _refuse(message: str) -> NoReturn:
    raise UserError(f"vLLM's options: {message}; see vllm serve --help")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


async def _serve(
    serving: Serving, args: Namespace, announce: Callable[[str, Catalog], None]
) -> None:
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.exceptions import VLLMClientError

    from .requests import KNOWN

    try:
        address, listener = setup_server(args, reuse_port=False)
    except OSError as error:
        raise UserError(
            f"--host {args.host} --port {args.port}: {error.strerror}; give another"
        ) from error
    args.port = listener.getsockname()[1]
    address = f"{address.rpartition(':')[0]}:{args.port}"
    try:
        async with AsyncExitStack() as stack:
            try:
                engine = await stack.enter_async_context(build_async_engine_client(args))
            except (OSError, ValueError, RuntimeError, VLLMClientError) as error:
                raise UserError(
                    f"vLLM cannot run model {serving.model!r}: {reason_of(error)}"
                ) from error
            catalog = Catalog(serving.name, serving.most, partial(_call, engine), KNOWN)
            await _load(catalog, serving.profiles)
            app = await _application(engine, args, catalog)
            ready = asyncio.create_task(_when_started(app, lambda: announce(address, catalog)))
            ending = await _listen(app, listener, args)
            ready.cancel()
        await ending
    finally:
        listener.close()


async def _load(catalog: Catalog, profiles: Sequence[NamedProfile]) -> None:
    for one in profiles:
        try:
            await catalog.load(one)
        except SteeringError as error:
            where = f"{one.origin}: " if one.origin else ""
            raise SteeringError(f"{where}profile {one.name!r}: {error}") from error


async def _application(engine: EngineClient, args: Namespace, catalog: Catalog) -> FastAPI:
    """Build vLLM's application, with `Naming` behind the check of the API key."""
    from starlette.middleware import Middleware
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    from .naming import Naming

    tokenizer = engine.get_tokenizer()
    if args.chat_template is None and not getattr(tokenizer, "chat_template", None):
        args.chat_template = plain_template(tokenizer)
    tasks = await engine.get_supported_tasks()
    app: FastAPI = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    app.user_middleware.append(Middleware(Naming, catalog=catalog))  # the last is the innermost
    app.middleware_stack = app.build_middleware_stack()  # vLLM has built it without
    return app


def plain_template(tokenizer: Tokenizer) -> str:
    """Return a chat template that only joins messages, as runs ask a model that has none.

    vLLM adds no first tokens to a chat, so the template writes those that the tokenizer would add.
    """
    body, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    start = json.dumps(tokenizer.decode(whole[: whole.index(body[0])]))
    return f"{{{{ {start} }}}}{{{{ messages | map(attribute='content') | join('\\n\\n') }}}}"


async def _listen(app: FastAPI, listener: Any, args: Namespace) -> Any:
    from vllm import envs
    from vllm.entrypoints.launchers.launcher import serve_http

    of_uvicorn = ("host", "port", "h11_max_incomplete_event_size", "h11_max_header_count")
    of_ssl = ("keyfile", "certfile", "ca_certs", "cert_reqs", "ciphers")
    names = [*of_uvicorn, *(f"ssl_{name}" for name in of_ssl), "enable_ssl_refresh"]
    return await serve_http(
        app,
        sock=listener,
        log_level=args.uvicorn_log_level,
        access_log=not args.disable_uvicorn_access_log,
        timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
        **{name: getattr(args, name) for name in names},
    )


async def _when_started(app: FastAPI, announce: Callable[[], None]) -> None:
    while not getattr(getattr(app.state, "server", None), "started", False):
        await asyncio.sleep(0.02)
    announce()


async def _call(engine: EngineClient, method: str, argument: str) -> object:
    """Call a method of all workers, whose results must agree.

    Raises:
        SteeringError: the workers refuse, or disagree.
    """
    with worker_refusals():
        answers = await engine.collective_rpc(method, args=(argument,))
    return agreed(method, answers)
