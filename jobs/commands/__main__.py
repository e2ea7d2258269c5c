"""`python -m jobs.commands` is `flywheel`."""

from jobs.commands import app

app()
