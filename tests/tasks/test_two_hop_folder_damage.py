"""Every kind of damage to a dataset folder is refused with the file, the entry and its value."""

import pytest
from folder_files import GOLDEN, copy_of, load, store

from circuit_lab.tasks import read_dataset_folder as read

NATURAL = GOLDEN / "two_hop_natural"


def edit(name, change):
    """A damage: replace the JSON of one file by `change(content)`."""
    return lambda folder: store(folder, name, change(load(folder, name)))


def edit_entry(name, index, **change):
    """A damage: change some keys of one entry."""
    return edit(name, lambda entries: [*entries[:index], entries[index] | change, *entries[index + 1 :]])


def new_query(text, target, **extra):
    return {"input_text": text, "target_text": f"{text}{target}</a>"} | extra


DAMAGES = {
    "no train": (lambda f: (f / "train.json").unlink(), r"train.json is missing from the dataset folder .*copy"),
    "no vocab": (lambda f: (f / "vocab.json").unlink(), r"vocab.json is missing"),
    "no valid": (lambda f: (f / "valid.json").unlink(), r"valid.json is missing"),
    "one fact file": (lambda f: (f / "ood_facts.json").unlink(), r"ood_facts.json is missing"),
    "truncated": (
        lambda f: (f / "train.json").write_text((f / "train.json").read_text()[:-9]),
        r"train.json is not valid JSON: .*restore the file",
    ),
    "not text": (lambda f: (f / "test.json").write_bytes(b"\x80\x04]\x94."), r"test.json is not valid JSON"),
    "not a list": (
        edit("train.json", lambda _: {"a": 1}),
        r"train.json: expected a list of entries, got dict \{'a': 1\}",
    ),
    "entry is no object": (
        edit("valid.json", lambda entries: [*entries, 7]),
        r"valid.json entry 28: expected an object with input_text, target_text, got 7",
    ),
    "key missing": (
        edit("train.json", lambda entries: [{"input_text": "<e_0><r_1>"}, *entries]),
        r"train.json entry 0: target_text must be a string, got None",
    ),
    "type missing": (
        edit("test.json", lambda e: [new_query("<e_0><r_1>", "<e_24>"), *e]),
        r"test.json entry 0: type must be a string",
    ),
    "unknown key": (
        edit_entry("train.json", 3, weight=2),
        r"train.json entry 3: unknown key 'weight'; the keys are: input_",
    ),
    "unknown type": (
        edit_entry("test.json", 5, type="test_inferred"),
        r"test.json entry 5: unknown type 'test_inferred'; the types are: id_atomic, ood_atomic, train_inferred",
    ),
    "unknown token": (
        edit_entry("train.json", 2, input_text="<e_99><r_1>", target_text="<e_99><r_1><e_0></a>"),
        r"train.json entry 2: token '<e_99>' is not in vocab.json \(59 tokens\)",
    ),
    "not a query": (
        edit_entry("train.json", 2, input_text="<r_1><e_9>"),
        r"train.json entry 2: input_text must be an entity and one or two relations.*got '<r_1><e_9>'",
    ),
    "three relations": (
        edit_entry("train.json", 2, input_text="<e_1><r_9><r_9><r_9>"),
        r"train.json entry 2: input_text must",
    ),
    "words": (
        edit_entry("train.json", 2, input_text="Paris <r_9>"),
        r"train.json entry 2: input_text must.*'Paris <r_9>'",
    ),
    "another prefix": (
        edit_entry("train.json", 2, target_text="<e_0><r_0><e_1></a>"),
        r"train.json entry 2: target_text must be the input_text, an entity and </a>.*got '<e_0><r_0><e_1></a>'",
    ),
    "no end": (
        edit_entry("train.json", 0, target_text="<e_15><r_8><e_9>"),
        r"train.json entry 0: target_text must be the input_text, an entity and </a>, such as '<e_15><r_8><e_3></a>'",
    ),
    "wrong atomic target": (
        edit_entry("train.json", 0, target_text="<e_15><r_8><e_10></a>"),
        r"train.json entry 0: <e_15><r_8> -> <e_10>: the facts give another target; correct target_text",
    ),
    "wrong inferred target": (
        edit_entry("valid.json", 0, target_text="<e_3><r_2><r_10><e_1></a>"),
        r"valid.json entry 0: <e_3><r_2><r_10> -> <e_1>: the facts give another target",
    ),
    "atomic item is no fact": (
        edit("train.json", lambda e: [*e, new_query("<e_15><r_11>", "<e_9>")]),
        r"train.json entry 1472: <e_15><r_11> -> <e_9>: its first hop is not a fact; add the fact or drop",
    ),
    "second hop is no fact": (
        edit("train.json", lambda e: [*e, new_query("<e_15><r_8><r_0>", "<e_9>")]),
        r"train.json entry 1472: <e_15><r_8><r_0> -> <e_9>: its second hop is not a fact",
    ),
    "asked twice": (
        edit("train.json", lambda e: [*e, e[5]]),
        r"train.json entry 1472: .*an earlier entry asks the same; drop",
    ),
    "probe twice": (edit("test.json", lambda e: [*e, e[5]]), r"test.json entry 191: .*an earlier entry asks the same"),
    "ID query labelled OOD": (
        edit_entry("test.json", 62, type="test_inferred_ood"),
        r"test.json entry 62: .* has the type test_inferred_ood, which needs 2 hops \(an OOD fact then an OOD fact\)",
    ),
    "atomic item labelled inferred": (
        edit_entry("test.json", 0, type="test_inferred_iid"),
        r"which needs 2 hops \(an ID fact then an ID fact\), but has 1 hop \(an ID fact\); correct the type",
    ),
    "test query labelled training": (
        edit(
            "test.json",
            lambda e: [x | {"type": "train_inferred"} if x["type"] == "test_inferred_iid" else x for x in e],
        ),
        r"has the type train_inferred but is no inferred item of train.json",
    ),
    "no test_ood": (
        edit("test.json", lambda e: [x for x in e if x["type"] != "test_inferred_ood"]),
        r"test.json: no entry has the type test_inferred_ood; a task needs at least one",
    ),
    "no test_id": (
        edit("test.json", lambda e: [x for x in e if x["type"] != "test_inferred_iid"]),
        r"test.json: no entry has the type test_inferred_iid",
    ),
    "fact twice": (
        edit("ood_facts.json", lambda e: [*e, ["<e_15>", "<r_8>", "<e_1>"]]),
        r"ood_facts.json entry 32: <e_15><r_8> already has a tail in id_facts.json entry 0; .*drop one entry",
    ),
    "fact of two": (
        edit("id_facts.json", lambda e: [["<e_1>", "<r_1>"], *e]),
        r"id_facts.json entry 0: expected \[head, relation, tail\], got \['<e_1>', '<r_1>'\]",
    ),
    "fact turned round": (
        edit("id_facts.json", lambda e: [["<e_1>", "<e_2>", "<r_1>"], *e]),
        r"id_facts.json entry 0: expected a token <r_...> in .*, got '<e_2>'",
    ),
    "fact of an unknown entity": (
        edit("id_facts.json", lambda e: [["<e_1>", "<r_2>", "<e_77>"], *e]),
        r"id_facts.json entry 0: token '<e_77>' is not in vocab.json",
    ),
    "token twice": (
        edit("vocab.json", lambda v: [*v, "<e_3>"]),
        r"vocab.json entry 58: '<e_3>' is already entry 3; drop one",
    ),
    "token is a number": (
        edit("vocab.json", lambda v: [7, *v]),
        r"vocab.json entry 0: a token must be a string, got 7",
    ),
    "vocab is text": (
        edit("vocab.json", lambda _: "abc"),
        r"vocab.json: expected a list of tokens or a map .* got str 'abc'",
    ),
    "id out of range": (
        edit("vocab.json", lambda v: {token: 2 + i for i, token in enumerate(v)}),
        r"vocab.json: the id of '<q>' must be a whole number below 58, got 58",
    ),
    "id is no number": (
        edit("vocab.json", lambda v: {token: str(i) for i, token in enumerate(v)}),
        r"vocab.json: the id of '<e_0>' must be a whole number below 58, got '0'",
    ),
    "id twice": (
        edit("vocab.json", lambda v: {token: max(i, 1) for i, token in enumerate(v)}),
        r"vocab.json: '<e_0>' and '<e_1>' both have the id 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_file_entry_and_value(tmp_path, damage):
    folder = copy_of(NATURAL, tmp_path)
    inflict, message = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_missing_folder_and_missing_facts(tmp_path):
    with pytest.raises(
        ValueError, match=r"dataset folder .*nowhere does not exist; give a folder that holds train.json"
    ):
        read(tmp_path / "nowhere")
    folder = copy_of(NATURAL, tmp_path, without=("id_facts.json", "ood_facts.json"))
    store(folder, "train.json", [e for e in load(NATURAL, "train.json") if e["input_text"].count("<") == 3])
    with pytest.raises(ValueError, match=r"the dataset has no facts; id_facts.json, ood_facts.json or atomic items"):
        read(folder)
