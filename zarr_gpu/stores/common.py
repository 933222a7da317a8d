"""What several stores share: equality, prefixes and the wrapping of system errors.

Knows nothing of any particular store.

>>> check_prefix("a/b")
'a/b/'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from zarr_gpu.errors import StoreError
from zarr_gpu.stores.base import Store, check_key


class SameBytes(Store):
    """A store that is equal to every store of its class with the same ``identity``."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def check_prefix(prefix: str) -> str:
    """What the keys below the directory ``prefix`` start with; raises StoreKeyError."""
    return check_key(prefix) + "/" if prefix else ""


def failed(what: str, error: BaseException) -> StoreError:
    """``error`` as a StoreError that says ``what`` failed and keeps number and text."""
    if isinstance(error, OSError) and error.errno is not None:
        result = StoreError(error.errno, f"{what}: {error.strerror}")
    else:
        result = StoreError(f"{what}: {type(error).__name__}: {error}")
    result.transient = isinstance(error, TimeoutError | ConnectionError)
    return result


def keys_below(keys: Iterable[str], prefix: str) -> Iterator[str]:
    """Those of ``keys`` at or below the directory ``prefix``."""
    inside = check_prefix(prefix)
    return (key for key in keys if key.startswith(inside) or key == prefix)


def names_below(keys: Iterable[str], prefix: str) -> list[str]:
    """Names directly below the directory ``prefix``, sorted."""
    inside = check_prefix(prefix)
    skip = len(inside)
    return sorted({key[skip:].split("/", 1)[0] for key in keys if key.startswith(inside)})


@contextmanager
def as_store_errors(what: str) -> Iterator[None]:
    """Raise errors of the operating system as StoreError: ``what`` could not be done."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise failed(what, error) from error
