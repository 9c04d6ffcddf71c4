import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src.compiler import get_compile_options

from rgjax.errors import UserError
from rgjax.storage.files import (
    atomic_path,
    cache_dir,
    cached_arrays,
    digest,
    lock_run_dir,
    read_npz,
    write_json,
    write_npz,
)
from rgjax.storage.programs import cache_programs


def test_a_failed_write_keeps_the_old_file(tmp_path):
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


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.float32(3)[None][0:0],
        np.array(7),
        np.array(["é"]),
    ],
)
def test_digest_of_an_array_is_that_of_its_bytes_in_c_order(array):
    content = f"array:{array.dtype.str}{array.shape}".encode() + array.tobytes()
    assert digest(array) == hashlib.sha256(content).hexdigest()[:16]


def test_digest_differs_by_value_type_and_length():
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
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_dir() == tmp_path / "me" / ".cache" / "rgjax"
    monkeypatch.setenv("RGJAX_CACHE", "~/caches")
    assert cache_dir() == tmp_path / "me" / "caches"


def test_a_user_without_a_home_is_told_of_rgjax_cache(monkeypatch, tmp_path):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("RGJAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match="set RGJAX_CACHE"):
        cache_dir()
    with pytest.raises(UserError, match="cannot be written: "), atomic_path(tmp_path / "file" / "x"):
        raise OSError(28, "No space left on device")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "rgjax"


@pytest.mark.parametrize("root", ["/dev/null", "/proc/nowhere"])
def test_without_a_writable_cache_arrays_are_computed(root, monkeypatch, capsys):
    monkeypatch.setenv("RGJAX_CACHE", root)
    arrays = cached_arrays(cache_dir() / "features" / "k.npz", lambda: {"eye": np.eye(2)})
    np.testing.assert_array_equal(arrays["eye"], np.eye(2))
    (line,) = capsys.readouterr().err.splitlines()
    assert root in line and "set RGJAX_CACHE" in line
    with pytest.raises(UserError, match=f"{root}.* set RGJAX_CACHE"), atomic_path(cache_dir() / "images" / "k.npy"):
        pass
    cache_programs()
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled programs are not cached" in line and "set RGJAX_CACHE" in line


def test_timings_of_kernels_are_cached_beside_the_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    try:
        cache_programs()
        options = get_compile_options(num_replicas=1, num_partitions=1)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    folder = options.executable_build_options.debug_options.xla_gpu_per_fusion_autotune_cache_dir
    assert Path(folder).parent == cache_dir() / "programs"


ARRAYS = {"a": np.arange(100, dtype=np.int32), "names": np.array(["x", "yyy"]), "none": np.zeros((0, 3))}


@pytest.mark.long
def test_a_flipped_bit_never_changes_an_array(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, **ARRAYS)
    content = path.read_bytes()
    detected = 0
    for bit in range(0, 8 * len(content), 7):  # every bit in a byte is flipped somewhere, every byte once or twice
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        arrays = read_npz(path)
        if arrays is None:
            detected += 1
            assert not path.exists()
        else:  # the bit was part of a date in ZIP's directory, for example
            assert arrays.keys() == ARRAYS.keys()
            for name, array in ARRAYS.items():
                assert arrays[name].dtype == array.dtype
                np.testing.assert_array_equal(arrays[name], array)
    assert detected > len(content) / 2


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_truncated_cache_file_is_set_aside_and_recomputed(kept, tmp_path, capsys):
    path = tmp_path / "k.npz"
    write_npz(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:kept])
    assert cached_arrays(path, lambda: dict(ARRAYS)).keys() == ARRAYS.keys()
    message = capsys.readouterr().err
    assert message.startswith(f"rgjax: {path} is corrupted (")
    assert message.endswith("moved to k.npz.damaged and recomputed\n")
    assert message.count("\n") == 1
    assert (tmp_path / "k.npz.damaged").stat().st_size == len((tmp_path / "k.npz.damaged").read_bytes())
    assert read_npz(path) is not None


FULL = """
import resource, sys
import jax
import numpy as np
from pathlib import Path
from rgjax.console import configure_logging
from rgjax.storage.files import cached_arrays, write_json
configure_logging()
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
path = Path(sys.argv[1])
write_json(path / "a.json", [1])
print(cached_arrays(path / "big.npz", lambda: {"x": np.ones(100_000)})["x"].sum())
write_json(path / "a.json", list(range(10_000)))
"""


def test_a_full_disk_keeps_old_files_and_computed_arrays(tmp_path):
    process = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert "100000.0" in process.stdout  # computed, but not cached
    assert "not cached: " in process.stderr and "big.npz: cannot be written: File too large; fix this" in process.stderr
    assert "UserError" in process.stderr.splitlines()[-1]
    assert "a.json: cannot be written: File too large" in process.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "big.lock"}


def test_a_locked_folder_is_refused_with_host_and_process(tmp_path):
    with lock_run_dir(tmp_path):
        with (
            pytest.raises(
                UserError, match=f"locked by process {os.getpid()} on {platform.node()}; wait for it to finish"
            ),
            lock_run_dir(tmp_path),
        ):
            pass
        # The failed attempt did not release the lock.
        with pytest.raises(UserError, match="locked by"), lock_run_dir(tmp_path):
            pass
    with lock_run_dir(tmp_path):
        pass


DIES = """
import os, sys
from pathlib import Path
from rgjax.storage.files import lock_run_dir
with lock_run_dir(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def test_the_lock_of_a_killed_process_is_released(tmp_path, capsys):
    process = subprocess.Popen([sys.executable, "-c", DIES, str(tmp_path)])
    process.wait()
    with lock_run_dir(tmp_path):
        pass
    assert (
        f"resuming the run of process {process.pid} on {platform.node()}, which was killed" in capsys.readouterr().err
    )
    with lock_run_dir(tmp_path):
        pass
    assert not capsys.readouterr().err
