// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to save 64 MiB of device state, next to what it cannot do
 * without: one copy
 *
 * Prints lines of: metric, MiB, value, unit, with tabs between them.  The
 * figures of a ratio are measured in turn, the best of some rounds each, so
 * that what else the machine does matters little.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>

#include "../kselftest.h"
#include "vfio_migration_region_lib.h"

#define MIB		0x100000UL
#define SIZE		(64 * MIB)
#define ROUNDS		15

/*
 * Between source and destination: emulators and caches are slow when the two
 * are the same but for their high bits.
 */
#define SHIFT		(37 * PAGE)

/* What a ratio must be at least */
#define MARK_MMAP	0.8
#define MARK_TRAPPED	0.7

enum { COPY, SAVE_MAPPED, READ_FILE, SAVE_TRAPPED, LOAD_MAPPED, METRICS };

static struct dev from, to;
static char *source, *saved;
static size_t saved_size;
static int file;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static int save_all(bool mapped)
{
	struct chunk c;
	int ret;

	saved_size = 0;
	ret = state_set(&from, STOP_COPY);
	if (ret)
		return ret;
	while ((ret = chunk_next(&from, &c)) > 0) {
		if (saved_size + c.size > SIZE + MIB)
			return -E2BIG;
		ret = data_read(&from, c.offset, saved + saved_size, c.size,
				mapped ? BY_MMAP : (int)MIB);
		if (ret)
			return ret;
		saved_size += c.size;
	}

	return ret ?: state_set(&from, STOP);
}

static int load_all(void)
{
	struct stream s = { .data = saved, .size = saved_size };

	return resume(&to, &s, BY_MMAP, MIB);
}

static int read_file(void)
{
	size_t at;

	for (at = 0; at < SIZE; at += MIB) {
		if (pread(file, saved + at, MIB, at) != (ssize_t)MIB)
			return -EIO;
	}

	return 0;
}

static int measure(int metric, double *best)
{
	double start = now(), took;
	int ret = 0;

	switch (metric) {
	case COPY:
		memcpy(saved, source, SIZE);
		break;
	case SAVE_MAPPED:
		ret = save_all(true);
		break;
	case READ_FILE:
		ret = read_file();
		break;
	case SAVE_TRAPPED:
		ret = save_all(false);
		break;
	case LOAD_MAPPED:
		ret = load_all();
		break;
	}
	took = now() - start;
	if (took < *best)
		*best = took;

	return ret;
}

static int prepare(void)
{
	int ret = devs_remove_all();

	ret = ret ?: params_default();
	ret = ret ?: dev_create(&from, "mscratch-64m", 0);
	ret = ret ?: dev_create(&to, "mscratch-64m", 1);
	ret = ret ?: dev_open(&from);
	ret = ret ?: dev_open(&to);
	ret = ret ?: dev_map(&from);
	ret = ret ?: dev_map(&to);
	ret = ret ?: scratch_fill(&from, 1);
	source = page_alloc(SIZE);
	saved = page_alloc(SHIFT + SIZE + MIB);
	file = memfd_create("bench", MFD_CLOEXEC);
	if (ret || !source || !saved || file < 0)
		return ret ?: -ENOMEM;
	saved += SHIFT;
	pattern(source, SIZE, 1);

	return write(file, source, SIZE) == (ssize_t)SIZE ? 0 : -EIO;
}

int main(void)
{
	double best[METRICS], mapped, trapped;
	int i, round, ret;

	ksft_print_header();
	ksft_set_plan(3);
	ret = prepare();
	for (i = 0; i < METRICS; i++)
		best[i] = 1e9;
	for (round = 0; !ret && round < ROUNDS; round++) {
		for (i = 0; !ret && i < METRICS; i++)
			ret = measure(i, &best[i]);
	}
	ret = ret ?: scratch_check(&to, 1);
	ksft_test_result(!ret, "what was measured is what was saved\n");
	if (ret)
		ksft_exit_fail_msg("error %d\n", ret);

	mapped = best[COPY] / best[SAVE_MAPPED];
	trapped = best[READ_FILE] / best[SAVE_TRAPPED];
	printf("memcpy\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB, best[COPY]);
	printf("save_by_mmap\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[SAVE_MAPPED]);
	printf("pread_of_memfd\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[READ_FILE]);
	printf("save_by_pread\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[SAVE_TRAPPED]);
	printf("load_by_mmap\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[LOAD_MAPPED]);
	printf("memcpy_to_save_by_mmap\t%lu\t%.2f\tratio\n", SIZE / MIB, mapped);
	printf("pread_of_memfd_to_save_by_pread\t%lu\t%.2f\tratio\n",
	       SIZE / MIB, trapped);
	ksft_test_result(mapped >= MARK_MMAP,
			 "a mapped save keeps up with memcpy\n");
	ksft_test_result(trapped >= MARK_TRAPPED,
			 "a trapped save keeps up with a file\n");
	dev_close(&from);
	dev_close(&to);
	dev_remove(&from);
	dev_remove(&to);
	ksft_exit(!ksft_get_fail_cnt());
}
