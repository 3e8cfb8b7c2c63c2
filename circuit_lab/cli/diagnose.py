"""`circuit-lab diagnose`: verdicts on checkpoints, as a table or as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuit_lab.cli.errors import user_errors

if TYPE_CHECKING:
    from rich.table import Table

    from circuit_lab.verdict import Diagnosis, Evidence

EPILOG = """Examples:\n\n
circuit-lab diagnose models/two-hop-true-circuit\n\n
circuit-lab diagnose models/* --report report.html\n\n
circuit-lab diagnose runs/my-run/checkpoints/step-00012000.safetensors --json
"""
_TESTS = ("hop1", "hop2", "interchange")
_SHORT_OUTCOMES = {
    "circuit": "circuit",
    "shortcut": "shortcut",
    "second_hop_failure": "hop 2",
    "first_hop_failure": "hop 1",
    "composition_failure": "both",
    "no_circuit": "neither",
    "untestable": "untest.",
}


def diagnose_command(
    paths: Annotated[list[Path], typer.Argument(help="Checkpoint files, run folders or reference-model folders.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object (several: a JSON list).")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write one HTML page over all of them.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of partners, samples and resamples.")] = 0,
    device: Annotated[str, typer.Option(help="Where the nets run: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Tell which mechanism each checkpoint's answers go through, by causal evidence.

    Exits 0 whatever the verdicts; 2 on bad input.
    """
    with user_errors():
        diagnoses = _diagnose_all(paths, seed=seed, device=device)
        if json:
            typer.echo(_as_json(diagnoses))
        if report is not None:
            from circuit_lab.report import write_report

            write_report(diagnoses, report)
        if not json:
            _print_tables(diagnoses)
            if report is not None:
                typer.echo(f"Report: {report}")


def _diagnose_all(paths: list[Path], *, seed: int, device: str) -> "list[Diagnosis]":
    """Diagnose each path, with a bar and the time left on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("loading torch", total=len(paths))
        from circuit_lab.verdict import diagnose

        diagnoses = []
        for path in paths:
            progress.update(bar, description=f"diagnosing {escape(str(path))}")
            diagnoses.append(diagnose(path, seed=seed, device=device))
            progress.advance(bar)
    return diagnoses


def _as_json(diagnoses: "list[Diagnosis]") -> str:
    if len(diagnoses) == 1:
        return diagnoses[0].to_json()
    return "[" + ",\n".join(d.to_json() for d in diagnoses) + "]"


def _print_tables(diagnoses: "list[Diagnosis]") -> None:
    """The verdicts side by side, then why, one checkpoint after the other."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_verdict_table(diagnoses))
    for diagnosis in diagnoses:
        console.print()
        console.rule(f"[bold]{escape(diagnosis.source)}: {diagnosis.verdict}", align="left")
        for i, reason in enumerate(diagnosis.reasons):
            console.print(f"[bold]{reason}[/bold]" if i == 0 else f"- {reason}")
        for warning in diagnosis.warnings:
            console.print(f"[yellow]! {escape(warning)}[/yellow]")
        console.print()
        console.print(_outcome_table(diagnosis))
        console.print(_test_table(diagnosis))


def _table(title: str, *, text: tuple[str, ...], numbers: tuple[str, ...], caption: str | None = None) -> "Table":
    """An empty table in our style, 80 characters at most: left-aligned text columns, then right-aligned numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for name in text:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _verdict_table(diagnoses: "list[Diagnosis]") -> "Table":
    table = _table(
        "Verdicts",
        text=("checkpoint", "verdict"),
        numbers=("conf.", "ID", "OOD", "bridge"),
        caption="conf.: share of bootstrap resamples that give the verdict\n"
        "ID, OOD: accuracy on test_id and test_ood; ! marks a leaked test set\n"
        "bridge: share of right test_ood answers that go through the bridge",
    )
    for d in diagnoses:
        rows = {(e.name, e.split): e for e in d.evidence}
        leaked = "" if d.certificate.clean else " [red]![/red]"
        table.add_row(
            escape(Path(d.source).name or d.source),
            f"[bold]{d.verdict}[/bold]{leaked}",
            f"{d.confidence:.2f}",
            _value(rows.get(("accuracy", "test_id"))),
            _value(rows.get(("accuracy", "test_ood"))),
            _value(rows.get(("right answers through the bridge", "test_ood"))),
        )
    return table


def _value(row: "Evidence | None") -> str:
    return "-" if row is None or row.value is None else f"{row.value:.2f}"


def _outcome_table(diagnosis: "Diagnosis") -> "Table":
    """Shares of outcomes by split; outcomes that no split has are left out."""
    present = [name for name in _SHORT_OUTCOMES if any(split.shares[name] for split in diagnosis.outcomes)]
    trained = [f"{s.split} {s.n_in_training}" for s in diagnosis.outcomes if s.n_in_training]
    table = _table(
        "What became of each query: right by circuit or shortcut, or what fails",
        text=("split",),
        numbers=("n", "right", *(_SHORT_OUTCOMES[name] for name in present)),
        caption=f"queries that are training items: {', '.join(trained)}",
    )
    for split in diagnosis.outcomes:
        shares = (f"{split.shares[name]:.2f}" if split.shares[name] else "[dim]0[/dim]" for name in present)
        table.add_row(split.split, str(split.n), f"{split.accuracy:.2f}", *shares)
    return table


def _test_table(diagnosis: "Diagnosis") -> "Table":
    table = _table(
        "Causal tests (share of queries, by majority of partners; control in brackets)",
        text=("split", "site"),
        numbers=(*_TESTS, "n"),
        caption="controls: an unrelated state (hop1), another bridge keeps the answer (hop2),\n"
        "a random displacement keeps the answer (interchange)",
    )
    tests = [e for e in diagnosis.evidence if e.name in _TESTS]
    for split, site in dict.fromkeys((e.split, e.site) for e in tests):
        cells = {e.name: e for e in tests if (e.split, e.site) == (split, site)}
        values = (_with_control(cells[name]) for name in _TESTS)
        table.add_row(split, site, *values, str(min(e.n for e in cells.values())))
    return table


def _with_control(row: "Evidence") -> str:
    if row.value is None:
        return "-"
    control = "" if row.control is None else f" [dim]({row.control:.2f})[/dim]"
    return f"{row.value:.2f}{control}"
