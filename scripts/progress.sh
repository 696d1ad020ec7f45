# Sourced by the other scripts: `say` prints a line, `step` runs a long command with signs of life.
# shellcheck shell=bash

_ticker=
_log=

_end_step() {
  if [[ -n $_ticker ]]; then
    kill "$_ticker" 2>/dev/null || true
    wait "$_ticker" 2>/dev/null || true
    _ticker=
  fi
  if [[ -n $_log ]]; then
    rm -f "$_log"
    _log=
  fi
}
trap _end_step EXIT

say() {
  printf '%s\n' "$*"
}

_tick() {
  local line before='' started=$SECONDS
  # sleep must not hold the script's output open after the ticker is gone
  while sleep 10 >/dev/null 2>&1; do
    line=$(tail -n 20 "$_log" | tr -d '\r' | grep -v -e WARNING -e '^ *$' | tail -n 1) || true
    printf '  %3d s  %.100s\n' "$((SECONDS - started))" "$([[ $line == "$before" ]] && echo 'still at it' || echo "$line")"
    before=$line
  done
}

# step LABEL COMMAND...: keeps the command's output to itself, prints its last line every 10 s, and all of it on failure.
step() {
  local label=$1 started=$SECONDS status=0
  shift
  _log=$(mktemp)
  say "$label ..."
  _tick &
  _ticker=$!
  "$@" >"$_log" 2>&1 </dev/null || status=$?
  if ((status)); then
    cat "$_log" >&2
    say "Failed (exit code $status): $label. The output above says why." >&2
  elif ((SECONDS - started >= 2)); then
    say "  done in $((SECONDS - started)) s"
  fi
  _end_step
  return "$status"
}
