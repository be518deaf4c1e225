"""What is compared: base, fine-tuned and steered variants, and their controls."""

from .catalog import BASE, VARIANTS, control_for, get_variant
from .profile_builder import Settings, build_profile, variant_experts

__all__ = [
    "BASE",
    "VARIANTS",
    "Settings",
    "build_profile",
    "control_for",
    "get_variant",
    "variant_experts",
]
