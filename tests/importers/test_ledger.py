"""Every tensor of a foreign file is taken, ignored for a reason, or an error that names the nearest match."""

import pytest
import torch

from circuit_lab.errors import InputError
from circuit_lab.importers import Ledger

SHAPES = {"embed.W_E": (5, 3), "unembed.W_U": (3, 4), "mask": (2, 2)}


@pytest.fixture
def ledger():
    tensors = {name: torch.arange(1.0, 1 + shape[0] * shape[1]).view(shape) for name, shape in SHAPES.items()}
    return Ledger(tensors, place="theirs.pt", layout="made-up")


def test_what_is_taken_is_the_file_s_own(ledger):
    assert torch.equal(ledger.take("embed.W_E", ("d_vocab", 5), ("d_model", 3)), ledger.tensors["embed.W_E"])


def test_every_tensor_must_be_accounted_for(ledger):
    ledger.take("embed.W_E", ("d_vocab", 5), ("d_model", 3))
    ledger.ignore(["mask"], "the causal mask is built in")
    with pytest.raises(InputError, match=r"theirs.pt: unembed.W_U \[3, 4\] is not part of the made-up layout"):
        ledger.close()
    ledger.take("unembed.W_U", ("d_model", 3), ("d_vocab", 4))
    ledger.close()
    assert ledger.ignored == ["mask: the causal mask is built in"]


def test_a_stranger_is_shown_its_nearest_name(ledger):
    with pytest.raises(InputError, match=r"the nearest name to embed.W_E is embed.W_e$"):
        ledger.close(known=["embed.W_e", "pos_embed.W_pos"])


def test_the_nearest_name_is_sought_among_those_taken(ledger):
    ledger.tensors["embed.W_E2"] = torch.ones(1)
    for name, (rows, columns) in SHAPES.items():
        ledger.take(name, ("rows", rows), ("columns", columns))
    with pytest.raises(InputError, match=r"embed.W_E2 \[1\].*nearest name to embed.W_E2 is embed.W_E$"):
        ledger.close()


def test_many_strangers_are_counted_and_few_are_named():
    ledger = Ledger({f"t{i}": torch.ones(1) for i in range(9)}, place="theirs.pt", layout="made-up")
    with pytest.raises(InputError, match=r"t0 \[1\], .*t4 \[1\] and 4 more is not part"):
        ledger.close()


def test_many_ignored_are_counted_and_few_are_named():
    ledger = Ledger({f"t{i}": torch.ones(1) for i in range(9)}, place="theirs.pt", layout="made-up")
    ledger.ignore(ledger.tensors, "optimiser state")
    assert ledger.ignored == ["t0, t1, t2, t3, t4 and 4 more: optimiser state"]
    ledger.close()


def test_ignoring_nothing_says_nothing(ledger):
    ledger.ignore([], "no such thing")
    assert ledger.ignored == []


def test_a_missing_tensor_is_an_error_with_the_nearest_name(ledger):
    with pytest.raises(InputError, match=r"embed.W_e is missing, so this is no whole made-up net.*is embed.W_E$"):
        ledger.take("embed.W_e", ("d_vocab", 5), ("d_model", 3))


def test_without_a_near_name_none_is_made_up(ledger):
    with pytest.raises(InputError, match=r"qkv is missing, so this is no whole made-up net$"):
        ledger.shape("qkv")


def test_a_wrong_shape_names_the_axes(ledger):
    with pytest.raises(InputError, match=r"embed.W_E must be \[d_vocab = 5, d_model = 4\], got \[5, 3\]$"):
        ledger.take("embed.W_E", ("d_vocab", 5), ("d_model", 4))


def test_a_transposed_tensor_is_called_that(ledger):
    with pytest.raises(InputError, match=r"must be \[d_model = 3, d_vocab = 5\], got \[5, 3\]; it looks transposed"):
        ledger.take("embed.W_E", ("d_model", 3), ("d_vocab", 5))


def test_what_was_inferred_is_kept_with_its_reason(ledger):
    ledger.infer("n_heads = 3", "first axis of W_Q")
    assert ledger.inferred == ["n_heads = 3 (first axis of W_Q)"]


def test_a_refused_tensor_is_not_accounted_for(ledger):
    with pytest.raises(InputError):
        ledger.take("embed.W_E", ("d_vocab", 6), ("d_model", 3))
    ledger.ignore(["mask", "unembed.W_U"], "not of interest")
    with pytest.raises(InputError, match="embed.W_E"):
        ledger.close()


def test_all_weights_get_the_one_type_that_loses_nothing():
    ledger = Ledger({}, place="theirs.pt", layout="made-up")
    half, single, double = (torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64))
    assert {w.dtype for w in ledger.in_one_dtype({"a": single, "b": single}).values()} == {torch.float32}
    assert ledger.inferred == []
    assert {w.dtype for w in ledger.in_one_dtype({"a": half}).values()} == {torch.float32}
    assert {w.dtype for w in ledger.in_one_dtype({"a": half, "b": double}).values()} == {torch.float64}
    assert ledger.inferred == [
        "dtype = float32 (the file has bfloat16)",
        "dtype = float64 (the file has bfloat16, float64)",
    ]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_what_is_no_floating_point_number_is_no_weight(dtype):
    ledger = Ledger({}, place="theirs.pt", layout="made-up")
    with pytest.raises(InputError, match=f"theirs.pt: a is of {dtype}, which no net has"):
        ledger.in_one_dtype({"a": torch.ones(2).to(dtype)})
