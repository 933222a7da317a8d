"""Tensors that are the file: mapped memory, nothing read before it is used.

A page is copied when it is written to, so that nothing gets back to the file. Nobody may cut the
file short meanwhile: reading what is gone ends the process (SIGBUS).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from zarr_gpu._types import NDArray
from zarr_gpu.checkpoint.described import Described, described_shape, numpy_dtype, type_name
from zarr_gpu.checkpoint.frameworks import Framework, get_torch
from zarr_gpu.metadata.safetensors import TYPES
from zarr_gpu.stores.tensor_files import Tensor, TensorFiles

FRAMEWORKS = ("np", "pt")


class Borrower:
    """Gives views of mapped files; they keep the mapping, not the opened file."""

    def __init__(self, files: TensorFiles, framework: Framework) -> None:
        self._files = files
        self._framework = framework
        self._maps: dict[int, Any] = {}

    def tensor(self, tensor: Tensor, described: Described) -> tuple[Any, memoryview] | None:
        """A tensor and its bytes; None where they have to be read.

        That is so for tensors of several parts or of no bytes, files that cannot be mapped,
        elements that do not lie on a multiple of their size, and elements of less than a byte.
        """
        bits = TYPES[described.code].bits
        if len(tensor.parts) != 1 or bits < 8 or sys.byteorder == "big":
            return None
        row = tensor.parts[0].row
        offset, nbytes = int(self._files.offset[row]), int(self._files.nbytes[row])
        mapped = self._map(int(self._files.file[row])) if nbytes else None
        if mapped is None:
            return None
        data: NDArray = np.frombuffer(mapped, np.uint8, nbytes, offset)
        if self._framework.name == "pt":
            torch = get_torch()
            dtype, shape = torch.own(described)
            values = torch.module.from_numpy(data)
        else:
            dtype, shape = numpy_dtype(type_name(described)), described_shape(described)
            values = data
        if offset % dtype.itemsize:  # mappings begin with a page
            return None
        return values.view(dtype).reshape(shape), memoryview(data)

    def _map(self, file: int) -> Any:
        if file not in self._maps:
            self._maps[file] = self._files.readers[file].map(private=True)
        return self._maps[file]
