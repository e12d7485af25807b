// SPDX-License-Identifier: GPL-2.0-only
/*
 * The migration region with many threads at once: whatever they do, each sees
 * what the protocol allows, and the device is usable afterwards
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "../kselftest_harness.h"
#include "vfio_migration_region_lib.h"
#include "mscratch.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define TYPE		"mscratch-64k"
#define SCRATCH		(64UL << 10)
#define WINDOW		4096UL
#define IOVA		0x10000000ULL
#define GUEST		(16 * PAGE)
#define MAX_THREADS	10

/* What the state that another thread sets may make impossible */
enum may_fail {
	STATE_WRITE,
	DATA_READ,
	DATA_WRITE,
	SIZE_WRITE,
	CANNOT_FAIL
};

struct shared {
	struct pair p;
	char *guest;
	atomic_bool stop;
	atomic_int failed;
	atomic_int worked[CANNOT_FAIL];
};

struct worker {
	pthread_t thread;
	struct shared *s;
	__u64 seed;
	unsigned long rounds;
};

static void fail(struct shared *s, const char *fmt, ...)
{
	va_list args;

	/* One line tells enough, thousands would hide it */
	if (atomic_fetch_add(&s->failed, 1) > 0)
		return;
	printf("# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
}

/*
 * Another thread may have left the device in a state where this is refused, but
 * not always: what works is counted.
 */
static bool expected(struct shared *s, enum may_fail what, int ret)
{
	if (!ret)
		atomic_fetch_add(&s->worked[what], 1);

	return !ret || ret == -EINVAL;
}

/*
 * What the threads do, a step at a time
 */

static void do_states(struct shared *s, struct worker *w)
{
	int ret = state_set(&s->p.a, random_next(&w->seed) % 5);

	if (!expected(s, STATE_WRITE, ret))
		fail(s, "write of a state: %d\n", ret);
}

static void do_reset(struct shared *s, struct worker *w)
{
	int ret;

	(void)w;
	ret = dev_reset(&s->p.a);
	if (ret)
		fail(s, "reset: %d\n", ret);
}

/* The watch: no state that is none, in the middle of anything */
static void do_watch(struct shared *s, struct worker *w)
{
	int state = state_get(&s->p.a);
	__u64 value;
	int ret;

	(void)w;
	if (state < 0 || state == INVALID_5 || state > ERROR)
		fail(s, "state %d\n", state);
	ret = size_get(&s->p.a, &value);
	if (ret || value > WINDOW)
		fail(s, "data_size: %d, %llu\n", ret, value);
}

static void do_save(struct shared *s, struct worker *w)
{
	struct dev *d = &s->p.a;
	__u64 pending, offset, size;
	char buf[WINDOW];
	int ret;

	(void)w;
	ret = pending_get(d, &pending);
	if (ret || pending > 2 * SCRATCH)
		fail(s, "pending_bytes: %d, %llu\n", ret, pending);
	ret = offset_get(d, &offset);
	if (ret || offset < PAGE || offset >= d->mig.size)
		fail(s, "data_offset: %d, %llu\n", ret, offset);
	ret = size_get(d, &size);
	if (ret || size > WINDOW)
		fail(s, "data_size: %d, %llu\n", ret, size);
	/* The chunk may be another one by now, or none */
	ret = size ? region_read(d, offset, buf, size) : 0;
	if (size && !expected(s, DATA_READ, ret))
		fail(s, "read of data: %d\n", ret);
}

static void do_load(struct shared *s, struct worker *w)
{
	struct dev *d = &s->p.a;
	char buf[256];
	int ret;

	pattern(buf, sizeof(buf), random_next(&w->seed));
	ret = region_write(d, PAGE + SCRATCH + random_next(&w->seed) % 1024,
			   buf, 1 + random_next(&w->seed) % sizeof(buf));
	if (!expected(s, DATA_WRITE, ret))
		fail(s, "write of data: %d\n", ret);
	ret = size_set(d, random_next(&w->seed) % WINDOW);
	if (!expected(s, SIZE_WRITE, ret))
		fail(s, "write of data_size: %d\n", ret);
}

static void do_map(struct shared *s, struct worker *w)
{
	struct dev *d = &s->p.a;
	unsigned int i = random_next(&w->seed) % d->mig.areas;
	__u64 at = d->mig.area[i].offset;
	char page[PAGE], *p;

	p = mmap(NULL, d->mig.area[i].size, PROT_READ | PROT_WRITE, MAP_SHARED,
		 d->u.device, d->mig.offset + at);
	if (p == MAP_FAILED) {
		fail(s, "mmap: %d\n", -errno);
		return;
	}
	if (i)
		pattern(p, WINDOW, random_next(&w->seed));
	else
		memcpy(page, p + random_next(&w->seed) % 16 * PAGE, PAGE);
	munmap(p, d->mig.area[i].size);
}

static void do_open(struct shared *s, struct worker *w)
{
	struct dev d = s->p.a;
	int state;

	(void)w;
	d.u.device = group_device(d.u.group, d.name);
	if (d.u.device < 0) {
		fail(s, "another descriptor: %d\n", d.u.device);
		return;
	}
	state = state_get(&d);
	if (state < 0 || state > ERROR)
		fail(s, "state by another descriptor: %d\n", state);
	close(d.u.device);
}

static void do_dma(struct shared *s, struct worker *w)
{
	__u64 dice = random_next(&w->seed);
	__u64 len = 1 + dice / 8 % (GUEST - 1);

	/* It may be refused or cut short, all that counts is that it ends */
	dma_start(&s->p.a, IOVA, dice / 64 % (SCRATCH - len + 1), len,
		  MSCRATCH_DMA_IRQ | (dice & (MSCRATCH_DMA_TO_GUEST |
					      MSCRATCH_DMA_RW)));
	if (dice & 1)
		dma_wait(&s->p.a);
}

static void do_interrupt(struct shared *s, struct worker *w)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	(void)w;
	if (irq_connect(&s->p.a, fd) || irq_raise(&s->p.a) ||
	    irq_connect(&s->p.a, -1))
		fail(s, "interrupt: %d\n", -errno);
	close(fd);
}

static void do_scratch(struct shared *s, struct worker *w)
{
	char page[PAGE];

	pattern(page, PAGE, random_next(&w->seed));
	if (scratch_write(&s->p.a, random_next(&w->seed) % 16 * PAGE, page,
			  PAGE))
		fail(s, "write of scratch memory: %d\n", -errno);
}

static void do_info(struct shared *s, struct worker *w)
{
	struct region r;
	int ret;

	(void)w;
	ret = region_info(s->p.a.u.device, s->p.a.index, &r);
	if (ret || r.size != s->p.a.mig.size || !r.typed || r.areas != 2)
		fail(s, "region info: %d\n", ret);
}

static const struct {
	void (*step)(struct shared *s, struct worker *w);
	unsigned int weight;
} things[] = {
	{ do_states, 20 }, { do_reset, 2 }, { do_watch, 20 }, { do_save, 30 },
	{ do_load, 20 }, { do_map, 3 }, { do_open, 3 }, { do_dma, 5 },
	{ do_interrupt, 3 }, { do_scratch, 5 }, { do_info, 3 },
};

/* Each thread does everything, in an order of its own */
static void *mix(void *arg)
{
	struct worker *w = arg;
	unsigned int i, n, sum = 0;
	unsigned long round;

	for (i = 0; i < ARRAY_SIZE(things); i++)
		sum += things[i].weight;
	for (round = 0; round < w->rounds; round++) {
		n = random_next(&w->seed) % sum;
		for (i = 0; n >= things[i].weight; i++)
			n -= things[i].weight;
		things[i].step(w->s, w);
	}

	return NULL;
}

static int run(struct shared *s, void *(*fn)(void *), int threads,
	       unsigned long rounds)
{
	struct worker w[MAX_THREADS];
	int i, ret;

	for (i = 0; i < threads; i++) {
		w[i].s = s;
		w[i].seed = 1000 + i;
		w[i].rounds = rounds;
		ret = pthread_create(&w[i].thread, NULL, fn, &w[i]);
		if (ret)
			return -ret;
	}
	for (i = 0; i < threads; i++)
		pthread_join(w[i].thread, NULL);

	return 0;
}

FIXTURE(parallel)
{
	struct shared s;
};

FIXTURE_SETUP(parallel)
{
	unsigned int i;

	ASSERT_EQ(0, pair_open(&self->s.p, TYPE, WINDOW));
	self->s.guest = page_alloc(GUEST);
	ASSERT_NE(NULL, self->s.guest);
	ASSERT_EQ(0, container_map(self->s.p.a.u.container, self->s.guest,
				   IOVA, GUEST));
	atomic_init(&self->s.stop, false);
	atomic_init(&self->s.failed, 0);
	for (i = 0; i < CANNOT_FAIL; i++)
		atomic_init(&self->s.worked[i], 0);
}

/* Whatever the case did, the device is as good as before */
FIXTURE_TEARDOWN(parallel)
{
	ASSERT_EQ(0, dev_reset(&self->s.p.a));
	EXPECT_EQ(0, migrates(&self->s.p.a, &self->s.p.b, 1));
	EXPECT_EQ(0, migrates(&self->s.p.b, &self->s.p.a, 2));
	EXPECT_EQ(0, pair_close(&self->s.p));
}

TEST_F(parallel, everything_at_once)
{
	ASSERT_EQ(0, run(&self->s, mix, 6, 5000));
	EXPECT_EQ(0, self->s.failed);
	/* Far fewer than do, and not none.  Random data is no stream. */
	EXPECT_LT(500, self->s.worked[STATE_WRITE]);
	EXPECT_LT(50, self->s.worked[DATA_READ]);
	EXPECT_LT(50, self->s.worked[DATA_WRITE]);
	EXPECT_LT(0, self->s.worked[SIZE_WRITE]);
}

static void *drift(void *arg)
{
	struct worker *w = arg;
	struct shared *s = w->s;
	char one[64], two[64];
	__u64 offset, size;

	/* Not pending_bytes: that is the one who saves */
	while (!s->stop) {
		int state = state_get(&s->p.a);

		if (state != STOP_COPY)
			fail(s, "state %d\n", state);
		if (state_set(&s->p.a, STOP_COPY))
			fail(s, "state write: %d\n", -errno);
		if (offset_get(&s->p.a, &offset) || size_get(&s->p.a, &size))
			fail(s, "fields: %d\n", -errno);
		if (size < 128)
			continue;
		offset += random_next(&w->seed) % (size - 64);
		if (region_read(&s->p.a, offset, one, 64) ||
		    region_read(&s->p.a, offset, two, 64))
			continue;
		if (offset < PAGE + SCRATCH && memcmp(one, two, 64))
			fail(s, "memory that changes\n");
	}

	return NULL;
}

static void *save_and_stop(void *arg)
{
	struct worker *w = arg;
	struct shared *s = w->s;
	struct stream stream = {};
	struct chunk c;
	int ret;

	/* Another may have committed the first one; pending_bytes would drop it */
	ret = offset_get(&s->p.a, &c.offset);
	ret = ret ?: size_get(&s->p.a, &c.size);
	ret = ret ?: stream_append(&s->p.a, &stream, &c, BY_MMAP);
	ret = ret ?: stream_save(&s->p.a, &stream, w->rounds ? BY_MMAP : 256);
	ret = ret ?: dev_reset(&s->p.b);
	ret = ret ?: resume(&s->p.b, &stream, BY_MMAP, 0);
	ret = ret ?: scratch_check(&s->p.b, 7);
	stream_free(&stream);
	if (ret)
		fail(s, "what was saved: %d\n", ret);
	s->stop = true;

	return NULL;
}

/* A stream is right although others look at it, and set the state it has */
TEST_F(parallel, one_saves_and_others_look_on)
{
	struct worker w[4];
	int round, i;

	for (round = 0; round < 10; round++) {
		self->s.stop = false;
		ASSERT_EQ(0, scratch_fill(&self->s.p.a, 7));
		ASSERT_EQ(0, state_set(&self->s.p.a, STOP_COPY));
		for (i = 0; i < 4; i++) {
			w[i].s = &self->s;
			w[i].seed = 50 + i;
			w[i].rounds = round % 2;
			ASSERT_EQ(0, pthread_create(&w[i].thread, NULL,
						    i ? drift : save_and_stop,
						    &w[i]));
		}
		for (i = 0; i < 4; i++)
			pthread_join(w[i].thread, NULL);
		ASSERT_EQ(0, state_set(&self->s.p.a, RUNNING));
	}
	EXPECT_EQ(0, self->s.failed);
}

static void *use_until_closed(void *arg)
{
	struct worker *w = arg;
	struct shared *s = w->s;
	enum may_fail what;
	__u64 value;
	int ret;

	for (;;) {
		what = CANNOT_FAIL;
		switch (random_next(&w->seed) % 5) {
		case 0:
			what = STATE_WRITE;
			ret = state_set(&s->p.a, random_next(&w->seed) % 5);
			break;
		case 1:
			ret = pending_get(&s->p.a, &value);
			break;
		case 2:
			ret = offset_get(&s->p.a, &value);
			break;
		case 3:
			what = SIZE_WRITE;
			ret = size_set(&s->p.a, 8);
			break;
		default:
			ret = dev_reset(&s->p.a);
		}
		if (ret == -EBADF)
			return NULL;
		if (what == CANNOT_FAIL ? ret : !expected(s, what, ret))
			fail(s, "before it was closed: %d\n", ret);
	}
}

/* The last descriptor goes while others are at work with it */
TEST_F(parallel, closed_while_it_is_used)
{
	struct dev *d = &self->s.p.a;
	struct worker w[3];
	unsigned int round, i;

	for (round = 0; round < 50; round++) {
		for (i = 0; i < 3; i++) {
			w[i].s = &self->s;
			w[i].seed = 100 * round + i + 1;
			ASSERT_EQ(0, pthread_create(&w[i].thread, NULL,
						    use_until_closed, &w[i]));
		}
		for (i = 0; i < round; i++)
			sched_yield();
		/* In an order that leaves the device until the end */
		munmap(d->map, d->mig.size);
		d->map = NULL;
		ASSERT_EQ(0, close(d->u.device));
		for (i = 0; i < 3; i++)
			pthread_join(w[i].thread, NULL);
		d->u.device = -1;
		dev_close(d);
		ASSERT_EQ(0, dev_open(d));
		ASSERT_EQ(0, dev_map(d));
		ASSERT_STREQ("", not_pristine(d));
	}
	EXPECT_EQ(0, self->s.failed);
}

static void *migrate_own(void *arg)
{
	struct worker *w = arg;
	unsigned int nr = 2 * w->seed;
	struct pair p;
	unsigned long i;
	int ret;

	for (i = 0; i < w->rounds; i++) {
		ret = dev_create(&p.a, TYPE, nr);
		ret = ret ?: dev_create(&p.b, TYPE, nr + 1);
		ret = ret ?: dev_open(&p.a);
		ret = ret ?: dev_open(&p.b);
		ret = ret ?: dev_map(&p.a);
		ret = ret ?: dev_map(&p.b);
		ret = ret ?: migrates(&p.a, &p.b, nr + i);
		ret = ret ?: pair_close(&p);
		if (ret) {
			fail(w->s, "devices %u: %d\n", nr, ret);
			break;
		}
	}

	return NULL;
}

/* Devices have nothing to do with each other */
TEST_F(parallel, each_thread_with_devices_of_its_own)
{
	ASSERT_EQ(0, run(&self->s, migrate_own, 6, 20));
	EXPECT_EQ(0, self->s.failed);
}

TEST_HARNESS_MAIN
