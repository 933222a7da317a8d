"""Errors come back from other processes as what they were: multiprocessing, dask, PyTorch."""

from __future__ import annotations

import pickle

import pytest

from zarr_gpu import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.ChunkDecodeError("no", array="a", key="c/0", byte_range=(2, 3), codec="zstd"),
        errors.ChunkNotFoundError("missing", array="a", key="c/0"),
        errors.ChecksumError("no", array="a", key="c/0", codec="crc32c", expected=1, found=2),
        errors.CodecError("no", codec="zstd", expected=1, found=2),
        errors.ChecksumMismatchError("no", codec="crc32c"),
        errors.MetadataError([errors.Problem(("codecs", 0), "no")], document="zarr.json"),
        errors.UnknownCodecError("no", document="zarr.json"),
        errors.LimitError("no", expected=1, found=2),
        errors.ReadOnlyError("no"),
        errors.ArrayNotFoundError("no"),
        errors.MissingDependencyError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert again.__dict__ == error.__dict__


def test_errors_can_be_raised_again_with_other_words():
    """As PyTorch does, which puts the traceback of a worker into the message."""
    for kind in (errors.ChunkDecodeError, errors.ChunkNotFoundError, errors.CodecError):
        assert str(kind("words")) == "words"
