"""Bad plans, suites, tasks, data sets and models: the refusal names the object and the way out.

A row is a bad input with what its message must contain. `test_every_refusal_has_a_row` compares the
rows with the source. The same table for `compare` is `comparison/test_bad_inputs.py`.
"""

import ast
import gzip
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import yaml
from transformers import JetMoeConfig, JetMoeForCausalLM

import dsmoe_eval
from dsmoe_eval.cards import Splits, yaml_files
from dsmoe_eval.errors import UserError
from dsmoe_eval.files import read_json, read_limited, write_text
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import bake, bare_config, conversion, load_model
from dsmoe_eval.models import loading as model_loading
from dsmoe_eval.models import new_card as new_card_module
from dsmoe_eval.models.baking import _copy_checkpoint
from dsmoe_eval.models.expert_dtypes import check_one_dtype
from dsmoe_eval.models.prompt_format import prompt_format
from dsmoe_eval.models.quantizing import round_experts, write_quantized
from dsmoe_eval.models.random_weights import shuffled_routers
from dsmoe_eval.models.remote_code import allow_remote_code
from dsmoe_eval.models.sizes import measure_model
from dsmoe_eval.registry import find_card, load_model_card, load_plan, load_suite
from dsmoe_eval.steering import find_routers
from dsmoe_eval.tasks import identification, new_suite, outcomes, scoring, texts
from dsmoe_eval.tasks.items import Item
from dsmoe_eval.tasks.leakage import check_leakage
from dsmoe_eval.tasks.loading import (
    check_context_length,
    check_preamble,
    load_tasks,
    without,
)
from dsmoe_eval.tasks.local_data import local_data, local_dataset
from dsmoe_eval.tasks.new_suite import write_suite
from dsmoe_eval.tasks.opening import task_code
from dsmoe_eval.tasks.passages import Passage, passage_items
from dsmoe_eval.tasks.texts import TextDocument, read_text_file, read_text_folder

from .conftest import make_model
from .models.emo import emo_checkpoint
from .models.remote import remote_folder

PACKAGE = Path(dsmoe_eval.__file__).parent
ROOMS = [
    PACKAGE / "registry.py",
    PACKAGE / "cards" / "yaml_files.py",
    *sorted((PACKAGE / "models").glob("*.py")),
    *sorted((PACKAGE / "tasks").glob("*.py")),
]
SUITE = load_suite("lab")
SUMS = SUITE.task("lab_arithmetic")
CONFIG = "config.json"
OF_THE_CORE = (
    "AssertionError", "AttributeError", "NoRouterError", "SteeringError", "ValueError",
    "_EndlessError", "_not_built",
)  # fmt: skip
"""Errors that others turn into refusals, or that `steering` raises."""
TASK = {
    "task": "mine", "dataset_path": "json", "output_type": "generate_until",
    "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}", "test_split": "test",
    "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip


def map_to(module):
    """An auto_map whose code is in a module."""
    return {
        "AutoConfig": f"{module}.FewestConfig",
        "AutoModelForCausalLM": f"{module}.FewestForCausalLM",
    }


ALL_EXPERTS = {
    "model_type": "mixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64, "num_local_experts": 2,
    "num_experts_per_tok": 2,
}  # fmt: skip
TEXT = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "metric_list": None}
TEXT_CARD = {"roles": ("text",), "metric": "bits_per_byte"}
CHOOSING, GENERATING = (
    SimpleNamespace(
        card=SUMS, task=SimpleNamespace(OUTPUT_TYPE=kind), items=[Item("i", "q", ("a",), "c")]
    )
    for kind in ("multiple_choice", "generate_until")
)


@dataclass
class Box:
    """A folder in which bad inputs are made."""

    root: Path
    patch: pytest.MonkeyPatch

    def file(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def plan(self, content):
        return load_plan(str(self.file("plan.yaml", content)))

    @cached_property
    def folder(self):
        """A copy of the embedded model."""
        return shutil.copytree(EMBEDDED_MODELS["lab-poly"], self.root / "m")

    @cached_property
    def tokenizer(self):
        return model_loading.load_tokenizer("lab-poly")

    def config(self, **changes):
        """The embedded model with another configuration."""
        path = self.folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return self.load()

    def load(self):
        return load_model(str(self.folder), "cpu")

    def remote(self, allowed, **changes):
        """Allow the remote code of a folder by a name."""
        folder = remote_folder(self.root / "remote")
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | changes))
        allow_remote_code("remote", str(folder), allowed)

    def template(self, text):
        (self.folder / "chat_template.jinja").write_text(text)
        chat = [{"role": "user", "content": "why?"}]
        return model_loading.load_tokenizer(str(self.folder)).apply_chat_template(
            chat, tokenize=False
        )

    def task(self, *, rows=({"question": "q", "answer": "a"},), card=None, **changes):
        """Load a task of a user's suite, made of `rows`, and ask its requests."""
        data = self.file("d.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        kwargs = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
        spec = {k: v for k, v in (TASK | kwargs | changes).items() if v is not None}
        self.file("tasks/mine.yaml", json.dumps(spec))
        suite = SUITE.model_copy(update={"tasks_dir": self.root / "tasks"})
        plain = {"name": "mine", "splits": Splits(test="test"), "few_shot": None}
        mine = SUMS.model_copy(update=plain | (card or {}))
        loaded = load_tasks(suite, [mine], "test", None)["mine"]
        return loaded, loaded.requests

    def texts(self, **changes):
        """Score the texts of a task by a model that gives each the log-likelihood -1."""
        loaded, _ = self.task(**TEXT | changes, card=TEXT_CARD)
        lm = SimpleNamespace(rolling_log_likelihoods=lambda texts, _: [-1.0] * len(texts))
        return outcomes.score_texts(lm, loaded)

    def text_rows(self, *rows):
        return read_text_file(self.file("x.jsonl", "".join(json.dumps(r) + "\n" for r in rows)))

    def judged(self, **changes):
        loaded, _ = self.task(**changes)
        return scoring.judge(loaded, [[SimpleNamespace(text="b", tokens=1, truncated=False)]])


def lab(**changes):
    return load_tasks(SUITE, [SUITE.tasks[0].model_copy(update=changes)], "test", 3)


def fail(error):
    def call(*_, **__):
        raise error

    return call


def raised_in(card):
    with task_code(card):
        raise KeyError("x")


def compute_by(b, method):
    """Load a model for whose experts transformers has one method only."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 300}
    config = JetMoeConfig(num_key_value_heads=2, kv_channels=4, **sizes)
    JetMoeForCausalLM(config).save_pretrained(b.folder)
    return load_model(str(b.folder), "cpu", method)


def card_without_probe(path):
    """Write the card of a model that the probe would refuse before."""
    unknown = SimpleNamespace(scoring=None)
    with mock.patch.multiple(
        new_card_module, miniature=str, identify_model=mock.Mock(), probe_model=lambda *_: unknown
    ):
        new_card_module.new_card(str(path))


def lab_plan(**changes):
    return json.dumps(yaml.safe_load(find_card("plans", "lab").read_text()) | changes)


def emo(b, without="", weights=True, **changes):
    """Convert a small checkpoint of EMO with other keys in its configuration."""
    source = emo_checkpoint(b.root / "emo", **changes)
    config = json.loads((source / CONFIG).read_text())
    (source / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if k != without}))
    if not weights:
        (source / "model.safetensors").unlink()
    conversion.convert(source, b.root / "new")


def dense(box):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 300}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
    model.save_pretrained(box.folder)
    return box


def narrow():
    """A small model whose experts a library has quantized."""
    model = make_model("olmoe")
    experts = model.model.layers[0].mlp.experts
    weights = experts.down_proj.to(torch.int8)
    experts.down_proj = torch.nn.Parameter(weights, requires_grad=False)
    return model


BAD: dict[str, tuple[Callable[[Box], object], str, str]] = {
    # --- cards ---
    "an unknown plan": (lambda _: load_plan("labb"), "no plan 'labb'", "path of a .yaml file"),
    "no such file": (lambda b: load_plan(f"{b.root}/x.yaml"), "x.yaml: no such", "check the path"),
    "no tasks": (
        lambda b: load_suite(str(b.file("s.yaml", find_card("suites", "lab").read_text()))),
        "s.yaml: tasks_dir: ", "give a path relative",
    ),
    "a list": (lambda b: b.plan("- a\n"), "plan.yaml: a card is a mapping", "write `name: ...`"),
    "a null key": (lambda b: b.plan("null: a\n"), "plan.yaml: a key is null", "zero_strength"),
    "keys lack": (lambda b: b.plan("name: a\n"), "plan.yaml: description", "Field required"),
    "a former key": (
        lambda b: b.plan("overlap: paper\n"), "`overlap`", "is now `allow_leakage: true`",
    ),
    # --- YAML ---
    "a repeated key": (lambda b: b.plan("a: 1\na: 2\n"), "line 2, column 1: the key 'a'", "leave"),
    "a list as key": (lambda b: b.plan("? [a]\n: b\n"), "plan.yaml, line 1", "give a name"),
    "an alias": (lambda b: b.plan("a: &x 1\n"), "plan.yaml, line 1", "repeat the text"),
    "a merge": (lambda b: b.plan("<<: {a: 1}\n"), "plan.yaml, line 1", "write the keys out"),
    "infinity": (lambda b: b.plan("a: .inf\n"), "line 1, column 4: .inf", "give one"),
    "a huge integer": (lambda b: b.plan(f"a: {9**99}\n"), "plan.yaml, line 1", "smaller"),
    "many keys": (
        lambda b: (b.patch.setattr(yaml_files, "MOST_NODES", 3), b.plan("a: [1, 2]\n")),
        "plan.yaml, line 1", "split the file",
    ),
    "syntax": (lambda b: b.plan("a: [1\nb: 2\n"), "plan.yaml, line 2", "mend that line"),
    "Latin-1": (lambda b: b.plan(b"a: \xe9\n"), "plan.yaml: not valid", "as text in UTF-8"),
    "deep YAML": (lambda b: b.plan("[" * 3000), "plan.yaml: nested too deeply", "flat"),
    "no date": (lambda b: b.plan("a: 2025-13-40\n"), "plan.yaml, line 1", "into quotes"),
    # --- files ---
    "a device": (lambda _: read_limited(Path("/dev/zero"), 9), "/dev/zero: is not a", "give the"),
    "too large": (lambda b: read_limited(b.file("a", "xx"), 1), "a: larger than", "check the path"),
    "missing": (lambda b: read_limited(b.root / "a", 1), "a: cannot be read", "check the path"),
    "a missing JSON": (lambda b: read_json(b.root / "a.json"), "a.json: cannot", "(No such file"),
    "damaged JSON": (lambda b: read_json(b.file("a.json", "{")), "a.json: damaged", "delete it"),
    "a full disk": (
        lambda b: (b.patch.setattr("os.replace", fail(OSError(28, "No space left on device"))),
                   write_text(b.root / "a.txt", "x")),
        "a.txt: cannot be written", "free some space",
    ),
    # --- models ---
    "no model": (lambda _: load_model("./none"), "model './none'", "hub id"),
    "no configuration": (lambda b: load_model(str(b.root)), "config.json is no model", "give a"),
    "a folder's revision": (
        lambda b: load_model(f"{b.folder}@v1"), "is a folder, and only", "leave the revision out",
    ),
    "an empty revision": (lambda _: load_model("some/model@"), "'some/model@'", "name a commit"),
    "attention that is not there": (
        lambda _: load_model("lab-poly", "cpu", attn_implementation="flash_attention_3"),
        "cannot be computed by 'flash_attention_3'", "leave `attn_implementation` out",
    ),
    "an unknown dtype": (
        lambda b: b.plan(lab_plan(dtype="int8")), "plan.yaml: dtype", "'bfloat16'",
    ),
    "an unknown attention": (
        lambda b: b.plan(lab_plan(attn_implementation="fast")),
        "plan.yaml: attn_implementation", "'sdpa'",
    ),
    "a revision that is none": (
        lambda b: b.plan(lab_plan(revision="a b")), "plan.yaml: revision", "match pattern",
    ),
    "no device": (lambda _: load_model("lab-poly", "cuda:99"), "'cuda:99'", "--device"),
    "unknown architecture": (
        lambda b: b.config(model_type="deepseek"), "'deepseek'", "`engine: vllm`",
    ),
    "a card without code": (
        lambda _: bare_config("deepseek-moe-16b-base"), "'deepseek'", "`engine: vllm`",
    ),
    "a card's wrong type": (
        lambda _: model_loading.card_config(
            load_model_card("olmoe-1b-7b").model_copy(update={"config": {"hidden_size": "x"}})),
        "model card 'olmoe-1b-7b'", "check",
    ),
    "a list as configuration": (
        lambda b: (b.file("m2/config.json", "[]"), load_model(str(b.root / "m2"))),
        "m2/config.json: is a list", "download it again",
    ),
    "no type": (lambda b: b.config(model_type=[1]), "config.json: model_type is [1]", "download"),
    "a size": (lambda b: b.config(hidden_size=10**9), "hidden_size is 1000000000", "download"),
    "top-k": (lambda b: b.config(num_experts_per_tok=99), "num_experts_per_tok is 99", "download"),
    "a wrong activation": (lambda b: b.config(hidden_act="x"), "m' cannot be loaded", "download"),
    "cut off": (
        lambda b: (b.folder / "model.safetensors").write_bytes(b"x") and b.load(),
        "model.safetensors: cut off", "download it again",
    ),
    "layers without weights": (
        lambda b: b.config(num_hidden_layers=5, layer_types=None), "model.layers.4",
        "check num_hidden_layers",
    ),
    "a card of a model to be converted": (
        lambda _: load_model("emo-1b14b-1t"), "'allenai/Emo_1b14b_1T'", "`dsmoe-eval convert",
    ),
    "experts that are computed in one way": (
        lambda b: compute_by(b, "grouped_mm"), "cannot be computed by 'grouped_mm'", "leave",
    ),
    "another name allowed": (
        lambda b: b.remote("few"), "is 'fewest_moe', not 'few'", "give the name",
    ),
    "remote code of a known model": (
        lambda _: allow_remote_code("m", str(EMBEDDED_MODELS["lab-poly"]), "qwen3_moe"),
        "has code for 'qwen3_moe'", "leave --remote-code out",
    ),
    "no remote code": (
        lambda b: b.remote("fewest_moe", auto_map=None), "does not name code", "no remote code",
    ),
    "remote code of another folder": (
        lambda b: b.remote("fewest_moe", auto_map=map_to(b.root / "other")),
        "/other.FewestConfig', and only a class of a file beside config.json", "put the file there",
    ),
    "a config.json that is not there": (
        lambda _: bare_config("none/config.json") or load_model("none/config.json"),
        "none/config.json: no such file", "check the path",
    ),
    "a config.json where a model is needed": (
        lambda b: load_model(str(b.folder / CONFIG)), "config.json: is a file", "give its folder",
    ),
    "a model that no card can describe": (
        lambda b: card_without_probe(b.file("n/config.json", json.dumps(ALL_EXPERTS))),
        "a card cannot describe it", "`dsmoe-eval probe`",
    ),
    "only the shared expert to convert": (
        lambda b: emo(b, num_experts_per_tok=1), "num_experts_per_tok is 1", "need 2",
    ),
    "another model to convert": (
        lambda b: emo(b, model_type="olmoe"), "config.json: model_type is 'olmoe'", "no conversion",
    ),
    "a key that conversion needs": (
        lambda b: emo(b, without="rope_theta"), "config.json: lacks rope_theta", "download",
    ),
    "a part that cannot be converted": (
        lambda b: emo(b, norm_topk_prob=True), "sets norm_topk_prob", "not convertible",
    ),
    "two shared experts": (
        lambda b: emo(b, num_shared_experts=2), "num_shared_experts is 2", "only 1 can",
    ),
    "a number to convert": (
        lambda b: emo(b, num_shared_experts="1"), "num_shared_experts is '1'", "a whole number",
    ),
    "a router of another size": (
        lambda b: emo(b, num_experts=64), "has 128 rows", "download both again",
    ),
    "a layer to convert is missing": (
        lambda b: emo(b, num_hidden_layers=3), "lacks model.layers.2", "download the model again",
    ),
    "nothing to convert": (lambda b: emo(b, weights=False), "emo: holds no", "download"),
    "converted already": (
        lambda b: (emo(b), conversion.convert(b.root / "emo", b.root / "new")),
        "new: exists already", "a new folder",
    ),
    "no tokenizer": (
        lambda b: [p.unlink() for p in b.folder.glob("token*")] and b.load(),
        "hold no tokenizer", "add tokenizer.json",
    ),
    "no experts": (lambda b: dense(b).load(), "no router", "m'"),
    "no experts to measure": (
        lambda b: measure_model(str(dense(b).folder)), "no router", "m'",
    ),
    "a template fails": (
        lambda b: b.template("{{ raise_exception('no') }}"), "fails (no)", "`prompt: plain`",
    ),
    "a template grows": (
        lambda b: (b.patch.setattr("dsmoe_eval.models.chat_templates.LONGEST", 5),
                   b.template("{{ 'x' * 6 }}")),
        "writes 6 characters", "`prompt: plain`",
    ),
    "no template": (
        lambda _: prompt_format("lab-poly", SimpleNamespace(chat_template=None), "chat"),
        "'lab-poly'", "`prompt: plain`",
    ),
    "no token of that number": (
        lambda b: prompt_format("lab-poly", b.tokenizer, think_end_token=10**6),
        "no token 1000000", "give the text",
    ),
    "no token of that text": (
        lambda b: (b.patch.setattr(b.tokenizer, "encode", lambda *_, **__: []),
                   prompt_format("lab-poly", b.tokenizer, "auto", "</x>")),
        "no token for '</x>'", "give the text",
    ),
    "baked before": (lambda b: bake("lab-poly", None, b.root), "exists already", "a new folder"),
    "quantized before": (
        lambda b: write_quantized("lab-poly", "int8", b.root), "exists already", "a new folder",
    ),
    "an unknown form": (
        lambda b: write_quantized("lab-poly", "int3", b.root), "no form 'int3'", "there are: int8",
    ),
    "experts that are quantized": (
        lambda _: round_experts(narrow(), "int8"), "is quantized already", "unquantized checkpoint",
    ),
    "other shards": (
        lambda b: (b.file("to/x", ""), _copy_checkpoint(b.root / "to", b.root, {"w": (1, 2)})),
        "do not hold w", "download them",
    ),
    # --- tasks ---
    "an unknown task": (lambda _: lab(name="lab_x"), "no task lab_x", "correct the name"),
    "no such split": (lambda _: lab(splits=Splits(test="dev")), "no split 'dev'", "under splits"),
    "no items": (
        lambda _: (task := lab()[SUITE.tasks[0].name], without(task, [i.id for i in task.items])),
        "no item is left", "name another",
    ),
    "a generation setting": (
        lambda b: b.task(generation_kwargs={"num_beams": 3}),
        "task 'mine': the generation setting num_beams: 3", "leave it out",
    ),
    "a temperature": (lambda _: lab(temperature=0.6), "nothing is drawn", "`temperature`"),
    "a task lacks a key": (lambda b: b.task(doc_to_text=None), "'mine'", "add it"),
    "a package": (
        lambda b: (b.file("tasks/f.py", "import no_such_package\n"),
                   b.file("tasks/mine.yaml",
                          "task: mine\ndataset_path: a/b\ndoc_to_text: !function f.text\n"),
                   load_tasks(SUITE.model_copy(update={"tasks_dir": b.root / "tasks"}),
                              [SUMS.model_copy(update={"name": "mine"})], "test", None)),
        "no_such_package", "install",
    ),
    "no data": (lambda b: b.task(dataset_path="a/none", dataset_kwargs=None), "'mine'", "--data"),
    "damaged data": (
        lambda b: b.task(dataset_kwargs={"data_files": {"test": str(b.file("x.jsonl", "{x"))}}),
        "'mine': its data cannot be read", "--data",
    ),
    "a column lacks": (
        lambda b: b.task(doc_to_text="{{ question.x.y }}"), "'mine': its lm-eval YAML", "mend",
    ),
    "a split of no data": (
        lambda b: b.task(dataset_path=None, dataset_kwargs=None), "'mine'", "",
    ),
    "a shuffle fails": (lambda b: b.task(card={"shuffles": True}), "'mine'", "mend the file"),
    "a template of targets": (
        lambda b: b.task(doc_to_target="{{ answer / 2 }}"), "'mine': its lm-eval YAML", "mend",
    ),
    "a task's code": (
        lambda _: raised_in(SUMS),
        "(KeyError: 'x')", "mend the file",
    ),
    "no group": (
        lambda b: b.task(card={"group_column": "x"}), "no column 'x'", "one of question, answer",
    ),
    "options left out": (
        lambda b: b.task(
            rows=[{"question": "one (A) x (B) y", "answer": 0, "choices": ["x", "y", "z"]}],
            output_type="multiple_choice", doc_to_choice=["A", "B"],
            metric_list=[{"metric": "acc"}], doc_to_target="answer", card={"metric": "acc"}),
        "has 3 options", "give doc_to_choice more",
    ),
    "no context": (
        lambda _: check_context_length(
            SimpleNamespace(card=SUMS, requests=[]),
            SimpleNamespace(check_context_length=fail(UserError("does not fit; shorten it")))),
        "task 'lab_arithmetic'", "shorten it",
    ),
    "a template without the line": (
        lambda b: check_preamble(
            replace(b.task(rows=[{"question": "q", "answer": "a"}])[0], chat=SimpleNamespace(
                apply_chat_template=lambda messages, **_: messages[-1]["content"],
                tokenizer_name="t")), "In law,", None),
        "'mine': the prompts do not show the line 'In law,'", "`prompt: plain`",
    ),
    "several filters": (
        lambda b: b.task(filter_list=[{"name": n, "filter": [{"function": "take_first"}]}
                                      for n in "ab"])[0].filters,
        "'mine'", "in the suite: a, b",
    ),
    "another kind": (
        lambda _: scoring._generates(SimpleNamespace(
            card=SUMS, requests=[SimpleNamespace(request_type="loglikelihood_rolling")])),
        "loglikelihood_rolling", "leave it out",
    ),
    "answers lack": (
        lambda _: scoring.judge(SimpleNamespace(card=SUMS), [[]]), "'lab_arithmetic'", "1 answers",
    ),
    "text that is a question": (
        lambda b: b.task(card=TEXT_CARD), "'mine' has the role text", "loglikelihood_rolling",
    ),
    "text without its role": (
        lambda b: b.task(**TEXT, card={"roles": ("non-target",)}),
        "'mine' asks for loglikelihood_rolling", "give it the role text",
    ),
    "text without bits": (
        lambda b: b.texts(metric_list=[{"metric": "word_perplexity"}]), "'mine'", "metric_list",
    ),
    "text without bytes": (
        lambda b: b.texts(rows=[{"answer": ""}]), "'mine': document 0 has 0 bytes", "remove it",
    ),
    "no right option": (
        lambda _: outcomes.gold_logprobs(CHOOSING, [[SimpleNamespace(results=[(-1.0, True)])]]),
        "'lab_arithmetic': item i: its right answer 'c'", "mend the task's doc_to_target",
    ),
    "no finite probability": (
        lambda _: outcomes.item_gold_logprob(
            Item("i", "q", ("a", "b"), "a", rights=(0,)), [-float("inf"), -1.0], "acc"),
        "item i", "take a wider dtype",
    ),
    "an outcome lacks": (
        lambda _: outcomes.check_outcome([GENERATING], "gold_logprob"),
        "task lab_arithmetic", "take `outcome: score`",
    ),
    "no such metric": (
        lambda b: b.judged(card={"metric": "f1"}), "no metric 'f1'", "one of exact_match",
    ),
    "no binary metric": (lambda _: scoring.as_binary(0.5, SUMS), "is 0.5", "another `metric`"),
    "leakage": (
        lambda _: (task := lab(), check_leakage({"tuning": task, "test": task})),
        "leakage: 3 of 3 test items", "`allow_leakage: true`",
    ),
    # --- local data sets ---
    "no folder of data": (
        lambda b: local_data([b.root / "none"]).__enter__(), "none: no such", "--data",
    ),
    "no snapshot": (lambda b: local_dataset([b.root], "a/b", None), "'a/b'", "put its snapshot"),
    "no layout": (
        lambda b: local_dataset([b.root], "math-ai/aime25", None), "aime_2025.jsonl", "put its",
    ),
    "a damaged snapshot": (
        lambda b: (b.file("a/b/x.jsonl", "{x"), local_dataset([b.root], "a/b", None)),
        "a/b: data set 'a/b'", "download its snapshot again",
    ),
    "a damaged layout": (
        lambda b: (b.file("aime/aime_2025.jsonl", "{x"),
                   local_dataset([b.root], "math-ai/aime25", None)),
        "aime_2025.jsonl, line 1", "download it again",
    ),
    "a layout lacks a column": (
        lambda b: (b.file("aime/aime_2025.jsonl", "{}"),
                   local_dataset([b.root], "math-ai/aime25", None)),
        "'id' is missing", "download it again",
    ),
    # --- text documents ---
    "texts that are no archive": (
        lambda b: read_text_file(b.file("x.jsonl.gz", "text")), "x.jsonl.gz: cannot be unpacked",
        "write the file again",
    ),
    "texts in another encoding": (
        lambda b: read_text_file(b.file("x.jsonl", b"\xff\xfe")), "x.jsonl: not UTF-8",
        "save it in UTF-8",
    ),
    "texts without end": (
        lambda b: (b.patch.setattr(texts, "_MOST_BYTES", 100),
                   read_text_file(b.file("x.jsonl.gz", gzip.compress(bytes(1000))))),
        "x.jsonl.gz: unpacks to more than", "split the file",
    ),
    "a text that is no JSON": (
        lambda b: read_text_file(b.file("x.jsonl", "hello")), "x.jsonl, line 1: not JSON", "`text`",
    ),
    "a text that is no object": (
        lambda b: read_text_file(b.file("x.jsonl", "[]")), "line 1: not a JSON object", "`domain`",
    ),
    "a text without domain": (
        lambda b: b.text_rows({"text": "a"}), "line 1: `domain` is missing", "`text`",
    ),
    "a text of a strange split": (
        lambda b: b.text_rows({"text": "a", "domain": "d", "split": 1}), "`split` is no text",
        "leave it out",
    ),
    "a text of no domain": (
        lambda b: b.text_rows({"text": "a", "domain": "a b"}), "the domain 'a b' is no name",
        "such as computer-science",
    ),
    "an empty text": (
        lambda b: (b.file("d/math/x.txt", " "), read_text_folder(b.root / "d")),
        "x.txt: the text is empty", "take it away",
    ),
    "half a character": (
        lambda b: b.text_rows({"text": "a\ud800", "domain": "d"}), "half of a surrogate pair",
        "write it in UTF-8",
    ),
    "a text twice": (
        lambda b: b.text_rows(*[{"text": "a", "domain": "d"}] * 2), "line 2: the same text as",
        "leave one of them out",
    ),
    "no text": (lambda b: b.text_rows(), "holds no document", "`text`"),
    "no folder of texts": (
        lambda b: read_text_folder(b.root / "none"), "none: is no folder", "file per domain",
    ),
    "a folder with other files": (
        lambda b: (b.file("d/math/x.pdf", "a"), read_text_folder(b.root / "d")), "x.pdf: only",
        "save it as text",
    ),
    "a file in another encoding": (
        lambda b: (b.file("d/math.txt", b"\xff"), read_text_folder(b.root / "d")),
        "math.txt: not UTF-8", "save it in UTF-8",
    ),
    "text from nowhere": (
        lambda _: identification.text_source(None, None, None), "--suite, --text or --text-dir",
        "one of the three",
    ),
    "chunks of a suite's documents": (
        lambda _: identification.text_source("lab", None, None, 4), "--chunks is for --text",
        "a suite says `chunks:`",
    ),
    "a target without text": (
        lambda b: identification.document_tasks(SUITE.model_copy(update={
            "documents": SimpleNamespace(
                file=b.file("x.jsonl", '{"text": "a", "domain": "art"}'), split="s"),
            "tasks": tuple(t for t in SUITE.tasks if "target" in t.roles)}), None),
        "no document of the target domain 'math' whose `split` is 's'", "it has:",
    ),
    "documents that are not there": (
        lambda b: load_suite(str(b.file("s.yaml", json.dumps(
            SUITE.model_dump(mode="json", exclude={"tasks_dir", "documents"}, exclude_none=True)
            | {"documents": {"file": "none.jsonl"}})))),
        "none.jsonl is no file", "relative to the suite's file",
    ),
    "too few passages": (
        lambda _: passage_items([Passage("d", "a", "b")], 0), "1 passage(s)", "longer documents",
    ),
    "a suite that is there": (
        lambda b: write_suite((), b.root), "exists already", "path of a new folder",
    ),
    "a suite without a name": (
        lambda b: write_suite((), b.root / "a b"), "'a b' is no name of a suite", "use letters",
    ),
    "a suite of one domain": (
        lambda b: write_suite((), b.root / "s"), "text of 0 domain(s)", "give two or more",
    ),
    "a suite of few texts": (
        lambda b: write_suite(
            [TextDocument(name, "a " * 900, name) for name in ("law", "art")], b.root / "s"),
        "each domain needs", "add documents",
    ),
    "a suite of one text": (
        lambda _: new_suite._items("law", "test", (), 0), "'law', test", "do not repeat",
    ),
    "a suite of short texts": (
        lambda _: new_suite._items("law", "test", [Passage("d", "a", "b")], 0), "'law', test",
        "longer documents",
    ),
    "routers that are not in memory": (
        lambda b: (
            b.patch.setattr(
                sys.modules["dsmoe_eval.models.random_weights"], "find_sites",
                lambda *_: [SimpleNamespace(weight=torch.empty(1, device="meta"))]),
            shuffled_routers(None, 0).__enter__()),
        "cannot be shuffled", "more memory",
    ),
    "experts in a coarser dtype than the rest": (
        lambda _: check_one_dtype("model 'm'", mixed_dtypes()), "'m': its experts are in bfloat16",
        "load all of it in bfloat16",
    ),
}  # fmt: skip


def mixed_dtypes():
    """As transformers 5.19 decompresses fp8 experts of a float32 model."""
    model = make_model("olmoe")
    for router in find_routers(model):
        router.consumer.bfloat16()
    return model


def refused(row, root):
    """The error of a row; anything else raised, or nothing, fails the test."""
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        BAD[row][0](Box(root, patch))
    return caught.value


REACHED: set[tuple[Path, int]] = set()


@pytest.mark.parametrize("row", BAD)
def test_case_04_a_refusal_names_the_object_and_the_way_out(tmp_path, row):
    error = refused(row, tmp_path / "box")
    message = str(error)
    _, name, way_out = BAD[row]
    assert name in message
    assert way_out in message
    assert "\n" not in message
    cause = error
    while isinstance(cause, BaseException):  # a message may pass through several hands
        REACHED.update(
            (Path(frame.tb_frame.f_code.co_filename), frame.tb_lineno) for frame in frames(cause)
        )
        cause = cause.__cause__


def frames(error):
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def test_case_04_every_refusal_has_a_row(request):
    """After the rows, in the same process."""
    if request.config.option.keyword or len(request.session.items) < len(BAD):
        pytest.skip("only some rows were run")
    missing = []
    for path in ROOMS:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            if ast.unparse(node.exc.func) not in OF_THE_CORE:
                lines = range(node.lineno, node.end_lineno + 1)
                missing += (
                    [] if any((path, n) in REACHED for n in lines) else [f"{path}:{node.lineno}"]
                )
    assert not missing, "\n".join(missing)
