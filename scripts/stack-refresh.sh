# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Rewrite the patches, with the edits made in a tree or just in canonical form.
# Sourced by scripts/stack.

set -eu
: "${top:?}" "${patches:?}" "${linux:?}" "${CR:?}" "${scratch?}" "${pin_word?}"

# refresh_from TREE: move TREE's edits into the patches and the new files, then
# apply the result to TREE
refresh_from()
{
	check_version "$1"
	case $(state_of "$1") in
	applied) ;;
	none) die "the stack is not applied to $1: $(hint apply "$1") first, edit there, then refresh" ;;
	foreign) refuse_foreign "$1" ;;
	*) refuse_half "$1" ;;
	esac
	need_patches "$1" begun
	refuse_forced "$1"
	survey "$1"
	# An edit made after this copy is left for the next refresh.
	mkdir "$scratch/mine"
	copy "$1" "$scratch/mine" "$scratch/edited"
	: >"$scratch/into-patches"
	: >"$scratch/into-project"
	while read -r f; do
		assign "$1" "$f"
	done <"$scratch/edited"

	write_anew "$1"
	changed_patches >"$scratch/changed"
	{
		while read -r p; do
			printf '%s\t%s\n' "$patches/$p" "$scratch/new/patches/$p"
		done <"$scratch/changed"
		while read -r f; do
			printf '%s\t%s\n' "$(new_source "$f")" "$scratch/mine/$f"
		done <"$scratch/into-project"
	} >"$scratch/replace"
	replace_files
	cat "$scratch/changed" "$scratch/into-project" | sed 's/^/refreshed /'

	# The edits are part of the stack now.
	while read -r f; do
		before=$(awk -v f="$f" '$3 == f { print $1 }' "$1/.virtquilt/record")
		if [ -z "$before" ]; then
			before=-
			[ ! -f "$scratch/new/before/$f" ] ||
				before=$(sha "$scratch/new/before/$f")
		fi
		echo "$before $(sha "$scratch/mine/$f") $f"
	done <"$scratch/edited" >"$scratch/record"
	awk '!seen[$3]++' "$scratch/record" "$1/.virtquilt/record" |
		sort -k3 >"$1/.virtquilt/record.new"
	mv -- "$1/.virtquilt/record.new" "$1/.virtquilt/record"
	apply_stack "$1"
}

# refresh_form: bring the patches into canonical form
refresh_form()
{
	check_own_tree
	need_patches "$linux"
	: >"$scratch/into-patches"
	write_anew "$linux"
	changed_patches >"$scratch/changed"
	while read -r p; do
		printf '%s\t%s\n' "$patches/$p" "$scratch/new/patches/$p"
	done <"$scratch/changed" >"$scratch/replace"
	replace_files
	sed 's/^/refreshed /' "$scratch/changed"
}

# check_refresh: fail if refresh_form would change something, and say what
check_refresh()
{
	check_own_tree
	need_patches "$linux"
	: >"$scratch/into-patches"
	write_anew "$linux"
	changed_patches >"$scratch/changed"
	sed "s/\$/ is not as refresh leaves it: run 'make refresh$pin_word'/" \
		"$scratch/changed"
	[ ! -s "$scratch/changed" ]
}

# assign TREE FILE: decide where an edit belongs. That is the last applied patch
# that has the file; for a new file that no patch touches, the project's own copy;
# otherwise the first patch that touches it.
assign()
{
	f=$2
	! grep -q "$CR\$" "$1/$f" || grep -q "$CR\$" "$scratch/expected/tree/$f" ||
		die "$f in $1 has CRLF line endings: convert it with 'sed -i \"s/\\r\$//\" $(word "$1/$f")', then try again"
	while read -r p; do
		[ ! -f "$1/.virtquilt/$p/$f" ] ||
			die "$p has changed in $patches since quilt pushed it in $1, and the edit of $f is on top of the old text: move that aside with $(aside "$1" "$f"), then try again"
	done <"$scratch/rewritten"
	is_new=
	! grep -qxF -e "$f" "$scratch/expected/newfiles" || is_new=yes
	goes_into=
	for p in $(applied_patches "$1"); do
		[ -f "$1/.virtquilt/$p/$f" ] || continue
		patch_names | grep -qxF -e "$p" || continue
		[ -z "$is_new" ] || touched "$scratch/expected/patches/$p" |
			grep -qxF -e "$f" || continue
		goes_into=$p
	done
	if [ -z "$goes_into" ] && [ -n "$is_new" ]; then
		[ "$(sha "$(new_source "$f")")" = "$(awk -v f="$f" '$3 == f { print $2 }' \
			"$1/.virtquilt/record")" ] ||
			die "$f was edited in $1 and in the project: move the tree's aside with $(aside "$1" "$f"), and merge it into the project's"
		echo "$f" >>"$scratch/into-project"
		return
	fi
	[ -n "$goes_into" ] || for p in $(patch_names); do
		if touched "$patches/$p" | grep -qxF -e "$f"; then
			goes_into=$p
			break
		fi
	done
	[ -n "$goes_into" ] ||
		die "$f in $1 was edited, but no patch of the series touches it any more: move it aside with $(aside "$1" "$f"), then try again"
	echo "$goes_into $f" >>"$scratch/into-patches"
}

# write_anew TREE: fill $scratch/new/patches with the series as refreshed by quilt,
# with the edits listed in $scratch/into-patches, and with its manifest
write_anew()
{
	new=$scratch/new
	mkdir -p "$new/tree" "$new/patches"
	patch_names | patches_into "$new/patches"
	newfiles >"$new/newfiles"
	{
		touched_by_series
		quilt_files "$1"
		cut -d' ' -f2 "$scratch/into-patches"
	} | sort -u | comm -23 - "$new/newfiles" >"$new/files"
	plant "$1" "$new" "$new/files"
	cp -a -- "$new/tree" "$new/before"
	copy_new "$new/tree" "$new/newfiles"
	for p in $(patch_names); do
		(cd "$new/tree" && q push --fuzz="${fuzz:?}") >"$new/log" 2>&1 ||
			refuse_push "$1" "$p"
		if grep -q '(offset \|with fuzz ' "$new/log"; then
			echo "$p moved: $(grep '(offset \|with fuzz ' "$new/log" | head -n 1)"
		fi
		while read -r q f; do
			[ "$q" != "$p" ] || merge "$1" "$p" "$f"
		done <"$scratch/into-patches"
		(cd "$new/tree" && q refresh -p ab --no-timestamps --no-index) \
			>"$new/log" 2>&1 ||
			die "quilt could not refresh $p: $(tail -n 1 "$new/log")"
	done
	# quilt has turned all of them into -p1 patches.
	sed 's/^\([^#[:space:]][^[:space:]]*\)[[:space:]][[:space:]]*-p[0-9ab]*/\1/' \
		"$patches/series" >"$new/patches/series"
	(
		echo "# SPDX-License-Identifier: GPL-2.0"
		echo "# sha256 of each file that the series touches, before it. Written by 'make refresh'."
		cd "$new/patches"
		# shellcheck disable=SC2046 # names without blanks
		touched $(patch_names) | (
			cd "$new/before"
			while read -r f; do
				[ ! -f "$f" ] || sha256sum -- "$f"
			done
		)
	) >"$new/patches/manifest"
}

# merge TREE PATCH FILE: move the edit of FILE into PATCH, which was just pushed. The
# edit may have been made on top of another text than PATCH gives now.
merge()
{
	into=$new/tree/$3
	mine=$scratch/mine/$3
	base=$scratch/expected/tree/$3
	[ -f "$new/tree/.virtquilt/$2/$3" ] ||
		(cd "$new/tree" && q add "$3") >"$new/log" 2>&1 ||
		die "quilt could not add $3 to $2: $(tail -n 1 "$new/log")"
	if [ ! -f "$into" ] || cmp -s "$base" "$into"; then
		case $3 in
		*/*) mkdir -p "${into%/*}" ;;
		esac
		cp -- "$mine" "$into"
	elif [ -f "$base" ] && diff3 -E -m "$mine" "$base" "$into" >"$new/merged"; then
		cp -- "$new/merged" "$into"
	else
		cmp -s "$mine" "$into" ||
			die "$3 was edited in $1, and $2, where the edit would go, changes the same lines: move it aside with $(aside "$1" "$3"), then try again"
	fi
}

# refuse_push TREE PATCH: PATCH does not apply, perhaps because of an edit that went
# into an earlier one.
refuse_push()
{
	touched "$new/patches/$2" >"$new/touched"
	while read -r q f; do
		! grep -qxF -e "$f" "$new/touched" ||
			! grep -qxF -e "$q" "$new/tree/.virtquilt/applied-patches" ||
			die "the edit of $f in $1 goes into $q, and $2 no longer applies on top: write $q with 'cd $(word "$1") && QUILT_PC=.virtquilt quilt refresh -f $q', then fix $2 ($(hint status "$1") tells how)"
	done <"$scratch/into-patches"
	refuse_conflict "$1" "$new" "$2"
}

# changed_patches: list what in $scratch/new/patches differs from the project
changed_patches()
{
	for p in $(patch_names) series manifest; do
		cmp -s "$new/patches/$p" "$patches/$p" || echo "$p"
	done
}

# replace_files: replace files of the project. Each line of $scratch/replace is the
# file, a tab, and where its new text is. All of them are written before the first
# is replaced.
replace_files()
{
	parts=$patches/.new
	rm -rf -- "$parts"
	[ -s "$scratch/replace" ] || return 0
	written=yes n=0
	mkdir -- "$parts" 2>/dev/null || written=
	while [ -n "$written" ] && IFS=$TAB read -r f text; do
		n=$((n + 1))
		{ mkdir -p -- "${f%/*}" && [ -w "${f%/*}" ] &&
			{ [ ! -e "$f" ] || cp -p -- "$f" "$parts/$n"; } &&
			cat -- "$text" >"$parts/$n"; } 2>/dev/null || written=
	done <"$scratch/replace"
	[ -n "$written" ] ||
		die "the patches in $patches cannot be written, and nothing was changed: check permissions and disk space, then try again"
	hold_signals
	n=0
	while IFS=$TAB read -r f text; do
		n=$((n + 1))
		mv -f -- "$parts/$n" "$f"
	done <"$scratch/replace"
	rmdir -- "$parts"
	release_signals
}
