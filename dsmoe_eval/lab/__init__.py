"""The models that ship with the package: their worlds, their training and their folders."""

from pathlib import Path

EMBEDDED_MODELS = {"lab-poly": Path(__file__).resolve().parent / "lab_poly"}
"""Name -> folder of the models whose weights ship with the package."""
BUILT_MODELS = {
    "lab-smol": "a real language model of 135 M parameters, carved into experts",
    "lab-smol-dense": "SmolLM2-135M-Instruct, of which lab-smol is carved; no mixture of experts",
}
"""Name -> summary of the models that `smol.built_folder` builds at their first use."""
CAVEATS = {
    "lab-poly": "lab-poly is a test bed with a known kind of effect. Nothing here is evidence "
    "about real language models.",
    "lab-smol": "lab-smol was carved out of a dense model: what is seen on it need not hold for "
    "models that were trained as mixtures of experts.",
}
"""Name -> what a report on such a model cannot show."""
EXPERTS_ON_A_CPU = {"lab-smol": "eager"}
"""Name -> the method of transformers that computes a model's experts fastest on a CPU, where that
is not the default: `lab-smol` reads text 1.6 times as fast by it."""

__all__ = ["BUILT_MODELS", "CAVEATS", "EMBEDDED_MODELS", "EXPERTS_ON_A_CPU"]
