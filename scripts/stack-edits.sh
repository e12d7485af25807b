# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Find out what an editor or quilt has done to a tree since the stack was applied,
# and name the command that gets the user out of it. Sourced by scripts/stack.
#
# A file can be reproduced if it is as it was before the stack, as apply left it,
# or as the patches make it that quilt has applied. Anything else is an edit, and
# an edit is never overwritten.

set -eu
: "${top:?}" "${patches:?}" "${scratch?}"

# q COMMAND...: run quilt here, with the patches in ../patches and without the
# user's own settings
q()
{
	QUILT_PC=.virtquilt QUILT_PATCHES=../patches QUILT_SERIES=series \
		QUILT_DIFF_OPTS=-p QUILT_PATCH_OPTS='' \
		QUILT_REFRESH_ARGS='' QUILT_NO_DIFF_INDEX=1 \
		quilt --quiltrc - "$@"
}

# patch_all DIR: apply the series in DIR/patches to DIR/tree without quilt, which
# is faster. Print the first patch that does not apply.
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

# push_all DIR: push the series in DIR/patches onto DIR/tree
push_all()
{
	(cd "$1/tree" && q push --fuzz=0 -a) >"$1/log" 2>&1
}

# failed_patch DIR: the patch at which push_all stopped
failed_patch()
{
	sed -n 's/^Applying patch //p' "$1/log" | tail -n 1
}

# quilt_files TREE: the files of which quilt has a backup for an applied patch
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

# expect TREE: fill $scratch/expected/tree with the files as the applied patches
# make them. apply has kept the text of each patch that it pushed. quilt's time
# stamp tells whether the user has pushed or refreshed a patch since, so that the
# project's text is the one in the tree. If that was changed once more, nobody
# knows the text in the tree, and the patch is listed in $scratch/rewritten.
expect()
{
	expected=$scratch/expected
	rm -rf "$expected"
	mkdir -p "$expected/tree" "$expected/patches"
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
	copy_new "$expected/tree" "$expected/newfiles"
	patch_all "$expected" >/dev/null
}

# survey TREE: list the edited files in $scratch/edited. Besides:
#   sums    each file of the record: its sha256 before and after the stack, and now
#   theirs  files that only the user's own patches touch
#   seen    the sha256 now of all of them
# and in $by_quilt the patches that quilt has pushed or refreshed since apply.
survey()
{
	by_quilt=$(
		if cd "$1/.virtquilt" 2>/dev/null; then
			find . -mindepth 2 -name .timestamp -newer stack \
				2>/dev/null | sed 's|^\./||; s|/\.timestamp$||'
		fi
	)
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
			cmp -s "$1/$f" "$(new_source "$f")" || echo "$f"
	done <"$scratch/suspects" >"$scratch/edited"
}

# is_forced TREE: was a patch force-pushed and not refreshed yet? Sets $stuck to it.
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
	echo "resolve the rejects, then run 'cd $(word "$1") && QUILT_PC=.virtquilt quilt refresh'"
}

refuse_forced()
{
	! is_forced "$1" ||
		die "$stuck was force-pushed in $1 and not refreshed: $(refresh_forced "$1")"
}

# way_past TREE PATCH: what to do about a PATCH that does not apply. If it is the
# next one to push, quilt can force it.
way_past()
{
	if [ -e "$1/.virtquilt/$2~refresh" ]; then
		refresh_forced "$1"
	elif [ "$(state_of "$1")" = applied ] &&
		[ "$(applied_patches "$1")" = "$(patch_names | awk -v name="$2" \
			'$1 == name { exit } { print }')" ]; then
		echo "push it with 'cd $(word "$1") && QUILT_PC=.virtquilt quilt push -f', resolve the rejects and refresh it there"
	else
		echo "fix the patch by hand, or go back to the committed one"
	fi
}

# refuse_edits TREE: stop if there is an edit
refuse_edits()
{
	refuse_forced "$1"
	survey "$1"
	[ -s "$scratch/edited" ] || return 0
	read -r f <"$scratch/edited"
	die "$f in $1 was edited, and the edit is in no patch: keep it with $(hint refresh "$1"), or move it aside with $(aside "$1" "$f"), then try again"
}

# aside TREE FILE: the command that moves an edited file out of the way
aside()
{
	echo "'mv -b $(word "$1/$2") $(word "$1/$2.mine")'"
}
