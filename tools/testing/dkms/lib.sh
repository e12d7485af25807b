# shellcheck shell=sh disable=SC2034,SC2154 # shared with run
# SPDX-License-Identifier: GPL-2.0
#
# What the scenarios share: rows of results, and looks at a chroot. Sourced after
# scripts/lib.sh.
#
# In a scenario: $scenario is its name, $work a folder for it and the others,
# $kernel the stock kernel, $own the version of the rebuilt modules, $modules
# their names.

# row TEST VERDICT DETAIL
row()
{
	row_now=$(date +%s)
	printf '%s\t%s\t-\t%s\t%s\t%s.000\t%s\trun\n' "$PIN-stock" "$place" \
		"$scenario: $1" "$2" "$((row_now - ${row_last:-$row_now}))" \
		"$(printf '%s' "$3" | tr '\t\n' '  ')" >>"$rows"
	row_last=$row_now
	[ "$2" != fail ] ||
		printf '       not ok: %s: %s: %s\n' "$scenario" "$1" "$3"
}

# expect TEST STATUS REGEX COMMAND...: does it end so and say that? An empty
# REGEX stands for anything. What is "refused" gets one sentence, beside what
# make says.
expect()
{
	name=$1 status=$2 regex=$3
	shift 3
	row_last=$(date +%s)
	seen=0
	"$@" >"$work/said" 2>&1 </dev/null || seen=$?
	{
		echo "---- $scenario: $name: $*"
		cat "$work/said"
	} >>"$log"
	[ "$seen" -eq 0 ] || seen=1
	if [ "$seen" -ne "$status" ]; then
		row "$name" fail "exit status $seen, expected $status: $(tail -n 1 "$work/said")"
	elif [ "${name%%:*}" = refused ] &&
		[ "$(grep -vc -e '^make: ' -e '^building ' "$work/said")" -ne 1 ]; then
		row "$name" fail "not one sentence: $(paste -sd ' ' "$work/said")"
	elif [ -z "$regex" ]; then
		row "$name" pass ''
	elif ! grep -qE -e "$regex" "$work/said"; then
		row "$name" fail "expected '$regex', seen: $(tail -n 1 "$work/said")"
	else
		row "$name" pass "$(grep -E -m 1 -e "$regex" "$work/said")"
	fi
}

# unchanged TEST FILE FILE: no difference between two lists
unchanged()
{
	diff "$2" "$3" >"$work/diff" 2>&1 || :
	if [ -s "$work/diff" ]; then
		cat "$work/diff" >>"$log"
		row "$1" fail "$(grep -c '^[<>]' "$work/diff") files differ, the first: $(sed -n '2p' "$work/diff")"
	elif [ ! -s "$2" ]; then
		row "$1" fail "no file was compared"
	else
		row "$1" pass "$(grep -c . "$2") files as they were"
	fi
}

# Every file that matters, with its sha256: not the logs, the packages' own
# records and what is made anew each time with a time stamp in it.
listing()
{
	(
		cd "$1" || exit
		find boot etc lib/ usr var opt srv root -xdev \
			\( -path var/log -o -path var/cache -o -path var/lib/apt \
			-o -path var/lib/dpkg -o -path usr/share/doc \
			-o -path usr/share/man -o -path var/lib/initramfs-tools \
			-o -path srv/virtquilt -o -path etc/ld.so.cache \
			-o -path 'boot/initrd.img-*' -o -path 'etc/*-' \) -prune \
			-o -type f -print0 | sort -z | xargs -0 sha256sum
		find boot etc lib/ usr var/lib/dkms opt -xdev ! -type f \
			-printf '%y %p %l\n' | sort
	)
}

# What an installation could have changed, quick
glance()
{
	(
		cd "$1" || exit
		find lib/modules usr/src var/lib/dkms etc boot -printf '%p %s %l\n' |
			grep -v -e '^etc/ld.so.cache' -e '^boot/initrd.img' | sort
	)
}

# from NAME: $r is a copy of that chroot, for this scenario alone
from()
{
	r=$work/$scenario.root
	rm -rf "$r"
	mkdir "$r"
	cp -a "$work/$1/." "$r"
}

# with_project: the project's own files are in the copy, and $mk is its make there
with_project()
{
	mkdir -p "$r/srv/virtquilt"
	project_files | cpio -pdm --quiet "$r/srv/virtquilt"
	mk='make -s -C /srv/virtquilt'
}

# lab_tests PROGRAM: what awk makes of machine amd's list of tests
lab_tests()
{
	# shellcheck source=tools/testing/lab/machines/amd
	(. "$lab/machines/amd" && echo "$tests$migrating_tests" | sed '/^$/d' | awk "$1")
}

# count FILE: of rows of results
count()
{
	awk -F'\t' '{ n[$5]++ } END { printf "%d passed, %d failed, %d skipped",
		n["pass"], n["fail"], n["skip"] }' "$1"
}

# few_modules: the project's copy builds VFIO alone, which is quick
few_modules()
{
	sed -i '/^module /{/ drivers\/vfio /!d}; /^module vfio_migration_region /d' \
		"$r/srv/virtquilt/patches/$PIN/stock"
}
