# SPDX-License-Identifier: Apache-2.0
"""From the broker, through one transaction, to TimescaleDB; indicators, rules and alerts."""
