"""What the weights of a tiny recursive model do not say: cycles, heads, positions, length of the prefix.

The training code writes `all_config.yaml` into the checkpoint's folder, its table `arch` holding these settings; a JSON
file with the same names does as well. A name that is none of that code's is an error, for a fork's own setting may
change what the net computes.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options, Source
from circuit_lab.tasks.safe_files import file_kind, load_json, open_regular

BESIDE = ("all_config.yaml", "config.json")
"""Files that are looked for in the checkpoint's folder, the first first."""
MAX_SETTINGS_BYTES = 1 << 20
"""A settings file is a few kilobytes; a larger one is no settings file."""
_NOT_USED = """
    name loss halt_exploration_prob no_ACT_continue H_layers batch_size num_puzzle_identifiers causal forward_dtype
"""
HARMLESS = frozenset(_NOT_USED.split())
"""Settings of that code about training, or that its net does not read: `H_layers`; `causal`, for it never is."""


class Settings(BaseModel):
    """That code's settings which decide what its net computes; None where they are not given.

    Attributes:
        h_cycles: `H_cycles`.
        l_cycles: `L_cycles`.
        n_blocks: `L_layers`.
        d_model: `hidden_size`.
        n_heads: `num_heads`.
        d_vocab: `vocab_size`.
        n_ctx: `seq_len`.
        expansion: `expansion` of the SwiGLU layers.
        positions: `pos_encodings`: "rope", "learned" or "none".
        mixes_by_mlp: `mlp_t`.
        n_prefix: `puzzle_emb_len`; 0 means as many positions as `puzzle_emb_ndim` fills.
        prefix_width: `puzzle_emb_ndim`: numbers of the prefix in all.
        n_rounds: `halt_max_steps`: how often the h-cycles are run in evaluation.
        eps: `rms_norm_eps`.
        rotary_base: `rope_theta`.
        is_average: `ema`: that code then saves the moving average of the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    h_cycles: int | None = Field(default=None, alias="H_cycles", ge=1)
    l_cycles: int | None = Field(default=None, alias="L_cycles", ge=1)
    n_blocks: int | None = Field(default=None, alias="L_layers", ge=1)
    d_model: int | None = Field(default=None, alias="hidden_size", ge=1)
    n_heads: int | None = Field(default=None, alias="num_heads", ge=1)
    d_vocab: int | None = Field(default=None, alias="vocab_size", ge=1)
    n_ctx: int | None = Field(default=None, alias="seq_len", ge=1)
    expansion: float | None = Field(default=None, alias="expansion", gt=0, allow_inf_nan=False)
    positions: str | None = Field(default=None, alias="pos_encodings")
    mixes_by_mlp: bool | None = Field(default=None, alias="mlp_t")
    n_prefix: int | None = Field(default=None, alias="puzzle_emb_len", ge=0)
    prefix_width: int | None = Field(default=None, alias="puzzle_emb_ndim", ge=0)
    n_rounds: int | None = Field(default=None, alias="halt_max_steps", ge=1)
    eps: float | None = Field(default=None, alias="rms_norm_eps", gt=0, allow_inf_nan=False)
    rotary_base: float | None = Field(default=None, alias="rope_theta", gt=0, allow_inf_nan=False)
    is_average: bool | None = Field(default=None, alias="ema")

    @classmethod
    def name_in_that_code(cls, field: str) -> str:
        """The name that a field has in a settings file."""
        return cls.model_fields[field].alias or field


def find_settings(source: Source, options: Options) -> tuple[Settings, str]:
    """The settings: those given completed by those beside the checkpoint; none at all is fine.

    Args:
        source: The checkpoint.
        options: The caller's; what its `config` says comes first.

    Returns:
        The settings, and where they come from, in words.

    Raises:
        InputError: If a file is no settings file, or names a setting that is not that code's.
    """
    folder = source.path.parent
    found = [path for path in (folder / name for name in BESIDE) if path != source.path and file_kind(path, what=_WHAT)]
    paths = [*found[:1], *([options.config] if options.config is not None else [])]
    values: dict[str, Any] = {}
    for path in paths:
        values |= _known_settings(_read(path), path)
    place = " and ".join(str(path) for path in reversed(paths)) or "the config (there is none)"
    try:
        return Settings.model_validate(values), place
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {first['loc'][0]}: {first['msg']}, got {_shown(first['input'])}") from error


_WHAT = "settings file"


def _read(path: Path) -> Any:
    """The content of a JSON or YAML file."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return load_json(path, what=_WHAT, max_bytes=MAX_SETTINGS_BYTES)
    with open_regular(path, what=_WHAT, max_bytes=MAX_SETTINGS_BYTES) as file:
        text = file.read()
    try:
        return yaml.safe_load(text)
    # Beside its own errors the library lets through those of the numbers and dates that it makes.
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}") from error


def _known_settings(content: Any, path: Path) -> dict[str, Any]:
    """Those that decide what the net computes, out of a whole run's settings or of the net's alone."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path} must hold settings by name, got {_shown(content)}")
    table: Mapping[str, Any] = content.get("arch", content)
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise InputError(f"{path}: arch must hold settings by name, got {_shown(table)}")
    used = [field.alias for field in Settings.model_fields.values() if field.alias is not None]
    for name in table:
        if name not in used and name not in HARMLESS:
            nearest = get_close_matches(name, used, n=1)
            hint = f"; the nearest name is {nearest[0]}" if nearest else ""
            raise InputError(f"{path}: {name} is no setting of a tiny recursive model{hint}; known: {', '.join(used)}")
    values = {name: value for name, value in table.items() if name in used and value is not None}
    if "pos_encodings" in table and table["pos_encodings"] in (None, "None"):
        values["pos_encodings"] = "none"
    # In a whole run's settings this one stands beside the table.
    return values if content.get("ema") is None else {**values, "ema": content["ema"]}


def _shown(value: Any) -> str:
    """A value for a message: short ones whole, others by their kind."""
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, str | int) and (isinstance(value, str) or abs(value) < 10**18):
        return repr(value)[:80]
    return type(value).__name__
