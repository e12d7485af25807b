/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The programmable driver in vfio_test_migration.c, as its tests see it
 *
 * Each descriptor of /dev/vfio_test_migration is a device of its own, once it
 * was made by VFIO_TEST_MIGRATION_CREATE, with the migration region at offset
 * 0.  It takes VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_FEATURE and
 * VFIO_DEVICE_RESET as a VFIO device does.
 */
#ifndef VFIO_TEST_MIGRATION_H
#define VFIO_TEST_MIGRATION_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The callbacks, in the order of the structure */
enum {
	TEST_STOP,
	TEST_QUIESCE,
	TEST_START,
	TEST_SAVE_BEGIN,
	TEST_SAVE_END,
	TEST_NEXT,
	TEST_PENDING,
	TEST_SAVE,
	TEST_LOAD_BEGIN,
	TEST_LOAD,
	TEST_LOADED,
	TEST_RESET,
	TEST_CALLBACKS
};

/* What is wrong with the parameters of a device that is to be refused */
enum {
	TEST_RIGHT,
	TEST_NO_OPS,
	TEST_NO_STOP,
	TEST_NO_START,
	TEST_NO_RESET,
	TEST_SAVE_ALONE,
	TEST_LOAD_ALONE,
	TEST_NEXT_ALONE,
	TEST_PENDING_ALONE,
	TEST_BEGIN_WITHOUT_NEXT,
	TEST_NO_CALLBACK_FOR_THE_REST,
	TEST_NO_TYPE,
	TEST_EMPTY_TYPE,
	TEST_LONG_TYPE,
	TEST_NO_STATE,
	TEST_HUGE_STATE,
	TEST_MEMORY_BEYOND_THE_STATE,
	TEST_MEMORY_NOT_IN_PAGES,
	TEST_MEMORY_MISSING,
	TEST_MEMORY_SIZE_MISSING,
	TEST_MEMORY_NOT_FROM_VMALLOC,
	TEST_OFFSET_NOT_A_PAGE,
	TEST_OFFSET_TOO_HIGH,
	TEST_WINDOW_TOO_BIG,
	TEST_SECTION_IN_MEMORY,
	TEST_SECTION_BEYOND_THE_STATE,
	TEST_SECTION_EMPTY,
	TEST_SECTIONS_OUT_OF_ORDER,
	TEST_SECTIONS_TOO_BIG,
	TEST_SECTIONS_MISSING,
	TEST_NO_DEVICE,
	TEST_WRONG
};

/**
 * struct vfio_test_migration - a device
 * @state_size: bytes of state
 * @memory_size: of which in memory
 * @version: of the state
 * @oldest: version that it can load, or 0 for a driver without load_begin()
 * @window: bytes
 * @section_pos: where its section is, 0 for none
 * @section_len: bytes of it
 * @next: it has next() and pending()
 * @quiesce: it has quiesce()
 * @partial: a stream need not bring all
 * @mmap: offers its data for mmap
 * @wrong: what is wrong with its parameters
 */
struct vfio_test_migration {
	__u64 state_size;
	__u64 memory_size;
	__u32 version;
	__u32 oldest;
	__u32 window;
	__u32 section_pos;
	__u32 section_len;
	__u32 next;
	__u32 quiesce;
	__u32 partial;
	__u32 mmap;
	__u32 wrong;
};

/**
 * struct vfio_test_failure - what a callback does
 * @callback: which
 * @after: calls that are still as they should be
 * @error: what the next ones return: a negative errno, or 0 for none
 * @reset: announce a reset of the device meanwhile
 * @hold: do not return until this is set anew, or the caller is killed
 */
struct vfio_test_failure {
	__u32 callback;
	__u32 after;
	__s32 error;
	__u32 reset;
	__u32 hold;
};

/**
 * struct vfio_test_calls_made - what was called
 * @calls: how often each callback was
 * @smallest: fewest bytes that save() or load() was asked for in the section
 * @version: that load_begin() was told
 * @size: that load_begin() was told
 * @running: the device runs
 * @wrong: callbacks that came when they must not
 */
struct vfio_test_calls_made {
	__u32 calls[TEST_CALLBACKS];
	__u32 smallest;
	__u32 version;
	__u64 size;
	__u32 running;
	__u32 wrong;
};

/* Bytes of the state that are written or read, and are dirty afterwards */
struct vfio_test_state {
	__u64 pos;
	__u64 len;
	__u64 buf;
	__u32 write;
	__u32 pad;
};

#define VFIO_TEST_MIGRATION_CREATE	_IOW('V', 0x60, struct vfio_test_migration)
#define VFIO_TEST_MIGRATION_FAULT	_IOW('V', 0x61, struct vfio_test_failure)
#define VFIO_TEST_MIGRATION_CALLS	_IOR('V', 0x62, struct vfio_test_calls_made)
#define VFIO_TEST_MIGRATION_STATE	_IOW('V', 0x63, struct vfio_test_state)
#define VFIO_TEST_MIGRATION_RESET_DONE	_IO('V', 0x64)
/* Nothing is dirty any more */
#define VFIO_TEST_MIGRATION_CLEAN	_IO('V', 0x65)

/*
 * A page of zeroes that does not come until it is given: what is mapped of a
 * descriptor that no device was made of.  How many wait for it, and give it.  LOSE
 * has it come, and be gone before anybody can use it, so many times before all
 * that; it returns how many of those there were to come.
 */
#define VFIO_TEST_MIGRATION_WAITERS	_IO('V', 0x66)
#define VFIO_TEST_MIGRATION_GIVE	_IO('V', 0x67)
#define VFIO_TEST_MIGRATION_LOSE	_IO('V', 0x68)

#endif /* VFIO_TEST_MIGRATION_H */
