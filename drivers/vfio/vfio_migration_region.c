// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VFIO migration region (version 1) for vendor drivers
 *
 * The region begins with struct vfio_device_migration_info, which is trapped,
 * in a page of its own.  The data section behind it has two parts:
 *
 *	memory	the part of the device's state that the driver has as memory,
 *		as it is.  Userspace can only read it.  Chunks that are saved
 *		while the device is stopped are read there, so that nobody
 *		copies them but userspace.
 *	window	a buffer for everything else that is saved, and for all that
 *		is loaded.  It is at the end of the region, because userspace
 *		splits a chunk that would go beyond the region's end.
 *
 * data_offset says in which of them a chunk is.
 *
 * What userspace gets is a stream of bytes, cut into chunks of any size:
 *
 *	struct mr_header	once
 *	struct mr_record	before each run of the state,
 *	data			followed by the bytes of the run
 *	...
 *	struct mr_record	one that marks the end, with length and checksum
 *
 * All numbers in it are little endian.
 */

#include <linux/bitops.h>
#include <linux/build_bug.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/vfio_migration_region.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include <asm/unaligned.h>

/* What userspace was built against does not change */
#define MR_FIELD(field, offset) \
	static_assert(offsetof(struct vfio_device_migration_info, field) == (offset))

MR_FIELD(device_state, 0);
MR_FIELD(reserved, 4);
MR_FIELD(pending_bytes, 8);
MR_FIELD(data_offset, 16);
MR_FIELD(data_size, 24);
static_assert(sizeof(struct vfio_device_migration_info) == 32);
static_assert(VFIO_DEVICE_STATE_RUNNING == 1);
static_assert(VFIO_DEVICE_STATE_SAVING == 2);
static_assert(VFIO_DEVICE_STATE_RESUMING == 4);
static_assert(VFIO_DEVICE_STATE_SET_ERROR(0) == 6);

#define MR_STATE_STOP		VFIO_DEVICE_STATE_STOP
#define MR_STATE_RUNNING	VFIO_DEVICE_STATE_RUNNING
#define MR_STATE_STOP_COPY	VFIO_DEVICE_STATE_SAVING
#define MR_STATE_PRE_COPY	(VFIO_DEVICE_STATE_RUNNING | \
				 VFIO_DEVICE_STATE_SAVING)
#define MR_STATE_RESUMING	VFIO_DEVICE_STATE_RESUMING
#define MR_STATE_ERROR		VFIO_DEVICE_STATE_SET_ERROR(0)

#define MR_MAGIC		0x4752494d	/* "MIRG" */
#define MR_STREAM_VERSION	1
#define MR_RECORD_DATA		0x41544144	/* "DATA" */
#define MR_RECORD_END		0x20444e45	/* "END " */

/**
 * struct mr_header - the beginning of a stream
 * @magic: MR_MAGIC
 * @version: MR_STREAM_VERSION, that of all that is described here
 * @type: what kind of device it comes from, filled up with zeroes
 * @type_version: the version of the state's layout
 * @reserved: 0
 * @state_size: bytes of state
 */
struct mr_header {
	__le32 magic;
	__le32 version;
	char type[VFIO_MIGRATION_REGION_TYPE_LEN];
	__le32 type_version;
	__le32 reserved;
	__le64 state_size;
};

/**
 * struct mr_record - what follows in the stream
 * @magic: MR_RECORD_DATA or MR_RECORD_END
 * @sequence: number of this record, from 0
 * @pos: where the run is in the state; at the end, bytes before this record
 * @len: bytes in the run
 * @sum: 0
 *
 * At the end @len and @sum are mr_sum.words and mr_sum.sums of all bytes before
 * this record.
 */
struct mr_record {
	__le32 magic;
	__le32 sequence;
	__le64 pos;
	__le64 len;
	__le64 sum;
};

/* What of the stream is not the device's state */
union mr_frame {
	struct mr_header header;
	struct mr_record record;
	u8 bytes[sizeof(struct mr_header)];
};

/**
 * struct mr_sum - a checksum
 * @words: sum of all words of 64 bits, little endian
 * @sums: sum of @words after each of them, turned and multiplied each time
 * @last: the bytes that are not a word yet
 * @count: how many bytes these are
 *
 * It is there for accidents, and cheap: userspace is to spend its time copying.
 * Each bit that flips is noticed, and so is every change of the order that
 * accidents are likely to make.
 */
struct mr_sum {
	u64 words;
	u64 sums;
	u8 last[sizeof(u64)];
	size_t count;
};

/**
 * struct mr_save - a stream on its way out
 * @sum: checksum so far
 * @bytes: length so far, of what is in chunks
 * @sequence: number of the next record
 * @frame: what is to go out before anything else
 * @frame_pos: how much of it has gone
 * @frame_len: how much there is
 * @run_pos: what is left of the current run
 * @run_len: its length, 0 between two runs
 * @run_direct: the rest of it in the memory is in the checksum already
 * @all_given: the state was given out; all of it, without next()
 * @ended: the record that marks the end was made
 * @window_used: how much of the window is not zero
 * @chunk_offset: where the committed chunk is in the region
 * @chunk_size: its size, 0 if there is none
 */
struct mr_save {
	struct mr_sum sum;
	u64 bytes;
	u32 sequence;

	union mr_frame frame;
	size_t frame_pos;
	size_t frame_len;

	u64 run_pos;
	u64 run_len;
	bool run_direct;
	bool all_given;
	bool ended;

	size_t window_used;
	u64 chunk_offset;
	u64 chunk_size;
};

/**
 * struct mr_load - a stream on its way in
 * @sum: checksum so far
 * @bytes: length so far
 * @sequence: number that the next record must have
 * @frame: the header or record that is coming in
 * @frame_pos: how much of it is here
 * @frame_len: how much it has
 * @run_pos: where the rest of the current run goes
 * @run_len: its length, 0 between two runs
 * @ended: the end has come, and all was right
 * @taken: the driver has taken the state over
 * @error: why the stream was refused, or 0
 */
struct mr_load {
	struct mr_sum sum;
	u64 bytes;
	u32 sequence;

	union mr_frame frame;
	size_t frame_pos;
	size_t frame_len;

	u64 run_pos;
	u64 run_len;
	bool ended;
	bool taken;
	int error;
};

/**
 * struct vfio_migration_region - the region of a device
 * @params: what the driver said
 * @window_size: size of the window in bytes
 * @window_offset: where the window begins in the region
 * @size: size of the region
 * @mmap: the data section can be mapped
 * @lock: guards the protocol, that is all below, and serializes the callbacks.
 *	Taken before mmap_lock, because user memory is accessed under it.
 * @opens: number of open file descriptors
 * @window: the window; does not change while there is one
 * @state: device_state
 * @save: valid while @state has SAVING
 * @load: valid while @state is RESUMING
 * @sum_work: adds @sum_len bytes at @sum_from to the checksum of @save
 * @sum_from: what it adds
 * @sum_len: how much of it
 * @debugfs: folder with all below
 * @fail_state: set bits are states that cannot be entered
 * @fail_save: no chunk can be had
 * @fail_load: no chunk is taken
 * @fail_fatal: these failures lead to the error state
 * @bytes_saved: bytes in chunks that userspace was done with
 * @bytes_loaded: bytes that userspace gave
 * @chunks_saved: the chunks of @bytes_saved
 * @chunks_loaded: the chunks of @bytes_loaded
 * @stopped_ns: CLOCK_MONOTONIC when the device was last stopped
 * @started_ns: CLOCK_MONOTONIC when it was last started
 */
struct vfio_migration_region {
	struct vfio_migration_region_params params;
	u64 window_size;
	u64 window_offset;
	u64 size;
	bool mmap;

	struct mutex lock;	/* guards the protocol */
	unsigned int opens;
	u8 *window;
	u32 state;
	struct mr_save save;
	struct mr_load load;

	struct work_struct sum_work;
	const void *sum_from;
	size_t sum_len;

	struct dentry *debugfs;
	u32 fail_state;
	bool fail_save;
	bool fail_load;
	bool fail_fatal;
	u64 bytes_saved;
	u64 bytes_loaded;
	u64 chunks_saved;
	u64 chunks_loaded;
	u64 stopped_ns;
	u64 started_ns;
};

static struct dentry *mr_debugfs;

/* The memory begins behind the page of the header */
#define MR_MEMORY_OFFSET	PAGE_SIZE

static bool mr_running(const struct vfio_migration_region *mr)
{
	return mr->state & VFIO_DEVICE_STATE_RUNNING;
}

static bool mr_saving(const struct vfio_migration_region *mr)
{
	return !VFIO_DEVICE_STATE_IS_ERROR(mr->state) &&
	       (mr->state & VFIO_DEVICE_STATE_SAVING);
}

/* A failure that may be the device's end */
static int mr_failed(struct vfio_migration_region *mr, int error, bool fatal)
{
	if (fatal)
		mr->state = MR_STATE_ERROR;

	return error;
}

/*
 * The checksum
 */

/* Also where the compiler goes for size, as this is done for all of the state */
static __always_inline void mr_sum_word(u64 *words, u64 *sums, const u8 *from)
{
	*words += get_unaligned_le64(from);
	/* Turned alone, it is where it was after 64 words of zeroes */
	*sums = (rol64(*sums, 7) + *words) * GOLDEN_RATIO_64;
}

/* The calls may cut the bytes anywhere */
static void mr_sum_add(struct mr_sum *sum, const u8 *from, size_t len)
{
	u64 words = sum->words, sums = sum->sums;

	for (; len && sum->count; len--) {
		sum->last[sum->count++] = *from++;
		if (sum->count == sizeof(sum->last)) {
			mr_sum_word(&words, &sums, sum->last);
			sum->count = 0;
		}
	}
	for (; len >= 8 * sizeof(u64); len -= 8 * sizeof(u64)) {
		mr_sum_word(&words, &sums, from);
		mr_sum_word(&words, &sums, from + 8);
		mr_sum_word(&words, &sums, from + 16);
		mr_sum_word(&words, &sums, from + 24);
		mr_sum_word(&words, &sums, from + 32);
		mr_sum_word(&words, &sums, from + 40);
		mr_sum_word(&words, &sums, from + 48);
		mr_sum_word(&words, &sums, from + 56);
		from += 8 * sizeof(u64);
	}
	for (; len >= sizeof(u64); len -= sizeof(u64)) {
		mr_sum_word(&words, &sums, from);
		from += sizeof(u64);
	}
	while (len--)
		sum->last[sum->count++] = *from++;

	sum->words = words;
	sum->sums = sums;
}

/* The word that is not complete counts with zeroes behind it */
static struct mr_sum mr_sum_end(struct mr_sum sum)
{
	if (sum.count) {
		memset(sum.last + sum.count, 0, sizeof(sum.last) - sum.count);
		mr_sum_word(&sum.words, &sum.sums, sum.last);
		sum.count = 0;
	}

	return sum;
}

/*
 * What userspace reads in the memory is summed up while it does so, by
 * another processor if there is one.  The device is stopped, so that the
 * work can go ahead of userspace.  All else is in the order of the stream:
 * whoever adds something more waits first.
 */
static void mr_sum_work(struct work_struct *work)
{
	struct vfio_migration_region *mr =
		container_of(work, struct vfio_migration_region, sum_work);
	size_t done, n;

	for (done = 0; done < mr->sum_len; done += n) {
		n = min_t(size_t, mr->sum_len - done, SZ_1M);
		mr_sum_add(&mr->save.sum, mr->sum_from + done, n);
		cond_resched();
	}
}

static void mr_sum_later(struct vfio_migration_region *mr, const void *from,
			 size_t len)
{
	flush_work(&mr->sum_work);
	mr->sum_from = from;
	mr->sum_len = len;
	queue_work(system_unbound_wq, &mr->sum_work);
}

static void mr_sum_now(struct vfio_migration_region *mr, const void *from,
		       size_t len)
{
	flush_work(&mr->sum_work);
	mr_sum_add(&mr->save.sum, from, len);
}

/*
 * Saving
 */

static void mr_save_begin(struct vfio_migration_region *mr)
{
	const struct vfio_migration_region_params *params = &mr->params;
	struct mr_save *save = &mr->save;
	struct mr_header *header = &save->frame.header;

	flush_work(&mr->sum_work);
	memset(save, 0, sizeof(*save));
	memset(mr->window, 0, mr->window_size);

	header->magic = cpu_to_le32(MR_MAGIC);
	header->version = cpu_to_le32(MR_STREAM_VERSION);
	strscpy_pad(header->type, params->type, sizeof(header->type));
	header->type_version = cpu_to_le32(params->version);
	header->state_size = cpu_to_le64(params->state_size);
	save->frame_len = sizeof(*header);

	if (params->ops->save_begin)
		params->ops->save_begin(params->data);
}

static u64 mr_save_pending(struct vfio_migration_region *mr)
{
	const struct vfio_migration_region_params *params = &mr->params;
	const struct mr_save *save = &mr->save;
	bool running = mr_running(mr);
	u64 pending, more = 0;

	pending = save->frame_len - save->frame_pos + save->run_len;
	if (save->ended)
		return pending;

	if (params->ops->next)
		more = params->ops->pending(params->data, running);
	else if (!running && !save->all_given)
		more = params->state_size;
	if (more)
		pending += sizeof(struct mr_record) + more;
	if (!running)
		pending += sizeof(struct mr_record);

	return pending;
}

static bool mr_save_next_run(struct vfio_migration_region *mr)
{
	const struct vfio_migration_region_params *params = &mr->params;
	struct mr_save *save = &mr->save;
	u64 size = params->state_size;
	u64 pos = 0, len = size;

	if (params->ops->next
	    ? !params->ops->next(params->data, mr_running(mr), &pos, &len)
	    : mr_running(mr) || save->all_given)
		return false;
	if (WARN_ON_ONCE(!len || pos >= size || len > size - pos))
		return false;
	save->all_given = true;

	save->run_pos = pos;
	save->run_len = len;
	save->run_direct = false;

	return true;
}

/* Make the record that the stream goes on with.  False: nothing at present. */
static bool mr_save_next_record(struct vfio_migration_region *mr, size_t used,
				size_t *summed)
{
	struct mr_save *save = &mr->save;
	struct mr_record *record = &save->frame.record;
	struct mr_sum sum;

	if (save->ended)
		return false;

	if (mr_save_next_run(mr)) {
		record->magic = cpu_to_le32(MR_RECORD_DATA);
		record->pos = cpu_to_le64(save->run_pos);
		record->len = cpu_to_le64(save->run_len);
		record->sum = 0;
	} else if (!mr_running(mr)) {
		mr_sum_now(mr, mr->window + *summed, used - *summed);
		*summed = used;
		save->ended = true;
		record->magic = cpu_to_le32(MR_RECORD_END);
		record->pos = cpu_to_le64(save->bytes + used);
		sum = mr_sum_end(save->sum);
		record->len = cpu_to_le64(sum.words);
		record->sum = cpu_to_le64(sum.sums);
	} else {
		return false;
	}
	record->sequence = cpu_to_le32(save->sequence++);
	save->frame_pos = 0;
	save->frame_len = sizeof(*record);

	return true;
}

/* How much of the current run can be read in the memory as it is */
static u64 mr_save_direct(struct vfio_migration_region *mr)
{
	const struct mr_save *save = &mr->save;
	u64 size = mr->params.memory_size;

	if (mr_running(mr) || save->run_pos >= size ||
	    (mr->mmap && !IS_ALIGNED(save->run_pos, PAGE_SIZE)))
		return 0;

	return min3(save->run_len, size - save->run_pos, mr->window_size);
}

/* Userspace reads this piece of the run in the memory */
static void mr_save_commit_direct(struct vfio_migration_region *mr, u64 len)
{
	struct mr_save *save = &mr->save;
	u64 pos = save->run_pos;

	/* All that is read so of this run is known with the first piece */
	if (!save->run_direct)
		mr_sum_later(mr, mr->params.memory + pos,
			     min(save->run_len, mr->params.memory_size - pos));
	save->run_direct = true;
	save->run_pos += len;
	save->run_len -= len;
	save->chunk_offset = MR_MEMORY_OFFSET + pos;
	save->chunk_size = len;
	save->bytes += len;
}

/* Put a piece of the current run into the window */
static int mr_save_copy(struct vfio_migration_region *mr, size_t used,
			size_t *copied)
{
	const struct vfio_migration_region_params *params = &mr->params;
	struct mr_save *save = &mr->save;
	u64 len = min(save->run_len, mr->window_size - used);
	int ret;

	if (save->run_pos < params->memory_size) {
		len = min(len, params->memory_size - save->run_pos);
		/* Up to where it can be read in the memory */
		if (!mr_running(mr))
			len = min_t(u64, len, PAGE_SIZE -
				    offset_in_page(save->run_pos));
		memcpy(mr->window + used, params->memory + save->run_pos, len);
	} else {
		ret = params->ops->save(params->data, save->run_pos,
					mr->window + used, len);
		if (ret)
			return ret;
	}
	save->run_pos += len;
	save->run_len -= len;
	*copied = len;

	return 0;
}

/*
 * Make the next chunk.  If the driver fails before there is anything in it,
 * that is an error; otherwise userspace gets what there is, and meets the
 * error the next time.  There may be nothing at present, and then no chunk.
 */
static int mr_save_commit(struct vfio_migration_region *mr)
{
	struct mr_save *save = &mr->save;
	size_t used = 0, summed = 0, len;
	int ret;

	if (READ_ONCE(mr->fail_save))
		return mr_failed(mr, -EIO, READ_ONCE(mr->fail_fatal));

	while (used < mr->window_size) {
		if (save->frame_pos < save->frame_len) {
			len = min_t(u64, save->frame_len - save->frame_pos,
				    mr->window_size - used);
			memcpy(mr->window + used,
			       save->frame.bytes + save->frame_pos, len);
			save->frame_pos += len;
			used += len;
		} else if (save->run_len) {
			u64 direct = mr_save_direct(mr);

			if (direct && used)
				break;
			if (direct) {
				mr_save_commit_direct(mr, direct);
				return 0;
			}
			ret = mr_save_copy(mr, used, &len);
			if (ret && !used)
				return mr_failed(mr, ret, ret == -EIO);
			if (ret)
				break;
			used += len;
		} else if (!mr_save_next_record(mr, used, &summed)) {
			break;
		}
	}

	/* Nothing of an earlier chunk is behind a shorter one */
	if (used < save->window_used)
		memset(mr->window + used, 0, save->window_used - used);
	save->window_used = used;
	save->chunk_offset = mr->window_offset;
	save->chunk_size = used;
	save->bytes += used;
	/* The last record is not part of what it sums up */
	if (!save->ended)
		mr_sum_now(mr, mr->window + summed, used - summed);

	return 0;
}

/* Userspace is done with the chunk */
static void mr_save_release(struct vfio_migration_region *mr)
{
	struct mr_save *save = &mr->save;

	if (!save->chunk_size)
		return;

	mr->bytes_saved += save->chunk_size;
	mr->chunks_saved++;
	save->chunk_size = 0;
}

/*
 * Loading
 *
 * Userspace may have mapped the window, and change it at any time.  So headers
 * and records are looked at in a copy, and so the driver has to do.
 */

static void mr_load_begin(struct vfio_migration_region *mr)
{
	struct mr_load *load = &mr->load;

	memset(load, 0, sizeof(*load));
	load->frame_len = sizeof(struct mr_header);
}

static int mr_load_header(struct vfio_migration_region *mr)
{
	const struct vfio_migration_region_params *params = &mr->params;
	const struct mr_header *header = &mr->load.frame.header;
	char type[sizeof(header->type)];

	strscpy_pad(type, params->type, sizeof(type));
	if (header->magic != cpu_to_le32(MR_MAGIC) ||
	    header->version != cpu_to_le32(MR_STREAM_VERSION) ||
	    memcmp(header->type, type, sizeof(type)) ||
	    header->type_version != cpu_to_le32(params->version) ||
	    header->reserved ||
	    header->state_size != cpu_to_le64(params->state_size))
		return -EINVAL;

	return 0;
}

static int mr_load_record(struct vfio_migration_region *mr)
{
	struct mr_load *load = &mr->load;
	const struct mr_record *record = &load->frame.record;
	u64 size = mr->params.state_size;
	u64 pos = le64_to_cpu(record->pos);
	u64 len = le64_to_cpu(record->len);
	struct mr_sum sum;

	if (le32_to_cpu(record->sequence) != load->sequence++)
		return -EINVAL;

	switch (le32_to_cpu(record->magic)) {
	case MR_RECORD_DATA:
		if (record->sum || !len || pos >= size || len > size - pos)
			return -EINVAL;
		load->run_pos = pos;
		load->run_len = len;
		return 0;
	case MR_RECORD_END:
		sum = mr_sum_end(load->sum);
		if (pos != load->bytes || len != sum.words ||
		    le64_to_cpu(record->sum) != sum.sums)
			return -EINVAL;
		load->ended = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* A header or record is complete */
static int mr_load_frame(struct vfio_migration_region *mr)
{
	struct mr_load *load = &mr->load;
	int ret;

	ret = load->bytes ? mr_load_record(mr) : mr_load_header(mr);
	if (ret)
		return ret;

	mr_sum_add(&load->sum, load->frame.bytes, load->frame_len);
	load->bytes += load->frame_len;
	load->frame_pos = 0;
	load->frame_len = sizeof(struct mr_record);

	return 0;
}

static int mr_load_run(struct vfio_migration_region *mr, const u8 *from,
		       size_t len)
{
	const struct vfio_migration_region_params *params = &mr->params;
	struct mr_load *load = &mr->load;
	size_t memory = 0;
	int ret;

	if (load->run_pos < params->memory_size) {
		memory = min_t(u64, len, params->memory_size - load->run_pos);
		memcpy(params->memory + load->run_pos, from, memory);
	}
	if (memory < len) {
		ret = params->ops->load(params->data, load->run_pos + memory,
					from + memory, len - memory);
		if (ret)
			return ret;
	}
	mr_sum_add(&load->sum, from, len);
	load->bytes += len;
	load->run_pos += len;
	load->run_len -= len;

	return 0;
}

/* Take in @len bytes of the window, wherever in the stream they begin and end */
static int mr_load_chunk(struct vfio_migration_region *mr, size_t len)
{
	struct mr_load *load = &mr->load;
	const u8 *from = mr->window;
	int ret = load->error;
	size_t n;

	while (len && !ret) {
		if (load->ended)
			return -EINVAL;

		if (load->run_len) {
			n = min_t(u64, len, load->run_len);
			ret = mr_load_run(mr, from, n);
		} else {
			n = min(len, load->frame_len - load->frame_pos);
			memcpy(load->frame.bytes + load->frame_pos, from, n);
			load->frame_pos += n;
			if (load->frame_pos == load->frame_len)
				ret = mr_load_frame(mr);
		}
		from += n;
		len -= n;
	}

	return ret;
}

static int mr_load_commit(struct vfio_migration_region *mr, u64 len)
{
	int ret;

	if (mr->state != MR_STATE_RESUMING || len > mr->window_size)
		return -EINVAL;
	if (READ_ONCE(mr->fail_load))
		return mr_failed(mr, -EIO, READ_ONCE(mr->fail_fatal));

	ret = mr_load_chunk(mr, len);
	if (ret) {
		/* Where the stream goes on is lost */
		mr->load.error = -EINVAL;
		return mr_failed(mr, ret, ret == -EIO);
	}
	mr->bytes_loaded += len;
	mr->chunks_loaded += !!len;

	return 0;
}

/*
 * Everything has to have come, or nothing at all: then the device stays as it
 * was.  What a stream that breaks off has left behind is good for nothing.
 */
static int mr_load_end(struct vfio_migration_region *mr)
{
	const struct vfio_migration_region_params *params = &mr->params;
	struct mr_load *load = &mr->load;
	int ret = 0;

	if (load->taken || (!load->bytes && !load->frame_pos && !load->error))
		return 0;

	if (load->error || !load->ended)
		ret = -EINVAL;
	else if (params->ops->loaded)
		ret = params->ops->loaded(params->data);
	if (ret)
		return mr_failed(mr, ret, true);
	load->taken = true;

	return 0;
}

/*
 * The state machine
 */

static int mr_stop(struct vfio_migration_region *mr)
{
	int ret = mr->params.ops->stop(mr->params.data);

	if (ret)
		return mr_failed(mr, ret, ret == -EIO);
	mr->stopped_ns = ktime_get_ns();

	return 0;
}

static int mr_start(struct vfio_migration_region *mr)
{
	int ret = mr->params.ops->start(mr->params.data);

	if (ret)
		return mr_failed(mr, ret, ret == -EIO);
	mr->started_ns = ktime_get_ns();

	return 0;
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
 * Nothing of a stream is given up by the arcs that leave it.  If starting the
 * device fails on the way, everything is as it was, and can be tried again.
 */
static u32 mr_next_state(u32 from, u32 to)
{
	switch (from) {
	case MR_STATE_RUNNING:
		return to == MR_STATE_PRE_COPY ? to : MR_STATE_STOP;
	case MR_STATE_STOP:
		return to == MR_STATE_PRE_COPY ? MR_STATE_RUNNING : to;
	case MR_STATE_PRE_COPY:
		return to == MR_STATE_RUNNING ? to : MR_STATE_STOP_COPY;
	default:
		return MR_STATE_STOP;
	}
}

#define MR_ARC(from, to)	((from) << 3 | (to))

static int mr_step(struct vfio_migration_region *mr, u32 from, u32 to)
{
	switch (MR_ARC(from, to)) {
	case MR_ARC(MR_STATE_RUNNING, MR_STATE_STOP):
	case MR_ARC(MR_STATE_PRE_COPY, MR_STATE_STOP_COPY):
		return mr_stop(mr);
	case MR_ARC(MR_STATE_STOP, MR_STATE_RUNNING):
		return mr_start(mr);
	case MR_ARC(MR_STATE_RUNNING, MR_STATE_PRE_COPY):
	case MR_ARC(MR_STATE_STOP, MR_STATE_STOP_COPY):
		mr_save_begin(mr);
		return 0;
	case MR_ARC(MR_STATE_STOP, MR_STATE_RESUMING):
		mr_load_begin(mr);
		return 0;
	case MR_ARC(MR_STATE_RESUMING, MR_STATE_STOP):
		return mr_load_end(mr);
	case MR_ARC(MR_STATE_PRE_COPY, MR_STATE_RUNNING):
	case MR_ARC(MR_STATE_STOP_COPY, MR_STATE_STOP):
		return 0;
	default:
		WARN_ON_ONCE(1);
		return -EINVAL;
	}
}

static int mr_set_state(struct vfio_migration_region *mr, u32 state)
{
	u32 at = mr->state, next;
	int ret;

	if ((state & ~VFIO_DEVICE_STATE_MASK) ||
	    !VFIO_DEVICE_STATE_VALID(state) ||
	    VFIO_DEVICE_STATE_IS_ERROR(mr->state))
		return -EINVAL;

	if (state != at && (READ_ONCE(mr->fail_state) & BIT(state)))
		return mr_failed(mr, -EIO, READ_ONCE(mr->fail_fatal));

	for (; at != state; at = next) {
		next = mr_next_state(at, state);
		ret = mr_step(mr, at, next);
		if (ret)
			return ret;
	}
	mr->state = state;

	return 0;
}

static void mr_reset(struct vfio_migration_region *mr)
{
	flush_work(&mr->sum_work);
	mr->params.ops->reset(mr->params.data);
	memset(mr->window, 0, mr->window_size);
	memset(&mr->save, 0, sizeof(mr->save));
	memset(&mr->load, 0, sizeof(mr->load));
	mr->state = MR_STATE_RUNNING;
}

/*
 * Access by userspace
 */

static int mr_read_field(struct vfio_migration_region *mr, u64 pos,
			 size_t count, u64 *value)
{
	struct mr_save *save = &mr->save;
	int ret;

	switch (pos) {
	case offsetof(struct vfio_device_migration_info, device_state):
		if (count != sizeof(u32))
			return -EINVAL;
		*value = mr->state;
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
		if (mr_saving(mr)) {
			mr_save_release(mr);
			*value = mr_save_pending(mr);
		}
		return 0;
	case offsetof(struct vfio_device_migration_info, data_offset):
		if (count != sizeof(u64))
			return -EINVAL;
		*value = mr->window_offset;
		if (mr_saving(mr)) {
			if (!save->chunk_size) {
				ret = mr_save_commit(mr);
				if (ret)
					return ret;
			}
			*value = save->chunk_offset;
		}
		return 0;
	case offsetof(struct vfio_device_migration_info, data_size):
		if (count != sizeof(u64))
			return -EINVAL;
		*value = mr_saving(mr) ? save->chunk_size : 0;
		return 0;
	default:
		return -EINVAL;
	}
}

static int mr_write_field(struct vfio_migration_region *mr, u64 pos,
			  size_t count, u64 value)
{
	switch (pos) {
	case offsetof(struct vfio_device_migration_info, device_state):
		if (count != sizeof(u32))
			return -EINVAL;
		return mr_set_state(mr, value);
	case offsetof(struct vfio_device_migration_info, reserved):
		return count == sizeof(u32) ? 0 : -EINVAL;
	case offsetof(struct vfio_device_migration_info, pending_bytes):
	case offsetof(struct vfio_device_migration_info, data_offset):
		return count == sizeof(u64) ? -EFAULT : -EINVAL;
	case offsetof(struct vfio_device_migration_info, data_size):
		if (count != sizeof(u64))
			return -EINVAL;
		return mr_load_commit(mr, value);
	default:
		return -EINVAL;
	}
}

static int mr_read_data(struct vfio_migration_region *mr, char __user *buf,
			size_t count, u64 pos)
{
	const struct mr_save *save = &mr->save;
	const void *from;

	if (!mr_saving(mr) || pos < save->chunk_offset ||
	    pos - save->chunk_offset > save->chunk_size ||
	    count > save->chunk_size - (pos - save->chunk_offset))
		return -EINVAL;

	if (pos >= mr->window_offset)
		from = mr->window + (pos - mr->window_offset);
	else
		from = mr->params.memory + (pos - MR_MEMORY_OFFSET);

	return copy_to_user(buf, from, count) ? -EFAULT : 0;
}

static int mr_write_data(struct vfio_migration_region *mr,
			 const char __user *buf, size_t count, u64 pos)
{
	if (mr->state != MR_STATE_RESUMING || pos < mr->window_offset)
		return -EINVAL;

	return copy_from_user(mr->window + (pos - mr->window_offset), buf,
			      count) ? -EFAULT : 0;
}

/**
 * vfio_migration_region_read() - Userspace reads the region
 * @mr: the region
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
ssize_t vfio_migration_region_read(struct vfio_migration_region *mr,
				   char __user *buf, size_t count, loff_t *ppos)
{
	u64 pos = *ppos - mr->params.offset;
	u64 value;
	u32 low;
	int ret;

	if (!count)
		return 0;
	if (pos >= mr->size || count > mr->size - pos)
		return -EINVAL;

	if (mutex_lock_killable(&mr->lock))
		return -EINTR;
	if (pos >= MR_MEMORY_OFFSET)
		ret = mr_read_data(mr, buf, count, pos);
	else
		ret = mr_read_field(mr, pos, count, &value);
	mutex_unlock(&mr->lock);

	if (!ret && pos < MR_MEMORY_OFFSET) {
		low = value;
		if (copy_to_user(buf, count == sizeof(low) ? (void *)&low :
				 (void *)&value, count))
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
 * @mr: the region
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
 * * -EFAULT for a field that is read-only, and if @buf cannot be read
 * * -EINTR if a fatal signal is pending
 * * what the driver's callback failed with
 */
ssize_t vfio_migration_region_write(struct vfio_migration_region *mr,
				    const char __user *buf, size_t count,
				    loff_t *ppos)
{
	u64 pos = *ppos - mr->params.offset;
	u64 value = 0;
	u32 low = 0;
	int ret;

	if (!count)
		return 0;
	if (pos >= mr->size || count > mr->size - pos)
		return -EINVAL;

	if (pos < MR_MEMORY_OFFSET) {
		if (count != sizeof(low) && count != sizeof(value))
			return -EINVAL;
		if (copy_from_user(count == sizeof(low) ? (void *)&low :
				   (void *)&value, buf, count))
			return -EFAULT;
		if (count == sizeof(low))
			value = low;
	}

	if (mutex_lock_killable(&mr->lock))
		return -EINTR;
	if (pos >= MR_MEMORY_OFFSET)
		ret = mr_write_data(mr, buf, count, pos);
	else
		ret = mr_write_field(mr, pos, count, value);
	mutex_unlock(&mr->lock);

	if (ret)
		return ret;
	*ppos += count;

	return count;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_write);

static struct page *mr_page(struct vfio_migration_region *mr, pgoff_t pgoff)
{
	u64 pos = (u64)pgoff << PAGE_SHIFT;

	if (pos < mr->params.offset + MR_MEMORY_OFFSET)
		return NULL;
	pos -= mr->params.offset;
	if (pos < mr->window_offset)
		return vmalloc_to_page(mr->params.memory +
				       (pos - MR_MEMORY_OFFSET));
	pos -= mr->window_offset;

	return pos < mr->window_size ? vmalloc_to_page(mr->window + pos) : NULL;
}

/* All pages were mapped at once.  This is for those that userspace dropped. */
static vm_fault_t mr_fault(struct vm_fault *vmf)
{
	struct vfio_migration_region *mr = vmf->vma->vm_private_data;
	struct page *page = mr_page(mr, vmf->pgoff);

	if (!page)
		return VM_FAULT_SIGBUS;
	get_page(page);
	vmf->page = page;

	return 0;
}

/* The window can be written.  The memory cannot, or it would not be checked. */
static vm_fault_t mr_page_mkwrite(struct vm_fault *vmf)
{
	struct vfio_migration_region *mr = vmf->vma->vm_private_data;

	if ((u64)vmf->pgoff << PAGE_SHIFT <
	    mr->params.offset + mr->window_offset)
		return VM_FAULT_SIGBUS;
	lock_page(vmf->page);

	return VM_FAULT_LOCKED;
}

static const struct vm_operations_struct mr_vm_ops = {
	.fault		= mr_fault,
	.page_mkwrite	= mr_page_mkwrite,
};

/**
 * vfio_migration_region_mmap() - Userspace maps a part of the region
 * @mr: the region
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
int vfio_migration_region_mmap(struct vfio_migration_region *mr,
			       struct vm_area_struct *vma)
{
	u64 size = vma->vm_end - vma->vm_start;
	u64 pos = (u64)vma->vm_pgoff << PAGE_SHIFT;
	void *from;

	if (!mr->mmap || !(vma->vm_flags & VM_SHARED) ||
	    (vma->vm_flags & VM_EXEC) || pos < mr->params.offset)
		return -EINVAL;
	pos -= mr->params.offset;
	if (pos < MR_MEMORY_OFFSET || pos >= mr->size || size > mr->size - pos)
		return -EINVAL;

	if (pos >= mr->window_offset) {
		pos -= mr->window_offset;
		from = mr->window;
	} else {
		if (size > mr->window_offset - pos)
			return -EINVAL;
		pos -= MR_MEMORY_OFFSET;
		from = mr->params.memory;
		/* Nobody is to keep these pages beyond the mapping */
		vma->vm_flags |= VM_IO;
		/* As for a private mapping: each first write is a fault */
		vma->vm_page_prot = vm_get_page_prot(vma->vm_flags & ~VM_SHARED);
	}
	vma->vm_flags &= ~VM_MAYEXEC;
	vma->vm_ops = &mr_vm_ops;
	vma->vm_private_data = mr;

	return remap_vmalloc_range_partial(vma, vma->vm_start, from,
					   pos >> PAGE_SHIFT, size);
}
EXPORT_SYMBOL_GPL(vfio_migration_region_mmap);

static int mr_info_caps(struct vfio_migration_region *mr,
			struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_type type = {
		.header.id	= VFIO_REGION_INFO_CAP_TYPE,
		.header.version	= 1,
		.type		= VFIO_REGION_TYPE_MIGRATION,
		.subtype	= VFIO_REGION_SUBTYPE_MIGRATION,
	};
	struct vfio_region_info_cap_sparse_mmap *sparse;
	struct vfio_region_sparse_mmap_area *area;
	size_t size = struct_size(sparse, areas, 2);
	int ret;

	ret = vfio_info_add_capability(caps, &type.header, sizeof(type));
	if (ret)
		return ret;

	sparse = kzalloc(size, GFP_KERNEL);
	if (!sparse)
		return -ENOMEM;
	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	if (mr->mmap) {
		area = sparse->areas;
		if (mr->params.memory_size) {
			area->offset = MR_MEMORY_OFFSET;
			area->size = mr->params.memory_size;
			area++;
		}
		area->offset = mr->window_offset;
		area->size = mr->window_size;
		area++;
		sparse->nr_areas = area - sparse->areas;
	}
	size = struct_size(sparse, areas, sparse->nr_areas);
	ret = vfio_info_add_capability(caps, &sparse->header, size);
	kfree(sparse);

	return ret;
}

/**
 * vfio_migration_region_info() - Answer VFIO_DEVICE_GET_REGION_INFO
 * @mr: the region
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
int vfio_migration_region_info(struct vfio_migration_region *mr,
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

	ret = mr_info_caps(mr, &caps);
	if (ret)
		goto out;

	info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
		     VFIO_REGION_INFO_FLAG_CAPS;
	if (mr->mmap)
		info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
	info.cap_offset = 0;
	info.size = mr->size;
	info.offset = mr->params.offset;

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

/**
 * vfio_migration_region_reset() - Userspace resets the device
 * @mr: the region
 *
 * To be called by the driver for VFIO_DEVICE_RESET.  Resets the device by the
 * driver's callback, ends what is being saved or loaded, and gets the region
 * back to the running state.  This is the only way out of the error state.
 *
 * Context: Process context.  Waits for other accesses to the region.
 *
 * Return: 0, or -EINTR if a fatal signal is pending.
 */
int vfio_migration_region_reset(struct vfio_migration_region *mr)
{
	if (mutex_lock_killable(&mr->lock))
		return -EINTR;
	mr_reset(mr);
	mutex_unlock(&mr->lock);

	return 0;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_reset);

/**
 * vfio_migration_region_open() - Userspace opens the device
 * @mr: the region
 *
 * To be called by the driver for each file descriptor of the device, before
 * any other access by userspace.
 *
 * Context: Process context.
 *
 * Return: 0, or -ENOMEM if there is no memory for the window.
 */
int vfio_migration_region_open(struct vfio_migration_region *mr)
{
	int ret = 0;

	mutex_lock(&mr->lock);
	if (!mr->opens) {
		/* Zeroed, so that it does not show who used the memory before */
		mr->window = vmalloc_user(mr->window_size);
		if (!mr->window)
			ret = -ENOMEM;
	}
	if (!ret)
		mr->opens++;
	mutex_unlock(&mr->lock);

	return ret;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_open);

/**
 * vfio_migration_region_release() - Userspace closes the device
 * @mr: the region
 *
 * To be called by the driver for each vfio_migration_region_open().  With the
 * last file descriptor the device is reset, in whatever state it is: the next
 * user finds it running, without a trace of this one.
 *
 * Context: Process context.
 */
void vfio_migration_region_release(struct vfio_migration_region *mr)
{
	mutex_lock(&mr->lock);
	if (!--mr->opens) {
		mr_reset(mr);
		vfree(mr->window);
		mr->window = NULL;
	}
	mutex_unlock(&mr->lock);
}
EXPORT_SYMBOL_GPL(vfio_migration_region_release);

static void mr_debugfs_add(struct vfio_migration_region *mr, const char *name)
{
	struct dentry *d = debugfs_create_dir(name, mr_debugfs);

	mr->debugfs = d;
	debugfs_create_x32("fail_state", 0600, d, &mr->fail_state);
	debugfs_create_bool("fail_save", 0600, d, &mr->fail_save);
	debugfs_create_bool("fail_load", 0600, d, &mr->fail_load);
	debugfs_create_bool("fail_fatal", 0600, d, &mr->fail_fatal);
	debugfs_create_u32("state", 0400, d, &mr->state);
	debugfs_create_u64("bytes_saved", 0400, d, &mr->bytes_saved);
	debugfs_create_u64("bytes_loaded", 0400, d, &mr->bytes_loaded);
	debugfs_create_u64("chunks_saved", 0400, d, &mr->chunks_saved);
	debugfs_create_u64("chunks_loaded", 0400, d, &mr->chunks_loaded);
	debugfs_create_u64("stopped_ns", 0400, d, &mr->stopped_ns);
	debugfs_create_u64("started_ns", 0400, d, &mr->started_ns);
}

static bool mr_params_valid(const struct vfio_migration_region_params *params)
{
	const struct vfio_migration_region_ops *ops = params->ops;

	return ops && ops->stop && ops->start && ops->reset &&
	       !ops->save == !ops->load && !ops->next == !ops->pending &&
	       (ops->save || params->memory_size == params->state_size) &&
	       params->type && *params->type &&
	       strlen(params->type) < VFIO_MIGRATION_REGION_TYPE_LEN &&
	       params->state_size &&
	       params->memory_size <= params->state_size &&
	       params->state_size <= S64_MAX / 2 &&
	       IS_ALIGNED(params->memory_size, PAGE_SIZE) &&
	       !params->memory == !params->memory_size &&
	       IS_ALIGNED(params->offset, PAGE_SIZE) &&
	       params->window <= VFIO_MIGRATION_REGION_MAX_WINDOW;
}

/**
 * vfio_migration_region_create() - Make a migration region
 * @dev: the device it belongs to
 * @params: its state.  The structure is copied; what it points to must stay
 *	until vfio_migration_region_destroy().
 *
 * Context: Process context.
 *
 * Return:
 * * the region, never NULL
 * * ERR_PTR(-EINVAL) if something in @params is missing or does not fit
 * * ERR_PTR(-ENOMEM)
 */
struct vfio_migration_region *
vfio_migration_region_create(struct device *dev,
			     const struct vfio_migration_region_params *params)
{
	struct vfio_migration_region *mr;

	if (!mr_params_valid(params))
		return ERR_PTR(-EINVAL);

	mr = kzalloc(sizeof(*mr), GFP_KERNEL);
	if (!mr)
		return ERR_PTR(-ENOMEM);

	mr->params = *params;
	mr->window_size = params->window ?: VFIO_MIGRATION_REGION_DEFAULT_WINDOW;
	mr->window_offset = MR_MEMORY_OFFSET + params->memory_size;
	mr->size = mr->window_offset + mr->window_size;
	mr->mmap = params->mmap && IS_ALIGNED(mr->window_size, PAGE_SIZE);
	mr->state = MR_STATE_RUNNING;
	mutex_init(&mr->lock);
	INIT_WORK(&mr->sum_work, mr_sum_work);
	mr_debugfs_add(mr, dev_name(dev));

	return mr;
}
EXPORT_SYMBOL_GPL(vfio_migration_region_create);

/**
 * vfio_migration_region_destroy() - Free a migration region
 * @mr: the region, or what vfio_migration_region_create() failed with
 *
 * To be called when the device is removed and nobody has it open any more.
 *
 * Context: Process context.
 */
void vfio_migration_region_destroy(struct vfio_migration_region *mr)
{
	if (IS_ERR_OR_NULL(mr))
		return;

	WARN_ON(mr->opens);
	debugfs_remove_recursive(mr->debugfs);
	mutex_destroy(&mr->lock);
	kfree(mr);
}
EXPORT_SYMBOL_GPL(vfio_migration_region_destroy);

static int __init vfio_migration_region_init(void)
{
	mr_debugfs = debugfs_create_dir("vfio_migration_region", NULL);

	return 0;
}

static void __exit vfio_migration_region_exit(void)
{
	debugfs_remove_recursive(mr_debugfs);
}

module_init(vfio_migration_region_init);
module_exit(vfio_migration_region_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("The VFIO migration region for vendor drivers");
