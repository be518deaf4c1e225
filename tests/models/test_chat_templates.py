"""Chat templates that fail, never end or write too much are refused in one sentence."""

import shutil
import sys
import time

import pytest

from dsmoe_eval.errors import QuotingError, UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import chat_templates
from dsmoe_eval.models.loading import load_tokenizer

ASKED = [{"role": "user", "content": "why?"}]


@pytest.fixture
def tokenizer(tmp_path):
    """The embedded model's tokenizer with another template."""

    def make(template):
        folder = shutil.copytree(EMBEDDED_MODELS["lab-poly"], tmp_path / "m")
        (folder / "chat_template.jinja").write_text(template)
        return load_tokenizer(str(folder))

    return make


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only \x1b[31m system') }}", "only"),
        ("{{ messages[0].parts[0].text }}", "has no attribute 'parts'"),
        ("{{ 1 / 0 }}", "division"),
        ("{% for", "template"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            "more than 200,000 steps",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more than 200,000 steps",
        ),
    ],
)
def test_case_14_a_template_that_fails_or_never_ends_is_refused(tokenizer, template, words):
    began = time.monotonic()
    with pytest.raises(QuotingError, match="chat template fails") as error:
        tokenizer(template).apply_chat_template(ASKED, tokenize=False)
    assert time.monotonic() - began < 20
    message = str(error.value)
    assert words in message
    assert "prompt: plain" in message
    assert "\n" not in message


def test_case_14_a_template_that_grows_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(chat_templates, "LONGEST", 1000)
    grows = tokenizer("{{ messages[0].content * 400 }}")
    with pytest.raises(UserError, match=r"writes 1,600 characters, more than 1,000.*prompt: plain"):
        grows.apply_chat_template(ASKED, tokenize=False)


def test_case_14_a_sound_template_writes_what_it_wrote(tokenizer):
    sound = tokenizer("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    before = sys.gettrace()
    assert sound.apply_chat_template(ASKED * 300, tokenize=False) == "<user>why?" * 300
    assert sys.gettrace() is before
