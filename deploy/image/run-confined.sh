#!/bin/sh
# The second half of prove.sh, in namespaces of its own: confines the image's root file system as the chart's
# security contexts do, starts the server in it, asks it for a completion, and stops it. Usage: run-confined.sh ROOT
set -eu
root=$1

mount --make-rprivate /
ip link set lo up
mount --bind "$root" "$root"
mount -t tmpfs -o mode=1777,size=256m tmpfs "$root/tmp"
# The writable cache begins as the image's, as the chart's init container makes it.
cp -R "$root/cache" "$root/tmp/cache"
chown -R 10001:10001 "$root/tmp/cache"
mount --bind "$root/tmp/cache" "$root/cache"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -o remount,bind,ro "$root"

# A prefix, not a function: what runs in the background must be the server itself, for signals and its exit code.
inside="env -i PATH=/opt/cadenza/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot $root
    setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"

$inside sh -c 'id -u; grep CapEff /proc/self/status; ! touch /opt/x 2>/dev/null && echo "root is read-only"'
$inside python -c 'import importlib.util as u; assert u.find_spec("tensorflow") is None; print("no TensorFlow")'

$inside cadenza-server --models=/models --cache-dir=/cache --health-port=8502 --log-format=json 2>"$root/tmp/log" &
server=$!
ready=no
for _ in $(seq 240); do
    grep -q '"event": "ready"' "$root/tmp/log" && ready=yes && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.5
done
[ "$ready" = yes ] || { cat "$root/tmp/log" >&2; exit 1; }
sed -n 's/.*"event": "ready".*"seconds": \([0-9.]*\).*/ready after \1 s/p; s/.*"seconds": \([0-9.]*\).*"event": "ready".*/ready after \1 s/p' \
    "$root/tmp/log"
$inside cadenza health --target localhost:8500
$inside cadenza health --target localhost:8502
$inside cadenza complete --temperature 0 --max-tokens 12 "The capital of France is"
kill -TERM "$server"
wait "$server"
echo "exit code 0 after SIGTERM"
