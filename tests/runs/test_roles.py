"""Of two engines one at a time is in memory, each is loaded when it is needed; no vLLM here."""

import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from dsmoe_eval.cards import Sft
from dsmoe_eval.cards.plans import Neurons
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import encode_documents
from dsmoe_eval.files import write_json
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import roles as module
from dsmoe_eval.runs.roles import Roles, open_roles
from dsmoe_eval.steering import ModelIdentity
from dsmoe_eval.variants import merging
from dsmoe_eval.variants.sft import train_adapter

IDENTITY = ModelIdentity(name="m", fingerprint="f", routers="r", layers=(0, 1), experts=4)


class Later:
    """vLLM that is not there: it logs what happens to it."""

    def __init__(self, log, room=128):
        self.log, self.room = log, room
        self.identity, self.settings = IDENTITY, {"eager": False}
        self.started, self.up, self.max_length = False, False, 128
        self.before = self.after = lambda: None

    def running(self):
        if not self.up:
            self.before()
            self.log.append("vllm")
            self.limit(self.room)
            self.after()
            self.up = True

    def limit(self, length):
        self.started, self.max_length = True, length

    @contextmanager
    def on(self, folder, routers=None):
        del routers
        self.close()
        self.log.append(f"on {folder.rpartition('/')[2].split('.')[1]}")
        yield
        self.close()

    def close(self):
        self.log += ["vllm closed"] if self.up else []
        self.up = False


def learner(log, identity=IDENTITY):
    log.append("learner")
    return SimpleNamespace(identity=identity, close=lambda: log.append("learner closed"))


def two(log, loaded=None, room=128, **learned):
    later = Later(log, room)
    engine = SimpleNamespace(
        identity=IDENTITY, close=later.close,
        language_model=lambda: SimpleNamespace(max_length=later.max_length - 2),
    )  # fmt: skip
    return Roles(engine, later, lambda: learner(log, **learned), loaded), later


def test_one_at_a_time_each_when_it_is_needed():
    log = []
    roles, _ = two(log)
    assert not log
    assert roles.learner is roles.learner
    roles.start()
    roles.start()
    assert roles.observer is roles.learner, "a compiled vLLM does not show its routing"
    roles.close()
    roles.close()
    first = ["learner", "learner closed", "vllm"]
    assert log == [*first, "vllm closed", "learner", "learner closed"]


def test_one_engine_has_both_roles():
    engine = SimpleNamespace(close=lambda: None)
    roles = Roles(engine)
    roles.start()
    assert roles.learner is roles.engine is roles.observer is engine
    assert not roles.are_two


def test_an_eager_vllm_shows_its_routing():
    roles, later = two([])
    later.settings = {"eager": True}
    assert roles.observer is roles.engine


def test_another_model_than_before_is_refused():
    log = []
    roles, _ = two(log, identity=IDENTITY.model_copy(update={"routers": "s"}))
    with pytest.raises(UserError, match="'m': is not the one that this run learned from"):
        _ = roles.learner
    assert log == ["learner", "learner closed"]


def test_less_room_than_the_model_allows_is_kept_for_the_next_start(tmp_path):
    log = []
    for known in (False, True):
        roles, _ = two(log, room=100)
        lm, found = SimpleNamespace(max_length=126), []
        lm.check = lambda lm=lm, found=found: found.append(lm.max_length)
        roles.continue_in(RunFolder(tmp_path), lm, lm.check)
        before = list(found)
        roles.start()
        assert lm.max_length == 98
        assert found == [98]
        assert before == ([98] if known else []), "what is known is checked before anything starts"


def test_what_is_known_spares_the_learner(tmp_path, monkeypatch):
    plan = SimpleNamespace(
        engine="vllm", learner="transformers", model="m", batch_tokens=64, tensor_parallel=1,
        expert_parallel=False, dtype=None, experts_implementation=None, attn_implementation=None,
        sites="experts", neurons=Neurons(),
    )  # fmt: skip
    log, made = [], []

    class Stub(Later):
        def __init__(self, facts, identity, options):
            super().__init__(log)
            made.append((facts, identity, options))

        def answering(self, _):
            return SimpleNamespace(identity=IDENTITY, close=lambda: None)

    in_vllm = "dsmoe_eval.engines.vllm.later."
    monkeypatch.setattr(in_vllm + "LaterVllm", Stub)
    monkeypatch.setattr(in_vllm + "facts_of", lambda *_: ("facts", "f"))
    monkeypatch.setattr(module, "load_tokenizer", lambda _: None)
    monkeypatch.setattr(module, "load_engine", lambda *_, **__: learner(log))
    open_roles(plan, None, tmp_path, eager=True)
    assert log == ["learner"]
    write_json(RunFolder(tmp_path).roles, {"model": IDENTITY.model_dump(), "max_length": None})
    open_roles(plan, None, tmp_path, eager=False)
    assert log == ["learner"]
    assert [made[n][1] for n in (0, 1)] == [IDENTITY, IDENTITY]
    assert made[0][2]["enforce_eager"] is True
    other = IDENTITY.model_dump() | {"fingerprint": "g"}  # of another checkpoint
    write_json(RunFolder(tmp_path).roles, {"model": other, "max_length": None})
    open_roles(plan, None, tmp_path, eager=False)
    assert log == ["learner", "learner"]
    RunFolder(tmp_path).roles.write_text("{}")
    with pytest.raises(UserError, match=r"roles.json: damaged JSON \('model' is missing\)"):
        open_roles(plan, None, tmp_path, eager=False)


def test_a_merged_checkpoint_lasts_as_long_as_its_cells(tmp_path, monkeypatch):
    log = []
    roles, _ = two(log)
    monkeypatch.setattr(module, "modules", lambda engine: engine)
    monkeypatch.setattr(
        merging, "write_merged", lambda _model, adapters, folder: (folder / adapters.name).touch()
    )

    def fail():
        with roles.adapted(tmp_path / "a", tmp_path / "merged"):
            assert len(list(tmp_path.glob(".merged.*.tmp/a"))) == 1
            roles.start()
            raise ZeroDivisionError

    roles.start()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())
    merged = ["learner", "learner closed", "on merged", "vllm"]
    assert log == ["vllm", "vllm closed", *merged]


def test_a_learner_that_has_done_its_work_leaves_memory(tmp_path):
    ours = load_engine("lab-poly", device="cpu")
    roles, later = two([])
    later.identity = roles.engine.identity = ours.identity
    roles._learn = lambda loaded=[ours]: loaded.pop()
    documents = encode_documents(ours.tokenizer, {"law": ["What is the sign of the root?"]})
    settings = Sft(rank=2, lora_alpha=4, learning_rate=0.01, epochs=1, batch_size=1)
    pairs = [("In law, the", " charge")]
    there = weakref.ref(ours.loaded.model)
    del ours

    def work():
        engine = roles.learner
        seen = {"reader": engine.reader(), "contributions": False, "advance": lambda _: None}
        engine.observe(documents, tmp_path, **seen)
        engine.mean_streams(documents, tmp_path, lambda _: None)
        loaded = module.modules(engine)
        train_adapter(loaded.model, loaded.tokenizer, pairs, settings, 0, tmp_path / "a")

    work()
    assert there() is not None
    roles.start()
    assert there() is None


@pytest.mark.parametrize("kind", ["merged", "rounded"])
def test_a_learner_that_an_error_left_half_changed_is_loaded_again(tmp_path, monkeypatch, kind):
    log = []
    roles, _ = two(log)
    monkeypatch.setattr(module, "modules", lambda engine: engine)
    monkeypatch.setattr(merging, "check_room", lambda *_: None)

    def full(_model, _change, _folder):
        raise UserError("no room")

    monkeypatch.setattr(merging, "write_merged", full)
    monkeypatch.setattr(module, "save_rounded", full)
    before, folder = roles.learner, tmp_path / "m"
    answering = (
        roles.adapted(tmp_path / "a", folder) if kind == "merged" else roles.rounded("int4", folder)
    )
    with pytest.raises(UserError, match="no room"), answering:
        pass
    assert log == ["learner", "learner closed"]
    assert roles.learner is not before
    assert not list(tmp_path.iterdir())


def test_adapters_are_merged_into_the_rounded_weights(tmp_path, monkeypatch):
    log = []
    roles, _ = two(log)
    monkeypatch.setattr(module, "modules", lambda engine: SimpleNamespace(model=engine))
    monkeypatch.setattr(module, "round_experts", lambda _model, form: log.append(form))
    monkeypatch.setattr(module, "save_rounded", lambda *_: 1.0)
    monkeypatch.setattr(merging, "check_room", lambda *_: None)
    monkeypatch.setattr(merging, "write_merged", lambda *_: log.append("merged"))
    merged = ["learner", "int4", "merged", "learner closed", "on b"]
    with roles.rounded("int4", tmp_path / "a"), roles.adapted(tmp_path / "x", tmp_path / "b"):
        assert log == ["learner", "learner closed", "on a", *merged]
    log.clear()
    with roles.adapted(tmp_path / "x", tmp_path / "b"):
        assert log == ["learner", "merged", "learner closed", "on b"]
