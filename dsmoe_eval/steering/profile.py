"""The artefact that steering needs: which experts of which model, how, how strongly, and from what.

A profile is plain JSON, named by the hash of its content, so that two results steered by the same
profile can be known to be.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import SteeringError

InterventionKind = Literal["reweight", "bias", "amplify", "force", "mask"]
Channel = Literal["logit", "score"]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_serialization_defaults_required=True
    )


class ModelIdentity(_Frozen):
    """Which model.

    Attributes:
        name: as the user called it.
        fingerprint: hash of its configuration and weights, or its hub commit.
        routers: hash of its routers' weights (see `routers.router_hash`), by which `steer` knows a
            model in memory again, however it was loaded.
    """

    name: str
    fingerprint: str
    routers: str
    layers: Annotated[tuple[int, ...], Field(description="indices of the layers that have experts")]
    experts: Annotated[int, Field(ge=1, description="routed experts in each of those layers")]


class ChosenExpert(_Frozen):
    """One expert of E*, with the score that chose it.

    `activate` is False for an expert that `force` is to keep out; no other kind has such experts.
    """

    layer: Annotated[int, Field(ge=0)]
    expert: Annotated[int, Field(ge=0)]
    score: float
    activate: bool = True


class Intervention(_Frozen):
    """What is done to the router's choice; see `interventions.py` for the formulas.

    Attributes:
        kind: `reweight`, `bias`, `amplify`, `force` or `mask`.
        strength: 0 changes nothing. `reweight`, `amplify` and `bias` on logits multiply by
            1 + strength; `bias` on scores adds it; `force` keeps it as margin; `mask` takes 1.
        channel: where `bias` acts: on the router's logits, or, in routers that choose by score +
            correction bias, on that bias.
    """

    kind: InterventionKind
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    channel: Channel = "logit"

    @model_validator(mode="after")
    def _check_kind(self) -> Intervention:
        if self.channel == "score" and self.kind != "bias":
            raise ValueError(f"only bias has a score channel, {self.kind} does not")
        if self.kind == "mask" and self.strength not in (0, 1):
            raise ValueError("the strength of mask is 1 (or 0 for a sham)")
        return self


class Source(_Frozen):
    """Where the identification text came from, and how it was read.

    Attributes:
        items: content hashes, for leakage checks.
        phase: whether routing was read from the questions or from the model's own answers.
        chat_template: whether the questions stood in the model's chat template.
        saliency_model: whose gradients told salient tokens, where it was another model.
        engine: that showed the routing.
    """

    suite: str
    domain: str
    split: str
    items: tuple[str, ...]
    phase: Literal["prompt", "generated"] = "prompt"
    chat_template: bool = False
    saliency_model: str | None = None
    engine: str = "transformers"


class Profile(_Frozen):
    """A steering profile. Build it, `save` it, `load` it; its `id` is the hash of its content."""

    schema_version: Literal[1] = 1
    model: ModelIdentity
    method: str
    experts: tuple[ChosenExpert, ...]
    intervention: Intervention
    source: Source

    @model_validator(mode="after")
    def _check_experts(self) -> Profile:
        pairs = [(chosen.layer, chosen.expert) for chosen in self.experts]
        if len(set(pairs)) < len(pairs):
            raise ValueError("an expert is chosen twice")
        if self.intervention.kind != "force" and not all(one.activate for one in self.experts):
            raise ValueError(f"{self.intervention.kind} cannot deactivate an expert; force can")
        for layer, expert in pairs:
            if layer not in self.model.layers or expert >= self.model.experts:
                raise ValueError(f"layer {layer}, expert {expert} is not in the model")
        return self

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def is_null(self) -> bool:
        """True where the profile, by its own words, changes nothing."""
        return self.intervention.strength == 0 or not self.experts

    def with_strength(self, strength: float) -> Profile:
        """The same profile at another strength."""
        intervention = self.intervention.model_copy(update={"strength": strength})
        return self.model_copy(update={"intervention": intervention})

    def by_layer(self) -> dict[int, tuple[ChosenExpert, ...]]:
        """The chosen experts of each layer that has any."""
        layers: dict[int, tuple[ChosenExpert, ...]] = {}
        for chosen in self.experts:
            layers[chosen.layer] = (*layers.get(chosen.layer, ()), chosen)
        return layers

    def to_json(self) -> str:
        """The text of the profile's file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile.

        Raises:
            SteeringError: the file is missing, no JSON, or not a profile of this schema.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SteeringError(f"{path}: the profile cannot be read ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise SteeringError(f"{path}: not a profile: {where}: {first['msg']}") from error
