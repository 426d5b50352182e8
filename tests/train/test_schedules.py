"""Learning rates equal the published ones to the last digit."""

import json
from math import ceil
from pathlib import Path

import pytest

from chargaff.train.config import ScheduleSpec
from chargaff.train.schedules import cosine_schedule, horizon_steps, make_schedule

CASES = json.loads(
    (Path(__file__).parents[1] / "goldens/data/caduceus/training_cases.json").read_text(encoding="utf-8")
)["lr_schedules"]


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['lr']}" for case in CASES])
def test_cosine_gives_the_published_rates(case):
    schedule = cosine_schedule(
        case["lr"],
        horizon_steps=case["t_initial"],
        warmup_steps=case["warmup_t"],
        warmup_lr=case["warmup_lr_init"],
        min_lr=case["lr_min"],
        after_warmup=case["warmup_prefix"],
    )
    for step, expected in case["lr_used_at_update"].items():
        assert schedule(int(step)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['lr']}" for case in CASES])
def test_run_file_settings_give_the_published_rates(case):
    if case["kind"] == "pretrain":
        spec, horizon = ScheduleSpec(min_lr=1e-4), case["max_steps"]
    else:
        spec = ScheduleSpec(warmup=0.01, min_lr_ratio=0.1, after_warmup=False, horizon_samples=case["train_len"])
        horizon = horizon_steps(
            max_steps=7, epochs=case["epochs"], batch=case["batch"], horizon_samples=spec.horizon_samples
        )
        assert horizon == ceil(case["train_len"] / case["batch"]) * case["epochs"]
    schedule = make_schedule(spec, case["lr"], horizon)
    for step, expected in case["lr_used_at_update"].items():
        assert schedule(int(step)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ScheduleSpec(kind="constant", warmup=0), {0: 1.0, 99: 1.0, 500: 1.0}),
        (ScheduleSpec(kind="constant", warmup_steps=10, warmup_lr=0), {0: 0.0, 5: 0.5, 10: 1.0}),
        (ScheduleSpec(kind="linear", warmup=0), {0: 1.0, 25: 0.75, 100: 0.0, 300: 0.0}),
        (ScheduleSpec(kind="linear", warmup=0.2, warmup_lr=0, min_lr=0.5), {10: 0.5, 20: 1.0, 60: 0.75, 100: 0.5}),
        (ScheduleSpec(kind="linear", warmup=0.2, warmup_lr=0, after_warmup=False), {10: 0.5, 20: 0.8, 60: 0.4}),
        (ScheduleSpec(kind="step", warmup=0), {49: 1.0, 50: 0.1, 75: 0.01, 99: 0.01}),
        (ScheduleSpec(kind="cosine", warmup=0), {0: 1.0, 50: 0.5, 100: 0.0}),
    ],
)
def test_other_kinds(spec, expected):
    schedule = make_schedule(spec, 1.0, 100)
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, abs=1e-12)


def test_warm_up_stable_decay():
    spec = ScheduleSpec(kind="wsd", warmup_steps=10, warmup_lr=0.0, decay=0.25, min_lr_ratio=0.1)
    schedule = make_schedule(spec, 2.0, 100)
    assert [schedule(step) for step in (0, 5, 10, 50, 75)] == [0.0, 1.0, 2.0, 2.0, 2.0]
    assert schedule(76) < 2.0
    assert schedule(87) == pytest.approx(2.0 - 1.8 * 12 / 25)
    assert schedule(100) == schedule(500) == pytest.approx(0.2)


def test_before_its_decay_a_wsd_run_does_not_depend_on_its_length():
    spec = ScheduleSpec(kind="wsd", warmup_steps=10, decay=0.2)
    short, long = (make_schedule(spec, 1.0, steps) for steps in (100, 1000))
    assert [short(step) for step in range(80)] == [long(step) for step in range(80)]
