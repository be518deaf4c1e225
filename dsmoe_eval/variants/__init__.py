"""What is compared: base, fine-tuned and steered variants, and their controls."""

from .catalog import BASE, VARIANTS, get_variant
from .steered import Settings, build_profile, choose_experts

__all__ = ["BASE", "VARIANTS", "Settings", "build_profile", "choose_experts", "get_variant"]
