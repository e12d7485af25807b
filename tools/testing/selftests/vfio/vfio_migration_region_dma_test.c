// SPDX-License-Identifier: GPL-2.0-only
/*
 * The reference device of the migration region: its DMA, by both paths, and
 * what type1 and a migration know of it
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <linux/capability.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "vfio_migration_region_lib.h"
#include "mscratch.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define IOVA		0x10000000ULL
/*
 * DMA, by both paths
 */

#define GUEST_PAGES	64UL
#define GUEST		(GUEST_PAGES * PAGE)

FIXTURE(dma)
{
	struct pair p;
	char *guest;
	char *other;
	__u32 path;
};

FIXTURE_VARIANT(dma)
{
	__u32 path;
};

FIXTURE_VARIANT_ADD(dma, pin) { .path = 0 };
FIXTURE_VARIANT_ADD(dma, rw) { .path = MSCRATCH_DMA_RW };

FIXTURE_SETUP(dma)
{
	ASSERT_EQ(0, pair_open(&self->p, "mscratch-1m", 1 << 20));
	self->guest = page_alloc(GUEST);
	ASSERT_NE(NULL, self->guest);
	self->other = page_alloc(GUEST);
	ASSERT_NE(NULL, self->other);
	ASSERT_EQ(0, container_map(self->p.a.u.container, self->guest, IOVA,
				   GUEST));
	ASSERT_EQ(0, container_map(self->p.b.u.container, self->other, IOVA,
				   GUEST));
	self->path = variant->path;
}

FIXTURE_TEARDOWN(dma)
{
	EXPECT_EQ(0, container_unmap(self->p.a.u.container, IOVA, GUEST));
	EXPECT_EQ(0, container_unmap(self->p.b.u.container, IOVA, GUEST));
	EXPECT_EQ(0, pair_close(&self->p));
}

TEST_F(dma, reaches_memory)
{
	static const struct {
		__u64 iova, offset, len;
	} runs_of[] = {
		{ 0, 0, 1 }, { 0, 0, PAGE }, { 1, 0, PAGE }, { 0, 1, PAGE },
		{ PAGE - 1, 5, 2 }, { 17, PAGE - 3, 3 * PAGE + 1 },
		{ 0, 0, GUEST }, { 5, 1021, GUEST - 7 },
		{ GUEST - 1, (1 << 20) - 1, 1 },
	};
	struct dev *d = &self->p.a;
	char *buf = malloc(2 << 20), *seen = buf + (1 << 20);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(runs_of); i++) {
		__u64 iova = runs_of[i].iova, offset = runs_of[i].offset;
		__u64 len = runs_of[i].len;

		/* To the guest, and nothing beside it */
		ASSERT_EQ(0, scratch_fill(d, i));
		pattern(buf, 1 << 20, i);
		memset(self->guest, 0x11, GUEST);
		ASSERT_EQ(0, dma(d, IOVA + iova, offset, len,
				 self->path | MSCRATCH_DMA_TO_GUEST));
		EXPECT_EQ(0, memcmp(self->guest + iova, buf + offset, len));
		EXPECT_EQ(true, !iova || self->guest[iova - 1] == 0x11);
		EXPECT_EQ(true, iova + len == GUEST ||
			  self->guest[iova + len] == 0x11);

		/* And back */
		pattern(self->guest, GUEST, 100 + i);
		memcpy(buf + offset, self->guest + iova, len);
		ASSERT_EQ(0, dma(d, IOVA + iova, offset, len, self->path));
		ASSERT_EQ(0, scratch_read(d, 0, seen, 1 << 20));
		EXPECT_EQ(0, memcmp(seen, buf, 1 << 20));
		EXPECT_EQ(2 * (i + 1), reg_get64(d, MSCRATCH_REG_DMA_COUNT));
	}
	free(buf);
}

TEST_F(dma, refused)
{
	static const struct {
		__u64 iova, offset, len;
		int error;
	} bad[] = {
		{ IOVA, 0, 0, EINVAL },
		{ IOVA, 1 << 20, 1, EINVAL },
		{ IOVA, (1 << 20) - 1, 2, EINVAL },
		{ IOVA, 1, 1 << 20, EINVAL },
		{ IOVA, 0, ~0ULL, EINVAL },
		{ IOVA, ~0ULL, 2, EINVAL },
		{ IOVA, 8, ~0ULL - 4, EINVAL },
		{ IOVA, 1ULL << 63, 1ULL << 63, EINVAL },
		{ IOVA + GUEST, 0, 1, 0 },
		{ IOVA - 1, 0, 2, 0 },
		{ IOVA + GUEST - 1, 0, 2, 0 },
		{ ~0ULL, 0, 2, 0 },
		{ ~0ULL - PAGE, 0, 2 * PAGE, 0 },
		{ 0, 0, PAGE, 0 },
	};
	struct dev *d = &self->p.a;
	unsigned int i, to_guest;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		for (to_guest = 0; to_guest < 2; to_guest++) {
			int ret = dma(d, bad[i].iova, bad[i].offset,
				      bad[i].len, self->path |
				      (to_guest ? MSCRATCH_DMA_TO_GUEST : 0));

			EXPECT_GT(0, ret) {
				TH_LOG("run %u", i);
			}
			EXPECT_EQ(bad[i].error ? -bad[i].error : ret, ret);
			EXPECT_EQ(MSCRATCH_STATUS_ERROR,
				  reg_get32(d, MSCRATCH_REG_DMA_STATUS));
		}
	}
	EXPECT_EQ(0, dma(d, IOVA, 0, GUEST, self->path));
	EXPECT_EQ(MSCRATCH_STATUS_DONE, reg_get32(d, MSCRATCH_REG_DMA_STATUS));
	EXPECT_EQ(0, reg_get32(d, MSCRATCH_REG_DMA_ERROR));
}

TEST_F(dma, raises_an_interrupt)
{
	struct dev *d = &self->p.a;
	eventfd_t count;
	int fd = eventfd(0, EFD_CLOEXEC);
	unsigned int i;

	ASSERT_EQ(0, irq_connect(d, fd));
	for (i = 0; i < 20; i++) {
		/* An error is told as well */
		ASSERT_EQ(0, dma_start(d, IOVA, 0, i % 5 ? PAGE : 0,
				       self->path | MSCRATCH_DMA_IRQ));
		ASSERT_EQ(0, eventfd_read(fd, &count));
		EXPECT_EQ(1, count);
		EXPECT_EQ(i % 5 ? MSCRATCH_STATUS_DONE : MSCRATCH_STATUS_ERROR,
			  reg_get32(d, MSCRATCH_REG_DMA_STATUS));
	}
}

/*
 * When the write that clears RUNNING returns, the device has stopped: what it
 * was doing is done, and nothing of it comes later.
 */
TEST_F(dma, stops_before_the_state_changes)
{
	static const int stopped[] = { STOP, STOP_COPY, RESUMING };
	struct dev *d = &self->p.a;
	char *copy = malloc(GUEST), *expected = malloc(GUEST);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	unsigned int round, late = 0;
	eventfd_t count;

	ASSERT_EQ(0, irq_connect(d, fd));
	ASSERT_EQ(0, scratch_fill(d, 1));
	pattern(expected, GUEST, 1);
	for (round = 0; round < 60; round++) {
		int to = stopped[round % ARRAY_SIZE(stopped)];
		unsigned int status, i;

		memset(self->guest, 0, GUEST);
		ASSERT_EQ(0, state_set(d, round % 2 ? PRE_COPY : RUNNING));
		ASSERT_EQ(0, dma_start(d, IOVA, 0, GUEST, self->path |
				       MSCRATCH_DMA_TO_GUEST | MSCRATCH_DMA_IRQ));
		ASSERT_EQ(0, state_set(d, to));
		/* Who waits for its interrupt has it */
		EXPECT_EQ(0, eventfd_read(fd, &count));
		memcpy(copy, self->guest, GUEST);
		status = reg_get32(d, MSCRATCH_REG_DMA_STATUS);
		EXPECT_EQ(MSCRATCH_STATUS_DONE, status);
		EXPECT_EQ(0, memcmp(copy, expected, GUEST));
		EXPECT_EQ(round + 1, reg_get64(d, MSCRATCH_REG_DMA_COUNT));
		/* A start that comes now is not heard */
		memset(self->guest, 0, GUEST);
		ASSERT_EQ(0, dma_start(d, IOVA, 0, GUEST,
				       self->path | MSCRATCH_DMA_TO_GUEST));
		for (i = 0; i < 20; i++) {
			sched_yield();
			late += !all_zero(self->guest, GUEST);
		}
		EXPECT_EQ(round + 1, reg_get64(d, MSCRATCH_REG_DMA_COUNT));
		ASSERT_EQ(0, state_set(d, RUNNING));
		late += !all_zero(self->guest, GUEST);
		EXPECT_EQ(round + 1, reg_get64(d, MSCRATCH_REG_DMA_COUNT));
	}
	EXPECT_EQ(0, late);
	close(fd);
	free(copy);
	free(expected);
}

/* A DMA into the scratch memory while it is saved is saved as well */
TEST_F(dma, changes_are_saved)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	char *x = malloc(2 << 20), *y = x + (1 << 20);
	struct stream s = {};
	size_t before;

	ASSERT_EQ(0, scratch_fill(a, 1));
	ASSERT_EQ(0, state_set(a, PRE_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));
	pattern(self->guest, GUEST, 50);
	ASSERT_EQ(0, dma(a, IOVA, 10 * PAGE + 3, 3 * PAGE, self->path));
	before = s.size;
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));
	EXPECT_LE(before + 4 * PAGE, s.size);
	/* One that is under way when the device is stopped */
	ASSERT_EQ(0, dma_start(a, IOVA, 40 * PAGE + 1, 20 * PAGE, self->path));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));
	ASSERT_EQ(0, scratch_read(a, 0, x, 1 << 20));
	EXPECT_EQ(0, memcmp(x + 10 * PAGE + 3, self->guest, 3 * PAGE));
	EXPECT_EQ(0, memcmp(x + 40 * PAGE + 1, self->guest, 20 * PAGE));
	ASSERT_EQ(0, resume(b, &s, BY_MMAP, 0));
	ASSERT_EQ(0, scratch_read(b, 0, y, 1 << 20));
	EXPECT_EQ(0, memcmp(x, y, 1 << 20));

	/* The registers came along: the same DMA can be started there */
	EXPECT_EQ(IOVA, reg_get64(b, MSCRATCH_REG_DMA_IOVA));
	EXPECT_EQ(40 * PAGE + 1, reg_get64(b, MSCRATCH_REG_DMA_OFFSET));
	EXPECT_EQ(20 * PAGE, reg_get64(b, MSCRATCH_REG_DMA_LENGTH));
	EXPECT_EQ(self->path, reg_get32(b, MSCRATCH_REG_DMA_CONTROL));
	EXPECT_EQ(2, reg_get64(b, MSCRATCH_REG_DMA_COUNT));
	EXPECT_EQ(MSCRATCH_STATUS_DONE, reg_get32(b, MSCRATCH_REG_DMA_STATUS));
	ASSERT_EQ(0, bus_master(b, true));
	ASSERT_EQ(0, reg_set32(b, MSCRATCH_REG_DMA_CONTROL, self->path |
			       MSCRATCH_DMA_TO_GUEST | MSCRATCH_DMA_START));
	EXPECT_EQ(MSCRATCH_STATUS_DONE, dma_wait(b));
	EXPECT_EQ(0, memcmp(self->other, self->guest, 20 * PAGE));
	stream_free(&s);
	free(x);
}

/* One that runs into memory which is not there has changed something, or not */
TEST_F(dma, failed_part_way_is_saved)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	char *x = malloc(2 << 20), *y = x + (1 << 20);
	struct stream s = {};

	ASSERT_EQ(0, scratch_fill(a, 1));
	ASSERT_EQ(0, state_set(a, PRE_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));
	pattern(self->guest, GUEST, 51);
	ASSERT_EQ(0, dma_start(a, IOVA + GUEST - 2 * PAGE, 20 * PAGE, 4 * PAGE,
			       self->path));
	EXPECT_EQ(MSCRATCH_STATUS_ERROR, dma_wait(a));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));
	ASSERT_EQ(0, scratch_read(a, 0, x, 1 << 20));
	if (self->path == MSCRATCH_DMA_RW)
		EXPECT_EQ(0, memcmp(x + 20 * PAGE,
				    self->guest + GUEST - 2 * PAGE, 2 * PAGE));
	ASSERT_EQ(0, resume(b, &s, BY_MMAP, 0));
	ASSERT_EQ(0, scratch_read(b, 0, y, 1 << 20));
	EXPECT_EQ(0, memcmp(x, y, 1 << 20));
	stream_free(&s);
	free(x);
}

/* type1 knows what the device wrote to */
TEST_F(dma, written_pages_are_dirty)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 dirty, expected;

	EXPECT_EQ(-EINVAL, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	/* What was written before it started is not of interest */
	ASSERT_EQ(0, dma(d, IOVA, 0, GUEST, self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_start(container));
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(0, dirty);

	ASSERT_EQ(0, dma(d, IOVA + 3 * PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dma(d, IOVA + 10 * PAGE - 1, 0, 2,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dma(d, IOVA + 20 * PAGE + 5, 0, 4 * PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dma(d, IOVA + 63 * PAGE + 4095, 0, 1,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	expected = 1ULL << 3 | 3ULL << 9 | 31ULL << 20 | 1ULL << 63;
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(expected, dirty);
	/* Reported once */
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(0, dirty);

	/* The one that the stop finishes is among them */
	ASSERT_EQ(0, state_set(d, PRE_COPY));
	ASSERT_EQ(0, dma_start(d, IOVA + 30 * PAGE, 0, 16 * PAGE,
			       self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(0xffffULL << 30, dirty);
	ASSERT_EQ(0, dirty_stop(container));
	EXPECT_EQ(-EINVAL, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
}

/* Nobody can ask for these afterwards, and what comes there is not them */
TEST_F(dma, unmapped_pages_are_dirty)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 dirty;

	EXPECT_EQ(-EINVAL, dirty_unmap(container, IOVA, GUEST_PAGES, &dirty));
	ASSERT_EQ(0, dirty_start(container));
	ASSERT_EQ(0, dma(d, IOVA + 5 * PAGE, 0, 2 * PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dma(d, IOVA + 63 * PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_unmap(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(3ULL << 5 | 1ULL << 63, dirty);
	EXPECT_NE(0, dma(d, IOVA + 5 * PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));

	ASSERT_EQ(0, container_map(container, self->other, IOVA, GUEST));
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(0, dirty);
	ASSERT_EQ(0, dma(d, IOVA + PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(1ULL << 1, dirty);
	ASSERT_EQ(0, dirty_stop(container));
}

/* Where the pieces are that memory is mapped in, and how many pages each has */
#define PIECES		3U
#define PIECE_PAGES	2UL
#define PIECE		(PIECE_PAGES * PAGE)

/*
 * What was mapped in pieces is unmapped at once, and of none of them the dirty
 * pages are lost, in whatever order the pieces came and are found.
 */
TEST_F(dma, pieces_are_unmapped_at_once)
{
	static const unsigned int orders[][PIECES] = {
		{ 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
		{ 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 },
	};
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, dirty;
	unsigned int i, j;

	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		for (j = 0; j < PIECES; j++)
			ASSERT_EQ(0, container_map(container, self->other,
						   iova + orders[i][j] * PIECE,
						   PIECE));
		ASSERT_EQ(0, dma(d, iova + PAGE, 0, 2 * PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, dma(d, iova + 5 * PAGE, 0, PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, dirty_unmap(container, iova, PIECES * PIECE_PAGES,
					 &dirty));
		EXPECT_EQ(1ULL << 1 | 1ULL << 2 | 1ULL << 5, dirty) {
			TH_LOG("order %u", i);
		}
	}
	ASSERT_EQ(0, dirty_stop(container));
}

/* A look from below a mapping on tells what one from its first page on does */
TEST_F(dma, pages_between_are_not_dirty)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, dirty;

	ASSERT_EQ(0, container_map(container, self->other, iova + 5 * PAGE,
				   3 * PAGE));
	ASSERT_EQ(0, container_map(container, self->other, iova + 10 * PAGE,
				   PAGE));
	ASSERT_EQ(0, dirty_start(container));
	ASSERT_EQ(0, dma(d, iova + 5 * PAGE, 0, 3 * PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_get(container, iova, GUEST_PAGES, &dirty));
	EXPECT_EQ(7ULL << 5, dirty);
	/* Of what was told nothing comes again, as another page least of all */
	ASSERT_EQ(0, dirty_get(container, iova, GUEST_PAGES, &dirty));
	EXPECT_EQ(0, dirty);
	ASSERT_EQ(0, dma(d, iova + 10 * PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_get(container, iova + 5 * PAGE, 6, &dirty));
	EXPECT_EQ(1ULL << 5, dirty);
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, 11 * PAGE));
}

/* A look that fails because its bitmap cannot be written to loses nothing */
TEST_F(dma, look_that_fails_loses_nothing)
{
	static const int access[] = { PROT_READ, PROT_NONE };
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, dirty[2];
	char *memory = page_alloc(2 * PAGE);
	unsigned int i;

	ASSERT_NE(NULL, memory);
	ASSERT_EQ(0, container_map(container, self->other, iova + 5 * PAGE,
				   3 * PAGE));
	ASSERT_EQ(0, container_map(container, self->other, iova + 70 * PAGE,
				   2 * PAGE));
	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < ARRAY_SIZE(access); i++) {
		ASSERT_EQ(0, dma(d, iova + 6 * PAGE, 0, PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, dma(d, iova + 70 * PAGE, 0, PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, mprotect(memory + PAGE, PAGE, access[i]));
		/* At the first of the mappings, and at the second one */
		EXPECT_EQ(-EFAULT, dirty_get_into(container, iova, 128,
						  memory + PAGE));
		EXPECT_EQ(-EFAULT, dirty_get_into(container, iova, 128,
						  memory + PAGE - 8));
		ASSERT_EQ(0, dirty_get(container, iova, 128, dirty));
		EXPECT_EQ(1ULL << 6, dirty[0]);
		EXPECT_EQ(1ULL << 6, dirty[1]);
		ASSERT_EQ(0, mprotect(memory + PAGE, PAGE,
				      PROT_READ | PROT_WRITE));
	}
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, 72 * PAGE));
	munmap(memory, 2 * PAGE);
}

/*
 * A bitmap has a bit for each page of what was asked for, whether it is mapped or
 * not.  The mappings begin and end amid its words, and its bytes.  Who has asked
 * for it in vain asks again.
 */
TEST_F(dma, several_mappings_are_dirty)
{
	static const struct {
		size_t first, pages;
	} mappings[] = { { 1, 3 }, { 4, 62 }, { 70, 3 } };
	static const size_t written[] = { 1, 3, 4, 63, 65, 71 };
	struct dev *d = &self->p.a;
	__u64 iova = IOVA + 2 * GUEST, dirty[2];
	const __u64 expected[] = {
		1ULL << 1 | 1ULL << 3 | 1ULL << 4 | 1ULL << 63,
		1ULL << 1 | 1ULL << 7,
	};
	const size_t pages = 80;
	int container = d->u.container;
	char *memory = page_alloc(pages * PAGE), *bitmap = page_alloc(PAGE);
	unsigned int how, i;
	int ret;

	ASSERT_NE(NULL, memory);
	ASSERT_NE(NULL, bitmap);
	for (i = 0; i < ARRAY_SIZE(mappings); i++) {
		size_t at = mappings[i].first * PAGE;

		ASSERT_EQ(0, container_map(container, memory + at, iova + at,
					   mappings[i].pages * PAGE));
	}
	ASSERT_EQ(0, dirty_start(container));
	for (how = 0; how < 2; how++) {
		TH_LOG("%s", how ? "unmapped" : "asked for");
		for (i = 0; i < ARRAY_SIZE(written); i++)
			ASSERT_EQ(0, dma(d, iova + written[i] * PAGE, 0, PAGE,
					 self->path | MSCRATCH_DMA_TO_GUEST));
		/* What can be read and not written, and what cannot be read */
		for (i = 0; i < 2; i++) {
			ASSERT_EQ(0, mprotect(bitmap, PAGE,
					      i ? PROT_NONE : PROT_READ));
			EXPECT_EQ(-EFAULT, dirty_get_into(container, iova, pages,
							  bitmap));
		}
		/* It is not mapped as a whole, which an unmap tells */
		ret = how ? dirty_unmap(container, iova, pages, dirty) :
		      dirty_get(container, iova, pages, dirty);
		EXPECT_EQ(how ? -ENOENT : 0, ret);
		EXPECT_EQ(expected[0], dirty[0]);
		EXPECT_EQ(expected[1], dirty[1]);
	}
	ASSERT_EQ(0, dirty_stop(container));
	EXPECT_NE(0, dma(d, iova + PAGE, 0, PAGE, self->path));
	munmap(bitmap, PAGE);
	munmap(memory, pages * PAGE);
}

#define MANY		(16 * 8 * PAGE)	/* as a bitmap of 16 pages has bits */

/* A bitmap whose memory nobody has touched yet, however much of it there is */
TEST_F(dma, bitmap_is_fresh)
{
	static const size_t written[] = { 0, 8 * PAGE + 3, MANY / 2, MANY - 1 };
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, *bitmap, dirty;
	size_t i, bits;
	char *memory;

	memory = mmap(NULL, MANY * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	bitmap = mmap(NULL, 17 * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, bitmap);
	ASSERT_EQ(0, container_map(container, memory, iova, MANY * PAGE));
	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < ARRAY_SIZE(written); i++)
		ASSERT_EQ(0, dma(d, iova + written[i] * PAGE, 0, PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
	/* Its words lie across the pages */
	bitmap = (__u64 *)((char *)bitmap + PAGE - 4);
	ASSERT_EQ(0, dirty_get_into(container, iova, MANY, bitmap));
	for (i = 0; i < ARRAY_SIZE(written); i++) {
		memcpy(&dirty, bitmap + written[i] / 64, sizeof(dirty));
		EXPECT_EQ(1ULL << written[i] % 64, dirty);
	}
	for (i = 0, bits = 0; i < MANY / 64; i++) {
		memcpy(&dirty, bitmap + i, sizeof(dirty));
		bits += __builtin_popcountll(dirty);
	}
	EXPECT_EQ(ARRAY_SIZE(written), bits);
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, MANY * PAGE));
	munmap((char *)bitmap - PAGE + 4, 17 * PAGE);
	munmap(memory, MANY * PAGE);
}

/* Who asks for some pages learns of those beside them when it asks for those */
TEST_F(dma, neighbours_are_not_forgotten)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, dirty;
	unsigned int i;

	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, container_map(container, self->other,
					   iova + i * PAGE, PAGE));
	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, dma(d, iova + i * PAGE, 0, PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_get(container, iova + PAGE, 1, &dirty));
	EXPECT_EQ(1, dirty);
	ASSERT_EQ(0, dirty_get(container, iova, 3, &dirty));
	EXPECT_EQ(5, dirty);
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, 3 * PAGE));
}

#define FAR		(8 * PAGE)	/* as a page of a bitmap has bits */

/* Its mappings may be far apart and have come in any order, the memory is fresh */
TEST_F(dma, mappings_far_apart_are_told)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, *bitmap;
	int i;

	bitmap = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, bitmap);
	for (i = 4; i >= 0; i--)
		ASSERT_EQ(0, container_map(container, self->other,
					   iova + i * FAR * PAGE, PAGE));
	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, dma(d, iova + i * FAR * PAGE, 0, PAGE,
				 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_get_into(container, iova, 4 * FAR + 1, bitmap));
	for (i = 0; i < 5; i++)
		EXPECT_EQ(1, bitmap[i * FAR / 64]);
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, (4 * FAR + 1) * PAGE));
	munmap(bitmap, 5 * PAGE);
}

/*
 * What a write has got at is known to be dirty, though it fails at what comes
 * behind: memory that its owner may not access, or that is gone.
 */
TEST_F(dma, failed_part_way_is_dirty)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, dirty;
	char *memory = page_alloc(4 * PAGE), *seen = malloc(2 * PAGE);
	size_t start = 100, there = 2 * PAGE - start;
	unsigned int how;
	bool written;

	ASSERT_NE(NULL, memory);
	ASSERT_NE(NULL, seen);
	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, scratch_read(d, 0, seen, 2 * PAGE));
	ASSERT_EQ(0, container_map(container, memory, iova, 4 * PAGE));
	ASSERT_EQ(0, dirty_start(container));
	for (how = 0; how < 2; how++) {
		TH_LOG("%s", how ? "gone" : "no access");
		memset(memory, 0x11, 2 * PAGE);
		ASSERT_EQ(0, dirty_get(container, iova, 4, &dirty));
		ASSERT_EQ(0, how ? munmap(memory + 2 * PAGE, 2 * PAGE) :
			  mprotect(memory + 2 * PAGE, 2 * PAGE, PROT_NONE));
		EXPECT_EQ(-EFAULT, dma(d, iova + start, 0, 3 * PAGE,
				       self->path | MSCRATCH_DMA_TO_GUEST));
		/* Pages are pinned before any of them is written to */
		written = !memcmp(memory + start, seen, there);
		EXPECT_EQ(!!self->path, written);
		EXPECT_EQ(!written, memory[start] == 0x11);
		ASSERT_EQ(0, dirty_get(container, iova, 4, &dirty));
		if (written)
			EXPECT_EQ(3, dirty);
		EXPECT_EQ(0, dirty >> 2);

		/* Nothing was */
		EXPECT_EQ(-EFAULT, dma(d, iova + 2 * PAGE, 0, PAGE,
				       self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, dirty_get(container, iova, 4, &dirty));
		EXPECT_EQ(0, dirty);
	}
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, 4 * PAGE));
	munmap(memory, 2 * PAGE);
	free(seen);
}

/*
 * Memory that goes away while the device knows its address.  Whether an unmap
 * meets a page that the device has pinned is chance here, it seldom does;
 * vfio_unmap_test has a driver that holds one.
 */
TEST_F(dma, memory_is_unmapped)
{
	struct dev *d = &self->p.a;
	unsigned int i;

	for (i = 0; i < 20; i++) {
		/* The last round left there what it had read from the guest. */
		ASSERT_EQ(0, scratch_fill(d, 1));
		memset(self->guest, 0, GUEST);
		ASSERT_EQ(0, dma_start(d, IOVA, 0, GUEST, self->path |
				       MSCRATCH_DMA_TO_GUEST));
		/* In every other round, once it is at work */
		while (i % 2 && !__atomic_load_n((__u64 *)self->guest,
						 __ATOMIC_RELAXED))
			sched_yield();
		EXPECT_EQ(0, container_unmap(d->u.container, IOVA, GUEST));
		dma_wait(d);
		EXPECT_GT(0, dma(d, IOVA, 0, PAGE, self->path));
		ASSERT_EQ(0, container_map(d->u.container, self->guest, IOVA,
					   GUEST));
		EXPECT_EQ(0, dma(d, IOVA, 0, GUEST, self->path));
	}
}

/*
 * Memory of all kinds
 */

static int map_for(const struct dev *d, void *vaddr, __u64 iova, size_t size,
		   __u32 flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = flags,
		.vaddr = (uintptr_t)vaddr,
		.iova = iova,
		.size = size,
	};

	return ioctl(d->u.container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

/* What may only be read is not written to, and the other way round */
TEST_F(dma, permissions)
{
	struct dev *d = &self->p.a;
	__u64 iova = IOVA + 2 * GUEST;
	char *memory = page_alloc(2 * PAGE), seen[PAGE];

	ASSERT_NE(NULL, memory);
	memset(memory, 0x11, 2 * PAGE);
	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, map_for(d, memory, iova, PAGE, VFIO_DMA_MAP_FLAG_READ));
	EXPECT_EQ(-EPERM, dma(d, iova, 0, PAGE,
			      self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(0x11, memory[0]);
	EXPECT_EQ(0, memcmp(memory, memory + PAGE, PAGE));
	EXPECT_EQ(0, dma(d, iova, 0, PAGE, self->path));
	ASSERT_EQ(0, scratch_read(d, 0, seen, PAGE));
	EXPECT_EQ(0, memcmp(memory, seen, PAGE));
	ASSERT_EQ(0, container_unmap(d->u.container, iova, PAGE));

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, scratch_read(d, 0, seen, PAGE));
	ASSERT_EQ(0, map_for(d, memory, iova, PAGE, VFIO_DMA_MAP_FLAG_WRITE));
	EXPECT_EQ(-EPERM, dma(d, iova, 0, PAGE, self->path));
	ASSERT_EQ(0, scratch_read(d, 0, memory + PAGE, PAGE));
	EXPECT_EQ(0, memcmp(memory + PAGE, seen, PAGE));
	/* type1 has vfio_dma_rw() read what it may write */
	EXPECT_EQ(self->path ? -EPERM : 0,
		  dma(d, iova, 0, PAGE, self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(!self->path, !memcmp(memory, seen, PAGE));
	ASSERT_EQ(0, container_unmap(d->u.container, iova, PAGE));
	munmap(memory, 2 * PAGE);
}

static int lock_any_memory(bool may)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return -errno;
	if (may)
		data[0].effective |= 1U << CAP_IPC_LOCK;
	else
		data[0].effective &= ~(1U << CAP_IPC_LOCK);

	return syscall(SYS_capset, &header, data) ? -errno : 0;
}

/*
 * The last of the addresses.  What lies up to there is unmapped, if that is what is
 * asked for, and nothing can be mapped that nobody would find there.
 */
TEST_F(dma, end_of_the_addresses)
{
	const __u64 half = 1ULL << 63, last = 0 - PAGE;
	struct dev *d = &self->p.a;
	int container = d->u.container;

	ASSERT_EQ(0, container_map(container, self->other, half + IOVA, PAGE));
	EXPECT_EQ(0, dma(d, half + IOVA, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(0, container_unmap(container, half, half));
	EXPECT_GT(0, dma(d, half + IOVA, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(0, container_map(container, self->other, half + IOVA, PAGE));
	EXPECT_EQ(0, container_unmap(container, half + IOVA, PAGE));

	EXPECT_EQ(-EINVAL, container_map(container, self->other, last, PAGE));
	EXPECT_EQ(-EINVAL, container_map(container, self->other, last - PAGE,
					 2 * PAGE));
	EXPECT_EQ(-EINVAL, container_map(container, self->other, PAGE, last));
	ASSERT_EQ(0, container_map(container, self->other, last - PAGE, PAGE));
	ASSERT_EQ(0, container_map(container, self->guest, 0, PAGE));
	EXPECT_EQ(-EEXIST, container_map(container, self->other, last - PAGE,
					 PAGE));
	EXPECT_EQ(0, dma(d, last - PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_GT(0, dma(d, last - 1, 0, 2, self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_GT(0, dma(d, last, 0, PAGE, self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(0, container_unmap(container, last - PAGE, 2 * PAGE));
	EXPECT_GT(0, dma(d, last - PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, container_unmap(container, 0, PAGE));
}

/* A program may call memory what it has no access to itself */
TEST_F(dma, memory_of_the_kernel)
{
	static const __u64 of_the_kernel[] = {
		0xffffffff81000000,	/* its text */
		0xffff888000000000,	/* all memory */
		0xffffffffff600000,	/* can be called, see vsyscall */
		0xfffffffffffff000,
		0x0000800000000000,	/* not an address */
		0x00007ffffffff000,	/* no program has this page */
	};
	struct dev *d = &self->p.a;
	__u64 iova = IOVA + 2 * GUEST;
	char seen[PAGE];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(of_the_kernel); i++) {
		TH_LOG("%llx", of_the_kernel[i]);
		ASSERT_EQ(0, scratch_fill(d, 1));
		ASSERT_EQ(0, container_map(d->u.container,
					   (void *)of_the_kernel[i], iova,
					   PAGE));
		EXPECT_EQ(-EFAULT, dma(d, iova, 0, PAGE, self->path));
		ASSERT_EQ(0, scratch_read(d, 0, seen, PAGE));
		if (self->path)
			EXPECT_EQ(true, all_zero(seen, PAGE));
		EXPECT_EQ(-EFAULT, dma(d, iova, 0, PAGE,
				       self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, container_unmap(d->u.container, iova, PAGE));
	}
}

/* A file that becomes shorter, and longer again */
TEST_F(dma, file_is_truncated)
{
	int fd = syscall(SYS_memfd_create, "guest", 0);
	struct dev *d = &self->p.a;
	int container = d->u.container;
	__u64 iova = IOVA + 2 * GUEST, dirty;
	char *memory, seen[4 * PAGE];

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 4 * PAGE));
	memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		      0);
	ASSERT_NE(MAP_FAILED, memory);
	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, scratch_read(d, 0, seen, 4 * PAGE));
	ASSERT_EQ(0, container_map(container, memory, iova, 4 * PAGE));
	ASSERT_EQ(0, dirty_start(container));
	EXPECT_EQ(0, dma(d, iova, 0, 4 * PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(0, memcmp(memory, seen, 4 * PAGE));
	ASSERT_EQ(0, dirty_get(container, iova, 4, &dirty));
	EXPECT_EQ(0xf, dirty);

	ASSERT_EQ(0, ftruncate(fd, 2 * PAGE));
	EXPECT_EQ(-EFAULT, dma(d, iova + 2 * PAGE, 0, PAGE,
			       self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(-EFAULT, dma(d, iova + 2 * PAGE, 0, PAGE, self->path));
	ASSERT_EQ(0, scratch_fill(d, 1));
	EXPECT_EQ(0, dma(d, iova + PAGE, 0, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, dirty_get(container, iova, 4, &dirty));
	EXPECT_EQ(2, dirty);

	ASSERT_EQ(0, ftruncate(fd, 4 * PAGE));
	EXPECT_EQ(true, all_zero(memory + 2 * PAGE, 2 * PAGE));
	EXPECT_EQ(0, dma(d, iova, 0, 4 * PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(0, memcmp(memory, seen, 4 * PAGE));
	ASSERT_EQ(0, dirty_get(container, iova, 4, &dirty));
	EXPECT_EQ(0xf, dirty);
	ASSERT_EQ(0, dirty_stop(container));
	ASSERT_EQ(0, container_unmap(container, iova, 4 * PAGE));
	munmap(memory, 4 * PAGE);
	close(fd);
}

/* Pages that are pinned count, and none of them is kept when there are too many */
TEST_F(dma, locked_memory_is_limited)
{
	struct rlimit few = { .rlim_cur = 4 * PAGE, .rlim_max = RLIM_INFINITY };
	struct dev *d = &self->p.a;
	__u64 iova = IOVA + 2 * GUEST;
	char *memory = page_alloc(GUEST);
	struct rlimit before;
	unsigned int i;

	ASSERT_NE(NULL, memory);
	ASSERT_EQ(0, getrlimit(RLIMIT_MEMLOCK, &before));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &few));
	ASSERT_EQ(0, lock_any_memory(false));
	ASSERT_EQ(0, container_map(d->u.container, memory, iova, GUEST));
	for (i = 0; i < 5; i++) {
		/* One after the other they are never more than one */
		EXPECT_EQ(0, dma(d, iova, 0, 3 * PAGE, self->path));
		EXPECT_EQ(self->path ? 0 : -ENOMEM,
			  dma(d, iova, 0, GUEST, self->path));
	}
	ASSERT_EQ(0, container_unmap(d->u.container, iova, GUEST));
	ASSERT_EQ(0, lock_any_memory(true));
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &before));
	munmap(memory, GUEST);
}

/* What was never written is one page for all, which must stay as it is */
TEST_F(dma, page_of_zeroes)
{
	struct dev *d = &self->p.a;
	__u64 iova = IOVA + 2 * GUEST;
	char *memory, seen[2 * PAGE];

	ASSERT_EQ(0, scratch_fill(d, 1));
	memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_EQ(true, all_zero(memory, 2 * PAGE));
	ASSERT_EQ(0, container_map(d->u.container, memory, iova, 2 * PAGE));
	EXPECT_EQ(0, dma(d, iova, 0, 2 * PAGE, self->path));
	ASSERT_EQ(0, scratch_read(d, 0, seen, 2 * PAGE));
	EXPECT_EQ(true, all_zero(seen, 2 * PAGE));
	/* The first of them becomes one of its own */
	EXPECT_EQ(0, dma(d, iova, 4 * PAGE, PAGE,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, scratch_read(d, 4 * PAGE, seen, PAGE));
	EXPECT_EQ(0, memcmp(memory, seen, PAGE));
	EXPECT_EQ(true, all_zero(memory + PAGE, PAGE));
	ASSERT_EQ(0, container_unmap(d->u.container, iova, 2 * PAGE));
	munmap(memory, 2 * PAGE);
}

/* However many pages nobody has touched yet */
TEST_F(dma, fresh_pages)
{
	struct dev *d = &self->p.a;
	__u64 iova = IOVA + 2 * GUEST;
	unsigned int write;
	char *memory, *seen = malloc(GUEST);

	ASSERT_NE(NULL, seen);
	for (write = 0; write < 2; write++) {
		ASSERT_EQ(0, scratch_fill(d, 1));
		memory = mmap(NULL, GUEST, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, memory);
		ASSERT_EQ(0, container_map(d->u.container, memory, iova, GUEST));
		EXPECT_EQ(0, dma(d, iova, 0, GUEST, self->path |
				 (write ? MSCRATCH_DMA_TO_GUEST : 0)));
		ASSERT_EQ(0, scratch_read(d, 0, seen, GUEST));
		EXPECT_EQ(0, memcmp(memory, seen, GUEST));
		EXPECT_EQ(!write, all_zero(memory, GUEST));
		ASSERT_EQ(0, container_unmap(d->u.container, iova, GUEST));
		munmap(memory, GUEST);
	}
	free(seen);
}

/*
 * The device's own memory, by an address of the guest: what cannot be pinned is
 * an error, and what is written is sent
 */
TEST_F(dma, own_memory)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	char *bar, *x = malloc(2 << 20), *y = x + (1 << 20);
	__u64 iova = IOVA + 2 * GUEST;
	struct stream s = {};
	int want = self->path ? 0 : -EFAULT;

	ASSERT_NE(NULL, x);
	ASSERT_EQ(0, scratch_fill(a, 1));
	bar = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED,
		   a->u.device, a->memory.offset);
	ASSERT_NE(MAP_FAILED, bar);
	ASSERT_EQ(0, container_map(a->u.container, bar, iova, 1 << 20));
	ASSERT_EQ(0, state_set(a, PRE_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));

	bar[8 * PAGE] = 1;
	EXPECT_EQ(want, dma(a, iova + 8 * PAGE, 0, PAGE,
			    self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(!want, !memcmp(bar, bar + 8 * PAGE, PAGE));
	EXPECT_EQ(want, dma(a, iova + 8 * PAGE, 20 * PAGE, PAGE, self->path));
	EXPECT_EQ(!want, !memcmp(bar, bar + 20 * PAGE, PAGE));

	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(a, STOP));
	ASSERT_EQ(0, resume(b, &s, BY_MMAP, 0));
	ASSERT_EQ(0, scratch_read(a, 0, x, 1 << 20));
	ASSERT_EQ(0, scratch_read(b, 0, y, 1 << 20));
	EXPECT_EQ(0, memcmp(x, y, 1 << 20));
	ASSERT_EQ(0, container_unmap(a->u.container, iova, 1 << 20));
	munmap(bar, 1 << 20);
	stream_free(&s);
	free(x);
}

/*
 * Memory that others change meanwhile
 */

#define ROUNDS	100U

/* What two threads do while the device has the memory */
struct company {
	struct dev *d;
	char *memory;
	__u64 iova;
	__u64 dirty;		/* all that the second was told */
	int error;
	bool leave;
};

static bool stays(struct company *c)
{
	return !__atomic_load_n(&c->leave, __ATOMIC_SEQ_CST);
}

/* Pages are taken away, to come back empty */
static void *take_pages(void *arg)
{
	struct company *c = arg;
	__u64 seed = 1;

	while (stays(c))
		if (madvise(c->memory + random_next(&seed) % GUEST_PAGES * PAGE,
			    PAGE, MADV_DONTNEED))
			c->error = -errno;

	return NULL;
}

/* Others are mapped and unmapped, and the dirty pages looked at */
static void *look_on(void *arg)
{
	struct company *c = arg;
	int container = c->d->u.container;
	__u64 beside = c->iova + GUEST, dirty = 0;

	while (stays(c)) {
		c->error = c->error ?: dirty_get(container, c->iova,
						 GUEST_PAGES, &dirty);
		c->dirty |= dirty;
		c->error = c->error ?: container_map(container, c->memory,
						     beside, GUEST);
		c->error = c->error ?: container_unmap(container, beside, GUEST);
	}

	return NULL;
}

/* However it goes, what was written is dirty and nothing else */
TEST_F(dma, pages_come_and_go)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	struct company c = { .d = d, .iova = IOVA + 2 * GUEST };
	unsigned int i, j, failed = 0;
	__u64 seed = 7, dirty, written;
	pthread_t thread[2];

	c.memory = page_alloc(GUEST);
	ASSERT_NE(NULL, c.memory);
	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, container_map(container, c.memory, c.iova, GUEST));
	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < ROUNDS; i++) {
		__u64 tried = 0;

		ASSERT_EQ(0, dirty_get(container, c.iova, GUEST_PAGES, &dirty));
		c.dirty = 0;
		c.leave = false;
		written = 0;
		ASSERT_EQ(0, pthread_create(&thread[0], NULL, take_pages, &c));
		ASSERT_EQ(0, pthread_create(&thread[1], NULL, look_on, &c));
		for (j = 0; j < 8; j++) {
			__u64 at = random_next(&seed) % (GUEST_PAGES - 4);
			int ret = dma(d, c.iova + at * PAGE + 1, 0, 3 * PAGE,
				      self->path | MSCRATCH_DMA_TO_GUEST);

			tried |= 0xfULL << at;
			if (!ret)
				written |= 0xfULL << at;
			else
				failed++;
			EXPECT_EQ(true, !ret || ret == -EFAULT);
		}
		__atomic_store_n(&c.leave, true, __ATOMIC_SEQ_CST);
		pthread_join(thread[0], NULL);
		pthread_join(thread[1], NULL);
		ASSERT_EQ(0, c.error);
		ASSERT_EQ(0, dirty_get(container, c.iova, GUEST_PAGES, &dirty));
		c.dirty |= dirty;
		EXPECT_EQ(0, written & ~c.dirty);
		EXPECT_EQ(0, c.dirty & ~tried);
	}
	TH_LOG("%u of %u failed", failed, 8 * ROUNDS);
	EXPECT_GE(ROUNDS, failed);
	ASSERT_EQ(0, dirty_stop(container));
	EXPECT_EQ(0, dma(d, c.iova, 0, GUEST,
			 self->path | MSCRATCH_DMA_TO_GUEST));
	ASSERT_EQ(0, container_unmap(container, c.iova, GUEST));
	munmap(c.memory, GUEST);
}

/* A program that is killed while the device has its memory, and afterwards */
TEST_F(dma, owner_is_killed)
{
	struct dev *d = &self->p.a;
	int container = d->u.container, status;
	int ready[2], want = self->path ? -EPERM : -ENODEV;
	unsigned int i;
	char byte = 1;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	for (i = 0; i < 20; i++) {
		__u64 iova = IOVA + (2 + i) * GUEST;

		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			char *memory = page_alloc(GUEST);

			if (!memory ||
			    container_map(container, memory, iova, GUEST) ||
			    write(ready[1], &byte, 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		ASSERT_EQ(1, read(ready[0], &byte, 1));
		EXPECT_EQ(0, dma(d, iova, 0, GUEST,
				 self->path | MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, dma_start(d, iova, 0, GUEST, self->path));
		ASSERT_EQ(0, kill(pid, SIGKILL));
		dma_wait(d);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(want, dma(d, iova, 0, PAGE, self->path));
		EXPECT_EQ(want, dma(d, iova, 0, PAGE,
				    self->path | MSCRATCH_DMA_TO_GUEST));
	}
	close(ready[0]);
	close(ready[1]);
	EXPECT_EQ(0, dma(d, IOVA, 0, GUEST, self->path));
}

/* A container of the first kind: type1 pins no pages for it, but reads and writes */
TEST_F(dma, container_of_type1)
{
	int want = self->path ? 0 : -EACCES;
	struct dev *d = &self->p.a;

	dev_close(d);
	d->u.container = container_open();
	ASSERT_LE(0, d->u.container);
	d->u.group = group_open(d->group);
	ASSERT_LE(0, d->u.group);
	ASSERT_EQ(0, group_set_container(d->u.group, d->u.container));
	ASSERT_EQ(0, container_set_iommu(d->u.container, VFIO_TYPE1_IOMMU));
	d->u.device = group_device(d->u.group, d->name);
	ASSERT_LE(0, d->u.device);
	ASSERT_EQ(0, dev_map(d));

	ASSERT_EQ(0, container_map(d->u.container, self->guest, IOVA, GUEST));
	ASSERT_EQ(0, scratch_fill(d, 1));
	EXPECT_EQ(want, dma(d, IOVA, 0, GUEST,
			    self->path | MSCRATCH_DMA_TO_GUEST));
	EXPECT_EQ(want, dma(d, IOVA, GUEST, GUEST, self->path));
	/* Its first page stands for all of a mapping */
	EXPECT_EQ(0, container_unmap(d->u.container, IOVA, PAGE));
	EXPECT_GT(0, dma(d, IOVA + PAGE, 0, PAGE, self->path));
	EXPECT_EQ(0, migrates(d, &self->p.b, 2));
	ASSERT_EQ(0, container_map(d->u.container, self->guest, IOVA, GUEST));
	EXPECT_EQ(want, dma(d, IOVA, 0, GUEST, self->path));
}

/* A reset, or the end of its user, ends a DMA */
TEST_F(dma, ended_by_reset_and_close)
{
	struct dev *d = &self->p.a;
	unsigned int i;

	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, dma_start(d, IOVA, 0, GUEST, self->path |
				       MSCRATCH_DMA_TO_GUEST));
		ASSERT_EQ(0, dev_reset(d));
		EXPECT_EQ(MSCRATCH_STATUS_IDLE,
			  reg_get32(d, MSCRATCH_REG_DMA_STATUS));
	}
	ASSERT_EQ(0, dma_start(d, IOVA, 0, GUEST, self->path));
	dev_close(d);
	ASSERT_EQ(0, dev_open(d));
	ASSERT_EQ(0, dev_map(d));
	EXPECT_STREQ("", not_pristine(d));
	ASSERT_EQ(0, container_map(d->u.container, self->guest, IOVA, GUEST));
	EXPECT_EQ(0, dma(d, IOVA, 0, GUEST, self->path));
}

/*
 * Devices of each type
 */

FIXTURE(type)
{
	struct pair p;
};

FIXTURE_VARIANT(type)
{
	const char *name;
	size_t size;
};

FIXTURE_VARIANT_ADD(type, 64k) { .name = "mscratch-64k", .size = 64 << 10 };
FIXTURE_VARIANT_ADD(type, 1m) { .name = "mscratch-1m", .size = 1 << 20 };
FIXTURE_VARIANT_ADD(type, 64m) { .name = "mscratch-64m", .size = 64 << 20 };

FIXTURE_SETUP(type)
{
	ASSERT_EQ(0, pair_open(&self->p, variant->name, 1 << 20));
}

FIXTURE_TEARDOWN(type)
{
	EXPECT_EQ(0, pair_close(&self->p));
}

TEST_F(type, migration)
{
	struct dev *d = &self->p.a;

	EXPECT_EQ(variant->size, d->memory.size);
	EXPECT_EQ(variant->size, reg_get64(d, MSCRATCH_REG_SIZE));
	EXPECT_EQ(MSCRATCH_MAGIC, reg_get32(d, MSCRATCH_REG_MAGIC));
	EXPECT_EQ(MSCRATCH_VERSION, reg_get32(d, MSCRATCH_REG_VERSION));
	EXPECT_EQ(0, migrates(d, &self->p.b, 1));
	EXPECT_EQ(0, migrates(&self->p.b, d, 2));
}

TEST_HARNESS_MAIN
