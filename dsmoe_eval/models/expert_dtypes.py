"""The dtype of a loaded model's experts, which a library may have chosen without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import UserError
from ..steering import find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HALF = (torch.bfloat16, torch.float16)


def check_one_dtype(name: str, model: PreTrainedModel) -> None:
    """Check that a loaded model's experts are not in a coarser dtype than the rest of it.

    transformers 5.19 decompresses some experts to bfloat16 in a model of any dtype. Products are
    then computed in bfloat16 in a float32 model, or not at all (see docs/models.md). Weights that
    stay quantized have a library's kernels, and are not looked at.

    Args:
        name: the model, with which the message begins.
        model: the model, which has routers.

    Raises:
        UserError: they are.
    """
    whole = model.dtype
    for router in find_routers(model):
        for weight in router.consumer.parameters():
            if weight.dtype in _HALF and torch.finfo(weight.dtype).eps > torch.finfo(whole).eps:
                coarse, rest = (str(one).removeprefix("torch.") for one in (weight.dtype, whole))
                raise UserError(
                    f"{name}: its experts are in {coarse} once loaded and the rest in {rest}, so "
                    f"that its outputs are those of neither; load all of it in {coarse}, by "
                    f"--dtype {coarse} or `dtype: {coarse}` in the plan"
                )
