"""The cards: declarations of models, suites, plans, variants and policies.

Cards are immutable, and an unknown key is an error.
"""

from .base import Card
from .models import ModelCard, Parameters, Published, Routing
from .plans import Identification, Kind, Plan, Sft, Tuning, Variant
from .policies import Policy, Rule
from .suites import MAX_NEW_TOKENS, PartName, Role, Splits, Suite, Task, read_part

__all__ = [
    "MAX_NEW_TOKENS",
    "Card",
    "Identification",
    "Kind",
    "ModelCard",
    "Parameters",
    "PartName",
    "Plan",
    "Policy",
    "Published",
    "Role",
    "Routing",
    "Rule",
    "Sft",
    "Splits",
    "Suite",
    "Task",
    "Tuning",
    "Variant",
    "read_part",
]
