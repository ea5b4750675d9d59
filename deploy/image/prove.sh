#!/bin/sh
# Builds the CPU image from its Dockerfiles without a container engine and a registry of images, and runs the server
# in it as Kubernetes would: as user 10001, without capabilities, on a read-only root.
#
# For root on Debian or Ubuntu with a network. buildah runs the Dockerfiles in chroots; their base, Debian's stable
# release, is made by debootstrap. Everything lies in .cache/image. Usage: prove.sh [MODELS], a folder of NAME/VERSION.
set -eu
cd "$(dirname "$0")/../.."
models=${1:-models}
work=.cache/image
base=localhost/debian-base
server=localhost/cadenza:cpu
prepared=localhost/cadenza:prepared

for tool in buildah debootstrap setpriv; do
    command -v "$tool" >/dev/null || {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap util-linux
    }
done

mkdir -p "$work"
work=$(realpath "$work")
images() { buildah --storage-driver overlay --root "$work/images" --runroot "$work/run" "$@"; }

# A network may have certificate authorities of its own: while it builds, the image has the machine's.
authorities=/etc/ssl/certs/ca-certificates.crt
echo 'system-certs = true' >"$work/uv.toml"
build() {
    images bud --isolation chroot --pull-never --volume "$authorities:$authorities:ro" \
        --volume "$work/uv.toml:/etc/uv/uv.toml:ro" "$@" >"$work/build.log" 2>&1 || {
        tail -n 40 "$work/build.log" >&2
        exit 1
    }
}

if ! images inspect "$base" >/dev/null 2>&1; then
    echo "== base: debootstrap"
    rm -rf "$work/base"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/base" >"$work/debootstrap.log"
    container=$(images from scratch)
    images add --quiet "$container" "$work/base" / >/dev/null
    images commit --quiet "$container" "$base" >/dev/null
    images rm "$container" >/dev/null
    rm -rf "$work/base"
fi

echo "== build: cpu.Dockerfile"
build --file deploy/image/cpu.Dockerfile --build-arg "BASE=$base" --tag "$server" .
echo "== build: prepared.Dockerfile with $models"
build --file deploy/image/prepared.Dockerfile --build-arg "SERVER=$server" --tag "$prepared" "$models"

container=$(images from "$prepared")
root=$(images mount "$container")
trap 'images rm "$container" >/dev/null' EXIT
echo "== run: user 10001, no capabilities, read-only root"
unshare --mount --pid --fork --net sh deploy/image/run-confined.sh "$root"
echo "== size in MB: Debian's part $(du -sm "$root/usr" | cut -f1), ours $(du -sm "$root/opt" | cut -f1)," \
    "models $(du -sm "$root/models" | cut -f1), caches $(du -sm "$root/cache" | cut -f1)"
