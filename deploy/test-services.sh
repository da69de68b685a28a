#!/bin/sh
# Make sure that the services which the tests start are installed.
set -eu
if ! command -v redis-server > /dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "Installing redis-server (Debian package) ..."
    apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server > /dev/null
  else
    echo "The tests start a real Redis and redis-server is not installed." >&2
    echo "Install it (Debian: sudo apt-get install redis-server; macOS: brew install redis) and run make test again." >&2
    exit 1
  fi
fi
# Without these the tests that need them are skipped, and say so.
if ! command -v promtool > /dev/null || ! command -v amtool > /dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "Installing prometheus and prometheus-alertmanager (Debian packages) ..."
    apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus prometheus-alertmanager > /dev/null
  else
    echo "prometheus and prometheus-alertmanager are not installed: their tests will be skipped." >&2
  fi
fi
if ! command -v chromium > /dev/null || ! command -v chromedriver > /dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "Installing chromium and chromium-driver (Debian packages) ..."
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver > /dev/null ||
      echo "Chromium was not installed: its tests will be skipped." >&2
  else
    echo "chromium and chromedriver are not installed: the console's tests in a browser will be skipped." >&2
  fi
fi
if [ ! -d tests/schemas/node/node_modules/@asyncapi/parser ]; then
  if command -v npm > /dev/null; then
    echo "Installing AsyncAPI's parser (npm) ..."
    npm install --prefix tests/schemas/node --silent --no-package-lock --ignore-scripts --no-audit --no-fund ||
      echo "AsyncAPI's parser was not installed: its test will be skipped." >&2
  else
    echo "npm is not installed: the test with AsyncAPI's parser will be skipped." >&2
  fi
fi
