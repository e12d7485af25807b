// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfio_group_domain() with a PCI device behind the IOMMU of the machine
 *
 * The device is QEMU's edu, bound to vfio-pci.  It can copy 4 KiB between
 * memory and itself, so that the mappings in the domain which the call
 * returns can be seen to be those that the IOMMU uses.  Two more sit behind a
 * bridge to conventional PCI, where the IOMMU cannot tell one from the other:
 * they are in one group.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../kselftest_harness.h"
#include "vfio_group_domain_lib.h"

#define PCI_COMMAND		0x04
#define PCI_COMMAND_MEMORY	0x2
#define PCI_COMMAND_MASTER	0x4

/* The device has 28 address bits */
#define IOVA_OUT	0x01000000ULL
#define IOVA_IN		0x02000000ULL
#define PAGE		4096UL

/* With a debug kernel in an emulator, tables of the IOMMU take their time */
#define TIMEOUT		120

static struct pci_name edu;
static struct pci_name pair[2];	/* two that share a group, or empty */

FIXTURE(pci)
{
	int iommu;
	int probe;
	int group;
	struct user u;
	char *page;
	__u64 phys;
};

FIXTURE_SETUP(pci)
{
	self->group = pci_group(edu.s);
	ASSERT_LE(0, self->group);
	self->iommu = iommu_open();
	ASSERT_LE(0, self->iommu);
	ASSERT_EQ(0, devices_remove_all(self->iommu));
	self->probe = probe_open();
	ASSERT_LE(0, self->probe);
	self->page = page_alloc(PAGE);
	ASSERT_NE(NULL, self->page);
	ASSERT_EQ(0, probe_phys(self->probe, self->page, &self->phys));

	ASSERT_EQ(0, pci_bind(edu.s, "vfio-pci"));
	ASSERT_EQ(0, user_open(&self->u, self->group, edu.s));
}

FIXTURE_TEARDOWN(pci)
{
	struct vfio_test_stats stats;

	close_all_but(self->iommu);
	EXPECT_EQ(0, pci_bind(edu.s, "\n"));
	ASSERT_EQ(0, devices_remove_all(self->iommu));
	ASSERT_EQ(0, iommu_stats(self->iommu, &stats));
	EXPECT_EQ(0, stats.devices);
	EXPECT_EQ(0, stats.domains);
	close(self->iommu);
}

TEST_F_TIMEOUT(pci, domain_is_the_attached_one, TIMEOUT)
{
	struct vfio_test_domain answer;

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu.s));
	ASSERT_EQ(0, probe_domain(self->probe, &answer));
	EXPECT_EQ(0, answer.error);
	EXPECT_EQ(0, answer.is_null);
	EXPECT_EQ(1, answer.is_attached);
}

TEST_F_TIMEOUT(pci, mapping_of_container_is_in_domain, TIMEOUT)
{
	__u64 phys;

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu.s));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA_IN, &phys));
	EXPECT_EQ(0, phys);
	ASSERT_EQ(0, container_map(self->u.container, self->page, IOVA_IN, PAGE));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA_IN, &phys));
	EXPECT_EQ(self->phys, phys);
	ASSERT_EQ(0, container_unmap(self->u.container, IOVA_IN, PAGE));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA_IN, &phys));
	EXPECT_EQ(0, phys);
}

/* Another IOMMU driver in the same container: two domains, told apart */
TEST_F_TIMEOUT(pci, mediated_device_beside_it_gets_another_domain, TIMEOUT)
{
	struct vfio_test_mdev_info info;
	struct vfio_test_domain answer;
	struct user u;
	struct mdev m;
	int parent;

	parent = device_add(self->iommu, 0, VFIO_TEST_DEV_AUX);
	ASSERT_LE(0, parent);
	ASSERT_EQ(0, mdev_create(parent, VFIO_TEST_MDEV_IOMMU, 0, &m));
	ASSERT_EQ(0, user_join(&u, self->u.container, m.group, m.name));
	ASSERT_EQ(0, mdev_info(u.device, &info));
	EXPECT_NE(0, info.domain);
	EXPECT_EQ(info.domain, iommu_domain(self->iommu, parent, info.pasid));

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu.s));
	ASSERT_EQ(0, probe_domain(self->probe, &answer));
	EXPECT_EQ(0, answer.error);
	EXPECT_EQ(0, answer.domain);
	EXPECT_EQ(1, answer.is_attached);
	user_close(&u);
}

/* They come and go one by one, the domain is that of the group */
TEST_F_TIMEOUT(pci, devices_of_one_group_share_its_domain, TIMEOUT)
{
	struct vfio_test_domain answer;
	int device[2], i;
	struct user u;
	__u64 phys;

	ASSERT_NE(0, pair[1].s[0]);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pci_bind(pair[i].s, "vfio-pci"));
	ASSERT_EQ(0, user_join(&u, self->u.container, pci_group(pair[0].s), NULL));
	ASSERT_EQ(0, container_map(self->u.container, self->page, IOVA_IN, PAGE));

	for (i = 0; i < 2; i++) {
		device[i] = group_device(u.group, pair[i].s);
		ASSERT_LE(0, device[i]);
	}
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, pair[i].s));
		ASSERT_EQ(0, probe_domain(self->probe, &answer));
		EXPECT_EQ(0, answer.error);
		EXPECT_EQ(1, answer.is_attached);
		close(device[i]);
		ASSERT_EQ(0, probe_domain(self->probe, &answer));
		EXPECT_EQ(0, answer.error);
		EXPECT_EQ(1, answer.is_attached);
		ASSERT_EQ(0, probe_lookup(self->probe, IOVA_IN, &phys));
		EXPECT_EQ(self->phys, phys);
		ASSERT_EQ(0, probe_release(self->probe));
	}

	user_close(&u);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, pci_bind(pair[i].s, "\n"));
}

/* Memory, to the device, to other memory: by IOVAs that the domain has */
TEST_F_TIMEOUT(pci, dma_goes_where_the_domain_says, TIMEOUT)
{
	struct vfio_region_info bar0 = {
		.argsz = sizeof(bar0),
		.index = VFIO_PCI_BAR0_REGION_INDEX,
	};
	struct vfio_region_info config = {
		.argsz = sizeof(config),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	__u64 phys, phys_in;
	__u16 command;
	void *bar;
	char *in;

	ASSERT_EQ(0, ioctl(self->u.device, VFIO_DEVICE_GET_REGION_INFO, &bar0));
	ASSERT_EQ(EDU_BAR_SIZE, bar0.size);
	ASSERT_EQ(0, ioctl(self->u.device, VFIO_DEVICE_GET_REGION_INFO, &config));
	ASSERT_EQ(2, pread(self->u.device, &command, 2,
			   config.offset + PCI_COMMAND));
	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	ASSERT_EQ(2, pwrite(self->u.device, &command, 2,
			    config.offset + PCI_COMMAND));
	bar = mmap(NULL, bar0.size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->u.device, bar0.offset);
	ASSERT_NE(MAP_FAILED, bar);
	ASSERT_EQ(EDU_ID_VALUE, *(__u32 *)(bar + EDU_ID) & EDU_ID_MASK);

	in = page_alloc(PAGE);
	ASSERT_NE(NULL, in);
	ASSERT_EQ(0, probe_phys(self->probe, in, &phys_in));
	ASSERT_EQ(0, container_map(self->u.container, self->page, IOVA_OUT, PAGE));
	ASSERT_EQ(0, container_map(self->u.container, in, IOVA_IN, PAGE));
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu.s));
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA_OUT, &phys));
	EXPECT_EQ(self->phys, phys);
	ASSERT_EQ(0, probe_lookup(self->probe, IOVA_IN, &phys));
	EXPECT_EQ(phys_in, phys);

	strcpy(self->page, "through the IOMMU");
	edu_dma(bar, IOVA_OUT, EDU_MEMORY, 64, 0);
	edu_dma(bar, EDU_MEMORY, IOVA_IN, 64, EDU_DMA_FROM_DEVICE);
	EXPECT_STREQ("through the IOMMU", in);
	munmap(bar, bar0.size);
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

TEST_F_TIMEOUT(references, modules_can_be_removed, TIMEOUT)
{
	EXPECT_EQ(0, modules_unload_and_load());
}

int main(int argc, char **argv)
{
	int ret;

	if (!edu_find(EDU_ALONE, &edu, 1))
		ksft_exit_skip("the machine has no edu device behind an IOMMU\n");
	edu_find(EDU_SHARES_GROUP, pair, ARRAY_SIZE(pair));

	ret = modules_load(true);
	if (ret)
		ksft_exit_fail_msg("modules cannot be loaded: %s\n",
				   strerror(-ret));

	return test_harness_run(argc, argv);
}
