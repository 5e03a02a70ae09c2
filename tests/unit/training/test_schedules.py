"""Schedules: the learning rates of Transformers' functions, step for step."""

import pickle
import random
from typing import Any

import pytest
import torch
import transformers

import gpt2kit
from gpt2kit.errors import TrainingError
from gpt2kit.training import schedules


def optimizer(lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(make: Any, steps: int, lr: float) -> list[float]:
    chosen = optimizer(lr)
    schedule = make(chosen)
    result = []
    for _ in range(steps):
        result.append(chosen.param_groups[0]["lr"])
        chosen.step()
        schedule.step()
    return result


def random_case(name: str, draw: random.Random) -> dict[str, Any]:
    steps = draw.randint(2, 30)
    warmup = draw.choice([0, 1, draw.randint(0, steps - 1)])
    own: dict[str, Any] = {}
    if "min_lr" in name:
        own = draw.choice([{"min_lr": 0.001}, {"min_lr_rate": draw.random()}])
    if name == "cosine_warmup_with_min_lr":
        own["warmup_lr_rate"] = draw.choice([None, draw.random()])
    if name.startswith("cosine") and draw.random() < 0.5:
        own["num_cycles"] = draw.choice([1, 2, 3]) if "restarts" in name else draw.choice([0.5, 1.0, 1.7])
    if name == "polynomial":
        own = {"lr_end": draw.choice([1e-7, 0.005]), "power": draw.choice([0.5, 1.0, 2.0])}
    if name == "inverse_sqrt":
        own = {"timescale": draw.choice([None, 7])}
    if name == "warmup_stable_decay":
        own = {
            "num_decay_steps": draw.randint(0, steps - warmup),
            "warmup_type": draw.choice(["linear", "cosine", "1-sqrt"]),
            "decay_type": draw.choice(["linear", "cosine", "1-sqrt"]),
            "min_lr_ratio": draw.choice([0, 0.1]),
            "num_cycles": draw.choice([0.5, 1.5]),
        }
        if draw.random() < 0.3:
            own["num_stable_steps"] = draw.randint(0, 10)
    return {
        "num_warmup_steps": warmup,
        "num_training_steps": steps,
        "scheduler_specific_kwargs": own,
    }


NAMES = [item.value for item in schedules.SchedulerType if item.value != "reduce_lr_on_plateau"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
def test_rates_are_those_of_transformers(name: str) -> None:
    draw = random.Random(name)
    for _ in range(20):
        case, lr = random_case(name, draw), draw.choice([0.01, 1.0])
        ours = rates(lambda chosen: gpt2kit.get_scheduler(name, chosen, **case), 35, lr)  # noqa: B023
        theirs = rates(lambda chosen: transformers.get_scheduler(name, chosen, **case), 35, lr)  # noqa: B023
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-15), case


def test_a_schedule_by_its_function() -> None:
    def ours(chosen: Any) -> Any:
        return gpt2kit.get_linear_schedule_with_warmup(chosen, 3, num_training_steps=9)

    def theirs(chosen: Any) -> Any:
        return transformers.get_linear_schedule_with_warmup(chosen, 3, num_training_steps=9)

    assert rates(ours, 12, 0.5) == rates(theirs, 12, 0.5)


def test_a_plateau_lowers_the_rate() -> None:
    chosen = optimizer(1.0)
    schedule: Any = gpt2kit.get_scheduler(
        "reduce_lr_on_plateau", chosen, scheduler_specific_kwargs={"patience": 1, "factor": 0.1}
    )
    for _ in range(4):
        schedule.step(1.0)
    assert chosen.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_schedule_goes_on_from_its_state() -> None:
    chosen = optimizer()
    schedule = gpt2kit.get_cosine_schedule_with_warmup(chosen, 2, 10)
    for _ in range(5):
        chosen.step()
        schedule.step()
    other = optimizer()
    again = gpt2kit.get_cosine_schedule_with_warmup(other, 2, 10)
    again.load_state_dict(pickle.loads(pickle.dumps(schedule.state_dict())))
    assert again.get_last_lr() == schedule.get_last_lr()
    assert pickle.loads(pickle.dumps(schedule)).get_last_lr() == schedule.get_last_lr()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("greedy", {}, "there is no schedule 'greedy'; the schedules are linear, cosine"),
        ("linear", {"num_training_steps": 3}, "linear requires `num_warmup_steps`"),
        ("cosine", {"num_warmup_steps": 3}, "cosine requires `num_training_steps`"),
        (
            "cosine_with_min_lr",
            {"num_warmup_steps": 1, "num_training_steps": 3},
            "give min_lr or min_lr_rate",
        ),
    ],
)
def test_what_is_missing_is_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        gpt2kit.get_scheduler(name, optimizer(), **arguments)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(TrainingError, match="lr_end"):
        gpt2kit.get_polynomial_decay_schedule_with_warmup(optimizer(0.1), 1, 5, lr_end=0.2)
    with pytest.raises(TrainingError, match="warmup_type is 'cubic'"):
        gpt2kit.get_wsd_schedule(optimizer(), 1, 2, num_training_steps=5, warmup_type="cubic")
    with pytest.raises(TrainingError, match="num_training_steps or num_stable_steps"):
        gpt2kit.get_wsd_schedule(optimizer(), 1, 2)
