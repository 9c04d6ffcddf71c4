"""A reader of TensorBoard's event files, and of the record that they repeat."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog


def checksum(data):
    """CRC-32C, bit by bit, masked as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tfrecords(data):
    while data:
        length, head = struct.unpack("<QI", data[:12])
        body, (tail,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (head, tail) == (checksum(data[:8]), checksum(body))
        yield body
        data = data[16 + length :]


def shown(workdir):
    """The rows of the event files as TensorBoard shows them: a start at a step takes back what came from there on."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        first, *others = map(Event.FromString, tfrecords(path.read_bytes()))
        assert first.file_version == "brain.Event:2"
        for event in others:
            if event.session_log.status == SessionLog.START:
                events = [earlier for earlier in events if earlier.step < event.step]
            else:
                events.append(event)
    return [{"step": e.step} | {value.tag: value.simple_value for value in e.summary.value} for e in events]


def recorded(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def close_to(rows):
    return [pytest.approx(row, rel=1e-6) for row in rows]  # event files hold float32
