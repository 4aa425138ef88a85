# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's users and permissions, made of Mosquitto's ACL: one table of who may say what.

RabbitMQ asks three things where Mosquitto asks one: may the user touch the queue of its session,
the exchange, and the topic. It sees topics in its own notation: ``.`` between levels, ``*`` for
``+``. ``python -m deploy.rabbitmq.definitions GATEWAYS.csv`` writes them for a registry. A mistake
ends in plain sentences on standard error and status 2.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edge_agent.kinds.base import GATEWAY_PATTERN
from ingest.errors import RegistryError
from ingest.registry_tables import LIVES

HERE: Final = Path(__file__).resolve().parent
ACL: Final = HERE.parent / "mosquitto/acl"
EXCHANGE: Final = "amq.topic"
_NOTHING: Final = "^$"
_SECTIONS: Final = {"read": ("read",), "write": ("write",), "readwrite": ("read", "write")}
# Like Mosquitto's limits, of each of ingest's two queues; what is dropped is sent again.
_QUEUE_BYTES_MAX: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rights:
    """The topic filters somebody may write to and read from, in MQTT's notation."""

    write: list[str] = field(default_factory=list[str])
    read: list[str] = field(default_factory=list[str])


def parse(acl: str) -> tuple[Rights, Mapping[str, Rights]]:
    """Read an ACL of Mosquitto's: what every gateway may (``%u`` is itself), and each service.

    Raises:
        ValueError: A line that this reader does not know.
    """
    everybody = Rights()
    services: dict[str, Rights] = {}
    speaking: Rights | None = None
    for line in acl.splitlines():
        words = line.split()
        match words:
            case [] | ["#", *_]:
                continue
            case ["user", name]:
                speaking = services.setdefault(name, Rights())
            case ["pattern", access, topic] if access in _SECTIONS:
                _add(everybody, access, topic)
            case ["topic", access, topic] if access in _SECTIONS and speaking is not None:
                _add(speaking, access, topic)
            case _:
                raise ValueError(f"not a line of an ACL: {line!r}")
    return everybody, services


def _add(rights: Rights, access: str, topic: str) -> None:
    for section in _SECTIONS[access]:
        getattr(rights, section).append(topic)


def expression(filters: Sequence[str]) -> str:
    """The regular expression of all topics, and subscriptions, within these topic filters.

    A level matches one name, or the wildcard for one; only a filter that ends with ``#`` lets a
    subscription end so.
    """
    return f"^({'|'.join(map(_expression, filters))})$" if filters else _NOTHING


def _expression(topic: str) -> str:
    levels = {"+": "[^.#]+", "#": ".+", "%u": "{username}"}
    return r"\.".join(levels.get(level) or re.escape(level) for level in topic.split("/"))


def definitions(gateways: Iterable[str], acl: str | None = None) -> dict[str, Any]:
    """All that a cluster has to be told; importing it again adds what is new.

    Args:
        gateways: Ids, the CNs of their certificates.
        acl: As `ACL` holds it, if not that.
    """
    everybody, services = parse(ACL.read_text() if acl is None else acl)
    users = {**dict.fromkeys(gateways, everybody), **services}
    return {
        "vhosts": [{"name": "/"}],
        # Without a password: a certificate is the only way to be somebody.
        "users": [{"name": name, "password_hash": "", "tags": []} for name in users],
        "permissions": [_permission(name) for name in users],
        "topic_permissions": [
            {
                "user": name,
                "vhost": "/",
                "exchange": EXCHANGE,
                "write": expression(rights.write),
                "read": expression(rights.read),
            }
            for name, rights in users.items()
        ],
        "policies": [
            {
                "vhost": "/",
                "name": "ingest",
                "pattern": "^mqtt-subscription-ingest-.*qos1$",
                "apply-to": "quorum_queues",
                "definition": {
                    # A lost connection counts as a delivery of all it held; after 20 of them a
                    # message would be dropped.
                    "delivery-limit": -1,
                    "max-length-bytes": _QUEUE_BYTES_MAX,
                },
                "priority": 0,
            }
        ],
    }


def _permission(user: str) -> Mapping[str, str]:
    queue = f"mqtt-subscription-{re.escape(user)}qos[01]"
    exchange = re.escape(EXCHANGE)
    return {
        "user": user,
        "vhost": "/",
        "configure": f"^{queue}$",
        "write": f"^({queue}|{exchange})$",
        "read": f"^({queue}|{exchange})$",
    }


def gateways_of(registry: Path) -> list[str]:
    """Return the gateways that a registry file names, but for those that are retired.

    Read are the columns ``gateway`` and, where there is one, ``life``, separated by commas or
    semicolons as in every registry file; whatever else stands there is not looked at.

    Raises:
        RegistryError: With everything that is wrong, line by line.
    """
    try:
        text = registry.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RegistryError(f"{registry}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RegistryError(f"{registry}: is not UTF-8: save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    delimiter = ";" if header.count(";") > header.count(",") else ","
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    gateways: list[str] = []
    problems: list[str] = []
    try:
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        if "gateway" not in rows.fieldnames:
            raise RegistryError(
                f"{registry}:1: no column 'gateway': take the gateways.csv that"
                " `linli-ingest registry export FOLDER --table gateway` writes"
            )
        for row in rows:
            gateway, life = ((row.get(name) or "").strip() for name in ("gateway", "life"))
            where = f"{registry}:{rows.line_num}"
            if not re.fullmatch(GATEWAY_PATTERN, gateway):
                problems.append(f"{where}: gateway: value {gateway!r}: not an id of a gateway")
            if life and life not in LIVES:
                problems.append(
                    f"{where}: life: value {life!r}: expected one of {', '.join(LIVES)}"
                )
            if life != "retired":
                gateways.append(gateway)
    except csv.Error as error:
        problems.append(f"{registry}:{rows.reader.line_num}: not CSV: {error}")
    if problems:
        raise RegistryError(problems)
    return gateways


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the definitions for the gateways of a registry file."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.rabbitmq.definitions",
        description="Print what `rabbitmqctl import_definitions` takes: users and permissions.",
    )
    parser.add_argument(
        "registry",
        type=Path,
        metavar="GATEWAYS.csv",
        help="as `linli-ingest registry export FOLDER --table gateway` writes it",
    )
    try:
        gateways = gateways_of(parser.parse_args(arguments).registry)
    except RegistryError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    json.dump(definitions(gateways), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
