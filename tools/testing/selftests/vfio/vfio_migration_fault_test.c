// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults that were found by reading, a case for each
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>

#include "../kselftest_harness.h"
#include "vfio_migration_v2_lib.h"
#include "mscratch.h"
#include "vfio_test_migration.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define TYPE		"mscratch-1m"
#define SCRATCH		0x100000UL
#define WINDOW		SCRATCH
#define IOVA		0x10000000ULL
#define ELSEWHERE	0x20000000ULL
#define CONFIG		256
/* One for each container with a backend */
#define TYPE1_REFERENCES "/sys/module/vfio_iommu_type1/refcnt"

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
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		syscall(SYS_delete_module, "mscratch", O_NONBLOCK);
		_exit(errno == EAGAIN ? 0 : 1);
	}
	EXPECT_EQ(true, ends(pid, 0));
	EXPECT_EQ(0, migrates(&self->p.a, &self->p.b, 4));
}

/* A device that is taken away while it is open works until it is closed */
TEST_F(fault, removed_while_it_is_open)
{
	struct dev *d = &self->p.a;
	char path[128];
	pid_t pid;

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove", d->name);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* What it has of the device would keep it open */
		close_all_but(-1);
		munmap(d->map, d->mig.size);
		_exit(dev_remove(d) ? 1 : 0);
	}
	/* The file goes when the write to it was accepted */
	while (!access(path, F_OK))
		sched_yield();
	EXPECT_EQ(0, migrates(d, &self->p.b, 4));
	EXPECT_EQ(0, v2_go(d, V2_STOPPED));
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	dev_close(d);
	EXPECT_EQ(true, ends(pid, 0));
	/* Another one in its place */
	ASSERT_EQ(0, dev_create(d, TYPE, 0));
	ASSERT_EQ(0, dev_open(d));
	ASSERT_EQ(0, dev_map(d));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

/*
 * A window that changes while it is taken in
 */

struct flip {
	pthread_t thread;
	char *at;
	bool begun;
	bool stop;
};

static void *flip_thread(void *arg)
{
	struct flip *f = arg;
	char was = *f->at;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		__atomic_store_n(f->at, ~was, __ATOMIC_RELAXED);
		__atomic_store_n(f->at, was, __ATOMIC_RELAXED);
		__atomic_store_n(&f->begun, true, __ATOMIC_RELAXED);
	}

	return NULL;
}

/*
 * Whatever the kernel saw of it, the stream is taken or refused as a whole, and
 * the registers are such as there can be
 */
TEST_F(fault, window_flipped_while_it_is_loaded)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	unsigned int i, taken = 0, refused = 0;
	char *window = b->map + window_offset(b);
	struct stream s = {};
	size_t tail;
	int ret;

	/* Small enough for one chunk: the registers, before the last record */
	ASSERT_EQ(0, save(a, &s, BY_MMAP));
	tail = s.size - s.end[s.chunks - 2];
	for (i = 0; i < 400; i++) {
		struct flip f = { .stop = false };

		ASSERT_EQ(0, dev_reset(b));
		ASSERT_EQ(0, state_set(b, RESUMING));
		ASSERT_EQ(0, chunks_load(b, &s, 0, s.chunks - 1));
		memcpy(window, s.data + s.size - tail, tail);
		f.at = window + i % tail;
		ASSERT_EQ(0, pthread_create(&f.thread, NULL, flip_thread, &f));
		while (!__atomic_load_n(&f.begun, __ATOMIC_RELAXED))
			sched_yield();
		ret = size_set(b, tail);
		__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
		pthread_join(f.thread, NULL);
		if (ret) {
			ASSERT_EQ(-EINVAL, ret);
			refused++;
			EXPECT_EQ(-EINVAL, state_set(b, RUNNING));
			EXPECT_EQ(ERROR, state_get(b));
			continue;
		}
		taken++;
		EXPECT_EQ(0, state_set(b, RUNNING));
		EXPECT_EQ(0, scratch_check(b, 1));
		EXPECT_GE(MSCRATCH_STATUS_ERROR,
			  reg_get32(b, MSCRATCH_REG_DMA_STATUS));
		EXPECT_EQ(0, reg_get32(b, MSCRATCH_REG_DMA_CONTROL) &
			     ~(__u32)MSCRATCH_DMA_CONTROL_MASK);
	}
	TH_LOG("%u taken, %u refused", taken, refused);
	EXPECT_LT(0, taken);
	EXPECT_LT(0, refused);
	ASSERT_EQ(0, dev_reset(b));
	EXPECT_EQ(0, migrates(a, b, 6));
	stream_free(&s);
}

/*
 * Waiting for userspace
 */

/* What becomes of a program that reads or writes a page which does not come */
static void access_page(const struct dev *d, int stream, __u64 at, int absent,
			bool write)
{
	long ret;
	char *page;

	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, absent, 0);
	if (page == MAP_FAILED)
		_exit(3);
	if (stream < 0)
		ret = write ? poke(d, at, page, PAGE) : peek(d, at, page, PAGE);
	else
		ret = write ? v2_write(stream, page, PAGE) :
			      v2_read(stream, page, PAGE);
	if (ret != (long)PAGE)
		_exit(ret == -EINVAL ? 1 : 2);
	_exit(!write && all_zero(page, PAGE) ? 2 : 0);
}

/*
 * A program that lets the kernel wait for a page does not keep others from the
 * device: they look at it, open it and close it meanwhile.
 */
TEST_F(fault, nobody_waits_for_a_page)
{
	unsigned int how;
	struct chunk c;
	__u64 value;

	for (how = 0; how < 4; how++) {
		bool write = how & 1;
		struct dev *d = write ? &self->p.b : &self->p.a;
		int stream = -1, status, absent;
		__u64 at = window_offset(d);
		pid_t one, other;

		TH_LOG("way %u", how);
		absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, absent);
		if (how == 0) {
			/* The second one is memory */
			ASSERT_EQ(0, state_set(d, STOP_COPY));
			ASSERT_EQ(1, chunk_next(d, &c));
			ASSERT_EQ(1, chunk_next(d, &c));
			at = c.offset;
		} else if (how == 1) {
			ASSERT_EQ(0, state_set(d, RESUMING));
		} else {
			ASSERT_EQ(0, v2_set(d, write ? V2_RESUMING : V2_SAVING,
					    &stream));
		}
		one = fork();
		ASSERT_LE(0, one);
		if (!one)
			access_page(d, stream, at, absent, write);
		ASSERT_EQ(true, waits_for_page(absent, one));

		other = fork();
		ASSERT_LE(0, other);
		if (!other) {
			int fd = group_device(d->u.group, d->name);

			_exit(fd < 0 || close(fd) || state_get(d) < 0 ||
			      size_get(d, &value));
		}
		EXPECT_EQ(true, ends(other, 0));
		EXPECT_EQ(1, ioctl(absent, VFIO_TEST_MIGRATION_WAITERS));
		EXPECT_EQ(0, ioctl(absent, VFIO_TEST_MIGRATION_GIVE));
		waitpid(other, NULL, 0);

		/* It gets what it wanted, of which zeroes are no stream */
		ASSERT_EQ(one, waitpid(one, &status, 0));
		ASSERT_EQ(true, WIFEXITED(status));
		EXPECT_EQ(how == 3, WEXITSTATUS(status));
		if (stream >= 0)
			close(stream);
		close(absent);
		ASSERT_EQ(0, dev_reset(d));
		ASSERT_EQ(0, scratch_fill(d, 1));
	}
}

/* What is accessed goes on behind the page that had to be waited for */
TEST_F(fault, page_in_the_middle_does_not_come)
{
	unsigned int how;
	struct chunk c;

	for (how = 0; how < 2; how++) {
		struct dev *d = how ? &self->p.b : &self->p.a;
		char *map = d->map + window_offset(d);
		__u64 at = window_offset(d);
		int absent, status;
		char *pages;
		pid_t one;

		TH_LOG("way %u", how);
		absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, absent);
		if (!how) {
			ASSERT_EQ(0, state_set(d, STOP_COPY));
			ASSERT_EQ(1, chunk_next(d, &c));
			ASSERT_EQ(1, chunk_next(d, &c));
			ASSERT_LE(3 * PAGE, c.size);
			at = c.offset;
			map = d->map + at;
		} else {
			ASSERT_EQ(0, state_set(d, RESUMING));
			memset(map, 0xff, 3 * PAGE);
		}
		one = fork();
		ASSERT_LE(0, one);
		if (!one) {
			pages = page_alloc(3 * PAGE);
			if (!pages || mmap(pages + PAGE, PAGE,
					   PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_FIXED, absent,
					   0) == MAP_FAILED)
				_exit(3);
			memset(pages, 0x5a, PAGE);
			memset(pages + 2 * PAGE, 0xa5, PAGE);
			if (how)
				_exit(poke(d, at, pages, 3 * PAGE) != 3 * PAGE);
			if (peek(d, at, pages, 3 * PAGE) != 3 * PAGE)
				_exit(1);
			_exit(memcmp(pages, map, 3 * PAGE) ? 2 : 0);
		}
		ASSERT_EQ(true, waits_for_page(absent, one));
		EXPECT_EQ(0, ioctl(absent, VFIO_TEST_MIGRATION_GIVE));
		ASSERT_EQ(one, waitpid(one, &status, 0));
		EXPECT_EQ(0, status);
		if (how) {
			EXPECT_EQ(0x5a, map[0]);
			EXPECT_EQ(0, memcmp(map, map + 1, PAGE - 1));
			EXPECT_EQ(true, all_zero(map + PAGE, PAGE));
			EXPECT_EQ((char)0xa5, map[2 * PAGE]);
		}
		close(absent);
		ASSERT_EQ(0, dev_reset(d));
		ASSERT_EQ(0, scratch_fill(d, 1));
	}
}

/* A session that ends while a page of the stream is waited for is over */
TEST_F(fault, session_ends_while_a_page_does_not_come)
{
	unsigned int how;

	for (how = 0; how < 2; how++) {
		struct dev *d = how ? &self->p.b : &self->p.a;
		int absent, stream, status;
		pid_t one;
		char *page;

		TH_LOG("way %u", how);
		absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, absent);
		ASSERT_EQ(0, v2_set(d, how ? V2_RESUMING : V2_SAVING, &stream));
		one = fork();
		ASSERT_LE(0, one);
		if (!one) {
			page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				    MAP_SHARED, absent, 0);
			if (page == MAP_FAILED)
				_exit(3);
			_exit((how ? v2_write(stream, page, PAGE) :
			       v2_read(stream, page, PAGE)) != -ENODEV);
		}
		ASSERT_EQ(true, waits_for_page(absent, one));
		ASSERT_EQ(0, dev_reset(d));
		EXPECT_EQ(0, ioctl(absent, VFIO_TEST_MIGRATION_GIVE));
		ASSERT_EQ(one, waitpid(one, &status, 0));
		EXPECT_EQ(0, status);
		close(stream);
		close(absent);
		ASSERT_EQ(0, scratch_fill(d, 1));
	}
	EXPECT_EQ(0, migrates(&self->p.a, &self->p.b, 4));
}

/*
 * DMA that waits for userspace
 */

/* Sleeping where only a signal that kills may reach it; false if it ended */
static bool sleeps(pid_t pid)
{
	char path[64], text[256], *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	do {
		sched_yield();
		f = fopen(path, "re");
		if (!f || !fgets(text, sizeof(text), f))
			return false;
		fclose(f);
		end = strrchr(text, ')');
	} while (end && end[2] != 'D' && end[2] != 'Z');

	return end && end[2] == 'D';
}

/* A program whose memory the device gets at, and who owns nothing of the device */
static pid_t page_owner(struct dev *d, int absent, __u64 iova)
{
	int ready[2], container = d->u.container;
	char *page, byte = 1;
	pid_t pid;

	if (pipe(ready))
		return -errno;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(d->u.device);
		close(d->u.group);
		munmap(d->map, d->mig.size);
		page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    absent, 0);
		if (page == MAP_FAILED ||
		    container_map(container, page, iova, PAGE) ||
		    write(ready[1], &byte, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (pid > 0 && read(ready[0], &byte, 1) != 1)
		pid = -EIO;
	close(ready[0]);

	return pid;
}

/* Does the DMA get so far that it waits for the page? */
static bool dma_waits(const struct dev *d, int absent)
{
	while (!ioctl(absent, VFIO_TEST_MIGRATION_WAITERS))
		if (reg_get32(d, MSCRATCH_REG_DMA_STATUS) !=
		    MSCRATCH_STATUS_BUSY)
			return false;

	return true;
}

/* If it does not end without the page, it gets it, so that others can go on */
static bool ends_without(int absent, pid_t pid, int want)
{
	bool ended = ends(pid, want);

	if (!ended)
		ioctl(absent, VFIO_TEST_MIGRATION_GIVE);

	return ended;
}

/* Waits for the pipe and closes the device, of which it has the last descriptor */
static pid_t last_user(struct dev *d, int start)
{
	char byte;
	pid_t pid = fork();

	if (pid)
		return pid;
	munmap(d->map, d->mig.size);
	_exit(read(start, &byte, 1) != 1 || close(d->u.device));
}

/*
 * A page of the guest that does not come keeps nobody for good: whoever stops the
 * device can be killed, and a reset and the last close end the DMA.  Another
 * device has no part in it.
 */
TEST_F(fault, dma_to_a_page_that_does_not_come)
{
	static const char * const ends_by[] = { "reset", "close" };
	struct dev *d = &self->p.a, *other = &self->p.b;
	char *guest = page_alloc(PAGE);
	unsigned int how, version;
	pid_t owner, one;
	int absent, start[2];
	__u64 iova;

	ASSERT_NE(NULL, guest);
	ASSERT_EQ(0, container_map(other->u.container, guest, IOVA, PAGE));
	for (how = 0; how < 4; how++) {
		TH_LOG("%s, %s", how & 1 ? "rw" : "pin", ends_by[how / 2]);
		absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, absent);
		/* A mapping is its owner's to take back */
		iova = IOVA + how * PAGE;
		owner = page_owner(d, absent, iova);
		ASSERT_LT(0, owner);
		ASSERT_EQ(0, dma_start(d, iova, 0, PAGE,
				       how & 1 ? MSCRATCH_DMA_RW : 0));
		ASSERT_EQ(true, dma_waits(d, absent));

		one = fork();
		ASSERT_LE(0, one);
		if (!one)
			_exit(dma(other, IOVA, 0, PAGE,
				  how & 1 ? MSCRATCH_DMA_RW : 0) ||
			      state_set(other, STOP) || dev_reset(other));
		EXPECT_EQ(true, ends_without(absent, one, 0));
		EXPECT_EQ(RUNNING, state_get(other));

		for (version = 1; version < 3; version++) {
			one = fork();
			ASSERT_LE(0, one);
			if (!one)
				_exit(version == 1 ? state_set(d, STOP) :
				      v2_go(d, V2_RUNNING_P2P));
			ASSERT_EQ(true, sleeps(one));
			kill(one, SIGKILL);
			EXPECT_EQ(true, ends_without(absent, one, SIGKILL));
			/* It runs as before */
			EXPECT_EQ(RUNNING, state_get(d));
			EXPECT_EQ(V2_RUNNING, v2_get(d));
			EXPECT_EQ(MSCRATCH_STATUS_BUSY,
				  reg_get32(d, MSCRATCH_REG_DMA_STATUS));
		}
		EXPECT_EQ(1, ioctl(absent, VFIO_TEST_MIGRATION_WAITERS));

		ASSERT_EQ(0, pipe(start));
		if (how / 2) {
			one = last_user(d, start[0]);
			ASSERT_LT(0, one);
			dev_close(d);
			ASSERT_EQ(1, write(start[1], "", 1));
		} else {
			one = fork();
			ASSERT_LE(0, one);
			if (!one)
				_exit(dev_reset(d));
		}
		EXPECT_EQ(true, ends_without(absent, one, 0));
		EXPECT_EQ(0, ioctl(absent, VFIO_TEST_MIGRATION_WAITERS));
		close(start[0]);
		close(start[1]);
		kill(owner, SIGKILL);
		waitpid(owner, NULL, 0);
		close(absent);

		if (how / 2) {
			ASSERT_EQ(0, dev_open(d));
			ASSERT_EQ(0, dev_map(d));
		}
		EXPECT_STREQ("", not_pristine(d));
		EXPECT_EQ(0, migrates(d, other, how));
		ASSERT_EQ(0, dev_reset(other));
	}
	munmap(guest, PAGE);
}

/*
 * A page that comes after all is what the DMA gets.  Whoever stops the device
 * waits for that, and if he was killed before, it runs on.
 */
TEST_F(fault, dma_to_a_page_that_comes_late)
{
	struct dev *d = &self->p.a;
	int absent, status;
	unsigned int how;
	pid_t owner, one;
	char seen[PAGE];
	__u64 iova;

	for (how = 0; how < 4; how++) {
		bool killed = how / 2;

		TH_LOG("%s, %s", how & 1 ? "rw" : "pin",
		       killed ? "killed" : "stopped");
		absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, absent);
		iova = IOVA + how * PAGE;
		owner = page_owner(d, absent, iova);
		ASSERT_LT(0, owner);
		ASSERT_EQ(0, scratch_fill(d, 1));
		ASSERT_EQ(0, dma_start(d, iova, 0, PAGE,
				       how & 1 ? MSCRATCH_DMA_RW : 0));
		ASSERT_EQ(true, dma_waits(d, absent));
		one = fork();
		ASSERT_LE(0, one);
		if (!one)
			_exit(state_set(d, STOP));
		ASSERT_EQ(true, sleeps(one));
		if (killed) {
			kill(one, SIGKILL);
			EXPECT_EQ(true, ends_without(absent, one, SIGKILL));
		}
		ASSERT_EQ(0, ioctl(absent, VFIO_TEST_MIGRATION_GIVE));
		if (!killed) {
			ASSERT_EQ(one, waitpid(one, &status, 0));
			EXPECT_EQ(0, status);
		}
		EXPECT_EQ(MSCRATCH_STATUS_DONE, dma_wait(d));
		EXPECT_EQ(killed ? RUNNING : STOP, state_get(d));
		ASSERT_EQ(0, scratch_read(d, 0, seen, PAGE));
		EXPECT_EQ(true, all_zero(seen, PAGE));
		EXPECT_EQ(killed, runs(d));
		kill(owner, SIGKILL);
		waitpid(owner, NULL, 0);
		close(absent);
		ASSERT_EQ(0, state_set(d, RUNNING));
		EXPECT_EQ(true, runs(d));
	}
}

/*
 * Nobody else waits for it: neither a program that maps memory in the container
 * nor another device that is in it.
 */
TEST_F(fault, dma_keeps_nobody_from_the_container)
{
	struct dev *d = &self->p.a, second;
	int absent, container = d->u.container;
	char *memory = page_alloc(PAGE);
	char x[PAGE], y[PAGE];
	unsigned int how;
	pid_t owner, one;
	__u64 iova, dirty;

	ASSERT_NE(NULL, memory);
	ASSERT_EQ(0, dev_create(&second, TYPE, 2));
	ASSERT_EQ(0, dev_join(&second, container));
	ASSERT_EQ(0, dirty_start(container));
	for (how = 0; how < 2; how++) {
		bool write = how;

		TH_LOG("%s", write ? "write" : "read");
		absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, absent);
		iova = IOVA + how * PAGE;
		owner = page_owner(d, absent, iova);
		ASSERT_LT(0, owner);
		ASSERT_EQ(0, dma_start(d, iova, 0, PAGE, MSCRATCH_DMA_RW |
				       (write ? MSCRATCH_DMA_TO_GUEST : 0)));
		ASSERT_EQ(true, dma_waits(d, absent));
		one = fork();
		ASSERT_LE(0, one);
		if (!one)
			_exit(container_map(container, memory, ELSEWHERE, PAGE) ||
			      dma(&second, ELSEWHERE, 0, PAGE, 0) ||
			      dma(&second, ELSEWHERE, 0, PAGE, MSCRATCH_DMA_RW) ||
			      container_unmap(container, ELSEWHERE, PAGE));
		EXPECT_EQ(true, ends_without(absent, one, 0));
		EXPECT_EQ(1, ioctl(absent, VFIO_TEST_MIGRATION_WAITERS));
		EXPECT_EQ(MSCRATCH_STATUS_BUSY,
			  reg_get32(d, MSCRATCH_REG_DMA_STATUS));
		ASSERT_EQ(0, dirty_get(container, iova, 1, &dirty));
		EXPECT_EQ(0, dirty);

		/* It gets what it wanted, and what it wrote is known */
		ASSERT_EQ(0, ioctl(absent, VFIO_TEST_MIGRATION_GIVE));
		EXPECT_EQ(MSCRATCH_STATUS_DONE, dma_wait(d));
		ASSERT_EQ(0, dirty_get(container, iova, 1, &dirty));
		EXPECT_EQ(write, dirty);
		ASSERT_EQ(0, dma(d, iova, PAGE, PAGE, MSCRATCH_DMA_RW));
		ASSERT_EQ(0, scratch_read(d, 0, x, PAGE));
		ASSERT_EQ(0, scratch_read(d, PAGE, y, PAGE));
		EXPECT_EQ(0, memcmp(x, y, PAGE));
		EXPECT_EQ(!write, all_zero(x, PAGE));
		kill(owner, SIGKILL);
		waitpid(owner, NULL, 0);
		close(absent);
		ASSERT_EQ(0, scratch_fill(d, 1));
	}
	ASSERT_EQ(0, dirty_stop(container));
	dev_close(&second);
	EXPECT_EQ(0, dev_remove(&second));
	munmap(memory, PAGE);
}

/*
 * A bitmap of dirty pages whose memory does not come.  A program has two mappings,
 * and asks for the dirty pages of both: those of the first go to a page that is
 * there, those of the second to one that is not.
 */

#define LOOK_PAGES	128
#define FIRST		3	/* where the mappings begin, amid the words */
#define SECOND		70
#define PIECE_PAGES	8

struct look {
	int container;
	int absent;
	__u64 iova;
	bool unmap;
	const struct dev *not_its;	/* a device that it has no part in */
	char *other;		/* memory that comes in place of the second's */
	size_t there;		/* and at which page */
	int told[2];		/* a thread to put it there */
	int says[2];
	int go[2];
	/* What it says when it is through */
	int ret;
	__u64 dirty[LOOK_PAGES / 64];
};

static int piece_map(const struct look *l, char *memory, size_t at)
{
	return container_map(l->container, memory, l->iova + at * PAGE,
			     PIECE_PAGES * PAGE);
}

static void *piece_replace(void *arg)
{
	struct look *l = arg;
	char byte;

	if (read(l->told[0], &byte, 1) == 1 &&
	    !container_unmap(l->container, l->iova + SECOND * PAGE,
			     PIECE_PAGES * PAGE) &&
	    !piece_map(l, l->other, l->there) &&
	    write(l->says[1], &byte, 1) == 1)
		return NULL;
	_exit(1);
}

static void look_at_pages(struct look *l)
{
	char *buf = page_alloc(2 * PAGE), *memory, byte = 1;
	__u64 *bitmap = (__u64 *)(buf + PAGE) - 1;
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (l->not_its) {
		close(l->not_its->u.device);
		close(l->not_its->u.group);
	}
	memory = page_alloc(3 * PIECE_PAGES * PAGE);
	l->other = memory + 2 * PIECE_PAGES * PAGE;
	if (!buf || !memory || piece_map(l, memory, FIRST) ||
	    piece_map(l, memory + PIECE_PAGES * PAGE, SECOND) ||
	    mmap(buf + PAGE, PAGE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, l->absent, 0) == MAP_FAILED ||
	    pthread_create(&thread, NULL, piece_replace, l) ||
	    write(l->says[1], &byte, 1) != 1 || read(l->go[0], &byte, 1) != 1)
		_exit(1);
	*bitmap = 1;
	l->ret = l->unmap ?
		 dirty_unmap_into(l->container, l->iova, LOOK_PAGES, bitmap) :
		 dirty_get_into(l->container, l->iova, LOOK_PAGES, bitmap);
	if (!l->ret || l->ret == -ENOENT)
		memcpy(l->dirty, bitmap, sizeof(l->dirty));
	_exit(0);
}

/* The program, when it has its mappings */
static pid_t look_start(struct look *l)
{
	pid_t pid;
	char byte;

	l->absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
	if (l->absent < 0 || pipe(l->told) || pipe(l->says) || pipe(l->go))
		return -errno;
	pid = fork();
	if (!pid)
		look_at_pages(l);
	close(l->says[1]);
	if (pid > 0 && read(l->says[0], &byte, 1) != 1)
		pid = -EIO;

	return pid;
}

static void look_close(const struct look *l)
{
	close(l->told[0]);
	close(l->told[1]);
	close(l->says[0]);
	close(l->go[0]);
	close(l->go[1]);
	close(l->absent);
}

/* Writes to a page of the program's */
static int page_dirty(const struct dev *d, const struct look *l, size_t at)
{
	return dma(d, l->iova + at * PAGE, 0, PAGE,
		   MSCRATCH_DMA_RW | MSCRATCH_DMA_TO_GUEST);
}

enum meanwhile {
	NOTHING,
	MAPPING_REPLACED,
	MAPPING_OUTGROWN,	/* replaced by one that ends beyond the range */
	TRACKING_STOPPED,
	LOOK_KILLED,
	MEANWHILES
};

/*
 * Nobody else waits for it.  Whatever others do meanwhile, each page that was
 * written to is told once: to the one who waits, or after he has failed to
 * somebody else.
 */
TEST_F(fault, bitmap_keeps_nobody_from_the_container)
{
	struct dev *d = &self->p.a, second;
	int container = d->u.container, status;
	char *memory = page_alloc(PAGE), byte = 1;
	unsigned int how;
	struct look *l;
	pid_t pid, one;
	__u64 dirty[2];

	l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, l);
	ASSERT_NE(NULL, memory);
	ASSERT_EQ(0, dev_create(&second, TYPE, 2));
	ASSERT_EQ(0, dev_join(&second, container));
	for (how = 0; how < 2 * MEANWHILES; how++) {
		enum meanwhile what = how / 2;
		__u64 expected[] = { 3ULL << 4, 1ULL << 6 };
		/* Not all that it unmaps is mapped */
		int want = how & 1 ? -ENOENT : 0;

		memset(l, 0, sizeof(*l));
		l->container = container;
		/* A mapping is its owner's to take back */
		l->iova = IOVA + 2 * how * LOOK_PAGES * PAGE;
		l->unmap = how & 1;
		l->there = what == MAPPING_OUTGROWN ?
			   LOOK_PAGES - PIECE_PAGES / 2 : SECOND + 1;
		TH_LOG("%s, %u", l->unmap ? "unmap" : "get", what);
		pid = look_start(l);
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, dirty_start(container));
		ASSERT_EQ(0, page_dirty(d, l, 4));
		ASSERT_EQ(0, page_dirty(d, l, 70));
		ASSERT_EQ(1, write(l->go[1], &byte, 1));
		ASSERT_EQ(true, waits_for_page(l->absent, pid));

		one = fork();
		ASSERT_LE(0, one);
		if (!one)
			_exit(container_map(container, memory, ELSEWHERE, PAGE) ||
			      dma(&second, ELSEWHERE, 0, PAGE, 0) ||
			      dma(&second, ELSEWHERE, 0, PAGE, MSCRATCH_DMA_RW) ||
			      container_unmap(container, ELSEWHERE, PAGE));
		ASSERT_EQ(true, ends_without(l->absent, one, 0));
		EXPECT_EQ(1, ioctl(l->absent, VFIO_TEST_MIGRATION_WAITERS));
		ASSERT_EQ(0, page_dirty(d, l, 5));

		switch (what) {
		case MAPPING_REPLACED:
			ASSERT_EQ(1, write(l->told[1], &byte, 1));
			ASSERT_EQ(1, read(l->says[0], &byte, 1));
			ASSERT_EQ(0, page_dirty(d, l, 77));
			expected[1] = 1ULL << (77 - 64);
			break;
		case MAPPING_OUTGROWN:
			ASSERT_EQ(1, write(l->told[1], &byte, 1));
			ASSERT_EQ(1, read(l->says[0], &byte, 1));
			want = -EINVAL;
			break;
		case TRACKING_STOPPED:
			ASSERT_EQ(0, dirty_stop(container));
			want = -EINVAL;
			break;
		default:
			break;
		}
		if (what == LOOK_KILLED) {
			kill(pid, SIGKILL);
			EXPECT_EQ(true, ends_without(l->absent, pid, SIGKILL));
			ASSERT_EQ(0, dirty_get(container, l->iova, LOOK_PAGES,
					       dirty));
			EXPECT_EQ(expected[0], dirty[0]);
			EXPECT_EQ(expected[1], dirty[1]);
		} else {
			ASSERT_EQ(0, ioctl(l->absent, VFIO_TEST_MIGRATION_GIVE));
			ASSERT_EQ(pid, waitpid(pid, &status, 0));
			EXPECT_EQ(0, status);
			EXPECT_EQ(want, l->ret);
		}
		EXPECT_EQ(0, ioctl(l->absent, VFIO_TEST_MIGRATION_WAITERS));
		if (what == NOTHING || what == MAPPING_REPLACED) {
			/* What it had there before the first of them stays */
			EXPECT_EQ(expected[0] | 1, l->dirty[0]);
			EXPECT_EQ(expected[1], l->dirty[1]);
			ASSERT_EQ(0, dirty_get(container, l->iova, LOOK_PAGES,
					       dirty));
			EXPECT_EQ(0, dirty[0] | dirty[1]);
		}
		/* It is unmapped as a whole, or not at all */
		EXPECT_EQ(l->unmap && want == -ENOENT && what != LOOK_KILLED ?
			  0 : -EEXIST,
			  container_map(container, memory,
					l->iova + FIRST * PAGE, PAGE));
		look_close(l);
		ASSERT_EQ(0, dirty_stop(container));
	}
	dev_close(&second);
	EXPECT_EQ(0, dev_remove(&second));
	munmap(l, sizeof(*l));
	munmap(memory, PAGE);
}

/* A page of it that has gone again is got once more, but not for ever */
TEST_F(fault, bitmap_is_lost)
{
	struct dev *d = &self->p.a;
	int container = d->u.container;
	unsigned int how;
	struct look *l;
	__u64 dirty[2];
	char byte = 1;
	pid_t pid;

	l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, l);
	ASSERT_EQ(0, dirty_start(container));
	for (how = 0; how < 4; how++) {
		bool for_ever = how / 2, ended;
		int times = for_ever ? INT_MAX : 3, left, want;

		memset(l, 0, sizeof(*l));
		l->container = container;
		l->iova = IOVA + how * LOOK_PAGES * PAGE;
		l->unmap = how & 1;
		want = for_ever ? -EFAULT : l->unmap ? -ENOENT : 0;
		TH_LOG("%s, lost %d times", l->unmap ? "unmap" : "get", times);
		pid = look_start(l);
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, page_dirty(d, l, 4));
		ASSERT_EQ(0, page_dirty(d, l, 70));
		ASSERT_EQ(0, ioctl(l->absent, VFIO_TEST_MIGRATION_GIVE));
		ASSERT_EQ(0, ioctl(l->absent, VFIO_TEST_MIGRATION_LOSE, times));
		ASSERT_EQ(1, write(l->go[1], &byte, 1));
		ended = ends(pid, 0);
		left = ioctl(l->absent, VFIO_TEST_MIGRATION_LOSE, 0);
		EXPECT_EQ(true, ended);
		if (!ended)
			waitpid(pid, NULL, 0);
		EXPECT_EQ(want, l->ret);
		EXPECT_LE(3, times - left);
		EXPECT_EQ(true, for_ever || !left);
		EXPECT_EQ(for_ever ? 0 : 1ULL << 4 | 1, l->dirty[0]);
		EXPECT_EQ(for_ever ? 0 : 1ULL << 6, l->dirty[1]);
		/* What was not told is told to somebody else */
		ASSERT_EQ(0, dirty_get(container, l->iova, LOOK_PAGES, dirty));
		EXPECT_EQ(for_ever ? 1ULL << 4 : 0, dirty[0]);
		EXPECT_EQ(for_ever ? 1ULL << 6 : 0, dirty[1]);
		look_close(l);
	}
	ASSERT_EQ(0, dirty_stop(container));
	munmap(l, sizeof(*l));
}

static long long number_get(const char *path)
{
	long long value = -1;
	FILE *f = fopen(path, "re");

	if (!f)
		return -errno;
	if (fscanf(f, "%lld", &value) != 1)
		value = -EIO;
	fclose(f);

	return value;
}

/*
 * The last device leaves a container that somebody is in a call of: the call ends on
 * what it began with, and not on what another container has in that place.
 */
TEST_F(fault, call_outlives_the_devices_of_its_container)
{
	long long backends = number_get(TYPE1_REFERENCES);
	char *memory = page_alloc(PIECE_PAGES * PAGE), byte = 1;
	struct dev one, next[4];
	unsigned int how, i;
	struct look *l;
	__u64 dirty[2];
	pid_t pid;

	l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, l);
	ASSERT_NE(NULL, memory);
	for (how = 0; how < 2; how++) {
		ASSERT_EQ(0, dev_create(&one, TYPE, 2));
		ASSERT_EQ(0, dev_open(&one));
		memset(l, 0, sizeof(*l));
		l->container = one.u.container;
		l->iova = IOVA;
		l->unmap = how & 1;
		l->not_its = &one;
		TH_LOG("%s", l->unmap ? "unmap" : "get");
		pid = look_start(l);
		ASSERT_LT(0, pid);
		ASSERT_EQ(0, dirty_start(l->container));
		ASSERT_EQ(0, page_dirty(&one, l, 4));
		ASSERT_EQ(0, page_dirty(&one, l, SECOND));
		ASSERT_EQ(1, write(l->go[1], &byte, 1));
		ASSERT_EQ(true, waits_for_page(l->absent, pid));

		dev_close(&one);
		for (i = 0; i < 4; i++) {
			ASSERT_EQ(0, dev_create(&next[i], TYPE, 3 + i));
			ASSERT_EQ(0, dev_open(&next[i]));
			ASSERT_EQ(0, container_map(next[i].u.container, memory,
						   IOVA + SECOND * PAGE,
						   PIECE_PAGES * PAGE));
			ASSERT_EQ(0, dirty_start(next[i].u.container));
			ASSERT_EQ(0, page_dirty(&next[i], l, SECOND + 1));
		}
		ASSERT_EQ(0, ioctl(l->absent, VFIO_TEST_MIGRATION_GIVE));
		EXPECT_EQ(true, ends(pid, 0));
		EXPECT_EQ(l->unmap ? -ENOENT : 0, l->ret);
		EXPECT_EQ(0, l->dirty[1]);

		for (i = 0; i < 4; i++) {
			ASSERT_EQ(0, dirty_get(next[i].u.container, IOVA,
					       LOOK_PAGES, dirty));
			EXPECT_EQ(0, dirty[0]);
			EXPECT_EQ(1ULL << (SECOND + 1 - 64), dirty[1]);
			EXPECT_EQ(0, container_unmap(next[i].u.container,
						     IOVA + SECOND * PAGE,
						     PIECE_PAGES * PAGE));
			dev_close(&next[i]);
			EXPECT_EQ(0, dev_remove(&next[i]));
		}
		look_close(l);
		EXPECT_EQ(0, dev_remove(&one));
		EXPECT_EQ(backends, number_get(TYPE1_REFERENCES));
	}
	munmap(l, sizeof(*l));
	munmap(memory, PIECE_PAGES * PAGE);
}

/*
 * No control group is charged for the time of kernel threads, so there are
 * knobs for it
 */
TEST_F(fault, work_can_be_confined)
{
	static const char * const queues[] = {
		"vfio_migration", "mscratch",
	};
	char path[128], text[24];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(queues); i++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/virtual/workqueue/%s/nice", queues[i]);
		EXPECT_EQ(0, number_get(path));
		EXPECT_EQ(0, file_write(path, "10"));
		EXPECT_EQ(10, number_get(path));
		EXPECT_EQ(0, migrates(&self->p.a, &self->p.b, 4));
		EXPECT_EQ(0, file_write(path, "0"));
		snprintf(path, sizeof(path),
			 "/sys/devices/virtual/workqueue/%s/cpumask", queues[i]);
		EXPECT_EQ(0, file_write(path, "1"));
		EXPECT_EQ(0, migrates(&self->p.a, &self->p.b, 5));
		snprintf(text, sizeof(text), "%lx",
			 (1UL << sysconf(_SC_NPROCESSORS_CONF)) - 1);
		EXPECT_EQ(0, file_write(path, text));
	}
}

/*
 * Memory that somebody is charged for
 */

#define CGROUPS		"/sys/fs/cgroup/"
#define CGROUP		CGROUPS "vfio_migration/"
#define BIG_WINDOW	(64UL << 20)

/* A control group that may have so much memory, "max" for any */
static int cgroup_make(const char *most)
{
	int ret;

	if (mount("cgroup2", CGROUPS, "cgroup2", 0, NULL) && errno != EBUSY)
		return -errno;
	ret = file_write(CGROUPS "cgroup.subtree_control", "+memory");
	if (!ret && mkdir(CGROUP, 0755))
		ret = -errno;

	return ret ?: file_write(CGROUP "memory.max", most);
}

/* Bytes that it has, or a negative errno */
static long long cgroup_has(void)
{
	return number_get(CGROUP "memory.current");
}

/* Is there about as much as it should be?  Each processor has some in advance. */
static bool about(long long is, long long want)
{
	return llabs(is - want) < 4 << 20;
}

/* In a process of the group: 0, or which step went wrong */
static int charged_for_windows(struct pair *p)
{
	long long before;

	if (file_write(CGROUP "cgroup.procs", "0"))
		return 1;
	before = cgroup_has();
	if (before < 0 || dev_open(&p->a) || dev_map(&p->a))
		return 2;
	if (!about(cgroup_has(), before + BIG_WINDOW))
		return 3;
	if (dev_open(&p->b) || dev_map(&p->b))
		return 4;
	if (!about(cgroup_has(), before + 2 * BIG_WINDOW))
		return 5;
	/* All of what is charged can be used */
	memset(p->b.map + window_offset(&p->b), 0x5a, BIG_WINDOW);
	if (migrates(&p->a, &p->b, 1))
		return 6;
	dev_close(&p->b);
	if (!about(cgroup_has(), before + BIG_WINDOW))
		return 7;
	dev_close(&p->a);

	return about(cgroup_has(), before) ? 0 : 8;
}

static int charged_too_much(struct pair *p)
{
	long long before;

	if (file_write(CGROUP "cgroup.procs", "0"))
		return 1;
	before = cgroup_has();
	if (before < 0 || dev_open(&p->a) != -ENOMEM)
		return 2;
	if (!about(cgroup_has(), before))
		return 3;
	/* It has enough for the smaller one */
	if (dev_open(&p->b) || dev_map(&p->b))
		return 4;
	if (state_get(&p->b) != RUNNING || *not_pristine(&p->b))
		return 5;
	dev_close(&p->b);

	return 0;
}

/* Whoever opens a device pays for its window, or cannot open it */
TEST(window_is_charged)
{
	struct pair p;
	unsigned int way;
	int status;
	pid_t pid;

	for (way = 0; way < 2; way++) {
		TH_LOG("way %u", way);
		ASSERT_EQ(0, devs_remove_all());
		ASSERT_EQ(0, params_default());
		ASSERT_EQ(0, param_set("window", BIG_WINDOW));
		ASSERT_EQ(0, dev_create(&p.a, "mscratch-64k", 0));
		if (way)
			ASSERT_EQ(0, param_set("window", WINDOW));
		ASSERT_EQ(0, dev_create(&p.b, "mscratch-64k", 1));
		ASSERT_EQ(0, cgroup_make(way ? "32M" : "max"));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(way ? charged_too_much(&p) :
			      charged_for_windows(&p));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(true, WIFEXITED(status));
		EXPECT_EQ(0, WEXITSTATUS(status));
		EXPECT_EQ(0, rmdir(CGROUP));
		EXPECT_EQ(0, dev_remove(&p.a));
		EXPECT_EQ(0, dev_remove(&p.b));
	}
}

#define TRACEFS		"/sys/kernel/tracing/"
#define WORK_BEGINS	TRACEFS "events/workqueue/workqueue_execute_start/enable"

static void trace_empty(void)
{
	int fd = open(TRACEFS "trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0)
		abort();
	close(fd);
}

/* On which processor a worker began with @function, -1 if none did */
static int worked_on(const char *function)
{
	FILE *f = fopen(TRACEFS "trace", "re");
	char line[512], *at;
	int cpu = -1;

	while (f && fgets(line, sizeof(line), f)) {
		at = strchr(line, '[');
		if (line[0] != '#' && at && strstr(line, function))
			cpu = atoi(at + 1);
	}
	if (f)
		fclose(f);

	return cpu;
}

/* Of two processors the one that the knob says, wherever the user is */
TEST_F(fault, dma_is_done_where_it_may_be)
{
	static const char mask[] =
		"/sys/devices/virtual/workqueue/mscratch/cpumask";
	char *guest = page_alloc(SCRATCH), text[24];
	struct dev *d = &self->p.a;
	cpu_set_t before, set;
	unsigned int i;

	ASSERT_NE(NULL, guest);
	ASSERT_EQ(0, container_map(d->u.container, guest, IOVA, SCRATCH));
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(before), &before));
	mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	ASSERT_EQ(0, file_write(WORK_BEGINS, "1"));
	for (i = 0; i < 10; i++) {
		CPU_ZERO(&set);
		CPU_SET(~i & 1, &set);
		ASSERT_EQ(0, sched_setaffinity(0, sizeof(set), &set));
		ASSERT_EQ(0, file_write(mask, i & 1 ? "2" : "1"));
		trace_empty();
		ASSERT_EQ(0, dma(d, IOVA, 0, PAGE, MSCRATCH_DMA_TO_GUEST));
		EXPECT_EQ((int)(i & 1), worked_on("mscratch_dma_work"));
	}
	ASSERT_EQ(0, file_write(WORK_BEGINS, "0"));
	snprintf(text, sizeof(text), "%lx",
		 (1UL << sysconf(_SC_NPROCESSORS_CONF)) - 1);
	EXPECT_EQ(0, file_write(mask, text));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(before), &before));
	ASSERT_EQ(0, container_unmap(d->u.container, IOVA, SCRATCH));
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static int less(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

#define SUM_ROUNDS	9

/*
 * A checksum that nobody wants any more is not waited for.  One that has not begun
 * shows nothing of that.
 */
TEST(checksum_is_given_up)
{
	double left[SUM_ROUNDS], ended[SUM_ROUNDS], start;
	char *buf = malloc(WINDOW);
	unsigned int i, way;
	struct pair p;
	struct chunk c;

	ASSERT_NE(NULL, buf);
	ASSERT_EQ(0, pair_open(&p, "mscratch-64m", WINDOW));
	ASSERT_EQ(0, scratch_fill(&p.a, 1));
	mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	ASSERT_EQ(0, file_write(WORK_BEGINS, "1"));
	for (i = 0; i < SUM_ROUNDS; i++) {
		for (way = 0; way < 2; way++) {
			trace_empty();
			/* All of the memory is summed up from its first chunk on */
			ASSERT_EQ(0, state_set(&p.a, STOP_COPY));
			ASSERT_EQ(1, chunk_next(&p.a, &c));
			ASSERT_EQ(1, chunk_next(&p.a, &c));
			while (worked_on("vfm_sum_work") < 0)
				sched_yield();
			start = now();
			ASSERT_EQ(0, data_read(&p.a, c.offset, buf, c.size,
					       BY_MMAP));
			/* The registers come behind it, and wait for the sum */
			while (way && c.size == WINDOW)
				ASSERT_EQ(1, chunk_next(&p.a, &c));
			ASSERT_EQ(0, state_set(&p.a, RUNNING));
			*(way ? &ended[i] : &left[i]) = now() - start;
		}
	}
	ASSERT_EQ(0, file_write(WORK_BEGINS, "0"));
	qsort(left, SUM_ROUNDS, sizeof(*left), less);
	qsort(ended, SUM_ROUNDS, sizeof(*ended), less);
	TH_LOG("%.2f ms, and %.2f ms to its end", left[SUM_ROUNDS / 2],
	       ended[SUM_ROUNDS / 2]);
	EXPECT_GT(ended[SUM_ROUNDS / 2], 2 * left[SUM_ROUNDS / 2]);
	ASSERT_EQ(0, pair_close(&p));
	free(buf);
}

/*
 * Memory that cannot be had
 */

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define MOST_ALLOCATIONS	500

/* The @nth allocation of this thread fails, 0 for none */
static void fail_nth(int fd, unsigned int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	if (pwrite(fd, text, len, 0) != len)
		abort();
}

/* Was it reached?  From here on none fails. */
static bool has_failed(int fd)
{
	char text[16] = "1";

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		abort();
	fail_nth(fd, 0);

	return !atoi(text);
}

enum {
	OPEN_DEVICE,
	ASK_FOR_THE_REGION,
	BEGIN_TO_SAVE,
	BEGIN_TO_LOAD,
	MAKE_A_DEVICE,
	LOAD_THE_HEADER,
	THINGS
};

static const char * const things_done[THINGS] = {
	"open", "region", "save", "load", "make", "header",
};

/* Two devices, the other one of which is small, and a session of either */
struct short_of_memory {
	struct dev *d;
	struct dev small;
	struct stream s;
	int fd;
};

static int small_make(const struct dev *d)
{
	struct vfio_test_migration small = {
		.state_size = 3 * PAGE, .version = 1, .window = PAGE,
		.section_pos = 3 * PAGE - 64, .section_len = 64, .mmap = 1,
	};

	return ioctl(d->u.device, VFIO_TEST_MIGRATION_CREATE, &small) ?
	       -errno : 0;
}

/* Before it, with memory to be had */
static int prepare(int thing, struct short_of_memory *m)
{
	int ret;

	m->fd = -1;
	switch (thing) {
	case OPEN_DEVICE:
		close(m->d->u.device);
		m->d->u.device = -1;
		return 0;
	case MAKE_A_DEVICE:
	case LOAD_THE_HEADER:
		m->small.u.device = open("/dev/vfio_test_migration",
					 O_RDWR | O_CLOEXEC);
		if (m->small.u.device < 0)
			return -errno;
		if (thing == MAKE_A_DEVICE)
			return 0;
		stream_free(&m->s);
		ret = small_make(&m->small);
		ret = ret ?: v2_save(&m->small, &m->s, PAGE);

		return ret ?: v2_set(&m->small, V2_RESUMING, &m->fd);
	default:
		return 0;
	}
}

/* What is done with memory short: 0 or a negative errno */
static int do_thing(int thing, struct short_of_memory *m)
{
	struct dev *d = m->d;
	struct vfio_region_info info = {
		.argsz = sizeof(info), .index = d->index,
	};
	long n;

	switch (thing) {
	case OPEN_DEVICE:
		d->u.device = group_device(d->u.group, d->name);
		return d->u.device < 0 ? d->u.device : 0;
	case ASK_FOR_THE_REGION:
		return ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO, &info) ?
		       -errno : 0;
	case BEGIN_TO_SAVE:
		return v2_set(d, V2_SAVING, &m->fd);
	case BEGIN_TO_LOAD:
		return v2_set(d, V2_RESUMING, &m->fd);
	case MAKE_A_DEVICE:
		return small_make(&m->small);
	default:
		n = v2_write(m->fd, m->s.data, 64);
		return n == 64 ? 0 : n;
	}
}

/* Afterwards: what has failed can be done now, and all is as it was */
static int tidy_up(int thing, struct short_of_memory *m, int error)
{
	struct dev *d = m->d;
	int ret = 0;

	switch (thing) {
	case OPEN_DEVICE:
		if (error)
			ret = do_thing(thing, m);
		break;
	case BEGIN_TO_SAVE:
	case BEGIN_TO_LOAD:
		/* It has not begun */
		if (error && v2_get(d) != V2_RUNNING)
			return -EBADMSG;
		break;
	case MAKE_A_DEVICE:
		if (error)
			ret = small_make(&m->small);
		close(m->small.u.device);
		break;
	case LOAD_THE_HEADER:
		/* Where it goes on is lost, but for the device it is not */
		ret = dev_reset(&m->small);
		ret = ret ?: v2_load(&m->small, &m->s, PAGE);
		close(m->small.u.device);
		break;
	}
	if (m->fd >= 0)
		close(m->fd);

	return ret ?: dev_reset(d);
}

/*
 * Each allocation can fail, one after the other: it is an error, or it makes no
 * difference, and the next time all is well.
 */
TEST_F(fault, each_allocation_fails)
{
	struct short_of_memory m = { .d = &self->p.b };
	unsigned int nth, errors;
	int thing, ret, nth_fd;
	bool failed;

	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (nth_fd < 0 || access(FAILSLAB, F_OK))
		SKIP(return, "fault.each_allocation_fails: this kernel does not fail on purpose");
	ASSERT_EQ(0, file_write(FAILSLAB "ignore-gfp-wait", "N"));
	ASSERT_EQ(0, file_write(FAILSLAB "verbose", "0"));
	munmap(m.d->map, m.d->mig.size);
	m.d->map = NULL;

	for (thing = 0; thing < THINGS; thing++) {
		errors = 0;
		failed = true;
		for (nth = 1; failed && nth < MOST_ALLOCATIONS; nth++) {
			ASSERT_EQ(0, prepare(thing, &m));
			fail_nth(nth_fd, nth);
			ret = do_thing(thing, &m);
			failed = has_failed(nth_fd);
			errors += !!ret;
			if (!failed)
				EXPECT_EQ(0, ret);
			/* ENFILE is a file that there is no memory for */
			if (ret && ret != -ENFILE)
				EXPECT_EQ(-ENOMEM, ret);
			ASSERT_EQ(0, tidy_up(thing, &m, ret));
		}
		TH_LOG("%s: %u allocations, %u errors", things_done[thing],
		       nth - 2, errors);
		EXPECT_GT(MOST_ALLOCATIONS, nth);
		EXPECT_LT(0, errors);
	}
	stream_free(&m.s);
	close(nth_fd);
	ASSERT_EQ(0, file_write(FAILSLAB "ignore-gfp-wait", "Y"));
	ASSERT_EQ(0, dev_map(m.d));
	EXPECT_STREQ("", not_pristine(m.d));
	EXPECT_EQ(0, migrates(&self->p.a, m.d, 4));
}

/*
 * Two devices of one virtual machine, which are migrated at once
 */

#define DEVICES		2
#define PIECE		5000UL
#define SMALL_PIECE	30UL
#define GUEST_PAGES	64UL
#define GUEST		(GUEST_PAGES * PAGE)

/* Each from one container to the other */
struct vm {
	struct dev from[DEVICES];
	struct dev to[DEVICES];
	struct stream s[DEVICES];
	int version;
	int fd[DEVICES];	/* of version 2 */
	char *guest;
};

static int vm_open(struct vm *vm)
{
	unsigned int i;
	int ret;

	memset(vm, 0, sizeof(*vm));
	ret = devs_remove_all();
	ret = ret ?: params_default();
	ret = ret ?: param_set("window", 4 * PAGE);
	for (i = 0; i < DEVICES; i++) {
		ret = ret ?: dev_create(&vm->from[i], TYPE, 2 * i);
		ret = ret ?: dev_create(&vm->to[i], TYPE, 2 * i + 1);
		vm->fd[i] = -1;
	}
	ret = ret ?: dev_open(&vm->from[0]);
	ret = ret ?: dev_open(&vm->to[0]);
	ret = ret ?: dev_join(&vm->from[1], vm->from[0].u.container);
	ret = ret ?: dev_join(&vm->to[1], vm->to[0].u.container);
	for (i = 0; i < DEVICES; i++) {
		ret = ret ?: dev_map(&vm->from[i]);
		ret = ret ?: dev_map(&vm->to[i]);
	}
	vm->guest = page_alloc(GUEST);
	if (!vm->guest)
		ret = -ENOMEM;

	return ret ?: container_map(vm->from[0].u.container, vm->guest, IOVA,
				    GUEST);
}

static int vm_close(struct vm *vm)
{
	int ret = 0, i;

	/* The containers are those of the first ones */
	for (i = DEVICES - 1; i >= 0; i--) {
		dev_close(&vm->from[i]);
		dev_close(&vm->to[i]);
		stream_free(&vm->s[i]);
	}
	munmap(vm->guest, GUEST);
	for (i = 0; i < DEVICES; i++) {
		ret = ret ?: dev_remove(&vm->from[i]);
		ret = ret ?: dev_remove(&vm->to[i]);
	}

	return ret;
}

static int vm_set(struct vm *vm, struct dev *d, unsigned int i,
		  unsigned int v1, unsigned int v2)
{
	int fd, ret;

	if (vm->version == 1)
		return state_set(d, v1);
	ret = v2_set(d, v2, &fd);
	if (fd >= 0) {
		if (vm->fd[i] >= 0)
			close(vm->fd[i]);
		vm->fd[i] = fd;
	}

	return ret;
}

/* A piece of a stream: 1, 0 if there is no more, or an error */
static int vm_save_some(struct vm *vm, unsigned int i)
{
	struct dev *d = &vm->from[i];
	struct stream *s = &vm->s[i];
	struct chunk c;
	size_t had = s->size;
	long n;
	int ret;

	if (vm->version == 1) {
		ret = chunk_next(d, &c);
		return ret <= 0 ? ret : stream_append(d, s, &c, BY_MMAP) ?: 1;
	}
	if (!s->room) {
		s->room = 4 * SCRATCH;
		s->data = malloc(s->room);
	}
	if (!s->data || had + PIECE > s->room)
		return -E2BIG;
	n = v2_read(vm->fd[i], s->data + had, PIECE);
	if (n == -ENOMSG)
		return 0;
	s->size += n > 0 ? n : 0;

	return n > 0 ? 1 : n;
}

/* What is at the end, the registers and the last record, comes piece by piece */
static int vm_load_some(struct vm *vm, unsigned int i, size_t *at)
{
	struct stream *s = &vm->s[i];
	size_t n = s->size - *at;
	long ret;

	if (!n)
		return 0;
	if (n > PIECE)
		n = PIECE;
	else if (n > SMALL_PIECE)
		n = SMALL_PIECE;
	if (vm->version == 1)
		ret = stream_put(&vm->to[i], s->data + *at, n, BY_MMAP);
	else
		ret = v2_write(vm->fd[i], s->data + *at, n);
	if (ret < 0)
		return ret;
	*at += n;

	return vm->version == 1 || ret == (long)n ? 1 : -EIO;
}

/*
 * A piece of each in turn, up to where there is no more for now.  One that has
 * failed is left alone.
 */
static void vm_save(struct vm *vm, int *error)
{
	int more[DEVICES] = { 1, 1 };
	unsigned int i;

	while (more[0] || more[1]) {
		for (i = 0; i < DEVICES; i++) {
			if (more[i])
				more[i] = vm_save_some(vm, i);
			if (more[i] < 0) {
				error[i] = more[i];
				more[i] = 0;
			}
		}
	}
}

static void vm_load(struct vm *vm, int *error)
{
	int more[DEVICES] = { !error[0], !error[1] };
	size_t at[DEVICES] = {};
	unsigned int i;

	while (more[0] || more[1]) {
		for (i = 0; i < DEVICES; i++) {
			if (more[i])
				more[i] = vm_load_some(vm, i, &at[i]);
			if (more[i] < 0) {
				error[i] = more[i];
				more[i] = 0;
			}
		}
	}
}

/* What one of them meets, and the other one does not notice */
enum trouble {
	NO_TROUBLE,
	SAVE_FAILS,
	RESET_WHILE_SAVED,
	LOAD_IS_REFUSED,
	RESET_WHILE_LOADED,
};

static int vm_trouble(struct vm *vm, enum trouble what, unsigned int i)
{
	struct dev *from = &vm->from[i];

	switch (what) {
	case SAVE_FAILS:
		return debug_set(from, "fail_fatal", 1) ?:
		       debug_set(from, "fail_save", 1);
	case RESET_WHILE_SAVED:
		return dev_reset(from);
	case LOAD_IS_REFUSED:
		vm->s[i].data[vm->s[i].size / 2] ^= 1;
		return 0;
	case RESET_WHILE_LOADED:
		return dev_reset(&vm->to[i]);
	default:
		return 0;
	}
}

static bool same_scratch(const struct dev *a, const struct dev *b)
{
	char *x = malloc(2 * SCRATCH), *y = x + SCRATCH;
	bool same = x && !scratch_read(a, 0, x, SCRATCH) &&
		    !scratch_read(b, 0, y, SCRATCH) && !memcmp(x, y, SCRATCH);

	free(x);

	return same;
}

FIXTURE(vm)
{
	struct vm vm;
};

FIXTURE_VARIANT(vm)
{
	int version;
};

FIXTURE_VARIANT_ADD(vm, v1) { .version = 1 };
FIXTURE_VARIANT_ADD(vm, v2) { .version = 2 };

FIXTURE_SETUP(vm)
{
	ASSERT_EQ(0, vm_open(&self->vm));
	self->vm.version = variant->version;
}

FIXTURE_TEARDOWN(vm)
{
	EXPECT_EQ(0, vm_close(&self->vm));
}

/* What both did to the guest's memory is known, whoever did it */
static void vm_run(struct __test_metadata *_metadata, struct vm *vm)
{
	int container = vm->from[0].u.container, error[DEVICES] = {};
	unsigned int i, j;
	__u64 dirty;

	for (i = 0; i < DEVICES; i++) {
		ASSERT_EQ(0, scratch_fill(&vm->from[i], 1 + i));
		ASSERT_EQ(0, dma(&vm->from[i], IOVA, 0, PAGE,
				 MSCRATCH_DMA_TO_GUEST));
	}
	ASSERT_EQ(0, dirty_start(container));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(0, dirty);
	for (i = 0; i < DEVICES; i++)
		ASSERT_EQ(0, vm_set(vm, &vm->from[i], i, PRE_COPY,
				    V2_RUNNING_SAVING));
	vm_save(vm, error);
	for (i = 0; i < DEVICES; i++) {
		/* More than a window, of each device other pages */
		for (j = 0; j < 8; j++)
			ASSERT_EQ(0, scratch_write(&vm->from[i],
						   (2 * j + i) * PAGE, "dirty",
						   6));
		ASSERT_EQ(0, dma(&vm->from[i], IOVA + (3 + i) * PAGE,
				 (7 + i) * PAGE, PAGE, MSCRATCH_DMA_TO_GUEST));
	}
	EXPECT_EQ(0, error[0]);
	EXPECT_EQ(0, error[1]);
	ASSERT_EQ(0, dirty_get(container, IOVA, GUEST_PAGES, &dirty));
	EXPECT_EQ(3ULL << 3, dirty);
	ASSERT_EQ(0, dirty_stop(container));
}

static void vm_migrate(struct __test_metadata *_metadata, struct vm *vm,
		       enum trouble what, unsigned int bad)
{
	bool while_saved = what == SAVE_FAILS || what == RESET_WHILE_SAVED;
	int error[DEVICES] = {};
	size_t at = 0;
	unsigned int i;

	vm_run(_metadata, vm);
	for (i = 0; i < DEVICES; i++)
		ASSERT_EQ(0, vm_set(vm, &vm->from[i], i, STOP_COPY,
				    V2_SAVING));
	for (i = 0; i < DEVICES; i++)
		ASSERT_EQ(1, vm_save_some(vm, i));
	if (while_saved)
		ASSERT_EQ(0, vm_trouble(vm, what, bad));
	vm_save(vm, error);
	for (i = 0; i < DEVICES; i++) {
		if (while_saved && i == bad) {
			EXPECT_EQ(what == SAVE_FAILS ? ERROR : RUNNING,
				  state_get(&vm->from[i]));
			error[i] = -EIO;
			continue;
		}
		EXPECT_EQ(0, error[i]);
		EXPECT_EQ(0, vm_set(vm, &vm->from[i], i, STOP, V2_STOPPED));
	}

	for (i = 0; i < DEVICES; i++)
		ASSERT_EQ(0, vm_set(vm, &vm->to[i], i, RESUMING, V2_RESUMING));
	if (what == RESET_WHILE_LOADED)
		ASSERT_EQ(1, vm_load_some(vm, bad, &at));
	if (!while_saved)
		ASSERT_EQ(0, vm_trouble(vm, what, bad));
	vm_load(vm, error);
	for (i = 0; i < DEVICES; i++) {
		struct dev *to = &vm->to[i];

		if (what && i == bad) {
			EXPECT_GT(0, error[i]);
			continue;
		}
		EXPECT_EQ(0, error[i]);
		EXPECT_EQ(0, vm_set(vm, to, i, RUNNING, V2_RUNNING));
		EXPECT_EQ(RUNNING, state_get(to));
		EXPECT_EQ(true, same_scratch(&vm->from[i], to));
		EXPECT_EQ(IOVA + (3 + i) * PAGE,
			  reg_get64(to, MSCRATCH_REG_DMA_IOVA));
		EXPECT_EQ(2, reg_get64(to, MSCRATCH_REG_DMA_COUNT));
	}
	for (i = 0; i < DEVICES; i++) {
		ASSERT_EQ(0, debug_set(&vm->from[i], "fail_save", 0));
		ASSERT_EQ(0, debug_set(&vm->from[i], "fail_fatal", 0));
		ASSERT_EQ(0, dev_reset(&vm->from[i]));
		ASSERT_EQ(0, dev_reset(&vm->to[i]));
		EXPECT_EQ(0, migrates(&vm->from[i], &vm->to[i], 5 + i));
	}
}

TEST_F(vm, both_migrate)
{
	vm_migrate(_metadata, &self->vm, NO_TROUBLE, 0);
}

TEST_F(vm, one_fails_to_save)
{
	vm_migrate(_metadata, &self->vm, SAVE_FAILS, 0);
}

TEST_F(vm, one_is_reset_while_it_is_saved)
{
	vm_migrate(_metadata, &self->vm, RESET_WHILE_SAVED, 1);
}

TEST_F(vm, one_is_refused)
{
	vm_migrate(_metadata, &self->vm, LOAD_IS_REFUSED, 0);
}

TEST_F(vm, one_is_reset_while_it_is_loaded)
{
	vm_migrate(_metadata, &self->vm, RESET_WHILE_LOADED, 1);
}

TEST_HARNESS_MAIN
