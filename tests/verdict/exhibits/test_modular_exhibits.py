"""What a report shows of modular nets: wired nets have just their frequencies; numbers are found in another way too."""

import numpy as np
import pytest
import torch
from small_nets import make_net

from circuit_lab.measures import isotypic_projector, logit_efficiency, weight_norms
from circuit_lab.nets.controls.modular import cosine_network, lookup_table
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.tasks.groups import additive_group, symmetric_group
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.exhibits import gather_exhibits
from circuit_lab.verdict.exhibits.gather_modular import character_energy, part_by_element, token_names

P, FREQUENCIES = 13, (2, 5)
OPERATIONS = ("a+b", "a-b", "a*b", "a/b", "a^2+b^2", "a^2+ab+b^2", "a^2+ab+b^2+a")
PERMUTATIONS = ("S5: ab", "S5: aba^-1", "S5: aba")


def make_task(operation="a+b", **changes):
    p = {} if operation.startswith("S5") else {"p": P}
    return build_task(ModularConfig(operation=operation, train_share=0.5, seed=1, **(p | changes)))


def random_net(task, **changes):
    """Three layers over two blocks, with norms; every weight random."""
    return make_net(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=3, dtype=torch.float32, **changes)


def exhibits_of(net, task, **options):
    return gather_exhibits(diagnose((net, task)), **options)


def shares_of(exhibits, component):
    rows = exhibits.spectra[exhibits.spectra["component"] == component]
    return dict(zip(rows["frequency"], rows["share"], strict=True))


def held_by(exhibits, component):
    (held,) = exhibits.spectra.loc[exhibits.spectra["component"] == component, "of_component"].unique()
    return held


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Exhibits have nothing of a diagnosis's confidence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuit_lab.verdict.modular.diagnose.N_RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def wired(task):
    """A cosine network's diagnosis and exhibits."""
    diagnosis = diagnose((cosine_network(P, frequencies=FREQUENCIES), task))
    return diagnosis, gather_exhibits(diagnosis, max_per_outcome=4)


@pytest.fixture(scope="module")
def untrained(task):
    net = random_net(task)
    return net, exhibits_of(net, task)


def test_energy_by_hand():
    """On Z_5 a function cos(2 pi 2 x/5) + 3 sin(2 pi x/5) + 7 has energy 5/2 in frequency 2 and 9 * 5/2 in 1."""
    angle = 2 * torch.pi / 5 * torch.arange(5, dtype=torch.float64)
    function = (2 * angle).cos() + 3 * angle.sin() + 7
    assert character_energy(function[:, None], additive_group(5)).tolist() == pytest.approx([22.5, 2.5])


def test_energy_on_a_group_that_does_not_commute_is_that_of_the_projectors():
    group = symmetric_group()
    function = torch.randn(120, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projected = [isotypic_projector(group, [name]) @ function for name in group.irreps]
    assert character_energy(function, group).tolist() == pytest.approx([float(f.square().sum()) for f in projected])
    centred = function - function.mean(0)
    assert float(character_energy(function, group).sum()) == pytest.approx(float(centred.square().sum()))


def test_the_wired_net_has_just_its_frequencies(wired):
    """Both alike in the weights; attention adds a function of a to one of b: the mean by result has nothing of it."""
    _, exhibits = wired
    half = {str(k): 0.5 if k in FREQUENCIES else 0.0 for k in range(1, 7)}
    for component in ("embedding", "attention 0, by a and b", "MLP 0, by result", "unembedding"):
        assert shares_of(exhibits, component) == pytest.approx(half, abs=1e-6), component
    logits = shares_of(exhibits, "logits")  # fitted on a part of the pairs, where the two are not quite alike
    assert logits["2"] + logits["5"] == pytest.approx(1) and 0.45 < logits["2"] < 0.55
    assert "attention 0, by result" not in set(exhibits.spectra["component"])
    assert held_by(exhibits, "attention 0, by a and b") == pytest.approx(1, abs=1e-6)
    assert held_by(exhibits, "embedding") == pytest.approx(1)
    assert set(exhibits.key_frequencies) == {"2", "5"}
    assert set(exhibits.spectra.loc[exhibits.spectra["key"], "frequency"]) == {"2", "5"}


def test_nets_without_a_circuit_have_flat_spectra_or_none_worth_naming(task, untrained, wired):
    table = exhibits_of(lookup_table(P, task.training.tokens[:, :2], task.training.answer), task)
    even = {str(k): 1 / 6 for k in range(1, 7)}
    assert shares_of(table, "embedding") == pytest.approx(even)  # one-hot
    assert shares_of(table, "unembedding") == pytest.approx(even)
    of_result = "MLP 0, by result"
    assert held_by(table, of_result) < 0.7 * held_by(wired[1], of_result)
    assert max(shares_of(untrained[1], "embedding").values()) < 0.35
    assert held_by(untrained[1], of_result) < 0.1


def test_spectra_are_those_of_numpy(task, untrained):
    """The mean by a, b and result in a loop, then numpy's Fourier transform."""
    net, exhibits = untrained
    _, cache = net.run_with_cache(task.pairs.tokens)
    a, b = task.pairs.tokens[:, :2].T.numpy()
    for name, hook in (("attention 1", "blocks.1.hook_attn_out"), ("MLP 2", "blocks.2.hook_mlp_out")):
        output = cache[hook][:, 2].double().numpy()
        by = {"a": a, "b": b, "result": (a + b) % P}
        means = {of: np.stack([output[x == i].mean(0) for i in range(P)]) for of, x in by.items()}
        energy = {of: (np.abs(np.fft.rfft(f, axis=0)[1:]) ** 2).sum(1) for of, f in means.items()}
        for kind, expected in (("a and b", energy["a"] + energy["b"]), ("result", energy["result"])):
            found = shares_of(exhibits, f"{name}, by {kind}")
            assert list(found.values()) == pytest.approx(expected / expected.sum(), rel=1e-4)
        varies = ((output - output.mean(0)) ** 2).sum()
        held = P * ((means["result"] - output.mean(0)) ** 2).sum() / varies
        assert held_by(exhibits, f"{name}, by result") == pytest.approx(held, rel=1e-4)


def test_of_inputs_that_are_squares_the_means_are_taken():
    """Of tokens 0..4 with the elements 0, 1, 4, 4, 1 the values 1 and 4 have one mean, and 2 and 3 have another."""
    elements, values = torch.arange(5) ** 2 % 5, torch.tensor([[0.0], [1.0], [5.0], [7.0], [2.0]]).double()
    part = part_by_element(values, [elements], additive_group(5))
    assert part.held == pytest.approx((3**2 + 2 * 1.5**2 + 2 * 3**2) / (3**2 + 2**2 + 2**2 + 4**2 + 1**2))
    function = torch.tensor([[-3.0], [-1.5], [0.0], [0.0], [3.0]]).double()
    assert part.energy.tolist() == pytest.approx(character_energy(function, additive_group(5)).tolist())


@pytest.mark.parametrize(
    ("operation", "norm_position"),
    [
        *((name, "pre") for name in OPERATIONS),
        ("a-b", "post"),
        *(pytest.param(name, "pre", marks=pytest.mark.slow) for name in PERMUTATIONS),
    ],
)
def test_every_operation_has_its_exhibits(operation, norm_position):
    task = make_task(operation)
    exhibits = exhibits_of(random_net(task, norm_position=norm_position), task, max_per_outcome=2)
    totals = exhibits.spectra.groupby("component")["share"].sum()
    assert totals.to_numpy() == pytest.approx(np.ones(len(totals)))
    assert exhibits.spectra["share"].between(0, 1).all() and exhibits.spectra["of_component"].between(0, 1).all()
    components = set(exhibits.spectra["component"])
    has_inputs = operation in ("a+b", "a-b", "a*b", "a/b", "a^2+b^2", "S5: ab")
    assert ("embedding" in components, "MLP 1, by a and b" in components) == (has_inputs, has_inputs)
    assert {"attention 2, by result", "unembedding", "logits"} <= components
    whole, *parts = exhibits.logit_maps.values()
    assert list(exhibits.logit_maps) == ["whole", "generalising part", "remaining part"]
    assert torch.allclose(whole, sum(parts), equal_nan=True)
    n = task.config.n_elements
    n_without = {"a*b": 2 * n - 1, "a/b": 2 * n - 1}.get(operation, 0)  # pairs that are not there, or have result 0
    assert int(whole.isnan().sum()) == n_without
    assert int(exhibits.in_training.sum()) == len(task.training)


@pytest.mark.parametrize(("operation", "output"), [("a+b", 0), ("a/b", 1)])
def test_the_logit_maps_are_those_of_one_output(operation, output):
    task = make_task(operation)
    net = random_net(task)
    exhibits = exhibits_of(net, task)
    assert exhibits.output == str(output)
    outputs = list(range(output, P))  # of a/b the output 0 is no group element, and logits are centred without it
    with torch.no_grad():
        for a, b in ((3, 5), (12, 1), (1, 12)):
            logits = net(torch.tensor([[a, b, P]]))[0, -1].double()
            expected = float(logits[output] - logits[outputs].mean())
            assert float(exhibits.logit_maps["whole"][a, b]) == pytest.approx(expected, rel=1e-4)
    generalising = exhibits.logit_maps["generalising part"]
    result = (lambda a, b: (a + b) % P) if operation == "a+b" else (lambda a, b: a * pow(b, -1, P) % P)
    values = {result(a, b): float(generalising[a, b]) for a in range(1, P) for b in range(1, P)}
    assert all(float(generalising[a, b]) == values[result(a, b)] for a in range(1, P) for b in range(1, P))
    # Characters are alike for an element and its inverse.
    inverse = (lambda x: -x % P) if operation == "a+b" else (lambda x: pow(x, -1, P))
    assert values[3] == pytest.approx(values[inverse(3)]) and values[3] != pytest.approx(values[4])


def test_the_logit_maps_of_the_wired_net_have_no_rest_but_the_modulation(wired, task):
    """Its logit of output 0 is 20 sum |cos(w (a - b)/2)| cos(w (a + b)): by result a sum of cosines."""
    _, exhibits = wired
    a, b = torch.meshgrid(torch.arange(P).double(), torch.arange(P).double(), indexing="ij")
    waves = [2 * torch.pi * k / P for k in FREQUENCIES]
    expected = 20 * sum((w * (a - b) / 2).cos().abs() * (w * (a + b)).cos() for w in waves)
    assert torch.allclose(exhibits.logit_maps["whole"], expected, atol=1e-4)
    held_out = task.splits["test_unmirrored"].tokens
    rest = exhibits.logit_maps["remaining part"][held_out[:, 0], held_out[:, 1]]
    assert rest.abs().max() > 1 and exhibits.in_training[held_out[:, 0], held_out[:, 1]].sum() == 0


def test_the_pairs_shown_are_drawn_from_each_outcome(wired):
    diagnosis, exhibits = wired
    shown, tables = exhibits.queries, diagnosis.measurements.queries
    counted = shown.groupby(["split", "outcome"]).size().to_dict()
    assert {key: min(n, 4) for key, n in exhibits.n_of_outcome.items() if n} == counted
    assert {split for split, _ in exhibits.n_of_outcome} == set(tables) == {"train", "test", "test_unmirrored"}
    assert sum(exhibits.n_of_outcome.values()) == sum(map(len, tables.values()))
    for _, row in shown.iterrows():
        table, ablation = tables[row["split"]], diagnosis.measurements.ablations[row["split"]]
        (place,) = np.flatnonzero((table["a"] == row["a"]) & (table["b"] == row["b"]))
        assert (table["outcome"].iloc[place], table["right"].iloc[place]) == (row["outcome"], row["right"])
        assert row["right"] == (row["predicted"] == row["answer"])
        for site in ("inputs", "answer"):
            assert row[f"without: {site}"] == bool(ablation.sites[site].right_without[place])
            assert row[f"only: {site}"] == bool(ablation.sites[site].right_with_only[place])
    assert list(shown)[:8] == ["split", "a", "b", "=", "answer", "predicted", "right", "outcome"]


def test_lens_and_attention_are_of_the_pairs_shown_in_their_order(task, untrained):
    net, exhibits = untrained
    shown = exhibits.queries
    assert len(shown) == exhibits.lens.n == len(exhibits.attention) > 10
    final = exhibits.lens.sites.index("resid_post 2")
    assert exhibits.lens.top_tokens[final, 2, :, 0].tolist() == shown["predicted"].tolist()
    tokens = torch.tensor(shown[["a", "b", "="]].to_numpy())
    _, cache = net.run_with_cache(tokens)
    assert torch.allclose(exhibits.attention[:, 1], cache["blocks.1.attn.hook_pattern"])
    assert exhibits.lens.top_tokens.shape[-1] == 5 and exhibits.position_names == ("a", "b", "=")
    assert [exhibits.vocab[i] for i in tokens[0]] == [str(i) for i in tokens[0, :2].tolist()] + ["="]


def test_norms_and_efficiency_are_the_measures_own(task, untrained):
    net, exhibits = untrained
    assert exhibits.norms == weight_norms(net)
    expected = logit_efficiency(net, task.training)
    assert vars(exhibits.efficiency) == pytest.approx(vars(expected), rel=1e-5)


def test_a_small_group_has_as_many_top_tokens_as_it_has_outputs():
    task = make_task(p=3)
    exhibits = exhibits_of(cosine_network(3, frequencies=[1]), task)
    assert exhibits.lens.top_tokens.shape[-1] == 3
    assert shares_of(exhibits, "embedding") == {"1": 1.0}


def test_permutations_are_named_by_what_they_make_of_01234():
    names, group = token_names(make_task("S5: ab")), symmetric_group()
    assert (names[0], names[119], names[120], len(names)) == ("01234", "43210", "=", 121)
    x, y = 17, 101
    product = "".join(names[x][int(i)] for i in names[y])  # (x * y)(i) = x(y(i))
    assert names[int(group.product[x, y])] == product


def test_the_same_twice_and_nothing_is_left_changed(task):
    net = random_net(task)
    diagnosis = diagnose((net, task))
    net.train()
    before = torch.get_rng_state()
    first, second = (gather_exhibits(diagnosis, max_per_outcome=3) for _ in range(2))
    assert net.training and torch.equal(before, torch.get_rng_state())
    assert not any(hook.fwd_hooks for hook in net.hook_dict.values())
    assert first.queries.equals(second.queries) and first.spectra.equals(second.spectra)
    assert torch.equal(first.attention, second.attention) and first.seed == diagnosis.seed
    other = gather_exhibits(diagnosis.model_copy(update={"seed": 5}), max_per_outcome=3)
    assert not first.queries.equals(other.queries)


def test_a_diagnosis_read_from_json_has_no_exhibits(wired):
    diagnosis, _ = wired
    assert gather_exhibits(type(diagnosis).model_validate_json(diagnosis.to_json())) is None


def test_random_labels_are_shown_as_labels():
    task = make_task(labels="random")
    exhibits = exhibits_of(random_net(task), task)
    wanted = {
        (a, b): answer
        for a, b, answer in zip(*task.pairs.tokens[:, :2].T.tolist(), task.pairs.answer.tolist(), strict=True)
    }
    assert [wanted[a, b] for a, b in exhibits.queries[["a", "b"]].to_numpy().tolist()] == exhibits.queries[
        "answer"
    ].tolist()
    assert exhibits.efficiency.n == len(task.training) == int(exhibits.in_training.sum())


def test_a_constant_component_has_no_spectrum(task):
    net = random_net(task)
    with torch.no_grad():
        net.blocks[1].mlp.W_out.zero_()
    components = set(exhibits_of(net, task).spectra["component"])
    assert not any(name.startswith("MLP 1") for name in components)
    assert any(name.startswith("attention 1") for name in components)
