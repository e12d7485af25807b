// SPDX-License-Identifier: GPL-2.0
/*
 * What the running kernel answers for the interfaces that have no test on any
 * machine yet: one line each, for the table that 'make' prints.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#ifndef KVM_CAP_PPC_SECURE_GUEST
#define KVM_CAP_PPC_SECURE_GUEST	181
#endif

/* Is there a function of that name in the kernel or a loaded module? */
static int has_symbol(const char *name)
{
	char line[512], symbol[256];
	FILE *f = fopen("/proc/kallsyms", "r");
	int found = 0;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %*s %255s", symbol) == 1 &&
			!strcmp(symbol, name);
	if (f)
		fclose(f);
	return found;
}

int main(void)
{
	int kvm;

	printf("TAP version 13\n1..1\n");
	printf("# answer vfio-migration-region: %s\n",
	       has_symbol("vfio_migration_region_register") ?
	       "library loaded" : "no driver in this kernel offers it");

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("# /dev/kvm: %s\nnot ok 1 KVM can be asked\n",
		       strerror(errno));
		return 1;
	}
	printf("# answer ppc-secure-guest: capability %d is %d on this processor\n",
	       KVM_CAP_PPC_SECURE_GUEST,
	       ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_PPC_SECURE_GUEST));
	printf("ok 1 KVM can be asked\n");
	return 0;
}
