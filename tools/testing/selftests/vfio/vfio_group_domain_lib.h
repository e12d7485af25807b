/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of vfio_group_domain() share.  Functions return 0 or more,
 * or a negative errno.
 */
#ifndef VFIO_GROUP_DOMAIN_LIB_H
#define VFIO_GROUP_DOMAIN_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <linux/types.h>
#include <linux/vfio.h>
#include "vfio_test_uapi.h"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#endif

/* A mediated device that a test made */
struct mdev {
	unsigned int parent;	/* number of the device it is on */
	char name[40];		/* UUID */
	int group;		/* number of its VFIO group */
};

/* What userspace opens to use a device: container, group and device */
struct user {
	int container;
	int group;
	int device;
};

int module_load(const char *name);
int module_unload(const char *name);
int modules_load(bool pci);
int modules_unload_and_load(void);

int iommu_open(void);
int probe_open(void);
int devices_remove_all(int iommu);
int device_add(int iommu, unsigned int unit, unsigned int flags);
int device_remove(int iommu, unsigned int id);
int fault_inject(int iommu, unsigned int fault, int error);
int iommu_stats(int iommu, struct vfio_test_stats *stats);
int iommu_domain(int iommu, unsigned int id, unsigned int pasid);
int iommu_translate(int iommu, unsigned int id, unsigned int pasid,
		    __u64 iova, __u64 *phys);

int mdev_create(unsigned int parent, const char *type, unsigned int nr,
		struct mdev *m);
int mdev_remove(const struct mdev *m);
bool mdev_removal_started(const struct mdev *m);
int mdev_info(int device, struct vfio_test_mdev_info *info);
int mdev_dma(int device, __u64 iova, void *data, size_t size, bool write);
int mdev_rw(int device, __u64 iova, void *data, size_t size, bool write);

int container_open(void);
int container_set_iommu(int container, unsigned long type);
int container_map(int container, void *vaddr, __u64 iova, size_t size);
int container_unmap(int container, __u64 iova, size_t size);
int group_open(int group);
int group_set_container(int group, int container);
int group_device(int group, const char *name);

int user_open(struct user *u, int group, const char *name);
int user_join(struct user *u, int container, int group, const char *name);
void user_close(struct user *u);

int probe_hold(int probe, unsigned int bus, const char *name);
int probe_release(int probe);
int probe_domain(int probe, struct vfio_test_domain *answer);
int probe_domain_null(int probe, struct vfio_test_domain *answer);
int probe_domain_error(int probe, struct vfio_test_domain *answer);
int probe_calls(int probe, struct vfio_test_calls *calls);
int probe_lookup(int probe, __u64 iova, __u64 *phys);
int probe_phys(int probe, const void *vaddr, __u64 *phys);
int probe_bench(int probe, struct vfio_test_bench *bench);

/*
 * QEMU's edu device.  docs/specs/edu.txt there: registers in BAR 0, and memory of
 * its own.
 */
#define EDU_ID			0x00
#define EDU_ID_MASK		0xffffUL
#define EDU_ID_VALUE		0x00edUL
#define EDU_LIVENESS		0x04
#define EDU_FACTORIAL		0x08
#define EDU_STATUS		0x20
#define EDU_STATUS_COMPUTING	0x01
#define EDU_STATUS_IRQ		0x80
#define EDU_IRQ_STATUS		0x24
#define EDU_IRQ_RAISE		0x60
#define EDU_IRQ_ACKNOWLEDGE	0x64
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_START		1UL
#define EDU_DMA_FROM_DEVICE	2UL
#define EDU_MEMORY		0x40000UL
#define EDU_BAR_SIZE		0x100000UL

/* PCI resets one that is alone on a bus behind a bridge */
enum edu_kind {
	EDU_ALONE,
	EDU_SHARES_GROUP,
	EDU_CAN_BE_RESET,
};

/* The address of a device */
struct pci_name {
	char s[64];
};

int edu_find(enum edu_kind kind, struct pci_name *names, int max);
void edu_write(void *bar, size_t reg, __u64 value);
__u64 edu_read(void *bar, size_t reg);
void edu_dma_start(void *bar, __u64 from, __u64 to, __u64 size, __u64 command);
void edu_dma(void *bar, __u64 from, __u64 to, __u64 size, __u64 command);

int pci_group(const char *dev);
int pci_bind(const char *dev, const char *driver);
int pci_file_write(const char *dev, const char *file, const char *text);

void *page_alloc(size_t size);
void close_all_but(int keep);
char thread_state(pid_t tid);
long thread_switches(pid_t tid);

int file_write(const char *path, const char *text);
int link_base(const char *path, char *base, size_t size);

int panic_on_oops_set(int value);

#endif /* VFIO_GROUP_DOMAIN_LIB_H */
