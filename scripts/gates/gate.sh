# shellcheck shell=sh disable=SC2154 # what lib.sh sets
# SPDX-License-Identifier: GPL-2.0
#
# What the gates share. Sourced by each, with $top set to the project's folder.
#
# A gate prints a line for each complaint, "RULE: where: what", where RULE is
# an id of scripts/gates/rules, and says at last how much it has looked at. It
# works from lists that it wrote down as a whole, so that one that breaks off
# is an error and not a short list.

. "$top/scripts/lib.sh"
. "$top/scripts/machines.sh"
cd "$top" || exit 1
dest=${GATE_DEST:-$build/lint}
LINUX=${LINUX:-$build/lint/linux}
export LINUX
mkdir -p "$dest" "$build"
# shellcheck disable=SC2034 # for the gates
tree=$LINUX

# complain RULE: each line of standard input is one, "where: what"
complain()
{
	sed "s/^/$1: /"
}

# looked_at N WHAT: how much there was to look at; nothing is a failure
looked_at()
{
	echo "looked at: $*"
}

# only: of the names on standard input those that match GATE_ONLY=, if it is set
only()
{
	grep -E -e "${GATE_ONLY:-.}" || :
}

# project_list: the project's files in $dest/files
project_list()
{
	project_files >"$dest/files.new"
	mv "$dest/files.new" "$dest/files"
}

# series_list: the patches of the series in $dest/series
series_list()
{
	scripts/stack series >"$dest/series.new"
	mv "$dest/series.new" "$dest/series"
}

# lines FILE: how many
lines()
{
	grep -c . "$1" || :
}
