# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the project holds: the series, the files its patches touch, and the new
# files. Sourced by scripts/stack.

set -eu
: "${top:?}" "${patches:?}"

# series_entries: the lines of the series without comments, each a patch's name
# and what quilt may have put behind it (-p0)
series_entries()
{
	# "quilt new -p ab" writes an option that patch does not know.
	sed 's/[[:space:]]*#.*//; s/[[:space:]]-pab$//; s/^[[:space:]]*//; /^$/d' \
		"$patches/series"
}

patch_names()
{
	series_entries | sed 's/[[:space:]].*//'
}

# missing_patch: the first patch of the series that has no file, if any
missing_patch()
{
	for p in $(patch_names); do
		if [ ! -e "$patches/$p" ]; then
			echo "$p"
			return
		fi
	done
}

# need_patches TREE [begun]: every patch of the series is there. One that "quilt
# new" has begun in TREE has no file before its first refresh; that is good
# enough where "begun" is said.
need_patches()
{
	missing=$(missing_patch)
	[ -n "$missing" ] || return 0
	if applied_patches "$1" | grep -qxF -e "$missing"; then
		[ "${2:-}" != begun ] || return 0
		die "$missing is in the series and has no file yet: $(hint refresh "$1") writes it, then try again"
	fi
	die "$missing is in $patches/series, but there is no such file: put it back, or take the line out with 'sed -i \"/^$missing/d\" $(word "$patches/series")'"
}

# patches_into DIR [FILE] <names: put these patches of the project, and FILE behind
# them, into DIR, with a series. One that has no file yet is empty.
patches_into()
{
	cat >"$1/names"
	series_entries | awk -v names="$1/names" '{ entry[$1] = $0 }
		END { while ((getline p <names) > 0)
			print p in entry ? entry[p] : p }' >"$1/series"
	(
		cd "$patches"
		while read -r p; do
			if [ -e "$p" ]; then
				echo "$p"
			else
				case $p in
				*/*) mkdir -p -- "$1/${p%/*}" ;;
				esac
				: >"$1/$p"
			fi
		done <"$1/names" | xargs -r cp --parents -t "$1" --
	)
	rm -f -- "$1/names"
	[ -z "${2:-}" ] || {
		cp -- "$2" "$1"
		echo "${2##*/}" >>"$1/series"
	}
}

# touched FILE...: the paths that these patch files change, each once
touched()
{
	[ $# -gt 0 ] || return 0
	awk '
		function path(line) {
			line = substr(line, 5)
			sub(/\t.*/, "", line)
			return line
		}
		function length_of(range) {
			return sub(/.*,/, "", range) ? range + 0 : 1
		}
		FNR == 1 { minus = plus = 0; before = "" }
		minus > 0 || plus > 0 {
			if ($0 !~ /^[+\\]/)
				minus--
			if ($0 !~ /^[-\\]/)
				plus--
			next
		}
		/^@@ -[0-9]/ { minus = length_of($2); plus = length_of($3); next }
		/^\+\+\+ / && before != "" {
			name = path($0)
			if (name == "/dev/null")
				name = before
			# quilt writes a/ and b/, or the names of the folders.
			if (sub(/^[^\/]*\//, "", name))
				print name
		}
		{ before = /^--- / ? path($0) : "" }' "$@" | sort -u
}

# touched_by_series: the paths that the whole series changes
touched_by_series()
{
	(
		cd "$patches"
		set --
		for p in $(patch_names); do
			[ ! -e "$p" ] || set -- "$@" "$p"
		done
		touched "$@"
	)
}

# newfiles: the new files of the project, at the paths they get in a tree
newfiles()
{
	(
		cd "$top"
		for d in arch drivers include Documentation samples virt \
			tools/testing/selftests; do
			[ ! -d "$d" ] || find "$d" -type f ! -name '*~' \
				! -name '.*' ! -name '*.o' ! -name '*.ko' \
				! -name '*.mod*' ! -name '*.rej' ! -name '*.orig' \
				! -name 'Module.symvers'
		done
	) | sort
}

# stack_key: tells this stack from another state of it
stack_key()
{
	(
		cd "$patches"
		for p in $(patch_names); do
			[ ! -e "$p" ] || cat -- "$p"
		done
	) | sha -
}
