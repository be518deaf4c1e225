"""Do the experts of lab-smol gather neurons of one domain? Writes reports/smol/dense-experts.md.

python benchmarks/gathered_neurons.py reports/smol
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from dsmoe_eval.files import write_json, write_text
from dsmoe_eval.lab.smol import SHAPE, load_carving
from dsmoe_eval.models import load_model
from dsmoe_eval.progress import progress_bar
from dsmoe_eval.steering import Sites
from dsmoe_eval.studies.documents import document_routing
from dsmoe_eval.studies.gathering import Gathering, gathering
from dsmoe_eval.tasks.identification import identification_text

SHUFFLES = 199


def main(folder: Path) -> None:
    """Measure, and write the page and its JSON into a folder."""
    sites, console = Sites(kind="neurons"), Console(stderr=True)
    text = identification_text("smol")
    loaded = load_model("lab-smol-dense", "cpu", sites=sites)
    texts = sum(len(task.items) for task in text.tasks.values())
    with progress_bar(console, "route texts", texts, "texts") as advance:
        routing = document_routing(loaded.model, loaded.tokenizer, text.tasks, advance, sites)
    experts = np.stack(
        [one.order[SHAPE.shared :].reshape(SHAPE.experts, -1).numpy() for one in load_carving()]
    )
    with progress_bar(console, "shuffle", 2 * SHUFFLES, "shuffles") as advance:
        found = gathering(routing, experts, np.random.default_rng(0), SHUFFLES, advance)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"domains": routing.domains, "documents": len(routing.tokens)}
    write_json(folder / "dense-experts.json", about | found.to_dict())
    write_text(folder / "dense-experts.md", page(found, routing.domains, len(routing.tokens)))


def page(found: Gathering, domains: tuple[str, ...], documents: int) -> str:
    """Return the page in Markdown."""
    neurons, labels = np.array(found.shuffled_neurons), np.array(found.shuffled_labels)
    rows = [f"| {name} | {one:.3f} |" for name, one in zip(domains, found.by_domain, strict=True)]
    layers = ", ".join(f"{one:.2f}" for one in found.by_layer)
    lines = [
        "# Do the experts of lab-smol gather neurons of one domain?",
        "",
        "`lab-smol` was carved from `lab-smol-dense` by which neurons are active together, without",
        "domains. A neuron's lean to a domain is the t of its excess use in the dense model, over",
        f"{documents} identification texts of {len(domains)} domains. Gathering is the share of",
        "the variance of leans within a layer that lies between its routed experts (eta squared).",
        "",
        "| | share of variance between experts | p |",
        "|---|---|---|",
        f"| the experts of lab-smol | {found.share:.4f} | |",
        f"| neurons shuffled among experts ({len(neurons)}) | {neurons.mean():.4f}, at most "
        f"{neurons.max():.4f} | {found.p_neurons:.3f} |",
        f"| documents' labels shuffled ({len(labels)}) | {labels.mean():.4f}, at most "
        f"{labels.max():.4f} | {found.p_labels:.3f} |",
        "",
        "The first control asks whether neurons of one expert lean alike; the second whether they",
        "lean alike to domains more than to other sets of as many documents: what is active",
        "together leans alike to any of them.",
        "",
        "| domain | share |",
        "|---|---|",
        *rows,
        "",
        f"By layer: {layers}.",
        "",
        "`python benchmarks/gathered_neurons.py reports/smol` writes this page again.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
