"""The declarations that everyone reads: models, suites, plans, variants.

Frozen, and strict about keys.
"""

from .base import Card
from .models import ModelCard, Parameters, Published, Routing
from .plans import Identification, Kind, Plan, Sft, Tuning, Variant
from .suites import PartName, Role, Splits, Suite, Task, read_part

__all__ = [
    "Card",
    "Identification",
    "Kind",
    "ModelCard",
    "Parameters",
    "PartName",
    "Plan",
    "Published",
    "Role",
    "Routing",
    "Sft",
    "Splits",
    "Suite",
    "Task",
    "Tuning",
    "Variant",
    "read_part",
]
