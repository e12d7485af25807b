/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of the VFIO migration library share
 *
 *	vfio_migration.c	the stream, the states and what is done between them
 *	vfio_migration_v1.c	the migration region, version 1 of the protocol
 *	vfio_migration_v2.c	the device features, version 2
 *	vfio_migration_core.c	the same by way of the core of VFIO, where that
 *				has version 2 itself
 */
#ifndef _VFIO_MIGRATION_PRIV_H
#define _VFIO_MIGRATION_PRIV_H

#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/uaccess.h>
#include <linux/vfio_migration.h>
#include <linux/vfio_migration_compat.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xxhash.h>

/**
 * enum vfm_state - what a device does
 * @VFM_ERROR: nothing, until it is reset
 * @VFM_STOP: nothing
 * @VFM_RUNNING: runs
 * @VFM_STOP_COPY: nothing, and its state is saved
 * @VFM_RESUMING: nothing, and a state is loaded
 * @VFM_RUNNING_P2P: runs, but for DMA
 * @VFM_PRE_COPY: runs, and its state is saved
 * @VFM_PRE_COPY_P2P: runs, but for DMA, and its state is saved
 *
 * The values are those of version 2.
 */
enum vfm_state {
	VFM_ERROR,
	VFM_STOP,
	VFM_RUNNING,
	VFM_STOP_COPY,
	VFM_RESUMING,
	VFM_RUNNING_P2P,
	VFM_PRE_COPY,
	VFM_PRE_COPY_P2P,
};

/**
 * enum vfm_protocol - who saves or loads
 * @VFM_NOBODY: nobody, the device does neither
 * @VFM_V1: a user of the migration region
 * @VFM_V2: a user of the device features
 */
enum vfm_protocol {
	VFM_NOBODY,
	VFM_V1,
	VFM_V2,
};

#define VFM_MAGIC		0x4752494d	/* "MIRG" */
#define VFM_STREAM_VERSION	2
#define VFM_RECORD_DATA		0x41544144	/* "DATA" */
#define VFM_RECORD_END		0x20444e45	/* "END " */

/**
 * struct vfm_header - the beginning of a stream
 * @magic: VFM_MAGIC
 * @version: VFM_STREAM_VERSION, that of all that is described here
 * @type: what kind of device it comes from, filled up with zeroes
 * @type_version: the version of the state's layout
 * @reserved: 0
 * @state_size: bytes of state
 */
struct vfm_header {
	__le32 magic;
	__le32 version;
	char type[VFIO_MIGRATION_TYPE_LEN];
	__le32 type_version;
	__le32 reserved;
	__le64 state_size;
};

/**
 * struct vfm_record - what follows in the stream
 * @magic: VFM_RECORD_DATA or VFM_RECORD_END
 * @sequence: number of this record, from 0
 * @pos: where the run is in the state; at the end, bytes before this record
 * @len: bytes in the run; at the end 0
 * @sum: 0; at the end the xxh64, with a seed of 0, of all bytes before this record
 *
 * The checksum is there for accidents.  Another processor does it while userspace
 * copies.
 */
struct vfm_record {
	__le32 magic;
	__le32 sequence;
	__le64 pos;
	__le64 len;
	__le64 sum;
};

/* What of the stream is not the device's state */
union vfm_frame {
	struct vfm_header header;
	struct vfm_record record;
	u8 bytes[sizeof(struct vfm_header)];
};

/**
 * struct vfm_save - a stream on its way out
 * @sum: checksum so far
 * @bytes: length so far, of what is in chunks
 * @sequence: number of the next record
 * @frame: what is to go out before anything else
 * @frame_pos: how much of it has gone
 * @frame_len: how much there is
 * @run_pos: what is left of the current run
 * @run_len: its length, 0 between two runs
 * @run_direct: the rest of it in the memory is in the checksum already
 * @section: the section in the buffer that is being sent, or NULL
 * @all_given: the state was given out; all of it, without next()
 * @ended: the record that marks the end was made
 * @window_used: how much of the window is not zero
 * @chunk: the committed chunk, in the window or in the memory
 * @chunk_size: its size, 0 if there is none
 * @chunk_read: how much of it version 2 has read
 * @initial: bytes there were to send when pre-copy began
 */
struct vfm_save {
	struct xxh64_state sum;
	u64 bytes;
	u32 sequence;

	union vfm_frame frame;
	size_t frame_pos;
	size_t frame_len;

	u64 run_pos;
	u64 run_len;
	bool run_direct;
	const struct vfio_migration_section *section;
	bool all_given;
	bool ended;

	size_t window_used;
	const u8 *chunk;
	u64 chunk_size;
	u64 chunk_read;
	u64 initial;
};

/**
 * struct vfm_load - a stream on its way in
 * @sum: checksum so far
 * @bytes: length so far
 * @sequence: number that the next record must have
 * @frame: the header or record that is coming in
 * @frame_pos: how much of it is here
 * @frame_len: how much it has
 * @run_pos: where the rest of the current run goes
 * @run_len: its length, 0 between two runs
 * @state_size: bytes of state that come
 * @covered: which of them have come
 * @cover_shift: a bit there stands for so many of them, as a power of 2
 * @cover_end: where a run ended amid such a bit, or 0
 * @ended: the end has come, all was right, and the driver has taken it over
 * @taken: RESUMING was left with it
 * @error: why the stream was refused, or 0
 */
struct vfm_load {
	struct xxh64_state sum;
	u64 bytes;
	u32 sequence;

	union vfm_frame frame;
	size_t frame_pos;
	size_t frame_len;

	u64 run_pos;
	u64 run_len;

	u64 state_size;
	unsigned long *covered;
	unsigned int cover_shift;
	u64 cover_end;

	bool ended;
	bool taken;
	int error;
};

/**
 * struct vfm_faults - failures that are asked for
 * @state: set bits are values of device_state that cannot be entered
 * @v2_state: the same for the states of version 2
 * @save: no chunk can be had
 * @load: no chunk is taken
 * @fatal: these failures lead to the error state
 */
struct vfm_faults {
#ifdef CONFIG_VFIO_MIGRATION_FAULT_INJECTION
	u32 state;
	u32 v2_state;
	bool save;
	bool load;
	bool fatal;
#endif
};

/**
 * struct vfio_migration - the migration of a device
 * @core: what the core of VFIO knows of it
 * @params: what the driver said
 * @name: of the device
 * @window_size: size of the window in bytes
 * @window_offset: where the window begins in the region of version 1
 * @size: size of that region
 * @mmap: the data section can be mapped
 * @ref: held by the driver and by each descriptor of version 2
 * @wait: who polls for something to read
 * @reset_lock: guards @reset_pending, and no unlock of @lock overlooks it
 * @reset_pending: the device was reset, whoever has @lock is to take note
 * @lock: guards the protocol, that is all below, and serializes the callbacks.
 *	Whoever holds it waits for the driver at most, and not for userspace:
 *	see vfm_copy_to_user().
 * @opens: number of open file descriptors
 * @window: the window; does not change while there is one
 * @state: what the device does
 * @owner: whose session it is, while the state is saved or loaded
 * @session: number of the session, or of the last one
 * @save: valid while the state is saved
 * @load: valid while a state is loaded
 * @driver_saves: the driver's save_begin() was called, and not its save_end()
 * @section_buf: the sections, on their way out or in
 * @section_size: its size in bytes
 * @sum_work: adds @sum_len bytes at @sum_from to @sum_to
 * @sum_to: the checksum of @save, or that of @load
 * @sum_from: what it adds
 * @sum_len: how much of it
 * @sum_stop: nobody wants the checksum any more
 * @debugfs: folder with all below
 * @faults: what is to fail
 * @bytes_saved: bytes in chunks that userspace was done with
 * @bytes_loaded: bytes that userspace gave
 * @chunks_saved: the chunks of @bytes_saved
 * @chunks_loaded: the chunks of @bytes_loaded
 * @stopped_ns: CLOCK_MONOTONIC when the device was last stopped
 * @started_ns: CLOCK_MONOTONIC when it was last started
 */
struct vfio_migration {
	struct vfm_core core;
	struct vfio_migration_params params;
	const char *name;
	u64 window_size;
	u64 window_offset;
	u64 size;
	bool mmap;

	struct kref ref;
	wait_queue_head_t wait;
	spinlock_t reset_lock;	/* guards reset_pending */
	bool reset_pending;

	struct mutex lock;	/* guards the protocol */
	unsigned int opens;
	u8 *window;
	enum vfm_state state;
	enum vfm_protocol owner;
	u64 session;
	struct vfm_save save;
	struct vfm_load load;

	bool driver_saves;
	u8 *section_buf;
	size_t section_size;

	struct work_struct sum_work;
	struct xxh64_state *sum_to;
	const void *sum_from;
	size_t sum_len;
	bool sum_stop;

	struct dentry *debugfs;
	struct vfm_faults faults;
	u64 bytes_saved;
	u64 bytes_loaded;
	u64 chunks_saved;
	u64 chunks_loaded;
	u64 stopped_ns;
	u64 started_ns;
};

int vfm_lock(struct vfio_migration *m);
void vfm_unlock(struct vfio_migration *m);
void vfm_enter(struct vfio_migration *m, enum vfm_state state,
	       enum vfm_protocol protocol);
void vfm_put(struct vfio_migration *m);

/* Does the device run, with or without DMA? */
static inline bool vfm_running(const struct vfio_migration *m)
{
	return m->state == VFM_RUNNING || m->state == VFM_RUNNING_P2P ||
	       m->state == VFM_PRE_COPY || m->state == VFM_PRE_COPY_P2P;
}

static inline bool vfm_is_saving(enum vfm_state state)
{
	return state == VFM_PRE_COPY || state == VFM_PRE_COPY_P2P ||
	       state == VFM_STOP_COPY;
}

/* A failure that may be the device's end */
static inline int vfm_failed(struct vfio_migration *m, int error, bool fatal)
{
	if (fatal)
		vfm_enter(m, VFM_ERROR, VFM_NOBODY);

	return error;
}

/* Each returns 0, or what whatever is asked to fail fails with */
#ifdef CONFIG_VFIO_MIGRATION_FAULT_INJECTION
static inline int vfm_fault(struct vfio_migration *m, bool asked)
{
	return asked ? vfm_failed(m, -EIO, READ_ONCE(m->faults.fatal)) : 0;
}

static inline int vfm_fault_state(struct vfio_migration *m, u32 device_state)
{
	return vfm_fault(m, READ_ONCE(m->faults.state) & BIT(device_state));
}

static inline int vfm_fault_v2_state(struct vfio_migration *m, u32 state)
{
	return vfm_fault(m, READ_ONCE(m->faults.v2_state) & BIT(state));
}

static inline int vfm_fault_save(struct vfio_migration *m)
{
	return vfm_fault(m, READ_ONCE(m->faults.save));
}

static inline int vfm_fault_load(struct vfio_migration *m)
{
	return vfm_fault(m, READ_ONCE(m->faults.load));
}
#else
static inline int vfm_fault_state(struct vfio_migration *m, u32 device_state)
{
	return 0;
}

static inline int vfm_fault_v2_state(struct vfio_migration *m, u32 state)
{
	return 0;
}

static inline int vfm_fault_save(struct vfio_migration *m)
{
	return 0;
}

static inline int vfm_fault_load(struct vfio_migration *m)
{
	return 0;
}
#endif

/* The driver says if it is */
static inline int vfm_callback_failed(struct vfio_migration *m, int error)
{
	return vfm_failed(m, error, error == VFIO_MIGRATION_LOST);
}

/*
 * With the lock held, only that much is copied of which userspace's memory is
 * there.  A page that does not come, because a program keeps it back with
 * userfaultfd for one, keeps nobody but the one who wants to access it: he gives
 * the lock back and gets the page by vfm_fault_in_writeable() or _readable().
 * Both return the number of bytes, which is 0 if the first page is not there.
 * At most 1 MiB is taken in at once: of what is not there the kernel clears the
 * rest of the buffer, each time.
 */
static inline size_t vfm_copy_to_user(void __user *to, const void *from,
				      size_t len)
{
	size_t left;

	pagefault_disable();
	left = copy_to_user(to, from, len);
	pagefault_enable();

	return len - left;
}

static inline size_t vfm_copy_from_user(void *to, const void __user *from,
					size_t len)
{
	size_t left;

	len = min_t(size_t, len, SZ_1M);
	pagefault_disable();
	left = copy_from_user(to, from, len);
	pagefault_enable();

	return len - left;
}

int vfm_save_pending(struct vfio_migration *m, bool running, u64 *bytes);
int vfm_save_commit(struct vfio_migration *m);
void vfm_save_release(struct vfio_migration *m);
int vfm_load_commit(struct vfio_migration *m, u64 len);
int vfm_step(struct vfio_migration *m, enum vfm_state from, enum vfm_state to);

void vfm_v1_init(struct vfio_migration *m);
u32 vfm_v1_state(const struct vfio_migration *m);

u64 vfm_v2_flags(const struct vfio_migration *m);
struct file *vfm_v2_change(struct vfio_migration *m, u32 wanted);
int vfm_v2_state(struct vfio_migration *m, enum vfm_state *state);
int vfm_v2_stop_length(struct vfio_migration *m, u64 *bytes);
long vfm_v2_answer(struct vfio_migration *m,
		   const struct vfio_device_feature *feature, void __user *arg);

#endif /* _VFIO_MIGRATION_PRIV_H */
