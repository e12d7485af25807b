// SPDX-License-Identifier: GPL-2.0-only
/*
 * The migration region: states, fields, sequences, mappings and bounds, as the
 * reference device mscratch offers them by the library
 *
 * Each case has two devices of 64 KiB with pieces of 4 KiB, so that a stream
 * has many chunks.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "vfio_migration_region_lib.h"
#include "mscratch.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define TYPE		"mscratch-64k"
#define SCRATCH		(64UL << 10)
#define WINDOW		4096UL

/* Shared by the fixtures */
/*
 * Each state
 */

FIXTURE(state)
{
	struct pair p;
};

FIXTURE_VARIANT(state)
{
	unsigned int state;
};

FIXTURE_VARIANT_ADD(state, stop) { .state = STOP };
FIXTURE_VARIANT_ADD(state, running) { .state = RUNNING };
FIXTURE_VARIANT_ADD(state, stop_copy) { .state = STOP_COPY };
FIXTURE_VARIANT_ADD(state, pre_copy) { .state = PRE_COPY };
FIXTURE_VARIANT_ADD(state, resuming) { .state = RESUMING };
FIXTURE_VARIANT_ADD(state, error) { .state = ERROR };

FIXTURE_SETUP(state)
{
	ASSERT_EQ(0, pair_open(&self->p, TYPE, WINDOW));
}

FIXTURE_TEARDOWN(state)
{
	EXPECT_EQ(0, pair_close(&self->p));
}

static bool is_field(unsigned int at, unsigned int width)
{
	return ((at == OFF_STATE || at == OFF_RESERVED) && width == 4) ||
	       ((at == OFF_PENDING || at == OFF_OFFSET || at == OFF_SIZE) &&
		width == 8);
}

/* Returns what the call did: a length or a negative errno */
TEST_F(state, reads_of_every_width_at_every_offset)
{
	struct dev *d = &self->p.a;
	unsigned int at, width;
	char buf[128];

	ASSERT_EQ(0, enter(d, variant->state));
	for (at = 0; at < HEADER + 16; at++) {
		for (width = 0; width <= 64; width++) {
			long expected = is_field(at, width) || !width ?
					(long)width : -EINVAL;

			ASSERT_EQ(expected, peek(d, at, buf, width)) {
				TH_LOG("read of %u at %u", width, at);
			}
		}
	}
	/* Up to the data section, and across its border, there is nothing */
	for (at = HEADER; at < d->mig.area[0].offset; at += 7) {
		for (width = 1; width <= 8; width++) {
			ASSERT_EQ(-EINVAL, peek(d, at, buf, width));
			ASSERT_EQ(-EINVAL, poke(d, at, buf, width));
		}
	}
	EXPECT_EQ(variant->state, state_get(d));
}

TEST_F(state, writes_of_every_width_at_every_offset)
{
	struct dev *d = &self->p.a;
	unsigned int at, width;
	char buf[128] = {};

	ASSERT_EQ(0, enter(d, variant->state));
	/* Fields that are written get what changes nothing */
	memcpy(buf, &variant->state, sizeof(__u32));
	for (at = 0; at < HEADER + 16; at++) {
		for (width = 0; width <= 64; width++) {
			const void *data = at == OFF_STATE ? buf : buf + 64;
			long expected = -EINVAL;

			if (!width)
				expected = 0;
			else if (is_field(at, width) && at == OFF_RESERVED)
				expected = width;
			else if (is_field(at, width) && at == OFF_STATE)
				expected = variant->state == ERROR ?
					   -EINVAL : (long)width;
			else if (is_field(at, width) && at == OFF_SIZE)
				expected = variant->state == RESUMING ?
					   (long)width : -EINVAL;
			else if (is_field(at, width))
				expected = -EFAULT;
			ASSERT_EQ(expected, poke(d, at, data, width)) {
				TH_LOG("write of %u at %u", width, at);
			}
		}
	}
	EXPECT_EQ(variant->state, state_get(d));
}

/* A write of another width must not be taken for one of the right width */
TEST_F(state, refused_writes_change_nothing)
{
	struct dev *d = &self->p.a;
	unsigned int at, width;
	__u64 words[2] = { 0, 0 };
	char *buf = (char *)words;

	ASSERT_EQ(0, enter(d, variant->state));
	/* In another state than it is in, at each place where that would be */
	buf[0] = variant->state == RUNNING ? STOP : RUNNING;
	for (width = 1; width <= 16; width++) {
		if (width == 4)
			continue;
		EXPECT_EQ(-EINVAL, poke(d, OFF_STATE, buf, width));
		EXPECT_EQ(variant->state, state_get(d));
	}
	for (at = 1; at < 4; at++) {
		EXPECT_EQ(-EINVAL, poke(d, at, buf, 4));
		EXPECT_EQ(variant->state, state_get(d));
	}
	EXPECT_EQ(variant->state, state_get(d));
}

TEST_F(state, reserved_bits_are_refused)
{
	struct dev *d = &self->p.a;
	unsigned int bit, to;

	ASSERT_EQ(0, enter(d, variant->state));
	for (bit = 3; bit < 32; bit++) {
		for (to = STOP; to < STATES; to++) {
			EXPECT_EQ(-EINVAL, state_set(d, to | 1U << bit));
			EXPECT_EQ(variant->state, state_get(d));
		}
	}
	EXPECT_EQ(-EINVAL, state_set(d, ~0U));
	EXPECT_EQ(variant->state, state_get(d));
}

TEST_F(state, fields_before_the_first_chunk)
{
	bool saving = variant->state == STOP_COPY || variant->state == PRE_COPY;
	struct dev *d = &self->p.a;
	__u64 value;
	__u32 word;

	ASSERT_EQ(0, enter(d, variant->state));
	ASSERT_EQ(0, region_read(d, OFF_RESERVED, &word, sizeof(word)));
	EXPECT_EQ(0, word);
	word = ~0U;
	ASSERT_EQ(0, region_write(d, OFF_RESERVED, &word, sizeof(word)));
	ASSERT_EQ(0, region_read(d, OFF_RESERVED, &word, sizeof(word)));
	EXPECT_EQ(0, word);
	ASSERT_EQ(0, size_get(d, &value));
	EXPECT_EQ(0, value);
	ASSERT_EQ(0, pending_get(d, &value));
	EXPECT_EQ(saving, value > 0);
	ASSERT_EQ(0, offset_get(d, &value));
	EXPECT_LE(HEADER, value);
	EXPECT_GT(d->mig.size, value);
	/* It can be mapped, so it begins with a page */
	EXPECT_EQ(0, value % PAGE);
	ASSERT_EQ(0, size_get(d, &value));
	EXPECT_EQ(saving, value > 0);
}

TEST_F(state, pending_data_offset_are_read_only)
{
	struct dev *d = &self->p.a;
	__u64 before, after, value = 8;

	ASSERT_EQ(0, enter(d, variant->state));
	ASSERT_EQ(0, pending_get(d, &before));
	EXPECT_EQ(-EFAULT, region_write(d, OFF_PENDING, &value, sizeof(value)));
	ASSERT_EQ(0, pending_get(d, &after));
	EXPECT_EQ(before, after);
	ASSERT_EQ(0, offset_get(d, &before));
	EXPECT_EQ(-EFAULT, region_write(d, OFF_OFFSET, &value, sizeof(value)));
	ASSERT_EQ(0, offset_get(d, &after));
	EXPECT_EQ(before, after);
}

#define BUSY_CHUNKS	3

/* Begin what can be begun in the state, so that there is something to lose */
static int get_busy(const struct dev *d, unsigned int state,
		    const struct stream *s)
{
	struct chunk c;
	char buf[16];
	int ret = enter(d, state);

	if (!ret && (state == STOP_COPY || state == PRE_COPY)) {
		ret = chunk_next(d, &c) == 1 ? 0 : -EIO;
		ret = ret ?: chunk_next(d, &c) == 1 ? 0 : -EIO;
		ret = ret ?: data_read(d, c.offset, buf, 16, 16);
	}
	if (!ret && state == RESUMING)
		ret = chunks_load(d, s, 0, BUSY_CHUNKS);

	return ret;
}

TEST_F(state, reset)
{
	struct dev *d = &self->p.a;
	struct stream s = {};

	ASSERT_EQ(0, scratch_fill(&self->p.b, 3));
	ASSERT_EQ(0, save(&self->p.b, &s, BY_MMAP));
	ASSERT_EQ(0, scratch_fill(d, 4));
	ASSERT_EQ(0, get_busy(d, variant->state, &s));
	EXPECT_EQ(0, dev_reset(d));
	EXPECT_STREQ("", not_pristine(d));
	EXPECT_EQ(0, resume(d, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(d, 3));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

TEST_F(state, close_and_open_again)
{
	struct dev *d = &self->p.a;
	struct stream s = {};

	ASSERT_EQ(0, scratch_fill(&self->p.b, 3));
	ASSERT_EQ(0, save(&self->p.b, &s, BY_MMAP));
	ASSERT_EQ(0, scratch_fill(d, 4));
	ASSERT_EQ(0, get_busy(d, variant->state, &s));
	dev_close(d);
	ASSERT_EQ(0, dev_open(d));
	ASSERT_EQ(0, dev_map(d));
	EXPECT_STREQ("", not_pristine(d));
	EXPECT_EQ(0, resume(d, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(d, 3));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

TEST_F(state, killed)
{
	struct dev *d = &self->p.a;
	struct stream s = {};
	int pipefd[2], status;
	pid_t pid;
	char c;

	ASSERT_EQ(0, scratch_fill(&self->p.b, 3));
	ASSERT_EQ(0, save(&self->p.b, &s, BY_MMAP));
	dev_close(d);
	ASSERT_EQ(0, pipe2(pipefd, O_CLOEXEC));
	pid = fork();
	if (!pid) {
		close(pipefd[0]);
		c = dev_open(d) || dev_map(d) || scratch_fill(d, 4) ||
		    get_busy(d, variant->state, &s);
		if (write(pipefd[1], &c, 1) == 1)
			pause();
		_exit(1);
	}
	close(pipefd[1]);
	ASSERT_EQ(1, read(pipefd[0], &c, 1));
	EXPECT_EQ(0, c);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));

	ASSERT_EQ(0, dev_open(d));
	ASSERT_EQ(0, dev_map(d));
	EXPECT_STREQ("", not_pristine(d));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

/* Two descriptors are one device */
TEST_F(state, two_descriptors)
{
	struct dev *d = &self->p.a, second = *d;
	struct stream s = {};
	struct chunk c;
	__u64 value;

	ASSERT_EQ(0, scratch_fill(&self->p.b, 3));
	ASSERT_EQ(0, save(&self->p.b, &s, BY_MMAP));
	ASSERT_EQ(0, scratch_fill(d, 4));
	second.u.device = group_device(d->u.group, d->name);
	ASSERT_LE(0, second.u.device);
	EXPECT_EQ(RUNNING, state_get(&second));
	EXPECT_EQ(0, scratch_check(&second, 4));
	ASSERT_EQ(0, get_busy(d, variant->state, &s));
	EXPECT_EQ(variant->state, state_get(&second));
	if (variant->state == STOP_COPY || variant->state == PRE_COPY) {
		/* The chunk that the one committed is the other's as well */
		ASSERT_EQ(0, offset_get(d, &c.offset));
		ASSERT_EQ(0, size_get(d, &c.size));
		ASSERT_EQ(0, offset_get(&second, &value));
		EXPECT_EQ(c.offset, value);
		ASSERT_EQ(0, size_get(&second, &value));
		EXPECT_EQ(c.size, value);
	}
	/* One goes, with all that holds it, and the device stays as it is */
	munmap(d->map, d->mig.size);
	ASSERT_EQ(0, close(d->u.device));
	d->u.device = second.u.device;
	ASSERT_EQ(0, dev_map(d));
	EXPECT_EQ(variant->state, state_get(d));
	if (variant->state == RESUMING) {
		EXPECT_EQ(0, chunks_load(d, &s, BUSY_CHUNKS,
					 s.chunks - BUSY_CHUNKS));
		EXPECT_EQ(0, state_set(d, RUNNING));
		EXPECT_EQ(0, scratch_check(d, 3));
	}
	EXPECT_EQ(0, dev_reset(d));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

/* A child has the descriptor too; when it ends nothing happens */
TEST_F(state, forked)
{
	bool error = variant->state == ERROR || variant->state == RESUMING;
	struct dev *d = &self->p.a;
	struct stream s = {};
	int status;
	pid_t pid;

	ASSERT_EQ(0, scratch_fill(&self->p.b, 3));
	ASSERT_EQ(0, save(&self->p.b, &s, BY_MMAP));
	ASSERT_EQ(0, get_busy(d, variant->state, &s));
	pid = fork();
	if (!pid)
		_exit(state_get(d) != (int)variant->state ||
		      state_set(d, STOP) != (error ? -EINVAL : 0));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	/* Leaving RESUMING in the middle of a stream is an error */
	EXPECT_EQ(error ? ERROR : STOP, state_get(d));
	EXPECT_EQ(0, dev_reset(d));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

/* Configuration space works in every state */
TEST_F(state, configuration_space)
{
	struct dev *d = &self->p.a;
	struct region r;
	__u16 word;
	__u32 bar;
	__u8 pin;

	ASSERT_EQ(0, region_info(d->u.device, VFIO_PCI_CONFIG_REGION_INDEX, &r));
	ASSERT_EQ(0, enter(d, variant->state));
	ASSERT_EQ(2, pread(d->u.device, &word, 2, r.offset + PCI_VENDOR_ID));
	EXPECT_EQ(MSCRATCH_VENDOR_ID, word);
	ASSERT_EQ(2, pread(d->u.device, &word, 2, r.offset + PCI_DEVICE_ID));
	EXPECT_EQ(MSCRATCH_DEVICE_ID, word);
	ASSERT_EQ(1, pread(d->u.device, &pin, 1, r.offset + PCI_INTERRUPT_PIN));
	EXPECT_EQ(0, pin);
	word = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	ASSERT_EQ(2, pwrite(d->u.device, &word, 2, r.offset + PCI_COMMAND));
	word = 0;
	ASSERT_EQ(2, pread(d->u.device, &word, 2, r.offset + PCI_COMMAND));
	EXPECT_EQ(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, word);
	bar = ~0U;
	ASSERT_EQ(4, pwrite(d->u.device, &bar, 4,
			    r.offset + PCI_BASE_ADDRESS_0));
	ASSERT_EQ(4, pread(d->u.device, &bar, 4,
			   r.offset + PCI_BASE_ADDRESS_0));
	bar &= PCI_BASE_ADDRESS_MEM_MASK;
	EXPECT_EQ(0, bar + MSCRATCH_BAR0_SIZE);
	EXPECT_EQ(variant->state, state_get(d));
}

/* And so do interrupts */
TEST_F(state, interrupts)
{
	struct dev *d = &self->p.a;
	eventfd_t count;
	int fd;

	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, enter(d, variant->state));
	ASSERT_EQ(0, irq_connect(d, fd));
	ASSERT_EQ(0, irq_raise(d));
	ASSERT_EQ(0, irq_raise(d));
	EXPECT_EQ(0, eventfd_read(fd, &count));
	EXPECT_EQ(2, count);
	EXPECT_EQ(0, irq_connect(d, -1));
	EXPECT_EQ(0, irq_raise(d));
	EXPECT_EQ(-1, eventfd_read(fd, &count));
	EXPECT_EQ(variant->state, state_get(d));
}

/* A driver that fails: the state stays, or it is the error state */
TEST_F(state, driver_fails_to_leave)
{
	struct dev *d = &self->p.a;
	int to, fatal;

	for (fatal = 0; fatal < 2; fatal++) {
		for (to = STOP; to <= RESUMING; to++) {
			bool self_transition = to == (int)variant->state;

			ASSERT_EQ(0, dev_reset(d));
			ASSERT_EQ(0, enter(d, variant->state));
			ASSERT_EQ(0, debug_set(d, "fail_fatal", fatal));
			ASSERT_EQ(0, debug_set(d, "fail_state", 1 << to));
			if (variant->state == ERROR) {
				EXPECT_EQ(-EINVAL, state_set(d, to));
				EXPECT_EQ(ERROR, state_get(d));
			} else if (self_transition) {
				EXPECT_EQ(0, state_set(d, to));
				EXPECT_EQ(to, state_get(d));
			} else {
				EXPECT_EQ(-EIO, state_set(d, to));
				EXPECT_EQ(fatal ? ERROR : (int)variant->state,
					  state_get(d));
			}
			ASSERT_EQ(0, debug_set(d, "fail_state", 0));
			ASSERT_EQ(0, debug_set(d, "fail_fatal", 0));
			/* A failure that is not fatal is no obstacle later */
			if (variant->state != ERROR && !fatal) {
				EXPECT_EQ(0, state_set(d, to));
				EXPECT_EQ(to, state_get(d));
			}
		}
	}
	ASSERT_EQ(0, dev_reset(d));
	EXPECT_EQ(0, migrates(d, &self->p.b, 5));
}

/*
 * Sequences, data and refusals
 */

FIXTURE(migration)
{
	struct pair p;
};

FIXTURE_SETUP(migration)
{
	ASSERT_EQ(0, pair_open(&self->p, TYPE, WINDOW));
}

FIXTURE_TEARDOWN(migration)
{
	EXPECT_EQ(0, pair_close(&self->p));
}

/* What QEMU 7.2 does with a running guest, step by step */
TEST_F(migration, live_as_qemu_does_it)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	char *x = malloc(2 * SCRATCH), *y = x + SCRATCH;
	__u16 command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct stream s = {};
	struct region config;
	char page[PAGE];
	size_t before;

	ASSERT_EQ(0, state_set(a, RUNNING));
	ASSERT_EQ(0, scratch_fill(a, 1));
	ASSERT_EQ(0, reg_set64(a, MSCRATCH_REG_DMA_IOVA, 0x123456789abcULL));
	ASSERT_EQ(0, reg_set64(a, MSCRATCH_REG_DMA_LENGTH, 0x77));

	ASSERT_EQ(0, state_set(a, PRE_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_QEMU));
	EXPECT_LE(SCRATCH, s.size);
	/* Nothing changed: nothing comes */
	before = s.size;
	ASSERT_EQ(0, stream_save(a, &s, BY_QEMU));
	EXPECT_EQ(before, s.size);
	/* A page changed */
	pattern(page, PAGE, 9);
	ASSERT_EQ(0, scratch_write(a, 3 * PAGE, page, PAGE));
	ASSERT_EQ(0, stream_save(a, &s, BY_QEMU));
	EXPECT_LE(before + PAGE, s.size);
	EXPECT_GT(before + 3 * PAGE, s.size);
	/* Another one changes and the guest stops */
	ASSERT_EQ(0, scratch_write(a, 7 * PAGE, page, PAGE));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, stream_save(a, &s, BY_QEMU));
	EXPECT_GT(before + 5 * PAGE, s.size);
	ASSERT_EQ(0, state_set(a, STOP));

	ASSERT_EQ(0, state_set(b, RUNNING));
	ASSERT_EQ(0, state_set(b, RESUMING));
	ASSERT_EQ(0, stream_load(b, &s, BY_QEMU, 0));
	ASSERT_EQ(0, region_info(b->u.device, VFIO_PCI_CONFIG_REGION_INDEX,
				 &config));
	ASSERT_EQ(2, pwrite(b->u.device, &command, 2,
			    config.offset + PCI_COMMAND));
	ASSERT_EQ(0, state_set(b, RUNNING));

	ASSERT_EQ(0, scratch_fill(a, 1));
	ASSERT_EQ(0, scratch_write(a, 3 * PAGE, page, PAGE));
	ASSERT_EQ(0, scratch_write(a, 7 * PAGE, page, PAGE));
	ASSERT_EQ(0, scratch_read(a, 0, x, SCRATCH));
	ASSERT_EQ(0, scratch_read(b, 0, y, SCRATCH));
	EXPECT_EQ(0, memcmp(x, y, SCRATCH));
	free(x);
	EXPECT_EQ(0x123456789abcULL, reg_get64(b, MSCRATCH_REG_DMA_IOVA));
	EXPECT_EQ(0x77, reg_get64(b, MSCRATCH_REG_DMA_LENGTH));
	printf("# answer vfio-migration-region: v1 region at index %u, ",
	       a->index);
	printf("%zu bytes saved and resumed\n", s.size);
	stream_free(&s);
}

TEST_F(migration, paused_guest)
{
	struct stream s = {};

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, state_set(&self->p.a, STOP));
	ASSERT_EQ(0, state_set(&self->p.a, STOP_COPY));
	ASSERT_EQ(0, stream_save(&self->p.a, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(&self->p.a, STOP));
	/* It stays paused on the other side */
	ASSERT_EQ(0, state_set(&self->p.b, RESUMING));
	ASSERT_EQ(0, stream_load(&self->p.b, &s, BY_MMAP, 0));
	ASSERT_EQ(0, state_set(&self->p.b, STOP));
	EXPECT_EQ(0, scratch_check(&self->p.b, 1));
	EXPECT_EQ(0, state_set(&self->p.b, RUNNING));
	EXPECT_EQ(true, runs(&self->p.b));
}

TEST_F(migration, saved_and_loaded_by_one_device)
{
	struct dev *d = &self->p.a;
	struct stream s = {};

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(d, RUNNING));
	ASSERT_EQ(0, scratch_fill(d, 2));
	ASSERT_EQ(0, resume(d, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(d, 1));
	/* And again, with the same stream */
	ASSERT_EQ(0, scratch_fill(d, 2));
	ASSERT_EQ(0, resume(d, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(d, 1));
}

TEST_F(migration, back_and_forth)
{
	unsigned int round;

	for (round = 0; round < 20; round++) {
		ASSERT_EQ(0, migrates(&self->p.a, &self->p.b, 2 * round));
		ASSERT_EQ(0, migrates(&self->p.b, &self->p.a, 2 * round + 1));
	}
}

/* Cancelled at every chunk of the stream, in each of the states */
TEST_F(migration, cancelled)
{
	struct dev *d = &self->p.a;
	unsigned int n, i, way;
	struct stream s = {};
	struct chunk c;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, save(d, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(d, RUNNING));
	for (way = 0; way < 4; way++) {
		for (n = 0; n <= s.chunks; n += 3) {
			ASSERT_EQ(0, state_set(d, way & 1 ? PRE_COPY : STOP_COPY));
			for (i = 0; i < n && chunk_next(d, &c) > 0; i++)
				;
			ASSERT_EQ(0, way < 2 ? 0 :
				  state_set(d, way == 2 ? STOP : STOP_COPY));
			ASSERT_EQ(0, state_set(d, RUNNING));
			ASSERT_EQ(0, scratch_check(d, 1));
		}
	}
	ASSERT_EQ(0, migrates(d, &self->p.b, 2));
}

/* Nothing was read in pre-copy: stop-and-copy has it all */
TEST_F(migration, nothing_consumed_in_pre_copy)
{
	struct stream s = {};

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, state_set(&self->p.a, PRE_COPY));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	ASSERT_EQ(0, resume(&self->p.b, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(&self->p.b, 1));
}

TEST_F(migration, pending_is_read_without_effect)
{
	struct dev *d = &self->p.a;
	__u64 before, after;
	unsigned int i;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	ASSERT_EQ(0, pending_get(d, &before));
	EXPECT_LE(SCRATCH, before);
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, pending_get(d, &after));
		EXPECT_EQ(before, after);
	}
	EXPECT_EQ(0, migrates(d, &self->p.b, 2));
}

/*
 * pending_bytes falls to 0 as the data comes.  What frames it is counted when
 * it is known.
 */
TEST_F(migration, pending_is_what_comes)
{
	struct dev *d = &self->p.a;
	__u64 pending, sum = 0;
	unsigned int i, chunks;
	struct stream s = {};
	struct chunk c;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, save(d, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	chunks = s.chunks;
	for (i = 0; i < chunks; i++) {
		ASSERT_EQ(0, pending_get(d, &pending));
		EXPECT_LT(0, pending);
		EXPECT_GE(s.size - sum, pending);
		EXPECT_GT(64, s.size - sum - pending);
		ASSERT_EQ(1, chunk_next(d, &c));
		EXPECT_GE(WINDOW, c.size);
		sum += c.size;
	}
	ASSERT_EQ(0, pending_get(d, &pending));
	EXPECT_EQ(0, pending);
	EXPECT_EQ(s.size, sum);
	EXPECT_EQ(0, chunk_next(d, &c));
}

TEST_F(migration, chunk_stays_until_pending_is_read)
{
	struct dev *d = &self->p.a;
	char first[WINDOW], again[WINDOW];
	__u64 offset, size;
	struct chunk c;
	unsigned int i;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	while (chunk_next(d, &c) == 1) {
		ASSERT_EQ(0, data_read(d, c.offset, first, c.size, WINDOW));
		for (i = 0; i < 3; i++) {
			ASSERT_EQ(0, offset_get(d, &offset));
			ASSERT_EQ(0, size_get(d, &size));
			EXPECT_EQ(c.offset, offset);
			EXPECT_EQ(c.size, size);
			ASSERT_EQ(0, data_read(d, c.offset, again, c.size,
					       WINDOW));
			EXPECT_EQ(0, memcmp(first, again, c.size));
		}
	}
	EXPECT_EQ(STOP_COPY, state_get(d));
}

/* Neither a self-transition nor the stop moves the position in the stream */
TEST_F(migration, position_survives_transitions)
{
	struct dev *d = &self->p.a;
	unsigned int stop_at, n;
	struct stream s = {};
	struct chunk c, again;

	ASSERT_EQ(0, scratch_fill(d, 1));
	for (stop_at = 0; stop_at < 20; stop_at += 3) {
		ASSERT_EQ(0, state_set(d, PRE_COPY));
		for (n = 0; ; n++) {
			int ret = chunk_next(d, &c);

			ASSERT_LE(0, ret);
			if (!ret)
				break;
			/* With a chunk at hand */
			ASSERT_EQ(0, state_set(d, state_get(d)));
			ASSERT_EQ(0, state_set(d, n == stop_at ? STOP_COPY :
					       state_get(d)));
			ASSERT_EQ(0, offset_get(d, &again.offset));
			ASSERT_EQ(0, size_get(d, &again.size));
			EXPECT_EQ(c.offset, again.offset);
			EXPECT_EQ(c.size, again.size);
			ASSERT_EQ(0, stream_append(d, &s, &c, BY_MMAP));
			/* And with none */
			ASSERT_EQ(0, state_set(d, state_get(d)));
		}
		ASSERT_EQ(0, state_set(d, STOP_COPY));
		ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
		ASSERT_EQ(0, state_set(d, RUNNING));
		ASSERT_EQ(0, dev_reset(&self->p.b));
		ASSERT_EQ(0, resume(&self->p.b, &s, BY_MMAP, WINDOW));
		ASSERT_EQ(0, scratch_check(&self->p.b, 1));
		stream_free(&s);
	}
}

/* Position of a stream that is resumed, likewise */
TEST_F(migration, resuming_to_resuming_goes_on)
{
	struct stream s = {};
	unsigned int i;
	size_t at = 0;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(&self->p.b, RESUMING));
	for (i = 0; i < s.chunks; i++) {
		ASSERT_EQ(0, state_set(&self->p.b, RESUMING));
		ASSERT_EQ(0, stream_put(&self->p.b, s.data + at, s.end[i] - at,
					BY_MMAP));
		at = s.end[i];
	}
	ASSERT_EQ(0, state_set(&self->p.b, RESUMING));
	ASSERT_EQ(0, state_set(&self->p.b, RUNNING));
	EXPECT_EQ(0, scratch_check(&self->p.b, 1));
}

TEST_F(migration, leaving_saving_begins_anew)
{
	static const int between[] = { STOP, RUNNING, RESUMING, PRE_COPY };
	struct dev *d = &self->p.a;
	struct stream s = {};
	struct chunk c;
	unsigned int i, n;

	ASSERT_EQ(0, scratch_fill(d, 1));
	for (i = 0; i < ARRAY_SIZE(between); i++) {
		ASSERT_EQ(0, state_set(d, STOP_COPY));
		for (n = 0; n < 5; n++) {
			ASSERT_EQ(1, chunk_next(d, &c));
			ASSERT_LT(0, c.size);
		}
		ASSERT_EQ(0, state_set(d, between[i]));
		ASSERT_EQ(0, save(d, &s, BY_MMAP));
		ASSERT_EQ(0, dev_reset(&self->p.b));
		ASSERT_EQ(0, resume(&self->p.b, &s, BY_MMAP, 0));
		EXPECT_EQ(0, scratch_check(&self->p.b, 1));
		stream_free(&s);
	}
}

TEST_F(migration, resuming_without_data_changes_nothing)
{
	struct dev *d = &self->p.a;
	int to;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, reg_set64(d, MSCRATCH_REG_DMA_IOVA, 0x5000));
	for (to = STOP; to <= RESUMING; to++) {
		ASSERT_EQ(0, state_set(d, RESUMING));
		ASSERT_EQ(0, size_set(d, 0));
		EXPECT_EQ(0, state_set(d, to));
		EXPECT_EQ(0, scratch_check(d, 1));
		EXPECT_EQ(0x5000, reg_get64(d, MSCRATCH_REG_DMA_IOVA));
	}
}

/* What a guest wrote through a mapping of the BAR is not forgotten */
TEST_F(migration, mapped_bar_is_saved)
{
	struct dev *d = &self->p.a;
	struct stream s = {};
	char page[PAGE];
	char *bar;

	ASSERT_EQ(0, scratch_fill(d, 1));
	bar = mmap(NULL, SCRATCH, PROT_READ | PROT_WRITE, MAP_SHARED,
		   d->u.device, d->memory.offset);
	ASSERT_NE(MAP_FAILED, bar);
	ASSERT_EQ(0, state_set(d, PRE_COPY));
	ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
	pattern(bar + 5 * PAGE, PAGE, 8);
	ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
	pattern(bar + 5 * PAGE, PAGE, 9);
	pattern(bar + 15 * PAGE, PAGE, 9);
	ASSERT_EQ(0, save(d, &s, BY_MMAP));
	ASSERT_EQ(0, resume(&self->p.b, &s, BY_MMAP, 0));
	ASSERT_EQ(0, scratch_read(&self->p.b, 5 * PAGE, page, PAGE));
	EXPECT_EQ(0, memcmp(bar + 5 * PAGE, page, PAGE));
	ASSERT_EQ(0, scratch_read(&self->p.b, 15 * PAGE, page, PAGE));
	EXPECT_EQ(0, memcmp(bar + 15 * PAGE, page, PAGE));
	ASSERT_EQ(0, scratch_read(&self->p.b, 6 * PAGE, page, PAGE));
	EXPECT_EQ(0, memcmp(bar + 6 * PAGE, page, PAGE));
	/* The mapping lives on, and so does what is read through it */
	ASSERT_EQ(0, scratch_read(d, 5 * PAGE, page, PAGE));
	EXPECT_EQ(0, memcmp(bar + 5 * PAGE, page, PAGE));
	munmap(bar, SCRATCH);
}

/*
 * A guest that has written all of a mapped BAR goes on in pre-copy: what it does
 * not write again is not sent again, and what it does is no secret.
 */
TEST_F(migration, mapped_bar_is_sent_before_the_stop)
{
	struct dev *d = &self->p.a;
	char *bar, *seen = malloc(SCRATCH);
	struct stream s = {};
	__u64 pending;
	size_t before;
	int pass;

	bar = mmap(NULL, SCRATCH, PROT_READ | PROT_WRITE, MAP_SHARED,
		   d->u.device, d->memory.offset);
	ASSERT_NE(MAP_FAILED, bar);
	pattern(bar, SCRATCH, 1);
	ASSERT_EQ(0, state_set(d, PRE_COPY));
	ASSERT_EQ(0, pending_get(d, &pending));
	EXPECT_LE(SCRATCH, pending);
	ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
	EXPECT_LE(SCRATCH, s.size);

	for (pass = 0; pass < 3; pass++) {
		ASSERT_EQ(0, pending_get(d, &pending));
		EXPECT_EQ(0, pending);
		/* One that it writes at once, and one that it reads before */
		pattern(bar + PAGE, PAGE, 10 + pass);
		asm volatile("" : : "r"(bar[9 * PAGE]));
		pattern(bar + 9 * PAGE, PAGE, 20 + pass);
		ASSERT_EQ(0, pending_get(d, &pending));
		EXPECT_LE(2 * PAGE, pending);
		EXPECT_GT(3 * PAGE, pending);
		before = s.size;
		ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
		EXPECT_LE(2 * PAGE, s.size - before);
		EXPECT_GT(3 * PAGE, s.size - before);
	}

	pattern(bar + 5 * PAGE, PAGE, 30);
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	ASSERT_EQ(0, pending_get(d, &pending));
	EXPECT_LE(PAGE, pending);
	EXPECT_GT(2 * PAGE, pending);
	ASSERT_EQ(0, stream_save(d, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(d, STOP));
	ASSERT_EQ(0, resume(&self->p.b, &s, BY_MMAP, 0));
	ASSERT_EQ(0, scratch_read(&self->p.b, 0, seen, SCRATCH));
	EXPECT_EQ(0, memcmp(bar, seen, SCRATCH));

	/* A device of the same type has mappings of its own */
	ASSERT_EQ(0, state_set(d, RUNNING));
	EXPECT_EQ(0, migrates(d, &self->p.b, 2));
	EXPECT_EQ(0, scratch_read(d, 0, seen, SCRATCH));
	EXPECT_EQ(0, memcmp(bar, seen, SCRATCH));
	munmap(bar, SCRATCH);
	free(seen);
	stream_free(&s);
}

/*
 * The region, its mappings and its bounds
 */

TEST_F(migration, region_info)
{
	struct vfio_region_info info = { .argsz = sizeof(info) };
	struct dev *d = &self->p.a;
	unsigned int i;

	EXPECT_EQ(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
		  d->info.flags & (VFIO_DEVICE_FLAGS_PCI |
				   VFIO_DEVICE_FLAGS_RESET));
	EXPECT_EQ(MSCRATCH_NUM_REGIONS, d->info.num_regions);
	EXPECT_LE(3, d->info.num_irqs);
	EXPECT_EQ(MSCRATCH_MIGRATION_REGION, d->index);
	EXPECT_EQ(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
		  VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
		  d->mig.flags);
	EXPECT_EQ(true, d->mig.typed);
	EXPECT_EQ(true, d->mig.sparse);
	EXPECT_EQ(SCRATCH, d->memory.size);
	EXPECT_EQ(MSCRATCH_BAR0_SIZE, d->regs.size);
	/* Areas are pages behind the header, within the region, in order */
	ASSERT_EQ(2, d->mig.areas);
	for (i = 0; i < d->mig.areas; i++) {
		__u64 low = i ? d->mig.area[i - 1].offset +
				d->mig.area[i - 1].size : HEADER;

		EXPECT_LE(low, d->mig.area[i].offset);
		EXPECT_LT(0, d->mig.area[i].size);
		EXPECT_EQ(0, d->mig.area[i].offset % PAGE);
		EXPECT_EQ(0, d->mig.area[i].size % PAGE);
		EXPECT_GE(d->mig.size,
			  d->mig.area[i].offset + d->mig.area[i].size);
	}
	/* What does not fit is not written, but its size is said */
	info.index = d->index;
	ASSERT_EQ(0, ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_LT(sizeof(info), info.argsz);
	EXPECT_EQ(0, info.cap_offset);
	info.argsz = sizeof(info) - 1;
	EXPECT_EQ(-1, ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(EINVAL, errno);
	for (i = 0; i < 12; i++) {
		struct region r;

		EXPECT_EQ(i < MSCRATCH_NUM_REGIONS ? 0 : -EINVAL,
			  region_info(d->u.device, i, &r));
		EXPECT_EQ(i == d->index, r.typed);
	}
	for (i = 4; i < 32; i++) {
		struct region r;

		EXPECT_EQ(-EINVAL, region_info(d->u.device, 1U << i, &r));
		EXPECT_EQ(-EINVAL, region_info(d->u.device, -1U << i, &r));
	}
}

/* Every room between nothing and enough */
TEST_F(migration, region_info_of_every_size)
{
	struct dev *d = &self->p.a;
	struct vfio_region_info *info;
	unsigned int argsz, need = 0;
	char buf[256];

	info = (void *)buf;
	for (argsz = 0; argsz < 200; argsz++) {
		memset(buf, 0xa5, sizeof(buf));
		info->argsz = argsz;
		info->index = d->index;
		if (argsz < sizeof(*info)) {
			EXPECT_EQ(-1, ioctl(d->u.device,
					    VFIO_DEVICE_GET_REGION_INFO, info));
			EXPECT_EQ(EINVAL, errno);
			continue;
		}
		ASSERT_EQ(0, ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO,
				   info));
		if (!need)
			need = info->argsz;
		if (argsz < need) {
			EXPECT_EQ(need, info->argsz);
			EXPECT_EQ(0, info->cap_offset);
		} else {
			EXPECT_LE(sizeof(*info), info->cap_offset);
			EXPECT_GT(need, info->cap_offset);
		}
		EXPECT_EQ(0xa5, (unsigned char)buf[argsz > need ? argsz : need]);
	}
}

static bool maps(const struct dev *d, __u64 at, size_t len, int prot, int flags)
{
	void *p = mmap(NULL, len, prot, flags, d->u.device, d->mig.offset + at);

	if (p == MAP_FAILED)
		return false;
	munmap(p, len);

	return true;
}

TEST_F(migration, mappings)
{
	struct dev *d = &self->p.a;
	struct area *memory = &d->mig.area[0], *window = &d->mig.area[1];
	int rw = PROT_READ | PROT_WRITE;
	__u64 at;

	/* The header is never mapped, alone or with what follows */
	EXPECT_EQ(false, maps(d, 0, PAGE, PROT_READ, MAP_SHARED));
	EXPECT_EQ(false, maps(d, 0, PAGE, rw, MAP_SHARED));
	EXPECT_EQ(false, maps(d, 0, 2 * PAGE, PROT_READ, MAP_SHARED));
	EXPECT_EQ(false, maps(d, 0, d->mig.size, rw, MAP_SHARED));
	EXPECT_EQ(false, maps(d, 0, 1, PROT_READ, MAP_SHARED));

	/* Every page of an area, and every run of pages */
	for (at = 0; at < memory->size; at += PAGE) {
		EXPECT_EQ(true, maps(d, memory->offset + at, PAGE, PROT_READ,
				     MAP_SHARED));
		EXPECT_EQ(true, maps(d, memory->offset + at, memory->size - at,
				     PROT_READ, MAP_SHARED));
		EXPECT_EQ(false, maps(d, memory->offset + at,
				      memory->size - at + PAGE, PROT_READ,
				      MAP_SHARED));
	}
	EXPECT_EQ(true, maps(d, window->offset, window->size, rw, MAP_SHARED));
	EXPECT_EQ(true, maps(d, window->offset, window->size, PROT_READ,
			     MAP_SHARED));
	EXPECT_EQ(false, maps(d, window->offset, window->size + PAGE, rw,
			      MAP_SHARED));
	EXPECT_EQ(false, maps(d, window->offset - PAGE, 2 * PAGE, rw,
			      MAP_SHARED));
	EXPECT_EQ(false, maps(d, d->mig.size, PAGE, PROT_READ, MAP_SHARED));
	EXPECT_EQ(false, maps(d, d->mig.size + PAGE, PAGE, PROT_READ,
			      MAP_SHARED));
	EXPECT_EQ(false, maps(d, window->offset, PAGE, rw, MAP_PRIVATE));
	EXPECT_EQ(false, maps(d, memory->offset, PAGE, PROT_READ, MAP_PRIVATE));
	/* Far away, and where the sum wraps */
	for (at = 1ULL << 20; at < 1ULL << 39; at <<= 1) {
		EXPECT_EQ(false, maps(d, at, PAGE, PROT_READ, MAP_SHARED));
		EXPECT_EQ(false, maps(d, at, PAGE, rw, MAP_SHARED));
	}
	EXPECT_EQ(false, maps(d, PAGE, 1UL << 38, PROT_READ, MAP_SHARED));
	EXPECT_EQ(false, maps(d, PAGE, 1UL << 46, PROT_READ, MAP_SHARED));
}

/* The signal that a write gets, or 0 */
static int write_fault(char *p)
{
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		*p = 1;
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;

	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* The device's memory is there to be read */
TEST_F(migration, memory_cannot_be_written_by_its_mapping)
{
	struct dev *d = &self->p.a;
	__u64 at = d->mig.area[0].offset;
	int state;

	ASSERT_EQ(0, scratch_fill(d, 1));
	for (state = STOP; state <= RESUMING; state++) {
		ASSERT_EQ(0, state_set(d, state));
		EXPECT_EQ(SIGBUS, write_fault(d->map + at));
		EXPECT_EQ(SIGBUS, write_fault(d->map + at + SCRATCH - 1));
		EXPECT_EQ(-EINVAL, poke(d, at, "x", 1));
		EXPECT_EQ(0, write_fault(d->map + d->mig.area[1].offset));
	}
	ASSERT_EQ(0, state_set(d, RUNNING));
	EXPECT_EQ(0, scratch_check(d, 1));
}

/* Whatever a program does to its mappings later */
TEST_F(migration, mappings_changed_later)
{
	struct dev *d = &self->p.a;
	__u64 at = d->mig.area[0].offset, window = d->mig.area[1].offset;
	char *p;

	ASSERT_EQ(0, scratch_fill(d, 1));
	p = mmap(NULL, SCRATCH, PROT_READ, MAP_SHARED, d->u.device,
		 d->mig.offset + at);
	ASSERT_NE(MAP_FAILED, p);
	/* They are no memory of a program that it could drop */
	EXPECT_EQ(-1, madvise(p, SCRATCH, MADV_DONTNEED));
	EXPECT_EQ(0, memcmp(p, d->map + at, SCRATCH));
	/* What is made writable is still not written */
	ASSERT_EQ(0, mprotect(p, SCRATCH, PROT_READ | PROT_WRITE));
	EXPECT_EQ(SIGBUS, write_fault(p + 5 * PAGE));
	EXPECT_EQ(SIGBUS, write_fault(p + 6 * PAGE));
	/* It is data, no program */
	EXPECT_EQ(-1, mprotect(p, SCRATCH, PROT_READ | PROT_EXEC));
	EXPECT_EQ(false, maps(d, at, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED));
	EXPECT_EQ(false, maps(d, window, PAGE, PROT_READ | PROT_EXEC,
			      MAP_SHARED));
	/* It does not grow into what is behind it */
	EXPECT_EQ(MAP_FAILED, mremap(p, SCRATCH, SCRATCH + PAGE,
				     MREMAP_MAYMOVE));
	/* A part of it is a mapping, too, and a copy of it */
	ASSERT_EQ(0, munmap(p, 3 * PAGE));
	EXPECT_EQ(0, memcmp(p + 3 * PAGE, d->map + at + 3 * PAGE, PAGE));
	p = mremap(p + 3 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   p);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, memcmp(p, d->map + at + 3 * PAGE, PAGE));
	EXPECT_EQ(SIGBUS, write_fault(p));
	munmap(p, SCRATCH);
	EXPECT_EQ(0, scratch_check(d, 1));
	EXPECT_EQ(-1, madvise(d->map + window, WINDOW, MADV_DONTNEED));
	EXPECT_EQ(0, write_fault(d->map + window));
	EXPECT_EQ(0, migrates(d, &self->p.b, 2));
}

/* Calls whose buffer is a mapping of the device that is called */
TEST_F(migration, buffers_in_the_device)
{
	struct dev *d = &self->p.a, *b = &self->p.b;
	__u64 memory = d->mig.area[0].offset, window = d->mig.area[1].offset;
	struct stream s = {};
	struct chunk c;
	char *bar;

	ASSERT_EQ(0, scratch_fill(d, 1));
	bar = mmap(NULL, SCRATCH, PROT_READ | PROT_WRITE, MAP_SHARED,
		   d->u.device, d->memory.offset);
	ASSERT_NE(MAP_FAILED, bar);
	/* From the scratch memory to itself, by either of its mappings */
	EXPECT_EQ(0, scratch_write(d, 8 * PAGE, bar, PAGE));
	EXPECT_EQ(0, scratch_write(d, 9 * PAGE, d->map + memory, PAGE));
	EXPECT_EQ(0, memcmp(bar, bar + 8 * PAGE, PAGE));
	EXPECT_EQ(0, memcmp(bar, bar + 9 * PAGE, PAGE));
	EXPECT_EQ(0, scratch_read(d, 0, bar + 10 * PAGE, PAGE));
	EXPECT_EQ(0, memcmp(bar, bar + 10 * PAGE, PAGE));
	/* A read-only mapping is no place to read to */
	EXPECT_GT(0, scratch_read(d, 0, d->map + memory, 64));
	/* Fields, into the device's memory and its window */
	EXPECT_EQ(4, peek(d, OFF_STATE, bar, 4));
	EXPECT_EQ(RUNNING, bar[0]);
	EXPECT_EQ(8, peek(d, OFF_PENDING, d->map + window, 8));
	EXPECT_EQ(-EFAULT, peek(d, OFF_STATE, d->map + memory, 4));
	bar[0] = STOP_COPY;
	EXPECT_EQ(4, poke(d, OFF_STATE, bar, 4));
	EXPECT_EQ(STOP_COPY, state_get(d));
	/* Data into the window that it may come from */
	ASSERT_EQ(1, chunk_next(d, &c));
	EXPECT_EQ(0, region_read(d, c.offset, d->map + window, c.size));
	ASSERT_EQ(0, state_set(d, RUNNING));
	/* A window that is filled from the memory, and from itself */
	ASSERT_EQ(0, save(b, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(d, RESUMING));
	EXPECT_EQ(0, region_write(d, window, bar, PAGE));
	EXPECT_EQ(0, region_write(d, window, d->map + memory, PAGE));
	EXPECT_EQ(0, region_write(d, window, d->map + window, PAGE));
	EXPECT_EQ(0, memcmp(bar, d->map + window, PAGE));
	ASSERT_EQ(0, stream_load(d, &s, WINDOW, 0));
	ASSERT_EQ(0, state_set(d, RUNNING));
	EXPECT_EQ(true, all_zero(bar, SCRATCH));
	munmap(bar, SCRATCH);
	ASSERT_EQ(0, state_set(b, RUNNING));
	EXPECT_EQ(0, migrates(d, b, 2));
}

/* A mapping that outlives the descriptor, the group and the container */
TEST_F(migration, mapping_outlives_the_descriptor)
{
	struct dev *d = &self->p.a;
	unsigned long sum = 0;
	char *map = d->map;
	size_t i;

	ASSERT_EQ(0, state_set(d, RESUMING));
	memset(map + d->mig.area[1].offset, 0x5a, WINDOW);
	user_close(&d->u);
	for (i = d->mig.area[0].offset; i < d->mig.size; i++)
		sum += (unsigned char)map[i];
	/* The memory of a new device is zero */
	EXPECT_EQ(0x5a * WINDOW, sum);
	munmap(map, d->mig.size);
	d->map = NULL;
	ASSERT_EQ(0, dev_open(d));
	ASSERT_EQ(0, dev_map(d));
	EXPECT_STREQ("", not_pristine(d));
}

/* What is behind the data of a chunk, up to the end of its page */
TEST_F(migration, nothing_behind_the_data)
{
	struct dev *d = &self->p.a;
	__u64 window = window_offset(d);
	unsigned int short_ones = 0;
	struct chunk c;

	ASSERT_EQ(0, scratch_fill(d, 1));
	/* What was loaded, and what was saved before, fills the window */
	ASSERT_EQ(0, state_set(d, RESUMING));
	memset(d->map + window, 0x5a, WINDOW);
	ASSERT_EQ(0, state_set(d, PRE_COPY));
	for (;;) {
		int ret = chunk_next(d, &c);

		ASSERT_LE(0, ret);
		if (!ret && state_get(d) == STOP_COPY)
			break;
		if (!ret) {
			ret = state_set(d, STOP_COPY);
			ASSERT_EQ(0, ret);
			continue;
		}
		if (c.offset != window || c.size == WINDOW)
			continue;
		short_ones++;
		EXPECT_EQ(true, all_zero(d->map + window + c.size,
					 WINDOW - c.size));
	}
	EXPECT_LT(1, short_ones);
}

TEST_F(migration, hostile_offsets)
{
	static const __u64 far[] = {
		1ULL << 12, 1ULL << 20, 1ULL << 31, 1ULL << 32, 1ULL << 39,
	};
	struct dev *d = &self->p.a;
	__u64 end = d->mig.size;
	char buf[64] = {};
	unsigned int i, state;

	for (state = STOP; state <= RESUMING; state++) {
		ASSERT_EQ(0, state_set(d, state));
		for (i = 1; i <= sizeof(buf); i++) {
			EXPECT_EQ(-EINVAL, peek(d, end, buf, i));
			EXPECT_EQ(-EINVAL, poke(d, end, buf, i));
			EXPECT_EQ(-EINVAL, peek(d, end - i + 1, buf, i));
			EXPECT_EQ(-EINVAL, poke(d, end - i + 1, buf, i));
			EXPECT_EQ(-EINVAL, peek(d, PAGE - i, buf, i + 1));
			EXPECT_EQ(-EINVAL, poke(d, PAGE - i, buf, i + 1));
		}
		for (i = 0; i < ARRAY_SIZE(far); i++) {
			EXPECT_EQ(-EINVAL, peek(d, end + far[i], buf, 8));
			EXPECT_EQ(-EINVAL, poke(d, end + far[i], buf, 8));
		}
		/* The widest that a call can be; its sum with the offset wraps */
		EXPECT_GT(0, peek(d, PAGE, buf, SSIZE_MAX));
		EXPECT_GT(0, poke(d, PAGE, buf, SSIZE_MAX));
		EXPECT_GT(0, peek(d, LLONG_MAX - 7 - d->mig.offset, buf, 8));
		EXPECT_GT(0, poke(d, LLONG_MAX - 7 - d->mig.offset, buf, 8));
		EXPECT_GT(0, peek(d, -d->mig.offset - 8, buf, 8));
		EXPECT_GT(0, poke(d, 1ULL << 63, buf, 8));
		EXPECT_EQ(state, state_get(d));
	}
	ASSERT_EQ(0, state_set(d, RUNNING));
	EXPECT_EQ(0, migrates(d, &self->p.b, 1));
}

TEST_F(migration, hostile_sizes)
{
	struct dev *d = &self->p.b;
	struct stream s = {};
	unsigned int bit;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(d, RESUMING));
	ASSERT_EQ(0, stream_put(d, s.data, s.end[0], BY_MMAP));
	EXPECT_EQ(-EINVAL, size_set(d, WINDOW + 1));
	EXPECT_EQ(-EINVAL, size_set(d, ~0ULL));
	EXPECT_EQ(-EINVAL, size_set(d, ~0ULL - WINDOW));
	for (bit = 13; bit < 64; bit++) {
		EXPECT_EQ(-EINVAL, size_set(d, 1ULL << bit));
		EXPECT_EQ(-EINVAL, size_set(d, (1ULL << bit) + 8));
		EXPECT_EQ(-EINVAL, size_set(d, -1ULL << bit));
	}
	EXPECT_EQ(RESUMING, state_get(d));
	EXPECT_EQ(0, size_set(d, 0));
	ASSERT_EQ(0, dev_reset(d));
	EXPECT_EQ(0, resume(d, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(d, 1));
}

/* data_size is the program's to write while RESUMING, and then alone */
TEST_F(migration, data_size_outside_resuming)
{
	struct dev *d = &self->p.a;
	struct chunk c;
	__u64 size;
	int state;

	for (state = STOP; state <= PRE_COPY; state++) {
		ASSERT_EQ(0, state_set(d, state));
		EXPECT_EQ(-EINVAL, size_set(d, 0));
		EXPECT_EQ(-EINVAL, size_set(d, 8));
		EXPECT_EQ(-EINVAL, poke(d, window_offset(d), "data", 4));
		EXPECT_EQ(state, state_get(d));
	}
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	ASSERT_EQ(1, chunk_next(d, &c));
	EXPECT_EQ(-EINVAL, size_set(d, 1));
	ASSERT_EQ(0, size_get(d, &size));
	EXPECT_EQ(c.size, size);
	EXPECT_EQ(0, state_set(d, RUNNING));
	EXPECT_EQ(0, migrates(d, &self->p.b, 1));
}

TEST_F(migration, hostile_buffers)
{
	struct dev *d = &self->p.a, *b = &self->p.b;
	void *bad = (void *)8, *gone;
	struct stream s = {};
	struct chunk c;

	gone = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, gone);
	EXPECT_EQ(-EFAULT, peek(d, OFF_STATE, bad, 4));
	EXPECT_EQ(-EFAULT, poke(d, OFF_STATE, bad, 4));
	EXPECT_EQ(-EFAULT, peek(d, OFF_PENDING, gone, 8));
	EXPECT_EQ(RUNNING, state_get(d));
	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	while (chunk_next(d, &c) == 1) {
		EXPECT_EQ(-EFAULT, peek(d, c.offset, gone, c.size));
		ASSERT_EQ(0, stream_append(d, &s, &c, WINDOW));
	}
	ASSERT_EQ(0, state_set(b, RESUMING));
	EXPECT_EQ(-EFAULT, poke(b, window_offset(b), gone, WINDOW));
	EXPECT_EQ(-EFAULT, poke(b, OFF_SIZE, gone, 8));
	ASSERT_EQ(0, stream_load(b, &s, WINDOW, WINDOW));
	ASSERT_EQ(0, state_set(b, RUNNING));
	EXPECT_EQ(0, scratch_check(b, 1));
	EXPECT_EQ(-1, ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO, gone));
	EXPECT_EQ(EFAULT, errno);
	stream_free(&s);
}

/* What is no interrupt is refused, and leaves the one that there is */
TEST_F(migration, interrupts_with_odd_arguments)
{
#define TRIGGER	VFIO_IRQ_SET_ACTION_TRIGGER
#define NONE	VFIO_IRQ_SET_DATA_NONE
#define BOOL	VFIO_IRQ_SET_DATA_BOOL
#define EVENTFD	VFIO_IRQ_SET_DATA_EVENTFD
#define MSI	VFIO_PCI_MSI_IRQ_INDEX
	static const struct {
		__u32 argsz, flags, index, start, count;
		__s32 data;
		int error;
		unsigned int rings;
	} odd[] = {
		/* Too small for itself, and for what it says it has */
		{ 0, TRIGGER | NONE, MSI, 0, 1, 0, EINVAL, 0 },
		{ 19, TRIGGER | NONE, MSI, 0, 1, 0, EINVAL, 0 },
		{ 20, TRIGGER | BOOL, MSI, 0, 1, 1, EINVAL, 0 },
		{ 20, TRIGGER | EVENTFD, MSI, 0, 1, -1, EINVAL, 0 },
		{ 23, TRIGGER | EVENTFD, MSI, 0, 1, -1, EINVAL, 0 },
		/* Interrupts that there are not */
		{ 24, TRIGGER | NONE, MSI, 1, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, MSI, 0, 2, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, MSI, 1, ~0U, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, MSI, ~0U, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, MSI, 0, ~0U, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, MSI, 1, 0, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, VFIO_PCI_INTX_IRQ_INDEX, 0, 0, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, VFIO_PCI_MSIX_IRQ_INDEX, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, VFIO_PCI_ERR_IRQ_INDEX, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE, ~0U, 0, 1, 0, EINVAL, 0 },
		/* Flags that there are not, or that do not go together */
		{ 24, TRIGGER | NONE | 1U << 6, MSI, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE | 1U << 31, MSI, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER, MSI, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | NONE | BOOL, MSI, 0, 1, 1, EINVAL, 0 },
		{ 24, TRIGGER | BOOL | EVENTFD, MSI, 0, 1, 1, EINVAL, 0 },
		{ 24, NONE, MSI, 0, 1, 0, ENOTTY, 0 },
		{ 24, VFIO_IRQ_SET_ACTION_MASK | NONE, MSI, 0, 1, 0, ENOTTY, 0 },
		{ 24, VFIO_IRQ_SET_ACTION_UNMASK | NONE, MSI, 0, 1, 0, ENOTTY, 0 },
		{ 24, TRIGGER | VFIO_IRQ_SET_ACTION_MASK | NONE, MSI, 0, 1, 0, ENOTTY, 0 },
		/* What is no eventfd: closed, another file, another number */
		{ 24, TRIGGER | EVENTFD, MSI, 0, 1, 1023, EBADF, 0 },
		{ 24, TRIGGER | EVENTFD, MSI, 0, 1, 0, EINVAL, 0 },
		{ 24, TRIGGER | EVENTFD, MSI, 0, 1, -2, EINVAL, 0 },
		{ 24, TRIGGER | EVENTFD, MSI, 0, 0, -1, EINVAL, 0 },
		/* And what is right: whether to raise it is in the data */
		{ 24, TRIGGER | BOOL, MSI, 0, 1, 0, 0, 0 },
		{ 24, TRIGGER | BOOL, MSI, 0, 0, 1, 0, 0 },
		{ 24, TRIGGER | BOOL, MSI, 0, 1, 1, 0, 1 },
		{ 20, TRIGGER | NONE, MSI, 0, 1, 0, 0, 1 },
	};
	struct {
		struct vfio_irq_set set;
		__s32 data;
	} arg;
	struct dev *d = &self->p.a;
	eventfd_t count;
	unsigned int i;
	int fd, null;

	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ASSERT_LE(0, fd);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, null);
	close(1023);
	ASSERT_EQ(0, irq_connect(d, fd));
	for (i = 0; i < ARRAY_SIZE(odd); i++) {
		arg.set.argsz = odd[i].argsz;
		arg.set.flags = odd[i].flags;
		arg.set.index = odd[i].index;
		arg.set.start = odd[i].start;
		arg.set.count = odd[i].count;
		arg.data = (odd[i].flags & EVENTFD) && !odd[i].data ? null :
			   odd[i].data;
		errno = 0;
		EXPECT_EQ(odd[i].error ? -1 : 0,
			  ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, &arg)) {
			TH_LOG("arguments %u", i);
		}
		EXPECT_EQ(odd[i].error, errno) {
			TH_LOG("arguments %u", i);
		}
		count = 0;
		EXPECT_EQ(odd[i].rings ? 0 : -1, eventfd_read(fd, &count)) {
			TH_LOG("arguments %u", i);
		}
		EXPECT_EQ(odd[i].rings, count);
	}
	EXPECT_EQ(-1, ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, (void *)8));
	EXPECT_EQ(EFAULT, errno);
	/* It is still connected */
	ASSERT_EQ(0, irq_raise(d));
	EXPECT_EQ(0, eventfd_read(fd, &count));
	EXPECT_EQ(1, count);
	close(null);
	close(fd);
#undef TRIGGER
#undef NONE
#undef BOOL
#undef EVENTFD
#undef MSI
}

/* What a device without the region looks like */
TEST_F(migration, without_a_region)
{
	struct dev d;

	ASSERT_EQ(0, param_set("migration", 0));
	ASSERT_EQ(0, dev_create(&d, TYPE, 2));
	EXPECT_EQ(-ENOENT, dev_open(&d));
	EXPECT_EQ(0, dev_remove(&d));
	EXPECT_EQ(0, params_default());
}

/* The device can be taken away only when nobody uses it */
TEST_F(migration, created_and_removed)
{
	struct dev d;
	int i;

	for (i = 0; i < 50; i++) {
		ASSERT_EQ(0, dev_create(&d, TYPE, 2));
		if (i % 2) {
			ASSERT_EQ(0, dev_open(&d));
			ASSERT_EQ(0, state_set(&d, STOP_COPY));
			dev_close(&d);
		}
		ASSERT_EQ(0, dev_remove(&d));
	}
}

TEST_HARNESS_MAIN
