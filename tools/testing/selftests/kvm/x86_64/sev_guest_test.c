// SPDX-License-Identifier: GPL-2.0
/*
 * A whole kernel that believes it is an SEV guest, on a processor without SEV.
 *
 * usage: sev_guest_test KERNEL [MODULES]
 *
 * Guest memory is there twice: at its address, and at that with the encryption
 * bit set, on the same pages of this process. CPUID 0x8000001f and MSR
 * 0xc0010131, which this program answers, say SEV. The kernel then runs the code
 * of an SEV guest, and nothing is encrypted. Whatever it tells of its pages by
 * KVM_HC_MAP_GPA_RANGE goes into a list here.
 *
 * The check: the list has the pages that the guest's page table maps without the
 * encryption bit, and no other.
 *
 * KERNEL is a bzImage; it is booted by its 64-bit entry with an initramfs that
 * has this program as /init and sev_pages_test.ko, from the folder MODULES. The
 * guest says in its log what it has done, which arrives here by its serial line.
 */
#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "../../kselftest.h"

#define PAGE		4096UL
#define MEM_SIZE	(256UL << 20)
#define PAGES		(MEM_SIZE / PAGE)

/* A bit that the emulated processor's physical addresses have */
#define C_BIT		39
#define C_MASK		0x8000000000UL

/* Where things are put into the guest's memory */
#define GDT		0x6f000UL
#define PAGE_TABLE	0x70000UL
#define BOOT_PARAMS	0x90000UL
#define CMDLINE		0x91000UL
#define KERNEL		0x1000000UL
#define INITRD		0xb000000UL

#define HC_MAP_GPA_RANGE	12
#define ATTR_ENCRYPTED		0x10
#define CAP_EXIT_HYPERCALL	201
#define FEATURES		0x40000001
#define FEATURE_MAP_GPA_RANGE	0x10000
#define FEATURE_MIGRATION	0x20000
#define MSR_MIGRATION		0x4b564d08
#define MSR_SEV_STATUS		0xc0010131

#define SERIAL			0x3f8

/*
 * The guest's part
 */
#define MODULE		"/sev_pages_test.ko"

/* The tools' headers have not all of them. */
#ifndef SYS_finit_module
#define SYS_finit_module	313
#define SYS_delete_module	176
#endif

#define SAYS		"sev_guest_test: "

static void say(const char *fmt, ...)
{
	static int kmsg = -1;
	char line[256];
	va_list ap;

	if (kmsg < 0)
		kmsg = open("/dev/kmsg", O_WRONLY);
	va_start(ap, fmt);
	/* A record is one write, and vdprintf() would seek in it first. */
	if (write(kmsg, line, vsnprintf(line, sizeof(line), fmt, ap)) < 0)
		reboot(RB_POWER_OFF);
	va_end(ap);
}

static void guest(void)
{
	int fd;

	mkdir("/dev", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	say(SAYS "step booted -1 0 0\n");
	fd = open(MODULE, O_RDONLY);
	if (syscall(SYS_finit_module, fd, "", 0))
		say(SAYS "module: %s\n", strerror(errno));
	else if (syscall(SYS_delete_module, "sev_pages_test", 0))
		say(SAYS "module: %s\n", strerror(errno));
	say(SAYS "step unloaded 0 0 0\n");
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/*
 * The VMM's part
 */
static uint8_t *mem;
static int vm_fd, vcpu_fd;
static struct kvm_run *run;
static int run_size;

/* What the guest has told: a page is shared, or not. */
static uint8_t shared[PAGES];
static unsigned long n_shared, n_calls, n_told, bad_calls;
static uint64_t migration;
static unsigned int migration_writes;

#define fatal(fmt, ...)							\
	ksft_exit_fail_msg(fmt ": %s\n", ##__VA_ARGS__, strerror(errno))

static void *map_file(const char *path, size_t *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *map;

	if (fd < 0 || fstat(fd, &st))
		fatal("%s", path);
	*size = st.st_size;
	map = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		fatal("%s", path);
	close(fd);
	return map;
}

/* A file of an initramfs, from @p on; returns what is behind it. */
static uint8_t *add_file(uint8_t *p, const char *name, const void *data,
			 size_t size)
{
	size_t len = strlen(name) + 1;

	p += sprintf((char *)p,
		     "070701%08x%08x%08x%08x%08x%08x%08zx%08x%08x%08x%08x%08zx%08x",
		     0, size ? 0100755 : 0, 0, 0, 1, 0, size, 0, 0, 0, 0, len, 0);
	memcpy(p, name, len);
	p += len;
	while ((p - mem) % 4)
		*p++ = 0;
	memcpy(p, data, size);
	p += size;
	while ((p - mem) % 4)
		*p++ = 0;
	return p;
}

static void load(const char *kernel, const char *modules)
{
	struct boot_params *params = (void *)(mem + BOOT_PARAMS);
	char path[4096];
	struct setup_header *header;
	size_t size, setup;
	uint8_t *image, *p;

	image = map_file(kernel, &size);
	header = (void *)(image + offsetof(struct boot_params, hdr));
	if (header->header != 0x53726448 || !(header->xloadflags & XLF_KERNEL_64))
		ksft_exit_fail_msg("%s is no bzImage with a 64-bit entry\n",
				   kernel);
	setup = 512 * (1 + (header->setup_sects ? header->setup_sects : 4));
	memcpy(mem + KERNEL, image + setup, size - setup);
	munmap(image, size);

	image = map_file(kernel, &size);
	header = (void *)(image + offsetof(struct boot_params, hdr));
	params->hdr = *header;
	munmap(image, size);
	params->hdr.type_of_loader = 0xff;
	params->hdr.cmd_line_ptr = CMDLINE;
	params->e820_entries = 2;
	params->e820_table[0] = (struct boot_e820_entry) {
		.addr = 0, .size = 0x9fc00, .type = 1,
	};
	params->e820_table[1] = (struct boot_e820_entry) {
		.addr = 0x100000, .size = MEM_SIZE - 0x100000, .type = 1,
	};
	strcpy((char *)mem + CMDLINE,
	       "earlyprintk=ttyS0,keep console=ttyS1 panic=-1 reboot=k pci=off noxsave tsc=reliable no_timer_check");

	p = mem + INITRD;
	image = map_file("/proc/self/exe", &size);
	p = add_file(p, "init", image, size);
	munmap(image, size);
	snprintf(path, sizeof(path), "%s" MODULE, modules);
	image = map_file(path, &size);
	p = add_file(p, MODULE + 1, image, size);
	munmap(image, size);
	p = add_file(p, "TRAILER!!!", "", 0);
	params->hdr.ramdisk_image = INITRD;
	params->hdr.ramdisk_size = p - mem - INITRD;
}

/* The first 4 GiB mapped as they are, and the segments that Linux wants */
static void enter_long_mode(void)
{
	uint64_t *table = (void *)(mem + PAGE_TABLE);
	uint64_t *gdt = (void *)(mem + GDT);
	struct kvm_segment code = {
		.limit = ~0U, .selector = 0x10, .type = 11, .present = 1,
		.s = 1, .l = 1, .g = 1,
	};
	struct kvm_segment data = {
		.limit = ~0U, .selector = 0x18, .type = 3, .present = 1,
		.s = 1, .db = 1, .g = 1,
	};
	struct kvm_regs regs = {
		.rip = KERNEL + 0x200, .rsi = BOOT_PARAMS, .rflags = 2,
	};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} mtrr = {
		.head.nmsrs = 1,
		/* MTRRdefType: on, write-back */
		.entry = { .index = 0x2ff, .data = 0x806 },
	};
	struct kvm_sregs sregs;
	unsigned int i;

	table[0] = PAGE_TABLE + 0x1000 + 3;
	for (i = 0; i < 4; i++)
		table[512 + i] = PAGE_TABLE + 0x2000 + i * PAGE + 3;
	for (i = 0; i < 2048; i++)
		table[1024 + i] = (uint64_t)i << 21 | 0x83;
	gdt[2] = 0x00af9b000000ffff;
	gdt[3] = 0x00cf93000000ffff;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		fatal("KVM_GET_SREGS");
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 31;
	sregs.idt.limit = 0;
	sregs.cs = code;
	sregs.ds = data;
	sregs.es = data;
	sregs.fs = data;
	sregs.gs = data;
	sregs.ss = data;
	sregs.cr0 = 0x80000011;
	sregs.cr3 = PAGE_TABLE;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) ||
	    ioctl(vcpu_fd, KVM_SET_REGS, &regs))
		fatal("KVM_SET_SREGS, KVM_SET_REGS");
	/*
	 * As firmware leaves the MTRRs: without them Linux has no PAT, which
	 * an SEV guest needs to change the state of early pages.
	 */
	if (ioctl(vcpu_fd, KVM_SET_MSRS, &mtrr) != 1)
		fatal("KVM_SET_MSRS");
}

static void set_cpuid(int kvm)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[100];
	} cpuid = { .head.nent = 99 };
	struct kvm_cpuid_entry2 *e = cpuid.entries;
	unsigned int i;

	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid))
		fatal("KVM_GET_SUPPORTED_CPUID");
	for (i = 0; i < cpuid.head.nent; i++)
		switch (e[i].function) {
		case 1:
			/* Under a hypervisor */
			e[i].ecx |= 1U << 31;
			break;
		case FEATURES:
			e[i].eax |= FEATURE_MAP_GPA_RANGE | FEATURE_MIGRATION;
			break;
		case 0x80000000:
			e[i].eax = 0x8000001f;
			break;
		case 0x8000001f:
			e[i--] = e[--cpuid.head.nent];
			break;
		}
	/* SEV; where the bit is; one bit less of physical addresses */
	e[cpuid.head.nent++] = (struct kvm_cpuid_entry2) {
		.function = 0x8000001f, .eax = 2, .ebx = C_BIT | 1 << 6,
	};
	if (ioctl(vcpu_fd, KVM_SET_CPUID2, &cpuid))
		fatal("KVM_SET_CPUID2");
}

static void create_vm(void)
{
	struct kvm_enable_cap msrs = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN },
	};
	struct kvm_enable_cap hypercalls = {
		.cap = CAP_EXIT_HYPERCALL, .args = { 1 << HC_MAP_GPA_RANGE },
	};
	struct kvm_userspace_memory_region slot = { .memory_size = MEM_SIZE };
	struct kvm_pit_config pit = { 0 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		fatal("/dev/kvm");
	vm_fd = ioctl(kvm, KVM_CREATE_VM, 0);
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm_fd < 0 || mem == MAP_FAILED)
		fatal("KVM_CREATE_VM, or memory");
	slot.userspace_addr = (uintptr_t)mem;
	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot))
		fatal("memory");
	slot.slot = 1;
	slot.guest_phys_addr = C_MASK;
	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot))
		fatal("memory with the encryption bit");
	if (ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0) ||
	    ioctl(vm_fd, KVM_CREATE_PIT2, &pit))
		fatal("interrupt controllers and timer");
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &msrs) ||
	    ioctl(vm_fd, KVM_ENABLE_CAP, &hypercalls))
		fatal("KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_EXIT_HYPERCALL");
	vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd,
		   0);
	if (vcpu_fd < 0 || run == MAP_FAILED)
		fatal("KVM_CREATE_VCPU");
	set_cpuid(kvm);
	close(kvm);
}

/* The guest tells of a range. */
static void note_range(void)
{
	uint64_t first = run->hypercall.args[0] / PAGE;
	uint64_t n = run->hypercall.args[1];
	bool encrypted = run->hypercall.args[2] & ATTR_ENCRYPTED;
	uint64_t i;

	n_calls++;
	n_told += n;
	run->hypercall.ret = 0;
	if (first + n > PAGES) {
		bad_calls++;
		ksft_print_msg("told of pages that are not there: %#lx, %lu of them\n",
			       first, n);
		return;
	}
	for (i = first; i < first + n; i++) {
		n_shared += !encrypted - shared[i];
		shared[i] = !encrypted;
	}
}

/* What the guest's page table maps without the bit, in the kernel's half */
static uint8_t mapped[PAGES];

static void look_at(uint64_t entry, uint64_t size)
{
	uint64_t first = (entry & 0xffffffffff000 & ~C_MASK & ~(size - 1)) / PAGE;
	uint64_t i;

	if (entry & C_MASK)
		return;
	for (i = first; i < first + size / PAGE && i < PAGES; i++)
		mapped[i] = 1;
}

static void walk(uint64_t table, unsigned int level, unsigned int from)
{
	static const uint64_t size[] = { 0, PAGE, 2UL << 20, 1UL << 30 };
	uint64_t *entry = (void *)(mem + (table & 0xffffffffff000 & ~C_MASK));
	unsigned int i;

	for (i = from; i < 512; i++) {
		if (!(entry[i] & 1))
			continue;
		if (level == 1 || (level < 4 && entry[i] & 0x80))
			look_at(entry[i], size[level]);
		else
			walk(entry[i], level - 1, 0);
	}
}

static bool list_is_right(void)
{
	struct kvm_sregs sregs;
	unsigned long i, from, wrong = 0;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		fatal("KVM_GET_SREGS");
	memset(mapped, 0, sizeof(mapped));
	walk(sregs.cr3, 4, 256);
	for (i = 0; i < PAGES; i++) {
		if (shared[i] == mapped[i])
			continue;
		from = i;
		while (i + 1 < PAGES && shared[i + 1] == shared[from] &&
		       mapped[i + 1] == mapped[from])
			i++;
		if (wrong++ < 8)
			ksft_print_msg("pages %#lx to %#lx are %s and were told to be %s\n",
				       from, i,
				       mapped[from] ? "shared" : "encrypted",
				       shared[from] ? "shared" : "encrypted");
	}
	return !wrong;
}

/*
 * The guest has done a step and said how many calls, pages in these, and pages
 * shared more that are; it does not know this of its boot.
 */
static unsigned int boots;

static void check_step(const char *text)
{
	static unsigned long calls, told, pages;
	int want_calls, want_told, want_pages;
	char name[64];
	bool good;

	if (sscanf(text, "step %63s %d %d %d", name, &want_calls, &want_told,
		   &want_pages) != 4) {
		ksft_print_msg("the guest: %s\n", text);
		return;
	}
	good = list_is_right();
	if (want_calls >= 0 && n_calls - calls != (unsigned long)want_calls) {
		ksft_print_msg("%d calls expected, seen %lu\n", want_calls,
			       n_calls - calls);
		good = false;
	}
	if (want_calls >= 0 && n_told - told != (unsigned long)want_told) {
		ksft_print_msg("%d pages expected to be told of, seen %lu\n",
			       want_told, n_told - told);
		good = false;
	}
	if (want_calls >= 0 && n_shared != pages + want_pages) {
		ksft_print_msg("%lu pages expected to be shared, seen %lu\n",
			       pages + want_pages, n_shared);
		good = false;
	}
	if (want_calls < 0) {
		boots++;
		ksft_print_msg("report boot %u: %lu of %lu pages shared, told in %lu calls\n",
			       boots, n_shared, PAGES, n_calls - calls);
		if (boots == 1)
			printf("# answer sev-hypercall3: %lu of %lu pages shared, %lu calls\n",
			       n_shared, PAGES, n_calls);
	}
	calls = n_calls;
	told = n_told;
	pages = n_shared;
	ksft_test_result(good, "boot %u, %s: the list is what the page table says\n",
			 boots, name);
}

/*
 * A guest that says nothing for so many seconds has come to grief: it logs each
 * step, and most take milliseconds.
 */
#define SILENCE		100
static time_t spoke;

/* What it said last, for a report */
#define LAST		24
static char last[LAST][160];
static unsigned int n_last;

/* KVM_RUN comes back for it. */
static void second_passes(int sig)
{
}

static void watch_guest(void)
{
	const struct itimerval second = { { 1, 0 }, { 1, 0 } };
	const struct sigaction action = { .sa_handler = second_passes };

	if (sigaction(SIGALRM, &action, NULL) ||
	    setitimer(ITIMER_REAL, &second, NULL))
		fatal("a timer");
}

static void report_silence(void)
{
	struct kvm_mp_state state = { 0 };
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	unsigned int i;

	for (i = n_last < LAST ? 0 : n_last - LAST; i < n_last; i++)
		ksft_print_msg("the guest: %s\n", last[i % LAST]);
	if (ioctl(vcpu_fd, KVM_GET_REGS, &regs) ||
	    ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) ||
	    ioctl(vcpu_fd, KVM_GET_MP_STATE, &state))
		fatal("KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_MP_STATE");
	ksft_print_msg("rip %#llx, rsp %#llx, rflags %#llx, rax %#llx, cs %#x\n",
		       regs.rip, regs.rsp, regs.rflags, regs.rax,
		       sregs.cs.selector);
	ksft_print_msg("cr2 %#llx, cr3 %#llx, mp state %u, last exit %u\n",
		       sregs.cr2, sregs.cr3, state.mp_state, run->exit_reason);
	ksft_exit_fail_msg("the guest has said nothing for %u s\n", SILENCE);
}

static bool believes, warns;

static void serial_out(uint8_t c)
{
	static char line[1024];
	static unsigned int len;
	const char *text;

	if (c == '\r')
		return;
	if (c != '\n' && len < sizeof(line) - 1) {
		line[len++] = c;
		return;
	}
	line[len] = '\0';
	len = 0;
	spoke = time(NULL);
	snprintf(last[n_last++ % LAST], sizeof(last[0]), "%s", line);
	if (strstr(line, "AMD Memory Encryption Features active: SEV"))
		believes = true;
	text = strstr(line, SAYS);
	if (text)
		check_step(text + strlen(SAYS));
	if (strstr(line, "Kernel panic") || strstr(line, "PANIC:"))
		ksft_exit_fail_msg("the guest: %s\n", line);
	if (strstr(line, "WARNING:") || strstr(line, "BUG") ||
	    strstr(line, "Call Trace:")) {
		ksft_print_msg("the guest: %s\n", line);
		warns = true;
	}
}

/* True if the guest asks for a reset. */
static bool port_io(void)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool reset = false;
	unsigned int i;

	for (i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_IN) {
			memset(data, run->io.port == SERIAL + 5 ? 0x60 :
				     run->io.port == 0x61 ? 0x20 :
				     run->io.port == 0x64 ? 0 : 0xff,
			       run->io.size);
			continue;
		}
		if (run->io.port == SERIAL)
			serial_out(*data);
		reset |= run->io.port == 0x64 && *data == 0xfe;
	}
	return reset;
}

/* Run the guest until it asks for a reset. */
static void run_guest(void)
{
	struct kvm_regs regs;

	for (;;) {
		if (ioctl(vcpu_fd, KVM_RUN, 0)) {
			if (errno != EINTR)
				fatal("KVM_RUN");
			if (time(NULL) - spoke >= SILENCE)
				report_silence();
			continue;
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (port_io())
				return;
			break;
		case KVM_EXIT_HYPERCALL:
			note_range();
			break;
		case KVM_EXIT_X86_RDMSR:
			run->msr.error = run->msr.index != MSR_SEV_STATUS &&
					 run->msr.index != MSR_MIGRATION;
			run->msr.data = run->msr.index == MSR_MIGRATION ?
					migration : 1;
			break;
		case KVM_EXIT_X86_WRMSR:
			run->msr.error = run->msr.index != MSR_MIGRATION;
			if (run->msr.error)
				break;
			migration = run->msr.data;
			migration_writes++;
			break;
		case KVM_EXIT_MMIO:
			/* Nothing is there. */
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			break;
		default:
			ioctl(vcpu_fd, KVM_GET_REGS, &regs);
			ksft_exit_fail_msg("the guest ended with exit reason %u at %#llx\n",
					   run->exit_reason, regs.rip);
		}
	}
}

/*
 * What another kernel may have left: all memory shared. The one that begins, by
 * kexec for instance, has to set that right.
 */
static void leave_all_shared(void)
{
	unsigned long i;

	memset(shared, 0, sizeof(shared));
	n_shared = 0;
	for (i = 0; i < PAGES; i++)
		if (i < 0x9f || i >= 0x100)
			n_shared += shared[i] = 1;
}

#define STEPS	11
#define PLAN	(2 * STEPS + 5)

/* From power-on to the guest's reset */
static void boot(const char *kernel, const char *modules)
{
	create_vm();
	load(kernel, modules);
	enter_long_mode();
	spoke = time(NULL);
	run_guest();
	munmap(run, run_size);
	close(vcpu_fd);
	close(vm_fd);
	munmap(mem, MEM_SIZE);
}

int main(int argc, char **argv)
{
	if (getpid() == 1)
		guest();
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	if (argc < 2)
		ksft_exit_fail_msg("name the kernel that the guest boots\n");
	ksft_set_plan(PLAN);
	watch_guest();
	boot(argv[1], argc > 2 ? argv[2] : "/lab/modules");
	leave_all_shared();
	boot(argv[1], argc > 2 ? argv[2] : "/lab/modules");

	ksft_test_result(believes, "the kernel believes in SEV\n");
	ksft_test_result(!warns, "the kernel has nothing to warn of\n");
	ksft_test_result(!bad_calls, "only pages that are there were told of\n");
	ksft_test_result(migration_writes == 4,
			 "MSR_KVM_MIGRATION_CONTROL: written at boot and reboot\n");
	ksft_test_result(migration_writes && !migration,
			 "reboot: the guest cannot be migrated any more\n");
	if (ksft_test_num() != PLAN)
		ksft_exit_fail_msg("%u cases ran, %u were planned\n",
				   ksft_test_num(), PLAN);
	ksft_exit(!ksft_get_fail_cnt());
}
