// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of what KVM does with counters and their MSRs: which counter a
 * number belongs to, and what a reset leaves.  kvm-intel has to be loaded before.
 *
 * The functions of pmu.h are inline: this module has them from KVM's own header,
 * which is why it can only be built beside a kernel's source.  Numbers are written out
 * here as the SDM has them.  A case stops at the first mismatch, because KUnit
 * keeps only 512 bytes of log for a case.
 */
#include <kunit/test.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "pmu.h"

#define GP_COUNTERS		8
#define FIXED_COUNTERS		4
#define COUNTER_WIDTH		48

/* What is tried: everything up to the LBRs' and far beyond the PMU's. */
#define MSR_END			0x2000

struct msr_range {
	const char *name;
	u32 base;
};

static const struct msr_range gp_ranges[] = {
	{ "counter", 0x0c1 },
	{ "event select", 0x186 },
	{ "full-width counter", 0x4c1 },
	{ "reload", 0x14c1 },
};

static const struct msr_range fixed_ranges[] = {
	{ "counter", 0x309 },
	{ "reload", 0x1309 },
};

/* Only its PMU is used; it is too large for the stack. */
static struct kvm_vcpu *vcpu;

static void set_counters(unsigned int gp, unsigned int fixed)
{
	vcpu->arch.pmu.nr_arch_gp_counters = gp;
	vcpu->arch.pmu.nr_arch_fixed_counters = fixed;
}

static int reload_test_init(struct kunit *test)
{
	struct kvm_pmu *pmu;
	unsigned int i;

	vcpu = kvzalloc(sizeof(*vcpu), GFP_KERNEL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, vcpu);
	pmu = &vcpu->arch.pmu;
	for (i = 0; i < ARRAY_SIZE(pmu->gp_counters); i++) {
		pmu->gp_counters[i].type = KVM_PMC_GP;
		pmu->gp_counters[i].vcpu = vcpu;
		pmu->gp_counters[i].idx = i;
	}
	for (i = 0; i < ARRAY_SIZE(pmu->fixed_counters); i++) {
		pmu->fixed_counters[i].type = KVM_PMC_FIXED;
		pmu->fixed_counters[i].vcpu = vcpu;
		pmu->fixed_counters[i].idx = 32 + i;
	}
	pmu->counter_bitmask[KVM_PMC_GP] = BIT_ULL(COUNTER_WIDTH) - 1;
	pmu->counter_bitmask[KVM_PMC_FIXED] = BIT_ULL(COUNTER_WIDTH) - 1;
	set_counters(GP_COUNTERS, FIXED_COUNTERS);
	return 0;
}

static void reload_test_exit(struct kunit *test)
{
	kvfree(vcpu);
}

/* Which counter @pmc is: its index, -1 for none, -2 for what is no counter. */
static int number_of(struct kvm_pmc *pmc, struct kvm_pmc *counters)
{
	if (!pmc)
		return -1;
	if (pmc < counters || pmc >= counters + 32)
		return -2;
	return pmc - counters;
}

static bool same(struct kunit *test, const char *what, const char *range,
		 unsigned int counters, u32 msr, int expected, int seen)
{
	if (expected == seen)
		return true;
	KUNIT_FAIL(test, "%s, %s, %u counters, MSR %#x: expected %d, seen %d\n",
		   what, range, counters, msr, expected, seen);
	return false;
}

static int nth(u32 msr, u32 base, unsigned int counters)
{
	return msr >= base && msr - base < counters ? msr - base : -1;
}

static void gp_counter_by_msr(struct kunit *test)
{
	struct kvm_pmu *pmu = &vcpu->arch.pmu;
	unsigned int n, i;
	u32 msr;

	for (n = 0; n <= GP_COUNTERS; n++) {
		set_counters(n, FIXED_COUNTERS - n / 2);
		for (i = 0; i < ARRAY_SIZE(gp_ranges); i++) {
			const struct msr_range *r = &gp_ranges[i];

			for (msr = 0; msr < MSR_END; msr++)
				if (!same(test, "get_gp_pmc", r->name, n, msr,
					  nth(msr, r->base, n),
					  number_of(get_gp_pmc(pmu, msr, r->base),
						    pmu->gp_counters)))
					return;
		}
	}
}

static void fixed_counter_by_msr(struct kunit *test)
{
	struct kvm_pmu *pmu = &vcpu->arch.pmu;
	unsigned int n, i;
	u32 msr;

	for (n = 0; n <= FIXED_COUNTERS; n++) {
		set_counters(GP_COUNTERS - 2 * n, n);
		for (i = 0; i < ARRAY_SIZE(fixed_ranges); i++) {
			const struct msr_range *r = &fixed_ranges[i];

			for (msr = 0; msr < MSR_END; msr++)
				if (!same(test, "get_fixed_pmc", r->name, n, msr,
					  nth(msr, r->base, n),
					  number_of(get_fixed_pmc(pmu, msr, r->base),
						    pmu->fixed_counters)))
					return;
		}
	}
}

/*
 * Both kinds at once, and more general-purpose counters than there are reload
 * MSRs: what follows these is never one.
 */
static void reload_counter_by_msr(struct kunit *test)
{
	struct kvm_pmu *pmu = &vcpu->arch.pmu;
	unsigned int gp, fixed;
	struct kvm_pmc *pmc;
	int expected;
	u32 msr;

	for (gp = 0; gp <= ARRAY_SIZE(pmu->gp_counters); gp++) {
		for (fixed = 0; fixed <= FIXED_COUNTERS; fixed++) {
			set_counters(gp, fixed);
			for (msr = 0x1300; msr < 0x1500; msr++) {
				pmc = get_reload_pmc(pmu, msr);
				expected = nth(msr, 0x1309, fixed);
				if (expected >= 0) {
					if (!same(test, "get_reload_pmc",
						  "fixed", fixed, msr, expected,
						  number_of(pmc, pmu->fixed_counters)))
						return;
					continue;
				}
				if (!same(test, "get_reload_pmc", "gp", gp, msr,
					  nth(msr, 0x14c1, min(gp, 8u)),
					  number_of(pmc, pmu->gp_counters)))
					return;
			}
		}
	}
}

/* The largest numbers there are: no sum may wrap. */
static void no_counter_at_the_end(struct kunit *test)
{
	struct kvm_pmu *pmu = &vcpu->arch.pmu;
	u32 msr;

	for (msr = 0xffffff00; msr; msr++) {
		if (get_gp_pmc(pmu, msr, 0x14c1) ||
		    get_fixed_pmc(pmu, msr, 0x1309) || get_reload_pmc(pmu, msr)) {
			KUNIT_FAIL(test, "a counter for MSR %#x\n", msr);
			return;
		}
	}
}

/*
 * What the vendor's module does at a reset.  A vCPU is reset by no other way than
 * by being created, with registers that are 0 already.
 */
static void reset_clears_the_registers(struct kunit *test)
{
	struct kvm_pmu *pmu = &vcpu->arch.pmu;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pmu->gp_counters); i++)
		pmu->gp_counters[i].reload = 0x1000 + i;
	for (i = 0; i < ARRAY_SIZE(pmu->fixed_counters); i++)
		pmu->fixed_counters[i].reload = 0x2000 + i;
	pmu->pebs_enable = BIT_ULL(61) | 1;

	kvm_x86_ops.pmu_ops->reset(vcpu);

	for (i = 0; i < ARRAY_SIZE(pmu->gp_counters); i++)
		KUNIT_EXPECT_EQ(test, pmu->gp_counters[i].reload, 0ULL);
	for (i = 0; i < ARRAY_SIZE(pmu->fixed_counters); i++)
		KUNIT_EXPECT_EQ(test, pmu->fixed_counters[i].reload, 0ULL);
	KUNIT_EXPECT_EQ(test, pmu->pebs_enable, 0ULL);
}

static struct kunit_case pmu_reload_cases[] = {
	KUNIT_CASE(gp_counter_by_msr),
	KUNIT_CASE(fixed_counter_by_msr),
	KUNIT_CASE(reload_counter_by_msr),
	KUNIT_CASE(no_counter_at_the_end),
	KUNIT_CASE(reset_clears_the_registers),
	{}
};

static struct kunit_suite pmu_reload_suite = {
	.name = "pmu_reload",
	.init = reload_test_init,
	.exit = reload_test_exit,
	.test_cases = pmu_reload_cases,
};

kunit_test_suite(pmu_reload_suite);

MODULE_DESCRIPTION("KUnit tests of KVM's PMU counters by MSR and of their reset");
MODULE_LICENSE("GPL v2");
