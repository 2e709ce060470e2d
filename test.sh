#!/usr/bin/env bash
# Sets up and runs the checks and tests: bash test.sh [pytest arguments], say bash test.sh -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
ruff check .
ruff format --check .
lint-imports
mypy
exec python -m pytest "$@"
