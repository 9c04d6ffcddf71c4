"""What a GPU is sent in one step of a training loop, from XLA's dump of a program's thunks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Thunks that hold others, or that only wait: nothing runs on the device for them.
_HOLDERS = ("kWhile", "kCommandBuffer", "kSequential", "kConditional")
_WAITS = ("Done", "kWaitForStreams", "kAsyncStart", "kGetTupleElement")
_TRANSFERS = ("kOutfeed", "kInfeed", "kHostSend", "kHostRecv", "HostExecute", "DeviceToHost", "HostToDevice")


@dataclass
class Thunk:
    """A line of the dump and the lines within it; of a loop those of its body."""

    number: int
    kind: str
    inner: list["Thunk"] = field(default_factory=list)

    def all(self) -> Iterator["Thunk"]:
        yield self
        for thunk in self.inner:
            yield from thunk.all()


@dataclass(frozen=True)
class Launches:
    """Of one step: `kernels` are convolutions, kernels and copies; `launches` those outside command buffers (CUDA
    graphs) and the command buffers; `transfers` go between device and host."""

    kernels: int
    launches: int
    transfers: int


def read_dump(folder: Path) -> tuple[str, str]:
    """The thunks and their names, from what `xla_dump_to` has left; the thunks as they are run, if they differ."""
    for ending in ("thunk_sequence_after_thunk_passes.txt", "thunk_sequence.txt"):
        # Of several modules the program's is the largest.
        if found := sorted(folder.glob(f"*.{ending}"), key=lambda path: path.stat().st_size):
            names = found[-1].with_name(found[-1].name.replace(ending, "thunk_metadata.txt"))
            return found[-1].read_text(), names.read_text() if names.exists() else ""
    raise FileNotFoundError(f"XLA has written no thunk sequence into {folder}")


def step_launches(dump: str, names: str, trips: Callable[[str], int]) -> Launches:
    """The thunks of the body of the longest loop; a loop within it, by its name in `names`, counts `trips` times."""
    loops = [thunk for top in parse(dump) for thunk in top.all() if thunk.kind == "kWhile"]
    if not loops:
        return Launches(0, 0, 0)
    loop = max(loops, key=lambda thunk: sum(1 for _ in thunk.all()))
    called = {
        int(number): name
        for name, number in re.findall(r'profile_annotation: "([^"]*)"\s*thunk_id: (\d+)', names)
    }  # fmt: skip
    counts = [0, 0, 0]

    def count(thunk: Thunk, times: int, captured: bool) -> None:
        if thunk.kind == "kWhile":
            times *= trips(called.get(thunk.number, ""))
        elif thunk.kind == "kCommandBuffer":
            counts[1] += times * (not captured)
            captured = True
        elif thunk.kind not in _HOLDERS and not any(word in thunk.kind for word in _WAITS):
            counts[0] += times
            counts[1] += times * (not captured)
            counts[2] += times * any(word in thunk.kind for word in _TRANSFERS)
        for inner in thunk.inner:
            count(inner, times, captured)

    for thunk in loop.inner:
        count(thunk, 1, False)
    return Launches(*counts)


def parse(dump: str) -> list[Thunk]:
    """The dump's lines `NUMBER: KIND ...` as trees, by how far they are indented."""
    root = Thunk(0, "root")
    above = [(-1, root)]  # the newest thunk and those that hold it, with their indents
    for line in dump.splitlines():
        found = re.match(r"(\s*)(?:(\d+): (k\w+)|body:)", line)
        if not found:
            continue
        while above[-1][0] >= len(found[1]):
            above.pop()
        holder = above[-1][1]
        if found[3] is None:
            holder.inner.clear()  # so far it was the loop's condition
        else:
            thunk = Thunk(int(found[2]), found[3])
            holder.inner.append(thunk)
            above.append((len(found[1]), thunk))
    return root.inner
