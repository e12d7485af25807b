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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../kselftest_harness.h"
#include "vfio_group_domain_lib.h"

#define EDU_VENDOR	"0x1234"
#define EDU_DEVICE	"0x11e8"

/* docs/specs/edu.txt of QEMU: registers in BAR 0, and its own memory */
#define EDU_ID			0x00
#define EDU_ID_MASK		0xffffUL
#define EDU_ID_VALUE		0x00edUL
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_START		1UL
#define EDU_DMA_FROM_DEVICE	2UL
#define EDU_MEMORY		0x40000UL
#define EDU_BAR_SIZE		0x100000UL

#define PCI_COMMAND		0x04
#define PCI_COMMAND_MEMORY	0x2
#define PCI_COMMAND_MASTER	0x4

/* The device has 28 address bits */
#define IOVA_OUT	0x01000000ULL
#define IOVA_IN		0x02000000ULL
#define PAGE		4096UL
#define PCI		"/sys/bus/pci/"

/* With a debug kernel in an emulator, tables of the IOMMU take their time */
#define TIMEOUT		120

static char edu[64];		/* address of the device, empty if there is none */
static char pair[2][64];	/* those of two that share a group, or empty */

static bool file_is(const char *dev, const char *file, const char *value)
{
	char path[512], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), PCI "devices/%s/%s", dev, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);

	return !strncmp(text, value, strlen(value));
}

static int edu_group(const char *dev)
{
	char path[512], base[64];
	int ret;

	snprintf(path, sizeof(path), PCI "devices/%s/iommu_group", dev);
	ret = link_base(path, base, sizeof(base));

	return ret ? ret : atoi(base);
}

/* All on conventional PCI are on one bus, and so in one group */
static void edu_find(void)
{
	DIR *dir = opendir(PCI "devices");
	char name[3][64];
	struct dirent *e;
	int n = 0, i, j;

	while (dir && n < 3 && (e = readdir(dir))) {
		if (file_is(e->d_name, "vendor", EDU_VENDOR) &&
		    file_is(e->d_name, "device", EDU_DEVICE))
			snprintf(name[n++], sizeof(name[0]), "%.63s",
				 e->d_name);
	}
	if (dir)
		closedir(dir);

	for (i = 0; i < n; i++) {
		for (j = 0; j < n; j++) {
			if (i != j && edu_group(name[i]) == edu_group(name[j]))
				break;
		}
		if (j == n)
			strcpy(edu, name[i]);
		else
			strcpy(pair[pair[0][0] ? 1 : 0], name[i]);
	}
}

static int edu_bind(const char *dev, const char *driver)
{
	char path[256];
	int ret;

	snprintf(path, sizeof(path), PCI "devices/%s/driver/unbind", dev);
	if (!access(path, F_OK))
		file_write(path, dev);
	snprintf(path, sizeof(path), PCI "devices/%s/driver_override", dev);
	ret = file_write(path, driver);
	if (ret)
		return ret;

	return file_write(PCI "drivers_probe", dev);
}

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
	self->group = edu_group(edu);
	ASSERT_LE(0, self->group);
	self->iommu = iommu_open();
	ASSERT_LE(0, self->iommu);
	ASSERT_EQ(0, devices_remove_all(self->iommu));
	self->probe = probe_open();
	ASSERT_LE(0, self->probe);
	self->page = page_alloc(PAGE);
	ASSERT_NE(NULL, self->page);
	ASSERT_EQ(0, probe_phys(self->probe, self->page, &self->phys));

	ASSERT_EQ(0, edu_bind(edu, "vfio-pci"));
	ASSERT_EQ(0, user_open(&self->u, self->group, edu));
}

FIXTURE_TEARDOWN(pci)
{
	struct vfio_test_stats stats;

	close_all_but(self->iommu);
	EXPECT_EQ(0, edu_bind(edu, "\n"));
	ASSERT_EQ(0, devices_remove_all(self->iommu));
	ASSERT_EQ(0, iommu_stats(self->iommu, &stats));
	EXPECT_EQ(0, stats.devices);
	EXPECT_EQ(0, stats.domains);
	close(self->iommu);
}

TEST_F_TIMEOUT(pci, domain_is_the_attached_one, TIMEOUT)
{
	struct vfio_test_domain answer;

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu));
	ASSERT_EQ(0, probe_domain(self->probe, &answer));
	EXPECT_EQ(0, answer.error);
	EXPECT_EQ(0, answer.is_null);
	EXPECT_EQ(1, answer.is_attached);
}

TEST_F_TIMEOUT(pci, mapping_of_container_is_in_domain, TIMEOUT)
{
	__u64 phys;

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu));
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

	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu));
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

	ASSERT_NE(0, pair[1][0]);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, edu_bind(pair[i], "vfio-pci"));
	ASSERT_EQ(0, user_join(&u, self->u.container, edu_group(pair[0]), NULL));
	ASSERT_EQ(0, container_map(self->u.container, self->page, IOVA_IN, PAGE));

	for (i = 0; i < 2; i++) {
		device[i] = group_device(u.group, pair[i]);
		ASSERT_LE(0, device[i]);
	}
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, pair[i]));
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
		EXPECT_EQ(0, edu_bind(pair[i], "\n"));
}

static void edu_write(void *bar, size_t reg, __u64 value)
{
	__atomic_store_n((__u64 *)(bar + reg), value, __ATOMIC_SEQ_CST);
}

static __u64 edu_read(void *bar, size_t reg)
{
	return __atomic_load_n((__u64 *)(bar + reg), __ATOMIC_SEQ_CST);
}

static void edu_dma(void *bar, __u64 from, __u64 to, __u64 size, __u64 command)
{
	edu_write(bar, EDU_DMA_SOURCE, from);
	edu_write(bar, EDU_DMA_DESTINATION, to);
	edu_write(bar, EDU_DMA_COUNT, size);
	edu_write(bar, EDU_DMA_COMMAND, command | EDU_DMA_START);
	/* The case has a time limit */
	while (edu_read(bar, EDU_DMA_COMMAND) & EDU_DMA_START)
		sched_yield();
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
	ASSERT_EQ(0, probe_hold(self->probe, VFIO_TEST_BUS_PCI, edu));
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

TEST_F(references, modules_can_be_removed)
{
	EXPECT_EQ(0, modules_unload_and_load());
}

int main(int argc, char **argv)
{
	int ret;

	edu_find();
	if (!edu[0])
		ksft_exit_skip("the machine has no edu device\n");
	if (edu_group(edu) < 0)
		ksft_exit_skip("no IOMMU translates the edu device\n");

	ret = modules_load(true);
	if (ret)
		ksft_exit_fail_msg("modules cannot be loaded: %s\n",
				   strerror(-ret));

	return test_harness_run(argc, argv);
}
