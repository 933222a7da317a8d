"""Stored bytes, put together by hand the way foreign writers do; uses no codec of any library."""

import json
import struct


def regular(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def v3(shape, chunks, data_type, codecs, **members):
    """A complete v3 array document; members given override, ... removes."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": regular(*chunks),
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    }
    return encoded({**document, **members})


def v2(shape, chunks, dtype, **members):
    """A complete ``.zarray``."""
    document = {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunks),
        "dtype": dtype,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
    }
    return encoded({**document, **members})


def encoded(document):
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC32C = {"name": "crc32c"}
ZSTD = {"name": "zstd", "configuration": {"level": 1}}


def sharding(chunk_shape, codecs, **members):
    configuration = {
        "chunk_shape": list(chunk_shape),
        "codecs": codecs,
        "index_codecs": [LITTLE, CRC32C],
        "index_location": "end",
        **members,
    }
    return {"name": "sharding_indexed", "configuration": configuration}


def zstd(data):
    """A frame of one raw block, as RFC 8878 has it for data that do not compress."""
    size = len(data)
    assert size < 256
    return b"\x28\xb5\x2f\xfd\x20" + bytes([size]) + (size << 3 | 1).to_bytes(3, "little") + data


def lz4(data):
    """numcodecs' size, then one sequence of literals only."""
    assert len(data) < 15
    return struct.pack("<I", len(data)) + bytes([len(data) << 4]) + data


def vlen(items):
    """numcodecs' vlen codecs: a count, then length and bytes of every item."""
    parts = [struct.pack("<I", len(item)) + item for item in items]
    return struct.pack("<I", len(items)) + b"".join(parts)


def shuffled(data, size):
    """All first bytes of the elements, then all second ones ..."""
    return b"".join(data[i::size] for i in range(size))


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return struct.pack("<I", value ^ 0xFFFFFFFF)


def shard(chunks):
    """Inner chunks (None: missing), then the index and its checksum."""
    index, offset = b"", 0
    for chunk in chunks:
        if chunk is None:
            index += b"\xff" * 16
        else:
            index += struct.pack("<QQ", offset, len(chunk))
            offset += len(chunk)
    return b"".join(chunk or b"" for chunk in chunks) + index + crc32c(index)
