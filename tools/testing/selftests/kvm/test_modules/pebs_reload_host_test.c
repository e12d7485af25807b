// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of the host's use of the reload MSRs, with no PMU at hand.
 *
 * intel_pmu_pebs_enable() is called for an event that this module makes up, with
 * a debug store of its own, and the tracepoint of MSR writes tells what it
 * writes.  The write itself is carried out, so this is for processors that ignore
 * writes to MSRs that they do not have, as emulators do.
 *
 * The function and perf's own data are not exported; they are found by name.
 * Offsets and numbers are written out here as the SDM has them.
 */
#include <kunit/test.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/intel_ds.h>
#include <asm/msr.h>
#include <asm/msr-trace.h>

#include "perf_event.h"

#define WIDTH_MASK		0xffffffffffffULL
#define FLAGS_VIA_PT		0x0800
#define FLAGS_AUTO_RELOAD	0x0200
/* What the debug store holds before */
#define STALE			0x5a5a5a5a5a5a5a5aULL
/* First reset value, 8 of general-purpose counters and 4 of fixed ones */
#define RESET_OFFSET		64
#define RESET_VALUES		12

static void (*pebs_enable)(struct perf_event *event);
static struct cpu_hw_events *hw_events;
static struct x86_pmu *pmu;

static struct perf_event *event;
static struct debug_store *store;

/* The writes that the tracepoint saw while the test was on */
static struct {
	struct task_struct *task;
	unsigned int n;
	u32 msr;
	u64 value;
} seen;

static void on_write(void *data, unsigned int msr, u64 value, int failed)
{
	if (seen.task != current || in_interrupt())
		return;
	seen.n++;
	seen.msr = msr;
	seen.value = value;
}

/* Only a probe can say where kallsyms_lookup_name() is. */
static int find_names(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup_name)(const char *name);
	int ret;

	if (pebs_enable)
		return 0;
	ret = register_kprobe(&probe);
	if (ret)
		return ret;
	lookup_name = (void *)probe.addr;
	unregister_kprobe(&probe);

	hw_events = (void *)lookup_name("cpu_hw_events");
	pmu = (void *)lookup_name("x86_pmu");
	if (hw_events && pmu)
		pebs_enable = (void *)lookup_name("intel_pmu_pebs_enable");
	return pebs_enable ? 0 : -ENOENT;
}

static bool host_msrs_can_be_written(void)
{
	static const u32 msrs[] = { 0x14c1, 0x1309, 0x14c1 + 32 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(msrs); i++)
		if (wrmsr_safe(msrs[i], 0, 0))
			return false;
	return true;
}

/* An event on counter @idx goes through intel_pmu_pebs_enable() */
static void enable(int idx, u32 flags, u64 period)
{
	struct debug_store *old_store;
	u64 old_mask, old_enabled;
	int cpu;

	memset(event, 0, sizeof(*event));
	event->hw.idx = idx;
	event->hw.flags = flags;
	event->hw.sample_period = period;
	memset(&seen, 0, sizeof(seen));

	/* No perf event is about here: nobody else uses these meanwhile. */
	cpu = get_cpu();
	old_store = per_cpu_ptr(hw_events, cpu)->ds;
	old_enabled = per_cpu_ptr(hw_events, cpu)->pebs_enabled;
	old_mask = pmu->cntval_mask;
	per_cpu_ptr(hw_events, cpu)->ds = store;
	pmu->cntval_mask = WIDTH_MASK;

	seen.task = current;
	pebs_enable(event);
	seen.task = NULL;

	pmu->cntval_mask = old_mask;
	per_cpu_ptr(hw_events, cpu)->pebs_enabled = old_enabled;
	per_cpu_ptr(hw_events, cpu)->ds = old_store;
	put_cpu();
}

static void make_stale(void)
{
	unsigned int i;

	for (i = 0; i < sizeof(*store) / sizeof(u64); i++)
		((u64 *)store)[i] = STALE + i;
}

/* The store is stale but for reset value number @which, which is @value. */
static bool check_store(struct kunit *test, int idx, unsigned int which,
			u64 value)
{
	unsigned int i;

	for (i = 0; i < sizeof(*store) / sizeof(u64); i++) {
		bool ours = i == RESET_OFFSET / sizeof(u64) + which;
		u64 expected = ours ? value : STALE + i;
		u64 is = ((u64 *)store)[i];

		if (is == expected)
			continue;
		KUNIT_FAIL(test, "counter %d, byte %zu of store: expected %#llx, seen %#llx\n",
			   idx, i * sizeof(u64), expected, is);
		return false;
	}
	return true;
}

static bool check_write(struct kunit *test, int idx, u32 msr, u64 value)
{
	if (seen.n == 1 && seen.msr == msr && seen.value == value)
		return true;
	KUNIT_FAIL(test, "counter %d: expected %#x = %#llx, seen %u writes, last %#x = %#llx\n",
		   idx, msr, value, seen.n, seen.msr, seen.value);
	return false;
}

static const u64 periods[] = { 1, 2, 100003, 0x7fffffff, 0x800000000000 };

static bool check(struct kunit *test, int idx, u32 msr, unsigned int which)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(periods); i++) {
		u64 reset = -periods[i] & WIDTH_MASK;

		make_stale();
		enable(idx, FLAGS_VIA_PT | FLAGS_AUTO_RELOAD, periods[i]);
		if (!check_write(test, idx, msr, reset) ||
		    !check_store(test, idx, which, reset))
			return false;
	}
	return true;
}

static void gp_counters(struct kunit *test)
{
	int i;

	for (i = 0; i < 8; i++)
		if (!check(test, i, 0x14c1 + i, i))
			return;
}

static void fixed_counters(struct kunit *test)
{
	int i;

	for (i = 0; i < 4; i++)
		if (!check(test, 32 + i, 0x1309 + i, 8 + i))
			return;
}

/* The reset value is 0, whatever was there, and nothing else is touched. */
static void without_auto_reload(struct kunit *test)
{
	int i;

	for (i = 0; i < RESET_VALUES; i++) {
		int idx = i < 8 ? i : 32 + i - 8;

		make_stale();
		enable(idx, FLAGS_VIA_PT, 1000);
		if (!check_write(test, idx, i < 8 ? 0x14c1 + i : 0x1309 + i - 8,
				 0) ||
		    !check_store(test, idx, i, 0))
			return;
	}
}

/* A record that goes to the debug store takes its reset value from there. */
static void output_to_debug_store(struct kunit *test)
{
	int i;

	for (i = 0; i < RESET_VALUES; i++) {
		int idx = i < 8 ? i : 32 + i - 8;

		make_stale();
		enable(idx, FLAGS_AUTO_RELOAD, 1000);
		if (seen.n) {
			KUNIT_FAIL(test, "counter %d: MSR %#x is written\n",
				   idx, seen.msr);
			return;
		}
		if (!check_store(test, idx, i, -1000ULL & WIDTH_MASK))
			return;
	}
}

static struct kunit_case pebs_reload_host_cases[] = {
	KUNIT_CASE(gp_counters),
	KUNIT_CASE(fixed_counters),
	KUNIT_CASE(without_auto_reload),
	KUNIT_CASE(output_to_debug_store),
	{}
};

static int pebs_reload_host_init(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, find_names(), 0);
	KUNIT_ASSERT_TRUE(test, host_msrs_can_be_written());
	KUNIT_ASSERT_EQ(test, (int)offsetof(struct debug_store, pebs_event_reset),
			RESET_OFFSET);
	store = kunit_kzalloc(test, sizeof(*store), GFP_KERNEL);
	event = kunit_kzalloc(test, sizeof(*event), GFP_KERNEL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, store);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, event);
	KUNIT_ASSERT_EQ(test, register_trace_write_msr(on_write, NULL), 0);
	return 0;
}

static void pebs_reload_host_exit(struct kunit *test)
{
	unregister_trace_write_msr(on_write, NULL);
	tracepoint_synchronize_unregister();
}

static struct kunit_suite pebs_reload_host_suite = {
	.name = "pebs_reload_host",
	.init = pebs_reload_host_init,
	.exit = pebs_reload_host_exit,
	.test_cases = pebs_reload_host_cases,
};

kunit_test_suite(pebs_reload_host_suite);

MODULE_DESCRIPTION("KUnit tests of how perf writes the reload MSRs");
MODULE_LICENSE("GPL v2");
