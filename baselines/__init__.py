"""Other methods, written against the library's contracts: one short file each, named after its `sparse_type`.

`baselines/my_method.py` defines a `MethodConfig` with `sparse_type = "my_method"`; nothing else has to know of it. The
file is imported when a configuration first names it. README.md, "Add a method", shows one whole.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules


def available() -> list[str]:
    """The methods that this folder adds."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> None:
    """Makes the method called `name` known to `draft_approx_llm.config_from_dict`, if this folder has it."""
    if name in available():
        import_module(f"baselines.{name}")
