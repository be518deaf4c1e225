"""Names of models with a revision."""

from dsmoe_eval.models.revisions import from_hub, split_revision


def test_a_revision_is_behind_the_last_at_sign(tmp_path):
    assert split_revision("some/model") == ("some/model", None)
    assert split_revision("some/model@v1") == ("some/model", "v1")
    (tmp_path / "a@b").mkdir()
    assert split_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)
    model, revision = "pretrained_model_name_or_path", "revision"
    assert from_hub("some/model@v1") == {model: "some/model", revision: "v1"}
    assert from_hub("some/model") == {model: "some/model"}
