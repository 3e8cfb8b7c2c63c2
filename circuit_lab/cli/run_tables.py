"""The diagnosis of a run as tables for a terminal of 80 characters: verdicts, crossings, order, phases, alarms."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape

from circuit_lab.cli.tables import Titled, empty_table

if TYPE_CHECKING:
    from rich.console import Console

    from circuit_lab.verdict.runs import Crossing, Lag, RunDiagnosis

_SHOWN = {
    "two_hop": {
        "training": "train",
        "mediation, training": "med.",
        "ID": "ID",
        "hop 1, OOD": "hop 1",
        "hop 2, OOD": "hop 2",
        "mediation, OOD": "med.OOD",
        "OOD": "OOD",
    },
    "modular": {
        "training": "train",
        "explained share": "expl.",
        "circuit share": "circuit",
        "held-out": "held-out",
        "generalising logit": "gen.",
        "remaining logit": "rest",
        "weight norm": "norm",
    },
}
"""Which quantities stand in the verdict table, under which short name."""
_CAPTIONS = {
    "two_hop": "med.: share of training (OOD) queries right and through the bridge\n"
    "hop 1, hop 2: share of OOD queries whose transplants pass, at the best site",
    "modular": "expl.: share of held-out logits in the generalising part\n"
    "circuit: share of right held-out answers through the key frequencies\n"
    "gen., rest: correct logit of the generalising part, and of the rest on train",
}


def print_run_tables(run: "RunDiagnosis") -> None:
    """What happened in a run: the answer first, then what it rests on."""
    from rich.console import Console

    console = Console(highlight=False)
    console.rule(f"[bold]{escape(run.source)}", align="left")
    for i, answer in enumerate(run.answers):
        line = f"{answer.question} {answer.words}"
        console.print(f"[bold]{escape(line)}[/bold]" if i == 0 else escape(line))
    for warning in run.warnings:
        console.print(f"[yellow]! {escape(warning)}[/yellow]")
    console.print()
    _verdict_table(run).print(console)
    _crossing_table(run).print(console)
    _order_table(run).print(console)
    _print_phases(run, console)
    _print_alarms(run, console)


def _verdict_table(run: "RunDiagnosis") -> Titled:
    """A row per checkpoint."""
    shown = _SHOWN[run.family]
    table = empty_table(text=("step", "verdict"), numbers=("conf.", *shown.values()))
    values = {(point.step, point.quantity): point.value for point in run.timeline}
    for row in run.verdicts:
        cells = (_number(values.get((row.step, quantity))) for quantity in shown)
        table.add_row(str(row.step), str(row.verdict), f"{row.confidence:.2f}", *cells)
    return Titled("Verdict at each checkpoint", table, _CAPTIONS[run.family])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _crossing_table(run: "RunDiagnosis") -> Titled:
    """A row per quantity and level; what was never reached last."""
    table = empty_table(text=("quantity", "level"), numbers=("at", "step", "after", "by", "later"))
    for crossing in sorted(run.crossings, key=lambda c: float("inf") if c.step is None else c.step):
        steps = (crossing.step, crossing.after, crossing.by)
        table.add_row(
            crossing.quantity,
            crossing.level,
            f"{crossing.threshold:.2f}",
            *("-" if step is None else str(step) for step in steps),
            _later(crossing),
        )
    return Titled(
        "When each quantity first crossed its threshold",
        table,
        "after: last step certainly below (of `left chance`: still on its floor);\n"
        "by: first step certainly above; -: not in this run; later: the last certain fall",
    )


def _later(crossing: "Crossing") -> str:
    falls = [change.by for change in crossing.later if not change.rising]
    if not falls:
        return ""
    return f"fell {falls[-1]}" + (", back" if crossing.lasted else "")


def _order_table(run: "RunDiagnosis") -> Titled:
    """A row per crossing after the first: steps since the one before it."""
    table = empty_table(text=("from", "to"), numbers=("lag", "more than", "less than", "order"))
    for lag in run.lags:
        table.add_row(*_order_cells(lag))
    return Titled("Order, and steps from one crossing to the next", table, "certain: their intervals do not overlap")


def _order_cells(lag: "Lag") -> tuple[str, ...]:
    bounds = ("-" if bound is None else str(bound) for bound in (lag.low, lag.high))
    return (lag.first, lag.second, str(lag.value), *bounds, "certain" if lag.certain else "?")


def _print_phases(run: "RunDiagnosis", console: "Console") -> None:
    console.print("[italic]Phases[/italic]")
    for field in asdict(run.phases):
        name, phase = field.replace("_", " "), getattr(run.phases, field)
        if phase is None:
            console.print(f"- {name}: not seen")
        else:
            still = "" if phase.ended else ", not ended"
            console.print(f"- {name}: steps {phase.start} to {phase.end}{still}; {escape(phase.words)}")
    console.print()


def _print_alarms(run: "RunDiagnosis", console: "Console") -> None:
    if not run.alarms:
        console.print("No alarms: nothing solved or learnt was lost, and the test set is not leaked.")
    for alarm in run.alarms:
        console.print(f"[red]! {alarm.kind}[/red], step {alarm.step}: {escape(alarm.words)}")
    console.print()
