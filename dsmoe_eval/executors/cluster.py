"""Connections to Ray, with its token: to a cluster that is there, or to one of this machine."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ..errors import UserError, one_line

ADDRESS = "RAY_ADDRESS"
"""The variable that names a cluster, by the address of its head."""
_CONNECT_SECONDS = 10.0
_DEFAULTS = {
    "RAY_AUTH_MODE": "token",  # nobody does anything without the token
    "RAY_USAGE_STATS_ENABLED": "0",  # no reports to Ray's makers
}
# Named after the systems where this is Ray's default: everything listens on 127.0.0.1 only. Ray's
# parameters for addresses cannot say so, they replace a loopback address by the machine's.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Workers exchange files: Ray's store of objects is for orders and ends only.
_OF_THIS_MACHINE = {"include_dashboard": False, "object_store_memory": 100_000_000}
_QUIET = {"log_to_driver": False, "configure_logging": False}


@contextmanager
def connected() -> Iterator[str]:
    """Join the cluster that RAY_ADDRESS names, else a new one of this machine.

    The new one listens on the loopback address only, has a token that only its processes know,
    and ends with the connection.

    Yields:
        a name of the cluster.

    Raises:
        UserError: Ray is not installed, or there is no cluster that lets this process in.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get(ADDRESS)
    with _joined(address) if address else _started() as name:
        yield name


@contextmanager
def _joined(address: str) -> Iterator[str]:
    if address != "auto":
        _check_answers(address)
    ray = _ray()
    try:
        ray.init(address=address, **_QUIET)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{ADDRESS}={address}: the cluster does not let this process in ({one_line(error)}); "
            "start the command on one of its nodes, with the cluster's token in ~/.ray/auth_token "
            "or in the file that RAY_AUTH_TOKEN_PATH names"
        ) from error
    try:
        yield f"the Ray cluster at {address}"
    finally:
        ray.shutdown()


@contextmanager
def _started() -> Iterator[str]:
    settings = _LOOPBACK | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if sys.modules.get("ray") is None:
        os.environ |= settings
    elif not settings.keys() <= os.environ.keys():  # Ray has read its settings
        raise UserError(
            f"Ray was imported before the run; start the run in another process, or set {ADDRESS}"
        )
    ray = _ray()
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        try:
            ray.init(address="local", _temp_dir=folder, **_OF_THIS_MACHINE, **_QUIET)
        except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"Ray does not start on this machine ({one_line(error)}); start a cluster by "
                f"`ray start --head` and set {ADDRESS}"
            ) from error
        try:
            yield "a Ray cluster of this machine"
        finally:
            ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"the executor ray needs Ray ({error}); pip install 'dsmoe-eval[ray]'"
        ) from error
    module: ModuleType = ray
    return module


def _check_answers(address: str) -> None:
    """Check that something answers at an address; Ray would try for minutes, and say less."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise UserError(
            f"{ADDRESS}={address}: is not the address of a cluster's head; write HOST:PORT, such "
            "as 10.0.0.1:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{ADDRESS}={address}: no cluster answers there ({error}); check the address, and "
            "whether `ray start --head` runs on that machine"
        ) from error
