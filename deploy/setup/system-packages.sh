#!/bin/sh
# Installs the Debian or Ubuntu packages that Cadenza needs beside Python and make.
set -eu
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq python3-venv
