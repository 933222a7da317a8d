"""Bridges to other libraries, one module (or a few) for each, which imports its library inside."""
