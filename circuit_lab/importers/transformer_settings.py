"""TransformerLens's settings of a net, sorted into those we use, those that must have one value, and harmless ones.

Which is which stands in `transformer_lens_fields`. A setting that is none of them is an error.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options, Source
from circuit_lab.importers.ledger import Ledger, first_few
from circuit_lab.importers.source import PickledSettings
from circuit_lab.importers.transformer_lens_fields import ACTIVATIONS, CHECKED, HARMLESS, MUST_BE, NORMS, USED
from circuit_lab.tasks.safe_files import check_inside, load_json

MAX_SETTINGS_BYTES = 1 << 20
"""A settings file is a few kilobytes; a larger one is no settings file."""
_MAX_SIZE = 1 << 31


@dataclass(frozen=True)
class Settings:
    """What is known of a net beside its tensors.

    Attributes:
        place: Where it stands, for messages; "the config (there is none)" if nowhere.
        values: The settings that we use, by TransformerLens's name.
    """

    place: str
    values: Mapping[str, Any]

    def size(self, name: str) -> int | None:
        """A number that must be at least 1, or None where it is not said.

        Args:
            name: One of `SIZES`.

        Returns:
            The number.

        Raises:
            InputError: If it is something else.
        """
        value = self.values.get(name)
        if value is None or (type(value) is int and value == -1):  # TransformerLens writes -1 for "not set"
            return None
        if type(value) is not int or not 1 <= value <= _MAX_SIZE:
            raise InputError(f"{self.place}: {name} must be a whole number of at least 1, got {_shown(value)}")
        return value

    def agree(self, sizes: Mapping[str, int]) -> None:
        """Refuse settings that contradict the shapes.

        Args:
            sizes: Sizes by name, read off the shapes.

        Raises:
            InputError: If a size is said to be another; names it.
        """
        for name, found in sizes.items():
            said = self.size(name)
            if said is not None and said != found:
                raise InputError(
                    f"{self.place}: {name} = {said} contradicts the shapes of the tensors, by which it is {found}; "
                    "give the config that the net was trained with"
                )


def find_settings(
    source: Source, options: Options, inside: Any, ledger: Ledger
) -> tuple[str, Mapping[str, Any]] | None:
    """The settings given, in the file, or in a JSON file beside it, the first there is; which one is noted.

    Args:
        source: The checkpoint.
        options: The caller's; its `config` comes first.
        inside: What the checkpoint itself holds as settings: a dict, `PickledSettings`, or None.
        ledger: Takes the note.

    Returns:
        Where they stand, and the settings by name; None if there are none.

    Raises:
        InputError: If they are no dict of settings.
    """
    if options.config is not None:
        ledger.infer(f"settings from {options.config.name}", "the config given")
        return str(options.config), read_json_settings(options.config)
    if inside is not None:
        place = f"{source.path}, entry config"
        values = inside.settings if isinstance(inside, PickledSettings) else inside
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise InputError(f"{place} must be a dict of settings by name, got {type(values).__name__}")
        ledger.infer("settings from entry config", "in the file itself")
        return place, values
    for beside in (source.path.with_suffix(".json"), source.path.with_name("config.json")):
        if beside != source.path and beside.is_file():
            ledger.infer(f"settings from {beside.name}", "a JSON file beside the checkpoint")
            return str(beside), read_json_settings(check_inside(beside.parent, beside.name))
    return None


def read_json_settings(path: Path) -> dict[str, Any]:
    """A JSON file that is one object.

    Args:
        path: The file, at most `MAX_SETTINGS_BYTES` long.

    Returns:
        Its content.

    Raises:
        InputError: If it cannot be read, or is something else.
    """
    values = load_json(path, what="config", max_bytes=MAX_SETTINGS_BYTES)
    if not isinstance(values, dict):
        raise InputError(f"config {path} must be a JSON object of settings by name, got {type(values).__name__}")
    return values


def sort_settings(found: tuple[str, Mapping[str, Any]] | None, ledger: Ledger) -> Settings:
    """Check TransformerLens's settings.

    Args:
        found: Where they stand, and the settings; None if there are none.
        ledger: Takes note of those that do not change the logits.

    Returns:
        Those that we use.

    One that is unknown, or asks for a computation that a shared transformer does not do, is an InputError.
    """
    if found is None:
        return Settings("the config (there is none)", {})
    place, values = found
    _refuse_unknown(place, values)
    check_scalars(place, values, (*USED, *CHECKED))
    for name, allowed in MUST_BE.items():
        if name in values and not any(_same(values[name], value) for value in allowed):
            _refuse(place, name, values[name], " or ".join(_shown(value) for value in allowed))
    settings = Settings(place, {name: value for name, value in values.items() if name in USED})
    _check_dependent(place, values, settings)
    harmless = sorted(name for name in values if name in HARMLESS)
    if harmless:
        ledger.ignored.append(f"settings {first_few(harmless)}: they do not change the logits")
    return settings


def check_scalars(place: str, values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse settings that are lists, tensors and the like.

    Args:
        place: Where the settings stand.
        values: The settings.
        names: Those to check, as far as they are there.

    Raises:
        InputError: Names the first that is one.
    """
    for name in names:
        value = values.get(name)
        if not isinstance(value, str | int | float | None):
            raise InputError(f"{place}: {name} must be a number, text, true, false or null, got {type(value).__name__}")


def _refuse_unknown(place: str, values: Mapping[str, Any]) -> None:
    known = {*USED, *MUST_BE, *CHECKED, *HARMLESS}
    for name in sorted(values.keys() - known):
        near = get_close_matches(name[:100], known, n=1)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise InputError(
            f"{place}: {_shown(name)} is no setting of TransformerLens that is known here{hint}; "
            "if these are not the net's settings, give them in a JSON file as config"
        )


def _check_dependent(place: str, values: Mapping[str, Any], settings: Settings) -> None:
    """The settings in `CHECKED`."""
    n_heads, d_head = settings.size("n_heads"), settings.size("d_head")
    norm = values.get("normalization_type")
    is_rms = isinstance(norm, str) and norm.upper().startswith("RMS")
    scale = values.get("attn_scale", -1)
    if not _same(scale, -1) and not (
        _is_number(scale) and d_head and math.isclose(scale, math.sqrt(d_head), rel_tol=1e-6)
    ):
        _refuse(place, "attn_scale", scale, "the square root of d_head, or -1, which means that")
    for name in ("attn_scores_soft_cap", "output_logits_soft_cap"):
        cap = values.get(name, -1)
        if cap is not None and not (_is_number(cap) and cap <= 0):
            _refuse(place, name, cap, "-1, which means that there is none")
    for name in ("final_rms", "uses_rms_norm"):
        if not _same(values.get(name, False), False) and not is_rms:
            _refuse(place, name, values[name], f"false, for normalization_type is {_shown(norm)}")
    n_kv = values.get("n_key_value_heads")
    if n_kv is not None and not (n_heads and _same(n_kv, n_heads)):
        _refuse(place, "n_key_value_heads", n_kv, "null: every head has its own keys and values")


def act_fn_of(settings: Settings, ledger: Ledger, *, default: str | None) -> str:
    """Our name of the activation.

    Args:
        settings: The settings.
        ledger: Takes note of what was inferred.
        default: What the layout implies where the settings say nothing; None if it implies nothing.

    Returns:
        One of `SharedTransformerConfig.act_fn`.

    Raises:
        InputError: If it is unknown, or neither said nor implied.
    """
    name = settings.values.get("act_fn")
    if name is None and default is not None:
        ledger.infer(f"act_fn = {default}", "no config says it; this is what nets without norms are trained with")
        return default
    if name is None:
        raise InputError(
            f"{ledger.place}: act_fn cannot be told from shapes, and there is none in {settings.place}; "
            f'give a JSON file as config, such as {{"act_fn": "gelu"}}, with one of {", ".join(ACTIVATIONS)}'
        )
    if not isinstance(name, str) or name.lower() not in ACTIVATIONS:
        raise InputError(f"{settings.place}: act_fn must be one of {', '.join(ACTIVATIONS)}, got {_shown(name)}")
    ours = ACTIVATIONS[name.lower()]
    if ours != name:
        ledger.infer(f"act_fn = {ours}", f"{settings.place} calls it {name}")
    return ours


def norm_of(settings: Settings, ledger: Ledger, *, has_weight: bool, has_bias: bool) -> tuple[str | None, bool]:
    """The kind of norm, from the settings or from which norm weights there are.

    Args:
        settings: The settings.
        ledger: Takes note of what was inferred.
        has_weight: Whether the file has norm weights.
        has_bias: Whether it has norm biases.

    Returns:
        Our normalization_type, and whether the file has its weights (a folded norm has none).

    Raises:
        InputError: If it is unknown, or contradicts the tensors.
    """
    seen = None if not has_weight else "LN" if has_bias else "RMS"
    if "normalization_type" not in settings.values:
        why = "the file has norm weights " + ("and biases" if has_bias else "without biases")
        if seen is None:
            why = "no norm weights in the file; a net whose norms were folded, LNPre or RMSPre, looks the same"
        ledger.infer(f"normalization_type = {seen or 'none'}", why)
        return seen, True
    said = settings.values["normalization_type"]
    by_upper = {None if name is None else name.upper(): name for name in NORMS}
    key = said.upper() if isinstance(said, str) else said
    if not isinstance(key, str | None) or key not in by_upper:
        names = ", ".join("null" if name is None else name for name in NORMS)
        raise InputError(f"{settings.place}: normalization_type must be one of {names}, got {_shown(said)}")
    ours, has_own = NORMS[by_upper[key]]
    if (ours if has_own else None) != seen:
        in_file = {None: "has no norm weights", "LN": "has norm weights and biases", "RMS": "has norm weights only"}[
            seen
        ]
        raise InputError(
            f"{settings.place}: normalization_type = {_shown(said)} contradicts the tensors: the file {in_file}"
        )
    if not has_own:
        ledger.infer(f"norm weights 1{' and biases 0' if ours == 'LN' else ''}", f"normalization_type {said} has none")
    return ours, has_own


def attention_of(settings: Settings, ledger: Ledger, *, seen: str | None = None) -> str:
    """The direction of attention.

    Args:
        settings: The settings.
        ledger: Takes note of what was inferred.
        seen: What the file's own masks say; None if it has none that says.

    Returns:
        "causal" or "bidirectional".

    Raises:
        InputError: If it is something else, or contradicts the masks.
    """
    said = settings.values.get("attention_dir")
    if said not in (None, "causal", "bidirectional"):
        raise InputError(f'{settings.place}: attention_dir must be "causal" or "bidirectional", got {_shown(said)}')
    if said is None:
        why = "no config says otherwise" if seen is None else "the attention masks in the file"
        ledger.infer(f"attention_dir = {seen or 'causal'}", why)
        return seen or "causal"
    if seen == "bidirectional" and said == "causal":
        raise InputError(
            f"{settings.place}: attention_dir = causal contradicts the file's attention masks, which hide nothing"
        )
    return said


def eps_of(settings: Settings, ledger: Ledger, *, normed: bool) -> float:
    """What is added to the variance before the square root.

    Args:
        settings: The settings.
        ledger: Takes note of what was inferred.
        normed: Whether the net has norms at all.

    Returns:
        The number, > 0.

    Raises:
        InputError: If it is no positive number.
    """
    eps = settings.values.get("eps")
    if eps is None:
        if normed:
            ledger.infer("eps = 1e-05", "no config says it; TransformerLens's default")
        return 1e-5
    if not _is_number(eps) or not 0 < eps < math.inf:
        raise InputError(f"{settings.place}: eps must be a number > 0, got {_shown(eps)}")
    return float(eps)


def _same(value: Any, other: Any) -> bool:
    """Equal, with numbers and booleans kept apart."""
    return (
        isinstance(value, bool) == isinstance(other, bool)
        and type(value) in (str, int, float, bool, type(None))
        and (value == other)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _refuse(place: str, name: str, value: Any, allowed: str) -> NoReturn:
    raise InputError(
        f"{place}: {name} = {_shown(value)} is not something a shared transformer does; it must be {allowed}"
    )


def _shown(value: Any) -> str:
    """A value for a message, as JSON writes it, cut short."""
    if isinstance(value, str | bool | type(None)) or _is_number(value):
        text = json.dumps(value)
        return text if len(text) <= 80 else f"{text[:80]}..."
    return type(value).__name__
