import pytest
from pydantic import BaseModel, ValidationError

from circuit_lab.tasks import (
    AUGMENTATION_REGIMES,
    TASKS,
    Augmentation,
    ModularConfig,
    NaturalLanguageConfig,
    TaskConfig,
    TransferConfig,
    TwoHopConfig,
    TwoHopFolderConfig,
    build_task,
)

SIZES = {"n_entities": 12, "n_relations": 5, "out_degree": 4}
CUSTOM = {"hop1": {"ratio": 0.25, "samples_per_fact": 3}, "hop2": {"ratio": 1, "samples_per_fact": 0}}


def test_the_five_regimes_are_those_of_the_paper():
    table = {
        name: tuple((hop.ratio, hop.samples_per_fact) for hop in hops) for name, hops in AUGMENTATION_REGIMES.items()
    }
    assert table == {
        "natural": ((0, 0), (0, 0)),
        "both_full": ((1, 18), (1, 18)),
        "both_half": ((0.5, 9), (0.5, 9)),
        "first_hop_full": ((1, 18), (0, 0)),
        "second_hop_full": ((0, 0), (1, 18)),
    }


def test_regime_defaults_to_natural_and_gives_way_to_an_augmentation():
    assert TwoHopConfig(**SIZES).regime == "natural"
    config = TwoHopConfig.model_validate(SIZES | {"augmentation": CUSTOM})
    assert config.regime is None
    assert config.hop_augmentations == (
        Augmentation(ratio=0.25, samples_per_fact=3),
        Augmentation(ratio=1.0, samples_per_fact=0),
    )


@pytest.mark.parametrize("extra", [{}, {"regime": "both_half"}, {"augmentation": CUSTOM}, {"phi": 2, "seed": 2**70}])
def test_config_survives_json(extra):
    config = TwoHopConfig.model_validate(SIZES | extra)
    assert TwoHopConfig.model_validate_json(config.model_dump_json()) == config
    assert TwoHopConfig.model_validate(config.model_dump()) == config


def test_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        TwoHopConfig(**SIZES).seed = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_degree": 6}, r"out_degree = 6 is more than n_relations = 5.*set out_degree to at most 5"),
        ({"ood_share": 0.0}, r"(?s)ood_share.*greater than 0.*input_value=0.0"),
        ({"ood_share": 1.0}, r"(?s)ood_share.*less than 1.*input_value=1.0"),
        ({"ood_share": float("nan")}, r"(?s)ood_share.*finite number"),
        ({"ood_share": "0.1"}, r"(?s)ood_share.*valid number.*input_value='0.1'"),
        ({"test_id_share": 1.5}, r"(?s)test_id_share.*less than 1.*input_value=1.5"),
        ({"phi": 0.0}, r"(?s)phi.*greater than 0.*input_value=0.0"),
        ({"leaked_share": -0.1}, r"(?s)leaked_share.*greater than or equal to 0.*input_value=-0.1"),
        ({"seed": -1}, r"(?s)seed.*greater than or equal to 0.*input_value=-1"),
        ({"n_entities": 1}, r"(?s)n_entities.*greater than or equal to 2.*input_value=1"),
        ({"n_entities": True}, r"(?s)n_entities.*valid integer.*input_value=True"),
        ({"shuffled_answers": "yes"}, r"(?s)shuffled_answers.*valid boolean.*input_value='yes'"),
        ({"regime": "both"}, r"unknown regime 'both'; the regimes are: natural, both_full, both_half, first_hop_full"),
        ({"regime": None}, r"exactly one of regime and augmentation, got regime = None and augmentation = None"),
        (
            {"regime": "natural", "augmentation": CUSTOM},
            r"exactly one of regime and augmentation.*leave one of them out",
        ),
        ({"out_degre": 3}, r"unknown TwoHopConfig setting 'out_degre' = 3; the settings are: kind, n_entities"),
        (
            {"augmentation": CUSTOM | {"hop3": 1}},
            r"unknown AugmentationPair setting 'hop3' = 1; the settings are: hop1, hop2",
        ),
        (
            {"augmentation": {"hop1": {"ratio": 1.5, "samples_per_fact": 1}, "hop2": CUSTOM["hop2"]}},
            r"(?s)augmentation.hop1.ratio.*less than or equal to 1.*input_value=1.5",
        ),
        (
            {"augmentation": {"hop1": {"ratio": 1, "samples_per_fact": -2}, "hop2": CUSTOM["hop2"]}},
            r"(?s)augmentation.hop1.samples_per_fact.*greater than or equal to 0.*input_value=-2",
        ),
        (
            {"augmentation": {"hop1": {"ratio": 1, "k": 2}, "hop2": CUSTOM["hop2"]}},
            r"unknown Augmentation setting 'k' = 2; the settings are: ratio, samples_per_fact",
        ),
    ],
)
def test_refusals_name_setting_value_and_fix(change, message):
    with pytest.raises(ValueError, match=message):
        TwoHopConfig.model_validate(SIZES | change)


def test_every_kind_of_config_has_a_builder():
    configs = (TwoHopConfig, TwoHopFolderConfig, TransferConfig, NaturalLanguageConfig, ModularConfig)
    kinds = {model.model_fields["kind"].default for model in configs}
    assert set(TASKS) == kinds
    assert build_task(TwoHopConfig(**SIZES, ood_share=0.3)).config.kind == "two_hop"


def test_task_config_is_chosen_by_kind():
    class Holder(BaseModel):
        task: TaskConfig

    folder = {"kind": "two_hop_folder", "path": "data", "content_hash": "0" * 64}
    assert isinstance(Holder.model_validate({"task": folder}).task, TwoHopFolderConfig)
    assert isinstance(Holder.model_validate({"task": SIZES | {"kind": "two_hop"}}).task, TwoHopConfig)
    with pytest.raises(
        ValueError,
        match=r"'three_hop'.*expected tags: 'two_hop', 'two_hop_folder', 'two_hop_transfer', "
        "'natural_language', 'modular'",
    ):
        Holder.model_validate({"task": {"kind": "three_hop"}})
    with pytest.raises(ValueError, match=r"(?s)content_hash.*pattern"):
        TwoHopFolderConfig(path="data", content_hash="xyz")
    with pytest.raises(ValueError, match="unknown TwoHopFolderConfig setting 'hash' = 1"):
        TwoHopFolderConfig.model_validate(folder | {"hash": 1})
