# SPDX-License-Identifier: Apache-2.0
"""Drivers of real hardware; each module has a factory ``make(device, options)``."""
