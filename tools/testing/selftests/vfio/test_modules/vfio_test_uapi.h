/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What the VFIO test modules offer to the kselftests beside them.  It is no
 * ABI: both sides are built from this file and loaded together.
 */
#ifndef VFIO_TEST_UAPI_H
#define VFIO_TEST_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VFIO_TEST_MAGIC		0xf7

/*
 * /dev/vfio-test-iommu: the software IOMMU
 */

/* IOMMUs of one machine.  A domain works behind one of them at a time. */
#define VFIO_TEST_IOMMU_UNITS	4

/* Devices on the bus that the software IOMMUs translate are called vtest<id> */
#define VFIO_TEST_BUS_NAME	"vfio_test"

struct vfio_test_add_dev {
	__u32 unit;		/* IOMMU the device is behind */
	__u32 flags;
#define VFIO_TEST_DEV_AUX	0x1	/* device can tag DMA with a PASID */
	__u32 id;		/* out */
	__u32 pad;
};

#define VFIO_TEST_ADD_DEV	_IOWR(VFIO_TEST_MAGIC, 0x00, struct vfio_test_add_dev)
#define VFIO_TEST_DEL_DEV	_IOW(VFIO_TEST_MAGIC, 0x01, __u32)

/*
 * What the software IOMMU does with a DMA that device @id sends with @pasid.
 * It is found by the attachments alone, so a test can
 * hold it against what vfio_group_domain() answers.
 */
struct vfio_test_translate {
	__u32 id;
	__u32 pasid;
	__u64 iova;
	__u64 phys;		/* out: 0 if it would fault */
	__u32 domain;		/* out: number of the domain, 0 if there is none */
	__u32 pad;
};

#define VFIO_TEST_TRANSLATE	_IOWR(VFIO_TEST_MAGIC, 0x02, struct vfio_test_translate)

/* What is in use now.  All of it is 0 when there are no devices. */
struct vfio_test_stats {
	__u32 devices;
	__u32 domains;		/* unmanaged ones, as VFIO allocates them */
	__u32 aux_attached;	/* pairs of domain and device */
	__u32 pasids;
	__u64 pages;		/* mapped */
};

#define VFIO_TEST_STATS		_IOR(VFIO_TEST_MAGIC, 0x03, struct vfio_test_stats)

enum vfio_test_fault {
	VFIO_TEST_FAULT_ALLOC,		/* domain allocation; error is not passed on */
	VFIO_TEST_FAULT_AUX_ATTACH,
	VFIO_TEST_FAULT_MAP,
	VFIO_TEST_FAULT_PASID,
	VFIO_TEST_FAULTS
};

/* Let one call fail with -@error, after @skip calls that work.  0: disarm. */
struct vfio_test_inject {
	__u32 fault;
	__u32 skip;
	__u32 error;
	__u32 pad;
};

#define VFIO_TEST_INJECT	_IOW(VFIO_TEST_MAGIC, 0x04, struct vfio_test_inject)

/*
 * HOLD_MAP makes the next map operation stop inside the IOMMU driver, where
 * VFIO holds its locks.  WAIT_MAP returns when one has stopped there, and
 * FREE_MAP lets it go on.  Closing the file lets it go on too.
 */
#define VFIO_TEST_HOLD_MAP	_IO(VFIO_TEST_MAGIC, 0x05)
#define VFIO_TEST_WAIT_MAP	_IO(VFIO_TEST_MAGIC, 0x06)
#define VFIO_TEST_FREE_MAP	_IO(VFIO_TEST_MAGIC, 0x07)

/*
 * Device file descriptors of the test mdev driver.  Types of mediated
 * devices: with a PASID of the parent device, and without any IOMMU.
 */
#define VFIO_TEST_MDEV_DRIVER	"vfio_test_mdev"
#define VFIO_TEST_MDEV_IOMMU	VFIO_TEST_MDEV_DRIVER "-iommu"
#define VFIO_TEST_MDEV_PLAIN	VFIO_TEST_MDEV_DRIVER "-plain"

struct vfio_test_mdev_info {
	__s32 error;		/* what vfio_group_domain() returned at open, or 0 */
	__s32 pasid;
	__u32 domain;		/* number of the domain it returned, or 0 */
	__u32 opens;		/* file descriptors now open on the device */
};

#define VFIO_TEST_MDEV_INFO	_IOR(VFIO_TEST_MAGIC, 0x10, struct vfio_test_mdev_info)

/* Let the device do DMA: @write copies the pattern to memory at @iova. */
struct vfio_test_mdev_dma {
	__u64 iova;
	__u32 size;
	__u32 write;
	__u8 data[64];
};

#define VFIO_TEST_MDEV_DMA	_IOWR(VFIO_TEST_MAGIC, 0x11, struct vfio_test_mdev_dma)

/*
 * Pin the page at @iova, or none if @iova is ~0, for writing too unless
 * @read_only.  When the driver is told that the memory is being unmapped, it lets
 * go of the page and pins it again, @keep times; that is what no driver may do.
 */
struct vfio_test_mdev_pin {
	__u64 iova;
	__u16 keep;
	__u16 read_only;
	__u32 told;		/* out: how often it was told since the last pin */
};

#define VFIO_TEST_MDEV_PIN	_IOW(VFIO_TEST_MAGIC, 0x12, struct vfio_test_mdev_pin)
#define VFIO_TEST_MDEV_PINNED	_IOR(VFIO_TEST_MAGIC, 0x13, struct vfio_test_mdev_pin)

/* As VFIO_TEST_MDEV_DMA, but the driver does it, with vfio_dma_rw() */
#define VFIO_TEST_MDEV_RW	_IOWR(VFIO_TEST_MAGIC, 0x14, struct vfio_test_mdev_dma)

/* 1: when the driver is told, it keeps whoever tells it waiting until 0 */
#define VFIO_TEST_MDEV_HOLD	_IO(VFIO_TEST_MAGIC, 0x15)

/*
 * /dev/vfio-test-probe: calls vfio_group_domain() for any device.  Each open
 * file holds one group at most; closing it lets the group go.
 */

/*
 * VFIO_SET_IOMMU argument of a backend that has no group_domain operation, and
 * of one whose operation returns NULL
 */
#define VFIO_TEST_BARE_IOMMU	0x7e57
#define VFIO_TEST_NULL_IOMMU	0x7e58

enum vfio_test_bus {
	VFIO_TEST_BUS_MDEV,
	VFIO_TEST_BUS_PCI,
};

struct vfio_test_hold {
	__u32 bus;
	char name[44];		/* of the device */
};

#define VFIO_TEST_HOLD		_IOW(VFIO_TEST_MAGIC, 0x20, struct vfio_test_hold)
#define VFIO_TEST_RELEASE	_IO(VFIO_TEST_MAGIC, 0x21)

struct vfio_test_domain {
	__s32 error;		/* of vfio_group_domain(), 0: a domain */
	__u32 is_null;		/* it returned NULL, which it never may */
	__u32 domain;		/* number, if it is one of the software IOMMU's */
	__u32 is_attached;	/* it is iommu_get_domain_for_dev() of the device */
	__u32 is_same;		/* vfio_group_iommu_domain() returns it too */
};

#define VFIO_TEST_DOMAIN	_IOR(VFIO_TEST_MAGIC, 0x22, struct vfio_test_domain)

/* The same without a group, and with a group that is an error */
#define VFIO_TEST_DOMAIN_NULL	_IOR(VFIO_TEST_MAGIC, 0x23, struct vfio_test_domain)
#define VFIO_TEST_DOMAIN_ERROR	_IOR(VFIO_TEST_MAGIC, 0x28, struct vfio_test_domain)

/* iommu_iova_to_phys() by the domain that vfio_group_domain() returns */
struct vfio_test_lookup {
	__u64 iova;
	__u64 phys;		/* out */
};

#define VFIO_TEST_LOOKUP	_IOWR(VFIO_TEST_MAGIC, 0x24, struct vfio_test_lookup)

/* Physical address of the caller's own memory */
struct vfio_test_phys {
	__u64 vaddr;
	__u64 phys;		/* out */
};

#define VFIO_TEST_PHYS		_IOWR(VFIO_TEST_MAGIC, 0x25, struct vfio_test_phys)

/* How often VFIO_TEST_DOMAIN entered and left vfio_group_domain(), on any file */
struct vfio_test_calls {
	__u32 entered;
	__u32 left;
};

#define VFIO_TEST_CALLS		_IOR(VFIO_TEST_MAGIC, 0x26, struct vfio_test_calls)

/*
 * Call vfio_group_domain() @calls times, @rounds times over.  @cycles is what
 * the fastest round took on the cycle counter, the empty loop taken off.
 */
struct vfio_test_bench {
	__u32 calls;
	__u32 rounds;
	__u64 cycles;		/* out */
};

#define VFIO_TEST_BENCH		_IOWR(VFIO_TEST_MAGIC, 0x27, struct vfio_test_bench)

#endif /* VFIO_TEST_UAPI_H */
