"""The libraries around arrays: one module each, which imports its library."""
