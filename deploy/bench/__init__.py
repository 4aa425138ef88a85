# SPDX-License-Identifier: Apache-2.0
"""What things cost, measured beside a baseline in the same run: ``./dev bench``."""
