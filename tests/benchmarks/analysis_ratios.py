"""Paired benchmarks of the measures: each asserts equal results, then tells how many times as long the peer takes."""

from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import plain_formulas
import torch
from one_example_loop import transplant
from paired_timing import Ratio, paired_ratio
from pairwise_attribution import transformer_lens_scores
from torch.nn.functional import cross_entropy
from training_ratios import RECIPES
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

NET = "two-hop-true-circuit"
"""The small two-hop net: four applications of one block, width 64, three positions."""


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


def patch_grid(pairs_of: Callable[[], QueryPairs], device: str = "cpu") -> Ratio:
    """All layers and positions of the pairs; ours gives all metrics of every query, the peer one."""
    net, pairs = reference_model(NET).net.to(device), pairs_of()
    at, rows = pairs.clean.answer_position.to(device), torch.arange(len(pairs), device=device)
    answer, foil = pairs.clean.answer.to(device), pairs.corrupt.answer.to(device)
    clean, corrupt = pairs.clean.tokens.to(device), pairs.corrupt.tokens.to(device)

    def logit_diff(logits: torch.Tensor) -> torch.Tensor:
        return logits[rows, at, answer] - logits[rows, at, foil]

    @torch.no_grad()
    def theirs() -> PatchingResult:
        _, cache = net.run_with_cache(clean)
        with redirect_stderr(StringIO()):  # its progress bar
            return get_act_patch_resid_pre(net, corrupt, cache, logit_diff, reduce="none")

    ours = partial(activation_patching, net, pairs, kind="resid_pre")
    torch.testing.assert_close(ours().metric("logit_diff"), theirs().values.cpu(), rtol=0, atol=1e-4)
    return paired_ratio(ours, theirs, n_pairs=9)


def attribution() -> Ratio:
    """Every node of 256 pairs; equal scores are shown on 16 of them, here and over many nets in the tests."""
    net, pairs = reference_model(NET).net, pairs_with_another_h()[:256]
    ours, theirs = attribution_patching(net, pairs[:16]), transformer_lens_scores(net, pairs[:16])
    for node, score in theirs.items():
        if node.kind == "mlp_out":
            assert abs(float(ours.effects["mlp_out"][node.layer, node.position].mean()) - score) < 1e-4
    return paired_ratio(
        partial(attribution_patching, net, pairs), partial(transformer_lens_scores, net, pairs), n_pairs=5
    )


def pairs_with_another_h() -> QueryPairs:
    """2,000 pairs that differ in the head entity."""
    splits = reference_model(NET).task.splits
    queries = concatenate([splits["test_id"], splits["train_inferred"]])
    return pair_queries(queries, queries, change="h", generator=_seeded())[:2000]


def unrelated_pairs() -> QueryPairs:
    """2,000 pairs that differ at every position."""
    queries = reference_model(NET).task.splits["train_inferred"]
    order = torch.randperm(len(queries), generator=_seeded())
    clean, corrupt = queries[order], queries[order.roll(1)]
    differ = (clean.tokens != corrupt.tokens).all(1) & (clean.answer != corrupt.answer)
    return QueryPairs(clean[differ], corrupt[differ], "everything")[:2000]


def bootstrap() -> Ratio:
    """Intervals of a patching grid: 12 cells of 2,000 queries, 1,000 resamples."""
    values = torch.randn(12, 2000, generator=_seeded())
    theirs = partial(bootstrap_ci, values, generator=derive_generator(0, "bootstrap", "mean"))
    interval, (low, high) = mean_interval(values), theirs()
    torch.testing.assert_close(interval.low, low, rtol=0, atol=1e-5)
    torch.testing.assert_close(interval.high, high, rtol=0, atol=1e-5)
    return paired_ratio(partial(mean_interval, values), theirs)


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


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
