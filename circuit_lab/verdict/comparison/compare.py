"""Two checkpoints side by side: both diagnoses, the differences between them, and whether they use the same path."""

from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter, computed_field

from circuit_lab.nets import in_eval_mode
from circuit_lab.verdict.comparison.differences import Difference, compare_numbers
from circuit_lab.verdict.comparison.modular_path import compare_modular_paths
from circuit_lab.verdict.comparison.paired_queries import Side, ask_the_same, paired_hits
from circuit_lab.verdict.comparison.path import PATH_THRESHOLDS, PathAnswer, PathEvidence, SamePath
from circuit_lab.verdict.diagnose import diagnose_subject
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.reported import Reported
from circuit_lab.verdict.settings import Settings
from circuit_lab.verdict.subject import CheckpointLike, find_subject

SCHEMA_VERSION = 1


class Comparison(Reported, BaseModel):
    """Two checkpoints side by side.

    Attributes:
        a: Diagnosis of the first.
        b: Diagnosis of the second.
        differences: Every number that both have, with the difference b - a and its 95 % interval.
        same_path: Whether they use the same path: "yes", "no" or "cannot tell".
        reasons: Why, in plain sentences, the deciding one first.
        path: The numbers behind that answer.
        warnings: What could not be compared, and what limits the rest.
        seed: Seed of both diagnoses and of the comparison.
        schema_version: Version of the JSON form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: Diagnosis
    b: Diagnosis
    differences: tuple[Difference, ...]
    same_path: SamePath
    reasons: tuple[str, ...]
    path: tuple[PathEvidence, ...]
    warnings: tuple[str, ...]
    seed: int
    schema_version: Literal[1] = SCHEMA_VERSION

    @computed_field
    @property
    def n_differences(self) -> int:
        """Differences looked at: those with an interval. Of two equal nets about 5 % of them exclude 0."""
        return sum(row.low is not None for row in self.differences)

    @computed_field
    @property
    def n_excluding_zero(self) -> int:
        """Differences whose interval excludes 0."""
        return sum(row.excludes_zero for row in self.differences)

    def frame(self) -> pd.DataFrame:
        """The differences, one row per number."""
        return pd.DataFrame(TypeAdapter(tuple[Difference, ...]).dump_python(self.differences))

    def path_frame(self) -> pd.DataFrame:
        """The numbers behind `same_path`, one row each."""
        return pd.DataFrame(TypeAdapter(tuple[PathEvidence, ...]).dump_python(self.path))

    def to_json(self, *, indent: int | None = 2) -> str:
        """The comparison as JSON, both diagnoses included."""
        return self.model_dump_json(indent=indent)

    def __repr__(self) -> str:
        return f"<Comparison of {self.a.source} and {self.b.source}: same path: {self.same_path}>"

    def _repr_html_(self) -> str:
        from circuit_lab.report.display import render_comparison  # upward on purpose: see the layer test

        return render_comparison(self)


def compare(
    a: CheckpointLike,
    b: CheckpointLike,
    *,
    seed: int = 0,
    n_partners: int = 6,
    max_queries_per_split: int = 10_000,
    device: str = "cpu",
) -> Comparison:
    """Put two checkpoints side by side: what differs, with intervals, and whether they use the same path.

    Args:
        a: The first checkpoint: anything that `diagnose` takes.
        b: The second, of the same family of tasks.
        seed: Seed of both diagnoses and of the comparison; the global random state is neither used nor moved.
        n_partners: As in `diagnose`.
        max_queries_per_split: As in `diagnose`.
        device: Where the nets of checkpoints run, as in `diagnose`.

    Returns:
        Both diagnoses, the differences b - a, and the answer with its reasons.

    Raises:
        ValueError: If the two are of different families, or a checkpoint cannot be read.
    """
    subjects = find_subject(a, device=device), find_subject(b, device=device)
    families = [type(subject.task).__name__ for subject in subjects]
    if families[0] != families[1]:
        raise ValueError(
            f"nothing can be compared: the first is a net for a {families[0]}, the second for a {families[1]}; "
            "give two checkpoints of one family of tasks"
        )
    side_a, side_b = (
        Side(
            subject,
            diagnose_subject(subject, Settings(seed, n_partners, max_queries_per_split)),
        )
        for subject in subjects
    )
    with in_eval_mode(side_a.subject.net, side_b.subject.net):
        return compare_diagnosed(side_a, side_b, seed=seed)


def compare_diagnosed(a: Side, b: Side, *, seed: int) -> Comparison:
    """The same of checkpoints that are diagnosed already.

    Args:
        a: The first net, in `eval` mode, with its diagnosis.
        b: The second, of the same family.
        seed: Seed of the comparison.

    Returns:
        The comparison.
    """
    same_questions = ask_the_same(a, b)
    answer = _compare_paths(a, b, seed)
    return Comparison(
        a=a.diagnosis,
        b=b.diagnosis,
        differences=compare_numbers(
            a.diagnosis,
            b.diagnosis,
            lambda row: paired_hits(a, b, row) if same_questions else None,
            may_be_same_queries=same_questions,
        ),
        same_path=answer.same_path,
        reasons=answer.reasons,
        path=answer.evidence,
        warnings=_warnings(a.diagnosis, b.diagnosis, same_questions),
        seed=seed,
    )


def _warnings(a: Diagnosis, b: Diagnosis, same_questions: bool) -> tuple[str, ...]:
    """What could not be compared, gravest first."""
    warnings = []
    if not same_questions:
        warnings.append(
            f"The tasks ask different questions ({a.task} and {b.task}): the numbers stand side by side, and a "
            "difference may be one of the tasks."
        )
    elif a.certificate.task_hash != b.certificate.task_hash:
        warnings.append(
            "The tasks ask the same questions and differ in what is trained on or held out: numbers of one split are "
            "paired where its queries are the same."
        )
    if a.sites != b.sites:
        sites = [", ".join(diagnosis.sites) or "none" for diagnosis in (a, b)]
        warnings.append(
            f"Their sites differ (A: {sites[0]}; B: {sites[1]}): numbers at a site of one only are left out."
        )
    return tuple(warnings)


def _compare_paths(a: Side, b: Side, seed: int) -> PathAnswer:
    if a.diagnosis.family == "modular":
        return compare_modular_paths(a, b, seed=seed, at=PATH_THRESHOLDS)
    # Late, because it loads TransformerLens's bridges, which take longer than a small diagnosis.
    from circuit_lab.verdict.comparison.two_hop_path import compare_two_hop_paths

    return compare_two_hop_paths(a, b, seed=seed, at=PATH_THRESHOLDS)
