"""Progress measures: by hand, against the paper's formulas and naive loops, by property; what they cannot decide."""

import math

import pytest
import torch
from torch.nn import functional as F

from circuit_lab.measures import centred_pair_logits, pair_logits, rows_of, trig_decomposition
from circuit_lab.measures.modular.progress_measures import (
    NeuronFrequencies,
    fourier_norms,
    frequency_shares,
    gini,
    key_frequency_losses,
    key_frequency_part,
    mean_by_result,
    neuron_frequencies,
    progress_measures,
    weight_spectra,
)
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import ModularConfig, ModularTask


def build(operation="a+b", p=7, n_train=20, **settings):
    p = None if operation.startswith("S5") else p
    return ModularTask.from_config(ModularConfig(operation=operation, p=p, n_train=n_train, **settings))


def make_net(task, **settings):
    shape = {"d_model": 12, "n_heads": 3, "d_head": 5, "d_mlp": 17, "d_vocab": task.d_vocab, "n_ctx": 3}
    shape |= {"layer_map": (0, 1), "d_vocab_out": task.d_vocab_out, "init_std": 0.7, "normalization_type": None}
    return build_net(SharedTransformerConfig(**(shape | settings)))


def random_logits(task, seed=0):
    return torch.randn(len(task.pairs), task.d_vocab_out, dtype=torch.float64, generator=torch.manual_seed(seed))


def losses_of(task, logits, keys, fit="all"):
    pairs = centred_pair_logits(logits, task.pairs, task.group)
    members = {name: rows_of(pairs, split) for name, split in task.splits.items()}
    members["all"] = torch.ones(len(pairs), dtype=torch.bool)
    fitted = members[fit]
    return key_frequency_losses(pairs, members, key_frequencies=keys, fitted=fitted)


def aligned_rows(task, row):
    """Logits row[x * c^-1] of every pair with result x at every output c; all results must be group elements."""
    group = task.group
    result = group.element_of_output[task.pairs.intermediates["result"]]
    return row[group.product[:, group.inverse]][result][:, group.element_of_output]


# Restricted and excluded loss


def test_losses_by_hand():
    """p = 3 has one frequency, so G = M - mean_x M. Only the pair (1, 1) has a logit: 3 at the right output 2.

    Centred it is (-1, -1, 2), so M[2] = (-1, -1, 2)/3, M[0] = M[1] = 0, their mean is M[2]/3. Restricted logits are M.
    Excluded ones are Z - M + M[2]/3: (-7, -7, 14)/9 at (1, 1), (2, 2, -4)/9 at the other pairs with result 2, and
    (-1, -1, 2)/9 at the six with results 0 and 1.
    """
    task = build(p=3, n_train=4)
    logits = torch.zeros(9, 3, dtype=torch.float64)
    logits[4, 2] = 3.0
    read = losses_of(task, logits, ["1"])
    e = math.exp
    restricted = (math.log(1 + 2 * e(-1)) + 2 * math.log(3)) / 3
    excluded = (math.log(1 + 2 * e(-7 / 3)) + 2 * math.log(1 + 2 * e(2 / 3)) + 6 * math.log(2 + e(1 / 3))) / 9
    assert read.loss["all"] == pytest.approx((math.log(1 + 2 * e(-3)) + 8 * math.log(3)) / 9, rel=1e-12)
    assert read.restricted_loss["all"] == pytest.approx(restricted, rel=1e-12)
    assert read.excluded_loss["all"] == pytest.approx(excluded, rel=1e-12)
    assert read.n == {"train": 4, "test": 5, "test_unmirrored": len(task.splits["test_unmirrored"]), "all": 9}
    assert read.frame().set_index("split").loc["all", "excluded_loss"] == read.excluded_loss["all"]


def test_addition_agrees_with_the_paper():
    """The notebook's way: unit vectors cos w(a+b) and sin w(a+b) over all p^2 pairs, bias correction, nothing else."""
    task, keys = build(p=11, n_train=40), (2, 3)
    logits = 2 * random_logits(task)
    a, b = task.pairs.tokens[:, 0].double(), task.pairs.tokens[:, 1].double()
    key_part = torch.zeros_like(logits)
    for k in keys:
        for wave in (torch.cos, torch.sin):
            direction = wave(2 * torch.pi * k * (a + b) / 11)
            direction /= direction.norm()
            key_part += direction[:, None] * (direction @ logits)
    restricted = key_part + (logits - key_part).mean(0)
    read = losses_of(task, logits, [str(k) for k in keys])
    for split in ("train", "test", "test_unmirrored", "all"):
        queries = task.splits.get(split, task.pairs)
        rows = queries.tokens[:, 0] * 11 + queries.tokens[:, 1]
        expected = {
            "loss": F.cross_entropy(logits[rows], queries.answer),
            "restricted_loss": F.cross_entropy(restricted[rows], queries.answer),
            "excluded_loss": F.cross_entropy((logits - key_part)[rows], queries.answer),
            "restricted_accuracy": (restricted[rows].argmax(1) == queries.answer).double().mean(),
        }
        for name, value in expected.items():
            assert getattr(read, name)[split] == pytest.approx(float(value), abs=1e-9), (split, name)


@pytest.mark.parametrize("operation", ["a-b", "a^2+b^2", "a*b"])
def test_key_part_agrees_with_a_naive_loop(operation):
    """G[x, c] = (2/n) sum_y cos w(x-y) M[y, c] at each key, over results in plain loops.

    7 has n = 6 under multiplication, whose frequency 3 has only a cosine: (1/n) sum_y cos(pi (x-y)) M[y, c].
    """
    task = build(operation)
    pairs = centred_pair_logits(random_logits(task), task.pairs, task.group)
    n, keys = task.group.order, (1, 3)
    mean = [[0.0] * n for _ in range(n)]
    for x in range(n):
        rows = [row for row in range(len(pairs)) if int(pairs.result[row]) == x]
        for c in range(n):
            mean[x][c] = sum(float(pairs.centred[row, c]) for row in rows) / len(rows)
    by_result = mean_by_result(pairs, torch.ones(len(pairs), dtype=torch.bool))
    key_part = key_frequency_part(by_result, task.group, [str(k) for k in keys])
    for x in range(n):
        for c in range(n):
            expected = sum(
                (1 if 2 * k == n else 2) / n * math.cos(2 * math.pi * k * (x - y) / n) * mean[y][c]
                for k in keys
                for y in range(n)
            )
            assert float(by_result[x, c]) == pytest.approx(mean[x][c], abs=1e-9)
            assert float(key_part[x, c]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("operation", ["a+b", "a-b", "a^2+ab+b^2", "a/b"])
@pytest.mark.parametrize("fit", ["all", "test_unmirrored"])
def test_a_pure_circuit_is_all_restricted_and_nothing_excluded(operation, fit):
    task = build(operation, p=13, n_train=30)
    cosines = task.group.characters[[0, 3]]  # not both even: those take a half turn of Z_12 for none
    if operation == "a/b":
        # The result 0 is no group element and the output 0 none either; what logits it has does not matter.
        logits = random_logits(task)
        inside = task.group.element_of_output[task.pairs.intermediates["result"]] >= 0
        result = task.group.element_of_output[task.pairs.intermediates["result"][inside]]
        row = 5 * cosines[0] + 3 * cosines[1]
        table = row[task.group.product[:, task.group.inverse]][result]
        logits[inside.nonzero(), task.group.output_of_element] = table
    else:
        logits = aligned_rows(task, 5 * cosines[0] + 3 * cosines[1])
    read = losses_of(task, logits, ["1", "4"], fit)
    for split, loss in read.loss.items():
        assert read.restricted_loss[split] == pytest.approx(loss, abs=1e-9)
        assert read.excluded_loss[split] == pytest.approx(math.log(task.group.order), abs=1e-9)
        assert read.restricted_accuracy[split] == 1.0
    others = losses_of(task, logits, ["2", "3"], fit)
    assert others.restricted_loss["all"] == pytest.approx(math.log(task.group.order), abs=1e-9)
    assert others.excluded_loss["all"] == pytest.approx(others.loss["all"], abs=1e-9)


@pytest.mark.parametrize("operation", ["S5: ab", "S5: aba"])
def test_a_class_function_on_s5(operation):
    """Logits sum_k A_k chi_k(x c^-1) with random A: each irrep's part is its own term, however large the irrep."""
    task = build(operation, n_train=5000)
    group = task.group
    amplitudes = torch.randn(6, dtype=torch.float64, generator=torch.manual_seed(4))
    logits = aligned_rows(task, amplitudes @ group.characters)
    all_irreps = losses_of(task, logits, group.irreps)
    assert all_irreps.restricted_loss["test"] == pytest.approx(all_irreps.loss["test"], abs=1e-9)
    assert all_irreps.excluded_loss["train"] == pytest.approx(math.log(120), abs=1e-9)
    rows = [group.irreps.index(name) for name in ("4,1", "2,2,1")]
    part = aligned_rows(task, amplitudes[rows] @ group.characters[rows])
    two = losses_of(task, logits, ["4,1", "2,2,1"])
    answer = task.pairs.answer
    assert two.restricted_loss["all"] == pytest.approx(float(F.cross_entropy(part, answer)), abs=1e-9)
    assert two.excluded_loss["all"] == pytest.approx(float(F.cross_entropy(logits - part, answer)), abs=1e-9)
    progress = progress_measures(make_net(task), task, key_frequencies=["4,1"])
    assert (progress.neurons, progress.spectra) == (None, None)


def test_relabelling_permutes_frequencies():
    """Elements x -> 3x mod 11: frequency k of the new logits is frequency 3k (up to sign) of the old."""
    task = build(p=11, n_train=40)
    by_result = torch.randn(11, 11, dtype=torch.float64, generator=torch.manual_seed(2))
    new = torch.arange(11) * 3 % 11
    relabelled = torch.empty_like(by_result)
    relabelled[new[:, None], new] = by_result
    for k in range(1, 6):
        image = (4 * k) % 11  # 4 = 3^-1
        image = min(image, 11 - image)
        expected = key_frequency_part(by_result, task.group, [str(k)])
        part = key_frequency_part(relabelled, task.group, [str(image)])
        assert torch.allclose(part[new[:, None], new], expected, atol=1e-12), k


def test_no_keys_leave_the_mean_and_all_keys_leave_everything():
    task = build(p=11, n_train=40)
    by_result = torch.randn(11, 11, dtype=torch.float64, generator=torch.manual_seed(2))
    assert not key_frequency_part(by_result, task.group, []).any()
    everything = key_frequency_part(by_result, task.group, task.group.irreps)
    assert torch.allclose(everything, by_result - by_result.mean(0), atol=1e-12)


def test_results_without_fitted_pairs_get_the_mean():
    """Fitted are (0, 0) and (0, 1) mod 3, with results 0 and 1; result 2 gets the mean of their rows."""
    task = build(p=3, n_train=4)
    logits = torch.zeros(9, 3, dtype=torch.float64)
    logits[0], logits[1] = torch.tensor([2.0, -1.0, -1.0]), torch.tensor([0.0, 4.0, -4.0])
    pairs = centred_pair_logits(logits, task.pairs, task.group)
    by_result = mean_by_result(pairs, torch.arange(9) < 2)
    assert by_result.tolist() == [[2.0, -1.0, -1.0], [0.0, 4.0, -4.0], [1.0, 1.5, -2.5]]


@pytest.mark.parametrize(("every", "at_least"), [(1, 0.999), (2, 0.95), (4, 0.5)])
def test_a_memoriser_is_right_on_held_out_pairs_if_fitted_on_all(every, at_least):
    """Height 10 on the right output of the trained pairs, 40 % of all, noise elsewhere: it knows nothing of the rest.

    Fitted on all pairs its restricted logits answer the held-out ones all the same: all of them with all 15 keys, and
    still most with every fourth. Fitted on held-out pairs they are at chance, 1/31: of 31 results about one is right.
    """
    task = build(p=31, n_train=384)
    logits = 0.1 * random_logits(task)
    trained = task.pairs.in_training
    logits[trained, task.pairs.answer[trained]] += 10.0
    keys, unmirrored = task.group.irreps[::every], "test_unmirrored"
    on_all = losses_of(task, logits, keys)
    assert on_all.restricted_accuracy[unmirrored] > at_least
    assert on_all.restricted_loss[unmirrored] < on_all.loss[unmirrored] - 0.5
    on_held_out = losses_of(task, logits, keys, unmirrored)
    assert on_held_out.restricted_accuracy[unmirrored] < 0.15
    assert on_held_out.restricted_loss[unmirrored] == pytest.approx(math.log(31), abs=0.05)


def test_random_labels_are_what_the_losses_are_read_on():
    """M goes by the true result, the loss by the label that is trained on."""
    task = build(p=11, n_train=40, labels="random")
    logits, result = random_logits(task), task.pairs.intermediates["result"]
    assert bool((task.pairs.answer != result).any())
    by_result = torch.stack([logits[result == x].mean(0) for x in range(11)])
    cosine = torch.cos(2 * torch.pi * 4 * (torch.arange(11)[:, None] - torch.arange(11)).double() / 11)
    key_part = 2 / 11 * cosine @ by_result
    read = losses_of(task, logits, ["4"])
    restricted_logits = (by_result.mean(0) + key_part)[result]
    right = (restricted_logits.argmax(1) == task.pairs.answer).double().mean()
    restricted = F.cross_entropy(restricted_logits, task.pairs.answer)
    excluded = F.cross_entropy(logits - key_part[result], task.pairs.answer)
    assert read.restricted_loss["all"] == pytest.approx(float(restricted), rel=1e-9)
    assert read.excluded_loss["all"] == pytest.approx(float(excluded), rel=1e-9)
    assert read.restricted_accuracy["all"] == pytest.approx(float(right), rel=1e-9)


def test_labels_outside_the_group_are_left_out():
    """Under multiplication with random labels some answers are 0, no group element."""
    task = build("a*b", labels="random")
    read = losses_of(task, random_logits(task), ["1"])
    nonzero = (task.pairs.tokens[:, :2] > 0).all(1) & (task.pairs.answer > 0)
    assert read.n["all"] == int(nonzero.sum()) < 36
    assert math.isfinite(read.loss["all"])


# Neurons


def waves(n, k):
    """cos and sin of 2 pi k x / n, as unit vectors; cos alone at n/2."""
    x = 2 * torch.pi * k * torch.arange(n, dtype=torch.float64) / n
    found = [torch.cos(x)] if 2 * k == n else [torch.cos(x), torch.sin(x)]
    return [wave / wave.norm() for wave in found]


def shares_by_projection(grid):
    """Plain sums over unit functions: those of a, those of b, their products; and the products of two frequencies."""
    n = grid.shape[1]
    constant = torch.ones(n, dtype=torch.float64) / n**0.5
    centred = grid - grid.mean((1, 2), keepdim=True)
    energy = lambda f, g: torch.einsum("mab,a,b->m", centred, f, g).square()  # noqa: E731
    total = centred.square().sum((1, 2))
    shares = []
    for k in range(1, n // 2 + 1):
        pairs = [(f, constant) for f in waves(n, k)] + [(constant, f) for f in waves(n, k)]
        pairs += [(f, g) for f in waves(n, k) for g in waves(n, k)]
        shares.append(sum(energy(f, g) for f, g in pairs) / total)
    mixed = sum(
        energy(f, g)
        for j in range(1, n // 2 + 1)
        for k in range(1, n // 2 + 1)
        if j != k
        for f in waves(n, j)
        for g in waves(n, k)
    )
    return torch.stack(shares, dim=1), mixed / total


@pytest.mark.parametrize("n", [7, 8])
def test_shares_agree_with_projections_and_add_up(n):
    grid = torch.randn(5, n, n, dtype=torch.float64, generator=torch.manual_seed(n)) + 100
    shares = frequency_shares(grid)
    expected, mixed = shares_by_projection(grid)
    assert torch.allclose(shares, expected, atol=1e-9)
    assert torch.allclose(shares.sum(1) + mixed, torch.ones(5, dtype=torch.float64), atol=1e-9)
    assert bool((mixed > 0.1).all())


@pytest.mark.parametrize("n", [7, 8, 11])
def test_each_of_the_eight_functions_is_all_of_one_frequency(n):
    constant = torch.ones(n, dtype=torch.float64)
    for k in range(1, n // 2 + 1):
        products = [(f, g) for f in waves(n, k) for g in waves(n, k)]
        singles = [(f, constant) for f in waves(n, k)] + [(constant, f) for f in waves(n, k)]
        grid = torch.stack([3 * torch.outer(f, g) + 2 for f, g in products + singles])
        assert len(grid) == (3 if 2 * k == n else 8)
        expected = torch.zeros(len(grid), n // 2, dtype=torch.float64)
        expected[:, k - 1] = 1
        assert torch.allclose(frequency_shares(grid), expected, atol=1e-12), k


def test_products_of_two_frequencies_are_of_none():
    grid = torch.outer(waves(11, 2)[0], waves(11, 3)[1])[None]
    assert torch.allclose(frequency_shares(grid), torch.zeros(1, 5, dtype=torch.float64), atol=1e-12)


def test_relabelling_inputs_permutes_shares():
    """Inputs a -> 3a mod 11, and b too: frequency k moves to 4k, for 4 = 3^-1."""
    grid = torch.randn(4, 11, 11, dtype=torch.float64, generator=torch.manual_seed(1))
    new = torch.arange(11) * 3 % 11
    relabelled = torch.empty_like(grid)
    relabelled[:, new[:, None], new] = grid
    image = torch.arange(1, 6) * 4 % 11
    image = torch.minimum(image, 11 - image)
    assert torch.allclose(frequency_shares(relabelled)[:, image - 1], frequency_shares(grid), atol=1e-12)


def test_summary_by_hand():
    """Three neurons: .9 in frequency 2, .85 in frequency 1 (not more than the bound), and one that never varies."""
    never = [math.nan, math.nan]
    neurons = NeuronFrequencies(shares=torch.tensor([[0.1, 0.9], [0.85, 0.0], never], dtype=torch.float64))
    assert neurons.best_frequency.tolist() == [2, 1, 0]
    assert neurons.best_share[:2].tolist() == [0.9, 0.85] and neurons.best_share[2].isnan()
    assert neurons.varies.tolist() == [True, True, False]
    assert neurons.periodic_share == 0.5
    assert neurons.frame()["frequency"].tolist() == [2, 1, 0]
    assert math.isnan(NeuronFrequencies(shares=neurons.shares[2:]).periodic_share)


def test_constant_neurons_have_no_frequency():
    """0.7 is not exact in binary, and the mean of 121 of them is not 0.7: what is left must not count as variance."""
    grid = torch.full((2, 11, 11), 0.7, dtype=torch.float64)
    assert bool((grid[0] - grid[0].mean()).any())
    grid[1, 3, 4] = 1.0
    shares = frequency_shares(grid)
    assert bool(shares[0].isnan().all()) and not shares[1].isnan().any()


@pytest.mark.parametrize(
    ("operation", "inputs"),
    [
        ("a+b", [0, 1, 2, 3, 4, 5, 6]),
        ("a^2+b^2", [0, 1, 2, 3, 4, 5, 6]),
        ("a*b", [1, 3, 2, 6, 4, 5]),  # the powers of 3 mod 7
        ("a/b", [1, 3, 2, 6, 4, 5]),
    ],
)
def test_neurons_are_those_of_the_last_layer_at_the_answer(operation, inputs):
    task = build(operation)
    net = make_net(task)
    grid = torch.empty(17, len(inputs), len(inputs), dtype=torch.float64)
    for i, a in enumerate(inputs):
        for j, b in enumerate(inputs):
            _, cache = net.run_with_cache(torch.tensor([[a, b, 7]]))
            grid[:, i, j] = cache["blocks.1.mlp.hook_post"][0, 2].detach().double()
    expected, _ = shares_by_projection(grid)
    assert expected.isnan().any(1).sum() < 5  # neurons that are 0 everywhere are nan on both sides
    # The net runs in float32, one pair at a time here and all together there.
    assert torch.allclose(neuron_frequencies(net, task).shares, expected, atol=1e-4, equal_nan=True)


# Spectra


def test_gini_by_hand():
    """Sorted (1, 2, 6): ((-2) 1 + 0 * 2 + 2 * 6) / (3 * 9) = 10/27; all pairs' differences over 2 n^2 mean agree."""
    values = torch.tensor([6.0, 1.0, 2.0])
    assert gini(values) == pytest.approx(10 / 27)
    differences = (values[:, None] - values).abs().sum()
    assert gini(values) == pytest.approx(float(differences / (2 * 9 * values.mean())))
    assert gini(7 * values) == pytest.approx(gini(values))
    assert gini(torch.eye(5)[2]) == pytest.approx(4 / 5)
    assert gini(torch.full((5,), 0.3)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(gini(torch.zeros(4)))


@pytest.mark.parametrize("n", [7, 8])
def test_norms_agree_with_projections_and_add_up(n):
    rows = torch.randn(n, 5, dtype=torch.float64, generator=torch.manual_seed(n))
    norms = fourier_norms(rows)
    for k in range(1, n // 2 + 1):
        squares = sum((wave @ rows).square().sum() for wave in waves(n, k))
        assert float(norms[k - 1]) == pytest.approx(float(squares) ** 0.5, rel=1e-9)
    assert float(norms.square().sum()) == pytest.approx(float((rows - rows.mean(0)).square().sum()), rel=1e-9)


@pytest.mark.parametrize(("operation", "elements"), [("a-b", [0, 1, 2, 3, 4, 5, 6]), ("a*b", [1, 3, 2, 6, 4, 5])])
def test_spectra_of_a_net(operation, elements):
    """W_E's rows and W_L's columns in the order of the elements, without "=" and, under multiplication, without 0."""
    task = build(operation)
    net = make_net(task)
    spectra = weight_spectra(net, task)
    embedding = net.embed.W_E.detach().double()[elements]
    outputs = (net.blocks[1].mlp.W_out.detach().double() @ net.unembed.W_U.detach().double()).T[elements]
    for k in range(1, len(elements) // 2 + 1):
        for found, rows in ((spectra.embedding, embedding), (spectra.neuron_to_logit, outputs)):
            squares = sum((wave @ rows).square().sum() for wave in waves(len(elements), k))
            assert float(found[k - 1]) == pytest.approx(float(squares) ** 0.5, rel=1e-9)
    assert spectra.embedding_gini == gini(spectra.embedding) != spectra.neuron_to_logit_gini
    assert spectra.neuron_to_logit_gini == gini(spectra.neuron_to_logit)
    assert spectra.frame()["frequency"].tolist() == [1, 2, 3]


def test_gini_does_not_depend_on_the_names_of_elements():
    rows = torch.randn(11, 4, dtype=torch.float64, generator=torch.manual_seed(3))
    new = torch.arange(11) * 3 % 11 + 5  # a shift rotates cos into sin
    relabelled = torch.empty_like(rows)
    relabelled[new % 11] = rows
    assert gini(fourier_norms(relabelled)) == pytest.approx(gini(fourier_norms(rows)), rel=1e-9)


# All together


@pytest.mark.parametrize("fit", ["all", "held_out"])
def test_all_measures_of_a_net(fit):
    task = build(p=11, n_train=40)
    net = make_net(task).double()
    progress = progress_measures(net, task, key_frequencies=["2", "5"], fit=fit)
    split = {"all": "all", "held_out": "test_unmirrored"}[fit]
    expected = losses_of(task, net(task.pairs.tokens)[:, -1].detach().double(), ["2", "5"], split)
    assert progress.losses.restricted_loss == pytest.approx(dict(expected.restricted_loss), rel=1e-9)
    assert progress.losses.excluded_loss == pytest.approx(dict(expected.excluded_loss), rel=1e-9)
    assert progress.n_fitted == progress.losses.n[split]
    decomposed = trig_decomposition(net, task).splits
    assert progress.losses.loss == pytest.approx({name: parts.loss for name, parts in decomposed.items()}, rel=1e-9)
    assert torch.equal(progress.neurons.shares, neuron_frequencies(net, task).shares)
    assert torch.equal(progress.spectra.embedding, weight_spectra(net, task).embedding)
    assert progress.frame()["split"].tolist() == ["train", "test", "test_unmirrored", "all"]
    assert progress.key_frequencies == ("2", "5")


def test_what_is_fitted_matters():
    task = build(p=11, n_train=40)
    net = make_net(task)
    one, other = (progress_measures(net, task, key_frequencies=["2"], fit=fit).losses for fit in ("all", "held_out"))
    assert one.loss == other.loss
    assert abs(one.restricted_loss["all"] - other.restricted_loss["all"]) > 1e-3


def test_errors():
    task, permutations = build(), build("S5: ab", n_train=5000)
    net, net_of_permutations = make_net(task), make_net(permutations)
    with pytest.raises(ValueError, match="Z_7 has no frequency '4'; it has: 1, 2, 3"):
        progress_measures(net, task, key_frequencies=["1", "4"])
    with pytest.raises(ValueError, match=r"key_frequencies must differ from each other, got \['1', '1'\]"):
        progress_measures(net, task, key_frequencies=["1", "1"])
    with pytest.raises(ValueError, match='fit must be "all" or "held_out", got \'test\''):
        progress_measures.__wrapped__(net, task, key_frequencies=["1"], fit="test")  # past the type check
    pairs = pair_logits(net, task.pairs, task.group)
    with pytest.raises(ValueError, match="no pairs to average logits over; hold some out"):
        mean_by_result(pairs, torch.zeros(len(pairs), dtype=torch.bool))
    for measure in (neuron_frequencies, weight_spectra):
        with pytest.raises(ValueError, match='defined on cyclic groups.*"S5: ab" are permutations; trig_decomposition'):
            measure(net_of_permutations, permutations)
