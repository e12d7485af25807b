// SPDX-License-Identifier: GPL-2.0-only
/*
 * type1 and a driver that does not let go of memory which is being unmapped
 *
 * The driver of test_modules pins a page again, as often as it is told to,
 * when type1 asks for it.  A real one does so when its user starts DMA again
 * and again while another thread of the user's unmaps: no fault of the
 * kernel's, and nothing that may bring it down.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>

#include "../kselftest.h"
#include "vfio_group_domain_lib.h"

#define IOVA		0x10000000ULL
#define PAGE		4096UL
#define NOTHING		(~0ULL)

/* How often type1 asks before it gives up, and much more than that */
#define ASKS		11
#define FOR_EVER	1000

#define WARNING		"vfio_dma_do_unmap: memory at 0x0000000010000000 stays pinned"

static struct user u;
static char *page;

static int pin(__u64 iova, unsigned int keep)
{
	struct vfio_test_mdev_pin arg = { .iova = iova, .keep = keep };

	return ioctl(u.device, VFIO_TEST_MDEV_PIN, &arg) ? -errno : 0;
}

/* What the driver has pinned now, and how often it was told */
static struct vfio_test_mdev_pin pinned(void)
{
	struct vfio_test_mdev_pin arg = {};

	if (ioctl(u.device, VFIO_TEST_MDEV_PINNED, &arg))
		ksft_exit_fail_msg("the driver does not answer: %s\n",
				   strerror(errno));

	return arg;
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

int main(void)
{
	struct vfio_test_mdev_pin p;
	int iommu, parent, log, oops, ret;
	struct mdev m;

	ksft_print_header();
	ksft_set_plan(9);
	setvbuf(stdout, NULL, _IOLBF, 0);
	ret = modules_load(false);
	if (ret)
		ksft_exit_fail_msg("modules cannot be loaded: %s\n",
				   strerror(-ret));

	log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	iommu = iommu_open();
	page = page_alloc(2 * PAGE);
	if (log < 0 || lseek(log, 0, SEEK_END) < 0 || iommu < 0 || !page ||
	    devices_remove_all(iommu))
		ksft_exit_fail_msg("no log, IOMMU or memory\n");
	parent = device_add(iommu, 0, VFIO_TEST_DEV_AUX);
	if (parent < 0 || mdev_create(parent, VFIO_TEST_MDEV_PLAIN, 0, &m) ||
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

	user_close(&u);
	devices_remove_all(iommu);
	close(iommu);
	if (oops > 0)
		panic_on_oops_set(oops);
	ksft_exit(ksft_get_fail_cnt() == 0);
}
