"""The models that ship with the package: their worlds, their training and their folders."""

from pathlib import Path

EMBEDDED_MODELS = {"lab-poly": Path(__file__).resolve().parent / "lab_poly"}
"""Name -> folder of the models whose weights ship with the package."""
BUILT_MODELS = {
    "lab-smol": "a real language model of 135 M parameters, carved into experts",
    "lab-smol-dense": "SmolLM2-135M-Instruct, of which lab-smol is carved; no mixture of experts",
}
"""Name -> summary of the models that `smol.built_folder` builds at their first use."""

__all__ = ["BUILT_MODELS", "EMBEDDED_MODELS"]
