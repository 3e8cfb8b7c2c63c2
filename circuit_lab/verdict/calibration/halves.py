"""The two halves of the controls, family by family: thresholds are chosen on one and reported on the other.

Every verdict that a net in memory can get occurs in both halves (`ungrokked` needs an earlier state, so only trained
runs have it), and so does every kind of control. Families of one half are made otherwise than those of the other: what
was chosen on the first cannot have been fitted to the second.
"""

DEVELOPMENT_FAMILIES = frozenset(
    {
        "two_hop/shared_table",
        "two_hop/bridge_at_h",
        "two_hop/duplicate_paths",
        "two_hop/test_table",
        "two_hop/unused_bridge",
        "two_hop/training_table",
        "two_hop/second_read_id",
        "two_hop/first_read_id",
        "two_hop/both_reads_id",
        "two_hop/mixture_by_relation",
        "two_hop/lossy_circuit",
        "two_hop/shuffled_training_table",
        "two_hop/shuffled_circuit",
        "two_hop/untrained_shared",
        "two_hop/untrained_bidirectional",
        "modular/cosines",
        "modular/flat_table",
        "modular/training_table",
        "modular/lossy_circuit",
        "modular/random_label_training_table",
        "modular/random_label_cosines",
        "modular/untrained_relu",
    }
)
HELD_OUT_FAMILIES = frozenset(
    {
        "two_hop/unshared_tables",
        "two_hop/hidden_bridge",
        "two_hop/bridge_at_r2",
        "two_hop/split_bridge",
        "two_hop/full_table",
        "two_hop/pair_through_r1",
        "two_hop/training_table_unused_bridge",
        "two_hop/pair_through_r1_training",
        "two_hop/test_id_table",
        "two_hop/second_read_part",
        "two_hop/first_read_part",
        "two_hop/mixed_failures",
        "two_hop/mixture_by_query",
        "two_hop/mixture_of_all_queries",
        "two_hop/partial_table",
        "two_hop/shuffled_full_table",
        "two_hop/wrong_table",
        "two_hop/untrained_standard",
        "two_hop/untrained_cycle",
        "two_hop/untrained_no_norm",
        "modular/few_phases",
        "modular/uneven_table",
        "modular/narrow_table",
        "modular/other_operations_table",
        "modular/mirrored_table",
        "modular/mixture",
        "modular/partial_table",
        "modular/random_label_full_table",
        "modular/random_commutative_table",
        "modular/untrained_norm",
    }
)


def is_held_out(family: str) -> bool:
    """Which half a family of wired or untrained nets belongs to.

    >>> is_held_out("two_hop/shared_table"), is_held_out("two_hop/hidden_bridge")
    (False, True)

    Args:
        family: Name of the family.

    Returns:
        True for the held-out half.

    Raises:
        ValueError: If the family stands in neither half.
    """
    if family in DEVELOPMENT_FAMILIES:
        return False
    if family in HELD_OUT_FAMILIES:
        return True
    raise ValueError(f"family {family!r} is in neither half; add it to one of the two in {__name__}")
