"""Experts in a coarser dtype than the rest are refused; equal and finer ones are not."""

import pytest
import torch

from dsmoe_eval.errors import UserError
from dsmoe_eval.models.expert_dtypes import check_one_dtype
from dsmoe_eval.steering import find_routers

from ..conftest import make_model


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss"])
@pytest.mark.parametrize("whole", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("experts", [torch.float32, torch.float16, torch.bfloat16])
def test_only_a_coarser_dtype_is_refused(name, whole, experts):
    model, order = make_model(name).to(whole), [torch.float32, torch.float16, torch.bfloat16]
    find_routers(model)[-1].consumer.to(experts)
    if order.index(experts) <= order.index(whole):
        check_one_dtype("model 'm'", model)
        return
    words = [str(one).removeprefix("torch.") for one in (experts, whole)]
    with pytest.raises(UserError, match=f"experts are in {words[0]} once .* rest in {words[1]},"):
        check_one_dtype("model 'm'", model)


def test_experts_that_stay_quantized_are_left_to_their_library():
    model = make_model("olmoe")
    experts = find_routers(model)[0].consumer
    experts.down_proj = torch.nn.Parameter(experts.down_proj.to(torch.int8), requires_grad=False)
    check_one_dtype("model 'm'", model)
