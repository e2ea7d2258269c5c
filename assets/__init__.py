"""The software-defined assets: one folder per domain, and `lifecycle` for what models share."""
