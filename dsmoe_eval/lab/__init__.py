"""The embedded models: their worlds, how they were trained, and where they lie."""

from pathlib import Path

EMBEDDED_MODELS = {"lab-poly": Path(__file__).resolve().parent / "lab_poly"}
"""Name -> folder of the models that ship with the package."""

__all__ = ["EMBEDDED_MODELS"]
