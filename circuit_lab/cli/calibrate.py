"""`circuit-lab calibrate`: diagnose the controls, and tell how far the verdicts can be trusted."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_lab.cli.errors import user_errors

if TYPE_CHECKING:
    from rich.console import Console

    from circuit_lab.verdict.calibration import Calibration, Control, HalfScores, Rate, Score, Trial

EPILOG = """Examples:\n\n
circuit-lab calibrate --quick\n\n
circuit-lab calibrate --out runs/calibration --jobs 4\n\n
circuit-lab calibrate --trained runs/controls --json
"""
RESULTS_FILE = "results.jsonl"


def calibrate_command(
    quick: Annotated[bool, typer.Option("--quick", help="A part with every family in it, in a minute.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result.", show_default="runs/calibration, or -quick")
    ] = None,
    trained: Annotated[Path | None, typer.Option(help="Also diagnose the runs that the grid script left here.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every diagnosis.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core.")] = 0,
    svg: Annotated[bool, typer.Option("--svg", help="Figures as SVG files (needs circuit-lab\\[docs]).")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Diagnose nets whose right verdict is known, and measure the errors.

    A stopped calibration goes on where it was. Exits 0 whatever the scores; 2 on bad input.
    """
    with user_errors():
        if out is None:
            out = Path("runs/calibration-quick" if quick else "runs/calibration")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; name a folder, such as runs/calibration")
        from circuit_lab.report.calibration_page import write_calibration
        from circuit_lab.verdict.calibration import run_controls, summarise

        trials = _trials(quick=quick, seed=seed, trained=trained)
        records = run_controls(trials, out / RESULTS_FILE, n_jobs=jobs or os.cpu_count() or 1)
        calibration = summarise(records)
        written = write_calibration(calibration, out, svg=svg)
        if json:
            typer.echo(calibration.to_json(), nl=False)
        else:
            _print(calibration)
            typer.echo(f"Written: {', '.join(str(path) for path in written)}")


def _trials(*, quick: bool, seed: int, trained: Path | None) -> "tuple[Trial, ...]":
    from circuit_lab.verdict.calibration import all_trials, quick_trials

    controls: list[Control] = []
    if trained is not None:
        from circuit_lab.verdict.calibration.trained import trained_controls

        controls = trained_controls(trained)
        if not controls:
            raise ValueError(
                f"--trained {trained} holds no finished run; analyses/calibration/train_controls.py makes them"
            )
    return (quick_trials if quick else all_trials)(seed=seed, trained=controls)


def _print(calibration: "Calibration") -> None:
    """The scores, the confusion matrices, and what went wrong."""
    from rich.console import Console

    console = Console(highlight=False)
    for title, scores in (
        ("Wired and untrained nets", calibration.known_answer),
        ("Trained nets", calibration.trained),
    ):
        for half in scores:
            _print_half(console, title, half)
    _print_checks(console, calibration)
    _print_thresholds(console, calibration)
    wrong = [m for m in calibration.misjudged if m.scored]
    if wrong:
        console.print("[italic]Got another verdict[/italic]")
        for m in wrong:
            console.print(f"{m.name} ({m.half}): {m.truth} was called {m.verdict}, confidence {m.confidence:.2f}")


def _print_half(console: "Console", title: str, half: "HalfScores") -> None:
    from rich import box
    from rich.table import Table

    if half.macro_f1.n == 0:
        return
    console.print(f"[bold]{title}, {half.half.replace('_', '-')} half[/bold]: {half.n_families} families")
    console.print(
        f"macro-F1 {_score(half.macro_f1)}; right {_rate(half.right)}; inconclusive {_rate(half.inconclusive)}"
    )
    console.print(f"calibration error {_score(half.reliability.error)}")
    matrix = half.confusion
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=None)
    table.add_column("truth \\ verdict", no_wrap=True)
    for verdict in matrix.verdicts:
        table.add_column("".join(word[:4] for word in verdict.split("_")), justify="right")
    for truth, counts in zip(matrix.truths, matrix.counts, strict=True):
        table.add_row(str(truth), *(str(n) if n else "[dim].[/dim]" for n in counts))
    console.print(table)


def _print_checks(console: "Console", calibration: "Calibration") -> None:
    for half, found in calibration.false_circuits.items():
        console.print(
            f"{half.replace('_', '-')}: {len(found.names)} of {found.n} nets without a circuit called one "
            f"(rate at most {found.upper:.2%}, one-sided 95 %)"
        )
    for rotation in calibration.rotation:
        console.print(f"{rotation.half.replace('_', '-')}: verdict kept in a rotated basis {_rate(rotation.same)}")
    for name, points in (("noise", calibration.noise), ("queries per split", calibration.queries)):
        for p in points:
            level = "all" if p.level is None else f"{p.level:g}"
            console.print(f"{p.half.replace('_', '-')}, {p.family}, {name} {level}: right {_rate(p.right)}")


def _print_thresholds(console: "Console", calibration: "Calibration") -> None:
    off = [scan for scan in calibration.thresholds if not scan.in_use_is_best]
    console.print(
        f"{len(calibration.thresholds) - len(off)} of {len(calibration.thresholds)} thresholds are best as they are"
    )
    for scan in off:
        console.print(
            f"[yellow]! {scan.family} {scan.threshold} = {scan.in_use:g}: better on the development half from "
            f"{scan.best_low:g} to {scan.best_high:g}[/yellow]"
        )


def _rate(rate: "Rate") -> str:
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}; {rate.n_true} of {rate.n})" if rate.n else "-"


def _score(score: "Score") -> str:
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f}; n = {score.n})" if score.n else "-"
