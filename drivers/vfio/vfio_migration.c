// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration of VFIO devices for vendor drivers: the state as a stream
 *
 * What userspace gets is a stream of bytes, cut into chunks of any size:
 *
 *	struct vfm_header	once
 *	struct vfm_record	before each run of the state,
 *	data			followed by the bytes of the run
 *	...
 *	struct vfm_record	one that marks the end, with length and checksum
 *
 * All numbers in it are little endian.  A chunk is in one of two places:
 *
 *	memory	the part of the device's state that the driver has as memory,
 *		as it is.  Chunks that are saved while the device is stopped
 *		are read there, so that nobody copies them but userspace.
 *	window	a buffer for everything else that is saved, and for all that
 *		is loaded.
 */

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "vfio_migration_priv.h"

#define CREATE_TRACE_POINTS
#include <trace/events/vfio_migration.h>

static struct dentry *vfm_debugfs;

/* In sysfs, as no control group is charged for what is done there */
static struct workqueue_struct *vfm_workqueue;

/*
 * The checksum
 */

/*
 * What userspace reads in the memory is summed up while it does so, by
 * another processor if there is one, and what it has loaded there while it
 * fetches more.  The device is stopped, so that the work can go ahead of
 * userspace.  All else is in the order of the stream: whoever adds something
 * more waits first.
 */
static void vfm_sum_work(struct work_struct *work)
{
	struct vfio_migration *m =
		container_of(work, struct vfio_migration, sum_work);
	size_t done, n;

	for (done = 0; done < m->sum_len; done += n) {
		if (READ_ONCE(m->sum_stop))
			break;
		n = min_t(size_t, m->sum_len - done, SZ_256K);
		xxh64_update(m->sum_to, m->sum_from + done, n);
		cond_resched();
	}
}

static void vfm_sum_later(struct vfio_migration *m, struct xxh64_state *to,
			  const void *from, size_t len)
{
	flush_work(&m->sum_work);
	m->sum_to = to;
	m->sum_from = from;
	m->sum_len = len;
	queue_work(vfm_workqueue, &m->sum_work);
}

static void vfm_sum_now(struct vfio_migration *m, struct xxh64_state *to,
			const void *from, size_t len)
{
	flush_work(&m->sum_work);
	xxh64_update(to, from, len);
}

/* Nobody waits for what is of no use to anybody */
static void vfm_sum_cancel(struct vfio_migration *m)
{
	WRITE_ONCE(m->sum_stop, true);
	cancel_work_sync(&m->sum_work);
	WRITE_ONCE(m->sum_stop, false);
}

/*
 * Saving
 */

/* What the driver did for a session has an end, however it comes */
static void vfm_save_end(struct vfio_migration *m)
{
	if (m->driver_saves && m->params.ops->save_end)
		m->params.ops->save_end(m->params.data);
	m->driver_saves = false;
}

static int vfm_save_begin(struct vfio_migration *m)
{
	const struct vfio_migration_params *params = &m->params;
	struct vfm_save *save = &m->save;
	struct vfm_header *header = &save->frame.header;
	int ret;

	vfm_save_end(m);
	if (params->ops->save_begin) {
		ret = params->ops->save_begin(params->data);
		if (ret)
			return vfm_callback_failed(m, ret);
	}
	m->driver_saves = true;

	m->session++;
	vfm_sum_cancel(m);
	memset(save, 0, sizeof(*save));
	xxh64_reset(&save->sum, 0);
	memset(m->window, 0, m->window_size);

	header->magic = cpu_to_le32(VFM_MAGIC);
	header->version = cpu_to_le32(VFM_STREAM_VERSION);
	strscpy_pad(header->type, params->type, sizeof(header->type));
	header->type_version = cpu_to_le32(params->version);
	header->state_size = cpu_to_le64(params->state_size);
	save->frame_len = sizeof(*header);

	return 0;
}

/* What is still to be sent; not @running, as if the device were stopped now */
int vfm_save_pending(struct vfio_migration *m, bool running, u64 *bytes)
{
	const struct vfio_migration_params *params = &m->params;
	const struct vfm_save *save = &m->save;
	u64 pending, more = 0;
	int ret;

	pending = save->frame_len - save->frame_pos + save->run_len;
	if (save->ended)
		goto out;

	if (params->ops->next) {
		ret = params->ops->pending(params->data, running, &more);
		if (ret)
			return vfm_callback_failed(m, ret);
	} else if (!running && !save->all_given) {
		more = params->state_size;
	}
	if (more)
		pending += sizeof(struct vfm_record) + more;
	if (!running)
		pending += sizeof(struct vfm_record);
out:
	*bytes = pending;

	return 0;
}

/* 1 if there is a run, 0 if there is none at present */
static int vfm_save_next_run(struct vfio_migration *m)
{
	const struct vfio_migration_params *params = &m->params;
	struct vfm_save *save = &m->save;
	u64 size = params->state_size;
	u64 pos = 0, len = size;
	int ret;

	if (params->ops->next) {
		ret = params->ops->next(params->data, vfm_running(m), &pos, &len);
		if (ret < 0)
			return vfm_callback_failed(m, ret);
	} else {
		ret = !vfm_running(m) && !save->all_given;
	}
	if (!ret)
		return 0;
	if (WARN_ON_ONCE(!len || pos >= size || len > size - pos))
		return vfm_failed(m, -EIO, true);
	save->all_given = true;

	save->run_pos = pos;
	save->run_len = len;
	save->run_direct = false;

	return 1;
}

/* Make the record that the stream goes on with.  0: nothing at present. */
static int vfm_save_next_record(struct vfio_migration *m, size_t used,
				size_t *summed)
{
	struct vfm_save *save = &m->save;
	struct vfm_record *record = &save->frame.record;
	int ret;

	if (save->ended)
		return 0;

	ret = vfm_save_next_run(m);
	if (ret < 0)
		return ret;
	if (ret) {
		record->magic = cpu_to_le32(VFM_RECORD_DATA);
		record->pos = cpu_to_le64(save->run_pos);
		record->len = cpu_to_le64(save->run_len);
		record->sum = 0;
	} else if (!vfm_running(m)) {
		vfm_sum_now(m, &save->sum, m->window + *summed,
			    used - *summed);
		*summed = used;
		save->ended = true;
		record->magic = cpu_to_le32(VFM_RECORD_END);
		record->pos = cpu_to_le64(save->bytes + used);
		record->len = 0;
		record->sum = cpu_to_le64(xxh64_digest(&save->sum));
	} else {
		return 0;
	}
	record->sequence = cpu_to_le32(save->sequence++);
	save->frame_pos = 0;
	save->frame_len = sizeof(*record);

	return 1;
}

/*
 * What is shorter than this is copied: a chunk costs userspace several calls,
 * and short ones share a chunk.
 */
#define VFM_DIRECT_MIN	SZ_64K

/* Is the rest of the current run, in the memory, to be read there? */
static bool vfm_save_is_direct(const struct vfio_migration *m)
{
	const struct vfm_save *save = &m->save;
	u64 size = m->params.memory_size;

	if (vfm_running(m) || save->run_pos >= size)
		return false;

	return save->run_direct ||
	       min(save->run_len, size - save->run_pos) >= VFM_DIRECT_MIN;
}

/* How much of the current run can be read in the memory as it is */
static u64 vfm_save_direct(struct vfio_migration *m)
{
	const struct vfm_save *save = &m->save;

	if (!vfm_save_is_direct(m) ||
	    (m->mmap && !IS_ALIGNED(save->run_pos, PAGE_SIZE)))
		return 0;

	return min3(save->run_len, m->params.memory_size - save->run_pos,
		    m->window_size);
}

/* Userspace reads this piece of the run in the memory */
static void vfm_save_commit_direct(struct vfio_migration *m, u64 len)
{
	struct vfm_save *save = &m->save;
	u64 pos = save->run_pos;

	/* All that is read so of this run is known with the first piece */
	if (!save->run_direct)
		vfm_sum_later(m, &save->sum, m->params.memory + pos,
			      min(save->run_len, m->params.memory_size - pos));
	save->run_direct = true;
	save->run_pos += len;
	save->run_len -= len;
	save->chunk = m->params.memory + pos;
	save->chunk_size = len;
	save->bytes += len;
}

/*
 * The section that @pos is in, or NULL, and then @len reaches up to the next one
 * at most
 */
static const struct vfio_migration_section *
vfm_section(const struct vfio_migration *m, u64 pos, u64 *len)
{
	const struct vfio_migration_section *section = m->params.sections;
	unsigned int i;

	for (i = 0; i < m->params.nr_sections; i++, section++) {
		if (pos < section->pos) {
			*len = min(*len, section->pos - pos);
			return NULL;
		}
		if (pos - section->pos < section->len) {
			*len = min(*len, section->pos + section->len - pos);
			return section;
		}
	}

	return NULL;
}

/* Sections lie side by side in the buffer */
static u8 *vfm_section_buf(const struct vfio_migration *m,
			   const struct vfio_migration_section *section)
{
	const struct vfio_migration_section *s;
	u8 *buf = m->section_buf;

	for (s = m->params.sections; s < section; s++)
		buf += s->len;

	return buf;
}

/* A section is had whole when its first byte is wanted */
static int vfm_save_from_driver(struct vfio_migration *m, void *to, u64 *len)
{
	const struct vfio_migration_params *params = &m->params;
	struct vfm_save *save = &m->save;
	const struct vfio_migration_section *section;
	u64 pos = save->run_pos;
	u8 *buf;
	int ret;

	section = vfm_section(m, pos, len);
	if (!section)
		return params->ops->save(params->data, pos, to, *len);

	buf = vfm_section_buf(m, section);
	if (save->section != section) {
		ret = params->ops->save(params->data, section->pos, buf,
					section->len);
		if (ret)
			return ret;
		save->section = section;
	}
	memcpy(to, buf + (pos - section->pos), *len);
	/* The next time it may be another one */
	if (*len == section->pos + section->len - pos || *len == save->run_len)
		save->section = NULL;

	return 0;
}

/* Put a piece of the current run into the window */
static int vfm_save_copy(struct vfio_migration *m, size_t used,
			 size_t *copied)
{
	const struct vfio_migration_params *params = &m->params;
	struct vfm_save *save = &m->save;
	u64 len = min(save->run_len, m->window_size - used);
	int ret;

	if (save->run_pos < params->memory_size) {
		len = min(len, params->memory_size - save->run_pos);
		/* Up to where it can be read in the memory */
		if (vfm_save_is_direct(m))
			len = min_t(u64, len, PAGE_SIZE -
				    offset_in_page(save->run_pos));
		memcpy(m->window + used, params->memory + save->run_pos, len);
	} else {
		ret = vfm_save_from_driver(m, m->window + used, &len);
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
int vfm_save_commit(struct vfio_migration *m)
{
	struct vfm_save *save = &m->save;
	size_t used = 0, summed = 0, len;
	int ret;

	ret = vfm_fault_save(m);
	if (ret)
		return ret;

	while (used < m->window_size) {
		if (save->frame_pos < save->frame_len) {
			len = min_t(u64, save->frame_len - save->frame_pos,
				    m->window_size - used);
			memcpy(m->window + used,
			       save->frame.bytes + save->frame_pos, len);
			save->frame_pos += len;
			used += len;
		} else if (save->run_len) {
			u64 direct = vfm_save_direct(m);

			if (direct && used)
				break;
			if (direct) {
				trace_vfio_migration_chunk(m->name, false, true,
							   direct, save->bytes);
				vfm_save_commit_direct(m, direct);
				return 0;
			}
			ret = vfm_save_copy(m, used, &len);
			if (ret)
				break;
			used += len;
		} else {
			ret = vfm_save_next_record(m, used, &summed);
			if (ret <= 0)
				break;
		}
	}
	if (ret < 0 && (!used || m->state == VFM_ERROR))
		return vfm_callback_failed(m, ret);

	/* Nothing of an earlier chunk is behind a shorter one */
	if (used < save->window_used)
		memset(m->window + used, 0, save->window_used - used);
	save->window_used = used;
	save->chunk = m->window;
	save->chunk_size = used;
	trace_vfio_migration_chunk(m->name, false, false, used, save->bytes);
	save->bytes += used;
	/* The last record is not part of what it sums up */
	if (!save->ended)
		vfm_sum_now(m, &save->sum, m->window + summed, used - summed);

	return 0;
}

/* Userspace is done with the chunk */
void vfm_save_release(struct vfio_migration *m)
{
	struct vfm_save *save = &m->save;

	if (!save->chunk_size)
		return;

	m->bytes_saved += save->chunk_size;
	m->chunks_saved++;
	save->chunk_size = 0;
	save->chunk_read = 0;
}

/*
 * Loading
 *
 * Userspace may have mapped the window, and change it at any time.  So headers
 * and records are looked at in a copy, and so the driver has to do.
 */

static void vfm_load_forget(struct vfio_migration *m)
{
	vfm_sum_cancel(m);
	kvfree(m->load.covered);
	memset(&m->load, 0, sizeof(m->load));
}

static void vfm_load_begin(struct vfio_migration *m)
{
	vfm_load_forget(m);
	memset(m->section_buf, 0, m->section_size);
	m->session++;
	xxh64_reset(&m->load.sum, 0);
	m->load.frame_len = sizeof(struct vfm_header);
}

/*
 * What of the state has come is kept in a bitmap of limited size.  So a bit
 * may stand for several bytes, and a run that ends amid them counts when the
 * next one goes on there.
 */
#define VFM_COVER_BITS	SZ_1M

static int vfm_cover_begin(struct vfio_migration *m, u64 size)
{
	struct vfm_load *load = &m->load;

	load->state_size = size;
	while (size >> load->cover_shift > VFM_COVER_BITS)
		load->cover_shift++;
	load->covered = kvcalloc(BITS_TO_LONGS((size >> load->cover_shift) + 1),
				 sizeof(long), GFP_KERNEL_ACCOUNT);

	return load->covered ? 0 : -ENOMEM;
}

/* A run of the state begins */
static void vfm_cover(struct vfio_migration *m, u64 pos, u64 len)
{
	struct vfm_load *load = &m->load;
	unsigned int shift = load->cover_shift;
	u64 first, end = pos + len;

	first = pos == load->cover_end ? pos : round_up(pos, 1ULL << shift);
	load->cover_end = 0;
	if (end != load->state_size && !IS_ALIGNED(end, 1ULL << shift) &&
	    end > first)
		load->cover_end = end;
	first >>= shift;
	end = end == load->state_size ? DIV_ROUND_UP_ULL(end, 1ULL << shift) :
					end >> shift;
	if (end > first)
		bitmap_set(load->covered, first, end - first);
}

static bool vfm_covered(const struct vfio_migration *m, u64 pos, u64 len)
{
	const struct vfm_load *load = &m->load;
	u64 end = DIV_ROUND_UP_ULL(min(pos + len, load->state_size),
				   1ULL << load->cover_shift);

	return find_next_zero_bit(load->covered, end,
				  pos >> load->cover_shift) >= end;
}

/* Why, for whoever has to find out where a stream went wrong */
static int vfm_refuse(struct vfio_migration *m, const char *reason)
{
	trace_vfio_migration_refuse(m->name, reason, m->load.bytes);

	return -EINVAL;
}

/* Another version, or another size, is the driver's to accept */
static int vfm_load_header(struct vfio_migration *m)
{
	const struct vfio_migration_params *params = &m->params;
	const struct vfm_header *header = &m->load.frame.header;
	u32 version = le32_to_cpu(header->type_version);
	u64 size = le64_to_cpu(header->state_size);
	char type[sizeof(header->type)];
	int ret;

	strscpy_pad(type, params->type, sizeof(type));
	if (header->magic != cpu_to_le32(VFM_MAGIC) ||
	    header->version != cpu_to_le32(VFM_STREAM_VERSION) ||
	    header->reserved)
		return vfm_refuse(m, "no stream of this format");
	if (memcmp(header->type, type, sizeof(type)))
		return vfm_refuse(m, "another type of device");
	if (!size || size > params->state_size)
		return vfm_refuse(m, "more state than the device has");
	if (params->ops->load_begin) {
		ret = params->ops->load_begin(params->data, version, size);
		if (ret)
			return ret;
	} else if (version != params->version || size != params->state_size) {
		return vfm_refuse(m, "another version of the state");
	}

	return vfm_cover_begin(m, size);
}

/*
 * All has come and is right, so the driver takes it over.  Who looks at the
 * device before it is started sees what it will be.
 */
static int vfm_load_take(struct vfio_migration *m)
{
	const struct vfio_migration_params *params = &m->params;
	const struct vfio_migration_section *section = params->sections;
	unsigned int i;
	int ret;

	for (i = 0; i < params->nr_sections; i++, section++) {
		if (section->pos >= m->load.state_size ||
		    !vfm_covered(m, section->pos, section->len))
			continue;
		ret = params->ops->load(params->data, section->pos,
					vfm_section_buf(m, section),
					section->len);
		if (ret)
			return ret;
	}

	return params->ops->loaded ? params->ops->loaded(params->data) : 0;
}

static int vfm_load_record(struct vfio_migration *m)
{
	struct vfm_load *load = &m->load;
	const struct vfm_record *record = &load->frame.record;
	u64 size = load->state_size;
	u64 pos = le64_to_cpu(record->pos);
	u64 len = le64_to_cpu(record->len);

	if (le32_to_cpu(record->sequence) != load->sequence++)
		return vfm_refuse(m, "a record is missing");

	switch (le32_to_cpu(record->magic)) {
	case VFM_RECORD_DATA:
		if (record->sum || !len || pos >= size || len > size - pos)
			return vfm_refuse(m, "a run that is not in the state");
		load->run_pos = pos;
		load->run_len = len;
		vfm_cover(m, pos, len);
		return 0;
	case VFM_RECORD_END:
		flush_work(&m->sum_work);
		if (pos != load->bytes || len ||
		    le64_to_cpu(record->sum) != xxh64_digest(&load->sum))
			return vfm_refuse(m, "length or checksum is wrong");
		if (!m->params.partial && !vfm_covered(m, 0, load->state_size))
			return vfm_refuse(m, "some of the state is missing");
		load->ended = true;
		return vfm_load_take(m);
	default:
		return vfm_refuse(m, "no record");
	}
}

/* A header or record is complete */
static int vfm_load_frame(struct vfio_migration *m)
{
	struct vfm_load *load = &m->load;
	int ret;

	ret = load->bytes ? vfm_load_record(m) : vfm_load_header(m);
	if (ret)
		return ret;

	vfm_sum_now(m, &load->sum, load->frame.bytes, load->frame_len);
	load->bytes += load->frame_len;
	load->frame_pos = 0;
	load->frame_len = sizeof(struct vfm_record);

	return 0;
}

/* A piece of the run that is in one place: memory, a section, or the driver's */
static int vfm_load_piece(struct vfio_migration *m, const u8 *from, u64 *len)
{
	const struct vfio_migration_params *params = &m->params;
	const struct vfio_migration_section *section;
	u64 pos = m->load.run_pos;

	if (pos < params->memory_size) {
		*len = min(*len, params->memory_size - pos);
		memcpy(params->memory + pos, from, *len);
		return 0;
	}
	section = vfm_section(m, pos, len);
	if (section) {
		memcpy(vfm_section_buf(m, section) + (pos - section->pos), from,
		       *len);
		return 0;
	}

	return params->ops->load(params->data, pos, from, *len);
}

static int vfm_load_run(struct vfio_migration *m, const u8 *from, size_t *count)
{
	struct vfm_load *load = &m->load;
	u64 pos = load->run_pos, len = *count;
	int ret;

	ret = vfm_load_piece(m, from, &len);
	if (ret)
		return ret;
	if (pos < m->params.memory_size && len >= VFM_DIRECT_MIN)
		vfm_sum_later(m, &load->sum, m->params.memory + pos, len);
	else
		vfm_sum_now(m, &load->sum, from, len);
	load->bytes += len;
	load->run_pos += len;
	load->run_len -= len;
	*count = len;

	return 0;
}

/* Take in @len bytes of the window, wherever in the stream they begin and end */
static int vfm_load_chunk(struct vfio_migration *m, size_t len)
{
	struct vfm_load *load = &m->load;
	const u8 *from = m->window;
	int ret = load->error;
	size_t n;

	while (len && !ret) {
		if (load->ended)
			return vfm_refuse(m, "data behind the end");

		if (load->run_len) {
			n = min_t(u64, len, load->run_len);
			ret = vfm_load_run(m, from, &n);
		} else {
			n = min(len, load->frame_len - load->frame_pos);
			memcpy(load->frame.bytes + load->frame_pos, from, n);
			load->frame_pos += n;
			if (load->frame_pos == load->frame_len)
				ret = vfm_load_frame(m);
		}
		from += n;
		len -= n;
	}

	return ret;
}

int vfm_load_commit(struct vfio_migration *m, u64 len)
{
	int ret;

	if (m->state != VFM_RESUMING || len > m->window_size)
		return -EINVAL;
	ret = vfm_fault_load(m);
	if (ret)
		return ret;

	ret = vfm_load_chunk(m, len);
	if (ret) {
		/* Where the stream goes on is lost */
		m->load.error = -EINVAL;
		return vfm_callback_failed(m, ret);
	}
	trace_vfio_migration_chunk(m->name, true, false, len,
				   m->load.bytes - min(len, m->load.bytes));
	m->bytes_loaded += len;
	m->chunks_loaded += !!len;

	return 0;
}

/*
 * Everything has to have come.  In version 1 also nothing at all: then the device
 * stays as it was.  What a stream that breaks off has left behind is good for
 * nothing.
 */
static int vfm_load_end(struct vfio_migration *m)
{
	struct vfm_load *load = &m->load;

	if (load->taken || (m->owner != VFM_V2 && !load->bytes &&
			    !load->frame_pos && !load->error))
		return 0;

	if (load->error || !load->ended) {
		vfm_refuse(m, load->error ? "it was refused before" :
					    "the end is missing");
		return vfm_failed(m, -EINVAL, true);
	}
	load->taken = true;

	return 0;
}

/*
 * What is done between two states
 */

static int vfm_stop(struct vfio_migration *m)
{
	int ret = m->params.ops->stop(m->params.data);

	if (ret)
		return vfm_callback_failed(m, ret);
	m->stopped_ns = ktime_get_ns();

	return 0;
}

static int vfm_start(struct vfio_migration *m)
{
	int ret = m->params.ops->start(m->params.data);

	if (ret)
		return vfm_callback_failed(m, ret);
	m->started_ns = ktime_get_ns();

	return 0;
}

/* Registers go on working, DMA does not.  From running, or from stopped. */
static int vfm_quiesce(struct vfio_migration *m)
{
	int ret = m->params.ops->quiesce(m->params.data);

	return ret ? vfm_callback_failed(m, ret) : 0;
}

/*
 * The arcs that do something, one step each.  Nothing of a stream is given up
 * by those that leave it: vfm_enter() does, once the new state is reached.
 */
#define VFM_ARC(from, to)	((from) << 3 | (to))

static int vfm_do_step(struct vfio_migration *m, enum vfm_state from,
		       enum vfm_state to)
{
	switch (VFM_ARC(from, to)) {
	case VFM_ARC(VFM_RUNNING, VFM_STOP):
	case VFM_ARC(VFM_RUNNING_P2P, VFM_STOP):
	case VFM_ARC(VFM_PRE_COPY, VFM_STOP_COPY):
	case VFM_ARC(VFM_PRE_COPY_P2P, VFM_STOP_COPY):
		return vfm_stop(m);
	case VFM_ARC(VFM_RUNNING, VFM_RUNNING_P2P):
	case VFM_ARC(VFM_STOP, VFM_RUNNING_P2P):
	case VFM_ARC(VFM_PRE_COPY, VFM_PRE_COPY_P2P):
		return vfm_quiesce(m);
	case VFM_ARC(VFM_STOP, VFM_RUNNING):
	case VFM_ARC(VFM_RUNNING_P2P, VFM_RUNNING):
	case VFM_ARC(VFM_PRE_COPY_P2P, VFM_PRE_COPY):
		return vfm_start(m);
	case VFM_ARC(VFM_RUNNING, VFM_PRE_COPY):
	case VFM_ARC(VFM_RUNNING_P2P, VFM_PRE_COPY_P2P):
	case VFM_ARC(VFM_STOP, VFM_STOP_COPY):
		return vfm_save_begin(m);
	case VFM_ARC(VFM_STOP, VFM_RESUMING):
		vfm_load_begin(m);
		return 0;
	case VFM_ARC(VFM_RESUMING, VFM_STOP):
		return vfm_load_end(m);
	case VFM_ARC(VFM_PRE_COPY, VFM_RUNNING):
	case VFM_ARC(VFM_PRE_COPY_P2P, VFM_RUNNING_P2P):
	case VFM_ARC(VFM_STOP_COPY, VFM_STOP):
		return 0;
	default:
		WARN_ON_ONCE(1);
		return -EINVAL;
	}
}

int vfm_step(struct vfio_migration *m, enum vfm_state from, enum vfm_state to)
{
	int ret = vfm_do_step(m, from, to);

	trace_vfio_migration_step(m->name, from, to, ret);

	return ret;
}

/* The device is in @state.  A session belongs to whoever began it. */
void vfm_enter(struct vfio_migration *m, enum vfm_state state,
	       enum vfm_protocol protocol)
{
	if (!vfm_is_saving(state))
		vfm_save_end(m);
	if (!vfm_is_saving(state) && state != VFM_RESUMING)
		vfm_sum_cancel(m);
	m->state = state;
	m->owner = vfm_is_saving(state) || state == VFM_RESUMING ?
		   protocol : VFM_NOBODY;
	wake_up_interruptible_poll(&m->wait, EPOLLIN | EPOLLRDNORM);
}

/* The device was reset: whatever was going on has ended */
static void vfm_forget(struct vfio_migration *m)
{
	vfm_sum_cancel(m);
	if (m->window)
		memset(m->window, 0, m->window_size);
	memset(&m->save, 0, sizeof(m->save));
	vfm_load_forget(m);
	m->session++;
	vfm_enter(m, VFM_RUNNING, VFM_NOBODY);
}

static void vfm_reset(struct vfio_migration *m)
{
	vfm_save_end(m);
	m->params.ops->reset(m->params.data);
	vfm_forget(m);
}

int vfm_lock(struct vfio_migration *m)
{
	return mutex_lock_killable(&m->lock) ? -EINTR : 0;
}

/*
 * A reset that nobody could wait for is taken note of here.  It is announced
 * under the same spinlock, so that it either comes before the lock is given
 * back or finds the lock free.
 */
void vfm_unlock(struct vfio_migration *m)
{
	spin_lock(&m->reset_lock);
	while (m->reset_pending) {
		m->reset_pending = false;
		spin_unlock(&m->reset_lock);
		vfm_forget(m);
		spin_lock(&m->reset_lock);
	}
	mutex_unlock(&m->lock);
	spin_unlock(&m->reset_lock);
}

/**
 * vfio_migration_reset_done() - The device was reset by other means
 * @m: the migration of the device
 *
 * To be called by a driver whose device has been reset without
 * &vfio_migration_driver_ops.reset, by a function level reset for one.  Ends what is
 * being saved or loaded and gets back to the running state: at once, or, if a
 * call of userspace is under way, when that ends.
 *
 * Context: Process context.  Does not wait for accesses by userspace, so locks
 * may be held that the callbacks take, and a callback may call it.
 */
void vfio_migration_reset_done(struct vfio_migration *m)
{
	spin_lock(&m->reset_lock);
	m->reset_pending = true;
	if (!mutex_trylock(&m->lock)) {
		spin_unlock(&m->reset_lock);
		return;
	}
	spin_unlock(&m->reset_lock);
	vfm_unlock(m);
}
EXPORT_SYMBOL_GPL(vfio_migration_reset_done);

/**
 * vfio_migration_reset() - Userspace resets the device
 * @m: the migration of the device
 *
 * To be called by the driver for VFIO_DEVICE_RESET.  Resets the device by the
 * driver's callback, ends what is being saved or loaded, and gets back to the
 * running state.  This is the only way out of the error state.
 *
 * Context: Process context.  Waits for other accesses.
 *
 * Return: 0, or -EINTR if a fatal signal is pending.
 */
int vfio_migration_reset(struct vfio_migration *m)
{
	if (vfm_lock(m))
		return -EINTR;
	vfm_reset(m);
	vfm_unlock(m);

	return 0;
}
EXPORT_SYMBOL_GPL(vfio_migration_reset);

/*
 * Zeroed, so that it does not show who used the memory before.  The control group
 * of whoever opens the device is charged for it, and if that has not as much,
 * there is an error, for which nobody is killed.
 */
static u8 *vfm_window_alloc(const struct vfio_migration *m)
{
	return __vmalloc(m->window_size, GFP_KERNEL_ACCOUNT | __GFP_ZERO |
			 __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
}

/**
 * vfio_migration_open() - Userspace opens the device
 * @m: the migration of the device
 *
 * To be called by the driver for each file descriptor of the device, before
 * any other access by userspace.
 *
 * Context: Process context.
 *
 * Return:
 * * 0
 * * -ENOMEM if there is no memory for the window, or the caller's control group
 *   has not as much
 * * -EINTR if a fatal signal is pending
 */
int vfio_migration_open(struct vfio_migration *m)
{
	int ret = 0;

	if (vfm_lock(m))
		return -EINTR;
	if (!m->opens) {
		m->window = vfm_window_alloc(m);
		if (!m->window)
			ret = -ENOMEM;
	}
	if (!ret)
		m->opens++;
	vfm_unlock(m);

	return ret;
}
EXPORT_SYMBOL_GPL(vfio_migration_open);

/**
 * vfio_migration_release() - Userspace closes the device
 * @m: the migration of the device
 *
 * To be called by the driver for each vfio_migration_open().  With the
 * last file descriptor the device is reset, in whatever state it is: the next
 * user finds it running, without a trace of this one.
 *
 * Context: Process context.
 */
void vfio_migration_release(struct vfio_migration *m)
{
	mutex_lock(&m->lock);
	if (!--m->opens) {
		vfm_reset(m);
		vfree(m->window);
		m->window = NULL;
	}
	vfm_unlock(m);
}
EXPORT_SYMBOL_GPL(vfio_migration_release);

static int vfm_state_get(void *data, u64 *value)
{
	const struct vfio_migration *m = data;

	*value = vfm_v1_state(m);

	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(vfm_state_fops, vfm_state_get, NULL, "%llu\n");

#ifdef CONFIG_VFIO_MIGRATION_FAULT_INJECTION
static void vfm_debugfs_add_faults(struct vfm_faults *faults, struct dentry *d)
{
	debugfs_create_x32("fail_state", 0600, d, &faults->state);
	debugfs_create_x32("fail_v2_state", 0600, d, &faults->v2_state);
	debugfs_create_bool("fail_save", 0600, d, &faults->save);
	debugfs_create_bool("fail_load", 0600, d, &faults->load);
	debugfs_create_bool("fail_fatal", 0600, d, &faults->fatal);
}
#else
static void vfm_debugfs_add_faults(struct vfm_faults *faults, struct dentry *d)
{
}
#endif

static void vfm_debugfs_add(struct vfio_migration *m, const char *name)
{
	struct dentry *d = debugfs_create_dir(name, vfm_debugfs);

	m->debugfs = d;
	vfm_debugfs_add_faults(&m->faults, d);
	debugfs_create_file("state", 0400, d, m, &vfm_state_fops);
	debugfs_create_u64("bytes_saved", 0400, d, &m->bytes_saved);
	debugfs_create_u64("bytes_loaded", 0400, d, &m->bytes_loaded);
	debugfs_create_u64("chunks_saved", 0400, d, &m->chunks_saved);
	debugfs_create_u64("chunks_loaded", 0400, d, &m->chunks_loaded);
	debugfs_create_u64("stopped_ns", 0400, d, &m->stopped_ns);
	debugfs_create_u64("started_ns", 0400, d, &m->started_ns);
}

static bool vfm_ops_valid(const struct vfio_migration_params *params)
{
	const struct vfio_migration_driver_ops *ops = params->ops;

	return ops && ops->stop && ops->start && ops->reset &&
	       !ops->save == !ops->load && !ops->next == !ops->pending &&
	       (ops->next || (!ops->save_begin && !ops->save_end)) &&
	       (ops->save || params->memory_size == params->state_size);
}

/* In ascending order, behind the memory, and not more than a buffer holds */
static bool vfm_sections_valid(const struct vfio_migration_params *params)
{
	const struct vfio_migration_section *section = params->sections;
	u64 at = params->memory_size, all = 0;
	unsigned int i;

	if (!section != !params->nr_sections)
		return false;
	for (i = 0; i < params->nr_sections; i++, section++) {
		if (section->pos < at || section->pos >= params->state_size ||
		    !section->len ||
		    section->len > params->state_size - section->pos)
			return false;
		at = section->pos + section->len;
		all += section->len;
	}

	return all <= VFIO_MIGRATION_MAX_SECTIONS;
}

static bool vfm_params_valid(const struct vfio_migration_params *params)
{
	return params && vfm_ops_valid(params) &&
	       params->type && *params->type &&
	       strnlen(params->type, VFIO_MIGRATION_TYPE_LEN) <
	       VFIO_MIGRATION_TYPE_LEN &&
	       params->state_size &&
	       params->memory_size <= params->state_size &&
	       params->state_size <= S64_MAX / 2 &&
	       IS_ALIGNED(params->memory_size, PAGE_SIZE) &&
	       !params->memory == !params->memory_size &&
	       (!params->memory || (is_vmalloc_addr(params->memory) &&
				    PAGE_ALIGNED(params->memory))) &&
	       IS_ALIGNED(params->offset, PAGE_SIZE) &&
	       params->offset <= S64_MAX / 4 &&
	       params->window <= VFIO_MIGRATION_MAX_WINDOW &&
	       vfm_sections_valid(params);
}

static void vfm_free(struct kref *ref)
{
	struct vfio_migration *m = container_of(ref, struct vfio_migration, ref);

	mutex_destroy(&m->lock);
	kfree(m->section_buf);
	kfree(m->name);
	kfree(m);
}

/* The last who has a reference may be a descriptor that outlived the device */
void vfm_put(struct vfio_migration *m)
{
	kref_put(&m->ref, vfm_free);
}

/**
 * vfio_migration_create() - Let a device migrate
 * @dev: the device it belongs to
 * @params: its state.  The structure is copied; what it points to must stay
 *	until vfio_migration_destroy().
 *
 * Context: Process context.
 *
 * Return:
 * * what the other functions take, never NULL
 * * ERR_PTR(-EINVAL) if something in @params is missing or does not fit
 * * ERR_PTR(-ENOMEM)
 */
struct vfio_migration *
vfio_migration_create(struct device *dev,
		      const struct vfio_migration_params *params)
{
	struct vfio_migration *m;
	unsigned int i;

	if (!dev || !vfm_params_valid(params))
		return ERR_PTR(-EINVAL);

	m = kzalloc(sizeof(*m), GFP_KERNEL);
	if (!m)
		return ERR_PTR(-ENOMEM);

	for (i = 0; i < params->nr_sections; i++)
		m->section_size += params->sections[i].len;
	m->section_buf = kzalloc(m->section_size, GFP_KERNEL);
	m->name = kstrdup(dev_name(dev), GFP_KERNEL);
	if (!m->section_buf || !m->name) {
		kfree(m->section_buf);
		kfree(m->name);
		kfree(m);
		return ERR_PTR(-ENOMEM);
	}
	m->params = *params;
	m->window_size = params->window ?: VFIO_MIGRATION_DEFAULT_WINDOW;
	m->state = VFM_RUNNING;
	kref_init(&m->ref);
	init_waitqueue_head(&m->wait);
	spin_lock_init(&m->reset_lock);
	mutex_init(&m->lock);
	INIT_WORK(&m->sum_work, vfm_sum_work);
	vfm_v1_init(m);
	vfm_debugfs_add(m, dev_name(dev));

	return m;
}
EXPORT_SYMBOL_GPL(vfio_migration_create);

/**
 * vfio_migration_destroy() - Free what vfio_migration_create() made
 * @m: what vfio_migration_create() returned, or failed with
 *
 * To be called when the device is removed and nobody has it open any more.
 *
 * Context: Process context.
 */
void vfio_migration_destroy(struct vfio_migration *m)
{
	if (IS_ERR_OR_NULL(m))
		return;

	WARN_ON(m->opens);
	debugfs_remove_recursive(m->debugfs);
	vfm_put(m);
}
EXPORT_SYMBOL_GPL(vfio_migration_destroy);

static int __init vfio_migration_init(void)
{
	vfm_workqueue = alloc_workqueue("vfio_migration",
					WQ_UNBOUND | WQ_SYSFS, 0);
	if (!vfm_workqueue)
		return -ENOMEM;
	vfm_debugfs = debugfs_create_dir("vfio_migration_region", NULL);

	return 0;
}

static void __exit vfio_migration_exit(void)
{
	debugfs_remove_recursive(vfm_debugfs);
	destroy_workqueue(vfm_workqueue);
}

module_init(vfio_migration_init);
module_exit(vfio_migration_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Migration of VFIO devices for vendor drivers");

