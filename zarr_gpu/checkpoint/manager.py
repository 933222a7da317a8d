"""Many steps of one training run: the last ones are kept, and saves may go on in the background.

>>> import tempfile, numpy as np
>>> manager = Manager(tempfile.mkdtemp(), keep=2)
>>> for step in range(4):
...     manager.save(step, {"w": np.full(2, step)})
>>> manager.steps(), manager.restore()["w"].tolist()
([2, 3], [3, 3])
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Self

from zarr_gpu.checkpoint import steps
from zarr_gpu.checkpoint.frameworks import framework_of
from zarr_gpu.checkpoint.tree import Flat, flatten
from zarr_gpu.checkpoint.verifying import Verify
from zarr_gpu.errors import CheckpointError
from zarr_gpu.stores.open import make_store
from zarr_gpu.stores.tensor_files import MANIFEST

_STEP = re.compile(r"step-(\d{8,18})")


def async_save(state: Any, path: Any, **options: Any) -> Future[None]:
    """:func:`save` in a thread of its own, from a copy of all tensors in the memory of the host.

    Returns when the copy is made, so that training can go on; the future has the outcome. ``state``
    is checked before: what cannot be saved raises here.
    """
    flat = _snapshot(flatten(state))
    durable = options.pop("durable", True)
    store = steps.folder_store(path, durable=durable)
    future: Future[None] = Future()

    def work() -> None:
        try:
            steps.save_flat(flat.tensors, flat.tree, store, **options)
        except BaseException as error:  # noqa: BLE001 - the future's
            future.set_exception(error)
        else:
            future.set_result(None)

    # No daemon: a program that ends waits for its checkpoint.
    threading.Thread(target=work, name="zarr_gpu.async_save").start()
    return future


def _snapshot(flat: Flat) -> Flat:
    copies = {name: framework_of(t).snapshot(t) for name, t in flat.tensors.items()}
    return Flat(copies, flat.tree)


class Manager:
    """Checkpoints of steps below a directory (``root``, a path or URL), the last ``keep`` of them.

    ``every``: :meth:`should_save` is true for multiples of it. One writer at a time; any number of
    readers. A step counts when its manifest is written, the last thing of a save: whatever is
    interrupted, :meth:`latest` is whole. Older and interrupted ones are removed after a save.
    """

    def __init__(
        self,
        root: Any,
        *,
        keep: int | None = 3,
        every: int = 1,
        durable: bool = True,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep has to be at least 1, found {keep}")
        if every < 1:
            raise ValueError(f"every has to be at least 1, found {every}")
        self._root = os.fspath(root).rstrip("/")
        self._store = make_store(self._root, tensors=False)[0]
        self._keep = keep
        self._every = every
        self._options: dict[str, Any] = {"durable": durable, "metadata": metadata}
        self._pending: Future[None] | None = None
        self._writing: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()

    def path(self, step: int) -> str:
        """Directory of a step."""
        return f"{self._root}/{_name(step)}"

    def steps(self) -> list[int]:
        """Whole checkpoints, in rising order."""
        return [step for step in self._found() if self._is_whole(step)]

    def latest(self) -> int | None:
        """The last whole checkpoint."""
        return next((step for step in reversed(self._found()) if self._is_whole(step)), None)

    def should_save(self, step: int) -> bool:
        """Whether ``step`` is a multiple of ``every``."""
        return step % self._every == 0

    def save(self, step: int, state: Any, *, overwrite: bool = False) -> None:
        """Store a step, then remove what is too old. Waits for a save that is under way."""
        self.wait()
        steps.save(state, self.path(step), step=step, overwrite=overwrite, **self._options)
        self.gc()

    def async_save(self, step: int, state: Any, *, overwrite: bool = False) -> Future[None]:
        """The same in the background, see :func:`async_save`; first waits for the one before."""
        self.wait()
        self._writing = step
        self._pending = async_save(
            state, self.path(step), step=step, overwrite=overwrite, **self._options
        )
        return self._pending

    def wait(self) -> None:
        """Until no save is under way; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            finally:
                self._writing = None
            self.gc()

    def restore(
        self,
        step: int | None = None,
        into: Any = None,
        *,
        device: Any = "cpu",
        framework: str | None = None,
        verify: Verify = "none",
    ) -> Any:
        """The state of ``step``, or of the last one; see :func:`load`.

        Raises CheckpointError when there is none.
        """
        if step is None:
            step = self.latest()
            if step is None:
                raise CheckpointError(f"no checkpoint below {self._root!r}")
        return steps.load(self.path(step), into, device=device, framework=framework, verify=verify)

    def gc(self) -> list[int]:
        """Remove all but the last ``keep`` steps, and interrupted ones before the last whole one.

        Returns the steps that are gone.
        """
        found = self._found()
        whole = [step for step in found if self._is_whole(step)]
        if not whole:
            return []
        kept = set(whole if self._keep is None else whole[-self._keep :])
        gone = [s for s in found if s not in kept and s < whole[-1] and s != self._writing]
        for step in gone:
            self._store.delete(f"{_name(step)}/{MANIFEST}")  # from here on it is none
            self._store.delete_prefix(_name(step))
        return gone

    def _found(self) -> list[int]:
        matches = [_STEP.fullmatch(name) for name in self._store.list_dir()]
        return sorted(int(match[1]) for match in matches if match)

    def _is_whole(self, step: int) -> bool:
        return self._store.exists(f"{_name(step)}/{MANIFEST}")


def _name(step: int) -> str:
    if not isinstance(step, int) or not 0 <= step < 10**18:
        raise ValueError(f"a step has to be a number from 0 on, found {step!r}")
    return f"step-{step:08}"
