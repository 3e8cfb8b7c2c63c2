"""The paired benchmarks: each row shows equal results, then how many times as long the peer takes.

`make bench` writes them to docs/benchmarks.md; the benchmark tests hold each to its target.
"""

from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import plain_formulas
import torch
from matrix_products import matrix_products_of
from native_training import SETTINGS, NativeTraining
from one_example_loop import transplant
from paired_timing import Ratio, paired_ratio
from pairwise_attribution import transformer_lens_scores
from peer_process import INSTALLED, PeerProcess
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens.patching import PatchingResult, get_act_patch_resid_pre
from transformer_lens.utilities.statistics import bootstrap_ci, derive_generator

from circuit_lab import diagnose, reference_model
from circuit_lab.measures import (
    KeyFrequencyLosses,
    QueryPairs,
    Site,
    TrigDecomposition,
    activation_patching,
    attribution_patching,
    causal_tests,
    decompose,
    known_good,
    mean_interval,
    pair_logits,
    pair_queries,
    rows_of,
)
from circuit_lab.measures.modular.progress_measures import key_frequency_losses
from circuit_lab.measures.two_hop.partners import PartnerPool
from circuit_lab.tasks import concatenate
from circuit_lab.training import (
    load_checkpoint,
    load_recipe,
    run_checkpoints,
    split_scores,
    stream_checkpoints,
    train,
)
from circuit_lab.training.learner import Learner
from circuit_lab.training.prepared import prepare
from circuit_lab.training.stacked_learner import StackedLearner

RECIPES = Path(__file__).parents[2] / "analyses" / "recipes"
EXACT = 'training.dtype="float64"'
PUBLISHED = ("training.compile=false", "training.cuda_graphs=false", "optimizer.weight_decay=0.0")
"""The published modular recipe on a CPU, with one group of parameters."""
NET = "two-hop-true-circuit"
"""The small two-hop net: four applications of one block, width 64, three positions."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        work: What is done.
        peer: Who does it otherwise.
        target: The ratio that is promised.
        measure: Asserts that both results are equal, then times them.
        in_own_environment: Whether the peer is one that `make bench-peers` installs.
    """

    work: str
    peer: str
    target: float
    measure: Callable[[], Ratio]
    in_own_environment: bool = False

    @property
    def is_possible(self) -> bool:
        """Whether the peer is installed."""
        return not self.in_own_environment or INSTALLED.exists()


def diagnosis() -> Ratio:
    """The peer makes 60 of the diagnosis's transplants, and its time is scaled to all of them.

    Generous to the peer: the diagnosis also locates sites, answers all queries and reads the lens.
    """
    checkpoint = reference_model(NET)
    n_partners, site = 6, Site("resid_post 0", (1,))
    queries = checkpoint.task.splits["test_id"][:10]
    pool = known_good(checkpoint.net, checkpoint.task.splits["train_inferred"])
    tests = causal_tests(checkpoint.net, queries, pool, sites=[site], generator=_seeded(), n_partners=n_partners)
    partners = PartnerPool(pool, generator=_seeded())
    partners.hop1_receivers(queries, n_partners=n_partners)  # drawn first, as there
    sources = partners.hop2_sources(queries, n_partners=n_partners)
    assert sources.exists.all()

    def one_by_one() -> list[bool]:
        return [
            transplant(
                checkpoint.net,
                source=pool.tokens[sources.rows[row, column]],
                receiver=queries.tokens[row],
                hook_name="blocks.0.hook_resid_post",
                positions=list(site.positions),
            )
            == queries.answer[row]
            for row in range(len(queries))
            for column in range(n_partners)
        ]

    assert torch.equal(torch.tensor(one_by_one()), tests.hop2.passed.flatten())
    n_transplants = diagnose(NET).n_interventions
    return paired_ratio(partial(diagnose, NET), one_by_one, peer_share=sources.rows.numel() / n_transplants, n_pairs=5)


def patch_grid(pairs_of: Callable[[], QueryPairs]) -> Ratio:
    """All layers and positions of 256 pairs; ours gives all metrics of every query, the peer one."""
    net, pairs = reference_model(NET).net, pairs_of()
    at, rows = pairs.clean.answer_position, torch.arange(len(pairs))

    def logit_diff(logits: torch.Tensor) -> torch.Tensor:
        of_answer, of_foil = (logits[rows, at, queries.answer] for queries in (pairs.clean, pairs.corrupt))
        return of_answer - of_foil

    @torch.no_grad()
    def theirs() -> PatchingResult:
        _, cache = net.run_with_cache(pairs.clean.tokens)
        with redirect_stderr(StringIO()):  # its progress bar
            return get_act_patch_resid_pre(net, pairs.corrupt.tokens, cache, logit_diff, reduce="none")

    ours = partial(activation_patching, net, pairs, kind="resid_pre")
    torch.testing.assert_close(ours().metric("logit_diff"), theirs().values, rtol=0, atol=1e-4)
    return paired_ratio(ours, theirs, n_pairs=25)


def attribution() -> Ratio:
    """Every node of 256 pairs; equal scores are shown on 16 of them, here and over many nets in the tests."""
    net, pairs = reference_model(NET).net, _pairs()
    ours, theirs = attribution_patching(net, pairs[:16]), transformer_lens_scores(net, pairs[:16])
    for node, score in theirs.items():
        if node.kind == "mlp_out":
            assert abs(float(ours.effects["mlp_out"][node.layer, node.position].mean()) - score) < 1e-4
    return paired_ratio(
        partial(attribution_patching, net, pairs), partial(transformer_lens_scores, net, pairs), n_pairs=5
    )


def _pairs() -> QueryPairs:
    """256 pairs that differ in the head entity."""
    splits = reference_model(NET).task.splits
    queries = concatenate([splits["test_id"], splits["train_inferred"]])
    return pair_queries(queries, queries, change="h", generator=_seeded())[:256]


def _unrelated_pairs() -> QueryPairs:
    """256 pairs that differ at every position."""
    queries = reference_model(NET).task.splits["train_inferred"]
    order = torch.randperm(len(queries), generator=_seeded())
    clean, corrupt = queries[order], queries[order.roll(1)]
    differ = (clean.tokens != corrupt.tokens).all(1) & (clean.answer != corrupt.answer)
    return QueryPairs(clean[differ], corrupt[differ], "everything")[:256]


def bootstrap() -> Ratio:
    """Intervals of a patching grid: 12 cells of 2,000 queries, 1,000 resamples."""
    values = torch.randn(12, 2000, generator=_seeded())
    theirs = partial(bootstrap_ci, values, generator=derive_generator(0, "bootstrap", "mean"))
    interval, (low, high) = mean_interval(values), theirs()
    torch.testing.assert_close(interval.low, low, rtol=0, atol=1e-5)
    torch.testing.assert_close(interval.high, high, rtol=0, atol=1e-5)
    return paired_ratio(partial(mean_interval, values), theirs)


def full_batch_step() -> Ratio:
    """Ten steps of the small modular recipe, with equal inputs looked up and without."""

    def both(*overrides: str) -> tuple[Learner, Learner]:
        (ours,), (plain,) = _learners("modular-small", 1, overrides), _learners("modular-small", 1, overrides)
        plain.inputs = None  # a cached property: what is set stays
        return ours, plain

    _assert_equal_after_steps(*both(EXACT))
    ours, plain = both()
    return paired_ratio(partial(_steps, ours), partial(_steps, plain), n_pairs=15)


def timeline() -> Ratio:
    """Accuracy and loss of every split at 100 checkpoints; the peer loads each afresh and asks every split of it."""
    recipe = load_recipe(RECIPES / "universal-small.toml", ["training.n_steps=400", "checkpoints.every=4"])
    with TemporaryDirectory() as folder:
        run = train(recipe, Path(folder) / "run", progress=False).run

        def ours() -> list[dict[str, tuple[float, float]]]:
            read = [split_scores(each.net, each.task) for each in stream_checkpoints(run)]
            return [{name: (score.accuracy, score.loss) for name, score in scores.items()} for scores in read]

        @torch.no_grad()
        def theirs() -> list[dict[str, tuple[float, float]]]:
            found = []
            for checkpoint in map(load_checkpoint, run_checkpoints(run)):
                found.append(scores := {})
                for name, asked in {"training": checkpoint.task.training, **checkpoint.task.splits}.items():
                    logits = checkpoint.net(asked.tokens, answer_only=True, answer_position=asked.answer_position)
                    right = (logits.argmax(-1) == asked.answer).double().mean()
                    scores[name] = (float(right), float(cross_entropy(logits, asked.answer)))
            return found

        assert len(run_checkpoints(run)) == 100
        for one, other in zip(ours(), theirs(), strict=True):
            for name, score in one.items():
                torch.testing.assert_close(score, other[name], atol=1e-5, rtol=1e-5)
        return paired_ratio(ours, theirs, n_pairs=3)


def modular_measures() -> Ratio:
    """Decomposition and progress measures of the logits of the grokked net mod 113."""
    checkpoint = reference_model("modular-grokked-p113")
    task = checkpoint.task
    logits = pair_logits(checkpoint.net, task.pairs, task.group)
    members = {name: rows_of(logits, split) for name, split in task.splits.items()}
    everything = torch.ones(len(logits), dtype=torch.bool)
    cube = logits.centred.unflatten(0, (113, 113))
    masks = {name: rows.unflatten(0, (113, 113)) for name, rows in members.items()}
    keys = decompose(logits, members, fit="test_unmirrored").key_frequencies

    def ours() -> tuple[TrigDecomposition, KeyFrequencyLosses]:
        parts = decompose(logits, members, fit="test_unmirrored")
        return parts, key_frequency_losses(logits, members, key_frequencies=keys, fitted=everything)

    def theirs() -> tuple[torch.Tensor, dict[str, dict[str, float]], dict[str, tuple[float, float]]]:
        coefficients, read = plain_formulas.decomposition(cube, masks["test_unmirrored"], masks)
        return coefficients, read, plain_formulas.key_frequency_losses(cube, [int(key) for key in keys], masks)

    (parts, losses), (coefficients, read, of_keys) = ours(), theirs()
    torch.testing.assert_close(parts.coefficients, coefficients, atol=1e-9, rtol=1e-9)
    for name, split in parts.splits.items():
        mine = [getattr(split, quantity) for quantity in read[name]]
        mine += [losses.restricted_loss[name], losses.excluded_loss[name]]
        torch.testing.assert_close(mine, [*read[name].values(), *of_keys[name]], atol=1e-9, rtol=1e-6)
    return paired_ratio(ours, theirs, n_pairs=5)


def grokking_demo_steps() -> Ratio:
    """Three steps of the published modular net; in float64 both have the same losses."""
    (ours,) = _learners("modular-paper", 1, (*PUBLISHED, EXACT))
    with PeerProcess(ours) as theirs:
        expected = theirs.steps(10)
    torch.testing.assert_close([float(ours.step(step)) for step in range(10)], expected, atol=1e-9, rtol=0)
    (ours,) = _learners("modular-paper", 1, PUBLISHED)
    with PeerProcess(ours) as theirs:
        return paired_ratio(partial(_steps, ours, 3), partial(theirs.steps, 3), n_pairs=9)


def share_of_products() -> Ratio:
    """Three steps of the published modular net, against their matrix products alone."""
    (ours,) = _learners("modular-paper", 1, PUBLISHED)
    products = matrix_products_of(partial(_steps, ours, 3))
    with FlopCounterMode(display=False) as counter:
        products()
    assert counter.get_total_flops() == 3 * ours.count_flops(None)
    return paired_ratio(partial(_steps, ours, 3), products, n_pairs=9)


def native_steps(batch_size: int) -> Ratio:
    """Ten steps of the small net of four blocks; in float64 both reach the same losses."""

    def both(*overrides: str) -> tuple[Learner, NativeTraining]:
        (ours,) = _learners("standard-small", 1, (*SETTINGS, f"training.batch_size={batch_size}", *overrides))
        return ours, NativeTraining(ours)

    ours, theirs = both(EXACT, 'training.loss_dtype="float64"')
    for step in range(10):
        torch.testing.assert_close(ours.step(step), theirs.step(step), atol=1e-9, rtol=0)
    ours, theirs = both()
    return paired_ratio(partial(_steps, ours), partial(_steps, theirs), n_pairs=15)


def stacked_steps(recipe: str, overrides: tuple[str, ...] = ()) -> Ratio:
    """Ten steps of eight seeds: stacked, and one net after the other."""
    exact = (*overrides, EXACT)
    _assert_equal_after_steps(StackedLearner(_learners(recipe, 8, exact)), *_learners(recipe, 8, exact))
    stack, singles = StackedLearner(_learners(recipe, 8, overrides)), _learners(recipe, 8, overrides)

    def one_by_one() -> None:
        for learner in singles:
            _steps(learner)

    return paired_ratio(partial(_steps, stack), one_by_one, n_pairs=9)


def _learners(recipe: str, n: int, overrides: tuple[str, ...] = ()) -> list[Learner]:
    """Learners of the seeds 0..n-1, before their first step."""
    path, learners = RECIPES / f"{recipe}.toml", []
    for seed in range(n):
        seeds = [f"task.seed={seed}", f"net.init_seed={seed}", f"training.seed={seed}"]
        prepared = prepare(load_recipe(path, [*overrides, *seeds]))
        learners.append(Learner(prepared.recipe, prepared.task, torch.device("cpu"), None))
    return learners


def _steps(learner: Learner | StackedLearner | NativeTraining, n: int = 10) -> None:
    for step in range(n):
        learner.step(step)


def _assert_equal_after_steps(one: Learner | StackedLearner, *others: Learner) -> None:
    """In float64, for AdamW scales rounding up; the bias of attention's keys is rounding alone: its gradient is 0."""
    members = one.learners if isinstance(one, StackedLearner) else [one]
    for learner in (one, *others):
        _steps(learner)
    for mine, its in zip(members, others, strict=True):
        for (name, weight), expected in zip(mine.net.named_parameters(), its.net.parameters(), strict=True):
            if not name.endswith("b_K"):
                torch.testing.assert_close(weight, expected, atol=1e-9, rtol=1e-9)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


ROWS = {
    "diagnosis": Row(
        "diagnosis of a checkpoint, all splits", "one transplant at a time, as in published codes", 50, diagnosis
    ),
    "patch grid": Row(
        "residual-stream patch grid, small two-hop net, 256 pairs with another h",
        "TransformerLens `get_act_patch_resid_pre`",
        3,
        partial(patch_grid, _pairs),
    ),
    "patch grid of unrelated pairs": Row(
        "the same, 256 pairs that differ at every position",
        "the same",
        2.7,
        partial(patch_grid, _unrelated_pairs),
    ),
    "attribution": Row(
        "attribution patching of nodes, 256 pairs", "TransformerLens `attribution_patch`, pair by pair", 20, attribution
    ),
    "grokking demo": Row(
        "training step, one-layer net mod 113, full batch of 30 %",
        "HookedTransformer 3.9, as in TransformerLens's grokking demo",
        4,
        grokking_demo_steps,
        in_own_environment=True,
    ),
    "products": Row(
        "the same",
        "its matrix products alone",
        0.5,
        share_of_products,
    ),
    **{
        f"step on {size}": Row(
            f"training step, small two-hop net of four blocks, batch {size}",
            "the same net of TransformerLens `boot_native`, in plain torch",
            target,
            partial(native_steps, size),
        )
        for size, target in ((128, 1.4), (512, 2.0))
    },
    "full batch": Row(
        "training step, one-layer net on 1,393 pairs mod 59, full batch",
        "the same with keys and values of every pair",
        1.3,
        full_batch_step,
    ),
    "stacked modular": Row(
        "training step of 8 seeds, one-layer nets on 77 pairs mod 59",
        "one net after the other",
        0.7,
        partial(stacked_steps, "modular-small", ("task.train_share=0.022",)),
    ),
    "stacked two-hop": Row(
        "training step of 8 seeds, small two-hop nets, batch 128",
        "one net after the other",
        0.7,
        partial(stacked_steps, "universal-small"),
    ),
    "timeline": Row(
        "accuracy and loss of every split at 100 checkpoints of a small two-hop run",
        "loading each afresh, and asking every split whole",
        4,
        timeline,
    ),
    "modular measures": Row(
        "trigonometric decomposition and progress measures, p 113, from the logits",
        "the published formulas, written plainly on the cube of logits",
        8,
        modular_measures,
    ),
    "bootstrap": Row(
        "bootstrap intervals of 12 cells, 2,000 queries", "TransformerLens `bootstrap_ci`", 1.5, bootstrap
    ),
}
