/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of version 2 of the migration protocol share.  Functions
 * return 0 or more, or a negative errno.
 */
#ifndef VFIO_MIGRATION_V2_LIB_H
#define VFIO_MIGRATION_V2_LIB_H

#include "vfio_migration_region_lib.h"

/* As userspace knows it from later kernels; not from the library's header */
#define V2_MIGRATION		1
#define V2_DEVICE_STATE		2
#define V2_DATA_SIZE		9
#define V2_PRECOPY_INFO_2	12
#define V2_STOP_COPY		0x1ULL
#define V2_P2P			0x2ULL
#define V2_PRE_COPY		0x4ULL
#define V2_PRECOPY_INFO		_IO(';', 100 + 21)

enum {
	V2_ERROR,
	V2_STOPPED,
	V2_RUNNING,
	V2_SAVING,
	V2_RESUMING,
	V2_RUNNING_P2P,
	V2_RUNNING_SAVING,
	V2_RUNNING_P2P_SAVING,
	V2_STATES
};

struct v2_precopy {
	__u32 argsz;
	__u32 flags;
	__u64 initial;
	__u64 dirty;
};

extern const char * const v2_names[V2_STATES];

int v2_feature(const struct dev *d, __u32 argsz, __u32 flags, void *data,
	       size_t size);
int v2_flags(const struct dev *d, __u64 *flags);
int v2_data_size(const struct dev *d, __u64 *size);
int v2_get(const struct dev *d);
bool core_has_v2(const struct dev *d);
int v2_set(const struct dev *d, __u32 state, int *fd);
int v2_go(const struct dev *d, __u32 state);
int v2_precopy_get(int fd, __u64 *initial, __u64 *dirty);
long v2_read(int fd, void *buf, size_t len);
long v2_write(int fd, const void *buf, size_t len);
int v2_drain(int fd, struct stream *s, size_t piece);
int v2_fill(int fd, const void *data, size_t size, size_t piece);
int v2_save(const struct dev *d, struct stream *s, size_t piece);
int v2_load(const struct dev *d, const struct stream *s, size_t piece);

#endif /* VFIO_MIGRATION_V2_LIB_H */
