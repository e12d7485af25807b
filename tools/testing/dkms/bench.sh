# shellcheck shell=sh disable=SC2034,SC2154 # shared with run
# SPDX-License-Identifier: GPL-2.0
#
# What building the modules costs, against building machine amd's kernel, in
# one run and both without ccache. At most 0.35 of it is allowed.

: >"$log"
rm -rf "$work/bench" "$work/bench-kernel"
cp -a "$work/plain" "$work/bench"
"$top/scripts/dkms-payload" "$work/bench/usr/src/virtquilt-$version"
inside "$work/bench" dkms add -m virtquilt -v "$version" >>"$log" 2>&1
start=$(date +%s)
inside "$work/bench" dkms build -m virtquilt -v "$version" -k "$kernel" \
	>>"$log" 2>&1 || die "the modules do not build, see $log"
took=$(($(date +%s) - start))
start=$(date +%s)
CCACHE_DISABLE=1 "$top/scripts/kernel" "$build/linux" \
	"$work/bench-kernel" "$lab/config/x86_64" >>"$log" 2>&1 ||
	die "the kernel does not build, see $log"
whole=$(($(date +%s) - start))
rm -rf "$work/bench" "$work/bench-kernel"
for line in "dkms_build $(echo "$modules" | grep -c .) $took seconds" \
	"kernel_build 1 $whole seconds" \
	"dkms_build_by_kernel_build 1 $(awk -v a="$took" -v b="$whole" \
		'BEGIN { printf "%.2f", a / b }') ratio"; do
	echo "$PIN-stock chroot - $line"
done | tr ' ' '\t' >"$results/bench-dkms.tsv"
awk -v a="$took" -v b="$whole" 'BEGIN { exit a > 0.35 * b }' ||
	die "building the modules took $took s and the whole kernel $whole s: more than 0.35 of it"
