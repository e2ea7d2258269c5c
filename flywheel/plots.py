"""The pictures in the Dagster metadata: small PNGs, embedded in Markdown."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.backtest import AUC, CALIBRATION_GAP, LOG_LOSS
from flywheel.evaluation import calibration, precision_recall_curve, roc_curve
from flywheel.thresholds import Costs, best_threshold, threshold_table

if TYPE_CHECKING:
    from datetime import date

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from flywheel.backtest import Measure
    from flywheel.sweep import Trial

# Okabe and Ito's palette, readable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def training_curve(curves: Mapping[str, Sequence[float]]) -> str:
    """Loss per epoch, one line a curve."""
    figure, axes = _figure(4.6)
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, "o-", color=colour, label=name, markersize=4)
    axes.set(xlabel="epoch", ylabel="log-loss (nats)", title="Training")
    axes.set_xticks(range(1, 1 + max(len(values) for values in curves.values())))
    axes.legend(frameon=False)
    return _markdown(figure, "training curve")


def search_history(trials: Sequence[Trial]) -> str:
    """Loss of each complete trial and the best so far; what was pruned or failed is on the rim."""
    figure, axes = _figure(4.6)
    complete = [t for t in trials if t.state == "complete"]
    numbers = [t.number for t in complete]
    losses = np.array([t.value for t in complete], dtype=np.float64)
    best = np.minimum.accumulate(losses)
    axes.plot(numbers, losses, "o", color=COLOURS[0], label="complete", markersize=4)
    axes.step([*numbers, trials[-1].number], [*best, best[-1]], where="post", color=COLOURS[1])
    if trials[0].state == "complete":
        axes.axhline(losses[0], linestyle=":", color="grey", linewidth=1, label="as declared")
    for state, marker, colour in (("pruned", "v", "grey"), ("failed", "x", COLOURS[1])):
        if on_rim := [t.number for t in trials if t.state == state]:
            # The rim is 1 in the axes' own coordinates, wherever the losses lie.
            axes.plot(
                on_rim, [1.0] * len(on_rim), marker, color=colour, label=state, markersize=4,
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    axes.set(xlabel="trial", ylabel="validation log-loss (nats)", title="Search")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=8)
    return _markdown(figure, "search history")


def parallel_coordinates(trials: Sequence[Trial], logarithmic: Collection[str] = ()) -> str:
    """A line per complete trial through its parameters to its loss; the darker the better."""
    complete = [t for t in trials if t.state == "complete"]
    names = list(complete[0].parameters)
    figure, axes = _figure(1.6 + 1.3 * len(names))
    losses = np.array([t.value for t in complete], dtype=np.float64)
    heights = [_axis(axes, i, [t.parameters[n] for t in complete], n in logarithmic)
               for i, n in enumerate(names)]  # fmt: skip
    heights.append(_axis(axes, len(names), losses.tolist(), logarithmic=False))
    from matplotlib import colormaps

    ranks = losses.argsort().argsort() / max(1, len(losses) - 1)
    for line in np.argsort(-losses):  # the best on top
        colour = colormaps["viridis"](0.95 * ranks[line])
        width = 2.5 if ranks[line] == 0 else 1
        axes.plot(range(len(heights)), [h[line] for h in heights], color=colour, linewidth=width)
    axes.set_xticks(range(len(heights)), [*names, "log-loss"])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set(title="Trials", xlim=(-0.1, len(names) + 0.55), ylim=(-0.05, 1.05))
    return _markdown(figure, "parallel coordinates")


def _axis(axes: Axes, place: int, values: Sequence[Any], logarithmic: bool) -> list[float]:
    """Draw one upright axis with its labels; the heights of the values on it, 0 to 1."""
    axes.axvline(place, color="grey", linewidth=0.8)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.log(values) if logarithmic else np.asarray(values, dtype=np.float64)
        low, high = float(numbers.min()), float(numbers.max())
        heights = (numbers - low) / ((high - low) or 1.0)
        labels = {0.0: min(values), 1.0: max(values)}
        texts = {height: f"{value:.4g}" for height, value in labels.items()}
    else:
        kinds = sorted({repr(value) for value in values})
        of_kind = dict(zip(kinds, np.linspace(0, 1, len(kinds)), strict=True))
        heights = np.array([of_kind[repr(value)] for value in values])
        texts = {height: kind for kind, height in of_kind.items()}
    for height, text in texts.items():
        axes.annotate(
            text, (place, height), (3, 0), textcoords="offset points", fontsize=7, va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}, zorder=3,
        )  # fmt: skip
    return heights.tolist()


def parameter_importance(importances: Mapping[str, float]) -> str:
    """Horizontal bars, the parameter that matters most on top."""
    names = sorted(importances, key=lambda name: importances[name])
    figure, axes = _figure(4.6, height=0.9 + 0.3 * len(names))
    axes.barh(names, [importances[name] for name in names], color=COLOURS[0], height=0.7)
    axes.set(xlabel="share", title="Importance of the parameters")
    return _markdown(figure, "parameter importance")


def roc(label: ArrayLike, predictions: Mapping[str, ArrayLike], scores: Mapping[str, float]) -> str:
    """ROC curves of several models on the same cases; `scores` are their AUC for the legend."""
    figure, axes = _figure(4.6)
    for colour, (name, probability) in zip(COLOURS, predictions.items(), strict=False):
        axes.plot(*roc_curve(label, probability), color=colour, label=f"{name}  {scores[name]:.3f}")
    axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC (AUC)")
    axes.legend(frameon=False, loc="lower right")
    return _markdown(figure, "ROC curve")


def reliability(label: ArrayLike, predictions: Mapping[str, ArrayLike]) -> str:
    """Predicted against observed, in equally filled bins."""
    figure, axes = _figure(4.6)
    for colour, (name, probability) in zip(COLOURS, predictions.items(), strict=False):
        table = calibration(label, probability)
        axes.plot(table.predicted, table.observed, "o-", color=colour, label=name, markersize=4)
    axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    axes.set(xlabel="predicted probability", ylabel="observed share", title="Calibration")
    axes.legend(frameon=False)
    return _markdown(figure, "calibration")


def precision_recall(
    label: ArrayLike, predictions: Mapping[str, ArrayLike], scores: Mapping[str, float]
) -> str:
    """Precision against recall; `scores` are the average precisions for the legend."""
    figure, axes = _figure(4.6)
    for colour, (name, probability) in zip(COLOURS, predictions.items(), strict=False):
        precision, recall = precision_recall_curve(label, probability)
        text = f"{name}  {scores[name]:.3f}"
        axes.plot(recall, precision, color=colour, label=text, drawstyle="steps-pre")
    axes.axhline(
        float(np.asarray(label, dtype=np.float64).mean()), linestyle=":", color="grey", linewidth=1
    )
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall (average precision)")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="lower left")
    return _markdown(figure, "precision-recall curve")


def threshold_costs(label: ArrayLike, predictions: Mapping[str, ArrayLike], costs: Costs) -> str:
    """Mean cost per case against the threshold, a dot at the cheapest; dotted: if calibrated."""
    figure, axes = _figure(4.6)
    thresholds = np.linspace(0.0, 1.0, 201)
    for colour, (name, probability) in zip(COLOURS, predictions.items(), strict=False):
        table = threshold_table(label, probability, costs, thresholds.tolist())
        best = best_threshold(label, probability, costs)
        axes.plot(thresholds, [row.cost for row in table], color=colour, label=name)
        axes.plot(min(best.threshold, 1.0), best.cost, "o", color=colour, markersize=5)
    axes.axvline(costs.calibrated_threshold, linestyle=":", color="grey", linewidth=1)
    axes.set(xlabel="threshold", ylabel="mean cost per case", title="Cost of deciding")
    axes.legend(frameon=False)
    return _markdown(figure, "cost by threshold")


def bars_against_limit(
    values: Mapping[str, float], limits: Mapping[str, float], *, title: str, unit: str
) -> str:
    """Horizontal bars, the largest on top, red where they pass their limit (a tick)."""
    names = sorted(values, key=lambda name: values[name])
    figure, axes = _figure(7.0, height=0.9 + 0.24 * len(names))
    over = [name in limits and values[name] > limits[name] for name in names]
    watched = [name in limits for name in names]
    colours = [
        "#D55E00" if o else "#0072B2" if w else "#BBBBBB"
        for o, w in zip(over, watched, strict=True)
    ]
    places = np.arange(len(names))
    axes.barh(places, [values[name] for name in names], color=colours, height=0.7)
    for place, name in enumerate(names):
        if name in limits:
            axes.plot([limits[name]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.set_yticks(places, names, fontsize=7)
    axes.set(xlabel=unit, title=title)
    return _markdown(figure, title)


def walk_forward(measures: Sequence[Measure], *, title: str) -> bytes:
    """AUC, log-loss and calibration gap by month, a line per policy; a PNG.

    The legend has each policy's figure over the whole period.
    """
    panels = {
        AUC: "AUC",
        LOG_LOSS: "log-loss (nats)",
        CALIBRATION_GAP: "mean probability minus rate",
    }
    policies = list(dict.fromkeys(one.policy for one in measures))
    figure = _canvas(9.6, 3.4, dpi=120)
    figure.suptitle(title)
    for place, (metric, heading) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(heading, fontsize="medium")
        if metric == CALIBRATION_GAP:
            axes.axhline(0.0, linestyle=":", color="grey", linewidth=1)
        months: list[date] = []
        for number, policy in enumerate(policies):
            own = [one for one in measures if (one.policy, one.metric) == (policy, metric)]
            whole = next(one.value for one in own if one.month is None)
            line = {one.month: one.value for one in own if one.month is not None}
            months = list(line)
            axes.plot(
                range(len(line)),
                [np.nan if value is None else value for value in line.values()],
                "o-", color=COLOURS[number % len(COLOURS)], markersize=4,
                label=policy if whole is None else f"{policy}  {whole:.3f}",
            )  # fmt: skip
        several = len({month.year for month in months}) > 1
        names = [f"{month:%b %y}" if several else f"{month:%b}" for month in months]
        axes.set_xticks(range(len(months)), names, fontsize="small")
        axes.tick_params(axis="y", labelsize="small")
        axes.legend(frameon=False, fontsize="small")
    return _png(figure)


def embedded(png: bytes, alternative: str) -> str:
    """A PNG within Markdown."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _canvas(width: float, height: float, dpi: int) -> Figure:
    # The object interface: pyplot would keep global state and pick a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure(width: float, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = _canvas(width, height, dpi=80)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png")
        return buffer.getvalue()


def _markdown(figure: Figure, alternative: str) -> str:
    return embedded(_png(figure), alternative)
