# SPDX-License-Identifier: Apache-2.0
"""Gateways: registered, and equipped with what their agents need."""

from collections.abc import Sequence
from pathlib import Path

import psycopg

from ingest import pki
from ingest.errors import PkiError, RegistryError
from ingest.registry_store import lock, touch
from ingest.registry_tables import GATEWAYS


def add_gateway(
    conn: psycopg.Connection,
    authority: Path | pki.Authority,
    gateway: str,
    community: str,
    out: Path,
    broker_host: str,
    broker_port: int,
    *,
    name: str = "",
    reissue: bool = False,
) -> list[Path]:
    """Register a gateway and write what its agent needs into ``out``; return the files written.

    ``out`` receives ca.crt, client.crt, client.key and agent.toml. What is there is kept: an
    agent.toml always, a certificate unless ``reissue``. So doing it twice is doing it once.

    Raises:
        RegistryError: A bad id, no such community, or a gateway of another one, or revoked.
        PkiError: The authority or the certificate in ``out`` cannot be used.
    """
    authority = pki.load_authority(authority) if isinstance(authority, Path) else authority
    with conn.transaction():
        lock(conn)
        _register_gateway(conn, gateway, community, name)
        try:
            return _equip(
                conn, authority, gateway, community, out, broker_host, broker_port, reissue
            )
        except OSError as error:
            raise RegistryError(
                f"{error.filename or out}: cannot write: {error.strerror}"
            ) from None


def _register_gateway(conn: psycopg.Connection, gateway: str, community: str, name: str) -> None:
    """Make the gateway's row if there is none; refuse to move or revive one."""
    column, _, named, _ = GATEWAYS.columns
    try:
        key = column.parse(gateway)
    except ValueError as error:
        raise RegistryError(f"gateway {gateway!r}: {error}") from None
    try:
        name = str(named.parse(name.strip()))
    except ValueError as error:
        raise RegistryError(f"name {name!r}: {error}") from None
    area = conn.execute("SELECT level FROM area WHERE area = %s", (community,)).fetchone()
    if area is None:
        raise RegistryError(f"community {community!r}: no such area; import areas first")
    if area[0] != "community":
        raise RegistryError(f"community {community!r}: is a {area[0]}, not a community")
    known = conn.execute(
        """
        SELECT community, CASE life WHEN 'retired' THEN life ELSE status END, name
        FROM gateway WHERE gateway = %s
        """,
        (key,),
    ).fetchone()
    if known is None:
        conn.execute(
            "INSERT INTO gateway (gateway, community, name) VALUES (%s, %s, %s)",
            (key, community, name),
        )
        touch(conn)
        return
    if known[0] != community:
        raise RegistryError(f"gateway {gateway!r}: belongs to community {known[0]!r}")
    if known[1] != "active":
        raise RegistryError(f"gateway {gateway!r}: is {known[1]}")
    if name and name != known[2]:
        conn.execute("UPDATE gateway SET name = %s WHERE gateway = %s", (name, key))
        touch(conn)


def _equip(
    conn: psycopg.Connection,
    authority: pki.Authority,
    gateway: str,
    community: str,
    out: Path,
    broker_host: str,
    broker_port: int,
    reissue: bool,
) -> list[Path]:
    """Write certificate, key, the authority's certificate and a configuration into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    certificate, key = out / "client.crt", out / "client.key"
    if reissue or not certificate.exists():
        issued = pki.issue_client(authority, gateway, out=out, stem="client")
        written += [issued.certificate, issued.key]
    ca = out / "ca.crt"
    if not ca.exists() or reissue:
        pki.write(ca, pki.encode(authority.certificate))
        written.append(ca)
    problems = pki.check(certificate, key, ca, identity=gateway)
    if problems:
        raise PkiError([*problems, "use --reissue for a new certificate"])
    agent = out / "agent.toml"
    if not agent.exists():
        devices = conn.execute(
            """
            SELECT device, kind FROM device
            WHERE gateway = %s AND life <> 'retired'
            ORDER BY kind, device
            """,
            (gateway,),
        ).fetchall()
        text = agent_config(gateway, community, broker_host, broker_port, devices)
        pki.write(agent, text.encode())
        written.append(agent)
    return written


def agent_config(
    gateway: str, community: str, host: str, port: int, devices: Sequence[tuple[str, str]]
) -> str:
    """Return a configuration for the gateway's agent, to be completed by whoever knows the wiring.

    Args:
        gateway: Its id.
        community: The community it stands in.
        host: The broker's address.
        port: The broker's port.
        devices: Id and class of what is registered behind it.
    """
    examples = devices or [("street-lamp-001", "lamp")]
    known = (
        f"# Registered behind this gateway: {len(devices)}. Take away the # once it has its driver."
        if devices
        else "# Nothing is registered behind this gateway yet; devices.csv brings it in."
    )
    blocks = "\n".join(
        f'# [[devices]]\n# device = "{device}"\n# kind = "{kind}"\n'
        f'# driver = "your_drivers.{kind}:make"\n# options = {{ }}\n'
        for device, kind in examples
    )
    return f"""\
# The edge agent of gateway {gateway}. Next steps:
#
# 1. Copy this folder to the gateway. client.key is its identity: keep it mode 0600, in one place
#    only; whoever holds it can speak for this gateway. Lost it? Issue another one with
#    `linli-ingest gateway add {gateway} --community {community} --out DIR --reissue`.
# 2. Say below which driver reads which device: "module:function" of any installed Python package;
#    function(device, options) returns the driver (edge_agent.kinds.Driver says what that is).
# 3. Start it: linli-edge run --config agent.toml

gateway = "{gateway}"
community = "{community}"
data = "data"                    # where the outbox lies; it must survive a power cut

[broker]
host = "{host}"
port = {port}
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"

[sampling]
poll_interval_s = 1.0
heartbeat_s = 60.0               # an unchanged reading is repeated this often
status_interval_s = 10.0

[pseudonym]
# Turns card numbers into pseudonyms. Made at the first start; gateways of one community share it,
# so copy the first one's to the others if a person shall be one pseudonym at all their gates.
key_file = "pseudonym.key"

{known}
#
{blocks}"""
