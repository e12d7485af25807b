// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration of VFIO devices for vendor drivers: the migration region, version
 * 1 of the protocol
 *
 * The region begins with struct vfio_device_migration_info, which is trapped,
 * in a page of its own.  The data section behind it has two parts, the memory
 * and the window.  data_offset says in which of them a chunk is.  Userspace can
 * only read the memory.  The window is at the end of the region, because
 * userspace splits a chunk that would go beyond the region's end.
 */

#include <linux/bitops.h>
#include <linux/build_bug.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/vmalloc.h>

#include "vfio_migration_priv.h"

/* What userspace was built against does not change */
#define VFM_FIELD(field, offset) \
	static_assert(offsetof(struct vfio_device_migration_info, field) == (offset))

VFM_FIELD(device_state, 0);
VFM_FIELD(reserved, 4);
VFM_FIELD(pending_bytes, 8);
VFM_FIELD(data_offset, 16);
VFM_FIELD(data_size, 24);
static_assert(sizeof(struct vfio_device_migration_info) == 32);
static_assert(VFM_V1_STOP == 0);
static_assert(VFM_V1_RUNNING == 1);
static_assert(VFM_V1_SAVING == 2);
static_assert(VFM_V1_RESUMING == 4);

/* The memory begins behind the page of the header */
#define VFM_MEMORY_OFFSET	PAGE_SIZE

/* What two of the state's bits mean together */
#define VFM_V1_PRE_COPY		(VFM_V1_RUNNING | VFM_V1_SAVING)
#define VFM_V1_ERROR		(VFM_V1_RESUMING | VFM_V1_SAVING)

/* Where the parts are in the region */
void vfm_v1_init(struct vfio_migration *m)
{
	m->window_offset = VFM_MEMORY_OFFSET + m->params.memory_size;
	m->size = m->window_offset + m->window_size;
	m->mmap = m->params.mmap && IS_ALIGNED(m->window_size, PAGE_SIZE);
}

/*
 * The states
 */

/* device_state of a device */
u32 vfm_v1_state(const struct vfio_migration *m)
{
	switch (m->state) {
	case VFM_STOP:
		return VFM_V1_STOP;
	case VFM_RUNNING:
	case VFM_RUNNING_P2P:
		return VFM_V1_RUNNING;
	case VFM_STOP_COPY:
		return VFM_V1_SAVING;
	case VFM_RESUMING:
		return VFM_V1_RESUMING;
	case VFM_PRE_COPY:
	case VFM_PRE_COPY_P2P:
		return VFM_V1_PRE_COPY;
	default:
		return VFM_V1_ERROR;
	}
}

/* What a valid device_state asks for */
static enum vfm_state vfm_v1_wanted(u32 device_state)
{
	switch (device_state) {
	case VFM_V1_STOP:
		return VFM_STOP;
	case VFM_V1_RUNNING:
		return VFM_RUNNING;
	case VFM_V1_SAVING:
		return VFM_STOP_COPY;
	case VFM_V1_RESUMING:
		return VFM_RESUMING;
	case VFM_V1_PRE_COPY:
		return VFM_PRE_COPY;
	default:
		return VFM_ERROR;
	}
}

/*
 * The arcs that do something, one step each:
 *
 *	RUNNING   -> STOP	stop the device
 *	STOP	  -> RUNNING	start it
 *	RUNNING   -> PRE_COPY	begin a stream
 *	PRE_COPY  -> RUNNING	leave it
 *	PRE_COPY  -> STOP_COPY	stop the device, the stream goes on
 *	STOP	  -> STOP_COPY	begin a stream
 *	STOP_COPY -> STOP	leave it
 *	STOP	  -> RESUMING	begin to load
 *	RESUMING  -> STOP	check what was loaded
 *
 * All other pairs of valid states are a way over these arcs:
 *
 *	RUNNING   -> STOP_COPY, RESUMING		by STOP
 *	STOP	  -> PRE_COPY				by RUNNING
 *	STOP_COPY -> RUNNING, RESUMING, PRE_COPY	by STOP
 *	PRE_COPY  -> STOP, RESUMING			by STOP_COPY
 *	RESUMING  -> RUNNING, STOP_COPY, PRE_COPY	by STOP
 *
 * A device that version 2 has left without DMA, in RUNNING_P2P, goes to RUNNING
 * or STOP first.
 *
 * Nothing of a stream is given up by the arcs that leave it.  If starting the
 * device fails on the way, everything is as it was, and can be tried again.
 */
static enum vfm_state vfm_v1_next(enum vfm_state from, enum vfm_state to)
{
	switch (from) {
	case VFM_RUNNING:
		return to == VFM_PRE_COPY ? to : VFM_STOP;
	case VFM_RUNNING_P2P:
		return to == VFM_RUNNING || to == VFM_PRE_COPY ? VFM_RUNNING :
								 VFM_STOP;
	case VFM_STOP:
		return to == VFM_PRE_COPY ? VFM_RUNNING : to;
	case VFM_PRE_COPY:
		return to == VFM_RUNNING ? to : VFM_STOP_COPY;
	default:
		return VFM_STOP;
	}
}

/*
 * A way that failed at @at: the device goes back to where it was, if it can.
 * A session that was given up for another one cannot be had back.
 */
static int vfm_v1_back(struct vfio_migration *m, enum vfm_state at, int error)
{
	bool ran = vfm_running(m);
	bool runs = at == VFM_RUNNING || at == VFM_RUNNING_P2P ||
		    at == VFM_PRE_COPY;
	int ret = 0;

	if (at == m->state || m->state == VFM_ERROR)
		return error;

	if (ran != runs)
		ret = vfm_step(m, runs ? VFM_RUNNING : VFM_STOP,
			       ran ? VFM_RUNNING : VFM_STOP);
	if (!ret && ran && m->state == VFM_RUNNING_P2P)
		ret = vfm_step(m, VFM_RUNNING, VFM_RUNNING_P2P);
	if (ret || (vfm_is_saving(m->state) && !m->driver_saves))
		return vfm_failed(m, error, true);

	return error;
}

static int vfm_v1_set_state(struct vfio_migration *m, u32 device_state)
{
	enum vfm_state state = vfm_v1_wanted(device_state), at = m->state, next;
	int ret;

	if (state == VFM_ERROR || at == VFM_ERROR)
		return -EINVAL;
	if (m->owner == VFM_V2)
		return -EBUSY;

	ret = state != at ? vfm_fault_state(m, device_state) : 0;
	if (ret)
		return ret;

	for (; at != state; at = next) {
		next = vfm_v1_next(at, state);
		ret = vfm_step(m, at, next);
		if (ret)
			return vfm_v1_back(m, at, ret);
	}
	vfm_enter(m, state, VFM_V1);

	return 0;
}

/*
 * Access by userspace
 */

/* Is the state saved by way of the region? */
static bool vfm_v1_saving(const struct vfio_migration *m)
{
	return m->owner == VFM_V1 && vfm_is_saving(m->state);
}

/* Where the chunk is, or where one would be, in the region */
static u64 vfm_v1_chunk_offset(const struct vfio_migration *m)
{
	const struct vfm_save *save = &m->save;

	if (m->owner != VFM_V1 || !save->chunk || save->chunk == m->window)
		return m->window_offset;

	return VFM_MEMORY_OFFSET + (save->chunk - (u8 *)m->params.memory);
}

static int vfm_v1_read_field(struct vfio_migration *m, u64 pos,
			     size_t count, u64 *value)
{
	struct vfm_save *save = &m->save;
	int ret;

	switch (pos) {
	case offsetof(struct vfio_device_migration_info, device_state):
		if (count != sizeof(u32))
			return -EINVAL;
		*value = vfm_v1_state(m);
		return 0;
	case offsetof(struct vfio_device_migration_info, reserved):
		if (count != sizeof(u32))
			return -EINVAL;
		*value = 0;
		return 0;
	case offsetof(struct vfio_device_migration_info, pending_bytes):
		if (count != sizeof(u64))
			return -EINVAL;
		*value = 0;
		if (vfm_v1_saving(m)) {
			vfm_save_release(m);
			return vfm_save_pending(m, vfm_running(m), value);
		}
		return 0;
	case offsetof(struct vfio_device_migration_info, data_offset):
		if (count != sizeof(u64))
			return -EINVAL;
		*value = m->window_offset;
		if (vfm_v1_saving(m)) {
			if (!save->chunk_size) {
				ret = vfm_save_commit(m);
				if (ret)
					return ret;
			}
			*value = vfm_v1_chunk_offset(m);
		}
		return 0;
	case offsetof(struct vfio_device_migration_info, data_size):
		if (count != sizeof(u64))
			return -EINVAL;
		*value = vfm_v1_saving(m) ? save->chunk_size : 0;
		return 0;
	default:
		return -EINVAL;
	}
}

static int vfm_v1_write_field(struct vfio_migration *m, u64 pos,
			      size_t count, u64 value)
{
	switch (pos) {
	case offsetof(struct vfio_device_migration_info, device_state):
		if (count != sizeof(u32))
			return -EINVAL;
		return vfm_v1_set_state(m, value);
	case offsetof(struct vfio_device_migration_info, reserved):
		return count == sizeof(u32) ? 0 : -EINVAL;
	case offsetof(struct vfio_device_migration_info, pending_bytes):
	case offsetof(struct vfio_device_migration_info, data_offset):
		return count == sizeof(u64) ? -EFAULT : -EINVAL;
	case offsetof(struct vfio_device_migration_info, data_size):
		if (count != sizeof(u64))
			return -EINVAL;
		if (m->owner == VFM_V2)
			return -EBUSY;
		return vfm_load_commit(m, value);
	default:
		return -EINVAL;
	}
}

/* The bytes that could be copied, 0 if userspace's memory is not there */
static ssize_t vfm_v1_read_data(struct vfio_migration *m, char __user *buf,
				size_t count, u64 pos)
{
	const struct vfm_save *save = &m->save;
	u64 offset = vfm_v1_chunk_offset(m);

	if (!vfm_v1_saving(m) || pos < offset ||
	    pos - offset > save->chunk_size ||
	    count > save->chunk_size - (pos - offset))
		return -EINVAL;

	return vfm_copy_to_user(buf, save->chunk + (pos - offset), count);
}

static ssize_t vfm_v1_write_data(struct vfio_migration *m,
				 const char __user *buf, size_t count, u64 pos)
{
	if (m->owner == VFM_V2)
		return -EBUSY;
	if (m->state != VFM_RESUMING || pos < m->window_offset)
		return -EINVAL;

	return vfm_copy_from_user(m->window + (pos - m->window_offset), buf,
				  count);
}

/* All of it, however often userspace's memory has to be waited for */
static int vfm_v1_read_all(struct vfio_migration *m, char __user *buf,
			   size_t count, u64 pos)
{
	size_t done;
	ssize_t n;

	for (done = 0; done < count; done += n) {
		if (vfm_lock(m))
			return -EINTR;
		n = vfm_v1_read_data(m, buf + done, count - done, pos + done);
		vfm_unlock(m);
		if (n < 0)
			return n;
		if (!n && vfm_fault_in_writeable(buf + done, count - done))
			return -EFAULT;
	}

	return 0;
}

static int vfm_v1_write_all(struct vfio_migration *m, const char __user *buf,
			    size_t count, u64 pos)
{
	size_t done;
	ssize_t n;

	for (done = 0; done < count; done += n) {
		if (vfm_lock(m))
			return -EINTR;
		n = vfm_v1_write_data(m, buf + done, count - done, pos + done);
		vfm_unlock(m);
		if (n < 0)
			return n;
		if (!n && vfm_fault_in_readable(buf + done, count - done))
			return -EFAULT;
	}

	return 0;
}

/**
 * vfio_migration_region_read() - Userspace reads the region
 * @m: the migration of the device
 * @buf: where to
 * @count: bytes
 * @ppos: position in the device's file, moved on
 *
 * To be called by the driver for a read(2) in the region.
 *
 * Context: Process context.  Waits for other accesses to the region, and for
 * callbacks of the driver.
 *
 * Return:
 * * the number of bytes read, which is @count
 * * -EINVAL for what is not in the region, for a field not at its own width
 *   and alignment, and for data that is not in the current chunk
 * * -EFAULT if @buf cannot be written
 * * -EINTR if a fatal signal is pending
 * * what the driver's callback failed with
 */
ssize_t vfio_migration_region_read(struct vfio_migration *m,
				   char __user *buf, size_t count, loff_t *ppos)
{
	u64 pos = *ppos - m->params.offset;
	u64 value;
	u32 low;
	int ret;

	if (!count)
		return 0;
	if (pos >= m->size || count > m->size - pos)
		return -EINVAL;

	if (pos >= VFM_MEMORY_OFFSET) {
		ret = vfm_v1_read_all(m, buf, count, pos);
	} else {
		if (vfm_lock(m))
			return -EINTR;
		ret = vfm_v1_read_field(m, pos, count, &value);
		vfm_unlock(m);
		low = value;
		if (!ret && copy_to_user(buf, count == sizeof(low) ?
					 (void *)&low : (void *)&value, count))
			ret = -EFAULT;
	}
	if (ret)
		return ret;
	*ppos += count;

	return count;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_read);

/**
 * vfio_migration_region_write() - Userspace writes the region
 * @m: the migration of the device
 * @buf: where from
 * @count: bytes
 * @ppos: position in the device's file, moved on
 *
 * To be called by the driver for a write(2) in the region.
 *
 * Context: Process context.  Waits for other accesses to the region, and for
 * callbacks of the driver.
 *
 * Return:
 * * the number of bytes written, which is @count
 * * -EINVAL for what is not in the region, for a field not at its own width
 *   and alignment, for a state that does not exist or that cannot be reached,
 *   for data when nothing is being loaded, and for a stream that is wrong
 * * -EBUSY while a program saves or loads by version 2 of the protocol
 * * -EFAULT for a field that is read-only, and if @buf cannot be read
 * * -EINTR if a fatal signal is pending
 * * what the driver's callback failed with
 */
ssize_t vfio_migration_region_write(struct vfio_migration *m,
				    const char __user *buf, size_t count,
				    loff_t *ppos)
{
	u64 pos = *ppos - m->params.offset;
	u64 value = 0;
	u32 low = 0;
	int ret;

	if (!count)
		return 0;
	if (pos >= m->size || count > m->size - pos)
		return -EINVAL;

	if (pos >= VFM_MEMORY_OFFSET) {
		ret = vfm_v1_write_all(m, buf, count, pos);
	} else {
		if (count != sizeof(low) && count != sizeof(value))
			return -EINVAL;
		if (copy_from_user(count == sizeof(low) ? (void *)&low :
				   (void *)&value, buf, count))
			return -EFAULT;
		if (count == sizeof(low))
			value = low;
		if (vfm_lock(m))
			return -EINTR;
		ret = vfm_v1_write_field(m, pos, count, value);
		vfm_unlock(m);
	}
	if (ret)
		return ret;
	*ppos += count;

	return count;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_write);

/* Where @pos is, which is in the data section */
static const u8 *vfm_v1_data(const struct vfio_migration *m, u64 pos)
{
	if (pos >= m->window_offset)
		return m->window + (pos - m->window_offset);

	return m->params.memory + (pos - VFM_MEMORY_OFFSET);
}

/*
 * All of it is mapped by page numbers: get_user_pages_fast() goes by the page
 * tables alone, and nobody is to keep pages of the memory beyond the mapping,
 * since the next user of the device has the same.  Those of the window are
 * charged to somebody, and some kernels do not map such pages in another way.
 */
static vm_fault_t vfm_v1_fault(struct vm_fault *vmf)
{
	struct vfio_migration *m = vmf->vma->vm_private_data;
	u64 pos = ((u64)vmf->pgoff << PAGE_SHIFT) - m->params.offset;

	if (pos < VFM_MEMORY_OFFSET || pos >= m->size)
		return VM_FAULT_SIGBUS;

	return vmf_insert_pfn(vmf->vma, vmf->address,
			      vmalloc_to_pfn(vfm_v1_data(m, pos)));
}

/* It cannot be written there, or it would not be checked */
static vm_fault_t vfm_v1_memory_mkwrite(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct vm_operations_struct vfm_v1_memory_ops = {
	.fault		= vfm_v1_fault,
	.pfn_mkwrite	= vfm_v1_memory_mkwrite,
};

static const struct vm_operations_struct vfm_v1_window_ops = {
	.fault		= vfm_v1_fault,
};

/* All pages at once, so that userspace need not fault when it is in a hurry */
static int vfm_v1_map(struct vfio_migration *m, struct vm_area_struct *vma,
		      u64 pos)
{
	unsigned long at;
	vm_fault_t ret;

	for (at = vma->vm_start; at < vma->vm_end; at += PAGE_SIZE) {
		ret = vmf_insert_pfn(vma, at,
				     vmalloc_to_pfn(vfm_v1_data(m, pos)));
		if (ret != VM_FAULT_NOPAGE)
			return -ENOMEM;
		pos += PAGE_SIZE;
	}

	return 0;
}

/**
 * vfio_migration_region_mmap() - Userspace maps a part of the region
 * @m: the migration of the device
 * @vma: what is to be mapped where
 *
 * To be called by the driver for an mmap(2) in the region.
 *
 * Context: Process context, under mmap_lock.
 *
 * Return:
 * * 0
 * * -EINVAL for what is not in one of the areas of the sparse mmap
 *   capability, and for a mapping that is private or executable
 * * -ENOMEM if there is no memory for page tables
 */
int vfio_migration_region_mmap(struct vfio_migration *m,
			       struct vm_area_struct *vma)
{
	u64 size = vma->vm_end - vma->vm_start;
	u64 pos = (u64)vma->vm_pgoff << PAGE_SHIFT;

	if (!m->mmap || !(vma->vm_flags & VM_SHARED) ||
	    (vma->vm_flags & VM_EXEC) || pos < m->params.offset)
		return -EINVAL;
	pos -= m->params.offset;
	if (pos < VFM_MEMORY_OFFSET || pos >= m->size || size > m->size - pos)
		return -EINVAL;

	if (pos < m->window_offset && size > m->window_offset - pos)
		return -EINVAL;

	vfm_vm_flags_clear(vma, VM_MAYEXEC);
	vfm_vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_private_data = m;
	vma->vm_ops = &vfm_v1_window_ops;
	if (pos < m->window_offset) {
		/* As for a private mapping: each first write is a fault */
		vma->vm_page_prot = vm_get_page_prot(vma->vm_flags & ~VM_SHARED);
		vma->vm_ops = &vfm_v1_memory_ops;
	}

	return vfm_v1_map(m, vma, pos);
}
EXPORT_SYMBOL_GPL(vfio_migration_region_mmap);

/**
 * vfio_migration_region_size() - How big the region is
 * @m: the migration of the device
 *
 * For a driver that has others answer for the region, as has one for a device of
 * vfio-pci.  This goes for the two functions below as well.
 *
 * Context: Any context.
 *
 * Return: bytes, a multiple of PAGE_SIZE if the region can be mapped.  They do not
 * change.
 */
u64 vfio_migration_region_size(const struct vfio_migration *m)
{
	return m->size;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_size);

/**
 * vfio_migration_region_flags() - What can be done with the region
 * @m: the migration of the device
 *
 * Context: Any context.
 *
 * Return: flags of struct vfio_region_info.  They do not change.
 */
u32 vfio_migration_region_flags(const struct vfio_migration *m)
{
	return VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
	       VFIO_REGION_INFO_FLAG_CAPS |
	       (m->mmap ? VFIO_REGION_INFO_FLAG_MMAP : 0);
}
EXPORT_SYMBOL_GPL(vfio_migration_region_flags);

/**
 * vfio_migration_region_add_areas() - Say which areas of the region can be mapped
 * @m: the migration of the device
 * @caps: the sparse mmap capability is added there
 *
 * Whoever answers for the region has to add that of its type as well, which is
 * VFIO_REGION_TYPE_MIGRATION with VFIO_REGION_SUBTYPE_MIGRATION.
 *
 * Context: Process context.
 *
 * Return: 0 or -ENOMEM
 */
int vfio_migration_region_add_areas(const struct vfio_migration *m,
				    struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_sparse_mmap *sparse;
	struct vfio_region_sparse_mmap_area *area;
	size_t size = struct_size(sparse, areas, 2);
	int ret;

	sparse = kzalloc(size, GFP_KERNEL);
	if (!sparse)
		return -ENOMEM;
	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	if (m->mmap) {
		area = sparse->areas;
		if (m->params.memory_size) {
			area->offset = VFM_MEMORY_OFFSET;
			area->size = m->params.memory_size;
			area++;
		}
		area->offset = m->window_offset;
		area->size = m->window_size;
		area++;
		sparse->nr_areas = area - sparse->areas;
	}
	size = struct_size(sparse, areas, sparse->nr_areas);
	ret = vfio_info_add_capability(caps, &sparse->header, size);
	kfree(sparse);

	return ret;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_add_areas);

/**
 * vfio_migration_region_info_caps() - Say what the region is
 * @m: the migration of the device
 * @info: userspace's, its argsz is left alone
 * @caps: the capabilities are added there
 *
 * To be called by the driver where the VFIO core does the rest of
 * VFIO_DEVICE_GET_REGION_INFO.
 *
 * Context: Process context.
 *
 * Return: 0 or -ENOMEM
 */
int vfio_migration_region_info_caps(struct vfio_migration *m,
				    struct vfio_region_info *info,
				    struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_type type = {
		.header.id	= VFIO_REGION_INFO_CAP_TYPE,
		.header.version	= 1,
		.type		= VFM_V1_REGION_TYPE,
		.subtype	= VFM_V1_REGION_SUBTYPE,
	};
	int ret;

	info->flags = vfio_migration_region_flags(m);
	info->cap_offset = 0;
	info->size = m->size;
	info->offset = m->params.offset;

	ret = vfio_info_add_capability(caps, &type.header, sizeof(type));
	if (ret)
		return ret;

	return vfio_migration_region_add_areas(m, caps);
}
EXPORT_SYMBOL_GPL(vfio_migration_region_info_caps);

/**
 * vfio_migration_region_info() - Answer VFIO_DEVICE_GET_REGION_INFO
 * @m: the migration of the device
 * @arg: userspace's struct vfio_region_info
 *
 * To be called by the driver when userspace asks for the region by its index.
 *
 * Context: Process context.
 *
 * Return:
 * * 0
 * * -EINVAL if userspace's argsz is too small
 * * -EFAULT if @arg cannot be accessed
 * * -ENOMEM
 */
int vfio_migration_region_info(struct vfio_migration *m,
			       void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_region_info, offset);
	struct vfio_info_cap caps = {};
	struct vfio_region_info info;
	int ret;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	ret = vfio_migration_region_info_caps(m, &info, &caps);
	if (ret)
		goto out;

	ret = -EFAULT;
	if (info.argsz < sizeof(info) + caps.size) {
		info.argsz = sizeof(info) + caps.size;
	} else {
		vfio_info_cap_shift(&caps, sizeof(info));
		if (copy_to_user(arg + sizeof(info), caps.buf, caps.size))
			goto out;
		info.cap_offset = sizeof(info);
	}
	if (!copy_to_user(arg, &info, minsz))
		ret = 0;
out:
	kfree(caps.buf);

	return ret;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_info);
