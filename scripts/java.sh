#!/usr/bin/env bash
# Java 17 or newer: the one that is there, else Debian's, else one line that says what to install.
set -euo pipefail
source "$(dirname "$0")/install.sh"

# The major version of the Java that Spark would start; 0 where there is none.
major() {
    local java="${JAVA_HOME:+$JAVA_HOME/bin/}java" found=""
    if command -v "$java" >/dev/null; then
        found=$({ "$java" -version 2>&1 || true; } | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1)
    fi
    echo "${found:-0}"
}

if [ "$(major)" -ge 17 ]; then exit 0; fi
if [ -n "${JAVA_HOME:-}" ]; then
    # whatever is installed, Spark would start the one that JAVA_HOME names
    echo "java: expected 17 or newer in JAVA_HOME=$JAVA_HOME; set it to one, or unset it" >&2
    exit 1
fi
install_debian java openjdk-17-jre-headless
if [ "$(major)" -lt 17 ]; then
    echo "java: expected 17 or newer on PATH, found $(command -v java); set JAVA_HOME" >&2
    exit 1
fi
