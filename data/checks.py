"""What benchmarks check of a `dataset:` section. Every failure is a ValueError that begins with the key."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def check_keys(dataset: Iterable[str], valid: Collection[str]) -> None:
    """Refuse keys that the benchmark does not know."""
    for key in dataset:
        if key not in valid:
            hint = _nearest(key, valid)
            hint = f"did you mean {hint}? " if hint else ""
            raise ValueError(f"dataset.{key}: unknown key; {hint}valid: {', '.join(valid)}")


def check_choice(key: str, value: object, valid: Collection[str]) -> None:
    """Refuse a value that is not one of the names in `valid`."""
    if value not in valid:
        hint = _nearest(value, valid)
        hint = f" (did you mean {hint}?)" if hint else ""
        raise ValueError(f"{key}: {value!r} is not known{hint}; valid: {', '.join(valid)}")


def check_whole(key: str, value: object, least: int, optional: bool = False) -> None:
    """Refuse what is not a whole number of at least `least`; `optional` lets None pass."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key}: {value!r} is not a whole number of at least {least}" + ", nor null" * optional)


def _nearest(name: object, valid: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name), list(valid), n=1)
    return repr(near[0]) if near else ""
