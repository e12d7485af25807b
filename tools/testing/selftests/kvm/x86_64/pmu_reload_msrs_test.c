// SPDX-License-Identifier: GPL-2.0
/*
 * The reload MSRs of PEBS output to Intel PT: MSR_RELOAD_PMCx, one for each
 * general-purpose counter, MSR_RELOAD_FIXED_CTRx and IA32_PEBS_ENABLE.
 *
 * They are for guests that have PEBS_OUTPUT_PT_AVAIL in their
 * IA32_PERF_CAPABILITIES, which kvm-intel's parameter pebs_output_pt allows.
 * Where it does not, and on other processors, the test sees that everything is
 * refused.  Each register is tried by userspace and by the guest, and by a guest
 * of the guest.
 *
 * Numbers are written out here as the SDM has them.
 *
 * With the argument "on" the module was loaded with the parameter, with "default"
 * without parameters.  With "bench" it tells what the exits of some MSRs cost
 * instead.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "vmx.h"
#include "../../kselftest.h"

#define VCPU_ID			0

#define PMC0			0x0c1
#define EVENTSEL0		0x186
#define FIXED_CTR0		0x309
#define PERF_CAPABILITIES	0x345
#define PEBS_ENABLE		0x3f1
#define FULL_WIDTH_PMC0		0x4c1
#define RELOAD_FIXED_CTR0	0x1309
#define RELOAD_PMC0		0x14c1

#define CAP_FULL_WIDTH		BIT_ULL(13)
#define CAP_PEBS_OUTPUT_PT	BIT_ULL(16)
#define PEBS_PMI		BIT_ULL(60)
#define PEBS_OUTPUT_PT		BIT_ULL(61)

#define CPUID_1_ECX_PDCM	BIT(15)
#define CPUID_PMU		0xa

/* The most reload MSRs there are */
#define MAX_GP			8
#define MAX_FIXED		4

/* What x86_pmu_stand_in offers; of more than eight counters eight have one. */
static unsigned int gp = MAX_GP, fixed = MAX_FIXED, width = 48;
static unsigned int host_gp;

/* The registers and their surroundings */
struct range {
	uint32_t first, last;
};

static const struct range surroundings[] = {
	{ 0x1300, 0x1318 },
	{ 0x14b8, 0x14d8 },
};

static struct kvm_vm *vm;

/* What the names of the cases begin with */
static char prefix[64];

#define check(good, fmt, ...)	\
	ksft_test_result(good, "%s" fmt, prefix, ##__VA_ARGS__)

/* What the guest is asked to do; at the same address on both sides. */
struct access {
	uint64_t value;
	uint32_t msr;
	bool write;
	bool nested;
	bool refused;
};

static struct access access_request;

static void carry_out(void)
{
	struct access *a = &access_request;
	uint32_t low = a->value, high = a->value >> 32;

	if (a->write) {
		asm volatile("wrmsr" : : "a"(low), "d"(high), "c"(a->msr)
			     : "memory");
	} else {
		asm volatile("rdmsr" : "+a"(low), "+d"(high) : "c"(a->msr)
			     : "memory");
		a->value = (uint64_t)high << 32 | low;
	}
}

/* Both instructions are two bytes long. */
static void on_general_protection(struct ex_regs *regs)
{
	access_request.refused = true;
	regs->rip += 2;
}

static void l2_code(void)
{
	carry_out();
	asm volatile("vmcall");
}

static void run_l2(struct vmx_pages *vmx)
{
	static unsigned long l2_stack[64];
	uint32_t control;

	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_code, &l2_stack[64]);
	/* The bitmap is all zeroes: the guest takes part in no access. */
	control = vmreadz(CPU_BASED_VM_EXEC_CONTROL);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL, control | CPU_BASED_USE_MSR_BITMAPS);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT(vmreadz(VM_EXIT_REASON) == EXIT_REASON_VMCALL);
}

static void guest_code(struct vmx_pages *vmx)
{
	bool vmx_on = false;

	for (;;) {
		if (access_request.nested && !vmx_on)
			GUEST_ASSERT(prepare_for_vmx_operation(vmx));
		vmx_on |= access_request.nested;
		if (access_request.nested)
			run_l2(vmx);
		else
			carry_out();
		GUEST_SYNC(0);
	}
}

/* Who accesses a register */
enum who { USERSPACE, GUEST, NESTED_GUEST };

static const char * const whose[] = {
	"userspace", "the guest", "the guest's guest",
};

static bool guest_access(uint32_t msr, bool write, bool nested, uint64_t *value)
{
	struct access *a = addr_gva2hva(vm, (vm_vaddr_t)&access_request);
	struct ucall uc;

	*a = (struct access) {
		.msr = msr, .write = write, .nested = nested, .value = *value,
	};
	vcpu_run(vm, VCPU_ID);
	if (get_ucall(vm, VCPU_ID, &uc) != UCALL_SYNC)
		ksft_exit_fail_msg("MSR 0x%x: the guest ended with exit reason %u, %s\n",
				   msr, vcpu_state(vm, VCPU_ID)->exit_reason,
				   uc.cmd == UCALL_ABORT ?
				   (const char *)uc.args[0] : "no ucall");
	*value = a->value;
	return !a->refused;
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

/* True if the register can be read. */
static bool get(enum who who, uint32_t msr, uint64_t *value)
{
	struct one_msr m = { .head.nmsrs = 1, .entry.index = msr };

	*value = 0;
	if (who != USERSPACE)
		return guest_access(msr, false, who == NESTED_GUEST, value);
	if (_vcpu_ioctl(vm, VCPU_ID, KVM_GET_MSRS, &m) != 1)
		return false;
	*value = m.entry.data;
	return true;
}

/* True if the register can be written. */
static bool set(enum who who, uint32_t msr, uint64_t value)
{
	struct one_msr m = {
		.head.nmsrs = 1, .entry = { .index = msr, .data = value },
	};

	if (who != USERSPACE)
		return guest_access(msr, true, who == NESTED_GUEST, &value);
	return _vcpu_ioctl(vm, VCPU_ID, KVM_SET_MSRS, &m) == 1;
}

/* True if the register reads @expected. */
static bool reads(enum who who, uint32_t msr, uint64_t expected)
{
	uint64_t value;

	if (!get(who, msr, &value)) {
		ksft_print_msg("MSR 0x%x cannot be read by %s\n", msr,
			       whose[who]);
		return false;
	}
	if (value == expected)
		return true;
	ksft_print_msg("MSR 0x%x: expected 0x%lx, seen 0x%lx\n", msr, expected,
		       value);
	return false;
}

/* True if the register takes a value and gives it back. */
static bool keeps(enum who who, uint32_t msr, uint64_t value)
{
	if (set(who, msr, value))
		return reads(who, msr, value);
	ksft_print_msg("MSR 0x%x: 0x%lx is refused\n", msr, value);
	return false;
}

/* True if the register takes no part of a value. */
static bool refuses(enum who who, uint32_t msr, uint64_t value)
{
	uint64_t before;

	if (!get(USERSPACE, msr, &before)) {
		ksft_print_msg("MSR 0x%x cannot be read\n", msr);
		return false;
	}
	if (set(who, msr, value)) {
		ksft_print_msg("MSR 0x%x: 0x%lx is accepted\n", msr, value);
		return false;
	}
	return reads(USERSPACE, msr, before);
}

static unsigned int times_listed(uint32_t msr);

/*
 * True if the vcpu has no such register.  What KVM_GET_MSR_INDEX_LIST names can
 * be saved nevertheless: userspace reads 0 and may write that back.
 */
static bool absent(enum who who, uint32_t msr)
{
	bool listed = who == USERSPACE && times_listed(msr);
	uint64_t value;

	if (get(who, msr, &value) != listed) {
		ksft_print_msg("MSR 0x%x can%s be read by %s\n", msr,
			       listed ? "not" : "", whose[who]);
		return false;
	}
	if (value) {
		ksft_print_msg("MSR 0x%x reads 0x%lx\n", msr, value);
		return false;
	}
	if (set(who, msr, 0) != listed) {
		ksft_print_msg("MSR 0x%x: 0 is %s\n", msr,
			       listed ? "refused" : "accepted");
		return false;
	}
	if (set(who, msr, 1)) {
		ksft_print_msg("MSR 0x%x: 1 is accepted\n", msr);
		return false;
	}
	return true;
}

static bool is_reload(uint32_t msr, unsigned int n_gp, unsigned int n_fixed)
{
	return (msr >= RELOAD_PMC0 && msr < RELOAD_PMC0 + n_gp) ||
	       (msr >= RELOAD_FIXED_CTR0 && msr < RELOAD_FIXED_CTR0 + n_fixed);
}

/* All registers that this is about, reload MSRs first */
static uint32_t all_msrs[MAX_GP + MAX_FIXED + 1];
static unsigned int n_msrs;

static void list_all_msrs(void)
{
	unsigned int i;

	for (i = 0; i < gp; i++)
		all_msrs[n_msrs++] = RELOAD_PMC0 + i;
	for (i = 0; i < fixed; i++)
		all_msrs[n_msrs++] = RELOAD_FIXED_CTR0 + i;
	all_msrs[n_msrs++] = PEBS_ENABLE;
}

static bool all_absent(enum who who)
{
	bool good = true;
	unsigned int i;

	for (i = 0; i < n_msrs; i++)
		good &= absent(who, all_msrs[i]);
	return good;
}

/* What the guest's CPUID says of its PMU */
static void set_pmu(unsigned int version, unsigned int n_gp,
		    unsigned int gp_width, unsigned int n_fixed,
		    unsigned int fixed_width, bool pdcm)
{
	struct kvm_cpuid2 *cpuid = kvm_get_supported_cpuid();
	unsigned int i;

	for (i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 1) {
			e->ecx &= ~CPUID_1_ECX_PDCM;
			if (pdcm)
				e->ecx |= CPUID_1_ECX_PDCM;
		} else if (e->function == CPUID_PMU) {
			e->eax = version | n_gp << 8 | gp_width << 16 | 7U << 24;
			e->ebx = 0;
			e->ecx = 0;
			e->edx = n_fixed | fixed_width << 5;
		}
	}
	vcpu_set_cpuid(vm, VCPU_ID, cpuid);
}

static void set_counters(unsigned int n_gp, unsigned int n_fixed)
{
	set_pmu(2, n_gp, width, n_fixed, width, true);
}

static bool set_capabilities(uint64_t value)
{
	return set(USERSPACE, PERF_CAPABILITIES, value);
}

static void new_vm(void)
{
	vm_vaddr_t vmx = 0;

	vm = vm_create_default(VCPU_ID, 0, guest_code);
	set_counters(gp, fixed);
	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(vm, VCPU_ID);
	vm_handle_exception(vm, 13, on_general_protection);
	if (nested_vmx_supported())
		vcpu_alloc_vmx(vm, &vmx);
	vcpu_args_set(vm, VCPU_ID, 1, vmx);
}

/* With the capability */
static void new_pebs_vm(void)
{
	new_vm();
	if (!set_capabilities(CAP_FULL_WIDTH | CAP_PEBS_OUTPUT_PT))
		ksft_exit_fail_msg("the capability cannot be set\n");
}

static int kvm_fd(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		ksft_exit_fail_msg("/dev/kvm: %m\n");
	return fd;
}

/* The value of a feature MSR, 0 if there is none */
static uint64_t feature_msr(uint32_t msr)
{
	struct one_msr m = { .head.nmsrs = 1, .entry.index = msr };
	int fd = kvm_fd();

	if (ioctl(fd, KVM_GET_MSRS, &m) != 1)
		m.entry.data = 0;
	close(fd);
	return m.entry.data;
}

/* The list that userspace saves by */
static const struct kvm_msr_list *index_list(void)
{
	static struct kvm_msr_list *list;

	if (!list) {
		struct kvm_msr_list size = { .nmsrs = 0 };
		int fd = kvm_fd();

		ioctl(fd, KVM_GET_MSR_INDEX_LIST, &size);
		list = calloc(1, sizeof(*list) + size.nmsrs * sizeof(__u32));
		list->nmsrs = size.nmsrs;
		if (ioctl(fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
			ksft_exit_fail_msg("KVM_GET_MSR_INDEX_LIST: %m\n");
		close(fd);
	}
	return list;
}

/* How often a register is in it */
static unsigned int times_listed(uint32_t msr)
{
	const struct kvm_msr_list *list = index_list();
	unsigned int i, n = 0;

	for (i = 0; i < list->nmsrs; i++)
		n += list->indices[i] == msr;
	return n;
}

/* Where a register is in the list, or where the list ends */
static unsigned int place_in_list(uint32_t msr)
{
	const struct kvm_msr_list *list = index_list();
	unsigned int i;

	for (i = 0; i < list->nmsrs && list->indices[i] != msr; i++)
		;
	return i;
}

static bool listed_are(unsigned int n_gp, unsigned int n_fixed, bool pebs_enable)
{
	bool good = times_listed(PEBS_ENABLE) == pebs_enable;
	unsigned int i;
	uint32_t msr;

	if (!good)
		ksft_print_msg("MSR 0x%x is listed %u times\n", PEBS_ENABLE,
			       times_listed(PEBS_ENABLE));
	for (i = 0; i < ARRAY_SIZE(surroundings); i++)
		for (msr = surroundings[i].first; msr <= surroundings[i].last;
		     msr++) {
			if (times_listed(msr) == is_reload(msr, n_gp, n_fixed))
				continue;
			ksft_print_msg("MSR 0x%x is listed %u times\n", msr,
				       times_listed(msr));
			good = false;
		}
	return good;
}

/*
 * Where KVM does not support it
 */

/*
 * How far KVM_SET_MSRS gets with what a host that has the parameter lists, in
 * the order of that list.
 */
static int restored(uint64_t capabilities)
{
	static struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[2 + MAX_GP + MAX_FIXED];
	} saved;
	unsigned int i, n = 0;

	saved.entries[n].index = PERF_CAPABILITIES;
	saved.entries[n++].data = capabilities;
	saved.entries[n++].index = PEBS_ENABLE;
	for (i = 0; i < MAX_FIXED; i++)
		saved.entries[n++].index = RELOAD_FIXED_CTR0 + i;
	for (i = 0; i < MAX_GP; i++)
		saved.entries[n++].index = RELOAD_PMC0 + i;
	saved.head.nmsrs = n;
	return _vcpu_ioctl(vm, VCPU_ID, KVM_SET_MSRS, &saved);
}

#define REFUSED_CASES		8

static void test_refused(void)
{
	uint64_t value = 0;

	value = feature_msr(PERF_CAPABILITIES);
	if (value & CAP_PEBS_OUTPUT_PT)
		ksft_print_msg("IA32_PERF_CAPABILITIES is 0x%lx\n", value);
	check(!(value & CAP_PEBS_OUTPUT_PT),
	      "off: the feature MSR does not have the capability\n");
	check(listed_are(0, 0, false),
	      "off: no register in the index list\n");
	new_vm();
	check(!set_capabilities(CAP_PEBS_OUTPUT_PT) &&
	      !set_capabilities(CAP_PEBS_OUTPUT_PT | CAP_FULL_WIDTH),
	      "off: the capability is refused\n");
	check(get(USERSPACE, PERF_CAPABILITIES, &value) &&
	      !(value & CAP_PEBS_OUTPUT_PT),
	      "off: the vcpu does not have the capability\n");
	check(all_absent(USERSPACE),
	      "off: all registers refused to userspace\n");
	check(all_absent(GUEST),
	      "off: all registers refused to the guest\n");
	check(restored(value | CAP_PEBS_OUTPUT_PT) == 0,
	      "off: a list saved with the capability stops at IA32_PERF_CAPABILITIES\n");
	check(restored(value) == 1,
	      "off: a list saved with the parameter stops at IA32_PEBS_ENABLE\n");
	kvm_vm_free(vm);
}

#define LIST_CASES		8

static void test_lists(void)
{
	uint64_t value = 0;

	check(feature_msr(PERF_CAPABILITIES) ==
	      (CAP_FULL_WIDTH | CAP_PEBS_OUTPUT_PT),
	      "feature MSR: has the capability\n");
	check(listed_are(gp, fixed, true),
	      "index list: the registers and nothing near them\n");

	check(place_in_list(PERF_CAPABILITIES) < place_in_list(PEBS_ENABLE) &&
	      place_in_list(PEBS_ENABLE) < place_in_list(RELOAD_FIXED_CTR0) &&
	      place_in_list(PEBS_ENABLE) < place_in_list(RELOAD_PMC0),
	      "index list: the capability first, then IA32_PEBS_ENABLE\n");

	new_vm();
	if (!get(USERSPACE, PERF_CAPABILITIES, &value) ||
	    value != CAP_FULL_WIDTH)
		ksft_print_msg("IA32_PERF_CAPABILITIES is 0x%lx\n", value);
	check(value == CAP_FULL_WIDTH,
	      "new vcpu: does not have the capability\n");
	check(all_absent(USERSPACE) && all_absent(GUEST),
	      "new vcpu: all registers refused\n");
	check(!set_capabilities(CAP_PEBS_OUTPUT_PT | 1ULL << 15) &&
	      !set_capabilities(CAP_PEBS_OUTPUT_PT | 1ULL << 17) &&
	      !set_capabilities(CAP_PEBS_OUTPUT_PT << 1),
	      "capabilities: those around this one refused\n");
	check(!set(GUEST, PERF_CAPABILITIES, CAP_PEBS_OUTPUT_PT),
	      "capabilities: the guest cannot set them\n");
	check(set_capabilities(CAP_PEBS_OUTPUT_PT) &&
	      reads(GUEST, PERF_CAPABILITIES, CAP_PEBS_OUTPUT_PT),
	      "capabilities: the guest sees what userspace set\n");
	kvm_vm_free(vm);
}

/* General-purpose and fixed counters of a guest */
static const struct counters {
	unsigned int gp, fixed;
} counters[] = {
	{ 0, 4 }, { 1, 0 }, { 1, 1 }, { 2, 3 }, { 4, 3 }, { 5, 2 }, { 7, 4 },
	{ 8, 0 }, { 8, 4 },
};

static unsigned int at_most(unsigned int n, unsigned int most)
{
	return n < most ? n : most;
}

static bool ranges_are_right(enum who who, unsigned int n_gp,
			     unsigned int n_fixed)
{
	bool good = true;
	unsigned int i;
	uint32_t msr;

	for (i = 0; i < ARRAY_SIZE(surroundings); i++)
		for (msr = surroundings[i].first; msr <= surroundings[i].last;
		     msr++) {
			if (is_reload(msr, n_gp, n_fixed))
				good &= keeps(who, msr, msr) &&
					keeps(who, msr, 0);
			else
				good &= absent(who, msr);
		}
	return good;
}

#define RANGE_CASES		(2 * ARRAY_SIZE(counters) + 3)

static void test_ranges(void)
{
	unsigned int i;

	new_pebs_vm();
	for (i = 0; i < ARRAY_SIZE(counters); i++) {
		unsigned int n_gp = at_most(counters[i].gp, gp);
		unsigned int n_fixed = at_most(counters[i].fixed, fixed);

		set_counters(counters[i].gp, counters[i].fixed);
		check(ranges_are_right(USERSPACE, n_gp, n_fixed),
		      "%u and %u counters: their reload MSRs and no other, userspace\n",
		      counters[i].gp, counters[i].fixed);
		check(ranges_are_right(GUEST, n_gp, n_fixed),
		      "%u and %u counters: their reload MSRs and no other, guest\n",
		      counters[i].gp, counters[i].fixed);
	}
	/* More than the processor has are not there for the guest either. */
	set_counters(18, 7);
	check(ranges_are_right(USERSPACE, gp, fixed),
	      "18 and 7 counters: those of the processor\n");
	set_pmu(1, 3, width, 3, width, true);
	check(ranges_are_right(USERSPACE, 3, 0),
	      "PMU of version 1: no fixed counter\n");
	set_pmu(0, gp, width, fixed, width, true);
	check(all_absent(USERSPACE) && all_absent(GUEST),
	      "no PMU: all registers refused\n");
	kvm_vm_free(vm);
}

static bool is_this_wide(enum who who, uint32_t msr, unsigned int bits)
{
	uint64_t top = 1ULL << bits;

	/* The ways of both meet where the value is checked. */
	if (who != USERSPACE)
		return keeps(who, msr, top - 1) && refuses(who, msr, top) &&
		       keeps(who, msr, 0);

	return keeps(who, msr, top - 1) && refuses(who, msr, top) &&
	       refuses(who, msr, top | (top >> 1)) &&
	       refuses(who, msr, 1ULL << 63) && refuses(who, msr, ~0ULL) &&
	       keeps(who, msr, top >> 1) && keeps(who, msr, 0);
}

#define WIDTH_CASES		(width + 1)

static void test_widths(void)
{
	unsigned int bits, others;
	bool good;

	new_pebs_vm();
	for (bits = 1; bits <= width; bits++) {
		/* Another one, so that they cannot be mistaken. */
		others = width + 1 - bits;
		set_pmu(2, gp, bits, fixed, others, true);
		good = is_this_wide(USERSPACE, RELOAD_PMC0, bits) &&
		       is_this_wide(GUEST, RELOAD_PMC0, bits) &&
		       is_this_wide(USERSPACE, RELOAD_PMC0 + gp - 1, bits) &&
		       is_this_wide(GUEST, RELOAD_PMC0 + gp - 1, bits) &&
		       is_this_wide(USERSPACE, RELOAD_FIXED_CTR0, others) &&
		       is_this_wide(GUEST, RELOAD_FIXED_CTR0, others) &&
		       is_this_wide(USERSPACE, RELOAD_FIXED_CTR0 + fixed - 1, others) &&
		       is_this_wide(GUEST, RELOAD_FIXED_CTR0 + fixed - 1, others);
		check(good, "width %u and %u of fixed counters\n",
		      bits, others);
	}
	set_pmu(2, gp, 63, fixed, 63, true);
	check(is_this_wide(USERSPACE, RELOAD_PMC0, width) &&
	      is_this_wide(USERSPACE, RELOAD_FIXED_CTR0, width),
	      "width 63: that of the processor\n");
	kvm_vm_free(vm);
}

/* A value for each register, none of which is another one's */
static uint64_t value_of(unsigned int i)
{
	if (all_msrs[i] == PEBS_ENABLE)
		return PEBS_PMI | PEBS_OUTPUT_PT |
		       (5ULL << 32 & ((1ULL << (32 + fixed)) - 1)) |
		       (0xa5 & ((1ULL << gp) - 1));
	return (1ULL << (width - 1)) + 0x1000 + i * 0x10101;
}

static bool set_all(enum who who)
{
	bool good = true;
	unsigned int i;

	for (i = 0; i < n_msrs; i++)
		good &= set(who, all_msrs[i], value_of(i));
	if (!good)
		ksft_print_msg("values were refused to %s\n", whose[who]);
	return good;
}

static bool all_kept(enum who who)
{
	bool good = true;
	unsigned int i;

	for (i = 0; i < n_msrs; i++)
		good &= reads(who, all_msrs[i], value_of(i));
	return good;
}

static bool all_zero(enum who who)
{
	bool good = true;
	unsigned int i;

	for (i = 0; i < n_msrs; i++)
		good &= reads(who, all_msrs[i], 0);
	return good;
}

/* The registers of the counters themselves: nothing has been written there. */
static bool counters_untouched(void)
{
	bool good = true;
	unsigned int i;

	for (i = 0; i < gp; i++)
		good &= reads(USERSPACE, PMC0 + i, 0) &&
			reads(USERSPACE, FULL_WIDTH_PMC0 + i, 0) &&
			reads(USERSPACE, EVENTSEL0 + i, 0);
	for (i = 0; i < fixed; i++)
		good &= reads(USERSPACE, FIXED_CTR0 + i, 0);
	return good;
}

#define VALUE_CASES		5

static void test_values(void)
{
	unsigned int i;
	bool good;

	new_pebs_vm();
	check(all_zero(USERSPACE) && all_zero(GUEST),
	      "new vcpu: all registers are 0\n");
	check(set_all(USERSPACE) && all_kept(GUEST),
	      "each register has its own value: written by userspace\n");
	for (i = 0; i < n_msrs; i++)
		set(USERSPACE, all_msrs[i], 0);
	check(set_all(GUEST) && all_kept(USERSPACE),
	      "each register has its own value: written by the guest\n");
	check(counters_untouched(),
	      "the counters themselves are untouched\n");

	good = true;
	for (i = 0; i < gp; i++)
		good &= set(USERSPACE, FULL_WIDTH_PMC0 + i, 0x77) &&
			set(USERSPACE, EVENTSEL0 + i, 0x3c);
	for (i = 0; i < fixed; i++)
		good &= set(USERSPACE, FIXED_CTR0 + i, 0x77);
	check(good && all_kept(USERSPACE),
	      "a write to a counter leaves its reload MSR alone\n");
	kvm_vm_free(vm);
}

static bool bits_are_right(enum who who, unsigned int n_gp,
			   unsigned int n_fixed)
{
	bool good = true, valid;
	unsigned int bit;

	for (bit = 0; bit < 64; bit++) {
		valid = bit < n_gp || (bit >= 32 && bit < 32 + n_fixed) ||
			bit == 60 || bit == 61;
		if (valid)
			good &= keeps(who, PEBS_ENABLE, 1ULL << bit) &&
				keeps(who, PEBS_ENABLE, 0);
		else
			good &= refuses(who, PEBS_ENABLE, 1ULL << bit);
	}
	return good;
}

#define ENABLE_CASES		(2 * ARRAY_SIZE(counters) + 4)

static void test_pebs_enable(void)
{
	unsigned int i;
	uint64_t all;

	new_pebs_vm();
	for (i = 0; i < ARRAY_SIZE(counters); i++) {
		unsigned int n_gp = at_most(counters[i].gp, gp);
		unsigned int n_fixed = at_most(counters[i].fixed, fixed);

		set_counters(counters[i].gp, counters[i].fixed);
		check(bits_are_right(USERSPACE, n_gp, n_fixed),
		      "IA32_PEBS_ENABLE: bits for %u and %u counters, userspace\n",
		      counters[i].gp, counters[i].fixed);
		check(bits_are_right(GUEST, n_gp, n_fixed),
		      "IA32_PEBS_ENABLE: bits for %u and %u counters, guest\n",
		      counters[i].gp, counters[i].fixed);
	}
	set_counters(gp, fixed);
	all = ((1ULL << gp) - 1) | ((1ULL << fixed) - 1) << 32 | PEBS_PMI |
	      PEBS_OUTPUT_PT;
	check(keeps(USERSPACE, PEBS_ENABLE, all) &&
	      keeps(GUEST, PEBS_ENABLE, all),
	      "IA32_PEBS_ENABLE: all bits at once\n");
	check(refuses(USERSPACE, PEBS_ENABLE, all | 1ULL << 62) &&
	      refuses(GUEST, PEBS_ENABLE, all | 1ULL << 62),
	      "IA32_PEBS_ENABLE: output 3 refused\n");
	check(refuses(USERSPACE, PEBS_ENABLE, 1ULL << 62 | 1) &&
	      refuses(GUEST, PEBS_ENABLE, 1ULL << 62 | 1),
	      "IA32_PEBS_ENABLE: output 2 refused\n");
	check(keeps(GUEST, PEBS_ENABLE, PEBS_OUTPUT_PT | 0x0f) &&
	      keeps(GUEST, PEBS_ENABLE, PEBS_OUTPUT_PT | 0x05) &&
	      keeps(USERSPACE, PEBS_ENABLE, 0x04) &&
	      keeps(GUEST, PEBS_ENABLE, 0),
	      "IA32_PEBS_ENABLE: bits can be taken back\n");
	kvm_vm_free(vm);
}

#define CAPABILITY_CASES	5

static void test_capability(void)
{
	new_pebs_vm();
	set_all(GUEST);
	check(set_capabilities(CAP_FULL_WIDTH) &&
	      all_absent(USERSPACE),
	      "capability taken away: refused to userspace\n");
	check(all_absent(GUEST),
	      "capability taken away: refused to the guest\n");
	check(set_capabilities(CAP_PEBS_OUTPUT_PT) &&
	      all_kept(USERSPACE) && all_kept(GUEST),
	      "capability given back: the values are there\n");
	set_pmu(2, gp, width, fixed, width, false);
	check(all_absent(USERSPACE) && all_absent(GUEST),
	      "CPUID without PDCM: all registers refused\n");
	set_counters(gp, fixed);
	check(all_kept(USERSPACE) && all_kept(GUEST),
	      "CPUID with PDCM again: the values are there\n");
	kvm_vm_free(vm);
}

#define CPUID_CASES		5

static void test_cpuid(void)
{
	new_pebs_vm();
	set_all(USERSPACE);
	set_counters(gp, fixed);
	check(all_kept(USERSPACE) && all_kept(GUEST),
	      "KVM_SET_CPUID2 with the same CPUID: all kept\n");
	set_pmu(2, 2, 16, 1, 20, true);
	check(reads(GUEST, RELOAD_PMC0 + 1, value_of(1) & 0xffff) &&
	      reads(GUEST, RELOAD_FIXED_CTR0,
		    value_of(gp) & 0xfffff) &&
	      reads(GUEST, PEBS_ENABLE,
		    value_of(gp + fixed) &
		    (PEBS_PMI | PEBS_OUTPUT_PT | 1ULL << 32 | 3)),
	      "KVM_SET_CPUID2 with fewer and narrower counters: cut to these\n");
	set_counters(gp, fixed);
	check(all_kept(USERSPACE) && all_kept(GUEST),
	      "KVM_SET_CPUID2 with the counters back: all kept\n");
	set_pmu(2, 2, 16, 1, 20, true);
	check(keeps(USERSPACE, PEBS_ENABLE, PEBS_OUTPUT_PT | 3) &&
	      set(USERSPACE, PEBS_ENABLE, 0),
	      "KVM_SET_CPUID2 with fewer counters: what is read can be written\n");
	set_counters(gp, fixed);
	set(USERSPACE, PEBS_ENABLE, value_of(gp + fixed));
	check(all_kept(USERSPACE) && all_kept(GUEST),
	      "KVM_SET_CPUID2 with all counters again: all kept\n");
	kvm_vm_free(vm);
}

#define SAVE_CASES		5

static bool all_can_be_read(void)
{
	const struct kvm_msr_list *list = index_list();
	bool good = true;
	uint64_t value;
	unsigned int i;

	for (i = 0; i < list->nmsrs; i++) {
		if (get(USERSPACE, list->indices[i], &value))
			continue;
		ksft_print_msg("MSR 0x%x is listed and cannot be read\n",
			       list->indices[i]);
		good = false;
	}
	return good;
}

/* As a migration does it: what the list names goes from one VM to another. */
static void test_save(void)
{
	static struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[MAX_GP + MAX_FIXED + 1];
	} saved;
	unsigned int i;
	int ret;

	new_pebs_vm();
	set_all(GUEST);
	for (i = 0; i < n_msrs; i++)
		if (times_listed(all_msrs[i]))
			saved.entries[saved.head.nmsrs++].index = all_msrs[i];
	ret = _vcpu_ioctl(vm, VCPU_ID, KVM_GET_MSRS, &saved);
	check(ret == (int)n_msrs,
	      "saved: all registers in one call\n");
	kvm_vm_free(vm);

	new_pebs_vm();
	ret = _vcpu_ioctl(vm, VCPU_ID, KVM_SET_MSRS, &saved);
	check(ret == (int)n_msrs,
	      "restored in another VM: all registers in one call\n");
	check(all_kept(USERSPACE) && all_kept(GUEST),
	      "restored in another VM: the guest has its values\n");
	kvm_vm_free(vm);

	/* Whatever the vcpu has, its VMM saves all that is listed. */
	new_vm();
	check(all_can_be_read(),
	      "without the capability: all that is listed can be saved\n");
	set_pmu(0, 0, 0, 0, 0, false);
	check(all_can_be_read(),
	      "without a PMU: all that is listed can be saved\n");
	kvm_vm_free(vm);
}

#define INIT_CASES		1

static void test_init(void)
{
	/* Delivery mode 5, to the local APIC with number 0 */
	struct kvm_msi init = { .address_lo = 0xfee00000, .data = 5 << 8 };
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;

	new_pebs_vm();
	set_all(GUEST);
	/* KVM has no local APIC on its map before one is written. */
	vcpu_ioctl(vm, VCPU_ID, KVM_GET_LAPIC, &lapic);
	vcpu_ioctl(vm, VCPU_ID, KVM_SET_LAPIC, &lapic);
	if (ioctl(vm_get_fd(vm), KVM_SIGNAL_MSI, &init) != 1)
		ksft_print_msg("the INIT was not delivered\n");
	/* Asking for the state makes KVM take pending INITs. */
	vcpu_ioctl(vm, VCPU_ID, KVM_GET_MP_STATE, &mp_state);
	vcpu_regs_get(vm, VCPU_ID, &regs);
	if (regs.rip != 0xfff0)
		ksft_print_msg("no INIT: rip is 0x%llx\n", regs.rip);
	check(regs.rip == 0xfff0 && all_kept(USERSPACE),
	      "INIT: all kept\n");
	kvm_vm_free(vm);
}

#define NESTED_CASES		4
#define NO_NESTED_CASES		1

static void test_nested(void)
{
	uint32_t last = RELOAD_PMC0 + gp - 1;

	new_pebs_vm();
	check(set_all(NESTED_GUEST) && all_kept(NESTED_GUEST) &&
	      all_kept(GUEST) && all_kept(USERSPACE),
	      "nested guest: its registers are the guest's\n");
	check(refuses(NESTED_GUEST, last, 1ULL << width) &&
	      refuses(NESTED_GUEST, PEBS_ENABLE, 1ULL << 62),
	      "nested guest: wrong values refused\n");
	check(absent(NESTED_GUEST, RELOAD_PMC0 - 1) &&
	      absent(NESTED_GUEST, last + 1) &&
	      absent(NESTED_GUEST, RELOAD_FIXED_CTR0 - 1) &&
	      absent(NESTED_GUEST, RELOAD_FIXED_CTR0 + fixed),
	      "nested guest: those around refused\n");
	set_capabilities(0);
	check(all_absent(NESTED_GUEST),
	      "nested guest: without the capability all refused\n");
	kvm_vm_free(vm);
}

/*
 * What the guest's read of an MSR costs, from one instruction of the guest to
 * the next, in ticks of its TSC.  On an emulator whose TSC counts instructions
 * these are what KVM executes.
 */
#define BENCH_ROUNDS		500

static const struct metric {
	const char *name;
	uint32_t msr;
} metrics[] = {
	{ "rdmsr_feature_control", 0x3a },
	{ "rdmsr_counter", PMC0 },
	{ "rdmsr_unknown", RELOAD_PMC0 - 1 },
};

static uint64_t least_ticks[ARRAY_SIZE(metrics)];

static void bench_code(void)
{
	uint64_t start, ticks;
	unsigned int i, n;

	for (i = 0; i < ARRAY_SIZE(metrics); i++) {
		least_ticks[i] = ~0ULL;
		for (n = 0; n < BENCH_ROUNDS; n++) {
			start = rdtsc();
			rdmsr(metrics[i].msr);
			ticks = rdtsc() - start;
			if (ticks < least_ticks[i])
				least_ticks[i] = ticks;
		}
	}
	GUEST_DONE();
}

/* A line for each, fields separated by tabs: metric, size, value, unit */
static void bench(void)
{
	struct ucall uc;
	unsigned int i;

	ksft_set_plan(1);
	vm = vm_create_default(VCPU_ID, 0, bench_code);
	set_counters(gp, fixed);
	vm_init_descriptor_tables(vm);
	vcpu_init_descriptor_tables(vm, VCPU_ID);
	vm_handle_exception(vm, 13, on_general_protection);
	vcpu_run(vm, VCPU_ID);
	if (get_ucall(vm, VCPU_ID, &uc) != UCALL_DONE)
		ksft_exit_fail_msg("the guest did not come to its end\n");
	sync_global_from_guest(vm, least_ticks);
	for (i = 0; i < ARRAY_SIZE(metrics); i++)
		printf("%s\t1\t%lu\tticks\n", metrics[i].name, least_ticks[i]);
	ksft_test_result_pass("each register was read %u times\n",
			      BENCH_ROUNDS);
	kvm_vm_free(vm);
	ksft_exit_pass();
}

static bool parameter_is_set(const char *name)
{
	char path[128], value = 'N';
	int fd;

	snprintf(path, sizeof(path), "/sys/module/kvm_intel/parameters/%s",
		 name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, &value, 1) != 1)
		value = 'N';
	close(fd);
	return value == 'Y' || value == '1';
}

/* A number that x86_pmu_stand_in was loaded with, or what it was before */
static void stand_in_has(const char *name, unsigned int *value)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/x86_pmu_stand_in/parameters/%s",
		 name);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fscanf(f, "%u", value) != 1)
		ksft_exit_fail_msg("%s holds no number\n", path);
	fclose(f);
}

int main(int argc, char **argv)
{
	bool nested = parameter_is_set("nested");
	bool is_default = argc > 1 && !strcmp(argv[1], "default");
	unsigned int plan;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	stand_in_has("gp", &gp);
	stand_in_has("fixed", &fixed);
	stand_in_has("width", &width);
	host_gp = gp;
	gp = at_most(gp, MAX_GP);
	list_all_msrs();
	if (argc > 1 && !strcmp(argv[1], "bench"))
		bench();

	if (argc > 1 && !strcmp(argv[1], "on") &&
	    !parameter_is_set("pebs_output_pt")) {
		ksft_set_plan(1);
		check(false, "on: kvm-intel has the parameter\n");
		ksft_exit(false);
	}
	if (is_default || !parameter_is_set("pebs_output_pt")) {
		plan = REFUSED_CASES + is_default;
		ksft_set_plan(plan);
		if (is_default)
			check(!parameter_is_set("pebs_output_pt"),
			      "default: the parameter is off\n");
		test_refused();
		goto out;
	}

	plan = LIST_CASES + VALUE_CASES + CAPABILITY_CASES + SAVE_CASES;
	if (nested)
		plan += RANGE_CASES + WIDTH_CASES + ENABLE_CASES + CPUID_CASES +
			INIT_CASES + NESTED_CASES;
	else
		plan += NO_NESTED_CASES;
	ksft_set_plan(plan);
	if (!nested)
		strcpy(prefix, "nested off, ");
	if (host_gp != MAX_GP || fixed != MAX_FIXED)
		snprintf(prefix + strlen(prefix),
			 sizeof(prefix) - strlen(prefix),
			 "%u and %u in the host, ", host_gp, fixed);
	test_lists();
	test_values();
	test_capability();
	test_save();
	if (nested) {
		test_ranges();
		test_widths();
		test_pebs_enable();
		test_cpuid();
		test_init();
		test_nested();
	} else {
		check(!nested_vmx_supported(), "no VMX in the guest's CPUID\n");
	}

	new_pebs_vm();
	if (keeps(GUEST, RELOAD_PMC0, (1ULL << width) - 1) &&
	    host_gp == MAX_GP && fixed == MAX_FIXED)
		ksft_print_msg("answer pmu-reload-msrs: %u reload MSRs, 0x%x keeps 0x%llx\n",
			       gp + fixed, RELOAD_PMC0, (1ULL << width) - 1);
	kvm_vm_free(vm);
out:
	if (ksft_test_num() != plan)
		ksft_exit_fail_msg("%u cases ran, %u were planned\n",
				   ksft_test_num(), plan);
	ksft_exit(!ksft_get_fail_cnt());
}
