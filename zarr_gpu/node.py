"""What arrays and groups have in common: a place in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from zarr_gpu.nodes import StorePath, document_key

if TYPE_CHECKING:
    from zarr_gpu.stores.base import Store


class Node:
    """An array or a group at its place in a store; closing a ``with`` block closes the store."""

    def __init__(self, store_path: StorePath) -> None:
        self._store_path = store_path

    @property
    def store(self) -> Store:
        """The store that holds the node."""
        return self._store_path.store

    @property
    def store_path(self) -> StorePath:
        """Store and path together."""
        return self._store_path

    @property
    def path(self) -> str:
        """Path in the store, "" for the root."""
        return self._store_path.path

    @property
    def name(self) -> str:
        """The path with a leading slash, as in h5py."""
        return "/" + self.path

    @property
    def basename(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def metadata(self) -> Any:
        """The node's document; replaced, never changed."""
        raise NotImplementedError

    @property
    def read_only(self) -> bool:
        """True when the store was opened for reading."""
        return self.store.read_only

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What dask names the node by, equal for the same node in every process.

        Its place, its documents and, where the store can tell, their version. What is in memory has
        no place: there, every token is another one.
        """
        store = self.store
        if store.in_process:
            import uuid  # slow to import

            return (uuid.uuid4().hex,)
        version = None
        if store.local:
            reader = store.open_reader(document_key(self.metadata, self.path))
            if reader is not None:
                with reader:
                    version = reader.version
        documents = sorted(self.metadata.documents(None).items())
        return type(self).__name__, store.identity, self.path, documents, version

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Node)
            and self.store.identity == other.store.identity
            and self.path == other.path
            and bool(self.metadata == other.metadata)
        )

    __hash__ = None  # type: ignore[assignment]  # equality follows metadata, which can change

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.close()
