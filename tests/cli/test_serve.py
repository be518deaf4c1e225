"""`dsmoe-eval serve`: what it makes of its options; the server itself is in test_serving."""

import pytest
from click.testing import CliRunner

from dsmoe_eval.cli import main
from dsmoe_eval.engines.vllm import serving
from dsmoe_eval.engines.vllm.catalog import Catalog
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, ModelIdentity

MODEL = ModelIdentity(name="m", fingerprint="f", routers="r", layers=(0, 1), experts=8)
PROFILE = trial_profile(MODEL, Intervention(kind="bias", strength=1.0), [0])


@pytest.fixture
def served(monkeypatch):
    """What would be served; the environment's key goes with the test."""
    asked = []
    monkeypatch.setattr(serving, "serve", lambda *given: asked.append(given))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    return asked


def invoke(*arguments):
    return CliRunner().invoke(main, ["serve", *map(str, arguments)])


def test_the_folder_names_the_models(served, tmp_path):
    (tmp_path / "math.json").write_text(PROFILE.to_json())
    done = invoke("lab-poly", "--profiles", tmp_path, "--port", 0, "--", "--max-model-len", 64)
    assert done.exit_code == 0, done.output
    ((asked, _),) = served
    assert (asked.model, asked.name) == ("lab-poly", "lab-poly")
    assert (asked.host, asked.port) == ("127.0.0.1", 0)
    assert asked.options == ("--max-model-len", "64")
    assert [(one.name, one.profile) for one in asked.profiles] == [("math", PROFILE)]


def test_a_model_folder_is_served_under_its_own_name(served):
    invoke(EMBEDDED_MODELS["lab-poly"])
    invoke("lab-poly", "--name", "mine")
    assert [asked.name for asked, _ in served] == [EMBEDDED_MODELS["lab-poly"].name, "mine"]


def test_the_start_message_shows_a_request(served, capsys, monkeypatch):
    invoke("lab-poly")
    ((_, announce),) = served
    catalog = Catalog("lab-poly", 2, None, set())
    announce("http://127.0.0.1:1", catalog)
    assert capsys.readouterr().out.splitlines()[0] == "serving at http://127.0.0.1:1/v1: lab-poly"
    catalog._named["math"] = PROFILE
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    announce("http://127.0.0.1:1", catalog)
    told = capsys.readouterr().out
    assert "http://127.0.0.1:1/v1: lab-poly, lab-poly:math\n" in told
    assert '"model": "lab-poly:math"' in told
    assert "secret" not in told


def test_the_key_is_read_from_a_file(served, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "other")
    key = tmp_path / "key"
    for content, words in (("", "must have one line"), ("a b", "must have one line")):
        key.write_text(content)
        refused = invoke("lab-poly", "--api-key-file", key)
        assert (refused.exit_code, words in refused.stderr) == (3, True)
    refused = invoke("lab-poly", "--api-key-file", tmp_path / "none")
    assert (refused.exit_code, "cannot be read" in refused.stderr) == (3, True)
    assert not served
    key.write_text("secret\n")
    assert invoke("lab-poly", "--api-key-file", key).exit_code == 0
    assert serving.os.environ["VLLM_API_KEY"] == "secret"


def test_a_bad_profile_is_named(served, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    refused = invoke("lab-poly", "--profiles", tmp_path)
    assert (refused.exit_code, served) == (3, [])
    assert "bad.json: not a profile" in refused.stderr
