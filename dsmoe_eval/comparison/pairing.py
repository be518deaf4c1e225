"""Two results side by side: the same items, by content or by a name that the user trusts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UserError
from .readers.results import Results, first_few

_REASONS = ("gold", "question", "absent")
_NAMED = 5
_COMPARED = ["task", "id", "domain", "cluster", "score", "gold", "question", "document"]


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Items of one side without a partner.

    Attributes:
        n: how many.
        reasons: how many for each reason: `gold` (the other side holds the item with another right
            answer), `question` (with another prompt or other options), `absent` (not at all) and
            `unscored` (the source itself gives no score).
        first: ids of the first few.
    """

    n: int
    reasons: Mapping[str, int]
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What can be compared.

    Attributes:
        table: columns task, id, domain, cluster, score_a, score_b; one row an item, in A's order.
        a: items of A without a partner.
        b: items of B without a partner.
        warnings: what the user should know.
    """

    table: pd.DataFrame
    a: Unpaired
    b: Unpaired
    warnings: tuple[str, ...]


def pair(a: Results, b: Results, by_id: bool) -> Pairs:
    """Pair two results.

    Args:
        a: the baseline.
        b: what is compared with it.
        by_id: pair by `id`, which the user named, whatever the prompts; else by content, and by
            `id` only where neither source knows the content. An item whose right answers differ is
            not the same item.

    Raises:
        UserError: they were scored by other rules or asked in other ways, or share no item.
    """
    left, right, notes = _same_tasks(a, b)
    _check_measures(a, b)
    notes += _check_prompts(a, b, by_id)
    content = not by_id and _by_content(a, b, left, right)
    left, right = _keyed(left, right, content)
    merged, more = _checked(_matched(left, right), by_id)
    notes += more
    alone_a, alone_b = (
        table.drop(index=table.index[merged[row].to_numpy()])
        for table, row in ((left, "row_a"), (right, "row_b"))
    )
    unpaired_a, unpaired_b = _unpaired(alone_a, alone_b, a), _unpaired(alone_b, alone_a, b)
    if merged.empty:
        raise UserError(_nothing(a, b, unpaired_a, unpaired_b, content))
    for ours, side, other in ((unpaired_a, a, b), (unpaired_b, b, a)):
        if 2 * ours.n > len(side.table):
            notes.append(
                f"most items of {side.source} ({ours.n} of {len(side.table)}) have no partner in "
                f"{other.source}: the figures speak of the rest only"
            )
    merged = merged.reset_index(drop=True)
    table = pd.DataFrame(
        {
            "task": merged["task_a"],
            "id": merged["id_a"],
            "domain": merged["domain_a"].where(merged["domain_a"].notna(), merged["domain_b"]),
            "cluster": merged["cluster_a"].where(merged["cluster_a"].notna(), merged["cluster_b"]),
            "score_a": merged["score_a"],
            "score_b": merged["score_b"],
        }
    )
    return Pairs(table, unpaired_a, unpaired_b, (*_prefixed("A", a), *_prefixed("B", b), *notes))


def _prefixed(side: str, results: Results) -> list[str]:
    return [f"{side}: {note}" for note in results.notes]


def _same_tasks(a: Results, b: Results) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Both tables; where each is of one task its name does not matter."""
    names_a, names_b = (sorted(set(r.table["task"].dropna())) for r in (a, b))
    if len(names_a) <= 1 and len(names_b) <= 1:
        known = names_a and names_b and names_a != names_b
        notes = [f"A is of task {names_a[0]}, B of {names_b[0]}"] if known else []
        return a.table.assign(task=None), b.table.assign(task=None), notes
    if not set(names_a) & set(names_b):
        raise UserError(
            f"no task in common: {a.source} has {first_few(names_a) or 'no names of tasks'}, "
            f"{b.source} {first_few(names_b) or 'none'}; choose one of each with --task"
        )
    only = [
        f"only {side} has task {first_few(alone)}"
        for side, alone in (
            ("A", sorted(set(names_a) - set(names_b))), ("B", sorted(set(names_b) - set(names_a))),
        )
        if alone
    ]  # fmt: skip
    return a.table, b.table, only


def _check_measures(a: Results, b: Results) -> None:
    """Refuse scores of different metrics or filters."""
    shared = set(a.measures) & set(b.measures)
    couples = [(task, a.measures[task], b.measures[task]) for task in sorted(shared)]
    if len(a.measures) == len(b.measures) == 1:
        ((task, of_a),) = a.measures.items()
        couples = [(task, of_a, next(iter(b.measures.values())))]
    for task, of_a, of_b in couples:
        for name, own, other in zip(("metric", "filter"), of_a, of_b, strict=True):
            if own is not None and other is not None and own != other:
                raise UserError(
                    f"{f'task {task!r}: ' if task else ''}{a.source} is scored by {name} {own!r}, "
                    f"{b.source} by {other!r}; choose one that both have with --{name}"
                )


def _check_prompts(a: Results, b: Results, by_id: bool) -> list[str]:
    """Refuse items put to the models in other ways, unless the user pairs them on purpose."""
    for name in sorted(set(a.prompts) & set(b.prompts)):
        if a.prompts[name] != b.prompts[name]:
            said = f"{name} of A is {a.prompts[name][:100]}, of B {b.prompts[name][:100]}"
            if not by_id:
                raise UserError(f"other prompts: {said}; to compare all the same say --id id")
            return [f"other prompts: {said}"]
    return []


def _by_content(a: Results, b: Results, left: pd.DataFrame, right: pd.DataFrame) -> bool:
    known = [bool(table["content"].notna().all()) for table in (left, right)]
    if known[0] != known[1]:
        without, other = (b, a) if known[0] else (a, b)
        raise UserError(
            f"{without.source} does not hold the questions that {other.source} could be paired "
            "by; name a column that tells the same items apart in both: --id COLUMN"
        )
    return known[0]


def _keyed(
    left: pd.DataFrame, right: pd.DataFrame, content: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both with a column `key`, unique in each."""
    if not content:
        return tuple(t.assign(key=_joined(t["task"], t["id"])) for t in (left, right))  # type: ignore[return-value]
    keyed = [t.assign(key=_joined(t["task"], t["content"])) for t in (left, right)]
    # An item that the data holds twice: each copy pairs with the one of its own name.
    copies = {key for t in keyed for key in t.loc[t["key"].duplicated(), "key"]}
    for place, table in enumerate(keyed):
        copied = table["key"].isin(copies)
        key = table["key"].where(~copied, table["key"] + "\0" + table["id"])
        keyed[place] = table.assign(key=key)
    return keyed[0], keyed[1]


def _joined(task: pd.Series[Any], name: pd.Series[Any]) -> pd.Series[Any]:
    return name if task.isna().all() else task.fillna("") + "\0" + name


def _matched(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Rows of equal keys side by side, columns with `_a` and `_b`, and their row numbers."""
    left, right = left[[*_COMPARED, "key"]], right[[*_COMPARED, "key"]]
    if left["key"].equals(right["key"]):
        row_a = row_b = np.arange(len(left))
    else:
        codes, _ = pd.factorize(pd.concat([left["key"], right["key"]], ignore_index=True))
        place = np.full(int(codes.max()) + 1, -1)
        place[codes[: len(left)]] = np.arange(len(left))
        partner = place[codes[len(left) :]]
        row_b = np.flatnonzero(partner >= 0)
        row_b = row_b[np.argsort(partner[row_b])]
        row_a = partner[row_b]
        left, right = left.take(row_a), right.take(row_b)
    left, right = left.reset_index(drop=True), right.reset_index(drop=True)
    sides = [left.add_suffix("_a"), right.add_suffix("_b")]
    return pd.concat(sides, axis=1).assign(row_a=row_a, row_b=row_b)


def _checked(merged: pd.DataFrame, by_id: bool) -> tuple[pd.DataFrame, list[str]]:
    """Without pairs that are not the same item, and what else differs."""
    regolded = _differs(merged, "gold")
    if regolded.any():
        merged = merged[~regolded]
    other = _differs(merged, "question")
    if other.any() and not by_id:
        merged = merged[~other]
    notes = []
    if by_id and other.any():
        notes.append(
            f"{int(other.sum())} of {len(merged)} pairs have other prompts or options in A than in "
            "B; they are compared because --id says that they are the same"
        )
    documents = int(_differs(merged, "document").sum())
    if documents:
        notes.append(f"{documents} of {len(merged)} pairs have other columns in their documents")
    domains = _differs(merged, "domain")
    if domains.any():
        notes.append(f"{int(domains.sum())} pairs have another domain in B; that of A counts")
    return merged, notes


def _differs(merged: pd.DataFrame, name: str) -> Any:
    own, other = merged[f"{name}_a"], merged[f"{name}_b"]
    if own.equals(other):
        return np.zeros(len(merged), dtype=bool)
    return (own.notna() & other.notna() & (own != other)).to_numpy(dtype=bool)


def _unpaired(alone: pd.DataFrame, other: pd.DataFrame, side: Results) -> Unpaired:
    """Why items stand alone, by what of them the other side holds without a partner."""

    def known(name: str) -> Any:
        if alone.empty or other.empty:  # pandas walks through all strings
            return np.zeros(len(alone), dtype=bool)
        values = alone[name]
        return (values.notna() & values.isin(other[name].dropna())).to_numpy(dtype=bool)

    gold = known("question") | (known("key") & alone["question"].isna().to_numpy())
    question = ~gold & (known("document") | known("key"))
    counts = (int(gold.sum()), int(question.sum()), int((~gold & ~question).sum()))
    reasons = {name: n for name, n in zip(_REASONS, counts, strict=True) if n}
    if side.unscored:
        reasons["unscored"] = len(side.unscored)
    names = [*np.sort(alone["id"].astype(str).to_numpy())[:_NAMED], *side.unscored]
    return Unpaired(len(alone) + len(side.unscored), reasons, tuple(map(str, names[:_NAMED])))


def _nothing(a: Results, b: Results, of_a: Unpaired, of_b: Unpaired, content: bool) -> str:
    """Why nothing can be compared, and the way out."""
    both = f"{a.source} and {b.source} share no item"
    if of_a.reasons.get("gold"):
        return (
            f"{both}: {of_a.reasons['gold']} have another right answer in B, such as "
            f"{of_a.first[0]!r}; score both against the same revision of the data"
        )
    if of_a.reasons.get("question"):
        return (
            f"{both}: {of_a.reasons['question']} have another prompt or other options in B, such "
            f"as {of_a.first[0]!r}; run both alike, or, to compare all the same, name the column "
            "that says which items are the same: --id doc_hash"
        )
    way = (
        "pair them by a name that both share, with --id COLUMN" if content else "name another --id"
    )
    return (
        f"{both} (A has {of_a.n} such as {first_few(of_a.first[:1])}, B {of_b.n} such as "
        f"{first_few(of_b.first[:1])}); {way}"
    )
