"""The `cdc` command: a group whose commands live in `app/commands`, imported when they are called."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from config.errors import LakewardError

COMMANDS = {
    "validate": "app.commands.validate:validate",
    "deploy": "app.commands.deploy:deploy",
    "undeploy": "app.commands.deploy:undeploy",
    "health": "app.commands.health:health",
    "consume": "app.commands.consume:consume",
    "run": "app.commands.run:run",
    "watermarks": "app.commands.watermarks:watermarks",
    "verify": "app.commands.verify:verify",
    "lakehouse": "app.commands.lakehouse:lakehouse",
    "stack": "app.commands.stack:stack",
}


class LazyGroup(click.Group):
    """Imports a command's module only when it is used: `cdc stack` must not pay for Faust and PyIceberg."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakeward")
def cdc() -> None:
    """Debezium change events from Kafka into Iceberg and Delta tables, exactly once."""


def main() -> None:
    """Console entry point: an error of ours is one readable line and exit status 1, not a traceback."""
    try:
        cdc(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except LakewardError as error:
        click.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        sys.exit(1)
