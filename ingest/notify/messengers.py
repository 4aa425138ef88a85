# SPDX-License-Identifier: Apache-2.0
"""People's messengers, e-mail and SMS, through apprise.

An address is a secret: apprise's URLs hold passwords and tokens. It is stored, used, and never
told; what goes wrong is a code.
"""

import logging
import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import quote, urlsplit

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat

from ingest.notify.addresses import ADDRESS_LENGTH_MAX, Forbidden
from ingest.notify.webhook import SENT, Outcome

#: What a person may name: services that are always at an address of their own. Whatever connects
#: to a host that its URL names is a webhook, or the operator's to configure.
SCHEMES: Final = frozenset({"wecombot", "dingtalk", "feishu", "lark", "schan"})
_EMAIL = re.compile(r"[^\s@<>\",;:?&=/\\]{1,64}@[A-Za-z0-9.-]{1,190}\.[A-Za-z]{2,24}")
_NUMBER = re.compile(r"\+?\d{5,20}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ASSET: Final = AppriseAsset(app_id="Linli", app_desc="Linli", secure_logging=True)


@dataclass(frozen=True, slots=True)
class Gateways:
    """How the installation sends e-mail and SMS: apprise URLs with ``{to}`` in them."""

    email: str | None = None
    sms: str | None = None


def silence() -> None:
    """Have the libraries below say nothing: their lines name addresses with their secrets."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    for name in ("httpx2", "httpcore2", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def check_address(kind: str, address: str) -> None:
    """Refuse what cannot be an address of its kind: ``email``, ``sms`` or ``url``.

    Raises:
        Forbidden: With a code; the address itself is never repeated.
    """
    if kind == "email":
        if not _EMAIL.fullmatch(address):
            raise Forbidden("email.invalid")
    elif kind == "sms":
        if not _NUMBER.fullmatch(address):
            raise Forbidden("number.invalid")
    elif len(address) > ADDRESS_LENGTH_MAX or _CONTROL.search(address):
        raise Forbidden("url.invalid")
    elif address.partition("://")[0].lower() not in SCHEMES:
        raise Forbidden("url.scheme")
    elif _instance(address) is None:
        raise Forbidden("url.invalid")


def send(kind: str, address: str, title: str, body: str, gateways: Gateways) -> Outcome:
    """Send a text, once, within apprise's own time limits."""
    url = address
    if kind in ("email", "sms"):
        template = gateways.email if kind == "email" else gateways.sms
        if template is None:
            return Outcome(False, f"{kind}.not_configured", final=True)
        url = template.replace("{to}", quote(address, safe=""))
    sender = _instance(url)
    if sender is None:
        return Outcome(False, "url.invalid", final=True)
    # apprise leaves parameters' types unsaid.
    box = Apprise(asset=_ASSET)
    box.add(sender)  # pyright: ignore[reportUnknownMemberType]
    told = box.notify(  # pyright: ignore[reportUnknownMemberType]
        body=plain(body), title=plain(title), body_format=NotifyFormat.TEXT
    )
    # apprise says whether it was taken, not why not: it may have arrived.
    return SENT if bool(told) else Outcome(False, "not_taken", unsure=True)


def plain(text: str) -> str:
    """Return a text without anything that steers: devices and people named some of it."""
    return "\n".join(_CONTROL.sub(" ", line) for line in text.split("\n"))


def is_known(template: str) -> bool:
    """Whether a gateway's URL is one that apprise understands."""
    return _instance(template.replace("{to}", "13800000000")) is not None


def describe(kind: str, address: str) -> str:
    """Return what may be shown of an address: enough to know which, too little to use it."""
    if kind == "email":
        name, _, domain = address.partition("@")
        return f"{name[:1]}…@{domain}"
    if kind == "sms":
        return f"…{address[-4:]}"
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}/…" if kind == "webhook" else f"{parts.scheme}://…"


@cache
def load() -> None:
    """Have apprise read its services, which it does at first use and takes a second for."""
    with warnings.catch_warnings():
        # A module of Python that one of them imports is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        Apprise.instantiate("json://localhost")  # pyright: ignore[reportUnknownMemberType]


def _instance(url: str) -> NotifyBase | None:
    load()
    try:
        return Apprise.instantiate(  # pyright: ignore[reportUnknownMemberType]
            url, asset=_ASSET, suppress_exceptions=True
        )
    except Exception:  # noqa: BLE001 - whatever a foreign parser trips over, it is no address
        return None
