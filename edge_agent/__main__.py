# SPDX-License-Identifier: Apache-2.0
"""``linli-edge``: run the agent of one gateway, check or print its configuration."""

import argparse
import asyncio
import contextlib
import ctypes
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NoReturn

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig, DeviceConfig, load, render
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.kinds import Driver
from edge_agent.link import tls_context
from edge_agent.publisher import agent_version

log = logging.getLogger(__name__)

EXIT_CONFIG: Final = 2
# For what blocks: the outbox, and the files of a connection. Each thread costs memory.
THREADS: Final = 2
# mallopt(3) of glibc: how many heaps there may be.
_M_ARENA_MAX: Final = -8


def run(arguments: argparse.Namespace) -> None:
    """Measure, keep and publish until stopped by SIGTERM or SIGINT."""
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    _share_one_heap()
    with _explained():
        settings, drivers = _checked(arguments.config)
        if arguments.check:
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


def check_config(arguments: argparse.Namespace) -> None:
    """Check the configuration, the certificates and the drivers; exit 2 if anything is wrong."""
    with _explained():
        settings, drivers = _checked(arguments.config)
    print(f"{arguments.config}: gateway {settings.gateway}, {len(drivers)} devices, nothing wrong")


def print_config(arguments: argparse.Namespace) -> None:
    """Print the effective configuration as TOML, secrets hidden."""
    with _explained():
        print(render(load(arguments.config, os.environ)), end="")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    # Not typer, which the servers' programs use: it would cost a small box 2 MB.
    parser = argparse.ArgumentParser("linli-edge", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    run_parser = _verb(verbs.add_parser, "run", run)
    run_parser.add_argument(
        "--check", action="store_true", help="check everything, then stop without connecting"
    )
    run_parser.add_argument("--verbose", action="store_true", help="log every message")
    _verb(verbs.add_parser, "check-config", check_config)
    _verb(verbs.add_parser, "print-config", print_config)
    given = parser.parse_args(arguments)
    given.does(given)


def _verb(
    add: Callable[..., argparse.ArgumentParser],
    name: str,
    does: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = add(name, help=does.__doc__, description=does.__doc__)
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the gateway's TOML file"
    )
    parser.set_defaults(does=does)
    return parser


def _checked(path: Path) -> tuple[AgentConfig, list[Driver]]:
    """Return the configuration, and the drivers instead of its devices.

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
    # What the drivers were made from is not needed again, and of hundreds it is half a megabyte.
    return settings.model_copy(update={"devices": ()}), drivers


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


def _share_one_heap() -> None:
    """Have all threads use one heap, where glibc would give each its own, mostly empty."""
    with contextlib.suppress(AttributeError, OSError):  # another C library knows no such setting
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


async def _until_signalled(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, "outbox"))
    running = asyncio.ensure_future(agent.run())
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
    raise SystemExit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
