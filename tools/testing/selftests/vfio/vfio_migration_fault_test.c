// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults that were found by reading, a case for each
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>

#include "../kselftest_harness.h"
#include "vfio_migration_v2_lib.h"
#include "mscratch.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define TYPE		"mscratch-1m"
#define SCRATCH		0x100000UL
#define WINDOW		SCRATCH
#define IOVA		0x10000000ULL
#define CONFIG		256

FIXTURE(fault)
{
	struct pair p;
	struct stream s;
};

FIXTURE_SETUP(fault)
{
	ASSERT_EQ(0, pair_open(&self->p, TYPE, WINDOW));
	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
}

FIXTURE_TEARDOWN(fault)
{
	EXPECT_EQ(0, pair_close(&self->p));
	stream_free(&self->s);
}

/* A device without bus mastering does no DMA */
TEST_F(fault, dma_needs_bus_mastering)
{
	struct dev *d = &self->p.a;
	char *guest = page_alloc(SCRATCH);
	unsigned int i, path, ended = 0;

	ASSERT_NE(NULL, guest);
	ASSERT_EQ(0, container_map(d->u.container, guest, IOVA, SCRATCH));
	for (path = 0; path < 2; path++) {
		__u32 control = MSCRATCH_DMA_TO_GUEST |
				(path ? MSCRATCH_DMA_RW : 0);

		memset(guest, 0, SCRATCH);
		ASSERT_EQ(0, dma(d, IOVA, 0, PAGE, control));
		ASSERT_EQ(false, all_zero(guest, PAGE));
		memset(guest, 0, SCRATCH);
		ASSERT_EQ(0, bus_master(d, false));
		ASSERT_EQ(0, reg_set32(d, MSCRATCH_REG_DMA_CONTROL,
				       control | MSCRATCH_DMA_START));
		EXPECT_EQ(MSCRATCH_STATUS_ERROR, dma_wait(d));
		EXPECT_EQ(EACCES, reg_get32(d, MSCRATCH_REG_DMA_ERROR));
		EXPECT_EQ(true, all_zero(guest, SCRATCH));

		/* Taken away while one is under way */
		for (i = 0; i < 100; i++) {
			ASSERT_EQ(0, dma_start(d, IOVA, 0, SCRATCH, control));
			ASSERT_EQ(0, bus_master(d, false));
			if (dma_wait(d) == MSCRATCH_STATUS_DONE)
				continue;
			ASSERT_EQ(EACCES, reg_get32(d, MSCRATCH_REG_DMA_ERROR));
			ended++;
		}
	}
	EXPECT_LT(0, ended);
	ASSERT_EQ(0, container_unmap(d->u.container, IOVA, SCRATCH));
}

/*
 * Pages of the device do not go into a pipe, from which they could be read when
 * the next user has the device
 */
TEST_F(fault, pages_are_not_kept)
{
	struct dev *d = &self->p.b;
	char *bar, *maps[2], *page = malloc(PAGE);
	unsigned int i;
	ssize_t n = 0;

	bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->u.device,
		   d->memory.offset);
	ASSERT_NE(MAP_FAILED, bar);
	bar[0] = 1;
	maps[0] = bar;
	maps[1] = d->map + d->mig.area[0].offset;
	for (i = 0; n <= 0 && i < 2; i++) {
		struct iovec iov = { .iov_base = maps[i], .iov_len = PAGE };
		int ends[2];

		ASSERT_EQ(1, maps[i][0]);
		ASSERT_EQ(0, pipe(ends));
		n = vmsplice(ends[1], &iov, 1, 0);
		EXPECT_EQ(-1, n);
		if (n < 0)
			EXPECT_EQ(EFAULT, errno);
		if (n > 0) {
			/* So this is what it leads to */
			munmap(bar, PAGE);
			dev_close(d);
			ASSERT_EQ(0, dev_open(d));
			ASSERT_EQ(0, scratch_write(d, 0, "secret", 7));
			ASSERT_EQ(PAGE, read(ends[0], page, PAGE));
			EXPECT_STRNE("secret", page);
			ASSERT_EQ(0, dev_map(d));
		}
		close(ends[0]);
		close(ends[1]);
	}
	munmap(bar, PAGE);
	free(page);
}

/* Scattered pages share chunks, and long runs are read where they are */
TEST_F(fault, scattered_pages_share_chunks)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	char *want = malloc(2 * SCRATCH);
	struct chunk c;
	size_t at;

	ASSERT_NE(NULL, want);
	ASSERT_EQ(0, state_set(a, PRE_COPY));
	ASSERT_EQ(0, stream_save(a, &self->s, BY_MMAP));
	for (at = 0; at < SCRATCH; at += 2 * PAGE)
		ASSERT_EQ(0, scratch_write(a, at, "dirty", 6));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	self->s.chunks = 0;
	ASSERT_EQ(0, stream_save(a, &self->s, BY_MMAP));
	EXPECT_GE(2, self->s.chunks);
	ASSERT_EQ(0, state_set(a, STOP));
	ASSERT_EQ(0, resume(b, &self->s, BY_MMAP, WINDOW));
	ASSERT_EQ(0, scratch_read(a, 0, want, SCRATCH));
	ASSERT_EQ(0, scratch_read(b, 0, want + SCRATCH, SCRATCH));
	EXPECT_EQ(0, memcmp(want, want + SCRATCH, SCRATCH));

	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(1, chunk_next(a, &c));
	ASSERT_EQ(1, chunk_next(a, &c));
	EXPECT_EQ(a->mig.area[0].offset, c.offset);
	EXPECT_EQ(SCRATCH, c.size);
	ASSERT_EQ(0, state_set(a, RUNNING));
	free(want);
}

/* A destination that is not started yet shows the device that it will be */
TEST_F(fault, paused_destination_shows_registers)
{
	struct dev *a = &self->p.a, *b = &self->p.b;

	ASSERT_EQ(0, reg_set64(a, MSCRATCH_REG_DMA_IOVA, 0x1234567000ULL));
	ASSERT_EQ(0, save(a, &self->s, BY_MMAP));
	ASSERT_EQ(0, state_set(b, RESUMING));
	ASSERT_EQ(0, stream_load(b, &self->s, BY_MMAP, 0));
	EXPECT_EQ(0x1234567000ULL, reg_get64(b, MSCRATCH_REG_DMA_IOVA));
	EXPECT_EQ(0, scratch_check(b, 1));
	EXPECT_EQ(RESUMING, state_get(b));
	ASSERT_EQ(0, state_set(b, RUNNING));
	EXPECT_EQ(0x1234567000ULL, reg_get64(b, MSCRATCH_REG_DMA_IOVA));
}

/*
 * What a user leaves
 */

static int config_get(const struct dev *d, char *config)
{
	return pread(d->u.device, config, CONFIG, d->config.offset) == CONFIG ?
	       0 : -EIO;
}

/* Something in each place that keeps something */
static int leave(const struct dev *d, int *interrupt, int *stream)
{
	char config[CONFIG];
	char *bar;
	int ret;

	memset(config, 0xff, sizeof(config));
	if (pwrite(d->u.device, config, CONFIG, d->config.offset) != CONFIG)
		return -EIO;
	*interrupt = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ret = irq_connect(d, *interrupt);
	ret = ret ?: scratch_fill(d, 3);
	ret = ret ?: dma(d, IOVA, 0, 0, 0) == -EINVAL ? 0 : -EIO;
	ret = ret ?: dma_start(d, IOVA, PAGE, SCRATCH, MSCRATCH_DMA_RW);
	bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->u.device,
		   d->memory.offset + 7 * PAGE);
	if (bar == MAP_FAILED)
		return -errno;
	bar[0] = 1;
	munmap(bar, PAGE);
	ret = ret ?: v2_set(d, V2_RUNNING_SAVING, stream);

	return ret ?: v2_read(*stream, config, 100) == 100 ? 0 : -EIO;
}

TEST_F(fault, nothing_is_left_for_the_next_user)
{
	struct dev *d = &self->p.b;
	char before[CONFIG], after[CONFIG], buf[8];
	struct stream drained = {};
	int interrupt, stream, fd, how;
	__u64 count, size;

	ASSERT_EQ(0, dev_reset(d));
	ASSERT_EQ(0, config_get(d, before));
	ASSERT_EQ(0, v2_save(&self->p.a, &self->s, WINDOW));
	for (how = 0; how < 3; how++) {
		TH_LOG("way %d", how);
		ASSERT_EQ(0, leave(d, &interrupt, &stream));
		ASSERT_EQ(0, config_get(d, after));
		ASSERT_NE(0, memcmp(before, after, CONFIG));
		switch (how) {
		case 0:
			dev_close(d);
			ASSERT_EQ(0, dev_open(d));
			ASSERT_EQ(0, dev_map(d));
			break;
		case 1:
			ASSERT_EQ(0, dev_reset(d));
			break;
		case 2:
			/* A load that fails, and the close after it */
			ASSERT_EQ(0, v2_go(d, V2_RUNNING));
			ASSERT_EQ(0, v2_set(d, V2_RESUMING, &fd));
			ASSERT_EQ(0, v2_fill(fd, self->s.data,
					     self->s.size / 2, WINDOW));
			EXPECT_EQ(-EINVAL, v2_go(d, V2_RUNNING));
			close(fd);
			dev_close(d);
			ASSERT_EQ(0, dev_open(d));
			ASSERT_EQ(0, dev_map(d));
			break;
		}
		EXPECT_STREQ("", not_pristine(d));
		ASSERT_EQ(0, config_get(d, after));
		EXPECT_EQ(0, memcmp(before, after, CONFIG));
		EXPECT_EQ(-ENODEV, v2_read(stream, buf, sizeof(buf)));
		/* A reset leaves the interrupt with the user who goes on */
		EXPECT_EQ(0, irq_raise(d));
		EXPECT_EQ(how == 1 ? (ssize_t)sizeof(count) : -1,
			  read(interrupt, &count, sizeof(count)));
		EXPECT_EQ(0, irq_connect(d, -1));
		/* No page is taken for one that is written unseen */
		close(stream);
		ASSERT_EQ(0, v2_set(d, V2_RUNNING_SAVING, &stream));
		ASSERT_EQ(1, v2_drain(stream, &drained, WINDOW));
		stream_free(&drained);
		ASSERT_EQ(0, v2_data_size(d, &size));
		EXPECT_GT(PAGE, size);
		ASSERT_EQ(0, v2_go(d, V2_RUNNING));
		close(stream);
		close(interrupt);
	}
}

/* A module whose device is open stays, and its unloading does not hang */
TEST_F(fault, module_stays_while_it_is_used)
{
	int status = 0, i;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		syscall(SYS_delete_module, "mscratch", O_NONBLOCK);
		_exit(errno == EAGAIN ? 0 : 1);
	}
	for (i = 0; i < 100 && waitpid(pid, &status, WNOHANG) != pid; i++)
		usleep(100000);
	EXPECT_GT(100, i);
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, migrates(&self->p.a, &self->p.b, 4));
}

TEST_HARNESS_MAIN
