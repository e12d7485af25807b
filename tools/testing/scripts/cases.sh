# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the tests of the project's tools share. Sourced, with $top set to the
# project's folder, in place of scripts/lib.sh. $work is a folder that goes when
# the test ends, after "cleanup" was called, which a test may define anew.
#
# A test prints "ok: NAME" or "not ok: NAME: WHY" for each case, ends with
# "finish", and needs neither a kernel nor a machine that was built.

. "$top/scripts/lib.sh"
work=$(mktemp -d)
failed=0

cleanup()
{
	:
}
# Somebody's own git may sign what it commits, or run hooks.
GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM
trap 'cleanup; chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

finish()
{
	exit $failed
}

ok()
{
	echo "ok: $1"
}

# bad NAME WHY [FILE]: with what FILE holds
bad()
{
	echo "not ok: $1: $2"
	[ -z "${3:-}" ] || sed 's/^/    /' "$3"
	failed=1
}

# user COMMAND...: run it with the environment as it is, as a user would
user()
{
	env -u VIRTQUILT_CLEAN "$@"
}

# is NAME WANT GOT: two texts are the same
is()
{
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		bad "$1" "expected '$2', got '$3'"
	fi
}

# same NAME WANT GOT: two files are the same
same()
{
	if diff "$2" "$3" >"$work/diff"; then
		ok "$1"
	else
		bad "$1" 'expected is <, seen is >' "$work/diff"
	fi
}

# works NAME COMMAND...: it succeeds
works()
{
	case_name=$1
	shift
	if "$@" >"$work/said" 2>&1 </dev/null; then
		ok "$case_name"
	else
		bad "$case_name" "it failed" "$work/said"
	fi
}

# refused NAME REGEX COMMAND...: it fails, and what it says on standard error
# is one line that matches.
refused()
{
	case_name=$1 regex=$2
	shift 2
	if "$@" >"$work/out" 2>"$work/said" </dev/null; then
		bad "$case_name" 'it was not refused' "$work/out"
	elif [ "$(grep -c . "$work/said")" -ne 1 ]; then
		bad "$case_name" 'it does not say one sentence' "$work/said"
	elif ! grep -qE -e "$regex" "$work/said"; then
		bad "$case_name" "it does not say '$regex'" "$work/said"
	else
		ok "$case_name"
	fi
}

# project FOLDER: a copy of the project to try things in
project()
{
	mkdir -p "$1"
	(cd "$top" && project_files | cpio -pdm --quiet "$1")
}

# nobody COMMAND...: run it as a user who is not root, where root runs this
nobody()
{
	if [ "$(id -u)" -eq 0 ]; then
		setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
	else
		"$@"
	fi
}

# pack TARBALL: $work/tree as a tarball
pack()
{
	tar -C "$work" --sort=name --mtime=@0 -cJf "$1" tree
}

# small_project FOLDER: a copy of the project whose pinned tree is a few files:
# $work/tree, and $work/pinned.tar.xz. Of the stack it has the new files alone.
small_project()
{
	project "$1"
	: >"$1/patches/$PIN/series"
	mkdir -p "$work/tree/sub"
	pin_value version | awk -F. '{
		printf "VERSION = %d\nPATCHLEVEL = %d\nSUBLEVEL = %d\nEXTRAVERSION =\n", $1, $2, $3
	}' >"$work/tree/Makefile"
	: >"$work/tree/Kbuild"
	echo pinned >"$work/tree/sub/file"
	# It does not compress.
	awk 'BEGIN { srand(1); for (i = 0; i < 3000; i++) print rand() }' \
		>"$work/tree/long"
	pack "$work/pinned.tar.xz"
	{
		echo '# the manifest of a test'
		echo "$(sha "$work/tree/sub/file")  sub/file"
	} >"$1/patches/$PIN/manifest"
	{
		sed '/^source /d; /-sha256 /d' "$patches/pin"
		echo "source apt"
		echo "package-sha256 $(sha "$work/pinned.tar.xz")"
	} >"$1/patches/$PIN/pin"
}
