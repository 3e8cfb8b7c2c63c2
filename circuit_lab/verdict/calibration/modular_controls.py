"""Modular controls: one-layer nets wired by hand, whose verdict follows from what was wired.

A table that outweighs a cosine network on a share of all pairs takes that share of the answers from it, as in the
two-hop mixtures; where it writes wrong answers, it takes away that share of the accuracy.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.nets.controls.modular import COSINE_SCALE, TABLE_HEIGHT, cosine_network, lookup_table, mixture
from circuit_lab.tasks import ModularConfig, ModularTask, Queries, concatenate
from circuit_lab.verdict.calibration.controls import Control
from circuit_lab.verdict.calibration.families import Draw, Family, controls_of, drawn
from circuit_lab.verdict.calibration.two_hop_mixtures import MARGIN, truth_of_table_share
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict

TASKS: tuple[ModularConfig, ...] = (
    ModularConfig(p=29, train_share=0.4, seed=0),
    ModularConfig(p=31, train_share=0.5, seed=1),
    ModularConfig(p=37, train_share=0.35, seed=2),
    ModularConfig(p=43, train_share=0.4, seed=3),
)
"""Tasks with 230 to 670 held-out pairs whose mirror is not trained on either."""
MIXTURE_TASKS = TASKS[2:]
N_FREQUENCIES = 4
_OUTWEIGHS = 1.05 * 2 * N_FREQUENCIES * COSINE_SCALE
"""Height from which a table decides every pair it lists, whatever the cosines say."""


@dataclass(frozen=True)
class _Family(Family[ModularTask]):
    """Modular nets wired in one way."""

    tasks: Sequence[ModularConfig] = TASKS


def modular_controls() -> Iterator[Control]:
    """Every wired modular control, in a fixed order."""
    for family in (*_circuits(), *_tables(), *_random_labels(), *_mixtures()):
        yield from controls_of(family)


def _frequencies(task: ModularTask, draw: Draw, n: int = N_FREQUENCIES) -> list[int]:
    """Frequencies drawn at random, each once."""
    return (1 + torch.randperm((task.config.n_elements - 1) // 2, generator=draw)[:n]).tolist()


def _circuits() -> Iterator[_Family]:
    for n_freq in (3, 4, 5):
        yield _Family(
            f"cosines n_frequencies={n_freq}",
            f"The trigonometric algorithm with {n_freq} frequencies, exact.",
            Verdict.TRUE_CIRCUIT,
            partial(_cosines, n_freq=n_freq),
        )
        yield _Family(
            f"few_phases n_frequencies={n_freq}",
            f"The trigonometric algorithm with {n_freq} frequencies and 9 neurons for each, which leaves harmonics.",
            Verdict.TRUE_CIRCUIT,
            partial(_cosines, n_freq=n_freq, n_phases=9),
        )


def _cosines(task: ModularTask, draw: Draw, *, n_freq: int, n_phases: int | None = None) -> HookedSharedTransformer:
    frequencies = _frequencies(task, draw, n_freq)
    return cosine_network(task.config.n_elements, frequencies=frequencies, n_phases=n_phases)


def _table_of(task: ModularTask, queries: Queries, heights: Tensor | None = None) -> HookedSharedTransformer:
    return lookup_table(task.config.n_elements, queries.tokens[:, :2], queries.answer, heights=heights)


def _tables() -> Iterator[_Family]:
    fake = partial(_Family, truth=Verdict.FAKE_GROKKING)
    memorising = partial(_Family, truth=Verdict.MEMORISING, kind="memorising")
    other = tuple(
        ModularConfig(operation=operation, p=31, train_share=0.5, seed=i)
        for i, operation in enumerate(("a-b", "a*b", "a/b", "a^2+b^2"))
    )
    yield fake("flat_table", "One neuron for each pair.", wire=lambda task, _: _table_of(task, task.pairs))
    yield fake("uneven_table", "One neuron for each pair, of random strength.", wire=_uneven_table)
    yield fake(
        "narrow_table", "One neuron for each pair, whose answer is written in two frequencies.", wire=_narrow_table
    )
    yield fake(
        "other_operations_table",
        "One neuron for each pair, of another operation.",
        wire=lambda task, _: _table_of(task, task.pairs),
        tasks=other,
    )
    yield memorising(
        "training_table", "One neuron for each training pair.", wire=lambda task, _: _table_of(task, task.training)
    )
    yield memorising("mirrored_table", "One neuron for each training pair and for its mirror.", wire=_mirrored_table)


def _uneven_table(task: ModularTask, draw: Draw) -> HookedSharedTransformer:
    heights = TABLE_HEIGHT * (0.5 + torch.rand(len(task.pairs), generator=draw))
    return _table_of(task, task.pairs, heights)


def _narrow_table(task: ModularTask, draw: Draw) -> HookedSharedTransformer:
    net = _table_of(task, task.pairs)
    element = torch.arange(task.config.n_elements)
    angle = 2 * math.pi / task.config.n_elements * (element[:, None] - element[None])
    with torch.no_grad():
        net.unembed.W_U.copy_(net.unembed.W_U @ sum(torch.cos(k * angle) for k in _frequencies(task, draw, 2)))
    return net


def _mirrored_table(task: ModularTask, _: Draw) -> HookedSharedTransformer:
    known = {(a, b) for a, b in task.training.tokens[:, :2].tolist()}
    listed = torch.tensor([(a, b) in known or (b, a) in known for a, b in task.pairs.tokens[:, :2].tolist()])
    return _table_of(task, task.pairs[listed])


def _random_labels() -> Iterator[_Family]:
    random = partial(_Family, kind="random_labels")
    labelled, commutative = (
        tuple(config.model_copy(update={"labels": labels}) for config in TASKS)
        for labels in ("random", "random_commutative")
    )
    yield random(
        "random_label_training_table",
        "Labels are random; one neuron for each training pair.",
        Verdict.MEMORISING,
        lambda task, _: _table_of(task, task.training),
        tasks=labelled,
    )
    yield random(
        "random_commutative_table",
        "Labels are random but equal for (a, b) and (b, a); one neuron for each training pair and its mirror.",
        Verdict.MEMORISING,
        _mirrored_table,
        tasks=commutative,
    )
    yield random(
        "random_label_full_table",
        "Labels are random; one neuron for each pair.",
        Verdict.FAKE_GROKKING,
        lambda task, _: _table_of(task, task.pairs),
        tasks=labelled,
    )
    yield random(
        "random_label_cosines",
        "Labels are random; the net adds, which is not what is asked.",
        Verdict.UNTRAINED,
        partial(_cosines, n_freq=N_FREQUENCIES),
        tasks=labelled,
    )


_TABLE_SHARES = (0.04, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.96)
_NEAR_SHARES = tuple(threshold + 0.01 * i for threshold in (0.4, 0.6) for i in (-4, -3, -2, -1, 1, 2, 3, 4))
_ACCURACIES = (0.6, 0.7, 0.8, 0.88)
_NEAR_ACCURACIES = (0.92, 0.94, 0.96, 0.98)
_TRACES = (0.05, 0.1)
"""Shares of held-out pairs listed by mistake: too few to leave a mark in the logits."""


def _mixtures() -> Iterator[_Family]:
    for share in (*_TABLE_SHARES, *_NEAR_SHARES):
        near = min(abs(share - 0.4), abs(share - 0.6)) < MARGIN
        yield _Family(
            f"mixture share={share:.2f}",
            f"The trigonometric algorithm, but each pair is answered by a table with probability {share:.2f}.",
            truth_of_table_share(share),
            partial(_mixture, share=share),
            tasks=MIXTURE_TASKS,
            scored=not near,
        )
    for accuracy in (*_ACCURACIES, *_NEAR_ACCURACIES, 0.995):
        solved, near = accuracy >= MODULAR_THRESHOLDS.solved, accuracy in _NEAR_ACCURACIES
        yield _Family(
            f"lossy_circuit accuracy={accuracy:.3f}",
            f"The trigonometric algorithm, but held-out pairs get wrong answers with probability {1 - accuracy:.3f}.",
            Verdict.TRUE_CIRCUIT if solved else Verdict.SEMI_GROKKED,
            partial(_lossy_circuit, accuracy=accuracy),
            tasks=MIXTURE_TASKS,
            scored=not near,
        )
        yield _Family(
            f"partial_table accuracy={accuracy:.3f}",
            f"One neuron for each training pair, and for each other pair with probability {accuracy:.3f}.",
            Verdict.FAKE_GROKKING if solved else Verdict.SEMI_GROKKED,
            partial(_partial_table, share=accuracy),
            tasks=MIXTURE_TASKS,
            scored=not near,
        )
    for share in _TRACES:
        yield _Family(
            f"partial_table accuracy={share}",
            f"One neuron for each training pair, and for each other pair with probability {share:.2f}.",
            Verdict.MEMORISING,
            partial(_partial_table, share=share),
            kind="memorising",
            tasks=MIXTURE_TASKS,
        )


def _with_table(task: ModularTask, draw: Draw, listed: Queries, answers: Tensor) -> HookedSharedTransformer:
    """The trigonometric algorithm, with a table that decides the listed pairs."""
    return mixture(
        task.config.n_elements,
        frequencies=_frequencies(task, draw),
        pairs=listed.tokens[:, :2],
        answers=answers,
        table_height=_OUTWEIGHS,
    )


def _mixture(task: ModularTask, draw: Draw, *, share: float) -> HookedSharedTransformer:
    listed = task.pairs[drawn(len(task.pairs), share, draw)]
    return _with_table(task, draw, listed, listed.answer)


def _lossy_circuit(task: ModularTask, draw: Draw, *, accuracy: float) -> HookedSharedTransformer:
    test = task.splits["test"]
    listed = test[drawn(len(test), 1 - accuracy, draw)]
    shift = torch.randint(1, task.config.n_elements, (len(listed),), generator=draw)
    return _with_table(task, draw, listed, (listed.answer + shift) % task.config.n_elements)


def _partial_table(task: ModularTask, draw: Draw, *, share: float) -> HookedSharedTransformer:
    test = task.splits["test"]
    return _table_of(task, concatenate([task.training, test[drawn(len(test), share, draw)]]))
