"""``python -m zarr_gpu`` is the command ``zarr-gpu``."""

from zarr_gpu.cli.main import command

if __name__ == "__main__":
    command()
