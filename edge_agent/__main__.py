# SPDX-License-Identifier: Apache-2.0
"""``linli-edge``: run the agent of one gateway, check or print its configuration."""

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig, DeviceConfig, load, render
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.kinds import Driver
from edge_agent.publisher import agent_version, tls_context

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
ConfigOption = Annotated[Path, typer.Option("--config", help="the gateway's TOML file")]

EXIT_CONFIG = 2


@app.command()
def run(
    config: ConfigOption,
    check: Annotated[
        bool, typer.Option("--check", help="check everything, then stop without connecting")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="log every message")] = False,
) -> None:
    """Measure, keep and publish until stopped by SIGTERM or SIGINT."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    with _explained():
        settings, drivers = _checked(config)
        if check:
            return
        agent = Agent(settings, drivers, SystemClock())
    log.info(
        "starting gateway=%s devices=%d version=%s",
        settings.gateway, len(drivers), agent_version(),
    )  # fmt: skip
    try:
        asyncio.run(_until_signalled(agent))
    finally:
        agent.close()


@app.command("check-config")
def check_config(config: ConfigOption) -> None:
    """Check the configuration, the certificates and the drivers; exit 2 if anything is wrong."""
    with _explained():
        settings, drivers = _checked(config)
    print(f"{config}: gateway {settings.gateway}, {len(drivers)} devices, nothing wrong")


@app.command("print-config")
def print_config(config: ConfigOption) -> None:
    """Print the effective configuration as TOML, secrets hidden."""
    with _explained():
        print(render(load(config, os.environ)), end="")


def main() -> None:
    """Run the command line."""
    app(prog_name="linli-edge")


def _checked(path: Path) -> tuple[AgentConfig, list[Driver]]:
    """Return the configuration and its drivers.

    Raises:
        ConfigError: With everything that is wrong.
    """
    settings = load(path, os.environ)
    problems: list[str] = []
    try:
        tls_context(settings.broker)
    except OSError as error:
        problems.append(f"{path}: broker: {error}")
    drivers: list[Driver] = []
    for index, one in enumerate(settings.devices):
        try:
            drivers.append(load_driver(one))
        except ConfigError as error:
            problems.append(f"{path}: devices[{index}].driver: {error}")
    if problems:
        raise ConfigError(*problems)
    return settings, drivers


def load_driver(config: DeviceConfig) -> Driver:
    """Return the driver that ``config`` names.

    Raises:
        ConfigError: There is no such factory, or it refuses the options.
    """
    module_name, _, factory_name = config.driver.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{config.driver}: cannot load: {error}") from error
    try:
        driver: Driver = factory(config.device, config.options)
    except (TypeError, ValueError, KeyError, OSError) as error:
        raise ConfigError(f"{config.driver}: refuses device {config.device}: {error}") from error
    if driver.kind != config.kind:
        raise ConfigError(
            f"{config.driver}: makes a {driver.kind}, but kind = {config.kind!r} is configured"
        )
    return driver


async def _until_signalled(agent: Agent) -> None:
    running = asyncio.ensure_future(agent.run())
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    log.info("stopped")


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Tell an operator's mistakes as text, and exit 2."""
    try:
        yield
    except EdgeError as error:
        _refuse(str(error))


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
