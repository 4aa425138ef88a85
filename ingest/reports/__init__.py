# SPDX-License-Identifier: Apache-2.0
"""The monthly report of an area as XLSX, PDF and CSV; it says what it does not know."""
