"""What a page shows of each diagnosis, run and comparison: measured and drawn, ready for the templates."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from circuit_lab.measures.progress import progress
from circuit_lab.report.evidence_table import EvidenceRow, Sentence, diagnosing_call, evidence_rows, sentences
from circuit_lab.report.figure_json import PageFigure, page_figure, short_number
from circuit_lab.verdict import Comparison, Diagnosis, RunDiagnosis
from circuit_lab.verdict.comparison.side_by_side import FALSE_ALARMS, SideBySide
from circuit_lab.verdict.reported import Reported


@dataclass(frozen=True)
class CheckpointSection:
    """A diagnosis as a page shows it.

    Attributes:
        id: Its anchor, such as "c1".
        diagnosis: The diagnosis.
        sentences: Its reasons with the rows they rest on; the first is the verdict in words.
        rows: The evidence table.
        circuit: The circuit diagram (see `circuit_panel`); None for a diagnosis that no longer holds its net.
        explorer: The query explorer's data (see `explorer_panel`); None without the net.
        groups: Title of each group of figures -> its figures.
    """

    id: str
    diagnosis: Diagnosis
    sentences: tuple[Sentence, ...]
    rows: tuple[EvidenceRow, ...]
    circuit: Mapping[str, Any] | None
    explorer: Mapping[str, Any] | None
    groups: Mapping[str, tuple[PageFigure, ...]]

    @property
    def kind(self) -> str:
        """Which template draws it."""
        return "checkpoint"

    @property
    def label(self) -> str:
        """Its name in the navigation."""
        step = self.diagnosis.step
        return self.diagnosis.source if step is None else f"{self.diagnosis.source}, step {step}"

    @property
    def python(self) -> str:
        """The call that makes the diagnosis anew; each row's line of Python begins with it."""
        return diagnosing_call(self.diagnosis)

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Anchor and title of its parts, in order."""
        return [
            ("certificate", "Split certificate"),
            ("circuit", "Circuit"),
            ("explorer", "Query explorer"),
            *_figure_parts(self.groups),
            ("evidence", "Evidence"),
        ]

    @property
    def data(self) -> dict[str, str]:
        """What its scripts read, compressed."""
        circuit = None if self.circuit is None else self.circuit["data"]
        return deflated({"figures": _figure_data(self.groups), "explorer": self.explorer, "circuit": circuit})


@dataclass(frozen=True)
class RunSection:
    """A run as a page shows it; the fields are those of a checkpoint's section."""

    id: str
    run: RunDiagnosis
    groups: Mapping[str, tuple[PageFigure, ...]]

    @property
    def kind(self) -> str:
        """Which template draws it."""
        return "run"

    @property
    def label(self) -> str:
        """Its name in the navigation."""
        return f"{self.run.source}, {len(self.run.verdicts)} checkpoints"

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Anchor and title of its parts, in order."""
        return [
            *_figure_parts(self.groups),
            ("phases", "Phases"),
            ("crossings", "Crossings"),
            ("verdicts", "Verdicts"),
            ("certificate", "Split certificate"),
        ]

    @property
    def quantities(self) -> list[str]:
        """The quantities of the timeline, in order."""
        return list(dict.fromkeys(point.quantity for point in self.run.timeline))

    @cached_property
    def values(self) -> dict[tuple[int, str], float | None]:
        """(step, quantity) -> value."""
        return {(point.step, point.quantity): point.value for point in self.run.timeline}

    @property
    def data(self) -> dict[str, str]:
        """What its scripts read, compressed."""
        return deflated({"figures": _figure_data(self.groups)})


@dataclass(frozen=True)
class ComparisonSection:
    """A comparison as a page shows it.

    Attributes:
        id: Its anchor.
        comparison: The comparison.
        a: The first checkpoint's section.
        b: The second's.
    """

    id: str
    comparison: Comparison
    a: CheckpointSection
    b: CheckpointSection

    @property
    def kind(self) -> str:
        """Which template draws it."""
        return "comparison"

    @property
    def label(self) -> str:
        """Its name in the navigation."""
        return f"{self.comparison.a.source} and {self.comparison.b.source}"

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Anchor and title of its parts, in order."""
        return [("path", "Paths"), ("differences", "Differences")]

    @property
    def data(self) -> dict[str, Any]:
        """What its scripts read: nothing."""
        return {}


Section = CheckpointSection | RunSection | ComparisonSection


def make_sections(items: Sequence[Reported]) -> list[Section]:
    """Measure and draw everything that a page shows.

    Args:
        items: Diagnoses, runs and comparisons.

    Returns:
        Sections in order; a comparison is followed by its two checkpoints.
    """
    sections: list[Section] = []
    n_of_kind = {"c": 0, "r": 0, "k": 0}

    from circuit_lab.report.panels.runs import run_panels

    def new_id(kind: str) -> str:
        n_of_kind[kind] += 1
        return f"{kind}{n_of_kind[kind]}"

    for item in progress(list(items), label="measuring what the report shows"):
        if isinstance(item, RunDiagnosis):
            sections.append(RunSection(new_id("r"), item, _page_groups(run_panels(item))))
        elif isinstance(item, Comparison):
            a, b = (_checkpoint_section(new_id("c"), diagnosis) for diagnosis in (item.a, item.b))
            sections += [ComparisonSection(new_id("k"), item, a, b), a, b]
        else:
            assert isinstance(item, Diagnosis), f"a report shows diagnoses and comparisons, not {type(item).__name__}"
            sections.append(_checkpoint_section(new_id("c"), item))
    return sections


def _checkpoint_section(section: str, diagnosis: Diagnosis) -> CheckpointSection:
    # Late: a notebook's display of a diagnosis needs none of them, and plotly is slow to import.
    from circuit_lab.report.circuit_diagram import circuit_panel
    from circuit_lab.report.panels import panel_figures
    from circuit_lab.report.query_explorer import explorer_panel
    from circuit_lab.verdict.exhibits import gather_exhibits

    exhibits = gather_exhibits(diagnosis)
    return CheckpointSection(
        id=section,
        diagnosis=diagnosis,
        sentences=sentences(diagnosis),
        rows=evidence_rows(diagnosis, section),
        circuit=circuit_panel(diagnosis, exhibits),
        explorer=explorer_panel(diagnosis, exhibits),
        groups=_page_groups(panel_figures(diagnosis, exhibits)),
    )


def _page_groups(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[PageFigure, ...]]:
    """Figures as the page holds them; a name is used once in a section."""
    names = [name for figures in groups.values() for name in figures]
    assert len(names) == len(set(names)), f"figures of one section share a name: {names}"
    return {
        title: tuple(page_figure(name, figure) for name, figure in figures.items())
        for title, figures in groups.items()
        if figures
    }


def deflated(data: Mapping[str, Any]) -> dict[str, str]:
    """Data as JSON in a fifth of the room: zlib's format, as base64 text, which browsers unpack by themselves."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return {"deflated": base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode()}


def _figure_parts(groups: Mapping[str, Sequence[PageFigure]]) -> list[tuple[str, str]]:
    return [(f"figures{i}", title) for i, title in enumerate(groups, start=1)]


def _figure_data(groups: Mapping[str, Sequence[PageFigure]]) -> dict[str, Any]:
    return {figure.name: figure.json for figures in groups.values() for figure in figures}


@dataclass(frozen=True)
class SideBySideView:
    """Checkpoints of one family side by side, as the page shows them.

    Attributes:
        table: The numbers.
        columns: The sections of the checkpoints, in the order of the columns.
    """

    table: SideBySide
    columns: tuple[CheckpointSection, ...]

    @property
    def data(self) -> dict[str, Any]:
        """Differences by reference, checkpoint and number: [difference, low, high, method], or None."""
        n = len(self.columns)
        return {
            "differences": [[self._differences(reference, other) for other in range(n)] for reference in range(n)],
            "looked_at": [self.table.n_looked_at(reference) for reference in range(n)],
            "excluding_zero": [self.table.n_excluding_zero(reference) for reference in range(n)],
            "false_alarms": FALSE_ALARMS,
        }

    @property
    def some_ask_otherwise(self) -> bool:
        """Whether two of the tasks are known to ask different questions."""
        return False in self.table.asks_the_same.values()

    def _differences(self, reference: int, other: int) -> list[list[Any] | None] | None:
        if reference == other:
            return None
        return [
            None
            if row is None or row.difference is None
            else [*map(_short, (row.difference, row.low, row.high)), row.method]
            for row in self.table.differences[reference, other]
        ]


def _short(value: float | None) -> float | int | None:
    return None if value is None else short_number(value)


def side_by_side_view(table: SideBySide, sections: Sequence[Section]) -> SideBySideView:
    """Checkpoints of one family side by side.

    Args:
        table: Their numbers.
        sections: All sections of the page.

    Returns:
        The view.
    """
    of_family = tuple(
        section
        for section in sections
        if isinstance(section, CheckpointSection) and section.diagnosis.family == table.family
    )
    return SideBySideView(table, of_family)
