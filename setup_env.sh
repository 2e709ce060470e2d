# Sourced by demo.sh and test.sh: makes .venv where it is absent, installs the requirements when they change, activates it.
# CTINSTRUCT_PYTHON names another interpreter than python3.

cd "$(dirname "${BASH_SOURCE[0]}")"
if [ ! -x .venv/bin/python ]; then
    echo "making .venv"
    "${CTINSTRUCT_PYTHON:-python3}" -m venv .venv
fi
if ! cmp -s requirements.txt .venv/requirements.installed; then
    echo "installing requirements.txt (a few minutes)"
    # torch first and alone: the others would otherwise pull the newest one in, which is several gigabytes
    # (a machine with a torch of its own may have taken the two lines out)
    torch=$(grep -E '^torch(vision)?[=<>]' requirements.txt || true)
    [ -z "$torch" ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check $torch
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/requirements.installed
fi
source .venv/bin/activate
