import json

import numpy as np
import pytest

from rgjax.storage import atomic_path, cache_dir, cached_arrays, digest, write_json, write_npz


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"x": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None}


def test_npz_round_trip_without_pickle(tmp_path):
    write_npz(tmp_path / "deep" / "a.npz", a=np.arange(3), names=np.array(["x", "yy"]))
    with np.load(tmp_path / "deep" / "a.npz") as file:
        assert file["a"].tolist() == [0, 1, 2]
        assert file["names"].tolist() == ["x", "yy"]


def test_digest_tells_apart_what_differs():
    a = np.arange(6, dtype=np.int32)
    parts = [
        (a,),
        (a.reshape(2, 3),),
        (a.astype(np.int64),),
        ("ab", "c"),
        ("a", "bc"),
        (b"ab",),
        (1,),
        ("1",),
        (None,),
    ]
    assert len({digest(*p) for p in parts}) == len(parts)
    assert digest(a, "x") == digest(a.copy(), "x")


def test_cached_arrays_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"eye": np.eye(2)}

    for _ in range(2):
        np.testing.assert_array_equal(cached_arrays(tmp_path / "k.npz", compute)["eye"], np.eye(2))
    assert len(calls) == 1


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("RGJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "rgjax"
