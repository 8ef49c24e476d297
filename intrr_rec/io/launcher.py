"""Rank and number of ranks, as a launcher (torchrun, TorchX, Slurm) puts them into the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from intrr_rec.errors import ConfigError

SPEAK_EVERY = 10.0  # seconds between two lines of a process that waits for others
PATIENCE = "INTRR_RANKS_TIMEOUT"


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job.

    Attributes:
        launched: whether a launcher said so; without one the process is alone.
    """

    rank: int
    size: int
    launched: bool

    @classmethod
    def from_environment(cls) -> Ranks:
        """RANK and WORLD_SIZE; a variable that is set to nothing counts as not set.

        Raises:
            ConfigError: one without the other, or values that make no sense together.
        """
        values = {name: os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE")}
        if not any(values.values()):
            return cls(0, 1, launched=False)
        for name, value in values.items():
            other = next(word for word in values if word != name)
            if not value:
                raise ConfigError(f"{other} is {values[other]}, but {name} is not set; {stray()}")
            if not value.isdecimal():
                raise ConfigError(f"{name} is {value!r}, not a whole number; {stray()}")
        rank, size = int(values["RANK"]), int(values["WORLD_SIZE"])
        if rank >= size:
            raise ConfigError(f"RANK is {rank}, but WORLD_SIZE is {size}, so ranks run from 0 to {size - 1}; {stray()}")
        return cls(rank, size, launched=True)


def is_first_of_host() -> bool:
    """Whether this process does what is done once a host: LOCAL_RANK is 0, or not set."""
    return os.environ.get("LOCAL_RANK", "").strip() in ("", "0")


def patience() -> float:
    """Seconds that a process waits for the other ranks of its job to come: INTRR_RANKS_TIMEOUT, or ten minutes.

    Raises:
        ConfigError: not a positive number.
    """
    text = os.environ.get(PATIENCE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{PATIENCE} is {text!r}, not a positive number of seconds; correct or unset it")
    return seconds


def stray() -> str:
    """What to do about variables that no launcher meant for this process."""
    return "start all ranks by torchrun, or, where one process was meant, `unset RANK WORLD_SIZE`"
