# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ in the place of Mosquitto: its configuration, users and permissions."""
