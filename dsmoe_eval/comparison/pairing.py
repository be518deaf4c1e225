"""Two results side by side: the same items, by content or by ids that the user trusts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import UserError
from .readers.columns import Strings
from .readers.results import Results, first_few
from .settings import setting_differences

Bools = NDArray[np.bool_]

_REASONS = ("gold", "question", "absent")
_NAMED = 5
_COMPARED = ["task", "id", "domain", "cluster", "score", "size", "gold", "question", "document"]


@dataclass(frozen=True, slots=True)
class Unpaired:
    """The items of one side that have no partner.

    Attributes:
        n: their number.
        reasons: the number for each reason: `gold` (the other side has the item with another right
            answer), `question` (with another prompt or other options), `absent` (not at all) and
            `unscored` (the source itself gives no score).
        first: ids of the first few.
    """

    n: int
    reasons: Mapping[str, int]
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The items that can be compared.

    Attributes:
        table: columns task, id, domain, cluster, score_a, score_b, size; one row per item, in A's
            order.
        a: the items of A without a partner.
        b: the items of B without a partner.
        warnings: what the user should know.
    """

    table: pd.DataFrame
    a: Unpaired
    b: Unpaired
    warnings: tuple[str, ...]


def pair(a: Results, b: Results, by_id: bool) -> Pairs:
    """Pair the items of two results.

    Args:
        a: the baseline.
        b: the results that are compared with it.
        by_id: pair by `id`, which the user named, even if prompts differ; else by content, and by
            `id` only if neither source knows the content. Two items whose right answers differ are
            never the same item.

    Raises:
        UserError: the two were scored by different rules, their prompts differ, or they share no
            item.
    """
    left, right, notes = _same_tasks(a, b)
    _check_measures(a, b)
    notes += _check_prompts(a, b, by_id) + _other_settings(a, b)
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
    for unpaired, side, other in ((unpaired_a, a, b), (unpaired_b, b, a)):
        if 2 * unpaired.n > len(side.table):
            notes.append(
                f"most items of {side.source} ({unpaired.n} of {len(side.table)}) have no partner "
                f"in {other.source}: the figures describe the rest only"
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
            "size": _same_size(merged, a, b),
        }
    )
    return Pairs(table, unpaired_a, unpaired_b, (*_prefixed("A", a), *_prefixed("B", b), *notes))


def _same_size(merged: pd.DataFrame, a: Results, b: Results) -> pd.Series:
    """Return the bytes of the paired texts, which are the same on both sides."""
    if _differs(merged, "size").any():
        raise UserError(
            f"{a.source} and {b.source} count other bytes of the same texts; evaluate both by one "
            "version of the task"
        )
    return merged["size_a"]


def _prefixed(side: str, results: Results) -> list[str]:
    return [f"{side}: {note}" for note in results.notes]


def _same_tasks(a: Results, b: Results) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return both tables and notes; where each is of one task its name does not matter."""
    names_a, names_b = (sorted(set(r.table["task"].dropna())) for r in (a, b))
    if len(names_a) <= 1 and len(names_b) <= 1:
        known = names_a and names_b and names_a != names_b
        notes = [f"A is of task {names_a[0]}, B of {names_b[0]}"] if known else []
        return _untasked(a.table), _untasked(b.table), notes
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


def _untasked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table without its task; a domain that only repeats the task goes with it."""
    if table["domain"].equals(table["task"]):
        table = table.assign(domain=None)
    return table.assign(task=None)


def _check_measures(a: Results, b: Results) -> None:
    """Refuse scores of different metrics or filters."""
    shared = set(a.measures) & set(b.measures)
    couples = [(task, a.measures[task], b.measures[task]) for task in sorted(shared)]
    if len(a.measures) == len(b.measures) == 1:
        ((task, of_a),) = a.measures.items()
        couples = [(task, of_a, next(iter(b.measures.values())))]
    for task, of_a, of_b in couples:
        for name, in_a, in_b in zip(("metric", "filter"), of_a, of_b, strict=True):
            if in_a is not None and in_b is not None and in_a != in_b:
                raise UserError(
                    f"{f'task {task!r}: ' if task else ''}{a.source} is scored by {name} {in_a!r}, "
                    f"{b.source} by {in_b!r}; choose one that both have with --{name}"
                )


def _check_prompts(a: Results, b: Results, by_id: bool) -> list[str]:
    """Refuse items whose prompts were built differently, unless the user pairs them by id."""
    for name in sorted(set(a.prompts) & set(b.prompts)):
        if a.prompts[name] != b.prompts[name]:
            words = f"{name} of A is {a.prompts[name][:100]}, of B {b.prompts[name][:100]}"
            if not by_id:
                raise UserError(
                    f"{a.source} and {b.source}: other prompts: {words}; to compare them "
                    "nevertheless say --id id"
                )
            return [f"other prompts: {words}"]
    return []


def _other_settings(a: Results, b: Results) -> list[str]:
    """Return a note for each task that the two evaluated with different settings."""
    tasks = [(task, task) for task in sorted(set(a.settings) & set(b.settings))]
    if not tasks and len(a.settings) == len(b.settings) == 1:
        tasks = [(next(iter(a.settings)), next(iter(b.settings)))]
    notes = []
    for task_a, task_b in tasks:
        if phrases := setting_differences(a.settings[task_a], b.settings[task_b]):
            of_task = f" of task {task_a}" if len(tasks) > 1 else ""
            notes.append(
                f"other settings{of_task}: {'; '.join(phrases)}: the difference may come from them"
            )
    return notes


def _by_content(a: Results, b: Results, left: pd.DataFrame, right: pd.DataFrame) -> bool:
    known = [bool(table["content"].notna().all()) for table in (left, right)]
    if known[0] != known[1]:
        without, other = (b, a) if known[0] else (a, b)
        raise UserError(
            f"{without.source} does not hold the questions that {other.source} could be paired "
            "by; name a column that identifies the same items in both: --id COLUMN"
        )
    return known[0]


def _keyed(
    left: pd.DataFrame, right: pd.DataFrame, content: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both with a column `key`, unique in each."""
    if not content:
        return (
            left.assign(key=_joined(left["task"], left["id"])),
            right.assign(key=_joined(right["task"], right["id"])),
        )
    keyed = [t.assign(key=_joined(t["task"], t["content"])) for t in (left, right)]
    # An item that the data holds twice: each copy pairs with the copy of the same id.
    copies = {key for t in keyed for key in t.loc[t["key"].duplicated(), "key"]}
    for side, table in enumerate(keyed):
        copied = table["key"].isin(copies)
        key = table["key"].where(~copied, table["key"] + "\0" + table["id"])
        keyed[side] = table.assign(key=key)
    return keyed[0], keyed[1]


def _joined(task: Strings, name: Strings) -> Strings:
    return name if task.isna().all() else task.fillna("") + "\0" + name


def _matched(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Return rows of equal keys side by side, columns with `_a` and `_b`, and row numbers."""
    left, right = left[[*_COMPARED, "key"]], right[[*_COMPARED, "key"]]
    if left["key"].equals(right["key"]):
        row_a = row_b = np.arange(len(left))
    else:
        codes, _ = pd.factorize(pd.concat([left["key"], right["key"]], ignore_index=True))
        row_of = np.full(int(codes.max()) + 1, -1)
        row_of[codes[: len(left)]] = np.arange(len(left))
        partner = row_of[codes[len(left) :]]
        row_b = np.flatnonzero(partner >= 0)
        row_b = row_b[np.argsort(partner[row_b])]
        row_a = partner[row_b]
        left, right = left.take(row_a), right.take(row_b)
    left, right = left.reset_index(drop=True), right.reset_index(drop=True)
    sides = [left.add_suffix("_a"), right.add_suffix("_b")]
    return pd.concat(sides, axis=1).assign(row_a=row_a, row_b=row_b)


def _checked(merged: pd.DataFrame, by_id: bool) -> tuple[pd.DataFrame, list[str]]:
    """Return the pairs that are the same item, and notes on what else differs in them."""
    regolded = _differs(merged, "gold")
    if regolded.any():
        merged = merged[~regolded]
    reworded = _differs(merged, "question")
    if reworded.any() and not by_id:
        merged = merged[~reworded]
    notes = []
    if by_id and reworded.any():
        notes.append(
            f"{int(reworded.sum())} of {len(merged)} pairs have other prompts or options in A than "
            "in B; they are compared because --id says that they are the same"
        )
    documents = int(_differs(merged, "document").sum())
    if documents:
        notes.append(f"{documents} of {len(merged)} pairs have documents that differ "
                     "(other columns, or other values)")  # fmt: skip
    domains = _differs(merged, "domain")
    if domains.any():
        notes.append(f"{int(domains.sum())} pairs have another domain in B; that of A counts")
    return merged, notes


def _differs(merged: pd.DataFrame, name: str) -> Bools:
    of_a, of_b = merged[f"{name}_a"], merged[f"{name}_b"]
    if of_a.equals(of_b):
        return np.zeros(len(merged), dtype=bool)
    return (of_a.notna() & of_b.notna() & (of_a != of_b)).to_numpy(dtype=bool)


def _unpaired(alone: pd.DataFrame, other: pd.DataFrame, side: Results) -> Unpaired:
    """Count why items have no partner, by what the other side knows of them."""

    def known(name: str) -> Bools:
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
    """Return why nothing can be compared, and the way out."""
    both = f"{a.source} and {b.source} share no item"
    if of_a.reasons.get("gold"):
        return (
            f"{both}: {of_a.reasons['gold']} have another right answer in B, such as "
            f"{of_a.first[0]!r}; score both against the same revision of the data"
        )
    if of_a.reasons.get("question"):
        return (
            f"{both}: {of_a.reasons['question']} have another prompt or other options in B, such "
            f"as {of_a.first[0]!r}; run both alike, or, to compare them nevertheless, name the "
            "column that says which items are the same: --id doc_hash"
        )
    same = sorted(set(a.table["id"]) & set(b.table["id"]))
    if content and same:
        name = a.id_name if a.id_name == b.id_name else "id"
        return (
            f"{both} by content: {len(same)} ids are in both, such as {same[0]!r}, but their "
            "questions, options or right answers differ; if equal ids are the same items say "
            f"--id {name}"
        )
    way = (
        "pair them by ids that both share, with --id COLUMN"
        if content
        else "name another column with --id"
    )
    return (
        f"{both} (A has {of_a.n} such as {first_few(of_a.first[:1])}, B {of_b.n} such as "
        f"{first_few(of_b.first[:1])}); {way}"
    )
