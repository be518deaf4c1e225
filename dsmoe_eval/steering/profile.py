"""The steering profile: what is steered, the model, the intervention with its strength, the source.

What is steered are experts, or vectors in the residual stream after some decoder layers.
A profile is plain JSON. Its id is the hash of its content, so that two results of the same profile
can be recognised.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict

from .errors import SteeringError
from .units import EXPERTS, Sites

InterventionKind = Literal["reweight", "bias", "amplify", "force", "mask", "residual"]
Channel = Literal["logit", "score"]
Unit = Literal["odds", "sigma", "scores"]
LayerSigmas = tuple[tuple[int, Annotated[float, Field(gt=0)]], ...]
"""(layer, sigma) of the layers of a model."""
_MOST_BYTES = 64_000_000
_MOST = 3.4028234663852886e38
"""The largest number of float32, in which vectors are added."""
_WAY_OUT = "write it again: dsmoe-eval identify"


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):  # True equals 1, and so is of `Literal[1]`
        raise ValueError("Input should be a valid integer")
    return value


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


def _may_lack_sites(schema: JsonDict) -> None:
    """Make the key optional that the identity of a model with experts lacks in a profile."""
    required = schema.get("required")
    if isinstance(required, list):
        schema["required"] = [key for key in required if key != "sites"]


class ModelIdentity(_Frozen):
    """The identity of a model.

    Attributes:
        name: the name that the user gave.
        fingerprint: hash of its configuration and weights, or its hub commit.
        routers: hash of its routers' weights (see `routers.router_hash`), by which `steer`
            recognises a model in memory, however it was loaded; with neurons, of a sample of the
            down projections' weights.
        sites: what its `experts` are; neurons of a dense model are counted under the same names.
    """

    model_config = ConfigDict(json_schema_extra=_may_lack_sites)

    name: str
    fingerprint: str
    routers: str
    layers: Annotated[tuple[int, ...], Field(description="indices of the layers that have experts")]
    experts: Annotated[int, Field(ge=1, description="routed experts in each of those layers")]
    sites: Sites = EXPERTS


class ChosenExpert(_Frozen):
    """One expert of E*, with the score that chose it.

    `activate` is False for an expert that `force` is to keep out; no other kind has such experts.
    """

    layer: Annotated[int, Field(ge=0)]
    expert: Annotated[int, Field(ge=0)]
    score: float
    activate: bool = True


def _may_be_absent(schema: JsonDict) -> None:
    """Make the keys optional that a profile in odds, or one from questions, does not have."""
    required = schema.get("required")
    if isinstance(required, list):
        rare = ("unit", "sigmas", "file", "chunks")
        schema["required"] = [key for key in required if key not in rare]


class Intervention(_Frozen):
    """The edit of the router's choice; see `interventions.py` for the formulas.

    Attributes:
        kind: `reweight`, `bias`, `amplify`, `force` or `mask`; or `residual`, the edit of the
            residual stream (see `residual.py`).
        strength: 0 changes nothing. `reweight`, `amplify` and `bias` on logits multiply by
            1 + strength; `bias` on scores adds it; `force` uses it as margin; for `mask` it is 1;
            `residual` adds strength times the vector.
        channel: where `bias` acts: on the router's logits, or, in routers that choose by score +
            correction bias, on that bias.
        unit: `odds`: `bias` adds log(1 + strength) to the logits. `sigma`: it adds strength x sigma
            of the layer. `scores`: it adds strength x the score of each expert, which may be below
            0, so that each expert may have another shift, in log-odds.
        sigmas: with `sigma`: of every steered layer, the mean over the identification tokens of the
            standard deviation over experts of the router's logits.
    """

    model_config = ConfigDict(json_schema_extra=_may_be_absent)

    kind: InterventionKind
    strength: Annotated[float, Field(ge=0)]
    channel: Channel = "logit"
    unit: Unit = "odds"
    sigmas: LayerSigmas = ()

    @model_validator(mode="after")
    def _check_kind(self) -> Intervention:
        if self.unit != "odds" and (self.kind != "bias" or self.channel != "logit"):
            what = "the score channel" if self.kind == "bias" else self.kind
            raise ValueError(f"unit `{self.unit}` is for bias on the logits only, not for {what}")
        if self.unit != "sigma" and self.sigmas:
            raise ValueError("sigmas go with unit `sigma` only")
        if self.channel == "score" and self.kind != "bias":
            raise ValueError(f"channel `score` is for bias only, not for {self.kind}")
        if self.kind == "mask" and self.strength not in (0, 1):
            raise ValueError("the strength of mask is 1 (or 0 for a sham)")
        return self


class Source(_Frozen):
    """The origin of the identification text, and how its routing was read.

    Attributes:
        suite: name of the suite; None if the text was not a suite's.
        split: split of the suite, in words; None if all of the text was read.
        items: content hashes of the items or documents, for leakage checks.
        file: name of the file or folder of text documents; None if the text was questions.
        chunks: the most chunks that were read of each document of the file, its first ones; None if
            the suite says so, or all were read.
        phase: whether routing was read from the questions or from the model's answers.
        chat_template: whether the questions were wrapped in the model's chat template.
        saliency_model: the model whose gradients gave the token saliency, if it was another one.
        engine: the engine that reported the routing.
    """

    model_config = ConfigDict(json_schema_extra=_may_be_absent)

    suite: str | None
    domain: str
    split: str | None
    items: tuple[str, ...]
    file: str | None = None
    chunks: Annotated[int, Field(ge=1)] | None = None
    phase: Literal["prompt", "generated"] = "prompt"
    chat_template: bool = False
    saliency_model: str | None = None
    engine: str = "transformers"


Layer = Annotated[int, Field(ge=0)]
Vector = tuple[Annotated[float, Field(ge=-_MOST, le=_MOST)], ...]


def _may_lack_vectors(schema: dict[str, Any]) -> None:
    """Mark the key of vectors as one that a profile of experts lacks."""
    schema["required"] = [name for name in schema["required"] if name != "vectors"]


class Profile(_Frozen):
    """A steering profile. Build it, `save` it, `load` it; its `id` is the hash of its content.

    Attributes:
        vectors: for `residual`: index of a decoder layer -> the vector that is added after it, with
            as many numbers as the model's hidden states. Other kinds have none, nor the key.
    """

    model_config = ConfigDict(json_schema_extra=_may_lack_vectors)

    schema_version: Annotated[Literal[1], BeforeValidator(_no_boolean)] = 1
    model: ModelIdentity
    method: str
    experts: tuple[ChosenExpert, ...]
    intervention: Intervention
    source: Source
    vectors: dict[Layer, Vector] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_vectors(self) -> Profile:
        if (self.intervention.kind == "residual") != bool(self.vectors):
            raise ValueError("residual needs `vectors`, and no other kind has them")
        if self.vectors and self.experts:
            raise ValueError("residual steers no experts")
        if len(widths := {len(vector) for vector in self.vectors.values()}) > 1:
            raise ValueError(f"the vectors differ in width: {sorted(widths)}")
        for layer, vector in self.vectors.items():
            if not any(vector):
                raise ValueError(f"the vector of layer {layer} is zero")
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> Profile:
        pairs = [(chosen.layer, chosen.expert) for chosen in self.experts]
        if len(set(pairs)) < len(pairs):
            raise ValueError("an expert is chosen twice")
        if self.intervention.kind != "force" and not all(
            chosen.activate for chosen in self.experts
        ):
            raise ValueError(f"{self.intervention.kind} cannot deactivate an expert; force can")
        for layer, expert in pairs:
            if layer not in self.model.layers or expert >= self.model.experts:
                raise ValueError(f"layer {layer}, expert {expert} is not in the model")
        sigmas = [layer for layer, _ in self.intervention.sigmas]
        if self.intervention.unit == "sigma" and not {layer for layer, _ in pairs} <= set(sigmas):
            raise ValueError("unit `sigma` needs the sigma of every layer with chosen experts")
        if len(set(sigmas)) < len(sigmas):
            raise ValueError("a layer has two sigmas")
        return self

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def is_null(self) -> bool:
        """Whether the profile changes nothing: strength 0, or nothing that is steered."""
        return self.intervention.strength == 0 or not (self.experts or self.vectors)

    @property
    def sites(self) -> Sites:
        """What the chosen `experts` are: experts, or neurons."""
        return self.model.sites

    @property
    def size(self) -> str:
        """The number of experts or neurons, or the layers of the vectors, in words."""
        if not self.vectors:
            return f"{len(self.experts)} {self.sites.noun}"
        return f"a vector after layer {', '.join(map(str, sorted(self.vectors)))}"

    def with_strength(self, strength: float) -> Profile:
        """Return a copy of the profile at another strength."""
        intervention = self.intervention.model_copy(update={"strength": strength})
        return self.model_copy(update={"intervention": intervention})

    def by_layer(self) -> dict[int, tuple[ChosenExpert, ...]]:
        """Return the chosen experts of each layer that has any."""
        layers: dict[int, tuple[ChosenExpert, ...]] = {}
        for chosen in self.experts:
            layers[chosen.layer] = (*layers.get(chosen.layer, ()), chosen)
        return layers

    def to_json(self) -> str:
        """Return the profile as the text of its JSON file."""
        return json.dumps(self._content(), indent=1, sort_keys=True) + "\n"

    def _content(self) -> dict[str, object]:
        """Return the file's content: without what is not used, so that older profiles keep ids."""
        content = self.model_dump(mode="json", exclude=None if self.vectors else {"vectors"})
        if self.sites == EXPERTS:
            del content["model"]["sites"]
        if self.intervention.unit == "odds":
            del content["intervention"]["unit"]
        if self.intervention.unit != "sigma":
            del content["intervention"]["sigmas"]
        if self.source.file is None:
            del content["source"]["file"]
        if self.source.chunks is None:
            del content["source"]["chunks"]
        return content

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile from its JSON file.

        Raises:
            SteeringError: the file cannot be read, is too large, or holds no profile; see
                `from_json`.
        """
        try:
            if Path(path).exists() and not Path(path).is_file():  # a device may never end
                raise SteeringError(f"{path}: is not a regular file; give a profile's path")
            with Path(path).open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise SteeringError(f"{path}: the profile cannot be read ({reason})") from error
        try:
            return cls.from_json(data)
        except SteeringError as error:
            raise SteeringError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """Parse the text of a profile's file.

        Raises:
            SteeringError: the text is too long, is not JSON or no profile of this schema, names a
                key twice, or has a number that is infinite or of another type.
        """
        if len(text) > _MOST_BYTES:
            raise SteeringError(f"not a profile: larger than {_MOST_BYTES / 1e6:.0f} MB")
        try:
            json.loads(text, object_pairs_hook=_unrepeated)  # pydantic takes the last of two keys
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise SteeringError(f"not a profile: {where}: {first['msg']}; {_WAY_OUT}") from error
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise SteeringError(f"not a profile: {reason}; {_WAY_OUT}") from error


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is repeated")
    return content
