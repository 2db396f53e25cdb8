# Installs the packages beside the copy, once for each list of them.
set -e
if ! cmp -s package.json node_modules/installed; then
    npm install --no-audit --no-fund --no-package-lock --silent
    cp package.json node_modules/installed
fi
