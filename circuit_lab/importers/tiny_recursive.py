"""Tiny recursive models: the two-hop code of [He] arXiv 2601.09049 and the one it started from.

github.com/KaiyuHe998/IsGrokkingWorthwhile, folder TRM_model, and github.com/SamsungSAILMontreal/TinyRecursiveModels,
models/recursive_reasoning/trm.py. Every weight stands `[out, in]`:

1. `embed_tokens.embedding_weight [d_vocab, d_model]`, `lm_head.weight [d_vocab, d_model]`; with learned positions
   `embed_pos.embedding_weight [n_prefix + n_ctx, d_model]`.
2. `L_level.layers.<i>.self_attn.qkv_proj.weight`: rows of all heads' queries, then keys, then values; `o_proj.weight`:
   columns head after head. Or `mlp_t`, a SwiGLU over positions.
3. `mlp.gate_up_proj.weight`: rows of the gate, then of what it multiplies; `mlp.down_proj.weight`.
4. `puzzle_emb.weights [1, n]`: the learned prefix, filled up with zeros to `n_prefix * d_model` numbers.
5. `L_init`, `H_init [d_model]`: where the streams start.

In evaluation that code runs its h-cycles `halt_max_steps` times over, the streams carried on, which is one net of so
many times as many h-cycles. Which copy of the weights a file holds is told in `tiny_recursive_files`.
"""

from collections.abc import Mapping

import torch
from pydantic import ValidationError
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Imported, Importer, Options, Source
from circuit_lab.importers.ledger import Ledger
from circuit_lab.importers.tiny_recursive_files import WEIGHTS, choose_weights, unwrapped
from circuit_lab.importers.tiny_recursive_settings import Settings, find_settings
from circuit_lab.nets import RecursiveTransformerConfig, build_net
from circuit_lab.tasks import TwoHopTask, in_answer_slots
from circuit_lab.training.checkpoint import check_finite

LAYOUT = "tiny recursive model"
DEFAULT_EXPANSION, DEFAULT_EPS, DEFAULT_ROTARY_BASE = 4.0, 1e-5, 10000.0
"""That code's defaults."""
EMBED, UNEMBED, POSITIONS = "embed_tokens.embedding_weight", "lm_head.weight", "embed_pos.embedding_weight"
PREFIX, LAYERS = "puzzle_emb.weights", "L_level.layers."
_MAX_BLOCKS_DIGITS = 3


def recognises(source: Source) -> bool:
    """Whether the file has an embedding, an unembedding and the first block of the stack.

    Args:
        source: What was read.

    Returns:
        Whether it is of this dialect.
    """
    content = source.content
    if not isinstance(content, Mapping):
        return False
    inside = content.get(WEIGHTS)
    names = {unwrapped(name) for name in (inside if isinstance(inside, Mapping) else content) if isinstance(name, str)}
    return {EMBED, UNEMBED, f"{LAYERS}0.mlp.gate_up_proj.weight"} <= names


def read(source: Source, options: Options) -> Imported:
    """Make the net.

    Args:
        source: What was read.
        options: What the caller knows.

    Returns:
        The net, and what was inferred and ignored.

    What is not understood in the file or its settings is an InputError.
    """
    settings, settings_place = find_settings(source, options)
    state = choose_weights(source, options, is_average=settings.is_average is True)
    ledger = Ledger(state.tensors, place=state.place, layout=LAYOUT)
    for what, why in state.inferred:
        ledger.infer(what, why)
    config = _config(ledger, settings, settings_place)
    weights = _weights(ledger, config)
    ledger.ignore(_names(ledger, "q_head."), "the halting head, which reads z_H and does not change the logits")
    ledger.ignore(_names(ledger, "rotary_emb."), "tables of the rotary angles, which follow from the settings")
    ledger.ignore(_names(ledger, "puzzle_emb.local_"), "the training code's working copy of the prefix")
    ledger.close(known=_known_names(config))
    net = build_net(config)
    weights = ledger.in_one_dtype(weights)
    check_finite(weights, state.place)
    net.to(weights["embed.W_E"].dtype).load_unique_state_dict(weights)
    if isinstance(options.task, TwoHopTask):
        ledger.infer("each query has a blank place for its answer", "so that code lays a dataset folder out")
    return Imported(
        net=net.eval(),
        inferred=tuple(ledger.inferred),
        ignored=(*state.ignored, *ledger.ignored),
        step=state.step,
        task=in_answer_slots(options.task, d_vocab=config.d_vocab, n_ctx=config.n_ctx)
        if isinstance(options.task, TwoHopTask)
        else None,
    )


def _names(ledger: Ledger, start: str) -> list[str]:
    return [name for name in ledger.tensors if name.startswith(start)]


def _size(ledger: Ledger, name: str, axis: int) -> int:
    """Size of one axis of a matrix."""
    shape = ledger.shape(name)
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{ledger.place}: {name} must be a matrix with rows and columns, got {list(shape)}")
    return shape[axis]


def _n_blocks(ledger: Ledger) -> int:
    """How many blocks the names count; `take` finds any that is missing."""
    counted = {name.removeprefix(LAYERS).partition(".")[0] for name in _names(ledger, LAYERS)}
    odd = sorted(i for i in counted if not (i.isascii() and i.isdigit() and len(i) <= _MAX_BLOCKS_DIGITS))
    if odd:
        raise InputError(f"{ledger.place}: {LAYERS}{odd[0][:50]} is no block of a {LAYOUT}; blocks count from 0")
    return 1 + max((int(i) for i in counted), default=0)


def _config(ledger: Ledger, settings: Settings, place: str) -> RecursiveTransformerConfig:
    """The net's config, from shapes where they say it and from settings where they do not."""
    by_mlp = f"{LAYERS}0.mlp_t.gate_up_proj.weight" in ledger
    sizes = {"n_blocks": _n_blocks(ledger), "d_model": _size(ledger, EMBED, 1), "d_vocab": _size(ledger, EMBED, 0)}
    prefix = {"prefix_width": _size(ledger, PREFIX, 1)} if PREFIX in ledger else {}
    _agree(settings, {**sizes, **prefix, "mixes_by_mlp": by_mlp}, place)
    n_prefix, n_ctx = _lengths(ledger, settings, place, by_mlp=by_mlp)
    open_fields = {
        "h_cycles": settings.h_cycles,
        "l_cycles": settings.l_cycles,
        "n_heads": 0 if by_mlp else settings.n_heads,
        "positions": _positions(ledger, settings, place, by_mlp=by_mlp),
        "n_prefix": n_prefix,
        "n_ctx": n_ctx,
    }
    _require([name for name, value in open_fields.items() if value is None], ledger, place)
    mixing = "position_mlp" if by_mlp else "attention"
    with_defaults = _with_defaults(settings, ledger, rotary=open_fields["positions"] == "rotary")
    cycles = {"h_cycles": _h_cycles(settings, ledger)}
    fields = {**sizes, **open_fields, **cycles, **with_defaults, "token_mixing": mixing}
    try:
        return RecursiveTransformerConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = f"{first['loc'][0]}: " if first["loc"] else ""
        raise InputError(f"{place}: {field}{first['msg'].removeprefix('Value error, ')}") from error


def _h_cycles(settings: Settings, ledger: Ledger) -> int | None:
    """The h-cycles of all rounds of evaluation."""
    if settings.n_rounds is None:
        ledger.infer("halt_max_steps = 1", "no config says it; the h-cycles are run once")
    if settings.n_rounds is None or settings.n_rounds == 1 or settings.h_cycles is None:
        return settings.h_cycles
    why = f"halt_max_steps = {settings.n_rounds}: in evaluation that code carries the streams on for so many rounds"
    ledger.infer(f"h_cycles = {settings.n_rounds} x {settings.h_cycles}", why)
    return settings.n_rounds * settings.h_cycles


def _agree(settings: Settings, sizes: Mapping[str, int | bool], place: str) -> None:
    """Refuse settings that contradict the shapes."""
    for field, found in sizes.items():
        said = getattr(settings, field)
        if said is not None and said != found:
            raise InputError(
                f"{place}: {settings.name_in_that_code(field)} = {said} contradicts the tensors, by which it is "
                f"{found}; give the config that the net was trained with"
            )


def _require(missing: list[str], ledger: Ledger, place: str) -> None:
    """Refuse to guess what neither shapes nor settings say."""
    if missing:
        names = [Settings.name_in_that_code(field) for field in missing]
        example = ", ".join(f'"{name}": ...' for name in names)
        raise InputError(
            f"{ledger.place}: the weights do not say {', '.join(names)}, and neither does {place}; give the run's "
            f"all_config.yaml, or a JSON file with {{{example}}}, as config (on the command line: --config)"
        )


def _positions(ledger: Ledger, settings: Settings, place: str, *, by_mlp: bool) -> str | None:
    """Our name of the positions; None where it is not said."""
    said = settings.positions
    if said not in (None, "rope", "learned", "none"):
        raise InputError(f'{place}: pos_encodings must be "rope", "learned" or "none", got {said[:80]!r}')
    if said is not None and (said == "learned") != (POSITIONS in ledger):
        has = "has" if POSITIONS in ledger else "has no"
        raise InputError(f"{place}: pos_encodings = {said!r}, but {ledger.place} {has} {POSITIONS}")
    if POSITIONS in ledger:
        return "learned"
    if by_mlp and said != "none":
        ledger.infer('positions = "none"', "token mixing by an MLP reads no rotary angles")
    if by_mlp:
        return "none"
    return {"rope": "rotary", "none": "none", None: None}[said]


def _lengths(ledger: Ledger, settings: Settings, place: str, *, by_mlp: bool) -> tuple[int | None, int | None]:
    """Positions of the prefix and of the tokens; None where they are not said."""
    whole = None
    if by_mlp:
        whole = _size(ledger, f"{LAYERS}0.mlp_t.gate_up_proj.weight", 1)
    elif POSITIONS in ledger:
        whole = _size(ledger, POSITIONS, 0)
    n_prefix, n_ctx = _n_prefix(ledger, settings, place), settings.n_ctx
    if whole is not None:
        n_prefix = whole - n_ctx if n_prefix is None and n_ctx is not None else n_prefix
        n_ctx = whole - n_prefix if n_ctx is None and n_prefix is not None else n_ctx
        if n_prefix is not None and n_ctx is not None and (n_prefix + n_ctx != whole or n_prefix < 0 or n_ctx < 1):
            raise InputError(
                f"{place}: puzzle_emb_len and seq_len must add up to the {whole} positions of the tensors, "
                f"got {n_prefix} + {n_ctx}"
            )
    return n_prefix, n_ctx


def _n_prefix(ledger: Ledger, settings: Settings, place: str) -> int | None:
    """Positions of the learned prefix; None where it is not said."""
    if PREFIX not in ledger:
        if settings.n_prefix and settings.prefix_width != 0:
            raise InputError(f"{place}: puzzle_emb_len = {settings.n_prefix}, but {ledger.place} has no {PREFIX}")
        return 0
    if settings.n_prefix is None:
        return None
    width, d_model = _size(ledger, PREFIX, 1), _size(ledger, EMBED, 1)
    n_prefix = settings.n_prefix or -(-width // d_model)
    if width > n_prefix * d_model:
        raise InputError(
            f"{place}: puzzle_emb_len = {n_prefix} holds {n_prefix} x {d_model} numbers, but {PREFIX} has {width}"
        )
    return n_prefix


def _with_defaults(settings: Settings, ledger: Ledger, *, rotary: bool) -> dict[str, float]:
    """Settings that have a default in that code, which is noted where it is used."""
    defaults = {"expansion": DEFAULT_EXPANSION, "eps": DEFAULT_EPS}
    if rotary:
        defaults["rotary_base"] = DEFAULT_ROTARY_BASE
    for field in [name for name in defaults if getattr(settings, name) is None]:
        ledger.infer(f"{field} = {defaults[field]:g}", "no config says it; that code's default")
    return {name: getattr(settings, name) or default for name, default in defaults.items()}


def _weights(ledger: Ledger, config: RecursiveTransformerConfig) -> dict[str, Tensor]:
    """Every weight by our name, in our orientation."""
    vocab, width = ("d_vocab", config.d_vocab), ("d_model", config.d_model)
    weights = {
        "z_L_init": ledger.take("L_init", width),
        "z_H_init": ledger.take("H_init", width),
        "embed.W_E": ledger.take(EMBED, vocab, width),
        "unembed.W_U": ledger.take(UNEMBED, vocab, width).T,
    }
    if PREFIX in ledger:
        weights["embed.W_prefix"] = _prefix(ledger, config)
    if config.positions == "learned":
        weights["pos_embed.W_pos"] = ledger.take(POSITIONS, ("n_positions", config.n_positions), width)
    for block in range(config.n_blocks):
        theirs, ours = f"{LAYERS}{block}", f"blocks.{block}"
        weights |= _swiglu(ledger, f"{theirs}.mlp", f"{ours}.mlp", width, config.d_mlp)
        if config.token_mixing == "attention":
            weights |= _attention(ledger, theirs, ours, config)
        else:
            places = ("n_positions", config.n_positions)
            weights |= _swiglu(ledger, f"{theirs}.mlp_t", f"{ours}.pos_mlp", places, config.d_position_mlp)
    return weights


def _prefix(ledger: Ledger, config: RecursiveTransformerConfig) -> Tensor:
    """The learned prefix as positions, filled up with zeros."""
    n_kinds, n_numbers = ledger.shape(PREFIX)
    if n_kinds != 1:
        raise InputError(
            f"{ledger.place}: {PREFIX} holds {n_kinds} prefixes, one for each kind of puzzle, and a net here has one; "
            "keep the row of the kind that is meant"
        )
    prefix = ledger.take(PREFIX, ("n_kinds", 1), ("n_numbers", n_numbers))
    n_zeros = config.n_prefix * config.d_model - n_numbers
    if n_zeros > 0:
        ledger.infer(
            f"the last {n_zeros} numbers of the prefix are 0", f"{PREFIX} has {n_numbers}; that code adds them"
        )
    return torch.cat([prefix[0], prefix.new_zeros(n_zeros)]).view(config.n_prefix, config.d_model)


def _swiglu(ledger: Ledger, theirs: str, ours: str, read: tuple[str, int], n_neurons: int) -> dict[str, Tensor]:
    """The three matrices of a SwiGLU, two of them stacked in one."""
    both = ledger.take(f"{theirs}.gate_up_proj.weight", ("2 x neurons", 2 * n_neurons), read)
    gate, up = both.chunk(2)
    down = ledger.take(f"{theirs}.down_proj.weight", read, ("neurons", n_neurons))
    return {f"{ours}.W_gate": gate.T, f"{ours}.W_in": up.T, f"{ours}.W_out": down.T}


def _attention(ledger: Ledger, theirs: str, ours: str, config: RecursiveTransformerConfig) -> dict[str, Tensor]:
    """The four matrices of every head, three of them stacked in one."""
    heads, width = (config.n_heads, config.d_head), ("d_model", config.d_model)
    stacked = ledger.take(f"{theirs}.self_attn.qkv_proj.weight", ("3 x d_model", 3 * config.d_model), width)
    out = ledger.take(f"{theirs}.self_attn.o_proj.weight", width, ("n_heads * d_head", config.d_model))
    weights = {f"{ours}.attn.W_O": out.T.unflatten(0, heads)}
    for letter, part in zip("QKV", stacked.chunk(3), strict=True):
        weights[f"{ours}.attn.W_{letter}"] = part.unflatten(0, heads).transpose(1, 2)
    return weights


def _known_names(config: RecursiveTransformerConfig) -> list[str]:
    """Names that the layout has, for the nearest match of a stranger."""
    mixing = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp_t.gate_up_proj", "mlp_t.down_proj")
    blocks = [f"{LAYERS}{block}.{part}.weight" for block in range(config.n_blocks) for part in mixing]
    return [*blocks, POSITIONS, PREFIX, "q_head.weight", "q_head.bias"]


TINY_RECURSIVE = Importer(name="tiny-recursive", recognises=recognises, read=read)
