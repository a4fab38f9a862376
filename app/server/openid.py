"""The OpenID Connect provider: where a browser signs in, and what it says of who has.

    authorization_url   where to send the browser: authorization code with PKCE, state and nonce
    identify            code → tokens → the ID token, verified → Identity

Discovery and keys are read when the first person signs in, and again when they are old or a token
is signed with a key that is not among them. Authlib (the extra `oidc`) is imported then, too: who
does not use this pays nothing for it.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.domain.hosts import is_loopback
from app.domain.single_sign_on import Attempt, Identity, name_for
from app.errors import Unauthorized, Unavailable

if TYPE_CHECKING:
    from app.settings import Settings

LEEWAY_SECONDS = 60
"""By how much the clocks of the provider and of this machine may differ."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519",
              "EdDSA")  # fmt: skip
"""Signatures with a public key: never `none`, and no HMAC, whose key would be our secret."""
SECONDS = 10.0
"""The time limit of a request to the provider."""
_KEPT_SECONDS = 3_600.0
_REFRESHED_SECONDS = 10.0
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class Provider:
    """The provider of LLM_TRAIN_OIDC_ISSUER. Used on the event loop only."""

    def __init__(self, settings: "Settings") -> None:
        assert settings.oidc_issuer is not None and settings.oidc_client_id is not None
        self.issuer = settings.oidc_issuer
        self.client_id = settings.oidc_client_id
        self._secret = settings.oidc_client_secret
        self._scopes = settings.oidc_scopes
        self._groups_claim = settings.oidc_groups_claim
        self.redirect_uri = f"{settings.public_url}/oidc-callback"
        self._metadata: dict[str, Any] = {}
        self._keys: Any = None
        self._read_at = -_KEPT_SECONDS
        self._lock = asyncio.Lock()

    async def authorization_url(self, attempt: Attempt) -> str:
        """Return where the browser signs in. Raises Unavailable."""
        metadata = await self._discover()
        async with self._client() as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"], state=attempt.state, nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )  # fmt: skip
        return str(url)

    async def identify(self, code: str, attempt: Attempt, issuer: str | None) -> Identity:
        """Return who has signed in. Raises Unauthorized, Unavailable.

        Args:
            issuer: what the answer says of who sent it (RFC 9207): another provider's answer is
                not taken to this one.
        """
        metadata = await self._discover()
        declares = metadata.get("authorization_response_iss_parameter_supported") is True
        if (issuer is not None or declares) and issuer != self.issuer:
            raise Unauthorized("The answer is of another provider.")
        async with self._client() as client:
            tokens = await self._exchange(client, code, attempt)
            claims = await self._verify_token(tokens, attempt)
            about = await self._read_userinfo(client, claims)
        raw = about.get(self._groups_claim)
        groups = raw if isinstance(raw, list) else [raw]
        # An address that the provider has not verified may be anybody's.
        email = about.get("email") if about.get("email_verified") is not False else None
        return Identity(
            self.issuer, claims["sub"], name_for(about),
            email[:200] if isinstance(email, str) and email.isprintable() else None,
            frozenset(name for name in groups if isinstance(name, str)),
        )  # fmt: skip

    def _client(self) -> Any:
        from authlib.integrations.httpx_client import AsyncOAuth2Client

        methods = self._metadata.get("token_endpoint_auth_methods_supported", [])
        posts = "client_secret_basic" not in (methods or ["client_secret_basic"])
        method = "client_secret_post" if posts else "client_secret_basic"
        return AsyncOAuth2Client(
            self.client_id, self._secret, scope=self._scopes, redirect_uri=self.redirect_uri,
            token_endpoint_auth_method=method if self._secret else "none",
            code_challenge_method="S256", timeout=SECONDS,
        )  # fmt: skip

    async def _exchange(self, client: Any, code: str, attempt: Attempt) -> Mapping[str, Any]:
        from authlib.common.errors import AuthlibBaseError
        from httpx2 import HTTPError

        try:
            tokens = await client.fetch_token(
                self._metadata["token_endpoint"], grant_type="authorization_code", code=code,
                code_verifier=attempt.verifier, redirect_uri=self.redirect_uri,
            )  # fmt: skip
        except AuthlibBaseError as error:
            raise Unauthorized("The provider did not accept the code; sign in again.") from error
        except (HTTPError, ValueError) as error:
            raise _make_outage_error() from error
        if not isinstance(tokens, Mapping) or not isinstance(tokens.get("id_token"), str):
            raise Unauthorized("The provider has sent no ID token.")
        return tokens

    async def _verify_token(self, tokens: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """Return the claims of the ID token. Raises Unauthorized for one that is not right."""
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import JoseError

        try:
            decoded = await self._decode(tokens["id_token"])
            claims = CodeIDToken(
                decoded.claims, decoded.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self.client_id},
                    "sub": {"essential": True},
                },
                {
                    "nonce": attempt.nonce, "client_id": self.client_id,
                    "access_token": tokens.get("access_token"),
                },
            )  # fmt: skip
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthorized(f"The provider's ID token is not right: {error}") from error
        return dict(claims)

    async def _decode(self, token: str) -> Any:
        """Return a token whose signature holds; keys are read again once for an unknown one."""
        from joserfc import jwt
        from joserfc.errors import BadSignatureError, InvalidKeyIdError

        try:
            return jwt.decode(token, self._keys, algorithms=ALGORITHMS)
        except (InvalidKeyIdError, BadSignatureError, ValueError):
            # The provider may have new keys. Tokens that nobody signed must not make us ask it.
            if time.monotonic() - self._read_at < _REFRESHED_SECONDS:
                raise
        await self._discover(again=True)
        return jwt.decode(token, self._keys, algorithms=ALGORITHMS)

    async def _read_userinfo(self, client: Any, claims: dict[str, Any]) -> dict[str, Any]:
        """Return the claims with what the provider tells besides at its userinfo endpoint."""
        url = self._metadata.get("userinfo_endpoint")
        if url is None or self._groups_claim in claims:
            return claims
        from authlib.common.errors import AuthlibBaseError
        from httpx2 import HTTPError

        try:
            answer = await client.get(url)
            about = answer.json() if answer.status_code == 200 else None
        except (HTTPError, AuthlibBaseError, ValueError) as error:
            raise _make_outage_error() from error
        if not isinstance(about, dict):
            raise _make_outage_error()
        if about.get("sub") != claims["sub"]:  # somebody else's, by a mixed-up token
            raise Unauthorized("The provider tells of somebody else than who has signed in.")
        return {**about, **claims}

    async def _discover(self, again: bool = False) -> dict[str, Any]:
        """Return the provider's metadata, read with its keys at most once an hour."""
        async with self._lock:
            age = time.monotonic() - self._read_at
            if age < (_REFRESHED_SECONDS if again else _KEPT_SECONDS):
                return self._metadata
            place = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
            metadata = await self._get(place)
            if metadata.get("issuer") != self.issuer:
                raise Unavailable("The provider at LLM_TRAIN_OIDC_ISSUER calls itself otherwise.")
            for name in _ENDPOINTS:
                _check_endpoint(name, metadata.get(name))
            if metadata.get("userinfo_endpoint") is not None:
                _check_endpoint("userinfo_endpoint", metadata["userinfo_endpoint"])
            self._keys = _import_keys(await self._get(metadata["jwks_uri"]))
            self._metadata, self._read_at = metadata, time.monotonic()
            return metadata

    async def _get(self, url: str) -> dict[str, Any]:
        import httpx2

        try:
            async with httpx2.AsyncClient(timeout=SECONDS) as client:
                answer = await client.get(url)
                document = answer.raise_for_status().json()
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise _make_outage_error() from error
        if not isinstance(document, dict):
            raise _make_outage_error()
        return document


def _import_keys(document: dict[str, Any]) -> Any:
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    # A kind of key that is not known here must not make the others useless.
    known = {"RSA", "EC", "OKP"}
    keys = document.get("keys")
    listed = keys if isinstance(keys, list) else []
    own = [key for key in listed if isinstance(key, dict) and key.get("kty") in known]
    try:
        return KeySet.import_key_set({"keys": own})
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise _make_outage_error() from error


def _check_endpoint(name: str, url: object) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or not parts.hostname:
        raise Unavailable(f"The provider tells no {name}.")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise Unavailable(f"The provider's {name} is not https.")


def _make_outage_error() -> Unavailable:
    return Unavailable("The provider at LLM_TRAIN_OIDC_ISSUER does not answer as it must.")
