"""Folds: which splits (chromosomes) train, validate and test; a table read at load time."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from importlib import resources

from epinformer_jax.data import chromosomes, delimited

ROLES = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Fold:
    """Three disjoint groups of splits, none of them empty.

    Raises:
      ValueError: a part is empty, or a split stands twice.
    """

    name: str
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self):
        seen: dict[str, str] = {}
        for role in ROLES:
            splits = getattr(self, role)
            if not splits:
                raise ValueError(f"fold {self.name!r}: its {role} part is empty")
            for split in splits:
                if split in seen:
                    raise ValueError(
                        f"fold {self.name!r}: split {split!r} is in {seen[split]} and in {role}"
                    )
                seen[split] = role

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits of the fold."""
        return (*self.train, *self.valid, *self.test)

    def restrict(self, available: Iterable[str]) -> "Fold":
        """The fold over the splits that a dataset has.

        Raises:
          ValueError: a part becomes empty; names the splits it would need.
        """
        available = set(available)
        parts = {role: tuple(s for s in getattr(self, role) if s in available) for role in ROLES}
        for role, splits in parts.items():
            if not splits:
                wanted = ", ".join(getattr(self, role))
                has = ", ".join(chromosomes.natural_order(available)) or "none"
                raise ValueError(
                    f"fold {self.name!r}: the dataset has none of its {role} splits ({wanted}); "
                    f"it has {has}"
                )
        return Fold(self.name, **parts)


def read_folds(path: str | os.PathLike) -> dict[str, Fold]:
    """Reads a folds table: columns split, fold, role (train, valid or test), folds in file order.

    Raises:
      ValueError: a column is missing, an unknown role, a split twice in a fold, or an empty part;
        names file and line.
    """
    raw = delimited.read_text(path)
    for name in ("split", "fold", "role"):
        if name not in raw:
            raise ValueError(f"{path}: column {name!r} is missing; found: {', '.join(raw.columns)}")
    members: dict[str, dict[str, list[str]]] = {}
    role_of: dict[tuple[str, str], str] = {}
    rows = zip(*(delimited.as_name(raw, name) for name in ("split", "fold", "role")), strict=True)
    for row, (split, fold, role) in enumerate(rows):
        place = delimited.where(raw, row)
        if role not in ROLES:
            raise ValueError(f"{place}: role {role!r}; expected {', '.join(ROLES)}")
        if (fold, split) in role_of:
            raise ValueError(
                f"{place}: split {split!r} is already in {role_of[fold, split]} of fold {fold!r}"
            )
        role_of[fold, split] = role
        members.setdefault(fold, {name: [] for name in ROLES})[role].append(split)
    try:
        return {
            fold: Fold(
                fold,
                **{
                    role: tuple(chromosomes.natural_order(splits)) for role, splits in parts.items()
                },
            )
            for fold, parts in members.items()
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@functools.cache
def _published() -> dict[str, Fold]:
    with resources.as_file(resources.files("epinformer_jax.data") / "published_folds.tsv") as path:
        return read_folds(path)


def published_folds() -> dict[str, Fold]:
    """The 12 folds of the publication, fold_1 to fold_12, over chr1..chr22 and chrX."""
    return dict(_published())


def get_fold(folds: Mapping[str, Fold], name: str) -> Fold:
    """Looks a fold up by its name.

    Raises:
      ValueError: there is none; lists those there are.
    """
    if name not in folds:
        raise ValueError(f"unknown fold {name!r}; known: {', '.join(folds)}")
    return folds[name]


def fold_testing(folds: Mapping[str, Fold], split: str) -> Fold:
    """The fold that tests a split: the one whose model has not seen it.

    Raises:
      ValueError: no fold tests it, or more than one does.
    """
    testing = [fold for fold in folds.values() if split in fold.test]
    if len(testing) != 1:
        found = ", ".join(fold.name for fold in testing) or "none"
        raise ValueError(f"split {split!r} is tested by {found} of the folds; expected exactly one")
    return testing[0]
