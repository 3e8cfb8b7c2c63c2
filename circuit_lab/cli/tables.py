"""Diagnoses as tables for a terminal of 80 characters: verdicts side by side, then why, one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from circuit_lab.verdict import Diagnosis, Evidence

_TRANSPLANTS = ("hop1", "hop2", "interchange")
_ABLATIONS = {"right without key frequencies": "without", "right with key frequencies only": "with only"}
_SHORT_OUTCOMES = {
    "circuit": "circuit",
    "shortcut": "shortcut",
    "second_hop_failure": "hop 2",
    "first_hop_failure": "hop 1",
    "composition_failure": "both",
    "no_circuit": "none",
    "untestable": "n/t",
    "wrong": "wrong",
}


@dataclass(frozen=True)
class _Headline:
    """The verdict table of a family of tasks: which evidence (name, split) stands in which column."""

    title: str
    columns: Mapping[str, tuple[str, str]]
    caption: str
    outcomes: str


_OUTCOMES_OF_PAIRS = "What became of each pair: right through the key frequencies or not, or wrong"
_UNKNOWN_SPLIT = "modular, split unknown"
_CONFIDENCE = "conf.: share of bootstrap resamples that give the verdict"
_HEADLINES = {
    "two_hop": _Headline(
        title="Two-hop composition",
        columns={
            "ID": ("accuracy", "test_id"),
            "OOD": ("accuracy", "test_ood"),
            "bridge": ("right answers through the bridge", "test_ood"),
        },
        caption=f"{_CONFIDENCE}\n"
        "ID, OOD: accuracy on test_id and test_ood; ! marks a leaked test set\n"
        "bridge: share of right test_ood answers that go through the bridge",
        outcomes="What became of each query: right by circuit or shortcut, or what fails",
    ),
    "modular": _Headline(
        title="Modular arithmetic",
        columns={
            "test": ("accuracy", "test"),
            "unmirr.": ("accuracy", "test_unmirrored"),
            "expl.": ("trig energy share", "test_unmirrored"),
            "circuit": ("right answers through the key frequencies", "test_unmirrored"),
        },
        caption=f"{_CONFIDENCE}\n"
        "test, unmirr.: accuracy on held-out pairs; without those whose (b, a) is\n"
        "in training; expl.: share of unmirrored logits in the generalising part\n"
        "circuit: share of right unmirrored answers through the key frequencies",
        outcomes=_OUTCOMES_OF_PAIRS,
    ),
    _UNKNOWN_SPLIT: _Headline(
        title="Modular arithmetic, not known what was trained on",
        columns={
            "right": ("accuracy", "all"),
            "expl.": ("trig energy share", "all"),
            "conc.": ("frequency concentration", "all"),
            "circuit": ("right answers through the key frequencies", "all"),
        },
        caption=f"{_CONFIDENCE}\n"
        "right: accuracy on all pairs; expl.: share of their logits in the generalising\n"
        "part, which is 1 of a table of answers too; conc.: its concentration, which is\n"
        "0 of a table; circuit: share of right answers through the key frequencies",
        outcomes=_OUTCOMES_OF_PAIRS,
    ),
}


@dataclass(frozen=True)
class Titled:
    """A table with the lines above and below it, which a narrow table would wrap."""

    title: str
    table: "Table"
    caption: str

    def print(self, console: "Console") -> None:
        """Print title, table and caption, and an empty line."""
        console.print(f"[italic]{escape(self.title)}[/italic]")
        console.print(self.table)
        console.print(f"[dim italic]{escape(self.caption)}[/dim italic]")
        console.print()


def print_tables(diagnoses: "list[Diagnosis]") -> None:
    """The verdicts side by side, a table for each kind of task, then why, one checkpoint after the other."""
    from rich.console import Console

    console = Console(highlight=False)
    for kind, headline in _HEADLINES.items():
        of_kind = [d for d in diagnoses if (d.family if d.certificate.known else _UNKNOWN_SPLIT) == kind]
        if of_kind:
            _verdict_table(of_kind, headline).print(console)
    for diagnosis in diagnoses:
        console.rule(f"[bold]{escape(diagnosis.source)}: {diagnosis.verdict}", align="left")
        for i, reason in enumerate(diagnosis.reasons):
            console.print(f"[bold]{escape(reason)}[/bold]" if i == 0 else f"- {escape(reason)}")
        for warning in diagnosis.warnings:
            console.print(f"[yellow]! {escape(warning)}[/yellow]")
        console.print()
        _outcome_table(diagnosis).print(console)
        causal_table = _transplant_table if diagnosis.family == "two_hop" else _ablation_table
        causal_table(diagnosis).print(console)


def empty_table(*, text: tuple[str, ...], numbers: tuple[str, ...]) -> "Table":
    """An empty table in our style, 80 characters at most: left-aligned text columns, then right-aligned numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in text:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _verdict_table(diagnoses: "list[Diagnosis]", headline: _Headline) -> Titled:
    table = empty_table(text=("checkpoint", "verdict"), numbers=("conf.", *headline.columns))
    for d in diagnoses:
        rows = {(e.name, e.split): e for e in d.evidence}
        leaked = " [red]![/red]" if d.certificate.leaks else ""
        table.add_row(
            escape(Path(d.source).name or d.source),
            f"[bold]{d.verdict}[/bold]{leaked}",
            f"{d.confidence:.2f}",
            *(_value(rows.get(evidence)) for evidence in headline.columns.values()),
        )
    return Titled(headline.title, table, headline.caption)


def _value(row: "Evidence | None") -> str:
    return "-" if row is None or row.value is None else f"{row.value:.2f}"


def _outcome_table(diagnosis: "Diagnosis") -> Titled:
    """Shares of outcomes by split; outcomes that no split has are left out."""
    present = [name for name in _SHORT_OUTCOMES if any(split.shares.get(name) for split in diagnosis.outcomes)]
    trained = [f"{s.split} {s.n_in_training}" for s in diagnosis.outcomes if s.n_in_training]
    table = empty_table(text=("split",), numbers=("n", "right", *(_SHORT_OUTCOMES[name] for name in present)))
    for split in diagnosis.outcomes:
        shares = (f"{split.shares[name]:.2f}" if split.shares[name] else "[dim]0[/dim]" for name in present)
        table.add_row(split.split, str(split.n), f"{split.accuracy:.2f}", *shares)
    caption = f"queries that are training items: {', '.join(trained) if diagnosis.certificate.known else 'not known'}"
    if "untestable" in present:
        caption += "\nn/t: not tested, for want of partners"
    return Titled(_HEADLINES[diagnosis.family].outcomes, table, caption)


def _transplant_table(diagnosis: "Diagnosis") -> Titled:
    table = empty_table(text=("split", "site"), numbers=(*_TRANSPLANTS, "n"))
    _add_evidence(table, diagnosis, _TRANSPLANTS)
    return Titled(
        "Causal tests (share of queries, by majority of partners; control in brackets)",
        table,
        "controls: an unrelated state (hop1), another bridge keeps the answer (hop2),\n"
        "a random displacement keeps the answer (interchange)",
    )


def _ablation_table(diagnosis: "Diagnosis") -> Titled:
    table = empty_table(text=("split", "site"), numbers=(*_ABLATIONS.values(), "n"))
    _add_evidence(table, diagnosis, tuple(_ABLATIONS))
    return Titled(
        "Accuracy without the key frequencies, and with them only (control in brackets)",
        table,
        "control: without random subspaces of the same rank",
    )


def _add_evidence(table: "Table", diagnosis: "Diagnosis", names: tuple[str, ...]) -> None:
    """A row per split and site, with the named evidence side by side."""
    evidence = [e for e in diagnosis.evidence if e.name in names]
    for split, site in dict.fromkeys((e.split, e.site) for e in evidence):
        cells = {e.name: e for e in evidence if (e.split, e.site) == (split, site)}
        values = (_with_control(cells[name]) for name in names)
        table.add_row(split, site, *values, str(min(e.n for e in cells.values())))


def _with_control(row: "Evidence") -> str:
    if row.value is None:
        return "-"
    control = "" if row.control is None else f" [dim]({row.control:.2f})[/dim]"
    return f"{row.value:.2f}{control}"
