"""Which faults happen when: made from the seed alone, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

WARM_UP_SECONDS = 10.0
GAPS = 4.0, 14.0
"""Seconds between two faults; some last longer, so that they overlap."""

STEPS = 300
"""A worker makes about as many in some seconds of work (see `chaos.outside`)."""

SERVICES = ("kafka", "registry", "catalog", "s3", "connect")
HTTP_SERVICES = ("catalog", "s3")
"""They may misbehave, too (see `chaos.unruly`)."""


@dataclass(frozen=True)
class Fault:
    """One fault: when it begins (seconds since the changes began), what it is, what it hits, how long it lasts; a
    number that says more: the step that it comes at, by how many seconds the clock jumps, how many of 100 requests it
    meets, what it draws from."""

    at: float
    kind: str
    target: str
    seconds: float = 0.0
    number: int = 0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        number = f" ({self.number})" if self.number else ""
        return f"{self.kind} {self.target}{number}{lasts}"


def faults(seed: int, seconds: float, workers: dict[str, list[str]], session_timeout: float) -> list[Fault]:
    """All of a run of so many seconds. `workers`: names by pipeline."""
    rng = random.Random(f"{seed} faults")
    names = [name for group in workers.values() for name in group]
    pipelines = list(workers)

    def zombie() -> tuple[float]:
        return (session_timeout * rng.uniform(1.3, 2.0),)

    kinds: list[tuple[int, Callable[[float], Fault]]] = [
        (20, lambda at: Fault(at, "kill worker", rng.choice(names))),
        (20, lambda at: Fault(at, "kill worker at a step", rng.choice(names), number=rng.randrange(STEPS))),
        (8, lambda at: Fault(at, "freeze worker at a step", rng.choice(names), *zombie(), rng.randrange(STEPS))),
        (6, lambda at: Fault(at, "fill disk", rng.choice(names), rng.uniform(3.0, 15.0))),
        (4, lambda at: Fault(at, "forget names", rng.choice(names), rng.uniform(3.0, 15.0))),
        (4, lambda at: Fault(at, "move clock", rng.choice(names), rng.uniform(3.0, 15.0), rng.randint(-800, 800))),
        (12, lambda at: Fault(at, "freeze worker", rng.choice(names), *zombie())),
        (6, lambda at: Fault(at, "freeze worker", rng.choice(names), rng.uniform(0.5, 3.0))),
        (10, lambda at: Fault(at, "stop worker", rng.choice(names), rng.uniform(0.0, 8.0))),
        (5, lambda at: Fault(at, "add worker", rng.choice(pipelines), rng.uniform(10.0, 30.0))),
        (4, lambda at: Fault(at, "lose local state", rng.choice(pipelines))),
        (4, lambda at: Fault(at, "move group offset", rng.choice(pipelines), session_timeout + 3.0)),
        (8, lambda at: Fault(at, "touch tables", rng.choice(pipelines), number=rng.randrange(10**6))),
        (14, lambda at: Fault(at, "kill service", rng.choice(SERVICES))),
        (5, lambda at: Fault(at, "throttle service", rng.choice(HTTP_SERVICES), rng.uniform(3.0, 15.0), 100)),
        (5, lambda at: Fault(at, "slow service", rng.choice(HTTP_SERVICES), rng.uniform(3.0, 15.0), 100)),
        (6, lambda at: Fault(at, "lose answers of service", rng.choice(HTTP_SERVICES), rng.uniform(3.0, 15.0), 30)),
        (3, lambda at: Fault(at, "hide objects of service", "s3", rng.uniform(3.0, 15.0), 30)),
        (15, lambda at: Fault(at, "freeze service", rng.choice(SERVICES), rng.uniform(2.0, 15.0))),
    ]
    found: list[Fault] = []
    at = WARM_UP_SECONDS
    while at < seconds - 10.0:
        (make,) = rng.choices([make for _, make in kinds], [weight for weight, _ in kinds])
        found.append(make(at))
        at += rng.uniform(*GAPS)
    return found
