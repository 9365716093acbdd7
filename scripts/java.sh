#!/usr/bin/env bash
# Java 17 or newer: the one that is there, else Debian's, else one line that says what to install.
set -euo pipefail
java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
if command -v "$java" >/dev/null; then
    major=$("$java" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1)
    if [ "${major:-0}" -ge 17 ]; then exit 0; fi
fi
source "$(dirname "$0")/install.sh"
install_debian java openjdk-17-jre-headless
