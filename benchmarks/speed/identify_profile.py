"""Where a pass's time goes: forward and backward of each part of the model, by torch's profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from dsmoe_eval.steering import find_routers

MARK = "part: "
REST = "loss, residuals, capture, batching"
BETWEEN = "Python between operations"


def shares(work: Callable[[], object], model: Any) -> dict[str, float]:
    """Share of `work`'s time by part of the model; the profiler itself slows small operations."""
    with _marked(model), profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    events = list(found.events())
    parts = _parts_of_forward(events)
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if not event.name.startswith(MARK):
            seconds[_part(event, parts)] += event.self_cpu_time_total
    spent = sum(seconds.values())
    start, end = (
        min(event.time_range.start for event in events),
        max(event.time_range.end for event in events),
    )
    seconds[BETWEEN] = max(0.0, end - start - spent)
    whole = sum(seconds.values())
    return {part: value / whole for part, value in sorted(seconds.items(), key=lambda x: -x[1])}


def _marked_parts(model: Any) -> dict[nn.Module, str]:
    routers = find_routers(model)
    parts = {model.get_output_embeddings(): "LM head"}
    parts |= {router.module: "router" for router in routers}
    parts |= {router.consumer: "experts" for router in routers}
    for module in model.modules():
        kind = type(module).__name__
        if "Norm" in kind:
            parts.setdefault(module, "norms")
        elif kind.endswith("Attention"):
            parts.setdefault(module, "attention")
    return parts


@contextmanager
def _marked(model: Any) -> Iterator[None]:
    """Every part's forward stands in the profile under its name."""
    handles, open_marks = [], []

    def enter(part: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            open_marks.append(record_function(MARK + part))
            open_marks[-1].__enter__()

        return hook

    def leave(*_: object) -> None:
        open_marks.pop().__exit__(None, None, None)

    for module, part in _marked_parts(model).items():
        handles.append(module.register_forward_pre_hook(enter(part)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts_of_forward(events: list[Any]) -> dict[int, str]:
    """Autograd's sequence number -> part; the last operation to hold a number made its node."""
    parts = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and _backward(event) is None:
            parts[event.sequence_nr] = _mark_above(event)
    return parts


def _part(event: Any, parts: dict[int, str]) -> str:
    root = _backward(event)
    return _mark_above(event) if root is None else parts.get(root.sequence_nr, REST)


def _backward(event: Any) -> Any:
    """The autograd node that the event runs in, or None in the forward pass."""
    while event is not None:
        if event.name.startswith("autograd::engine::evaluate_function"):
            return event
        event = event.cpu_parent
    return None


def _mark_above(event: Any) -> str:
    while event is not None:
        if event.name.startswith(MARK):
            return str(event.name.removeprefix(MARK))
        event = event.cpu_parent
    return REST
