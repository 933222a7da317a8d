"""The one line that makes zarr-python use zarr_gpu; imports zarr-python when it is called."""

from __future__ import annotations

from typing import Any


def enable(*, gpu: bool = False, strict: bool = False) -> Any:
    """Make zarr-python read and write through zarr_gpu, for good or in a ``with`` block.

    Holds for arrays opened from now on, also by xarray, dask and anndata. ``gpu`` also turns
    zarr-python's GPU buffers on, so that reads return CuPy arrays. ``strict`` raises
    UnsupportedError where otherwise zarr-python's own pipeline would step in. Returns what
    ``zarr.config.set`` returns. Raises MissingDependencyError without zarr-python.
    """
    from zarr_gpu.interop.zarr_python import PATH, STRICT, CodecPipeline, config, register_pipeline

    register_pipeline(CodecPipeline)  # for a source tree that is not installed
    settings: dict[str, Any] = {"codec_pipeline.path": PATH, STRICT: strict}
    if gpu:
        settings["buffer"] = "zarr.buffer.gpu.Buffer"
        settings["ndbuffer"] = "zarr.buffer.gpu.NDBuffer"
    return config.set(settings)
