"""Kernels: Numba on plain arrays and scalars; no validation, no objects, no files."""
