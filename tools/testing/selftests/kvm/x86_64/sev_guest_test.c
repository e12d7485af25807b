// SPDX-License-Identifier: GPL-2.0
/*
 * A whole kernel that believes it is an SEV guest, on a processor without SEV.
 *
 * usage: sev_guest_test KERNEL PART [MODULES [verbose]]
 *
 * Guest memory is there twice: at its address, and at that with the encryption
 * bit set, on the same pages of this process. CPUID 0x8000001f and MSR
 * 0xc0010131, which this program answers, say SEV. The kernel then runs the code
 * of an SEV guest, on two vCPUs, and nothing is encrypted. Whatever it tells of
 * its pages by KVM_HC_MAP_GPA_RANGE goes into a list here.
 *
 * The check: the list has the pages that the guest's page table maps without the
 * encryption bit, and no other.
 *
 * KERNEL is a bzImage; it is booted by its 64-bit entry with an initramfs that
 * has this program as /init, sev_pages_test.ko, from the folder MODULES, and
 * KERNEL again. The guest says in its log what it has done, which arrives here by
 * its serial line:
 *
 *	boot 1	pages change their state and the guest goes to another VM while
 *		they are shared, with the list; a CPU goes offline and online;
 *		then kexec, with pages shared
 *	boot 2	the kernel that kexec has started, up to a reboot
 *	boot 3	a new VM, which thinks that all pages are shared: the guest,
 *		which uses only a part of its memory, panics, and a kernel for
 *		crashes, a few instructions, begins
 *
 * PART is "boots" for the first two; "crash" for the third, and for one of a
 * kernel that was started by a crash; "offers" for boots in VMs that do not offer
 * all, or refuse what they are told; or "es" for VMs that say SEV-ES.
 *
 * A processor with SEV-ES raises #VC at instructions that the hypervisor has to
 * answer. Here this program does, at those that KVM exits for: it puts the frame
 * on the guest's stack and lets it go on in its handler. That answers by the
 * GHCB, with a VMGEXIT, which KVM would take for a hypercall of no known number
 * and spoil RAX for; so a VMGEXIT is made an OUT in the guest's text before its
 * first use. What KVM does not exit for, CPUID above all, raises nothing.
 */
#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/kexec.h>
#include <pthread.h>
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
#include <unistd.h>

#include "../../kselftest.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof(*(array)))

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
/* The instructions by which kexec starts the kernel */
#define ENTRY		0x92000UL
#define SETUP_DATA	0x93000UL
/* Where the guest looks for what tells of its processors */
#define MP_TABLE	0xf0000UL
/* What it looks for of its CPUs in SEV-ES, in a page that is not RAM */
#define JUMP_TABLE	0xf1000UL
/* What it keeps for a kernel that takes over when it panics */
#define CRASH		0x800000UL
#define KERNEL		0x1000000UL
#define INITRD		0xb000000UL

#define HC_MAP_GPA_RANGE	12
#define ATTR_ENCRYPTED		0x10
#define CAP_EXIT_HYPERCALL	201
#define FEATURES		0x40000001
#define FEATURE_MAP_GPA_RANGE	0x10000
#define FEATURE_MIGRATION	0x20000
#define MSR_MIGRATION		0x4b564d08
#define MSR_GHCB		0xc0010130
#define GHCB_INFO_REQ		0x002
#define GHCB_INFO_RESP		0x001
#define GHCB_TERMINATE		0x100
#define MSR_SEV_STATUS		0xc0010131
#define SEV_ACTIVE		1
#define SEV_ES_ACTIVE		2

/* Of a GHCB: what is used here, and the bits that say that it is valid */
#define GHCB_CPL		0x0cb
#define GHCB_RAX		0x1f8
#define GHCB_RCX		0x308
#define GHCB_RDX		0x310
#define GHCB_RBX		0x318
#define GHCB_RSI		0x330
#define GHCB_EXIT_CODE		0x390
#define GHCB_EXIT_INFO_1	0x398
#define GHCB_EXIT_INFO_2	0x3a0
#define GHCB_VALID		0x3f0
#define EXIT_IOIO		0x7b
#define EXIT_MSR		0x7c
#define EXIT_VMMCALL		0x81
#define EXIT_AP_JUMP_TABLE	0x80000005
#define GET_AP_JUMP_TABLE	1

#define VC_VECTOR		29
#define ADDRESS_BITS		(0xffffffffff000 & ~C_MASK)
#define KERNEL_HALF		0xffffffff80000000UL

#define SERIAL			0x3f8
#define KEYBOARD		0x64
/* A port of nobody, which the kernel for crashes writes to */
#define CRASH_PORT		0xf4
/* And one that a VMGEXIT is made to write to */
#define VMGEXIT_PORT		0xf5
/* And one at which is read what was written last */
#define ECHO_PORT		0xf6

#define IMAGE		"/kernel"
#define MODULE		"/sev_pages_test.ko"
#define SAYS		"sev_guest_test: "

/* In seconds; a guest with KASAN is slow. */
#define SILENCE		100

/* The tools' headers have not all of them. */
#ifndef SYS_finit_module
#define SYS_finit_module	313
#define SYS_delete_module	176
#endif
#ifndef SYS_kexec_load
#define SYS_kexec_load		246
#endif

/*
 * What both parts do: put a kernel into memory to be started
 */
static bool in_guest;
/* The guest's memory, or what the guest will have there when kexec is done */
static uint8_t *mem;

static void say(const char *fmt, ...)
{
	static int kmsg = -1;
	char line[256];
	va_list ap;
	int fd;

	if (kmsg < 0)
		kmsg = open("/dev/kmsg", O_WRONLY);
	va_start(ap, fmt);
	/* A record is one write, and vdprintf() would seek in it first. */
	if (write(kmsg, line, vsnprintf(line, sizeof(line), fmt, ap)) < 0)
		reboot(RB_AUTOBOOT);
	va_end(ap);
	/* Another CPU may be at work on the log. To read this waits for it. */
	fd = open("/sys/class/tty/console/active", O_RDONLY);
	if (read(fd, line, sizeof(line)) < 0)
		reboot(RB_AUTOBOOT);
	close(fd);
}

/* What was tried did not succeed, and errno says why. */
static void __attribute__((noreturn)) fatal(const char *fmt, ...)
{
	const char *why = strerror(errno);
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!in_guest)
		ksft_exit_fail_msg("%s: %s\n", what, why);
	say(SAYS "failed: %s: %s\n", what, why);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

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

static uint8_t *add_path(uint8_t *p, const char *name, const char *path)
{
	size_t size;
	void *file = map_file(path, &size);

	p = add_file(p, name, file, size);
	munmap(file, size);
	return p;
}

/* What is on its command line beside what each guest has there */
static const char *also = "";

/*
 * load() - put all that the guest boots with into @mem
 * @kernel: path of the kernel's image
 * @modules: folder of the module
 * @self: path of this program
 * @stage: what the guest is to do
 *
 * Return: how long the kernel is.
 */
static size_t load(const char *kernel, const char *modules, const char *self,
		   const char *stage)
{
	/* mov $BOOT_PARAMS, %esi; mov $KERNEL + 0x200, %eax; jmp *%rax */
	static const uint8_t entry[] = {
		0xbe, 0x00, 0x00, 0x09, 0x00, 0xb8, 0x00, 0x02, 0x00, 0x01,
		0xff, 0xe0,
	};
	struct boot_params *params = (void *)(mem + BOOT_PARAMS);
	struct setup_header *header;
	size_t size, setup;
	char path[4096];
	uint8_t *image, *p;

	image = map_file(kernel, &size);
	header = (void *)(image + offsetof(struct boot_params, hdr));
	if (header->header != 0x53726448 || !(header->xloadflags & XLF_KERNEL_64))
		ksft_exit_fail_msg("%s is no bzImage with a 64-bit entry\n",
				   kernel);
	setup = 512 * (1 + (header->setup_sects ? header->setup_sects : 4));
	memcpy(mem + KERNEL, image + setup, size - setup);
	params->hdr = *header;
	munmap(image, size);
	memcpy(mem + ENTRY, entry, sizeof(entry));
	/* Nothing is in it, but its page counts as memory of another type. */
	params->hdr.setup_data = SETUP_DATA;
	((struct setup_data *)(mem + SETUP_DATA))->len = 16;

	params->hdr.type_of_loader = 0xff;
	params->hdr.cmd_line_ptr = CMDLINE;
	params->e820_entries = 2;
	params->e820_table[0] = (struct boot_e820_entry) {
		.addr = 0, .size = 0x9fc00, .type = 1,
	};
	params->e820_table[1] = (struct boot_e820_entry) {
		.addr = 0x100000, .size = MEM_SIZE - 0x100000, .type = 1,
	};
	sprintf((char *)mem + CMDLINE,
		"earlyprintk=ttyS0,keep console=ttyS1 loglevel=6 panic=-1 reboot=k pci=off noxsave tsc=reliable no_timer_check crashkernel=1M@%luM %s stage=%s",
		CRASH >> 20, also, stage);

	p = add_path(mem + INITRD, "init", self);
	snprintf(path, sizeof(path), "%s" MODULE, modules);
	p = add_path(p, MODULE + 1, path);
	p = add_path(p, IMAGE + 1, kernel);
	p = add_file(p, "TRAILER!!!", "", 0);
	params->hdr.ramdisk_image = INITRD;
	params->hdr.ramdisk_size = p - mem - INITRD;
	return size - setup;
}

/*
 * The guest's part
 */
static struct kexec_segment segment_of(unsigned long where, size_t size)
{
	size = (size + PAGE - 1) / PAGE * PAGE;
	return (struct kexec_segment) {
		.buf = mem + where, .bufsz = size, .mem = (void *)where,
		.memsz = size,
	};
}

static void own_memory(void)
{
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		fatal("memory");
}

static void do_kexec(const char *stage)
{
	struct boot_params *params;
	struct kexec_segment segment[3];
	size_t size;

	own_memory();
	params = (void *)(mem + BOOT_PARAMS);
	size = load(IMAGE, "", "/init", stage);
	segment[0] = segment_of(BOOT_PARAMS, SETUP_DATA + PAGE - BOOT_PARAMS);
	segment[1] = segment_of(KERNEL, size);
	segment[2] = segment_of(INITRD, params->hdr.ramdisk_size);
	if (syscall(SYS_kexec_load, ENTRY, 3, segment, KEXEC_ARCH_DEFAULT))
		fatal("kexec_load");
	reboot(RB_KEXEC);
	fatal("kexec");
}

/* A kernel of a few instructions: say so, and stop. */
static void load_crash_kernel(void)
{
	/* mov $'C', %al; mov $CRASH_PORT, %edx; out %al, (%dx); 1: hlt; jmp 1b */
	static const uint8_t code[] = {
		0xb0, 'C', 0xba, CRASH_PORT, 0, 0, 0, 0xee, 0xf4, 0xeb, 0xfd,
	};
	struct kexec_segment segment;

	own_memory();
	memcpy(mem + CRASH, code, sizeof(code));
	segment = segment_of(CRASH, sizeof(code));
	if (syscall(SYS_kexec_load, CRASH, 1, &segment,
		    KEXEC_ON_CRASH | KEXEC_ARCH_DEFAULT))
		fatal("kexec_load for a crash");
}

static void load_module(const char *parameters)
{
	int fd = open(MODULE, O_RDONLY | O_CLOEXEC);

	if (syscall(SYS_finit_module, fd, parameters, 0))
		fatal("the module is not loaded");
}

static void set_cpu(char online)
{
	int fd = open("/sys/devices/system/cpu/cpu1/online", O_WRONLY);

	if (write(fd, &online, 1) != 1)
		fatal("CPU 1 is not set to %c", online);
	close(fd);
}

/* Each read() is a record of the log. */
static bool in_log(const char *text)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char record[1024];
	bool found = false;
	ssize_t n;

	while (!found && (n = read(fd, record, sizeof(record) - 1)) > 0) {
		record[n] = '\0';
		found = strstr(record, text);
	}
	close(fd);
	return found;
}

static void guest(void)
{
	const char *stage = getenv("stage");

	in_guest = true;
	mkdir("/dev", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mkdir("/sys", 0755);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	if (in_log("AMD Memory Encryption Features active: SEV"))
		say(SAYS "believes\n");
	if (!strcmp(stage, "es"))
		load_module("ports=1");
	say(SAYS "step booted -1 0 0\n");
	if (!strcmp(stage, "first")) {
		load_module("");
		say(SAYS "move\n");
		say(SAYS "step moved 0 0 0\n");
		set_cpu('0');
		say(SAYS "step cpu-offline 0 0 0\n");
		set_cpu('1');
		say(SAYS "step cpu-online 0 0 0\n");
		do_kexec("second");
	}
	if (!strcmp(stage, "crash")) {
		load_crash_kernel();
		say(SAYS "panic\n");
		/* The end of PID 1 is one. */
		_exit(0);
	}
	load_module("");
	if (syscall(SYS_delete_module, "sev_pages_test", 0))
		fatal("the module stays");
	say(SAYS "step unloaded 0 0 0\n");
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/*
 * The VMM's part
 */
#define CPUS		2

struct vcpu {
	unsigned int id;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	uint64_t ghcb_msr;
	/* What #VC was raised for: the exit, and an access to a port */
	uint64_t raised;
	uint16_t port;
	uint8_t size;
	bool in;
	uint32_t out;
};

static struct vcpu vcpus[CPUS];
static int vm_fd, run_size;

/* Held by the vCPU whose exit is looked at */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What made the vCPUs stop */
static enum { RUNS, RESETS, CRASHES, MOVES, SUFFICES, IS_SILENT } stop;

/* What the guest has told: a page is shared, or not. */
struct list {
	uint8_t shared[PAGES];
	unsigned long n_shared;
	/* What was written to MSR_KVM_MIGRATION_CONTROL last */
	uint64_t ready;
};

static struct list list;

/* What the VM offers, and how many shared and encrypted pages it notes at most */
static uint32_t offered;
static uint64_t sev_status = SEV_ACTIVE;
static unsigned long most[] = { PAGES, PAGES };
/* All that was written there */
static char ready_writes[32];
static unsigned long n_calls, n_told, bad_calls;
/* Calls that change nothing, and that only go on where the one before ended */
static unsigned long n_needless, n_split;

/* What Linux knows processors and interrupts by where there is no ACPI */
static uint8_t checksum(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	while (n--)
		sum -= *p++;
	return sum;
}

static void write_mp_table(void)
{
	uint8_t *pointer = mem + MP_TABLE, *table = pointer + 16, *p;
	uint32_t where = MP_TABLE + 16, lapic = 0xfee00000, ioapic = 0xfec00000;
	unsigned int i, n = 0;

	memset(pointer, 0, PAGE);
	memcpy(table, "PCMP", 4);
	table[6] = 4;
	memcpy(table + 8, "KSFT    SEV GUEST   ", 20);
	memcpy(table + 36, &lapic, 4);
	p = table + 44;
	for (i = 0; i < CPUS; i++, n++, p += 20) {
		p[1] = i;
		p[2] = 0x14;
		/* Enabled; the first is the one that boots. */
		p[3] = i ? 1 : 3;
	}
	p[0] = 1;
	memcpy(p + 2, "ISA   ", 6);
	p += 8, n++;
	p[0] = 2;
	p[1] = CPUS;
	p[2] = 0x11;
	p[3] = 1;
	memcpy(p + 4, &ioapic, 4);
	p += 8, n++;
	/* Each interrupt is at the pin of its number, as KVM has them. */
	for (i = 0; i < 16; i++, n++, p += 8) {
		p[0] = 3;
		p[5] = i;
		p[6] = CPUS;
		p[7] = i;
	}
	table[4] = p - table;
	table[5] = (p - table) >> 8;
	table[34] = n;
	table[7] = checksum(table, p - table);
	memcpy(pointer, "_MP_", 4);
	memcpy(pointer + 4, &where, 4);
	pointer[8] = 1;
	pointer[9] = 4;
	pointer[10] = checksum(pointer, 16);
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

	if (ioctl(vcpus[0].fd, KVM_GET_SREGS, &sregs))
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
	if (ioctl(vcpus[0].fd, KVM_SET_SREGS, &sregs) ||
	    ioctl(vcpus[0].fd, KVM_SET_REGS, &regs))
		fatal("KVM_SET_SREGS, KVM_SET_REGS");
	/*
	 * As firmware leaves the MTRRs: without them Linux has no PAT, which
	 * an SEV guest needs to change the state of early pages.
	 */
	for (i = 0; i < CPUS; i++)
		if (ioctl(vcpus[i].fd, KVM_SET_MSRS, &mtrr) != 1)
			fatal("KVM_SET_MSRS");
}

static void set_cpuid(int kvm, struct vcpu *vcpu)
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
			/*
			 * Under a hypervisor; a package for each vCPU. No
			 * x2APIC: where one is on from the start, as kexec
			 * leaves it, the guest wants ACPI to tell of it.
			 */
			e[i].ecx |= 1U << 31;
			e[i].ecx &= ~(1U << 21);
			e[i].edx &= ~(1U << 28);
			e[i].ebx = (e[i].ebx & 0xffff) | vcpu->id << 24;
			break;
		case FEATURES:
			e[i].eax |= offered;
			break;
		case 0x80000000:
			e[i].eax = 0x8000001f;
			break;
		case 0x80000001:
			/* No TOPOEXT, the topology is that of leaf 1. */
			e[i].ecx &= ~(1U << 22);
			break;
		case 0x80000008:
			e[i].ecx = 0;
			break;
		case 0x8000001f:
			e[i--] = e[--cpuid.head.nent];
			break;
		}
	/* SEV; where the bit is; one bit less of physical addresses */
	e[cpuid.head.nent++] = (struct kvm_cpuid_entry2) {
		.function = 0x8000001f, .eax = 2, .ebx = C_BIT | 1 << 6,
	};
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, &cpuid))
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
	unsigned int i;

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
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	for (i = 0; i < CPUS; i++) {
		struct vcpu *vcpu = &vcpus[i];

		vcpu->id = i;
		vcpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, i);
		vcpu->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE,
				 MAP_SHARED, vcpu->fd, 0);
		if (vcpu->fd < 0 || vcpu->run == MAP_FAILED)
			fatal("KVM_CREATE_VCPU");
		set_cpuid(kvm, vcpu);
	}
	close(kvm);
}

static void destroy_vm(void)
{
	unsigned int i;

	for (i = 0; i < CPUS; i++) {
		munmap(vcpus[i].run, run_size);
		close(vcpus[i].fd);
	}
	close(vm_fd);
	munmap(mem, MEM_SIZE);
}

/* The guest tells of a range. Returns what it is answered. */
static uint64_t note_range(uint64_t gpa, uint64_t n, uint64_t attributes)
{
	static bool was_encrypted;
	static uint64_t end;
	bool encrypted = attributes & ATTR_ENCRYPTED;
	uint64_t first = gpa / PAGE;
	unsigned long changed = 0;
	uint64_t i;

	n_calls++;
	n_told += n;
	if (n > most[encrypted])
		return -EINVAL;
	if (first + n > PAGES) {
		bad_calls++;
		ksft_print_msg("told of pages that are not there: %#lx, %lu of them\n",
			       first, n);
		return 0;
	}
	for (i = first; i < first + n; i++) {
		changed += list.shared[i] != !encrypted;
		list.n_shared += !encrypted - list.shared[i];
		list.shared[i] = !encrypted;
	}
	if (!changed)
		n_needless++;
	else if (first == end && encrypted == was_encrypted)
		n_split++;
	end = first + n;
	was_encrypted = encrypted;
	return 0;
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

static bool list_is_right(struct vcpu *vcpu)
{
	struct kvm_sregs sregs;
	unsigned long i, from, wrong = 0;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		fatal("KVM_GET_SREGS");
	memset(mapped, 0, sizeof(mapped));
	walk(sregs.cr3, 4, 256);
	for (i = 0; i < PAGES; i++) {
		if (list.shared[i] == mapped[i])
			continue;
		from = i;
		while (i + 1 < PAGES && list.shared[i + 1] == list.shared[from] &&
		       mapped[i + 1] == mapped[from])
			i++;
		if (wrong++ < 8)
			ksft_print_msg("pages %#lx to %#lx are %s and were told to be %s\n",
				       from, i,
				       mapped[from] ? "shared" : "encrypted",
				       list.shared[from] ? "shared" : "encrypted");
	}
	return !wrong;
}

static void stop_vcpus(struct vcpu *self, int why)
{
	unsigned int i;

	if (stop)
		return;
	__atomic_store_n(&stop, why, __ATOMIC_SEQ_CST);
	for (i = 0; i < CPUS; i++) {
		if (&vcpus[i] == self)
			continue;
		vcpus[i].run->immediate_exit = 1;
		pthread_kill(vcpus[i].thread, SIGUSR1);
	}
}

/*
 * The guest has done a step and said how many calls, pages in these, and pages
 * shared more that are; it does not know this of its boot.
 */
static unsigned int boots;
static bool in_short, short_list_right, panics, believes, ports_read;

/*
 * A call for each range that changes. Memory below and above 640K is told of as
 * encrypted before all else, which it may be already. The pools for DMA, one for
 * each zone, can adjoin.
 */
#define RAM_RANGES	2
#define POOLS		2

static void check_boot(unsigned long calls)
{
	boots++;
	ksft_print_msg("report boot %u: %lu of %lu pages shared, %lu calls, %lu ranges changed\n",
		       boots, list.n_shared, PAGES, calls, calls - n_needless);
	if (boots == 1)
		printf("# answer sev-hypercall3: %lu of %lu pages shared, %lu calls\n",
		       list.n_shared, PAGES, calls);
	ksft_test_result(n_needless <= RAM_RANGES && n_split < POOLS,
			 "boot %u: a call for each range that changes at most\n",
			 boots);
}

static void check_step(struct vcpu *vcpu, const char *text)
{
	static unsigned long calls, told, pages;
	static char writes[sizeof(ready_writes)];
	int want_calls, want_told, want_pages;
	char name[64];
	bool good;

	if (!strncmp(text, "failed", 6))
		ksft_exit_fail_msg("the guest: %s\n", text);
	if (!strcmp(text, "believes"))
		believes = true;
	if (!strcmp(text, "panic"))
		panics = true;
	if (!strcmp(text, "ports"))
		ports_read = true;
	if (!strcmp(text, "move"))
		stop_vcpus(vcpu, MOVES);
	if (sscanf(text, "step %63s %d %d %d", name, &want_calls, &want_told,
		   &want_pages) != 4)
		return;
	if (in_short) {
		short_list_right = list_is_right(vcpu);
		stop_vcpus(vcpu, SUFFICES);
		return;
	}
	good = list_is_right(vcpu);
	if (list.ready != 1) {
		ksft_print_msg("MSR_KVM_MIGRATION_CONTROL is %#lx\n", list.ready);
		good = false;
	}
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
	if (want_calls >= 0 && list.n_shared != pages + want_pages) {
		ksft_print_msg("%lu pages expected to be shared, seen %lu\n",
			       pages + want_pages, list.n_shared);
		good = false;
	}
	if (want_calls >= 0 && strcmp(writes, ready_writes)) {
		ksft_print_msg("MSR_KVM_MIGRATION_CONTROL was written\n");
		good = false;
	}
	if (want_calls < 0)
		check_boot(n_calls - calls);
	calls = n_calls;
	told = n_told;
	pages = list.n_shared;
	strcpy(writes, ready_writes);
	n_needless = 0;
	n_split = 0;
	ksft_test_result(good, "boot %u, %s: the list is what the page table says\n",
			 boots, name);
}

static bool warns, ready_early, verbose;
/* Lines of a warning that are still to come, at most */
static unsigned int warning_lines;

static void serial_out(struct vcpu *vcpu, uint8_t c)
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
	alarm(SILENCE);
	if (verbose)
		ksft_print_msg("guest: %s\n", line);
	text = strstr(line, SAYS);
	if (text)
		check_step(vcpu, text + strlen(SAYS));
	/* What it says then is what a panic is made of. */
	if (panics)
		return;
	if (strstr(line, "Kernel panic") || strstr(line, "PANIC:"))
		ksft_exit_fail_msg("the guest: %s\n", line);
	if (strstr(line, "WARNING:") || strstr(line, "BUG") ||
	    strstr(line, "Call Trace:")) {
		warns = true;
		warning_lines = 40;
	}
	if (warning_lines) {
		ksft_print_msg("the guest: %s\n", line);
		warning_lines--;
	}
}

static uint8_t echo[4];
static unsigned int n_echo;

static void access_port(struct vcpu *vcpu, uint16_t port, unsigned int size,
			bool in, uint8_t *data)
{
	if (port == ECHO_PORT) {
		n_echo++;
		memcpy(in ? data : echo, in ? echo : data, size);
		return;
	}
	if (in) {
		memset(data, port == SERIAL + 5 ? 0x60 : port == 0x61 ? 0x20 :
			     port == KEYBOARD ? 0 : 0xff, size);
		return;
	}
	if (port == SERIAL)
		serial_out(vcpu, *data);
	if (port == KEYBOARD && *data == 0xfe)
		stop_vcpus(vcpu, RESETS);
	if (port == CRASH_PORT && *data == 'C')
		stop_vcpus(vcpu, CRASHES);
}

static void port_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned int i;

	for (i = 0; i < run->io.count; i++, data += run->io.size)
		access_port(vcpu, run->io.port, run->io.size,
			    run->io.direction == KVM_EXIT_IO_IN, data);
}

/* Returns whether there is such an MSR. */
static bool write_msr(struct vcpu *vcpu, uint32_t index, uint64_t data)
{
	size_t n = strlen(ready_writes);

	if (index != MSR_MIGRATION)
		return false;
	list.ready = data;
	if (list.ready && !list_is_right(vcpu))
		ready_early = true;
	if (n < sizeof(ready_writes) - 1)
		ready_writes[n] = data > 1 ? '?' : '0' + data;
	return true;
}

/*
 * SEV-ES: #VC, the GHCB's MSR and page
 */
static bool raises_vc;
/* The versions of the protocol that are offered */
static uint64_t least_version, last_version;
static unsigned int n_negotiated, n_ioio, n_msr, n_vmmcall, n_jump_table;
static unsigned int ghcb_bad;
static uint64_t terminated;

/* Where in this process the byte at an address of the guest's kernel is */
static void *guest_address(const struct kvm_sregs *sregs, uint64_t address)
{
	uint64_t *table = (void *)(mem + (sregs->cr3 & ADDRESS_BITS));
	uint64_t entry, below;
	unsigned int level;

	for (level = 4; ; level--) {
		below = PAGE << 9 * (level - 1);
		entry = table[address / below % 512];
		if (!(entry & 1))
			ksft_exit_fail_msg("the guest has nothing at %#lx\n", address);
		if (level == 1 || (level < 4 && entry & 0x80))
			break;
		table = (void *)(mem + (entry & ADDRESS_BITS));
	}
	return mem + (entry & ADDRESS_BITS & ~(below - 1)) +
	       (address & (below - 1));
}

/*
 * raise_vc() - raise #VC at the instruction that a vCPU exited for
 * @code: of the exit, which the exception's error code is
 *
 * KVM could be told to, but TCG's SVM delivers this exception without its error
 * code. What KVM has left to do for the exit is done first, and undone by setting
 * the registers.
 *
 * Return: false if there is no handler yet, or it is not the kernel that runs.
 */
static bool raise_vc(struct vcpu *vcpu, uint64_t code)
{
	uint64_t frame[6], handler, *gate;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	unsigned int ist, i;

	if (!raises_vc)
		return false;
	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) ||
	    ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		fatal("registers of vCPU %u", vcpu->id);
	if (regs.rip < KERNEL_HALF || sregs.idt.limit < VC_VECTOR * 16 + 15)
		return false;
	gate = guest_address(&sregs, sregs.idt.base + VC_VECTOR * 16);
	if (!(gate[0] >> 47 & 1))
		return false;

	vcpu->run->immediate_exit = 1;
	if (!ioctl(vcpu->fd, KVM_RUN, 0) || errno != EINTR)
		fatal("KVM_RUN with immediate_exit");
	vcpu->run->immediate_exit = 0;

	handler = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) |
		  gate[1] << 32;
	ist = gate[0] >> 32 & 7;
	frame[0] = code;
	frame[1] = regs.rip;
	frame[2] = sregs.cs.selector;
	frame[3] = regs.rflags;
	frame[4] = regs.rsp;
	frame[5] = sregs.ss.selector;
	if (ist)
		memcpy(&regs.rsp, guest_address(&sregs, sregs.tr.base + 0x1c +
						ist * 8), 8);
	regs.rsp &= ~15UL;
	for (i = 6; i > 0; i--) {
		regs.rsp -= 8;
		memcpy(guest_address(&sregs, regs.rsp), &frame[i - 1], 8);
	}
	regs.rip = handler;
	/* Without TF, IF, NT and RF */
	regs.rflags &= ~0x14300UL;
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		fatal("KVM_SET_REGS");
	vcpu->raised = code;
	return true;
}

/* Make an OUT of each VMGEXIT of the kernel that has just begun to use them. */
static void replace_vmgexits(void)
{
	static const uint8_t vmgexit[] = { 0xf3, 0x0f, 0x01, 0xd9 };
	/* out %al, $VMGEXIT_PORT; nop */
	static const uint8_t out[] = { 0xe6, VMGEXIT_PORT, 0x66, 0x90 };
	uint8_t *p = mem + KERNEL, *end = mem + INITRD;

	while ((p = memmem(p, end - p, vmgexit, sizeof(vmgexit))))
		memcpy(p, out, sizeof(out));
}

static void bad_ghcb(const char *what, uint64_t value)
{
	ksft_print_msg("GHCB: %s: %#lx\n", what, value);
	ghcb_bad++;
}

static uint64_t ghcb_get(const uint8_t *ghcb, unsigned int offset)
{
	uint64_t value;

	if (!(ghcb[GHCB_VALID + offset / 64] & 1 << offset / 8 % 8))
		bad_ghcb("not valid", offset);
	memcpy(&value, ghcb + offset / 8 * 8, sizeof(value));
	return value >> offset % 8 * 8;
}

static void ghcb_put(uint8_t *ghcb, unsigned int offset, uint64_t value)
{
	memcpy(ghcb + offset, &value, sizeof(value));
	ghcb[GHCB_VALID + offset / 64] |= 1 << offset / 8 % 8;
}

static void ghcb_ioio(struct vcpu *vcpu, uint8_t *ghcb, uint64_t info)
{
	uint16_t port = info >> 16;
	unsigned int size = info >> 4 & 7;
	uint64_t data = 0, out = 0;
	bool in = info & 1;

	n_ioio++;
	/* Neither a string nor repeated, 64-bit addresses */
	if (info & 0xfc8c || !(info & 0x200) || port != vcpu->port ||
	    size != vcpu->size || in != vcpu->in)
		bad_ghcb("another access to a port than was made", info);
	if (!in) {
		data = ghcb_get(ghcb, GHCB_RAX);
		memcpy(&out, &vcpu->out, vcpu->size);
		/* And nothing else of RAX */
		if (data != out)
			bad_ghcb("another value for a port than there was", data);
	}
	access_port(vcpu, port, size, in, (uint8_t *)&data);
	if (in)
		ghcb_put(ghcb, GHCB_RAX, data);
}

/* Is what the guest says to be valid what it has to tell for this exit? */
static bool valid_for(const uint8_t *ghcb, uint64_t code)
{
	static const struct {
		uint64_t code;
		uint16_t offsets[10];
	} all[] = {
		{ EXIT_IOIO, { GHCB_RAX } },
		{ EXIT_MSR, { GHCB_RAX, GHCB_RCX, GHCB_RDX } },
		{ EXIT_VMMCALL, { GHCB_RAX, GHCB_CPL, GHCB_RBX, GHCB_RCX,
				  GHCB_RDX, GHCB_RSI } },
	};
	static const uint16_t always[] = {
		GHCB_EXIT_CODE, GHCB_EXIT_INFO_1, GHCB_EXIT_INFO_2,
	};
	uint8_t valid[16] = {};
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(always); i++)
		valid[always[i] / 64] |= 1 << always[i] / 8 % 8;
	for (i = 0; i < ARRAY_SIZE(all); i++)
		for (j = 0; all[i].code == code && all[i].offsets[j]; j++)
			valid[all[i].offsets[j] / 64] |=
				1 << all[i].offsets[j] / 8 % 8;
	return !memcmp(ghcb + GHCB_VALID, valid, sizeof(valid));
}

/* A VMGEXIT with the address of a GHCB in the MSR */
static void answer_ghcb(struct vcpu *vcpu)
{
	uint64_t page = vcpu->ghcb_msr / PAGE, code, info, nr;
	uint8_t *ghcb = mem + page * PAGE;

	if (page >= PAGES || (list.ready && !list.shared[page])) {
		bad_ghcb("its page is not shared", vcpu->ghcb_msr);
		return;
	}
	code = ghcb_get(ghcb, GHCB_EXIT_CODE);
	info = ghcb_get(ghcb, GHCB_EXIT_INFO_1);
	if (ghcb_get(ghcb, GHCB_EXIT_INFO_2))
		bad_ghcb("something in exit information 2", code);
	if (code != EXIT_AP_JUMP_TABLE && code != vcpu->raised)
		bad_ghcb("another exit than #VC was raised for", code);
	if (!valid_for(ghcb, code))
		bad_ghcb("more or less is valid than this exit needs", code);
	vcpu->raised = 0;
	ghcb_put(ghcb, GHCB_EXIT_INFO_1, 0);
	ghcb_put(ghcb, GHCB_EXIT_INFO_2, 0);
	switch (code) {
	case EXIT_AP_JUMP_TABLE:
		n_jump_table++;
		if (info != GET_AP_JUMP_TABLE)
			bad_ghcb("no request for the jump table", info);
		ghcb_put(ghcb, GHCB_EXIT_INFO_2, JUMP_TABLE);
		break;
	case EXIT_IOIO:
		ghcb_ioio(vcpu, ghcb, info);
		break;
	case EXIT_MSR:
		n_msr++;
		if (info != 1 || !write_msr(vcpu, ghcb_get(ghcb, GHCB_RCX),
					    (uint32_t)ghcb_get(ghcb, GHCB_RAX) |
					    ghcb_get(ghcb, GHCB_RDX) << 32))
			bad_ghcb("another MSR than was written", info);
		break;
	case EXIT_VMMCALL:
		n_vmmcall++;
		nr = ghcb_get(ghcb, GHCB_RAX);
		if (nr != HC_MAP_GPA_RANGE)
			bad_ghcb("another hypercall than was made", nr);
		if ((uint8_t)ghcb_get(ghcb, GHCB_CPL))
			bad_ghcb("CPL of the kernel", ghcb[GHCB_CPL]);
		ghcb_put(ghcb, GHCB_RAX, note_range(ghcb_get(ghcb, GHCB_RBX),
						    ghcb_get(ghcb, GHCB_RCX),
						    ghcb_get(ghcb, GHCB_RDX)));
		break;
	default:
		bad_ghcb("an unknown exit", code);
	}
}

static void vmgexit(struct vcpu *vcpu)
{
	switch (vcpu->ghcb_msr % PAGE) {
	case 0:
		answer_ghcb(vcpu);
		break;
	case GHCB_INFO_REQ:
		n_negotiated++;
		vcpu->ghcb_msr = last_version << 48 | least_version << 32 |
				 C_BIT << 24 | GHCB_INFO_RESP;
		break;
	case GHCB_TERMINATE:
		terminated = vcpu->ghcb_msr;
		stop_vcpus(vcpu, SUFFICES);
		break;
	default:
		bad_ghcb("an unknown request in its MSR", vcpu->ghcb_msr);
	}
}

static void io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->io.port == VMGEXIT_PORT) {
		vmgexit(vcpu);
		return;
	}
	vcpu->port = run->io.port;
	vcpu->size = run->io.size;
	vcpu->in = run->io.direction == KVM_EXIT_IO_IN;
	memcpy(&vcpu->out, (uint8_t *)run + run->io.data_offset, run->io.size);
	if (run->io.count > 1 || !raise_vc(vcpu, EXIT_IOIO))
		port_io(vcpu);
}

static void wrmsr(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->msr.error = 0;
	if (run->msr.index == MSR_GHCB) {
		vcpu->ghcb_msr = run->msr.data;
		/* That is the first that the kernel asks. */
		if (run->msr.data == GHCB_INFO_REQ)
			replace_vmgexits();
		return;
	}
	if (run->msr.index != MSR_MIGRATION || !raise_vc(vcpu, EXIT_MSR))
		run->msr.error = !write_msr(vcpu, run->msr.index, run->msr.data);
}

static void handle_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_regs regs;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		io(vcpu);
		break;
	case KVM_EXIT_HYPERCALL:
		if (!raise_vc(vcpu, EXIT_VMMCALL))
			run->hypercall.ret = note_range(run->hypercall.args[0],
							run->hypercall.args[1],
							run->hypercall.args[2]);
		break;
	case KVM_EXIT_X86_RDMSR:
		run->msr.error = run->msr.index != MSR_SEV_STATUS &&
				 run->msr.index != MSR_GHCB &&
				 run->msr.index != MSR_MIGRATION;
		run->msr.data = run->msr.index == MSR_MIGRATION ? list.ready :
				run->msr.index == MSR_GHCB ? vcpu->ghcb_msr :
				sev_status;
		break;
	case KVM_EXIT_X86_WRMSR:
		wrmsr(vcpu);
		break;
	case KVM_EXIT_MMIO:
		/* Nothing is there. */
		memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		break;
	default:
		ioctl(vcpu->fd, KVM_GET_REGS, &regs);
		ksft_exit_fail_msg("vCPU %u ended with exit reason %u at %#llx\n",
				   vcpu->id, run->exit_reason, regs.rip);
	}
}

static void *run_vcpu(void *arg)
{
	struct vcpu *vcpu = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		if (ioctl(vcpu->fd, KVM_RUN, 0)) {
			if (errno != EINTR && errno != EAGAIN)
				fatal("KVM_RUN of vCPU %u", vcpu->id);
			continue;
		}
		pthread_mutex_lock(&lock);
		handle_exit(vcpu);
		pthread_mutex_unlock(&lock);
	}
	/* What the last exit was for is completed before anything is saved. */
	vcpu->run->immediate_exit = 1;
	if (!ioctl(vcpu->fd, KVM_RUN, 0) || errno != EINTR)
		fatal("KVM_RUN with immediate_exit");
	vcpu->run->immediate_exit = 0;
	return NULL;
}

/* A guest that has said nothing for so many seconds goes no further. */
static void on_silence(int sig)
{
	(void)sig;
	stop_vcpus(NULL, IS_SILENT);
}

/* Where it stands, and what it may wait for */
static void report_silence(void)
{
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	unsigned int i, j, n;
	char bits[128];

	for (i = 0; i < CPUS; i++) {
		if (ioctl(vcpus[i].fd, KVM_GET_REGS, &regs) ||
		    ioctl(vcpus[i].fd, KVM_GET_LAPIC, &lapic) ||
		    ioctl(vcpus[i].fd, KVM_GET_VCPU_EVENTS, &events) ||
		    ioctl(vcpus[i].fd, KVM_GET_MP_STATE, &mp))
			fatal("what a vCPU is made of");
		ksft_print_msg("vCPU %u: last exit %u, mp_state %u\n", i,
			       vcpus[i].run->exit_reason, mp.mp_state);
		ksft_print_msg("vCPU %u: rip %#llx, rsp %#llx, rflags %#llx\n",
			       i, regs.rip, regs.rsp, regs.rflags);
		ksft_print_msg("vCPU %u: shadow %u, interrupt %u of %#x, NMI %u %u %u\n",
			       i, events.interrupt.shadow,
			       events.interrupt.injected, events.interrupt.nr,
			       events.nmi.injected, events.nmi.pending,
			       events.nmi.masked);
		/* The timer's vector, counts and divisor; what is in service, asked for */
		for (j = n = 0; j < 16; j++)
			n += snprintf(bits + n, sizeof(bits) - n, " %x",
				      *(uint32_t *)(lapic.regs + 0x100 +
						    (j / 8) * 0x100 + j % 8 * 0x10));
		ksft_print_msg("vCPU %u: APIC timer %#x %u %u %#x, ISR and IRR%s\n",
			       i, *(uint32_t *)(lapic.regs + 0x320),
			       *(uint32_t *)(lapic.regs + 0x380),
			       *(uint32_t *)(lapic.regs + 0x390),
			       *(uint32_t *)(lapic.regs + 0x3e0), bits);
	}
	ksft_exit_fail_msg("the guest has said nothing for %u s\n", SILENCE);
}

/* Run the guest until something stops it. */
static int run_guest(void)
{
	unsigned int i;

	stop = RUNS;
	alarm(SILENCE);
	/* Nobody is to be stopped who has no thread yet. */
	pthread_mutex_lock(&lock);
	for (i = 0; i < CPUS; i++)
		if (pthread_create(&vcpus[i].thread, NULL, run_vcpu, &vcpus[i]))
			fatal("a thread for vCPU %u", i);
	pthread_mutex_unlock(&lock);
	for (i = 0; i < CPUS; i++)
		pthread_join(vcpus[i].thread, NULL);
	alarm(0);
	if (stop == IS_SILENT)
		report_silence();
	return stop;
}

/*
 * The guest goes to another VM: all that it is made of is saved, and restored
 * there in the order in which one part needs another.
 */
#define MAX_MSRS	256

struct saved_vcpu {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	uint32_t n_msrs;
	struct kvm_msr_entry msrs[MAX_MSRS];
};

struct saved_vm {
	struct list list;
	struct kvm_irqchip chips[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	struct saved_vcpu vcpus[CPUS];
};

static bool one_msr(int fd, unsigned long how, struct kvm_msr_entry *entry)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head.nmsrs = 1, .entry = *entry };

	if (ioctl(fd, how, &msr) != 1)
		return false;
	*entry = msr.entry;
	return true;
}

static void save_vcpu(int fd, struct saved_vcpu *to)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[MAX_MSRS];
	} msrs = { .head.nmsrs = MAX_MSRS };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	unsigned int i;

	if (ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &msrs) ||
	    ioctl(fd, KVM_GET_MP_STATE, &to->mp) ||
	    ioctl(fd, KVM_GET_REGS, &to->regs) ||
	    ioctl(fd, KVM_GET_SREGS, &to->sregs) ||
	    ioctl(fd, KVM_GET_FPU, &to->fpu) ||
	    ioctl(fd, KVM_GET_LAPIC, &to->lapic) ||
	    ioctl(fd, KVM_GET_VCPU_EVENTS, &to->events))
		fatal("what a vCPU is made of");
	close(kvm);
	to->n_msrs = 0;
	for (i = 0; i < msrs.head.nmsrs; i++) {
		to->msrs[to->n_msrs].index = msrs.index[i];
		/* Some are listed that this processor has not. */
		if (one_msr(fd, KVM_GET_MSRS, &to->msrs[to->n_msrs]))
			to->n_msrs++;
	}
}

static void restore_vcpu(int fd, struct saved_vcpu *from)
{
	unsigned int i;

	if (ioctl(fd, KVM_SET_SREGS, &from->sregs) ||
	    ioctl(fd, KVM_SET_LAPIC, &from->lapic))
		fatal("special registers and local APIC");
	for (i = 0; i < from->n_msrs; i++) {
		struct kvm_msr_entry now = from->msrs[i];

		if (one_msr(fd, KVM_GET_MSRS, &now) &&
		    now.data == from->msrs[i].data)
			continue;
		if (!one_msr(fd, KVM_SET_MSRS, &from->msrs[i]))
			ksft_print_msg("MSR %#x is not restored\n",
				       from->msrs[i].index);
	}
	if (ioctl(fd, KVM_SET_FPU, &from->fpu) ||
	    ioctl(fd, KVM_SET_VCPU_EVENTS, &from->events) ||
	    ioctl(fd, KVM_SET_MP_STATE, &from->mp) ||
	    ioctl(fd, KVM_SET_REGS, &from->regs))
		fatal("registers, events and state of a vCPU");
}

/*
 * A page goes as it is if it is on the list, and by the firmware otherwise,
 * which makes of a page that is in the other state what nobody can use.
 */
static void move_page(uint8_t *to, const uint8_t *from, unsigned long page)
{
	static const uint8_t zero[PAGE];

	if (list.shared[page] != mapped[page])
		memset(to, 0xdb, PAGE);
	else if (memcmp(from, zero, PAGE))
		memcpy(to, from, PAGE);
}

static void move(void)
{
	struct saved_vm *saved = calloc(1, sizeof(*saved));
	uint8_t *old = mem;
	unsigned long i;

	if (!saved)
		fatal("memory");
	/* It also finds out what state each page is in. */
	list_is_right(&vcpus[0]);
	saved->list = list;
	for (i = 0; i < CPUS; i++)
		save_vcpu(vcpus[i].fd, &saved->vcpus[i]);
	for (i = 0; i < 3; i++) {
		saved->chips[i].chip_id = i;
		if (ioctl(vm_fd, KVM_GET_IRQCHIP, &saved->chips[i]))
			fatal("KVM_GET_IRQCHIP");
	}
	if (ioctl(vm_fd, KVM_GET_PIT2, &saved->pit) ||
	    ioctl(vm_fd, KVM_GET_CLOCK, &saved->clock))
		fatal("KVM_GET_PIT2, KVM_GET_CLOCK");
	saved->clock.flags = 0;
	for (i = 0; i < CPUS; i++) {
		munmap(vcpus[i].run, run_size);
		close(vcpus[i].fd);
	}
	close(vm_fd);

	create_vm();
	for (i = 0; i < PAGES; i++)
		move_page(mem + i * PAGE, old + i * PAGE, i);
	munmap(old, MEM_SIZE);
	memset(&list, 0, sizeof(list));
	if (ioctl(vm_fd, KVM_SET_CLOCK, &saved->clock) ||
	    ioctl(vm_fd, KVM_SET_PIT2, &saved->pit))
		fatal("KVM_SET_CLOCK, KVM_SET_PIT2");
	for (i = 0; i < 3; i++)
		if (ioctl(vm_fd, KVM_SET_IRQCHIP, &saved->chips[i]))
			fatal("KVM_SET_IRQCHIP");
	for (i = 0; i < CPUS; i++)
		restore_vcpu(vcpus[i].fd, &saved->vcpus[i]);
	list = saved->list;
	free(saved);
}

/*
 * The table has the instruction and the segment at which other CPUs start. There is
 * CLI, and a jump to the instruction behind it, which loads CS.
 */
static bool jump_table_right;

static void look_at_jump_table(void)
{
	uint16_t table[2], target[2];
	const uint8_t *p;

	memcpy(table, mem + JUMP_TABLE, sizeof(table));
	p = mem + table[1] * 16UL + table[0];
	memcpy(target, p + 2, sizeof(target));
	jump_table_right = p[0] == 0xfa && p[1] == 0xea &&
			   mem + target[1] * 16UL + target[0] == p + 6;
}

static const char *kernel, *modules = "/lab/modules";

/* From power-on to what stops the guest for good */
static int power_on(const char *stage)
{
	int why;

	panics = false;
	create_vm();
	load(kernel, modules, "/proc/self/exe", stage);
	write_mp_table();
	enter_long_mode();
	while ((why = run_guest()) == MOVES) {
		ksft_test_result(list.ready == 1,
				 "boot %u, move: the guest can be migrated\n",
				 boots);
		move();
	}
	look_at_jump_table();
	destroy_vm();
	return why;
}

static void nothing(int sig)
{
	(void)sig;
}

/*
 * What another kernel may have left: all memory shared. The one that begins has
 * to set that right.
 */
static void leave_all_shared(void)
{
	unsigned long i;

	memset(&list, 0, sizeof(list));
	for (i = 0; i < PAGES; i++)
		if (i < 0x9f || i >= 0x100)
			list.n_shared += list.shared[i] = 1;
}

/*
 * The first part of a boot in a VM that offers something else, or refuses to note
 * many pages at once. Returns what is written to MSR_KVM_MIGRATION_CONTROL then.
 */
static const char *power_on_short(uint32_t offers, unsigned long most_shared,
				  unsigned long most_encrypted)
{
	in_short = true;
	offered = offers;
	most[0] = most_shared;
	most[1] = most_encrypted;
	memset(&list, 0, sizeof(list));
	memset(ready_writes, 0, sizeof(ready_writes));
	n_calls = 0;
	power_on(raises_vc ? "es" : "short");
	return ready_writes;
}

#define ALL_OFFERED	(FEATURE_MAP_GPA_RANGE | FEATURE_MIGRATION)

/* Boots 1 and 2, and how they end */
#define BOOTS_PLAN	(15 + 14 + 2)

static void test_boots(void)
{
	int why;

	offered = ALL_OFFERED;
	why = power_on("first");
	ksft_test_result(!strncmp(ready_writes, "101", 3),
			 "kexec: the guest cannot be migrated until it is done\n");
	ksft_test_result(why == RESETS && !strcmp(ready_writes, "1010") &&
			 !list.ready,
			 "reboot: the guest cannot be migrated any more\n");
}

#define CRASH_PLAN	5

static void test_crash(void)
{
	const char *writes;
	int why;

	offered = ALL_OFFERED;
	boots = 2;
	leave_all_shared();
	also = "mem=192M";
	why = power_on("crash");
	ksft_test_result(panics && why == CRASHES, "panic: another kernel begins\n");
	ksft_test_result(!strcmp(ready_writes, "10") && !list.ready,
			 "panic: the guest cannot be migrated any more\n");

	/* That is by what a crash kernel knows that it is one. */
	also = "elfcorehdr=4K@8M";
	writes = power_on_short(ALL_OFFERED, PAGES, PAGES);
	ksft_test_result(n_calls && short_list_right && !strchr(writes, '1'),
			 "crash kernel: not to be migrated, as it does not know all\n");
}

#define OFFERS_PLAN	5

static void test_offers(void)
{
	const char *writes;

	writes = power_on_short(0, PAGES, PAGES);
	ksft_test_result(!n_calls && !*writes, "not offered: nothing is told\n");
	writes = power_on_short(FEATURE_MAP_GPA_RANGE, PAGES, PAGES);
	ksft_test_result(n_calls && !*writes,
			 "MSR not offered: it is not written\n");
	writes = power_on_short(FEATURE_MIGRATION, PAGES, PAGES);
	ksft_test_result(!n_calls && !*writes,
			 "MSR alone offered: it is not written\n");
	writes = power_on_short(ALL_OFFERED, PAGES, PAGES / 2);
	ksft_test_result(n_calls && !strchr(writes, '1'),
			 "refused from the start: never to be migrated\n");
	/* No more than the BSS has; the bounce buffers are more. */
	writes = power_on_short(ALL_OFFERED, PAGES / 16, PAGES);
	ksft_test_result(!strcmp(writes, "10"),
			 "refused later: not to be migrated any more\n");
}

#define ES_PLAN		11
/* How often the guest accesses that port */
#define ECHOES		9

static void test_es(void)
{
	unsigned long i, page, ghcbs = 0;
	const char *writes;
	bool alone = true;

	sev_status = SEV_ACTIVE | SEV_ES_ACTIVE;
	raises_vc = true;
	least_version = 1;
	last_version = 2;
	writes = power_on_short(ALL_OFFERED, PAGES, PAGES);
	ksft_print_msg("report SEV-ES: %u ports, %u MSRs, %u hypercalls by #VC and GHCB\n",
		       n_ioio, n_msr, n_vmmcall);
	ksft_test_result(short_list_right,
			 "SEV-ES: the list is what the page table says\n");
	ksft_test_result(n_negotiated == 1 && !terminated,
			 "MSR protocol: a version both know\n");
	ksft_test_result(n_ioio > 1000, "#VC: ports are accessed by the GHCB\n");
	ksft_test_result(n_vmmcall && n_vmmcall == n_calls,
			 "#VC: hypercalls are made by the GHCB\n");
	ksft_test_result(n_msr == 1 && !strcmp(writes, "1"),
			 "#VC: an MSR is written by the GHCB\n");
	ksft_test_result(n_jump_table == 1,
			 "jump table: asked for by the GHCB\n");
	ksft_test_result(jump_table_right,
			 "jump table: it says where CPUs start\n");
	ksft_test_result(n_echo == ECHOES && ports_read,
			 "#VC: a port is written and read in each size\n");
	ksft_test_result(!ghcb_bad,
			 "GHCB: shared, and all valid that is asked\n");
	/* What a CPU has beside it is its own; not each has had a use for it. */
	for (i = 0; i < CPUS; i++) {
		page = vcpus[i].ghcb_msr / PAGE;
		ghcbs += !!page;
		alone &= page + 1 < PAGES && (!page || !list.shared[page + 1]);
	}
	ksft_test_result(ghcbs && alone, "GHCB: the page behind it is not shared\n");

	least_version = 5;
	last_version = 6;
	power_on_short(ALL_OFFERED, PAGES, PAGES);
	ksft_test_result(terminated == GHCB_TERMINATE,
			 "MSR protocol: no version both know, the guest ends\n");
}

static const struct {
	const char *name;
	unsigned int plan;
	void (*test)(void);
} parts[] = {
	{ "boots", BOOTS_PLAN, test_boots },
	{ "crash", CRASH_PLAN, test_crash },
	{ "offers", OFFERS_PLAN, test_offers },
	{ "es", ES_PLAN, test_es },
};

/* What holds in each of them */
#define COMMON_PLAN	4

int main(int argc, char **argv)
{
	/* Without SA_RESTART: KVM_RUN ends. */
	struct sigaction action = { .sa_handler = nothing };
	unsigned int i = 0, plan;

	if (getpid() == 1)
		guest();
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	while (argc > 2 && i < ARRAY_SIZE(parts) && strcmp(argv[2], parts[i].name))
		i++;
	if (argc < 3 || i == ARRAY_SIZE(parts))
		ksft_exit_fail_msg("give a kernel, and boots, crash, offers or es\n");
	kernel = argv[1];
	if (argc > 3)
		modules = argv[3];
	verbose = argc > 4;
	sigaction(SIGUSR1, &action, NULL);
	action.sa_handler = on_silence;
	sigaction(SIGALRM, &action, NULL);
	plan = parts[i].plan + COMMON_PLAN;
	ksft_set_plan(plan);

	parts[i].test();
	ksft_test_result(believes, "the kernel believes in SEV\n");
	ksft_test_result(!warns, "the kernel has nothing to warn of\n");
	ksft_test_result(!ready_early,
			 "the guest can be migrated when its list is right\n");
	ksft_test_result(!bad_calls, "only pages that are there were told of\n");
	if (ksft_test_num() != plan)
		ksft_exit_fail_msg("%u cases ran, %u were planned\n",
				   ksft_test_num(), plan);
	ksft_exit(!ksft_get_fail_cnt());
}
