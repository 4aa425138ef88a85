# SPDX-License-Identifier: Apache-2.0
"""Faults on real processes, and the proof that nothing was lost: ``./dev faults``."""
