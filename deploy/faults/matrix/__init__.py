# SPDX-License-Identifier: Apache-2.0
"""The fault matrix, one module a part of the system that is hurt; importing them registers all."""
