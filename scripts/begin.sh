# shellcheck shell=sh disable=SC2154 # what lib.sh sets
# SPDX-License-Identifier: GPL-2.0
#
# How a run begins: one at a time in a folder, with the packages that it needs
# and the tree that it works on, and ended as a whole. Sourced after lib.sh.

# supervise COMMAND...: run COMMAND in a process group of its own, and end the
# whole group when this shell is told to end. A shell alone would wait for the
# command that it runs at the moment before it heeds a signal.
supervise()
{
	setsid "$@" &
	supervised=$!
	trap 'supervise_end 130 INT' INT
	trap 'supervise_end 143 TERM' TERM
	trap 'supervise_end 129 TERM' HUP
	supervise_status=0
	wait "$supervised" || supervise_status=$?
	# What it started in the background ends with it.
	kill -s TERM -- "-$supervised" 2>/dev/null || :
	exit $supervise_status
}

supervise_end()
{
	trap '' INT TERM HUP
	kill -s TERM -- "-$supervised" 2>/dev/null || :
	wait "$supervised" || :
	# Each of them takes its own children along. What does not heed a signal
	# is not waited for longer than this.
	tries=100
	while [ $tries -gt 0 ] && [ -n "$(holders)" ]; do
		kill -s TERM -- "-$supervised" 2>/dev/null || :
		tries=$((tries - 1))
		sleep 0.1 # the pace of looking
	done
	for p in $(holders); do
		kill -s KILL "$p" 2>/dev/null || :
	done
	exit "$1"
}

# holders: the processes that hold the lock of this folder
holders()
{
	lock=$(readlink -f "$build/lock") || return 1
	find /proc/[0-9]*/fd -lname "$lock" 2>/dev/null |
		sed 's|^/proc/\([0-9]*\)/.*|\1|' | sort -un
}

# begin [SETUP]: with the names of what is needed beyond the machines' packages
begin()
{
	./setup "$@"
	own_build
	own_cache
	mkdir -p "$build/log" "$results"
	# Two runs in one folder would trip over each other. What a run starts
	# holds the lock too, so that it counts until the last of it has ended.
	exec 8>"$build/lock"
	flock -n 8 || {
		exec 8>&-
		die "another run, or what a killed one left, is at work in $build (processes $(holders | paste -sd ' ')): wait for it, end it, or use another folder with BUILD="
	}
}

# tree: the pinned tree with the stack, in build/linux. It belongs to this tool:
# what a killed run left half done is put right without asking, and fetched anew
# if it cannot be. Edits made in it are the user's: apply refuses to lose them. When
# the pin has moved to another release, the old tree is put aside, since there may be
# edits in it that no patch knows, and what was built of it goes first: files of the
# new one may be older than those objects.
tree()
{
	if [ -f "$build/linux/Makefile" ] &&
		[ "$(tree_version "$build/linux")" != "$(pin_value version)" ]; then
		[ ! -d "$build/linux/.virtquilt" ] ||
			scripts/stack unapply "$build/linux" >"$build/log/apply.log"
		find "$build" -mindepth 2 -maxdepth 2 -name .config-key -printf '%h\n' |
			xargs -r rm -rf --
		tree_aside=$build/linux-$(tree_version "$build/linux")
		while [ -e "$tree_aside" ]; do
			tree_aside=$tree_aside+
		done
		mv "$build/linux" "$tree_aside"
		echo "the tree of the last release is $tree_aside now: remove it if there is nothing of yours in it"
	fi
	if [ -d "$build/linux" ] &&
		[ "$(cat "$build/linux/.virtquilt/state" 2>/dev/null)" != applied ]; then
		if [ ! -d "$build/linux/.virtquilt" ] &&
			[ ! -d "$build/linux/.virtquilt.old" ]; then
			: # as it was fetched
		elif ! scripts/stack unapply "$build/linux" \
			>"$build/log/apply.log" 2>&1; then
			rm -rf "$build/linux"
		fi
	fi
	[ -d "$build/linux" ] ||
		step "Linux $(pin_value version), the pinned tree" \
			"$build/log/fetch.log" scripts/fetch "$build/linux"
	scripts/stack apply "$build/linux" >"$build/log/apply.log"
}
