# shellcheck shell=sh
# shellcheck disable=SC2034 # for those that source this
# SPDX-License-Identifier: GPL-2.0
#
# A small kernel tree with a small stack, for the tests of the stack tool, and
# what they ask of it beyond cases.sh. Sourced with $top set, in place of that.
#
#   $project   scripts, a pin, three patches, two new files
#   $kernel    the tree, untouched; $tree is where tests work on a copy
#   $stack     the project's stack tool

. "$top/tools/testing/scripts/cases.sh"
# A hook runs with variables that name its repository.
# shellcheck disable=SC2046 # names
unset $(git rev-parse --local-env-vars 2>/dev/null)
GIT_AUTHOR_NAME=tester GIT_AUTHOR_EMAIL=tester@virtquilt.example
GIT_COMMITTER_NAME=tester GIT_COMMITTER_EMAIL=tester@virtquilt.example
export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL
unset TREE OUT SIGNOFF KERNEL_SRC

# says NAME REGEX: so does what the last command said
says()
{
	if grep -qE -e "$2" "$work/said"; then
		ok "$1"
	else
		bad "$1" "it does not say '$2'" "$work/said"
	fi
}

# says_not NAME REGEX
says_not()
{
	if grep -E -e "$2" "$work/said" >"$work/unwanted"; then
		bad "$1" "it says" "$work/unwanted"
	else
		ok "$1"
	fi
}

# holds NAME TEST...: a condition
holds()
{
	name=$1
	shift
	if "$@"; then
		ok "$name"
	else
		bad "$name" "not so: $*"
	fi
}

# listing TREE: tells any change of content, mode or name
listing()
{
	(cd "$1" && find . -name .git -prune -o -printf '%y %m %p %l\n' | sort -k3 &&
		find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum)
}

# refuses NAME REGEX COMMAND...: refused, with $tree as it was
refuses()
{
	listing "$tree" >"$work/before"
	refused "$@"
	listing "$tree" >"$work/after"
	cmp -s "$work/before" "$work/after" ||
		bad "$1" 'the tree was changed' "$work/after"
}

# source_file NAME: 40 lines of it
source_file()
{
	awk -v name="$1" 'BEGIN { for (i = 1; i <= 40; i++)
		print "int " name "_" i ";" }'
}

# release TREE VERSION: make it one of that version
release()
{
	echo "$2" | awk -F. '{
		printf "VERSION = %d\nPATCHLEVEL = %d\nSUBLEVEL = %d\nEXTRAVERSION =\n", $1, $2, $3
	}' >"$1/Makefile"
}

# change FILE LINE TEXT: put TEXT behind a line of $work/new/FILE
change()
{
	sed -i "$2a$3" "$work/new/$1"
}

# make_patch NAME: from $work/old to $work/new, which is the old one then
make_patch()
{
	{
		echo "From: virtquilt maintainers <maintainers@virtquilt.example>"
		echo "Date: Sun, 22 Nov 2026 12:00:00 +0000"
		echo "Subject: area: Do ${1%.patch}"
		echo
		echo "Because it is right."
		echo
		echo "Signed-off-by: virtquilt maintainers <maintainers@virtquilt.example>"
		echo "Patch-mainline: Never, this is a test"
		echo ---
		(
			cd "$work" || exit
			diff -urN old new | sed '/^diff /d
				s|^--- old/\([^\t]*\).*|--- a/\1|
				s|^+++ new/\([^\t]*\).*|+++ b/\1|'
		)
	} >"$project/patches/$PIN/$1"
	echo "$1 # guard" >>"$project/patches/$PIN/series"
	rm -rf "$work/old"
	cp -a "$work/new" "$work/old"
}

# make_project FOLDER: the project there, and its kernel beside it
make_project()
{
	project=$1/project
	kernel=$1/kernel
	tree=$1/tree
	stack=$project/scripts/stack
	# The stack's own tree
	LINUX=$kernel
	export LINUX
	mkdir -p "$kernel/kernel" "$kernel/drivers/char" "$project/patches/$PIN"
	release "$kernel" "$(pin_value version)"
	echo '# Kbuild' >"$kernel/Kbuild"
	printf '.*\n!.gitignore\n' >"$kernel/.gitignore"
	source_file one >"$kernel/kernel/one.c"
	source_file two >"$kernel/kernel/two.c"
	source_file three >"$kernel/drivers/char/three.c"
	source_file four >"$kernel/drivers/four.c"

	cp -r "$top/scripts" "$top/Makefile" "$project"
	printf '#!/bin/sh\n' >"$project/setup"
	chmod +x "$project/setup"
	cp "$top/patches/$PIN/pin" "$project/patches/$PIN"
	printf '# The pin\n%s\n' "$PIN" >"$project/patches/default"
	echo '# The stack' >"$project/patches/$PIN/series"
	mkdir -p "$project/drivers/char" "$project/samples/new/deep"
	source_file new >"$project/drivers/char/new.c"
	printf '#!/bin/sh\ntrue\n' >"$project/samples/new/deep/run.sh"
	chmod +x "$project/samples/new/deep/run.sh"

	rm -rf "$work/old" "$work/new"
	cp -a "$kernel" "$work/old"
	cp -a "$kernel" "$work/new"
	change kernel/one.c 10 'int first_one;'
	make_patch 0101-first.patch
	change kernel/one.c 20 'int second_one;'
	change kernel/two.c 10 'int second_two;'
	make_patch 0201-second.patch
	change kernel/two.c 30 'int third_two;'
	change drivers/char/three.c 10 'int third_three;'
	make_patch 0301-third.patch
	"$stack" refresh >"$work/log" || cat "$work/log"
}

# fresh: $tree as it was
fresh()
{
	rm -rf "$tree"
	cp -a "$kernel" "$tree"
}

# quilted COMMAND...: quilt in $tree, as a user calls it
quilted()
{
	(cd "$tree" && QUILT_PC=.virtquilt quilt "$@" >"$tree.quilt" 2>&1) || {
		sed 's/^/  quilt: /' "$tree.quilt"
		return 1
	}
}
