# SPDX-License-Identifier: Apache-2.0
"""HTTP, live stream, log-in and console: shows people what ingest stored."""
