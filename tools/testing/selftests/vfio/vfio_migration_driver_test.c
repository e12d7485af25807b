// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the migration library owes to a driver, and what it does with one that
 * fails or is wrong, by the programmable driver in test_modules
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "vfio_migration_v2_lib.h"
#include "vfio_test_migration.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define DEVICE		"/dev/vfio_test_migration"
#define STATE		20000UL
#define MEMORY		8192UL
#define SECTION		16384UL
#define SECTION_LEN	1000U
#define WINDOW		700U

static const struct vfio_test_migration usual = {
	.state_size	= STATE,
	.memory_size	= MEMORY,
	.version	= 3,
	.window		= WINDOW,
	.section_pos	= SECTION,
	.section_len	= SECTION_LEN,
	.next		= 1,
	.quiesce	= 1,
};

static int make(struct dev *d, const struct vfio_test_migration *config)
{
	int ret;

	memset(d, 0, sizeof(*d));
	d->u.device = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (d->u.device < 0)
		return -errno;
	d->memory.size = config->state_size;
	if (!ioctl(d->u.device, VFIO_TEST_MIGRATION_CREATE, config))
		return region_info(d->u.device, 0, &d->mig);
	ret = -errno;
	close(d->u.device);
	d->u.device = -1;

	return ret;
}

static int fails(const struct dev *d, unsigned int callback, unsigned int after,
		 int error)
{
	struct vfio_test_failure fault = {
		.callback = callback, .after = after, .error = error,
	};

	return ioctl(d->u.device, VFIO_TEST_MIGRATION_FAULT, &fault) ?
	       -errno : 0;
}

static struct vfio_test_calls_made calls(const struct dev *d)
{
	struct vfio_test_calls_made made = { .wrong = ~0U };

	ioctl(d->u.device, VFIO_TEST_MIGRATION_CALLS, &made);

	return made;
}

static int state(const struct dev *d, size_t pos, void *buf, size_t len,
		 bool write)
{
	struct vfio_test_state arg = {
		.pos = pos, .len = len, .buf = (uintptr_t)buf, .write = write,
	};

	return ioctl(d->u.device, VFIO_TEST_MIGRATION_STATE, &arg) ? -errno : 0;
}

static int state_fill(const struct dev *d, __u64 seed)
{
	char buf[STATE];

	pattern(buf, STATE, seed);

	return state(d, 0, buf, STATE, true);
}

/* 0 if it is what state_fill() wrote, 1 if not */
static int state_check(const struct dev *d, __u64 seed)
{
	char want[STATE], have[STATE];

	pattern(want, STATE, seed);

	return state(d, 0, have, STATE, false) ?: !!memcmp(want, have, STATE);
}

FIXTURE(driver)
{
	struct dev a;
	struct dev b;
	struct stream s;
	struct stream t;
};

FIXTURE_SETUP(driver)
{
	ASSERT_EQ(0, make(&self->a, &usual));
	ASSERT_EQ(0, make(&self->b, &usual));
	ASSERT_EQ(0, state_fill(&self->a, 1));
}

FIXTURE_TEARDOWN(driver)
{
	struct vfio_test_calls_made made;
	struct dev *d[] = { &self->a, &self->b };
	unsigned int i;

	/* Whatever has happened, a reset makes good devices of them */
	for (i = 0; i < TEST_CALLBACKS; i++) {
		EXPECT_EQ(0, fails(&self->a, i, 0, 0));
		EXPECT_EQ(0, fails(&self->b, i, 0, 0));
	}
	EXPECT_EQ(0, dev_reset(&self->a));
	EXPECT_EQ(0, dev_reset(&self->b));
	EXPECT_EQ(0, state_fill(&self->a, 9));
	stream_free(&self->s);
	EXPECT_EQ(0, v2_save(&self->a, &self->s, 5000));
	EXPECT_EQ(0, v2_load(&self->b, &self->s, 5000));
	EXPECT_EQ(0, state_check(&self->b, 9));
	stream_free(&self->s);
	stream_free(&self->t);
	for (i = 0; i < 2; i++) {
		made = calls(d[i]);
		EXPECT_EQ(0, made.wrong);
		EXPECT_EQ(1, made.running || !i);
		close(d[i]->u.device);
	}
}

/*
 * What a device is made with
 */

TEST(each_wrong_parameter_is_refused)
{
	struct vfio_test_migration config = usual;
	struct dev d;
	unsigned int i;

	for (i = TEST_RIGHT + 1; i < TEST_WRONG; i++) {
		config.wrong = i;
		EXPECT_EQ(-EINVAL, make(&d, &config)) {
			TH_LOG("parameter %u", i);
		}
		if (d.u.device >= 0)
			close(d.u.device);
	}
	config.wrong = TEST_RIGHT;
	ASSERT_EQ(0, make(&d, &config));
	close(d.u.device);
}

/* Each kind of driver, by both versions */
TEST(each_kind_of_driver_migrates)
{
	unsigned int kind;

	for (kind = 0; kind < 64; kind++) {
		struct vfio_test_migration config = usual;
		struct stream s = {}, t = {};
		struct dev a, b;
		__u64 flags, want = V2_STOP_COPY;

		TH_LOG("kind %#x", kind);
		config.next = kind & 1;
		config.quiesce = !!(kind & 2);
		config.memory_size = kind & 4 ? MEMORY : 0;
		config.section_pos = kind & 8 ? SECTION : 0;
		config.oldest = kind & 16 ? 1 : 0;
		config.mmap = !!(kind & 32);
		if (kind & 32)
			config.window = 4096;
		if (config.next)
			want |= V2_PRE_COPY;
		if (config.quiesce)
			want |= V2_P2P;
		ASSERT_EQ(0, make(&a, &config));
		ASSERT_EQ(0, make(&b, &config));
		ASSERT_EQ(0, state_fill(&a, kind));
		ASSERT_EQ(0, v2_flags(&a, &flags));
		EXPECT_EQ(want, flags);
		EXPECT_EQ(config.next ? 0 : -EINVAL,
			  v2_go(&a, V2_RUNNING_SAVING));
		EXPECT_EQ(0, v2_go(&a, V2_RUNNING));
		EXPECT_EQ(config.quiesce ? 0 : -EINVAL,
			  v2_go(&a, V2_RUNNING_P2P));
		EXPECT_EQ(config.next && config.quiesce ? 0 : -EINVAL,
			  v2_go(&a, V2_RUNNING_P2P_SAVING));
		EXPECT_EQ(0, v2_go(&a, V2_RUNNING));

		ASSERT_EQ(0, v2_save(&a, &s, 3000));
		ASSERT_EQ(0, v2_load(&b, &s, 3000));
		EXPECT_EQ(0, state_check(&b, kind));
		ASSERT_EQ(0, state_set(&a, RUNNING));
		ASSERT_EQ(0, state_set(&a, PRE_COPY));
		ASSERT_EQ(0, stream_save(&a, &t, 512));
		ASSERT_EQ(0, state_set(&a, STOP_COPY));
		ASSERT_EQ(0, stream_save(&a, &t, 512));
		ASSERT_EQ(0, dev_reset(&b));
		ASSERT_EQ(0, resume(&b, &t, 512, 0));
		EXPECT_EQ(0, state_check(&b, kind));
		EXPECT_EQ(0, calls(&a).wrong);
		EXPECT_EQ(0, calls(&b).wrong);
		if (config.section_pos) {
			EXPECT_EQ(SECTION_LEN, calls(&a).smallest);
			EXPECT_EQ(SECTION_LEN, calls(&b).smallest);
		}
		close(a.u.device);
		close(b.u.device);
		stream_free(&s);
		stream_free(&t);
	}
}

/* All of the state in memory: there is nothing to call */
TEST(state_that_is_all_memory)
{
	struct vfio_test_migration config = usual;
	struct stream s = {};
	struct dev a, b;
	char seen[6];

	config.state_size = 16384;
	config.memory_size = 16384;
	config.section_pos = 0;
	config.next = 0;
	ASSERT_EQ(0, make(&a, &config));
	ASSERT_EQ(0, make(&b, &config));
	ASSERT_EQ(0, state(&a, 5000, "memory", 6, true));
	ASSERT_EQ(0, v2_save(&a, &s, 3000));
	ASSERT_EQ(0, v2_load(&b, &s, 3000));
	ASSERT_EQ(0, state(&b, 5000, seen, 6, false));
	EXPECT_EQ(0, memcmp(seen, "memory", 6));
	close(a.u.device);
	close(b.u.device);
	stream_free(&s);
}

/*
 * Callbacks that fail
 */

/* On the way to each state: the error arrives, and can be tried again */
static const struct {
	unsigned int callback;
	int to;
	int stays;		/* by version 2 */
	int v1_to;
} ways[] = {
	{ TEST_STOP, V2_STOPPED, V2_RUNNING_P2P, STOP },
	{ TEST_QUIESCE, V2_RUNNING_P2P, V2_RUNNING, -1 },
	{ TEST_SAVE_BEGIN, V2_RUNNING_SAVING, V2_RUNNING, PRE_COPY },
	{ TEST_SAVE_BEGIN, V2_SAVING, V2_STOPPED, STOP_COPY },
	{ TEST_STOP, V2_RESUMING, V2_RUNNING_P2P, RESUMING },
};

TEST_F(driver, failures_on_the_way)
{
	struct dev *a = &self->a;
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		TH_LOG("way %u", i);
		ASSERT_EQ(0, dev_reset(a));
		ASSERT_EQ(0, fails(a, ways[i].callback, 0, -ENOSPC));
		EXPECT_EQ(-ENOSPC, v2_set(a, ways[i].to, &fd));
		EXPECT_EQ(-1, fd);
		EXPECT_EQ(ways[i].stays, v2_get(a));
		ASSERT_EQ(0, fails(a, ways[i].callback, 0, 0));
		EXPECT_EQ(0, v2_go(a, ways[i].to));
		EXPECT_EQ(ways[i].to, v2_get(a));

		/* The most common errno is an error as all others */
		ASSERT_EQ(0, dev_reset(a));
		ASSERT_EQ(0, fails(a, ways[i].callback, 0, -EIO));
		EXPECT_EQ(-EIO, v2_set(a, ways[i].to, &fd));
		EXPECT_EQ(ways[i].stays, v2_get(a));

		/* And one of them is the end of the device */
		ASSERT_EQ(0, dev_reset(a));
		ASSERT_EQ(0, fails(a, ways[i].callback, 0, -ENOTRECOVERABLE));
		EXPECT_EQ(-ENOTRECOVERABLE, v2_set(a, ways[i].to, &fd));
		EXPECT_EQ(V2_ERROR, v2_get(a));
		EXPECT_EQ(-EINVAL, v2_go(a, V2_RUNNING));

		ASSERT_EQ(0, fails(a, ways[i].callback, 0, 0));
		if (ways[i].v1_to < 0)
			continue;
		ASSERT_EQ(0, dev_reset(a));
		ASSERT_EQ(0, fails(a, ways[i].callback, 0, -ENOSPC));
		EXPECT_EQ(-ENOSPC, state_set(a, ways[i].v1_to));
		EXPECT_EQ(RUNNING, state_get(a));
		EXPECT_EQ(1, calls(a).running);
		ASSERT_EQ(0, fails(a, ways[i].callback, 0, 0));
		EXPECT_EQ(0, state_set(a, ways[i].v1_to));
		EXPECT_EQ(ways[i].v1_to, state_get(a));
	}
}

/* A way of version 1 that fails late: it goes back, or it is the error state */
TEST_F(driver, version_1_goes_back)
{
	struct dev *a = &self->a;

	ASSERT_EQ(0, state_set(a, STOP));
	ASSERT_EQ(0, fails(a, TEST_SAVE_BEGIN, 0, -ENOSPC));
	EXPECT_EQ(-ENOSPC, state_set(a, PRE_COPY));
	EXPECT_EQ(STOP, state_get(a));
	EXPECT_EQ(0, calls(a).running);

	/* The session that was given up does not come back */
	ASSERT_EQ(0, fails(a, TEST_SAVE_BEGIN, 0, 0));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, fails(a, TEST_SAVE_BEGIN, 0, -ENOSPC));
	EXPECT_EQ(-ENOSPC, state_set(a, PRE_COPY));
	EXPECT_EQ(ERROR, state_get(a));

	/* A start that fails takes nothing away */
	ASSERT_EQ(0, fails(a, TEST_SAVE_BEGIN, 0, 0));
	ASSERT_EQ(0, dev_reset(a));
	ASSERT_EQ(0, state_fill(a, 1));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	ASSERT_EQ(0, fails(a, TEST_START, 0, -EAGAIN));
	EXPECT_EQ(-EAGAIN, state_set(a, RUNNING));
	EXPECT_EQ(STOP_COPY, state_get(a));
	ASSERT_EQ(0, stream_save(a, &self->s, BY_QEMU));
	ASSERT_EQ(0, fails(a, TEST_START, 0, 0));
	ASSERT_EQ(0, state_set(a, RUNNING));
	ASSERT_EQ(0, resume(&self->b, &self->s, BY_QEMU, 0));
	EXPECT_EQ(0, state_check(&self->b, 1));

	/* It cannot go back if going back fails as well */
	ASSERT_EQ(0, fails(a, TEST_SAVE_BEGIN, 0, -ENOSPC));
	ASSERT_EQ(0, fails(a, TEST_START, 0, -EAGAIN));
	EXPECT_EQ(-ENOSPC, state_set(a, STOP_COPY));
	EXPECT_EQ(ERROR, state_get(a));
}

/*
 * Each callback of saving, failing at each of its calls: the error arrives at
 * some read, nothing is lost, and reading on gives the stream
 */
TEST_F(driver, saving_fails_at_each_call)
{
	static const unsigned int callbacks[] = {
		TEST_NEXT, TEST_PENDING, TEST_SAVE,
	};
	struct dev *a = &self->a;
	unsigned int i, after, version, errors;
	__u64 pending;

	ASSERT_EQ(0, v2_save(a, &self->s, WINDOW));
	ASSERT_EQ(0, v2_go(a, V2_RUNNING));
	for (i = 0; i < ARRAY_SIZE(callbacks); i++) {
		for (after = 0; after < 40; after++) {
			for (version = 1; version <= 2; version++) {
				int fd = -1, ret = 1;

				errors = 0;
				stream_free(&self->t);
				ASSERT_EQ(0, version == 1 ?
					  state_set(a, STOP_COPY) :
					  v2_set(a, V2_SAVING, &fd)) {
					TH_LOG("%u %u", i, after);
				}
				ASSERT_EQ(0, fails(a, callbacks[i], after,
						   -ENODATA));
				while (ret) {
					ret = version == 1 ?
					      stream_save(a, &self->t, WINDOW) :
					      v2_drain(fd, &self->t, 100);
					if (!ret)
						break;
					ASSERT_EQ(-ENODATA, ret);
					ASSERT_EQ(1, ++errors);
					ASSERT_EQ(0, fails(a, callbacks[i], 0,
							   0));
				}
				ASSERT_EQ(self->s.size, self->t.size);
				ASSERT_EQ(0, memcmp(self->s.data, self->t.data,
						    self->s.size));
				ASSERT_EQ(0, fails(a, callbacks[i], 0, 0));
				if (version == 1) {
					ASSERT_EQ(0, pending_get(a, &pending));
					ASSERT_EQ(0, state_set(a, RUNNING));
				} else {
					close(fd);
					ASSERT_EQ(0, v2_go(a, V2_RUNNING));
				}
			}
		}
	}
}

/* The end of the device, while it is saved */
TEST_F(driver, lost_while_saving)
{
	struct dev *a = &self->a;
	char buf[STATE];
	__u64 initial, dirty;
	int fd;

	ASSERT_EQ(0, v2_set(a, V2_RUNNING_SAVING, &fd));
	ASSERT_EQ(0, fails(a, TEST_PENDING, 0, -ENODATA));
	EXPECT_EQ(-ENODATA, v2_precopy_get(fd, &initial, &dirty));
	EXPECT_EQ(-ENODATA, v2_data_size(a, &initial));
	ASSERT_EQ(0, fails(a, TEST_NEXT, 0, -ENOTRECOVERABLE));
	EXPECT_EQ(-ENOTRECOVERABLE, v2_read(fd, buf, sizeof(buf)));
	EXPECT_EQ(V2_ERROR, v2_get(a));
	EXPECT_EQ(-ENODEV, v2_read(fd, buf, sizeof(buf)));
	EXPECT_EQ(1, calls(a).calls[TEST_SAVE_END]);
	close(fd);
}

TEST_F(driver, saving_has_an_end)
{
	struct dev *a = &self->a;
	int fd;

	/* Each way out of a session, once each */
	ASSERT_EQ(0, v2_set(a, V2_RUNNING_SAVING, &fd));
	EXPECT_EQ(1, calls(a).calls[TEST_SAVE_BEGIN]);
	ASSERT_EQ(0, v2_go(a, V2_RUNNING_P2P_SAVING));
	ASSERT_EQ(0, v2_go(a, V2_SAVING));
	EXPECT_EQ(0, calls(a).calls[TEST_SAVE_END]);
	ASSERT_EQ(0, v2_go(a, V2_STOPPED));
	EXPECT_EQ(1, calls(a).calls[TEST_SAVE_END]);
	close(fd);
	ASSERT_EQ(0, v2_go(a, V2_SAVING));
	ASSERT_EQ(0, dev_reset(a));
	EXPECT_EQ(2, calls(a).calls[TEST_SAVE_END]);
	ASSERT_EQ(0, state_set(a, PRE_COPY));
	ASSERT_EQ(0, state_set(a, STOP_COPY));
	EXPECT_EQ(3, calls(a).calls[TEST_SAVE_BEGIN]);
	ASSERT_EQ(0, state_set(a, PRE_COPY));
	EXPECT_EQ(3, calls(a).calls[TEST_SAVE_END]);
	EXPECT_EQ(4, calls(a).calls[TEST_SAVE_BEGIN]);
	ASSERT_EQ(0, state_set(a, RESUMING));
	EXPECT_EQ(4, calls(a).calls[TEST_SAVE_END]);
}

/*
 * Each callback of loading, failing: the stream is refused, as is what comes
 * after, and only a reset helps
 */
TEST_F(driver, loading_fails_at_each_call)
{
	static const unsigned int callbacks[] = { TEST_LOAD, TEST_LOADED };
	struct dev *a = &self->a, *b = &self->b;
	unsigned int i, after, version;

	ASSERT_EQ(0, v2_save(a, &self->s, WINDOW));
	for (i = 0; i < ARRAY_SIZE(callbacks); i++) {
		for (after = 0; after < (i ? 1 : 20); after++) {
			for (version = 1; version <= 2; version++) {
				int fd = -1, ret;

				ASSERT_EQ(0, dev_reset(b));
				ASSERT_EQ(0, version == 1 ?
					  state_set(b, RESUMING) :
					  v2_set(b, V2_RESUMING, &fd));
				ASSERT_EQ(0, fails(b, callbacks[i], after,
						   -ENODATA));
				ret = version == 1 ?
				      stream_load(b, &self->s, BY_QEMU, 500) :
				      v2_fill(fd, self->s.data, self->s.size,
					      500);
				ASSERT_EQ(-ENODATA, ret) {
					TH_LOG("%u %u", i, after);
				}
				ASSERT_EQ(0, fails(b, callbacks[i], 0, 0));
				if (version == 2) {
					EXPECT_EQ(-EINVAL, v2_write(fd, "x", 1));
					close(fd);
				}
				EXPECT_EQ(-EINVAL, version == 1 ?
					  state_set(b, STOP) :
					  v2_go(b, V2_STOPPED));
				EXPECT_EQ(V2_ERROR, v2_get(b));
			}
		}
	}
	/* The device is lost by it */
	ASSERT_EQ(0, dev_reset(b));
	ASSERT_EQ(0, fails(b, TEST_LOADED, 0, -ENOTRECOVERABLE));
	EXPECT_EQ(-ENOTRECOVERABLE, v2_load(b, &self->s, 500));
	EXPECT_EQ(V2_ERROR, v2_get(b));
}

/* Userspace that looks at the device before it is started sees what came */
TEST_F(driver, loaded_before_it_is_started)
{
	struct dev *a = &self->a, *b = &self->b;
	int fd;

	ASSERT_EQ(0, v2_save(a, &self->s, WINDOW));
	ASSERT_EQ(0, v2_set(b, V2_RESUMING, &fd));
	ASSERT_EQ(0, v2_fill(fd, self->s.data, self->s.size - 1, 500));
	EXPECT_EQ(0, calls(b).calls[TEST_LOADED]);
	ASSERT_EQ(1, v2_write(fd, self->s.data + self->s.size - 1, 1));
	EXPECT_EQ(1, calls(b).calls[TEST_LOADED]);
	EXPECT_EQ(0, state_check(b, 1));
	ASSERT_EQ(0, v2_go(b, V2_STOPPED));
	EXPECT_EQ(1, calls(b).calls[TEST_LOADED]);
	close(fd);
}

/* Another version and a smaller state are the driver's to accept */
TEST(other_versions)
{
	struct vfio_test_migration old = usual, new = usual, strict = usual;
	struct stream s = {};
	struct dev a, b, c;

	old.version = 1;
	old.state_size = STATE - 512;
	new.oldest = 1;
	ASSERT_EQ(0, make(&a, &old));
	ASSERT_EQ(0, make(&b, &new));
	ASSERT_EQ(0, make(&c, &strict));
	ASSERT_EQ(0, state(&a, 100, "old", 3, true));
	ASSERT_EQ(0, v2_save(&a, &s, 1000));
	ASSERT_EQ(0, v2_load(&b, &s, 1000));
	EXPECT_EQ(1, calls(&b).calls[TEST_LOAD_BEGIN]);
	EXPECT_EQ(1, calls(&b).version);
	EXPECT_EQ(STATE - 512, calls(&b).size);
	EXPECT_EQ(-EINVAL, v2_load(&c, &s, 1000));
	stream_free(&s);

	/* Newer than the driver knows, and larger than its state */
	ASSERT_EQ(0, v2_save(&b, &s, 1000));
	EXPECT_EQ(-EINVAL, v2_load(&a, &s, 1000));
	close(a.u.device);
	old.oldest = 1;
	ASSERT_EQ(0, make(&a, &old));
	EXPECT_EQ(-EINVAL, v2_load(&a, &s, 1000));
	EXPECT_EQ(0, calls(&a).calls[TEST_LOAD_BEGIN]);
	close(a.u.device);
	old.state_size = STATE;
	ASSERT_EQ(0, make(&a, &old));
	EXPECT_EQ(-EINVAL, v2_load(&a, &s, 1000));
	EXPECT_EQ(1, calls(&a).calls[TEST_LOAD_BEGIN]);
	EXPECT_EQ(3, calls(&a).version);
	close(a.u.device);
	close(b.u.device);
	close(c.u.device);
	stream_free(&s);
}

/* The driver takes all for sent that is not */
static int drop_all(const struct dev *d)
{
	return ioctl(d->u.device, VFIO_TEST_MIGRATION_CLEAN) ? -errno : 0;
}

/* With its header and its end alone, a stream brings nothing */
TEST(state_that_did_not_come)
{
	struct vfio_test_migration config = usual;
	unsigned int partial;
	struct stream s = {};
	struct dev a, b;
	int fd;

	for (partial = 0; partial < 2; partial++) {
		config.partial = partial;
		ASSERT_EQ(0, make(&a, &config));
		ASSERT_EQ(0, make(&b, &config));
		ASSERT_EQ(0, state_fill(&a, 1));
		ASSERT_EQ(0, v2_set(&a, V2_SAVING, &fd));
		ASSERT_EQ(0, drop_all(&a));
		ASSERT_EQ(0, v2_drain(fd, &s, 3000));
		close(fd);
		EXPECT_EQ(56 + 32, s.size);
		EXPECT_EQ(partial ? 0 : -EINVAL, v2_load(&b, &s, 3000));
		EXPECT_EQ(partial, calls(&b).calls[TEST_LOADED]);
		close(a.u.device);
		close(b.u.device);
		stream_free(&s);
	}
}

/* At the file's position as at any other: what worked moves it, nothing else */
TEST_F(driver, position)
{
	static const struct {
		unsigned int at;
		unsigned int len;
	} fields[] = { { 0, 4 }, { 4, 4 }, { 8, 8 }, { 16, 8 }, { 24, 8 } };
	int fd = self->a.u.device;
	unsigned int i;
	char buf[16];

	ASSERT_EQ(0, lseek(fd, 0, SEEK_SET));
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		ASSERT_EQ(fields[i].at, lseek(fd, 0, SEEK_CUR));
		EXPECT_EQ(-1, read(fd, buf, 3));
		EXPECT_EQ(0, read(fd, buf, 0));
		EXPECT_EQ(4, pread(fd, buf, 4, 0));
		EXPECT_EQ(fields[i].at, lseek(fd, 0, SEEK_CUR));
		ASSERT_EQ(fields[i].len, read(fd, buf, fields[i].len));
	}
	EXPECT_EQ(32, lseek(fd, 0, SEEK_CUR));

	ASSERT_EQ(0, lseek(fd, 0, SEEK_SET));
	memcpy(buf, &(__u32){ STOP }, 4);
	EXPECT_EQ(-1, write(fd, buf, 2));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_CUR));
	EXPECT_EQ(4, pwrite(fd, buf, 4, 0));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_CUR));
	EXPECT_EQ(4, write(fd, buf, 4));
	EXPECT_EQ(4, lseek(fd, 0, SEEK_CUR));
	EXPECT_EQ(4, write(fd, buf, 4));
	EXPECT_EQ(8, lseek(fd, 0, SEEK_CUR));
	EXPECT_EQ(STOP, state_get(&self->a));
}

/*
 * Waiting for others
 */

/* R running, D waiting for what a signal may end or not, 0 when gone */
static char process_state(pid_t pid)
{
	char path[32], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(f);

	return state;
}

static void *stop_thread(void *arg)
{
	return (void *)(long)v2_go(arg, V2_STOPPED);
}

/* Who waits for a driver that takes its time can be killed */
TEST_F(driver, killed_while_it_waits)
{
	struct vfio_test_failure fault = { .callback = TEST_STOP, .hold = 1 };
	struct dev *a = &self->a;
	pthread_t thread;
	int status, i;
	void *ret;
	pid_t pid;
	char c;

	ASSERT_EQ(0, ioctl(a->u.device, VFIO_TEST_MIGRATION_FAULT, &fault));
	ASSERT_EQ(0, pthread_create(&thread, NULL, stop_thread, a));
	while (!calls(a).calls[TEST_STOP])
		sched_yield();
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(v2_get(a) < 0);
	do {
		c = process_state(pid);
	} while (c && c != 'D' && c != 'Z' && !sched_yield());
	EXPECT_EQ('D', c);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	for (i = 0; i < 200 && waitpid(pid, &status, WNOHANG) != pid; i++)
		usleep(100000);
	EXPECT_GT(200, i);

	fault.hold = 0;
	ASSERT_EQ(0, ioctl(a->u.device, VFIO_TEST_MIGRATION_FAULT, &fault));
	pthread_join(thread, &ret);
	EXPECT_EQ(NULL, ret);
	EXPECT_EQ(V2_STOPPED, v2_get(a));
	if (i == 200)
		waitpid(pid, &status, 0);
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
}

/*
 * Resets
 */

TEST_F(driver, reset_during_a_callback)
{
	struct vfio_test_failure fault = { .callback = TEST_NEXT, .reset = 1 };
	struct dev *a = &self->a;
	char buf[100];
	int fd;

	/* The library's lock is held: it is noted, and done afterwards */
	ASSERT_EQ(0, v2_set(a, V2_SAVING, &fd));
	ASSERT_EQ(0, ioctl(a->u.device, VFIO_TEST_MIGRATION_FAULT, &fault));
	EXPECT_LT(0, v2_read(fd, buf, sizeof(buf)));
	EXPECT_EQ(V2_RUNNING, v2_get(a));
	EXPECT_EQ(RUNNING, state_get(a));
	EXPECT_EQ(-ENODEV, v2_read(fd, buf, sizeof(buf)));
	EXPECT_EQ(0, calls(a).calls[TEST_RESET]);
	EXPECT_EQ(1, calls(a).calls[TEST_SAVE_END]);
	close(fd);

	/* Nobody holds it: at once */
	ASSERT_EQ(0, v2_set(a, V2_RESUMING, &fd));
	ASSERT_EQ(0, ioctl(a->u.device, VFIO_TEST_MIGRATION_RESET_DONE));
	EXPECT_EQ(V2_RUNNING, v2_get(a));
	EXPECT_EQ(-ENODEV, v2_write(fd, buf, 1));
	close(fd);
	/* The device itself has not been told */
	ASSERT_EQ(0, dev_reset(a));
	EXPECT_EQ(1, calls(a).calls[TEST_RESET]);
}

TEST_HARNESS_MAIN
