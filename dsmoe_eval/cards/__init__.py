"""The cards: declarations of models, suites, plans, variants and policies.

Cards are immutable, and an unknown key is an error.
"""

from .base import Card
from .models import ModelCard, Published, RoutingRule
from .outcomes import OUTCOMES, Continuous, Outcome, OutcomeName
from .plans import Plan
from .policies import Policy, Rule
from .sections import (
    Identification,
    Learned,
    ResidualTuning,
    Resources,
    Sft,
    Stability,
    Tuning,
    Unit,
)
from .suites import MAX_NEW_TOKENS, DocumentFile, Split, Splits, StageSplit, Suite, Task
from .variants import LOSS_CONTROLS, Change, ExpertSource, Kind, Recipe, Rounding, Variant

__all__ = [
    "LOSS_CONTROLS",
    "MAX_NEW_TOKENS",
    "OUTCOMES",
    "Card",
    "Change",
    "Continuous",
    "DocumentFile",
    "ExpertSource",
    "Identification",
    "Kind",
    "Learned",
    "ModelCard",
    "Outcome",
    "OutcomeName",
    "Plan",
    "Policy",
    "Published",
    "Recipe",
    "ResidualTuning",
    "Resources",
    "Rounding",
    "RoutingRule",
    "Rule",
    "Sft",
    "Split",
    "Splits",
    "Stability",
    "StageSplit",
    "Suite",
    "Task",
    "Tuning",
    "Unit",
    "Variant",
]
