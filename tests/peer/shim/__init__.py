"""``zarr`` as a face of ``zarr_gpu``, for running zarr-python's own tests against it.

* :mod:`shim.finder` answers ``import zarr...``;
* :mod:`shim.names` says which name of zarr-python is what here;
* :mod:`shim.stubs` stands in for every other name: a test that uses one is skipped;
* :mod:`shim.plugin` is the pytest side: outcomes, the ledger, and what is not compared.

Only tests need this; nothing of it is part of ``zarr_gpu``.
"""
