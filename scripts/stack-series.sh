# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the project holds: the series, the files its patches touch, and the new
# files. Sourced by scripts/stack.

set -eu
: "${top:?}" "${patches:?}"

# series_entries: the series without comments; each line is a patch's name and
# perhaps options for patch (-p0)
series_entries()
{
	# "quilt new -p ab" writes -pab, which patch does not understand.
	sed 's/[[:space:]]*#.*//; s/[[:space:]]-pab$//; s/^[[:space:]]*//; /^$/d' \
		"$patches/series"
}

patch_names()
{
	series_entries | sed 's/[[:space:]].*//'
}

# missing_patches: the patches of the series that have no file
missing_patches()
{
	for p in $(patch_names); do
		[ -e "$patches/$p" ] || echo "$p"
	done
}

# need_patches TREE [begun]: stop if a patch of the series has no file. With "begun",
# accept one that "quilt new" has just started in TREE.
need_patches()
{
	for p in $(missing_patches); do
		if ! applied_patches "$1" | grep -qxF -e "$p"; then
			die "$p is in $patches/series, but there is no such file: put it back, or take the line out with 'sed -i \"/^$p/d\" $(word "$patches/series")'"
		elif [ "${2:-}" != begun ]; then
			die "$p is in the series and has no file yet: $(hint refresh "$1") writes it, then try again"
		fi
	done
}

# patches_into DIR <names: copy these patches to DIR and write a series there. A patch
# that has no file yet becomes an empty one.
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
}

# touched FILE...: the paths that these patches change
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
			# The prefix is a/ and b/, or whatever quilt made it.
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

# new_below FOLDER: the new files in it, by their paths in a tree. The project's own
# pages are in the same folder as the kernel's.
new_below()
{
	(
		cd "$1"
		set --
		for d in arch drivers include Documentation samples virt \
			tools/testing/selftests; do
			[ ! -d "$d" ] || set -- "$@" "$d"
		done
		[ $# -eq 0 ] || find "$@" -type f ! -name '*.md' ! -name '*~' \
			! -name '.*' ! -name '*.o' ! -name '*.ko' \
			! -name '*.mod*' ! -name '*.rej' ! -name '*.orig' \
			! -name 'Module.symvers'
	)
}

# newfiles: the project's new files; they have the same paths in a tree. A pin
# can have some of its own, in files/, which win over those that all pins share,
# and a list of the shared files and folders that it does not have: "absent".
newfiles()
{
	{
		if [ -f "$patches/absent" ]; then
			new_below "$top" | awk -F'\t' '
				FILENAME == ARGV[1] {
					if ($0 !~ /^#/ && NF)
						absent[$1]
					next
				}
				{
					n = split($0, part, "/")
					path = ""
					for (i = 1; i <= n; i++) {
						path = path (i > 1 ? "/" : "") part[i]
						if (path in absent)
							next
					}
					print
				}' "$patches/absent" -
		else
			new_below "$top"
		fi
		[ ! -d "$patches/files" ] || new_below "$patches/files"
	} | sort -u
}

# new_source FILE: where the project has this new file
new_source()
{
	if [ -f "$patches/files/$1" ]; then
		echo "$patches/files/$1"
	else
		echo "$top/$1"
	fi
}

# new_sources: the new files, by their paths in the project
new_sources()
{
	newfiles | while read -r f; do
		new_source "$f"
	done
}

# copy_new DIR LIST: copy the listed new files to DIR
copy_new()
{
	copy "$top" "$1" "$2"
	[ ! -d "$patches/files" ] || copy "$patches/files" "$1" "$2"
}

# stack_key: a hash of the series, to tell whether it has changed
stack_key()
{
	(
		cd "$patches"
		set --
		for p in $(patch_names); do
			[ ! -e "$p" ] || set -- "$@" "$p"
		done
		[ $# -eq 0 ] || cat -- "$@"
	) | sha -
}
