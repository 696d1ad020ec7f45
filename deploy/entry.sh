#!/usr/bin/env bash
# entry.sh [ARGUMENT...]: fetches the version of the data that is asked for, then runs the image's command.
#
# The command is $ENDCAP_COMMAND $TRAIN_ARGS ARGUMENT..., in a login shell; one that begins with a program (bash, sh, python,
# python3, torchrun, endcap) is run as it is.
#
#   DATA_VERSION_FILE   .dvc files (paths, gs:// or s3://): their data are fetched and become STAGING_PREFIX
#   DATA_REMOTE         where the data are kept: the name of a remote in the .dvc file's repository, or a folder, gs://, s3://
#
# Standard output belongs to the command: this script speaks on standard error.
set -euo pipefail

if [[ -n ${ENDCAP_WORKSPACE-} ]]; then
  endcap init "$ENDCAP_WORKSPACE" >&2
fi

if [[ -n ${DATA_VERSION_FILE-} ]]; then
  staging=${ENDCAP_WORKSPACE:?is needed: it is where the data go}/staging
  # Several files may be named, with spaces between.
  read -r -a files <<<"$DATA_VERSION_FILE"
  endcap data pull "${files[@]}" --to "$staging" --force ${DATA_REMOTE:+--remote "$DATA_REMOTE"} \
    --workspace "$ENDCAP_WORKSPACE" >&2
  export STAGING_PREFIX=$staging
fi

case ${1-} in
  bash | sh | python | python3 | torchrun | endcap) exec "$@" ;;
esac
# exec all the way: signals reach the command itself, and its exit code is the container's.
# shellcheck disable=SC2016 # the login shell expands them
exec bash -lc 'exec ${ENDCAP_COMMAND:?names no command} ${TRAIN_ARGS-} "$@"' entry "$@"
