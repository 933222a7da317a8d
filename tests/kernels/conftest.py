"""Under sanitizers the tests of kernels are a sample of their cases.

``ZG_KERNEL_EXAMPLES`` is the share of cases; of each test at least four are kept, always the same.
"""

import os
import random
from pathlib import Path

from tests.kernels.build import examples

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config, items):
    if float(os.environ.get("ZG_KERNEL_EXAMPLES", "1")) >= 1:
        return
    cases = {}
    for item in items:
        if item.path.parent == HERE:
            cases.setdefault((item.path.name, item.originalname), []).append(item)
    dropped = set()
    for (_, name), group in cases.items():
        kept = max(4, examples(len(group)))
        dropped.update(random.Random(name).sample(group, max(0, len(group) - kept)))
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = [item for item in items if item not in dropped]
