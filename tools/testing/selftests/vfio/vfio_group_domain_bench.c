// SPDX-License-Identifier: GPL-2.0-only
/*
 * What vfio_group_domain() costs with 1, 16 and 256 groups in the container
 *
 * Prints lines of: metric, groups in the container, value, unit, with tabs
 * between them.  Cycles are those of the time-stamp counter.  In QEMU with
 * "-icount shift=0" and one CPU they are instructions, the same in each run.
 */

#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

#include "../kselftest.h"
#include "vfio_group_domain_lib.h"

#define MAX_GROUPS	256
#define CALLS		1000
#define ROUNDS		5
#define OPENS		20

/* 256 groups against 1 */
#define LIMIT		1.2

static struct mdev mdevs[MAX_GROUPS];
static struct user users[MAX_GROUPS];

static int call_cost(int probe, const struct mdev *m, double *cycles)
{
	struct vfio_test_bench bench = { .calls = CALLS, .rounds = ROUNDS };
	int ret;

	ret = probe_hold(probe, VFIO_TEST_BUS_MDEV, m->name);
	if (ret)
		return ret;
	ret = probe_bench(probe, &bench);
	probe_release(probe);
	*cycles = (double)bench.cycles / CALLS;

	return ret;
}

/* Opening the device is what the call is a part of */
static int open_cost(int group, const struct mdev *m, double *cycles)
{
	unsigned long long start, took, best = ~0ULL;
	int i, fd;

	for (i = 0; i < OPENS; i++) {
		start = __rdtsc();
		fd = group_device(group, m->name);
		took = __rdtsc() - start;
		if (fd < 0)
			return fd;
		close(fd);
		if (took < best)
			best = took;
	}
	*cycles = best;

	return 0;
}

static int measure(int iommu, int probe, int groups, double *call)
{
	double first, last, open;
	int i, parent, ret;

	parent = device_add(iommu, 0, VFIO_TEST_DEV_AUX);
	if (parent < 0)
		return parent;

	for (i = 0; i < groups; i++) {
		ret = mdev_create(parent, VFIO_TEST_MDEV_IOMMU, i, &mdevs[i]);
		if (ret)
			return ret;
		if (!i)
			ret = user_open(&users[i], mdevs[i].group, NULL);
		else
			ret = user_join(&users[i], users[0].container,
					mdevs[i].group, NULL);
		if (ret)
			return ret;
	}

	/* type1 adds at the head: the oldest group is the last that it finds */
	ret = call_cost(probe, &mdevs[groups - 1], &first);
	if (!ret)
		ret = call_cost(probe, &mdevs[0], &last);
	if (!ret)
		ret = open_cost(users[0].group, &mdevs[0], &open);
	if (ret)
		return ret;

	printf("call_newest_group\t%d\t%.1f\tcycles\n", groups, first);
	printf("call_oldest_group\t%d\t%.1f\tcycles\n", groups, last);
	printf("open_device\t%d\t%.0f\tcycles\n", groups, open);
	printf("share_of_open\t%d\t%.2f\tpercent\n", groups, 100 * last / open);
	*call = first > last ? first : last;

	for (i = groups - 1; i >= 0; i--)
		user_close(&users[i]);

	return device_remove(iommu, parent);
}

int main(void)
{
	static const int sizes[] = { 1, 16, MAX_GROUPS };
	double call[ARRAY_SIZE(sizes)], ratio;
	int iommu, probe, ret;
	unsigned int i;

	ksft_print_header();
	ksft_set_plan(2);
	ret = modules_load(false);
	if (ret)
		ksft_exit_fail_msg("modules cannot be loaded: %s\n",
				   strerror(-ret));
	iommu = iommu_open();
	probe = probe_open();
	ret = iommu < 0 ? iommu : probe < 0 ? probe : devices_remove_all(iommu);
	for (i = 0; i < ARRAY_SIZE(sizes) && !ret; i++)
		ret = measure(iommu, probe, sizes[i], &call[i]);
	if (ret)
		ksft_exit_fail_msg("%s\n", strerror(-ret));

	ksft_test_result_pass("every size was measured\n");
	ratio = call[ARRAY_SIZE(sizes) - 1] / call[0];
	printf("call_against_one_group\t%d\t%.2f\tratio\n", MAX_GROUPS, ratio);
	ksft_test_result(call[0] > 0 && ratio <= LIMIT,
			 "a call costs at most %.1f times as much with %d groups\n",
			 LIMIT, MAX_GROUPS);
	ksft_exit(ksft_get_fail_cnt() == 0);
}
