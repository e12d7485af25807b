/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the VFIO migration library and its drivers call otherwise, or include
 * from elsewhere, in other series of the kernel.  Each series has this file.
 */
#ifndef _LINUX_VFIO_MIGRATION_COMPAT_H
#define _LINUX_VFIO_MIGRATION_COMPAT_H

#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include <asm/unaligned.h>

/* The migration region and its states in uapi/linux/vfio.h */
#define VFM_V1_REGION_TYPE	VFIO_REGION_TYPE_MIGRATION_DEPRECATED
#define VFM_V1_REGION_SUBTYPE	VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED
#define VFM_V1_STOP		VFIO_DEVICE_STATE_V1_STOP
#define VFM_V1_RUNNING		VFIO_DEVICE_STATE_V1_RUNNING
#define VFM_V1_SAVING		VFIO_DEVICE_STATE_V1_SAVING
#define VFM_V1_RESUMING		VFIO_DEVICE_STATE_V1_RESUMING

/**
 * struct vfm_core - what the core of VFIO knows of a device's migration
 * @ops: what it calls
 */
struct vfm_core {
	struct vfio_migration_ops ops;
};

/* It asks the driver for features that it does not know, MIG_DATA_SIZE for one */
static inline void
vfm_core_data_size(struct vfm_core *core,
		   int (*get)(struct vfio_device *vdev, unsigned long *length))
{
}

/* Drivers allocate a struct vfio_device and have to free it */
#define vfm_free_device(vdev)	vfio_free_device(vdev)

/* The driver answers VFIO_DEVICE_GET_REGION_INFO */
#define VFM_REGION_INFO_CAPS_OP(fn)

/* There is no iommufd */
#define VFM_IOMMUFD_OPS

#define vfm_class_create(name)	class_create(THIS_MODULE, name)
#define vfm_assign_str(dst, src)	__assign_str(dst, src)

/* Unmapped by the same thread, the one that was mapped last first */
static inline void *vfm_kmap(struct page *page)
{
	return kmap_local_page(page);
}

static inline void vfm_kunmap(struct page *page, void *address)
{
	kunmap_local(address);
}

static inline void vfm_eventfd_signal(struct eventfd_ctx *ctx)
{
	eventfd_signal(ctx, 1);
}

static inline void vfm_vm_flags_set(struct vm_area_struct *vma,
				    unsigned long flags)
{
	vma->vm_flags |= flags;
}

static inline void vfm_vm_flags_clear(struct vm_area_struct *vma,
				      unsigned long flags)
{
	vma->vm_flags &= ~flags;
}

/* The protection of a mapping when no write is to be seen */
static inline pgprot_t vfm_vma_page_prot(const struct vm_area_struct *vma)
{
	return vm_get_page_prot(vma->vm_flags);
}

/* Where the mappings of a device's file are, with those of all anonymous files */
static inline struct address_space *
vfm_vma_mapping(const struct vm_area_struct *vma)
{
	return vma->vm_file->f_mapping;
}

/*
 * Get userspace's memory, from its first byte on and as much as is to be had at
 * once: 0, or an error if there is no first byte.
 */
static inline int vfm_fault_in_writeable(char __user *buf, size_t len)
{
	len = min_t(size_t, len, SZ_1M);

	return fault_in_writeable(buf, len) == len ? -EFAULT : 0;
}

static inline int vfm_fault_in_readable(const char __user *buf, size_t len)
{
	len = min_t(size_t, len, SZ_1M);

	return fault_in_readable(buf, len) == len ? -EFAULT : 0;
}

#endif /* _LINUX_VFIO_MIGRATION_COMPAT_H */
