// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio_dma_rw() and memory that is not there
 *
 * A driver reads and writes its user's memory by it.  A page that the user keeps
 * back keeps the one who wants it and nobody else, who can be killed.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "vfio_migration_region_lib.h"
#include "vfio_test_migration.h"
#include "vfio_unmap_glue.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define IOVA		0x10000000ULL
#define ELSEWHERE	0x20000000ULL
#define LEN		64UL

FIXTURE(dma_rw)
{
	struct user u;
	int absent;	/* of which pages are mapped that do not come */
};

FIXTURE_SETUP(dma_rw)
{
	struct mdev m;

	ASSERT_EQ(0, pin_devices_begin());
	ASSERT_EQ(0, pin_device_create(0, &m));
	ASSERT_EQ(0, user_open(&self->u, m.group, m.name));
	self->absent = open("/dev/vfio_test_migration", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->absent);
}

FIXTURE_TEARDOWN(dma_rw)
{
	close(self->absent);
	user_close(&self->u);
	pin_devices_end();
}

/* Pages of zeroes that nobody has touched yet */
static char *fresh_pages(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* What is not there is got, as it is wanted */
TEST_F(dma_rw, fresh_memory)
{
	int container = self->u.container, device = self->u.device;
	char *page = fresh_pages(4 * PAGE);
	char buf[LEN];

	ASSERT_NE(NULL, page);
	ASSERT_EQ(0, container_map(container, page, IOVA, 4 * PAGE));

	/* Two at once, to be written, which have to be pages of their own */
	memset(buf, 0x5a, LEN);
	EXPECT_EQ(0, mdev_rw(device, IOVA + PAGE - LEN / 2, buf, LEN, true));
	EXPECT_EQ(0, memcmp(page + PAGE - LEN / 2, buf, LEN));
	EXPECT_EQ(true, all_zero(page, PAGE - LEN / 2));

	/* Two at once, to be read, which are one for all then */
	EXPECT_EQ(0, mdev_rw(device, IOVA + 3 * PAGE - LEN / 2, buf, LEN,
			     false));
	EXPECT_EQ(true, all_zero(buf, LEN));
	memset(buf, 0xa5, LEN);
	EXPECT_EQ(0, mdev_rw(device, IOVA + 3 * PAGE - LEN / 2, buf, LEN,
			     true));
	EXPECT_EQ(0, memcmp(page + 3 * PAGE - LEN / 2, buf, LEN));

	/* What its owner may not write is not got to be written */
	ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ));
	EXPECT_EQ(-EFAULT, mdev_rw(device, IOVA, buf, LEN, true));
	EXPECT_EQ(true, all_zero(page, LEN));
	EXPECT_EQ(0, mdev_rw(device, IOVA, buf, LEN, false));
	EXPECT_EQ(true, all_zero(buf, LEN));
	ASSERT_EQ(0, munmap(page, PAGE));
	EXPECT_EQ(-EFAULT, mdev_rw(device, IOVA, buf, LEN, false));
	ASSERT_EQ(0, container_unmap(container, IOVA, 4 * PAGE));
	munmap(page + PAGE, 3 * PAGE);
}

/* A caller gets at memory of his own only, and not at what has its address */
TEST_F(dma_rw, memory_of_another_program)
{
	int container = self->u.container, device = self->u.device;
	char *page = page_alloc(PAGE);
	char buf[LEN];
	int status;
	pid_t pid;

	ASSERT_NE(NULL, page);
	memset(page, 0x11, PAGE);
	ASSERT_EQ(0, container_map(container, page, IOVA, PAGE));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		memset(buf, 0x5a, LEN);
		if (mdev_rw(device, IOVA, buf, LEN, true) != -EFAULT)
			_exit(1);
		if (page[0] != 0x11 || memcmp(page, page + 1, PAGE - 1))
			_exit(2);
		_exit(mdev_rw(device, IOVA, buf, LEN, false) == -EFAULT ? 0 : 3);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0x11, page[0]);
	EXPECT_EQ(0, memcmp(page, page + 1, PAGE - 1));
	ASSERT_EQ(0, container_unmap(container, IOVA, PAGE));
	munmap(page, PAGE);
}

/* Whoever can map memory chooses its address, which is no way into the kernel's */
TEST_F(dma_rw, memory_of_the_kernel)
{
	static const __u64 of_the_kernel[] = {
		0xffffffff81000000,	/* its text */
		0xffff888000000000,	/* all memory */
		0xfffffffffffff000,
		0x0000800000000000,	/* not an address */
		0x00007ffffffff000,	/* no program has this page */
	};
	int container = self->u.container, device = self->u.device;
	char buf[LEN];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(of_the_kernel); i++) {
		TH_LOG("%llx", of_the_kernel[i]);
		memset(buf, 0x5a, LEN);
		ASSERT_EQ(0, container_map(container, (void *)of_the_kernel[i],
					   IOVA, PAGE));
		EXPECT_EQ(-EFAULT, mdev_rw(device, IOVA, buf, LEN, true));
		EXPECT_EQ(-EFAULT, mdev_rw(device, IOVA, buf, LEN, false));
		EXPECT_EQ(true, buf[0] == 0x5a && !memcmp(buf, buf + 1, LEN - 1));
		ASSERT_EQ(0, container_unmap(container, IOVA, PAGE));
	}
}

/* One mapping after the other, up to where there is none or none that may be had */
TEST_F(dma_rw, mappings_side_by_side)
{
	int container = self->u.container, device = self->u.device;
	char *page = page_alloc(3 * PAGE);
	unsigned long half = LEN / 2;
	char buf[LEN];

	ASSERT_NE(NULL, page);
	memset(page, 0x11, 3 * PAGE);
	/* Not in the order of the memory, and with a gap behind the second */
	ASSERT_EQ(0, container_map(container, page + PAGE, IOVA, PAGE));
	ASSERT_EQ(0, container_map(container, page, IOVA + PAGE, PAGE));
	ASSERT_EQ(0, container_map(container, page + 2 * PAGE, IOVA + 3 * PAGE,
				   PAGE));
	memset(buf, 0x5a, LEN);
	EXPECT_EQ(0, mdev_rw(device, IOVA + PAGE - half, buf, LEN, true));
	EXPECT_EQ(0, memcmp(page + 2 * PAGE - half, buf, half));
	EXPECT_EQ(0, memcmp(page, buf, half));
	EXPECT_EQ(0x11, page[half]);
	EXPECT_EQ(0x11, page[2 * PAGE]);
	memset(buf, 0x77, LEN);
	EXPECT_EQ(-EINVAL, mdev_rw(device, IOVA + 2 * PAGE - half, buf, LEN,
				   true));
	EXPECT_EQ(0, memcmp(page + PAGE - half, buf, half));
	EXPECT_EQ(0x11, page[2 * PAGE]);
	EXPECT_EQ(-EINVAL, mdev_rw(device, IOVA + 3 * PAGE - half, buf, LEN,
				   true));
	EXPECT_EQ(0x11, page[2 * PAGE]);
	EXPECT_EQ(-EINVAL, mdev_rw(device, IOVA + 4 * PAGE - half, buf, LEN,
				   false));
	EXPECT_EQ(-EINVAL, mdev_rw(device, ~0ULL, buf, LEN, false));
	ASSERT_EQ(0, container_unmap(container, IOVA, 4 * PAGE));
	munmap(page, 3 * PAGE);
}

/*
 * A program of two threads.  The first has a page mapped that does not come, and
 * the driver access it.  The second does as it is told, and says so.
 */

enum command {
	UNMAP,		/* the page */
	REPLACE,	/* it, by another one */
};

struct program {
	int container;
	int device;
	int absent;
	__u64 iova;
	bool write;
	char *page;
	char *other;
	int told[2];
	int says[2];
};

/* How it ends, if not with an error that the first thread got */
enum {
	WENT_WELL,
	WENT_TO_THE_OTHER = 253,
	WENT_WRONG,
	NOT_SET_UP,
};

static void *second_thread(void *arg)
{
	struct program *p = arg;
	char command, error;

	if (read(p->told[0], &command, 1) != 1)
		return NULL;
	error = !!container_unmap(p->container, p->iova, PAGE);
	if (!error && command == REPLACE)
		error = !!container_map(p->container, p->other, p->iova, PAGE);
	if (write(p->says[1], &error, 1) != 1)
		_exit(NOT_SET_UP);

	return NULL;
}

static void first_thread(struct program *p)
{
	pthread_t thread;
	char buf[LEN];
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	p->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		       p->absent, 0);
	p->other = page_alloc(PAGE);
	if (p->page == MAP_FAILED || !p->other ||
	    container_map(p->container, p->page, p->iova, PAGE))
		_exit(NOT_SET_UP);
	memset(p->other, 0x11, PAGE);
	memset(buf, 0x5a, LEN);
	if (pthread_create(&thread, NULL, second_thread, p))
		_exit(NOT_SET_UP);
	ret = mdev_rw(p->device, p->iova, buf, LEN, p->write);
	/* Not a byte of what was unmapped meanwhile is written */
	if (ret == -EINVAL && !all_zero(p->page, PAGE))
		_exit(WENT_WRONG);
	if (ret)
		_exit(-ret);

	if (p->write) {
		if (!memcmp(p->page, buf, LEN) && p->other[0] == 0x11)
			_exit(WENT_WELL);
		if (!memcmp(p->other, buf, LEN) && all_zero(p->page, PAGE))
			_exit(WENT_TO_THE_OTHER);
	} else {
		if (all_zero(buf, LEN))
			_exit(WENT_WELL);
		if (!memcmp(p->other, buf, LEN))
			_exit(WENT_TO_THE_OTHER);
	}
	_exit(WENT_WRONG);
}

static pid_t program_start(struct program *p)
{
	pid_t pid;

	if (pipe(p->told) || pipe(p->says))
		return -errno;
	pid = fork();
	if (!pid)
		first_thread(p);

	return pid;
}

static int program_tell(const struct program *p, enum command what)
{
	char byte = what;

	if (write(p->told[1], &byte, 1) != 1 || read(p->says[0], &byte, 1) != 1)
		return -EIO;

	return byte;
}

static void program_close(const struct program *p)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		close(p->told[i]);
		close(p->says[i]);
	}
	close(p->absent);
}

/* Does somebody else in the container get through while the page is waited for? */
static bool others_go_on(const struct program *p)
{
	char *page = page_alloc(PAGE);
	bool go_on;
	pid_t pid;

	pid = fork();
	if (!pid)
		_exit(container_map(p->container, page, ELSEWHERE, PAGE) ||
		      container_unmap(p->container, ELSEWHERE, PAGE));
	go_on = pid > 0 && ends(pid, 0);
	/* If not, they are to end all the same */
	if (!go_on)
		ioctl(p->absent, VFIO_TEST_MIGRATION_GIVE);
	munmap(page, PAGE);

	return go_on;
}

enum event {
	IT_COMES,
	IT_IS_UNMAPPED,
	IT_IS_REPLACED,
	KILLED,
};

static void page_is_late(struct __test_metadata *_metadata,
			 const struct user *u, enum event how)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		/* A mapping is its owner's to take back */
		struct program p = {
			.container = u->container,
			.device = u->device,
			.iova = IOVA + i * PAGE,
			.write = i,
		};
		int want = WENT_WELL;
		pid_t pid;

		TH_LOG("%s", p.write ? "write" : "read");
		p.absent = open("/dev/vfio_test_migration",
				O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, p.absent);
		pid = program_start(&p);
		ASSERT_LT(0, pid);
		ASSERT_EQ(true, waits_for_page(p.absent, pid));
		ASSERT_EQ(true, others_go_on(&p));
		EXPECT_EQ(1, ioctl(p.absent, VFIO_TEST_MIGRATION_WAITERS));

		switch (how) {
		case IT_COMES:
			break;
		case IT_IS_UNMAPPED:
			ASSERT_EQ(0, program_tell(&p, UNMAP));
			want = EINVAL << 8;
			break;
		case IT_IS_REPLACED:
			ASSERT_EQ(0, program_tell(&p, REPLACE));
			want = WENT_TO_THE_OTHER << 8;
			break;
		case KILLED:
			ASSERT_EQ(0, kill(pid, SIGKILL));
			want = SIGKILL;
			break;
		}
		if (how != KILLED)
			ASSERT_EQ(0, ioctl(p.absent, VFIO_TEST_MIGRATION_GIVE));
		EXPECT_EQ(true, ends(pid, want));
		EXPECT_EQ(0, ioctl(p.absent, VFIO_TEST_MIGRATION_WAITERS));
		program_close(&p);
	}
}

TEST_F(dma_rw, page_comes_late)
{
	page_is_late(_metadata, &self->u, IT_COMES);
}

TEST_F(dma_rw, page_is_unmapped_before_it_comes)
{
	page_is_late(_metadata, &self->u, IT_IS_UNMAPPED);
}

/* What has come is not what is mapped there now */
TEST_F(dma_rw, page_is_replaced_before_it_comes)
{
	page_is_late(_metadata, &self->u, IT_IS_REPLACED);
}

TEST_F(dma_rw, killed_while_it_waits)
{
	page_is_late(_metadata, &self->u, KILLED);
}

/* A page that has gone again is got once more, but not for ever */
TEST_F(dma_rw, page_is_lost)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		struct program p = {
			.container = self->u.container,
			.device = self->u.device,
			.iova = IOVA + i * PAGE,
			.write = i & 1,
		};
		int times = i / 2 ? INT_MAX : 3, left;
		bool ended;
		pid_t pid;

		TH_LOG("%s, lost %d times", p.write ? "write" : "read", times);
		p.absent = open("/dev/vfio_test_migration",
				O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, p.absent);
		ASSERT_EQ(0, ioctl(p.absent, VFIO_TEST_MIGRATION_GIVE));
		ASSERT_EQ(0, ioctl(p.absent, VFIO_TEST_MIGRATION_LOSE, times));
		pid = program_start(&p);
		ASSERT_LT(0, pid);
		ended = ends(pid, i / 2 ? EFAULT << 8 : WENT_WELL);
		left = ioctl(p.absent, VFIO_TEST_MIGRATION_LOSE, 0);
		EXPECT_EQ(true, ended);
		EXPECT_LE(3, times - left);
		EXPECT_EQ(true, i / 2 || !left);
		if (!ended)
			waitpid(pid, NULL, 0);
		program_close(&p);
	}
}

TEST_HARNESS_MAIN
