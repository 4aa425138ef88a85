# SPDX-License-Identifier: Apache-2.0
"""The numbers a community has to prove: pure functions with formula and source."""
