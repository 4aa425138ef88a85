# SPDX-License-Identifier: Apache-2.0
"""The errors of the simulators.

SimulatorError
├── ScenarioError   a scenario, or a choice on the command line, that cannot be run: correct it
└── LedgerError     a ledger that belongs to another world: choose its seed, or another folder
"""


class SimulatorError(Exception):
    """Root of what the simulators raise."""


class ScenarioError(SimulatorError):
    """Mistakes in a scenario, one a line: ``file:line:key: what is wrong, what is allowed``."""

    def __init__(self, mistakes: list[str]) -> None:
        """Keep every mistake, so that one run shows them all."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class LedgerError(SimulatorError):
    """The ledger in the data folder cannot be continued by this run."""
