"""Learning rates over the steps of a training: Transformers' schedules, by name or as functions.

A schedule is a torch LambdaLR: it multiplies the learning rate of the optimizer by a factor of the step. Factors are
plain functions of the step, first a warm-up from 0 to 1, then what the schedule is named for; they are partials of
functions of this module, so that a schedule can be pickled.
"""

import math
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from gpt2kit.errors import TrainingError


class SchedulerType(str, Enum):
    """The names that get_scheduler takes."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """Keep the optimizer's learning rate."""
    return LambdaLR(optimizer, _one, last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Warm up, then keep the learning rate."""
    return _warmed_up(optimizer, num_warmup_steps, _one, last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Warm up, then fall in a straight line to 0 at num_training_steps."""
    after = partial(_linear, start=num_warmup_steps, end=num_training_steps)
    return _warmed_up(optimizer, num_warmup_steps, after, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, then follow num_cycles waves of a cosine, by default half a wave down to 0."""
    after = partial(_cosine, start=num_warmup_steps, end=num_training_steps, num_cycles=num_cycles)
    return _warmed_up(optimizer, num_warmup_steps, after, last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: int = 1,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, then fall from 1 to 0 along half a cosine, num_cycles times."""
    after = partial(_restarting, start=num_warmup_steps, end=num_training_steps, num_cycles=num_cycles)
    return _warmed_up(optimizer, num_warmup_steps, after, last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, then fall to the rate lr_end at num_training_steps, as the power of what is left."""
    lr: float = optimizer.defaults["lr"]
    if not lr > lr_end:
        raise TrainingError(f"lr_end ({lr_end}) must be smaller than initial lr ({lr})")
    after = partial(
        _polynomial, start=num_warmup_steps, end=num_training_steps, last=lr_end / lr, power=power
    )
    return _warmed_up(optimizer, num_warmup_steps, after, last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Warm up, then fall as 1 / sqrt(1 + steps since / timescale), by default that of the warm-up."""
    after = partial(_inverse_sqrt, start=num_warmup_steps, timescale=timescale or num_warmup_steps or 10_000)
    return _warmed_up(optimizer, num_warmup_steps, after, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Warm up, then follow a cosine down to min_lr, or to min_lr_rate of the initial rate."""
    least = _least_factor(optimizer, min_lr, min_lr_rate)
    after = partial(
        _cosine, start=num_warmup_steps, end=num_training_steps, num_cycles=num_cycles, least=least
    )
    return _warmed_up(optimizer, num_warmup_steps, after, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """The same, where the first step has a rate already: warmup_lr_rate of the initial one, or one step's share."""
    least = _least_factor(optimizer, min_lr, min_lr_rate)
    # Steps count from 1 here: the cosine is one step ahead of the other schedules'.
    after = partial(
        _cosine, start=num_warmup_steps - 1, end=num_training_steps - 1, num_cycles=num_cycles, least=least
    )
    factor = partial(_after_first_rate, num_warmup_steps=num_warmup_steps, first=warmup_lr_rate, after=after)
    return LambdaLR(optimizer, factor, last_epoch)


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, keep the rate for num_stable_steps, then decay to min_lr_ratio of it.

    Of num_training_steps and num_stable_steps one is enough; the second is taken where both are given.
    warmup_type, decay_type: "linear", "cosine" or "1-sqrt".
    """
    for name, value in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if value not in ("linear", "cosine", "1-sqrt"):
            raise TrainingError(f"{name} is {value!r}; it must be 'linear', 'cosine' or '1-sqrt'")
    if num_stable_steps is None:
        if num_training_steps is None:
            raise TrainingError("give num_training_steps or num_stable_steps")
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    factor = partial(
        _stages,
        num_warmup_steps=num_warmup_steps,
        num_stable_steps=num_stable_steps,
        num_decay_steps=num_decay_steps,
        warmup_type=warmup_type,
        decay_type=decay_type,
        least=min_lr_ratio,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch)


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **options: Any) -> ReduceLROnPlateau:
    """Lower the rate when a metric no longer improves; options of torch's ReduceLROnPlateau."""
    return ReduceLROnPlateau(optimizer, **options)


# Schedule -> its function, and which of num_warmup_steps and num_training_steps it takes.
_SCHEDULES: dict[SchedulerType, tuple[Callable[..., LRScheduler], tuple[str, ...]]] = {
    SchedulerType.LINEAR: (get_linear_schedule_with_warmup, ("num_warmup_steps", "num_training_steps")),
    SchedulerType.COSINE: (get_cosine_schedule_with_warmup, ("num_warmup_steps", "num_training_steps")),
    SchedulerType.COSINE_WITH_RESTARTS: (
        get_cosine_with_hard_restarts_schedule_with_warmup,
        ("num_warmup_steps", "num_training_steps"),
    ),
    SchedulerType.POLYNOMIAL: (
        get_polynomial_decay_schedule_with_warmup,
        ("num_warmup_steps", "num_training_steps"),
    ),
    SchedulerType.CONSTANT: (get_constant_schedule, ()),
    SchedulerType.CONSTANT_WITH_WARMUP: (get_constant_schedule_with_warmup, ("num_warmup_steps",)),
    SchedulerType.INVERSE_SQRT: (get_inverse_sqrt_schedule, ("num_warmup_steps",)),
    SchedulerType.REDUCE_ON_PLATEAU: (get_reduce_on_plateau_schedule, ()),
    SchedulerType.COSINE_WITH_MIN_LR: (
        get_cosine_with_min_lr_schedule_with_warmup,
        ("num_warmup_steps", "num_training_steps"),
    ),
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: (
        get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
        ("num_warmup_steps", "num_training_steps"),
    ),
    # num_training_steps may be None beside num_stable_steps.
    SchedulerType.WARMUP_STABLE_DECAY: (get_wsd_schedule, ("num_warmup_steps",)),
}


def get_scheduler(
    name: str | SchedulerType,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LRScheduler:
    """Return a schedule by its name.

    num_warmup_steps, num_training_steps: only needed, and only looked at, where the schedule has them.
    scheduler_specific_kwargs: more arguments of its function. Raises TrainingError for another name, and for an
    argument that is missing.
    """
    try:
        function, needed = _SCHEDULES[SchedulerType(name)]
    except ValueError:
        known = ", ".join(member.value for member in SchedulerType)
        raise TrainingError(f"there is no schedule {str(name)!r}; the schedules are {known}") from None
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for argument in needed:
        if steps[argument] is None:
            raise TrainingError(f"{SchedulerType(name).value} requires `{argument}`; give it")
    options = dict(scheduler_specific_kwargs or {})
    if function is get_wsd_schedule:
        options = {"num_training_steps": num_training_steps, **options}
    if function is get_constant_schedule:
        options = {}
    return function(optimizer, **{argument: steps[argument] for argument in needed}, **options)


def _warmed_up(
    optimizer: Optimizer, num_warmup_steps: int, after: Callable[[int], float], last_epoch: int
) -> LambdaLR:
    return LambdaLR(
        optimizer, partial(_after_warmup, num_warmup_steps=num_warmup_steps, after=after), last_epoch
    )


def _after_warmup(step: int, *, num_warmup_steps: int, after: Callable[[int], float]) -> float:
    return step / max(1, num_warmup_steps) if step < num_warmup_steps else after(step)


def _after_first_rate(
    step: int, *, num_warmup_steps: int, first: float | None, after: Callable[[int], float]
) -> float:
    if step >= num_warmup_steps:
        return after(step)
    if first is None:
        return (step + 1) / max(1, num_warmup_steps)
    return first + (1 - first) * step / max(1, num_warmup_steps - 1)


def _progress(step: int, start: int, end: int) -> float:
    return (step - start) / max(1, end - start)


def _one(step: int) -> float:
    return 1.0


def _linear(step: int, *, start: int, end: int) -> float:
    return max(0.0, (end - step) / max(1, end - start))


def _cosine(step: int, *, start: int, end: int, num_cycles: float, least: float = 0.0) -> float:
    wave = 0.5 * (1.0 + math.cos(2.0 * math.pi * num_cycles * _progress(step, start, end)))
    return max(0.0, wave * (1.0 - least) + least)


def _restarting(step: int, *, start: int, end: int, num_cycles: float) -> float:
    progress = _progress(step, start, end)
    return 0.0 if progress >= 1.0 else 0.5 * (1.0 + math.cos(math.pi * (num_cycles * progress % 1.0)))


def _polynomial(step: int, *, start: int, end: int, last: float, power: float) -> float:
    if step > end:
        return last
    return float((1.0 - last) * (1.0 - _progress(step, start, end)) ** power + last)


def _inverse_sqrt(step: int, *, start: int, timescale: int) -> float:
    return 1.0 / math.sqrt(1.0 + (step - start) / timescale)


def _stages(
    step: int,
    *,
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    warmup_type: str,
    decay_type: str,
    least: float,
    num_cycles: float,
) -> float:
    decay_start = num_warmup_steps + num_stable_steps
    if num_warmup_steps <= step < decay_start:
        return 1.0
    if step >= decay_start + num_decay_steps:
        return least
    # How far from the top: the warm-up is a decay of half a cycle read backwards.
    if step < num_warmup_steps:
        shape, distance, num_cycles = warmup_type, 1.0 - step / max(1, num_warmup_steps), 0.5
    else:
        shape, distance = decay_type, (step - decay_start) / max(1, num_decay_steps)
    if shape == "cosine":
        height = 0.5 * (1.0 + math.cos(2.0 * math.pi * num_cycles * distance))
    else:
        height = 1.0 - (distance if shape == "linear" else math.sqrt(distance))
    return max(0.0, height * (1.0 - least) + least)


def _least_factor(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise TrainingError("give min_lr or min_lr_rate, and not both, through scheduler_specific_kwargs")
    if min_lr_rate is not None:
        return min_lr_rate
    assert min_lr is not None
    return float(min_lr / optimizer.defaults["lr"])
