"""What a notebook shows of results, checkpoints, runs and comparisons: a few lines and the first rows of a table.

Everything is text in the notebook's own colours. Names from elsewhere (sources, task and token names) are escaped.
"""

import inspect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from circuit_lab.measures.result import Result
from circuit_lab.report import figures
from circuit_lab.report.templating import template
from circuit_lab.training import Checkpoint
from circuit_lab.verdict import Comparison, RunDiagnosis

N_ROWS = 10
FIGURES = {
    "Ablation": ("ablation_figure",),
    "ActivationPatching": ("activation_patching_figure",),
    "Agreement": ("attribution_agreement_figure",),
    "AttentionPatterns": ("attention_figure", "head_roles_figure"),
    "BridgeDas": ("das_figure",),
    "BridgeGeometry": ("geometry_figure",),
    "BridgeRecovery": ("bridge_lens_figure",),
    "CausalTracing": ("causal_tracing_figure",),
    "DirectLogitAttribution": ("direct_logit_attribution_figure",),
    "EdgeAttribution": ("edge_attribution_figure",),
    "FrequencyAblation": ("frequency_ablation_figure",),
    "LearntLens": ("learnt_lens_figure",),
    "LensSiteCka": ("cka_figure",),
    "LocatedSites": ("site_rates_figure",),
    "LogitEfficiency": ("efficiency_figure",),
    "LogitLens": ("logit_lens_figure", "logit_lens_query_figure"),
    "NodeAttribution": ("node_attribution_figure",),
    "PathIdentity": ("path_identity_figure",),
    "PathPatching": ("path_patching_figure",),
    "Probes": ("probes_figure",),
    "TrigDecomposition": ("frequency_spectrum_figure", "logit_parts_figure", "trig_share_figure"),
    "WeightNorms": ("weight_norms_figure",),
}
"""Which figure functions draw each result; the others are numbers for a table."""
_RECIPE_TABLES = ("task", "optimizer", "training", "parent")
"""What made the weights; the net is said in words, and the schedules and the description change nothing."""


@dataclass(frozen=True)
class _Table:
    """The first rows of a frame, as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_rows: int


def render_result(result: Result) -> str:
    """A measure's result for a notebook cell: what it is, its first rows, and how to draw it.

    Args:
        result: The result.

    Returns:
        A fragment of HTML.
    """
    return template("result.html").render(
        name=type(result).__name__,
        says=(inspect.getdoc(type(result)) or "").partition("\n")[0],
        n=getattr(result, "n", None),
        table=_first_rows(result.frame()),
        figure_calls=[_figure_call(name) for name in FIGURES.get(type(result).__name__, ())],
    )


def render_checkpoint(checkpoint: Checkpoint) -> str:
    """A loaded checkpoint for a notebook cell: where from, which net, how good, how trained, whether its split leaks.

    Args:
        checkpoint: The checkpoint.

    Returns:
        A fragment of HTML.
    """
    task = checkpoint.given_task
    return template("checkpoint.html").render(
        source=str(checkpoint.path),
        step=checkpoint.step,
        task=None if task is None else str(task),
        certificate=None if task is None else task.certificate,
        origin=checkpoint.origin,
        net=checkpoint.net.cfg.in_words,
        # Shared weights are one Parameter, so they count once.
        n_parameters=sum(weight.numel() for weight in checkpoint.net.parameters()),
        metrics={name: _text(value) for name, value in checkpoint.metrics.items()},
        recipe={table: _settings(checkpoint.recipe[table]) for table in _RECIPE_TABLES if checkpoint.recipe.get(table)},
    )


def render_run(run: RunDiagnosis) -> str:
    """A run's diagnosis for a notebook cell: its answers, the crossings and the verdicts.

    Args:
        run: The run's diagnosis.

    Returns:
        A fragment of HTML.
    """
    return template("run_display.html").render(
        run=run,
        crossings=_first_rows(run.crossing_frame(), n_rows=len(run.crossings)),
        verdicts=_first_rows(run.verdict_frame(), n_rows=len(run.verdicts)),
    )


def render_comparison(comparison: Comparison) -> str:
    """A comparison for a notebook cell: the answer, its reasons, and the differences whose interval excludes 0.

    Args:
        comparison: The comparison.

    Returns:
        A fragment of HTML.
    """
    differences = comparison.frame()
    clear = differences.loc[differences["excludes_zero"]]
    return template("comparison_display.html").render(comparison=comparison, table=_first_rows(clear))


def _first_rows(frame: pd.DataFrame, *, n_rows: int = N_ROWS) -> _Table:
    """The first rows of a frame, its index off."""
    shown = frame.head(n_rows).itertuples(index=False, name=None)
    return _Table(
        columns=tuple(str(column) for column in frame.columns),
        rows=tuple(tuple(_text(value) for value in row) for row in shown),
        n_rows=len(frame),
    )


def _text(value: Hashable) -> str:
    """A table's cell: floats with 3 significant digits, a dash for what is missing.

    >>> [_text(value) for value in (0.12345, 1234.5, -2e-7, 3, True, "r1", None, float("nan"))]
    ['0.123', '1234', '-2e-07', '3', 'True', 'r1', '-', '-']
    """
    if value is None or value is pd.NA:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _figure_call(name: str) -> str:
    """The call that draws a result, with what it must be given besides.

    >>> _figure_call("logit_lens_figure")
    'circuit_lab.report.figures.logit_lens_figure(result, split=...)'
    """
    _, *others = inspect.signature(getattr(figures, name)).parameters.values()
    needed = "".join(f", {p.name}=..." for p in others if p.default is inspect.Parameter.empty)
    return f"circuit_lab.report.figures.{name}(result{needed})"


def _settings(table: Mapping[str, Any]) -> str:
    """A table of a recipe on one line; nested tables, such as a parent's accuracies, are left out."""
    return ", ".join(f"{name} = {value}" for name, value in table.items() if not isinstance(value, Mapping))
