"""The pairs that name the key frequencies are read nowhere."""

from types import SimpleNamespace

import torch

from circuit_lab import reference_model
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.modular import diagnose as modular


def test_what_names_the_frequencies_is_read_nowhere(monkeypatch):
    named_on, read = [], []

    def decomposing(logits, members, *, fit):
        if set(members) == {"naming"}:
            named_on.append(members["naming"])
            return SimpleNamespace(key_frequencies=("7",))  # which nothing else would name
        elif "all" not in members:
            read.extend(members.values())
        return decompose(logits, members, fit=fit)

    decompose = modular.decompose
    monkeypatch.setattr(modular, "decompose", decomposing)
    checkpoint = reference_model("modular-grokked")
    diagnosis = diagnose((checkpoint.net, checkpoint.task))
    (naming,) = named_on
    splits = checkpoint.task.splits
    assert not any((naming & split).any() for split in read)
    counted = {outcome.split: outcome.n for outcome in diagnosis.outcomes}
    assert counted["test_unmirrored"] == len(splits["test_unmirrored"]) - int(naming.sum())
    assert counted["test"] == len(splits["test"]) - len(splits["test"]) // 4
    assert diagnosis.n_candidates == 29  # frequencies of p = 59
    measured = diagnosis.measurements
    assert {measured.key_frequencies, *(found.key_frequencies for found in measured.ablations.values())} == {("7",)}


def test_a_quarter_is_drawn_and_never_everything():
    members = torch.zeros(50, dtype=torch.bool)
    members[10:30] = True
    drawn = modular._sample_quarter(members, torch.Generator().manual_seed(0))
    assert int(drawn.sum()) == 5 and not (drawn & ~members).any()
    assert not torch.equal(drawn, modular._sample_quarter(members, torch.Generator().manual_seed(1)))
