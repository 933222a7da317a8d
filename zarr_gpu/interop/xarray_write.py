"""Datasets to stores: ``ds.zarr_gpu.to_zarr(store)``, with the semantics of xarray's ``to_zarr``.

What is stored, and how it is encoded, is what the installed xarray stores by itself: variables are
encoded by its coders. What is appended, or written into a region, is encoded as what is there.

Blocks of dask arrays are written by tasks (:mod:`zarr_gpu.interop.dask_graph`). When two blocks
share a chunk or a shard, the write is refused before anything is stored or resized;
``align_chunks=True`` moves the borders of the blocks, ``safe_chunks=False`` writes all the same
(in one process our locks keep the data whole; so they do for local files).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zarr_gpu import consolidation
from zarr_gpu.array import Array
from zarr_gpu.creating import create_array, overlap
from zarr_gpu.errors import GroupNotFoundError
from zarr_gpu.group import Group
from zarr_gpu.interop import xarray_encoding as encodings
from zarr_gpu.interop import xarray_region as regions
from zarr_gpu.interop.xarray import DataStore, arrays_behind, opens
from zarr_gpu.interop.xarray_names import encode_dataset_coordinates
from zarr_gpu.nodes import StorePath, check_absent, read_group
from zarr_gpu.opening import open_group
from zarr_gpu.places import chosen_format, find_place
from zarr_gpu.stores.zip import ZipStore


def to_zarr(
    dataset: Any,
    store: Any = None,
    *,
    mode: str | None = None,
    group: str | None = None,
    encoding: Mapping[Any, Mapping[str, Any]] | None = None,
    compute: bool = True,
    consolidated: bool | None = None,
    append_dim: Hashable | None = None,
    region: Mapping[Any, Any] | str | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    zarr_format: int | None = None,
    write_empty_chunks: bool | None = None,
    compute_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Store a dataset; returns its :class:`~zarr_gpu.Group` (of a zip file, to be read only).

    Arguments as for :meth:`xarray.Dataset.to_zarr`. With ``compute=False`` metadata and what is
    in memory are stored at once, and a :class:`dask.delayed.Delayed` of the group is returned that
    stores the blocks of dask arrays. ``compute_kwargs`` go to dask's ``compute``.
    """
    sink = Sink(
        store,
        mode=chosen_mode(mode, append_dim, region),
        storage_options=storage_options,
        append_dim=append_dim,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
        write_empty_chunks=write_empty_chunks,
        zarr_format=zarr_format,
    )
    below = (group or "").strip("/")
    sink.refuse_place([dataset], below)
    node = None if sink.anew else sink.open(below, consolidated)
    plans = sink.plan(dataset, node, region, encoding or {})
    node = node or sink.open(below, consolidated)
    return sink.finish(node, sink.store(node, plans), consolidated, compute, compute_kwargs)


def tree_to_zarr(
    tree: Any,
    store: Any,
    *,
    mode: str | None = "w-",
    encoding: Mapping[str, Any] | None = None,
    write_inherited_coords: bool = False,
    compute: bool = True,
    consolidated: bool | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    zarr_format: int | None = None,
    write_empty_chunks: bool | None = None,
    compute_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Store a tree, a group for each node; as :meth:`xarray.DataTree.to_zarr` otherwise."""
    encoding = encoding or {}
    unknown = set(encoding) - set(tree.groups)
    if unknown:
        raise ValueError(f"encoding names groups that the tree does not have: {sorted(unknown)}")
    sink = Sink(
        store,
        mode=chosen_mode(mode, None, None),
        storage_options=storage_options,
        append_dim=None,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
        write_empty_chunks=write_empty_chunks,
        zarr_format=zarr_format,
    )
    datasets = {
        path: node.to_dataset(inherit=write_inherited_coords or node is tree)
        for path, node in tree.subtree_with_keys
    }
    chosen = {path: encoding.get(node.path) or {} for path, node in tree.subtree_with_keys}
    sink.refuse_place(datasets.values(), "")
    root = None if sink.anew else sink.open("", consolidated)
    plans = {
        path: sink.plan(dataset, root and _child(root, path), None, chosen[path])
        for path, dataset in datasets.items()
    }
    root = root or sink.open("", consolidated)
    pending = [write for path in plans for write in sink.store(_child(root, path), plans[path])]
    return sink.finish(root, pending, consolidated, compute, compute_kwargs)


def _child(root: Group, path: str) -> Group:
    return root if path in ("", ".") else root.require_group(path)


def chosen_mode(mode: str | None, append_dim: Hashable | None, region: Any) -> str:
    """``mode``, or what follows from the other arguments. ValueError when they do not fit."""
    if mode is None:
        mode = "a" if append_dim is not None else "w-" if region is None else "r+"
    if mode not in ("w", "w-", "a", "a-", "r+"):
        raise ValueError(f"mode must be 'w', 'w-', 'a', 'a-' or 'r+', found {mode!r}")
    if append_dim is not None and mode not in ("a", "a-"):
        raise ValueError(f"append_dim needs mode 'a' or 'a-', found {mode!r}")
    if region is not None and mode not in ("a", "a-", "r+"):
        raise ValueError(f"region needs mode 'a', 'a-' or 'r+', found {mode!r}")
    return mode


@dataclass(frozen=True, slots=True, kw_only=True)
class VariablePlan:
    """One variable on its way: into ``array``, or into a new one made by ``arguments``.

    ``grown``: the shape that the array gets first; ``data``: what is written into ``region``.
    """

    name: str
    array: Array | None
    arguments: Mapping[str, Any]
    grown: tuple[int, ...] | None
    region: tuple[slice, ...]
    data: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """The variables of one dataset, and its attributes (None: those stored stay)."""

    variables: Sequence[VariablePlan]
    attributes: Mapping[str, Any] | None


class Sink:
    """A place that datasets are stored in, and how: first all is planned, then stored."""

    def __init__(
        self,
        store: Any,
        *,
        mode: str,
        storage_options: Mapping[str, Any] | None,
        append_dim: Hashable | None,
        safe_chunks: bool,
        align_chunks: bool,
        write_empty_chunks: bool | None,
        zarr_format: int | None,
    ) -> None:
        self.source = (store, storage_options)
        self.place = find_place(store, None, "a" if mode == "a-" else mode, storage_options)
        self.mode = mode
        self.append_dim = append_dim
        self.safe_chunks = safe_chunks
        self.align_chunks = align_chunks
        self.write_empty_chunks = write_empty_chunks
        self.zarr_format = zarr_format

    @property
    def anew(self) -> bool:
        """True when nothing that is there is of interest."""
        return self.mode in ("w", "w-")

    def open(self, below: str, consolidated: bool | None) -> Group:
        """The group to be written, created or emptied as the mode says."""
        format_ = self.zarr_format
        if self.mode != "r+" or consolidated is False:
            return open_group(
                self.place,
                mode="a" if self.mode == "a-" else self.mode,
                path=below or None,
                use_consolidated=False,
                zarr_format=format_,
            )
        try:
            root = open_group(
                self.place, mode="r+", use_consolidated=consolidated, zarr_format=format_
            )
        except GroupNotFoundError:
            if not below or consolidated:
                raise
            return open_group(self.place, mode="r+", path=below, zarr_format=format_)
        found: Group = root.get_group(below) if below else root
        return found

    # -- planning: everything that can be refused is refused here ------------------------------

    def plan(
        self,
        dataset: Any,
        group: Group | None,
        region: Any,
        encoding: Mapping[Any, Mapping[str, Any]],
    ) -> GroupPlan:
        """What is to be done to store ``dataset`` in ``group`` (None: in one yet to be made)."""
        encodings.check_names(dataset)
        store = None if group is None else DataStore(group, dict(group.arrays()))
        arrays = {} if store is None else store.arrays
        spans: dict[Any, slice] = {}
        if region is not None and store is not None:
            spans = regions.parse(dataset, region, store, self.mode, self.append_dim)
            dataset = dataset.drop_vars(dataset.indexes)  # a region changes no index
        again = [name for name in encoding if stored_name(name) in arrays]
        if again:
            raise ValueError(f"variables {again} are there already; their encoding= is fixed")
        variables, attributes = encode_dataset_coordinates(dataset)
        for name, given in encoding.items():
            if name not in variables:
                raise KeyError(f"encoding names {name!r}, which is no variable of the dataset")
            variables[name].encoding = dict(given)
        self._check_names(variables, store)
        encoded = self._encoded(variables, store, spans)
        plans = [
            self._plan_variable(name, variable, store, spans, checked=name in encoding)
            for name, variable in encoded.items()
            if self._is_written(variable, stored_name(name) in arrays)
        ]
        put = {k: encodings.attribute(v) for k, v in attributes.items()}
        return GroupPlan(variables=plans, attributes=None if self.mode == "r+" else put)

    def _check_names(self, variables: Mapping[Any, Any], store: DataStore | None) -> None:
        arrays = {} if store is None else store.arrays
        new = [name for name in variables if stored_name(name) not in arrays]
        if self.mode == "r+" and new:
            raise ValueError(
                f"variables {new} are not in the store, and mode 'r+' makes no new ones; mode 'a' "
                "does"
            )
        if self.append_dim is not None and self.append_dim not in arrays:
            known = {} if store is None else store.dimensions()
            if self.append_dim not in known:
                raise ValueError(
                    f"append_dim={self.append_dim!r} is no dimension of what is stored: {known}"
                )

    def _encoded(
        self, variables: Mapping[Any, Any], store: DataStore | None, spans: Mapping[Any, slice]
    ) -> dict[Any, Any]:
        """Variables as they are to be stored; what is there already says how."""
        existing: dict[Any, Any] = {}
        if store is None:
            zarr_format: int = chosen_format(self.zarr_format)
        else:
            zarr_format = store.group.metadata.zarr_format
            existing = encodings.decoded(
                {
                    name: store.variable(stored_name(name))
                    for name in variables
                    if stored_name(name) in store.arrays
                }
            )
        out = {}
        for name, variable in variables.items():
            if name in existing:
                found = encodings.encoded_as(variable, name, existing[name], zarr_format)
                out[name] = regions.fitted(name, found, existing[name], spans, self.append_dim)
            else:
                out[name] = encodings.encoded(variable, name, zarr_format)
        return out

    def _is_written(self, variable: Any, exists: bool) -> bool:
        """Mode ``a-`` appends, and leaves alone what has no axis to append to."""
        if self.mode != "a-" or self.append_dim is None:
            return True
        return not exists or self.append_dim in variable.dims

    def _plan_variable(
        self,
        name: Any,
        variable: Any,
        store: DataStore | None,
        spans: Mapping[Any, slice],
        *,
        checked: bool,
    ) -> VariablePlan:
        array = None if store is None else store.arrays.get(stored_name(name))
        span = tuple(spans.get(dim, slice(None)) for dim in variable.dims)
        shape, grown, arguments = variable.shape, None, {}
        if store is None:
            zarr_format: int = chosen_format(self.zarr_format)
        else:
            zarr_format = store.group.metadata.zarr_format
        if array is None:
            if spans:
                raise ValueError(f"variable {name!r} is new and cannot be written into a region")
            arguments = encodings.creation_arguments(
                name,
                variable,
                zarr_format=zarr_format,
                checked=checked,
                write_empty_chunks=self.write_empty_chunks,
            )
        else:
            shape = array.shape
            if self.append_dim in variable.dims:
                axis = variable.dims.index(self.append_dim)
                start = shape[axis]
                shape = grown = (*shape[:axis], start + variable.shape[axis], *shape[axis + 1 :])
                span = (*span[:axis], slice(start, None), *span[axis + 1 :])
        data = variable.data
        if encodings.is_dask(data):
            data = regions.aligned(
                name,
                data,
                encodings.object_lengths(array, arguments, shape, zarr_format),
                tuple(s.indices(n)[0] for s, n in zip(span, shape, strict=True)),
                align=self.align_chunks,
                check=self.safe_chunks and not self.align_chunks,
                partial=self.mode != "r+",
            )
        return VariablePlan(
            name=stored_name(name),
            array=array,
            arguments=arguments,
            grown=grown,
            region=span,
            data=data,
        )

    def refuse_place(self, datasets: Iterable[Any], below: str) -> None:
        """Before anything is loaded: ContainsGroupError or ContainsArrayError with mode ``w-``.

        ValueError when emptying the place would delete what is still to be read from it.
        """
        place = self.place / below if below else self.place
        if self.mode == "w-":
            check_absent(place.store, place.path)
        if self.mode != "w":
            return
        for dataset in datasets:
            for name, variable in dataset.variables.items():
                for array in arrays_behind(variable):
                    if overlap(place, array.store_path):
                        raise ValueError(
                            f"mode 'w' would delete {array.store_path}, which variable {name!r} is "
                            "still to be read from; load the dataset first, or store it elsewhere"
                        )

    # -- storing ----------------------------------------------------------------------------------

    def store(self, group: Group, plan: GroupPlan) -> list[tuple[Any, Array, Any]]:
        """Store metadata and what is in memory; returns what dask is to write."""
        if plan.attributes is not None:
            encodings.put_attributes(group, plan.attributes)
        pending = []
        for variable in plan.variables:
            array = variable.array
            if array is None:
                array = create_array(  # other than groups, it takes xarray's names with "__"
                    group.store_path,
                    name=variable.name,
                    overwrite=self.mode == "w",
                    zarr_format=group.metadata.zarr_format,
                    **variable.arguments,
                )
            elif self.write_empty_chunks is not None:
                array = array.with_config({"write_empty_chunks": self.write_empty_chunks})
            if variable.grown is not None:
                array.resize(variable.grown)
            if encodings.is_dask(variable.data):
                pending.append((variable.data, array, variable.region))
            elif variable.data.size:
                array[variable.region or ...] = variable.data
        return pending

    def finish(
        self,
        group: Group,
        pending: Sequence[tuple[Any, Array, Any]],
        consolidated: bool | None,
        compute: bool,
        compute_kwargs: Mapping[str, Any] | None,
    ) -> Any:
        """Consolidate, and write (or return) what is pending."""
        listed = consolidated or (consolidated is None and group.store.supports_listing)
        if self.mode != "r+" and listed:
            self._consolidate(group, required=bool(consolidated))
        if not pending and compute:
            return self._finished(group)
        from zarr_gpu.interop import dask_graph as graphs

        last = self._finished if self._ends(group) else None
        result = graphs.store_blocks(pending, group, check=False, last=last)
        return graphs.compute_now(result, compute_kwargs) if compute else result

    def _ends(self, group: Group) -> bool:
        """True for a zip file that was named by its path: nobody else could close it."""
        return opens(self.source[0]) and isinstance(group.store, ZipStore)

    def _finished(self, group: Group) -> Group:
        """The group; of a zip file, which ends with its directory, opened again to be read."""
        if not self._ends(group):
            return group
        group.store.close()
        place = find_place(self.source[0], None, "r", self.source[1])
        return open_group(place, mode="r", path=group.path or None)

    def _consolidate(self, group: Group, *, required: bool) -> None:
        """Collect all metadata of the store at its root, which may be no group of this format."""
        place = StorePath(group.store, self.place.path)
        try:
            metadata = read_group(place.store, place.path, group.metadata.zarr_format)
        except GroupNotFoundError:
            if required:
                raise
            return
        consolidation.consolidate(place, metadata)


def stored_name(name: Any) -> str:
    """Variables without a name have one in the store."""
    return "__values__" if name is None else str(name)
