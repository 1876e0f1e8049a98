#!/usr/bin/env bash
# tools/extra_env.sh EXTRA [--newest]: makes .venv-EXTRA with what that extra of pyproject.toml asks for, without Rollstream
# itself, at the versions of tools/constraints-EXTRA.txt, so that .venv keeps its own. Does nothing when it is already so.
# With --newest it begins afresh with the newest that pyproject.toml allows, and writes their versions to that file.
set -euo pipefail
unset PYTHONPATH PYTHONHOME
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra=${1:?usage: tools/extra_env.sh EXTRA [--newest]}
newest=${2:-}
venv=.venv-$extra
constraints=tools/constraints-$extra.txt
stamp=$venv/rollstream-setup

asked=$(.venv/bin/python - "$extra" <<'EOF'
import pathlib, sys, tomllib
extras = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
if sys.argv[1] not in extras:
    sys.exit(f"pyproject.toml has no extra {sys.argv[1]}; it has {', '.join(extras)}")
print("\n".join(extras[sys.argv[1]]))
EOF
)
bounds=()
[ -z "$newest" ] && bounds=(--constraint "$constraints")
wanted=$(printf '%s\n' "$PWD" "$asked" "$(.venv/bin/python --version)"; [ -n "$newest" ] || cat "$constraints")
[ -z "$newest" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && exit 0

echo "preparing $PWD/$venv, this once"
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
mapfile -t requirements <<<"$asked"
"$venv/bin/python" -m pip install --quiet "${bounds[@]}" "${requirements[@]}"
if [ -n "$newest" ]; then
    {
        echo "# What tools/extra_env.sh installs for the extra $extra; with --newest it renews them."
        "$venv/bin/python" -m pip freeze --all | grep -v '^pip=='
    } | LC_ALL=C sort --ignore-case --unique >"$constraints"
    exec bash tools/extra_env.sh "$extra"
fi
printf '%s\n' "$wanted" >"$stamp"
