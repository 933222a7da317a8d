"""``python -m zarr_gpu`` is the command ``zarr-gpu``."""

import sys

from zarr_gpu.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
