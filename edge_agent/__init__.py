# SPDX-License-Identifier: Apache-2.0
"""Runs on the box beside the hardware: measures, keeps, publishes; owns the wire contract."""
