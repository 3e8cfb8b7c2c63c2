"""Dataset folders from anyone: links out of them, pipes, and files that grow are refused; nothing hangs."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from forked_child import outcome_in_child, timed

from circuit_lab.errors import InputError
from circuit_lab.tasks import TwoHopConfig, TwoHopFolderConfig, build_task, read_dataset_folder
from circuit_lab.tasks.safe_files import load_json, open_regular

NATURAL = Path(__file__).parents[1] / "golden" / "two_hop_natural"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(NATURAL, tmp_path / "data"))


def replaced(folder, name, make):
    path = folder / name
    path.unlink()
    make(path)


def to_device(path):
    path.symlink_to("/dev/zero")


HOSTILE = {
    "a link out": (
        lambda path: path.symlink_to("/etc/hostname"),
        "leads out of that folder, to /etc/hostname; put the",
    ),
    "a relative link out": (lambda path: path.symlink_to("../../x"), "leads out of that folder, to /"),
    "a device": (to_device, "leads out of that folder, to /dev/zero"),
    "a loop": (lambda path: path.symlink_to(path.name), "its symbolic links lead in a circle; remove or correct them"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "it is a symbolic link to gone, where nothing is"),
    "a pipe": (os.mkfifo, "it is a pipe, socket or device, not a regular file"),
    "a folder": (Path.mkdir, "it is a folder; give the file in it"),
    "nested lists": (
        lambda path: path.write_text("[" * 100_000),
        "is not valid JSON: maximum recursion depth exceeded",
    ),
    "a number without end": (lambda path: path.write_text("9" * 5000), "is not valid JSON: Exceeds the limit"),
    "bytes": (lambda path: path.write_bytes(b"\xff\xfe[]"), "is not valid JSON: 'utf-8' codec can't decode byte 0xff"),
    "a sparse giant": (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 2**40), "is too large for a"),
}


@pytest.mark.parametrize("name", ["vocab.json", "train.json", "id_facts.json"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_at_once(folder, name, kind):
    make, message = HOSTILE[kind]
    replaced(folder, name, make)
    outcome = timed(lambda: read_dataset_folder(folder), seconds=5.0, memory=500_000_000)
    assert outcome.startswith("InputError: ") and re.search(message, outcome), outcome


def test_a_link_inside_the_folder_is_followed(folder):
    before = read_dataset_folder(folder).certificate
    (folder / "train.json").rename(folder / "train_1.json")
    (folder / "train.json").symlink_to("train_1.json")
    assert read_dataset_folder(folder).certificate == before
    (folder.parent / "link").symlink_to(folder)
    assert read_dataset_folder(folder.parent / "link").certificate == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(path.name), "no dataset folder at .*: its symbolic links lead in a circle"),
        (os.mkfifo, "no dataset folder at .*: it is a pipe, socket or device"),
        (Path.touch, "dataset folder .* does not exist; give a folder that holds train.json"),
    ],
)
def test_a_folder_that_is_none_is_named(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        read_dataset_folder(tmp_path / "data")


def test_a_config_with_a_path_that_cannot_be_is_refused():
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(InputError, match="no dataset folder at"):
            build_task(TwoHopFolderConfig(path=path, content_hash="0" * 64))


def test_facts_that_chain_into_too_many_queries_are_refused(tmp_path):
    """6,000 facts into one entity and 6,000 out of it are 36 million compositions."""
    hub, n = "<e_hub>", 6000
    entities = [f"<e_{index}>" for index in range(n)]
    relations = [f"<r_{index}>" for index in range(n)]
    into = [[entity, "<r_0>", hub] for entity in entities]
    out = [[hub, relation, "<e_0>"] for relation in relations]
    empty = {"train.json": [], "valid.json": [], "test.json": []}
    files = {"vocab.json": [hub, *entities, *relations], "id_facts.json": into, "ood_facts.json": out} | empty
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match="chain into 36,0.*two-hop queries; at most 20,000,000 are built"):
        read_dataset_folder(tmp_path)


def test_a_config_of_too_many_queries_is_refused():
    with pytest.raises(ValueError, match="make 20,000,400,002 two-hop queries.*; at most 20,000,000 are built"):
        TwoHopConfig(n_entities=2, n_relations=100_001, out_degree=100_001)
    assert TwoHopConfig(n_entities=2000, n_relations=200, out_degree=100).out_degree == 100


def test_json_over_its_limit_is_refused_unread(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1, 2]")
    assert load_json(path, what="list", max_bytes=6) == [1, 2]
    with pytest.raises(InputError, match="x.json is too large for a list: 6 bytes, at most 5 are read"):
        load_json(path, what="list", max_bytes=5)


def test_a_pipe_that_takes_a_file_s_place_is_not_waited_for(tmp_path, monkeypatch):
    """Between looking and opening the file is exchanged."""
    path = tmp_path / "x.json"
    os.mkfifo(path)
    monkeypatch.setattr("circuit_lab.tasks.safe_files.file_kind", lambda *_, **__: "file")

    def open_it():
        with open_regular(path, what="list", max_bytes=10):
            return "opened"

    assert "InputError: no list at" in outcome_in_child(open_it, seconds=3.0)
