"""Certificates made by openssl for one test run: an authority, a server's, a client's, and bad ones."""

import dataclasses
import subprocess
from pathlib import Path

import grpc


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM files."""

    cert: Path
    key: Path

    def content(self) -> tuple[bytes, bytes]:
        return self.key.read_bytes(), self.cert.read_bytes()


class Authority:
    """Signs certificates; its own is at `ca.cert`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.ca = Pair(folder / "ca.pem", folder / "ca.key")
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=authority", "-keyout", self.ca.key, "-out", self.ca.cert,
        )  # fmt: skip

    def issue(self, name: str, *, expired: bool = False) -> Pair:
        """A certificate for this DNS name."""
        pair = Pair(self._folder / f"{name}-{expired}.pem", self._folder / f"{name}-{expired}.key")
        request, extensions = pair.cert.with_suffix(".csr"), pair.cert.with_suffix(".ext")
        extensions.write_text(f"subjectAltName=DNS:{name}\n")
        _openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request,
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca.cert, "-CAkey", self.ca.key, "-CAcreateserial",
            "-days", "-1" if expired else "2", "-extfile", extensions, "-out", pair.cert,
        )  # fmt: skip
        return pair

    def server_credentials(self, pair: Pair, *, mutual: bool = False) -> grpc.ServerCredentials:
        """What a server listens with; `mutual` wants a certificate of this authority from clients too."""
        return grpc.ssl_server_credentials(
            [pair.content()],
            root_certificates=self.ca.cert.read_bytes() if mutual else None,
            require_client_auth=mutual,
        )


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
