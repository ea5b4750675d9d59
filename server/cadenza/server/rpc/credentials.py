"""Who may call: the certificates and tokens of the settings, followed while the server runs."""

import functools
from collections.abc import Iterable
from typing import Any

import grpc
import structlog

from cadenza.server.config import Settings
from cadenza.server.metrics import Metrics
from cadenza.server.rpc.call import certificate_name
from cadenza.server.rpc.followed_files import CredentialWatcher, FollowedFiles
from cadenza.server.rpc.intake import Context
from cadenza.server.rpc.tls import CertificateFiles, Certificates, read_certificates, server_credentials
from cadenza.server.rpc.tokens import TokenTable, read_tokens

_log = structlog.get_logger(__name__)


class Credentials:
    """What the port shows its callers, and what it asks of them. Nothing where the settings name no file."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Reads all files. Raises CredentialError."""
        self._certificates = _follow_certificates(settings, metrics)
        self._tokens = _follow_tokens(settings)
        self._mutual = settings.tls_client_ca is not None
        if self._tokens and not self._certificates:
            _log.warning("tokens_without_tls", hint="whoever sees the traffic can take a token from it")
        files: list[FollowedFiles[Any]] = [one for one in (self._certificates, self._tokens) if one]
        self._watcher = CredentialWatcher(
            files, poll_seconds=settings.credentials_poll_seconds, metrics=metrics
        )
        self._has_files = bool(files)

    @property
    def tls(self) -> grpc.ServerCredentials | None:
        """What the port is opened with; None is plaintext."""
        followed = self._certificates
        if followed is None:
            return None
        return server_credentials(lambda: followed.value, mutual=self._mutual)

    def start(self) -> None:
        """Follows the files from now on."""
        if self._has_files:
            self._watcher.start()

    async def stop(self) -> None:
        """Follows them no more."""
        await self._watcher.stop()

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
        """The name of the token that a call shows; None where none is asked for.

        Raises UnauthenticatedError.
        """
        return self._tokens.value.authenticate(metadata) if self._tokens else None

    def certified(self, context: Context) -> str | None:
        """The name in the certificate that a call's connection has shown; None where none is asked for."""
        return certificate_name(context.peer_identities()) if self._mutual else None


def _follow_certificates(settings: Settings, metrics: Metrics) -> FollowedFiles[Certificates] | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = CertificateFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    followed = FollowedFiles("certificate", files.paths, lambda: read_certificates(files))
    for which in followed.value.expiry:
        metrics.certificate_expiry.labels(which).set_function(functools.partial(_expiry, followed, which))
    return followed


def _expiry(followed: FollowedFiles[Certificates], which: str) -> float:
    return followed.value.expiry[which]


def _follow_tokens(settings: Settings) -> FollowedFiles[TokenTable] | None:
    path = settings.token_file
    return FollowedFiles("tokens", (path,), lambda: read_tokens(path)) if path else None
