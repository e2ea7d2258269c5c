"""What a sweep searches: ranges of a trainer's fields, how, and what it found.

What is minimised is the validation log-loss, on the days that the model's own fit validates on. How
a sweep runs is `flywheel.study`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from flywheel.model import SpecError
from flywheel.training import Trainer

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "gp"]
Pruner = Literal["median", "hyperband", "none"]
State = Literal["complete", "pruned", "failed"]


class Range(Protocol):
    """The values that a field may take."""

    def problem(self, value: Any) -> str | None:
        """Why the field's declared value cannot be one of these, or None."""
        ...

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value that a trial is to try."""
        ...

    def encode(self, value: Any) -> Any:
        """A value as Optuna stores it."""
        ...

    def decode(self, stored: Any) -> Any:
        """The value that Optuna stored."""
        ...


@dataclass(frozen=True)
class Float:
    """A number between two bounds; by its logarithm if `log`."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self)

    def problem(self, value: Any) -> str | None:
        """See `Range.problem`."""
        if not isinstance(value, float):
            return f"is a {type(value).__name__}, so search it with {_fitting(value)}"
        return _outside(self, value)

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """See `Range.suggest`."""
        return self.decode(trial.suggest_float(name, self.low, self.high, log=self.log))

    def encode(self, value: float) -> float:
        """See `Range.encode`."""
        return value

    def decode(self, stored: float) -> float:
        """See `Range.decode`."""
        return float(stored)


@dataclass(frozen=True)
class Int:
    """A whole number between two bounds, both included; by its logarithm if `log`."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self)

    def problem(self, value: Any) -> str | None:
        """See `Range.problem`."""
        if not isinstance(value, int) or isinstance(value, bool):
            return f"is a {type(value).__name__}, so search it with {_fitting(value)}"
        return _outside(self, value)

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        """See `Range.suggest`."""
        return self.decode(trial.suggest_int(name, self.low, self.high, log=self.log))

    def encode(self, value: int) -> int:
        """See `Range.encode`."""
        return value

    def decode(self, stored: float) -> int:
        """See `Range.decode`."""
        return int(stored)


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values: text, numbers, booleans, None, or tuples of these."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)
        if len(options) < 2 or len(self._by_label) < len(options):
            raise SpecError(f"Choice{options}: give two or more different values")
        for option in options:
            try:
                kept = json.dumps(option, allow_nan=False)
            except (TypeError, ValueError):
                kept = "null"
            if _tuples(json.loads(kept)) != option:
                raise SpecError(
                    f"Choice: {option!r} is no text, number, boolean, None or tuple of these"
                )

    @property
    def _by_label(self) -> dict[str, Any]:
        # Optuna's storages hold categories as JSON, which would make lists of tuples.
        return {repr(option): option for option in self.options}

    def problem(self, value: Any) -> str | None:
        """See `Range.problem`."""
        strange = [o for o in self.options if None not in (o, value) and type(o) is not type(value)]
        if strange:
            return f"is a {type(value).__name__}, unlike {strange}"
        if value not in self.options:
            return f"is {value!r}, which is not among {list(self.options)}: add it"
        return None

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """See `Range.suggest`."""
        return self.decode(trial.suggest_categorical(name, list(self._by_label)))

    def encode(self, value: Any) -> str:
        """See `Range.encode`."""
        return repr(value)

    def decode(self, stored: str) -> Any:
        """See `Range.decode`."""
        return self._by_label[stored]


@dataclass(frozen=True)
class Sweep:
    """What is tried to find a trainer's parameters.

    The first trial is the trainer as it is declared, so the best is never worse on the validation
    days. Every trial is fitted with the model's own seed.

    Attributes:
        space: Ranges by field of the trainer; each holds the declared value.
        trials: How many are finished: completed, pruned or failed.
        sampler: `tpe` (Bergstra 2011; cheap) or `gp` (a Gaussian process: better where a trial is
            expensive and there are fewer than a hundred; without a pruner only).
        pruner: What ends trials early: `median` (worse than the median at the same step),
            `hyperband` (Li 2018; harsher), or `none`. Either favours quick starters: leave it at
            `none` if how long a fit runs is itself searched.
        seed: Of the sampler: with one worker the same seed gives the same trials.
    """

    space: Mapping[str, Range]
    trials: int = 20
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.space:
            raise SpecError("a sweep's space names at least one field of the trainer")
        if self.trials < 1:
            raise SpecError(f"a sweep of {self.trials} trials finds nothing")
        if self.sampler not in get_args(Sampler):
            raise SpecError(f"sampler is one of {get_args(Sampler)}, not {self.sampler!r}")
        if self.pruner not in get_args(Pruner):
            raise SpecError(f"pruner is one of {get_args(Pruner)}, not {self.pruner!r}")
        if self.sampler == "gp" and self.pruner != "none":
            # Seen on flights: 15 trials of 20 were one and the same, pruned each time.
            raise SpecError(
                "sampler 'gp' does not learn from pruned trials and proposes them again: give it "
                "pruner='none', or use 'tpe'"
            )

    def check(self, trainer: Trainer) -> None:
        """Hold the space against the trainer.

        Raises:
            SpecError: It has no such field, or one of another type or with a value out of range.
        """
        kind, declared = type(trainer).__name__, fields_of(trainer)
        if unknown := sorted(set(self.space) - set(declared)):
            raise SpecError(
                f"the sweep searches {unknown}, which {kind} lacks; it has {sorted(declared)}"
            )
        for name, values in self.space.items():
            if problem := values.problem(declared[name]):
                raise SpecError(f"the sweep searches {name}, which in this {kind} {problem}")

    def declared(self, trainer: Trainer) -> dict[str, Any]:
        """The declared values of the fields that are searched."""
        return {name: fields_of(trainer)[name] for name in sorted(self.space)}


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: From 0; that one is the trainer as declared.
        state: `failed` if the fit diverged or could not learn.
        value: Validation log-loss in nats; of a pruned one the last that was reported.
        parameters: Values by field.
        epochs: Steps that were fitted: epochs, or trees; None if it failed before the first.
        seconds: How long it took.
        sentence: Why it failed.
    """

    number: int
    state: State
    value: float | None
    parameters: Mapping[str, Any]
    epochs: int | None
    seconds: float
    sentence: str | None = None


def best(trials: Iterable[Trial]) -> Trial | None:
    """The complete trial with the least loss, the first of equals; None if none is complete."""
    complete = [t for t in trials if t.state == "complete" and t.value is not None]
    return min(complete, key=lambda t: (t.value, t.number), default=None)


def fields_of(trainer: Trainer) -> dict[str, Any]:
    """A trainer's parameters by name."""
    fields = dataclasses.fields(trainer)  # pyright: ignore[reportArgumentType] - a dataclass, says Trainer
    return {field.name: getattr(trainer, field.name) for field in fields if field.init}


def with_parameters(trainer: Trainer, parameters: Mapping[str, Any]) -> Trainer:
    """The trainer with other values in some fields."""
    return dataclasses.replace(trainer, **parameters)  # pyright: ignore[reportArgumentType, reportCallIssue]


def to_json(parameters: Mapping[str, Any]) -> str:
    """Values by field as JSON; see `from_json`."""
    return json.dumps(dict(parameters), sort_keys=True)


def from_json(text: str) -> dict[str, Any]:
    """What `to_json` wrote; a list was a tuple."""
    return {name: _tuples(value) for name, value in json.loads(text).items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _check_bounds(one: Float | Int) -> None:
    if not one.low < one.high:
        raise SpecError(f"{one}: low must be below high")
    if one.log and one.low <= 0:
        raise SpecError(f"{one}: low must be above 0 to search by the logarithm")


def _outside(one: Float | Int, value: float) -> str | None:
    if one.low <= value <= one.high:
        return None
    return f"is {value}, outside of {one.low} to {one.high}: widen the range to hold it"


def _fitting(value: Any) -> str:
    """The range for values of a type."""
    return {float: "Float", int: "Int"}.get(type(value), "Choice")
