# SPDX-License-Identifier: Apache-2.0
"""Where messages may go: to public addresses, unless the installation says otherwise.

A webhook is an address that a person names and this machine calls: without these checks it would
reach what only this machine may reach. They are made when it is saved and again when it is called,
and the address that was checked is the one that is connected to, so that a name that resolves
differently the second time gains nothing.
"""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

ADDRESS_LENGTH_MAX: Final = 1_000
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Forbidden(ValueError):
    """Not an address to send to; ``rule`` is a code."""

    def __init__(self, rule: str) -> None:
        """Take the code: ``url.invalid``, ``url.private`` or ``url.unknown_host``."""
        super().__init__(rule)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect (``ip``), and what to call it (``host``, the name that TLS checks)."""

    scheme: str
    host: str
    port: int
    ip: Ip
    path: str

    @property
    def url(self) -> str:
        """The URL by address."""
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


def is_public(ip: Ip) -> bool:
    """Whether an address is one of the public internet, seen through all ways to write another.

    Neither loopback, private, shared, link-local (where clouds serve their metadata), multicast,
    reserved nor unspecified; nor an IPv6 address in which one of these is embedded.
    """
    if isinstance(ip, ipaddress.IPv6Address):
        low = int(ip) & 0xFFFF_FFFF
        embedded = [ip.ipv4_mapped, ip.sixtofour]
        if ip in _NAT64:
            embedded.append(ipaddress.IPv4Address(low))
        if ip in _COMPATIBLE or ip.is_site_local or ip.teredo is not None:
            return False
        if any(one is not None and not is_public(one) for one in embedded):
            return False
        if ip.ipv4_mapped is not None:
            return True
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def check(url: str, *, allow_private: bool = False) -> Target:
    """Return where a webhook's URL leads, looking its name up once.

    Raises:
        Forbidden: No such URL, a name that nobody knows, or one of its addresses is not public.
    """
    scheme, host, port, path = parse(url)
    if scheme != "https" and not allow_private:
        raise Forbidden("url.insecure")
    return Target(scheme, host, port, resolve(host, port, allow_private=allow_private), path)


def parse(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and path with query.

    Raises:
        Forbidden: ``url.invalid``: not http(s), with a password in it, or malformed.
    """
    if (
        len(url) > ADDRESS_LENGTH_MAX
        or not url.isascii()
        or any(c <= " " or c == "\\" for c in url)
    ):
        raise Forbidden("url.invalid")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Forbidden("url.invalid") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.fragment:
        raise Forbidden("url.invalid")
    path = parts.path or "/"
    return (
        parts.scheme,
        host,
        port or {"http": 80, "https": 443}[parts.scheme],
        f"{path}?{parts.query}" if parts.query else path,
    )


def resolve(host: str, port: int, *, allow_private: bool = False) -> Ip:
    """Return the address to connect to.

    Numbers in octal, hexadecimal or with parts left out are what the resolver makes of them. Where
    a name has several addresses all must be allowed.

    Raises:
        Forbidden: ``url.unknown_host`` or ``url.private``.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Forbidden("url.unknown_host") from None
    ips = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not ips or not (allow_private or all(map(is_public, ips))):
        raise Forbidden("url.private")
    return ips[0]
