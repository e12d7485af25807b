/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Migration of VFIO devices for vendor drivers
 *
 * A driver describes the state of its device by struct vfio_migration_params
 * and a few callbacks, and passes on what userspace asks for.  The library does
 * the protocol, in both versions: the migration region of struct
 * vfio_device_migration_info in uapi/linux/vfio.h, and the device features that
 * have replaced it.
 *
 * See Documentation/driver-api/vfio-migration-region.rst.
 */
#ifndef _LINUX_VFIO_MIGRATION_H
#define _LINUX_VFIO_MIGRATION_H

#include <linux/errno.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/vfio.h>

struct device;
struct vfio_migration;
struct vm_area_struct;

/*
 * What userspace and kernels from 5.18 and 6.2 on have of version 2.  The
 * states are missing: in this kernel their names are those of version 1.
 */
#ifndef VFIO_DEVICE_FEATURE_MIGRATION
#define VFIO_DEVICE_FEATURE_MIGRATION		1
#define VFIO_MIGRATION_STOP_COPY		0x1
#define VFIO_MIGRATION_P2P			0x2

struct vfio_device_feature_migration {
	__aligned_u64 flags;
};

#define VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE	2

struct vfio_device_feature_mig_state {
	__u32 device_state;
	__s32 data_fd;
};
#endif

#ifndef VFIO_MIGRATION_PRE_COPY
#define VFIO_MIGRATION_PRE_COPY			0x4

struct vfio_precopy_info {
	__u32 argsz;
	__u32 flags;
	__aligned_u64 initial_bytes;
	__aligned_u64 dirty_bytes;
};

#define VFIO_MIG_GET_PRECOPY_INFO		_IO(VFIO_TYPE, VFIO_BASE + 21)
#endif

#ifndef VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
#define VFIO_DEVICE_FEATURE_MIG_DATA_SIZE	9

struct vfio_device_feature_mig_data_size {
	__aligned_u64 stop_copy_length;
};
#endif

/* Longest name of a device type, with the terminating 0 */
#define VFIO_MIGRATION_TYPE_LEN	32

/* Most that a window may have; and what is used if a driver does not say */
#define VFIO_MIGRATION_MAX_WINDOW	0x4000000UL
#define VFIO_MIGRATION_DEFAULT_WINDOW	0x100000UL

/* Most that the sections of a state may have, all together */
#define VFIO_MIGRATION_MAX_SECTIONS	0x10000UL

/* What a callback returns if the device is lost, until it is reset */
#define VFIO_MIGRATION_LOST		(-ENOTRECOVERABLE)

/**
 * struct vfio_migration_driver_ops - What a driver does for its device
 *
 * The library calls these in process context, one at a time for a device, and
 * holds a mutex of its own meanwhile.  They may sleep.  They must not call
 * back into the library.
 *
 * A callback that fails returns a negative errno, which userspace gets, and
 * leaves the device as it was.  VFIO_MIGRATION_LOST says that the device cannot
 * be trusted any more: userspace then reads the error state and has to reset the
 * device.
 *
 * @stop: Stop the device.  When this returns 0, the device does not change its
 *	state any more and does no DMA.  Registers of the configuration space
 *	and interrupts go on working.  Required.
 * @quiesce: Let the device run without DMA: when this returns 0, it starts none
 *	any more, and what was under way is finished.  Registers go on working,
 *	and a DMA that they ask for begins with @start.  The device runs or is
 *	stopped before.  Optional: without it version 2 has no P2P states.
 * @start: Let the device go on where it was stopped, or with the state that
 *	was loaded.  Required.
 * @save_begin: Userspace begins to save: all of the state is to be sent.
 *	Optional, and only with @next.
 * @save_end: It saves no more.  Called once for each @save_begin, also before
 *	the device is reset, and after vfio_migration_reset_done().  Optional, and
 *	only with @next.
 * @next: Give out a run of the state that is to be sent: set @pos and @len,
 *	take it for sent, and return 1; return 0 if there is none at present.
 *	The library keeps a run until @save has succeeded for all of it.
 *	With @running, the device runs, and what it changes after this call has
 *	to be given out again.  When the device is stopped, all that has not been
 *	sent since it changed has to be given out.  Optional: without it nothing
 *	is sent before the device is stopped, and then all.
 * @pending: Set @bytes to what @next will give out, as far as it is known; 0
 *	if @next has none.  Without @running, as if the device were stopped now,
 *	which it may not be.  Required with @next, and only then.
 * @save: Copy @len bytes of the state at @pos to @buf.  Called in pre-copy
 *	while the device runs, only for what @next gave out, and while it is
 *	stopped.  A section is always asked for whole.  Not called for what lies
 *	in &vfio_migration_params.memory.  Required if the state has more than
 *	that.
 * @load_begin: A stream begins whose state has this @version and this @size,
 *	which is not more than &vfio_migration_params.state_size.  Return -EINVAL
 *	if it cannot be loaded.  Optional: without it version and size have to be
 *	those of the device.
 * @load: Copy @len bytes from @buf to the state at @pos.  The device is
 *	stopped.  A section comes whole, once, when the stream has ended and is
 *	right, if all of it has come: its values can be looked at and taken over
 *	here.  All else comes before that, cut as userspace decides, and
 *	userspace may change @buf during the call: copy from it once, and look
 *	at the values in @loaded.  Not called for memory.  Required with @save,
 *	and only then.
 * @loaded: All of the stream has come and it is right.  Check the values that
 *	were loaded, as they may come from anywhere, and take them over: from now
 *	on they can be seen.  An error leaves the device to be reset.  Optional.
 * @reset: Put the device into the state it has after power-on, running.  What
 *	it was doing ends before this returns.  Cannot fail.  Required.
 */
struct vfio_migration_driver_ops {
	int (*stop)(void *data);
	int (*quiesce)(void *data);
	int (*start)(void *data);
	int (*save_begin)(void *data);
	void (*save_end)(void *data);
	int (*next)(void *data, bool running, u64 *pos, u64 *len);
	int (*pending)(void *data, bool running, u64 *bytes);
	int (*save)(void *data, u64 pos, void *buf, size_t len);
	int (*load_begin)(void *data, u32 version, u64 size);
	int (*load)(void *data, u64 pos, const void *buf, size_t len);
	int (*loaded)(void *data);
	void (*reset)(void *data);
};

/**
 * struct vfio_migration_section - A part of the state that is not cut in pieces
 *
 * @pos: where it is in the state
 * @len: bytes
 */
struct vfio_migration_section {
	u64 pos;
	u32 len;
};

/**
 * struct vfio_migration_params - The state of a device
 *
 * The state is a sequence of @state_size bytes whose meaning is the driver's.
 * The first @memory_size of them may be memory that the driver has at hand;
 * userspace then reads it where it is, without a copy.
 *
 * @ops: the driver's callbacks
 * @data: is passed to them
 * @type: name of the kind of device.  A stream of another type is refused.
 * @version: version of the state's layout.  A stream of another is refused,
 *	unless the driver has &vfio_migration_driver_ops.load_begin.
 * @offset: where the migration region is in the device's file, a multiple of PAGE_SIZE
 * @state_size: bytes of state
 * @memory: from vmalloc_user(), or NULL.  Userspace can read it at any time.
 *	It must stay until vfio_migration_destroy().
 * @memory_size: its size in bytes, a multiple of PAGE_SIZE, 0 without @memory
 * @sections: parts of the state that the callbacks get whole, blocks of
 *	registers for one: in ascending order, behind the memory.  NULL if there
 *	are none.  They must stay until vfio_migration_destroy().
 * @nr_sections: how many
 * @partial: a stream need not bring all of the state.  Without it, one that does
 *	not is refused.  What it has brought is known of a state up to 1 MiB to
 *	the byte, of a larger one to a power of 2 of bytes, a 2^20th of it: runs
 *	begin and end there, or one goes on where the last one ended.
 * @window: the most that userspace gets in one piece, in bytes, 0 for the
 *	default.  The data section is only offered for mmap if it is a multiple
 *	of PAGE_SIZE.
 * @mmap: offer the data section for mmap
 */
struct vfio_migration_params {
	const struct vfio_migration_driver_ops *ops;
	void *data;
	const char *type;
	u32 version;
	u64 offset;
	u64 state_size;
	void *memory;
	u64 memory_size;
	const struct vfio_migration_section *sections;
	unsigned int nr_sections;
	bool partial;
	u32 window;
	bool mmap;
};

struct vfio_migration *
vfio_migration_create(struct device *dev,
		      const struct vfio_migration_params *params);
void vfio_migration_destroy(struct vfio_migration *m);

int vfio_migration_open(struct vfio_migration *m);
void vfio_migration_release(struct vfio_migration *m);

int vfio_migration_region_info(struct vfio_migration *m,
			       void __user *arg);
int vfio_migration_region_info_caps(struct vfio_migration *m,
				    struct vfio_region_info *info,
				    struct vfio_info_cap *caps);
u64 vfio_migration_region_size(const struct vfio_migration *m);
u32 vfio_migration_region_flags(const struct vfio_migration *m);
int vfio_migration_region_add_areas(const struct vfio_migration *m,
				    struct vfio_info_cap *caps);
ssize_t vfio_migration_region_read(struct vfio_migration *m,
				   char __user *buf, size_t count, loff_t *ppos);
ssize_t vfio_migration_region_write(struct vfio_migration *m,
				    const char __user *buf, size_t count,
				    loff_t *ppos);
int vfio_migration_region_mmap(struct vfio_migration *m,
			       struct vm_area_struct *vma);
int vfio_migration_reset(struct vfio_migration *m);
void vfio_migration_reset_done(struct vfio_migration *m);

long vfio_migration_feature(struct vfio_migration *m, void __user *arg);

#endif /* _LINUX_VFIO_MIGRATION_H */
