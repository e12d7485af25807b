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
 * A Hyper-V synthetic timer that is armed while the clock jumps must not turn
 * into a host timer with a deadline in the past.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <time.h>

#include "raw_kvm.h"

#define MSR_IA32_TSC			0x10
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

#define NS_PER_SEC			1000000000ULL
#define NS_PER_MS			1000000LL
#define NS_PER_HV_TICK			100

/*
 * Two clocks that count the same nanoseconds may differ by their rates: the
 * processor's clock rate is only known to the kernel as whole kHz, and is
 * measured again some time after boot.  1/16 of the time passed is far more
 * than that and far less than what any fault makes of these values.
 */
#define RATE_SLACK(ns)			((ns) / 16 + NS_PER_MS)

/*
 * Where the TSC is not the kernel's own clock, KVM pairs the two by reading
 * one after the other.  If this machine is a virtual one itself, its processor
 * may be taken away in between: a pair can be wrong by that long.
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

struct wall_clock {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};

static struct raw_vm vm;
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

static struct pvclock guest_pvclock(void)
{
	struct pvclock p;

	memcpy(&p, vm.mem + PVCLOCK_PAGE, sizeof(p));
	return p;
}

/* An odd version: no page that is complete has it. */
#define ANY_VERSION			1

/*
 * The guest's kvmclock page is not the one with @old_version any more and
 * shows a clock that was set to @from after @t0.
 */
static int pvclock_follows(uint32_t old_version, __u64 from, __u64 t0)
{
	struct pvclock p = guest_pvclock();
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
	tsc = raw_host_rdmsr(&vm, MSR_IA32_TSC, "TSC");
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
static int hv_time_follows(__u64 from, __u64 t0)
{
	__u64 seen = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT,
				       "reference time");
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
#define VALUE_CASES		5

static void test_value(const struct value *v)
{
	uint32_t version = guest_pvclock().version;
	__u64 clock = v->value, now = get_clock().clock, t0, seen;
	int ret;

	if (v->base == PLUS_NOW)
		clock += now;
	else if (v->base == MINUS_NOW)
		clock -= now;

	t0 = raw_ns();
	ret = set_clock(clock, 0);
	if (ret)
		ksft_print_msg("KVM_SET_CLOCK(0x%llx): %d, %s\n", clock,
			       ret, strerror(errno));
	accepted += !ret;
	ksft_test_result(!ret, "clock %s: accepted\n", v->name);

	seen = get_clock().clock;
	ksft_test_result(clock_follows("KVM_GET_CLOCK", clock, seen, t0, 0),
			 "clock %s: read back\n", v->name);

	/* Entering the guest is what brings its copy up to date. */
	raw_do(&vm, RAW_NOP, 0, 0, v->name);
	ksft_test_result(pvclock_follows(version, clock, t0),
			 "clock %s: kvmclock of the guest follows\n", v->name);
	ksft_test_result(hv_time_follows(clock, t0),
			 "clock %s: hyper-v reference time follows\n", v->name);

	raw_guest_wrmsr(&vm, MSR_KVM_WALL_CLOCK_NEW, WALL_CLOCK, v->name);
	ksft_test_result(wall_clock_follows(clock, t0),
			 "clock %s: wall clock of the guest follows\n",
			 v->name);
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
		memset(&data, 0, sizeof(data));
		data.clock = 1ULL << 60;
		data.flags = bad_flags[i].flags;
		snprintf(what, sizeof(what), "flags %s", bad_flags[i].name);
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
	ksft_test_result(pvclock_follows(ANY_VERSION, last, t0),
			 "several threads: kvmclock of the guest follows\n");
}

/* Set, and brought to the guest, with what is derived from it. */
static void set_clock_for_guest(__u64 clock)
{
	if (set_clock(clock, 0))
		ksft_exit_fail_msg("KVM_SET_CLOCK: %s\n", strerror(errno));
	raw_do(&vm, RAW_NOP, 0, 0, "vCPU after the clock was set");
}

/*
 * How often a synthetic timer has fired is told by KVM's tracepoint, in a
 * trace buffer of this test's own.
 */
static char trace_dir[64];

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

static int trace_start(void)
{
	static const char * const roots[] = {
		"/sys/kernel/tracing", "/sys/kernel/debug/tracing",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(roots); i++) {
		snprintf(trace_dir, sizeof(trace_dir),
			 "%s/instances/set_clock_test", roots[i]);
		if ((!mkdir(trace_dir, 0700) || errno == EEXIST) &&
		    trace_write("events/kvm/kvm_hv_stimer_callback/enable",
				"1"))
			return 1;
	}
	return 0;
}

static void trace_stop(void)
{
	trace_write("events/kvm/kvm_hv_stimer_callback/enable", "0");
	rmdir(trace_dir);
}

/* Times that the timer has fired since the last call, at most 2^32 - 1. */
static unsigned int trace_timer_fired(void)
{
	unsigned int fired = 0;
	char path[160], *line = NULL;
	size_t size = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/trace", trace_dir);
	f = fopen(path, "r");
	if (!f)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	while (getline(&line, &size, f) > 0)
		if (strstr(line, "kvm_hv_stimer_callback:"))
			fired++;
	free(line);
	fclose(f);
	trace_write("trace", "");
	return fired;
}

/* @fired is a few: a timer that is started in the past fires all the time. */
static void check_fired(int traced, unsigned int most, const char *what)
{
	unsigned int fired;

	if (!traced) {
		ksft_test_result_skip("%s: no tracefs to count it\n", what);
		return;
	}
	fired = trace_timer_fired();
	if (fired > most)
		ksft_print_msg("fired %u times, expected %u at most\n", fired,
			       most);
	ksft_test_result(fired <= most, "%s\n", what);
}

static void arm_timer(__u64 config, __u64 count)
{
	/* The count first: a timer with a count of 0 is switched off. */
	raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG, 0, "STIMER0_CONFIG");
	raw_host_wrmsr(&vm, HV_MSR_STIMER0_COUNT, count, "STIMER0_COUNT");
	raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG,
		       config | HV_STIMER_ENABLE | HV_STIMER_DIRECT |
		       HV_STIMER_VECTOR(STIMER_VECTOR), "STIMER0_CONFIG");
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

#define TIMER_CASES		9
#define TIMER_NS		(20 * NS_PER_MS)
/* 2^64 ns in units of 100 ns */
#define HV_TICKS_2_64		(~0ULL / NS_PER_HV_TICK)

/* A timer 2^64 ns and @more ahead, which may be negative. */
static void test_far_timer(const char *distance, __s64 more, int traced)
{
	char what[80];
	__u64 t0;
	int ok;

	if (traced)
		trace_timer_fired();
	set_clock_for_guest(0);
	arm_timer(0, HV_TICKS_2_64 + more / NS_PER_HV_TICK);
	t0 = raw_ns();
	/* Past the time at which a distance modulo 2^64 would be over. */
	ok = guest_runs_until(t0, 20 * TIMER_NS);
	ksft_test_result(ok, "one-shot timer %s ahead: the guest runs on\n",
			 distance);
	ksft_test_result(raw_host_rdmsr(&vm, HV_MSR_STIMER0_CONFIG,
					"STIMER0_CONFIG") & HV_STIMER_ENABLE,
			 "one-shot timer %s ahead: it does not expire\n",
			 distance);
	snprintf(what, sizeof(what),
		 "one-shot timer %s ahead: it does not fire", distance);
	check_fired(traced, 0, what);
}

static void test_timer(void)
{
	int ok, traced = trace_start();
	__u64 t0, start, late, config;

	/*
	 * After its first period it finds that the clock went back, and that
	 * its next deadline is so far ahead that in nanoseconds the distance,
	 * taken modulo 2^64, is one second ago.
	 */
	set_clock_for_guest(-NS_PER_SEC);
	arm_timer(HV_STIMER_PERIODIC, TIMER_NS / NS_PER_HV_TICK);
	raw_do(&vm, RAW_NOP, 0, 0, "periodic timer");
	if (traced)
		trace_timer_fired();
	t0 = raw_ns();
	if (set_clock(0, 0))
		ksft_exit_fail_msg("KVM_SET_CLOCK: %s\n", strerror(errno));
	ksft_test_result(guest_runs_until(t0, 4 * TIMER_NS),
			 "periodic timer and the clock set back by nearly 2^64: the guest runs on\n");
	/* Once for the period that had begun; a second time by late start. */
	check_fired(traced, 2,
		    "periodic timer and the clock set back by nearly 2^64: it does not fire on and on");

	/* The same for deadlines that are that far ahead from the start. */
	test_far_timer("nearly 2^64", -(__s64)NS_PER_SEC, traced);
	test_far_timer("just over 2^64", 10 * TIMER_NS, traced);

	/* And one that the host can wait for still comes, and not too early. */
	set_clock_for_guest(1ULL << 63);
	start = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT, "reference time");
	arm_timer(0, start + TIMER_NS / NS_PER_HV_TICK);
	t0 = raw_ns();
	do {
		ok = guest_runs_until(t0, 0);
		config = raw_host_rdmsr(&vm, HV_MSR_STIMER0_CONFIG,
					"STIMER0_CONFIG");
	} while (ok && config & HV_STIMER_ENABLE &&
		 raw_ns() - t0 < STUCK_AFTER_SEC * NS_PER_SEC);
	late = raw_host_rdmsr(&vm, HV_MSR_TIME_REF_COUNT, "reference time") -
	       start;
	if (config & HV_STIMER_ENABLE || late < TIMER_NS / NS_PER_HV_TICK)
		ksft_print_msg("config 0x%llx after %llu of %lld units\n",
			       config, late, TIMER_NS / NS_PER_HV_TICK);
	ksft_test_result(!(config & HV_STIMER_ENABLE) &&
			 late >= TIMER_NS / NS_PER_HV_TICK,
			 "one-shot timer 20 ms ahead: it expires then\n");

	raw_host_wrmsr(&vm, HV_MSR_STIMER0_CONFIG, 0, "STIMER0_CONFIG");
	if (traced)
		trace_stop();
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

int main(void)
{
	const unsigned int plan = VALUES * VALUE_CASES + REFUSED_CASES +
				  PAD_CASES + STORM_CASES + TIMER_CASES +
				  LOG_CASES;
	struct sigaction act = { .sa_handler = on_alarm };
	unsigned int i;
	int log;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();

	raw_open(&vm);
	if (!raw_has_cap(&vm, KVM_CAP_ADJUST_CLOCK))
		return ksft_exit_skip("KVM has no KVM_SET_CLOCK\n");
	if (!raw_has_cap(&vm, KVM_CAP_HYPERV_SYNIC2))
		return ksft_exit_skip("KVM has no Hyper-V SynIC\n");
	log = open_log();
	raw_create(&vm);
	sigaction(SIGALRM, &act, NULL);

	raw_enable_vcpu_cap(&vm, KVM_CAP_HYPERV_SYNIC2,
			    "KVM_CAP_HYPERV_SYNIC2");
	enable_apic();
	raw_guest_wrmsr(&vm, MSR_KVM_SYSTEM_TIME_NEW,
			PVCLOCK_PAGE | KVM_MSR_ENABLED, "kvmclock");
	raw_guest_wrmsr(&vm, RAW_HV_MSR_GUEST_OS_ID, 0x8100000000000001ULL,
			"guest OS identity");
	raw_guest_wrmsr(&vm, HV_MSR_REFERENCE_TSC, HV_TSC_PAGE | HV_TSC_ENABLE,
			"Hyper-V TSC page");

	ksft_set_plan(plan);
	ksft_print_msg("kvmclock is kept by %s\n",
		       get_clock().flags & KVM_CLOCK_TSC_STABLE ?
		       "the processor's TSC" : "the kernel's own clock");

	for (i = 0; i < VALUES; i++)
		test_value(&values[i]);
	test_refused();
	test_pad();
	test_storm();
	test_timer();
	test_log(log);
	ksft_print_msg("answer set-clock: %u of %zu values accepted, 0x%llx to 0x%llx\n",
		       accepted, VALUES, 0ULL, ~0ULL);
	raw_finish(plan);
	return KSFT_FAIL;
}
