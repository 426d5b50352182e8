"""Learning rates as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, cos, pi

from chargaff.train.config import ScheduleSpec

Schedule = Callable[[int], float]
"""Optimizer step, counted from 0 -> learning rate of that step."""


def cosine_schedule(
    lr: float,
    *,
    horizon_steps: float,
    warmup_steps: float = 0.0,
    warmup_lr: float = 1e-6,
    min_lr: float = 0.0,
    after_warmup: bool = True,
) -> Schedule:
    """Linear warm-up from `warmup_lr`, then half a cosine wave down to `min_lr`, which stays.

    Args:
        horizon_steps: length of the wave, the warm-up not included.
        after_warmup: the wave begins when the warm-up ends; otherwise at step 0, under the warm-up.
    """

    def decay(t: float) -> float:
        return min_lr + 0.5 * (lr - min_lr) * (1 + cos(pi * t / horizon_steps))

    return _warmed(decay, lr, warmup_steps, warmup_lr, after_warmup, horizon_steps, min_lr)


def linear_schedule(
    lr: float,
    *,
    horizon_steps: float,
    warmup_steps: float = 0.0,
    warmup_lr: float = 1e-6,
    min_lr: float = 0.0,
    after_warmup: bool = True,
) -> Schedule:
    """As `cosine_schedule`, with a straight line."""

    def decay(t: float) -> float:
        return lr + (min_lr - lr) * t / horizon_steps

    return _warmed(decay, lr, warmup_steps, warmup_lr, after_warmup, horizon_steps, min_lr)


def constant_schedule(lr: float, *, warmup_steps: float = 0.0, warmup_lr: float = 1e-6) -> Schedule:
    return _warmed(lambda t: lr, lr, warmup_steps, warmup_lr, True, float("inf"), lr)


def step_schedule(
    lr: float, *, milestones: Sequence[float], gamma: float, warmup_steps: float = 0.0, warmup_lr: float = 1e-6
) -> Schedule:
    """Multiplied by `gamma` from each of the steps `milestones` on."""

    def decay(t: float) -> float:
        return lr * gamma ** sum(t >= milestone for milestone in milestones)

    return _warmed(decay, lr, warmup_steps, warmup_lr, False, float("inf"), lr)


def wsd_schedule(
    lr: float,
    *,
    horizon_steps: float,
    decay_steps: float,
    warmup_steps: float = 0.0,
    warmup_lr: float = 1e-6,
    min_lr: float = 0.0,
) -> Schedule:
    """Linear warm-up, constant, then a straight line down to `min_lr` over the last `decay_steps` of the horizon."""

    def decay(t: float) -> float:
        return lr + (min_lr - lr) * max(0.0, (t - horizon_steps + decay_steps) / decay_steps)

    return _warmed(decay, lr, warmup_steps, warmup_lr, False, horizon_steps, min_lr)


def make_schedule(spec: ScheduleSpec, lr: float, horizon_steps: int) -> Schedule:
    """The schedule of a run whose learning rate is planned over `horizon_steps` optimizer steps, warm-up included."""
    warmup = spec.warmup * horizon_steps if spec.warmup_steps is None else spec.warmup_steps
    if spec.kind == "constant":
        return constant_schedule(lr, warmup_steps=warmup, warmup_lr=spec.warmup_lr)
    if spec.kind == "step":
        marks = [fraction * horizon_steps for fraction in spec.milestones]
        return step_schedule(lr, milestones=marks, gamma=spec.gamma, warmup_steps=warmup, warmup_lr=spec.warmup_lr)
    min_lr = spec.min_lr_ratio * lr if spec.min_lr is None else spec.min_lr
    if spec.kind == "wsd":
        return wsd_schedule(
            lr,
            horizon_steps=horizon_steps,
            decay_steps=spec.decay * horizon_steps,
            warmup_steps=warmup,
            warmup_lr=spec.warmup_lr,
            min_lr=min_lr,
        )
    make = cosine_schedule if spec.kind == "cosine" else linear_schedule
    return make(
        lr,
        horizon_steps=max(1.0, horizon_steps - warmup if spec.after_warmup else horizon_steps),
        warmup_steps=warmup,
        warmup_lr=spec.warmup_lr,
        min_lr=min_lr,
        after_warmup=spec.after_warmup,
    )


def horizon_steps(*, max_steps: int, epochs: int | None, batch: int, horizon_samples: int | None) -> int:
    """Steps that a schedule is planned over: all of the run, or those of a nominal data set size."""
    if horizon_samples is None or epochs is None:
        return max_steps
    return ceil(horizon_samples / batch) * epochs


def _warmed(
    decay: Callable[[float], float],
    lr: float,
    warmup_steps: float,
    warmup_lr: float,
    after_warmup: bool,
    horizon_steps: float,
    last: float,
) -> Schedule:
    def rate(step: int) -> float:
        if step < warmup_steps:
            return warmup_lr + step * (lr - warmup_lr) / warmup_steps
        t = step - warmup_steps if after_warmup else float(step)
        return decay(t) if t < horizon_steps else last

    return rate
