// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio_group_domain(): the whole path of a mediated device that owns a PASID,
 * on the software IOMMU of test_modules
 *
 * The software IOMMU says from its attachments which domain translates the
 * DMA of a device and PASID.  That is the truth which the answers of
 * vfio_group_domain() are held against.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"
#include "vfio_group_domain_lib.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define IOVA	0x10000000ULL
#define IOVA_2	0x20000000ULL
#define PAGE	4096UL
#define PATTERN	"what the device wrote"

/* A call on another thread, and what is known about it */
struct thread {
	pthread_t thread;
	atomic_int tid;
	atomic_bool done;
	int ret;
	int fd;
	void *page;
	const struct mdev *mdev;
	struct vfio_test_domain answer;
};

static int thread_start(struct thread *t, void *(*fn)(void *))
{
	atomic_init(&t->tid, 0);
	atomic_init(&t->done, false);

	return -pthread_create(&t->thread, NULL, fn, t);
}

static void *thread_map(void *arg)
{
	struct thread *t = arg;

	t->tid = syscall(SYS_gettid);
	t->ret = container_map(t->fd, t->page, IOVA, PAGE);
	t->done = true;

	return NULL;
}

static void *thread_domain(void *arg)
{
	struct thread *t = arg;

	t->tid = syscall(SYS_gettid);
	t->ret = probe_domain(t->fd, &t->answer);
	t->done = true;

	return NULL;
}

static void *thread_remove(void *arg)
{
	struct thread *t = arg;

	t->tid = syscall(SYS_gettid);
	t->ret = mdev_remove(t->mdev);
	t->done = true;

	return NULL;
}

/*
 * In so many looks a removal that waits for no group would have gone on.  One that
 * waits for an open device is awake every ten seconds, to ask for it again: with
 * KASAN on a busy host a thousand looks took longer.
 */
#define LOOKS	200

/*
 * True when the removal sleeps on somebody else, false if it is through.  On
 * its way it may sleep on a lock: it is the same sleep in all these looks.
 */
static bool removal_waits(struct thread *t)
{
	long asleep = -1, switches;
	int looks = 0;
	char state;

	while (!t->done) {
		switches = t->tid ? thread_switches(t->tid) : -1;
		state = t->tid ? thread_state(t->tid) : 0;
		if (!mdev_removal_started(t->mdev) || switches != asleep ||
		    (state != 'D' && state != 'S'))
			looks = 0;
		asleep = switches;
		if (++looks > LOOKS && !t->done)
			return true;
		sched_yield();
	}

	return false;
}

FIXTURE(vfio_group_domain)
{
	int iommu;
	int probe;
	char *page;
	__u64 phys;
	int parent[VFIO_TEST_IOMMU_UNITS];	/* one behind each IOMMU */
};

FIXTURE_SETUP(vfio_group_domain)
{
	int unit, fault;

	self->iommu = iommu_open();
	ASSERT_LE(0, self->iommu);
	/* What a case that was cut short may have left */
	ASSERT_EQ(0, devices_remove_all(self->iommu));
	for (fault = 0; fault < VFIO_TEST_FAULTS; fault++)
		ASSERT_EQ(0, fault_inject(self->iommu, fault, 0));

	self->probe = probe_open();
	ASSERT_LE(0, self->probe);
	self->page = page_alloc(PAGE);
	ASSERT_NE(NULL, self->page);
	ASSERT_EQ(0, probe_phys(self->probe, self->page, &self->phys));

	for (unit = 0; unit < VFIO_TEST_IOMMU_UNITS; unit++) {
		self->parent[unit] = device_add(self->iommu, unit,
						VFIO_TEST_DEV_AUX);
		ASSERT_LE(0, self->parent[unit]);
	}
}

/* Whatever the case did, nothing of it may be left */
FIXTURE_TEARDOWN(vfio_group_domain)
{
	struct vfio_test_stats stats;

	close_all_but(self->iommu);
	ASSERT_EQ(0, iommu_stats(self->iommu, &stats));
	EXPECT_EQ(0, stats.domains);
	EXPECT_EQ(0, stats.aux_attached);
	EXPECT_EQ(0, stats.pasids);
	EXPECT_EQ(0, stats.pages);

	ASSERT_EQ(0, devices_remove_all(self->iommu));
	ASSERT_EQ(0, iommu_stats(self->iommu, &stats));
	EXPECT_EQ(0, stats.devices);
	close(self->iommu);
}

TEST_F(vfio_group_domain, null_group_is_einval)
{
	struct vfio_test_domain answer;

	ASSERT_EQ(0, probe_domain_null(self->probe, &answer));
	EXPECT_EQ(-EINVAL, answer.error);
	EXPECT_EQ(0, answer.is_null);
}

/* A look-up of the group that failed, passed on */
TEST_F(vfio_group_domain, error_for_a_group_is_einval)
{
	struct vfio_test_domain answer;

	ASSERT_EQ(0, probe_domain_error(self->probe, &answer));
	EXPECT_EQ(-EINVAL, answer.error);
	EXPECT_EQ(0, answer.is_null);
	EXPECT_EQ(1, answer.is_same);
}

TEST_F(vfio_group_domain, driver_gets_domain_and_pasid_at_open)
{
	struct vfio_test_mdev_info info;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, mdev_info(u.device, &info));
	EXPECT_EQ(0, info.error);
	EXPECT_LT(0, info.pasid);
	EXPECT_NE(0, info.domain);
	EXPECT_EQ(info.domain,
		  iommu_domain(self->iommu, self->parent[0], info.pasid));
	/* For the table that 'make' prints */
	printf("# answer vfio-group-domain: a domain, with PASID %d\n",
	       info.pasid);
}

/* Drivers that were written for mainline call it by another name */
TEST_F(vfio_group_domain, name_of_mainline_answers_the_same)
{
	struct vfio_test_domain answer;
	struct user u[2];
	struct mdev m[2];
	int i;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m[0]));
	ASSERT_EQ(0, mdev_create(self->parent[1], VFIO_TEST_MDEV_PLAIN, 1, &m[1]));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, user_open(&u[i], m[i].group, m[i].name));
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV,
					m[i].name));
		ASSERT_EQ(0, probe_domain(self->probe, &answer));
		EXPECT_EQ(i ? -ENODEV : 0, answer.error);
		EXPECT_EQ(1, answer.is_same);
		ASSERT_EQ(0, probe_release(self->probe));
	}
}

TEST_F(vfio_group_domain, mapping_of_container_is_in_domain)
{
	__u64 phys;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));

	ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
	EXPECT_EQ(0, phys);

	ASSERT_EQ(0, container_map(u.container, self->page, IOVA, PAGE));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
	EXPECT_EQ(self->phys, phys);
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA + 0x123, &phys));
	EXPECT_EQ(self->phys + 0x123, phys);
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA + PAGE, &phys));
	EXPECT_EQ(0, phys);

	ASSERT_EQ(0, container_unmap(u.container, IOVA, PAGE));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
	EXPECT_EQ(0, phys);
}

TEST_F(vfio_group_domain, dma_with_pasid_reaches_memory)
{
	char data[sizeof(PATTERN)] = PATTERN;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));

	EXPECT_EQ(-EFAULT, mdev_dma(u.device, IOVA, data, sizeof(data), true));
	ASSERT_EQ(0, container_map(u.container, self->page, IOVA, PAGE));
	ASSERT_EQ(0, mdev_dma(u.device, IOVA + 8, data, sizeof(data), true));
	EXPECT_STREQ(PATTERN, self->page + 8);

	strcpy(self->page + 100, "what the user wrote");
	ASSERT_EQ(0, mdev_dma(u.device, IOVA + 100, data, sizeof(data), false));
	EXPECT_STREQ("what the user wrote", data);
}

/*
 * One container, one domain behind each IOMMU.  All of them hold the same
 * mappings, so only the attachment tells which one is right.
 */
TEST_F(vfio_group_domain, each_group_gets_its_own_domain)
{
	struct vfio_test_mdev_info info[VFIO_TEST_IOMMU_UNITS], again;
	struct user u[VFIO_TEST_IOMMU_UNITS];
	struct mdev m[VFIO_TEST_IOMMU_UNITS];
	struct vfio_test_domain answer;
	int container = -1;
	__u64 phys;
	int i, j;

	for (i = 0; i < VFIO_TEST_IOMMU_UNITS; i++) {
		ASSERT_EQ(0, mdev_create(self->parent[i], VFIO_TEST_MDEV_IOMMU,
					 i, &m[i]));
		if (!i) {
			ASSERT_EQ(0, user_open(&u[i], m[i].group, m[i].name));
			container = u[0].container;
		} else {
			ASSERT_EQ(0, user_join(&u[i], container, m[i].group,
					       m[i].name));
		}
	}
	ASSERT_EQ(0, container_map(container, self->page, IOVA, PAGE));

	for (i = 0; i < VFIO_TEST_IOMMU_UNITS; i++) {
		ASSERT_EQ(0, mdev_info(u[i].device, &info[i]));
		ASSERT_LT(0, info[i].pasid);
		EXPECT_EQ(info[i].domain,
			  iommu_domain(self->iommu, self->parent[i],
				       info[i].pasid));

		/* And it is the same for whoever else asks, also later */
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV,
					m[i].name));
		ASSERT_EQ(0, probe_domain(self->probe, &answer));
		EXPECT_EQ(0, answer.error);
		EXPECT_EQ(info[i].domain, answer.domain);
		ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
		EXPECT_EQ(self->phys, phys);
		ASSERT_EQ(0, probe_release(self->probe));

		for (j = 0; j < i; j++) {
			EXPECT_NE(info[i].domain, info[j].domain);
			EXPECT_NE(info[i].pasid, info[j].pasid);
		}
	}

	/* Whoever comes later, to a domain that is neither the first nor the last */
	for (i = 0; i < VFIO_TEST_IOMMU_UNITS; i++) {
		ASSERT_EQ(0, mdev_create(self->parent[i], VFIO_TEST_MDEV_IOMMU,
					 10 + i, &m[i]));
		ASSERT_EQ(0, user_join(&u[i], container, m[i].group,
				       m[i].name));
		ASSERT_EQ(0, mdev_info(u[i].device, &again));
		EXPECT_EQ(info[i].domain, again.domain);
		EXPECT_EQ(info[i].pasid, again.pasid);
	}
}

TEST_F(vfio_group_domain, groups_behind_one_iommu_share_the_domain)
{
	struct vfio_test_mdev_info info[2];
	struct user u[2];
	struct mdev m[2];
	int i, other;

	/* On one parent, and on another parent behind the same IOMMU */
	for (other = 0; other < 2; other++) {
		int second = self->parent[1];

		if (other) {
			second = device_add(self->iommu, 1, VFIO_TEST_DEV_AUX);
			ASSERT_LE(0, second);
		}
		ASSERT_EQ(0, mdev_create(self->parent[1], VFIO_TEST_MDEV_IOMMU,
					 10 * other, &m[0]));
		ASSERT_EQ(0, mdev_create(second, VFIO_TEST_MDEV_IOMMU,
					 10 * other + 1, &m[1]));
		ASSERT_EQ(0, user_open(&u[0], m[0].group, m[0].name));
		ASSERT_EQ(0, user_join(&u[1], u[0].container, m[1].group,
				       m[1].name));
		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, mdev_info(u[i].device, &info[i]));
		EXPECT_NE(0, info[0].domain);
		EXPECT_EQ(info[0].domain, info[1].domain);
		EXPECT_EQ(info[0].pasid, info[1].pasid);
		EXPECT_EQ(info[1].domain,
			  iommu_domain(self->iommu, second, info[1].pasid));

		/* The first may leave, the second keeps domain and PASID */
		user_close(&u[0]);
		EXPECT_EQ(info[1].domain,
			  iommu_domain(self->iommu, second, info[1].pasid));
		user_close(&u[1]);
	}
}

TEST_F(vfio_group_domain, containers_are_apart)
{
	struct vfio_test_mdev_info info[2];
	char data[sizeof(PATTERN)] = PATTERN;
	struct user u[2];
	struct mdev m[2];
	__u64 phys;
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, mdev_create(self->parent[2], VFIO_TEST_MDEV_IOMMU,
					 i, &m[i]));
		ASSERT_EQ(0, user_open(&u[i], m[i].group, m[i].name));
		ASSERT_EQ(0, mdev_info(u[i].device, &info[i]));
		ASSERT_LT(0, info[i].pasid);
	}
	EXPECT_NE(info[0].domain, info[1].domain);
	EXPECT_NE(info[0].pasid, info[1].pasid);

	ASSERT_EQ(0, container_map(u[0].container, self->page, IOVA, PAGE));
	ASSERT_EQ(0, container_map(u[1].container, self->page, IOVA_2, PAGE));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV,
					m[i].name));
		ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
		EXPECT_EQ(i ? 0 : self->phys, phys);
		ASSERT_EQ(0, probe_lookup(self->probe, IOVA_2, &phys));
		EXPECT_EQ(i ? self->phys : 0, phys);
		ASSERT_EQ(0, probe_release(self->probe));
	}

	EXPECT_EQ(0, mdev_dma(u[0].device, IOVA, data, sizeof(data), true));
	EXPECT_EQ(-EFAULT, mdev_dma(u[1].device, IOVA, data, sizeof(data), true));
	EXPECT_EQ(0, mdev_dma(u[1].device, IOVA_2, data, sizeof(data), true));
	EXPECT_EQ(-EFAULT, mdev_dma(u[0].device, IOVA_2, data, sizeof(data), true));
}

TEST_F(vfio_group_domain, parent_without_pasids_offers_no_iommu)
{
	struct vfio_test_mdev_info info;
	struct user u;
	struct mdev m;
	int parent;

	parent = device_add(self->iommu, 0, 0);
	ASSERT_LE(0, parent);
	EXPECT_EQ(-EOPNOTSUPP, mdev_create(parent, VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, mdev_create(parent, VFIO_TEST_MDEV_PLAIN, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, mdev_info(u.device, &info));
	EXPECT_EQ(-ENODEV, info.error);
}

TEST_F(vfio_group_domain, group_without_iommu_device_is_enodev)
{
	struct vfio_test_domain answer;
	struct vfio_test_mdev_info info;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_PLAIN, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, mdev_info(u.device, &info));
	EXPECT_EQ(-ENODEV, info.error);
	EXPECT_EQ(0, info.domain);

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, probe_domain(self->probe, &answer));
	EXPECT_EQ(-ENODEV, answer.error);
	EXPECT_EQ(0, answer.is_null);
}

/* Also where the container has domains, they are not for that group */
TEST_F(vfio_group_domain, group_without_iommu_device_beside_others_is_enodev)
{
	struct vfio_test_domain answer;
	struct vfio_test_mdev_info info;
	struct user u[3];
	struct mdev m[3];
	int i;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m[0]));
	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_PLAIN, 1, &m[1]));
	ASSERT_EQ(0, mdev_create(self->parent[1], VFIO_TEST_MDEV_IOMMU, 2, &m[2]));
	ASSERT_EQ(0, user_open(&u[0], m[0].group, m[0].name));
	for (i = 1; i < 3; i++)
		ASSERT_EQ(0, user_join(&u[i], u[0].container, m[i].group,
				       m[i].name));

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, mdev_info(u[i].device, &info));
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV,
					m[i].name));
		ASSERT_EQ(0, probe_domain(self->probe, &answer));
		EXPECT_EQ(0, answer.is_null);
		EXPECT_EQ(i == 1 ? -ENODEV : 0, answer.error);
		EXPECT_EQ(i == 1 ? -ENODEV : 0, info.error);
		EXPECT_EQ(info.domain, answer.domain);
		ASSERT_EQ(0, probe_release(self->probe));
	}
}

TEST_F(vfio_group_domain, backend_without_the_operation_is_enotty)
{
	struct vfio_test_domain answer;
	int container, group;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	container = container_open();
	ASSERT_LE(0, container);
	group = group_open(m.group);
	ASSERT_LE(0, group);
	ASSERT_EQ(0, group_set_container(group, container));
	ASSERT_EQ(0, container_set_iommu(container, VFIO_TEST_BARE_IOMMU));

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, probe_domain(self->probe, &answer));
	EXPECT_EQ(-ENOTTY, answer.error);
	EXPECT_EQ(0, answer.is_null);

	/* The driver must not open a device that it cannot isolate */
	EXPECT_EQ(-ENOTTY, group_device(group, m.name));
	ASSERT_EQ(0, probe_release(self->probe));
	EXPECT_EQ(0, ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
}

TEST_F(vfio_group_domain, backend_that_returns_null_is_enodev)
{
	struct vfio_test_domain answer;
	int container, group;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	container = container_open();
	ASSERT_LE(0, container);
	group = group_open(m.group);
	ASSERT_LE(0, group);
	ASSERT_EQ(0, group_set_container(group, container));
	ASSERT_EQ(0, container_set_iommu(container, VFIO_TEST_NULL_IOMMU));

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, probe_domain(self->probe, &answer));
	EXPECT_EQ(-ENODEV, answer.error);
	EXPECT_EQ(0, answer.is_null);
}

/* What the group was told in one container does not hold in the next */
TEST_F(vfio_group_domain, answer_goes_with_the_container)
{
	struct vfio_test_domain first = {}, answer;
	int container, group, i;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	group = group_open(m.group);
	ASSERT_LE(0, group);
	for (i = 0; i < 3; i++) {
		container = container_open();
		ASSERT_LE(0, container);
		ASSERT_EQ(0, group_set_container(group, container));
		ASSERT_EQ(0, container_set_iommu(container, i == 1 ?
						 VFIO_TEST_BARE_IOMMU :
						 VFIO_TYPE1v2_IOMMU));
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
		ASSERT_EQ(0, probe_domain(self->probe, &answer));
		EXPECT_EQ(i == 1 ? -ENOTTY : 0, answer.error);
		if (!i)
			first = answer;
		else
			EXPECT_NE(first.domain, answer.domain);
		ASSERT_EQ(0, probe_release(self->probe));
		ASSERT_EQ(0, ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
		close(container);
	}
}

/* Without a reference there is no group to ask for, and none can be had */
TEST_F(vfio_group_domain, group_outside_of_a_container_cannot_be_held)
{
	int container, group;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	EXPECT_EQ(-EINVAL, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));

	container = container_open();
	ASSERT_LE(0, container);
	group = group_open(m.group);
	ASSERT_LE(0, group);
	ASSERT_EQ(0, group_set_container(group, container));
	EXPECT_EQ(-EINVAL, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, container_set_iommu(container, VFIO_TYPE1v2_IOMMU));
	EXPECT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
}

TEST_F(vfio_group_domain, pasid_error_fails_open_and_lets_go)
{
	struct vfio_test_mdev_info info;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, NULL));

	ASSERT_EQ(0, fault_inject(self->iommu, VFIO_TEST_FAULT_PASID, ENOSPC));
	EXPECT_EQ(-ENOSPC, group_device(u.group, m.name));

	/* The failed open kept no reference: the group can leave and return */
	ASSERT_EQ(0, ioctl(u.group, VFIO_GROUP_UNSET_CONTAINER));
	ASSERT_EQ(0, group_set_container(u.group, u.container));
	ASSERT_EQ(0, container_set_iommu(u.container, VFIO_TYPE1v2_IOMMU));
	u.device = group_device(u.group, m.name);
	ASSERT_LE(0, u.device);
	ASSERT_EQ(0, mdev_info(u.device, &info));
	EXPECT_EQ(1, info.opens);
	EXPECT_LT(0, info.pasid);
}

TEST_F(vfio_group_domain, attach_errors_leave_container_usable)
{
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));

	ASSERT_EQ(0, fault_inject(self->iommu, VFIO_TEST_FAULT_AUX_ATTACH, EBUSY));
	EXPECT_EQ(-EBUSY, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, fault_inject(self->iommu, VFIO_TEST_FAULT_ALLOC, ENOMEM));
	EXPECT_EQ(-EIO, user_open(&u, m.group, m.name));

	EXPECT_EQ(0, user_open(&u, m.group, m.name));
}

TEST_F(vfio_group_domain, failed_mapping_is_not_in_domain)
{
	__u64 phys;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, fault_inject(self->iommu, VFIO_TEST_FAULT_MAP, ENOMEM));
	EXPECT_EQ(-ENOMEM, container_map(u.container, self->page, IOVA, PAGE));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
	EXPECT_EQ(0, phys);
}

TEST_F(vfio_group_domain, second_open_sees_the_same_domain)
{
	struct vfio_test_mdev_info info, again;
	struct user u;
	struct mdev m;
	int device;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, mdev_info(u.device, &info));
	device = group_device(u.group, m.name);
	ASSERT_LE(0, device);
	ASSERT_EQ(0, mdev_info(device, &again));
	EXPECT_EQ(2, again.opens);
	EXPECT_EQ(info.domain, again.domain);
	EXPECT_EQ(info.pasid, again.pasid);

	close(u.device);
	u.device = -1;
	ASSERT_EQ(0, mdev_info(device, &again));
	EXPECT_EQ(1, again.opens);
	EXPECT_EQ(info.domain, again.domain);
	EXPECT_EQ(info.pasid, again.pasid);
}

TEST_F(vfio_group_domain, group_in_use_cannot_leave_its_container)
{
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, NULL));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	EXPECT_EQ(-1, ioctl(u.group, VFIO_GROUP_UNSET_CONTAINER));
	EXPECT_EQ(EBUSY, errno);
	ASSERT_EQ(0, probe_release(self->probe));
	EXPECT_EQ(0, ioctl(u.group, VFIO_GROUP_UNSET_CONTAINER));
}

/* Userspace closes all it has; the domain lives on with the reference */
TEST_F(vfio_group_domain, reference_outlives_the_container)
{
	struct vfio_test_domain before, after;
	struct vfio_test_mdev_info info;
	struct vfio_test_stats stats;
	__u64 phys;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, container_map(u.container, self->page, IOVA, PAGE));
	ASSERT_EQ(0, mdev_info(u.device, &info));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, probe_domain(self->probe, &before));
	ASSERT_EQ(0, before.error);

	user_close(&u);

	ASSERT_EQ(0, probe_domain(self->probe, &after));
	EXPECT_EQ(0, after.error);
	EXPECT_EQ(before.domain, after.domain);
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
	EXPECT_EQ(self->phys, phys);
	ASSERT_EQ(0, iommu_translate(self->iommu, self->parent[0], info.pasid,
				     IOVA, &phys));
	EXPECT_EQ(self->phys, phys);
	/* The group is not free for the next user yet */
	EXPECT_EQ(-EBUSY, group_open(m.group));

	ASSERT_EQ(0, probe_release(self->probe));
	ASSERT_EQ(0, iommu_stats(self->iommu, &stats));
	EXPECT_EQ(0, stats.domains);
	EXPECT_EQ(0, stats.pasids);
	EXPECT_EQ(0, stats.pages);
	EXPECT_EQ(0, iommu_domain(self->iommu, self->parent[0], info.pasid));
	EXPECT_EQ(0, user_open(&u, m.group, m.name));
}

/* The device is removed while somebody holds the group, as in the contract */
TEST_F(vfio_group_domain, hot_removal_waits_for_the_reference)
{
	struct vfio_test_domain before, after;
	struct thread t = {};
	__u64 phys;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, NULL));
	ASSERT_EQ(0, container_map(u.container, self->page, IOVA, PAGE));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, probe_domain(self->probe, &before));
	ASSERT_EQ(0, before.error);

	t.mdev = &m;
	ASSERT_EQ(0, thread_start(&t, thread_remove));
	EXPECT_TRUE(removal_waits(&t));

	ASSERT_EQ(0, probe_domain(self->probe, &after));
	EXPECT_EQ(0, after.error);
	EXPECT_EQ(before.domain, after.domain);
	user_close(&u);
	ASSERT_EQ(0, probe_domain(self->probe, &after));
	EXPECT_EQ(0, after.error);
	EXPECT_EQ(before.domain, after.domain);
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA, &phys));
	EXPECT_EQ(self->phys, phys);
	EXPECT_FALSE(t.done);

	ASSERT_EQ(0, probe_release(self->probe));
	ASSERT_EQ(0, pthread_join(t.thread, NULL));
	EXPECT_EQ(0, t.ret);
}

/* The same with the reference of the driver, and DMA under way */
TEST_F(vfio_group_domain, hot_removal_waits_for_the_open_device)
{
	char data[sizeof(PATTERN)] = PATTERN;
	struct vfio_test_stats stats;
	struct thread t = {};
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, container_map(u.container, self->page, IOVA, PAGE));

	t.mdev = &m;
	ASSERT_EQ(0, thread_start(&t, thread_remove));
	EXPECT_TRUE(removal_waits(&t));
	EXPECT_EQ(0, mdev_dma(u.device, IOVA, data, sizeof(data), true));
	EXPECT_STREQ(PATTERN, self->page);
	EXPECT_FALSE(t.done);

	user_close(&u);
	ASSERT_EQ(0, pthread_join(t.thread, NULL));
	EXPECT_EQ(0, t.ret);
	ASSERT_EQ(0, iommu_stats(self->iommu, &stats));
	EXPECT_EQ(0, stats.domains);
}

/*
 * type1 is in the middle of a mapping, with its lock held, and may be for long.
 * That is nothing to somebody who only asks.
 */
TEST_F(vfio_group_domain, call_waits_for_no_lock)
{
	struct vfio_test_calls before, now;
	struct thread map = {}, ask = {};
	bool waits = false;
	struct user u;
	struct mdev m;

	ASSERT_EQ(0, mdev_create(self->parent[0], VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_open(&u, m.group, m.name));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_MDEV, m.name));
	ASSERT_EQ(0, probe_calls(self->probe, &before));

	ASSERT_EQ(0, ioctl(self->iommu, VFIO_TEST_HOLD_MAP));
	map.fd = u.container;
	map.page = self->page;
	ASSERT_EQ(0, thread_start(&map, thread_map));
	ASSERT_EQ(0, ioctl(self->iommu, VFIO_TEST_WAIT_MAP));

	ask.fd = self->probe;
	ASSERT_EQ(0, thread_start(&ask, thread_domain));
	do {
		sched_yield();
		/* Asleep between these two is asleep in vfio_group_domain() */
		ASSERT_EQ(0, probe_calls(self->probe, &now));
		if (now.entered == before.entered || !ask.tid)
			continue;
		waits = thread_state(ask.tid) == 'D';
		ASSERT_EQ(0, probe_calls(self->probe, &now));
	} while (!waits && now.left == before.left);
	EXPECT_NE(before.left, now.left);
	EXPECT_FALSE(map.done);

	ASSERT_EQ(0, ioctl(self->iommu, VFIO_TEST_FREE_MAP));
	ASSERT_EQ(0, pthread_join(map.thread, NULL));
	ASSERT_EQ(0, pthread_join(ask.thread, NULL));
	EXPECT_EQ(0, map.ret);
	EXPECT_EQ(0, ask.ret);
	EXPECT_EQ(0, ask.answer.error);
	EXPECT_NE(0, ask.answer.domain);
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
	int oops, ret, status;
	pid_t pid;

	ret = modules_load(false);
	if (ret)
		ksft_exit_fail_msg("modules cannot be loaded: %s\n",
				   strerror(-ret));

	/*
	 * A fault in the call kills the process of one case, which then has
	 * failed.  The machine need not stop for it.  The harness does not
	 * return, so it runs in a child.
	 */
	oops = panic_on_oops_set(0);
	pid = fork();
	if (pid < 0)
		ksft_exit_fail_msg("no child: %s\n", strerror(errno));
	if (!pid)
		return test_harness_run(argc, argv);

	waitpid(pid, &status, 0);
	if (oops > 0)
		panic_on_oops_set(oops);

	return WIFEXITED(status) ? WEXITSTATUS(status) : KSFT_FAIL;
}
