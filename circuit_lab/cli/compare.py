"""`circuit-lab compare`: two checkpoints side by side, as tables or as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuit_lab.cli.errors import user_errors
from circuit_lab.cli.tables import Titled, empty_table

if TYPE_CHECKING:
    from circuit_lab.verdict.comparison.compare import Comparison
    from circuit_lab.verdict.comparison.differences import Difference
    from circuit_lab.verdict.comparison.path import PathEvidence
    from circuit_lab.verdict.diagnosis import Diagnosis

EPILOG = """Examples:\n\n
circuit-lab compare two-hop-true-circuit two-hop-shortcut\n\n
circuit-lab compare runs/my-run/checkpoints/step-00005000.safetensors runs/my-run\n\n
circuit-lab compare modular-grokked modular-ungrokked --json
"""
_HOW = {"paired": "p", "independent": "i", "half-widths added": "w", "none": ""}


def compare_command(
    a: Annotated[Path, typer.Argument(help="A checkpoint file, a run folder, or a reference model by folder or name.")],
    b: Annotated[Path, typer.Argument(help="Another of the same family of tasks.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, both diagnoses included.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of both diagnoses and of the comparison.")] = 0,
    device: Annotated[str, typer.Option(help="Where the nets run: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Put two checkpoints side by side: what differs, with intervals, and whether they use the same path.

    Exits 0 whatever the answer; 2 on bad input.
    """
    with user_errors():
        from circuit_lab.verdict.comparison.compare import compare

        comparison = compare(a, b, seed=seed, device=device)
        if json:
            typer.echo(comparison.to_json())
        else:
            print_comparison(comparison)


def print_comparison(comparison: "Comparison") -> None:
    """Both verdicts, whether the path is the same and why, and the differences that decide or stand out."""
    from rich.console import Console

    console = Console(highlight=False)
    for name, diagnosis in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{name}: {_headline(diagnosis)}")
    console.print()
    console.print(f"[bold]Same path: {comparison.same_path}. {escape(comparison.reasons[0])}[/bold]")
    for reason in comparison.reasons[1:]:
        console.print(f"- {escape(reason)}")
    for warning in comparison.warnings:
        console.print(f"[yellow]! {escape(warning)}[/yellow]")
    console.print()
    _path_table(comparison).print(console)
    _difference_table(comparison).print(console)


def _headline(diagnosis: "Diagnosis") -> str:
    step = "" if diagnosis.step is None else f", step {diagnosis.step}"
    return f"{escape(diagnosis.source)}{step}: [bold]{diagnosis.verdict}[/bold] ({diagnosis.confidence:.2f})"


def _path_table(comparison: "Comparison") -> Titled:
    table = empty_table(text=("number", "where"), numbers=("value", "95 % interval", "n", "control"))
    for row in comparison.path:
        table.add_row(
            escape(row.name), escape(row.where), _number(row.value), _interval(row), str(row.n), _number(row.control)
        )
    return Titled(
        "Paths: what each answers through, and what their states do in the other",
        table,
        "control: untrained or mismatched states, random sites, a flat table of answers",
    )


def _difference_table(comparison: "Comparison") -> Titled:
    """Of the numbers without a site, those that decide a verdict and those whose difference excludes 0."""
    from circuit_lab.verdict.comparison.side_by_side import FALSE_ALARMS

    table = empty_table(text=("number",), numbers=("A", "B", "B - A", "95 % interval", "n", ""))
    shown = [row for row in comparison.differences if not row.site and (row.decides or row.excludes_zero)]
    for row in shown:
        table.add_row(
            escape(", ".join(part for part in (row.name, row.split, row.site) if part)),
            _number(row.a),
            _number(row.b),
            _signed(row.difference),
            f"{_interval(row)}{'*' if row.excludes_zero else ' '}",
            str(row.n_a) if row.n_a == row.n_b else f"{row.n_a}/{row.n_b}",
            _HOW[row.method],
        )
    n, n_apart = comparison.n_differences, comparison.n_excluding_zero
    caption = (
        f"* excludes 0: {n_apart} of {n} differences looked at; of equal nets about {FALSE_ALARMS * n:.0f} would\n"
        "p paired, by query; i independent; w half-widths added, for any correlation\n"
        f"{len(shown)} of {len(comparison.differences)} numbers: no site, and deciding or excluding 0; all: --json"
    )
    return Titled("Differences", table, caption)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _interval(row: "Difference | PathEvidence") -> str:
    return "-" if row.low is None or row.high is None else f"{row.low:.2f}, {row.high:.2f}"
