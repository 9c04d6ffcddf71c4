"""torch's old file format: damage is one line, nothing is executed, and only published files are opened."""

import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from rgjax.errors import UserError
from rgjax.models import torch_file
from rgjax.models.torch_file import PACKAGED, parse, read_torch_file

VALUES = np.arange(12, dtype=np.float32)


class Named:
    """Pickles as the name of something in a module that need not exist."""

    def __init__(self, module, name, arguments=None):
        self.module, self.name, self.arguments = module, name, arguments


class Pickler(pickle._Pickler):
    def persistent_id(self, obj):
        return tuple(obj[1:]) if isinstance(obj, tuple) and obj and obj[0] == "persistent" else None

    def save(self, obj, save_persistent_id=True):
        if not isinstance(obj, Named):
            return super().save(obj, save_persistent_id)
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        if obj.arguments is not None:
            super().save(obj.arguments)
            self.write(pickle.REDUCE)


def tensor(shape=(3, 4), strides=(1, 3), offset=0, length=12, module="torch._utils", name="_rebuild_tensor_v2"):
    storage = ("persistent", "storage", Named("torch", "FloatStorage"), "7", "cpu", length, None)
    return Named(module, name, (storage, offset, shape, strides, False, OrderedDict()))


def written(path, tensors, *, magic=0x1950A86A20F9469CFC6C, keys=("7",), length=12, end=b""):
    with path.open("wb") as file:
        for value in (magic, 1001, {"little_endian": True}, OrderedDict(tensors), list(keys)):
            Pickler(file, 2).dump(value)
        file.write(struct.pack("<q", length) + VALUES.tobytes() + end)
    return path


def test_tensors_are_views_of_their_storages(tmp_path):
    read = parse(written(tmp_path / "a.pth", {"w": tensor(), "tail": tensor((2,), (1,), 10), "one": tensor((), (), 5)}))
    np.testing.assert_array_equal(read["w"], VALUES.reshape(4, 3).T)
    np.testing.assert_array_equal(read["tail"], [10, 11])
    assert read["one"].shape == () and read["one"] == 5


@pytest.mark.parametrize(
    "tensors, changes",
    [
        ({"w": tensor(strides=(4, 2))}, {}),
        ({"w": tensor(shape=(-3, 4))}, {}),
        ({"w": tensor(offset=-1)}, {}),
        ({"w": tensor(shape=(3, 4, 1))}, {}),
        ({"w": tensor(shape=(10**9, 10**9), strides=(0, 0))}, {}),
        ({"w": tensor(length=13)}, {}),
        ({"w": tensor(length=-1)}, {"length": -1}),
        ({"w": tensor()}, {"length": 11}),
        ({"w": tensor()}, {"keys": ("8",)}),
        ({"w": tensor()}, {"magic": 1}),
        ({"w": tensor()}, {"end": b"0"}),
        ({"w": 3}, {}),
        ({"w": tensor(module="os", name="system")}, {}),
        ({"w": tensor(module="builtins", name="eval")}, {}),
        ({"w": tensor(module="torch", name="_rebuild_tensor_v2")}, {}),
    ],
)
def test_another_content_is_one_line(tensors, changes, tmp_path):
    with pytest.raises(UserError, match="is corrupted") as caught:
        parse(written(tmp_path / "a.pth", tensors, **changes))
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_one_line(tmp_path):
    whole = written(tmp_path / "a.pth", {"w": tensor()}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match="is corrupted"):
            parse(tmp_path / "a.pth")


def test_an_unpublished_file_is_not_parsed(tmp_path, monkeypatch):
    path = written(tmp_path / PACKAGED["efficientnet-lite0"].file, {"w": tensor()})
    monkeypatch.setattr(torch_file, "parse", lambda path: pytest.fail("it was parsed"))
    with pytest.raises(UserError, match="SHA-256"):
        read_torch_file(path)
