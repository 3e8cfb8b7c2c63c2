"""What all results of the measures share: a tidy table, and a display of it in notebooks."""

from abc import ABC, abstractmethod

import pandas as pd


class Result(ABC):
    """A measure's result: labelled numbers with a tidy table, which a notebook shows at the end of a cell."""

    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """The numbers as a tidy table, one row per reading."""

    def _repr_html_(self) -> str:
        from circuit_lab.report.display import render_result  # upward on purpose: see the layer test

        return render_result(self)
