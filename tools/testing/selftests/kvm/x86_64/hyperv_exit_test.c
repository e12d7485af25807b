// SPDX-License-Identifier: GPL-2.0
/*
 * struct kvm_hyperv_exit has one layout for 32-bit and 64-bit userspace.
 *
 * The same source is built for both.  A guest makes KVM exit for a SynIC
 * register, for hypercalls and for the synthetic debugger.  Each field is read
 * at the byte offset that is published for it, and then through the structure
 * as this program was compiled with it.  If the kernel's layout moves, the
 * first goes wrong; if that of 32-bit userspace alone moves, the second does.
 *
 * The pads are only ever reached by offset: a structure that has lost one is
 * to be seen as a failure by this program and not by its compiler.
 */
#include "raw_kvm.h"

#ifdef __x86_64__
#define ABI "64bit"
#else
#define ABI "32bit"
#endif

#define HV_MSR_HYPERCALL		0x40000001
#define HV_MSR_SCONTROL			0x40000080
#define HV_MSR_SIEFP			0x40000082
#define HV_MSR_SIMP			0x40000083
#define HV_MSR_SYNDBG_CONTROL		0x400000f1
#define HV_MSR_SYNDBG_STATUS		0x400000f2
#define HV_MSR_SYNDBG_SEND_BUFFER	0x400000f3
#define HV_MSR_SYNDBG_RECV_BUFFER	0x400000f4
#define HV_MSR_SYNDBG_PENDING_BUFFER	0x400000f5
#define HV_MSR_SYNDBG_OPTIONS		0x400000ff

#define HV_SYNDBG_USE_HCALLS		0x4ULL
#define HV_HYPERCALL_ENABLE		1ULL

#define HVCALL_POST_MESSAGE		0x5c
#define HVCALL_SIGNAL_EVENT		0x5d
#define HVCALL_POST_DEBUG_DATA		0x69
#define HVCALL_RETRIEVE_DEBUG_DATA	0x6a
#define HVCALL_RESET_DEBUG_SESSION	0x6b
#define HVCALL_FAST			0x10000ULL

/*
 * Bits of the hypercall input that KVM does not look at, so that every byte of
 * the field that can differ does.
 */
#define HVCALL_ODD_BITS			0xd000b00068000000ULL

/* struct kvm_hyperv_exit as it is published: bytes from its start. */
#define RUN_HYPERV			32
#define EXIT_SIZE			56
#define AT_TYPE				0
#define AT_PAD1				4
#define AT_SYNIC_MSR			8
#define AT_SYNIC_PAD2			12
#define AT_SYNIC_CONTROL		16
#define AT_SYNIC_EVT_PAGE		24
#define AT_SYNIC_MSG_PAGE		32
#define AT_HCALL_INPUT			8
#define AT_HCALL_RESULT			16
#define AT_HCALL_PARAM0			24
#define AT_HCALL_PARAM1			32
#define AT_SYNDBG_MSR			8
#define AT_SYNDBG_PAD2			12
#define AT_SYNDBG_CONTROL		16
#define AT_SYNDBG_STATUS		24
#define AT_SYNDBG_SEND_PAGE		32
#define AT_SYNDBG_RECV_PAGE		40
#define AT_SYNDBG_PENDING_PAGE		48

#define POISON				0xa5

static struct raw_vm vm;

static void *exit_byte(unsigned int offset)
{
	return (uint8_t *)vm.run + RUN_HYPERV + offset;
}

static uint64_t exit_read(unsigned int offset, unsigned int size)
{
	uint64_t v64;
	uint32_t v32;

	if (size == 4) {
		memcpy(&v32, exit_byte(offset), sizeof(v32));
		return v32;
	}
	memcpy(&v64, exit_byte(offset), sizeof(v64));
	return v64;
}

static void check(int ok, uint64_t want, uint64_t seen, const char *exit_name,
		  const char *what)
{
	if (!ok)
		ksft_print_msg("%s: %s: expected 0x%llx, seen 0x%llx\n",
			       exit_name, what, (unsigned long long)want,
			       (unsigned long long)seen);
	ksft_test_result(ok, ABI " %s: %s\n", exit_name, what);
}

/* A field at its published offset. */
static void check_byte(const char *exit_name, const char *field,
		       unsigned int offset, unsigned int size, uint64_t want)
{
	uint64_t seen = exit_read(offset, size);
	char what[64];

	snprintf(what, sizeof(what), "%s at byte %u", field, offset);
	check(seen == want, want, seen, exit_name, what);
}

/* The same field through the structure. */
static void check_struct(const char *exit_name, const char *field,
			 uint64_t want, uint64_t seen)
{
	char what[64];

	snprintf(what, sizeof(what), "%s in the structure", field);
	check(seen == want, want, seen, exit_name, what);
}

/*
 * No byte of the exit may be right by chance, neither because the exit before
 * it was alike nor because the page is zero.
 */
static void poison(void)
{
	memset(exit_byte(0), POISON, sizeof(vm.run->padding));
}

/* The guest's request @op must end in a Hyper-V exit. */
static void expect_hyperv_exit(const char *exit_name)
{
	int reason;

	poison();
	reason = raw_run(&vm);
	if (reason != KVM_EXIT_HYPERV)
		raw_unexpected(&vm, reason, exit_name);
}

/* The guest goes on after the exit, to the end of its request. */
static void finish_request(const char *exit_name)
{
	int reason = raw_run(&vm);

	if (reason != KVM_EXIT_IO || !raw_is_ready(&vm))
		raw_unexpected(&vm, reason, exit_name);
}

/* The exit is as long as published: what lies behind it is not written. */
static void check_end(const char *exit_name)
{
	uint64_t behind = exit_read(EXIT_SIZE, 8);

	check(behind == 0x0101010101010101ULL * POISON,
	      0x0101010101010101ULL * POISON, behind, exit_name,
	      "nothing is written from byte 56 on");
}

#define LAYOUT_CASES			17

static void check_layout(const char *name, unsigned int offset,
			 unsigned int size, unsigned int want_offset,
			 unsigned int want_size)
{
	int ok = offset == want_offset && size == want_size;

	if (!ok)
		ksft_print_msg("compiled with %u bytes at byte %u\n", size,
			       offset);
	/* The name of a field is what stands behind that of the variable. */
	ksft_test_result(ok, ABI " layout: %s is %u bytes at byte %u\n",
			 strchr(name, '.') + 1, want_size, want_offset);
}

#define CHECK_LAYOUT(field, offset, size)				\
	check_layout(#field, (char *)&(field) - (char *)&e, sizeof(field), \
		     offset, size)

static void test_layout(void)
{
	static struct kvm_hyperv_exit e;

	CHECK_LAYOUT(e.type, 0, 4);
	CHECK_LAYOUT(e.u, 8, 48);
	CHECK_LAYOUT(e.u.synic.msr, 8, 4);
	CHECK_LAYOUT(e.u.synic.control, 16, 8);
	CHECK_LAYOUT(e.u.synic.evt_page, 24, 8);
	CHECK_LAYOUT(e.u.synic.msg_page, 32, 8);
	CHECK_LAYOUT(e.u.hcall.input, 8, 8);
	CHECK_LAYOUT(e.u.hcall.result, 16, 8);
	CHECK_LAYOUT(e.u.hcall.params, 24, 16);
	CHECK_LAYOUT(e.u.syndbg.msr, 8, 4);
	CHECK_LAYOUT(e.u.syndbg.control, 16, 8);
	CHECK_LAYOUT(e.u.syndbg.status, 24, 8);
	CHECK_LAYOUT(e.u.syndbg.send_page, 32, 8);
	CHECK_LAYOUT(e.u.syndbg.recv_page, 40, 8);
	CHECK_LAYOUT(e.u.syndbg.pending_page, 48, 8);
	check(sizeof(struct kvm_hyperv_exit) == EXIT_SIZE, EXIT_SIZE,
	      sizeof(struct kvm_hyperv_exit), "layout", "size is 56 bytes");
	check(offsetof(struct kvm_run, hyperv) == RUN_HYPERV, RUN_HYPERV,
	      offsetof(struct kvm_run, hyperv), "layout",
	      "hyperv is at byte 32 of kvm_run");
}

struct synic_state {
	uint64_t control;
	uint64_t evt_page;
	uint64_t msg_page;
};

#define SYNIC_CASES		12

static void test_synic_write(const char *exit_name, uint32_t msr,
			     uint64_t value, const struct synic_state *want)
{
	struct kvm_hyperv_exit *e = &vm.run->hyperv;

	raw_request(&vm, RAW_WRMSR, msr, value);
	expect_hyperv_exit(exit_name);

	check_byte(exit_name, "type", AT_TYPE, 4, KVM_EXIT_HYPERV_SYNIC);
	check_byte(exit_name, "zero pad1", AT_PAD1, 4, 0);
	check_byte(exit_name, "msr", AT_SYNIC_MSR, 4, msr);
	check_byte(exit_name, "zero pad2", AT_SYNIC_PAD2, 4, 0);
	check_byte(exit_name, "control", AT_SYNIC_CONTROL, 8, want->control);
	check_byte(exit_name, "evt_page", AT_SYNIC_EVT_PAGE, 8, want->evt_page);
	check_byte(exit_name, "msg_page", AT_SYNIC_MSG_PAGE, 8, want->msg_page);
	check_end(exit_name);
	check_struct(exit_name, "msr", msr, e->u.synic.msr);
	check_struct(exit_name, "control", want->control, e->u.synic.control);
	check_struct(exit_name, "evt_page", want->evt_page,
		     e->u.synic.evt_page);
	check_struct(exit_name, "msg_page", want->msg_page,
		     e->u.synic.msg_page);

	finish_request(exit_name);
}

#define SYNIC_EXITS		3

static void test_synic(void)
{
	struct synic_state s = {
		.control = 0x8123456789abcdefULL,
		.evt_page = 0xfedcba9876543001ULL,
		.msg_page = 0x93a5c7e9f1b3d001ULL,
	};

	/* Userspace's own writes cause no exit, or the next run would see it. */
	raw_host_wrmsr(&vm, HV_MSR_SCONTROL, s.control, "SCONTROL");
	raw_host_wrmsr(&vm, HV_MSR_SIEFP, s.evt_page, "SIEFP");
	raw_host_wrmsr(&vm, HV_MSR_SIMP, s.msg_page, "SIMP");
	raw_do(&vm, RAW_NOP, 0, 0, "SynIC registers set by userspace");

	s.control = 0xc0ffee0055aa1281ULL;
	test_synic_write("synic scontrol write", HV_MSR_SCONTROL, s.control,
			 &s);
	s.evt_page = 0xb00b1e5511223001ULL;
	test_synic_write("synic siefp write", HV_MSR_SIEFP, s.evt_page, &s);
	s.msg_page = 0xdeadbeef44556001ULL;
	test_synic_write("synic simp write", HV_MSR_SIMP, s.msg_page, &s);
}

#define HCALL_CASES		11

static void test_one_hcall(const char *exit_name, uint64_t input,
			   uint64_t param0, uint64_t param1)
{
	struct kvm_hyperv_exit *e = &vm.run->hyperv;
	struct raw_mailbox *box = raw_mailbox(&vm);
	uint64_t result = 0x8badf00dc001d00dULL ^ input;

	raw_request(&vm, RAW_HYPERCALL, (uint32_t)param0, input);
	box->ebx = (uint32_t)(param0 >> 32);
	box->esi = (uint32_t)param1;
	box->edi = (uint32_t)(param1 >> 32);
	expect_hyperv_exit(exit_name);

	check_byte(exit_name, "type", AT_TYPE, 4, KVM_EXIT_HYPERV_HCALL);
	check_byte(exit_name, "zero pad1", AT_PAD1, 4, 0);
	check_byte(exit_name, "input", AT_HCALL_INPUT, 8, input);
	check_byte(exit_name, "first param", AT_HCALL_PARAM0, 8, param0);
	check_byte(exit_name, "second param", AT_HCALL_PARAM1, 8, param1);
	check_end(exit_name);
	check_struct(exit_name, "input", input, e->u.hcall.input);
	check_struct(exit_name, "first param", param0, e->u.hcall.params[0]);
	check_struct(exit_name, "second param", param1, e->u.hcall.params[1]);

	memcpy(exit_byte(AT_HCALL_RESULT), &result, sizeof(result));
	finish_request(exit_name);
	check(raw_edx_eax(&vm) == result, result, raw_edx_eax(&vm), exit_name,
	      "the guest gets the result written at byte 16");

	/* Once more, with the result going the other way round. */
	result = ~result;
	raw_request(&vm, RAW_HYPERCALL, (uint32_t)param0, input);
	expect_hyperv_exit(exit_name);
	e->u.hcall.result = result;
	finish_request(exit_name);
	check(raw_edx_eax(&vm) == result, result, raw_edx_eax(&vm), exit_name,
	      "the guest gets the result written to the structure");
}

#define HCALL_EXITS		5

static void test_hcall(void)
{
	/* Any identity but 0 switches hypercalls on. */
	raw_guest_wrmsr(&vm, RAW_HV_MSR_GUEST_OS_ID, 0x8100000000000001ULL,
			"guest OS identity");
	raw_guest_wrmsr(&vm, HV_MSR_HYPERCALL,
			RAW_HYPERCALL_PAGE | HV_HYPERCALL_ENABLE,
			"hypercall page");

	test_one_hcall("hcall post message",
		       HVCALL_ODD_BITS | HVCALL_POST_MESSAGE,
		       0x8877665544332211ULL, 0xf1e2d3c4b5a69788ULL);
	/* No eventfd is bound to the connection, so userspace is asked. */
	test_one_hcall("hcall signal event",
		       HVCALL_ODD_BITS | HVCALL_FAST | HVCALL_SIGNAL_EVENT,
		       0x9192939495969798ULL, 0x0f1f2f3f4f5f6f7fULL);

	raw_guest_wrmsr(&vm, HV_MSR_SYNDBG_OPTIONS, HV_SYNDBG_USE_HCALLS,
			"synthetic debugger by hypercalls");
	test_one_hcall("hcall post debug data",
		       HVCALL_ODD_BITS | HVCALL_POST_DEBUG_DATA,
		       0xa0b0c0d0e0f00110ULL, 0x8000000000000001ULL);
	test_one_hcall("hcall retrieve debug data",
		       HVCALL_ODD_BITS | HVCALL_RETRIEVE_DEBUG_DATA,
		       0xffffffffffffffffULL, 0);
	test_one_hcall("hcall reset debug session",
		       HVCALL_ODD_BITS | HVCALL_RESET_DEBUG_SESSION,
		       0, 0xffffffffffffffffULL);
}

#define SYNDBG_CASES		16
#define SYNDBG_EXITS		2
#define SYNDBG_STATUS_CASES	3

static void check_syndbg(const char *exit_name, uint32_t msr, uint64_t control,
			 uint64_t status, uint64_t send, uint64_t recv,
			 uint64_t pending)
{
	struct kvm_hyperv_exit *e = &vm.run->hyperv;

	check_byte(exit_name, "type", AT_TYPE, 4, KVM_EXIT_HYPERV_SYNDBG);
	check_byte(exit_name, "zero pad1", AT_PAD1, 4, 0);
	check_byte(exit_name, "msr", AT_SYNDBG_MSR, 4, msr);
	check_byte(exit_name, "zero pad2", AT_SYNDBG_PAD2, 4, 0);
	check_byte(exit_name, "control", AT_SYNDBG_CONTROL, 8, control);
	check_byte(exit_name, "status", AT_SYNDBG_STATUS, 8, status);
	check_byte(exit_name, "send_page", AT_SYNDBG_SEND_PAGE, 8, send);
	check_byte(exit_name, "recv_page", AT_SYNDBG_RECV_PAGE, 8, recv);
	check_byte(exit_name, "pending_page", AT_SYNDBG_PENDING_PAGE, 8,
		   pending);
	check_end(exit_name);
	check_struct(exit_name, "msr", msr, e->u.syndbg.msr);
	check_struct(exit_name, "control", control, e->u.syndbg.control);
	check_struct(exit_name, "status", status, e->u.syndbg.status);
	check_struct(exit_name, "send_page", send, e->u.syndbg.send_page);
	check_struct(exit_name, "recv_page", recv, e->u.syndbg.recv_page);
	check_struct(exit_name, "pending_page", pending,
		     e->u.syndbg.pending_page);
}

static void check_guest_status(const char *exit_name, uint64_t want,
			       const char *what)
{
	uint64_t seen = raw_guest_rdmsr(&vm, HV_MSR_SYNDBG_STATUS, "STATUS");

	check(seen == want, want, seen, exit_name, what);
}

static void test_syndbg(void)
{
	const uint64_t status = 0xe1d2c3b4a5968778ULL;
	const uint64_t control = 0x80c1d2e3f4a5b697ULL;
	const uint64_t send = 0x9a8b7c6d5e4f3001ULL;
	const uint64_t recv = 0xabbccddeeff01002ULL;
	const uint64_t pending = 0xcafed00d1badb003ULL;
	const uint64_t answer = 0xf00dfacefeedc0deULL;
	const char *name;

	raw_guest_wrmsr(&vm, HV_MSR_SYNDBG_SEND_BUFFER, send, "SEND_BUFFER");
	raw_guest_wrmsr(&vm, HV_MSR_SYNDBG_RECV_BUFFER, recv, "RECV_BUFFER");
	raw_guest_wrmsr(&vm, HV_MSR_SYNDBG_STATUS, status, "STATUS");
	raw_host_wrmsr(&vm, HV_MSR_SYNDBG_CONTROL, control, "CONTROL");

	name = "syndbg pending buffer write";
	raw_request(&vm, RAW_WRMSR, HV_MSR_SYNDBG_PENDING_BUFFER, pending);
	expect_hyperv_exit(name);
	check_syndbg(name, HV_MSR_SYNDBG_PENDING_BUFFER, control, status, send,
		     recv, pending);
	memcpy(exit_byte(AT_SYNDBG_STATUS), &answer, sizeof(answer));
	finish_request(name);
	check_guest_status(name, status, "status written is ignored");

	name = "syndbg control write";
	raw_request(&vm, RAW_WRMSR, HV_MSR_SYNDBG_CONTROL, ~control);
	expect_hyperv_exit(name);
	check_syndbg(name, HV_MSR_SYNDBG_CONTROL, ~control, status, send, recv,
		     pending);
	memcpy(exit_byte(AT_SYNDBG_STATUS), &answer, sizeof(answer));
	finish_request(name);
	check_guest_status(name, answer,
			   "the guest reads the status written at byte 24");

	raw_request(&vm, RAW_WRMSR, HV_MSR_SYNDBG_CONTROL, control);
	expect_hyperv_exit(name);
	vm.run->hyperv.u.syndbg.status = ~answer;
	finish_request(name);
	check_guest_status(name, ~answer,
			   "the guest reads the status written to the structure");
}

/* Whether KVM knows the synthetic debugger's CPUID leaf. */
static int has_syndbg(void)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 leaves[64];
	} cpuid = { .head.nent = 64 };
	unsigned int i;

	if (!raw_has_cap(&vm, KVM_CAP_HYPERV_CPUID) ||
	    ioctl(vm.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &cpuid) < 0)
		return 0;
	for (i = 0; i < cpuid.head.nent; i++)
		if (cpuid.leaves[i].function == RAW_CPUID_HV_SYNDBG)
			return cpuid.leaves[i].eax & RAW_HV_SYNDBG_ALLOWED;
	return 0;
}

int main(void)
{
	const unsigned int plan = LAYOUT_CASES + SYNIC_EXITS * SYNIC_CASES +
				  HCALL_EXITS * HCALL_CASES +
				  SYNDBG_EXITS * SYNDBG_CASES +
				  SYNDBG_STATUS_CASES;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();

	raw_open(&vm);
	if (!raw_has_cap(&vm, KVM_CAP_HYPERV_SYNIC2))
		return ksft_exit_skip("KVM has no Hyper-V SynIC\n");
	raw_create(&vm);
	if (!has_syndbg())
		return ksft_exit_skip("KVM has no Hyper-V synthetic debugger\n");
	raw_enable_vcpu_cap(&vm, KVM_CAP_HYPERV_SYNIC2,
			    "KVM_CAP_HYPERV_SYNIC2");

	ksft_set_plan(plan);
	test_layout();
	test_synic();
	test_hcall();
	test_syndbg();
	ksft_print_msg("answer hyperv-exit: %s: %zu bytes at byte %zu, %u of %u right\n",
		       ABI, sizeof(struct kvm_hyperv_exit),
		       offsetof(struct kvm_run, hyperv), ksft_get_pass_cnt(),
		       plan);
	raw_finish(plan);
	return KSFT_FAIL;
}
