# SPDX-License-Identifier: Apache-2.0
"""The installation's own certificate authority: small, offline, EC P-256.

Every gateway and every service has one identity, which is the CN and the SAN of its client
certificate, its MQTT user name and its client id. Client and server use are kept apart. All
certificates pass OpenSSL's strict verification (Python 3.13's default).
"""

import fcntl
import ipaddress
import os
import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.kinds.base import GATEWAY_PATTERN
from ingest.errors import PkiError

# Clocks of freshly started boxes lag: a certificate is valid a little before it was made.
BACKDATED: Final = timedelta(minutes=5)
AUTHORITY_LIFE: Final = timedelta(days=3_650)
SERVER_LIFE: Final = timedelta(days=825)
CLIENT_LIFE: Final = timedelta(days=365)

# What the api takes as its member is below this.
API_MEMBERS_MAX: Final = 8

_IDENTITY = re.compile(GATEWAY_PATTERN)
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def identity_of(lane: str, member: int) -> str:
    """Return who the process number ``member`` (from 0) of an ingest lane is at the broker."""
    return f"ingest-{lane}-{member:02d}"


def service_identities(members: int = 1) -> list[str]:
    """Return whom our own services are: so many members of each ingest lane and of the api.

    The api never has more than `API_MEMBERS_MAX`.
    """
    ingest = [identity_of(lane, n) for n in range(members) for lane in ("telemetry", "event")]
    api = [f"api-live-{n:02d}" for n in range(min(members, API_MEMBERS_MAX))]
    return [*ingest, *api, identity_of("aggregate", 0)]


@dataclass(frozen=True, slots=True)
class Authority:
    """A loaded certificate authority; whoever holds it can issue identities."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Issued:
    """Where a certificate and its key were written."""

    certificate: Path
    key: Path


def create_authority(
    folder: Path, *, name: str = "Linli", now: datetime | None = None
) -> Authority:
    """Load the authority in ``folder`` (ca.crt, ca.key), or make it; safe for two at once.

    Raises:
        PkiError: What is there cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
    with _locked(folder):
        if certificate_file.exists():
            return load_authority(folder)
        # The key is written first, so a key alone is what an interrupted start leaves behind.
        if key_file.exists():
            key = _load_key(key_file)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            write(key_file, _encode_key(key), private=True)
        start = (now or datetime.now(UTC)) - BACKDATED
        subject = _name(name)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        write(certificate_file, encode(certificate))
    return Authority(folder, certificate, key)


def load_authority(folder: Path) -> Authority:
    """Load the authority in ``folder``.

    Raises:
        PkiError: ca.crt or ca.key is missing, unreadable, of another pair, or no authority.
    """
    return load_pair(folder / "ca.crt", folder / "ca.key")


def load_pair(certificate_file: Path, key_file: Path) -> Authority:
    """Load an authority from two named files.

    Raises:
        PkiError: One is missing, unreadable, of another pair, or no authority.
    """
    certificate = load_certificate(certificate_file)
    key = _load_key(key_file)
    if certificate.public_key() != key.public_key():
        raise PkiError(f"{key_file}: is not the key of {certificate_file}")
    if not _is_authority(certificate):
        raise PkiError(f"{certificate_file}: is not the certificate of an authority")
    return Authority(certificate_file.parent, certificate, key)


def issue_server(
    authority: Path | Authority,
    hosts: Sequence[str],
    *,
    out: Path | None = None,
    now: datetime | None = None,
) -> Issued:
    """Write server.crt and server.key for ``hosts`` (DNS names and IP addresses).

    Args:
        authority: A loaded one, or the folder where it lies.
        hosts: At least one; the first becomes the CN.
        out: Where to write; the authority's folder if left out.
        now: The time to issue at; the present if left out.

    Raises:
        PkiError: No authority there, or a host that is none.
    """
    if not hosts:
        raise PkiError("server certificate: at least one host name or address is needed")
    names = [_general_name(host) for host in hosts]
    if isinstance(authority, Path):
        authority = load_authority(authority)
    out = out or authority.folder
    return _issue(authority, "server", hosts[0], names, "server", out, SERVER_LIFE, now)


def issue_client(
    authority: Path | Authority,
    identity: str,
    *,
    out: Path,
    stem: str | None = None,
    now: datetime | None = None,
) -> Issued:
    """Write ``<identity>.crt`` and ``.key`` (mode 0600) for a gateway or a service.

    Args:
        authority: A loaded one, or the folder where it lies.
        identity: Becomes CN and SAN.
        out: Where to write.
        stem: File name without its ending, if not the identity.
        now: The time to issue at; the present if left out.

    Raises:
        PkiError: No authority there, or an identity that would not fit a topic.
    """
    if not _IDENTITY.fullmatch(identity):
        raise PkiError(f"identity {identity!r}: must match {GATEWAY_PATTERN}")
    names = [x509.DNSName(identity)]
    if isinstance(authority, Path):
        authority = load_authority(authority)
    return _issue(authority, "client", identity, names, stem or identity, out, CLIENT_LIFE, now)


def encode(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_certificate(file: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        PkiError: Missing, unreadable or not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(_read(file))
    except ValueError:
        raise PkiError(f"{file}: is not a certificate in PEM form") from None


def check(
    certificate: Path,
    key: Path,
    authority: Path,
    *,
    identity: str | None = None,
    now: datetime | None = None,
) -> list[str]:
    """Return what would keep this client certificate from being accepted, nothing if all is well.

    One sentence each, with file and date: pairs that do not match, times of validity, another
    authority or identity, a key that others may read.
    """
    now = now or datetime.now(UTC)
    problems: list[str] = []
    try:
        own, issuer = load_certificate(certificate), load_certificate(authority)
        private = _load_key(key)
    except PkiError as error:
        return list(error.problems)
    if own.public_key() != private.public_key():
        problems.append(f"{key}: is the key of another certificate than {certificate}")
    if identity is not None and own.subject != _name(identity):
        problems.append(f"{certificate}: is {own.subject.rfc4514_string()}, not CN={identity}")
    if key.stat().st_mode & 0o077:
        problems.append(f"{key}: others may read it: chmod 600 {key}")
    if not _is_authority(issuer):
        problems.append(f"{authority}: is not the certificate of an authority")
    else:
        try:
            own.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            problems.append(f"{certificate}: was not issued by {authority}")
    for file, held in ((certificate, own), (authority, issuer)):
        if now < held.not_valid_before_utc:
            problems.append(f"{file}: not valid before {held.not_valid_before_utc:%Y-%m-%d %H:%M}Z")
        if now > held.not_valid_after_utc:
            problems.append(f"{file}: expired on {held.not_valid_after_utc:%Y-%m-%d %H:%M}Z")
    return problems


def _issue(
    authority: Authority,
    use: Literal["server", "client"],
    common_name: str,
    names: Sequence[x509.GeneralName],
    stem: str,
    out: Path,
    life: timedelta,
    now: datetime | None,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    start = (now or datetime.now(UTC)) - BACKDATED
    usage = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer_key = authority.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    ).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        # Nothing outlives its issuer: it would be refused all the same, and less clearly.
        .not_valid_after(min(start + life, authority.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    out.mkdir(parents=True, exist_ok=True)
    issued = Issued(out / f"{stem}.crt", out / f"{stem}.key")
    write(issued.key, _encode_key(key), private=True)
    write(issued.certificate, encode(certificate))
    return issued


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return basic.value.ca


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError:
        raise PkiError(f"name {common_name!r}: 1 to 64 characters are allowed") from None


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
        raise PkiError(f"host {host!r}: is neither a host name nor an IP address")
    return x509.DNSName(host)


def _encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PkiError(f"{file}: is not an unencrypted private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{file}: is not an elliptic-curve key")
    return key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PkiError(f"{file}: cannot read: {error.strerror}") from None


def write(file: Path, content: bytes, *, private: bool = False) -> None:
    """Write the whole file or nothing; a key is never readable by others, not for a moment."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o600 if private else 0o644)
        Path(temporary).replace(file)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
