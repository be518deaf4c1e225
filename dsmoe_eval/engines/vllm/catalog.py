"""The profiles that a server has loaded, by name: `olmoe:math` is the model with profile `math`."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...steering import Profile, SteeringError

_NAME = re.compile(r"[\w.+=-]{1,200}", re.ASCII)
_TRIES, _PAUSE = 20, 0.1
"""Number of tries, and seconds between them, until a worker has seen that its requests ended."""


class InUseError(UserError):
    """A refusal to drop a profile that requests are using, or to load one under a name in use."""


class UnknownProfileError(UserError):
    """A name by which no model and no profile is loaded."""


@dataclass(frozen=True, slots=True)
class NamedProfile:
    """A profile and the name by which requests may ask for it, beside its id.

    Attributes:
        name: the name.
        profile: the profile.
        origin: the file that it was read from, if it was.
    """

    name: str
    profile: Profile
    origin: Path | None = None


def read_profiles(folder: Path) -> list[NamedProfile]:
    """Read the profiles of a folder, each named as its file, without the profile's id at the end.

    Raises:
        UserError: the folder has no profiles, or two of the same name.
        SteeringError: a file cannot be read or is no profile; the message names it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of profiles (*.json)")
    files = sorted(path for path in folder.glob("*.json"))
    if not files:
        raise UserError(
            f"{folder}: has no profile (*.json); dsmoe-eval identify writes one, and a run writes "
            "its own into the folder profiles"
        )
    seen: dict[str, Path] = {}
    named = []
    for path in files:
        profile = Profile.load(path)
        name = path.stem.removesuffix(profile.id).rstrip("-") or profile.id
        try:
            check_name(name)
        except UserError as error:
            raise UserError(f"{path}: {error}; rename the file") from error
        if name in seen:
            raise UserError(f"{path}: {seen[name]} is named {name!r} too; rename one")
        seen[name] = path
        named.append(NamedProfile(name, profile, path))
    return named


def check_name(name: str) -> None:
    """Check that a model name may contain the name of a profile.

    Raises:
        UserError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name of a profile: take 1 to 200 letters, digits, or . _ + = -"
        )


class Catalog:
    """The loaded profiles, by name.

    Args:
        model: the name of the model without a profile.
        most: number of different profiles at once.
        call: a function that calls a method of all workers.
        known: the ids that requests may name, kept up to date.
    """

    def __init__(
        self,
        model: str,
        most: int,
        call: Callable[[str, str], Awaitable[object]],
        known: set[str],
    ) -> None:
        self.model, self.most = model, most
        self._call, self._known = call, known
        self._named: dict[str, Profile] = {}
        self._running: Counter[str] = Counter()
        self._changing = asyncio.Lock()

    @property
    def profiles(self) -> tuple[NamedProfile, ...]:
        """The loaded profiles, by name."""
        return tuple(NamedProfile(name, profile) for name, profile in self._named.items())

    def find(self, name: str) -> NamedProfile:
        """Return the profile of a name or an id.

        Raises:
            UnknownProfileError: there is none.
        """
        for one in self.profiles:
            if name in (one.name, one.profile.id):
                return one
        known = ", ".join(self._named) or "none"
        raise UnknownProfileError(f"the profile {name!r} is not loaded; loaded are: {known}")

    def find_model(self, name: str) -> NamedProfile | None:
        """Return the profile that a model name has; None for the model without one.

        Raises:
            UnknownProfileError: there is no such model name.
        """
        if name == self.model:
            return None
        try:
            return self.find(name.removeprefix(f"{self.model}:"))
        except UnknownProfileError as error:
            names = ", ".join([self.model, *map(self.model_name, self.profiles)])
            raise UnknownProfileError(
                f"the model {name!r} does not exist; there are: {names}"
            ) from error

    def model_name(self, one: NamedProfile) -> str:
        """Return the model name of a profile, such as `olmoe:math`."""
        return f"{self.model}:{one.name}"

    @contextmanager
    def running(self, one: NamedProfile) -> Iterator[None]:
        """Mark a profile as used by a request, so that it is not dropped."""
        self._running[one.profile.id] += 1
        try:
            yield
        finally:
            self._running[one.profile.id] -= 1

    async def load(self, one: NamedProfile) -> None:
        """Load a profile into the workers; the same profile may have several names.

        Raises:
            UserError: the name is not allowed.
            InUseError: the name is that of another profile, or too many are loaded.
            SteeringError: the workers refuse the profile.
        """
        check_name(one.name)
        async with self._changing:
            self._check_free(one)
            if one.profile.id not in self._known:
                await self._call("dsmoe_load", one.profile.to_json())
                self._known.add(one.profile.id)
            self._named[one.name] = one.profile

    def _check_free(self, one: NamedProfile) -> None:
        other = self._named.get(one.name, one.profile)
        of_id = self._named.get(one.profile.id, one.profile)
        ids = {name.profile.id for name in self.profiles} - {one.profile.id}
        if one.name in (self.model, *ids) or {other.id, of_id.id} != {one.profile.id}:
            raise InUseError(f"the name {one.name!r} is in use; drop that profile first")
        if len(ids) >= self.most:
            raise InUseError(
                f"{self.most} profiles are loaded, as many as --max-profiles says; drop one first"
            )

    async def drop(self, name: str) -> None:
        """Remove the profile of a name or an id, under all of its names if it is the id.

        Raises:
            UnknownProfileError: there is none.
            InUseError: requests are using it.
        """
        async with self._changing:
            profile = self.find(name).profile
            names = {one.name for one in self.profiles if one.profile.id == profile.id}
            gone = names if name == profile.id else {name}
            if gone != names:  # the profile stays, under another name
                del self._named[name]
                return
            if self._running[profile.id]:
                raise InUseError(f"the profile {name!r} is in use by requests; try again later")
            kept = {one: self._named.pop(one) for one in gone}  # no request takes it from now on
            self._known.discard(profile.id)
            try:
                await self._drop(profile.id)
            except SteeringError:
                self._named |= kept
                self._known.add(profile.id)
                raise

    async def _drop(self, profile: str) -> None:
        """Remove a profile; a worker learns that a request ended one step after the client does."""
        for left in reversed(range(_TRIES)):
            try:
                await self._call("dsmoe_drop", profile)
            except SteeringError as error:
                if not left or "in use" not in str(error):
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return
