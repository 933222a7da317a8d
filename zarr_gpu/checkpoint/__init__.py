"""Checkpoints of machine learning models, as safetensors files that are Zarr groups, too.

>>> import tempfile, numpy as np
>>> path = f"{tempfile.mkdtemp()}/model.safetensors"
>>> save_file({"layer.weight": np.ones((4, 2), "f4")}, path)
>>> with safe_open(path, framework="np") as file:
...     file.keys(), file.get_slice("layer.weight")[1:3, 0].tolist()
(['layer.weight'], [1.0, 1.0])
"""

from __future__ import annotations

from zarr_gpu.checkpoint.files import TensorSlice, load_file, safe_open, save_file
from zarr_gpu.checkpoint.manager import Manager, async_save
from zarr_gpu.checkpoint.models import load_model, save_model
from zarr_gpu.checkpoint.steps import load, save

__all__ = [
    "Manager",
    "TensorSlice",
    "async_save",
    "load",
    "load_file",
    "load_model",
    "safe_open",
    "save",
    "save_file",
    "save_model",
]
