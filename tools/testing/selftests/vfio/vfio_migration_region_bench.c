// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to save and load 64 MiB of device state, next to what that
 * cannot do without: copies, and a checksum
 *
 * Prints lines of: metric, MiB, value, unit, with tabs between them.  The
 * figures of a ratio are measured in turn, the best of some rounds each, so
 * that what else the machine does matters little.
 *
 * With the argument "count" it measures what userspace waits for while the
 * device is stopped, by the time-stamp counter.  In QEMU with "-icount shift=0"
 * and one CPU that counts instructions, and is the same in each run.
 *
 * A kernel that is built for size copies by "rep movsb", which TCG does byte by
 * byte: there a load takes twice as many instructions as with -O2, and the marks
 * for it and for scattered pages are missed.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>
#include <sys/mman.h>

#include "../kselftest.h"
#include "vfio_migration_v2_lib.h"

#define MIB		0x100000UL
#define SIZE		(64 * MIB)
#define ROUNDS		15

/*
 * Between source and destination: emulators and caches are slow when the two
 * are the same but for their high bits.
 */
#define SHIFT		(37 * PAGE)

/*
 * What a ratio must be at least.  A save is one copy with a checksum of the same
 * bytes beside it, so 1.00 is the most that there can be; a load is two copies,
 * one by userspace and one by the kernel.
 */
#define MARK_MMAP	0.95
#define MARK_TRAPPED	0.9
#define MARK_V2		0.9
#define MARK_LOAD	0.4

/* And what must not be exceeded */
#define LIMIT_DOWNTIME	1.2
#define LIMIT_SCATTERED	2.0

enum {
	COPY, SUM, COPY_AND_SUM, SAVE_MAPPED, READ_FILE, SAVE_TRAPPED, SAVE_V2,
	LOAD_MAPPED, METRICS
};

static struct dev from, to;
static char *source, *saved;
static size_t saved_size, saved_memory;
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
	saved_memory = 0;
	ret = state_set(&from, STOP_COPY);
	if (ret)
		return ret;
	while ((ret = chunk_next(&from, &c)) > 0) {
		if (saved_size + c.size > SIZE + MIB)
			return -E2BIG;
		if (!saved_memory && c.size == MIB)
			saved_memory = saved_size;
		ret = data_read(&from, c.offset, saved + saved_size, c.size,
				mapped ? BY_MMAP : (int)MIB);
		if (ret)
			return ret;
		saved_size += c.size;
	}

	return ret ?: state_set(&from, STOP);
}

/*
 * The same bytes from the same mapping to the same place in the same pieces,
 * and nobody is asked where they are
 */
static void copy_all(void)
{
	const char *memory = from.map + from.mig.area[0].offset;
	size_t at;

	for (at = 0; at < SIZE; at += MIB)
		memcpy(saved + saved_memory + at, memory + at, MIB);
}

/* The least that a checksum of all costs */
static void *sum_all(void *sum)
{
	*(__u64 *)sum = xxh64(from.map + from.mig.area[0].offset, SIZE);

	return NULL;
}

/* Both at once, as the kernel sums up by another processor what userspace copies */
static int copy_and_sum_all(__u64 *sum)
{
	pthread_t thread;
	int ret;

	ret = pthread_create(&thread, NULL, sum_all, sum);
	if (ret)
		return -ret;
	copy_all();

	return -pthread_join(thread, NULL);
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

/* By version 2, in pieces of what a chunk of version 1 has */
static int save_by_v2(void)
{
	struct stream s = { .data = saved, .room = SIZE + 2 * MIB };

	return v2_save(&from, &s, MIB);
}

static int measure(int metric, double *best)
{
	double start = now(), took;
	__u64 sum;
	int ret = 0;

	switch (metric) {
	case COPY:
		copy_all();
		break;
	case SUM:
		sum_all(&sum);
		break;
	case COPY_AND_SUM:
		ret = copy_and_sum_all(&sum);
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
	case SAVE_V2:
		ret = save_by_v2();
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

static int prepare(bool count)
{
	int ret = devs_remove_all();

	ret = ret ?: params_default();
	ret = ret ?: dev_create(&from, "mscratch-64m", 0);
	ret = ret ?: dev_create(&to, count ? "mscratch-1m" : "mscratch-64m", 1);
	ret = ret ?: dev_open(&from);
	ret = ret ?: dev_open(&to);
	ret = ret ?: dev_map(&from);
	ret = ret ?: dev_map(&to);
	ret = ret ?: scratch_fill(&from, 1);
	source = page_alloc(SIZE);
	saved = page_alloc(SHIFT + SIZE + 2 * MIB);
	file = memfd_create("bench", MFD_CLOEXEC);
	if (ret || !source || !saved || file < 0)
		return ret ?: -ENOMEM;
	saved += SHIFT;
	pattern(source, SIZE, 1);

	return write(file, source, SIZE) == (ssize_t)SIZE ? 0 : -EIO;
}

/*
 * While the device is stopped
 */

/* From the stop to the end of the stream, by the mapping */
static int stop_and_copy(const struct dev *d, double *count)
{
	unsigned long long start = __rdtsc();
	size_t at = 0;
	struct chunk c;
	int ret;

	ret = state_set(d, STOP_COPY);
	if (ret)
		return ret;
	while ((ret = chunk_next(d, &c)) > 0) {
		if (at + c.size > SIZE + MIB)
			return -E2BIG;
		ret = data_read(d, c.offset, saved + at, c.size, BY_MMAP);
		if (ret)
			return ret;
		at += c.size;
	}
	*count = __rdtsc() - start;
	saved_size = at;

	return ret ?: state_set(d, RUNNING);
}

/* All was sent before, but for some pages, each @step behind the last one */
static int dirty_and_stop(const struct dev *d, size_t pages, size_t step,
			  double *count)
{
	struct chunk c;
	size_t i;
	int ret;

	ret = state_set(d, PRE_COPY);
	while (!ret && (ret = chunk_next(d, &c)) > 0)
		ret = data_read(d, c.offset, saved, c.size, BY_MMAP);
	for (i = 0; !ret && i < pages; i++)
		ret = scratch_write(d, i * step * PAGE, source, PAGE);
	ret = ret ?: stop_and_copy(d, count);
	if (!ret && saved_size < pages * PAGE)
		ret = -ENODATA;

	return ret;
}

/* To load what was saved last, up to the end of RESUMING */
static int load_and_go(const struct dev *d, double *count)
{
	struct stream s = { .data = saved, .size = saved_size };
	unsigned long long start;
	int ret;

	start = __rdtsc();
	ret = resume(d, &s, BY_MMAP, MIB);
	*count = __rdtsc() - start;

	return ret;
}

static void least(double *count, unsigned long long start)
{
	double took = __rdtsc() - start;

	if (!*count || took < *count)
		*count = took;
}

/* A chunk of 1 MiB of each kind; what @saved has is loaded again */
static int count_chunks(void)
{
	double next = 0, trapped = 0, mapped = 0, put = 0, v2_out = 0, v2_in = 0;
	struct stream s = { .data = saved, .size = saved_size };
	unsigned long long start;
	struct chunk c;
	size_t at;
	long n;
	int fd, ret;

	ret = state_set(&from, STOP_COPY);
	while (!ret) {
		start = __rdtsc();
		ret = chunk_next(&from, &c);
		if (ret <= 0)
			break;
		if (c.size == MIB)
			least(&next, start);
		start = __rdtsc();
		ret = data_read(&from, c.offset, saved, c.size, MIB);
		if (c.size == MIB)
			least(&trapped, start);
	}
	ret = ret ?: state_set(&from, RUNNING);
	ret = ret ?: save_all(true);
	ret = ret ?: state_set(&from, RESUMING);
	s.size = saved_size;
	for (at = 0; !ret && at < s.size; at += n) {
		bool map = at / MIB % 2;

		n = s.size - at < MIB ? s.size - at : MIB;
		start = __rdtsc();
		ret = stream_put(&from, s.data + at, n, map ? BY_MMAP : MIB);
		if (n == MIB)
			least(map ? &mapped : &put, start);
	}
	ret = ret ?: state_set(&from, STOP);

	ret = ret ?: v2_set(&from, V2_SAVING, &fd);
	if (ret)
		return ret;
	for (s.size = 0; s.size < SIZE + MIB; s.size += n) {
		start = __rdtsc();
		n = v2_read(fd, s.data + s.size, MIB);
		if (n <= 0)
			break;
		if (n == MIB)
			least(&v2_out, start);
	}
	ret = n ?: v2_go(&from, V2_STOPPED);
	close(fd);
	ret = ret ?: v2_set(&from, V2_RESUMING, &fd);
	if (ret)
		return ret;
	for (at = 0; at < s.size; at += n) {
		start = __rdtsc();
		n = v2_write(fd, s.data + at,
			     s.size - at < MIB ? s.size - at : MIB);
		if (n <= 0)
			break;
		if (n == MIB)
			least(&v2_in, start);
	}
	ret = n < 0 ? n : v2_go(&from, V2_STOPPED);
	close(fd);
	if (ret)
		return ret;

	printf("chunk_announced\t%d\t%.0f\tinstructions\n", 1, next);
	printf("chunk_by_pread\t%d\t%.0f\tinstructions\n", 1, trapped);
	printf("chunk_loaded_by_mmap\t%d\t%.0f\tinstructions\n", 1, mapped);
	printf("chunk_loaded_by_pwrite\t%d\t%.0f\tinstructions\n", 1, put);
	printf("chunk_read_by_v2\t%d\t%.0f\tinstructions\n", 1, v2_out);
	printf("chunk_written_by_v2\t%d\t%.0f\tinstructions\n", 1, v2_in);

	return next && trapped && mapped && put && v2_out && v2_in ? 0 :
	       -ENODATA;
}

static int count_downtime(void)
{
	double small, percent, scattered, contiguous, start;
	double save = 0, load = 0, copy;
	size_t all = SIZE / PAGE;
	int ret;

	ret = save_all(true);
	ret = ret ?: state_set(&from, RUNNING);
	ret = ret ?: stop_and_copy(&from, &save);
	ret = ret ?: load_and_go(&from, &load);
	start = __rdtsc();
	copy_all();
	copy = __rdtsc() - start;
	ret = ret ?: stop_and_copy(&to, &small);
	ret = ret ?: dirty_and_stop(&from, all / 100, 100, &percent);
	ret = ret ?: dirty_and_stop(&from, all / 2, 2, &scattered);
	ret = ret ?: dirty_and_stop(&from, all / 2, 1, &contiguous);
	ret = ret ?: count_chunks();
	ksft_test_result(!ret, "what was written was saved\n");
	if (ret)
		return ret;

	printf("memcpy\t%lu\t%.0f\tinstructions\n", SIZE / MIB, copy);
	printf("save_by_mmap\t%lu\t%.0f\tinstructions\n", SIZE / MIB, save);
	printf("load_by_mmap\t%lu\t%.0f\tinstructions\n", SIZE / MIB, load);
	printf("stop_copy_of_all\t%d\t%.0f\tinstructions\n", 1, small);
	printf("stop_copy_of_one_percent\t%lu\t%.0f\tinstructions\n", SIZE / MIB,
	       percent);
	printf("stop_copy_scattered\t%lu\t%.0f\tinstructions\n", SIZE / MIB,
	       scattered);
	printf("stop_copy_contiguous\t%lu\t%.0f\tinstructions\n", SIZE / MIB,
	       contiguous);
	printf("one_percent_to_all_of_one\t%lu\t%.2f\tratio\n", SIZE / MIB,
	       percent / small);
	printf("scattered_to_contiguous\t%lu\t%.2f\tratio\n", SIZE / MIB,
	       scattered / contiguous);
	ksft_test_result(percent <= LIMIT_DOWNTIME * small,
			 "64 MiB with one percent dirty take as long as 1 MiB\n");
	ksft_test_result(scattered <= LIMIT_SCATTERED * contiguous,
			 "scattered pages take at most twice as long\n");

	return 0;
}

static int measure_ratios(void)
{
	double best[METRICS], mapped, trapped, v2, load;
	int i, round, ret = 0;

	for (i = 0; i < METRICS; i++)
		best[i] = 1e9;
	/* Where the copy goes to is known from a save */
	ret = save_all(true);
	for (round = 0; !ret && round < ROUNDS; round++) {
		for (i = 0; !ret && i < METRICS; i++)
			ret = measure(i, &best[i]);
	}
	ret = ret ?: scratch_check(&to, 1);
	ksft_test_result(!ret, "what was measured is what was saved\n");
	if (ret)
		return ret;

	mapped = best[COPY_AND_SUM] / best[SAVE_MAPPED];
	trapped = best[READ_FILE] / best[SAVE_TRAPPED];
	v2 = best[READ_FILE] / best[SAVE_V2];
	load = best[COPY] / best[LOAD_MAPPED];
	printf("memcpy\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB, best[COPY]);
	printf("checksum\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB, best[SUM]);
	printf("memcpy_beside_checksum\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[COPY_AND_SUM]);
	printf("save_by_mmap\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[SAVE_MAPPED]);
	printf("pread_of_memfd\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[READ_FILE]);
	printf("save_by_pread\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[SAVE_TRAPPED]);
	printf("save_by_v2\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[SAVE_V2]);
	printf("load_by_mmap\t%lu\t%.1f\tmilliseconds\n", SIZE / MIB,
	       best[LOAD_MAPPED]);
	printf("copy_and_checksum_to_save_by_mmap\t%lu\t%.2f\tratio\n",
	       SIZE / MIB, mapped);
	printf("pread_of_memfd_to_save_by_pread\t%lu\t%.2f\tratio\n",
	       SIZE / MIB, trapped);
	printf("pread_of_memfd_to_save_by_v2\t%lu\t%.2f\tratio\n", SIZE / MIB,
	       v2);
	printf("memcpy_to_load_by_mmap\t%lu\t%.2f\tratio\n", SIZE / MIB, load);
	ksft_test_result(mapped >= MARK_MMAP,
			 "a mapped save keeps up with a copy beside a checksum\n");
	ksft_test_result(trapped >= MARK_TRAPPED,
			 "a trapped save keeps up with a file\n");
	ksft_test_result(v2 >= MARK_V2,
			 "a save by version 2 keeps up with a file\n");
	ksft_test_result(load >= MARK_LOAD,
			 "a mapped load keeps up with memcpy\n");

	return 0;
}

int main(int argc, char **argv)
{
	bool count = argc > 1 && !strcmp(argv[1], "count");
	int ret;

	ksft_print_header();
	ksft_set_plan(count ? 3 : 5);
	ret = prepare(count);
	ret = ret ?: count ? count_downtime() : measure_ratios();
	if (ret)
		ksft_exit_fail_msg("%s\n", strerror(-ret));

	dev_close(&from);
	dev_close(&to);
	dev_remove(&from);
	dev_remove(&to);
	ksft_exit(!ksft_get_fail_cnt());
}
