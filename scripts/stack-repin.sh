# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Move the pin to another point release of its series. Sourced by scripts/stack.
#
# All of it is done on a copy of the project, in build/repin. The pin's folder gets
# what has changed when the whole stack and all mutants apply there.

set -eu
: "${top:?}" "${patches:?}" "${build:?}" "${scratch?}" "${pin_word?}"

# repin VERSION: a release, or a version of Debian's package of one
repin()
{
	old=$(pin_value version)
	check_release "$1"
	check_committed
	repin=$build/repin
	rm -rf -- "$repin"
	mkdir -p -- "$repin/try"
	copy=$repin/project new=$repin/linux
	"$top/scripts/fetch" --look "$1" "$scratch/look" || explained
	to=$(sed -n 's/^version //p' "$scratch/look")
	{ mkdir "$copy" && project_files >"$scratch/project" &&
		(cd "$top" && cpio -pdm --quiet "$copy" <"$scratch/project"); } \
		2>"$scratch/copying" ||
		die "the project cannot be copied to $copy ($(tail -n 1 "$scratch/copying")): free some space, then try again"
	new_pin >"$copy/patches/$PIN/pin"
	new_stock
	# Nothing is known of the new tree yet.
	sed '/^#/!d' "$patches/manifest" >"$copy/patches/$PIN/manifest"
	in_copy fetch "$new" || explained

	: >"$scratch/conflicts"
	try_new_files
	try_patches
	refuse_conflicts
	echo "writing the patches for $to"
	in_copy stack move >"$scratch/moved" || explained
	sed -n '/ moved: /p' "$scratch/moved"
	in_copy stack apply "$new" >"$scratch/applied" || explained
	try_mutants
	refuse_conflicts

	[ ! -f "$top/Documentation/status.md" ] ||
		in_copy status-page >"$copy/Documentation/status.md" || explained
	{
		(cd "$copy/patches/$PIN" && find . -maxdepth 1 -type f) |
			sed "s|^\./|patches/$PIN/|" | sort
		echo Documentation/status.md
	} | while read -r f; do
		[ ! -f "$copy/$f" ] || cmp -s "$copy/$f" "$top/$f" ||
			printf '%s\t%s\n' "$top/$f" "$copy/$f"
	done >"$scratch/replace"
	# The last chance to see an edit
	check_committed
	replace_files
	tell_moved
}

# explained: end; the cause was given by what was called
explained()
{
	: >"$scratch/explained"
	exit 1
}

# in_copy SCRIPT ARGUMENT...: one of the copy, which knows the new release. Not by way
# of a tree, folder or source that the user has named.
in_copy()
{
	script=$1
	shift
	env -u BUILD -u INTERFACE -u KERNEL_SRC -u KERNEL_TARBALL -u KERNEL_URL \
		-u MUTANTS -u TREE LINUX="$new" "$copy/scripts/$script" "$@"
}

# check_release VERSION: stop if the pin cannot be moved there
check_release()
{
	series=${old%.*}
	[ -n "$1" ] ||
		die "name the release that the pin $PIN is to be moved to: TO=$series.N"
	echo "$1" | grep -qxE '[0-9]+\.[0-9]+\.[0-9]+(-[A-Za-z0-9.+~]+)?' ||
		die "TO=$1 is no point release: write it as $series.N"
	case $1 in
	"$old" | "$(pin_value package-version)")
		die "the pin $PIN is at $1 already: there is nothing to move" ;;
	"$series".*) ;;
	*) die "TO=$1 is of another series: the pin $PIN stays in $series$(pin_of_series "$1")" ;;
	esac
}

# pin_of_series VERSION: the other pin that it is for, if there is one
pin_of_series()
{
	for other in $(pins); do
		other_version=$(sed -n 's/^version //p' "$top/patches/$other/pin")
		case $1 in
		"${other_version%.*}".*) echo ", for this one say PIN=$other" ;;
		esac
	done
}

# check_committed: stop if there are changes in what is to be written anew: the move
# is to be a change of its own, and nobody's edit is to end up in it.
check_committed()
{
	[ -e "$top/.git" ] || return 0
	dirty=$(project_git status --porcelain -- "patches/$PIN" \
		Documentation/status.md) ||
		die "git cannot tell whether there are edits in patches/$PIN (above): mend that, then try again"
	dirty=$(echo "$dirty" | sed -n '1s/^...//p')
	[ -z "$dirty" ] ||
		die "$dirty has changes that are not committed, and the move would write on top of them: commit them, or put them aside with 'git stash', then try again"
}

# new_pin: the pin, with what is known of the new release
new_pin()
{
	awk -v old="$old" -v new="$to" '
		FILENAME == ARGV[1] {
			key = $1 == "tarball-sha256" && $3 == "orig" ? "orig" : $1
			value[key] = $2
			next
		}
		function put(key, text) {
			if (key in value)
				print text " " value[key] (key == "orig" ? " orig" : "")
			delete value[key]
		}
		function put_tarballs() {
			put("tarball-sha256", "tarball-sha256")
			put("orig", "tarball-sha256")
		}
		# Where it goes if the old release was not in the archive
		behind && $1 !~ /^package-/ {
			put("package-version", "package-version")
			put("package-sha256", "package-sha256")
			behind = 0
		}
		$1 == "version" { put("version", "version"); next }
		$1 == "package-version" || $1 == "package-sha256" { put($1, $1); next }
		$1 == "tarball-sha256" { put_tarballs(); next }
		$1 == "source" && $2 != "apt" {
			while ((at = index($0, old)) > 0) {
				out = out substr($0, 1, at - 1) new
				$0 = substr($0, at + length(old))
			}
			print out $0
			out = ""
			next
		}
		{ print }
		$1 == "package" { behind = 1 }
		END { put_tarballs() }' \
		"$scratch/look" "$patches/pin"
}

# new_stock: the stock kernel of that release, if the pin has modules for one
new_stock()
{
	kernel=$(sed -n 's/^kernel //p' "$scratch/look")
	[ -z "$kernel" ] ||
		sed -i "s/^kernel .*/kernel $kernel/" "$copy/patches/$PIN/stock"
}

# add_conflict TEXT: one more line of them
add_conflict()
{
	printf '%s\n' "$1" >>"$scratch/conflicts"
}

# refuse_conflicts: name them and stop, if there are any
refuse_conflicts()
{
	[ -s "$scratch/conflicts" ] || return 0
	sed 's/^/conflict: /' "$scratch/conflicts"
	[ ! -s "$scratch/rejects" ] || {
		mkdir -p "$build/log"
		cp -- "$scratch/rejects" "$build/log/repin.rejects"
		echo "the hunks that do not apply are in $build/log/repin.rejects"
	}
	n=$(grep -c . "$scratch/conflicts")
	die "$n conflict$([ "$n" -eq 1 ] || echo s) with $to (above), and nothing was changed: mend these for $to, commit that, and run the same command again"
}

# name_hunks NAME LOG: of what patch said to NAME, the hunks that failed
name_hunks()
{
	awk -v name="$1" '
		/^(patching|checking) file / { f = $3 }
		/^\|\+\+\+ / { f = substr($2, index($2, "/") + 1) }
		/^Hunk #[0-9]+ FAILED / { print name ": " f ": hunk " substr($2, 2) " at line " $5 + 0 }
		/^No file to patch/ { print name ": " f ": no such file" }' "$2"
}

# try_new_files: does the new release bring along what the stack adds?
try_new_files()
{
	newfiles | while read -r f; do
		[ ! -e "$new/$f" ] ||
			add_conflict "$f: the stack adds this file, and $to has one of that name"
	done
}

# try_patches: put it onto the files of the new tree, patch by patch. What of one does
# not go on is left out, so that the next ones show what they have of their own.
try_patches()
{
	touched_by_series >"$scratch/touched"
	copy "$new" "$repin/try" "$scratch/touched"
	: >"$scratch/rejects"
	series_entries | while read -r p options; do
		set -- -d "$repin/try" -p1 ${options:+"$options"} -f -E \
			--no-backup-if-mismatch -i "$patches/$p"
		for f in 0 2; do
			if patch "$@" -F$f -s --dry-run >/dev/null 2>&1; then
				patch "$@" -F$f -s >/dev/null
				continue 2
			fi
		done
		if patch "$@" -R -F0 -s --dry-run >/dev/null 2>&1; then
			add_conflict "$p: $to has it already, take it out of the series"
			continue
		fi
		rm -f -- "$scratch/rej"
		patch "$@" -F2 -r "$scratch/rej" >"$scratch/log" 2>&1 || :
		name_hunks "$p" "$scratch/log" >"$scratch/hunks"
		[ -s "$scratch/hunks" ] || tail -n 1 "$scratch/log" |
			sed "s|^|$p: |" >"$scratch/hunks"
		cat "$scratch/hunks" >>"$scratch/conflicts"
		[ ! -f "$scratch/rej" ] || {
			echo "# $p"
			cat "$scratch/rej"
		} >>"$scratch/rejects"
	done
}

# try_mutants: do they go on top of the stack?
try_mutants()
{
	in_copy mutants list >"$scratch/mutants" || explained
	awk -F'\t' '$5 == "push" { print $6 }' "$scratch/mutants" |
		while read -r m; do
			! patch -d "$new" -p1 -F0 -f -E --dry-run -i "$m" \
				>"$scratch/log" 2>&1 || continue
			name_hunks "${m#"$copy/"}" "$scratch/log" \
				>>"$scratch/conflicts"
		done
}

# tell_moved: what was done, and what is left to do by hand
tell_moved()
{
	echo "patches/$PIN: moved from $old to $to: $(patch_names | grep -c . || :) patches, $(grep -c ' moved: ' "$scratch/moved" || :) of them moved$(
		! grep -q 'with fuzz' "$scratch/moved" ||
			echo '; read those with fuzz, they are between other lines now')"
	cut -f1 "$scratch/replace" | sed "s|^$top/|written: |"
	grep -q '^package-version ' "$scratch/look" ||
		echo "Debian has no package of $to yet: the pin knows upstream's tarball alone"
	# shellcheck disable=SC2154 # set by new_stock
	[ -n "$kernel" ] || ! grep -qs '^kernel ' "$patches/stock" ||
		echo "no stock kernel of $to was found: patches/$PIN/stock names that of $old"
	grep -lF -e "$old" -- "$top"/*.md "$top"/Documentation/*.md 2>/dev/null |
		sed "s|^$top/|it still names $old: |" || :
	echo "next: make check$pin_word"
}
