"""How a verb becomes a job: one process, or ranks that torchrun starts on every node."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import typer
from torchx import specs
from torchx.components import dist
from torchx.specs.finder import ComponentValidationException

from intrr_rec.cli import app as verbs
from intrr_rec.cli.process.urls import require_openable
from intrr_rec.errors import ConfigError

IMAGE = "intrr_rec:latest"
PORT = 29500


def given(**options: str | None) -> list[str]:
    """Words for the options that have a value; the verb's own default stands for the others."""
    return [word for name, value in options.items() if value for word in (f"--{name.replace('_', '-')}", value)]


def words_of(app: specs.AppDef) -> list[str]:
    """The verb of a job and its words, as a command line gives them to `intrr`, whether torchrun starts it or not."""
    (role,) = app.roles
    words = role.args if role.entrypoint == "python" else shlex.split(role.args[-1])
    return [word for word in words[words.index("intrr_rec") + 1 :] if word != "--"]


class ComponentError(ConfigError, ComponentValidationException):
    """A word that the verb would refuse: known before the job is handed to a scheduler; one line of `torchx run`."""


@dataclass(frozen=True)
class Job:
    """A verb with its words, and where it runs; the fields are those of the components.

    Raises:
        ComponentError: words that the verb does not take, or a URL that no store answers to.
    """

    verb: str
    words: list[str]
    h: str
    image: str
    env: dict[str, str] | None
    mounts: list[str] | None
    metadata: dict[str, str] | None
    max_retries: int

    def __post_init__(self) -> None:
        command: Any = typer.main.get_command(verbs)
        command = command.commands[self.verb]
        try:
            context = command.make_context(self.verb, list(self.words))
            require_openable(self.verb, command.params, context.params)
        except typer.TyperException as error:
            raise ComponentError(f"intrr.{self.verb}: {error.format_message()}") from None
        except ConfigError as error:
            raise ComponentError(f"intrr.{self.verb}: {error}") from None

    def alone(self, **ports: int) -> specs.AppDef:
        """One process; `ports` are those it listens on, by name."""
        role = specs.Role(
            name=self.verb,
            image=self.image,
            entrypoint="python",
            args=["-m", "intrr_rec", self.verb, *self.words],
            env=dict(self.env or {}),
            resource=specs.resource(h=self.h),
            mounts=specs.parse_mounts(self.mounts or []),
            max_retries=self.max_retries,
            port_map=ports,
        )
        return specs.AppDef(self.verb, [role], dict(self.metadata or {}))

    def ranks(self, j: str, max_restarts: int, rdzv_port: int) -> specs.AppDef:
        """Nodes times ranks, by torchrun; ranks of several nodes meet at the first one."""
        cores = specs.resource(h=self.h).cpu
        threads = max(1, cores // dist.parse_nnodes(j)[2])
        defaults = {"OMP_NUM_THREADS": str(threads), "PET_MAX_RESTARTS": str(max_restarts)}
        app = dist.ddp(
            "--",  # else torchrun takes a word such as --run for the beginning of an option of its own
            self.verb,
            *self.words,
            m="intrr_rec",
            name=self.verb,
            h=self.h,
            j=j,
            image=self.image,
            env=defaults | (self.env or {}),
            mounts=self.mounts,
            metadata=dict(self.metadata or {}),
            max_retries=self.max_retries,
            rdzv_port=rdzv_port,
        )
        app.roles[0].name = self.verb
        return app
