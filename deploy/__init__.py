# SPDX-License-Identifier: Apache-2.0
"""Running Linli: the local runner, the servers it starts, and what production needs."""
