# SPDX-License-Identifier: Apache-2.0
"""Webhooks: one signed HTTP request a message, a CloudEvents envelope in it.

Signed as Standard Webhooks has it (HMAC-SHA256 over id, time and body), enveloped as CloudEvents
1.0 in structured JSON. No redirect is followed, little is read, all of it ends after ten seconds.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Any, Final
from uuid import UUID

import httpx2

from ingest.notify.addresses import Forbidden, check

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how a secret begins, not one
_SECRET_BYTES: Final = 32
#: So many secrets sign one message at most: the present one, and those it replaced of late.
SECRETS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went: arrived, or not, with a code that tells nobody's secrets.

    ``unsure``: it may have arrived all the same. ``final``: trying again would change nothing.
    """

    sent: bool
    error: str | None = None
    unsure: bool = False
    final: bool = False


SENT: Final = Outcome(True)


def new_secret() -> str:
    """Return a secret to sign with."""
    return SECRET_PREFIX + base64.b64encode(token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, key: UUID | str, at: datetime, body: bytes) -> str:
    """Return one signature of a message, as Standard Webhooks defines it."""
    signed = f"{key}.{int(at.timestamp())}.".encode() + body
    raw = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return "v1," + base64.b64encode(hmac.digest(raw, signed, hashlib.sha256)).decode()


def signatures(secrets: Sequence[str], key: UUID | str, at: datetime, body: bytes) -> str:
    """Return the ``webhook-signature`` header: one by each secret, with spaces between them.

    Whoever knows one of them can verify it, so that a receiver may change over when it likes.
    """
    return " ".join(sign(secret, key, at, body) for secret in secrets)


def envelope(
    key: UUID, kind: str, source: str, created_at: datetime, content: Mapping[str, Any]
) -> bytes:
    """Return a message as a CloudEvents 1.0 event, the same bytes at each attempt.

    Any: ``content`` is JSON.
    """
    event = {
        "specversion": "1.0",
        "id": str(key),
        "source": source,
        "type": f"linli.alert.{kind}.v1",
        "time": created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": content,
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def send(
    url: str, secrets: Sequence[str], key: UUID, body: bytes, *, now: datetime, allow_private: bool
) -> Outcome:
    """Post a message, once.

    Args:
        url: Checked again here, and connected to by the address that was checked.
        secrets: What to sign with, all of them.
        key: The message's idempotency key, ``webhook-id``.
        body: The envelope.
        now: For ``webhook-timestamp``.
        allow_private: Whether the installation lets webhooks stay within its own network.
    """
    try:
        return asyncio.run(_send(url, secrets, key, body, now, allow_private))
    except TimeoutError:
        return Outcome(False, "timeout", unsure=True)


async def _send(
    url: str, secrets: Sequence[str], key: UUID, body: bytes, now: datetime, allow_private: bool
) -> Outcome:
    async with asyncio.timeout(TIMEOUT_S):
        try:
            target = await asyncio.to_thread(check, url, allow_private=allow_private)
        except Forbidden as error:
            return Outcome(False, error.rule, final=error.rule != "url.unknown_host")
        headers = {
            "Host": target.authority,
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": "Linli-Webhooks/1",
            "webhook-id": str(key),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signatures(secrets, key, now, body),
        }
        # trust_env: a proxy would connect for us, to wherever the name leads there.
        async with httpx2.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=TIMEOUT_S, verify=_TLS
        ) as client:
            request = client.build_request(
                "POST",
                target.url,
                content=body,
                headers=headers,
                extensions={"sni_hostname": target.host},
            )
            return await _exchange(client, request)


async def _exchange(client: httpx2.AsyncClient, request: httpx2.Request) -> Outcome:
    try:
        answer = await client.send(request, stream=True)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        is_tls = "CERTIFICATE_VERIFY_FAILED" in str(error)
        return Outcome(False, "tls" if is_tls else "connect")
    except httpx2.HTTPError:
        return Outcome(False, "broken_off", unsure=True)
    try:
        read = 0
        async for piece in answer.aiter_raw():
            read += len(piece)
            if read > ANSWER_BYTES_MAX:
                break
    except httpx2.HTTPError:
        pass  # the status says all; what follows it is of no interest
    finally:
        await answer.aclose()
    if answer.is_success:
        return SENT
    # Standard Webhooks: 410 says that nobody wants it any more.
    return Outcome(False, f"http_{answer.status_code}", final=answer.status_code == 410)


_TLS: Final = ssl.create_default_context()
