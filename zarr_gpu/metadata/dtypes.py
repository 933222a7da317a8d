"""The data type table: v2 and v3 names, NumPy types and fill values of array elements.

Knows no array, chunk or codec. This module is the door; the parts are

* :mod:`~zarr_gpu.metadata.dtype_names`: names and the NumPy types behind them,
* :mod:`~zarr_gpu.metadata.data_type`: one type and what can be asked of it,
* :mod:`~zarr_gpu.metadata.fills`: fill values,
* :mod:`~zarr_gpu.metadata.dtype_parse`: documents and ``dtype=`` arguments.

>>> dt = parse_v3("int16")
>>> dt.fill_from_json(-1, 3), dt.to_v2_json()
(np.int16(-1), '<i2')
"""

from __future__ import annotations

from zarr_gpu.metadata.data_type import DataType
from zarr_gpu.metadata.dtype_parse import from_dtype_like, parse_v2, parse_v3

__all__ = ["DataType", "from_dtype_like", "parse_v2", "parse_v3"]
