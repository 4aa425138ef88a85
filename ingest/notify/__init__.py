# SPDX-License-Identifier: Apache-2.0
"""Telling people and machines of alerts: whom, when, by what, and whether it arrived."""
