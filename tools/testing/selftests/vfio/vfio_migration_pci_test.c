// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration of PCI devices that userspace has by vfio-pci
 *
 * The devices are two of QEMU's edu, each alone behind a port, where PCI can
 * reset them.  What lets them migrate is vfio_test_edu.ko, an
 * extension of vfio-pci.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/pci_regs.h>

#include "../kselftest_harness.h"
#include "vfio_migration_v2_lib.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define MODULE		"vfio_test_edu"
#define PARAMETERS	"/sys/module/" MODULE "/parameters/"
#define REGION		VFIO_PCI_NUM_REGIONS
#define OFFSET(index)	((__u64)(index) << 40)
#define STATE		40UL
#define STREAM		(56UL + 32 + STATE + 32)
/* The device has 28 address bits */
#define IOVA		0x01000000ULL
#define WAIT_MS		120000

/* The registers that are its state, and what they are after power-on */
static const unsigned int registers[] = {
	EDU_LIVENESS, EDU_FACTORIAL, EDU_STATUS, EDU_IRQ_STATUS,
	EDU_DMA_SOURCE, EDU_DMA_DESTINATION, EDU_DMA_COUNT,
};

#define REGISTERS	ARRAY_SIZE(registers)

struct edu {
	struct dev d;
	void *bar;
};

static struct pci_name names[2];

static int edu_map(struct edu *e)
{
	int ret = bus_master(&e->d, true);

	e->bar = NULL;
	if (ret)
		return ret;
	e->bar = mmap(NULL, EDU_BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		      e->d.u.device, e->d.regs.offset);
	if (e->bar == MAP_FAILED) {
		e->bar = NULL;
		return -errno;
	}

	return (edu_read(e->bar, EDU_ID) & EDU_ID_MASK) == EDU_ID_VALUE ?
	       0 : -ENXIO;
}

static int edu_open(struct edu *e)
{
	int ret = dev_open(&e->d);

	ret = ret ?: dev_map(&e->d);

	return ret ?: edu_map(e);
}

static void edu_close(struct edu *e)
{
	if (e->bar)
		munmap(e->bar, EDU_BAR_SIZE);
	e->bar = NULL;
	dev_close(&e->d);
}

/* Bound to vfio-pci; its group may have another number than before */
static int edu_take(struct edu *e, const char *name)
{
	int ret = pci_bind(name, "vfio-pci");

	memset(e, 0, sizeof(*e));
	e->d.u.container = -1;
	e->d.u.group = -1;
	e->d.u.device = -1;
	if (ret)
		return ret;
	snprintf(e->d.name, sizeof(e->d.name), "%.39s", name);
	e->d.group = pci_group(name);

	return e->d.group < 0 ? e->d.group : 0;
}

static void edu_compute(const struct edu *e, __u32 value)
{
	edu_write(e->bar, EDU_FACTORIAL, value);
	while (edu_read(e->bar, EDU_STATUS) & EDU_STATUS_COMPUTING)
		sched_yield();
}

/* Another state for each seed */
static void edu_fill(const struct edu *e, unsigned int seed)
{
	edu_write(e->bar, EDU_STATUS, 0);
	edu_write(e->bar, EDU_LIVENESS, 0x12345678 * seed);
	edu_compute(e, 4 + seed);
	edu_write(e->bar, EDU_IRQ_RAISE, 0x100 << seed);
	edu_write(e->bar, EDU_DMA_SOURCE, 0x123456789abcdef0ULL + seed);
	edu_write(e->bar, EDU_DMA_DESTINATION, 0x0fedcba987654321ULL + seed);
	edu_write(e->bar, EDU_DMA_COUNT, 0x8000000000000000ULL + seed);
}

static void edu_regs(const struct edu *e, __u64 *values)
{
	unsigned int i;

	for (i = 0; i < REGISTERS; i++)
		values[i] = edu_read(e->bar, registers[i]);
}

/* "" if they are as after power-on */
static const char *edu_not_pristine(const struct edu *e)
{
	__u64 values[REGISTERS];
	__u64 pending;

	if (state_get(&e->d) != RUNNING)
		return "state";
	if (v2_get(&e->d) != V2_RUNNING)
		return "state of version 2";
	if (pending_get(&e->d, &pending) || pending)
		return "pending_bytes";
	if (!all_zero(e->d.map + e->d.mig.area[0].offset,
		      e->d.mig.area[0].size))
		return "window";
	edu_regs(e, values);

	return all_zero(values, sizeof(values)) ? "" : "registers";
}

static int edu_save(const struct edu *e, struct stream *s, bool v2)
{
	return v2 ? v2_save(&e->d, s, 7) : save(&e->d, s, BY_MMAP);
}

static int edu_load(const struct edu *e, const struct stream *s, bool v2)
{
	return v2 ? v2_load(&e->d, s, 11) : resume(&e->d, s, BY_QEMU, 8);
}

/* 0 if all of a state gets from one to the other */
static int edu_migrates(const struct edu *from, const struct edu *to,
			unsigned int seed)
{
	__u64 want[REGISTERS], have[REGISTERS];
	struct stream s = {};
	int ret;

	edu_fill(from, seed);
	edu_regs(from, want);
	ret = edu_save(from, &s, seed & 1);
	ret = ret ?: edu_load(to, &s, !(seed & 1));
	stream_free(&s);
	ret = ret ?: state_set(&from->d, RUNNING);
	if (ret)
		return ret;
	edu_regs(to, have);

	return memcmp(want, have, sizeof(want)) ? -EBADMSG : 0;
}

/* How many devices hold the module */
static int references(void)
{
	FILE *f = fopen("/sys/module/" MODULE "/refcnt", "re");
	int n;

	if (!f)
		return -errno;
	if (fscanf(f, "%d", &n) != 1)
		n = -EIO;
	fclose(f);

	return n;
}

static int param(const char *name, int value)
{
	char path[128], text[16];

	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	snprintf(text, sizeof(text), "%d", value);

	return file_write(path, text);
}

FIXTURE(pci)
{
	struct edu a;
	struct edu b;
	struct stream s;
	struct stream t;
};

FIXTURE_SETUP(pci)
{
	/* A case that was cut short may have left it in any way */
	ASSERT_EQ(0, module_load(MODULE));
	ASSERT_EQ(0, param("open_error", 0));
	ASSERT_EQ(0, param("mmap", 1));
	ASSERT_EQ(0, edu_take(&self->a, names[0].s));
	ASSERT_EQ(0, edu_take(&self->b, names[1].s));
	ASSERT_EQ(0, edu_open(&self->a));
	ASSERT_EQ(0, edu_open(&self->b));
}

FIXTURE_TEARDOWN(pci)
{
	edu_close(&self->a);
	edu_close(&self->b);
	stream_free(&self->s);
	stream_free(&self->t);
}

/*
 * The region
 */

/* All that is said of it, byte for byte */
TEST_F(pci, region_is_described)
{
	struct {
		struct vfio_region_info info;
		struct vfio_region_info_cap_type type;
		struct vfio_region_info_cap_sparse_mmap sparse;
		struct vfio_region_sparse_mmap_area area;
	} want = {
		.info = {
			.argsz = sizeof(want),
			.flags = VFIO_REGION_INFO_FLAG_READ |
				 VFIO_REGION_INFO_FLAG_WRITE |
				 VFIO_REGION_INFO_FLAG_MMAP |
				 VFIO_REGION_INFO_FLAG_CAPS,
			.index = REGION,
			.cap_offset = sizeof(want.info),
			.size = 2 * PAGE,
			.offset = OFFSET(REGION),
		},
		.type = {
			.header = {
				.id = VFIO_REGION_INFO_CAP_TYPE,
				.version = 1,
				.next = sizeof(want.info) + sizeof(want.type),
			},
			.type = VFIO_REGION_TYPE_MIGRATION,
			.subtype = VFIO_REGION_SUBTYPE_MIGRATION,
		},
		.sparse = {
			.header = {
				.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP,
				.version = 1,
			},
			.nr_areas = 1,
		},
		.area = { .offset = PAGE, .size = PAGE },
	}, have;

	EXPECT_EQ(REGION + 1, self->a.d.info.num_regions);
	EXPECT_EQ(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
		  self->a.d.info.flags);

	memset(&have, 0, sizeof(have));
	have.info.argsz = sizeof(have.info);
	have.info.index = REGION;
	ASSERT_EQ(0, ioctl(self->a.d.u.device, VFIO_DEVICE_GET_REGION_INFO,
			   &have));
	EXPECT_EQ(sizeof(have), have.info.argsz);
	EXPECT_EQ(0, have.info.cap_offset);
	ASSERT_EQ(0, ioctl(self->a.d.u.device, VFIO_DEVICE_GET_REGION_INFO,
			   &have));
	EXPECT_EQ(0, memcmp(&want, &have, sizeof(want)));

	have.info.index = REGION + 1;
	EXPECT_EQ(-1, ioctl(self->a.d.u.device, VFIO_DEVICE_GET_REGION_INFO,
			    &have));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(pci, region_without_mmap)
{
	struct dev *d = &self->a.d;

	edu_close(&self->a);
	ASSERT_EQ(0, param("mmap", 0));
	ASSERT_EQ(0, dev_open(d));
	EXPECT_EQ(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
		  VFIO_REGION_INFO_FLAG_CAPS, d->mig.flags);
	EXPECT_EQ(true, d->mig.sparse);
	EXPECT_EQ(0, d->mig.areas);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
				   d->u.device, d->mig.offset + PAGE));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(0, edu_map(&self->a));
	ASSERT_EQ(0, save(d, &self->s, BY_QEMU));
	EXPECT_EQ(STREAM, self->s.size);
	ASSERT_EQ(0, param("mmap", 1));
}

TEST_F(pci, region_is_accessed)
{
	struct dev *d = &self->a.d;
	char buf[PAGE], *window = d->map + PAGE;
	__u64 value;

	/* The page of the header is trapped */
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
				   d->u.device, d->mig.offset));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED,
				   d->u.device, d->mig.offset + PAGE));
	EXPECT_EQ(EINVAL, errno);

	EXPECT_EQ(8, peek(d, OFF_PENDING, &value, 8));
	EXPECT_EQ(0, value);
	EXPECT_EQ(-EINVAL, peek(d, OFF_PENDING, &value, 4));
	EXPECT_EQ(-EFAULT, poke(d, OFF_PENDING, &value, 8));
	EXPECT_EQ(-EINVAL, peek(d, 2 * PAGE, &value, 8));
	EXPECT_EQ(-EINVAL, peek(d, OFFSET(1), &value, 8));
	EXPECT_EQ(PAGE, window_offset(d));

	/* What is written by calls is in the mapping, which cannot be dropped */
	ASSERT_EQ(0, state_set(d, RESUMING));
	pattern(buf, PAGE, 1);
	EXPECT_EQ(PAGE, poke(d, PAGE, buf, PAGE));
	EXPECT_EQ(0, memcmp(buf, window, PAGE));
	EXPECT_EQ(-1, madvise(window, PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, memcmp(buf, window, PAGE));
	EXPECT_EQ(-EINVAL, poke(d, PAGE + 8, buf, PAGE));

	/* Another descriptor of the device has the same */
	ASSERT_EQ(RESUMING, state_get(d));
	close(d->u.device);
	d->u.device = group_device(d->u.group, d->name);
	ASSERT_LE(0, d->u.device);
	EXPECT_EQ(RESUMING, state_get(d));
}

/*
 * The features
 */

TEST_F(pci, features_are_answered)
{
	struct dev *d = &self->a.d;
	size_t size = sizeof(struct vfio_device_feature);
	__u32 probe = VFIO_DEVICE_FEATURE_PROBE;
	__u32 get = VFIO_DEVICE_FEATURE_GET, set = VFIO_DEVICE_FEATURE_SET;
	__u64 value = 0;
	__u32 i;

	for (i = 0; i < 16; i++) {
		bool ours = i == V2_MIGRATION || i == V2_DEVICE_STATE ||
			    i == V2_DATA_SIZE;

		TH_LOG("feature %u", i);
		EXPECT_EQ(ours ? 0 : -ENOTTY,
			  v2_feature(d, size, probe | get | i, NULL, 0));
		EXPECT_EQ(!ours ? -ENOTTY : i == V2_DEVICE_STATE ? 0 : -EINVAL,
			  v2_feature(d, size, probe | set | i, NULL, 0));
		EXPECT_EQ(ours ? -EINVAL : -ENOTTY,
			  v2_feature(d, size, get | i, NULL, 0));
		EXPECT_EQ(-EINVAL, v2_feature(d, size, get | set | i, NULL, 0));
		EXPECT_EQ(-EINVAL, v2_feature(d, size - 1, get | i, NULL, 0));
		EXPECT_EQ(-EINVAL,
			  v2_feature(d, size, probe | (1U << 20) | i, NULL, 0));
	}
	EXPECT_EQ(0, v2_flags(d, &value));
	EXPECT_EQ(V2_STOP_COPY, value);
	EXPECT_EQ(0, v2_data_size(d, &value));
	EXPECT_EQ(STREAM, value);
	EXPECT_EQ(V2_RUNNING, v2_get(d));
	EXPECT_EQ(-EINVAL, v2_go(d, V2_RUNNING_P2P));
	EXPECT_EQ(-EINVAL, v2_go(d, V2_RUNNING_SAVING));
}

/*
 * Migration
 */

/* Each protocol saves the same, and loads what the other has saved */
TEST_F(pci, state_crosses_by_both_protocols)
{
	__u64 want[REGISTERS], have[REGISTERS];
	struct edu *a = &self->a, *b = &self->b;
	unsigned int from, to;

	for (from = 0; from < 2; from++) {
		for (to = 0; to < 2; to++) {
			TH_LOG("version %u to version %u", from + 1, to + 1);
			edu_fill(a, 1 + 2 * from + to);
			if (to)
				edu_write(a->bar, EDU_STATUS, EDU_STATUS_IRQ);
			edu_regs(a, want);
			ASSERT_EQ(EDU_STATUS_IRQ * to, want[2]);
			ASSERT_EQ(0, edu_save(a, &self->s, from));
			ASSERT_EQ(0, edu_save(a, &self->t, !from));
			ASSERT_EQ(STREAM, self->s.size);
			ASSERT_EQ(STREAM, self->t.size);
			EXPECT_EQ(0, memcmp(self->s.data, self->t.data,
					    STREAM));
			ASSERT_EQ(0, edu_load(b, &self->s, to));
			edu_regs(b, have);
			EXPECT_EQ(0, memcmp(want, have, sizeof(want)));
			EXPECT_EQ(RUNNING, state_get(&b->d));
			ASSERT_EQ(0, state_set(&a->d, RUNNING));
			stream_free(&self->s);
			stream_free(&self->t);
		}
	}
}

/* The device has stopped when it is said to have, and what it did has ended */
TEST_F(pci, stop_waits_for_the_device)
{
	struct edu *a = &self->a;
	char *guest = page_alloc(PAGE);

	ASSERT_NE(NULL, guest);
	ASSERT_EQ(0, container_map(a->d.u.container, guest, IOVA, PAGE));
	strcpy(guest, "through the IOMMU");
	edu_dma(a->bar, IOVA, EDU_MEMORY, 64, 0);
	memset(guest, 0, PAGE);
	edu_dma_start(a->bar, EDU_MEMORY, IOVA, 64, EDU_DMA_FROM_DEVICE);
	ASSERT_EQ(EDU_DMA_START,
		  edu_read(a->bar, EDU_DMA_COMMAND) & EDU_DMA_START);
	ASSERT_EQ(0, state_set(&a->d, STOP));
	EXPECT_EQ(0, edu_read(a->bar, EDU_DMA_COMMAND) & EDU_DMA_START);
	EXPECT_STREQ("through the IOMMU", guest);
	ASSERT_EQ(0, container_unmap(a->d.u.container, IOVA, PAGE));
}

/* Userspace may have taken the device's memory away, which is its own business */
TEST_F(pci, memory_that_is_disabled)
{
	struct edu *a = &self->a, *b = &self->b;
	__u64 want[REGISTERS], have[REGISTERS];
	__u16 command;

	edu_fill(a, 1);
	edu_regs(a, want);
	command = 0;
	ASSERT_EQ(2, pwrite(a->d.u.device, &command, 2,
			    a->d.config.offset + PCI_COMMAND));
	ASSERT_EQ(2, pwrite(b->d.u.device, &command, 2,
			    b->d.config.offset + PCI_COMMAND));
	ASSERT_EQ(0, edu_save(a, &self->s, false));
	ASSERT_EQ(0, edu_load(b, &self->s, true));
	ASSERT_EQ(2, pread(b->d.u.device, &command, 2,
			   b->d.config.offset + PCI_COMMAND));
	EXPECT_EQ(0, command & PCI_COMMAND_MEMORY);
	ASSERT_EQ(0, bus_master(&b->d, true));
	edu_regs(b, have);
	EXPECT_EQ(0, memcmp(want, have, sizeof(want)));
}

/*
 * Interrupts
 */

/* -1 disconnects */
static int intx_connect(const struct dev *d, int eventfd)
{
	char buf[sizeof(struct vfio_irq_set) + sizeof(__s32)] = {};
	struct vfio_irq_set *set = (void *)buf;

	set->argsz = sizeof(buf);
	set->index = VFIO_PCI_INTX_IRQ_INDEX;
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
	set->count = 1;
	memcpy(set->data, &eventfd, sizeof(__s32));
	if (eventfd < 0) {
		set->argsz = sizeof(*set);
		set->flags = VFIO_IRQ_SET_ACTION_TRIGGER |
			     VFIO_IRQ_SET_DATA_NONE;
		set->count = 0;
	}

	return ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, set) ? -errno : 0;
}

/* As a virtual machine does when its guest has seen to the interrupt */
static int intx_unmask(const struct dev *d)
{
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.flags = VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_DATA_NONE,
		.index = VFIO_PCI_INTX_IRQ_INDEX,
		.count = 1,
	};

	return ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, &set) ? -errno : 0;
}

/* How often the host was interrupted by a line that the device is on, or -1 */
static long intx_count(const char *name)
{
	FILE *f = fopen("/proc/interrupts", "re");
	char line[1024], wanted[64], *at, *end;
	long sum = -1, n;

	snprintf(wanted, sizeof(wanted), "vfio-intx(%.40s)", name);
	while (f && fgets(line, sizeof(line), f)) {
		at = strchr(line, ':');
		if (!at || !strstr(line, wanted))
			continue;
		sum = 0;
		for (at++;; at = end) {
			n = strtol(at, &end, 10);
			if (end == at)
				break;
			sum += n;
		}
	}
	if (f)
		fclose(f);

	return sum;
}

/* What an eventfd was signalled since, without waiting for it */
static __u64 signals(int fd)
{
	__u64 count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

/*
 * An interrupt that the device raises while it is stopped is raised where its
 * state is loaded: userspace gets it once, and again only if it has not seen to
 * it when it wants the next one.  The host is not busy with it meanwhile.
 */
TEST_F(pci, interrupt_gets_to_the_destination)
{
	struct edu *a = &self->a, *b = &self->b;
	__u16 command = 0;
	struct pollfd event = { .events = POLLIN };
	unsigned int way;
	long before;

	event.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_LE(0, event.fd);
	for (way = 0; way < 6; way++) {
		bool disabled = way & 1, computed = way & 2, silent = way & 4;

		TH_LOG("way %u", way);
		edu_fill(a, 1);
		edu_write(a->bar, EDU_IRQ_ACKNOWLEDGE, ~0U);
		edu_write(a->bar, EDU_STATUS, computed ? EDU_STATUS_IRQ : 0);
		ASSERT_EQ(0, state_set(&a->d, STOP));
		if (!silent)
			edu_write(a->bar, EDU_IRQ_RAISE, 0x500);
		ASSERT_EQ(0, edu_save(a, &self->s, way & 2));
		edu_write(a->bar, EDU_IRQ_ACKNOWLEDGE, ~0U);
		ASSERT_EQ(0, state_set(&a->d, RUNNING));

		ASSERT_EQ(0, intx_connect(&b->d, event.fd));
		before = intx_count(b->d.name);
		ASSERT_LE(0, before);
		if (disabled)
			ASSERT_EQ(2, pwrite(b->d.u.device, &command, 2,
					    b->d.config.offset + PCI_COMMAND));
		ASSERT_EQ(0, edu_load(b, &self->s, way & 2));
		stream_free(&self->s);
		ASSERT_EQ(0, bus_master(&b->d, true));
		if (!silent) {
			ASSERT_EQ(1, poll(&event, 1, WAIT_MS));
			EXPECT_EQ(1, signals(event.fd));
			EXPECT_EQ(before + 1, intx_count(b->d.name));
			EXPECT_EQ(0x500, edu_read(b->bar, EDU_IRQ_STATUS));
			/* Nobody has acknowledged it */
			ASSERT_EQ(0, intx_unmask(&b->d));
			ASSERT_EQ(1, poll(&event, 1, WAIT_MS));
			EXPECT_EQ(1, signals(event.fd));
		}
		edu_write(b->bar, EDU_IRQ_ACKNOWLEDGE, ~0U);
		ASSERT_EQ(0, intx_unmask(&b->d));
		before = intx_count(b->d.name);
		EXPECT_EQ(0, signals(event.fd));
		/* It goes on with the next one */
		edu_write(b->bar, EDU_IRQ_RAISE, 1);
		ASSERT_EQ(1, poll(&event, 1, WAIT_MS));
		EXPECT_EQ(1, signals(event.fd));
		EXPECT_EQ(before + 1, intx_count(b->d.name));
		edu_write(b->bar, EDU_IRQ_ACKNOWLEDGE, ~0U);
		ASSERT_EQ(0, intx_connect(&b->d, -1));
		ASSERT_EQ(0, dev_reset(&b->d));
		ASSERT_EQ(0, bus_master(&b->d, true));
	}
	close(event.fd);
}

/* A refused stream leads to the error state, from which a reset leads out */
TEST_F(pci, wrong_state_is_refused)
{
	struct edu *a = &self->a, *b = &self->b;
	struct dev *d = &b->d;

	edu_fill(a, 1);
	ASSERT_EQ(0, edu_save(a, &self->s, false));
	self->s.data[STREAM / 2] ^= 1;
	ASSERT_EQ(0, state_set(d, RESUMING));
	EXPECT_EQ(-EINVAL, stream_load(d, &self->s, BY_MMAP, 0));
	EXPECT_EQ(-EINVAL, state_set(d, RUNNING));
	EXPECT_EQ(ERROR, state_get(d));
	EXPECT_EQ(V2_ERROR, v2_get(d));
	EXPECT_EQ(-EINVAL, state_set(d, RUNNING));
	EXPECT_EQ(-EINVAL, v2_go(d, V2_RUNNING));
	ASSERT_EQ(0, dev_reset(d));
	EXPECT_EQ(RUNNING, state_get(d));
	ASSERT_EQ(0, bus_master(d, true));
	ASSERT_EQ(0, state_set(&a->d, RUNNING));
	EXPECT_EQ(0, edu_migrates(a, b, 2));
}

/*
 * Resets
 */

static int hot_reset(const struct dev *d)
{
	struct {
		struct vfio_pci_hot_reset head;
		__s32 fd;
	} arg = {
		.head.argsz = sizeof(arg),
		.head.count = 1,
		.fd = d->u.group,
	};

	return ioctl(d->u.device, VFIO_DEVICE_PCI_HOT_RESET, &arg) ? -errno : 0;
}

/* However the device is reset, what was saved or loaded ends */
TEST_F(pci, reset_reaches_the_library)
{
	static const char * const ways[] = { "ioctl", "hot reset", "sysfs" };
	struct edu *a = &self->a;
	char buf[STREAM];
	unsigned int way;
	int fd;

	for (way = 0; way < ARRAY_SIZE(ways); way++) {
		TH_LOG("%s", ways[way]);
		ASSERT_EQ(0, v2_set(&a->d, way ? V2_SAVING : V2_RESUMING, &fd));
		switch (way) {
		case 0:
			ASSERT_EQ(8, v2_write(fd, "MIRG\1\0\0", 8));
			ASSERT_EQ(0, dev_reset(&a->d));
			EXPECT_EQ(-ENODEV, v2_write(fd, buf, 1));
			break;
		case 1:
			ASSERT_EQ(9, v2_read(fd, buf, 9));
			ASSERT_EQ(0, hot_reset(&a->d));
			EXPECT_EQ(-ENODEV, v2_read(fd, buf, 9));
			break;
		case 2:
			ASSERT_EQ(9, v2_read(fd, buf, 9));
			ASSERT_EQ(0, pci_file_write(names[0].s, "reset", "1"));
			EXPECT_EQ(-ENODEV, v2_read(fd, buf, 9));
			break;
		}
		close(fd);
		EXPECT_EQ(V2_RUNNING, v2_get(&a->d));
		EXPECT_EQ(RUNNING, state_get(&a->d));
		EXPECT_EQ(true, all_zero(a->d.map + PAGE, PAGE));
		ASSERT_EQ(0, bus_master(&a->d, true));
		EXPECT_EQ(0, edu_migrates(a, &self->b, 1 + way));
		ASSERT_EQ(0, state_set(&a->d, RUNNING));
	}
}

struct stopping {
	const struct dev *d;
	pid_t tid;
	int error;
};

static void *stopping_thread(void *arg)
{
	struct stopping *s = arg;

	__atomic_store_n(&s->tid, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	s->error = state_set(s->d, STOP);

	return NULL;
}

/*
 * A reset does not wait for a callback that is under way, which may need the
 * memory that the reset keeps it from.  It is taken note of when that ends.
 */
TEST_F(pci, reset_amid_a_callback)
{
	struct edu *a = &self->a;
	struct stopping s = { .d = &a->d };
	char *guest = page_alloc(PAGE);
	pthread_t thread;
	pid_t tid;
	char is;

	ASSERT_NE(NULL, guest);
	ASSERT_EQ(0, container_map(a->d.u.container, guest, IOVA, PAGE));
	edu_dma_start(a->bar, EDU_MEMORY, IOVA, 64, EDU_DMA_FROM_DEVICE);
	ASSERT_EQ(0, pthread_create(&thread, NULL, stopping_thread, &s));
	/* Until it sleeps, for the device, or has come back */
	do {
		sched_yield();
		tid = __atomic_load_n(&s.tid, __ATOMIC_SEQ_CST);
		is = tid ? thread_state(tid) : 'R';
	} while (is == 'R');
	EXPECT_EQ(0, dev_reset(&a->d));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, s.error);
	EXPECT_EQ(RUNNING, state_get(&a->d));
	ASSERT_EQ(0, container_unmap(a->d.u.container, IOVA, PAGE));
	ASSERT_EQ(0, bus_master(&a->d, true));
	EXPECT_EQ(0, edu_migrates(a, &self->b, 1));
}

/*
 * The end
 */

/* Bring a running device to a state of version 1, in the middle of things */
static int edu_enter(struct edu *e, unsigned int state)
{
	struct chunk c;
	int ret = enter(&e->d, state);

	if (ret)
		return ret;
	if (state == STOP_COPY)
		return chunk_next(&e->d, &c) == 1 ? 0 : -EIO;
	if (state == RESUMING)
		return stream_put(&e->d, "MIRG\1\0\0", 8, BY_MMAP);

	return 0;
}

/* Closed in any state, the next user finds it as after power-on */
TEST_F(pci, closed_in_each_state)
{
	static const unsigned int states[] = {
		RUNNING, STOP, STOP_COPY, PRE_COPY, RESUMING, ERROR,
	};
	struct edu *a = &self->a;
	__u16 command = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(states); i++) {
		TH_LOG("state %u", states[i]);
		edu_fill(a, 1 + i);
		edu_write(a->bar, EDU_STATUS, EDU_STATUS_IRQ);
		ASSERT_EQ(0, edu_enter(a, states[i]));
		/* Without memory there is less to be reset by */
		if (i & 1)
			ASSERT_EQ(2, pwrite(a->d.u.device, &command, 2,
					    a->d.config.offset + PCI_COMMAND));
		edu_close(a);
		EXPECT_EQ(-ENOENT, debug_get(&a->d, "state"));
		ASSERT_EQ(0, edu_open(a));
		EXPECT_STREQ("", edu_not_pristine(a));
	}
	EXPECT_EQ(0, edu_migrates(a, &self->b, 1));
}

/* A stream's descriptor outlives the device, and the module */
TEST_F(pci, stream_outlives_the_module)
{
	struct edu *a = &self->a;
	char buf[STREAM];
	int fd;

	ASSERT_EQ(0, v2_set(&a->d, V2_SAVING, &fd));
	ASSERT_EQ(9, v2_read(fd, buf, 9));
	edu_close(a);
	edu_close(&self->b);
	EXPECT_EQ(-ENODEV, v2_read(fd, buf, 9));
	ASSERT_EQ(0, module_unload(MODULE));
	EXPECT_EQ(-ENODEV, v2_read(fd, buf, 9));
	EXPECT_EQ(0, close(fd));
}

TEST_F(pci, module_stays_while_a_device_is_open)
{
	struct dev *d = &self->a.d;
	int second;

	ASSERT_EQ(2, references());
	edu_close(&self->b);
	ASSERT_EQ(1, references());
	EXPECT_EQ(-EAGAIN, module_unload(MODULE));
	second = group_device(d->u.group, d->name);
	ASSERT_LE(0, second);
	close(second);
	EXPECT_EQ(RUNNING, state_get(d));
	EXPECT_EQ(-EAGAIN, module_unload(MODULE));
	edu_close(&self->a);
	EXPECT_EQ(0, references());
	EXPECT_EQ(0, module_unload(MODULE));
	ASSERT_EQ(0, module_load(MODULE));
	ASSERT_EQ(0, edu_open(&self->a));
	ASSERT_EQ(0, edu_open(&self->b));
	EXPECT_EQ(0, edu_migrates(&self->a, &self->b, 1));
}

/* An extension that fails has the device not opened, or be as without it */
TEST_F(pci, extension_that_fails)
{
	struct edu *a = &self->a;
	struct dev *d = &a->d;

	edu_close(a);
	ASSERT_EQ(0, param("open_error", -ENOMEM));
	EXPECT_EQ(-ENOMEM, user_open(&d->u, d->group, d->name));
	EXPECT_EQ(-ENOMEM, user_open(&d->u, d->group, d->name));
	ASSERT_EQ(0, param("open_error", -ENODEV));
	EXPECT_EQ(-ENOENT, dev_open(d));
	EXPECT_EQ(REGION, d->info.num_regions);
	/* Nothing of the one that there was before answers */
	ASSERT_EQ(0, user_open(&d->u, d->group, d->name));
	EXPECT_EQ(-ENOTTY, v2_feature(d, sizeof(struct vfio_device_feature),
				      VFIO_DEVICE_FEATURE_PROBE |
				      VFIO_DEVICE_FEATURE_GET | V2_MIGRATION,
				      NULL, 0));
	user_close(&d->u);
	ASSERT_EQ(0, param("open_error", 0));
	edu_close(&self->b);
	/* None of them has kept it */
	EXPECT_EQ(0, module_unload(MODULE));
	ASSERT_EQ(0, module_load(MODULE));
	ASSERT_EQ(0, edu_open(a));
}

/*
 * A device that nothing is added to
 */

/* What vfio-pci answers, as bytes */
struct answers {
	char bytes[1 << 14];
	size_t size;
};

static void answer_add(struct answers *a, int ret, const void *data, size_t len)
{
	ret = ret < 0 ? -errno : ret;
	if (a->size + sizeof(ret) + len > sizeof(a->bytes))
		abort();
	memcpy(a->bytes + a->size, &ret, sizeof(ret));
	a->size += sizeof(ret);
	if (len)
		memcpy(a->bytes + a->size, data, len);
	a->size += len;
}

static void answers_of(int device, struct answers *a)
{
	char buf[256], config[256];
	__u32 *word = (void *)buf;
	unsigned int i, command;

	a->size = 0;
	for (command = 0; command < 2; command++) {
		for (i = 0; i < (command ? VFIO_PCI_NUM_IRQS + 2 : REGION);
		     i++) {
			memset(buf, 0x5a, sizeof(buf));
			word[0] = sizeof(buf);
			word[2] = i;
			answer_add(a, ioctl(device, command ?
					    VFIO_DEVICE_GET_IRQ_INFO :
					    VFIO_DEVICE_GET_REGION_INFO, buf),
				   buf, sizeof(buf));
		}
	}
	memset(config, 0x5a, sizeof(config));
	answer_add(a, pread(device, config, sizeof(config),
			    OFFSET(VFIO_PCI_CONFIG_REGION_INDEX)),
		   config, sizeof(config));
}

TEST_F(pci, device_without_extension_is_as_ever)
{
	static struct answers with, without;
	struct dev *d = &self->a.d;
	size_t size = sizeof(struct vfio_device_feature);
	struct vfio_region_info info = { .argsz = sizeof(info) };
	__u32 flags[] = {
		0, VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET,
		VFIO_DEVICE_FEATURE_PROBE,
		VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET,
		VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET,
	};
	char data[32] = {};
	unsigned int i, j;
	__u64 value;

	answers_of(d->u.device, &with);
	edu_close(&self->a);
	edu_close(&self->b);
	ASSERT_EQ(0, module_unload(MODULE));

	ASSERT_EQ(0, user_open(&d->u, d->group, d->name));
	d->info.argsz = sizeof(d->info);
	ASSERT_EQ(0, ioctl(d->u.device, VFIO_DEVICE_GET_INFO, &d->info));
	EXPECT_EQ(REGION, d->info.num_regions);
	EXPECT_EQ(VFIO_PCI_NUM_IRQS, d->info.num_irqs);
	EXPECT_EQ(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
		  d->info.flags);
	ASSERT_EQ(0, bus_master(d, true));
	answers_of(d->u.device, &without);
	ASSERT_EQ(with.size, without.size);
	EXPECT_EQ(0, memcmp(with.bytes, without.bytes, with.size));

	for (i = REGION; i < REGION + 3; i++) {
		info.index = i;
		EXPECT_EQ(-1, ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO,
				    &info));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, pread(d->u.device, &value, 8, OFFSET(i)));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, pwrite(d->u.device, &value, 8, OFFSET(i)));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
					   d->u.device, OFFSET(i) + PAGE));
		EXPECT_EQ(EINVAL, errno);
	}
	for (i = 0; i < 16; i++) {
		for (j = 0; j < ARRAY_SIZE(flags); j++)
			EXPECT_EQ(-ENOTTY,
				  v2_feature(d, size + sizeof(data),
					     flags[j] | i, data, sizeof(data)));
		EXPECT_EQ(-EINVAL, v2_feature(d, size, flags[1] | flags[2] | i,
					      NULL, 0));
		EXPECT_EQ(-EINVAL, v2_feature(d, size - 1, flags[3] | i, NULL,
					      0));
	}

	/* It is for those who open the device, and this one has it open */
	ASSERT_EQ(0, module_load(MODULE));
	EXPECT_EQ(0, dev_reset(d));
	EXPECT_EQ(0, hot_reset(d));
	info.index = REGION;
	EXPECT_EQ(-1, ioctl(d->u.device, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(0, module_unload(MODULE));
	user_close(&d->u);
	/* One reset is without anybody, and without an extension */
	EXPECT_EQ(0, pci_file_write(names[0].s, "reset", "1"));
}

/*
 * The device is taken away
 */

static void *unbind_thread(void *arg)
{
	int *error = arg;

	*error = pci_file_write(names[0].s, "driver/unbind", names[0].s);

	return NULL;
}

static int request_connect(const struct dev *d, int eventfd)
{
	char buf[sizeof(struct vfio_irq_set) + sizeof(__s32)] = {};
	struct vfio_irq_set *set = (void *)buf;

	set->argsz = sizeof(buf);
	set->index = VFIO_PCI_REQ_IRQ_INDEX;
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
	set->count = 1;
	memcpy(set->data, &eventfd, sizeof(__s32));

	return ioctl(d->u.device, VFIO_DEVICE_SET_IRQS, set) ? -errno : 0;
}

/* It waits for the user, for whom all goes on, and then nothing is left */
TEST_F(pci, unbound_while_open)
{
	struct edu *a = &self->a;
	struct pollfd request = { .events = POLLIN };
	pthread_t thread;
	int fd, error;
	char buf[9];

	request.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, request.fd);
	ASSERT_EQ(0, request_connect(&a->d, request.fd));
	ASSERT_EQ(0, v2_set(&a->d, V2_SAVING, &fd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, unbind_thread, &error));
	ASSERT_EQ(1, poll(&request, 1, WAIT_MS));
	EXPECT_EQ(-EAGAIN, dev_reset(&a->d));
	EXPECT_EQ(9, v2_read(fd, buf, 9));
	ASSERT_EQ(0, v2_go(&a->d, V2_RUNNING));
	close(fd);
	EXPECT_EQ(0, edu_migrates(a, &self->b, 1));
	ASSERT_EQ(0, state_set(&self->b.d, RUNNING));
	EXPECT_EQ(-EAGAIN, module_unload(MODULE));

	edu_close(a);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, error);
	close(request.fd);
	EXPECT_EQ(-ENOENT, debug_get(&a->d, "state"));
	ASSERT_EQ(0, edu_take(a, names[0].s));
	ASSERT_EQ(0, edu_open(a));
	EXPECT_EQ(0, edu_migrates(&self->b, a, 3));
}

/* The last fixture: what all cases together have left behind */
FIXTURE(references) {
};

FIXTURE_SETUP(references)
{
	unsigned int i;

	/* A case that was cut short has failed already */
	ASSERT_EQ(0, module_load(MODULE));
	for (i = 0; i < ARRAY_SIZE(names); i++)
		ASSERT_EQ(0, pci_bind(names[i].s, "\n"));
}

FIXTURE_TEARDOWN(references)
{
}

TEST_F(references, modules_can_be_removed)
{
	EXPECT_EQ(0, module_unload(MODULE));
	EXPECT_EQ(0, module_unload("vfio_pci"));
	EXPECT_EQ(0, module_load("vfio_pci"));
	EXPECT_EQ(0, module_load(MODULE));
}

int main(int argc, char **argv)
{
	if (edu_find(EDU_CAN_BE_RESET, names, ARRAY_SIZE(names)) < 2)
		ksft_exit_skip("no two edu devices behind an IOMMU can be reset\n");

	return test_harness_run(argc, argv);
}
