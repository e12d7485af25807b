# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Apply the stack to a tree and take it off again. Sourced by scripts/stack.
#
# quilt works on copies in TREE/.virtquilt.new. Only finished files are moved into
# the tree, by rename.

set -eu
: "${top:?}" "${patches:?}" "${scratch?}" "${half?}"

# remove_leftovers TREE: remove what a killed run had staged
remove_leftovers()
{
	sort -r "$1/.virtquilt.new/tree/.virtquilt/folders" 2>/dev/null |
		while read -r d; do
		rmdir -- "$1/$d" 2>/dev/null || :
	done
	rm -rf -- "$1/.virtquilt.new" 2>/dev/null ||
		die "$1/.virtquilt.new cannot be removed: get write permission for it"
}

# push_plain DIR: push the series in DIR/patches onto DIR/tree up to the first patch
# that is for quilt to look at. It leaves what quilt leaves: each file as it was
# before the patch, a time stamp and the patch's name. quilt takes four times as
# long.
push_plain()
{
	(
		cd "$1/tree"
		mkdir -p .virtquilt
		[ -f .virtquilt/.version ] || echo 2 >.virtquilt/.version
		n=$(applied_patches . | grep -c . || :)
		tail -n +$((n + 1)) ../patches/series | while read -r p options; do
			if [ -n "$options" ] || [ ! -s "../patches/$p" ] ||
				! plain_patch "$p" --dry-run >../log 2>&1; then
				break
			fi
			mkdir -p ".virtquilt/$p"
			plain_patch "$p" --backup --prefix=".virtquilt/$p/" \
				>../log 2>&1 || exit 1
			: >".virtquilt/$p/.timestamp"
			echo "$p" >>.virtquilt/applied-patches
		done
	)
}

# next_plain DIR: the patch at which push_plain stopped, if it was not for options
next_plain()
{
	n=$(applied_patches "$1/tree" | grep -c . || :)
	awk -v n="$n" 'NR == n + 1 && NF == 1' "$1/patches/series"
}

# plain_patch PATCH OPTION...: in DIR/tree
plain_patch()
{
	plain=$1
	shift
	patch -p1 -F0 -s -f -E "$@" -i "../patches/$plain"
}

# stage TREE <names: fill $staging with
#   tree/      the touched files and the new files, patches pushed
#   pristine/  the touched files before that
#   patches/   the patches as pushed, and series
# The names are patches of the series. If $optional is set, a patch that does not
# apply is skipped and listed in $left_out. Otherwise it is an error.
stage()
{
	tree=$1
	[ -w "$tree" ] ||
		die "cannot write to $tree: get write permission for it, or name a copy of your own"
	remove_leftovers "$tree"
	staging=$tree/.virtquilt.new
	mkdir -p -- "$staging/tree" "$staging/patches" 2>/dev/null ||
		die "cannot write to $tree: get write permission for it, or name a copy of your own"
	patches_into "$staging/patches"
	quilt_files "$tree" >"$staging/quilt-files"
	{
		(
			cd "$staging/patches"
			# shellcheck disable=SC2046 # names without blanks
			touched $(sed 's/[[:space:]].*//' series)
		)
		cat "$staging/quilt-files"
		record_of "$tree" | awk '$1 != "-" { print $3 }'
	} | sort -u >"$staging/all"
	newfiles >"$staging/newfiles"
	comm -23 "$staging/all" "$staging/newfiles" >"$staging/files"
	check_writable "$tree" <"$staging/all"
	check_writable "$tree" <"$staging/newfiles"
	plant "$tree" "$staging" "$staging/files"
	cp -a -- "$staging/tree" "$staging/pristine"
	record_of "$tree" | sed -n 's/^- [^ ]* //p' | sort >"$staging/ours"
	comm -23 "$staging/newfiles" "$staging/ours" >"$staging/alien"
	while read -r f; do
		[ ! -e "$tree/$f" ] ||
			die "$tree already has $f, which the stack adds: remove it, or unpack the tree again"
	done <"$staging/alien"
	copy_new "$staging/tree" "$staging/newfiles"
	(cd "$staging/tree" && xargs -r chmod u=rwX,go=rX -- <"$staging/newfiles")

	left_out=
	while [ "$(awk '{ print $1 }' "$staging/patches/series")" != \
		"$(applied_patches "$staging/tree")" ]; do
		push_plain "$staging" || refuse_conflict "$tree" "$staging" ''
		[ "$(awk '{ print $1 }' "$staging/patches/series")" != \
			"$(applied_patches "$staging/tree")" ] || break
		# What does not apply to leave it out is not worth quilt's time.
		name=
		[ -z "${optional:-}" ] || name=$(next_plain "$staging")
		if [ -z "$name" ]; then
			! push_all "$staging" || break
			name=$(failed_patch "$staging")
		fi
		if [ -z "${optional:-}" ] || [ -z "$name" ]; then
			refuse_conflict "$tree" "$staging" "$name"
		fi
		left_out="$left_out $name"
		awk -v name="$name" '$1 != name' "$staging/patches/series" \
			>"$staging/series"
		mv -- "$staging/series" "$staging/patches/series"
	done
	# quilt does not create its folder if there is nothing to push.
	mkdir -p "$staging/tree/.virtquilt"
}

# refuse_conflict TREE DIR PATCH: PATCH does not apply, for the reason in DIR/log.
refuse_conflict()
{
	! grep -q 'No space left' "$2/log" ||
		die "$1 or the folder for temporary files is full: free some space, then try again"
	sed -n '/FAILED\|find file\|ignored/p' "$2/log" | head -n 1 >"$scratch/why"
	read -r why <"$scratch/why" || why=$(tail -n 1 "$2/log")
	die "${3:-the series} does not apply to $1 ($why): $(way_past "$1" "${3:-}"), then try again"
}

# install_staged TREE: move the staged files into the tree. Everything is written
# before the first rename, so that a full disk changes nothing. Signals are held
# off during the renames.
install_staged()
{
	tree=$1
	new=$staging/tree/.virtquilt
	# A tree stays its owner's when root applies the stack.
	[ "$(id -u)" -ne 0 ] ||
		chown -hR --reference="$tree" -- "$staging/tree" "$staging/patches"
	mv -- "$staging/pristine" "$new/pristine"
	mv -- "$staging/patches" "$new/pushed"
	# quilt cannot cope with blanks in the path of the patches.
	rm -f "$new/patches"
	ln -s "$patches" "$new/patches"
	echo .virtquilt/patches >"$new/.quilt_patches"
	echo series >"$new/.quilt_series"
	stack_key >"$new/stack"
	echo "$PIN" >"$new/pin"
	# During the renames the record covers both states. Entries of the old one
	# come first, the new ones replace them.
	{
		record_of "$tree" | sed 's/^\([^ ]*\) [^ ]* /\1 - /'
		sed 's/^/- - /' "$staging/files" | sums "$new/pristine" |
			awk '{ print $3, "-", $4 }' | sums "$staging/tree" |
			awk '{ print $1, $3, $4 }'
		sed 's/^/- - /' "$staging/newfiles" | sums "$staging/tree" |
			awk '{ print $1, $3, $4 }'
	} | awk '{ line[$3] = $0 } END { for (f in line) print line[f] }' |
		sort -k3 >"$new/record"
	# Drop files that no longer change: the former state had a mutant or a
	# patch that is gone.
	awk '$1 != $2' "$new/record" >"$new/record.applied"
	echo applied >"$new/state.applied"
	echo removing >"$new/state.removing"
	echo installing >"$new/state"
	# Folders that do not exist yet are to be removed by unapply.
	{
		cat "$tree/.virtquilt/folders" 2>/dev/null || :
		awk '$2 != "-" { n = split($3, part, "/"); d = ""
			for (i = 1; i < n; i++) {
				d = d (i > 1 ? "/" : "") part[i]; print d } }' \
			"$new/record" | sort -u | while read -r d; do
			[ -d "$tree/$d" ] || echo "$d"
		done
	} | sort -u >"$new/folders"
	# make must see every change, even one back to an old file.
	sums "$tree" <"$new/record" >"$staging/now"
	awk '$2 != "-" && $2 != $3 { print $4 }' "$staging/now" >"$staging/install"
	awk '$2 == "-" && $3 != "-" { print $4 }' "$staging/now" >"$staging/remove"
	awk '{ print $3, $4 }' "$staging/now" >"$new/was"
	(cd "$staging/tree" && xargs -r touch -- <"$staging/install")
	while read -r f; do
		keep_mode "$tree/$f" "$staging/tree/$f"
	done <"$staging/install"
	# The last chance to see an edit that was made since the survey
	sums "$tree" <"$new/record" >"$staging/now"
	edited=$(awk 'FILENAME == ARGV[1] { seen[$2] = $1; next }
		$4 in seen ? $3 != seen[$4] : $3 != $1 && $3 != "-" { print $4; exit }' \
		"$scratch/seen" "$staging/now")
	[ -z "$edited" ] ||
		die "$edited in $tree was edited while apply was running: try again"

	hold_signals
	half=$tree
	while read -r d; do
		mkdir -p -- "$tree/$d"
		[ "$(id -u)" -ne 0 ] || chown --reference="$tree" -- "$tree/$d"
	done <"$new/folders"
	rm -rf -- "$tree/.virtquilt.old"
	[ ! -d "$tree/.virtquilt" ] || mv -- "$tree/.virtquilt" "$tree/.virtquilt.old"
	mv -- "$new" "$tree/.virtquilt"
	while read -r f; do
		mv -f -- "$staging/tree/$f" "$tree/$f"
	done <"$staging/install"
	while read -r f; do
		rm -f -- "$tree/$f"
	done <"$staging/remove"
	mv -- "$tree/.virtquilt/record.applied" "$tree/.virtquilt/record"
	mv -- "$tree/.virtquilt/state.applied" "$tree/.virtquilt/state"
	rm -f -- "$tree/.virtquilt/was"
	half=
	installed=$(cat "$staging/install" "$staging/remove")
	rm -rf -- "$tree/.virtquilt.old" "$staging"
	staging=
	release_signals
}

# keep_mode FROM TO: the stack never changes a file's mode, but its user may.
keep_mode()
{
	[ -f "$1" ] || return 0
	if [ -x "$1" ] && [ ! -x "$2" ]; then
		chmod +x -- "$2"
	elif [ ! -x "$1" ] && [ -x "$2" ]; then
		chmod -x -- "$2"
	fi
}

# apply_stack TREE [--without NAME | --upto NAME]
apply_stack()
{
	tree=$1
	optional='' upto=''
	case ${2:-} in
	'') ;;
	--without) optional=$3 ;;
	--upto) upto=$3 ;;
	*) usage ;;
	esac
	check_version "$tree"
	check_state "$tree"
	need_patches "$tree" begun
	check_manifest "$tree"
	refuse_edits "$tree"
	missing=$(awk '$3 == "-" && $2 != "-" { print $4 }' "$scratch/sums")
	patch_names | awk -v but="$optional" -v upto="$upto" '
		upto == "none" { exit }
		$0 != but { print }
		$0 == upto { exit }' >"$scratch/names"
	stage "$tree" <"$scratch/names"
	# These depend on the patch that was left out.
	for p in $left_out; do
		echo "left out with it: $p"
	done
	pushed=$(applied_patches "$tree")
	install_staged "$tree"
	for f in $missing; do
		echo "restored, it was missing: $f"
	done
	if [ -z "$installed" ] && [ "$pushed" = "$(applied_patches "$tree")" ]; then
		echo "$tree: already applied, nothing to do"
	else
		echo "$tree: applied $(applied_patches "$tree" | grep -c . || :) patches and $(newfiles | grep -c .) new files"
	fi
}

# push_top TREE FILE [-R]: push one more patch onto what is applied, and look at no
# other file than those it touches: a mutant, or the next patch of a prefix. pop_top
# takes off all that was pushed so. TREE/.virtquilt/top/NNN has for each of them before/
# and after/, what it touches, and changes, in the form of the record.
push_top()
{
	[ "$(state_of "$1")" = applied ] ||
		die "the stack is not applied to $1: run $(hint apply "$1") first"
	top_new=$1/.virtquilt/top/new
	rm -rf -- "$top_new"
	mkdir -p -- "$top_new/before"
	touched "$2" >"$top_new/touched"
	copy "$1" "$top_new/before" "$top_new/touched"
	cp -a -- "$top_new/before" "$top_new/after"
	patch -d "$top_new/after" -p1 -F0 -s -f -E ${3:+"$3"} -i "$2" \
		>"$scratch/log" 2>&1 || {
		rm -rf -- "$top_new"
		die "${2##*/} does not apply to $1 ($(head -n 1 "$scratch/log")): refresh it, then try again"
	}
	sed 's/^/- - /' "$top_new/touched" | sums "$top_new/before" |
		awk '{ print $3, "-", $4 }' | sums "$top_new/after" |
		awk '{ print $1, $3, $4 }' >"$top_new/changes"
	cp -- "$1/.virtquilt/record" "$top_new/record"
	awk 'NR == FNR { before[$3] = $1; after[$3] = $2; next }
		$3 in after { $2 = after[$3]; delete after[$3] }
		{ print }
		END { for (f in after) print before[f], after[f], f }' \
		"$top_new/changes" "$top_new/record" | sort -k3 >"$top_new/record.after"
	top_done=$(find "$1/.virtquilt/top" -mindepth 1 -maxdepth 1 | grep -c .)
	top_done=$1/.virtquilt/top/$(printf '%03d' "$top_done")
	hold_signals
	mv -- "$top_new" "$top_done"
	move_changes "$1" "$top_done" after 2
	mv -- "$top_done/record.after" "$1/.virtquilt/record"
	release_signals
}

# pop_top TREE: take off what push_top has pushed. Edits since then are refused.
pop_top()
{
	[ -d "$1/.virtquilt/top" ] || return 0
	rm -rf -- "$1/.virtquilt/top/new"
	find "$1/.virtquilt/top" -mindepth 1 -maxdepth 1 | sort -r |
		while read -r top_done; do
			edited=$(sums "$1" <"$top_done/changes" |
				awk '$3 != $1 && $3 != $2 { print $4; exit }')
			[ -z "$edited" ] ||
				die "$edited in $1 was edited with a patch on top of the stack: move it aside with $(aside "$1" "$edited"), then try again"
			hold_signals
			move_changes "$1" "$top_done" before 1
			mv -- "$top_done/record" "$1/.virtquilt/record"
			rm -rf -- "$top_done"
			release_signals
		done
	rmdir -- "$1/.virtquilt/top"
}

# move_changes TREE DIR NAME COLUMN: move the files in DIR/NAME into the tree and
# remove those that have none there, by that column of DIR/changes. What is in the
# tree already may have been moved by a run that was killed.
move_changes()
{
	# make must see every change.
	find "$2/$3" -type f -exec touch -- {} +
	while read -r sum_before sum_after f; do
		sum=$sum_before
		[ "$4" -eq 1 ] || sum=$sum_after
		if [ "$sum" = - ]; then
			rm -f -- "$1/$f"
			rmdir --ignore-fail-on-non-empty -- "$1/${f%/*}"
		elif [ -f "$2/$3/$f" ]; then
			mkdir -p -- "$1/${f%/*}"
			mv -f -- "$2/$3/$f" "$1/$f"
		fi
	done <"$2/changes"
}

# check_half TREE: after a killed run every file is in one of two states. Anything
# else is an edit made since.
check_half()
{
	record_of "$1" | sums "$1" | while read -r before after now f; do
		case $now in
		"$before" | "$after" | -) continue ;;
		esac
		! grep -qxF -e "$now $f" "$1/.virtquilt/was" 2>/dev/null ||
			continue
		die "$f in $1 was edited after a run was killed: move it aside with $(aside "$1" "$f"), then try again"
	done
}

unapply_stack()
{
	tree=$1
	check_tree "$tree"
	[ -w "$tree" ] ||
		die "cannot write to $tree: get write permission for it"
	# A run was killed between moving the old folder away and the new one in.
	if [ ! -d "$tree/.virtquilt" ] && [ -d "$tree/.virtquilt.old" ]; then
		mv -- "$tree/.virtquilt.old" "$tree/.virtquilt"
	fi
	left=
	[ ! -d "$tree/.virtquilt.new" ] || left=yes
	remove_leftovers "$tree"
	case $(state_of "$tree") in
	none)
		if [ -n "$left" ]; then
			echo "$tree: as it was; removed what a killed run had left"
			return
		fi
		die "the stack is not applied to $tree: nothing to take off"
		;;
	foreign) refuse_foreign "$tree" ;;
	applied)
		refuse_edits "$tree"
		put_aside "$tree"
		;;
	*) check_half "$tree" ;;
	esac
	cut -d' ' -f3 "$tree/.virtquilt/record" | check_writable "$tree"

	hold_signals
	half=$tree
	# A rename works on a full disk, too.
	mv -- "$tree/.virtquilt/state.removing" "$tree/.virtquilt/state" \
		2>/dev/null || echo removing >"$tree/.virtquilt/state"
	while read -r before _ f; do
		pristine=$tree/.virtquilt/pristine/$f
		if [ "$before" = - ]; then
			rm -f -- "$tree/$f"
		elif [ -f "$pristine" ]; then
			keep_mode "$tree/$f" "$pristine"
			touch -- "$pristine"
			mv -f -- "$pristine" "$tree/$f"
		fi
	done <"$tree/.virtquilt/record"
	sort -r "$tree/.virtquilt/folders" | while read -r d; do
		rmdir -- "$tree/$d" 2>/dev/null || :
	done
	# The tree is restored. If the removal is cut short, the rest is a leftover.
	rm -rf -- "$tree/.virtquilt.old"
	mv -- "$tree/.virtquilt" "$tree/.virtquilt.new"
	half=
	rm -rf -- "$tree/.virtquilt.new"
	echo "$tree: as it was before the stack"
}

# put_aside TREE: add to the record, and to pristine/, the files that only the
# user's own patches touch.
put_aside()
{
	[ -s "$scratch/theirs" ] || return 0
	originals_of "$1"
	cp -- "$1/.virtquilt/record" "$1/.virtquilt/record.new"
	while read -r f; do
		original "$1" "$f"
		before=-
		if [ -n "$original" ]; then
			before=$(sha "$original")
			case $f in
			*/*) mkdir -p -- "$1/.virtquilt/pristine/${f%/*}" ;;
			esac
			cp -p -- "$original" "$1/.virtquilt/pristine/$f"
		fi
		after=-
		[ ! -f "$1/$f" ] || after=$(sha "$1/$f")
		echo "$before $after $f"
	done <"$scratch/theirs" >>"$1/.virtquilt/record.new"
	mv -- "$1/.virtquilt/record.new" "$1/.virtquilt/record"
}
