"""Builds the data of the suite `smol`, and its task files, from two folders of open text.

python benchmarks/tasks/smol/build.py FOLDER

FOLDER holds `corpora/<domain>.jsonl.gz`, one document per line with its licence, and
`mmlu/mmlu_hendrycks_csv.zip`, MMLU in its authors' layout. What is written is the same every time.

Which documents serve what follows from their index within the domain's file, counted over the lines
whose licence is not in `NOT_COUNTED`: 0, 1 and 2 modulo 5 were trained on (by `lab-smol`), 3
serve identification and tuning, 4 the test. Only licences in `EMBEDDED` are copied.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmoe_eval.files import write_bytes, write_text
from dsmoe_eval.tasks.items import wording_of
from dsmoe_eval.tasks.passages import (
    PER_DOCUMENT,
    STRETCH,
    Passage,
    passage_items,
    passages,
    unrepeated,
)
from dsmoe_eval.tasks.texts import TextDocument, word_prefix

HERE = Path(__file__).resolve().parent
NOT_COUNTED = ("Design-Science-License", "CC-BY-SA-4.0")
EMBEDDED = ("CC-BY-4.0", "CC-BY-2.5-CA", "CC0-1.0", "OGL-Canada-2.0", "MIT OR Apache-2.0")
DOCUMENTS = {"identification": 18, "tuning": 8, "test": 25}
"""The most documents per domain and split; fewer than `FEWEST` for the test and it is left out."""
FEWEST = 20
FEW_PASSAGES = {"tuning": 2, "test": 6}
"""Documents of which a non-target task of the suite `smol` has one passage each."""
FEW_TEXTS = 8
"""Test documents whose text the suite `smol` reads."""
TEXT_CHARACTERS = {"identification": 1_000, "tuning": 600, "test": 600}
TEXT_START = 1_500
QUESTION_CHARACTERS = 400
"""The longest question of MMLU with its options that is taken: longer ones cost too much."""
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "math": ("abstract_algebra", "college_mathematics", "elementary_mathematics",
             "high_school_mathematics", "high_school_statistics"),
    "physics": ("college_physics", "conceptual_physics", "high_school_physics"),
    "biology": ("college_biology", "high_school_biology"),
    "health": ("anatomy", "clinical_knowledge", "college_medicine", "human_aging",
               "medical_genetics", "nutrition", "professional_medicine", "virology"),
    "law": ("international_law", "jurisprudence", "professional_law"),
    "history": ("high_school_european_history", "high_school_us_history",
                "high_school_world_history", "prehistory"),
    "economics": ("econometrics", "high_school_macroeconomics", "high_school_microeconomics"),
    "computer-science": ("college_computer_science", "computer_security",
                         "high_school_computer_science", "machine_learning"),
    "philosophy": ("formal_logic", "logical_fallacies", "moral_disputes", "moral_scenarios",
                   "philosophy", "world_religions"),
}  # fmt: skip
"""The domains, and the subjects of MMLU that belong to each; all others are `other`."""
QUESTIONS = {"tuning": 20, "test": 100}
FEW_QUESTIONS = {"tuning": 2, "test": 6}
"""The most questions of MMLU per domain and split, and those of the suite `smol`; of `other` twice
as many."""
PARTS = {"val": "tuning", "test": "test"}
Row = dict[str, Any]


def read_corpus(folder: Path, domain: str) -> list[Row]:
    """Return the documents that were not trained on, by their split."""
    path = folder / "corpora" / f"{domain.replace('-', '_')}.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    counted = [row for row in rows if row["license"] not in NOT_COUNTED]
    return [
        row | {"domain": domain, "split": "test" if index % 5 == 4 else ""}
        for index, row in enumerate(counted)
        if index % 5 >= 3 and row["license"] in EMBEDDED and len(row["text"]) >= 4 * STRETCH
    ]


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return up to `count` rows, spread evenly."""
    count = min(count, len(rows))
    return [rows[len(rows) * index // count] for index in range(count)]


def chosen(rows: Sequence[Row]) -> list[Row]:
    """Choose the documents of each split."""
    before = spread([row for row in rows if row["split"] != "test"], sum(
        DOCUMENTS[split] for split in ("identification", "tuning")
    ))  # fmt: skip
    tuning = {id(row) for row in spread(before[1:], DOCUMENTS["tuning"])}
    named = [row | {"split": "tuning" if id(row) in tuning else "identification"} for row in before]
    test = spread([row for row in rows if row["split"] == "test"], DOCUMENTS["test"])
    return named + test if len(test) >= FEWEST else []


def excerpt(row: Row) -> Row:
    """Return a document with the part of its text that is embedded."""
    text = str(row["text"]).strip()
    start = TEXT_START if len(text) >= 2 * TEXT_START else 0
    while start and not text[start - 1].isspace():
        start += 1
    part = word_prefix(text[start:].strip(), TEXT_CHARACTERS[row["split"]]).rstrip()
    first = ("id", "domain", "split", "source", "title", "license", "repo", "commit", "path")
    return {key: row[key] for key in first} | {"text": part}


def without_repeats(kept: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Leave out test documents whose excerpt has a passage of another document's excerpt."""
    parts = {row["id"]: excerpt(row)["text"] for rows in kept.values() for row in rows}
    alone = unrepeated([Passage(name, text, "") for name, text in parts.items()], parts)
    names = {one.document for one in alone}
    return {
        domain: [row for row in rows if row["split"] != "test" or row["id"] in names]
        for domain, rows in kept.items()
    }


def passage_rows(rows: Sequence[Row], texts: Mapping[str, str]) -> Iterator[Row]:
    """Yield the items of next-passage choice of one domain; `texts` are all documents by id."""
    for split in ("tuning", "test"):
        members = [row for row in rows if row["split"] == split]
        few = {row["id"] for row in spread(members, FEW_PASSAGES[split])}
        pool: list[Passage] = []
        for row in members:
            document = TextDocument(row["domain"], row["text"].strip(), row["id"])
            pool.extend(passages(document, row["id"], PER_DOCUMENT))
        seen: Counter[str] = Counter()
        for item in passage_items(unrepeated(pool, texts)):
            seen[item.document] += 1
            yield {
                "domain": rows[0]["domain"],
                "split": split,
                "document": item.document,
                # The second of each document: the first is its beginning.
                "few": item.document in few and seen[item.document] == 2,
                "question": item.context,
                "choices": item.options,
                "gold": item.gold,
            }


def questions(folder: Path) -> Iterator[Row]:
    """Yield the questions of MMLU, as many as there is room for, none of them twice."""
    asked = set[str]()
    named = {subject: domain for domain, subjects in SUBJECTS.items() for subject in subjects}
    with zipfile.ZipFile(folder / "mmlu" / "mmlu_hendrycks_csv.zip") as archive:
        for part, split in PARTS.items():
            found: dict[str, list[Row]] = {}
            for name in sorted(archive.namelist()):
                if name.startswith(f"data/{part}/") and name.endswith(".csv"):
                    subject = Path(name).stem.removesuffix(f"_{part}")
                    rows = csv.reader(io.StringIO(archive.read(name).decode("utf-8"), newline=""))
                    domain = named.get(subject, "other")
                    found.setdefault(domain, []).extend(question_rows(rows, domain, subject, split))
            for domain, members in sorted(found.items()):
                random.Random(f"{domain} {split}").shuffle(members)
                members = [row for row in members if wording_of(row["question"]) not in asked]
                times = 2 if domain == "other" else 1
                for number, row in enumerate(members[: QUESTIONS[split] * times]):
                    asked.add(wording_of(row["question"]))
                    yield row | {"few": number < FEW_QUESTIONS[split] * times}


def question_rows(
    rows: Iterable[Sequence[str]], domain: str, subject: str, split: str
) -> Iterator[Row]:
    """Yield the questions of a file that are short, and have four different options."""
    for question, *choices, gold in rows:
        short = len("".join([question, *choices])) <= QUESTION_CHARACTERS
        if short and len(set(choices)) == len(choices):
            yield {
                "domain": domain, "split": split, "subject": subject,
                "question": question, "choices": choices, "gold": "ABCD".index(gold),
            }  # fmt: skip


def write_rows(name: str, rows: Sequence[Row]) -> None:
    """Write a file of the data folder, the same bytes for the same rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(HERE / "data" / name, gzip.compress(text.encode(), mtime=0))


def task_files(domains: Sequence[str]) -> dict[str, str]:
    """Return the task YAMLs by file name."""
    kinds = {
        "passages": "passages.jsonl.gz",
        "text": "documents.jsonl.gz",
        "mmlu": "mmlu.jsonl.gz",
    }
    found = [(domain, kind) for domain in domains for kind in kinds] + [("other", "mmlu")]
    return {
        f"{domain}_{kind}{few and '_few'}.yaml": (
            f"include: _{kind}.yaml\ntask: smol_{domain.replace('-', '_')}_{kind}{few and '_few'}\n"
            f"dataset_kwargs:\n  file: {kinds[kind]}\n  domain: {domain}\n{few}"
        )
        for domain, kind in found
        for few in ("", "  few: true\n")
    }


def attribution(rows: Sequence[Row]) -> str:
    """Return the page that names each source, its licence and what was changed."""
    sources = Counter((r["source"], r["license"], r["repo"], r["commit"]) for r in rows)
    lines = [
        f"| {source} | {licence} | [{repo}](https://github.com/{repo}/tree/{commit}) | {count} |"
        for (source, licence, repo, commit), count in sorted(sources.items())
    ]
    return (HERE / "attribution.md.in").read_text(encoding="utf-8").rstrip() + "\n" + "\n".join(
        lines
    ) + "\n"  # fmt: skip


def main(folder: Path) -> None:
    """Write the data, the task files and ATTRIBUTION.md."""
    by_domain = {domain: chosen(read_corpus(folder, domain)) for domain in SUBJECTS}
    kept = without_repeats({domain: rows for domain, rows in by_domain.items() if rows})
    documents = [row for rows in kept.values() for row in rows]
    texts = {row["id"]: row["text"] for row in documents}
    items = [row for rows in kept.values() for row in passage_rows(rows, texts)]
    asked = [row for row in questions(folder) if row["domain"] in (*kept, "other")]
    few = {row["id"] for rows in kept.values() for row in spread(
        [row for row in rows if row["split"] == "test"], FEW_TEXTS
    )}  # fmt: skip
    write_rows(
        "documents.jsonl.gz", [excerpt(row) | {"few": row["id"] in few} for row in documents]
    )
    write_rows("passages.jsonl.gz", items)
    write_rows("mmlu.jsonl.gz", asked)
    for name, text in task_files([*kept]).items():
        write_text(HERE / name, text)
    write_text(HERE / "ATTRIBUTION.md", attribution(documents))
    for name, rows in {"documents": documents, "passages": items, "questions": asked}.items():
        counts = Counter((row["domain"], row["split"]) for row in rows)
        sys.stdout.write(f"{name}: {json.dumps({' '.join(key): n for key, n in counts.items()})}\n")
    missing = [domain for domain in by_domain if domain not in kept]
    sys.stdout.write(f"left out: {', '.join(missing) or 'none'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
