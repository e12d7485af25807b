# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Show how much of the stack a tree has, and what to do next. Sourced by
# scripts/stack.

set -eu
: "${top:?}" "${patches:?}" "${scratch?}"

# conflict PATCH-FILE: the first file and hunk that do not apply
conflict()
{
	patch -p1 -F0 -f --dry-run <"$1" 2>/dev/null | awk '
		/^(checking|patching) file / { file = $3 }
		/^can.t find file to patch/ { print "no such file"; exit }
		/^Hunk #[0-9]+ FAILED/ {
			sub(/^#/, "", $2)
			print file ", hunk " $2 " (line " $5 ")"
			exit
		}' | sed 's/\.)$/)/'
}

status()
{
	tree=$1
	check_tree "$tree"
	version=$(tree_version "$tree")
	echo "tree: $tree, Linux $version$([ "$version" = "$(pin_value version)" ] || echo ", but the stack is for $(pin_value version)$(other_pin "$version")")"
	[ ! -d "$tree/.virtquilt.new" ] ||
		echo "left by a killed run: .virtquilt.new ($(hint unapply "$tree") or the next apply removes it)"
	case $(state_of "$tree") in
	applied)
		status_applied "$tree"
		return
		;;
	none) ;;
	foreign) echo "next                 move .virtquilt away, which 'make apply' did not make: 'mv $(word "$tree/.virtquilt") $(word "$tree/.virtquilt.mine")'" ;;
	*) echo "half applied
next                 $(hint unapply "$tree") restores it" ;;
	esac
	status_other "$tree"
}

# status_applied TREE: for a tree to which the stack was applied
status_applied()
{
	applied=$(applied_patches "$1")
	for p in $(patch_names); do
		case $NL$applied$NL in
		*"$NL$p$NL"*) ;;
		*)
			echo "not applied          $p"
			continue
			;;
		esac
		if [ -e "$1/.virtquilt/$p~refresh" ]; then
			echo "force-pushed         $p"
		elif [ ! -e "$patches/$p" ]; then
			echo "applied, still empty $p"
		else
			echo "applied              $p"
		fi
	done
	for p in $applied; do
		patch_names | grep -qxF -e "$p" ||
			echo "not in the series    $p"
	done
	survey "$1"
	sed 's/^/edited               /' "$scratch/edited"
	awk '$3 == "-" && $2 != "-" { print "missing              " $4; next }
		$1 == "-" { print "new file             " $4 }' "$scratch/sums"
	next_step "$1"
}

# next_step TREE: the command to run next, if there is something to do
next_step()
{
	next=
	missing=$(missing_patches | head -n 1)
	if is_forced "$1"; then
		next=$(refresh_forced "$1")
	elif [ -s "$scratch/edited" ]; then
		next="$(hint refresh "$1") puts the edits into the patches"
	elif [ -n "$missing" ]; then
		next="$(hint refresh "$1") writes $missing, which has no file yet"
	elif [ "$(applied_patches "$1")" != "$(patch_names)" ] ||
		[ "$(cat "$1/.virtquilt/stack" 2>/dev/null)" != "$(stack_key)" ]; then
		next="$(hint apply "$1") puts the series as it is now on the tree"
		stuck=$(try_series "$1")
		[ -z "$stuck" ] || next=$(way_past "$1" "$stuck")
	elif [ "$(readlink "$1/.virtquilt/patches")" != "$patches" ]; then
		next="$(hint apply "$1") lets quilt find the patches of this checkout"
	elif awk '$3 != $2 { n++ } END { exit !n }' "$scratch/sums"; then
		next="$(hint apply "$1") brings back what is gone"
	fi
	[ -z "$next" ] || echo "next                 $next"
}

# try_series TREE: print the first patch of the series that does not apply, if any
try_series()
{
	try=$scratch/try
	rm -rf "$try"
	mkdir -p "$try/tree" "$try/patches"
	patch_names | patches_into "$try/patches"
	newfiles >"$try/newfiles"
	{
		touched_by_series
		quilt_files "$1"
	} | sort -u | comm -23 - "$try/newfiles" >"$try/files"
	plant "$1" "$try" "$try/files"
	copy_new "$try/tree" "$try/newfiles"
	patch_all "$try"
}

# status_other TREE: for any other tree. On a copy of the touched files, take off
# what is in the tree already, last first, then see which patches apply.
status_other()
{
	work=$scratch/work
	mkdir "$work"
	touched_by_series >"$scratch/touched"
	copy "$1" "$work" "$scratch/touched"
	: >"$scratch/already"
	for p in $(patch_names | tac); do
		[ -e "$patches/$p" ] || continue
		if in_tree "$work" "$p"; then
			(cd "$work" && patch -R -p1 -F0 -s -f <"$patches/$p")
			echo "$p" >>"$scratch/already"
		fi
	done
	for p in $(patch_names); do
		how=applies
		if [ ! -e "$patches/$p" ]; then
			echo "missing              $p: in the series, but there is no such file"
			continue
		fi
		if grep -qxF "$p" "$scratch/already"; then
			how='already in the tree'
		fi
		if ! (cd "$work" && patch -p1 -F0 -s -f --dry-run \
			<"$patches/$p" >/dev/null 2>&1); then
			echo "conflicts            $p: $(cd "$work" && conflict "$patches/$p")"
			continue
		fi
		(cd "$work" && patch -p1 -F0 -s -f --no-backup-if-mismatch <"$patches/$p")
		printf '%-20s %s\n' "$how" "$p"
	done
	newfiles | while read -r f; do
		if [ ! -e "$1/$f" ]; then
			echo "would be added       $f"
		elif cmp -s "$(new_source "$f")" "$1/$f"; then
			echo "already in the tree  $f"
		else
			echo "in the way           $f"
		fi
	done
}
