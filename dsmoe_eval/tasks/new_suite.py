"""A suite that is made from text documents: tasks, data, suite file and plan.

No question has to be written: the items are next-passage choice (see `passages.py`), and text that
served nothing else is scored in bits per byte.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import new_folder
from ..registry import builtin_folder
from .items import digest
from .passages import STRETCH, Passage, passage_items, passages, unrepeated
from .texts import CHUNKS, TextDocument, documents_by_domain, word_prefix

FEWEST = {"identification": 2, "tuning": 2, "test": 4}
"""The least documents of a domain that each stage needs, each long enough for an item."""
SHARES = {"tuning": 0.2, "test": 0.4}
"""The shares of a domain's documents; the rest, and short ones, serve identification."""
TEXT_CHARACTERS = 1_500
_CODE = ("data.py", "_passages.yaml", "_text.yaml")
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class DomainSize:
    """What a new suite has of one domain.

    Attributes:
        documents: stage -> number of documents.
        items: stage -> number of items; none in identification.
        repeated: passages that were left out because another document has them too.
    """

    domain: str
    documents: Mapping[str, int]
    items: Mapping[str, int]
    repeated: int


def write_suite(
    documents: Sequence[TextDocument], out: Path, seed: int = 0
) -> tuple[DomainSize, ...]:
    """Write a folder with suite, tasks, data and plan; return the sizes by domain.

    Args:
        documents: the documents of two or more domains.
        out: the folder, which does not exist yet; its name is the suite's name.
        seed: the seed by which documents go to the stages of a run, and false options to items.

    Raises:
        UserError: the folder exists or its name is no name of a suite, or a domain has too few
            documents.
    """
    name = out.resolve().name
    if out.exists():
        raise UserError(f"{out}: exists already; give the path of a new folder")
    if not all(one.isalnum() or one in "._+-" for one in name) or not name[:1].isalnum():
        raise UserError(f"{out}: {name!r} is no name of a suite; use letters, digits and `-`")
    stages = {
        domain: _staged(domain, members, seed)
        for domain, members in documents_by_domain(documents).items()
    }
    _check(stages)
    texts = {one.id: one.text for one in documents}
    rows: dict[str, list[Row]] = {"documents": [], "passages": [], "text": []}
    sizes = [_add_domain(rows, domain, of, texts, seed) for domain, of in stages.items()]
    with new_folder(out) as draft:
        _write(draft, name, rows, [*stages])
    return tuple(sizes)


Stages = Mapping[str, Sequence[TextDocument]]


def _staged(domain: str, members: Sequence[TextDocument], seed: int) -> Stages:
    """Split a domain's documents among the stages of a run."""
    long = [one for one in members if len(one.text) >= STRETCH]
    short = [one for one in members if len(one.text) < STRETCH]
    random.Random(digest(seed, domain)).shuffle(long)
    tuning, test = (
        max(FEWEST[stage], int(len(long) * SHARES[stage])) for stage in ("tuning", "test")
    )
    return {
        "tuning": long[:tuning],
        "test": long[tuning : tuning + test],
        "identification": [*long[tuning + test :], *short],
    }


def _check(stages: Mapping[str, Stages]) -> None:
    if len(stages) < 2:
        raise UserError(
            f"text of {len(stages)} domain(s); give two or more: steering for one must not hurt "
            "another"
        )
    needed = sum(FEWEST.values())
    few = [
        f"{domain} {sum(len(one.text) >= STRETCH for members in of.values() for one in members)}"
        for domain, of in stages.items()
        if any(len(of[stage]) < least for stage, least in FEWEST.items())
    ]
    if few:
        raise UserError(
            f"each domain needs {needed} documents of {STRETCH} characters or more; there are: "
            f"{', '.join(few)}; add documents, or separate those of a file by lines of `---`"
        )


def _add_domain(
    rows: Mapping[str, list[Row]],
    domain: str,
    stages: Stages,
    texts: Mapping[str, str],
    seed: int,
) -> DomainSize:
    """Add a domain's documents, items and texts to the rows of the data files."""
    items, repeated = {}, 0
    for one in stages["identification"]:
        rows["documents"].append(
            {"id": one.id, "domain": domain, "split": "identification", "text": one.text}
        )
    for stage in ("tuning", "test"):
        pool = [passage for one in stages[stage] for passage in passages(one, one.id)]
        kept = unrepeated(pool, texts)
        repeated += len(pool) - len(kept)
        made = _items(domain, stage, kept, seed)
        items[stage] = len(made)
        rows["passages"].extend(made)
    read = [Passage(one.id, word_prefix(one.text, TEXT_CHARACTERS), "") for one in stages["test"]]
    rows["text"].extend(
        {"document": one.document, "domain": domain, "split": "test", "text": one.context}
        for one in unrepeated(read, texts)
    )
    counts = {stage: len(members) for stage, members in stages.items()}
    return DomainSize(domain, counts, items, repeated)


def _items(domain: str, stage: str, pool: Sequence[Passage], seed: int) -> list[Row]:
    if not pool:
        raise UserError(
            f"domain {domain!r}, {stage}: every passage is also in another document; give "
            "documents that do not repeat each other"
        )
    try:
        made = passage_items(pool, seed)
    except UserError as error:
        raise UserError(f"domain {domain!r}, {stage}: {error}") from error
    return [
        {
            "document": one.document,
            "domain": domain,
            "split": stage,
            "question": one.context,
            "choices": one.options,
            "gold": one.gold,
        }
        for one in made
    ]


def _write(folder: Path, name: str, rows: Mapping[str, list[Row]], domains: Sequence[str]) -> None:
    tasks = folder / "tasks"
    (tasks / "data").mkdir(parents=True)
    (folder / "suites").mkdir()
    for file in _CODE:
        shutil.copyfile(builtin_folder() / "tasks" / "smol" / file, tasks / file)
    for kind, members in rows.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in members)
        (tasks / "data" / f"{kind}.jsonl").write_text(lines, encoding="utf-8")
    for domain in domains:
        for kind in ("passages", "text"):
            (tasks / f"{domain}_{kind}.yaml").write_text(
                f"include: _{kind}.yaml\ntask: {name}_{domain}_{kind}\ndataset_kwargs:\n"
                f'  file: {kind}.jsonl\n  domain: "{domain}"\n',
                encoding="utf-8",
            )
    (folder / "suites" / f"{name}.yaml").write_text(_suite(name, domains), encoding="utf-8")
    (folder / "plan.yaml").write_text(_plan(name, domains), encoding="utf-8")


def _suite(name: str, domains: Sequence[str]) -> str:
    passage = "  - {{name: {0}_{1}_passages, domain: {1}, roles: [target, non-target], {2}}}\n"
    text = "  - {{name: {0}_{1}_text, domain: {1}, roles: [text], {2}}}\n"
    scored = "metric: acc_norm, group_column: document"
    read = "metric: bits_per_byte, group_column: document"
    return (
        f"name: {name}\n"
        f"description: Which text continues a passage of {', '.join(domains)}.\n"
        "tasks_dir: ../tasks\n"
        "# The text from which experts are identified; more documents per domain are better.\n"
        "documents: {file: ../tasks/data/documents.jsonl, characters: 500, "
        f"chunks: {CHUNKS}}}\n"
        "# Documents of one split are in no other: settings are chosen on tuning, results are of\n"
        "# test.\n"
        "splits: {tuning: tuning, test: test}\n"
        "tasks:\n"
        "  # Target: four texts of the domain, one of which continues the passage. For arms of\n"
        "  # another domain the same items are what must not suffer. Documents are the clusters.\n"
        + "".join(passage.format(name, one, scored) for one in domains)
        + "  # Held-out text in bits per byte.\n"
        + "".join(text.format(name, one, read) for one in domains)
    )


def _plan(name: str, domains: Sequence[str]) -> str:
    return (
        f"# Run it: dsmoe-eval run {name}/plan.yaml --model path/to/model\n"
        f"name: {name}\n"
        "description: Does steering towards a domain's experts help to continue its texts?\n"
        "model: path/to/model # a folder or a name of the hub; --model replaces it\n"
        f"suite: {name} # suites/{name}.yaml\n"
        "# The domains that are steered for; leave some out to save time.\n"
        f"targets: [{', '.join(domains)}]\n"
        "# base: the model unchanged. dsmoe-bias and contrast: its experts, found in two ways.\n"
        "# Each gets a placebo: as many random experts. `dsmoe-eval list variants` has more.\n"
        "variants: [base, dsmoe-bias, contrast]\n"
        "placebo_draws: 1\n"
        "seed: 0\n"
        "# A passage is continued as plain text; in a chat template it would be answered.\n"
        "prompt: plain\n"
        "# The log-probability of the true continuation; the score sees only large changes.\n"
        "outcome: gold_logprob\n"
        "# How much the other domains may lose: a fraction of items, and nats.\n"
        "margin: 0.05\n"
        "margins: {gold_logprob: 0.05}\n"
        "significance_level: 0.05\n"
        "# Chosen on the tuning items: the number of experts, and how strongly to prefer them.\n"
        "tuning:\n"
        "  expert_counts: [8, 24]\n"
        "  strengths:\n"
        "    bias_sigma: [1.0, 2.0] # times the spread of a layer's logits over its experts\n"
    )
