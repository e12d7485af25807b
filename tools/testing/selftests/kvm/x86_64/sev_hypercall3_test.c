// SPDX-License-Identifier: GPL-2.0
/*
 * kvm_sev_hypercall3(): the function as the kernel compiles it.
 *
 * usage: sev_hypercall3_test [sev_hypercall3_shim.ko]
 *
 * The functions are taken from a module that was built with the kernel's own
 * flags. First the object is inspected: one VMMCALL, no VMCALL, and no entry
 * in the table of alternatives, while kvm_hypercall3() beside it has one.
 * Then the bytes run in a guest, and KVM's tracepoint tells what arrived.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/elf.h>
#include <linux/kernel.h>
#include <linux/kvm_para.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test_util.h"
#include "kvm_util_glue.h"

#define VCPU_ID		0
/* A port that nothing else here uses */
#define STOP_PORT	0x77
#define TRACEFS		"/sys/kernel/tracing/"
#define EVENT		TRACEFS "events/kvm/kvm_hypercall/enable"

static const uint8_t vmcall[] = { 0x0f, 0x01, 0xc1 };
static const uint8_t vmmcall[] = { 0x0f, 0x01, 0xd9 };

/* What the guest is told to do, and what it got. Shared with the guest. */
static struct {
	unsigned long fn;
	unsigned long arg[4];
	long ret;
} call;

static void guest_code(void)
{
	for (;;) {
		long (*fn)(unsigned int nr, unsigned long p1,
			   unsigned long p2, unsigned long p3);

		fn = (void *)call.fn;
		call.ret = fn(call.arg[0], call.arg[1], call.arg[2],
			      call.arg[3]);
		GUEST_SYNC(0);
	}
}

/* A function of the module: where it is and what hangs on it. */
struct shim {
	const char *name;
	const uint8_t *code;
	size_t size;
	unsigned int alternatives;
	unsigned int relocations;
	vm_vaddr_t gva;
};

static struct shim sev = { .name = "sev_shim" };
static struct shim plain = { .name = "plain_shim" };
static struct shim clobber = { .name = "clobber_shim" };
static struct shim upper = { .name = "upper_shim" };
static struct shim unused = { .name = "unused_shim" };

static void load_object(const char *path, uint8_t **image, size_t *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &st))
		ksft_exit_fail_msg("%s: %s; build test_modules and name the object\n",
				   path, strerror(errno));
	*size = st.st_size;
	*image = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (*image == MAP_FAILED || *size < sizeof(struct elf64_hdr) ||
	    memcmp(*image, ELFMAG, SELFMAG) ||
	    ((struct elf64_hdr *)*image)->e_type != ET_REL ||
	    ((struct elf64_hdr *)*image)->e_machine != EM_X86_64)
		ksft_exit_fail_msg("%s is not an x86-64 kernel object\n", path);
}

/* Count the relocations that point into a shim, or that change its bytes. */
static void count_relocations(uint8_t *image, struct elf64_shdr *sh,
			      struct elf64_shdr *rs, struct elf64_sym *sym,
			      const char *names, struct shim *shim,
			      struct elf64_sym *fn)
{
	struct elf64_rela *rela = (void *)(image + rs->sh_offset);
	bool alternatives = !strcmp(names + sh[rs->sh_info].sh_name,
				    ".altinstructions");
	size_t i;

	for (i = 0; i < rs->sh_size / sizeof(*rela); i++) {
		struct elf64_sym *target = &sym[ELF64_R_SYM(rela[i].r_info)];
		uint64_t where = target->st_value + rela[i].r_addend;

		if (alternatives && target->st_shndx == fn->st_shndx &&
		    where >= fn->st_value && where < fn->st_value + fn->st_size)
			shim->alternatives++;
		if (rs->sh_info == fn->st_shndx &&
		    rela[i].r_offset >= fn->st_value &&
		    rela[i].r_offset < fn->st_value + fn->st_size)
			shim->relocations++;
	}
}

static void find_shim(uint8_t *image, struct shim *shim)
{
	struct elf64_hdr *eh = (void *)image;
	struct elf64_shdr *sh = (void *)(image + eh->e_shoff);
	const char *names = (char *)image + sh[eh->e_shstrndx].sh_offset;
	struct elf64_sym *sym = NULL, *fn = NULL;
	const char *strings = NULL;
	size_t i, n = 0;

	for (i = 0; i < eh->e_shnum; i++) {
		if (sh[i].sh_type != SHT_SYMTAB)
			continue;
		sym = (void *)(image + sh[i].sh_offset);
		n = sh[i].sh_size / sizeof(*sym);
		strings = (char *)image + sh[sh[i].sh_link].sh_offset;
	}
	for (i = 0; i < n; i++)
		if (ELF_ST_TYPE(sym[i].st_info) == STT_FUNC &&
		    !strcmp(strings + sym[i].st_name, shim->name))
			fn = &sym[i];
	if (!fn)
		ksft_exit_fail_msg("the object has no function %s\n",
				   shim->name);
	shim->code = image + sh[fn->st_shndx].sh_offset + fn->st_value;
	shim->size = fn->st_size;
	for (i = 0; i < eh->e_shnum; i++)
		if (sh[i].sh_type == SHT_RELA)
			count_relocations(image, sh, &sh[i], sym, names, shim,
					  fn);
}

static unsigned int count_code(const struct shim *shim, const uint8_t *insn)
{
	unsigned int n = 0;
	size_t i;

	for (i = 0; i + 3 <= shim->size; i++)
		n += !memcmp(shim->code + i, insn, 3);
	return n;
}

static void expect(const char *name, unsigned int seen, unsigned int wanted)
{
	if (seen != wanted)
		ksft_print_msg("expected %u, saw %u\n", wanted, seen);
	ksft_test_result(seen == wanted, "%s\n", name);
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) ==
			     (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Run the guest to its next exit. False, with a message, if it is another. */
static bool run_guest(struct kvm_vm *vm, unsigned int reason)
{
	struct kvm_run *run = vcpu_state(vm, VCPU_ID);

	if (_vcpu_run(vm, VCPU_ID)) {
		ksft_print_msg("KVM_RUN: %s\n", strerror(errno));
		return false;
	}
	if (run->exit_reason != reason)
		ksft_print_msg("expected exit reason %u, saw %u\n", reason,
			       run->exit_reason);
	return run->exit_reason == reason;
}

/* Have the guest call a shim. */
static bool guest_call(struct kvm_vm *vm, const struct shim *shim,
		       const unsigned long *arg, long *ret)
{
	call.fn = shim->gva;
	memcpy(call.arg, arg, sizeof(call.arg));
	call.ret = 0x5a5a5a5a;
	sync_global_to_guest(vm, call);
	if (!run_guest(vm, KVM_EXIT_IO))
		return false;
	sync_global_from_guest(vm, call);
	*ret = call.ret;
	return true;
}

/*
 * The one hypercall that was traced since the last time. False if none, or
 * more than one, was.
 */
static bool read_trace(unsigned long *seen)
{
	static char text[65536];
	ssize_t len = 0, n;
	char *line;
	int fd;

	/* Some kernels leak memory when trace_pipe is closed. */
	fd = open(TRACEFS "trace", O_RDONLY);
	while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += n;
	text[len] = '\0';
	close(fd);
	/* Empty it. */
	close(open(TRACEFS "trace", O_WRONLY | O_TRUNC));
	line = strstr(text, "kvm_hypercall: nr ");
	if (!line || strstr(line + 1, "kvm_hypercall: nr "))
		return false;
	return sscanf(line, "kvm_hypercall: nr %lx a0 %lx a1 %lx a2 %lx",
		      &seen[0], &seen[1], &seen[2], &seen[3]) == 4;
}

#define BIT63		0x8000000000000000UL
#define ONES		0xffffffffffffffffUL

static const struct {
	const char *name;
	unsigned long arg[4];
	long ret;
} calls[] = {
	{ "known number",
	  { KVM_HC_VAPIC_POLL_IRQ, 0x1111, 0x2222, 0x3333 }, 0 },
	{ "known number, all arguments 0",
	  { KVM_HC_VAPIC_POLL_IRQ, 0, 0, 0 }, 0 },
	{ "known number, all arguments all ones",
	  { KVM_HC_VAPIC_POLL_IRQ, ONES, ONES, ONES }, 0 },
	{ "unknown number",
	  { 0x1234, 0x1111, 0x2222, 0x3333 }, -KVM_ENOSYS },
	{ "number 0", { 0, 1, 2, 3 }, -KVM_ENOSYS },
	{ "number all ones", { 0xffffffff, 1, 2, 3 }, -KVM_ENOSYS },
	{ "number bit 31", { 0x80000000, 1, 2, 3 }, -KVM_ENOSYS },
	{ "first argument all ones", { 0x1234, ONES, 0, 0 }, -KVM_ENOSYS },
	{ "second argument all ones", { 0x1234, 0, ONES, 0 }, -KVM_ENOSYS },
	{ "third argument all ones", { 0x1234, 0, 0, ONES }, -KVM_ENOSYS },
	{ "first argument bit 63", { 0x1234, BIT63, 0, 0 }, -KVM_ENOSYS },
	{ "second argument bit 63", { 0x1234, 0, BIT63, 0 }, -KVM_ENOSYS },
	{ "third argument bit 63", { 0x1234, 0, 0, BIT63 }, -KVM_ENOSYS },
};

/* What the host traces */

/* One call as the guest and as the host see it */
static void test_call(struct kvm_vm *vm, const struct shim *shim,
		      const char *name, const unsigned long *arg, long wanted)
{
	unsigned long seen[4] = {};
	bool host, ok;
	long ret = 0;

	ok = guest_call(vm, shim, arg, &ret);
	if (ok && ret != wanted) {
		ksft_print_msg("guest: expected %ld, saw %ld\n", wanted, ret);
		ok = false;
	}
	ksft_test_result(ok, "guest result: %s\n", name);

	host = read_trace(seen);
	if (!host)
		ksft_print_msg("host: not exactly one hypercall was traced\n");
	else if (memcmp(seen, arg, sizeof(seen)))
		ksft_print_msg("host: %#lx(%#lx, %#lx, %#lx) for %#lx(%#lx, %#lx, %#lx)\n",
			       seen[0], seen[1], seen[2], seen[3],
			       arg[0], arg[1], arg[2], arg[3]);
	ksft_test_result(host && !memcmp(seen, arg, sizeof(seen)),
			 "host view: %s\n", name);
}

static void test_calls(struct kvm_vm *vm)
{
	static const unsigned long other[] = { 0x1234, 0x1111, 0x2222, 0x3333 };
	unsigned long seen[4] = {};
	unsigned int i;
	long ret;

	for (i = 0; i < ARRAY_SIZE(calls); i++)
		test_call(vm, &sev, calls[i].name, calls[i].arg, calls[i].ret);
	test_call(vm, &upper, "number in a register with other bits above",
		  calls[0].arg, calls[0].ret);
	/* Whatever is left in RAX is returned; it is nobody's result. */
	ksft_test_result(guest_call(vm, &unused, other, &ret) &&
			 read_trace(seen) &&
			 !memcmp(seen, other, sizeof(seen)),
			 "host view: result that nobody looks at\n");
}

/* Let a table of pages and all below it be used at CPL 3. */
static void allow_user(struct kvm_vm *vm, uint64_t *table, unsigned int level)
{
	unsigned int i;

	for (i = 0; i < 512; i++) {
		if (!(table[i] & 1))
			continue;
		table[i] |= 4;
		if (level > 1)
			allow_user(vm, addr_gpa2hva(vm, table[i] & 0xffffffffff000),
				   level - 1);
	}
}

/* Let the guest go on at CPL 3, in the same memory. */
static void leave_ring_0(struct kvm_vm *vm)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_sregs_get(vm, VCPU_ID, &sregs);
	sregs.cs.dpl = 3;
	sregs.cs.selector |= 3;
	sregs.ss.dpl = 3;
	sregs.ss.selector |= 3;
	vcpu_sregs_set(vm, VCPU_ID, &sregs);
	vcpu_regs_get(vm, VCPU_ID, &regs);
	/* It tells of its results by port. */
	regs.rflags |= 3 << 12;
	vcpu_regs_set(vm, VCPU_ID, &regs);
	allow_user(vm, addr_gpa2hva(vm, sregs.cr3), 4);
}

/*
 * Put an output to a port in the place of the VMMCALL: the guest stops there,
 * and the memory that the hypervisor would see can be looked at.
 */
static void test_clobber(struct kvm_vm *vm, vm_vaddr_t mem_gva)
{
	static const uint8_t out[] = { 0xe6, STOP_PORT, 0x90 };
	static const char name[] = "store before the call is visible to the host";
	struct kvm_run *run = vcpu_state(vm, VCPU_ID);
	unsigned long *mem = addr_gva2hva(vm, mem_gva);
	uint8_t *code = addr_gva2hva(vm, clobber.gva);
	size_t at = 0;
	bool ok;

	while (at + 3 <= clobber.size && memcmp(code + at, vmmcall, 3))
		at++;
	if (at + 3 > clobber.size) {
		ksft_print_msg("%s has no VMMCALL\n", clobber.name);
		ksft_test_result_fail("%s\n", name);
		return;
	}
	memcpy(code + at, out, sizeof(out));

	*mem = 0;
	call.fn = clobber.gva;
	call.arg[0] = KVM_HC_VAPIC_POLL_IRQ;
	call.arg[1] = mem_gva;
	sync_global_to_guest(vm, call);
	ok = run_guest(vm, KVM_EXIT_IO) && run->io.port == STOP_PORT;
	if (ok && *mem != 1) {
		ksft_print_msg("at the call: expected 1 in memory, saw %lu\n",
			       *mem);
		ok = false;
	}
	ok = run_guest(vm, KVM_EXIT_IO) && ok;
	if (ok && *mem != 2) {
		ksft_print_msg("after it: expected 2 in memory, saw %lu\n",
			       *mem);
		ok = false;
	}
	ksft_test_result(ok, "%s\n", name);
}

/*
 * The contrast, and the reason: the VMCALL of kvm_hypercall3() works here only
 * because KVM rewrites the guest's text.
 */
static void test_rewrite(struct kvm_vm *vm)
{
	const uint8_t *code = addr_gva2hva(vm, plain.gva);
	long ret = -1;
	bool ok = guest_call(vm, &plain, calls[0].arg, &ret);

	if (ok && ret)
		ksft_print_msg("guest: expected 0, saw %ld\n", ret);
	if (ok && !memcmp(code, plain.code, plain.size))
		ksft_print_msg("the guest's text is as it was\n");
	ksft_test_result(ok && !ret && memcmp(code, plain.code, plain.size),
			 "kvm_hypercall3 needs its text rewritten\n");
}

static void place(struct kvm_vm *vm, struct shim *shim)
{
	shim->gva = vm_vaddr_alloc(vm, shim->size, 0x10000000, 0, 0);
	memcpy(addr_gva2hva(vm, shim->gva), shim->code, shim->size);
}

#define GUEST_CASES	(8 + 2 * ARRAY_SIZE(calls))

int main(int argc, char **argv)
{
	unsigned int relocations;
	char path[4096];
	struct kvm_vm *vm;
	uint8_t *image;
	size_t size;

	ksft_print_header();
	if (argc > 1)
		snprintf(path, sizeof(path), "%s", argv[1]);
	else
		snprintf(path, sizeof(path),
			 "%s/../test_modules/sev_hypercall3_shim.ko",
			 dirname(strdup(argv[0])));
	load_object(path, &image, &size);
	find_shim(image, &sev);
	find_shim(image, &plain);
	find_shim(image, &clobber);
	find_shim(image, &upper);
	find_shim(image, &unused);

	ksft_set_plan(7 + GUEST_CASES);
	expect("object: one VMMCALL", count_code(&sev, vmmcall), 1);
	expect("object: no VMCALL", count_code(&sev, vmcall), 0);
	expect("object: no alternatives entry", sev.alternatives, 0);
	expect("object: kvm_hypercall3 is compiled as VMCALL",
	       count_code(&plain, vmcall), 1);
	expect("object: kvm_hypercall3 has an alternatives entry",
	       plain.alternatives, 1);
	expect("object: VMMCALL also if nobody looks at the result",
	       count_code(&unused, vmmcall), 1);
	relocations = sev.relocations + clobber.relocations +
		      upper.relocations + unused.relocations;
	expect("object: no relocation", relocations, 0);
	/* What has relocations would not run where it is put. */
	if (relocations)
		ksft_exit_fail_msg("the object needs linking and was not run\n");

	if (is_intel_cpu()) {
		unsigned int i;

		for (i = 0; i < GUEST_CASES; i++)
			ksft_test_result_skip("guest: VMMCALL is AMD's\n");
		ksft_exit(!ksft_get_fail_cnt());
	}

	/* Without it nobody would know what arrived at the host. */
	if (!write_file(TRACEFS "tracing_on", "1") || !write_file(EVENT, "1"))
		ksft_exit_fail_msg("no tracepoint kvm_hypercall under %s: mount tracefs there\n",
				   TRACEFS);
	if (access(TRACEFS "trace", R_OK | W_OK))
		ksft_exit_fail_msg(TRACEFS "trace: %s\n", strerror(errno));

	vm = vm_create_default(VCPU_ID, 0, guest_code);
	vcpu_set_cpuid(vm, VCPU_ID, kvm_get_supported_cpuid());
	place(vm, &sev);
	place(vm, &plain);
	place(vm, &clobber);
	place(vm, &upper);
	place(vm, &unused);

	test_calls(vm);
	ksft_test_result(!memcmp(addr_gva2hva(vm, sev.gva), sev.code,
				 sev.size),
			 "guest text is as compiled after the calls\n");
	test_clobber(vm, vm_vaddr_alloc(vm, getpagesize(), 0x20000000, 0, 0));

	test_rewrite(vm);

	/* The last trace is the rewritten call's. */
	read_trace((unsigned long [4]) {});
	leave_ring_0(vm);
	test_call(vm, &sev, "at CPL 3", calls[0].arg, -KVM_EPERM);
	write_file(EVENT, "0");

	/* For the table that 'make' prints */
	if (!ksft_get_fail_cnt())
		ksft_print_msg("answer sev-hypercall3: VMMCALL %#lx gives %ld, %#lx gives %ld\n",
			       calls[0].arg[0], calls[0].ret, calls[3].arg[0],
			       calls[3].ret);
	kvm_vm_free(vm);
	ksft_exit(!ksft_get_fail_cnt());
}
