"""Data sets of the hub that nobody here has: a few made-up rows in their published columns."""

import json

import yaml

ROWS = 240
LANGUAGES = ("en", "de")
_SUBJECTS = ("biology", "chemistry", "law", "math", "physics")


def _medqa(n):
    endings = {f"ending{i}": f"drug {n + i}" for i in range(4)}
    return {"id": f"{n}", "sent1": f"Which drug helps patient {n}?", "sent2": "", **endings,
            "label": n % 4}  # fmt: skip


def _medmcqa(n):
    options = {f"op{letter}": f"nerve {n} {letter}" for letter in "abcd"}
    return {"id": f"{n}", "question": f"Which nerve is number {n}?", **options, "cop": n % 4}


def _pubmedqa(n):
    return {
        "QUESTION": f"Does treatment {n} work?", "CONTEXTS": [f"We tried {n}.", "It was fine."],
        "LABELS": [], "MESHES": [], "LONG_ANSWER": "It does.",
        "final_decision": ("yes", "no", "maybe")[n % 3],
    }  # fmt: skip


def _hellaswag(n):
    return {
        "ind": n, "activity_label": "Baking", "ctx_a": f"Cook {n} has flour.", "ctx_b": "then she",
        "ctx": "", "endings": [f"bakes {n} loaves.", "flies.", "[title] sleeps.", "sings."],
        "source_id": f"{n}", "split": "", "split_type": "", "label": str(n % 4),
    }  # fmt: skip


def _gsm8k(n):
    return {"question": f"How many are {n} and 2?", "answer": f"{n} + 2 = {n + 2}\n#### {n + 2}"}


def _ifeval(n):
    return {
        "key": n, "prompt": f"Write about {n} without commas.",
        "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}],
    }  # fmt: skip


def _mmlu_prox(n):
    options = {f"option_{i}": f"{n} {i}" if i < 4 else None for i in range(10)}
    return {
        "question_id": n, "question": f"How is {n}?", **options, "answer": "ABCD"[n % 4],
        "answer_index": n % 4, "cot_content": "A: Let's think. The answer is (A).",
        "category": _SUBJECTS[n % len(_SUBJECTS)], "src": "made up",
    }  # fmt: skip


_MADE = {
    "GBaker/MedQA-USMLE-4-options-hf": (_medqa, {"default"}, ("train", "validation", "test")),
    "openlifescienceai/medmcqa": (_medmcqa, {"default"}, ("train", "validation")),
    "bigbio/pubmed_qa": (
        _pubmedqa, {"pubmed_qa_labeled_fold0_source"}, ("train", "validation", "test")
    ),
    "Rowan/hellaswag": (_hellaswag, {"default"}, ("train", "validation")),
    "openai/gsm8k": (_gsm8k, {"main"}, ("train", "test")),
    "google/IFEval": (_ifeval, {"default"}, ("train",)),
    "li-lab/MMLU-ProX": (_mmlu_prox, set(LANGUAGES), ("validation", "test")),
}  # fmt: skip


def write_snapshots(folder):
    """Each as the hub's snapshot of it, below `folder`."""
    for place, (row, configs, splits) in _MADE.items():
        told = []
        for config in sorted(configs):
            files = []
            for index, split in enumerate(splits):
                path = folder / place / config / f"{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [row(n + 1000 * index) for n in range(ROWS)]
                path.write_text("".join(json.dumps(one) + "\n" for one in rows))
                files.append({"split": split, "path": f"{config}/{split}.jsonl"})
            told.append({"config_name": config, "data_files": files})
        (folder / place / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': told})}---\n")
    return folder


def write_aime(folder):
    """Problems in the layout of the two AIME files that `--data` reads."""
    (folder / "aime").mkdir()
    for year in (2024, 2025):
        rows = [
            {"id": f"{year}-{n}", "problem": f"Add {n} and 4.", "answer": n + 4} for n in range(30)
        ]
        path = folder / "aime" / f"aime_{year}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder
