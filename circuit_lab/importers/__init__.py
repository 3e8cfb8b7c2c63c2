"""Other people's checkpoints: recognised, checked, and refused where they are not understood.

The public names stand in `__init__.pyi` and load on first use, so that the command line can name the formats without
loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
