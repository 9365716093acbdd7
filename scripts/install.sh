# Sourced. install_debian PROGRAM PACKAGE installs a Debian package, or says in one line what to do.
install_debian() {
    local program=$1 package=$2 sudo=""
    if command -v apt-get >/dev/null; then
        if [ "$(id -u)" -ne 0 ]; then
            if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo="sudo -n"; else
                echo "$program: not found; install it: sudo apt-get install $package" >&2
                return 1
            fi
        fi
        echo "installing $package" >&2
        if ! { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$package"; } >/tmp/pacspark-apt.$$ 2>&1; then
            tail -n 5 /tmp/pacspark-apt.$$ >&2
            echo "$program: apt-get could not install $package" >&2
            return 1
        fi
        rm -f /tmp/pacspark-apt.$$
    else
        echo "$program: not found; install it (on Debian or Ubuntu: $package)" >&2
        return 1
    fi
}

# unpack_debian FOLDER PACKAGE... unpacks packages, and what they need and this machine lacks, into a folder: without
# root, and without starting the services that they would start when installed.
unpack_debian() {
    local folder=$1 work
    shift
    command -v apt-get >/dev/null || { echo "$1: not found; only Debian's and Ubuntu's package is known here" >&2; return 1; }
    echo "fetching $1 (once)" >&2
    work=$(mktemp -d)
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/root"
    if (
        set -euo pipefail
        cd "$work"
        own=(-q -o "Dir::State=$work/state" -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$work/cache"
            -o APT::Sandbox::User=)
        apt-get "${own[@]}" update
        needed=$(apt-get "${own[@]}" install -s --no-install-recommends "$@" | awk '/^Inst/ { print $2 }')
        # shellcheck disable=SC2086
        apt-get "${own[@]}" download $(printf '%s\n' "$@" $needed | sort -u)
        for package in *.deb; do dpkg-deb -x "$package" root; done
        mkdir -p "$(dirname "$folder")"
        rm -rf "$folder"
        mv root "$folder"
    ) >"$work/log" 2>&1; then
        rm -rf "$work"
    else
        tail -n 5 "$work/log" >&2
        rm -rf "$work"
        echo "$1: could not be fetched" >&2
        return 1
    fi
}
