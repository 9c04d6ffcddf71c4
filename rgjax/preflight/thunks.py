"""Kernels and launches of one training step on a GPU, from XLA's dump of thunks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Thunks that contain others, and thunks that only wait: neither runs anything on the device.
_CONTAINERS = ("kWhile", "kCommandBuffer", "kSequential", "kConditional")
_WAITS = ("Done", "kWaitForStreams", "kAsyncStart", "kGetTupleElement")
_TRANSFERS = ("kOutfeed", "kInfeed", "kHostSend", "kHostRecv", "HostExecute", "DeviceToHost", "HostToDevice")


@dataclass
class Thunk:
    """A line of the dump, and the lines inside it; for a loop, those of its body."""

    number: int
    kind: str
    inner: list["Thunk"] = field(default_factory=list)

    def all(self) -> Iterator["Thunk"]:
        yield self
        for thunk in self.inner:
            yield from thunk.all()


@dataclass(frozen=True)
class Launches:
    """Counts of one step.

    Attributes:
        kernels: convolutions, kernels and copies.
        launches: command buffers (CUDA graphs), and the kernels outside of them.
        transfers: copies between device and host.
    """

    kernels: int
    launches: int
    transfers: int


def read_dump(folder: Path) -> tuple[str, str]:
    """The thunks after all passes and their names, from the files of `xla_dump_to`."""
    for ending in ("thunk_sequence_after_thunk_passes.txt", "thunk_sequence.txt"):
        # Of several modules the largest is the program.
        if dump := max(folder.glob(f"*.{ending}"), key=lambda path: path.stat().st_size, default=None):
            names = dump.with_name(dump.name.replace(ending, "thunk_metadata.txt"))
            return dump.read_text(), names.read_text() if names.exists() else ""
    raise FileNotFoundError(f"{folder}: XLA wrote no thunk sequence")


def count_atomics(folder: Path) -> int:
    """Atomic instructions in the code of XLA's kernels, by the files of its dump.

    The order in which they add varies from run to run. Kernels of cuBLAS and cuDNN are not among the files.
    """
    return sum(
        len(re.findall(r"^\s*(?:@\S+\s+)?(?:atom|red)\.", path.read_text(), re.M)) for path in folder.glob("*.ptx")
    )


def step_launches(dump: str, names: str, trips: Callable[[str], int]) -> Launches:
    """Count the body of the longest loop.

    A loop inside it, named by `names`, counts `trips(name)` times.
    """
    loops = [thunk for top in parse(dump) for thunk in top.all() if thunk.kind == "kWhile"]
    if not loops:
        return Launches(0, 0, 0)
    loop = max(loops, key=lambda thunk: sum(1 for _ in thunk.all()))
    name_of = {
        int(number): name
        for name, number in re.findall(r'profile_annotation: "([^"]*)"\s*thunk_id: (\d+)', names)
    }  # fmt: skip
    kernels = launches = transfers = 0

    def count(thunk: Thunk, times: int, captured: bool) -> None:
        nonlocal kernels, launches, transfers
        if thunk.kind == "kWhile":
            times *= trips(name_of.get(thunk.number, ""))
        elif thunk.kind == "kCommandBuffer":
            launches += times * (not captured)
            captured = True
        elif thunk.kind not in _CONTAINERS and not any(word in thunk.kind for word in _WAITS):
            kernels += times
            launches += times * (not captured)
            transfers += times * any(word in thunk.kind for word in _TRANSFERS)
        for inner in thunk.inner:
            count(inner, times, captured)

    for thunk in loop.inner:
        count(thunk, 1, False)
    return Launches(kernels, launches, transfers)


def parse(dump: str) -> list[Thunk]:
    """The dump's lines `NUMBER: KIND ...` as trees, by their indentation."""
    root = Thunk(0, "root")
    above = [(-1, root)]  # the last thunk and those that contain it, with their indentation
    for line in dump.splitlines():
        match = re.match(r"(\s*)(?:(\d+): (k\w+)|body:)", line)
        if not match:
            continue
        while above[-1][0] >= len(match[1]):
            above.pop()
        container = above[-1][1]
        if match[3] is None:
            container.inner.clear()  # these were the thunks of the loop's condition
        else:
            thunk = Thunk(int(match[2]), match[3])
            container.inner.append(thunk)
            above.append((len(match[1]), thunk))
    return root.inner
