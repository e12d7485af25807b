# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What has been done in a tree since the stack was applied to it, with an editor
# or with quilt, and the way out of it. Sourced by scripts/stack.
#
# A file's text can be made again if it is what the tree had before the stack,
# what the stack has made of it, or what those patches make of it that quilt
# says are applied. Any other text is an edit, and never overwritten.

set -eu
: "${top:?}" "${patches:?}" "${scratch?}"

# q COMMAND...: quilt in the current folder, with the patches in ../patches,
# whatever the user's own settings are
q()
{
	QUILT_PC=.virtquilt QUILT_PATCHES=../patches QUILT_SERIES=series \
		QUILT_DIFF_OPTS=-p QUILT_PATCH_OPTS='' \
		QUILT_REFRESH_ARGS='' QUILT_NO_DIFF_INDEX=1 \
		quilt --quiltrc - "$@"
}

# patch_all DIR: patch DIR/tree with the series in DIR/patches, where quilt's own
# files are not needed; print the patch that does not go on, if there is one.
patch_all()
{
	while read -r p options; do
		if [ -s "$1/patches/$p" ] &&
			! patch -d "$1/tree" -p1 ${options:+"$options"} -F0 -s -f \
				--no-backup-if-mismatch -i "$1/patches/$p" \
				>"$1/log" 2>&1; then
			echo "$p"
			return
		fi
	done <"$1/patches/series"
}

# push_all DIR: push the series in DIR/patches on DIR/tree
push_all()
{
	(cd "$1/tree" && q push --fuzz=0 -a) >"$1/log" 2>&1
}

# failed_patch DIR: which patch it was that did not go on
failed_patch()
{
	sed -n 's/^Applying patch //p' "$1/log" | tail -n 1
}

# quilt_files TREE: the files that quilt has put aside for the applied patches
quilt_files()
{
	[ -s "$1/.virtquilt/applied-patches" ] || return 0
	# shellcheck disable=SC2046 # names without blanks
	(
		cd "$1/.virtquilt"
		find $(cat applied-patches) -type f ! -name .timestamp \
			-printf '%P\n' 2>/dev/null || :
	) | sort -u
}

# expect TREE: make $scratch/expected/tree with the files as the tree's applied
# patches make them, these being the ones that were pushed by apply, or what
# quilt has pushed or refreshed since, as its time stamps tell. If such a patch
# has been written again after that, its text in the tree is not known and it is
# listed in $scratch/rewritten.
expect()
{
	expected=$scratch/expected
	rm -rf "$expected"
	mkdir -p "$expected/tree" "$expected/patches"
	by_quilt=$(cd "$1/.virtquilt" && find . -mindepth 2 -name .timestamp \
		-newer stack 2>/dev/null | sed 's|^\./||; s|/\.timestamp$||')
	applied_patches "$1" | patches_into "$expected/patches"
	for p in $(applied_patches "$1"); do
		case $NL$by_quilt$NL in
		*"$NL$p$NL"*)
			[ -z "$(find "$patches/$p" -newer "$1/.virtquilt/$p/.timestamp" 2>/dev/null)" ] ||
				echo "$p" >>"$scratch/rewritten"
			;;
		*) [ ! -f "$1/.virtquilt/pushed/$p" ] || echo "$p" ;;
		esac
	done >"$expected/pushed"
	[ ! -s "$expected/pushed" ] ||
		copy "$1/.virtquilt/pushed" "$expected/patches" "$expected/pushed"
	(
		cd "$expected/patches"
		# shellcheck disable=SC2046 # names without blanks
		touched $(sed 's/[[:space:]].*//' series)
		quilt_files "$1"
		record_of "$1" | sed 's/^[^ ]* [^ ]* //'
	) | sort -u >"$expected/all"
	newfiles >"$expected/newfiles"
	comm -23 "$expected/all" "$expected/newfiles" >"$expected/files"
	plant "$1" "$expected" "$expected/files"
	copy "$top" "$expected/tree" "$expected/newfiles"
	patch_all "$expected" >/dev/null
}

# survey TREE: write to $scratch/edited the files in which there is text that
# nothing else has: not the patches, not the project, not the tree as it was.
# The other files can be made again. $scratch/sums has for each file of the
# record what it was, should be and is; $scratch/theirs are the files that only
# the user's own patches touch, $scratch/seen what each of them was.
survey()
{
	record_of "$1" | sums "$1" >"$scratch/sums"
	quilt_files "$1" >"$scratch/quilt-files"
	: >"$scratch/edited"
	: >"$scratch/rewritten"
	awk '{ print $4 }' "$scratch/sums" | sort |
		comm -13 - "$scratch/quilt-files" >"$scratch/theirs"
	sed 's/^/- - /' "$scratch/theirs" | sums "$1" |
		cat "$scratch/sums" - | awk '{ print $3, $4 }' >"$scratch/seen"
	{
		awk '$3 != $1 && $3 != $2 && $3 != "-" { print $4 }' "$scratch/sums"
		cat "$scratch/theirs"
	} | sort -u >"$scratch/suspects"
	[ -s "$scratch/suspects" ] || return 0
	expect "$1"
	while read -r f; do
		[ ! -f "$1/$f" ] || cmp -s "$1/$f" "$scratch/expected/tree/$f" ||
			cmp -s "$1/$f" "$top/$f" || echo "$f"
	done <"$scratch/suspects" >"$scratch/edited"
}

# is_forced TREE: is there a patch that quilt was forced to push, and that has
# not been refreshed since? It is named in $stuck.
is_forced()
{
	for p in $(applied_patches "$1"); do
		if [ -e "$1/.virtquilt/$p~refresh" ]; then
			stuck=$p
			return 0
		fi
	done
	return 1
}

refresh_forced()
{
	echo "mend what was rejected, then run 'cd $(word "$1") && QUILT_PC=.virtquilt quilt refresh'"
}

refuse_forced()
{
	! is_forced "$1" ||
		die "$stuck was pushed by force in $1 and has not been refreshed: $(refresh_forced "$1")"
}

# way_past TREE PATCH: what to do when PATCH does not go on. Where those before
# it are in the tree and it is not, quilt can be made to push it.
way_past()
{
	if [ -e "$1/.virtquilt/$2~refresh" ]; then
		refresh_forced "$1"
	elif [ "$(state_of "$1")" = applied ] &&
		[ "$(applied_patches "$1")" = "$(patch_names | awk -v name="$2" \
			'$1 == name { exit } { print }')" ]; then
		echo "push it with 'cd $(word "$1") && QUILT_PC=.virtquilt quilt push -f', mend what is rejected, and refresh it there with quilt"
	else
		echo "mend the patch by hand, or go back to the committed one"
	fi
}

# refuse_edits TREE: stop at an edit that is nowhere but in the tree.
refuse_edits()
{
	refuse_forced "$1"
	survey "$1"
	[ -s "$scratch/edited" ] || return 0
	read -r f <"$scratch/edited"
	die "$f in $1 was edited, and no patch has the edit: keep it with $(hint refresh "$1"), or put it aside with $(aside "$1" "$f"), then try again"
}

# aside TREE FILE: the command that puts an edited file aside
aside()
{
	echo "'mv -b $(word "$1/$2") $(word "$1/$2.mine")'"
}
