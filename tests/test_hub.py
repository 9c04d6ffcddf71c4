import pytest

from rgjax import hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a cache of our own; huggingface_hub reads both settings when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_what_an_earlier_use_has_left_is_enough(offline):
    revision = "a" * 40
    repository = offline / "models--someone--some-model"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text("{}")
    assert hub.list_files("someone/some-model") == {"config.json"}
    assert hub.fetch("someone/some-model", "config.json").read_text() == "{}"


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_cannot_be_had_is_one_error(kind, offline):
    with pytest.raises(hub.OutOfReach, match="OfflineModeIsEnabled"):
        hub.list_files("someone/some-model", kind)
    with pytest.raises(hub.OutOfReach):
        hub.fetch("someone/some-model", "config.json", kind)
