"""Profiles by name: read from a folder, loaded, and dropped; over HTTP in test_naming."""

import asyncio

import pytest

from dsmoe_eval.engines.vllm.catalog import (
    Catalog,
    InUseError,
    NamedProfile,
    UnknownProfileError,
    read_profiles,
)
from dsmoe_eval.errors import UserError
from dsmoe_eval.steering import SteeringError

from .test_naming import ART, LAW, MATH


def noting(calls):
    async def call(method, argument):
        await asyncio.sleep(0)
        calls.append((method, argument))

    return call


def test_a_profile_has_one_row_whatever_its_names():
    calls, known = [], set()

    async def use():
        catalog = Catalog("olmoe", 2, noting(calls), known)
        for name, one in (("math", MATH), ("sums", MATH), ("law", LAW)):
            await catalog.load(NamedProfile(name, one))
        assert catalog.find("sums").profile == catalog.find(MATH.id).profile == MATH
        assert catalog.find_model("olmoe") is None
        assert catalog.model_name(catalog.find_model("olmoe:law")) == "olmoe:law"
        with pytest.raises(UnknownProfileError, match="olmoe, olmoe:math, olmoe:sums, olmoe:law"):
            catalog.find_model("olmoe:art")
        with pytest.raises(InUseError, match="2 profiles are loaded, as many as --max-profiles"):
            await catalog.load(NamedProfile("art", ART))
        await catalog.drop(MATH.id)
        assert [one.name for one in catalog.profiles] == ["law"]
        with pytest.raises(UnknownProfileError, match="'math' is not loaded; loaded are: law"):
            await catalog.drop("math")

    asyncio.run(use())
    assert known == {LAW.id}
    assert calls == [
        ("dsmoe_load", MATH.to_json()), ("dsmoe_load", LAW.to_json()), ("dsmoe_drop", MATH.id),
    ]  # fmt: skip


def test_a_folder_of_profiles_is_read(tmp_path):
    (tmp_path / "law.json").write_text(LAW.to_json())
    (tmp_path / f"math--contrast--{MATH.id}.json").write_text(MATH.to_json())  # as a run names it
    (tmp_path / f"{ART.id}.json").write_text(ART.to_json())
    (tmp_path / "notes.txt").write_text("")
    read = {one.name: one.profile for one in read_profiles(tmp_path)}
    assert read == {"law": LAW, "math--contrast": MATH, ART.id: ART}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.json", "{}", "bad.json: not a profile"),
        ("a b.json", MATH.to_json(), "a b.json: 'a b' is no name of a profile"),
        (f"law-{MATH.id}.json", MATH.to_json(), "is named 'law' too"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, words):
    (tmp_path / "law.json").write_text(LAW.to_json())
    (tmp_path / name).write_text(content)
    with pytest.raises((UserError, SteeringError), match=words):
        read_profiles(tmp_path)


def test_a_folder_without_profiles_is_refused(tmp_path):
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "has no profile")):
        with pytest.raises(UserError, match=words):
            read_profiles(folder)


def test_the_number_of_loads_at_once_does_not_matter():
    async def both():
        catalog = Catalog("olmoe", 1, noting([]), set())
        loads = [
            catalog.load(NamedProfile(name, one)) for name, one in (("math", MATH), ("law", LAW))
        ]
        return await asyncio.gather(*loads, return_exceptions=True)

    done = asyncio.run(both())
    assert [type(one) for one in done] == [type(None), InUseError]
