"""Second-hop-only supervision: does OOD accuracy come without the bridge, by the lens and by the causal test?

    circuit-lab reproduce fake_grokking --scale small --seeds 3

Four nets are trained on `second_hop_full`: a universal transformer and a recursive net, each causal and bidirectional.
[He] calls the outcome fake grokking because the logit lens does not find the bridge at any site and position. The
causal test asks instead whether the answer goes through the bridge: hop 1, hop 2 and interchange, at sites located on
training queries. Both are read at every checkpoint, and where they disagree on a query, the query is shown.
"""

from collections.abc import Callable
from math import nan

import pandas as pd
import plotly.graph_objects as go

from circuit_lab import diagnose, load_checkpoint
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.figures import timeline_panels
from circuit_lab.studies.timeline import (
    ACCURACY,
    BRIDGE_FOUND,
    HOP1,
    HOP2,
    MEDIATION,
    TEST_ID,
    TEST_OOD,
    last_value,
    timeline_rows,
)

REGIME = "second_hop_full"
CAUSAL, BOTH_WAYS = {"net.attention_dir": "causal"}, {"net.attention_dir": "bidirectional"}
NETS = {
    "universal, causal": ("universal", "universal", {}, 1.0),
    "universal, bidirectional": ("universal", "universal-bidirectional", BOTH_WAYS, 1.5),
    "recursive, causal": ("recursive", "recursive-causal", CAUSAL, 0.6),
    "recursive, bidirectional": ("recursive", "recursive", {}, 0.6),
}
"""Condition -> base recipe, name of the runs, settings, steps as a multiple of the recipe's."""
GENERALISES = 0.25
"""Accuracy on test_ood from which on it can be asked how the right answers come about; chance is below .1."""
MANY = 0.5
N_SHOWN = 6
"""Queries shown per net and kind of disagreement."""
LINES = (
    (ACCURACY, TEST_ID, "test_id accuracy"),
    (ACCURACY, TEST_OOD, "test_ood accuracy"),
    (BRIDGE_FOUND, TEST_OOD, "bridge_found on test_ood (lens)"),
    (MEDIATION, TEST_OOD, "test_ood right through the bridge"),
    (HOP1, TEST_OOD, "hop 1 on test_ood"),
    (HOP2, TEST_OOD, "hop 2 on test_ood"),
)
KINDS = {
    (True, False): "through the bridge, and the lens does not find it",
    (False, True): "not through the bridge, and the lens finds it",
}
"""(causal test, lens) -> a disagreement on a query that is answered right."""


def run_of(condition: str, seed: int) -> StudyRun:
    """The run of a net."""
    net, name, settings, steps = NETS[condition]
    return StudyRun(net, f"{name}/{REGIME}", seed, {"task.regime": REGIME, **settings}, steps=steps)


def runs(seed: int) -> list[StudyRun]:
    """One run per net."""
    return [run_of(condition, seed) for condition in NETS]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Timelines, and at the last checkpoint every kind of agreement and disagreement, with examples."""
    parts = []
    for condition in NETS:
        run = run_of(condition, seed)
        parts += [timeline_rows(lab, run, condition=condition), agreement_rows(lab, run, condition=condition)]
    return pd.concat(parts).fillna({"query": "", "outcome": "", "verdict": ""})


def agreement_rows(lab: Lab, run: StudyRun, *, condition: str) -> pd.DataFrame:
    """How lens and causal test agree on the right answers of the last checkpoint, with queries they disagree on."""
    path = lab.last(run)
    checkpoint = load_checkpoint(path)
    diagnosis = diagnose(checkpoint)
    assert diagnosis.measurements is not None, "a fresh diagnosis has its measurements"
    queries = diagnosis.measurements.queries[TEST_OOD]
    right = pd.DataFrame(queries[queries["right"] & (queries["outcome"] != "untestable")])
    through, found = right["outcome"] == "circuit", right["lens_found"]
    common = {"condition": condition, "step": lab.step(path), "split": TEST_OOD, "low": nan, "high": nan}
    common |= {"verdict": diagnosis.verdict}
    rows = []
    for by_test in (True, False):
        for by_lens in (True, False):
            chosen = right[(through == by_test) & (found == by_lens)]
            name = f"right; causal test {'yes' if by_test else 'no'}, lens {'yes' if by_lens else 'no'}"
            share = len(chosen) / len(right) if len(right) else nan
            rows.append(common | {"quantity": name, "value": share, "n": len(right)})
            if (by_test, by_lens) in KINDS:
                shown = [common | _shown(row, KINDS[by_test, by_lens], checkpoint) for row in _first(chosen)]
                rows += shown
    return pd.DataFrame(rows)


def _first(queries: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(k): v for k, v in row.items()} for row in queries.head(N_SHOWN).to_dict("records")]


def _shown(row: dict[str, object], kind: str, checkpoint: object) -> dict[str, object]:
    """One query as a row: its tokens, bridge and answer, and how it came out."""
    vocab = checkpoint.task.vocab  # type: ignore[attr-defined]
    names = {part: vocab[int(str(row[part]))] for part in ("h", "r1", "r2", "bridge", "answer")}
    text = "{h} {r1} {r2} -> {answer}, bridge {bridge}".format(**names)
    return {"quantity": kind, "value": 1.0, "n": 1, "query": text, "outcome": str(row["outcome"])}


def generalises(rows: pd.DataFrame, condition: str) -> bool:
    """Whether enough OOD answers are right at the end to ask how."""
    return last_value(rows, condition, ACCURACY, TEST_OOD) >= GENERALISES


def lens_gap(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads by how much OOD accuracy exceeds `bridge_found` at the end."""

    def read(rows: pd.DataFrame) -> float:
        if not generalises(rows, condition):
            return nan
        return last_value(rows, condition, ACCURACY, TEST_OOD) - last_value(rows, condition, BRIDGE_FOUND, TEST_OOD)

    return read


def not_through_bridge(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads the share of right OOD answers that do not go through the bridge at the end."""

    def read(rows: pd.DataFrame) -> float:
        if not generalises(rows, condition):
            return nan
        shares = [
            last_value(rows, condition, f"right; causal test no, lens {word}", TEST_OOD) for word in ("yes", "no")
        ]
        return sum(shares)

    return read


def _claims() -> tuple[Claim, ...]:
    """By the lens and by the causal test, for each net."""
    claims = []
    for condition in NETS:
        name = condition.replace(", ", "_")
        claims.append(
            Claim(
                name=f"by_lens_{name}",
                published="second_hop_full: OOD accuracy .8 to .95 while bridge_found swings between .2 and .7 "
                "([He] figure 4)",
                quantity=f"{condition}, at the end: test_ood accuracy less bridge_found; in [-1, 1]; untested where "
                f"the accuracy is below {GENERALISES}. bridge_found is trivially high in a causal net",
                holds_if=Bound(low=0.2),
                value=lens_gap(condition),
                chance=0.0,
            )
        )
        claims.append(
            Claim(
                name=f"by_causal_test_{name}",
                published="High accuracy on unseen cases without the reasoning path, under second-hop-only supervision "
                "([He] abstract, finding ii)",
                quantity=f"{condition}, at the end: share of the right test_ood answers that do not go through the "
                f"bridge, in [0, 1]; untested where test_ood accuracy is below {GENERALISES}",
                holds_if=Bound(low=MANY),
                value=not_through_bridge(condition),
            )
        )
    return tuple(claims)


def timelines(rows: pd.DataFrame) -> go.Figure:
    """Accuracy, lens and causal test against steps, a panel for each net."""
    return timeline_panels(rows, list(NETS), LINES, title="Second-hop-only supervision; chance is below .1", n_cols=2)


STUDY = Study(
    name="fake_grokking",
    title="Second-hop-only supervision: OOD accuracy with or without the bridge",
    claims=_claims(),
    runs=runs,
    measure=measure,
    figures={"timelines": timelines},
)
