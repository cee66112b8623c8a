"""The methods' settings: validated dataclasses, one a `sparse_type`. Free of torch, so that a sweep is checked at once.

A new method subclasses `MethodConfig`, names its `sparse_type` and builds its implementation; from then on
`config_from_dict({"sparse_type": ...})` and the benchmark's YAML know it.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from draft_approx_llm.method import Method

_REGISTRY: dict[str, type[MethodConfig]] = {}


@dataclass(frozen=True)
class MethodConfig:
    """Base of every method's settings. Subclasses with a `sparse_type` are found by `config_from_dict`.

    Class attributes:
        sparse_type: the method's name in YAML.
        needs_draft: whether `patch_model` must be given a draft model.
        simulated: the method hides what it drops instead of freeing it: its memory figures are of a real
            implementation.
        external: run by a tool in an environment of its own (scripts/run_external.py), not by `patch_model`.
        model_settings: names of settings that are a further model's folder or hub name.
    """

    sparse_type: ClassVar[str | None] = None
    needs_draft: ClassVar[bool] = False
    simulated: ClassVar[bool] = False
    external: ClassVar[bool] = False
    model_settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("sparse_type"):
            _REGISTRY[cls.sparse_type] = cls

    def build(self) -> Method:
        """The object that does the work; imported here so that reading a configuration stays light."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its method is built: define build()")

    @property
    def first_draft_layer(self) -> int:
        """The first layer of the draft that is listened to; the draft must have it."""
        return 0

    @property
    def prefill_key(self) -> tuple[Hashable, ...]:
        """What the target reads, in words, and what else decides about it: methods of equal keys share a prefill."""
        return f"{self.sparse_type}'s own", repr(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> MethodConfig:
        """Reads the YAML form. Raises ValueError for an unknown or a missing key, or a value that cannot be."""
        settings = dict(settings)
        named = settings.pop("sparse_type", cls.sparse_type)
        if named != cls.sparse_type:
            raise ValueError(f"sparse_type: {named!r} is not {cls.__name__}'s {cls.sparse_type!r}")
        known = {f.name: f for f in fields(cls)}
        for key in settings:
            if key not in known:
                raise ValueError(f"{key}: unknown key for sparse_type {cls.sparse_type!r}.{_nearest(key, known)}")
        missing = [
            name
            for name, f in known.items()
            if f.default is MISSING and f.default_factory is MISSING and name not in settings
        ]
        if missing:
            raise ValueError(f"{missing[0]}: missing; sparse_type {cls.sparse_type!r} cannot do without it")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """The YAML form, complete: `config_from_dict(config.to_dict()) == config`."""
        return {"sparse_type": self.sparse_type, **asdict(self)}


def config_from_dict(settings: dict[str, Any]) -> MethodConfig:
    """The configuration that a YAML `sparse_config` describes.

    Raises ValueError that begins with the offending key and names the remedy.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"sparse_config must be a mapping with a sparse_type, not {settings!r}")
    name = settings.get("sparse_type")
    if name not in _REGISTRY:
        problem = "missing." if name is None else f"unknown method {name!r}."
        raise ValueError(f"sparse_type: {problem}{_nearest(str(name), _REGISTRY)}")
    return _REGISTRY[name].from_dict(settings)


def _nearest(key: str, valid: Any) -> str:
    if not valid:
        return " It has no settings: leave the key out."
    close = difflib.get_close_matches(key, list(valid), n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Valid: {', '.join(sorted(valid))}."


def check_int(config: MethodConfig, name: str, minimum: int, optional: bool = False) -> None:
    """A whole number of at least `minimum` (or None if `optional`), else ValueError."""
    value = getattr(config, name)
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        wanted = "a whole number or null" if optional else "a whole number"
        raise ValueError(f"{name}: must be {wanted}, not {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: must be at least {minimum}, not {value}")


def check_choice(config: MethodConfig, name: str, choices: tuple[str | None, ...]) -> None:
    """One of `choices`, else ValueError."""
    value = getattr(config, name)
    if value not in choices:
        shown = ", ".join("null" if choice is None else choice for choice in choices)
        raise ValueError(f"{name}: must be one of {shown}, not {value!r}")


def check_budget(config: Any, optional: bool = False) -> None:
    """One of `max_capacity_prompt` and `budget_ratio`; neither only if `optional`."""
    check_int(config, "max_capacity_prompt", 1, optional=True)
    ratio = config.budget_ratio
    if ratio is None:
        if config.max_capacity_prompt is None and not optional:
            raise ValueError("max_capacity_prompt: missing; or give budget_ratio, a share of each prompt's tokens")
        return
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise ValueError(f"budget_ratio: must be a number above 0, at most 1, not {ratio!r}")
    if config.max_capacity_prompt is not None:
        raise ValueError("budget_ratio: give it or max_capacity_prompt, not both; make max_capacity_prompt null")


def capacity_of(n: int, max_capacity_prompt: int | None, budget_ratio: float | None) -> int | None:
    """The budget in tokens of a prompt of n tokens; None is no budget.

    A ratio's is budget_ratio * n, rounded to the nearest (halves up), at least 1.
    """
    return max_capacity_prompt if budget_ratio is None else max(1, int(budget_ratio * n + 0.5))


def check_window(config: KVConfig | SpecPCConfig) -> None:
    """A window smaller than the budget that includes it, else ValueError."""
    if config.max_capacity_prompt is not None and config.window_size >= config.max_capacity_prompt:
        raise ValueError(
            f"window_size: {config.window_size} leaves no room in max_capacity_prompt {config.max_capacity_prompt}, "
            "which includes the window. Lower window_size or raise max_capacity_prompt."
        )


@dataclass(frozen=True)
class FullConfig(MethodConfig):
    """Nothing is dropped: the control that every other method is measured against."""

    sparse_type: ClassVar[str] = "full"

    @property
    def prefill_key(self) -> tuple[Hashable, ...]:
        return ("prompt",)

    def build(self) -> Method:
        from draft_approx_llm.method import Full

        return Full()


# Settings of a `KVConfig` that importance does not depend on.
_NOT_SCORING = (
    "max_capacity_prompt",
    "budget_ratio",
    "sink_size",
    "allocation",
    "pyramid_beta",
    "adaptive_floor",
    "prefill_window_size",
    "prefill_vertical_size",
)

QUERIES = ("window", "draft", "target", "oracle", "random", "dummy")
ALLOCATIONS = ("uniform", "pyramid", "adaptive", "pyramid_adaptive")


@dataclass(frozen=True)
class KVConfig(MethodConfig):
    """A KV-dropping method as three choices: whose queries score the keys, how scores become importance, and how the
    budget is shared out. SnapKV, SpecKV and the rest are names for settings of these axes, each of which can be set.

    Args:
        max_capacity_prompt: KV pairs kept per KV head, on average over layers and heads, the window included. The last
            prompt token is read again after the dropping and is not counted.
        budget_ratio: instead, the budget as a share of the prompt's tokens (`capacity_of` says how it is rounded).
        window_size: prompt tokens before the last one that score the others with it and are always kept. A budget
            (by ratio) no larger than the window is all window.
        sink_size: first tokens of the prompt that are always kept, within the budget.
        queries: whose queries score, after the window's: "window" (no others), or those of lookahead tokens that follow
            the prompt: "draft" (SpecKV), "target" (its own, generated over a cache that its window compressed to the
            same budget: LAQ), "oracle" (its own, over the full cache), "random" (tokens drawn uniformly from the
            vocabulary) or "dummy" (the last prompt token over and over, at the positions to come).
        lookahead_tokens: how many of those; None means the request's max_new_tokens.
        reduction_type: "max" or "mean", over the scoring queries and a group's query heads.
        head_reduction: "group" gives each KV head its own importance, "layer" reduces over all heads of the layer.
        pool_type: "max", "mean" or None: how importance is smoothed along positions.
        kernel_size: width of that pool in tokens; odd, so that it is centred.
        allocation: how the budget is shared out: "uniform"; "pyramid" (more to lower layers, PyramidKV); "adaptive" (in
            a layer, to the heads whose scores are highest, Ada-KV); "pyramid_adaptive".
        pyramid_beta: steepness of the pyramid: the top layer gets 1 / pyramid_beta of the mean budget outside the
            window.
        adaptive_floor: share of its even part that each head keeps whatever the other heads' scores.
        seed: of random tokens.
        prefill_window_size, prefill_vertical_size: local band and number of columns of SpecKV's sparse prefill, used
            when prompt and lookahead are longer than their sum; None (both) means a dense prefill.
    """

    max_capacity_prompt: int | None = None
    budget_ratio: float | None = None
    window_size: int = 32
    sink_size: int = 0
    queries: str = "window"
    lookahead_tokens: int | None = None
    reduction_type: str = "mean"
    head_reduction: str = "group"
    pool_type: str | None = None
    kernel_size: int = 1
    allocation: str = "uniform"
    pyramid_beta: int = 20
    adaptive_floor: float = 0.2
    seed: int = 42
    prefill_window_size: int | None = None
    prefill_vertical_size: int | None = None

    def __post_init__(self) -> None:
        check_budget(self, optional=self._budget_is_optional)
        check_int(self, "window_size", 0)
        check_int(self, "sink_size", 0)
        check_int(self, "kernel_size", 1)
        check_int(self, "pyramid_beta", 1)
        check_int(self, "seed", 0)
        check_int(self, "lookahead_tokens", 1, optional=True)
        check_int(self, "prefill_window_size", 1, optional=True)
        check_int(self, "prefill_vertical_size", 1, optional=True)
        check_choice(self, "queries", QUERIES)
        check_choice(self, "pool_type", ("max", "mean", None))
        check_choice(self, "reduction_type", ("max", "mean"))
        check_choice(self, "head_reduction", ("group", "layer"))
        check_choice(self, "allocation", ALLOCATIONS)
        check_window(self)
        if self.max_capacity_prompt is not None and self.window_size + self.sink_size > self.max_capacity_prompt:
            raise ValueError(
                f"sink_size: {self.sink_size} and window_size {self.window_size} leave no room in max_capacity_prompt "
                f"{self.max_capacity_prompt}, which includes both. Lower one or raise max_capacity_prompt."
            )
        if not isinstance(self.adaptive_floor, (int, float)) or not 0 <= self.adaptive_floor <= 1:
            raise ValueError(f"adaptive_floor: must be a number from 0 to 1, not {self.adaptive_floor!r}")
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size: {self.kernel_size} is even, and importance is pooled around each position. "
                f"Use {self.kernel_size - 1} or {self.kernel_size + 1}."
            )
        if (self.prefill_window_size is None) != (self.prefill_vertical_size is None):
            raise ValueError(
                "prefill_window_size: give it together with prefill_vertical_size (sparse prefill), or make both null"
                " (dense prefill)"
            )

    @property
    def _budget_is_optional(self) -> bool:
        """Without a budget only the sparse prefill is left: such a configuration must ask for one."""
        return self.prefill_window_size is not None

    @property
    def needs_draft(self) -> bool:
        return self.queries == "draft"

    def capacity(self, n: int) -> int | None:
        """KV pairs kept of a prompt of n tokens, per KV head on average; None drops nothing."""
        return capacity_of(n, self.max_capacity_prompt, self.budget_ratio)

    @property
    def scoring(self) -> tuple[tuple[str, Any], ...]:
        """The settings that importance depends on."""
        return tuple((name, value) for name, value in vars(self).items() if name not in _NOT_SCORING)

    @property
    def prefill_key(self) -> tuple[Hashable, ...]:
        words, rest = "prompt", ()
        if self.queries != "window":
            words += f" + {self.queries} lookahead"
            # What the target says over a compressed cache depends on all that compressed it.
            ahead = {"random": self.seed, "target": repr(self)}.get(self.queries)
            rest += (self.lookahead_tokens, ahead)
        if self.prefill_window_size is not None:
            words += ", sparse"
            # Configurations of one `build` are scored by one class.
            rest += (self.prefill_window_size, self.prefill_vertical_size, type(self).build, self.scoring)
        return (words, *rest)

    def build(self) -> Method:
        from draft_approx_llm.kv_dropping import KVDropping

        return KVDropping(self)


@dataclass(frozen=True)
class SpecKVConfig(KVConfig):
    """SpecKV (paper, section 4): the draft's lookahead decides which KV pairs the target keeps.

    The axes are those of `KVConfig`; these are the paper's settings. max_capacity_prompt None drops nothing, so that
    only the sparse prefill remains. The published default kernel_size, 64, is even and crashes the reference; the
    default here is the 7 of every published experiment.
    """

    sparse_type: ClassVar[str] = "speckv"

    max_capacity_prompt: int | None = 1024
    window_size: int = 64
    queries: str = "draft"
    reduction_type: str = "max"
    pool_type: str | None = "max"
    kernel_size: int = 7
    prefill_window_size: int | None = 2048
    prefill_vertical_size: int | None = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "window_size", 1)

    @property
    def _budget_is_optional(self) -> bool:
        return True


@dataclass(frozen=True)
class SpecPCConfig(MethodConfig):
    """SpecPC (paper, section 5): the draft's attention decides which prompt tokens the target reads.

    Args:
        max_capacity_prompt: prompt tokens the target reads, the window included.
        window_size: prompt tokens at the end whose attention is read and which are always kept.
        pool_type, kernel_size: smoothing along positions; "max", "mean" or None. Even kernels reach one further right.
        reduction_type: "max" or "mean", over heads, queries, layers and lookahead steps.
        lookahead_tokens: tokens the draft generates; every one after the first adds a row of attention. None means
            the request's max_new_tokens.
        neighbor_tokens: how many tokens around a chosen one come with it; None means kernel_size, 0 none.
        starting_layer_index: the draft's first layer that is listened to.
        weighted_query: scale the window's rows by linspace(0, 1), so that later queries count more.
        position_ids: "contiguous" (the paper: the kept tokens are read as an ordinary prompt) or "original" (they
            keep their places, as comparable systems do).
        budget_ratio: instead of max_capacity_prompt (make that null), the share of the prompt's tokens that is read. A
            budget by ratio no larger than the window is all window.
    """

    sparse_type: ClassVar[str] = "specpc"
    needs_draft: ClassVar[bool] = True

    max_capacity_prompt: int | None = 1024
    window_size: int = 64
    pool_type: str | None = "max"
    kernel_size: int = 64
    reduction_type: str = "max"
    lookahead_tokens: int | None = 1
    neighbor_tokens: int | None = None
    starting_layer_index: int = 8
    weighted_query: bool = True
    position_ids: str = "contiguous"
    budget_ratio: float | None = None

    def __post_init__(self) -> None:
        check_budget(self)
        check_int(self, "window_size", 1)
        check_int(self, "kernel_size", 1)
        check_int(self, "lookahead_tokens", 1, optional=True)
        check_int(self, "neighbor_tokens", 0, optional=True)
        check_int(self, "starting_layer_index", 0)
        check_choice(self, "pool_type", ("max", "mean", None))
        check_choice(self, "reduction_type", ("max", "mean"))
        check_choice(self, "position_ids", ("contiguous", "original"))
        if not isinstance(self.weighted_query, bool):
            raise ValueError(f"weighted_query: must be true or false, not {self.weighted_query!r}")
        check_window(self)

    @property
    def first_draft_layer(self) -> int:
        return self.starting_layer_index

    def capacity(self, n: int) -> int:
        """Tokens that the target reads of a prompt of n tokens, at most."""
        return capacity_of(n, self.max_capacity_prompt, self.budget_ratio)

    def build(self) -> Method:
        from draft_approx_llm.specpc import SpecPC

        return SpecPC(self)


@dataclass(frozen=True)
class SpecKVPCConfig(MethodConfig):
    """SpecKV-PC (paper, section 6): SpecPC shortens the prompt, SpecKV drops KV pairs of what is left.

    The draft runs once, for SpecPC; SpecKV takes its lookahead over, so `speckv_config.lookahead_tokens` has no say
    and must be left out (or equal). The reference generates 20 lookahead tokens whatever `max_new_tokens` says when
    `specpc_config.lookahead_tokens` is None; here None means max_new_tokens, and a faithful configuration writes 20.
    """

    sparse_type: ClassVar[str] = "speckvpc"
    needs_draft: ClassVar[bool] = True

    specpc_config: SpecPCConfig = field(
        default_factory=lambda: SpecPCConfig(max_capacity_prompt=2048, lookahead_tokens=None)
    )
    speckv_config: SpecKVConfig = field(default_factory=SpecKVConfig)

    def __post_init__(self) -> None:
        for name, kind in (("specpc_config", SpecPCConfig), ("speckv_config", SpecKVConfig)):
            value = getattr(self, name)
            if isinstance(value, dict):
                try:
                    object.__setattr__(self, name, kind.from_dict(value))
                except ValueError as error:
                    raise ValueError(f"{name}.{error}") from None
            elif not isinstance(value, kind):
                raise ValueError(f"{name}: must be a {kind.__name__} or a mapping, not {value!r}")
        if self.speckv_config.queries != "draft":
            raise ValueError("speckv_config.queries: must be draft in the cascade, whose lookahead is the draft's")
        lookahead = self.speckv_config.lookahead_tokens
        if lookahead is not None and lookahead != self.specpc_config.lookahead_tokens:
            raise ValueError(
                f"speckv_config.lookahead_tokens: {lookahead} differs from specpc_config's "
                f"{self.specpc_config.lookahead_tokens}, and the draft runs once. Set only specpc_config's."
            )

    @property
    def first_draft_layer(self) -> int:
        return self.specpc_config.starting_layer_index

    @property
    def prefill_key(self) -> tuple[Hashable, ...]:
        words, *rest = self.speckv_config.prefill_key
        return f"shortened {words}", repr(self.specpc_config), *rest

    def to_dict(self) -> dict[str, Any]:
        return {
            "sparse_type": self.sparse_type,
            "specpc_config": asdict(self.specpc_config),
            "speckv_config": asdict(self.speckv_config),
        }

    def build(self) -> Method:
        from draft_approx_llm.speckv_pc import SpecKVPC

        return SpecKVPC(self)
