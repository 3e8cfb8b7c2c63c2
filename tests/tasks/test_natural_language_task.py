"""Questions as a task: rows by hand, the same task in two forms and by two routes, splits, refusals, checkpoints."""

import json

import pytest
import torch
from pydantic import ValidationError

from circuit_lab.errors import InputError
from circuit_lab.tasks import TWO_HOP_SPLITS, TwoHopTask, build_task, read_dataset_folder, write_dataset_folder
from circuit_lab.tasks.natural_language import WORD_POSITIONS, NaturalLanguageTask
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig, WorldConfig
from circuit_lab.tasks.natural_language_world import world_facts, write_world_file
from circuit_lab.tasks.task_spec import task_from_words
from circuit_lab.training import load_checkpoint, parse_recipe, train

WORLD = WorldConfig(n_people=6, n_cities=2, n_companies=2, n_works=2, n_countries=2, seed=1)
SETTINGS = {"world": WORLD, "ood_share": 0.2, "test_id_share": 0.05, "seed": 3}


def of_world(**settings):
    return build_task(NaturalLanguageConfig(**(SETTINGS | settings)))


@pytest.fixture(scope="module")
def tokens():
    return of_world()


@pytest.fixture(scope="module")
def words():
    return of_world(form="words")


def text(task, row):
    return " ".join(task.vocab[token] for token in row.tolist())


def stored(tmp_path, *chains):
    items = [
        {"type": "compositional", "evidences": [list(f) for f in chain], "answer": chain[1][2]} for chain in chains
    ]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(items))
    return str(path)


RING = [
    ("Ada Alder", "place of birth", "Rio"),
    ("Rio", "mayor", "J. R. R. Tolkien"),
    ("J. R. R. Tolkien", "is", "Ada Alder"),
]
CHAINS = [(RING[0], RING[1]), (RING[1], RING[2]), (RING[2], RING[0])]


def small(tmp_path, **settings):
    # Of three facts in a ring no two ID ones chain with each other and OOD ones too, so the ring is walked twice.
    double = [(h, f"{r} {again}", t) for again in ("a", "b") for h, r, t in RING]
    chains = [(f, g) for f in double for g in double if f[2] == g[0]]
    return build_task(NaturalLanguageConfig(path=stored(tmp_path, *chains), ood_share=0.34, **settings))


def test_rows_in_tokens_by_hand(tmp_path):
    task = small(tmp_path)
    assert task.vocab == (
        "<e_Ada_Alder>", "<e_J._R._R._Tolkien>", "<e_Rio>", "<r_is_a>", "<r_is_b>", "<r_mayor_a>", "<r_mayor_b>",
        "<r_place_of_birth_a>", "<r_place_of_birth_b>", "<pad>",
    )  # fmt: skip
    assert task.facts.tolist() == [[0, 7, 2], [0, 8, 2], [1, 3, 0], [1, 4, 0], [2, 5, 1], [2, 6, 1]]
    assert (task.n_entities, task.d_vocab, task.n_ctx, task.pad_token) == (3, 10, 3, 9)
    query = task.splits["train_inferred"][:1]
    h, r1, r2 = query.tokens[0].tolist()
    tails = {(a, b): c for a, b, c in task.facts.tolist()}
    assert int(query.intermediates["bridge"]) == tails[h, r1]
    assert int(query.answer) == tails[tails[h, r1], r2]


def test_rows_in_words_by_hand(tmp_path):
    task = small(tmp_path, form="words")
    assert task.vocab == (
        "<e_Ada_Alder>", "<e_J._R._R._Tolkien>", "<e_Rio>", "'s_is_a", "'s_is_b", "'s_mayor_a", "'s_mayor_b",
        "'s_place_of_birth_a", "'s_place_of_birth_b", "Ada", "Alder", "J._R._R.", "Tolkien", "Rio", "is", "<pad>",
    )  # fmt: skip
    rows = [text(task, row) for split in TWO_HOP_SPLITS for row in task.splits[split].tokens]
    assert "Ada Alder 's_place_of_birth_a is <pad>" in rows
    assert "<pad> Rio 's_mayor_b is <pad>" in rows
    assert "J._R._R. Tolkien 's_is_a 's_place_of_birth_b is" in rows
    assert "<pad> Rio 's_mayor_a 's_is_a is" in rows
    assert len({*rows}) == len(rows) == 6 + 12


def test_a_word_that_several_names_share_is_one_token(tmp_path):
    chains = [
        (("Ada is", "father", "who is"), ("who is", "father", "Ada is")),
        (("who is", "father", "Ada is"), ("Ada is", "father", "who is")),
        (("who is", "name", "Ada is"), ("Ada is", "name", "who is")),
        (("Ada is", "name", "who is"), ("who is", "name", "Ada is")),
    ]
    task = build_task(NaturalLanguageConfig(path=stored(tmp_path, *chains), ood_share=0.5, form="words", seed=3))
    assert task.vocab == ("<e_Ada_is>", "<e_who_is>", "'s_father", "'s_name", "Ada", "is", "who", "<pad>")
    rows = {text(task, row) for split in TWO_HOP_SPLITS for row in task.splits[split].tokens}
    assert "Ada is 's_father 's_name is" in rows


def test_both_forms_ask_the_same(tokens, words):
    assert torch.equal(tokens.facts, words.facts)
    assert tokens.chance == words.chance
    for split in TWO_HOP_SPLITS:
        one, other = tokens.splits[split], words.splits[split]
        assert torch.equal(one.answer, other.answer)
        assert torch.equal(one.facts, other.facts)
        assert torch.equal(one.in_training, other.in_training)
        for i in range(0, len(one), 7):
            asked = [tokens.vocab[token][3:-1] for token in one.tokens[i].tolist() if token != tokens.pad_token]
            read = text(words, other.tokens[i]).removeprefix("<pad> ").replace(" <pad>", "")
            assert read.replace(" ", "_") == "_'s_".join(asked) + "_is"
            assert read.count(" 's_") == len(asked) - 1
    assert torch.equal(
        tokens.splits["test_ood"].intermediates["bridge"], words.splits["test_ood"].intermediates["bridge"]
    )
    assert tokens.certificate.task_hash != words.certificate.task_hash
    assert tokens.certificate.n_in_training == words.certificate.n_in_training


def test_words_name_their_positions_and_are_answered_at_is(words):
    copula = words.vocab.index("is")
    for split in TWO_HOP_SPLITS:
        queries = words.splits[split]
        assert queries.position_names == WORD_POSITIONS
        assert (queries.tokens.gather(1, queries.answer_position[:, None]) == copula).all()
        n_after = (queries.tokens == words.pad_token)[:, 1:].sum(1)
        assert (queries.answer_position == 4 - n_after).all()
    columns = [WORD_POSITIONS.index(name) for name in ("r1", "r2")]
    queries = words.splits["test_ood"]
    assert torch.equal(queries.tokens[:, columns], words.facts[queries.facts][..., 1])


def test_different_entities_and_queries_are_different_in_words(words):
    everything = torch.cat([words.splits[split].tokens for split in TWO_HOP_SPLITS])
    n_queries = len(words.facts) + words.questions.n_compositions
    assert len(everything.unique(dim=0)) == n_queries == len(everything)


def test_splits_are_those_of_the_dataset_folder_written_from_it(tokens, tmp_path):
    folder = read_dataset_folder(write_dataset_folder(tokens, tmp_path / "folder"))
    for split in TWO_HOP_SPLITS:
        here = {(text(tokens, row), tokens.vocab[a]) for row, a in zip(*answered(tokens, split), strict=True)}
        there = {(text(folder, row), folder.vocab[a]) for row, a in zip(*answered(folder, split), strict=True)}
        assert here == there
    assert folder.certificate.n_in_training == tokens.certificate.n_in_training


def answered(task, split):
    return task.splits[split].tokens, task.splits[split].answer.tolist()


def test_a_file_and_the_world_in_it_are_one_task(tokens, tmp_path):
    path = write_world_file(WORLD, tmp_path / "world.json")
    from_file = of_world(world=None, path=str(path))
    assert from_file.certificate.task_hash == tokens.certificate.task_hash
    assert from_file.config.content_hash == tokens.config.content_hash == tokens.questions.content_hash
    in_words = task_from_words(f"natural_language:path={path},form=words,ood_share=0.2,test_id_share=0.05,seed=3")
    assert in_words.certificate.task_hash == of_world(form="words").certificate.task_hash


def test_splits_partition_the_compositions_and_nothing_held_out_is_trained_on(tokens):
    assert tokens.certificate.is_clean
    assert {(tokens.vocab[h][3:-1], tokens.vocab[r][3:-1]) for h, r, _ in tokens.facts.tolist()} == {
        (fact.head.replace(" ", "_"), fact.relation.replace(" ", "_")) for fact in world_facts(WORLD)
    }
    n_composed = sum(len(tokens.splits[split]) for split in TWO_HOP_SPLITS[2:])
    assert n_composed == tokens.questions.n_compositions
    assert int(tokens.is_ood.sum()) == -(-len(tokens.facts) // 5)


@pytest.mark.parametrize(
    ("regime", "hops"), [("natural", ()), ("second_hop_full", ("hop2",)), ("both_full", ("hop1", "hop2"))]
)
def test_augmentation_uses_ood_facts_on_its_hops_alone(regime, hops):
    task = of_world(regime=regime, form="words")
    used = {hop for hop, uses in task.certificate.ood_fact_uses.items() if uses["max"] > 0}
    assert used == {*hops}
    for split in ("test_id", "test_ood"):
        assert not task.splits[split].in_training.any()


def test_the_seed_moves_the_splits_and_the_worlds_seed_the_facts(tokens):
    other_split = of_world(seed=4)
    assert torch.equal(other_split.facts, tokens.facts)
    assert not torch.equal(other_split.is_ood, tokens.is_ood)
    other_world = of_world(world=WORLD.model_copy(update={"seed": 2}))
    assert other_world.config.content_hash != tokens.config.content_hash


def test_it_is_a_two_hop_task_and_says_what_it_is(tokens, words):
    assert isinstance(tokens, TwoHopTask) and isinstance(tokens, NaturalLanguageTask)
    assert repr(words).startswith("NaturalLanguageTask(words: 14 entities, ")
    assert repr(words).endswith("clean)")
    assert f"{len(words.facts)} facts of which" in repr(words)


def test_tokens_have_answer_slots_and_words_do_not(tokens):
    slots = of_world(answer_slots={"d_vocab": tokens.d_vocab, "n_ctx": 5})
    assert slots.n_ctx == 5
    assert slots.certificate.task_hash == tokens.certificate.task_hash
    assert isinstance(slots, NaturalLanguageTask)
    with pytest.raises(ValidationError, match='with form = "words" leave it out'):
        NaturalLanguageConfig(world=WORLD, form="words", answer_slots={"d_vocab": 9, "n_ctx": 5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one of path and world, got path = '' and world = None"),
        ({"path": "a.json", "world": WORLD}, "give exactly one of path and world"),
        ({"world": WORLD, "format": "musique"}, 'format = "musique" is the format of a file'),
        (
            {"world": WORLD, "from": "word"},
            "unknown NaturalLanguageConfig setting 'from' = 'word'; the settings are: kind",
        ),
        ({"world": {"n_persons": 3}}, "unknown WorldConfig setting 'n_persons'"),
        ({"world": {"n_people": 3}}, "greater than or equal to 4"),
        ({"world": WORLD, "regime": "all"}, "unknown regime 'all'; the regimes are: natural"),
        ({"world": WORLD, "form": "letters"}, "'tokens' or 'words'"),
        ({"world": WORLD, "ood_share": 0.0}, "greater than 0"),
        ({"world": WORLD, "content_hash": "1"}, "should match pattern"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        NaturalLanguageConfig(**settings)


def test_a_changed_file_is_noticed(tmp_path):
    task = small(tmp_path)
    path = task.config.path
    assert build_task(task.config).certificate.task_hash == task.certificate.task_hash
    stored(tmp_path, *CHAINS)
    with pytest.raises(
        InputError, match=r"have changed: their content hash is \w+\.\.\., the config has \w+\.\.\.; restore"
    ):
        build_task(task.config)
    assert task.config.path == path


def test_too_few_facts_are_refused_with_what_was_found(tmp_path):
    with pytest.raises(InputError, match=r"too few facts that chain.*3 items; 3 facts.*0 OOD-OOD queries, 1 is needed"):
        build_task(NaturalLanguageConfig(path=stored(tmp_path, *CHAINS), ood_share=0.05))


def test_too_many_compositions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("circuit_lab.tasks.natural_language.MAX_TWO_HOP_QUERIES", 11)
    with pytest.raises(InputError, match=r"chain into 12 two-hop queries; at most 11 are built"):
        small(tmp_path)


def recipe(**task):
    return parse_recipe(
        {
            "task": {"kind": "natural_language"} | task,
            "net": {
                "kind": "shared_transformer", "layer_map": [0, 0], "d_model": 8, "n_heads": 2, "d_mlp": 16,
                "act_fn": "gelu", "normalization_type": "LN", "norm_position": "pre", "attention_dir": "causal",
                "unembed_bias": False, "init_std": 0.02, "init_seed": 0,
            },
            "training": {"n_steps": 2, "batch_size": 8},
        },
        source="test",
    )  # fmt: skip


def test_a_checkpoint_knows_its_task_and_notices_another_file(tmp_path):
    path = tmp_path / "world.json"
    write_world_file(WORLD, path)
    train(recipe(path=str(path), form="words", ood_share=0.2, test_id_share=0.05), tmp_path / "run", progress=False)
    file = next((tmp_path / "run" / "checkpoints").iterdir())
    checkpoint = load_checkpoint(file)
    assert isinstance(checkpoint.task, NaturalLanguageTask)
    assert checkpoint.task.config.form == "words"
    assert checkpoint.net.cfg.n_ctx == 5
    path.unlink()
    write_world_file(WORLD.model_copy(update={"seed": 2}), path)
    with pytest.raises(InputError, match=r"its task cannot be rebuilt: the facts of .* have changed"):
        load_checkpoint(file)


def test_a_checkpoint_of_a_world_needs_no_file(tmp_path):
    task = {"world": WORLD.model_dump(), "form": "words", "ood_share": 0.2, "test_id_share": 0.05}
    train(recipe(**task), tmp_path / "run", progress=False)
    checkpoint = load_checkpoint(next((tmp_path / "run" / "checkpoints").iterdir()))
    assert checkpoint.task.certificate.task_hash == of_world(seed=0, form="words").certificate.task_hash
