"""The library: plain Python and Arrow, without Dagster and without I/O frameworks."""
