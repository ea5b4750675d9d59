#!/bin/sh
# Installs Chromium, in which a test opens the chat page. Where it cannot be had, that test is skipped.
command -v chromium >/dev/null && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
{ $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq chromium; } >/dev/null 2>&1 ||
    echo "Chromium cannot be installed; the test of the chat page is skipped." >&2
