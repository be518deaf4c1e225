"""Requests in vLLM's terms."""

from dsmoe_eval.engines.requests import Request, Sampling
from dsmoe_eval.engines.vllm.sampling import answering, naming, token_prompt


def test_prompts_of_profiles_have_their_salt():
    assert token_prompt((1, 2)) == {"prompt_token_ids": [1, 2]}
    assert token_prompt((1, 2), "math") == {"prompt_token_ids": [1, 2], "cache_salt": "math"}


def test_a_name_leaves_other_arguments():
    settings = {"max_tokens": 1, "extra_args": {"other": 2}}
    assert naming(settings, None) == settings
    assert naming(settings, "math")["extra_args"] == {"other": 2, "dsmoe_profile": "math"}
    assert settings["extra_args"] == {"other": 2}


def test_settings_of_an_answer():
    request = Request((1,), 8, stops=("end",), sampling=Sampling(0.7, 3), shaping=(("a", 1),))
    drawn = {"temperature": 0.7, "seed": 3, "a": 1}
    assert answering(request, (5,), decodes=False) == {
        "max_tokens": 8, "stop_token_ids": [5], **drawn
    }  # fmt: skip
    assert answering(request, (5,), decodes=True)["stop"] == ["end"]
