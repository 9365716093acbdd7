#!/usr/bin/env bash
# The programs that the tests hold pacspark against: DCMTK, Orthanc, an S3 server, a browser, Hadoop and the jars of Spark.
# What cannot be had fails in CI and is skipped by its tests elsewhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/install.sh"
cache="${PACSPARK_CACHE:-$HOME/.cache/pacspark}"
versitygw=v1.8.0
playwright=1.65.1
dcmjs_dimse=0.3.3
missing=0

have() { [ -x "/usr/bin/$1" ]; }

have dcmdump || install_debian dcmdump dcmtk || missing=1

if [ ! -x "$cache/bin/Orthanc" ]; then
    if unpack_debian "$cache/orthanc" orthanc orthanc-dicomweb; then
        mkdir -p "$cache/bin"
        printf '#!/bin/sh\nexport LD_LIBRARY_PATH="%s"\nexec "%s" "$@"\n' \
            "$(echo "$cache"/orthanc/usr/lib/*-linux-gnu*)" "$cache/orthanc/usr/sbin/Orthanc" >"$cache/bin/Orthanc"
        chmod +x "$cache/bin/Orthanc"
    else
        missing=1
    fi
fi

if [ ! -x "$cache/bin/versitygw" ]; then
    if command -v go >/dev/null; then
        echo "building versitygw (an S3 server, once)" >&2
        mkdir -p "$cache/bin"
        GOBIN="$cache/bin" go install "github.com/versity/versitygw/cmd/versitygw@$versitygw" >/dev/null 2>"$cache/versitygw.log" ||
            { tail -n 3 "$cache/versitygw.log" >&2; missing=1; }
    else
        # Debian 12 has Go 1.19, which cannot build it
        echo "versitygw: Go not found; install 1.21 or newer from https://go.dev/dl" >&2
        missing=1
    fi
fi

have chromium || install_debian chromium chromium || missing=1

modules="$cache/node/node_modules"
if [ ! -f "$modules/playwright-core/package.json" ] || [ ! -f "$modules/dcmjs-dimse/package.json" ]; then
    if command -v npm >/dev/null; then
        echo "fetching playwright-core, which drives Chromium, and dcmjs-dimse (once)" >&2
        mkdir -p "$cache/node"
        npm install --prefix "$cache/node" --silent --no-fund --no-audit --ignore-scripts \
            "playwright-core@$playwright" "dcmjs-dimse@$dcmjs_dimse" >"$cache/npm.log" 2>&1 ||
            { tail -n 3 "$cache/npm.log" >&2; missing=1; }
    else
        # tests that need them say so themselves
        echo "playwright-core, dcmjs-dimse: npm not found; install Node.js 18 or newer" >&2
    fi
fi

"$here/../.venv/bin/python" "$here/jars.py" delta s3 hdfs yarn || missing=1

if [ "$missing" -ne 0 ] && [ "${CI:-}" = true ]; then
    echo "peers: not all could be installed" >&2
    exit 1
fi
