"""Figures: each function takes a finished result and draws it with plotly.

The names stand in `__init__.pyi` and load on first use: a report of diagnoses needs few of the measures behind them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
