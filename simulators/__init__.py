# SPDX-License-Identifier: Apache-2.0
"""Simulated hardware under real edge agents: a seeded world, its faults, and what is true in it."""
