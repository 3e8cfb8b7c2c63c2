"""Settings of modular arithmetic and of permutations: which operation, which pairs are trained on, which labels.

Sources: the operations of Power et al. 2022 (arXiv 2201.02177); sizes and random labels of Varma et al. 2023 (arXiv
2309.02390).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from circuit_lab.tasks.modular_splits import DRAWN_SPLITS, MAX_SEED, SPLITS, Split, check_indices, n_from_share
from circuit_lab.tasks.settings import Number, Settings

Operation = Literal[
    "a+b", "a-b", "a*b", "a/b", "a^2+b^2", "a^2+ab+b^2", "a^2+ab+b^2+a", "S5: ab", "S5: aba^-1", "S5: aba"
]
Labels = Literal["true", "random", "random_commutative"]
COMMUTATIVE = ("a+b", "a*b", "a^2+b^2", "a^2+ab+b^2")
"""Operations whose answer to (b, a) is that to (a, b)."""
MAX_P = 2000
"""The logits of all pairs are p^3 numbers: 64 GB here, and of no use beyond."""


class ModularConfig(Settings):
    """Everything that determines a modular-arithmetic (or S5) task; equal configs give equal tasks.

    The training pairs of one seed are nested: those of a smaller `n_train` are among those of a larger one. Which pairs
    another code trained on is said by `split`; its schemes, and row-major indices, are those of `modular_splits`.

    Attributes:
        kind: Names the task in the table that dispatches.
        operation: What is computed, modulo `p` or in S5; "a/b" leaves out b = 0.
        p: An odd prime, at most `MAX_P`; left out for S5, which has 120 elements.
        train_share: Share of the pairs that are trained on, in (0, 1), rounded as `split` says; excludes `n_train`.
        n_train: Number D of training pairs, at least 1 and fewer than there are; excludes `train_share`.
        split: How the training pairs are chosen, a key of `SPLITS`; "listed" by default where `train_pairs` is given.
            "unknown": the task has no training items, and cannot be trained on.
        train_pairs: Row-major indices a * p + b (a * 120 + b for S5) of the training pairs, in any order, each once.
        labels: "true"; "random": every pair has a random answer, which only rote can learn; "random_commutative":
            random, but (a, b) and (b, a) have the same.
        seed: Fixes the training pairs that are drawn, in [0, `MAX_SEED`]; whichever generator draws them.
        label_seed: Fixes the random labels, >= 0.
    """

    kind: Literal["modular"] = "modular"
    operation: Operation = "a+b"
    p: int | None = Field(default=None, strict=True)
    train_share: Number | None = Field(default=None, gt=0, lt=1)
    n_train: int | None = Field(default=None, ge=1, strict=True)
    split: Split = "ours"
    train_pairs: tuple[Annotated[int, Strict()], ...] | None = Field(default=None, repr=False)
    labels: Labels = "true"
    seed: int = Field(default=0, ge=0, le=MAX_SEED, strict=True)
    label_seed: int = Field(default=0, ge=0, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _a_list_of_pairs_is_a_split(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("train_pairs") is not None and "split" not in data:
            return data | {"split": "listed"}
        return data

    @field_validator("train_pairs")
    @classmethod
    def _in_order(cls, train_pairs: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Equal sets of pairs are equal configs."""
        return None if train_pairs is None else tuple(sorted(train_pairs))

    @model_validator(mode="after")
    def _settings_agree(self) -> "ModularConfig":
        if self.is_permutation and self.p is not None:
            raise ValueError(f'p = {self.p} does not go with operation = "{self.operation}"; leave p out')
        if not self.is_permutation:
            _check_prime(self.p)
        if self.split in DRAWN_SPLITS:
            self._check_drawn()
        else:
            self._check_not_drawn()
        return self

    def _check_drawn(self) -> None:
        """A share or a number says how many pairs, and leaves some on either side."""
        if self.train_pairs is not None:
            raise ValueError(
                f'split = "{self.split}" draws the training pairs, so leave train_pairs out, or leave split out'
            )
        if (self.train_share is None) == (self.n_train is None):
            raise ValueError(
                f"give exactly one of train_share and n_train, got train_share = {self.train_share!r} and "
                f"n_train = {self.n_train!r}; leave one of them out"
                + ("" if self.n_train is not None else ' (or say that nobody knows them: split = "unknown")')
            )
        if self.n_train is not None and self.n_train >= self.n_pairs:
            raise ValueError(
                f"n_train = {self.n_train} leaves no pair held out: there are {self.n_pairs}; "
                f"set n_train to at most {self.n_pairs - 1}"
            )
        if self.train_share is None:
            return
        n_train = n_from_share(self.split, self.train_share, self.n_pairs)
        if n_train >= self.n_pairs:
            raise ValueError(
                f"train_share = {self.train_share} of {self.n_pairs} pairs, rounded up, leaves no pair held out; "
                f"lower it, or give n_train = {self.n_pairs - 1} or less instead"
            )
        if n_train == 0:
            raise ValueError(
                f"train_share = {self.train_share} of {self.n_pairs} pairs, rounded down, leaves no pair to train on; "
                "raise it, or give n_train = 1 or more instead"
            )

    def _check_not_drawn(self) -> None:
        """Nothing but a list says which pairs."""
        unused = {"train_share": self.train_share, "n_train": self.n_train, "seed": self.seed or None}
        if self.split == "unknown":
            unused["train_pairs"] = None if self.train_pairs is None else f"{len(self.train_pairs)} indices"
        for name, value in unused.items():
            if value is not None:
                raise ValueError(
                    f'{name} = {value} does not go with split = "{self.split}" ({SPLITS[self.split]}); leave {name} '
                    f"out, or say which pairs it draws: split = {' or '.join(DRAWN_SPLITS)}"
                )
        if self.split == "listed":
            if self.train_pairs is None:
                raise ValueError('split = "listed" needs train_pairs; give the row-major indices of the training pairs')
            check_indices(self.train_pairs, n_elements=self.n_elements, allows_zero=self.operation != "a/b")

    @property
    def n_training_pairs(self) -> int | None:
        """Pairs that are trained on; None where nobody knows."""
        if self.train_share is not None:
            return n_from_share(self.split, self.train_share, self.n_pairs)
        return self.n_train if self.train_pairs is None else len(self.train_pairs)

    @property
    def is_permutation(self) -> bool:
        """Whether the operation is one of S5's."""
        return self.operation.startswith("S5")

    @property
    def is_commutative(self) -> bool:
        """Whether (a, b) and (b, a) have the same answer by construction."""
        return self.labels == "random_commutative" or (self.labels == "true" and self.operation in COMMUTATIVE)

    @property
    def n_elements(self) -> int:
        """Values that a and b can take: p, or 120."""
        if self.is_permutation:
            return 120
        assert self.p is not None
        return self.p

    @property
    def n_pairs(self) -> int:
        """Pairs (a, b) that have an answer."""
        return self.n_elements * (self.n_elements - (self.operation == "a/b"))


def _check_prime(p: int | None) -> None:
    if p is None:
        raise ValueError("p is missing; give an odd prime, such as p = 59 or p = 113")
    if p > MAX_P:
        raise ValueError(f"p must be at most {MAX_P}, got {_shortened(p)}: the logits of all pairs are p^3 numbers")
    factor = next((d for d in range(2, int(p**0.5) + 1) if p % d == 0), None) if p > 2 else None
    if p < 3 or factor is not None:
        below = next((str(q) for q in range(p - 1, 2, -1) if _is_odd_prime(q)), None)
        above = next(str(q) for q in range(max(p, 2) + 1, 2 * max(p, 2) + 3) if _is_odd_prime(q))
        made_of = f" (= {factor} x {p // factor})" if factor is not None else ""
        nearest = f"primes are {below} and {above}" if below is not None else f"prime is {above}"
        raise ValueError(f"p must be an odd prime, got {p}{made_of}; the nearest {nearest}")


def _shortened(p: int) -> str:
    """A number that may have more digits than Python prints."""
    return str(p) if p < 10**20 else "a number of more than 20 digits"


def _is_odd_prime(n: int) -> bool:
    return n > 2 and all(n % d for d in range(2, int(n**0.5) + 1))
