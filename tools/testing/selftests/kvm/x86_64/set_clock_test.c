// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_CLOCK takes any clock value and the kernel logs nothing about it.
 *
 * For each value, extremes of the 64 bits above all: the call returns 0, and
 * KVM_GET_CLOCK, the guest's kvmclock page, its wall clock and the Hyper-V
 * reference time go on from that value modulo 2^64.  No time is assumed for
 * any step: what a clock may show is bounded by CLOCK_MONOTONIC_RAW read
 * before the clock was set and after it was read.
 *
 * Where the processors' TSC keeps the clock, KVM_GET_CLOCK and what the guest
 * computes from its page are compared at one TSC, to the nanosecond.
 *
 * What has the time from the clock must hear of its change at once, whichever
 * vCPU runs and whichever is halted: the Hyper-V reference time, the TSC page and
 * the synthetic timers that are armed.  Of a timer it is the deadline of the host
 * timer behind it that is compared, so that no expiry has to be waited for.
 *
 * The argument is how many fresh VMs have their clock set and read at once.  The
 * end of a VM waits for others, 20 ms on an emulated machine, so that 200 are what
 * can be had; each has it done a hundred times.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "kvm_glue.h"
#include "raw_kvm.h"

#define MSR_IA32_TSC			0x10
#define MSR_KVM_SYSTEM_TIME		0x12
#define MSR_KVM_WALL_CLOCK_NEW		0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW		0x4b564d01
#define KVM_MSR_ENABLED			1

#define HV_MSR_TIME_REF_COUNT		0x40000020
#define HV_MSR_REFERENCE_TSC		0x40000021
#define HV_MSR_STIMER0_CONFIG		0x400000b0
#define HV_MSR_STIMER0_COUNT		0x400000b1
#define HV_TSC_ENABLE			1
#define HV_STIMER_ENABLE		0x1ULL
#define HV_STIMER_PERIODIC		0x2ULL
#define HV_STIMER_VECTOR(v)		((__u64)(v) << 4)
#define HV_STIMER_DIRECT		0x1000ULL
#define STIMER_VECTOR			0x40

#define APIC_SPIV			0xf0
#define APIC_SPIV_ENABLED		0x100

#define PVCLOCK_PAGE			RAW_SCRATCH
#define WALL_CLOCK			(RAW_SCRATCH + 0x1000)
#define HV_TSC_PAGE			(RAW_SCRATCH + 0x2000)
#define HV_OTHER_TSC_PAGE		(RAW_SCRATCH + 0x3000)

#define NS_PER_SEC			1000000000ULL
#define NS_PER_MS			1000000LL
#define NS_PER_HV_TICK			100

/* Far from any other clock of a test, and from where one wraps. */
#define SOME_CLOCK			0x0123456789abcdefULL
#define OTHER_CLOCK			0x3210fedcba987654ULL

/*
 * Two clocks that count the same nanoseconds may differ by their rates: the
 * processor's clock rate is only known to the kernel as whole kHz, and is
 * measured again some time after boot.  1/16 of the time passed is far more
 * than that and far less than what any fault makes of these values.
 */
#define RATE_SLACK(ns)			((ns) / 16 + NS_PER_MS)

/*
 * Where the TSC does not keep the clock, KVM pairs the two by reading one after
 * the other.  If this machine is a virtual one itself, its processor may be taken
 * away in between: a pair can be wrong by that long.
 */
#define PAIR_SLACK			(500 * NS_PER_MS)

/* KVM must not be left in KVM_RUN by a fault: far more than any step takes. */
#define STUCK_AFTER_SEC			20

struct pvclock {
	uint32_t version;
	uint32_t pad0;
	__u64 tsc_timestamp;
	__u64 system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

#define PVCLOCK_TSC_STABLE		1

struct wall_clock {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};

struct hv_tsc_page {
	uint32_t sequence;
	uint32_t reserved;
	__u64 scale;
	__u64 offset;
};

static struct raw_vm vm, second;
static const char *mode = "";		/* in the names of cases */
static unsigned int accepted;

static void on_alarm(int sig)
{
	/* Also ends a KVM_RUN that is about to enter the guest. */
	vm.run->immediate_exit = 1;
}

static void limit_run(void)
{
	vm.run->immediate_exit = 0;
	alarm(STUCK_AFTER_SEC);
}

static void unlimit_run(void)
{
	alarm(0);
	vm.run->immediate_exit = 0;
}

static __u64 clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static __u64 raw_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC_RAW);
}

static int set_clock(__u64 clock, uint32_t flags)
{
	struct kvm_clock_data data = { .clock = clock, .flags = flags };

	return ioctl(vm.vm, KVM_SET_CLOCK, &data);
}

static struct kvm_clock_data get_clock(void)
{
	struct kvm_clock_data data;

	raw_ioctl(vm.vm, KVM_GET_CLOCK, &data, "KVM_GET_CLOCK");
	return data;
}

/*
 * A clock that was @from at some time after @t0 reads @seen at a later time
 * before now, where a single reading may be @slack ns off.
 */
static int clock_follows(const char *what, __u64 from, __u64 seen,
			 __u64 t0, __s64 slack)
{
	__s64 most = raw_ns() - t0, least = -slack, diff = seen - from;

	most += RATE_SLACK(most) + slack;
	if (diff >= least && diff <= most)
		return 1;
	ksft_print_msg("%s: 0x%llx seen, 0x%llx set: difference %lld ns, expected %lld to %lld\n",
		       what, seen, from, diff, least, most);
	return 0;
}

static __u64 pvclock_at_tsc(const struct pvclock *p, __u64 tsc)
{
	__u64 delta = tsc - p->tsc_timestamp;

	if (p->tsc_shift >= 0)
		delta <<= p->tsc_shift;
	else
		delta >>= -p->tsc_shift;

	/* (delta * mul) >> 32 in two halves, for want of 128 bits. */
	return p->system_time +
	       (delta >> 32) * p->tsc_to_system_mul +
	       ((delta & 0xffffffff) * p->tsc_to_system_mul >> 32);
}

static struct pvclock guest_pvclock(struct raw_vm *by)
{
	struct pvclock p;

	memcpy(&p, by->mem + PVCLOCK_PAGE, sizeof(p));
	return p;
}

/* Two computations from the same parameters differ by how they round. */
#define ROUNDING_NS			2

/*
 * The page and KVM_GET_CLOCK are one function of the TSC: what the latter says lies
 * between what the page says at a TSC before and at one after.
 */
static int pvclock_is_the_clock(struct raw_vm *by, const struct pvclock *p)
{
	__u64 tsc = raw_host_rdmsr(by, MSR_IA32_TSC, "TSC");
	struct kvm_clock_data data = get_clock();
	__u64 after = raw_host_rdmsr(by, MSR_IA32_TSC, "TSC");
	__s64 early, late;

	if (!(data.flags & KVM_CLOCK_TSC_STABLE))
		return 1;
	early = data.clock - pvclock_at_tsc(p, after);
	late = data.clock - pvclock_at_tsc(p, tsc);
	if (early <= ROUNDING_NS && late >= -ROUNDING_NS)
		return 1;
	ksft_print_msg("KVM_GET_CLOCK less the page: %lld ns at TSC 0x%llx, %lld ns at 0x%llx\n",
		       late, tsc, early, after);
	return 0;
}

/* An odd version: no page that is complete has it. */
#define ANY_VERSION			1

/*
 * The guest's kvmclock page is not the one with @old_version any more and
 * shows a clock that was set to @from after @t0.
 */
static int pvclock_follows(struct raw_vm *by, uint32_t old_version, __u64 from,
			   __u64 t0)
{
	struct pvclock p = guest_pvclock(by);
	__u64 tsc;
	int ok = 1;

	if (p.version & 1) {
		ksft_print_msg("version %u of the kvmclock page is odd\n",
			       p.version);
		ok = 0;
	}
	if (p.version == old_version) {
		ksft_print_msg("version %u of the kvmclock page has not changed\n",
			       p.version);
		ok = 0;
	}
	/* Not before it by a nanosecond: what is below 0 is nearly 2^64. */
	ok &= clock_follows("system_time of the kvmclock page", from,
			    p.system_time, t0, 0);
	ok &= pvclock_is_the_clock(by, &p);
	tsc = raw_host_rdmsr(by, MSR_IA32_TSC, "TSC");
	return clock_follows("kvmclock as the guest computes it", from,
			     pvclock_at_tsc(&p, tsc), t0, PAIR_SLACK) && ok;
}

/*
 * The wall clock that KVM hands out is the real time at which kvmclock was 0,
 * in nanoseconds modulo 2^64, and of its seconds there are 32 bits.
 */
static int wall_clock_follows(__u64 from, __u64 t0)
{
	__u64 zero = clock_ns(CLOCK_REALTIME) - from;
	__s64 diff, passed = raw_ns() - t0;
	struct wall_clock w;

	memcpy(&w, vm.mem + WALL_CLOCK, sizeof(w));
	diff = (int32_t)(w.sec - (uint32_t)(zero / NS_PER_SEC)) *
	       (__s64)NS_PER_SEC + w.nsec - (__s64)(zero % NS_PER_SEC);
	passed += RATE_SLACK(passed);
	/*
	 * KVM read the real time at most this long before it was read here,
	 * and the clock may have gone on for as long since it was set.
	 */
	if (!(w.version & 1) && w.nsec < NS_PER_SEC && diff >= -2 * passed &&
	    diff <= passed)
		return 1;
	ksft_print_msg("wall clock: version %u, %u s %u ns, %lld ns off, expected %lld to %lld\n",
		       w.version, w.sec, w.nsec, diff, -2 * passed, passed);
	return 0;
}

/*
 * The reference time is the clock in units of 100 ns.  Taken from the TSC page
 * it does not wrap when the clock does, taken from the clock it does.
 */
static int ref_time_follows(__u64 seen, __u64 from, __u64 t0)
{
	__s64 most = raw_ns() - t0, diff = seen - from / NS_PER_HV_TICK;

	most = (most + RATE_SLACK(most)) / NS_PER_HV_TICK;
	if (diff >= 0 && diff <= most)
		return 1;
	if (from + (raw_ns() - t0) < from)
		return clock_follows("Hyper-V reference time after the wrap",
				     from - from % NS_PER_HV_TICK,
				     seen * NS_PER_HV_TICK, t0, 0);
	ksft_print_msg("time 0x%llx seen, clock 0x%llx set: %lld units after, not 0 to %lld\n",
		       seen, from, diff, most);
	return 0;
}

/* The same as userspace reads it. */
static int hv_time_follows(struct raw_vm *by, __u64 from, __u64 t0)
{
	return ref_time_follows(raw_host_rdmsr(by, HV_MSR_TIME_REF_COUNT,
					       "reference time"), from, t0);
}

static __u64 mul_u64_u64_shr_64(__u64 a, __u64 b)
{
	__u64 low = (a & 0xffffffff) * (b & 0xffffffff);
	__u64 mid = (a >> 32) * (b & 0xffffffff) + (low >> 32);
	__u64 mid2 = (a & 0xffffffff) * (b >> 32) + (mid & 0xffffffff);

	return (a >> 32) * (b >> 32) + (mid >> 32) + (mid2 >> 32);
}

static struct hv_tsc_page guest_tsc_page(void)
{
	struct hv_tsc_page p;

	memcpy(&p, vm.mem + HV_TSC_PAGE, sizeof(p));
	return p;
}

/*
 * The TSC page holds 2^64 times the units of 100 ns in a tick of the TSC, so it
 * cannot be used for one of 10 MHz or less: an emulated processor may have that.
 */
static int tsc_page_is_possible(const struct pvclock *p)
{
	return (p->flags & PVCLOCK_TSC_STABLE) &&
	       p->tsc_to_system_mul < 100ULL << (32 - p->tsc_shift);
}

/*
 * The reference time as a guest computes it on vCPU @by.  Without the master
 * clock the page must say that it is not to be used.
 */
static int tsc_page_follows(struct raw_vm *by, __u64 from, __u64 t0)
{
	struct hv_tsc_page p = guest_tsc_page();
	struct pvclock clock = guest_pvclock(by);
	int possible = tsc_page_is_possible(&clock);
	__u64 tsc;

	if (!p.sequence != !possible) {
		ksft_print_msg("sequence %u of the TSC page, which the TSC does %sallow\n",
			       p.sequence, possible ? "" : "not ");
		return 0;
	}
	if (!possible)
		return 1;
	tsc = raw_host_rdmsr(by, MSR_IA32_TSC, "TSC");
	return ref_time_follows(mul_u64_u64_shr_64(tsc, p.scale) + p.offset,
				from, t0);
}

static void set_clock_to(__u64 clock)
{
	if (set_clock(clock, 0))
		ksft_exit_fail_msg("KVM_SET_CLOCK: %s\n", strerror(errno));
}

enum base { ABSOLUTE, PLUS_NOW, MINUS_NOW };

static const struct value {
	const char *name;
	__u64 value;
	enum base base;
} values[] = {
	{ "0", 0, ABSOLUTE },
	{ "1", 1, ABSOLUTE },
	{ "now", 0, PLUS_NOW },
	{ "2^31-1", 0x7fffffff, ABSOLUTE },
	{ "2^31", 0x80000000, ABSOLUTE },
	{ "2^32-1", 0xffffffff, ABSOLUTE },
	{ "2^32", 0x100000000ULL, ABSOLUTE },
	{ "2^53+1", 0x20000000000001ULL, ABSOLUTE },
	{ "2^62", 0x4000000000000000ULL, ABSOLUTE },
	{ "2^63-1", 0x7fffffffffffffffULL, ABSOLUTE },
	{ "2^63", 0x8000000000000000ULL, ABSOLUTE },
	{ "2^63+1", 0x8000000000000001ULL, ABSOLUTE },
	{ "2^63-now", 0x8000000000000000ULL, MINUS_NOW },
	{ "2^63+now", 0x8000000000000000ULL, PLUS_NOW },
	{ "2^64-2^32", 0xffffffff00000000ULL, ABSOLUTE },
	{ "2^64-now", 0, MINUS_NOW },
	{ "2^64-1", 0xffffffffffffffffULL, ABSOLUTE },
	{ "0 again", 0, ABSOLUTE },
};

#define VALUES			ARRAY_SIZE(values)
#define VALUE_CASES		7

static void test_value(const struct value *v)
{
	uint32_t version = guest_pvclock(&vm).version;
	__u64 clock = v->value, now = get_clock().clock, t0, seen;
	struct wall_clock wall;
	int ret;

	if (v->base == PLUS_NOW)
		clock += now;
	else if (v->base == MINUS_NOW)
		clock -= now;

	memcpy(&wall, vm.mem + WALL_CLOCK, sizeof(wall));
	t0 = raw_ns();
	ret = set_clock(clock, 0);
	if (ret)
		ksft_print_msg("KVM_SET_CLOCK(0x%llx): %d, %s\n", clock,
			       ret, strerror(errno));
	if (!*mode)
		accepted += !ret;
	ksft_test_result(!ret, "%sclock %s: accepted\n", mode, v->name);

	seen = get_clock().clock;
	ksft_test_result(clock_follows("KVM_GET_CLOCK", clock, seen, t0, 0),
			 "%sclock %s: read back\n", mode, v->name);
	ksft_test_result(hv_time_follows(&vm, clock, t0),
			 "%sclock %s: hyper-v reference time follows at once\n",
			 mode, v->name);

	/* Entering the guest is what brings its copy up to date. */
	raw_do(&vm, RAW_NOP, 0, 0, v->name);
	ksft_test_result(pvclock_follows(&vm, version, clock, t0),
			 "%sclock %s: kvmclock of the guest follows\n", mode,
			 v->name);
	ksft_test_result(hv_time_follows(&vm, clock, t0),
			 "%sclock %s: hyper-v reference time follows\n", mode,
			 v->name);

	ksft_test_result(!memcmp(&wall, vm.mem + WALL_CLOCK, sizeof(wall)),
			 "%sclock %s: wall clock is left until the guest asks\n",
			 mode, v->name);
	raw_guest_wrmsr(&vm, MSR_KVM_WALL_CLOCK_NEW, WALL_CLOCK, v->name);
	ksft_test_result(wall_clock_follows(clock, t0),
			 "%sclock %s: wall clock of the guest follows\n",
			 mode, v->name);
}

static const struct {
	const char *name;
	uint32_t flags;
} bad_flags[] = {
	{ "bit 0", 1 },
	{ "bit 1", 2 },
	{ "bit 2", 4 },
	{ "bit 16", 1 << 16 },
	{ "bit 31", 1U << 31 },
	{ "all bits", 0xffffffff },
};

#define BAD_FLAGS		ARRAY_SIZE(bad_flags)

/* What a refused call must leave alone. */
static int clock_unchanged(__u64 before, __u64 t0)
{
	return clock_follows("KVM_GET_CLOCK", before, get_clock().clock, t0,
			     0);
}

static void check_refused(const char *what, const void *arg, int want)
{
	__u64 t0, before;
	int ret, err;

	t0 = raw_ns();
	before = get_clock().clock;
	errno = 0;
	ret = ioctl(vm.vm, KVM_SET_CLOCK, arg);
	err = errno;
	if (ret != -1 || err != want)
		ksft_print_msg("%s: expected -1 (%s), seen %d (%s)\n", what,
			       strerror(want), ret, strerror(err));
	ksft_test_result(ret == -1 && err == want, "%s: %s\n", what,
			 want == EINVAL ? "einval" : "efault");
	ksft_test_result(clock_unchanged(before, t0),
			 "%s: clock unchanged\n", what);
}

/* A flag that this kernel knows, and a real time that is not over yet */
static void check_taken(const char *what, const struct kvm_clock_data *data)
{
	__u64 t0 = raw_ns();
	int ret = ioctl(vm.vm, KVM_SET_CLOCK, data);

	ksft_test_result(!ret, "%s: taken\n", what);
	ksft_test_result(clock_follows("KVM_GET_CLOCK", data->clock,
				       get_clock().clock, t0, 0),
			 "%s: the clock follows\n", what);
}

#define BAD_POINTERS		3
#define REFUSED_CASES		(2 * (BAD_FLAGS + BAD_POINTERS))

static void test_refused(void)
{
	struct kvm_clock_data data;
	long page = sysconf(_SC_PAGESIZE);
	char what[64];
	unsigned int i;
	char *two;

	/* Far from the present, so that a clock that was set is seen. */
	for (i = 0; i < BAD_FLAGS; i++) {
		snprintf(what, sizeof(what), "flags %s", bad_flags[i].name);
		if (!(bad_flags[i].flags & ~SET_CLOCK_FLAGS)) {
			memset(&data, 0xff, sizeof(data));
			data.clock = 1ULL << 59;
			data.flags = bad_flags[i].flags;
			check_taken(what, &data);
			continue;
		}
		memset(&data, 0, sizeof(data));
		data.clock = 1ULL << 60;
		data.flags = bad_flags[i].flags;
		check_refused(what, &data, EINVAL);
	}

	two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (two == MAP_FAILED || mprotect(two + page, page, PROT_NONE))
		ksft_exit_fail_msg("two pages: %s\n", strerror(errno));
	check_refused("null pointer", NULL, EFAULT);
	check_refused("unreadable page", two + page, EFAULT);
	/* The clock itself can be read, the end of the pad cannot. */
	check_refused("structure cut off by an unreadable page",
		      two + page - sizeof(data) / 2, EFAULT);
	munmap(two, 2 * page);
}

#define PAD_CASES		1

static void test_pad(void)
{
	struct kvm_clock_data data;
	__u64 t0;
	int ret;

	memset(&data, 0xff, sizeof(data));
	data.clock = 0x123456789abcdefULL;
	data.flags = 0;
	t0 = raw_ns();
	ret = ioctl(vm.vm, KVM_SET_CLOCK, &data);
	ksft_test_result(!ret && clock_follows("KVM_GET_CLOCK", data.clock,
					       get_clock().clock, t0, 0),
			 "pad that is not zero: ignored\n");
}

/*
 * Several threads set the clock at the same moment.  In which order they do is
 * open, that the clock then follows one of them is not.  No sum of the values,
 * as two changes on top of each other would give, is one of them again.
 */
static const __u64 storm_values[] = {
	0x1000000000000000ULL,
	0x8003000000000000ULL,
	0xffe0000000000000ULL,
};

#define STORM_SETTERS	((int)ARRAY_SIZE(storm_values))
#define STORM_ROUNDS		500

static int storm_round;		/* counts up: go */
static int storm_done;		/* setters that have finished the round */
static int storm_stop;
static unsigned int storm_failed_calls;
static __u64 storm_vcpu_runs;

static void *storm_setter(void *arg)
{
	__u64 value = *(const __u64 *)arg;
	int round = 0;

	while (!__atomic_load_n(&storm_stop, __ATOMIC_ACQUIRE)) {
		if (__atomic_load_n(&storm_round, __ATOMIC_ACQUIRE) == round) {
			sched_yield();
			continue;
		}
		round++;
		if (set_clock(value, 0))
			__atomic_fetch_add(&storm_failed_calls, 1,
					   __ATOMIC_RELAXED);
		__atomic_fetch_add(&storm_done, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void *storm_vcpu(void *arg)
{
	while (!__atomic_load_n(&storm_stop, __ATOMIC_ACQUIRE)) {
		raw_do(&vm, RAW_SPIN, 1000, 0, "vCPU among the setters");
		__atomic_fetch_add(&storm_vcpu_runs, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

#define STORM_CASES		4

static void test_storm(void)
{
	pthread_t setter[STORM_SETTERS], vcpu;
	unsigned int wrong = 0, wrong_round = 0;
	__u64 t0 = 0, seen, last = 0;
	int i, round;

	for (i = 0; i < STORM_SETTERS; i++)
		if (pthread_create(&setter[i], NULL, storm_setter,
				   (void *)&storm_values[i]))
			ksft_exit_fail_msg("cannot create a thread\n");
	if (pthread_create(&vcpu, NULL, storm_vcpu, NULL))
		ksft_exit_fail_msg("cannot create a thread\n");

	for (round = 1; round <= STORM_ROUNDS; round++) {
		int follows = 0;

		__atomic_store_n(&storm_done, 0, __ATOMIC_RELAXED);
		t0 = raw_ns();
		__atomic_store_n(&storm_round, round, __ATOMIC_RELEASE);
		while (__atomic_load_n(&storm_done, __ATOMIC_ACQUIRE) !=
		       STORM_SETTERS)
			sched_yield();
		seen = get_clock().clock;
		for (i = 0; i < STORM_SETTERS; i++) {
			/* The values are 2^48 apart at least: 78 hours. */
			__s64 diff = seen - storm_values[i];

			if (diff > -(1LL << 40) && diff < 1LL << 40) {
				last = storm_values[i];
				follows = 1;
			}
		}
		if (!follows) {
			if (!wrong++)
				ksft_print_msg("round %d: the clock is 0x%llx\n",
					       round, seen);
			wrong_round = round;
		}
	}
	__atomic_store_n(&storm_stop, 1, __ATOMIC_RELEASE);
	for (i = 0; i < STORM_SETTERS; i++)
		pthread_join(setter[i], NULL);
	pthread_join(vcpu, NULL);

	if (wrong)
		ksft_print_msg("%u of %d rounds, the last %u\n", wrong,
			       STORM_ROUNDS, wrong_round);
	ksft_test_result(!storm_failed_calls,
			 "several threads: every call is accepted\n");
	ksft_test_result(!wrong,
			 "several threads: the clock follows one of them\n");
	if (!storm_vcpu_runs)
		ksft_print_msg("the vcpu did not run once\n");
	ksft_test_result(storm_vcpu_runs > 0,
			 "several threads: the vcpu runs on\n");

	/* The page may have been brought up to date by the last run already. */
	raw_do(&vm, RAW_NOP, 0, 0, "vCPU after the setters");
	ksft_test_result(pvclock_follows(&vm, ANY_VERSION, last, t0),
			 "several threads: kvmclock of the guest follows\n");
}

/* Set, and brought to the guest, with what is derived from it. */
static void set_clock_for_guest(__u64 clock)
{
	set_clock_to(clock);
	raw_do(&vm, RAW_NOP, 0, 0, "vCPU after the clock was set");
}

/*
 * How often a synthetic timer has fired is told by KVM's tracepoint, and what its
 * host timer was started for by that of the host's timers, in a trace buffer of
 * this test's own.
 */
static const char * const trace_events[] = {
	"events/kvm/kvm_hv_stimer_callback/enable",
	"events/timer/hrtimer_start/enable",
};

#define TRACE_EVENTS		ARRAY_SIZE(trace_events)

static char trace_dir[64];
static int traced;
static unsigned int trace_fired;	/* up to the last trace_read() */
static __s64 trace_deadline;		/* the last, in ns of CLOCK_MONOTONIC */

static int trace_write(const char *file, const char *text)
{
	char path[160];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", trace_dir, file);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return 0;
	len = write(fd, text, strlen(text));
	close(fd);
	return len == (ssize_t)strlen(text);
}

static int trace_set(const char *value)
{
	unsigned int i;
	int ok = 1;

	for (i = 0; i < TRACE_EVENTS; i++)
		ok &= trace_write(trace_events[i], value);
	return ok;
}

static void trace_start(void)
{
	static const char * const roots[] = {
		"/sys/kernel/tracing", "/sys/kernel/debug/tracing",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(roots) && !traced; i++) {
		snprintf(trace_dir, sizeof(trace_dir),
			 "%s/instances/set_clock_test", roots[i]);
		traced = (!mkdir(trace_dir, 0700) || errno == EEXIST) &&
			 trace_set("1");
	}
}

static void trace_stop(void)
{
	trace_set("0");
	rmdir(trace_dir);
}

/* What has happened since the last call. */
static void trace_read(void)
{
	char path[160], *line = NULL, *expires;
	size_t size = 0;
	FILE *f;

	trace_fired = 0;
	trace_deadline = 0;
	if (!traced)
		return;
	snprintf(path, sizeof(path), "%s/trace", trace_dir);
	f = fopen(path, "r");
	if (!f)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	while (getline(&line, &size, f) > 0) {
		if (strstr(line, "kvm_hv_stimer_callback:"))
			trace_fired++;
		if (!strstr(line, "hrtimer_start:") ||
		    !strstr(line, "function=stimer_timer_callback"))
			continue;
		expires = strstr(line, " expires=");
		if (expires)
			trace_deadline = strtoll(expires + 9, NULL, 10);
	}
	free(line);
	fclose(f);
	trace_write("trace", "");
}

/* @fired is a few: a timer that is started in the past fires all the time. */
static void check_fired(unsigned int least, unsigned int most, const char *what)
{
	if (!traced) {
		ksft_test_result_skip("%s: no tracefs to count it\n", what);
		return;
	}
	trace_read();
	if (trace_fired < least || trace_fired > most)
		ksft_print_msg("fired %u times, expected %u to %u\n",
			       trace_fired, least, most);
	ksft_test_result(trace_fired >= least && trace_fired <= most, "%s\n",
			 what);
}

/*
 * CLOCK_MONOTONIC at reference time 0, between two bounds that are as close as
 * the one clock can be read between two readings of the other.
 */
struct zero {
	__s64 least, most;
};

static struct zero measure_zero(struct raw_vm *by)
{
	struct zero best = { 0 };
	unsigned int i;

	for (i = 0; i < 20; i++) {
		__s64 least = clock_ns(CLOCK_MONOTONIC);
		__s64 ref = raw_host_rdmsr(by, HV_MSR_TIME_REF_COUNT,
					   "reference time") * NS_PER_HV_TICK;
		__s64 most = clock_ns(CLOCK_MONOTONIC) - ref;

		/* A reading may be nearly one unit old. */
		least -= ref + NS_PER_HV_TICK;
		if (!i || most - least < best.most - best.least)
			best = (struct zero) { least, most };
	}
	return best;
}

/*
 * The host timer was started for the reference time @count.  KVM reads the two
 * clocks one after the other: the one it reads last may be @gap later.
 */
static void check_deadline(struct zero zero, __u64 count, __s64 gap,
			   const char *what)
{
	__s64 at = count * NS_PER_HV_TICK, early, late;
	int ok;

	if (!traced) {
		ksft_test_result_skip("%s: no tracefs to see it\n", what);
		return;
	}
	trace_read();
	early = trace_deadline - (zero.least + at);
	late = trace_deadline - (zero.most + at);
	ok = trace_deadline && early >= -NS_PER_MS &&
	     late <= gap + NS_PER_MS;
	if (!ok)
		ksft_print_msg("deadline %lld: earliest + %lld, latest + %lld of %lld ns\n",
			       trace_deadline, early, late, gap);
	ksft_test_result(ok, "%s\n", what);
}

static void arm_timer_number(unsigned int n, __u64 config, __u64 count)
{
	uint32_t config_msr = HV_MSR_STIMER0_CONFIG + 2 * n;

	/* The count first: a timer with a count of 0 is switched off. */
	raw_host_wrmsr(&vm, config_msr, 0, "STIMERx_CONFIG");
	raw_host_wrmsr(&vm, HV_MSR_STIMER0_COUNT + 2 * n, count,
		       "STIMERx_COUNT");
	raw_host_wrmsr(&vm, config_msr,
		       config | HV_STIMER_ENABLE | HV_STIMER_DIRECT |
		       HV_STIMER_VECTOR(STIMER_VECTOR), "STIMERx_CONFIG");
}

static void arm_timer(__u64 config, __u64 count)
{
	arm_timer_number(0, config, count);
}

/* Run the guest again and again until @ns have passed since @t0. */
static int guest_runs_until(__u64 t0, __u64 ns)
{
	unsigned int runs = 0;
	int reason;

	do {
		raw_request(&vm, RAW_SPIN, 1000, 0);
		limit_run();
		reason = raw_run(&vm);
		unlimit_run();
		if (reason == -EINTR) {
			ksft_print_msg("the guest did not come out of its run number %u in %d s\n",
				       runs + 1, STUCK_AFTER_SEC);
			/* The timer is what holds it. */
			raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG, 0,
				       "STIMER0_CONFIG");
			raw_run(&vm);
			return 0;
		}
		if (reason != KVM_EXIT_IO || !raw_is_ready(&vm))
			raw_unexpected(&vm, reason, "guest with a timer");
		runs++;
	} while (raw_ns() - t0 < ns);
	return 1;
}

#define TIMER_CASES		23
#define TIMER_NS		(20 * NS_PER_MS)
#define TIMER_TICKS		(TIMER_NS / NS_PER_HV_TICK)
/* 2^64 ns in units of 100 ns */
#define HV_TICKS_2_64		(~0ULL / NS_PER_HV_TICK)
/* Longer than anything here takes: who waits for this has not been told. */
#define LONG_NS			(600 * NS_PER_SEC)
#define LONG_TICKS		(LONG_NS / NS_PER_HV_TICK)

static int timer_number_is_armed(unsigned int n)
{
	return !!(raw_host_rdmsr(&vm, HV_MSR_STIMER0_CONFIG + 2 * n,
				 "STIMERx_CONFIG") & HV_STIMER_ENABLE);
}

static int timer_is_armed(void)
{
	return timer_number_is_armed(0);
}

/* A timer 2^64 ns and @more ahead, which may be negative. */
static void test_far_timer(const char *distance, __s64 more)
{
	char what[80];
	__u64 t0;
	int ok;

	trace_read();
	set_clock_for_guest(0);
	arm_timer(0, HV_TICKS_2_64 + more / NS_PER_HV_TICK);
	t0 = raw_ns();
	/* Past the time at which a distance modulo 2^64 would be over. */
	ok = guest_runs_until(t0, 20 * TIMER_NS);
	ksft_test_result(ok, "one-shot timer %s ahead: the guest runs on\n",
			 distance);
	ksft_test_result(timer_is_armed(),
			 "one-shot timer %s ahead: it does not expire\n",
			 distance);
	snprintf(what, sizeof(what),
		 "one-shot timer %s ahead: it does not fire", distance);
	check_fired(0, 0, what);
}

/* Run the guest until the timer has expired, or for far too long. */
static int guest_runs_until_expiry(void)
{
	__u64 t0 = raw_ns();
	int ok;

	do {
		ok = guest_runs_until(t0, 0);
	} while (ok && timer_is_armed() &&
		 raw_ns() - t0 < STUCK_AFTER_SEC * NS_PER_SEC);
	return !timer_is_armed();
}

/* One that the host can wait for comes, not too early, and was not set too late. */
static void test_near_timer(void)
{
	__s64 begin, gap;
	struct zero zero;
	__u64 start, late;
	int ok;

	set_clock_for_guest(1ULL << 63);
	zero = measure_zero(&vm);
	start = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT, "reference time");
	trace_read();
	begin = clock_ns(CLOCK_MONOTONIC);
	arm_timer(0, start + LONG_TICKS);
	guest_runs_until(raw_ns(), 0);
	gap = clock_ns(CLOCK_MONOTONIC) - begin;
	check_deadline(zero, start + LONG_TICKS, gap,
		       "one-shot timer ten minutes ahead: it is set for then");

	start = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT, "reference time");
	arm_timer(0, start + TIMER_TICKS);
	ok = guest_runs_until_expiry();
	late = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT, "reference time") -
	       start;
	if (late < (__u64)TIMER_TICKS)
		ksft_print_msg("expired after %llu of %lld units\n", late,
			       TIMER_TICKS);
	ksft_test_result(ok && late >= (__u64)TIMER_TICKS,
			 "one-shot timer 20 ms ahead: it expires then\n");

	/* The clock goes on from elsewhere while it is armed. */
	start = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT, "reference time");
	arm_timer(0, start + LONG_TICKS);
	guest_runs_until(raw_ns(), 0);
	trace_read();
	begin = clock_ns(CLOCK_MONOTONIC);
	set_clock_for_guest((1ULL << 63) - LONG_NS);
	gap = clock_ns(CLOCK_MONOTONIC) - begin;
	zero = measure_zero(&vm);
	check_deadline(zero, start + LONG_TICKS, gap,
		       "one-shot timer and the clock set back: it is set anew");
	ksft_test_result(timer_is_armed(),
			 "one-shot timer and the clock set back: it does not expire\n");
	set_clock_for_guest((1ULL << 63) + 2 * LONG_NS);
	ksft_test_result(guest_runs_until_expiry(),
			 "one-shot timer and the clock set past it: it expires\n");
}

/* The host timer that was started since @begin is for no more than a period. */
static void check_period(__s64 begin, const char *what)
{
	__s64 end = clock_ns(CLOCK_MONOTONIC);
	int ok;

	if (!traced) {
		ksft_test_result_skip("%s: no tracefs to see it\n", what);
		return;
	}
	trace_read();
	ok = trace_deadline && trace_deadline <= end + TIMER_NS + NS_PER_MS;
	if (!ok)
		ksft_print_msg("deadline %lld ns after the clock was set, which took %lld ns\n",
			       trace_deadline - begin, end - begin);
	ksft_test_result(ok, "%s\n", what);
}

static void test_periodic_timer(const char *change, __u64 from, __u64 to)
{
	unsigned int most;
	char what[120];
	__s64 begin;
	__u64 t0;
	int ok;

	set_clock_for_guest(from);
	arm_timer(HV_STIMER_PERIODIC, TIMER_TICKS);
	raw_do(&vm, RAW_NOP, 0, 0, "periodic timer");
	trace_read();
	t0 = raw_ns();
	begin = clock_ns(CLOCK_MONOTONIC);
	set_clock_for_guest(to);
	snprintf(what, sizeof(what),
		 "periodic timer and the clock set %s: its next period is one from then",
		 change);
	check_period(begin, what);
	snprintf(what, sizeof(what),
		 "periodic timer and the clock set %s", change);
	ok = guest_runs_until(t0, 4 * TIMER_NS);
	ksft_test_result(ok, "%s: the guest runs on\n", what);
	most = (raw_ns() - t0) / TIMER_NS + 2;
	snprintf(what, sizeof(what),
		 "periodic timer and the clock set %s: it does not fire on and on",
		 change);
	check_fired(0, most, what);

	/* However long ago that was, the next expiry is within a period. */
	begin = clock_ns(CLOCK_MONOTONIC);
	set_clock_for_guest(get_clock().clock);
	snprintf(what, sizeof(what),
		 "periodic timer and the clock set %s: it is set for the next period",
		 change);
	check_period(begin, what);
	raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG, 0, "STIMER0_CONFIG");
}

static void test_timer(void)
{
	trace_start();

	/*
	 * After its first period it finds that the clock went back, and that
	 * its next deadline is so far ahead that in nanoseconds the distance,
	 * taken modulo 2^64, is one second ago.
	 */
	test_periodic_timer("back by nearly 2^64", -NS_PER_SEC, 0);
	test_periodic_timer("back by ten minutes", SOME_CLOCK + LONG_NS,
			    SOME_CLOCK);
	test_periodic_timer("forward by ten minutes", SOME_CLOCK,
			    SOME_CLOCK + LONG_NS);

	/* The same for deadlines that are that far ahead from the start. */
	test_far_timer("nearly 2^64", -(__s64)NS_PER_SEC);
	test_far_timer("just over 2^64", 10 * TIMER_NS);

	test_near_timer();

	raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG, 0, "STIMER0_CONFIG");
	if (traced)
		trace_stop();
}

/*
 * A vCPU in KVM_RUN in a thread of its own, and what it came back with.
 */
static struct {
	pthread_t thread;
	pid_t tid;
	int reason;
	int done;
} runner;

static void on_end(int sig)
{
	/* Also ends a KVM_RUN that is about to enter the guest. */
	vm.run->immediate_exit = 1;
}

static void *run_vcpu(void *arg)
{
	__atomic_store_n(&runner.tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	runner.reason = raw_run(&vm);
	__atomic_store_n(&runner.done, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void start_runner(void)
{
	runner.tid = 0;
	runner.done = 0;
	if (pthread_create(&runner.thread, NULL, run_vcpu, NULL))
		ksft_exit_fail_msg("cannot create a thread\n");
	while (!__atomic_load_n(&runner.tid, __ATOMIC_ACQUIRE))
		sched_yield();
}

static int runner_is_done(void)
{
	return __atomic_load_n(&runner.done, __ATOMIC_ACQUIRE);
}

/* Sleeping, which in KVM_RUN is what a halted vCPU does. */
static int runner_sleeps(void)
{
	char path[64], text[256], *state;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", runner.tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[len < 0 ? 0 : len] = '\0';
	state = strrchr(text, ')');
	return state && state[1] == ' ' && state[2] == 'S';
}

/* True if it came back by itself, in far more time than that takes. */
static int end_runner(void)
{
	struct timespec until;
	int ok;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STUCK_AFTER_SEC;
	ok = !pthread_timedjoin_np(runner.thread, NULL, &until);
	if (!ok) {
		pthread_kill(runner.thread, SIGUSR1);
		pthread_join(runner.thread, NULL);
	}
	vm.run->immediate_exit = 0;
	return ok && runner.reason == KVM_EXIT_IO && raw_is_ready(&vm);
}

static void halt_vcpu(void)
{
	struct kvm_mp_state halted = { .mp_state = KVM_MP_STATE_HALTED };

	raw_request(&vm, RAW_NOP, 0, 0);
	raw_ioctl(vm.vcpu, KVM_SET_MP_STATE, &halted, "KVM_SET_MP_STATE");
	start_runner();
	while (!runner_sleeps() && !runner_is_done())
		sched_yield();
}

static void revive_vcpu(void)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };

	raw_ioctl(vm.vcpu, KVM_SET_MP_STATE, &runnable, "KVM_SET_MP_STATE");
	raw_do(&vm, RAW_NOP, 0, 0, "vCPU that was halted");
}

static void unhalt_vcpu(void)
{
	pthread_kill(runner.thread, SIGUSR1);
	pthread_join(runner.thread, NULL);
	vm.run->immediate_exit = 0;
	revive_vcpu();
}

#define IN_GUEST_CASES		3

/* A vCPU that does not come out of the guest gets the new clock there. */
static void test_in_guest(void)
{
	struct raw_mailbox *box = raw_mailbox(&vm);
	uint32_t version = guest_pvclock(&vm).version;
	__u64 t0, limit = STUCK_AFTER_SEC * NS_PER_SEC;
	struct hv_tsc_page ref_page;
	struct pvclock p;
	int page, ref;
	__u64 time;

	raw_request(&vm, RAW_WAIT, 1, 0);
	__atomic_store_n(&box->ebx, 0, __ATOMIC_RELEASE);
	start_runner();
	while (!__atomic_load_n(&box->ebx, __ATOMIC_ACQUIRE) &&
	       !runner_is_done())
		sched_yield();

	t0 = raw_ns();
	set_clock_to(OTHER_CLOCK);
	do {
		sched_yield();
		p = guest_pvclock(&vm);
		page = p.version != version && !(p.version & 1) &&
		       p.system_time - OTHER_CLOCK < limit;
		ref_page = guest_tsc_page();
		/* At the TSC of the other page, in which it is the same. */
		time = mul_u64_u64_shr_64(p.tsc_timestamp, ref_page.scale) +
		       ref_page.offset;
		ref = !tsc_page_is_possible(&p) ||
		      (ref_page.sequence &&
		       time - OTHER_CLOCK / NS_PER_HV_TICK <
		       limit / NS_PER_HV_TICK);
	} while (!(page && ref) && !runner_is_done() && raw_ns() - t0 < limit);
	if (!page || !ref)
		ksft_print_msg("version %u, clock 0x%llx, reference time 0x%llx after %llu ns\n",
			       p.version, p.system_time, time, raw_ns() - t0);
	ksft_test_result(!runner_is_done() && page,
			 "set while the vcpu is in the guest: its kvmclock follows there\n");
	ksft_test_result(!runner_is_done() && ref,
			 "set while the vcpu is in the guest: the TSC page follows there\n");
	__atomic_store_n(&box->ecx, 0, __ATOMIC_RELEASE);
	ksft_test_result(end_runner(),
			 "set while the vcpu is in the guest: the guest runs on\n");
}

/* Every time that is derived from the clock, as vCPU 1 has it. */
#define SECOND_CASES		4

static void check_second(const char *what, __u64 clock, __u64 t0)
{
	__u64 seen;

	ksft_test_result(hv_time_follows(&second, clock, t0),
			 "%s%s: reference time read by userspace follows\n",
			 mode, what);
	seen = raw_guest_rdmsr(&second, HV_MSR_TIME_REF_COUNT, what);
	ksft_test_result(ref_time_follows(seen, clock, t0),
			 "%s%s: reference time read on vcpu 1 follows\n", mode,
			 what);
	ksft_test_result(tsc_page_follows(&second, clock, t0),
			 "%s%s: TSC page as vcpu 1 sees it follows\n", mode,
			 what);
	ksft_test_result(pvclock_follows(&second, ANY_VERSION, clock, t0),
			 "%s%s: kvmclock of vcpu 1 follows\n", mode, what);
}

#define TWO_CASES		(3 * SECOND_CASES + 1)

/* vCPU 1 runs, and vCPU 0 has not entered the guest since the clock was set. */
static void test_two(void)
{
	__u64 t0 = raw_ns();

	set_clock_to(SOME_CLOCK);
	check_second("vcpu 0 is not run", SOME_CLOCK, t0);

	t0 = raw_ns();
	set_clock_for_guest(OTHER_CLOCK);
	check_second("vcpu 0 was run first", OTHER_CLOCK, t0);
	ksft_test_result(pvclock_follows(&vm, ANY_VERSION, OTHER_CLOCK, t0),
			 "%svcpu 0 was run first: its kvmclock follows\n",
			 mode);

	halt_vcpu();
	t0 = raw_ns();
	set_clock_to(SOME_CLOCK);
	check_second("vcpu 0 is halted", SOME_CLOCK, t0);
	unhalt_vcpu();
}

#define ONE_CLOCK_CASES		1

/* With the master clock it does not matter which vCPU's page is read. */
static void test_one_clock(void)
{
	struct pvclock p, q;

	set_clock_for_guest(SOME_CLOCK);
	raw_do(&second, RAW_NOP, 0, 0, "vCPU 1 after the clock was set");
	p = guest_pvclock(&vm);
	q = guest_pvclock(&second);
	if (!(get_clock().flags & KVM_CLOCK_TSC_STABLE)) {
		ksft_test_result_skip("two vcpus: the TSC does not keep the clock here\n");
		return;
	}
	if (p.tsc_timestamp != q.tsc_timestamp || p.system_time != q.system_time)
		ksft_print_msg("0x%llx at TSC 0x%llx and 0x%llx at TSC 0x%llx\n",
			       p.system_time, p.tsc_timestamp, q.system_time,
			       q.tsc_timestamp);
	ksft_test_result(p.tsc_timestamp == q.tsc_timestamp &&
			 p.system_time == q.system_time && p.flags == q.flags,
			 "two vcpus: both have one clock\n");
}

#define OTHER_PAGE_CASES	1

/* vCPU 1 puts the TSC page elsewhere, and vCPU 0 does not run. */
static void test_other_page(void)
{
	struct pvclock clock;
	struct hv_tsc_page p;

	set_clock_for_guest(SOME_CLOCK);
	raw_guest_wrmsr(&second, HV_MSR_REFERENCE_TSC,
			HV_OTHER_TSC_PAGE | HV_TSC_ENABLE, "other TSC page");
	raw_do(&second, RAW_NOP, 0, 0, "vCPU 1 with another TSC page");
	memcpy(&p, vm.mem + HV_OTHER_TSC_PAGE, sizeof(p));
	clock = guest_pvclock(&second);
	ksft_test_result(!p.sequence == !tsc_page_is_possible(&clock),
			 "TSC page put elsewhere by vcpu 1: it is there\n");
	raw_guest_wrmsr(&vm, HV_MSR_REFERENCE_TSC, HV_TSC_PAGE | HV_TSC_ENABLE,
			"TSC page");
	raw_do(&vm, RAW_NOP, 0, 0, "TSC page where it was");
}

#define NO_PAGE_CASES		4

/* A guest that has switched the TSC page off still has the reference time. */
static void test_no_page(void)
{
	__u64 t0;

	set_clock_for_guest(SOME_CLOCK);
	raw_guest_wrmsr(&vm, HV_MSR_REFERENCE_TSC, 0, "TSC page off");
	t0 = raw_ns();
	set_clock_for_guest(OTHER_CLOCK);
	ksft_test_result(ref_time_follows(raw_guest_rdmsr(&vm,
							  HV_MSR_TIME_REF_COUNT,
							  "reference time"),
					  OTHER_CLOCK, t0),
			 "TSC page switched off: reference time read by the guest follows\n");
	ksft_test_result(hv_time_follows(&vm, OTHER_CLOCK, t0),
			 "TSC page switched off: reference time read by userspace follows\n");

	raw_guest_wrmsr(&vm, HV_MSR_REFERENCE_TSC, HV_TSC_PAGE | HV_TSC_ENABLE,
			"TSC page");
	raw_do(&vm, RAW_NOP, 0, 0, "TSC page on again");
	ksft_test_result(tsc_page_follows(&vm, OTHER_CLOCK, t0),
			 "TSC page switched on again: it follows\n");

	/* As a VMM does that resets the VM. */
	raw_host_wrmsr(&vm, HV_MSR_REFERENCE_TSC, 0, "TSC page off");
	t0 = raw_ns();
	set_clock_for_guest(SOME_CLOCK);
	ksft_test_result(hv_time_follows(&vm, SOME_CLOCK, t0),
			 "TSC page switched off by userspace: reference time follows\n");
	raw_guest_wrmsr(&vm, HV_MSR_REFERENCE_TSC, HV_TSC_PAGE | HV_TSC_ENABLE,
			"TSC page");
}

#define TIMERS			4
#define HALTED_TIMER_CASES	(2 * TIMERS + 1)

/* A halted vCPU waits for its timer, and the clock is set past the deadline. */
static void test_halted_timer(unsigned int n)
{
	int sleeps;

	set_clock_for_guest(SOME_CLOCK);
	arm_timer_number(n, 0, SOME_CLOCK / NS_PER_HV_TICK + LONG_TICKS);
	raw_do(&vm, RAW_NOP, 0, 0, "timer of a vCPU to be halted");
	halt_vcpu();
	sleeps = runner_sleeps() && !runner_is_done();
	ksft_test_result(sleeps,
			 "vcpu halted, timer %u ten minutes ahead: it waits\n",
			 n);
	set_clock_to(SOME_CLOCK + 2 * LONG_NS);
	ksft_test_result(end_runner() && !timer_number_is_armed(n),
			 "vcpu halted, the clock set past its timer %u: it wakes up\n",
			 n);
	raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG + 2 * n, 0, "STIMERx_CONFIG");
	revive_vcpu();
}

/* It is not left at the first of several. */
static void test_halted_timers(void)
{
	unsigned int n, armed = 0;
	int waits, wakes;

	set_clock_for_guest(SOME_CLOCK);
	for (n = 0; n < TIMERS; n++)
		arm_timer_number(n, 0, SOME_CLOCK / NS_PER_HV_TICK + LONG_TICKS);
	raw_do(&vm, RAW_NOP, 0, 0, "timers of a vCPU to be halted");
	halt_vcpu();
	waits = runner_sleeps() && !runner_is_done();
	set_clock_to(SOME_CLOCK + 2 * LONG_NS);
	wakes = end_runner();
	/* The first may have woken it before the clock's setter came to the others. */
	revive_vcpu();
	raw_do(&vm, RAW_NOP, 0, 0, "vCPU whose timers fire");
	for (n = 0; n < TIMERS; n++) {
		armed += timer_number_is_armed(n);
		raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG + 2 * n, 0,
			       "STIMERx_CONFIG");
	}
	if (armed)
		ksft_print_msg("%u of %u timers have not fired\n", armed, TIMERS);
	ksft_test_result(waits && wakes && !armed,
			 "vcpu halted, the clock set past all of its timers: all fire\n");
}

static void enable_apic(void)
{
	struct kvm_lapic_state lapic;
	uint32_t spiv;

	raw_ioctl(vm.vcpu, KVM_GET_LAPIC, &lapic, "KVM_GET_LAPIC");
	memcpy(&spiv, lapic.regs + APIC_SPIV, sizeof(spiv));
	spiv |= APIC_SPIV_ENABLED;
	memcpy(lapic.regs + APIC_SPIV, &spiv, sizeof(spiv));
	raw_ioctl(vm.vcpu, KVM_SET_LAPIC, &lapic, "KVM_SET_LAPIC");
}

/* The kernel's log from here on, or -1 where it cannot be read. */
static int open_log(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int once;

	if (fd >= 0 && lseek(fd, 0, SEEK_END) < 0) {
		close(fd);
		return -1;
	}
	/* Let a warning that is given once be given again in this run. */
	once = open("/sys/kernel/debug/clear_warn_once", O_WRONLY | O_CLOEXEC);
	if (once >= 0) {
		if (write(once, "1", 1) != 1)
			ksft_print_msg("clear_warn_once: %s\n",
				       strerror(errno));
		close(once);
	}
	return fd;
}

/* A line of the log that a clock value must not cause. */
static int is_splat(const char *line, unsigned int level)
{
	static const char * const marks[] = {
		"WARNING", "BUG", "UBSAN", "Oops", "KASAN", "cut here",
		"Call Trace", "soft lockup", "rcu_sched", "kvm",
	};
	unsigned int i;

	if (level > 4)
		return 0;
	for (i = 0; i < ARRAY_SIZE(marks); i++)
		if (strstr(line, marks[i]))
			return 1;
	return 0;
}

#define LOG_CASES		1

static void test_log(int fd)
{
	unsigned int splats = 0, level;
	char record[8192];
	char *text;
	ssize_t len;

	if (fd < 0) {
		ksft_test_result_skip("kernel log: /dev/kmsg cannot be read\n");
		return;
	}
	for (;;) {
		len = read(fd, record, sizeof(record) - 1);
		/* EPIPE: records were overwritten before they were read. */
		if (len < 0 && (errno == EPIPE || errno == EINTR))
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		level = strtoul(record, NULL, 10) & 7;
		text = strchr(record, ';');
		text = text ? text + 1 : record;
		if (!is_splat(text, level))
			continue;
		text[strcspn(text, "\n")] = '\0';
		if (splats++ < 20)
			ksft_print_msg("level %u: %s\n", level, text);
	}
	ksft_test_result(!splats, "kernel log: no warning since the start\n");
}

/* The first vCPU of @vm, with kvmclock by one of its two registers. */
static void start_guest(uint32_t kvmclock)
{
	raw_start(&vm);
	raw_enable_vcpu_cap(&vm, KVM_CAP_HYPERV_SYNIC2,
			    "KVM_CAP_HYPERV_SYNIC2");
	enable_apic();
	raw_guest_wrmsr(&vm, kvmclock, PVCLOCK_PAGE | KVM_MSR_ENABLED,
			"kvmclock");
	raw_guest_wrmsr(&vm, RAW_HV_MSR_GUEST_OS_ID, 0x8100000000000001ULL,
			"guest OS identity");
	raw_guest_wrmsr(&vm, HV_MSR_REFERENCE_TSC, HV_TSC_PAGE | HV_TSC_ENABLE,
			"Hyper-V TSC page");
	raw_do(&vm, RAW_NOP, 0, 0, "guest with a TSC page");
}

#define EARLY_CASES		5

/* The clock can be set before there is a vCPU, and the first one has it. */
static void test_before_vcpu(void)
{
	__u64 t0 = raw_ns();

	ksft_test_result(!set_clock(OTHER_CLOCK, 0),
			 "before the first vcpu: accepted\n");
	ksft_test_result(clock_follows("KVM_GET_CLOCK", OTHER_CLOCK,
				       get_clock().clock, t0, 0),
			 "before the first vcpu: read back\n");
	start_guest(MSR_KVM_SYSTEM_TIME_NEW);
	ksft_test_result(clock_follows("KVM_GET_CLOCK", OTHER_CLOCK,
				       get_clock().clock, t0, 0),
			 "before the first vcpu: read back with one\n");
	ksft_test_result(pvclock_follows(&vm, ANY_VERSION, OTHER_CLOCK, t0),
			 "before the first vcpu: kvmclock of the guest follows\n");
	ksft_test_result(hv_time_follows(&vm, OTHER_CLOCK, t0),
			 "before the first vcpu: hyper-v reference time follows\n");
}

#define MOVED_CASES		3

/* From one VM to another, which has a clock of its own by then. */
static void test_moved(void)
{
	struct raw_vm old = vm;
	__u64 t0, clock;

	set_clock_for_guest(SOME_CLOCK);
	t0 = raw_ns();
	clock = get_clock().clock;

	raw_create_vm(&vm, 1);
	start_guest(MSR_KVM_SYSTEM_TIME_NEW);
	set_clock_for_guest(clock);
	ksft_test_result(clock_follows("KVM_GET_CLOCK", clock,
				       get_clock().clock, t0, 0),
			 "clock of another vm: read back\n");
	ksft_test_result(pvclock_follows(&vm, ANY_VERSION, clock, t0),
			 "clock of another vm: kvmclock of the guest follows\n");
	raw_destroy(&vm);
	vm = old;
	set_clock_for_guest(OTHER_CLOCK);
	ksft_test_result(clock_follows("KVM_GET_CLOCK", OTHER_CLOCK,
				       get_clock().clock, t0, 0),
			 "clock of another vm: it has one of its own\n");
}

#define FRESH_CASES		1
#define FRESH_CLOCK		10
#define FRESH_TIMES		100

/* A clock that is set to little more than 0 must never be read as less. */
static void test_fresh(unsigned int vms)
{
	unsigned int i, j, wrong = 0;
	__u64 t0, seen;
	int old = vm.vm;

	for (i = 0; i < vms; i++) {
		vm.vm = raw_ioctl(vm.kvm, KVM_CREATE_VM, NULL,
				  "KVM_CREATE_VM");
		for (j = 0; j < FRESH_TIMES; j++) {
			t0 = raw_ns();
			set_clock_to(FRESH_CLOCK);
			seen = get_clock().clock;
			wrong += !clock_follows("KVM_GET_CLOCK", FRESH_CLOCK,
						seen, t0, 0);
		}
		close(vm.vm);
	}
	vm.vm = old;
	if (wrong || !vms)
		ksft_print_msg("%u times in %u VMs\n", wrong, vms);
	ksft_test_result(vms && !wrong, "%u fresh vms: the clock follows\n",
			 vms);
}

#define MODE_CASES		(1 + VALUES * VALUE_CASES)

/* What makes KVM keep the clock without the TSC has happened. */
static void test_without_master_clock(const char *name)
{
	unsigned int i;

	mode = name;
	ksft_test_result(!(get_clock().flags & KVM_CLOCK_TSC_STABLE),
			 "%sthe TSC does not keep the clock\n", mode);
	for (i = 0; i < VALUES; i++)
		test_value(&values[i]);
	mode = "";
}

#define UNEQUAL_CASES		(1 + MODE_CASES + TWO_CASES)

static void test_unequal(void)
{
	__u64 tsc = raw_host_rdmsr(&second, MSR_IA32_TSC, "TSC");

	raw_host_wrmsr(&second, MSR_IA32_TSC, tsc + (1ULL << 40), "TSC");
	/* vCPU 0 shall not be needed to take the page from vCPU 1. */
	raw_do(&second, RAW_NOP, 0, 0, "vCPU with a TSC of its own");
	ksft_test_result(!guest_tsc_page().sequence,
			 "unequal TSCs: vcpu 1 does not see the TSC page of vcpu 0\n");
	test_without_master_clock("unequal TSCs, ");
	mode = "unequal TSCs, ";
	test_two();
	mode = "";
}

#define FRESH_VMS		200

int main(int argc, char **argv)
{
	const unsigned int plan = FRESH_CASES + EARLY_CASES +
				  VALUES * VALUE_CASES + REFUSED_CASES +
				  PAD_CASES + STORM_CASES + NO_PAGE_CASES +
				  IN_GUEST_CASES + TIMER_CASES +
				  HALTED_TIMER_CASES + MOVED_CASES +
				  TWO_CASES + ONE_CLOCK_CASES + OTHER_PAGE_CASES +
				  UNEQUAL_CASES + MODE_CASES + LOG_CASES;
	struct sigaction act = { .sa_handler = on_alarm };
	struct pvclock clock;
	unsigned int i;
	int log;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();

	raw_open(&vm);
	if (!raw_has_cap(&vm, KVM_CAP_ADJUST_CLOCK))
		ksft_exit_skip("KVM has no KVM_SET_CLOCK\n");
	if (!raw_has_cap(&vm, KVM_CAP_HYPERV_SYNIC2))
		ksft_exit_skip("KVM has no Hyper-V SynIC\n");
	log = open_log();
	sigaction(SIGALRM, &act, NULL);
	act.sa_handler = on_end;
	sigaction(SIGUSR1, &act, NULL);

	ksft_set_plan(plan);
	test_fresh(argc > 1 ? strtoul(argv[1], NULL, 0) : FRESH_VMS);
	raw_create_vm(&vm, 1);
	test_before_vcpu();
	clock = guest_pvclock(&vm);
	ksft_print_msg("kvmclock is kept by %s, with%s a TSC page\n",
		       clock.flags & PVCLOCK_TSC_STABLE ?
		       "the processor's TSC" : "the kernel's own clock",
		       tsc_page_is_possible(&clock) ? "" : "out");

	for (i = 0; i < VALUES; i++)
		test_value(&values[i]);
	test_refused();
	test_pad();
	test_storm();
	test_no_page();
	test_in_guest();
	test_timer();
	for (i = 0; i < TIMERS; i++)
		test_halted_timer(i);
	test_halted_timers();
	test_moved();

	raw_create_second(&second, &vm);
	raw_guest_wrmsr(&second, MSR_KVM_SYSTEM_TIME_NEW,
			(RAW_MEM_SIZE + PVCLOCK_PAGE) | KVM_MSR_ENABLED,
			"kvmclock of vCPU 1");
	test_two();
	test_one_clock();
	test_other_page();
	test_unequal();
	raw_destroy_vcpu(&second);
	raw_destroy(&vm);

	raw_create_vm(&vm, 1);
	start_guest(MSR_KVM_SYSTEM_TIME);
	test_without_master_clock("old kvmclock register, ");

	test_log(log);
	ksft_print_msg("answer set-clock: %u of %zu values accepted, 0x%llx to 0x%llx\n",
		       accepted, VALUES, 0ULL, ~0ULL);
	raw_finish(plan);
	return KSFT_FAIL;
}
