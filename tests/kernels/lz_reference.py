"""What the kernels of ``lz.cu`` are compared with: plain decoders, writers of streams, a launcher.

The decoders give the same verdicts as the kernels, instruction for instruction; the tests compare
them in turn with liblz4, c-blosc and cramjam.
"""

import random
from dataclasses import dataclass

import numpy as np

from tests.kernels.build import load
from zarr_gpu.device import kernels, lz

OK, CORRUPT, WRONG_SIZE = 0, 12, 15
CODECS = ("lz4", "blosclz", "snappy")
SCHEDULES = ("forward", "reverse", 7)
POISON = 0xA5
GUARD = 40


class ZeroOffset(Exception):
    """A match that repeats nothing: liblz4 decodes it to unspecified bytes."""


def decode(codec, data, nbytes):
    """Status and the bytes produced until then."""
    out = bytearray()
    try:
        status = DECODERS[codec](data, nbytes, out)
    except (IndexError, ZeroOffset):  # read behind the end
        status = CORRUPT
    return status, bytes(out)


def lz4(data, nbytes, out):
    at = 0
    while at < len(data):
        token = data[at]
        run, at = _extended(data, at + 1, token >> 4, 15)
        if run > len(data) - at:
            return CORRUPT
        if run > nbytes - len(out):
            return WRONG_SIZE
        out += data[at : at + run]
        at += run
        if at == len(data):
            return OK if len(out) == nbytes else WRONG_SIZE
        offset = data[at] | data[at + 1] << 8
        length, at = _extended(data, at + 2, token & 15, 15)
        if offset == 0:
            raise ZeroOffset
        if offset > len(out):
            return CORRUPT
        if length + 4 > nbytes - len(out):
            return WRONG_SIZE
        _repeat(out, offset, length + 4)
    return CORRUPT


def blosclz(data, nbytes, out):
    at = 0
    while at < len(data):
        control = data[at] if at else data[at] & 31
        at += 1
        if control < 32:
            run = control + 1
            if run > len(data) - at:
                return CORRUPT
            if run > nbytes - len(out):
                return WRONG_SIZE
            out += data[at : at + run]
            at += run
            continue
        length, at = _extended(data, at, control >> 5, 7)
        distance = (control & 31) << 8 | data[at]
        at += 1
        if distance == 0x1FFF:
            distance += data[at] << 8 | data[at + 1]
            at += 2
        if at == len(data) or distance + 1 > len(out):
            return CORRUPT
        if length + 2 > nbytes - len(out):
            return WRONG_SIZE
        _repeat(out, distance + 1, length + 2)
    return OK if len(out) == nbytes else WRONG_SIZE


def snappy(data, nbytes, out):
    claimed = at = 0
    while True:
        byte = data[at]
        claimed |= (byte & 127) << 7 * at
        at += 1
        if byte < 128:
            break
        if at == 5:
            return CORRUPT
    if claimed >= 2**32:
        return CORRUPT
    if claimed != nbytes:
        return WRONG_SIZE
    while at < len(data):
        tag = data[at]
        kind = tag & 3
        extra = max(0, (tag >> 2) - 59) if kind == 0 else (1, 2, 4)[kind - 1]
        at += 1
        if extra > len(data) - at:
            return CORRUPT
        operand = int.from_bytes(data[at : at + extra], "little")
        at += extra
        length = (tag >> 2) + 1
        if kind == 0:
            length = operand + 1 if extra else length
            if length > min(len(data) - at, nbytes - len(out)):
                return CORRUPT
            out += data[at : at + length]
            at += length
            continue
        if kind == 1:
            length = (tag >> 2 & 7) + 4
            operand |= tag >> 5 << 8
        if not 0 < operand <= len(out) or length > nbytes - len(out):
            return CORRUPT
        _repeat(out, operand, length)
    return OK if len(out) == nbytes else CORRUPT


DECODERS = {"lz4": lz4, "blosclz": blosclz, "snappy": snappy}


def _extended(data, at, length, escape):
    if length == escape:
        while data[at] == 255:
            length += 255
            at += 1
        length += data[at]
        at += 1
    return length, at


def _repeat(out, distance, length):
    pattern = bytes(out[len(out) - distance :][:length])
    out += (pattern * (length // distance + 1))[:length]


# -- streams of given instructions: bytes are literals, pairs are matches (distance, length) ------


def write(codec, *instructions):
    """A stream, and what it decodes to. LZ4 and BloscLZ must end with literals."""
    out = bytearray()
    for item in instructions:
        if isinstance(item, tuple):
            _repeat(out, *item)
        else:
            out += item
    return WRITERS[codec](instructions, len(out)), bytes(out)


def _lz4(instructions, nbytes):
    packed = bytearray()
    literals = b""
    for item in instructions:
        if not isinstance(item, tuple):
            literals += item
            continue
        distance, length = item[0], item[1] - 4
        packed.append(min(15, len(literals)) << 4 | min(15, length))
        packed += _extension(len(literals), 15) + literals + distance.to_bytes(2, "little")
        packed += _extension(length, 15)
        literals = b""
    packed.append(min(15, len(literals)) << 4)
    return bytes(packed + _extension(len(literals), 15) + literals)


def _blosclz(instructions, nbytes):
    packed = bytearray()
    for item in instructions:
        if not isinstance(item, tuple):
            for start in range(0, len(item), 32):
                run = item[start : start + 32]
                packed += bytes([len(run) - 1]) + run
            continue
        distance, length = item[0] - 1, item[1] - 2
        far = max(0, distance - 0x1FFF) if distance >= 0x1FFF else None
        distance = min(distance, 0x1FFF)
        packed.append(min(7, length) << 5 | distance >> 8)
        packed += _extension(length, 7) + bytes([distance & 255])
        if far is not None:
            packed += far.to_bytes(2, "big")
    if packed:
        packed[0] |= 0x20  # the marker of c-blosc
    return bytes(packed)


def _snappy(instructions, nbytes):
    packed = bytearray(_varint(nbytes))
    for item in instructions:
        if not isinstance(item, tuple):
            if len(item):
                packed += _snappy_literals(item)
            continue
        distance, left = item
        while left:
            length = min(64, left)
            left -= length
            if 4 <= length < 12 and distance < 2048:
                packed += bytes([1 | length - 4 << 2 | distance >> 8 << 5, distance & 255])
            elif distance < 65536:
                packed += bytes([2 | length - 1 << 2]) + distance.to_bytes(2, "little")
            else:
                packed += bytes([3 | length - 1 << 2]) + distance.to_bytes(4, "little")
    return bytes(packed)


WRITERS = {"lz4": _lz4, "blosclz": _blosclz, "snappy": _snappy}


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _snappy_literals(item):
    before = len(item) - 1
    if before < 60:
        return bytes([before << 2]) + item
    extra = (before.bit_length() + 7) // 8
    return bytes([59 + extra << 2]) + before.to_bytes(extra, "little") + item


def _extension(length, escape):
    if length < escape:
        return b""
    return b"\xff" * ((length - escape) // 255) + bytes([(length - escape) % 255])


def random_stream(codec, rng, nbytes):
    """A valid stream of about ``nbytes``, of instructions that encoders may not think of."""
    parts = [rng.randbytes(rng.choice((1, 2, 31, 32, 33, 40)))]
    total = len(parts[0])
    while total < nbytes:
        if rng.random() < 0.6:
            near = rng.choice((1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 64, total, rng.randint(1, total)))
            length = rng.choice((4, 5, 18, 19, 20, 31, 32, 33, 64, 65, rng.randint(4, 600)))
            parts.append((min(near, total), length))
            total += length
        else:
            parts.append(rng.randbytes(rng.choice((1, 2, 14, 15, 16, 32, 33, 64, 200, 270, 300))))
            total += len(parts[-1])
    return write(codec, *parts, rng.randbytes(rng.choice((1, 5, 40))))


def mutant(rng, data, nbytes):
    """A damaged stream, and the size to expect of it."""
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(6)
        if what == 0:
            del data[at:]
        elif what == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 3))
        elif what == 2:
            del data[at : at + rng.randint(1, 40)]
        elif at < len(data):
            choices = (data[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255)
            data[at] = choices[what - 3] if what < 5 else rng.choice(choices)
    if rng.random() < 0.2:
        nbytes = max(0, nbytes + rng.choice((-1, 1, -40, 300, -nbytes)))
    return bytes(data), nbytes


# -- launching ------------------------------------------------------------------------------------


@dataclass
class Memory:
    """Bytes at an address of any alignment: exactly to the end of an allocation, or with guards."""

    whole: np.ndarray
    skip: int
    nbytes: int

    @classmethod
    def holding(cls, data, skip, guard=0):
        whole = np.full(skip + len(data) + guard, POISON, np.uint8)
        whole[skip : skip + len(data)] = np.frombuffer(data, np.uint8)
        return cls(whole, skip, len(data))

    @property
    def ptr(self):
        return self.whole.ctypes.data + self.skip

    def bytes(self):
        """The content; what lies around it must be untouched."""
        inside = slice(self.skip, self.skip + self.nbytes)
        around = np.delete(self.whole, inside)
        assert (around == POISON).all(), "bytes outside of the buffer were written"
        return self.whole[inside].tobytes()


@dataclass
class Table:
    """Streams in buffers of their own, and the columns that say where."""

    inputs: list
    outputs: list
    columns: list
    actual: np.ndarray
    status: np.ndarray

    @classmethod
    def of(cls, streams, sizes, rng):
        inputs = [Memory.holding(data, rng.choice((0, 0, rng.randrange(16)))) for data in streams]
        outputs = []
        for n in sizes:
            skip, guard = rng.choice(((0, 0), (rng.randrange(16), 0), (GUARD + 3, GUARD)))
            outputs.append(Memory.holding(bytes([POISON]) * n, skip, guard))
        columns = [
            np.array([getattr(memory, name) for memory in side], np.uint64)
            for side in (inputs, outputs)
            for name in ("ptr", "nbytes")
        ]
        n = len(inputs)
        return cls(inputs, outputs, columns, np.full(n, 2**63, np.uint64), np.full(n, -1, np.int32))

    def args(self):
        return [column.ctypes.data for column in (*self.columns, self.actual, self.status)]

    def results(self):
        """Status, actual size and content of the output buffer, per stream."""
        buffers = [memory.bytes() for memory in self.outputs]
        return list(zip(self.status.tolist(), self.actual.tolist(), buffers, strict=True))


def run(kernel, args, shape, schedule="forward"):
    module = load("lz")
    module.schedule = schedule
    blocks, threads = shape
    module.get_function(kernel)((blocks,), (threads,), kernels.pack(kernel, tuple(args)))


def run_decoder(codec, streams, sizes, *, schedule="forward", shape=None, seed=0):
    kernel = lz.DECODERS[codec]
    table = Table.of(streams, sizes, random.Random(seed))
    n = len(streams)
    run(kernel, [*table.args(), n], shape or lz.launch(kernel, n), schedule)
    return table.results()


def check_decoder(codec, streams, sizes, **how):
    """The kernel does what the reference does, to the byte; returns the statuses."""
    results = run_decoder(codec, streams, sizes, **how)
    for data, nbytes, (status, actual, buffer) in zip(streams, sizes, results, strict=True):
        expected, produced = decode(codec, data, nbytes)
        assert (status, actual) == (expected, len(produced)), (codec, data.hex(), nbytes)
        # Instructions that do not fit are not begun.
        rest = bytes([POISON]) * (nbytes - len(produced))
        assert buffer == produced + rest, (codec, data.hex(), nbytes)
    return [status for status, _, _ in results]
