"""What a report shows of a modular net beyond the evidence: single pairs, spectra, logits of one output.

Spectra, with G the group of the results and n its order:

1. A component's output at the answer's position is averaged over all pairs with the same element of a, over all with
   the same element of b, and over all with the same result: three functions of G, constants apart. The means by a and
   by b belong together ("by a and b"): what attention brings is mostly a function of a plus one of b, of which the mean
   by result holds nothing. What the net computes from both shows by result. The embeddings are functions of the element
   of a token, the unembedding of an output's.
2. The energy of a function f in a character chi of dimension d is d sum_{x,y} chi(x y^-1) <f(x), f(y)> / sum_g
   chi(g)^2, on a cyclic group that along cos and sin of the frequency. The energies of all characters add up to the
   function's own; shares are of that.
3. `of_component` is how much of all that varies in the component these functions hold: a spectrum that says little of
   the component is seen to. A function below `NOTHING` of it is rounding, and has no spectrum.

Elements of a and b are those of `input_elements`; where an operation has none, there is no spectrum by a and b. The
spectrum of the logits is that of their generalising part (`trig_decomposition`), and its `of_component` the share of
the held-out logits which that part explains.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from circuit_lab.measures import centred_pair_logits, input_elements, logit_lens, weight_norms
from circuit_lab.measures.hooked_model import answer_logits, keepers, mixer_of, n_prefix
from circuit_lab.measures.model_facts import layer_names
from circuit_lab.measures.modular.norms import efficiency_of_logits
from circuit_lab.measures.modular.trig_decomposition import TrigDecomposition
from circuit_lab.nets import HookedNet
from circuit_lab.nets.components import at_position
from circuit_lab.tasks import NOT_IN_GROUP, AnswerGroup, ModularTask, Queries
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.exhibits.gather_two_hop import attention_if_any
from circuit_lab.verdict.exhibits.modular import ONLY, WITHOUT, ModularExhibits
from circuit_lab.verdict.modular.diagnose import ModularMeasurements
from circuit_lab.verdict.modular.outcomes import Outcome
from circuit_lab.verdict.subject import Subject

NOTHING = 1e-6
"""Share of a component's energy below which a function of it is a rounding error: a thousandth of its size."""
WHOLE, GENERALISING, REMAINING = "whole", "generalising part", "remaining part"
EMBEDDING, UNEMBEDDING, LOGITS = "embedding", "unembedding", "logits"
MIXERS = {"attn": "attention", "pos_mlp": "position MLP"}
"""What mixes positions, by its name in hooks."""
_TOP_TOKENS = 5
_BATCH_SIZE = 4096


@torch.no_grad()
def gather_modular(subject: Subject[ModularTask], diagnosis: Diagnosis, *, max_per_outcome: int) -> ModularExhibits:
    """Measure what a report shows of a modular net.

    Args:
        subject: The net, in `eval` mode, and its task.
        diagnosis: Its diagnosis, with what that was read from.
        max_per_outcome: Pairs shown of each split and outcome, drawn by the diagnosis's seed.

    Returns:
        The exhibits.
    """
    net, task, measured = subject.net, subject.task, diagnosis.measurements
    queries, shown = _shown_pairs(net, task, measured, max_per_outcome, seed=diagnosis.seed)
    answers = _answer_all(net, task.pairs)
    attention = attention_if_any(net, shown, n_kept=len(shown))
    norms = weight_norms(net)
    vocab = token_names(task)
    in_training, asked = None, slice(None)
    if task.certificate.is_known:
        asked = task.pairs.in_training
        in_training = _on_grid(task, task.pairs, asked.double(), missing=0.0)
    return ModularExhibits(
        vocab=vocab,
        position_names=shown.position_names,
        queries=queries,
        n_of_outcome={
            (split, str(outcome)): int((table["outcome"] == outcome).sum())
            for split, table in measured.queries.items()
            for outcome in Outcome
        },
        lens=logit_lens(net, shown, targets=("answer",), top_k=min(_TOP_TOKENS, net.cfg.d_vocab_out)),
        layer_names=layer_names(net),
        attended=shown.position_names if attention is None else attention.position_names,
        attention=None if attention is None else attention.patterns,
        key_frequencies=measured.key_frequencies,
        spectra=_spectra(net, task, answers.outputs, measured.decomposition, measured.key_frequencies),
        logit_maps=_logit_maps(task, answers.logits, measured.decomposition),
        output=vocab[int(task.group.output_of_element[0])],
        norms=norms,
        efficiency=efficiency_of_logits(answers.logits[asked], task.pairs.answer[asked], weight_norm=norms.total),
        in_training=in_training,
        seed=diagnosis.seed,
    )


def token_names(task: ModularTask) -> tuple[str, ...]:
    """Numbers, or what each permutation makes of 01234, in the group's order; then "="."""
    if task.config.is_permutation:
        return (*("".join(map(str, images)) for images in permutations(range(5))), "=")
    return (*map(str, range(task.config.n_elements)), "=")


def _shown_pairs(
    net: HookedNet, task: ModularTask, measured: ModularMeasurements, max_per_outcome: int, *, seed: int
) -> tuple[pd.DataFrame, Queries]:
    """The pairs shown as a table, and as queries in the same order."""
    generator, tables = torch.Generator().manual_seed(seed), []
    for split, table in measured.queries.items():
        rows = _drawn_of_each_outcome(table, max_per_outcome, generator)
        ablated = {}
        for name, site in measured.ablations[split].sites.items():
            ablated[WITHOUT + name] = site.right_without[rows].numpy()
            ablated[ONLY + name] = site.right_with_only[rows].numpy()
        tables.append(table.iloc[rows].assign(split=split, **ablated))
    queries = pd.concat(tables, ignore_index=True)
    names = task.pairs.position_names
    # Pairs stand in order of (a, b), so their keys rise.
    keys, wanted = (
        tokens[:, 0] * task.d_vocab + tokens[:, 1]
        for tokens in (task.pairs.tokens, torch.tensor(queries[list(names)].to_numpy()))
    )
    shown = task.pairs[torch.searchsorted(keys, wanted)]
    position = shown.answer_position
    queries["predicted"] = answer_logits(net, shown.tokens, position).argmax(-1).cpu().numpy()
    without, only = ([c for c in queries if c.startswith(kind)] for kind in (WITHOUT, ONLY))
    columns = ["split", *names, "answer", "predicted", "right", "outcome", *without, *only]
    return queries.loc[:, columns], shown


def _drawn_of_each_outcome(table: pd.DataFrame, n: int, generator: torch.Generator) -> list[int]:
    """Row numbers of at most n pairs of each outcome."""
    rows: list[int] = []
    for outcome in Outcome:
        of_outcome = np.flatnonzero(table["outcome"] == outcome)
        drawn = torch.randperm(len(of_outcome), generator=generator)[:n].sort().values
        rows += of_outcome[drawn.numpy()].tolist()
    return rows


@dataclass(frozen=True, eq=False)
class _Answers:
    """What a net writes at the answer's position of every pair.

    Attributes:
        logits: The logits.
        outputs: Output of each component, by its name in tables.
    """

    logits: Float64[Tensor, "n d_vocab_out"]
    outputs: Mapping[str, Float64[Tensor, "n d_model"]]


def _answer_all(net: HookedNet, pairs: Queries) -> _Answers:
    """Answer every pair once."""
    mixer = mixer_of(net)
    components = ((MIXERS[mixer], mixer), ("MLP", "mlp"))
    hook_of = {
        f"{component} {layer}": f"blocks.{layer}.hook_{hook}_out"
        for layer in range(net.cfg.n_layers)
        for component, hook in components
    }
    logits: list[Tensor] = []
    outputs: dict[str, list[Tensor]] = {name: [] for name in hook_of}
    for tokens, position in zip(pairs.tokens.split(_BATCH_SIZE), pairs.answer_position.split(_BATCH_SIZE), strict=True):
        found: dict[str, Tensor] = {}
        logits.append(
            answer_logits(net, tokens, position, fwd_hooks=keepers(found, list(hook_of.values()))).cpu().double()
        )
        for name, hook in hook_of.items():
            output = found[hook]
            # The last layer runs at the answer's position alone.
            row = n_prefix(net) + position.to(output.device)
            here = output[:, 0] if output.shape[1] == 1 else at_position(output, row)
            outputs[name].append(here.cpu().double())
    return _Answers(torch.cat(logits), {name: torch.cat(parts) for name, parts in outputs.items()})


@dataclass(frozen=True, eq=False)
class _Part:
    """Functions of a group element that are a part of something that varies.

    Attributes:
        energy: Energy of the functions in each character.
        held: Share of all that varies which they hold.
    """

    energy: Float64[Tensor, " n_irreps"]
    held: float


def _spectra(
    net: HookedNet,
    task: ModularTask,
    outputs: Mapping[str, Float64[Tensor, "n d_model"]],
    decomposition: TrigDecomposition,
    key_frequencies: Sequence[str],
) -> pd.DataFrame:
    """One row per component and frequency: component, frequency, share, key, of_component."""
    group, elements = task.group, input_elements(task)
    result = group.element_of_output[task.pairs.intermediates["result"]]
    kept = result != NOT_IN_GROUP
    parts: dict[str, _Part] = {}
    if elements is not None:
        parts[EMBEDDING] = part_by_element(net.W_E[: len(elements[0])].cpu().double(), [elements[0]], group)
        of_inputs = [of_token[task.pairs.tokens[kept, i]] for i, of_token in enumerate(elements)]
        parts |= {f"{name}, by a and b": part_by_element(x[kept], of_inputs, group) for name, x in outputs.items()}
    parts |= {f"{name}, by result": part_by_element(x[kept], [result[kept]], group) for name, x in outputs.items()}
    parts[UNEMBEDDING] = part_by_element(net.W_U.T.cpu().double(), [group.element_of_output], group)
    explained = max(decomposition.splits[decomposition.fitted_on].energy_share, 0.0)
    parts[LOGITS] = _Part(decomposition.frequency_energy, explained)
    in_order = sorted(parts, key=_order_of_components([EMBEDDING, *outputs, UNEMBEDDING, LOGITS]))
    return pd.DataFrame(
        {"component": name, "frequency": frequency, "share": share, "key": frequency in key_frequencies, **held}
        for name in in_order
        if parts[name].held > NOTHING
        for held in [{"of_component": parts[name].held}]
        for frequency, share in zip(group.irreps, (parts[name].energy / parts[name].energy.sum()).tolist(), strict=True)
    )


def _order_of_components(names: Iterable[str]):
    """Sorts `name` and `name, by ...` as `name` stands in a list."""
    place = {name: i for i, name in enumerate(names)}
    return lambda part: place[part.split(",")[0]]


def part_by_element(values: Float64[Tensor, "n d"], elements: Sequence[Int[Tensor, " n"]], group: AnswerGroup) -> _Part:
    """The means of values by one or more elements, as functions on the group.

    Args:
        values: What varies, a row each.
        elements: The element that each row is averaged by, for each function; rows with `NOT_IN_GROUP` are left out.
        group: The group.

    Returns:
        Energy of the functions by character, and the share of all that varies which they hold.
    """
    energy, held = torch.zeros(len(group.irreps), dtype=torch.float64), 0.0
    kept = elements[0] != NOT_IN_GROUP
    centred = values[kept] - values[kept].mean(0)
    total = float(centred.square().sum())
    for element in elements:
        sums = torch.zeros(group.order, values.shape[1], dtype=torch.float64).index_add(0, element[kept], centred)
        counts = torch.bincount(element[kept], minlength=group.order)[:, None]
        means = sums / counts.clamp(min=1)
        energy += character_energy(means, group)
        held += float((counts * means.square()).sum())
    return _Part(energy, held / total if total > 0 else 0.0)


def character_energy(function: Float[Tensor, "order d"], group: AnswerGroup) -> Float64[Tensor, " n_irreps"]:
    """Energy of a function of a group element in each character, summed over its d columns; see the module, 2."""
    rows = function.double()
    quotient = group.product[:, group.inverse].flatten()
    correlation = torch.zeros(group.order, dtype=torch.float64).index_add(0, quotient, (rows @ rows.T).flatten())
    weights = group.dimension / group.characters.square().sum(1)
    # A function that has nothing in a character may get a rounding error below 0.
    return (weights * (group.characters @ correlation)).clamp(min=0)


def _logit_maps(
    task: ModularTask, logits: Float64[Tensor, "n d_vocab_out"], decomposition: TrigDecomposition
) -> dict[str, Float64[Tensor, "n_elements n_elements"]]:
    """Logits of the output that is the identity, over all pairs; nan where there is no pair, or no result in the group.

    There a pair's x c^-1 is its result x, so the generalising part is a function of the result alone.
    """
    pairs = centred_pair_logits(logits, task.pairs, task.group)
    whole, generalising = pairs.centred[:, 0], decomposition.generalising[pairs.result]
    parts = {WHOLE: whole, GENERALISING: generalising, REMAINING: whole - generalising}
    return {name: _on_grid(task, pairs.queries, values, missing=torch.nan) for name, values in parts.items()}


def _on_grid(
    task: ModularTask, pairs: Queries, values: Float64[Tensor, " n"], *, missing: float
) -> Float64[Tensor, "n_elements n_elements"]:
    """Values of pairs in rows a and columns b."""
    n = task.config.n_elements
    grid = torch.full((n, n), missing, dtype=torch.float64)
    grid[pairs.tokens[:, 0], pairs.tokens[:, 1]] = values
    return grid
