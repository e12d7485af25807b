// SPDX-License-Identifier: GPL-2.0-only
/*
 * type1 and a driver that does not let go of memory which is being unmapped
 *
 * The driver of test_modules pins a page again, as often as it is told to,
 * when type1 asks for it.  A real one does so when its user starts DMA again
 * and again while another thread of the user's unmaps: no fault of the
 * kernel's, and nothing that may bring it down.
 *
 * It can also take its time to let go, in which others of the user's threads
 * unmap memory and open devices.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "../kselftest.h"
#include "vfio_group_domain_lib.h"
#include "vfio_unmap_glue.h"

#define IOVA		0x10000000ULL
#define PAGE		4096UL
#define NOTHING		(~0ULL)

/* How often type1 asks before it gives up, and much more than that */
#define ASKS		11
#define FOR_EVER	1000

#define WARNING		"vfio_dma_do_unmap: memory at 0x0000000010000000 stays pinned"

/* In so many looks whoever waits for a lock that somebody gives back has it */
#define LOOKS		1000

static struct user u, second;
static struct mdev second_mdev;
static char *page;

static int pin_by(int device, __u64 iova, unsigned int keep)
{
	struct vfio_test_mdev_pin arg = { .iova = iova, .keep = keep };

	return ioctl(device, VFIO_TEST_MDEV_PIN, &arg) ? -errno : 0;
}

static int pin_to_read(int device, __u64 iova)
{
	struct vfio_test_mdev_pin arg = { .iova = iova, .read_only = 1 };

	return ioctl(device, VFIO_TEST_MDEV_PIN, &arg) ? -errno : 0;
}

static int pin(__u64 iova, unsigned int keep)
{
	return pin_by(u.device, iova, keep);
}

/* What the driver has pinned now, and how often it was told */
static struct vfio_test_mdev_pin pinned_by(int device)
{
	struct vfio_test_mdev_pin arg = {};

	if (ioctl(device, VFIO_TEST_MDEV_PINNED, &arg))
		ksft_exit_fail_msg("the driver does not answer: %s\n",
				   strerror(errno));

	return arg;
}

static struct vfio_test_mdev_pin pinned(void)
{
	return pinned_by(u.device);
}

struct unmap {
	size_t size;
	int ret;
	bool returned;
};

static void *unmap_thread(void *arg)
{
	struct unmap *un = arg;

	un->ret = container_unmap(u.container, IOVA, un->size);
	un->returned = true;

	return NULL;
}

/*
 * A kernel that dies of the call ends the thread that makes it, and what type1
 * had locked stays locked.
 */
static int unmap(size_t size)
{
	struct unmap un = { .size = size };
	pthread_t thread;

	if (pthread_create(&thread, NULL, unmap_thread, &un))
		ksft_exit_fail_msg("no thread\n");
	pthread_join(thread, NULL);

	return un.returned ? un.ret : -ESHUTDOWN;
}

/* How many lines of the log from here on have the text */
static int lines(int log, const char *text)
{
	char line[1024];
	ssize_t len;
	int n = 0;

	for (;;) {
		len = read(log, line, sizeof(line) - 1);
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			return n;
		line[len] = '\0';
		n += !!strstr(line, text);
	}
}

/*
 * What is done while the driver keeps somebody waiting
 */

struct call {
	int (*call)(void);
	pthread_t thread;
	pid_t tid;
	long switches;
	int ret;
	bool returned;
};

static int unmap_first(void)
{
	return container_unmap(u.container, IOVA, PAGE);
}

static int unmap_second(void)
{
	return container_unmap(u.container, IOVA + PAGE, PAGE);
}

static int open_second(void)
{
	return user_join(&second, u.container, second_mdev.group,
			 second_mdev.name);
}

static void *call_thread(void *arg)
{
	struct call *c = arg;

	__atomic_store_n(&c->tid, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	c->ret = c->call();
	__atomic_store_n(&c->returned, true, __ATOMIC_SEQ_CST);

	return NULL;
}

static void call_start(struct call *c)
{
	if (pthread_create(&c->thread, NULL, call_thread, c))
		ksft_exit_fail_msg("no thread\n");
}

static bool has_returned(struct call *c)
{
	return __atomic_load_n(&c->returned, __ATOMIC_SEQ_CST);
}

static bool is_asleep(struct call *c)
{
	pid_t tid = __atomic_load_n(&c->tid, __ATOMIC_SEQ_CST);

	return tid && thread_state(tid) == 'D';
}

/* Is it in the same sleep as at the last look? */
static bool sleeps_on(struct call *c)
{
	long before = c->switches;

	c->switches = thread_switches(c->tid);

	return is_asleep(c) && c->switches == before;
}

static bool both_return(struct call *a, struct call *b)
{
	int looks = 0;

	while (looks < LOOKS && (!has_returned(a) || !has_returned(b))) {
		bool on = sleeps_on(a);

		looks = sleeps_on(b) && on ? looks + 1 : 0;
		sched_yield();
	}

	return looks < LOOKS;
}

static void hold(int device, unsigned long on)
{
	if (ioctl(device, VFIO_TEST_MDEV_HOLD, on))
		ksft_exit_fail_msg("the driver does not answer: %s\n",
				   strerror(errno));
}

/* The first page is unmapped, until the driver is told that does not let go yet. */
static bool unmap_begins(struct call *first, int device)
{
	hold(device, 1);
	call_start(first);
	while (!pinned_by(device).told && !has_returned(first))
		sched_yield();

	return !has_returned(first);
}

/*
 * Meanwhile somebody else does his call, until it is through or has to wait as
 * well.
 */
static void meanwhile(int (*call)(void), const char *what)
{
	struct call first = { .call = unmap_first };
	struct call other = { .call = call };
	bool well = unmap_begins(&first, u.device);

	call_start(&other);
	while (!is_asleep(&other) && !has_returned(&other))
		sched_yield();
	hold(u.device, 0);
	if (!both_return(&first, &other)) {
		ksft_test_result(false, "driver that takes its time: %s\n", what);
		/* They have the locks that all others would wait for */
		for (;;)
			pause();
	}
	pthread_join(first.thread, NULL);
	pthread_join(other.thread, NULL);
	ksft_test_result(well && !first.ret && !other.ret,
			 "driver that takes its time: %s\n", what);
}

/*
 * The devices are told one after the other, the one that was opened last is the
 * first.  When that has let go, others can unmap the page and map another one, and
 * what type1 kept for the one can be what it keeps for the other: on one processor
 * memory that is freed is the next that is given out.
 */
static void unmapped_meanwhile(void)
{
	struct call first = { .call = unmap_first };
	cpu_set_t all, one;
	bool well;
	int ret;

	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	ret = container_map(u.container, page, IOVA, PAGE) ?:
	      pin_by(second.device, IOVA, 0);
	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	well = unmap_begins(&first, second.device);
	ret = pin_by(second.device, NOTHING, 0) ?: unmap_first() ?:
	      container_map(u.container, page + PAGE, IOVA + PAGE, PAGE) ?:
	      pin(IOVA + PAGE, 0);
	hold(second.device, 0);
	pthread_join(first.thread, NULL);
	sched_setaffinity(0, sizeof(all), &all);
	ksft_test_result(well && !ret && pinned().iova == IOVA + PAGE &&
			 !pinned().told,
			 "driver that takes its time: the next is told of that page alone\n");
}

/* It is each mapping that type1 asks for so often, and not all of them together. */
static void several_late(void)
{
	int ret = container_map(u.container, page, IOVA, PAGE) ?:
		  container_map(u.container, page + PAGE, IOVA + PAGE, PAGE) ?:
		  pin(IOVA, ASKS - 1) ?:
		  pin_by(second.device, IOVA + PAGE, ASKS - 1);

	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	ret = unmap(2 * PAGE);
	printf("# unmap: %d\n", ret);
	ksft_test_result(!ret && pinned().told == ASKS &&
			 pinned_by(second.device).told == ASKS,
			 "two drivers that let go late: each is asked again\n");
}

/* Whose page is above what is unmapped is not told, and keeps it. */
static void neighbour_above(void)
{
	int ret = container_map(u.container, page, IOVA, PAGE) ?:
		  container_map(u.container, page, IOVA + PAGE, PAGE) ?:
		  container_map(u.container, page, IOVA + 2 * PAGE, PAGE) ?:
		  pin(IOVA + PAGE, 0) ?:
		  pin_by(second.device, IOVA + 2 * PAGE, 0);

	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	ret = unmap(2 * PAGE);
	ksft_test_result(!ret && pinned().told == 1 &&
			 !pinned_by(second.device).told &&
			 pinned_by(second.device).iova == IOVA + 2 * PAGE,
			 "page above what is unmapped: stays pinned\n");
	ret = unmap(3 * PAGE);
	if (ret)
		ksft_exit_fail_msg("no unmap: %s\n", strerror(-ret));
}

/* What a page is pinned for already says nothing of what it may be pinned for. */
static void read_only_memory(void)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.vaddr = (uintptr_t)page,
		.iova = IOVA,
		.size = PAGE,
	};
	int ret;

	if (ioctl(u.container, VFIO_IOMMU_MAP_DMA, &map))
		ksft_exit_fail_msg("no mapping: %s\n", strerror(errno));
	ksft_test_result(pin(IOVA, 0) == -EPERM && !pin_to_read(u.device, IOVA),
			 "memory to be read: pinned for that alone\n");
	ret = pin_by(second.device, IOVA, 0);
	ksft_test_result(ret == -EPERM && pinned_by(second.device).iova == NOTHING,
			 "memory to be read: nor by a second driver\n");
	ksft_test_result(!pin_to_read(second.device, IOVA) && !unmap(PAGE) &&
			 pinned().told == 1 &&
			 pinned_by(second.device).told == 1,
			 "memory to be read: both let go of it\n");
}

/*
 * Dirty pages of the two mappings, where the first was written to and the second
 * stays pinned: an unmap that fails has not taken the first away, or nobody would
 * learn what was written there.
 */

static int dirty_tracking(__u32 flags)
{
	struct vfio_iommu_type1_dirty_bitmap arg = {
		.argsz = sizeof(arg),
		.flags = flags,
	};

	return ioctl(u.container, VFIO_IOMMU_DIRTY_PAGES, &arg) ? -errno : 0;
}

static int unmap_dirty(__u64 *bitmap)
{
	struct {
		struct vfio_iommu_type1_dma_unmap head;
		struct vfio_bitmap bitmap;
	} arg = {
		.head.argsz = sizeof(arg),
		.head.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
		.head.iova = IOVA,
		.head.size = 2 * PAGE,
		.bitmap.pgsize = PAGE,
		.bitmap.size = sizeof(*bitmap),
		.bitmap.data = bitmap,
	};

	*bitmap = 0;
	if (ioctl(u.container, VFIO_IOMMU_UNMAP_DMA, &arg))
		return -errno;

	return arg.head.size == 2 * PAGE ? 0 : -ENOENT;
}

static void all_or_nothing(unsigned int lower_first)
{
	__u64 first = IOVA + (lower_first ? 0 : PAGE), dirty = 0;
	char byte = 1;
	bool stays;
	int ret;

	ret = dirty_tracking(VFIO_IOMMU_DIRTY_PAGES_FLAG_START) ?:
	      container_map(u.container, page, first, PAGE) ?:
	      container_map(u.container, page, 2 * IOVA + PAGE - first, PAGE) ?:
	      mdev_rw(u.device, IOVA, &byte, 1, true) ?:
	      pin(IOVA + PAGE, FOR_EVER);
	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	ret = unmap_dirty(&dirty);
	stays = container_map(u.container, page, IOVA, PAGE) == -EEXIST;
	ksft_test_result(ret == -EBUSY && stays,
			 "%s mapped first: the unmap that fails has unmapped nothing\n",
			 lower_first ? "lower" : "upper");
	ret = pin(NOTHING, 0) ?: unmap_dirty(&dirty);
	ksft_test_result(!ret && dirty & 1,
			 "%s mapped first: what was written is told then\n",
			 lower_first ? "lower" : "upper");
	dirty_tracking(VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
}

static int unmap_told(void)
{
	__u64 dirty;

	return unmap_dirty(&dirty);
}

/*
 * Nobody tracks dirty pages any more when the driver has let go.  The mapping begins
 * amid a word of the bitmap.
 */
static void tracking_stopped(void)
{
	struct call c = { .call = unmap_told };
	bool well;
	int ret;

	ret = dirty_tracking(VFIO_IOMMU_DIRTY_PAGES_FLAG_START) ?:
	      container_map(u.container, page, IOVA + PAGE, PAGE) ?:
	      pin(IOVA + PAGE, 0);
	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	well = unmap_begins(&c, u.device);
	ret = dirty_tracking(VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
	hold(u.device, 0);
	pthread_join(c.thread, NULL);
	ksft_test_result(well && !ret && c.returned && c.ret == -EINVAL,
			 "driver that takes its time: no bitmap if tracking was stopped\n");
	/* As above: it would have the lock */
	if (!c.returned)
		for (;;)
			pause();
	ksft_test_result(!unmap(2 * PAGE) && pinned().iova == NOTHING,
			 "driver that takes its time: the page is unmapped then\n");
}

int main(void)
{
	struct vfio_test_mdev_pin p;
	int log, oops, ret;
	struct mdev m;

	ksft_print_header();
	ksft_set_plan(23);
	setvbuf(stdout, NULL, _IOLBF, 0);
	ret = pin_devices_begin();
	if (ret)
		ksft_exit_fail_msg("nothing to make devices of: %s\n",
				   strerror(-ret));

	log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	page = page_alloc(2 * PAGE);
	if (log < 0 || lseek(log, 0, SEEK_END) < 0 || !page)
		ksft_exit_fail_msg("no log or memory\n");
	if (pin_device_create(0, &m) || pin_device_create(1, &second_mdev) ||
	    user_open(&u, m.group, m.name))
		ksft_exit_fail_msg("no device\n");
	/* The kernel that is to survive need not die of it at once */
	oops = panic_on_oops_set(0);

	ksft_test_result(!container_map(u.container, page, IOVA, PAGE) &&
			 !pin(IOVA, 0) && pinned().iova == IOVA,
			 "pin: the driver has the page\n");
	ret = unmap(PAGE);
	p = pinned();
	ksft_test_result(!ret && p.iova == NOTHING && p.told == 1,
			 "driver that lets go: asked once\n");

	ksft_test_result(!container_map(u.container, page, IOVA, PAGE) &&
			 !pin(IOVA, ASKS - 1) && !unmap(PAGE) &&
			 pinned().iova == NOTHING && pinned().told == ASKS,
			 "driver that lets go late: asked again\n");
	ksft_test_result(!lines(log, WARNING),
			 "driver that lets go late: nothing in the log\n");

	ret = container_map(u.container, page, IOVA, PAGE) ?:
	      container_map(u.container, page + PAGE, IOVA + PAGE, PAGE) ?:
	      pin(IOVA, FOR_EVER);
	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	ret = unmap(PAGE);
	printf("# unmap: %d\n", ret);
	ksft_test_result(ret == -EBUSY,
			 "driver that never lets go: the unmap fails\n");
	/* Anything else would wait for the lock of somebody dead */
	if (ret == -ESHUTDOWN)
		for (;;)
			pause();
	ksft_test_result(pinned().iova == IOVA && pinned().told == ASKS &&
			 container_map(u.container, page, IOVA, PAGE) == -EEXIST,
			 "driver that never lets go: page and mapping stay\n");
	ksft_test_result(lines(log, WARNING) == 1,
			 "driver that never lets go: one warning\n");
	ret = unmap(2 * PAGE);
	ksft_test_result(ret == -EBUSY &&
			 container_map(u.container, page, IOVA, PAGE) == -EEXIST,
			 "driver that never lets go: with its neighbours\n");

	ksft_test_result(!pin(IOVA, 0) && !unmap(2 * PAGE) &&
			 pinned().iova == NOTHING &&
			 !container_map(u.container, page, IOVA, 2 * PAGE),
			 "driver that lets go at last: all is unmapped\n");

	ret = unmap(2 * PAGE);
	if (ret)
		ksft_exit_fail_msg("no unmap: %s\n", strerror(-ret));
	all_or_nothing(1);
	all_or_nothing(0);

	ret = container_map(u.container, page, IOVA, PAGE) ?:
	      container_map(u.container, page + PAGE, IOVA + PAGE, PAGE) ?:
	      pin(IOVA, 0);
	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	meanwhile(open_second, "another device is opened meanwhile");
	ret = container_map(u.container, page, IOVA, PAGE) ?: pin(IOVA, 0) ?:
	      pin_by(second.device, IOVA + PAGE, 0);
	if (ret)
		ksft_exit_fail_msg("no mapping: %s\n", strerror(-ret));
	meanwhile(unmap_second, "another device's page is unmapped meanwhile");
	unmapped_meanwhile();
	ret = unmap_second();
	if (ret)
		ksft_exit_fail_msg("the second page stays: %s\n", strerror(-ret));
	several_late();
	neighbour_above();
	tracking_stopped();
	read_only_memory();

	user_close(&second);
	user_close(&u);
	pin_devices_end();
	if (oops > 0)
		panic_on_oops_set(oops);
	ksft_exit(ksft_get_fail_cnt() == 0);
}
