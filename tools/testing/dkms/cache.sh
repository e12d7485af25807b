# shellcheck shell=sh disable=SC2034,SC2154 # shared with run
# SPDX-License-Identifier: GPL-2.0
#
# What does not depend on this project and takes long to get: chroots, as
# tarballs, and the packages that are installed in them. All clones share it, and
# any number of them at once. What is in it is checked by its sha256 whenever it
# is used, and got again where that is another one. Sourced after lib.sh.

# $store/NAME-KEY-SHA256.tar: a chroot made from what KEY is made from
store=$cache/dkms
# $cache/sha256/SHA256: a package. The name is its whole identity, so that a
# file can be put there by anybody at any time.
by_sum=$cache/sha256

# whole_tarball NAME KEY: its path, or nothing where there is none in order
whole_tarball()
{
	for tarball in "$store/$1-$2"-*.tar; do
		[ -f "$tarball" ] || continue
		tarball_sum=${tarball##*-}
		if [ "$(sha "$tarball")" = "${tarball_sum%.tar}" ]; then
			touch "$tarball"
			echo "$tarball"
			return
		fi
		echo "$tarball is damaged: made again" >&2
		rm -f "$tarball"
	done
}

# chroot NAME KEY COMMAND...: have $work/NAME as COMMAND leaves it, from its
# tarball where there is one. One at a time makes it, the others then find it.
chroot_of()
{
	chroot_name=$1 chroot_key=$2
	shift 2
	case $(cat "$work/$chroot_name.key" 2>/dev/null) in
	"$chroot_key "*) [ ! -d "$work/$chroot_name" ] || return 0 ;;
	esac
	mkdir -p "$store" "$by_sum"
	exec 9>"$store/$chroot_name.lock"
	flock 9
	rm -rf "$work/${chroot_name:?}" "$work/$chroot_name.key"
	tarball=$(whole_tarball "$chroot_name" "$chroot_key")
	if [ -z "$tarball" ]; then
		"$@" "$work/$chroot_name" || return
		tar -C "$work/$chroot_name" --numeric-owner \
			-cf "$store/$chroot_name.new" .
		tarball=$store/$chroot_name-$chroot_key-$(sha "$store/$chroot_name.new").tar
		mv "$store/$chroot_name.new" "$tarball"
		# Those of last month are made from what is not there any more.
		find "$store" -name "$chroot_name-*.tar" -mtime +30 -delete
	else
		mkdir "$work/$chroot_name"
		tar -C "$work/$chroot_name" --numeric-owner -xpf "$tarball"
	fi
	# Names the tarball, which has all packages that are in there.
	echo "$chroot_key ${tarball##*-}" >"$work/$chroot_name.key"
	exec 9>&-
}

# inside ROOT COMMAND...: run it there. Its mounts and what it leaves running
# end with it.
inside()
{
	root=$1
	shift
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount --pid --fork --kill-child sh -c '
		mount --make-rprivate / &&
		mount -t proc proc "$1/proc" || exit 125
		root=$1
		shift
		exec chroot "$root" env -i HOME=/root LC_ALL=C PATH="$PATH" \
			DEBIAN_FRONTEND=noninteractive "$@"
	' sh "$root" "$@"
}

apt_inside()
{
	root=$1
	shift
	inside "$root" apt-get -q -y --no-install-recommends \
		-o APT::Sandbox::User=root -o Acquire::Retries=3 \
		-o Acquire::ForceHash=SHA256 -o Dpkg::Use-Pty=0 "$@"
}

# fresh_lists ROOT: the lists of packages as the archive has them today. Those
# that a chroot was kept with may name files that the archive has dropped.
fresh_lists()
{
	apt_inside "$1" update ||
		echo "the lists of packages in ${1##*/} are those it was kept with"
}

# install_inside ROOT PACKAGE...: apt takes what it finds in its folder of
# archives by its size alone. So nothing gets there but what has the sha256 that
# the signed lists say, and what it fetches itself is checked by it.
install_inside()
{
	install_root=$1
	shift
	archives=$install_root/var/cache/apt/archives
	apt_inside "$install_root" clean
	apt_inside "$install_root" --print-uris install "$@" >"$work/uris" ||
		return
	sed -n "s/^'[^']*' \([^ ]*\) [0-9]* SHA256:\([0-9a-f]*\)\$/\2 \1/p" \
		"$work/uris" >"$work/debs"
	while read -r want_sum want_deb; do
		[ -f "$by_sum/$want_sum" ] || continue
		cp "$by_sum/$want_sum" "$archives/$want_deb"
		[ "$(sha "$archives/$want_deb")" != "$want_sum" ] || continue
		echo "$by_sum/$want_sum is damaged: fetched again"
		rm -f "$archives/$want_deb" "$by_sum/$want_sum"
	done <"$work/debs"
	apt_inside "$install_root" install "$@" || return
	while read -r want_sum want_deb; do
		if [ -f "$by_sum/$want_sum" ] || [ ! -f "$archives/$want_deb" ]; then
			continue
		fi
		new=$(mktemp "$by_sum/new.XXXXXX")
		chmod 644 "$new"
		cp "$archives/$want_deb" "$new"
		if [ "$(sha "$new")" = "$want_sum" ]; then
			mv "$new" "$by_sum/$want_sum"
		else
			rm -f "$new"
		fi
	done <"$work/debs"
	apt_inside "$install_root" clean
}

# The release with its DKMS, the compiler and the sources: before any kernel.
make_base()
{
	main_site=$(apt_site main)
	security_site=$(apt_site security)
	if [ -z "$main_site" ] || [ -z "$security_site" ]; then
		echo "apt has no archive of Debian and its security updates configured to derive the sources of $release from: add them"
		return 1
	fi
	mkdir -p "$store/bootstrap"
	# In a name space of its own: it mounts there. It checks what is in the
	# folder of downloads.
	unshare --mount --propagation private \
		debootstrap --variant=minbase --cache-dir="$store/bootstrap" \
		--keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
		"$release" "$1" "$main_site" || return
	{
		echo "deb $main_site $release main"
		echo "deb $security_site $suite main"
	} >"$1/etc/apt/sources.list"
	cp /etc/resolv.conf "$1/etc/resolv.conf"
	apt_inside "$1" update || return
	# shellcheck disable=SC2086 # a list
	install_inside "$1" $base_packages
}

# The same with the stock kernel, and never anything of this project.
make_plain()
{
	cp -a "$work/base" "$1"
	fresh_lists "$1"
	# shellcheck disable=SC2086 # a list
	install_inside "$1" $kernel_packages || return
	listing "$1" >"$work/plain.listing"
	mv "$work/plain.listing" "$1/listing"
}

# What virtquilt-dkms needs on the one kernel that it is for; where there is none,
# the release's newest, which brings its own compiler
# shellcheck disable=SC2154 # from run
if [ -n "$kernel" ]; then
	base_packages="dkms gcc-10 initramfs-tools kmod linux-base make openssl patch xz-utils $package=$package_version"
	kernel_packages="linux-image-$kernel=$package_version linux-headers-$kernel=$package_version"
else
	base_packages='dkms initramfs-tools kmod linux-base'
	kernel_packages='linux-image-amd64 linux-headers-amd64'
fi

# Both, or the status of what failed. Each step in a shell of its own, where an
# error ends it.
chroots()
{
	base_key=$(echo "2 $release $base_packages $(pin_value package-sha256)" | sha -)
	step "chroot of $release with its DKMS" "$build/log/dkms-base.log" \
		"$here/run" chroot base "$base_key" make_base || return
	plain_key=$(echo "$(cat "$work/base.key") $kernel_packages" | sha -)
	step "the same with the stock kernel" "$build/log/dkms-plain.log" \
		"$here/run" chroot plain "$plain_key" make_plain
}
