"""Model names and profiles over HTTP, in front of routes that say what reached them."""

import asyncio
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from dsmoe_eval.engines.vllm.catalog import Catalog, NamedProfile
from dsmoe_eval.engines.vllm.naming import Naming
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, ModelIdentity, SteeringError

MODEL = ModelIdentity(name="m", fingerprint="f", routers="r", layers=(0, 1), experts=8)
TEXT = 'say "model":"olmoe" twice'
COMPLETIONS, CHAT, PROFILES = "/v1/completions", "/v1/chat/completions", "/v1/dsmoe/profiles"


def profile(strength):
    return trial_profile(MODEL, Intervention(kind="bias", strength=strength), [0])


MATH, LAW, ART = (profile(strength) for strength in (1.0, 2.0, 3.0))


class Server:
    """A server whose routes answer with the request that they got, and whose workers only note."""

    def __init__(self, most=2):
        self.calls, self.refused, self.known = [], {}, set()
        self.catalog = Catalog("olmoe", most, self._call, self.known)
        everything = {"methods": ["GET", "POST"]}
        routes = [
            Route("/v1/models", self._models),
            *(Route(path, self._echo, **everything) for path in (COMPLETIONS, CHAT, "/tokenize")),
            Route("/collective_rpc", self._echo, **everything),
        ]
        self.app = Naming(Starlette(routes=routes), self.catalog)
        self.held = self.go_on = None

    async def _call(self, method, argument):
        self.calls.append((method, argument))
        if (reasons := self.refused.get(method)) and (reason := reasons.pop()):
            raise SteeringError(reason)

    async def _models(self, _request):
        card = {"id": "olmoe", "root": "folder", "parent": None, "max_model_len": 64}
        return JSONResponse({"object": "list", "data": [card]})

    async def _echo(self, request):
        if self.held is not None:
            self.held.set()
            await self.go_on.wait()
        body = await request.json()
        assert int(request.headers["content-length"]) == len(await request.body())
        told = {"model": "olmoe", "text": TEXT, "got": json.dumps(body)}
        if not body.get("stream"):
            return JSONResponse(told)
        event = f"data: {json.dumps(told)}\n\n"
        return StreamingResponse(iter([event, event]), media_type="text/event-stream")

    async def send(self, method, path, **options):
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **options)

    def ask(self, method, path, **options):
        return asyncio.run(self.send(method, path, **options))

    def post(self, path=COMPLETIONS, **body):
        return self.ask("POST", path, json=body)

    def load(self, name, one):
        return self.ask(
            "POST", PROFILES, params={"name": name}, content=one.to_json(),
            headers={"content-type": "application/json"},
        )  # fmt: skip


@pytest.fixture
def server():
    made = Server()
    for name, one in (("math", MATH), ("law", LAW)):
        assert made.load(name, one).status_code == 201
    return made


def got(answer):
    """The request as vLLM would see it."""
    return json.loads(answer.json()["got"])


def reason(answer):
    return answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    "asked",
    [
        {"model": "olmoe:law"},
        {"model": "law"},  # as Inspect's provider asks
        {"model": f"olmoe:{LAW.id}"},
        {"model": "olmoe", "vllm_xargs": {"dsmoe_profile": "law"}},
        {"vllm_xargs": {"dsmoe_profile": LAW.id}},
        {"model": "olmoe:law", "vllm_xargs": {"dsmoe_profile": LAW.id}},
        {"model": "olmoe:law", "vllm_xargs": {}},
        {"model": "olmoe:law", "vllm_xargs": None},
    ],
)
def test_a_profile_reaches_vllm_by_its_id_with_its_salt(server, path, asked):
    answer = server.post(path, prompt="a", **asked)
    want = {"prompt": "a", "vllm_xargs": {"dsmoe_profile": LAW.id}, "cache_salt": LAW.id}
    assert got(answer) == want | ({"model": "olmoe"} if "model" in asked else {})
    assert (answer.json()["model"], answer.json()["text"]) == ("olmoe:law", TEXT)


def test_a_request_without_a_profile_is_as_it_was(server):
    for body in ({"model": "olmoe", "n": 2}, {"prompt": [1, 2]}, {"vllm_xargs": {"other": 1}}):
        answer = server.post(**body)
        assert (got(answer), answer.json()["model"]) == (body, "olmoe")


def test_events_of_a_stream_name_the_profile(server):
    answer = server.post(model="olmoe:math", stream=True)
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    assert [event["model"] for event in events] == ["olmoe:math"] * 2
    assert {event["text"] for event in events} == {TEXT}


def test_no_salt_of_a_user_is_that_of_a_profile(server):
    """A user's salt is kept apart by profile, and no salt without a profile is one of a profile."""
    asked = [
        {"model": model} | ({"cache_salt": salt} if salt else {})
        for model in ("olmoe", "olmoe:math", "olmoe:law")
        for salt in (None, "mine", MATH.id, f"{MATH.id}:mine", "x" * 1024)
    ]
    salts = [got(server.post(**body)).get("cache_salt") for body in asked]
    assert len(set(salts)) == len(asked)
    assert all(salt is None or 0 < len(salt) <= 1024 for salt in salts)
    assert salts[6] == got(server.post(**asked[6]))["cache_salt"]


@pytest.mark.parametrize(
    ("status", "words", "body"),
    [
        (404, "model 'olmoe:art' does not exist; there are: olmoe, olmoe:math, olmoe:law",
         {"model": "olmoe:art"}),
        (404, "model 'gpt' does not exist", {"model": "gpt"}),
        (404, "profile 'art' is not loaded; loaded are: math, law",
         {"model": "olmoe", "vllm_xargs": {"dsmoe_profile": "art"}}),
        (400, "must be the name or id", {"model": "olmoe", "vllm_xargs": {"dsmoe_profile": None}}),
        (400, "model names the profile 'math', and vllm_xargs 'law'",
         {"model": "olmoe:math", "vllm_xargs": {"dsmoe_profile": "law"}}),
        (400, "beam search takes no profile", {"model": "olmoe:math", "use_beam_search": True}),
    ],
)  # fmt: skip
def test_what_would_be_answered_without_its_profile_is_refused(server, status, words, body):
    for path in (COMPLETIONS, CHAT):
        answer = server.post(path, **body)
        assert answer.status_code == status
        assert words in reason(answer)
        assert answer.json()["error"]["code"] == status


def test_only_paths_that_steer_are_served(server):
    assert server.post("/collective_rpc", method="dsmoe_drop").status_code == 404
    assert "/v1/completions" in reason(server.post("/v1/responses", model="olmoe:math"))
    counted = server.post("/tokenize", model="math", prompt="a")
    assert got(counted) == {"model": "olmoe", "prompt": "a"}
    for content in (b"{", b"[1]", b'"olmoe"', b"\xff"):
        assert server.ask("POST", COMPLETIONS, content=content).status_code == 400
    assert server.ask("PUT", PROFILES).status_code == 405
    assert server.ask("GET", PROFILES + "/math/x").status_code == 404


def test_models_are_listed_with_and_without_the_models_name(server):
    listed = server.ask("GET", "/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["olmoe", "olmoe:math", "math", "olmoe:law", "law"]
    assert {(one["parent"], one["max_model_len"]) for one in listed[1:]} == {("olmoe", 64)}
    assert [one["root"] for one in listed[1:]] == [MATH.id] * 2 + [LAW.id] * 2


def test_profiles_are_loaded_listed_and_dropped(server):
    listed = server.ask("GET", PROFILES).json()
    assert listed["most"] == 2
    assert [(one["name"], one["id"], one["model"]) for one in listed["data"]] == [
        ("math", MATH.id, "olmoe:math"), ("law", LAW.id, "olmoe:law"),
    ]  # fmt: skip
    assert server.known == {MATH.id, LAW.id}
    full = server.load("art", ART)
    assert (full.status_code, "2 profiles are loaded" in reason(full)) == (409, True)
    assert server.load("also", LAW).status_code == 201  # another name, no other row
    assert server.ask("DELETE", f"{PROFILES}/law").status_code == 204
    assert server.post(model="olmoe:law").status_code == 404
    assert got(server.post(model="olmoe:also"))["cache_salt"] == LAW.id
    assert server.known == {MATH.id, LAW.id}
    assert server.ask("DELETE", f"{PROFILES}/{LAW.id}").status_code == 204
    assert server.known == {MATH.id}
    assert server.load("art", ART).status_code == 201
    assert [method for method, _ in server.calls] == ["dsmoe_load"] * 2 + [
        "dsmoe_drop", "dsmoe_load",
    ]  # fmt: skip
    assert server.ask("DELETE", f"{PROFILES}/law").status_code == 404


def test_names_are_not_ambiguous():
    server = Server(most=9)
    server.load("math", MATH)
    for name, one in (("math", LAW), ("olmoe", LAW), (MATH.id, LAW)):
        assert server.load(name, one).status_code == 409
    for name in ("a b", "a/b", "a:b", "x" * 201):
        assert server.load(name, LAW).status_code == 400
    assert server.load("", LAW).json()["name"] == LAW.id
    assert server.load("math", MATH).status_code == 201  # again the same


def test_bad_profiles_are_refused():
    server = Server()
    plain = server.ask(
        "POST", PROFILES, content=MATH.to_json(), headers={"content-type": "text/plain"}
    )
    assert "Content-Type" in reason(plain)
    broken = server.ask(
        "POST", PROFILES, content="{}", headers={"content-type": "application/json"}
    )
    assert (broken.status_code, "not a profile" in reason(broken)) == (400, True)
    server.refused["dsmoe_load"] = ["the channel score is of the whole engine"]
    refused = server.load("math", MATH)
    assert (refused.status_code, "channel score" in reason(refused)) == (400, True)
    assert (server.known, server.catalog.profiles) == (set(), ())


def test_a_profile_in_use_is_not_dropped():
    server = Server()

    async def during():
        await server.catalog.load(NamedProfile("math", MATH))
        server.held, server.go_on = asyncio.Event(), asyncio.Event()
        asked = asyncio.create_task(server.send("POST", COMPLETIONS, json={"model": "olmoe:math"}))
        await server.held.wait()
        refused = await server.send("DELETE", f"{PROFILES}/math")
        server.go_on.set()
        answered = await asked
        return refused, answered, await server.send("DELETE", f"{PROFILES}/math")

    refused, answered, dropped = asyncio.run(during())
    assert (refused.status_code, "in use" in reason(refused)) == (409, True)
    assert (answered.status_code, dropped.status_code) == (200, 204)


def test_a_drop_waits_for_the_workers_and_keeps_what_they_keep(server, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.engines.vllm.catalog._PAUSE", 0.0)
    server.refused["dsmoe_drop"] = ["profile is in use by running requests"] * 3
    assert server.ask("DELETE", f"{PROFILES}/math").status_code == 204
    server.refused["dsmoe_drop"] = ["no"]
    assert server.ask("DELETE", f"{PROFILES}/law").status_code == 400
    assert server.post(model="olmoe:law").status_code == 200
    assert server.known == {LAW.id}
