"""`load`: ours and others', recognised by content, checked against the task; a net near chance warns."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import circuit_lab
from circuit_lab.errors import InputError
from circuit_lab.importers import FORMATS, IMPORTERS, AtChance, Imported, Importer, Source, load, loading
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import save_checkpoint
from circuit_lab.training.evaluation import SplitScore

P = 23


@pytest.fixture(scope="module")
def task():
    return build_task(ModularConfig(p=P, train_share=0.4))


@pytest.fixture(scope="module")
def net():
    return cosine_network(P, frequencies=(1, 3, 4)).eval()


@pytest.fixture
def foreign(tmp_path, monkeypatch, net):
    """A file of a made-up dialect, whose importer gives the wired net."""

    def read(source, options):
        return Imported(net=net, inferred=(f"passes = {options.n_passes}",), ignored=("nothing",), step=None)

    importer = Importer(name="made-up", recognises=lambda source: source.content == {"made": "up"}, read=read)
    monkeypatch.setattr(loading, "IMPORTERS", {**IMPORTERS, "made-up": importer})
    monkeypatch.setattr(loading, "FORMATS", {**FORMATS, "made-up": "a made-up dialect"})
    path = tmp_path / "theirs.pt"
    torch.save({"made": "up"}, path)
    return path


@pytest.fixture
def own(tmp_path, net, task):
    return save_checkpoint(tmp_path / "own.safetensors", net=net, task=task, step=7, metrics={"test": 1.0})


def test_the_tables_name_the_same_formats():
    assert [*IMPORTERS, loading.OWN_FORMAT] == list(FORMATS)


def test_a_foreign_net_comes_with_what_was_understood_of_it(foreign, net, task):
    checkpoint = load(foreign, task=task, n_passes=2)
    assert checkpoint.net is net
    assert checkpoint.task is task
    assert checkpoint.origin.format == "made-up"
    assert checkpoint.origin.file == "theirs.pt"
    assert checkpoint.origin.inferred == (
        "passes = 2",
        "step = 0 (the file does not say after how many steps it was)",
    )
    assert checkpoint.origin.ignored == ("nothing",)
    assert checkpoint.metrics == {"training": 1.0, "train": 1.0, "test": 1.0, "test_unmirrored": 1.0}


def test_the_task_may_be_given_in_words(foreign, task):
    checkpoint = load(foreign, task=f"modular:p={P},train_share=0.4")
    assert checkpoint.task.certificate.task_hash == task.certificate.task_hash


def test_without_a_task_there_is_a_net_and_nothing_to_ask_it(foreign):
    checkpoint = load(foreign)
    assert checkpoint.metrics == {}
    assert "no task" in repr(checkpoint)
    with pytest.raises(InputError, match="theirs.pt came without a task.*give one when loading"):
        circuit_lab.diagnose(checkpoint)
    assert "nothing can be asked" in checkpoint._repr_html_()


def test_an_imported_checkpoint_is_diagnosed_like_any_other(foreign, task):
    assert circuit_lab.diagnose(load(foreign, task=task)).verdict == "true_circuit"


def test_an_imported_checkpoint_is_saved_with_its_origin(foreign, task, tmp_path):
    checkpoint = load(foreign, task=task)
    path = save_checkpoint(
        tmp_path / "kept.safetensors",
        net=checkpoint.net,
        task=checkpoint.given_task,
        step=checkpoint.step,
        metrics=checkpoint.metrics,
        origin=checkpoint.origin,
    )
    again = load(path)
    assert again.origin == checkpoint.origin
    assert again.weights_hash == checkpoint.weights_hash


def test_a_net_of_another_vocabulary_is_refused(foreign):
    with pytest.raises(InputError, match=r"d_vocab = 24, but ModularTask\(a\+b mod 11.* has d_vocab = 12"):
        load(foreign, task="modular:p=11,train_share=0.4")


def test_a_net_that_is_too_short_is_refused(foreign, monkeypatch, net, task):
    short = Importer(
        name="made-up",
        recognises=lambda _: True,
        read=lambda *_: Imported(
            net=circuit_lab.build_net(net.cfg.model_copy(update={"n_ctx": 2})), inferred=(), ignored=()
        ),
    )
    monkeypatch.setattr(loading, "IMPORTERS", {"made-up": short})
    with pytest.raises(InputError, match="reads at most 2 positions, but ModularTask.* has 3"):
        load(foreign, task=task)


def test_numbers_that_the_device_does_not_have_are_refused(foreign, task, net, monkeypatch):
    double = circuit_lab.build_net(net.cfg).double()
    importer = replace(loading.IMPORTERS["made-up"], read=lambda *_: Imported(net=double, inferred=(), ignored=()))
    monkeypatch.setattr(loading, "IMPORTERS", {"made-up": importer})
    monkeypatch.setattr(loading, "resolve_device", lambda _: torch.device("mps"))
    with pytest.raises(InputError, match="theirs.pt: its weights are float64, which mps does not have"):
        load(foreign, device="mps")


def test_the_wired_net_is_loaded_without_a_warning(foreign, task):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AtChance)
        load(foreign, task=task)


def test_a_net_whose_embedding_is_shuffled_is_loaded_with_a_warning(foreign, task, net, monkeypatch):
    """An orientation mistake that no shape shows: the tokens' rows are in another order."""
    shuffled = circuit_lab.build_net(net.cfg).to(net.dtype).eval()
    weights = net.unique_state_dict()
    order = torch.randperm(P + 1, generator=torch.Generator().manual_seed(0))
    shuffled.load_unique_state_dict(weights | {"embed.W_E": weights["embed.W_E"][order]})
    importer = replace(
        loading.IMPORTERS["made-up"],
        read=lambda *_: Imported(net=shuffled, inferred=(), ignored=()),
    )
    monkeypatch.setattr(loading, "IMPORTERS", {"made-up": importer})
    with pytest.warns(AtChance, match=r"theirs.pt is near chance: .* by chance 0\.\d+.*layout"):
        load(foreign, task=task)


@given(n=st.integers(20, 400), share=st.floats(0.0, 1.0))
def test_the_warning_comes_exactly_where_the_interval_reaches_twice_chance(n, share):
    task = build_task(ModularConfig(p=P, train_share=0.4))
    right = round(share * n)
    score = SplitScore(accuracy=right / n, loss=1.0, collapsed=0.0, n=n)
    low = circuit_lab.measures.proportion_interval(right, n).low
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loading.warn_at_chance(Path("x.pt"), task, {"training": replace(score, n=10**6), "train": score})
    assert bool(caught) is (low <= 2 * task.chance["train"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "legacy"}, "unknown format 'legacy'; the formats are: transformer-lens-legacy, .*, circuit-lab"),
        ({"n_passes": 0}, "n_passes must be at least 1, got 0"),
        ({"weights": "best"}, 'weights must be "auto", "raw" or "ema", got \'best\''),
        ({"config": "no/such.json"}, "no config at no/such.json: there is no such file"),
        ({"task": "modular:p=12"}, "p must be an odd prime, got 12"),
        ({"task": "modulo:p=13"}, "modulo:p=13"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(foreign, settings, message):
    with pytest.raises(InputError, match=message):
        load(foreign, **settings)


def test_what_no_importer_recognises_is_refused_with_the_list(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match="x.pt is in no format that is known here.*gpt2-folder: a HuggingFace"):
        load(path)


def test_what_two_importers_recognise_is_refused_with_both(foreign, monkeypatch):
    both = {name: replace(loading.IMPORTERS["made-up"], name=name) for name in ("this", "that")}
    monkeypatch.setattr(loading, "IMPORTERS", both)
    with pytest.raises(InputError, match="could be this and that; say which with format"):
        load(foreign)


def test_a_format_that_is_given_is_not_recognised_but_tried(foreign, monkeypatch):
    both = {name: replace(loading.IMPORTERS["made-up"], name=name) for name in ("this", "made-up")}
    monkeypatch.setattr(loading, "IMPORTERS", both)
    assert load(foreign, format="made-up").origin.format == "made-up"


def test_no_importer_recognises_what_is_nobody_s():
    for content in (None, {}, [], 3, "text", {"a": torch.ones(2)}, {"model": {}}, [{"embed.W_E": torch.ones(2, 2)}]):
        source = Source(Path("nobody.pt"), content)
        assert [name for name, importer in IMPORTERS.items() if importer.recognises(source)] == []


def test_our_own_checkpoint_is_loaded_as_such(own, net):
    checkpoint = load(own)
    assert checkpoint.origin is None
    assert checkpoint.step == 7
    assert torch.equal(checkpoint.net.W_E, net.W_E)


def test_a_reference_model_is_loaded_by_name():
    assert load("modular-memorising").path.parent.name == "modular-memorising"


def test_our_own_checkpoint_s_task_must_be_the_one_given(own, task):
    assert load(own, task=task).task is task
    with pytest.raises(InputError, match="belongs to another task"):
        load(own, task=f"modular:p={P},train_share=0.5")


@pytest.mark.parametrize("setting", [{"n_passes": 2}, {"weights": "ema"}, {"step": 3}])
def test_our_own_checkpoint_takes_no_settings(own, setting):
    with pytest.raises(InputError, match=f"says its own {next(iter(setting))}; leave {next(iter(setting))} out"):
        load(own, **setting)


def test_a_foreign_file_is_not_taken_for_ours(foreign):
    with pytest.raises(InputError, match="theirs.pt"):
        load(foreign, format="circuit-lab")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.pt"])
def test_nothing_there(name):
    with pytest.raises(InputError, match=f"no checkpoint at {name}"):
        load(name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="in no format that is known here"):
        load(tmp_path)


def test_a_run_without_a_checkpoint_yet(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no checkpoint yet"):
        load(tmp_path)
