#!/usr/bin/env bash
# Installs llm-router: finds a Python, puts the program into a folder of its own, and leaves the rest to the program.
#
#   sudo ./install.sh                       for the whole machine; asks a few questions
#   sudo ./install.sh --yes --config FILE   asks nothing
#   ./install.sh --user                     for yourself, without root
#   ./install.sh --dry-run                  prints each step and its undo (what it needs to say so goes into a temporary folder)
#   sudo ./install.sh --uninstall
#
# All options: llm-router install --help. Run it again to upgrade: configuration and history stay. A wheel or a version
# instead of this checkout: LLM_ROUTER_PACKAGE=llm-router==1.2.3. Another Python: PYTHON=/usr/bin/python3.12.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
package=${LLM_ROUTER_PACKAGE:-$here}
prefix=/opt/llm-router
dry_run=0
uninstall=0
for argument in "$@"; do
    case $argument in
        --user) prefix=$HOME/.local/share/llm-router ;;
        --dry-run) dry_run=1 ;;
        --uninstall) uninstall=1 ;;
    esac
done

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

if [ "$uninstall" = 1 ]; then
    [ -x "$prefix/current/bin/llm-router" ] || fail "cannot uninstall: nothing is installed in $prefix"
    exec "$prefix/current/bin/llm-router" install "$@"
fi

if [ "$prefix" = /opt/llm-router ] && [ "$(id -u)" != 0 ] && [ "$dry_run" = 0 ]; then
    fail "only root can install for the whole machine: run \`sudo ./install.sh\`, or \`./install.sh --user\` for yourself"
fi

asks=1
for argument in "$@"; do
    case $argument in
        --yes | -y | --dry-run | --help) asks=0 ;;
    esac
done
if [ "$asks" = 1 ] && [ ! -t 0 ]; then
    fail "there is no terminal to ask questions on: answer them all with --yes (and --config FILE), or look with --dry-run"
fi

# A Python of at least 3.11 that can make virtual environments.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null || continue
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        command -v "$candidate"
        return
    done
    return 1
}

temporary=
release=
finish() {
    status=$?
    [ -z "$temporary" ] || rm -rf "$temporary"
    # What was not installed in the end is not kept.
    if [ -n "$release" ] && [ ! -e "$release/.installed" ]; then
        rm -rf "$release"
        rmdir "$prefix/releases" "$prefix" 2>/dev/null || true
    fi
    exit "$status"
}
trap finish EXIT

if [ "$dry_run" = 1 ]; then
    temporary=$(mktemp -d)
    target=$temporary/release
    pythons=$temporary/python
else
    mkdir -p "$prefix/releases"
    target=$prefix/releases/$(date +%Y%m%d-%H%M%S)-$$
    release=$target
    pythons=$prefix/python
fi

echo "Putting the program into $target ..."
if python=$(find_python); then
    "$python" -m venv "$target"
else
    # An older system: uv brings a Python of its own, beside the system's.
    uv=$(command -v uv || true)
    if [ -z "$uv" ]; then
        command -v python3 >/dev/null || fail "there is no Python: \`apt install python3 python3-venv\`, or install uv"
        [ -n "$temporary" ] || temporary=$(mktemp -d)
        python3 -m venv "$temporary/uv" 2>/dev/null \
            || fail "python3 can't make virtual environments: \`apt install python3-venv\`, or install uv"
        "$temporary/uv/bin/pip" install --quiet --disable-pip-version-check uv \
            || fail "cannot fetch uv, and $(python3 -V) is too old: install Python 3.11 or newer, or uv"
        uv=$temporary/uv/bin/uv
    fi
    # Where the service's user can read it, too.
    UV_PYTHON_INSTALL_DIR=$pythons \
        "$uv" venv --quiet --seed --managed-python --python 3.12 "$target" \
        || fail "uv cannot bring a Python 3.12: install Python 3.11 or newer"
fi
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$package" \
    || fail "cannot install $package: see the lines above; a proxy or another index goes into pip's configuration"

options=()
[ "$dry_run" = 1 ] || options+=(--release "$target")
"$target/bin/llm-router" install ${options[@]+"${options[@]}"} "$@"
