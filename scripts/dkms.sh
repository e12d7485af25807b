# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts around DKMS share: which modules there are, in which
# versions, and which of them are on disk and in memory. Sourced after lib.sh.
#
# Environment: VIRTQUILT_SOURCE names another tarball of the source package,
# VIRTQUILT_CC another compiler than the kernel's. VIRTQUILT_SYS is for tests.

: "${top:?}" "${patches:?}"
PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC2034,SC2154 # used by the scripts that source this file
{
	name=virtquilt
	sys=${VIRTQUILT_SYS:-/sys}
	package=$(pin_value package)
	pinned=$(pin_value version)
	tarball=${VIRTQUILT_SOURCE:-/usr/src/$package.tar.xz}
}

# stock KEY: what the list of the stock kernel's modules says of KEY
stock()
{
	sed -n "s/^$1[[:space:]][[:space:]]*//p" "$patches/stock"
}

stock_modules()
{
	stock module | cut -d' ' -f1
}

# The version of the sources, stated in debian/changelog alone. In the copy
# that DKMS works on dkms.conf has it.
source_version()
{
	if [ -f "$top/debian/changelog" ]; then
		sed -n '1s/.*(\(.*\)).*/\1/p' "$top/debian/changelog"
	else
		sed -n 's/^PACKAGE_VERSION="\(.*\)"$/\1/p' "$top/dkms.conf"
	fi
}

# module_version VERSION: a rebuilt module's own version. DKMS does not replace
# a module by one of the same version, nor by an older one; those of the kernel
# are below 1.
module_version()
{
	echo "$pinned-$name$1"
}

# loaded_version MODULE: as the running kernel has it: "-" not loaded, "stock"
# without a version
loaded_version()
{
	d=$sys/module/$(echo "$1" | tr - _)
	if [ -f "$d/version" ]; then
		cat "$d/version"
	elif [ -f "$d/initstate" ]; then
		echo stock
	else
		echo -
	fi
}

# file_version KERNEL MODULE: of the file that modprobe would load
file_version()
{
	f=$(modinfo -k "$1" -n "$2" 2>/dev/null) || return 0
	v=$(modinfo -F version "$f" 2>/dev/null)
	echo "${v:-stock}"
}

# After a change on disk: what is loaded is not what modprobe would load now.
tell_loaded()
{
	old=
	for m in $(stock_modules); do
		is=$(loaded_version "$m")
		[ "$is" != - ] || continue
		on_disk=$(file_version "$(uname -r)" "$m")
		[ "$is" = "${on_disk:-none}" ] || old="$old $m"
	done
	[ -z "$old" ] || printf 'virtquilt: still loaded as they were before: %s; end what uses them and unload them (modprobe -r), or reboot, and the ones on disk are loaded\n' \
		"$(echo "$old" | sed 's/^ //; s/ /, /g')"
}

# unfit KERNEL SYMVERS [TREE]: the stock modules that do not load beside ours,
# since they want another version of a symbol that ours export
unfit()
{
	tree=${3:-/lib/modules}/$1
	[ -f "$2" ] && [ -f "$tree/modules.dep" ] || return 0
	names=$(stock_modules | tr _ - | sed 's/-/[-_]/g' | paste -sd '|')
	sed -En "/^[^:]*\/($names)\.ko[^\/:]*:/d
		s/^([^:]*): .*\/($names)\.ko.*/\1/p" "$tree/modules.dep" |
		while read -r f; do
			[ -z "$(modprobe --dump-modversions "$tree/$f" |
				awk 'NR == FNR { crc[$2] = $1; next }
					$2 in crc && crc[$2] != $1' "$2" -)" ] ||
				echo "${f##*/}" | sed 's/\.ko.*//'
		done
}

# Does this machine's firmware let only signed modules in? Not where shim was
# told to check nothing (mokutil --disable-validation).
secure_boot()
{
	[ "$(efi_byte SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c)" = 1 ] &&
		[ "$(efi_byte MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23)" != 1 ]
}

# efi_byte VARIABLE: its first byte, behind four of attributes
efi_byte()
{
	od -An -tu1 -j4 -N1 "$sys/firmware/efi/efivars/$1" 2>/dev/null | tr -d ' '
}

# The certificate that DKMS signs modules with: what its configuration names,
# or what the helper does that its configuration names, or DKMS 3's own.
certificate()
{
	tool=$(sed -n 's/^sign_tool="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' \
		/etc/dkms/framework.conf 2>/dev/null)
	own=$(sed -n 's/^mok_certificate="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' \
		/etc/dkms/framework.conf 2>/dev/null)
	if [ -n "$tool" ] && [ -f "$tool" ]; then
		grep -v '^#' "$tool" | grep -oE '/[^" ]+\.(der|pub|pem|crt)' |
			tail -n 1
	else
		echo "${own:-/var/lib/dkms/mok.pub}"
	fi
}
