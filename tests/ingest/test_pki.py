# SPDX-License-Identifier: Apache-2.0
"""The authority's certificates are what OpenSSL, strictly asked, accepts and refuses."""

import ssl
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ingest import pki
from ingest.errors import PkiError

HOST = "broker.example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a server certificate and one gateway's."""
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    pki.issue_server(folder, [HOST, "127.0.0.1", "::1"])
    pki.issue_client(folder, "gw-c01-a", out=folder / "gateways")
    return folder


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = HOST) -> str | None:
    """Shake hands in memory; return the CN of the client's certificate as the server saw it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=host)
    far = server.wrap_bio(up, down, server_side=True)

    def advance(step: Callable[[], None]) -> bool:
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        return True

    done = [False, False]
    while not all(done):
        done = [advance(near.do_handshake), advance(far.do_handshake)]
    peer = far.getpeercert()
    if not peer:
        return None
    subject = dict(item[0] for item in peer["subject"] if isinstance(item[0], tuple))
    return subject["commonName"]


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def client_context(folder: Path, issued: pki.Issued | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if issued is not None:
        context.load_cert_chain(issued.certificate, issued.key)
    return context


def gateway(folder: Path) -> pki.Issued:
    return pki.Issued(folder / "gateways/gw-c01-a.crt", folder / "gateways/gw-c01-a.key")


@pytest.mark.parametrize("host", [HOST, "127.0.0.1", "::1"])
def test_strict_verification_accepts_both_sides(folder: Path, host: str) -> None:
    context = client_context(folder, gateway(folder))
    assert handshake(server_context(folder), context, host) == "gw-c01-a"


def test_client_refuses_a_server_of_another_name(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        handshake(server_context(folder), client_context(folder, gateway(folder)), "other.example")


def test_server_refuses_a_client_of_another_authority(folder: Path, tmp_path: Path) -> None:
    pki.create_authority(tmp_path)
    foreign = pki.issue_client(tmp_path, "gw-c01-a", out=tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(folder), client_context(folder, foreign))


def test_server_refuses_a_server_certificate_as_client(folder: Path) -> None:
    pretender = pki.Issued(folder / "server.crt", folder / "server.key")
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(server_context(folder), client_context(folder, pretender))


def test_client_refuses_a_gateway_that_poses_as_the_server(folder: Path) -> None:
    pretender = server_context(folder)
    own = gateway(folder)
    pretender.load_cert_chain(own.certificate, own.key)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(pretender, client_context(folder, None), "gw-c01-a")


@pytest.mark.parametrize("away_days", [-400, 30], ids=["expired", "not-yet-valid"])
def test_server_refuses_a_client_out_of_its_time(
    folder: Path, tmp_path: Path, away_days: int
) -> None:
    issued = pki.issue_client(
        folder, "gw-c01-a", out=tmp_path, now=datetime.now(UTC) + timedelta(days=away_days)
    )
    with pytest.raises(ssl.SSLCertVerificationError, match=r"expired|not yet valid"):
        handshake(server_context(folder), client_context(folder, issued))


def test_server_refuses_a_client_without_certificate(folder: Path) -> None:
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(server_context(folder), client_context(folder, None))


def test_identity_is_common_name_and_alternative_name(folder: Path) -> None:
    certificate = pki.load_certificate(gateway(folder).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert certificate.subject.rfc4514_string() == "CN=gw-c01-a"
    assert names.get_values_for_type(x509.DNSName) == ["gw-c01-a"]
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_authority_may_sign_no_further_authority(folder: Path) -> None:
    certificate = pki.load_authority(folder).certificate
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)


def test_keys_are_readable_by_their_owner_alone(folder: Path) -> None:
    for key in (folder / "ca.key", folder / "server.key", gateway(folder).key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_nothing_outlives_its_issuer(tmp_path: Path) -> None:
    old = datetime.now(UTC) - pki.AUTHORITY_LIFE + timedelta(days=10)
    authority = pki.create_authority(tmp_path, now=old)
    issued = pki.load_certificate(pki.issue_client(tmp_path, "gw-1", out=tmp_path).certificate)
    assert issued.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_creating_twice_is_creating_once(folder: Path) -> None:
    before = (folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes()
    pki.create_authority(folder, name="Another")
    assert ((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes()) == before


def test_two_starters_at_once_make_one_authority(tmp_path: Path) -> None:
    made: list[pki.Authority] = []
    starters = [
        threading.Thread(target=lambda: made.append(pki.create_authority(tmp_path)))
        for _ in range(8)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len({authority.certificate.serial_number for authority in made}) == 1
    assert len(made) == 8
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


def test_interrupted_creation_is_continued_with_its_key(tmp_path: Path) -> None:
    pki.create_authority(tmp_path)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.crt").unlink()
    pki.create_authority(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == key
    pki.load_authority(tmp_path)


@pytest.mark.parametrize("identity", ["", "gw", "GW-1", "gw/1", "gw+1", "gw#", "-gw1", "g" * 41])
def test_identity_that_does_not_fit_a_topic_is_refused(folder: Path, identity: str) -> None:
    with pytest.raises(PkiError, match="must match"):
        pki.issue_client(folder, identity, out=folder)


@pytest.mark.parametrize("host", ["", "a b", "-a", "a..b", "*", "x" * 64, "http://a"])
def test_host_that_is_none_is_refused(folder: Path, host: str) -> None:
    with pytest.raises(PkiError, match="neither a host name nor"):
        pki.issue_server(folder, [HOST, host])


def test_missing_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match=r"ca\.crt: cannot read: No such file"):
        pki.issue_client(tmp_path, "gw-1", out=tmp_path)


class TestCheck:
    """`check` names what is wrong with file and date before OpenSSL says less."""

    def test_a_good_pair_has_no_problems(self, folder: Path) -> None:
        own = gateway(folder)
        assert pki.check(own.certificate, own.key, folder / "ca.crt") == []

    def test_every_problem_is_named_with_its_file(self, folder: Path, tmp_path: Path) -> None:
        pki.create_authority(tmp_path)
        own = pki.issue_client(
            folder, "gw-c01-a", out=tmp_path, now=datetime(2026, 1, 1, tzinfo=UTC)
        )
        other = pki.issue_client(folder, "gw-c01-b", out=tmp_path)
        other.key.chmod(0o644)
        problems = pki.check(
            own.certificate,
            other.key,
            tmp_path / "ca.crt",
            now=datetime.now(UTC) + pki.CLIENT_LIFE * 2,
        )
        assert [problem.removeprefix(str(tmp_path)) for problem in problems] == [
            f"/gw-c01-b.key: is the key of another certificate than {own.certificate}",
            f"/gw-c01-b.key: others may read it: chmod 600 {other.key}",
            f"/gw-c01-a.crt: was not issued by {tmp_path / 'ca.crt'}",
            "/gw-c01-a.crt: expired on 2026-12-31 23:55Z",
        ]

    def test_not_yet_valid_is_named(self, folder: Path) -> None:
        own = gateway(folder)
        problems = pki.check(
            own.certificate, own.key, folder / "ca.crt", now=datetime(2020, 1, 1, tzinfo=UTC)
        )
        assert all("not valid before 20" in problem for problem in problems)
        assert len(problems) == 2

    def test_an_authority_that_is_none_is_named(self, folder: Path) -> None:
        own = gateway(folder)
        problems = pki.check(own.certificate, own.key, own.certificate)
        assert problems == [f"{own.certificate}: is not the certificate of an authority"]

    def test_files_that_cannot_be_read_are_named(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "x.crt").write_text("no certificate")
        assert pki.check(tmp_path / "x.crt", tmp_path / "x.key", folder / "ca.crt") == [
            f"{tmp_path / 'x.crt'}: is not a certificate in PEM form"
        ]
