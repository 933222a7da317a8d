"""Settings of hypothesis; choose with ``HYPOTHESIS_PROFILE=thorough``."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    deadline=None,  # two busy cores make single examples slow without meaning anything
    derandomize=True,  # the same examples everywhere: a red run is a red commit
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("quick"), derandomize=False, max_examples=2000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        choices=["host", "emulated"],
        default="host",
        help="what reads and writes arrays whose device is not named",
    )
    parser.addoption(
        "--runtime",
        choices=["emulated", "cuda"],
        default="emulated",
        help="the device of tests/device: an emulated one, or a real card",
    )


def pytest_configure(config):
    if config.getoption("--runtime") == "cuda":
        from tests.device import devices

        devices.use_card()
    if config.getoption("--backend") == "emulated":
        from tests.device import devices

        devices.emulate_always()
        config.addinivalue_line("filterwarnings", "ignore::zarr_gpu.errors.DeviceFallbackWarning")
