"""Counts of one training step, from the text of XLA's optimized program."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0, "opaque": 0}
# Views, and instructions whose work is counted elsewhere.
_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "iota", "while", "call", "conditional", "async-start", "async-update",
)  # fmt: skip
_SLICES = ("slice", "dynamic-slice", "gather")
_KERNELS = ("fusion", "convolution", "dot", "copy", "sort", "scatter", "gather", "custom-call")
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


@dataclass(frozen=True)
class Step:
    """Counts of one step.

    Attributes:
        kernels: instructions that compute or copy; the thunks of a GPU's program are more precise.
        bytes: read from and written to the device's memory.
        f32_convolutions: convolutions of float32 operands.
        host_transfers: between device and host.
        collectives: between devices.
        transposes: also inside of fusions.
        copied_before: bytes of arguments that are copied before the first step, because their layout does not suit the
            loop, and held twice.
    """

    kernels: int
    bytes: int
    f32_convolutions: int
    host_transfers: int
    collectives: int
    transposes: int
    copied_before: int


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

    def step(self) -> Step:
        """Counts of the training loop: the outermost loop with the longest body."""
        outside = [i for i, _, _ in self._run(self.entry, into_loops=False)]
        loops = [i for i in outside if i.opcode == "while"]
        copied = sum(array_bytes(i.type) for i in outside if i.opcode == "copy")
        body = max((loop.called[0] for loop in loops), key=lambda name: sum(1 for _ in self._run(name)), default=None)
        kernels = moved = f32 = transfers = collectives = transposes = 0
        for instruction, scope, times in self._run(body) if body else ():
            size = self._traffic(instruction, scope)
            kernels += times * (instruction.opcode in _KERNELS)
            moved += times * size
            collectives += times * instruction.opcode.removesuffix("-start").startswith(_COLLECTIVES)
            transfers += times * _crosses_to_host(instruction)
            f32 += times * sum(_convolves_f32(i, inside) for i, inside in self._within(instruction, scope))
            transposes += times * sum(i.opcode == "transpose" for i, _ in self._within(instruction, scope))
        return Step(kernels, moved, f32, transfers, collectives, transposes, copied)

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

    def _traffic(self, instruction: Instruction, scope: Scope) -> int:
        """Bytes of device memory that an instruction reads and writes.

        Of a sliced array only the slice counts.
        """
        opcode = instruction.opcode
        if opcode in _FREE or (opcode.endswith(("-done", "-update")) and opcode != "dynamic-update-slice"):
            return 0
        types = [scope[name].type for name in instruction.operands if name in scope]
        if opcode == "fusion":
            inner = self.computations[instruction.called[0]]
            parameters = sorted((i for i in inner.values() if i.opcode == "parameter"), key=_parameter_number)
            read = [min(array_bytes(t), self._read(p, inner)) for t, p in zip(types, parameters, strict=False)]
            return sum(read) + self._written(instruction, inner)
        if opcode in _SLICES:
            return array_bytes(instruction.type) * 2
        if opcode == "dynamic-update-slice":
            return array_bytes(types[1]) * 2
        if opcode == "scatter":
            return sum(map(array_bytes, types[1:])) + array_bytes(types[-1])
        if opcode in ("copy-start", "slice-start"):
            # The type names target and source; no more of the source is read than fits the target.
            parts = _split(instruction.type)[:2]
            return min(map(_all_bytes, parts)) * sum(array_bytes(part) > 0 for part in parts)
        return sum(map(array_bytes, types)) + array_bytes(instruction.type)

    def _read(self, value: Instruction, inner: Scope) -> int:
        """Bytes of a fusion's parameter that the fusion reads."""
        users = [i for i in inner.values() if value.name in i.operands]
        total = 0
        for user in users:
            if user.opcode in _SLICES and user.operands[0] == value.name:
                total += _all_bytes(user.type)
            elif user.opcode == "bitcast":
                total += self._read(user, inner)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
                total += 0  # written in place
            else:
                return _all_bytes(value.type)
        return total

    def _written(self, fusion: Instruction, inner: Scope) -> int:
        root = next(i for i in inner.values() if i.root)
        while root.opcode == "bitcast":
            root = inner[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            return min(array_bytes(fusion.type), _all_bytes(inner[root.operands[1]].type))
        return array_bytes(fusion.type)


def array_bytes(text: str) -> int:
    """Bytes of a type such as f32[2,3]{1,0}, or of a tuple, in the main memory.

    What XLA placed in a faster memory, S(1), does not count.
    """
    return sum(_all_bytes(part) for part in _split(text) if not re.search(r"S\([1-9]", part))


def _all_bytes(text: str) -> int:
    total = 0
    for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", text):
        bits = re.search(r"\d+", dtype)
        each = _BYTES[dtype] if dtype in _BYTES else max(1, int(bits[0]) // 8) if bits else 4
        for size in filter(None, sizes.split(",")):
            each *= int(size)
        total += each
    return total


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
    return Instruction(match[2], line[start:end], call[1], operands, attributes, bool(match[1]))


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
