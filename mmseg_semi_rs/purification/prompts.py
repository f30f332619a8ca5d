# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Names of the classes for verifiers: natural names and synonyms, and classes not asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Names = tuple[str, ...]

# Plain data, to edit. One entry per trained class id, the natural name first. An empty entry is
# never asked for: background, clutter and no-data are not objects that one could point at.
PROMPTS: dict[str, tuple[Names, ...]] = {
    'potsdam': (
        ('impervious surface', 'road', 'street', 'pavement', 'sidewalk', 'parking lot'),
        ('building', 'house', 'roof', 'rooftop'),
        ('low vegetation', 'grass', 'lawn', 'meadow'),
        ('tree', 'trees', 'tree crown', 'bush'),
        ('car', 'vehicle', 'truck', 'van', 'bus'),
        (),
    ),
    'loveda': (
        (),
        ('building', 'house', 'roof', 'rooftop'),
        ('road', 'street', 'highway'),
        ('water', 'river', 'lake', 'pond'),
        ('barren land', 'bare soil', 'bare ground', 'sand'),
        ('forest', 'woodland', 'trees', 'tree'),
        ('agriculture', 'farmland', 'cropland', 'crop field', 'field'),
    ),
    'deepglobe': (
        ('urban land', 'built-up area', 'buildings', 'houses', 'residential area'),
        ('agriculture land', 'farmland', 'cropland', 'crop field'),
        ('rangeland', 'grassland', 'meadow', 'pasture'),
        ('forest', 'woodland', 'trees'),
        ('water', 'river', 'lake', 'pond'),
        ('barren land', 'bare soil', 'rock', 'desert', 'beach'),
    ),
    'whdld': (
        ('building', 'house', 'roof'),
        ('road', 'street', 'highway'),
        ('pavement', 'sidewalk', 'square', 'plaza'),
        ('vegetation', 'trees', 'grass', 'tree', 'lawn'),
        ('bare soil', 'bare ground', 'construction site'),
        ('water', 'river', 'lake', 'pond'),
    ),
}


class ClassPrompts:
    """Names of the classes for prompts and answers.

    Args:
        classes: Name of an entry of :data:`PROMPTS`, or one entry per class id: a name, several
            names with the natural one first, or None (or an empty sequence) for a class that is
            never asked for. Underscores become spaces.

    Raises:
        ValueError: If there is no such list, no class to ask for, or one name for two classes.

    Examples:
        >>> prompts = ClassPrompts([['low vegetation', 'grass'], None, 'car'])
        >>> len(prompts), prompts.asked, prompts.name(0), prompts.find('Grass')
        (3, (0, 2), 'low vegetation', 0)
    """

    def __init__(self, classes: str | Sequence[str | Sequence[str] | None]) -> None:
        if isinstance(classes, str):
            if classes not in PROMPTS:
                raise ValueError(
                    f'There are no prompts for {classes!r}: choose one of '
                    f'{", ".join(sorted(PROMPTS))}, or give one entry of names per class.'
                )
            classes = PROMPTS[classes]
        self._names: tuple[Names, ...] = tuple(
            ()
            if entry is None
            else tuple(
                name.replace('_', ' ') for name in ([entry] if isinstance(entry, str) else entry)
            )
            for entry in classes
        )
        self._labels: dict[str, int] = {}
        for label, names in enumerate(self._names):
            for name in names:
                known = self._labels.setdefault(_normal(name), label)
                if known != label or not _normal(name):
                    raise ValueError(
                        f'The name {name!r} of class {label} is empty or that of class {known} '
                        'too: give each class names of its own.'
                    )
        if not self._labels:
            raise ValueError(f'The prompts {list(self._names)} ask for no class: name one or more.')

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Names]:
        return iter(self._names)

    @property
    def asked(self) -> tuple[int, ...]:
        """Ids of the classes that are asked for, ascending."""
        return tuple(label for label, names in enumerate(self._names) if names)

    def name(self, label: int) -> str:
        """Return the natural name of a class that is asked for."""
        return self._names[label][0]

    def find(self, name: str) -> int | None:
        """Find the class of a full name or synonym; None if unknown.

        Case, punctuation and a plural 's' are ignored. Parts of words do not match: 'Railroad' is
        not 'road'.

        Args:
            name: The name in an answer.

        Returns:
            The class id.
        """
        wanted = _normal(name)
        for candidate in (wanted, wanted.removesuffix('s'), wanted + 's'):
            if candidate in self._labels:
                return self._labels[candidate]
        return None


def _normal(name: str) -> str:
    """Convert to lower case, words separated by single spaces, without other characters."""
    letters = ''.join(sign if sign.isalnum() else ' ' for sign in name.lower())
    return ' '.join(letters.split())
