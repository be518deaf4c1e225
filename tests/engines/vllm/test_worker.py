"""A profile is switched over HTTP, on a real `vllm serve` of the embedded model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from dsmoe_eval.engines.vllm import EXTENSION
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, ModelIdentity

from ...conftest import vector_profile

pytestmark = [pytest.mark.vllm, pytest.mark.full]

PROMPT = "In biology, what is the maker of the cell?"
START_SECONDS = 300


def _post(url, **body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    options = [
        "--served-model-name", "lab", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "64",
        "--worker-extension-cls", EXTENSION,
    ]  # fmt: skip
    settings = {
        "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    model = str(EMBEDDED_MODELS["lab-poly"])
    # What `vllm serve` starts; that command itself asks for the metadata of a distribution named
    # vllm, which vllm-cpu is not.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *options
    ]  # fmt: skip
    with log.open("w") as sink:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=sink, stderr=subprocess.STDOUT, env=os.environ | settings
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _wait(address, process, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)  # noqa: S310
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError(log.read_text()[-3000:])


def _rpc(server, method, *args):
    (answer,) = _post(f"{server}/collective_rpc", method=method, args=args)["results"]
    return answer


def _answer(server):
    choice = _post(
        f"{server}/v1/completions", model="lab", prompt=PROMPT, max_tokens=1, temperature=0,
        logprobs=5,
    )["choices"][0]  # fmt: skip
    return choice["logprobs"]["top_logprobs"][0]


def _profile(server, routers_hash=None):
    routers = _rpc(server, "dsmoe_routers")
    identity = ModelIdentity(
        name="lab", fingerprint="none", routers=routers_hash or routers["hash"],
        layers=tuple(layer["layer"] for layer in routers["layers"]),
        experts=routers["layers"][0]["experts"],
    )  # fmt: skip
    return trial_profile(identity, Intervention(kind="bias", strength=19.0), [0])


def test_a_profile_is_switched_over_http(server):
    profile, before = _profile(server), _answer(server)
    assert _rpc(server, "dsmoe_steer", profile.to_json()) == {
        "profile": profile.id,
        "layers": list(profile.model.layers),
    }
    _post(f"{server}/reset_prefix_cache")
    steered = _answer(server)
    _post(f"{server}/collective_rpc", method="dsmoe_remove")
    _post(f"{server}/reset_prefix_cache")
    assert _answer(server) == before
    shared = before.keys() & steered
    assert (
        before.keys() != steered.keys()
        or max(abs(before[token] - steered[token]) for token in shared) > 0.01
    )
    assert min(_rpc(server, "dsmoe_calls").values()) > 0


def test_a_vector_is_switched_over_http(server):
    before, model = _answer(server), _profile(server).model
    config = json.loads((EMBEDDED_MODELS["lab-poly"] / "config.json").read_text())
    profile = vector_profile(model, {1: (0.5,) * config["hidden_size"]})
    steered = _rpc(server, "dsmoe_steer", profile.to_json())
    assert steered == {"profile": profile.id, "layers": [1]}
    _post(f"{server}/reset_prefix_cache")
    assert _answer(server) != before
    _rpc(server, "dsmoe_steer", profile.with_strength(0.0).to_json())  # it replaces the former
    _post(f"{server}/reset_prefix_cache")
    assert _answer(server) == before
    _post(f"{server}/collective_rpc", method="dsmoe_remove")


def test_a_profile_of_another_model_is_refused_over_http(server):
    before = _answer(server)
    other = _profile(server, routers_hash="0" * 16)
    with pytest.raises(urllib.error.HTTPError) as refused:
        _rpc(server, "dsmoe_steer", other.to_json())
    assert refused.value.code == 500
    assert "[steering refused: profile" in refused.value.read().decode()
    assert _answer(server) == before
