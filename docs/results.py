"""Write docs/results.md: every published claim, what was measured here, and whether it held.

Reads the stored results of the studies, `analyses/<study>/<scale>/`, and trains and measures nothing. Run by
`make results`; a test holds the committed page equal to what this gives.
"""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from circuit_lab.studies import SCALES, Judgement, Provenance, Study, find_study, judge, read_results, study_names

HERE = Path(__file__).parent
ANALYSES = HERE.parent / "analyses"
PAGE = HERE / "results.md"


@dataclass(frozen=True)
class Section:
    """A study at one scale.

    Attributes:
        study: The study.
        provenance: What made its results; None if there are none.
        judgements: What came of each claim.
        figures: Its pictures, from this folder.
    """

    study: Study
    provenance: Provenance | None
    judgements: tuple[Judgement, ...]
    figures: tuple[str, ...]

    def count(self, holding: str) -> int:
        """How many claims came out so."""
        return sum(judgement.holding == holding for judgement in self.judgements)


def sections() -> list[Section]:
    """Every study at every scale that has results; a study without any once, untested."""
    found = []
    for name in study_names():
        study = find_study(name)
        folders = [ANALYSES / name / scale for scale in SCALES if (ANALYSES / name / scale).is_dir()]
        for folder in folders:
            results = read_results(folder)
            figures = tuple(f"../{path.relative_to(HERE.parent).as_posix()}" for path in sorted(folder.glob("*.svg")))
            judgements = judge(study, results.measurements)
            found.append(Section(study, results.provenance, judgements, figures))
        if not folders:
            untested = tuple(Judgement(claim, {}, (), None) for claim in study.claims)
            found.append(Section(study, None, untested, ()))
    return found


def page() -> str:
    """The page."""
    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment.get_template("results.md.jinja").render(sections=sections())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
