"""TLS of the connection: who is trusted, and the client's own certificate where the server asks for one."""

import dataclasses
from pathlib import Path

import grpc

from cadenza.client._options import refused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM format, read once, when the client is made."""

    ca_file: str | Path | None = None
    """The certificates that may have signed the server's; gRPC's list of public ones where None."""
    cert_file: str | Path | None = None
    """The client's certificate and what signed it, for mutual TLS; goes with `key_file`."""
    key_file: str | Path | None = None
    """The private key of `cert_file`, not encrypted."""
    server_name: str | None = None
    """The name in the server's certificate; the host of the target where None."""


@dataclasses.dataclass(frozen=True, slots=True)
class TlsContent:
    """What `Tls` names, read."""

    authorities: bytes | None
    private_key: bytes | None = dataclasses.field(repr=False)
    certificate: bytes | None
    server_name: str | None

    @classmethod
    def of(cls, tls: Tls) -> "TlsContent":
        """Reads the files. Raises InvalidOption where one cannot be read or one of a pair is missing."""
        if (tls.cert_file is None) != (tls.key_file is None):
            missing = "key_file" if tls.key_file is None else "cert_file"
            raise refused(f"tls.{missing}", "cert_file and key_file go together: give both or neither")
        return cls(
            authorities=_content("tls.ca_file", tls.ca_file),
            private_key=_content("tls.key_file", tls.key_file),
            certificate=_content("tls.cert_file", tls.cert_file),
            server_name=tls.server_name,
        )

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC makes of it."""
        return grpc.ssl_channel_credentials(self.authorities, self.private_key, self.certificate)


def _content(field: str, file: str | Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise refused(field, f"cannot be read: {error.strerror}; given: {str(file)!r}") from error
    if b"-----BEGIN" not in content:
        raise refused(field, f"must be a PEM file; given: {str(file)!r}")
    return content
