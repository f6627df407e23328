# Sourced by quickstart, test, compat and bench: a Python, and virtual environments with exactly what is locked.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
NEEDED_MODULES='import sys, ssl, sqlite3, ctypes, zlib, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

fail() {
    printf 'error: %s\n hint: %s\n' "$1" "$2" >&2
    exit 1
}

# step TITLE COMMAND...: say what is done, and how long it took when that was long
step() {
    local title=$1 started=$EPOCHSECONDS
    shift
    printf '==> %s\n' "$title"
    "$@"
    local seconds=$((EPOCHSECONDS - started))
    if ((seconds >= 2)); then printf '    %s s\n' "$seconds"; fi
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.{11..14}; do
        if "$candidate" -c "$NEEDED_MODULES" >/dev/null 2>&1; then
            PYTHON=$(command -v "$candidate")
            return 0
        fi
    done
    return 1
}

# Until an installation that was broken off is completed, apt-get installs nothing
install_packages() {
    local install=(apt-get install -y -qq --no-install-recommends -oDPkg::Lock::Timeout=300 "$@")
    "${install[@]}" >/dev/null || { dpkg --configure -a && "${install[@]}" >/dev/null; }
}

provide_python() {
    if find_python; then return; fi
    command -v apt-get >/dev/null || fail "no Python >= 3.11 with venv was found" "install one, or name it in PYTHON"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    install_packages python3 python3-venv ca-certificates
    find_python || fail "this Debian's Python is older than 3.11" "use Debian 12 or newer, or name another in PYTHON"
}

# install_locked VENV LOCK: nothing happens when the lock is the one that was installed last. What was broken off is made anew:
# packages that are there in part look as if they were installed, to pip and to uv.
install_locked() {
    mkdir -p "$ROOT/.cache"
    (flock 9 && install_alone "$@") 9>"$ROOT/.cache/install.lock" # two that were called at once take turns
}

install_alone() {
    local venv=$1 lock=$2 stamp
    stamp="$(sha256sum <"$lock") $(readlink -f "$PYTHON")"
    if [[ -e $venv/.locked && $(<"$venv/.locked") == "$stamp" ]] && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
    if [[ ! -e $venv/.locked ]] || ! "$venv/bin/python" -c '' 2>/dev/null ||
        [[ $(readlink -f "$venv/bin/python") != "$(readlink -f "$PYTHON")" ]]; then
        local options=(--clear)
        if [[ $venv != "$VENV" ]]; then options+=(--without-pip); fi # uv installs there, in a fraction of the time
        "$PYTHON" -m venv "${options[@]}" "$venv"
    fi
    rm -f "$venv/.locked"
    local uv=$VENV/bin/uv wanted
    wanted=$(awk '/^uv==/ {print substr($1, 5)}' "$ROOT/requirements/server.lock")
    if [[ $("$uv" --version 2>/dev/null) != "uv $wanted"* ]]; then
        "$VENV/bin/python" -m pip install --quiet --no-deps --only-binary :all: --require-hashes \
            -r <(awk '/^[^ #]/ {ours = /^uv==/} ours' "$ROOT/requirements/server.lock")
    fi
    # uv knows nothing of pip's configuration, which is where a machine's index and certificates are set
    PYTHONPATH=$ROOT/src "$VENV/bin/python" -P - "$uv" pip install --quiet --no-deps --no-build --require-hashes \
        --python "$venv/bin/python" --requirement "$lock" <<'PYTHON'
import os
import sys

from sandpit.provision.pipconfig import uv_environment

os.execve(sys.argv[1], sys.argv[1:], uv_environment())
PYTHON
    printf '%s' "$stamp" >"$venv/.locked"
}

# Sandpit itself, from this source tree: a path entry and a script need no build back end
install_sandpit() {
    local site
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$ROOT/src" >"$site/sandpit.pth"
    printf '#!%s\nfrom sandpit.cli.main import main\n\nmain()\n' "$VENV/bin/python" >"$VENV/bin/sandpit"
    chmod 755 "$VENV/bin/sandpit"
}

# install_clients FOLDER TARGET: official JavaScript clients, from npm's registry as locked
install_clients() {
    local folder=$1 target=$2 stamp
    stamp=$(cat "$folder"/package*.json | sha256sum)
    if [[ -e $target/.locked && $(<"$target/.locked") == "$stamp" ]]; then return; fi
    rm -rf "$target"
    mkdir -p "$target"
    cp "$folder"/package*.json "$folder/.npmrc" "$target"
    (cd "$target" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    printf '%s' "$stamp" >"$target/.locked"
}

# This machine's Node.js if the clients accept it, else the one in the base template
provide_node() {
    if node -e 'process.exit(+process.versions.node.split(".")[0] >= 20 ? 0 : 1)' 2>/dev/null && npm --version >/dev/null 2>&1; then return; fi
    local bin
    for bin in "$SANDPIT_DATA_DIR"/layers/*/fs/usr/local/bin/node; do PATH=$(dirname "$bin"):$PATH; done
    node --version >/dev/null || fail "no Node.js was found" "install one, version 20.18 or newer"
}

# Programs that use E2B's clients, each in an environment of its own (docs/clients.md)
THIRDPARTY=$ROOT/.cache/thirdparty
THIRDPARTY_LIGHT=(agno computesdk deepagents google-adk haystack mcp-server openai-agents smolagents)

thirdparty_names() {
    basename -s .lock -a "$ROOT"/requirements/thirdparty/*.lock
    basename -a "$ROOT"/tests/thirdparty/node/*
}

# install_thirdparty NAME...: one that needs a newer Python than there is gets no environment
install_thirdparty() {
    local name needed newer
    for name in "$@"; do
        if [[ -d $ROOT/tests/thirdparty/node/$name ]]; then
            install_clients "$ROOT/tests/thirdparty/node/$name" "$THIRDPARTY/$name"
            continue
        fi
        needed=$(sed -n 's/^# Python >= //p' "$ROOT/requirements/thirdparty/$name.in")
        if [[ -z $needed ]]; then
            install_locked "$THIRDPARTY/$name" "$ROOT/requirements/thirdparty/$name.lock"
        elif newer=$(find_newer_python "$needed"); then
            PYTHON=$newer install_locked "$THIRDPARTY/$name" "$ROOT/requirements/thirdparty/$name.lock"
        else
            printf '    %s needs Python %s, which is not here: left out\n' "$name" "$needed"
        fi
    done
}

find_newer_python() {
    local candidate
    for candidate in python3 python3.{12..14} "$HOME"/.pyenv/versions/3.1[2-9].*/bin/python3; do
        if "$candidate" -c "import sys, venv; sys.exit(sys.version_info < tuple(map(int, '$1'.split('.'))))" 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}
