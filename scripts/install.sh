# Sourced: install_debian PROGRAM PACKAGE installs a Debian package, or says in one line what to do.
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
