"""The command ``zarr-gpu``: one module for each subcommand."""
