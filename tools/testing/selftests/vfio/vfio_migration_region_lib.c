// SPDX-License-Identifier: GPL-2.0-only
/* What the tests of the migration region share */

#define _GNU_SOURCE
#include <assert.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>
#include "vfio_migration_region_lib.h"
#include "vfio_test_migration.h"
#include "mscratch.h"

/* Newer headers have the same under another name */
#ifndef VFIO_REGION_TYPE_MIGRATION
#define VFIO_REGION_TYPE_MIGRATION	VFIO_REGION_TYPE_MIGRATION_DEPRECATED
#define VFIO_REGION_SUBTYPE_MIGRATION	VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED
#endif

/* What a program makes of a state by the header's macro is the error state */
static_assert(VFIO_DEVICE_STATE_SET_ERROR(0) == 6, "error state");

/*
 * Regions
 */

static int region_caps(const char *buf, struct region *r)
{
	const struct vfio_region_info *info = (const void *)buf;
	const struct vfio_region_info_cap_sparse_mmap *sparse;
	const struct vfio_region_info_cap_type *type;
	const struct vfio_info_cap_header *cap;
	__u32 at = info->cap_offset;
	unsigned int i, caps;

	for (caps = 0; at; at = cap->next) {
		if (at < sizeof(*info) || at % 8 ||
		    at + sizeof(*cap) > info->argsz || ++caps > 8)
			return -EBADMSG;
		cap = (const void *)(buf + at);
		if (cap->id == VFIO_REGION_INFO_CAP_TYPE) {
			type = (const void *)cap;
			if (at + sizeof(*type) > info->argsz || r->typed)
				return -EBADMSG;
			r->typed = true;
			r->type = type->type;
			r->subtype = type->subtype;
		} else if (cap->id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
			sparse = (const void *)cap;
			if (at + sizeof(*sparse) > info->argsz || r->sparse ||
			    sparse->nr_areas > MAX_AREAS ||
			    at + sizeof(*sparse) + sparse->nr_areas *
			    sizeof(sparse->areas[0]) > info->argsz)
				return -EBADMSG;
			r->sparse = true;
			r->areas = sparse->nr_areas;
			for (i = 0; i < r->areas; i++) {
				r->area[i].offset = sparse->areas[i].offset;
				r->area[i].size = sparse->areas[i].size;
			}
		}
	}

	return 0;
}

/* As QEMU does it: ask, and ask again with the room that the answer needs */
int region_info(int device, unsigned int index, struct region *r)
{
	struct vfio_region_info head = { .argsz = sizeof(head), .index = index };
	struct vfio_region_info *info = &head;
	int ret = 0;

	memset(r, 0, sizeof(*r));
	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info))
		return -errno;
	r->flags = info->flags;
	r->offset = info->offset;
	r->size = info->size;
	if (info->argsz > sizeof(head)) {
		__u32 argsz = info->argsz;

		info = calloc(1, argsz);
		if (!info)
			return -ENOMEM;
		info->argsz = argsz;
		info->index = index;
		if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info))
			ret = -errno;
		else if (info->argsz != argsz || info->flags != r->flags ||
			 info->offset != r->offset || info->size != r->size)
			ret = -EBADMSG;
		else if (info->flags & VFIO_REGION_INFO_FLAG_CAPS)
			ret = region_caps((const char *)info, r);
		free(info);
	} else if (head.flags & VFIO_REGION_INFO_FLAG_CAPS) {
		/* Capabilities do not fit behind what was asked for */
		ret = -EBADMSG;
	}

	return ret;
}

/*
 * The header
 */

int region_read(const struct dev *d, __u64 at, void *buf, size_t len)
{
	ssize_t n = pread(d->u.device, buf, len, d->mig.offset + at);

	if (n < 0)
		return -errno;

	return n == (ssize_t)len ? 0 : -EIO;
}

int region_write(const struct dev *d, __u64 at, const void *buf, size_t len)
{
	ssize_t n = pwrite(d->u.device, buf, len, d->mig.offset + at);

	if (n < 0)
		return -errno;

	return n == (ssize_t)len ? 0 : -EIO;
}

/* The state, or a negative errno */
int state_get(const struct dev *d)
{
	__u32 state;
	int ret = region_read(d, OFF_STATE, &state, sizeof(state));

	return ret ?: (int)state;
}

int state_set(const struct dev *d, __u32 state)
{
	return region_write(d, OFF_STATE, &state, sizeof(state));
}

int pending_get(const struct dev *d, __u64 *value)
{
	return region_read(d, OFF_PENDING, value, sizeof(*value));
}

int offset_get(const struct dev *d, __u64 *value)
{
	return region_read(d, OFF_OFFSET, value, sizeof(*value));
}

int size_get(const struct dev *d, __u64 *value)
{
	return region_read(d, OFF_SIZE, value, sizeof(*value));
}

int size_set(const struct dev *d, __u64 value)
{
	return region_write(d, OFF_SIZE, &value, sizeof(value));
}

/*
 * Pages that devices wrote to, as type1 knows them
 */

int dirty_start(int container)
{
	struct vfio_iommu_type1_dirty_bitmap arg = {
		.argsz = sizeof(arg),
		.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
	};

	return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &arg) ? -errno : 0;
}

int dirty_stop(int container)
{
	struct vfio_iommu_type1_dirty_bitmap arg = {
		.argsz = sizeof(arg),
		.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
	};

	return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &arg) ? -errno : 0;
}

/* The bytes of a bitmap with one bit a page, whole words of them */
static size_t bitmap_size(size_t pages)
{
	return (pages + 63) / 64 * sizeof(__u64);
}

int dirty_get_into(int container, __u64 iova, size_t pages, void *bitmap)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap head;
		struct vfio_iommu_type1_dirty_bitmap_get range;
	} arg = {
		.head.argsz = sizeof(arg),
		.head.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
		.range.iova = iova,
		.range.size = pages * PAGE,
		.range.bitmap.pgsize = PAGE,
		.range.bitmap.size = bitmap_size(pages),
		.range.bitmap.data = bitmap,
	};

	return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &arg) ? -errno : 0;
}

int dirty_get(int container, __u64 iova, size_t pages, __u64 *bitmap)
{
	memset(bitmap, 0, bitmap_size(pages));
	return dirty_get_into(container, iova, pages, bitmap);
}

/* The same, at the end of what was mapped there */
int dirty_unmap_into(int container, __u64 iova, size_t pages, void *bitmap)
{
	struct {
		struct vfio_iommu_type1_dma_unmap head;
		struct vfio_bitmap bitmap;
	} arg = {
		.head.argsz = sizeof(arg),
		.head.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
		.head.iova = iova,
		.head.size = pages * PAGE,
		.bitmap.pgsize = PAGE,
		.bitmap.size = bitmap_size(pages),
		.bitmap.data = bitmap,
	};

	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &arg))
		return -errno;

	return arg.head.size == pages * PAGE ? 0 : -ENOENT;
}

int dirty_unmap(int container, __u64 iova, size_t pages, __u64 *bitmap)
{
	memset(bitmap, 0, bitmap_size(pages));
	return dirty_unmap_into(container, iova, pages, bitmap);
}

/*
 * Devices
 */

#define TYPES	"/sys/class/mdev_bus/mscratch/mdev_supported_types/"
#define PARAMS	"/sys/module/mscratch/parameters/"
#define DEBUG	"/sys/kernel/debug/vfio_migration_region/"
#define UUID	"76676403-0000-4000-8000-"

void pattern(void *buf, size_t size, __u64 seed)
{
	__u64 *word = buf;
	size_t i;

	seed = (seed + 1) * 0x9e3779b97f4a7c15ULL;
	for (i = 0; i < size / sizeof(*word); i++)
		word[i] = random_next(&seed);
}

/* xxh64 as its specification has it, and not as the kernel does */
#define XXH_1	0x9E3779B185EBCA87ULL
#define XXH_2	0xC2B2AE3D27D4EB4FULL
#define XXH_3	0x165667B19E3779F9ULL
#define XXH_4	0x85EBCA77C2B2AE63ULL
#define XXH_5	0x27D4EB2F165667C5ULL

static __u64 turned(__u64 value, unsigned int bits)
{
	return value << bits | value >> (64 - bits);
}

static __u64 lane(__u64 sum, __u64 word)
{
	return turned(sum + word * XXH_2, 31) * XXH_1;
}

/* The next @len bytes as a number, the first one is the lowest */
static inline __u64 number(const unsigned char **at, size_t len)
{
	__u64 value = 0;

	memcpy(&value, *at, len);
	*at += len;

	return le64toh(value);
}

static __u64 merged(__u64 sum, __u64 lane_sum)
{
	return (sum ^ lane(0, lane_sum)) * XXH_1 + XXH_4;
}

__u64 xxh64(const void *data, size_t len)
{
	const unsigned char *at = data, *end = at + len;
	__u64 a = XXH_1 + XXH_2, b = XXH_2, c = 0, d = -XXH_1;
	__u64 sum = XXH_5;

	while (end - at >= 32) {
		a = lane(a, number(&at, 8));
		b = lane(b, number(&at, 8));
		c = lane(c, number(&at, 8));
		d = lane(d, number(&at, 8));
	}
	if (len >= 32) {
		sum = turned(a, 1) + turned(b, 7) + turned(c, 12) + turned(d, 18);
		sum = merged(merged(merged(merged(sum, a), b), c), d);
	}
	sum += len;
	while (end - at >= 8)
		sum = turned(sum ^ lane(0, number(&at, 8)), 27) * XXH_1 + XXH_4;
	if (end - at >= 4)
		sum = turned(sum ^ number(&at, 4) * XXH_1, 23) * XXH_2 + XXH_3;
	while (at < end)
		sum = turned(sum ^ number(&at, 1) * XXH_5, 11) * XXH_1;
	sum = (sum ^ sum >> 33) * XXH_2;
	sum = (sum ^ sum >> 29) * XXH_3;

	return sum ^ sum >> 32;
}

int param_set(const char *name, unsigned long value)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), PARAMS "%s", name);
	snprintf(text, sizeof(text), "%lu", value);

	return file_write(path, text);
}

int params_default(void)
{
	int ret = param_set("migration", 1);

	ret = ret ?: param_set("mmap", 1);

	return ret ?: param_set("window", 1 << 20);
}

int dev_create(struct dev *d, const char *type, unsigned int nr)
{
	char path[256], base[64];
	int ret;

	memset(d, 0, sizeof(*d));
	d->u.container = -1;
	d->u.group = -1;
	d->u.device = -1;
	snprintf(d->name, sizeof(d->name), UUID "%012x", nr);
	snprintf(path, sizeof(path), TYPES "%s/create", type);
	ret = file_write(path, d->name);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/iommu_group",
		 d->name);
	ret = link_base(path, base, sizeof(base));
	d->group = atoi(base);

	return ret;
}

/* Finds the migration region as QEMU does, by its capability */
static int dev_describe(struct dev *d)
{
	struct region r;
	unsigned int i;
	int ret = 0;

	d->info.argsz = sizeof(d->info);
	if (ioctl(d->u.device, VFIO_DEVICE_GET_INFO, &d->info))
		ret = -errno;
	if (!ret)
		ret = region_info(d->u.device, VFIO_PCI_BAR0_REGION_INDEX,
				  &d->regs);
	if (!ret)
		ret = region_info(d->u.device, VFIO_PCI_BAR2_REGION_INDEX,
				  &d->memory);
	if (!ret)
		ret = region_info(d->u.device, VFIO_PCI_CONFIG_REGION_INDEX,
				  &d->config);
	d->index = 0;
	for (i = VFIO_PCI_NUM_REGIONS; !ret && i < d->info.num_regions; i++) {
		ret = region_info(d->u.device, i, &r);
		if (ret || !r.typed || r.type != VFIO_REGION_TYPE_MIGRATION ||
		    r.subtype != VFIO_REGION_SUBTYPE_MIGRATION)
			continue;
		d->index = i;
		d->mig = r;
	}
	if (!ret && !d->index)
		ret = -ENOENT;
	if (ret)
		dev_close(d);

	return ret;
}

int dev_open(struct dev *d)
{
	int ret = user_open(&d->u, d->group, d->name);

	return ret ?: dev_describe(d);
}

/* In a container that others use */
int dev_join(struct dev *d, int container)
{
	int ret = user_join(&d->u, container, d->group, d->name);

	return ret ?: dev_describe(d);
}

/* Maps what can be mapped, at the place it has in the region */
int dev_map(struct dev *d)
{
	unsigned int i;
	char *base;

	base = mmap(NULL, d->mig.size, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	d->map = base;
	for (i = 0; i < d->mig.areas; i++) {
		struct area *a = &d->mig.area[i];

		if (mmap(base + a->offset, a->size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, d->u.device,
			 d->mig.offset + a->offset) == MAP_FAILED)
			return -errno;
	}

	return 0;
}

void dev_close(struct dev *d)
{
	if (d->map)
		munmap(d->map, d->mig.size);
	d->map = NULL;
	user_close(&d->u);
}

int dev_remove(struct dev *d)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove", d->name);

	return file_write(path, "1");
}

/* What a case that was cut short may have left */
int devs_remove_all(void)
{
	DIR *dir = opendir("/sys/bus/mdev/devices");
	struct dirent *e;
	char path[512];
	int ret = 0;

	if (!dir)
		return -errno;
	while (!ret && (e = readdir(dir))) {
		if (strncmp(e->d_name, UUID, strlen(UUID)))
			continue;
		snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove",
			 e->d_name);
		ret = file_write(path, "1");
	}
	closedir(dir);

	return ret;
}

int dev_reset(const struct dev *d)
{
	return ioctl(d->u.device, VFIO_DEVICE_RESET) ? -errno : 0;
}

/* Where data is written in RESUMING; 0 if there is an error */
__u64 window_offset(const struct dev *d)
{
	__u64 value;

	return offset_get(d, &value) ? 0 : value;
}

int debug_set(const struct dev *d, const char *name, unsigned int value)
{
	char path[256], text[16];

	snprintf(path, sizeof(path), DEBUG "%s/%s", d->name, name);
	snprintf(text, sizeof(text), "%u", value);

	return file_write(path, text);
}

long long debug_get(const struct dev *d, const char *name)
{
	char path[256];
	long long value;
	FILE *f;

	snprintf(path, sizeof(path), DEBUG "%s/%s", d->name, name);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	if (fscanf(f, "%lld", &value) != 1)
		value = -EIO;
	fclose(f);

	return value;
}

/*
 * The stream
 */

/* Begins a new iteration.  1 if there is a chunk, 0 if not. */
int chunk_next(const struct dev *d, struct chunk *c)
{
	__u64 pending;
	int ret;

	ret = pending_get(d, &pending);
	if (ret || !pending)
		return ret;
	ret = offset_get(d, &c->offset);
	ret = ret ?: size_get(d, &c->size);
	if (ret)
		return ret;

	return c->size ? 1 : 0;
}

/* The widest access that fits and is aligned */
static size_t qemu_width(__u64 at, size_t len)
{
	size_t width = 8;

	while (width > len || at % width)
		width /= 2;

	return width;
}

static size_t piece_size(__u64 at, size_t left, int piece)
{
	if (piece == BY_QEMU)
		return qemu_width(at, left);

	return (size_t)piece < left ? (size_t)piece : left;
}

int data_read(const struct dev *d, __u64 at, void *buf, size_t len, int piece)
{
	size_t done, n;
	int ret;

	if (piece == BY_MMAP) {
		memcpy(buf, d->map + at, len);
		return 0;
	}
	for (done = 0; done < len; done += n) {
		n = piece_size(at + done, len - done, piece);
		ret = region_read(d, at + done, (char *)buf + done, n);
		if (ret)
			return ret;
	}

	return 0;
}

int data_write(const struct dev *d, __u64 at, const void *buf, size_t len,
	       int piece)
{
	size_t done, n;
	int ret;

	if (piece == BY_MMAP) {
		memcpy(d->map + at, buf, len);
		return 0;
	}
	for (done = 0; done < len; done += n) {
		n = piece_size(at + done, len - done, piece);
		ret = region_write(d, at + done, (const char *)buf + done, n);
		if (ret)
			return ret;
	}

	return 0;
}

static int stream_reserve(struct stream *s, size_t more)
{
	size_t room = s->room ?: 1 << 17;
	void *p;

	while (room < s->size + more)
		room *= 2;
	if (room > s->room) {
		p = realloc(s->data, room);
		if (!p)
			return -ENOMEM;
		s->data = p;
		s->room = room;
	}
	p = realloc(s->end, (s->chunks + 1) * sizeof(*s->end));
	if (!p)
		return -ENOMEM;
	s->end = p;

	return 0;
}

/* The chunk that is committed */
int stream_append(const struct dev *d, struct stream *s, const struct chunk *c,
		  int piece)
{
	int ret;

	/* A stream that begins anew each time would never end */
	if (s->size > 4 * (d->mig.size + d->memory.size))
		return -E2BIG;
	ret = stream_reserve(s, c->size);
	ret = ret ?: data_read(d, c->offset, s->data + s->size, c->size, piece);
	if (ret)
		return ret;
	s->size += c->size;
	s->end[s->chunks++] = s->size;

	return 0;
}

/* All that there is at present.  Goes on where an earlier call ended. */
int stream_save(const struct dev *d, struct stream *s, int piece)
{
	struct chunk c;
	int ret;

	while ((ret = chunk_next(d, &c)) > 0) {
		ret = stream_append(d, s, &c, piece);
		if (ret)
			return ret;
	}

	return ret;
}

/* One chunk of a stream that is resumed */
int stream_put(const struct dev *d, const void *data, size_t len, int piece)
{
	__u64 at;
	int ret;

	ret = offset_get(d, &at);
	ret = ret ?: data_write(d, at, data, len, piece);

	return ret ?: size_set(d, len);
}

/*
 * In chunks of @split bytes, or as it was saved if that is 0.  A chunk that does
 * not fit the window is split.
 */
int stream_load(const struct dev *d, const struct stream *s, int piece,
		size_t split)
{
	size_t room = d->mig.size - window_offset(d), at = 0, n;
	unsigned int i = 0;
	int ret = 0;

	for (; !ret && at < s->size; at += n) {
		if (!split && at == s->end[i])
			i++;
		n = split ?: s->end[i] - at;
		if (n > s->size - at)
			n = s->size - at;
		if (n > room)
			n = room;
		ret = stream_put(d, s->data + at, n, piece);
	}

	return ret;
}

/* Some of the chunks, as they were saved */
int chunks_load(const struct dev *d, const struct stream *s, unsigned int first,
		unsigned int chunks)
{
	size_t at = first ? s->end[first - 1] : 0;
	int ret = 0;

	for (; !ret && chunks--; at = s->end[first++])
		ret = stream_put(d, s->data + at, s->end[first] - at, BY_MMAP);

	return ret;
}

void stream_free(struct stream *s)
{
	free(s->data);
	free(s->end);
	memset(s, 0, sizeof(*s));
}

/* Stop the device and save all of its state */
int save(const struct dev *d, struct stream *s, int piece)
{
	int ret = state_set(d, STOP_COPY);

	ret = ret ?: stream_save(d, s, piece);

	return ret ?: state_set(d, STOP);
}

int resume(const struct dev *d, const struct stream *s, int piece,
	   size_t split)
{
	int ret = state_set(d, RESUMING);

	ret = ret ?: stream_load(d, s, piece, split);

	return ret ?: state_set(d, RUNNING);
}

/*
 * The device itself
 */

int scratch_write(const struct dev *d, __u64 at, const void *buf, size_t len)
{
	ssize_t n = pwrite(d->u.device, buf, len, d->memory.offset + at);

	if (n < 0)
		return -errno;

	return n == (ssize_t)len ? 0 : -EIO;
}

int scratch_read(const struct dev *d, __u64 at, void *buf, size_t len)
{
	ssize_t n = pread(d->u.device, buf, len, d->memory.offset + at);

	if (n < 0)
		return -errno;

	return n == (ssize_t)len ? 0 : -EIO;
}

int scratch_fill(const struct dev *d, __u64 seed)
{
	char *buf = malloc(d->memory.size);
	int ret;

	if (!buf)
		return -ENOMEM;
	pattern(buf, d->memory.size, seed);
	ret = scratch_write(d, 0, buf, d->memory.size);
	free(buf);

	return ret;
}

/* 0 if it is what scratch_fill() wrote, 1 if not */
int scratch_check(const struct dev *d, __u64 seed)
{
	char *buf = malloc(2 * d->memory.size);
	int ret;

	if (!buf)
		return -ENOMEM;
	pattern(buf, d->memory.size, seed);
	ret = scratch_read(d, 0, buf + d->memory.size, d->memory.size);
	if (!ret)
		ret = !!memcmp(buf, buf + d->memory.size, d->memory.size);
	free(buf);

	return ret;
}

__u32 reg_get32(const struct dev *d, unsigned int reg)
{
	__u32 value = ~0U;

	if (pread(d->u.device, &value, sizeof(value), d->regs.offset + reg) !=
	    sizeof(value))
		printf("# register %#x: %s\n", reg, strerror(errno));

	return value;
}

__u64 reg_get64(const struct dev *d, unsigned int reg)
{
	__u64 value = ~0ULL;

	if (pread(d->u.device, &value, sizeof(value), d->regs.offset + reg) !=
	    sizeof(value))
		printf("# register %#x: %s\n", reg, strerror(errno));

	return value;
}

int reg_set32(const struct dev *d, unsigned int reg, __u32 value)
{
	ssize_t n = pwrite(d->u.device, &value, sizeof(value),
			   d->regs.offset + reg);

	if (n < 0)
		return -errno;

	return n == sizeof(value) ? 0 : -EIO;
}

int reg_set64(const struct dev *d, unsigned int reg, __u64 value)
{
	ssize_t n = pwrite(d->u.device, &value, sizeof(value),
			   d->regs.offset + reg);

	if (n < 0)
		return -errno;

	return n == sizeof(value) ? 0 : -EIO;
}

/* Memory space and, or without, bus mastering */
int bus_master(const struct dev *d, bool on)
{
	__u16 command = PCI_COMMAND_MEMORY | (on ? PCI_COMMAND_MASTER : 0);
	ssize_t n = pwrite(d->u.device, &command, sizeof(command),
			   d->config.offset + PCI_COMMAND);

	if (n < 0)
		return -errno;

	return n == sizeof(command) ? 0 : -EIO;
}

int dma_start(const struct dev *d, __u64 iova, __u64 offset, __u64 len,
	      __u32 control)
{
	int ret = bus_master(d, true);

	ret = ret ?: reg_set64(d, MSCRATCH_REG_DMA_IOVA, iova);
	ret = ret ?: reg_set64(d, MSCRATCH_REG_DMA_OFFSET, offset);
	ret = ret ?: reg_set64(d, MSCRATCH_REG_DMA_LENGTH, len);

	return ret ?: reg_set32(d, MSCRATCH_REG_DMA_CONTROL,
				control | MSCRATCH_DMA_START);
}

/* The status when it has ended */
int dma_wait(const struct dev *d)
{
	int status;

	do {
		status = reg_get32(d, MSCRATCH_REG_DMA_STATUS);
	} while (status == MSCRATCH_STATUS_BUSY && !sched_yield());

	return status;
}

/* 0, or what went wrong */
int dma(const struct dev *d, __u64 iova, __u64 offset, __u64 len,
	__u32 control)
{
	int ret = dma_start(d, iova, offset, len, control);

	if (ret)
		return ret;
	if (dma_wait(d) == MSCRATCH_STATUS_DONE)
		return 0;

	return -(int)reg_get32(d, MSCRATCH_REG_DMA_ERROR) ?: -ECANCELED;
}

/* -1 disconnects */
int irq_connect(const struct dev *d, int eventfd)
{
	char buf[sizeof(struct vfio_irq_set) + sizeof(__s32)] = {};
	struct vfio_irq_set *set = (void *)buf;

	set->argsz = sizeof(buf);
	set->index = VFIO_PCI_MSI_IRQ_INDEX;
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER;
	if (eventfd >= 0) {
		set->flags |= VFIO_IRQ_SET_DATA_EVENTFD;
		set->count = 1;
		memcpy(set->data, &eventfd, sizeof(__s32));
	} else {
		set->argsz = sizeof(*set);
		set->flags |= VFIO_IRQ_SET_DATA_NONE;
	}

	return ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, set) ? -errno : 0;
}

/* As if the device raised it */
int irq_raise(const struct dev *d)
{
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_NONE,
		.index = VFIO_PCI_MSI_IRQ_INDEX,
		.count = 1,
	};

	return ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, &set) ? -errno : 0;
}

/*
 * Two devices, from one to the other
 */

int pair_open(struct pair *p, const char *type, unsigned long window)
{
	int ret = devs_remove_all();

	ret = ret ?: params_default();
	ret = ret ?: param_set("window", window);
	ret = ret ?: dev_create(&p->a, type, 0);
	ret = ret ?: dev_create(&p->b, type, 1);
	ret = ret ?: dev_open(&p->a);
	ret = ret ?: dev_open(&p->b);
	ret = ret ?: dev_map(&p->a);

	return ret ?: dev_map(&p->b);
}

int pair_close(struct pair *p)
{
	int ret;

	dev_close(&p->a);
	dev_close(&p->b);
	ret = dev_remove(&p->a);

	return ret ?: dev_remove(&p->b);
}

/* Bring a running device to a state; a refused stream leads to the last one */
int enter(const struct dev *d, unsigned int state)
{
	static const char junk[64] = "this is not the beginning of a stream";
	int ret;

	if (state != ERROR)
		return state_set(d, state);
	ret = state_set(d, RESUMING);
	if (ret)
		return ret;
	if (!stream_put(d, junk, sizeof(junk), sizeof(junk)))
		return -ENOTRECOVERABLE;
	ret = state_set(d, RUNNING);

	return ret == -EINVAL && state_get(d) == ERROR ? 0 : -ENOTRECOVERABLE;
}

/* Does a device, which nobody told anything yet, do what it is told? */
bool runs(const struct dev *d)
{
	/* A DMA of nothing is an error, which the device can only report */
	dma(d, 0, 0, 0, 0);

	return reg_get32(d, MSCRATCH_REG_DMA_STATUS) == MSCRATCH_STATUS_ERROR;
}

/* What a migration from one device to the other keeps; 0 if all is right */
int migrates(const struct dev *from, const struct dev *to, __u64 seed)
{
	struct stream s = {};
	int ret;

	ret = scratch_fill(from, seed);
	ret = ret ?: save(from, &s, BY_MMAP);
	ret = ret ?: resume(to, &s, BY_MMAP, 0);
	stream_free(&s);
	ret = ret ?: scratch_check(to, seed);

	return ret ?: state_set(from, RUNNING);
}

bool all_zero(const void *p, size_t len)
{
	const char *c = p;

	/* Each byte is as the one before it */
	return !len || (!*c && !memcmp(c, c + 1, len - 1));
}

/* What a call on the region returns: a length or a negative errno */
long peek(const struct dev *d, __u64 at, void *buf, size_t width)
{
	ssize_t n = pread(d->u.device, buf, width, d->mig.offset + at);

	return n < 0 ? -errno : n;
}

long poke(const struct dev *d, __u64 at, const void *buf, size_t width)
{
	ssize_t n = pwrite(d->u.device, buf, width, d->mig.offset + at);

	return n < 0 ? -errno : n;
}

/* What can be written of the configuration space, but for its addresses */
static bool config_is_pristine(const struct dev *d)
{
	static const struct {
		unsigned int at, len;
	} zero[] = {
		{ PCI_COMMAND, 2 },
		{ PCI_CACHE_LINE_SIZE, 2 },
		{ PCI_INTERRUPT_LINE, 1 },
		{ PCI_BASE_ADDRESS_0, 4 },
	};
	unsigned char config[256], *msi;
	__u32 bar = PCI_BASE_ADDRESS_MEM_PREFETCH;
	unsigned int i;

	if (pread(d->u.device, config, sizeof(config), d->config.offset) !=
	    sizeof(config))
		return false;
	for (i = 0; i < ARRAY_SIZE(zero); i++) {
		if (!all_zero(config + zero[i].at, zero[i].len))
			return false;
	}
	if (memcmp(config + PCI_BASE_ADDRESS_2, &bar, sizeof(bar)))
		return false;

	msi = config + config[PCI_CAPABILITY_LIST];

	return msi[PCI_CAP_LIST_ID] == PCI_CAP_ID_MSI &&
	       !(msi[PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE) &&
	       all_zero(msi + PCI_MSI_ADDRESS_LO,
			PCI_MSI_DATA_64 + 2 - PCI_MSI_ADDRESS_LO);
}

/*
 * What is not as it was when the device was opened first; "" if all is
 */
const char *not_pristine(const struct dev *d)
{
	static const __u32 regs[] = {
		MSCRATCH_REG_DMA_IOVA, MSCRATCH_REG_DMA_OFFSET,
		MSCRATCH_REG_DMA_LENGTH, MSCRATCH_REG_DMA_COUNT,
	};
	const char *what = "";
	unsigned int i;
	__u64 value;
	char *buf;

	if (state_get(d) != RUNNING)
		return "state";
	if (pending_get(d, &value) || value)
		return "pending_bytes";
	if (size_get(d, &value) || value)
		return "data_size";
	if (!config_is_pristine(d))
		return "configuration";
	for (i = 0; i < ARRAY_SIZE(regs); i++) {
		if (reg_get64(d, regs[i]))
			return "DMA registers";
	}
	if (reg_get32(d, MSCRATCH_REG_DMA_CONTROL))
		return "DMA control";
	if (reg_get32(d, MSCRATCH_REG_DMA_STATUS) != MSCRATCH_STATUS_IDLE)
		return "DMA status";
	buf = malloc(d->memory.size);
	if (!buf || scratch_read(d, 0, buf, d->memory.size) ||
	    !all_zero(buf, d->memory.size))
		what = "scratch memory";
	free(buf);
	for (i = 0; !*what && i < d->mig.areas; i++) {
		if (!all_zero(d->map + d->mig.area[i].offset,
			      d->mig.area[i].size))
			what = i ? "window" : "mapped memory";
	}

	return what;
}

/*
 * Other programs
 */

/* Does a process end, with this status, without anybody's help? */
bool ends(pid_t pid, int want)
{
	int status = 0, i;

	for (i = 0; i < 200; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status == want;
		usleep(100000);
	}

	return false;
}

/* Does a program get so far that it waits for its page? */
bool waits_for_page(int absent, pid_t pid)
{
	while (!ioctl(absent, VFIO_TEST_MIGRATION_WAITERS))
		if (waitpid(pid, NULL, WNOHANG))
			return false;

	return true;
}
