"""The contribution of each selected expert to a token, by EASY-EP and by REAP.

REAP's (arXiv 2510.13999) is g_(t,i) = w_(t,i) * ||e_i(x_t)||_2, with w_(t,i) the weight by which
the model itself multiplies the output e_i(x_t) of expert i, under any scoring rule.

EASY-EP's (arXiv 2504.06792) is s_t * g_(t,i), with s_t = max(0, 1 - cos(h_t, h_t + r_t)): h_t the
residual stream before the MoE block, r_t the sum that the routed experts add to it. (Shared experts
are in neither term, as in the authors' code.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..steering import Router, SteeringError
from .outputs import call_roles, given_to

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


class Contributions(NamedTuple):
    """Those of a pass, [tokens, layers, k] float32, in the order of the experts' indices.

    Attributes:
        moved: EASY-EP's, weighted by how far the token was moved.
        gated: REAP's, weight x norm of the output.
    """

    moved: Tensor
    gated: Tensor


@contextmanager
def capture_contributions(
    model: nn.Module, routers: Sequence[Router]
) -> Iterator[Callable[[], Contributions]]:
    """Compute contributions in each forward pass inside the context.

    The context value is a function that returns those of the last pass, in the order of
    `capture_routing`.

    Raises:
        SteeringError: in the forward pass, if a layer's experts cannot be run one by one.
    """
    contributions: dict[int, Contributions] = {}

    def last() -> Contributions:
        missing = [router.layer for router in routers if router.layer not in contributions]
        if missing:
            raise SteeringError(
                f"no contributions were recorded in layers {missing}: the experts did not run"
            )
        of_layers = (contributions[router.layer] for router in routers)
        return Contributions(*(torch.stack(one, dim=1) for one in zip(*of_layers, strict=True)))

    with ExitStack() as stack:
        for router in routers:
            block = model.get_submodule(router.name.rpartition(".")[0])
            layer = model.get_submodule(router.name.rpartition(".")[0].rpartition(".")[0])
            watch = _Watch(router, contributions)
            handles = [
                router.consumer.register_forward_hook(watch.experts, with_kwargs=True),
                block.register_forward_hook(watch.block),
                layer.register_forward_hook(watch.layer),
            ]
            for handle in handles:
                stack.callback(handle.remove)
        yield last


class _Watch:
    """The hooks of one layer, in the order of their calls: experts, block, layer."""

    def __init__(self, router: Router, contributions: dict[int, Contributions]) -> None:
        self.router = router
        self.contributions = contributions
        self.weighted = self.added = self.block_output = torch.empty(0)

    @torch.no_grad()
    def experts(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        each, weights = run_each(module, args, kwargs, self.router)
        routed = output.detach().float().reshape(each.shape[0], -1)
        together = (each * weights.unsqueeze(-1)).sum(1)
        tolerance = _TOLERANCE[output.dtype] * float(routed.abs().max())
        if float((together - routed).abs().max()) > tolerance:
            raise SteeringError(
                f"layer {self.router.layer}: the experts' weighted outputs do not add up to the "
                f"output of {type(module).__name__}, so their contributions are not known"
            )
        self.weighted = weights * each.norm(dim=-1)
        self.added = routed

    @torch.no_grad()
    def block(self, _module: nn.Module, _args: object, output: Any) -> None:
        self.block_output = _first(output).detach().float()

    @torch.no_grad()
    def layer(self, _module: nn.Module, _args: object, output: Any) -> None:
        # A decoder layer returns the residual stream with the block's output added.
        before = _first(output).detach().float() - self.block_output
        before = before.reshape(self.added.shape).to(self.added.device)
        cosine = nn.functional.cosine_similarity(before, before + self.added, dim=-1)
        moved = (1 - cosine).clamp(min=0).unsqueeze(-1)
        self.contributions[self.router.layer] = Contributions(
            (moved * self.weighted).cpu(), self.weighted.cpu()
        )


def run_each(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], router: Router
) -> tuple[Tensor, Tensor]:
    """Compute the output of every selected expert, by a call with one expert per row.

    Args:
        module: the experts module.
        args: the arguments of its call: hidden states [tokens, hidden], indices and weights
            [tokens, k], in any order.
        kwargs: the keyword arguments of its call.
        router: the router of the layer.

    Returns:
        Outputs [tokens, k, hidden] and weights [tokens, k], float32.
    """
    given = given_to(args, kwargs)
    hidden, indices, weights = call_roles(router, given)
    shape = given[weights].shape
    one_per_row = {
        hidden: given[hidden].detach().repeat_interleave(shape[1], 0),
        indices: given[indices].reshape(-1, 1),
        weights: torch.ones_like(given[weights]).reshape(-1, 1),
    }
    changed = {**given, **one_per_row}
    # `forward` skips the module's hooks, which must only see the calls of the model itself.
    output = module.forward(
        *(changed[index] for index in range(len(args))), **{n: changed[n] for n in kwargs}
    )
    return output.float().reshape(*shape, -1), given[weights].detach().float()


def _first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor
