"""A real server of the embedded model and its profiles, asked by real clients."""

import asyncio
import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import lm_eval
from inspect_ai import eval  # noqa: A004
from lm_eval.tasks import TaskManager

from dsmoe_eval.adapters.lm_eval_model import SteeredLM
from dsmoe_eval.engines.vllm import serving
from dsmoe_eval.engines.vllm.catalog import NamedProfile
from dsmoe_eval.engines.vllm.serving import Serving, arguments, serve
from dsmoe_eval.errors import UserError
from dsmoe_eval.inspect_plugin import suite_task
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.steering import Intervention

from ...conftest import vector_profile

pytestmark = pytest.mark.vllm

KEY = "a-key"
START_SECONDS = 300
TOLERANCE = 1e-4
TASKS = str(load_suite("lab").tasks_dir)
PROMPT = "In law, the keeper of the charge is"
LONG = "What is 7 + 6? In biology, what is the maker of the cell? " * 2 + PROMPT
"""More tokens than a block of the prefix cache has."""


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def profiles(loaded):
    kinds = {
        "few": Intervention(kind="bias", strength=6.0),
        "masked": Intervention(kind="mask", strength=1.0),
    }
    return {name: trial_profile(loaded.identity, one, range(4)) for name, one in kinds.items()}


@pytest.fixture(scope="module")
def server(profiles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    for name, one in profiles.items():
        (folder / f"{name}.json").write_text(one.to_json())
    command = [
        sys.executable, "-m", "dsmoe_eval", "serve", "lab-poly", "--name", "lab", "--port", "0",
        "--profiles", str(folder), "--max-profiles", "3", "--", "--enforce-eager",
    ]  # fmt: skip
    settings = {"VLLM_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")} | settings
    log = folder / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment
        )
    late = threading.Timer(START_SECONDS, process.kill)
    late.start()
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[0].startswith("serving at "), "".join(lines) + log.read_text()[-3000:]
        yield Server(lines, process)
    finally:
        late.cancel()
        process.terminate()
        assert process.wait(START_SECONDS) == 0


class Server:
    """Its address, and what it wrote."""

    def __init__(self, lines, process):
        self.lines, self.process = lines, process
        self.address = lines[0].split()[2].removesuffix(":")

    def ask(self, method, path, key=KEY, **options):
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        url = self.address + path
        return httpx.request(method, url, headers=headers, timeout=60, **options)

    def complete(self, model, prompt=PROMPT, **options):
        body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8} | options
        answer = self.ask("POST", "/completions", json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["model"] == model
        return told["choices"][0]


def scored(loaded, profile, text):
    """The tokens of a text, and their log-probabilities from the second on by our own run."""
    tokens = loaded.tokenizer.encode(text)
    pairs = [(("", ""), tokens[:at], [tokens[at]]) for at in range(1, len(tokens))]
    return tokens, [value for value, _ in SteeredLM(loaded, profile)._loglikelihood_tokens(pairs)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'],
         "speculative decoding"),
        (["--trust-remote-code"], "--trust-remote-code is refused: remote code is never run"),
        (["--api-key", "a"], "--api-key-file"),
        (["--load-format", "pt"], "only safetensors"),
        (["--data-parallel-size", "2"], "one process serves one engine"),
        (["--enable-lora"], "serve the merged model"),
        (["other-model"], "the model is the first argument"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--chat-template", "none.jinja"], "chat template"),
    ],
)  # fmt: skip
def test_options_that_steering_forbids_are_refused(options, words):
    asked = Serving("lab-poly", "lab", (), 2, "127.0.0.1", 0, options)
    with pytest.raises(UserError, match=words):
        arguments(asked)


def test_options_of_vllm_are_kept():
    options = ["--max-model-len", "64", "--additional-config", '{"other": 1}']
    args = arguments(Serving("lab-poly", "lab", (), 2, "127.0.0.1", 0, options))
    assert (args.max_model_len, args.dtype, args.load_format) == (64, "float32", "safetensors")
    assert args.additional_config == {"other": 1, "dsmoe_profiles": 2}
    assert args.served_model_name == ["lab"]
    assert args.generation_config == "vllm"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines"),  # noqa: S104
        ({"most": 1}, "2 profiles; raise --max-profiles, which is 1"),
    ],
)
def test_what_cannot_be_served_is_refused(changes, words, profiles, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    named = [NamedProfile(name, one) for name, one in profiles.items()]
    asked = Serving("lab-poly", "lab", named, 2, "127.0.0.1", 0)
    with pytest.raises(UserError, match=words):
        serve(dataclasses.replace(asked, **changes), print)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        asked = Serving("lab-poly", "lab", (), 2, "127.0.0.1", port)
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; give another"):
            asyncio.run(serving._serve(asked, arguments(asked), print))


def test_it_says_what_it_serves(server):
    assert server.address.startswith("http://127.0.0.1:")
    assert server.lines[0].endswith("/v1: lab, lab:few, lab:masked\n")
    listed = server.ask("GET", "/models").json()["data"]
    assert [one["id"] for one in listed] == ["lab", "lab:few", "few", "lab:masked", "masked"]
    example = "".join(server.lines[1:3])
    done = subprocess.run(  # noqa: S602 - what our own program printed
        example.replace("curl", "curl -s"), shell=True, capture_output=True, text=True, check=True,
        env={**os.environ, "VLLM_API_KEY": KEY},
    )  # fmt: skip
    assert json.loads(done.stdout)["model"] == "lab:masked"


def test_nothing_is_answered_without_the_key(server):
    for method, path in (("GET", "/models"), ("GET", "/dsmoe/profiles"), ("POST", "/completions")):
        assert server.ask(method, path, key="other", json={"model": "lab:no"}).status_code == 401


def test_no_process_sends_usage_reports(server):
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("no /proc")
    started = children.read_text().split()
    assert started
    for one in started:
        assert b"VLLM_NO_USAGE_STATS=1" in Path(f"/proc/{one}/environ").read_bytes().split(b"\0")


def test_scores_of_prompts_are_those_of_our_own_run(server, loaded, profiles):
    """All at once: two profiles and none, prompts as tokens and as text."""
    asked = [(name, text) for name in (None, "few", "masked") for text in (PROMPT, LONG)] * 2
    expected = {one: scored(loaded, profiles.get(one[0]), one[1]) for one in asked}

    def ask(one):
        tokens, _ = expected[one]
        told = server.complete(
            f"lab:{one[0]}" if one[0] else "lab", tokens, echo=True, logprobs=1, max_tokens=1
        )
        return told["logprobs"]["token_logprobs"][1 : len(tokens)]

    with ThreadPoolExecutor(len(asked)) as together:
        found = list(together.map(ask, asked))
    for one, values in zip(asked, found, strict=True):
        assert values == pytest.approx(expected[one][1], abs=TOLERANCE)
    first = [values for _, values in expected.values()]
    assert all(abs(a[-1] - b[-1]) > TOLERANCE for a, b in itertools.combinations(first[1::2], 2))


def test_a_cached_prompt_serves_its_own_profile_only(server, loaded, profiles):
    expected = {
        name: scored(loaded, one, LONG)[1][-1] for name, one in [*profiles.items(), ("", None)]
    }
    last = loaded.tokenizer.encode(LONG)[-1]
    for salt in (None, "mine", profiles["few"].id):
        for name in ("few", "", "masked", "", "few", "masked"):
            told = server.complete(
                f"lab:{name}".rstrip(":"), loaded.tokenizer.encode(LONG)[:-1], max_tokens=1,
                logprobs=1, logprob_token_ids=[last], return_tokens_as_token_ids=True,
                cache_salt=salt,
            )["logprobs"]["top_logprobs"][0]  # fmt: skip
            assert told[f"token_id:{last}"] == pytest.approx(expected[name], abs=TOLERANCE)


def test_answers_end_where_ours_end(server, loaded, profiles):
    lm = SteeredLM(loaded, profiles["few"])
    whole = lm.complete([(PROMPT, {"until": [], "max_gen_toks": 6})])[0].text
    stop = whole[3]
    cut = lm.complete([(PROMPT, {"until": [stop], "max_gen_toks": 6})])[0].text
    assert cut != whole
    assert server.complete("lab:few", max_tokens=6)["text"].strip() == whole
    assert server.complete("lab:few", max_tokens=6, stop=[stop])["text"].strip() == cut
    events = server.ask(
        "POST", "/completions",
        json={"model": "few", "prompt": PROMPT, "temperature": 0, "max_tokens": 6, "stream": True},
    ).text.split("\n\n")  # fmt: skip
    told = [json.loads(one.removeprefix("data: ")) for one in events if "{" in one]
    assert "".join(one["choices"][0]["text"] for one in told).strip() == whole
    assert {one["model"] for one in told} == {"lab:few"}


def test_unknown_names_are_refused(server):
    for status, body in (
        (404, {"model": "lab:no"}),
        (404, {"model": "lab-poly"}),
        (404, {"model": "lab", "vllm_xargs": {"dsmoe_profile": "no"}}),
        (400, {"model": "lab:few", "use_beam_search": True}),
    ):
        for path, text in (
            ("/completions", {"prompt": PROMPT}),
            ("/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
        ):
            answer = server.ask("POST", path, json=body | text)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["message"]


def test_profiles_are_loaded_and_dropped_while_it_runs(server, loaded, profiles):
    def load(name, one):
        headers = {"Content-Type": "application/json"}
        path = f"/dsmoe/profiles?name={name}"
        return server.ask("POST", path, content=one.to_json(), headers=headers)

    other = profiles["few"].with_strength(2.0)
    assert load("weak", other).status_code == 201
    assert load("more", profiles["few"].with_strength(1.0)).status_code == 409
    _, expected = scored(loaded, other, PROMPT)
    told = server.complete("lab:weak", echo=True, logprobs=1, max_tokens=1)["logprobs"]
    assert told["token_logprobs"][1:-1] == pytest.approx(expected, abs=TOLERANCE)
    assert server.ask("DELETE", "/dsmoe/profiles/weak").status_code == 204
    assert server.ask("POST", "/completions", json={"model": "lab:weak"}).status_code == 404
    foreign = other.model.model_copy(update={"routers": "0" * 16})
    vector = vector_profile(other.model, {1: (0.5,) * loaded.model.config.hidden_size})
    for one, words in (
        (other.model_copy(update={"model": foreign}), "same shape but other weights"),
        (vector, "residual"),
    ):
        refused = load("bad", one)
        assert refused.status_code == 400
        assert words in refused.json()["error"]["message"]
    listed = server.ask("GET", "/dsmoe/profiles").json()["data"]
    assert [one["name"] for one in listed] == ["few", "masked"]


@pytest.mark.parametrize("name", [None, pytest.param("few", marks=pytest.mark.full)])
def test_lm_evals_local_completions_scores_as_our_own_run(
    server, loaded, profiles, name, monkeypatch
):
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
    arguments = {
        "model": f"lab:{name}" if name else "lab",
        "base_url": f"{server.address}/completions",
        "tokenizer": str(EMBEDDED_MODELS["lab-poly"]),
        "tokenizer_backend": "huggingface",
        "max_length": 128,
        "num_concurrent": 8,
        "header": {"Authorization": f"Bearer {KEY}"},
    }
    own = evaluated(SteeredLM(loaded, profiles.get(name)))
    theirs = evaluated("local-completions", model_args=arguments)
    assert [one[:2] for one in theirs] == [one[:2] for one in own]
    for (_, _, ours, score), (_, _, other, same) in zip(own, theirs, strict=True):
        assert other == pytest.approx(ours, abs=TOLERANCE) if score is None else same == score
    if name:
        assert theirs != evaluated(SteeredLM(loaded))


def evaluated(lm, **options):
    """(task, item, log-likelihoods of the options or the answer, score) of each item."""
    results = lm_eval.simple_evaluate(
        lm, tasks=["lab_arithmetic", "lab_law_named"], limit=12, bootstrap_iters=0,
        task_manager=TaskManager(include_path=TASKS, include_defaults=False), **options,
    )  # fmt: skip
    return [
        (
            task,
            sample["doc_id"],
            sample["filtered_resps"],
            sample.get("acc", sample.get("exact_match")),
        )
        for task, samples in sorted(results["samples"].items())
        for sample in samples
    ]


@pytest.mark.parametrize("name", [pytest.param(None, marks=pytest.mark.full), "few"])
def test_inspects_vllm_provider_scores_as_our_own(server, profiles, name, tmp_path):
    path = tmp_path / "p.json"
    asked = {"temperature": 0.0, "limit": 24, "display": "none", "log_dir": str(tmp_path / "logs")}
    if name:
        path.write_text(profiles[name].to_json())
    own = {"model": "dsmoe/lab-poly", "model_args": {"profile": str(path)} if name else {}}
    theirs = {"model": f"vllm/lab:{name}" if name else "vllm/lab", "model_base_url": server.address,
              "model_args": {"api_key": KEY}}  # fmt: skip
    answers = []
    for how in (own, theirs):
        (log,) = eval(
            suite_task("lab", "lab_arithmetic"), **asked, **how,
        )  # fmt: skip
        assert log.status == "success", log.error
        answers.append([
            (one.id, one.output.completion.strip(), [score.value for score in one.scores.values()])
            for one in log.samples
        ])  # fmt: skip
    assert answers[0] == answers[1]
    assert len(answers[0]) == 24
