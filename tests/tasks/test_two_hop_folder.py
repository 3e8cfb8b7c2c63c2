"""Dataset folders: the released ones, a round trip, other orders and names, and refusals to write."""

import json
import random

import numpy as np
import pytest
import torch
from folder_files import GOLDEN, copy_of, load, store

from circuit_lab.tasks import TWO_HOP_SPLITS, TwoHopConfig, TwoHopFolderConfig, build_task
from circuit_lab.tasks import read_dataset_folder as read
from circuit_lab.tasks import write_dataset_folder as write

NATURAL, BOTH_FULL = GOLDEN / "two_hop_natural", GOLDEN / "two_hop_both_full"
SIZES = {"n_entities": 13, "n_relations": 6, "out_degree": 4, "ood_share": 0.25, "test_id_share": 0.1}
FILES = {"train.json", "valid.json", "test.json", "vocab.json", "id_facts.json", "ood_facts.json"}


def assert_same_data(one, other):
    assert torch.equal(one.facts, other.facts)
    assert torch.equal(one.is_ood, other.is_ood)
    assert tuple(one.splits) == tuple(other.splits)
    for a, b in [(one.training, other.training), *((one.splits[name], other.splits[name]) for name in one.splits)]:
        for field in ("tokens", "answer", "answer_position", "facts", "in_training"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field
        assert a.intermediates.keys() == b.intermediates.keys()
        assert all(torch.equal(a.intermediates[name], b.intermediates[name]) for name in a.intermediates)
    assert one.certificate == other.certificate
    assert one.chance == other.chance


def test_released_folders_have_the_published_sizes():
    natural, both_full = read(NATURAL), read(BOTH_FULL)
    sizes = {"atomic_id": 288, "atomic_ood": 32, "train_inferred": 1152, "test_id": 11}
    sizes |= {"hop1_ood": 228, "hop2_ood": 250, "test_ood": 28}
    assert natural.certificate.n_queries == both_full.certificate.n_queries == sizes
    trained = {"atomic_id": 288, "atomic_ood": 32, "train_inferred": 1152, "test_id": 0}
    assert natural.certificate.n_in_training == trained | {"hop1_ood": 0, "hop2_ood": 0, "test_ood": 0}
    assert both_full.certificate.n_in_training == trained | {"hop1_ood": 124, "hop2_ood": 133, "test_ood": 0}
    assert (len(natural.training), len(both_full.training)) == (320 + 1152, 320 + 1409)
    assert torch.equal(natural.facts, both_full.facts) and torch.equal(natural.is_ood, both_full.is_ood)
    assert natural.certificate.is_clean and both_full.certificate.is_clean
    assert natural.n_entities == 40


def test_released_queries_match_a_plain_reading_of_the_json():
    task = read(BOTH_FULL)

    def texts(queries):
        pairs = zip(queries.tokens.tolist(), queries.answer.tolist(), strict=True)
        return {
            ("".join(task.vocab[token] for token in tokens if token != task.pad_token), task.vocab[answer])
            for tokens, answer in pairs
        }

    def plain(entries):
        return {(e["input_text"], e["target_text"][len(e["input_text"]) :].removesuffix("</a>")) for e in entries}

    assert texts(task.training) == plain(load(BOTH_FULL, "train.json"))
    test = load(BOTH_FULL, "test.json")
    assert texts(task.splits["test_id"]) == plain(e for e in test if e["type"] == "test_inferred_iid")
    assert texts(task.splits["test_ood"]) == plain(e for e in test if e["type"] == "test_inferred_ood")
    id_facts = {(f"{h}{r}", t) for h, r, t in load(BOTH_FULL, "id_facts.json")}
    assert texts(task.splits["atomic_id"]) == id_facts


def test_token_ids_are_those_of_the_file_with_pad_appended():
    task = read(NATURAL)
    assert task.vocab == (*load(NATURAL, "vocab.json"), "<pad>")
    assert (task.d_vocab, task.pad_token) == (59, 58)


@pytest.mark.parametrize("fact_files", [True, False])
@pytest.mark.parametrize(
    "change",
    [{}, {"regime": "both_half", "phi": 2.0}, {"regime": "second_hop_full", "leaked_share": 0.4}, {"phi": 0.2}],
)
def test_reading_back_gives_the_same_task(tmp_path, change, fact_files):
    task = build_task(TwoHopConfig(**SIZES, seed=2, **change))
    folder = write(task, tmp_path / "data", fact_files=fact_files)
    assert {file.name for file in folder.iterdir()} == (
        FILES if fact_files else FILES - {"id_facts.json", "ood_facts.json"}
    )
    again = read(folder)
    assert_same_data(task, again)
    assert again.vocab == (*task.vocab, "<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>")
    assert_same_data(again, read(write(again, tmp_path / "copy", fact_files=fact_files)))


@pytest.mark.parametrize("golden", [NATURAL, BOTH_FULL])
def test_released_folders_survive_a_round_trip(tmp_path, golden):
    task = read(golden)
    assert_same_data(task, read(write(task, tmp_path / "data")))


def test_written_entries_have_the_released_form(tmp_path):
    task = build_task(TwoHopConfig(**SIZES))
    folder = write(task, tmp_path / "data")
    first, query = task.training, task.splits["test_ood"]
    h, r, _ = first.tokens[0].tolist()
    text = f"{task.vocab[h]}{task.vocab[r]}"
    target = f"{text}{task.vocab[first.answer[0]]}</a>"
    assert load(folder, "train.json")[0] == {"input_text": text, "target_text": target}
    valid = load(folder, "valid.json")
    assert len(valid) == len(query)
    text = "".join(task.vocab[token] for token in query.tokens[0])
    assert valid[0] == {"input_text": text, "target_text": f"{text}{task.vocab[query.answer[0]]}</a>"}
    assert {entry["type"] for entry in load(folder, "test.json")} == {
        "id_atomic", "ood_atomic", "train_inferred", "test_inferred_iid", "test_inferred_ood",
    }  # fmt: skip


def test_probes_are_limited_per_type_and_follow_the_seed(tmp_path):
    task = build_task(TwoHopConfig(**SIZES))
    probes = [
        load(write(task, tmp_path / f"{n}-{s}", probes_per_type=n, seed=s), "test.json") for n, s in [(5, 0), (5, 1)]
    ]
    for entries in probes:
        kinds = [entry["type"] for entry in entries]
        assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(kinds, 5)
    assert probes[0] != probes[1]
    assert len(read(tmp_path / "5-0").splits["test_ood"]) == 5


@pytest.mark.parametrize("golden", [NATURAL, BOTH_FULL])
@pytest.mark.parametrize("as_map", [False, True])
def test_folder_without_fact_files(tmp_path, golden, as_map):
    folder = copy_of(golden, tmp_path, without=("id_facts.json", "ood_facts.json"))
    if as_map:
        store(folder, "vocab.json", {token: index for index, token in enumerate(load(golden, "vocab.json"))})
    assert_same_data(read(folder), read(golden))


def test_without_fact_files_a_fact_in_no_inferred_training_query_is_ood(tmp_path):
    folder = copy_of(NATURAL, tmp_path, without=("id_facts.json", "ood_facts.json"))
    store(folder, "test.json", [entry for entry in load(NATURAL, "test.json") if entry["type"].startswith("test_")])
    ood = {tuple(fact) for fact in load(NATURAL, "ood_facts.json")}
    task = read(folder)
    assert {tuple(task.vocab[token] for token in fact) for fact in task.facts[task.is_ood].tolist()} == ood


def test_without_fact_files_a_label_says_more_than_the_training_queries(tmp_path):
    folder = copy_of(NATURAL, tmp_path, without=("id_facts.json", "ood_facts.json"))
    test = load(NATURAL, "test.json")
    leaked = next(entry for entry in test if entry["type"] == "test_inferred_ood")
    store(folder, "train.json", [*load(NATURAL, "train.json"), {k: leaked[k] for k in ("input_text", "target_text")}])
    task = read(folder)
    assert int(task.is_ood.sum()) == 32
    assert task.certificate.leaks == ("1 of 28 test_ood queries are training items (4 %): the test set leaked",)


def test_a_leak_of_test_id_is_reported(tmp_path):
    folder = copy_of(NATURAL, tmp_path)
    leaked = [e for e in load(NATURAL, "test.json") if e["type"] == "test_inferred_iid"][:2]
    entries = [{"input_text": e["input_text"], "target_text": e["target_text"]} for e in leaked]
    store(folder, "train.json", [*load(NATURAL, "train.json"), *entries])
    task = read(folder)
    assert task.certificate.leaks == ("2 of 11 test_id queries are training items (18 %): the test set leaked",)
    assert len(task.splits["train_inferred"]) == 1154


def test_order_of_entries_does_not_matter(tmp_path):
    folder = copy_of(BOTH_FULL, tmp_path)
    for name in FILES - {"vocab.json"}:
        entries = load(folder, name)
        random.Random(0).shuffle(entries)
        store(folder, name, entries)
    assert_same_data(read(folder), read(BOTH_FULL))
    assert read(folder).config.content_hash == read(BOTH_FULL).config.content_hash


def test_renaming_entities_changes_names_only(tmp_path):
    folder, original = copy_of(BOTH_FULL, tmp_path), read(BOTH_FULL)
    new_id = np.random.PCG64(1).random_raw(40).argsort()
    for name in FILES - {"vocab.json"}:
        text = (folder / name).read_text()
        for entity in range(40):
            text = text.replace(f"<e_{entity}>", f"<new_{new_id[entity]}>")
        (folder / name).write_text(text.replace("<new_", "<e_"))
    renamed = read(folder)
    assert renamed.certificate.n_queries == original.certificate.n_queries
    assert renamed.certificate.n_in_training == original.certificate.n_in_training
    assert renamed.certificate.ood_fact_uses == original.certificate.ood_fact_uses
    assert renamed.certificate.task_hash != original.certificate.task_hash
    assert dict(renamed.chance) == dict(original.chance)
    mapping = torch.cat([torch.from_numpy(new_id), torch.arange(40, renamed.d_vocab)])
    for name in TWO_HOP_SPLITS:
        a, b = original.splits[name], renamed.splits[name]
        expected = torch.cat([mapping[a.tokens], mapping[a.answer][:, None]], dim=1).tolist()
        assert sorted(expected) == sorted(torch.cat([b.tokens, b.answer[:, None]], dim=1).tolist())


def test_config_rebuilds_the_task_and_notices_a_change(tmp_path):
    folder = copy_of(NATURAL, tmp_path)
    task = read(folder)
    assert task.config.kind == "two_hop_folder"
    config = TwoHopFolderConfig.model_validate_json(task.config.model_dump_json())
    assert_same_data(build_task(config), task)
    (folder / "train.json").write_text(json.dumps(load(folder, "train.json"), indent=1))
    assert build_task(config).config == config
    store(folder, "train.json", load(folder, "train.json")[:-1])
    with pytest.raises(
        ValueError, match=r"copy has changed: its content hash is .*restore the folder, or read it anew"
    ):
        build_task(config)


def test_content_hash_covers_names(tmp_path):
    folder = copy_of(NATURAL, tmp_path)
    vocab = load(folder, "vocab.json")
    store(folder, "vocab.json", [*vocab, "<extra>"])
    assert read(folder).certificate.task_hash != read(NATURAL).certificate.task_hash
    store(folder, "vocab.json", [*vocab[:-1], "<extra>"])
    assert read(folder).certificate.task_hash == read(NATURAL).certificate.task_hash
    assert read(folder).config.content_hash != read(NATURAL).config.content_hash


def test_write_refuses_a_folder_in_use_and_takes_an_empty_one(tmp_path):
    task = build_task(TwoHopConfig(**SIZES))
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"used already exists and is not an empty folder; give another path"):
        write(task, used)
    assert [file.name for file in used.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match=r"notes.txt already exists and is not an empty folder"):
        write(task, used / "notes.txt")
    empty = tmp_path / "deep" / "empty"
    empty.mkdir(parents=True)
    assert_same_data(read(write(task, str(empty))), task)


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    task = build_task(TwoHopConfig(**SIZES))
    n_calls = iter(range(100))

    def full_disk(descriptor):
        if next(n_calls) == 2:
            raise OSError("no space left")

    monkeypatch.setattr("circuit_lab.tasks.two_hop_folder.os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(task, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_settings_that_make_no_sense(tmp_path):
    task = build_task(TwoHopConfig(**SIZES))
    with pytest.raises(ValueError, match=r"probes_per_type must be at least 1, or None to write all, got 0"):
        write(task, tmp_path / "data", probes_per_type=0)
    shuffled = build_task(TwoHopConfig(**SIZES, shuffled_answers=True))
    with pytest.raises(ValueError, match=r"training answers contradict the facts \(shuffled_answers = true\)"):
        write(shuffled, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
