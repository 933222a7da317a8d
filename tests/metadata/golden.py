"""Documents stored by zarr-python 3.4.2 and smaller ones to change; data for the tests here."""

import copy
import json
from pathlib import Path

_DATA = Path(__file__).parents[1] / "data" / "metadata"


def stored(version):
    """Content by key."""
    text = (_DATA / f"zarr_python_{version}.json").read_text()
    return {key: value.encode() for key, value in json.loads(text).items()}


_V3 = {
    "shape": [10, 7],
    "data_type": "int32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 3]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    "attributes": {},
    "zarr_format": 3,
    "node_type": "array",
    "storage_transformers": [],
}
_V2 = {
    "shape": [10, 7],
    "chunks": [4, 3],
    "dtype": "<i4",
    "fill_value": 0,
    "order": "C",
    "filters": None,
    "dimension_separator": ".",
    "compressor": {"id": "zlib", "level": 1},
    "zarr_format": 2,
}


def v3_document(**changes):
    """A valid v3 array document; a value of ... removes the member."""
    return _changed(_V3, changes)


def v2_document(**changes):
    """The same for v2."""
    return _changed(_V2, changes)


def _changed(document, changes):
    out = {**copy.deepcopy(document), **changes}
    return {name: value for name, value in out.items() if value is not ...}


def sharded(outer, inner, codecs=None, **changes):
    """A v3 document of shards."""
    config = {"chunk_shape": inner, "codecs": codecs or ["bytes"]}
    return v3_document(
        shape=changes.pop("shape", [100] * len(outer)),
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": outer}},
        codecs=[{"name": "sharding_indexed", "configuration": config}],
        **changes,
    )


def locations(error):
    """Where the problems of a MetadataError are, as text."""
    return {str(problem).split(":")[0] for problem in error.problems}


OTHER_KINDS = [
    None, True, False, 0, 1, -1, 2**63, 10**30, 1.5, float("nan"), float("inf"),
    "", "x", "/", "\ud800", [], [None], [[]], [1, 2], ["bytes"], [{}], {}, {"name": None},
    {"name": "regular"}, {"name": "bytes", "configuration": []}, {"must_understand": False},
]  # fmt: skip
"""JSON values of each kind, to put where they do not belong."""


def mutations(document):
    """The document with each value in it, however deep, replaced by each other kind."""
    for path in _paths(document):
        for value in OTHER_KINDS:
            changed = copy.deepcopy(document)
            holder = changed
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = value
            yield changed
        changed = copy.deepcopy(document)
        holder = changed
        for part in path[:-1]:
            holder = holder[part]
        del holder[path[-1]]
        yield changed


def _paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from _paths(item, (*path, key))
