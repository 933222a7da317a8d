"""Loading and saving checkpoints, beside the loaders that people use.

    python -m benchmarks.checkpoint                     # 1 GB
    python -m benchmarks.checkpoint --gb 8 --save       # the long run; writes results/
    python -m benchmarks.checkpoint --device cuda       # new tensors on a card (no card has run it)

Loaders take turns, all in this process, on the same tensors (bf16 weights, fp32 norms) in the page
cache; what they loaded is compared bit by bit first. A load ends when all bytes are in memory that
was there before; processor time is the steadier column on a shared machine. ``floor`` is a
``preadv`` loop over the file into that memory. Those whose package is missing are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zarr_gpu import checkpoint as ckpt
from zarr_gpu.checkpoint.arrays import choose, save_arrays
from zarr_gpu.checkpoint.saving import source

from .results_file import save  # type: ignore[import-not-found]  # as a module

PACKAGES = ("zarr-gpu", "torch", "safetensors", "tensorstore", "zarr", "orbax-checkpoint", "numpy")
Run = Callable[[], object]


def model(gigabytes: float, torch: Any) -> dict[str, Any]:
    """Tensors with the shapes of a decoder; weights as wide as real ones are."""
    hidden, inner, vocabulary = 2048, 5632, 32000
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Any:
        values = torch.randn(*shape, generator=generator, dtype=torch.float32)
        return (values * 0.02).to(torch.bfloat16)

    tensors = {"embed.weight": weight(vocabulary, hidden)}
    layer = 0
    while sum(t.numel() * t.element_size() for t in tensors.values()) < gigabytes * 1e9:
        at = f"layers.{layer}"
        for name, shape in (
            ("q", (hidden, hidden)), ("k", (512, hidden)), ("v", (512, hidden)),
            ("o", (hidden, hidden)), ("gate", (inner, hidden)), ("up", (inner, hidden)),
            ("down", (hidden, inner)),
        ):  # fmt: skip
            tensors[f"{at}.{name}_proj.weight"] = weight(*shape)
        for name in ("input_norm", "post_norm"):
            tensors[f"{at}.{name}.weight"] = torch.ones(hidden, dtype=torch.float32)
        layer += 1
    return tensors


def cuts(tensors: Mapping[str, Any]) -> dict[str, tuple[slice, ...]]:
    """What the second of four tensor-parallel ranks needs."""
    plan = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2:
            continue
        axis = 1 if ("o_proj" in name or "down_proj" in name) else 0
        n = tensor.shape[axis] // 4
        cut = [slice(None), slice(None)]
        cut[axis] = slice(n, 2 * n)
        plan[name] = tuple(cut)
    return plan


class Bench:
    """Files of one model, memory to load into, and what the loaders do."""

    def __init__(self, folder: Path, gigabytes: float, torch: Any) -> None:
        self.torch = torch
        self.folder = folder
        self.tensors = model(gigabytes, torch)
        self.nbytes = sum(t.numel() * t.element_size() for t in self.tensors.values())
        self.into = {name: torch.zeros_like(t) for name, t in self.tensors.items()}
        self.cuts = cuts(self.tensors)
        self.parts = {n: torch.zeros_like(self.tensors[n][cut]) for n, cut in self.cuts.items()}
        self.file = folder / "model.safetensors"
        ckpt.save_file(self.tensors, self.file)

    def whole(self) -> dict[str, Run]:
        """Loads of everything into memory that is there."""
        runs: dict[str, Run] = {"zarr_gpu": self._ours, "floor": self._floor}
        runs["zarr_gpu, verified"] = lambda: self._ours(verify="full")
        self._compressed(runs)
        self._safetensors(runs)
        self._torch(runs)
        self._tensorstore(runs)
        self._zarr_python(runs)
        self._orbax(runs)
        return runs

    def _ours(self, verify: Any = "none") -> None:
        with ckpt.safe_open(self.file, "pt", verify=verify) as file:
            file.load_into(self.into)

    def _floor(self) -> None:
        raw = os.open(self.file, os.O_RDONLY)
        try:
            n = int.from_bytes(os.pread(raw, 8, 0), "little")
            header = json.loads(os.pread(raw, n, 8))
            for name, into in self.into.items():
                start, stop = header[name]["data_offsets"]
                view = memoryview(into.view(self.torch.uint8).numpy().reshape(-1))
                done = 0
                while done < stop - start:
                    done += os.preadv(raw, [view[done : done + (1 << 30)]], 8 + n + start + done)
        finally:
            os.close(raw)

    def _compressed(self, runs: dict[str, Run]) -> None:
        path = self.folder / "model.zarr"
        rows = [source(name, tensor) for name, tensor in self.tensors.items()]
        save_arrays(path, rows, {}, compression="zstd", link=None, checksum=True)
        nbytes = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        print(f"compressed: 1/{self.nbytes / nbytes:.3f} of the bytes; {choose(rows, 7e9).reason}")

        def run() -> None:
            with ckpt.safe_open(path, "pt") as file:
                file.load_into(self.into)

        runs["zarr_gpu, compressed"] = run

    def _safetensors(self, runs: dict[str, Run]) -> None:
        try:
            from safetensors.torch import load_file
        except ImportError:
            return

        def copied(**options: Any) -> None:
            for name, tensor in load_file(str(self.file), **options).items():
                self.into[name].copy_(tensor)

        runs["safetensors (mmap)"] = copied
        runs["safetensors (pread)"] = lambda: copied(backend="pread")

    def _torch(self, runs: dict[str, Run]) -> None:
        path = str(self.folder / "model.pt")
        self.torch.save(self.tensors, path)

        def run() -> None:
            for name, tensor in self.torch.load(path, mmap=True, weights_only=True).items():
                self.into[name].copy_(tensor)

        runs["torch.load (mmap)"] = run
        import torch.distributed.checkpoint as dcp

        folder = str(self.folder / "dcp")
        dcp.save(self.tensors, checkpoint_id=folder, no_dist=True)
        runs["DCP"] = lambda: dcp.load(self.into, checkpoint_id=folder, no_dist=True)

    def _tensorstore(self, runs: dict[str, Run]) -> None:
        try:
            import tensorstore as ts
        except ImportError:
            return
        folder = self.folder / "tensorstore"
        opened = {}
        for name, tensor in self.tensors.items():
            kind = "bfloat16" if tensor.dtype == self.torch.bfloat16 else "float32"
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}}
            shape = list(tensor.shape)
            grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
            metadata = {"shape": shape, "data_type": kind, "chunk_grid": grid}
            array = ts.open({**spec, "metadata": metadata}, create=True).result()
            bits = tensor.view(self.torch.int16 if kind == "bfloat16" else self.torch.int32).numpy()
            array.write(bits.view(array.dtype.numpy_dtype)).result()
            opened[name] = spec

        def run() -> None:
            arrays = {name: ts.open(spec, open=True) for name, spec in opened.items()}
            waiting = []
            for name, future in arrays.items():
                array, into = future.result(), self.into[name]
                bits = into.view(self.torch.int16 if into.element_size() == 2 else self.torch.int32)
                target = ts.array(bits.numpy().view(array.dtype.numpy_dtype), copy=False)
                waiting.append(target.write(array))
            for write in waiting:
                write.result()

        runs["TensorStore"] = run

    def _zarr_python(self, runs: dict[str, Run]) -> None:
        """One uncompressed chunk each, of words: zarr-python alone has no bfloat16."""
        try:
            import zarr
        except ImportError:
            return
        path = self.folder / "zarr-python"
        group = zarr.open_group(path, mode="w")
        for name, tensor in self.tensors.items():
            words = self._words(tensor)
            options = {"shape": words.shape, "chunks": words.shape, "dtype": words.dtype}
            group.create_array(name, compressors=None, **options)[...] = words

        def run() -> None:
            arrays = zarr.open_group(path, mode="r")
            for name, tensor in self.into.items():
                self._words(tensor)[...] = arrays[name][...]

        runs["zarr-python"] = run

    def _orbax(self, runs: dict[str, Run]) -> None:
        """Its own format, restored to NumPy."""
        try:
            import ml_dtypes
            import orbax.checkpoint as ocp
        except ImportError:
            return
        tree = {}
        for name, tensor in self.tensors.items():
            words = self._words(tensor)
            tree[name] = words.view(ml_dtypes.bfloat16 if words.itemsize == 2 else np.float32)
        path = (self.folder / "orbax").absolute()
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
        arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in tree}

        def run() -> None:
            restore = ocp.args.PyTreeRestore(item=tree, restore_args=arguments)
            for name, values in checkpointer.restore(path, args=restore).items():
                into = self._words(self.into[name])
                into[...] = values.view(into.dtype)

        runs["Orbax"] = run

    def _words(self, tensor: Any) -> Any:
        return tensor.view(
            self.torch.int16 if tensor.element_size() == 2 else self.torch.int32
        ).numpy()

    def slices(self) -> dict[str, Run]:
        """What one of four tensor-parallel ranks loads."""

        def ours() -> None:
            with ckpt.safe_open(self.file, "pt") as file:
                file.load_into(self.parts, self.cuts)

        def theirs() -> None:
            from safetensors import safe_open

            with safe_open(str(self.file), "pt") as file:
                for name, cut in self.cuts.items():
                    self.parts[name].copy_(file.get_slice(name)[cut])

        return {"zarr_gpu": ours, "safetensors get_slice": theirs}

    def to_device(self, device: str) -> dict[str, Run]:
        """Loads of everything to new tensors on a device; each gives them back."""
        file, path = str(self.file), self.folder / "model.zarr"
        runs: dict[str, Run] = {
            "zarr_gpu": lambda: ckpt.load_file(file, device, framework="pt"),
            "zarr_gpu, verified": lambda: ckpt.load_file(file, device, verify="full"),
            "zarr_gpu, compressed": lambda: ckpt.load_file(path, device, framework="pt"),
        }
        with suppress(ImportError):
            from safetensors.torch import load_file

            runs["safetensors (mmap)"] = lambda: load_file(file, device=device)
            runs["safetensors (pread)"] = lambda: load_file(file, device=device, backend="pread")
        with suppress(ImportError):
            import fastsafetensors

            def fast(nogds: bool) -> dict[str, Any]:
                group = fastsafetensors.SingleGroup()
                loader = fastsafetensors.SafeTensorsFileLoader(group, device, nogds=nogds)
                loader.add_filenames({0: [file]})
                buffers = loader.copy_files_to_device()
                return {name: buffers.get_tensor(name) for name in self.tensors}

            runs["fastsafetensors"] = lambda: fast(nogds=True)
        synchronize = self.torch.cuda.synchronize if device.startswith("cuda") else lambda: None

        def whole(run: Run) -> object:
            found = run()
            synchronize()
            return found

        return {name: partial(whole, run) for name, run in runs.items()}

    def check_device(self, name: str, run: Run) -> None:
        """Raise AssertionError unless the run gives the very same bits."""
        found: Any = run()
        for key, tensor in self.tensors.items():
            if not self.torch.equal(found[key].cpu(), tensor):
                raise AssertionError(f"{name}: {key} is not what was saved")

    def saves(self) -> dict[str, Run]:
        """Saves of everything, not flushed to the disk."""
        ours, theirs, third = (str(self.folder / f"save-{i}") for i in range(3))

        def safetensors() -> None:
            from safetensors.torch import save_file

            save_file(self.tensors, theirs)

        return {
            "zarr_gpu": lambda: ckpt.save_file(self.tensors, ours),
            "zarr_gpu, no checksums": lambda: ckpt.save_file(self.tensors, ours, checksum=False),
            "safetensors": safetensors,
            "torch.save": lambda: self.torch.save(self.tensors, third),
        }

    def check(self, name: str, run: Run, *, parts: bool) -> None:
        """Raise AssertionError unless the run loads the very same bits."""
        memory = self.parts if parts else self.into
        for tensor in memory.values():
            tensor.zero_()
        run()
        for key, tensor in memory.items():
            expected = self.tensors[key][self.cuts[key]] if parts else self.tensors[key]
            if not self.torch.equal(tensor, expected):
                raise AssertionError(f"{name}: {key} is not what was saved")


def measure(runs: Mapping[str, Run], repeats: int) -> dict[str, dict[str, float]]:
    """Medians of wall and processor seconds, runs taking turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, run in runs.items():
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            run()
            wall = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if i:
                found[name].append((wall, cpu))
    return {
        name: {
            "wall": statistics.median(w for w, _ in times),
            "fastest": min(w for w, _ in times),
            "cpu": statistics.median(c for _, c in times),
        }
        for name, times in found.items()
    }


def report(title: str, rows: Mapping[str, Mapping[str, float]], gigabytes: float) -> None:
    """Print one table."""
    print(f"\n{title}\n{'':<26}{'wall s':>9}{'fastest':>9}{'cpu s':>9}{'cpu s/GB':>10}{'GB/s':>8}")
    for name, row in sorted(rows.items(), key=lambda item: item[1]["cpu"]):
        rate = gigabytes / row["wall"]
        columns = f"{row['wall']:9.3f}{row['fastest']:9.3f}{row['cpu']:9.3f}"
        print(f"{name:<26}{columns}{row['cpu'] / gigabytes:10.3f}{rate:8.2f}")


def main() -> int:
    """Parse arguments, measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are kept meanwhile")
    parser.add_argument("--device", help="also loads to new tensors there, such as cuda")
    parser.add_argument("--save", action="store_true", help="into results/")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        import torch

        torch.set_num_threads(2)
        bench = Bench(folder, options.gb, torch)
        gigabytes = bench.nbytes / 1e9
        print(f"{len(bench.tensors)} tensors, {gigabytes:.3f} GB")
        tables = {}
        for title, runs, parts in (
            ("whole load into parameters", bench.whole(), False),
            ("one of four tensor-parallel ranks", bench.slices(), True),
        ):
            for name, run in runs.items():
                bench.check(name, run, parts=parts)
            tables[title] = measure(runs, options.repeats)
        if options.device:
            to_device = bench.to_device(options.device)
            for name, run in to_device.items():
                bench.check_device(name, run)
            tables[f"new tensors on {options.device}"] = measure(to_device, options.repeats)
        tables["save (page cache)"] = measure(bench.saves(), max(1, options.repeats // 2))
        for title, rows in tables.items():
            report(title, rows, gigabytes)
        if options.save:
            found = {"gigabytes": gigabytes, "repeats": options.repeats, "tables": tables}
            save("checkpoint", PACKAGES, found)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
