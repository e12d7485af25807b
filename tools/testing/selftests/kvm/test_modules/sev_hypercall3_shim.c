// SPDX-License-Identifier: GPL-2.0
/*
 * The hypercalls of asm/kvm_para.h as the kernel's compiler and flags make
 * them, for sev_hypercall3_test: it reads this object, looks at the
 * instructions and the alternatives entries, and runs the functions in a
 * guest. The module is not loaded.
 *
 * Each function must run where it was not linked to. Therefore the Makefile
 * keeps calls of a tracer, a sanitizer or a return thunk out of it, and it
 * accesses data through its arguments alone.
 */
#include <linux/compiler.h>
#include <linux/module.h>
#include <asm/kvm_para.h>

static noinline __used long sev_shim(unsigned int nr, unsigned long p1,
				     unsigned long p2, unsigned long p3)
{
	return kvm_sev_hypercall3(nr, p1, p2, p3);
}

static noinline __used long plain_shim(unsigned int nr, unsigned long p1,
				       unsigned long p2, unsigned long p3)
{
	return kvm_hypercall3(nr, p1, p2, p3);
}

/*
 * The number comes in RAX itself, as from a function that returns 64 bits, and
 * what is above its 32 bits is not part of it.
 */
static noinline __used long upper_shim(unsigned int nr, unsigned long p1,
				       unsigned long p2, unsigned long p3)
{
	unsigned long rax = nr;

	asm volatile("bts $63, %0; bts $32, %0" : "+a"(rax));
	return kvm_sev_hypercall3(rax, p1, p2, p3);
}

/* Nobody looks at the result: the call is made nevertheless. */
static noinline __used void unused_shim(unsigned int nr, unsigned long p1,
					unsigned long p2, unsigned long p3)
{
	kvm_sev_hypercall3(nr, p1, p2, p3);
}

/*
 * The hypervisor must see the first store. Without the memory clobber it is
 * dead, since the second one follows with no read between them, and the
 * compiler drops it.
 */
static noinline __used long clobber_shim(unsigned int nr, unsigned long *mem)
{
	long ret;

	*mem = 1;
	ret = kvm_sev_hypercall3(nr, (unsigned long)mem, 0, 0);
	*mem = 2;
	return ret;
}

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("hypercalls as compiled, for sev_hypercall3_test to read");
