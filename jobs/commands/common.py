"""What the commands share: the console, how they refuse, and how they find a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from assets.lifecycle.names import Lifecycle

console = Console()


def refuse(message: object, code: int = 1) -> NoReturn:
    """Say what is wrong and end with an exit code: 1 if the answer is no, 2 if it was misasked."""
    text = message.args[0] if isinstance(message, KeyError) else message  # else it is in quotes
    console.print(str(text), style="red", soft_wrap=True, markup=False)
    raise typer.Exit(code)


def life_of(model: str) -> Lifecycle:
    """A declared model in its domain, or a refusal that lists those there are."""
    from assets.discovery import domains
    from assets.lifecycle.names import Lifecycle

    lives = {s.name: Lifecycle(domain.name, s) for domain in domains() for s in domain.models}
    if model not in lives:
        refuse(f"no model is called {model}: there are {', '.join(lives)}", code=2)
    return lives[model]


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what a person can mend into a sentence and exit code 1."""
    try:
        yield
    except (LookupError, ValueError, RuntimeError) as error:
        known = type(error).__module__.split(".")[0] in (
            "assets", "flywheel", "flywheel_serving", "resources",
        )  # fmt: skip
        if not known and not isinstance(error, LookupError):
            raise
        refuse(error)
