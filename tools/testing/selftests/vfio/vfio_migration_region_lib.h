/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of the migration region share.  Functions return 0 or more,
 * or a negative errno.
 */
#ifndef VFIO_MIGRATION_REGION_LIB_H
#define VFIO_MIGRATION_REGION_LIB_H

#include "vfio_group_domain_lib.h"

#define PAGE		4096UL
#define MAX_AREAS	4

#define OFF_STATE	offsetof(struct vfio_device_migration_info, device_state)
#define OFF_RESERVED	offsetof(struct vfio_device_migration_info, reserved)
#define OFF_PENDING	offsetof(struct vfio_device_migration_info, pending_bytes)
#define OFF_OFFSET	offsetof(struct vfio_device_migration_info, data_offset)
#define OFF_SIZE	offsetof(struct vfio_device_migration_info, data_size)
#define HEADER		sizeof(struct vfio_device_migration_info)

/* The eight values of the three bits of device_state */
enum {
	STOP,
	RUNNING,
	STOP_COPY,
	PRE_COPY,
	RESUMING,
	INVALID_5,
	ERROR,
	INVALID_7,
	STATES
};

struct area {
	__u64 offset;
	__u64 size;
};

/* What VFIO_DEVICE_GET_REGION_INFO says */
struct region {
	__u32 flags;
	__u64 offset;		/* in the file */
	__u64 size;
	bool typed;
	__u32 type;
	__u32 subtype;
	bool sparse;
	unsigned int areas;
	struct area area[MAX_AREAS];
};

/* A reference device, with what userspace opens to use it */
struct dev {
	char name[40];		/* UUID */
	int group;		/* number of its VFIO group */
	struct user u;
	struct vfio_device_info info;
	unsigned int index;	/* of the migration region */
	struct region mig;
	struct region regs;	/* BAR of registers */
	struct region memory;	/* BAR of scratch memory */
	struct region config;	/* configuration space */
	char *map;		/* data section, once dev_map() was called */
};

/* What was saved, and where its chunks end */
struct stream {
	char *data;
	size_t size;
	size_t room;
	unsigned int chunks;
	size_t *end;
};

/* A chunk of the stream, as the header announces it */
struct chunk {
	__u64 offset;		/* in the region */
	__u64 size;
};

/* Two devices, source and destination */
struct pair {
	struct dev a;
	struct dev b;
};

/*
 * How data moves between the region and a program: by the mapping, in the
 * accesses that QEMU uses, or in so many bytes a call.
 */
#define BY_MMAP		0
#define BY_QEMU		(-1)

/* Xorshift: the same numbers in each run */
static inline __u64 random_next(__u64 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;

	return *seed;
}

void pattern(void *buf, size_t size, __u64 seed);

/* The checksum of a stream, with a seed of 0 */
__u64 xxh64(const void *data, size_t len);

int param_set(const char *name, unsigned long value);
int params_default(void);

int region_info(int device, unsigned int index, struct region *r);

int dev_create(struct dev *d, const char *type, unsigned int nr);
int dev_open(struct dev *d);
int dev_join(struct dev *d, int container);
int dev_map(struct dev *d);
void dev_close(struct dev *d);
int dev_remove(struct dev *d);
int dev_reset(const struct dev *d);
int devs_remove_all(void);
__u64 window_offset(const struct dev *d);

int debug_set(const struct dev *d, const char *name, unsigned int value);
long long debug_get(const struct dev *d, const char *name);

int region_read(const struct dev *d, __u64 at, void *buf, size_t len);
int region_write(const struct dev *d, __u64 at, const void *buf, size_t len);
int state_get(const struct dev *d);
int state_set(const struct dev *d, __u32 state);
int pending_get(const struct dev *d, __u64 *value);
int offset_get(const struct dev *d, __u64 *value);
int size_get(const struct dev *d, __u64 *value);
int size_set(const struct dev *d, __u64 value);

int chunk_next(const struct dev *d, struct chunk *c);
int data_read(const struct dev *d, __u64 at, void *buf, size_t len, int piece);
int data_write(const struct dev *d, __u64 at, const void *buf, size_t len,
	       int piece);
int stream_append(const struct dev *d, struct stream *s, const struct chunk *c,
		  int piece);
int stream_save(const struct dev *d, struct stream *s, int piece);
int stream_load(const struct dev *d, const struct stream *s, int piece,
		size_t split);
int stream_put(const struct dev *d, const void *data, size_t len, int piece);
int chunks_load(const struct dev *d, const struct stream *s, unsigned int first,
		unsigned int chunks);
void stream_free(struct stream *s);
int save(const struct dev *d, struct stream *s, int piece);
int resume(const struct dev *d, const struct stream *s, int piece,
	   size_t split);

int scratch_write(const struct dev *d, __u64 at, const void *buf, size_t len);
int scratch_read(const struct dev *d, __u64 at, void *buf, size_t len);
int scratch_fill(const struct dev *d, __u64 seed);
int scratch_check(const struct dev *d, __u64 seed);

__u32 reg_get32(const struct dev *d, unsigned int reg);
__u64 reg_get64(const struct dev *d, unsigned int reg);
int reg_set32(const struct dev *d, unsigned int reg, __u32 value);
int reg_set64(const struct dev *d, unsigned int reg, __u64 value);
int bus_master(const struct dev *d, bool on);
int dma_start(const struct dev *d, __u64 iova, __u64 offset, __u64 len,
	      __u32 control);
int dma_wait(const struct dev *d);
int dma(const struct dev *d, __u64 iova, __u64 offset, __u64 len,
	__u32 control);
int irq_connect(const struct dev *d, int eventfd);
int irq_raise(const struct dev *d);

int dirty_start(int container);
int dirty_stop(int container);
int dirty_get(int container, __u64 iova, size_t pages, __u64 *bitmap);
int dirty_get_into(int container, __u64 iova, size_t pages, void *bitmap);
int dirty_unmap_into(int container, __u64 iova, size_t pages, void *bitmap);
int dirty_unmap(int container, __u64 iova, size_t pages, __u64 *bitmap);

int pair_open(struct pair *p, const char *type, unsigned long window);
int pair_close(struct pair *p);
int enter(const struct dev *d, unsigned int state);
bool runs(const struct dev *d);
int migrates(const struct dev *from, const struct dev *to, __u64 seed);
bool all_zero(const void *p, size_t len);
long peek(const struct dev *d, __u64 at, void *buf, size_t width);
long poke(const struct dev *d, __u64 at, const void *buf, size_t width);
const char *not_pristine(const struct dev *d);
bool ends(pid_t pid, int want);
bool waits_for_page(int absent, pid_t pid);

#endif /* VFIO_MIGRATION_REGION_LIB_H */
