"""Identification by the routing of the engine that answers, with what else the learner gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..errors import UserError
from ..experts import RoutingCounts, with_saliency
from .answered import with_answers
from .identification import count_seen, observe_text, read_documents
from .job import Job
from .specification import IdentificationSpec


def count_routed(
    job: Job, wanted: IdentificationSpec, advance: Callable[[int], None]
) -> RoutingCounts:
    """Count the routing of the engine that answers over the identification text.

    The saliency of tokens and generated answers are the learner's, which reads the text first.

    Raises:
        UserError: the text, the tokenizer or an engine does not allow it; the message says why.
    """
    tasks, root = job.identification.tasks, job.folder.observations
    generated = wanted.settings.phase == "generated"
    try:
        documents = read_documents(
            job.learner if generated else job.engine, tasks, wanted.settings, root
        )
        salient = None
        if wanted.saliency:
            salient = observe_text(job.learner, tasks, documents, wanted, root, lambda _: None)
        with job.roles.seen() as engine:
            alone = replace(wanted, saliency=False)
            seen = observe_text(engine, tasks, documents, alone, root, advance)
        if salient is not None:
            seen = with_saliency(seen, salient)
        counts = count_seen(seen, job.engine.tokenizer, wanted)
        return with_answers(job.learner, tasks, counts, root, wanted, advance)
    except ValueError as error:
        raise UserError(str(error)) from error
