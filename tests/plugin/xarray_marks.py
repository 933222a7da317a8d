"""A plugin of pytest: the mark ``skip_if_param`` of xarray's tests, which no wheel of it defines.

``skip_if_param(name=value, reason=..., condition=...)`` skips where the test's parameter ``name``
has that value.
"""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        parameters = getattr(item, "callspec", None)
        for mark in item.iter_markers("skip_if_param"):
            wanted = dict(mark.kwargs)
            reason, condition = wanted.pop("reason"), wanted.pop("condition", True)
            if condition and parameters and wanted.items() <= parameters.params.items():
                item.add_marker(pytest.mark.skip(reason=reason))
