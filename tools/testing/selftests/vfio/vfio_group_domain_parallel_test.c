// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio_group_domain() while 64 groups are opened and closed by several threads
 *
 * Each thread has groups of its own, as VFIO lets a group be opened once.
 * The threads meet in the IOMMU backend, and with one container for all, in
 * the lists that the call walks.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "vfio_group_domain_lib.h"

#define GROUPS		64
#define THREADS		8
#define PER_THREAD	(GROUPS / THREADS)
#define PARENTS		8
#define ROUNDS		4
#define TIMEOUT		180

#define IOVA		0x10000000ULL
#define PAGE		4096UL

struct shared {
	int iommu;
	char *pages;			/* one a group */
	struct mdev mdev[GROUPS];
	int pasid[GROUPS];
	int container;			/* of all, or -1 */
	pthread_barrier_t all_open;
	pthread_barrier_t checked;
	atomic_int failed;
};

struct worker {
	pthread_t thread;
	struct shared *shared;
	int first;
};

/* Who asks for one group all the time */
struct asker {
	pthread_t thread;
	struct shared *shared;
	int probe;
	unsigned int domain;
	atomic_bool stop;
	unsigned long calls;
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

/* The driver and another caller get the domain that translates the device */
static void check_group(struct shared *s, int i, struct user *u, int probe)
{
	const struct mdev *m = &s->mdev[i];
	struct vfio_test_domain answer = {};
	struct vfio_test_mdev_info info;
	int ret, domain;

	ret = mdev_info(u->device, &info);
	if (ret || info.error || info.pasid <= 0 || !info.domain) {
		fail(s, "group %d: info %d, error %d, pasid %d, domain %u\n",
		     i, ret, info.error, info.pasid, info.domain);
		return;
	}
	s->pasid[i] = info.pasid;

	domain = iommu_domain(s->iommu, m->parent, info.pasid);
	if (domain != (int)info.domain)
		fail(s, "group %d: driver has domain %u, attached is %d\n",
		     i, info.domain, domain);

	ret = probe_hold(probe, VFIO_TEST_BUS_MDEV, m->name);
	if (!ret) {
		ret = probe_domain(probe, &answer);
		probe_release(probe);
	}
	if (ret || answer.error || answer.domain != info.domain)
		fail(s, "group %d: call %d, error %d, domain %u, expected %u\n",
		     i, ret, answer.error, answer.domain, info.domain);
}

static void check_dma(struct shared *s, int i, struct user *u, char *page)
{
	char data[16] = {}, seen[16] = {};
	int ret;

	snprintf(data, sizeof(data), "group %d", i);
	memcpy(page, data, sizeof(data));
	ret = mdev_dma(u->device, IOVA + (page - s->pages), seen, sizeof(seen),
		       false);
	if (ret || memcmp(data, seen, sizeof(data)))
		fail(s, "group %d: DMA %d reads '%.15s', expected '%s'\n",
		     i, ret, seen, data);
}

/* In another order for each group, as programs do */
static void close_user(struct user *u, int order)
{
	int fds[3] = { u->container, u->group, u->device };
	int i;

	for (i = 0; i < 3; i++) {
		int fd = fds[(i + order) % 3];

		if (fd >= 0)
			close(fd);
	}
}

static void check_distinct(struct shared *s)
{
	int i, j;

	for (i = 0; i < GROUPS; i++) {
		for (j = 0; j < i; j++) {
			if (s->pasid[i] == s->pasid[j])
				fail(s, "groups %d and %d: both have PASID %d\n",
				     j, i, s->pasid[i]);
		}
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct shared *s = w->shared;
	struct user u[PER_THREAD];
	int round, i, nr, ret;
	int probe = probe_open();
	char *page;

	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < PER_THREAD; i++) {
			nr = w->first + i;
			page = s->pages + nr * PAGE;
			if (s->container < 0)
				ret = user_open(&u[i], s->mdev[nr].group,
						s->mdev[nr].name);
			else
				ret = user_join(&u[i], s->container,
						s->mdev[nr].group,
						s->mdev[nr].name);
			if (!ret && s->container < 0)
				ret = container_map(u[i].container, page,
						    IOVA + nr * PAGE, PAGE);
			if (ret) {
				fail(s, "group %d: open %d\n", nr, ret);
				continue;
			}
			check_group(s, nr, &u[i], probe);
			check_dma(s, nr, &u[i], page);
		}

		/* All 64 are open between these two */
		ret = pthread_barrier_wait(&s->all_open);
		if (ret == PTHREAD_BARRIER_SERIAL_THREAD && s->container < 0)
			check_distinct(s);
		pthread_barrier_wait(&s->checked);

		for (i = 0; i < PER_THREAD; i++)
			close_user(&u[i], round + i);
	}
	close(probe);

	return NULL;
}

static void *ask(void *arg)
{
	struct asker *a = arg;
	struct vfio_test_domain answer;
	int ret;

	do {
		ret = probe_domain(a->probe, &answer);
		if (ret || answer.error || answer.domain != a->domain) {
			fail(a->shared, "call %lu: %d, error %d, domain %u, expected %u\n",
			     a->calls, ret, answer.error, answer.domain,
			     a->domain);
			break;
		}
		a->calls++;
	} while (!a->stop);

	return NULL;
}

FIXTURE(parallel)
{
	struct shared s;
};

FIXTURE_SETUP(parallel)
{
	int parent[PARENTS];
	int i;

	self->s.iommu = iommu_open();
	ASSERT_LE(0, self->s.iommu);
	ASSERT_EQ(0, devices_remove_all(self->s.iommu));
	self->s.container = -1;
	atomic_init(&self->s.failed, 0);
	self->s.pages = page_alloc(GROUPS * PAGE);
	ASSERT_NE(NULL, self->s.pages);
	ASSERT_EQ(0, pthread_barrier_init(&self->s.all_open, NULL, THREADS));
	ASSERT_EQ(0, pthread_barrier_init(&self->s.checked, NULL, THREADS));

	for (i = 0; i < PARENTS; i++) {
		parent[i] = device_add(self->s.iommu, i % VFIO_TEST_IOMMU_UNITS,
				       VFIO_TEST_DEV_AUX);
		ASSERT_LE(0, parent[i]);
	}
	for (i = 0; i < GROUPS; i++)
		ASSERT_EQ(0, mdev_create(parent[i % PARENTS],
					 VFIO_TEST_MDEV_IOMMU, i,
					 &self->s.mdev[i]));
}

FIXTURE_TEARDOWN(parallel)
{
	struct vfio_test_stats stats;

	close_all_but(self->s.iommu);
	ASSERT_EQ(0, iommu_stats(self->s.iommu, &stats));
	EXPECT_EQ(0, stats.domains);
	EXPECT_EQ(0, stats.aux_attached);
	EXPECT_EQ(0, stats.pasids);
	EXPECT_EQ(0, stats.pages);
	ASSERT_EQ(0, devices_remove_all(self->s.iommu));
	ASSERT_EQ(0, iommu_stats(self->s.iommu, &stats));
	EXPECT_EQ(0, stats.devices);
	close(self->s.iommu);
}

static int run_workers(struct shared *s)
{
	struct worker w[THREADS];
	int i, ret = 0;

	for (i = 0; i < THREADS; i++) {
		w[i].shared = s;
		w[i].first = i * PER_THREAD;
		ret = pthread_create(&w[i].thread, NULL, work, &w[i]);
		/* The others would wait for it for ever */
		if (ret)
			return -ret;
	}
	for (i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);

	return ret;
}

TEST_F_TIMEOUT(parallel, groups_with_a_container_each, TIMEOUT)
{
	ASSERT_EQ(0, run_workers(&self->s));
	EXPECT_EQ(0, self->s.failed);
}

/*
 * A container without groups has no IOMMU, so one more group, behind an IOMMU
 * of which the others come and go, stays in it all the time.  It has one answer
 * while they do.
 */
TEST_F_TIMEOUT(parallel, groups_in_one_container, TIMEOUT)
{
	struct asker a = { .shared = &self->s };
	struct vfio_test_mdev_info info;
	struct user anchor;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->s.mdev[0].parent, VFIO_TEST_MDEV_IOMMU,
				 GROUPS, &m));
	ASSERT_EQ(0, user_open(&anchor, m.group, m.name));
	ASSERT_EQ(0, container_map(anchor.container, self->s.pages, IOVA,
				   GROUPS * PAGE));
	self->s.container = anchor.container;

	ASSERT_EQ(0, mdev_info(anchor.device, &info));
	a.domain = info.domain;
	a.probe = probe_open();
	ASSERT_LE(0, a.probe);
	ASSERT_EQ(0, probe_hold(a.probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, pthread_create(&a.thread, NULL, ask, &a));
	EXPECT_EQ(0, run_workers(&self->s));
	a.stop = true;
	pthread_join(a.thread, NULL);
	EXPECT_EQ(0, self->s.failed);
	EXPECT_LT(0, a.calls);
	printf("# %lu answers for a group that stays\n", a.calls);
}

/* The last fixture: what all cases together have left behind */
FIXTURE(references) {
};

FIXTURE_SETUP(references)
{
	int iommu = iommu_open();

	/* A case that was cut short has failed already */
	ASSERT_LE(0, iommu);
	ASSERT_EQ(0, devices_remove_all(iommu));
	close(iommu);
}

FIXTURE_TEARDOWN(references)
{
}

TEST_F(references, modules_can_be_removed)
{
	EXPECT_EQ(0, modules_unload_and_load());
}

int main(int argc, char **argv)
{
	int ret = modules_load(false);

	if (ret)
		ksft_exit_fail_msg("modules cannot be loaded: %s\n",
				   strerror(-ret));

	return test_harness_run(argc, argv);
}
