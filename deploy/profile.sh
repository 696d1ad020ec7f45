# A login shell (`bash -lc`) takes its PATH from /etc/profile: Endcap's environment comes first there too.
# shellcheck shell=sh
PATH="/srv/endcap/venv/bin:$PATH"
export PATH
