"""A home for studies that holds one study of two tiny runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from circuit_lab.studies import catalogue
from circuit_lab.studies.catalogue import analyses_folder

TOY = """
import pandas as pd
import plotly.graph_objects as go

from circuit_lab import load_checkpoint
from circuit_lab.studies import Bound, Claim, Study, StudyRun


def runs(seed):
    first = StudyRun("universal", "toy/first", seed, {"task.regime": "both_full"})
    return [StudyRun("universal", "toy/second", seed, {"optimizer.weight_decay": 0.0}, steps=0.5, parent=first)]


def measure(lab, seed):
    (run,) = runs(seed)
    step = lab.step(lab.last(run))
    norm = float(load_checkpoint(lab.last(run)).net.W_E.detach().norm())
    return pd.DataFrame(
        [{"condition": "second", "step": step, "split": "", "quantity": "norm", "value": norm, "n": 0,
          "low": float("nan"), "high": float("nan")}]
    )


STUDY = Study(
    name="toy",
    title="A toy",
    claims=(
        Claim("positive", "norms are positive", "norm of W_E, > 0", Bound(low=1e-9), lambda rows: rows["value"].max()),
        Claim("absent", "nobody knows", "nothing", Bound(low=0.0), lambda rows: float("nan")),
    ),
    runs=runs,
    measure=measure,
    figures={"norms": lambda rows: go.Figure(go.Bar(x=rows["seed"], y=rows["value"]))},
)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of studies with the real recipes and the study "toy"."""
    folder = tmp_path / "analyses"
    shutil.copytree(analyses_folder() / "recipes", folder / "recipes")
    (folder / "toy").mkdir()
    (folder / "toy" / "study.py").write_text(TOY)
    (folder / "toy" / "expected.json").write_text(
        '{"positive": {"low": 1e-9, "high": 1.0, "reason": "much too narrow"}, '
        '"absent": {"low": 0.0, "high": 1.0, "reason": "none"}}'
    )
    monkeypatch.setattr(catalogue, "_HOMES", (folder,))
    catalogue.find_study.cache_clear()
    yield folder
    catalogue.find_study.cache_clear()
