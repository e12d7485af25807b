// SPDX-License-Identifier: GPL-2.0
/*
 * Makes KVM see a PMU where the processor, as an emulator's, has none.
 *
 * While this module is loaded, perf_get_x86_pmu_capability() reports a PMU of
 * version 5 with the counters that the parameters say.  What is behind it is
 * not there: perf cannot create a hardware event, and KVM goes on with counters
 * that keep what is written to them and never count.  Load it before kvm-intel,
 * which asks when it is loaded and for each guest.
 *
 * Where perf can count something it refuses to be loaded.
 */
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <asm/perf_event.h>

static unsigned int gp = 8;
module_param(gp, uint, 0444);
MODULE_PARM_DESC(gp, "general-purpose counters");

static unsigned int fixed = 4;
module_param(fixed, uint, 0444);
MODULE_PARM_DESC(fixed, "fixed counters");

static unsigned int width = 48;
module_param(width, uint, 0444);
MODULE_PARM_DESC(width, "bits of a counter");

/* The argument is gone when the function returns: keep it. */
static int remember(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	*(void **)ri->data = (void *)regs->di;
	return 0;
}

static int fill_in(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct x86_pmu_capability *cap = *(void **)ri->data;

	cap->version = 5;
	cap->num_counters_gp = gp;
	cap->num_counters_fixed = fixed;
	cap->bit_width_gp = width;
	cap->bit_width_fixed = width;
	cap->events_mask = 0;
	cap->events_mask_len = 7;
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name = "perf_get_x86_pmu_capability",
	.entry_handler = remember,
	.handler = fill_in,
	.data_size = sizeof(void *),
	/* As many may be under way at the same time. */
	.maxactive = 64,
};

static bool perf_has_pmu(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_CPU_CYCLES,
		.disabled = 1,
	};
	struct perf_event *event;

	event = perf_event_create_kernel_counter(&attr, -1, current, NULL, NULL);
	if (IS_ERR(event))
		return false;
	perf_event_release_kernel(event);
	return true;
}

static int __init x86_pmu_stand_in_init(void)
{
	if (gp > INTEL_PMC_MAX_GENERIC || fixed > INTEL_PMC_MAX_FIXED ||
	    !width || width > 48)
		return -EINVAL;
	if (perf_has_pmu())
		return -EBUSY;
	return register_kretprobe(&probe);
}
module_init(x86_pmu_stand_in_init);

static void __exit x86_pmu_stand_in_exit(void)
{
	unregister_kretprobe(&probe);
}
module_exit(x86_pmu_stand_in_exit);

MODULE_DESCRIPTION("a PMU for KVM to see where the processor has none");
MODULE_LICENSE("GPL v2");
