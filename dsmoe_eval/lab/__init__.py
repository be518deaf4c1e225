"""The models that ship with the package: their worlds, their training and their folders."""

from pathlib import Path

EMBEDDED_MODELS = {"lab-poly": Path(__file__).resolve().parent / "lab_poly"}
"""Name -> folder of the models that ship with the package."""

__all__ = ["EMBEDDED_MODELS"]
