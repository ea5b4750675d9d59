"""TLS on the gRPC port: certificates from PEM files, checked before gRPC gets them, and reloaded.

gRPC itself says only that a handshake failed; here a wrong file is found when it is read.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cadenza.server.errors import CredentialError
from cadenza.server.rpc.followed_files import read_file

_LARGEST_FILE = 1 << 20
"""Bytes; a bundle of all public authorities has a quarter of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the PEM files are. With `client_ca` every client must show a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that there are."""
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """What was read. `expiry` has Unix times by certificate: server, client_ca (the first to expire)."""

    configuration: grpc.ServerCertificateConfiguration
    expiry: dict[str, float]


def read_certificates(files: CertificateFiles) -> Certificates:
    """Reads and checks the files. Raises CredentialError: the key must fit, and now lie in each validity."""
    chain_pem = read_file(files.certificate, most_bytes=_LARGEST_FILE)
    key_pem = read_file(files.key, most_bytes=_LARGEST_FILE)
    server = _load_certificates(files.certificate, chain_pem)[0]
    _check_validity(files.certificate, server)
    _check_key(files, key_pem, server)
    expiry = {"server": server.not_valid_after_utc.timestamp()}
    authorities_pem = None
    if files.client_ca is not None:
        authorities_pem = read_file(files.client_ca, most_bytes=_LARGEST_FILE)
        authorities = _load_certificates(files.client_ca, authorities_pem)
        expiry["client_ca"] = min(one.not_valid_after_utc.timestamp() for one in authorities)
    configuration = grpc.ssl_server_certificate_configuration([(key_pem, chain_pem)], authorities_pem)
    return Certificates(configuration, expiry)


def server_credentials(current: Callable[[], Certificates], *, mutual: bool) -> grpc.ServerCredentials:
    """Credentials that take what `current` gives for every new connection; gRPC's threads call it.

    With `mutual`, clients without a certificate of the authorities cannot connect.
    """
    first = given = current().configuration

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """None keeps what gRPC has."""
        nonlocal given
        configuration = current().configuration
        if configuration is given:
            return None
        given = configuration
        return configuration

    # The type stubs do not know that the function may give None; grpc's documentation does.
    fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(first, fetcher, require_client_authentication=mutual)


def _load_certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path} holds no certificate in PEM form: {error}") from error


def _check_validity(path: Path, certificate: x509.Certificate) -> None:
    now = dt.datetime.now(dt.UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        raise CredentialError(
            f"the certificate in {path} is valid from {begin.isoformat()} to {end.isoformat()}, and now is "
            f"{now.isoformat(timespec='seconds')}; have it renewed, or set the clock"
        )


def _check_key(files: CertificateFiles, pem: bytes, certificate: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise CredentialError(f"the key in {files.key} has a password; store it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        # The error's own text is left out: it may quote what the file holds.
        raise CredentialError(f"{files.key} holds no private key in PEM form that is known here") from error
    if key.public_key() != certificate.public_key():
        raise CredentialError(f"the key in {files.key} is not that of the certificate in {files.certificate}")
