"""The benchmark suite: side by side, in CPU seconds. `python -m bench --help` says how."""
