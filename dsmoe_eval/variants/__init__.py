"""The arms of a comparison: base, fine-tuned and steered variants, and their controls."""

from .catalog import BASE, all_variants, control_for, get_variant, own_file, planned_variant
from .profile_builder import Settings, build_profile, variant_experts

__all__ = [
    "BASE",
    "Settings",
    "all_variants",
    "build_profile",
    "control_for",
    "get_variant",
    "own_file",
    "planned_variant",
    "variant_experts",
]
