// SPDX-License-Identifier: GPL-2.0-only
/* What the tests of version 2 of the migration protocol share */

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>

#include "vfio_migration_v2_lib.h"

const char * const v2_names[V2_STATES] = {
	"error", "stop", "running", "stop-and-copy", "resuming", "running P2P",
	"pre-copy", "pre-copy P2P",
};

/* With the data behind it, copied back and forth */
int v2_feature(const struct dev *d, __u32 argsz, __u32 flags, void *data,
	       size_t size)
{
	struct {
		struct vfio_device_feature head;
		char data[64];
	} arg = {};

	arg.head.argsz = argsz;
	arg.head.flags = flags;
	memcpy(arg.data, data, size);
	if (ioctl(d->u.device, VFIO_DEVICE_FEATURE, &arg))
		return -errno;
	memcpy(data, arg.data, size);

	return 0;
}

static int v2_get_u64(const struct dev *d, __u32 feature, __u64 *value)
{
	*value = ~0ULL;

	return v2_feature(d, sizeof(struct vfio_device_feature) +
			  sizeof(*value), VFIO_DEVICE_FEATURE_GET | feature,
			  value, sizeof(*value));
}

int v2_flags(const struct dev *d, __u64 *flags)
{
	return v2_get_u64(d, V2_MIGRATION, flags);
}

int v2_data_size(const struct dev *d, __u64 *size)
{
	return v2_get_u64(d, V2_DATA_SIZE, size);
}

/* The state, or a negative errno */
int v2_get(const struct dev *d)
{
	__s32 state[2] = { -1, 12345 };
	int ret;

	ret = v2_feature(d, sizeof(struct vfio_device_feature) +
			 sizeof(state), VFIO_DEVICE_FEATURE_GET |
			 V2_DEVICE_STATE, state, sizeof(state));
	if (ret)
		return ret;

	return state[1] == -1 ? state[0] : -EBADMSG;
}

/* @fd is -1 unless a session has begun */
int v2_set(const struct dev *d, __u32 state, int *fd)
{
	__s32 arg[2] = { state, -1 };
	int ret;

	ret = v2_feature(d, sizeof(struct vfio_device_feature) +
			 sizeof(arg), VFIO_DEVICE_FEATURE_SET |
			 V2_DEVICE_STATE, arg, sizeof(arg));
	*fd = ret ? -1 : arg[1];

	return ret;
}

/*
 * Does the core of VFIO have version 2 itself?  It does where it has a device of
 * its own for each one, which it got before.
 */
bool core_has_v2(const struct dev *d)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/vfio-dev",
		 d->name);

	return !access(path, F_OK);
}

/* To a state that has no descriptor, or whose descriptor nobody needs */
int v2_go(const struct dev *d, __u32 state)
{
	int fd, ret = v2_set(d, state, &fd);

	if (fd >= 0)
		close(fd);

	return ret;
}

int v2_precopy_get(int fd, __u64 *initial, __u64 *dirty)
{
	struct v2_precopy info = { .argsz = sizeof(info), .flags = ~0U };

	if (ioctl(fd, V2_PRECOPY_INFO, &info))
		return -errno;
	*initial = info.initial;
	*dirty = info.dirty;

	return info.flags ? -EBADMSG : 0;
}

long v2_read(int fd, void *buf, size_t len)
{
	ssize_t n = read(fd, buf, len);

	return n < 0 ? -errno : n;
}

long v2_write(int fd, const void *buf, size_t len)
{
	ssize_t n = write(fd, buf, len);

	return n < 0 ? -errno : n;
}

/* All that there is, up to 4 MiB.  1 if there may be more, 0 at the end. */
int v2_drain(int fd, struct stream *s, size_t piece)
{
	size_t limit = 4 << 20;
	long n;

	if (!s->room) {
		s->data = malloc(limit);
		if (!s->data)
			return -ENOMEM;
		s->room = limit;
	}
	for (;;) {
		if (s->size + piece > s->room)
			return -E2BIG;
		n = v2_read(fd, s->data + s->size, piece);
		if (n <= 0)
			return n == -ENOMSG ? 1 : n;
		s->size += n;
	}
}

int v2_fill(int fd, const void *data, size_t size, size_t piece)
{
	size_t done;
	long n;

	for (done = 0; done < size; done += n) {
		n = v2_write(fd, (const char *)data + done,
			     piece < size - done ? piece : size - done);
		if (n <= 0)
			return n ?: -EIO;
	}

	return 0;
}

/* Stop the device and save all of its state */
int v2_save(const struct dev *d, struct stream *s, size_t piece)
{
	int fd, ret = v2_set(d, V2_SAVING, &fd);

	ret = ret ?: v2_drain(fd, s, piece);
	ret = ret ?: v2_go(d, V2_STOPPED);
	if (fd >= 0)
		close(fd);

	return ret;
}

int v2_load(const struct dev *d, const struct stream *s, size_t piece)
{
	int fd, ret = v2_set(d, V2_RESUMING, &fd);

	ret = ret ?: v2_fill(fd, s->data, s->size, piece);
	ret = ret ?: v2_go(d, V2_RUNNING);
	if (fd >= 0)
		close(fd);

	return ret;
}
