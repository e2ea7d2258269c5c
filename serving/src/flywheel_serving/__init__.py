"""Flywheel serving: keeps the champion of each model alive behind a real NVIDIA Triton server.

Training code imports only two modules of this package, both of which cost milliseconds:
:mod:`flywheel_serving.bundle` (to seal what is to be deployed) and
:mod:`flywheel_serving.client` (to deploy it). Everything else runs in the server process.
"""

__version__ = "0.1.0"
