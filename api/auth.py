# SPDX-License-Identifier: Apache-2.0
"""Who asks, and whether they may: log-in, log-out, and the policy that every route carries.

Deny by default: a route names its `Policy` as a dependency, and a test fails for one that does
not. People come with a session cookie, services with ``Authorization: Bearer``. A request that
changes something on the strength of a cookie must come from our own pages.
"""

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, StringConstraints

from api import people
from api.answers import Answer, Question
from api.config import Config
from api.errors import Problem
from api.people import Principal
from api.scope import ROLES, Role
from api.state import services
from api.version import VERSION

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Policy:
    """What a route asks of whoever calls it. Also checks the form that every request must have."""

    produces: str = "application/json"
    consumes: str = "application/json"

    def check_form(self, request: Request) -> None:
        """Refuse what the route does not take: formats it does not give, other bodies than its own.

        Raises:
            Problem: ``not_acceptable`` or ``content_type.unsupported``.
        """
        accept = request.headers.get("accept")
        if not any(_accepts(accept, one) for one in self.produces.split(", ")):
            raise Problem("not_acceptable", detail=self.produces)
        content_type = request.headers.get("content-type", "")
        if request.method not in SAFE_METHODS and content_type:
            media_type = content_type.partition(";")[0].strip().lower()
            if media_type != self.consumes:
                raise Problem("content_type.unsupported", detail=self.consumes)


class Public(Policy):
    """Anybody may call this, without log-in; not from another site's page."""

    def __init__(self, produces: str = "application/json") -> None:
        """Say what the route gives."""
        self.produces = produces

    async def __call__(self, request: Request) -> None:
        """Check the request's form and origin."""
        self.check_form(request)
        if request.method not in SAFE_METHODS and _origin_is_told(request):
            _check_origin(request)


class FromAddress(Policy):
    """Callers from the addresses that may read metrics."""

    produces = "text/plain"

    async def __call__(self, request: Request) -> None:
        """Check where the request comes from.

        Raises:
            Problem: ``address.forbidden``.
        """
        if client_address(request) not in services(request).config.api.metrics_from:
            raise Problem("address.forbidden")


class Allow(Policy):
    """People and services with one of these roles."""

    def __init__(
        self,
        *roles: Role,
        produces: str = "application/json",
        consumes: str = "application/json",
    ) -> None:
        """Say which roles, what the route gives and what it takes."""
        self.roles = frozenset(roles)
        self.produces = produces
        self.consumes = consumes

    async def __call__(self, request: Request) -> Principal:
        """Return who asks.

        Raises:
            Problem: ``session.required``, ``csrf`` or ``role.forbidden``.
        """
        self.check_form(request)
        principal = await authenticate(request)
        if principal is None:
            raise Problem("session.required", headers={"WWW-Authenticate": "Bearer"})
        if not principal.is_service and request.method not in SAFE_METHODS:
            _check_origin(request)
        if principal.role not in self.roles:
            raise Problem("role.forbidden")
        return principal


ANYBODY: Final = Public()
# What the OpenAPI document says of a route that asks for no log-in.
OPEN: Final[dict[str, Any]] = {"security": []}
EVERY_ROLE: Final = Allow(*ROLES)
Person = Annotated[Principal, Depends(EVERY_ROLE)]


def client_address(request: Request) -> str:
    """Return the address the request comes from."""
    return request.client.host if request.client else ""


def cookie_name(config: Config) -> str:
    """Return the cookie's name; the prefix makes browsers insist on https and on our host."""
    return "__Host-linli_session" if config.api.secure else "linli_session"


async def authenticate(request: Request) -> Principal | None:
    """Return who asks, None if nobody we know."""
    parts = services(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token:
            return None
        async with parts.pool.connection() as conn:
            return await people.by_token(conn, token.strip())
    session = request.cookies.get(cookie_name(parts.config))
    if not session:
        return None
    async with parts.pool.connection() as conn:
        return await people.by_session(conn, session, now=parts.clock())


def _accepts(accept: str | None, media_type: str) -> bool:
    if not accept:
        return True
    main = media_type.partition("/")[0]
    good = {media_type, f"{main}/*", "*/*", "application/problem+json"}
    return any(part.partition(";")[0].strip().lower() in good for part in accept.split(","))


def _origin_is_told(request: Request) -> bool:
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def _check_origin(request: Request) -> None:
    """Refuse what another site's page sent with our cookie.

    Raises:
        Problem: ``csrf``.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise Problem("csrf")
        return
    # Plain http to another machine's address: browsers then tell the Origin only.
    origin = request.headers.get("origin")
    public_url = services(request).config.api.public_url
    if origin is None or (
        origin != public_url and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise Problem("csrf")


class Credentials(Question):
    """What a person logs in with."""

    username: str = Field(min_length=1, max_length=100)
    password: Annotated[str, StringConstraints(min_length=1, max_length=people.PASSWORD_LENGTH_MAX)]


class Me(Answer):
    """Who is logged in; ``simulated`` says that the hardware is not real."""

    username: str
    role: Role
    area: str
    area_name: str
    language: str | None
    simulated: bool
    version: str


def _me(principal: Principal, config: Config) -> Me:
    return Me(
        username=principal.name,
        role=principal.role,
        area=principal.area,
        area_name=principal.area_name,
        language=principal.language,
        simulated=config.api.simulated,
        version=VERSION,
    )


router = APIRouter(tags=["session"])


@router.post("/session", dependencies=[Depends(ANYBODY)], openapi_extra=OPEN)
async def log_in(credentials: Credentials, request: Request, response: Response) -> Me:
    """Log in: sets the session cookie. Ten attempts in 15 minutes per account and address."""
    parts = services(request)
    username, address = credentials.username, client_address(request)
    parts.attempts.count(username, address)
    async with parts.pool.connection() as conn:
        stored = None if "\x00" in username else await people.password_hash(conn, username)
    # Without a connection meanwhile: hashing takes long on purpose, and connections are few.
    if not await parts.passwords.verify(stored, credentials.password):
        raise Problem("credentials.invalid")
    assert stored is not None
    fresh = None
    if parts.passwords.is_outdated(stored):
        fresh = await parts.passwords.hash(credentials.password)
    name = cookie_name(parts.config)
    now = parts.clock()
    async with parts.pool.connection() as conn, conn.transaction():
        if fresh is not None:
            await people.set_password_hash(conn, username, fresh)
        if old := request.cookies.get(name):
            await people.end_session(conn, people.digest(old))
        token = await people.open_session(conn, username, now=now)
        principal = await people.by_session(conn, token, now=now)
    if principal is None:  # the person was deactivated while the password was checked
        raise Problem("credentials.invalid")
    parts.attempts.forgive(username, address)
    response.set_cookie(
        name,
        token,
        max_age=int(people.SESSION_MAX.total_seconds()),
        path="/",
        secure=parts.config.api.secure,
        httponly=True,
        samesite="lax",
    )
    return _me(principal, parts.config)


@router.get("/session")
async def get_session(person: Person, request: Request) -> Me:
    """Say who is logged in."""
    return _me(person, services(request).config)


@router.delete("/session", status_code=204, dependencies=[Depends(ANYBODY)])
async def log_out(request: Request, response: Response) -> None:
    """Log out: the session ends on the server, and so do its live streams."""
    parts = services(request)
    name = cookie_name(parts.config)
    if token := request.cookies.get(name):
        _check_origin(request)
        credential = people.digest(token)
        async with parts.pool.connection() as conn:
            await people.end_session(conn, credential)
        parts.hub.drop(credential)
    response.delete_cookie(
        name, path="/", secure=parts.config.api.secure, httponly=True, samesite="lax"
    )
