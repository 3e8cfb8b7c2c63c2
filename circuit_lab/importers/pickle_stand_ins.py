"""Harmless classes that take the place of those a checkpoint may name: they keep what was saved, and do nothing."""

import struct
from typing import Any

SETTINGS_CLASSES = (
    "easy_transformer.EasyTransformerConfig.EasyTransformerConfig",
    "transformer_lens.HookedTransformerConfig.HookedTransformerConfig",
    "transformer_lens.config.HookedTransformerConfig.HookedTransformerConfig",
    "transformer_lens.config.hooked_transformer_config.HookedTransformerConfig",
    "transformer_lens.config.TransformerBridgeConfig.TransformerBridgeConfig",
    "transformer_lens.config.transformer_bridge_config.TransformerBridgeConfig",
)
"""Where versions of TransformerLens have the class of their settings, which is pickled beside the weights."""
NUMPY_DTYPE = "numpy.dtype"
NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
NUMBER_CODES = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}
"""numpy's name of a type of number, and the struct module's."""


class PickledSettings:
    """Stands in for the class of TransformerLens's settings.

    Attributes:
        settings: The settings by name.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Keep what the pickle holds."""
        self.settings = state if isinstance(state, dict) else {}


class PickledDtype:
    """Stands in for numpy's dtype, of a number.

    Args:
        code: numpy's name of it, a key of `NUMBER_CODES`.
    """

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        """Keep the byte order, the second of what numpy saves."""
        self.order = ">" if state[1] == ">" else "<"


class PickledNumber:
    """Stands in for a numpy number, such as the losses and settings that a training script saves.

    Args:
        dtype: Its type.
        data: Its bytes.
    """

    def __init__(self, dtype: PickledDtype, data: bytes) -> None:
        (self.value,) = struct.unpack(dtype.order + NUMBER_CODES[dtype.code], data)


STAND_INS: list[tuple[type, str]] = [
    *((PickledSettings, name) for name in SETTINGS_CLASSES),
    *((PickledNumber, name) for name in NUMPY_SCALARS),
    (PickledDtype, NUMPY_DTYPE),
]
"""Each with the name that it answers to."""
