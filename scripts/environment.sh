# Sourced by quickstart, test and bench: a Python, and virtual environments with exactly what is locked.
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
        "$PYTHON" -m venv --clear "$venv"
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

from sandpit.build.pipconfig import uv_environment

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
