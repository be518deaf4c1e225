"""The arms of a comparison: base, fine-tuned and steered variants, and their controls."""

from .catalog import (
    BASE,
    all_variants,
    get_variant,
    own_file,
    planned_variant,
    unquantized_arm,
)
from .plan_controls import controls_for, describe_controls, with_controls
from .profile_builder import (
    Settings,
    build_learned_profile,
    build_profile,
    build_vector_profile,
    shift_ranges,
    sigmas_of,
    spared_experts,
    variant_experts,
    variant_vectors,
    with_sigmas,
)

__all__ = [
    "BASE",
    "Settings",
    "all_variants",
    "build_learned_profile",
    "build_profile",
    "build_vector_profile",
    "controls_for",
    "describe_controls",
    "get_variant",
    "own_file",
    "planned_variant",
    "shift_ranges",
    "sigmas_of",
    "spared_experts",
    "unquantized_arm",
    "variant_experts",
    "variant_vectors",
    "with_controls",
    "with_sigmas",
]
