"""Counts of one training step, from the text of XLA's optimized program."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0, "opaque": 0}
# Views, and instructions whose work is counted elsewhere.
_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "iota", "while", "call", "conditional", "async-start", "async-update",
)  # fmt: skip
_SLICES = ("slice", "dynamic-slice", "gather")
_KERNELS = ("fusion", "convolution", "dot", "copy", "sort", "scatter", "gather", "custom-call")
_RUN_ASYNC = ("fusion-start", "custom-call-start", "call-start")  # in jax 0.12
_ELEMENT_BY_ELEMENT = ("bitcast", "reshape", "convert", "copy", "transpose")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
_CALLS = re.compile(r"(?:calls|body|to_apply|branch_computations|called_computations)=\{?(%[^,\s}]+(?:, %[^,\s}]+)*)")


@dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @cached_property
    def called(self) -> list[str]:
        """The computations that it calls; for a loop, its body."""
        return [name.lstrip("%") for names in _CALLS.findall(self.attributes) for name in names.split(", ")]

    @property
    def trips(self) -> int:
        """How often a loop runs; 1 if the compiler does not know."""
        match = re.search(r'known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(match[1]) if match else 1


Scope: TypeAlias = dict[str, Instruction]  # the instructions of one computation, by name


class Traffic(NamedTuple):
    """Bytes read and written, and of these, those of arrays larger than the cache."""

    bytes: int = 0
    uncached: int = 0

    def add(self, arrays: list[int], times: int, cache: int) -> "Traffic":
        """With the bytes of each array that an instruction reads or writes."""
        uncached = sum(size for size in arrays if size > cache)
        return Traffic(self.bytes + times * sum(arrays), self.uncached + times * uncached)


@dataclass(frozen=True)
class Step:
    """Counts of one step.

    Attributes:
        kernels: instructions that compute or copy; the thunks of a GPU's program are more precise.
        traffic: bytes that element-wise work reads and writes.
        product_traffic: bytes that matrix products and convolutions read and write.
        f32_convolutions: convolutions of float32 operands.
        host_transfers: between device and host.
        collectives: between devices.
        all_reduces: of the collectives, the sums over devices.
        all_reduced_bytes: what these sum.
        scatters: additions to indices that may repeat; a GPU adds by atomics, in an order that varies.
        transposes: also inside of fusions.
        copied_before: bytes of arguments that are copied before the first step, because their layout does not suit the
            loop, and held twice.
    """

    kernels: int
    traffic: Traffic
    product_traffic: Traffic
    f32_convolutions: int
    host_transfers: int
    collectives: int
    all_reduces: int
    all_reduced_bytes: int
    scatters: int
    transposes: int
    copied_before: int

    @property
    def bytes(self) -> int:
        return self.traffic.bytes + self.product_traffic.bytes


class Program:
    """An optimized program: its computations by name."""

    def __init__(self, text: str):
        self.computations: dict[str, Scope] = {}
        self.entry = ""
        current: Scope = {}
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                current = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif instruction := _parse(line):
                current[instruction.name] = instruction

    def trips(self, loop: str) -> int:
        """How often the loop of this name runs."""
        return next((c[loop].trips for c in self.computations.values() if loop in c), 1)

    def step(self, cache: int = 0) -> Step:
        """Counts of the training loop: the outermost loop with the longest body.

        Arrays of up to `cache` bytes may stay in the device's cache.
        """
        outside = [i for i, _, _ in self._run(self.entry, into_loops=False)]
        loops = [i for i in outside if i.opcode == "while"]
        copied = sum(array_bytes(i.type) for i in outside if i.opcode == "copy")
        body = max((loop.called[0] for loop in loops), key=lambda name: sum(1 for _ in self._run(name)), default=None)
        kernels = f32 = transfers = collectives = all_reduces = all_reduced = scatters = transposes = 0
        traffic = products = Traffic()
        for instruction, scope, times in self._run(body) if body else ():
            inside = list(self._within(instruction, scope))
            arrays = self._traffic(instruction, scope)
            if any(_multiplies(i) for i, _ in inside):
                products = products.add(arrays, times, cache)
            else:
                traffic = traffic.add(arrays, times, cache)
            kernels += times * (instruction.opcode in _KERNELS)
            collectives += times * (instruction.opcode.removesuffix("-start") in _COLLECTIVES)
            if instruction.opcode in ("all-reduce", "all-reduce-start"):
                all_reduces += times
                all_reduced += times * sum(map(_all_bytes, _operand_types(instruction, scope)))
            transfers += times * _crosses_to_host(instruction)
            f32 += times * sum(_convolves_f32(i, within) for i, within in inside)
            scatters += times * sum(_may_repeat_indices(i) for i, _ in inside)
            transposes += times * sum(i.opcode == "transpose" for i, _ in inside)
        return Step(
            kernels=kernels,
            traffic=traffic,
            product_traffic=products,
            f32_convolutions=f32,
            host_transfers=transfers,
            collectives=collectives,
            all_reduces=all_reduces,
            all_reduced_bytes=all_reduced,
            scatters=scatters,
            transposes=transposes,
            copied_before=copied,
        )

    def _run(
        self, computation: str, times: int = 1, into_loops: bool = True
    ) -> Iterator[tuple[Instruction, Scope, int]]:
        """The instructions of a computation, their scope and how often each runs.

        A fusion is one instruction.
        """
        scope = self.computations[computation]
        for instruction in scope.values():
            yield instruction, scope, times
            enters = instruction.opcode in ("call", "conditional", "async-start")
            if enters or (into_loops and instruction.opcode == "while"):
                for name in instruction.called:
                    yield from self._run(name, times * instruction.trips, into_loops)

    def _within(self, instruction: Instruction, scope: Scope) -> Iterator[tuple[Instruction, Scope]]:
        """An instruction and, for a fusion, those fused into it."""
        yield instruction, scope
        if instruction.opcode == "fusion":
            inside = self.computations[instruction.called[0]]
            for inner in inside.values():
                yield from self._within(inner, inside)

    def _traffic(self, instruction: Instruction, scope: Scope) -> list[int]:
        """Bytes of device memory of each array that an instruction reads or writes.

        Of a sliced array only the slice counts.
        """
        opcode = instruction.opcode
        if opcode in _FREE or (opcode.endswith(("-done", "-update")) and opcode != "dynamic-update-slice"):
            return []
        types = _operand_types(instruction, scope)
        if opcode == "fusion":
            inner = self.computations[instruction.called[0]]
            parameters = sorted((i for i in inner.values() if i.opcode == "parameter"), key=_parameter_number)
            read = [min(array_bytes(t), _read(p, inner)) for t, p in zip(types, parameters, strict=False)]
            return read + _written(instruction, inner)
        if opcode in _SLICES:
            return [array_bytes(instruction.type)] * 2
        if opcode == "dynamic-update-slice":
            return [array_bytes(types[1])] * 2
        if opcode == "scatter":
            return [*map(array_bytes, types[1:]), array_bytes(types[-1])]
        if opcode in ("copy-start", "slice-start"):
            # The type names target and source; no more of the source is read than fits the target.
            parts = _split(instruction.type)[:2]
            return [min(map(_all_bytes, parts))] * sum(array_bytes(part) > 0 for part in parts)
        results = _split(instruction.type)
        if opcode == "custom-call" and _multiplies(instruction) and re.match(r"[su]8\[\d+\]", results[-1]):
            results.pop()  # the library's workspace
        return [*map(array_bytes, types), *map(array_bytes, results)]


def _operand_types(instruction: Instruction, scope: Scope) -> list[str]:
    return [scope[name].type for name in instruction.operands if name in scope]


def _read(parameter: Instruction, inner: Scope) -> int:
    """Bytes of a fusion's parameter that the fusion reads."""
    count = _elements(parameter.type)
    return _all_bytes(parameter.type) * min(_elements_read(parameter, inner), count) // max(count, 1)


def _elements_read(value: Instruction, inner: Scope) -> int:
    """Elements of a value inside a fusion that the fusion reads.

    A slice of a converted array converts only the slice.
    """
    total = 0
    for user in inner.values():
        if value.name not in user.operands:
            continue
        first = user.operands[0] == value.name
        if user.opcode in _SLICES and first:
            total += _elements(user.type)
        elif user.opcode in _ELEMENT_BY_ELEMENT and not user.root:
            total += _elements_read(user, inner)
        elif user.opcode in ("dynamic-update-slice", "scatter") and first:
            total += _elements(inner[user.operands[-1]].type) if user.opcode == "scatter" else 0  # both are in place
        else:
            return _elements(value.type)
    return total


def _written(fusion: Instruction, inner: Scope) -> list[int]:
    """Bytes of each result that a fusion writes; of one updated in place, the update."""
    root = next(i for i in inner.values() if i.root)
    values = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    results = [value for value in values for _ in _split(value.type)]  # an instruction may have several
    written = []
    for result, part in zip(results, _split(fusion.type), strict=True):
        while result.opcode == "bitcast":
            result = inner[result.operands[0]]
        update = {"dynamic-update-slice": 1, "scatter": -1}.get(result.opcode)
        size = array_bytes(part)
        written.append(size if update is None else min(size, _all_bytes(inner[result.operands[update]].type)))
    return written


def array_bytes(text: str) -> int:
    """Bytes of a type such as f32[2,3]{1,0}, or of a tuple, in the main memory.

    What XLA placed in a faster memory, S(1), does not count.
    """
    return sum(_all_bytes(part) for part in _split(text) if not re.search(r"S\([1-9]", part))


def _all_bytes(text: str) -> int:
    total = 0
    for dtype, sizes in _arrays(text):
        bits = re.search(r"\d+", dtype)
        each = _BYTES[dtype] if dtype in _BYTES else max(1, int(bits[0]) // 8) if bits else 4
        total += each * _product(sizes)
    return total


def _elements(text: str) -> int:
    return sum(_product(sizes) for _, sizes in _arrays(text))


def _arrays(text: str) -> list[tuple[str, str]]:
    return re.findall(r"(\w+)\[([\d,]*)\]", text)


def _product(sizes: str) -> int:
    return math.prod(map(int, filter(None, sizes.split(","))))


def _split(text: str) -> list[str]:
    return re.findall(r"\w+\[[^\]]*\](?:\{[^}]*\})?", text)


def _parse(line: str) -> Instruction | None:
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not match:
        return None
    start = match.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    call = re.match(r"\s*([\w\-]+)\(", line[end:])
    if not call:
        return None
    opening = end + call.end() - 1
    closing = _closing(line, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opening:closing]))
    attributes = line[opening:] if call[1] == "parameter" else line[closing:]
    opcode, kind = call[1], line[start:end]
    if opcode in _RUN_ASYNC:
        opcode, kind = opcode.removesuffix("-start"), _parts(kind)[1]  # of (operands), result, context
    return Instruction(match[2], kind, opcode, operands, attributes, bool(match[1]))


def _parts(text: str) -> list[str]:
    """The parts of a tuple's type."""
    depth, start, parts = 0, 1, []
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return parts


def _closing(text: str, opening: int) -> int:
    """The position after the bracket that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if not depth:
            return position + 1
    return len(text)


def _parameter_number(parameter: Instruction) -> int:
    match = re.match(r"\((\d+)\)", parameter.attributes)
    return int(match[1]) if match else 0


def _multiplies(instruction: Instruction) -> bool:
    """Whether it is a matrix product or convolution, also in a library."""
    by_library = re.search(r'custom_call_target="__cu(?:blas|dnn)', instruction.attributes) is not None
    return by_library or instruction.opcode in ("convolution", "dot", "ragged-dot")


def _may_repeat_indices(instruction: Instruction) -> bool:
    return instruction.opcode == "scatter" and "unique_indices=true" not in instruction.attributes


def _crosses_to_host(instruction: Instruction) -> bool:
    if instruction.opcode in ("infeed", "outfeed", "send", "recv"):
        return True
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    callback = target is not None and re.search("callback|host", target[1], re.IGNORECASE) is not None
    return callback or (instruction.opcode.startswith("copy") and "S(5)" in instruction.type)


def _convolves_f32(instruction: Instruction, scope: Scope) -> bool:
    """Whether it is a convolution of float32 operands, cuDNN's or XLA's own.

    On a TPU matrix products are convolutions as well; only the name of their origin differs.
    """
    by_xla = instruction.opcode == "convolution" and "conv_general_dilated" in instruction.attributes
    convolves = by_xla or "__cudnn$conv" in instruction.attributes
    return convolves and any(scope[name].type.startswith("f32") for name in instruction.operands[:2])
