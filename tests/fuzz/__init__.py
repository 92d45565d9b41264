"""Fuzz targets for everything that reads bytes from strangers; `python -m tests.fuzz --help` runs one for long."""
