# SPDX-License-Identifier: Apache-2.0
"""The parts of the comparison with the truth, one noun a module; `deploy.verify` joins them.

Nothing here imports `ingest`: what is compared is what its tables say, by means of its own.
"""
