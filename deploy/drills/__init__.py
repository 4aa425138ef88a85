# SPDX-License-Identifier: Apache-2.0
"""Drills: an installation of several machines loses one of them. One module a drill."""
